//! Machines of a test: network namespaces that are joined by a bridge.
//!
//! ```text
//!   byw-PID-N          the "world": a bridge, and nothing else
//!     br0 ── v1 ══ eth0  byh-PID-N-1   10.77.0.1
//!         ── v2 ══ eth0  byh-PID-N-2   10.77.0.2   ...
//! ```
//!
//! Nothing of it is seen by the rest of the machine: each test has a world of its own, so
//! addresses don't collide. Files are shared by all hosts; only the network is apart.
//!
//! 1. A world ends with its test, by panic too; what a test that was killed left behind is swept by
//!    the next one (`hosts_birth::a_world_leaves_nothing`).

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::run::{Run, need};

const LIMIT: Duration = Duration::from_secs(20);
const PREFIXES: [&str; 2] = ["byw-", "byh-"];

/// A bridge in a namespace of its own.
#[derive(Debug)]
pub struct World {
    name: String,
    hosts: u8,
}

/// A host in a world.
#[derive(Debug, Clone)]
pub struct Host {
    world: String,
    name: String,
    number: u8,
}

fn ip(line: &str) -> Result<()> {
    Run::new("ip").args(line.split_whitespace()).limit(LIMIT).ok().map(drop)
}

fn tc(line: &str) -> Result<()> {
    Run::new("tc").args(line.split_whitespace()).limit(LIMIT).ok().map(drop)
}

/// Names of namespaces that tests have made.
fn namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

