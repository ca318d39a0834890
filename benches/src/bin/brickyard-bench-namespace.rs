//! How many changes of names a second the namespace makes, alone and with members, for 1, 8 and 64 callers:
//! what a reply that is flushed costs, and what sharing flushes gives.
//!
//! Members and callers are in one process and meet in memory, so that what is measured is log, flush and state, and not
//! a network. The members of a row with three share one disk, which a real cluster's do not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use namespace::config::MemberConfig;
use namespace::{Config, Running, start};
use wire::id::{CallSeq, ClusterId, Ino, NodeId, SessionId};
use wire::meta::{
    ClusterReply, ClusterRequest, FileKind, FsRequest, MetaCall, MetaProtocol, MetaReply, MetaRequest, Name,
    NewInode, SessionClass, Sharing,
};
use wire::net::{Authority, Endpoint, Members, MemoryHub, Net, NetConfig, Role};

/// Measures changes of names a second for 1, 8 and 64 callers: alone, one member that others may join, and
/// three members on this one disk; three rounds in turns
#[derive(Debug, Parser)]
#[command(name = "brickyard-bench-namespace", version)]
struct Options {
    /// Directory on the disk to measure; what is made in it is removed afterwards
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Length of one measurement, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

const CLUSTER: ClusterId = ClusterId([1; 16]);

struct Cluster {
    authority: Authority,
    hub: MemoryHub,
    members: Arc<Members>,
    running: Vec<Running>,
}

impl Cluster {
    /// `count` members; 0: one alone, as `brickyard up` has it.
    async fn start(dir: &Path, count: u64) -> Result<Cluster> {
        let hub = MemoryHub::new();
        let authority = Authority::create(CLUSTER)?;
        let endpoints: Vec<Endpoint> = (1..=count.max(1)).map(Endpoint::Memory).collect();
        let members = Arc::new(Members::new(endpoints));
        let mut cluster = Cluster { authority, hub, members, running: Vec::new() };
        for number in 1..=count.max(1) {
            let endpoint = Endpoint::Memory(number);
            let mut config = Config::new(dir.join(number.to_string()), endpoint);
            config.member = (count > 0).then(|| MemberConfig::new(number, endpoint, number == 1));
            let net = cluster.net(Role::Namespace, 100 + number as u8)?;
            cluster.running.push(start(config, net).await?);
            if number > 1 {
                let admin = cluster.net(Role::Admin, 99)?;
                let add = MetaRequest::Cluster(ClusterRequest::AddMember { id: number, endpoint });
                ask(&admin, &cluster.members, None, 0, add).await?;
            }
        }
        Ok(cluster)
    }

    fn net(&self, role: Role, node: u8) -> Result<Net> {
        Ok(Net::new(
            &self.authority.issue(role, NodeId([node; 16]))?,
            self.hub.clone(),
            NetConfig::default(),
        )?)
    }
}

async fn ask(
    net: &Net,
    members: &Members,
    session: Option<SessionId>,
    seq: u64,
    request: MetaRequest,
) -> Result<MetaReply> {
    let call = MetaCall { session, seq: CallSeq(seq), answered_below: CallSeq(seq), request };
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let to = members.to_ask().context("no member")?;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        match net.request::<MetaProtocol>(&to, &call, Bytes::new(), deadline).await {
            Ok((reply, _)) => return Ok(reply),
            Err(failed) if Members::is_elsewhere(&failed) && Instant::now() < until => {
                members.failed(to, &failed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(failed) => return Err(failed.into()),
        }
    }
}

/// Makes files in one session until told to stop: of directories there is a most in one.
async fn caller(
    net: Net,
    members: Arc<Members>,
    number: u8,
    round: u64,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Result<()> {
    let open = ClusterRequest::OpenSession {
        client: NodeId([number; 16]),
        host: "h".to_owned(),
        mount: "/m".to_owned(),
        sharing: Sharing::Shared,
        class: SessionClass::Standard,
    };
    let MetaReply::Cluster(ClusterReply::Session(grant)) =
        ask(&net, &members, None, 0, MetaRequest::Cluster(open)).await?
    else {
        bail!("no session");
    };
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        seq += 1;
        let name = Name::new(format!("{round}-{number}-{seq}").into_bytes())?;
        let new = NewInode { mode: 0o644, umask: 0, uid: 0, gid: 0 };
        let (parent, kind) = (Ino::ROOT, FileKind::File);
        let request = MetaRequest::Fs(FsRequest::Mknod { parent, name, new, kind, rdev: 0 });
        ask(&net, &members, Some(grant.session), seq, request).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn measure(cluster: &Cluster, callers: u8, round: u64, time: Duration) -> Result<f64> {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut all = tokio::task::JoinSet::new();
    for number in 0..callers {
        let net = cluster.net(Role::Client, number + 1)?;
        all.spawn(caller(net, cluster.members.clone(), number + 1, round, stop.clone(), done.clone()));
    }
    tokio::time::sleep(time / 4).await;
    let (begun, before) = (Instant::now(), done.load(Ordering::Relaxed));
    tokio::time::sleep(time).await;
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(rate)
}

#[tokio::main]
async fn main() -> Result<()> {
    let Options { dir, seconds } = Options::parse();
    let time = Duration::from_secs(seconds);
    println!("{:<12}{:>12}{:>12}{:>12}", "members", "1 caller", "8 callers", "64 callers");
    // Both sides of a comparison in turns, so that a disk that is slow for a while is slow for both.
    for turn in 0..3 {
        for (label, count) in [("alone", 0), ("1", 1), ("3", 3)] {
            let place = dir.join(format!("{turn}-{label}"));
            let cluster = Cluster::start(&place, count).await?;
            let mut rates = Vec::new();
            for (round, callers) in [(0, 1), (1, 8), (2, 64)] {
                rates.push(measure(&cluster, callers, round, time).await?);
            }
            println!("{label:<12}{:>12.0}{:>12.0}{:>12.0}", rates[0], rates[1], rates[2]);
            for running in cluster.running {
                running.stop().await;
            }
            std::fs::remove_dir_all(&place)?;
        }
    }
    Ok(())
}
