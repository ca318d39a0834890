//! The directory of a namespace member, and the member.
//!
//! ```text
//! DIR/member.json   who it is: cluster, address, copies
//! DIR/lock          held by the process that runs it
//! DIR/ca.pem        the cluster's authority, with its key: it certifies those who join
//! DIR/admin.cred    the administrator's credential: for status, check, token
//! DIR/server.cred   the member's own
//! DIR/state/        names, attributes, the cluster map, and the log that it shares with other members
//! ```
//!
//! 1. `member.json` comes last: a directory without it is no member, and one with it is whole, so that
//!    what is missing later is a loss and never made anew
//!    (`tests`: `a_member_that_lost_its_state_does_not_start`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use namespace::config::MemberConfig;
use namespace::log::raft::MemberId;
use serde::{Deserialize, Serialize};
use wire::id::{ClusterId, NodeId};
use wire::meta::{AuthorityText, ClusterReply, ClusterRequest, MemberRefusal};
use wire::net::pki::random_id;
use wire::net::{Authority, Credential, Endpoint, MemoryHub, Net, NetConfig, Role};

use super::exporter::{self, Exporter};
use super::life::{self, Ending};
use super::place::{self, Kind};
use super::{addresses, joining, listen_address, reachable};
use crate::admin::Admin;
use crate::show::counted;
use crate::{member_admin, refusal};

const KIND: Kind = Kind {
    magic: "brickyard namespace member",
    format: 1,
    mend: "put its backup back, or, if other members are left, make a new one in an empty directory with --join",
};
const IDENTITY: &str = "member.json";
const STATE: &str = "state";
/// Longest wait for a leader before this member says that it is ready.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// Wait before the others are asked again to count a new member.
const ENLIST_PAUSE: Duration = Duration::from_millis(500);
/// Shifts the clock that join tokens expire by, in seconds. For tests only.
const CLOCK_OFFSET: &str = "BRICKYARD_TEST_CLOCK_OFFSET_S";

/// Options of `brickyard init`.
#[derive(Debug, Clone, Args)]
pub struct InitOptions {
    /// Empty or new directory for the cluster's names and its authority: back it up
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Address and port that the other machines reach this one at
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Copies of every file's bytes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub replicas: u8,
    /// Bricks that must have joined before anything can be stored [default: as many as copies, on different
    /// machines]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub bricks: Option<u32>,
}

/// Options of `brickyard namespace`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct NamespaceOptions {
    #[command(subcommand)]
    pub order: Option<member_admin::Order>,
    /// Directory made by `brickyard init`; empty or new with --join
    #[arg(long, value_name = "DIR", required = true)]
    pub dir: Option<PathBuf>,
    /// Address and port that the other machines reach this one at, the first time
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub listen: Option<SocketAddr>,
    /// Where the namespace is, to become a further member of it; only the first time
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
    /// Number of this member, in hexadecimal digits; missing where an older version made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    /// It joined others: its state came from them.
    #[serde(default)]
    joined: bool,
    /// The others count it.
    #[serde(default)]
    counted: bool,
}

impl Identity {
    fn number(&self) -> Result<MemberId> {
        let text = self.member.as_deref().with_context(|| format!("{IDENTITY} has no number"))?;
        u64::from_str_radix(text, 16)
            .with_context(|| format!("{IDENTITY} is damaged: {text:?} is no number of a member"))
    }
}