/// Removes namespaces of tests that no longer live.
fn sweep() {
    for name in namespaces() {
        let owner = name.split('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another test may be sweeping the same one: losing that race is fine.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

impl World {
    /// An empty world. Needs root.
    pub fn new() -> Result<World> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        need(&[("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux")])?;
        sweep();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let world = World { name: format!("byw-{}-{number}", std::process::id()), hosts: 0 };
        let name = &world.name;
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link add br0 type bridge"))?;
        ip(&format!("-n {name} link set br0 up"))?;
        Ok(world)
    }

    /// One more host.
    pub fn host(&mut self) -> Result<Host> {
        ensure!(self.hosts < 200, "too many hosts");
        self.hosts += 1;
        let number = self.hosts;
        let host = Host {
            world: self.name.clone(),
            name: format!("{}-{number}", self.name.replacen("byw-", "byh-", 1)),
            number,
        };
        let (world, name, address) = (&host.world, &host.name, host.address());
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add v{number} netns {world} type veth peer name eth0 netns {name}"))?;
        ip(&format!("-n {world} link set v{number} master br0 up"))?;
        ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(host)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let own = self.name.trim_start_matches("byw-").to_owned();
        for name in namespaces() {
            let rest = name.split_once('-').map_or("", |(_, rest)| rest);
            if (rest == own || rest.starts_with(&format!("{own}-")))
                && let Err(error) = ip(&format!("netns delete {name}"))
            {
                eprintln!("cannot remove {name}: {error:#}");
            }
        }
    }
}

/// See [`Host::healer`].
#[derive(Debug)]
pub struct Errand(Child);

impl Errand {
    /// Does it.
    pub fn go(mut self) -> Result<()> {
        let mut go = self.0.stdin.take().context("no way to tell it")?;
        go.write_all(b"go\n").context("cannot tell it")?;
        drop(go);
        let status = self.0.wait()?;
        ensure!(status.success(), "cannot cut off or reconnect a host: {status}");
        Ok(())
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        // Without a word it ends by itself.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Host {
    /// Its address.
    pub fn address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, self.number))
    }

    /// What it is called.
    pub fn label(&self) -> String {
        format!("host{}", self.number)
    }

    /// What to put before a command so that it runs on this host.
    pub fn enter(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.name).into(), "--".into()]
    }

    /// A command on this host.
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        let enter = self.enter();
        Run::new(&enter[0]).args(&enter[1..]).arg(program)
    }

    /// Cuts it off: the cable is pulled at the switch, so the host itself sees nothing but silence.
    pub fn cut(&self) -> Result<()> {
        ip(&format!("-n {} link set v{} nomaster", self.world, self.number))
            .with_context(|| format!("cannot cut off {}", self.label()))
    }

    /// Lets nothing pass between this host and another one, in silence; both reach all others.
    pub fn part_from(&self, other: &Host) -> Result<()> {
        let (table, address) = (self.table_against(other), other.address());
        let rules = format!(
            "table ip {table} {{
                chain in {{ type filter hook input priority 0; ip saddr {address} drop; }}
                chain out {{ type filter hook output priority 0; ip daddr {address} drop; }}
            }}"
        );
        need(&[("nft", "nftables")])?;
        self.run("nft").arg(rules).limit(LIMIT).ok().map(drop)
    }

    /// Ends what [`Host::part_from`] began.
    pub fn meet(&self, other: &Host) -> Result<()> {
        let table = self.table_against(other);
        self.run("nft").args(["delete", "table", "ip", &table]).limit(LIMIT).ok().map(drop)
    }

    /// Lets nothing in to a port of this host, in silence, as a firewall does that was set up by somebody who did not know of it.
    pub fn close(&self, port: u16) -> Result<()> {
        self.drop_what_comes(port, "")
    }

    /// The same for what comes from one host.
    pub fn close_to(&self, port: u16, from: &Host) -> Result<()> {
        self.drop_what_comes(port, &format!("ip saddr {}", from.address()))
    }

    fn drop_what_comes(&self, port: u16, from: &str) -> Result<()> {
        let rules = format!(
            "table ip closed{port} {{
                chain in {{ type filter hook input priority 0; {from} tcp dport {port} drop; }}
            }}"
        );
        need(&[("nft", "nftables")])?;
        self.run("nft").arg(rules).limit(LIMIT).ok().map(drop)
    }

    /// Ends what [`Host::close`] or [`Host::close_to`] began.
    pub fn open(&self, port: u16) -> Result<()> {
        self.run("nft").args(["delete", "table", "ip", &format!("closed{port}")]).limit(LIMIT).ok().map(drop)
    }

    fn table_against(&self, other: &Host) -> String {
        format!("apart{}", other.number)
    }

    /// Puts the cable back.
    pub fn heal(&self) -> Result<()> {
        ip(&format!("-n {} link set v{} master br0", self.world, self.number))
            .with_context(|| format!("cannot reconnect {}", self.label()))
    }

    /// Who will put the cable back when told to: for a caller that has files open on a mount that is cut off, since a process that
    /// it starts closes its copies of them first, and that waits.
    pub fn healer(&self) -> Result<Errand> {
        self.errand("master br0")
    }

    /// The same for pulling it out: where several are cut off one after the other.
    pub fn cutter(&self) -> Result<Errand> {
        self.errand("nomaster")
    }

    fn errand(&self, what: &str) -> Result<Errand> {
        let script = format!("read go && ip -n {} link set v{} {what}", self.world, self.number);
        let mut child = Command::new("sh");
        child.args(["-c", &script]).stdin(Stdio::piped());
        Ok(Errand(child.spawn().context("cannot start a shell")?))
    }

    /// Limits what it can send and receive, in Mbit/s each.
    pub fn limit(&self, mbit: u32) -> Result<()> {
        for (namespace, device) in
            [(&self.world, format!("v{}", self.number)), (&self.name, "eth0".to_owned())]
        {
            tc(&format!(
                "-n {namespace} qdisc replace dev {device} root tbf rate {mbit}mbit burst 128kb latency 50ms"
            ))?;
        }
        Ok(())
    }

    /// Takes the limit away.
    pub fn unlimit(&self) -> Result<()> {
        for (namespace, device) in
            [(&self.world, format!("v{}", self.number)), (&self.name, "eth0".to_owned())]
        {
            tc(&format!("-n {namespace} qdisc delete dev {device} root"))?;
        }
        Ok(())
    }
}
