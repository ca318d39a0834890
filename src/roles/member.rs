//! The directory of a namespace member, and the member.
//!
//! ```text
//! DIR/member.json   who it is: cluster, address, copies
//! DIR/lock          held by the process that runs it
//! DIR/ca.pem        the cluster's authority, with its key: it certifies those who join
//! DIR/admin.cred    the administrator's credential: for status, check, token
//! DIR/server.cred   the member's own
//! DIR/state/        names, attributes, the cluster map
//! ```
//!
//! 1. `member.json` comes last: a directory without it is no member, and one with it is whole, so that
//!    what is missing later is a loss and never made anew
//!    (`tests`: `a_member_that_lost_its_state_does_not_start`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use wire::id::{ClusterId, NodeId};
use wire::net::pki::random_id;
use wire::net::{Authority, Credential, Endpoint, MemoryHub, Net, NetConfig, Role};

use super::exporter::{self, Exporter};
use super::life::{self, Ending};
use super::place::{self, Kind};
use super::reachable;

const KIND: Kind = Kind { magic: "brickyard namespace member", format: 1 };
const IDENTITY: &str = "member.json";
const STATE: &str = "state";
/// Shifts the clock that join tokens expire by, in seconds. For tests only.
const CLOCK_OFFSET: &str = "BRICKYARD_TEST_CLOCK_OFFSET_S";

/// Options of `brickyard init`.
#[derive(Debug, Clone, Args)]
pub struct InitOptions {
    /// Empty or new directory for the cluster's names and its authority: back it up
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Address and port that the other machines reach this one at
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Copies of everything
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub replicas: u8,
    /// Bricks that must have joined before anything can be stored [default: as many as copies, on different
    /// machines]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub bricks: Option<u32>,
}

/// Options of `brickyard namespace`.
#[derive(Debug, Clone, Args)]
pub struct NamespaceOptions {
    /// Directory made by `brickyard init`
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Address and port, as given to `brickyard init`
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// To become a further member; this version runs one
    #[arg(long, value_name = "ADDR:PORT,...")]
    pub join: Option<String>,
    #[command(flatten)]
    pub token: super::joining::TokenOptions,
    #[command(flatten)]
    pub metrics: exporter::Options,
}

/// What `member.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Identity {
    cluster: String,
    listen: SocketAddr,
    replicas: u8,
    /// Bricks that must have joined before there are chains; 0: as many as copies.
    bricks: u32,
}

/// Whether a directory is that of a namespace member.
pub fn is_member(dir: &Path) -> bool {
    dir.join(IDENTITY).exists()
}

/// The administrator's credential in a member's directory.
pub fn admin_credential(dir: &Path) -> PathBuf {
    dir.join("admin.cred")
}

fn config(dir: &Path, identity: &Identity, listen: Endpoint) -> namespace::Config {
    let mut config = namespace::Config::new(dir.join(STATE), listen);
    config.replicas = identity.replicas;
    config.birth_bricks = identity.bricks;
    config
}