/// A number for a new member: random, so that none is ever given twice.
fn new_number() -> Result<String> {
    let random = random_id()?;
    Ok(format!("{:016x}", u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| random[at])) | 1))
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
    place::refuse_file(dir).context("--dir")?;
    if let Some(bricks) = options.bricks.filter(|bricks| *bricks < u32::from(options.replicas)) {
        bail!(
            "{} cannot hold {}: give --bricks {} or more",
            counted(bricks, "brick", "bricks"),
            counted(options.replicas, "copy", "copies"),
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
        member: Some(new_number()?),
        joined: false,
        counted: true,
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
         add a member:     brickyard namespace --dir DIR --listen ADDR:PORT --join {listen} --token TOKEN\n\
         add a brick:      brickyard brick --dir BRICKDIR --listen ADDR:PORT --join {listen} --token TOKEN\n\
         tokens for that:  brickyard token --cred {admin} namespace|brick",
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
    let dir = options.dir.as_ref().context("give --dir")?;
    place::refuse_file(dir).context("--dir")?;
    if options.join.is_some() && !is_member(dir) {
        join(dir, options)?;
    }
    let Some(mut identity) = place::read::<Identity>(&dir.join(IDENTITY), KIND)? else {
        bail!(
            "{} holds no namespace member (no {IDENTITY}): make a cluster with `brickyard init`, join one with --join, \
             --listen and --token; if it held one, put its backup back or look whether the right disk is mounted",
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
    if identity.member.is_none() {
        // It was alone until now, and others may join from now on.
        identity.member = Some(new_number()?);
        identity.counted = true;
        place::write(&dir.join(IDENTITY), KIND, &identity)?;
    }
    let authority = place::loaded(Authority::load(&dir.join("ca.pem")), KIND.mend)?;
    let credential = place::loaded(Credential::load(&dir.join("server.cred")), KIND.mend)?;
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
        // What a new member holds comes from the others.
        identity.joined && !identity.counted
            || state.join("namespace.json").exists()
                && namespace::store::db::current_dir(&state)?.join("CURRENT").exists(),
        "{} is gone or incomplete: it held the names of all files; bring it back from a backup, this program makes no \
         new one in its place",
        state.display()
    );
    let mut config = config(dir, &identity, Endpoint::Tls(identity.listen));
    config.authority = Some(Arc::new(authority));
    config.member =
        Some(MemberConfig::new(identity.number()?, Endpoint::Tls(identity.listen), !identity.joined));
    config.clock_offset_s = match std::env::var(CLOCK_OFFSET) {
        Ok(text) => text.parse().with_context(|| format!("{CLOCK_OFFSET}={text} is no number of seconds"))?,
        Err(_) => 0,
    };
    let newcomer = (!identity.counted).then(|| (dir.clone(), identity.clone()));
    life::run(serve(config, credential, cluster, options.metrics.clone(), newcomer))
}

/// Makes a cluster of one of a stopped member. Gives how many entries of its log were applied.
///
/// # Errors
/// If it is no member, runs, or its disk fails; then it is as it was, or this can be done again.
pub async fn recover(dir: &Path) -> Result<u64> {
    place::refuse_file(dir).context("--dir")?;
    let Some(mut identity) = place::read::<Identity>(&dir.join(IDENTITY), KIND)? else {
        bail!("{} holds no namespace member (no {IDENTITY})", dir.display());
    };
    let cluster: ClusterId = identity.cluster.parse().with_context(|| format!("{IDENTITY} is damaged"))?;
    let _lock = place::lock(&dir.join("lock"))?;
    ensure!(identity.counted, "{} never got the cluster's state: use another member", dir.display());
    let mut config = config(dir, &identity, Endpoint::Tls(identity.listen));
    config.member =
        Some(MemberConfig::new(identity.number()?, Endpoint::Tls(identity.listen), !identity.joined));
    let applied = namespace::recover(&config, cluster).await?;
    identity.member = Some(new_number()?);
    identity.joined = false;
    place::write(&dir.join(IDENTITY), KIND, &identity)?;
    Ok(applied)
}

/// Makes the directory of a further member: everything but its state, which it gets from the others.
fn join(dir: &Path, options: &NamespaceOptions) -> Result<()> {
    let namespaces = addresses(options.join.as_deref().unwrap_or_default())?;
    let listen = options
        .listen
        .context("give --listen ADDR:PORT: the address that the other machines reach this one at")?;
    let listen = reachable(listen)?;
    let ours = ["lock", "server.cred", "server.cred.key", "ca.pem"];
    if let Some(what) = place::stranger(dir, &ours)? {
        bail!("{} is not empty ({what} is in it): give an empty or new directory", dir.display());
    }
    let file = dir.join("server.cred");
    let token = options.token.read()?;
    ensure!(
        token.is_some() || file.exists(),
        "give --token: make one with `brickyard token --cred FILE namespace`"
    );
    place::make(dir)?;
    let _lock = place::lock(&dir.join("lock"))?;
    let host = control::config::hostname();
    life::run(async {
        let credential = if file.exists() {
            place::loaded(Credential::load(&file), "remove it and join again with --token")?
        } else {
            let token =
                token.context("give --token: make one with `brickyard token --cred FILE namespace`")?;
            joining::obtain(&file, &namespaces, &token, Role::Namespace, &host, joining::PATIENCE).await?
        };
        let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
        let admin = Admin::over(net, namespaces.iter().copied().map(Endpoint::Tls).collect())?;
        let pem = match admin.cluster(ClusterRequest::Authority).await? {
            ClusterReply::Authority(AuthorityText(pem)) => pem,
            other => bail!("the namespace answered something else than its authority: {other:?}"),
        };
        let map = admin.map().await?;
        Authority::from_pem(&pem)?.save(&dir.join("ca.pem"))?;
        let identity = Identity {
            cluster: credential.identity().cluster.to_string(),
            listen,
            replicas: map.replicas,
            bricks: 0,
            member: Some(new_number()?),
            joined: true,
            counted: false,
        };
        place::write(&dir.join(IDENTITY), KIND, &identity)
    })
}

/// Has the others count this member: they bring it up to date first. Tries until they do.
async fn enlist(net: Net, credential: &Credential, dir: &Path, mut identity: Identity) -> Result<()> {
    let admin = Admin::over(net, credential.namespaces().to_vec())?;
    let request =
        ClusterRequest::AddMember { id: identity.number()?, endpoint: Endpoint::Tls(identity.listen) };
    loop {
        match admin.cluster(request.clone()).await {
            Ok(ClusterReply::Done) => break,
            Ok(ClusterReply::MemberRefused(MemberRefusal::TimedOut)) => {
                tracing::info!("the others are bringing this member up to date");
            }
            Ok(ClusterReply::MemberRefused(why)) => bail!("{}", member_admin::why(&why)),
            Ok(other) => bail!("the namespace answered something else than was asked: {other:?}"),
            Err(error) => {
                let error = refusal::one_line(&error);
                tracing::info!("the others do not count this member yet: {error}; trying again");
            }
        }
        tokio::time::sleep(ENLIST_PAUSE).await;
    }
    identity.counted = true;
    place::write(&dir.join(IDENTITY), KIND, &identity)
}

async fn serve(
    config: namespace::Config,
    credential: Credential,
    cluster: ClusterId,
    metrics: exporter::Options,
    newcomer: Option<(PathBuf, Identity)>,
) -> Result<ExitCode> {
    let mut ending = Ending::new()?;
    let exporter = Exporter::bind(&metrics).await?;
    let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
    let running = namespace::start(config, net.clone()).await?;
    let life = async {
        if let Some((dir, identity)) = newcomer {
            enlist(net.clone(), &credential, &dir, identity).await?;
        }
        running.settled(LEADER_WAIT).await;
        life::ready(&format!("namespace of cluster {cluster} at {}", running.endpoint()))?;
        std::future::pending::<Result<()>>().await
    };
    let lived = tokio::select! {
        lived = life => lived,
        () = ending.asked() => Ok(()),
        () = exporter.serve(|| exporter::namespace(&running, &net)) => Ok(()),
    };
    running.stop().await;
    lived.map(|()| ExitCode::SUCCESS)
}
