//! `mount.brickyard`: a mount as a process of its own, in the background when it is ready.
//!
//! To go into the background the program starts itself again and waits for one line on that
//! process' standard output: `ready: ...`, or `failed: ` and why. So `mount(8)` returns when the
//! mount can be used, and with an error otherwise. No fork: the second process begins with one thread.
//!
//! 1. `umount` ends the process, and SIGTERM unmounts; both flush first.
//! 2. A mount that is refused leaves nothing behind, unless its process in the background ended without a word: then
//!    its log stays (`tests`: `a_refused_mount_leaves_nothing`).
//! 3. It is mounted when some files can be used, and not before (`tests`: `a_mount_waits_for_bricks_and_names_them`).
//! 4. A mount's session is the same client's after a restart: it is named by its credential, machine and mount
//!    point.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use fs_client::{Client, ClientConfig, Mount, MountConfig};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::brick::{BrickCall, BrickProtocol, BrickRequest};
use wire::id::BrickId;
use wire::map::{Chain, ClusterMap, Member, MemberState};
use wire::net::{Credential, Endpoint, MemoryHub, Net, NetConfig, Role};

use super::exporter::{self, Exporter};
use super::life::{self, Ending};
use super::options::{USAGE, Wanted};
use super::{joining, place};
use crate::cli::{LogFormat, LogOptions};
use crate::show::counted;
use crate::{logging, refusal};

/// The name it is called by.
pub const PROGRAM: &str = "mount.brickyard";
/// Where credentials of mounts are kept that were not told where to.
const CREDENTIALS: &str = "/var/lib/brickyard";
/// Where mounts in the background log.
const LOGS: &str = "/var/log/brickyard";
/// Wait between two looks whether the cluster has chains that are served.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for a brick to show that it is there.
const LOOK: Duration = Duration::from_secs(1);

/// Whether the program was called by this role's name.
pub fn is_called(name: &OsString) -> bool {
    Path::new(name).file_name().is_some_and(|name| name == PROGRAM)
}