/// Makes a cluster.
///
/// # Errors
/// If the directory is not empty or can't be written; in one line.
pub fn init(options: &InitOptions) -> Result<ExitCode> {
    let listen = reachable(options.listen)?;
    let dir = &options.dir;
    if let Some(bricks) = options.bricks.filter(|bricks| *bricks < u32::from(options.replicas)) {
        bail!(
            "{bricks} bricks cannot hold {} copies: give --bricks {} or more",
            options.replicas,
            options.replicas
        );
    }
    ensure!(
        !is_member(dir),
        "{} holds a cluster already: start it with `brickyard namespace --dir`",
        dir.display()
    );
    if let Some(what) = place::stranger(dir, &["lock"])? {
        bail!("{} is not empty ({what} is in it): give an empty or new directory", dir.display());
    }
    place::make(dir)?;
    let _lock = place::lock(&dir.join("lock"))?;
    let cluster = ClusterId(random_id()?);
    let authority = Authority::create(cluster)?;
    authority.save(&dir.join("ca.pem"))?;
    let issue = |role| -> Result<Credential> {
        Ok(authority.issue(role, NodeId(random_id()?))?.with_namespaces(vec![Endpoint::Tls(listen)]))
    };
    issue(Role::Admin)?.save(&admin_credential(dir))?;
    let server = issue(Role::Namespace)?;
    server.save(&dir.join("server.cred"))?;
    let identity = Identity {
        cluster: cluster.to_string(),
        listen,
        replicas: options.replicas,
        bricks: options.bricks.unwrap_or(0),
    };
    // The state is made by the service itself, once, here: from now on a missing one is a loss.
    life::run(async {
        let net = Net::new(&server, MemoryHub::new(), NetConfig::default())?;
        let running = namespace::start(config(dir, &identity, Endpoint::Memory(0)), net)
            .await
            .context("cannot make the namespace")?;
        running.stop().await;
        anyhow::Ok(())
    })?;
    place::write(&dir.join(IDENTITY), KIND, &identity)?;
    println!(
        "cluster {cluster} is in {dir}\n\
         start it:         brickyard namespace --dir {dir}\n\
         add a brick:      brickyard brick --dir BRICKDIR --listen ADDR:PORT --join {listen} --token TOKEN\n\
         tokens for that:  brickyard token --cred {admin} brick",
        dir = dir.display(),
        admin = admin_credential(dir).display(),
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs a namespace member until it is told to end.
///
/// # Errors
/// What keeps it from running, in one line.
pub fn run(options: &NamespaceOptions) -> Result<ExitCode> {
    let dir = &options.dir;
    if options.join.is_some() || options.token.token.is_some() || options.token.token_file.is_some() {
        bail!(
            "this version runs one namespace member: leave --join and --token away, and start it on the \
             directory that `brickyard init` made"
        );
    }
    let Some(identity) = place::read::<Identity>(&dir.join(IDENTITY), KIND)? else {
        bail!(
            "{} holds no namespace member (no {IDENTITY}): make a cluster with `brickyard init`, or look whether the \
             right disk is mounted",
            dir.display()
        );
    };
    let cluster: ClusterId = identity.cluster.parse().with_context(|| format!("{} is damaged", IDENTITY))?;
    if let Some(listen) = options.listen.filter(|listen| *listen != identity.listen) {
        bail!(
            "this cluster's machines look for its namespace at {}, not at {listen}: leave --listen away",
            identity.listen
        );
    }
    let _lock = place::lock(&dir.join("lock"))?;
    let authority = Authority::load(&dir.join("ca.pem"))?;
    let credential = Credential::load(&dir.join("server.cred"))?;
    for (file, found) in [("ca.pem", authority.cluster()), ("server.cred", credential.identity().cluster)] {
        ensure!(
            found == cluster,
            "{} is of cluster {found}, and {} of cluster {cluster}: put the right file back",
            dir.join(file).display(),
            dir.display()
        );
    }
    let state = dir.join(STATE);
    ensure!(
        state.join("namespace.json").exists() && state.join("db/CURRENT").exists(),
        "{} is gone or incomplete: it held the names of all files; bring it back from a backup, this program makes no \
         new one in its place",
        state.display()
    );
    let mut config = config(dir, &identity, Endpoint::Tls(identity.listen));
    config.authority = Some(Arc::new(authority));
    config.clock_offset_s = match std::env::var(CLOCK_OFFSET) {
        Ok(text) => text.parse().with_context(|| format!("{CLOCK_OFFSET}={text} is no number of seconds"))?,
        Err(_) => 0,
    };
    life::run(serve(config, credential, cluster, options.metrics.clone()))
}

async fn serve(
    config: namespace::Config,
    credential: Credential,
    cluster: ClusterId,
    metrics: exporter::Options,
) -> Result<ExitCode> {
    let mut ending = Ending::new()?;
    let exporter = Exporter::bind(&metrics).await?;
    let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
    let running = namespace::start(config, net.clone()).await?;
    life::ready(&format!("namespace of cluster {cluster} at {}", running.endpoint()))?;
    tokio::select! {
        () = ending.asked() => {}
        () = exporter.serve(|| exporter::namespace(&running, &net)) => {}
    }
    running.stop().await;
    Ok(ExitCode::SUCCESS)
}
