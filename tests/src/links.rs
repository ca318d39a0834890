//! What Brickyard makes of its links, beside what iperf3 gets on the same links in the same run.
//!
//! Hosts are network namespaces whose links have a limit (see [`crate::netns`]). Both sides take turns, a round
//! each, and medians are told.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::binary;
use crate::hosts::{HostCluster, Process, Shape};
use crate::netns::Host;
use crate::run::{Run, need};
use crate::{seed, wait};

/// Time of one measurement with iperf3, in seconds.
const IPERF_SECONDS: u32 = 4;
const LIMIT: Duration = Duration::from_secs(120);

/// How it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of each link, each way; none: as fast as the machine is.
    pub mbit: Option<u32>,
    /// Written or read by each client in a round, in MiB.
    pub mib: usize,
    /// Rounds of each side.
    pub rounds: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mbit {
            Some(mbit) => write!(f, "{mbit} Mbit/s links, ")?,
            None => write!(f, "no limit but the processors, ")?,
        }
        write!(f, "{} MiB, medians of {}", self.mib, self.rounds)
    }
}

/// Both sides, in MB/s: one value a round.
#[derive(Debug, Default)]
pub struct Figures {
    /// The links as iperf3 sees them.
    pub links: Vec<f64>,
    /// The filesystem.
    pub files: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Figures {
    /// The filesystem's share of the links.
    pub fn share(&self) -> f64 {
        median(&self.files) / median(&self.links)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (links, files) = (median(&self.links), median(&self.files));
        write!(f, "iperf3 {links:.1} MB/s, files {files:.1} MB/s: {:.1} %", self.share() * 100.0)
    }
}

/// One client writes to chains of two, and has it made durable.
pub fn one_writer(plan: Plan) -> Result<Figures> {
    need(&[("iperf3", "iperf3")])?;
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    limit(&mut cluster, &[], plan)?;
    let source = source(&cluster, plan)?;
    let mut figures = Figures::default();
    for round in 0..plan.rounds {
        figures.links.push(iperf(&[(cluster.client(), cluster.bricks[0].host())], false)?);
        let target = cluster.mountpoint().join(format!("written{round}"));
        let begun = Instant::now();
        copy(&source, &target, "conv=fsync").ok()?;
        figures.files.push(rate(plan.mib, begun.elapsed()));
        std::fs::remove_file(target)?;
    }
    cluster.allow_log("");
    cluster.finish()?;
    Ok(figures)
}

/// Clients read a file each, all at the same time, from six bricks.
pub fn readers(plan: Plan, count: usize) -> Result<Figures> {
    need(&[("iperf3", "iperf3")])?;
    let mut cluster = HostCluster::start(Shape { bricks: 6, replicas: 2 })?;
    let source = source(&cluster, plan)?;
    for file in 0..count * plan.rounds {
        copy(&source, &cluster.mountpoint().join(format!("read{file}")), "conv=fsync").ok()?;
    }
    let mut readers = Vec::new();
    for number in 0..count {
        readers.push(Reader::start(&mut cluster, number)?);
    }
    let hosts: Vec<Host> = readers.iter().map(|reader| reader.mount.host().clone()).collect();
    limit(&mut cluster, &hosts, plan)?;
    let pairs: Vec<(&Host, &Host)> = hosts
        .iter()
        .zip(cluster.bricks.iter().cycle())
        .map(|(reader, brick)| (reader, brick.host()))
        .collect();
    let mut figures = Figures::default();
    for round in 0..plan.rounds {
        figures.links.push(iperf(&pairs, true)?);
        let begun = Instant::now();
        let read = |(number, reader): (usize, &Reader)| {
            let run = copy(
                &reader.dir.join(format!("read{}", round * count + number)),
                Path::new("/dev/null"),
                "status=none",
            );
            move || run.ok()
        };
        together(readers.iter().enumerate().map(read).collect())?;
        figures.files.push(rate(plan.mib * count, begun.elapsed()));
    }
    for reader in readers {
        reader.end()?;
    }
    cluster.allow_log("");
    cluster.finish()?;
    Ok(figures)
}

/// A mount on a host of its own.
struct Reader {
    mount: Process,
    dir: PathBuf,
}

impl Reader {
    fn start(cluster: &mut HostCluster, number: usize) -> Result<Reader> {
        let host = cluster.new_host()?;
        let dir = cluster.workshop().dir(&format!("reader{number}"))?;
        let credential = cluster.workshop().path().join(format!("reader{number}.cred"));
        let line = format!(
            "mount {}:/ {} -f -o host={},cred={},token={}",
            cluster.namespace_address(),
            dir.display(),
            host.label(),
            credential.display(),
            cluster.token("client", &[])?
        );
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let mut mount = Process::new(&format!("reader{number}"), &host, &binary()?, args);
        mount.start()?;
        Ok(Reader { mount, dir })
    }

    fn end(mut self) -> Result<()> {
        self.mount.stop()
    }
}

fn limit(cluster: &mut HostCluster, more: &[Host], plan: Plan) -> Result<()> {
    let Some(mbit) = plan.mbit else { return Ok(()) };
    cluster
        .all()
        .iter()
        .map(|process| process.host().clone())
        .chain(more.iter().cloned())
        .try_for_each(|host| host.limit(mbit))
}

/// A file of bytes that nothing can compress, in memory.
fn source(cluster: &HostCluster, plan: Plan) -> Result<PathBuf> {
    let path = cluster.workshop().path().join("source");
    let mut file = std::fs::File::create(&path)?;
    for part in 0..plan.mib as u64 {
        file.write_all(&seed::bytes(3, part << 20, 1 << 20))?;
    }
    Ok(path)
}

fn copy(from: &Path, to: &Path, how: &str) -> Run {
    let run = Run::new("dd").args(["bs=1M", how]).limit(LIMIT);
    run.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()))
}

fn rate(mib: usize, took: Duration) -> f64 {
    (mib << 20) as f64 / 1e6 / took.as_secs_f64()
}

/// The sum of what goes from each client to its server (or back) at the same time, in MB/s.
fn iperf(pairs: &[(&Host, &Host)], back: bool) -> Result<f64> {
    let mut servers = Vec::new();
    let mut clients = Vec::new();
    for (client, server) in pairs {
        servers.push(server.run("iperf3").args(["--server"]).limit(LIMIT).start()?);
        let (client, to, seconds) =
            ((*client).clone(), server.address().to_string(), IPERF_SECONDS.to_string());
        clients.push(move || {
            // Until the server listens it is refused.
            wait::until("iperf3 to be answered", LIMIT, || {
                let run = client.run("iperf3").args(["--json", "--client", &to, "--time", &seconds]);
                let told = run.args(back.then_some("--reverse")).limit(LIMIT).ok()?.text();
                let told: serde_json::Value = serde_json::from_str(&told).context("what iperf3 says")?;
                // An error makes no difference to its exit code.
                Ok(told["end"]["sum_received"]["bits_per_second"].as_f64().map(|bits| bits / 8e6))
            })
        });
    }
    Ok(together(clients)?.into_iter().sum())
}

/// Does all at the same time.
fn together<T: Send>(work: Vec<impl FnOnce() -> Result<T> + Send>) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().map(|work| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<T>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        };
        threads.into_iter().map(join).collect()
    })
}