/// Runs it, with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args: Vec<String> = match args.into_iter().map(OsString::into_string).collect() {
        Ok(args) => args,
        // Another path than the one that was meant would be used.
        Err(arg) => {
            return refused(&anyhow!(
                "{arg:?} is no text in UTF-8, and a mount takes nothing else: give another name"
            ));
        }
    };
    if args.is_empty() || args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return if args.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let wanted = match Wanted::parse(&args) {
        Ok(wanted) => wanted,
        Err(error) => return refused(&error),
    };
    let background = wanted.background;
    let done = match (wanted.foreground, background) {
        _ if wanted.remount => change(&wanted),
        (true, _) | (_, true) => stay(wanted),
        (false, false) => go(&wanted, args),
    };
    match done {
        Ok(code) => code,
        Err(error) if background => {
            // The one who waits says it to the user; if nobody waits any more, the log has it.
            let why = refusal::one_line(&error);
            tracing::error!("{why}");
            let _ = writeln!(std::io::stdout(), "failed: {why}");
            ExitCode::FAILURE
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &anyhow::Error) -> ExitCode {
    refusal::say(error);
    // What mount(8) calls a failed mount.
    ExitCode::from(32)
}

/// What the kernel is to be told of a mount. What it serves is another matter.
fn mount_config(wanted: &Wanted) -> MountConfig {
    MountConfig {
        source: wanted.source.clone(),
        root: wanted.root.clone(),
        read_only: wanted.read_only,
        no_atime: wanted.no_atime,
        no_dir_atime: wanted.no_dir_atime,
        no_suid: wanted.no_suid,
        no_dev: wanted.no_dev,
        no_exec: wanted.no_exec,
        allow_other: wanted.allow_other,
        ..MountConfig::default()
    }
}

/// Changes what is mounted already.
fn change(wanted: &Wanted) -> Result<ExitCode> {
    Mount::change(&wanted.mountpoint, &mount_config(wanted))?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the program again in the background and waits until it is ready.
fn go(wanted: &Wanted, args: Vec<String>) -> Result<ExitCode> {
    // What needs no cluster is said at once, and by the process that the user sees.
    Mount::check(&wanted.mountpoint, &MountConfig::default())?;
    let log = Log::open(wanted);
    let mut command = Command::new("/proc/self/exe");
    command.arg0(PROGRAM).args(args).arg("--background").stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(log.output());
    let mut child = command.spawn().context("cannot start a process in the background")?;
    let output = child.stdout.take().context("the process in the background has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("cannot hear from the process in the background")?;
    if line.starts_with("ready: ") {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    match line.strip_prefix("failed: ") {
        Some(why) => {
            log.forget();
            Err(anyhow!("{}", why.trim_end()))
        }
        None => bail!("the mount ended while starting ({status}); its log is {}", log.name()),
    }
}

/// The log of a mount in the background.
struct Log {
    path: PathBuf,
    /// None where it can't be written: such a machine is mounted on all the same.
    file: Option<File>,
    is_new: bool,
    /// Directories that were made for it.
    made: Vec<PathBuf>,
}

impl Log {
    fn open(wanted: &Wanted) -> Log {
        let path = wanted.log.clone().unwrap_or_else(|| {
            let name = wanted.mountpoint.to_string_lossy().trim_matches('/').replace('/', "-");
            Path::new(LOGS).join(format!("{name}.log"))
        });
        let (is_new, made) = (!path.exists(), place::missing_above(&path));
        let open = || -> std::io::Result<File> {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            File::options().append(true).create(true).open(&path)
        };
        let file = open().inspect_err(|error| {
            eprintln!("brickyard: no log: cannot write {}: {error}", path.display());
        });
        Log { file: file.ok(), path, is_new, made }
    }

    /// Where the process in the background writes it to.
    fn output(&self) -> Stdio {
        self.file.as_ref().and_then(|file| file.try_clone().ok()).map_or_else(Stdio::null, Stdio::from)
    }

    /// For people.
    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "not kept".to_owned(), |_| self.path.display().to_string())
    }

    /// Takes it away, as far as it was made for a mount that was refused: the user reads why.
    fn forget(&self) {
        if self.is_new && self.file.is_some() {
            // What can't be removed does no harm.
            let _ = std::fs::remove_file(&self.path);
        }
        place::unmake(&self.made);
    }
}

/// Mounts and serves until unmounted.
fn stay(wanted: Wanted) -> Result<ExitCode> {
    if wanted.background {
        // Not ended with the terminal it was started from; fails only for a leader of a group,
        // which a process just started is not.
        rustix::process::setsid().context("cannot leave the terminal")?;
        std::env::set_current_dir("/").context("cannot leave the directory")?;
    }
    logging::start(&LogOptions { log_format: LogFormat::Text, log: wanted.log_level.clone() })?;
    Mount::check(&wanted.mountpoint, &MountConfig::default())?;
    life::run(serve(wanted))
}

async fn serve(wanted: Wanted) -> Result<ExitCode> {
    let mut ending = Ending::new()?;
    let exporter = Exporter::bind(&exporter::Options { metrics: wanted.metrics }).await?;
    let mounted = tokio::select! {
        mounted = mount(&wanted) => mounted?,
        () = ending.asked() => return Ok(ExitCode::SUCCESS),
    };
    let Mounted { client, mount, net } = mounted;
    let ready = life::ready(&wanted.mountpoint.display().to_string());
    if ready.is_ok() {
        tokio::select! {
            () = ending.asked() => {}
            () = mount.wait() => tracing::info!("unmounted"),
            () = exporter.serve(|| exporter::mount(&client, &net)) => {}
        }
    }
    let unmounted = mount.stop().await.context("data was left unwritten when it was unmounted");
    let closed = client.shutdown().await.context("data was left unwritten when the session was closed");
    ready.and(unmounted).and(closed)?;
    Ok(ExitCode::SUCCESS)
}

struct Mounted {
    client: Client,
    mount: Mount,
    net: Net,
}

async fn mount(wanted: &Wanted) -> Result<Mounted> {
    // One patience for all of it: a namespace that answers, somebody who joins by it, bricks for files.
    let until = Instant::now() + wanted.wait;
    let host = wanted.host.clone().unwrap_or_else(control::config::hostname);
    let credential = credential(wanted, &host).await?;
    let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
    let place = wanted.mountpoint.canonicalize().unwrap_or_else(|_| wanted.mountpoint.clone());
    let purpose = format!("mount of {host}: {}", place.display());
    let namespaces = wanted.namespaces.iter().copied().map(Endpoint::Tls).collect();
    let mut config = ClientConfig::new(credential.identity().node.for_purpose(&purpose), namespaces);
    config.class = wanted.class;
    config.host = host;
    config.mount = place.display().to_string();
    let client = match tokio::time::timeout_at(until, connect(config, &net)).await {
        Ok(connected) => connected.context("cannot open a session with the namespace")?,
        Err(_) => bail!("the namespace has not answered for {} s", wanted.wait.as_secs()),
    };
    let started = async {
        wait_for_chains(&client, &net, until, wanted.wait).await?;
        Ok(Mount::start(client.clone(), &wanted.mountpoint, mount_config(wanted)).await?)
    }
    .await;
    match started {
        Ok(mount) => Ok(Mounted { client, mount, net }),
        Err(error) => {
            if let Err(late) = client.shutdown().await {
                tracing::warn!(error = %late, "could not end the session cleanly");
            }
            Err(error)
        }
    }
}

/// Opens a session. The client's own patience is that of programs for their files; a mount's may be longer.
async fn connect(config: ClientConfig, net: &Net) -> Result<Client, fs_client::Error> {
    loop {
        match Client::connect(config.clone(), net.clone()).await {
            Err(late @ fs_client::Error::Deadline { .. }) => {
                tracing::info!("cannot open a session yet: {late}; trying again");
            }
            done => return done,
        }
    }
}

/// A cluster that is just being born has nowhere to put files yet, and in one whose bricks are all away whoever touches a file
/// would hang: both are waited for. Where some chains are served, files of the others wait as they do when bricks go later.
async fn wait_for_chains(client: &Client, net: &Net, until: Instant, patience: Duration) -> Result<()> {
    let mut told = String::new();
    loop {
        let map = client.map();
        let lacking = match map.current_table() {
            None => lacking(&map),
            Some(_) => {
                let away = away(net, &map).await;
                if away.chains < map.chains.len() {
                    if away.chains > 0 {
                        tracing::warn!(
                            "files on {} of {} chains wait: {away}",
                            away.chains,
                            map.chains.len()
                        );
                    }
                    return Ok(());
                }
                format!("no file can be read or written: {away}")
            }
        };
        if Instant::now() > until {
            bail!(
                "{lacking}. Waited for it for {} s (-o wait=SECONDS); see `brickyard status`",
                patience.as_secs()
            );
        }
        if told != lacking {
            tracing::info!("{lacking}");
            told = lacking;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is not there of a cluster's bricks.
struct Away {
    /// Chains that nobody serves.
    chains: usize,
    /// The bricks that would serve them, with where they are looked for.
    bricks: BTreeMap<BrickId, String>,
}

impl std::fmt::Display for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// More than these help nobody.
        const SHOWN: usize = 8;
        let bricks: Vec<String> =
            self.bricks.iter().take(SHOWN).map(|(brick, place)| format!("{brick} ({place})")).collect();
        let more = match self.bricks.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (word, verb) = if self.bricks.len() == 1 { ("brick", "does") } else { ("bricks", "do") };
        write!(f, "{word} {}{more} {verb} not answer; start them", bricks.join(", "))
    }
}

/// Looks for those who serve chains. The map alone does not tell: a namespace that has just started takes bricks that it knew for
/// alive until they had time to speak.
async fn away(net: &Net, map: &ClusterMap) -> Away {
    let heads: BTreeSet<BrickId> = map.chains.values().filter_map(Chain::head).collect();
    let mut looks = JoinSet::new();
    for brick in heads {
        let Some(endpoint) = map.endpoint_of(brick).copied() else { continue };
        let (net, call) = (net.clone(), BrickCall { brick, map: map.epoch, request: BrickRequest::Ping });
        looks.spawn(async move {
            let until = Instant::now() + LOOK;
            let answer = net.request::<BrickProtocol>(&endpoint, &call, Default::default(), until).await;
            answer.is_ok().then_some(brick)
        });
    }
    let mut there = BTreeSet::new();
    while let Some(look) = looks.join_next().await {
        there.extend(look.ok().flatten());
    }
    let served = |chain: &&Chain| chain.head().is_some_and(|head| there.contains(&head));
    let mut away = Away { chains: 0, bricks: BTreeMap::new() };
    for chain in map.chains.values().filter(|chain| !served(chain)) {
        away.chains += 1;
        let would = |m: &&Member| matches!(m.state, MemberState::Serving | MemberState::LastServing);
        for member in chain.members.iter().filter(would).filter(|m| !there.contains(&m.brick)) {
            if let Some(info) = map.bricks.get(&member.brick) {
                away.bricks.insert(member.brick, format!("{} on {}", info.endpoint, info.host));
            }
        }
    }
    away
}

/// What a cluster waits for that has no chains yet.
fn lacking(map: &ClusterMap) -> String {
    let up = || map.bricks.values().filter(|brick| brick.alive);
    let machines: BTreeSet<&str> = up().map(|brick| brick.host.as_str()).collect();
    format!(
        "the cluster can store nothing yet and waits for bricks: {} on {} up; start more, on at least {}, or as many as \
         `brickyard init --bricks` said",
        counted(up().count(), "brick", "bricks"),
        counted(machines.len(), "machine is", "machines are"),
        counted(map.replicas, "machine", "machines")
    )
}

/// The credential that was named, or the one that a token stands for.
async fn credential(wanted: &Wanted, host: &str) -> Result<Credential> {
    let token = wanted.token.as_ref().map(|text| text.read()).transpose()?;
    let path = match (&wanted.credential, &token) {
        (Some(path), _) => path.clone(),
        (None, Some(token)) => kept(&token.cluster.to_string()),
        (None, None) => only_kept()?,
    };
    if path.exists() {
        let mend = "put its backup back, or remove it and give -o token=TOKEN (see `brickyard token`)";
        let credential = place::loaded(Credential::load(&path), mend)?;
        let identity = credential.identity();
        if let Some(token) = token.filter(|token| token.cluster != identity.cluster) {
            bail!(
                "{} is for cluster {}, and the join token for cluster {}",
                path.display(),
                identity.cluster,
                token.cluster
            );
        }
        if !matches!(identity.role, Role::Client | Role::Admin) {
            bail!(
                "{} is a credential of role {}, and a mount needs one of role client",
                path.display(),
                identity.role
            );
        }
        return Ok(credential);
    }
    let Some(token) = token else {
        bail!("{} does not exist: give -o token=TOKEN once (see `brickyard token`)", path.display());
    };
    let made = place::missing_above(&path);
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        place::make(dir)?;
    }
    let joined = joining::obtain(&path, &wanted.namespaces, &token, Role::Client, host, wanted.wait).await;
    joined.inspect_err(|_| place::unmake(&made))
}

fn kept(cluster: &str) -> PathBuf {
    Path::new(CREDENTIALS).join(format!("client-{cluster}.cred"))
}

/// The credential that was kept, if there is exactly one.
fn only_kept() -> Result<PathBuf> {
    let found: Vec<PathBuf> = std::fs::read_dir(CREDENTIALS)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    let mut clients = found.into_iter().filter(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("client-") && name.ends_with(".cred")
    });
    match (clients.next(), clients.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            bail!("{CREDENTIALS} has credentials of several clusters: say which with -o cred=FILE")
        }
        _ => bail!(
            "this machine has no credential: give -o token=TOKEN or -o cred=FILE (see `brickyard token`)"
        ),
    }
}
