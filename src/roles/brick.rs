//! `brickyard brick`: a server of one or more bricks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use brick_server::store::dir;
use clap::Args;
use tokio::time::Instant;
use wire::id::{BrickId, CallSeq, MapEpoch, StoreId};
use wire::meta::{
    BrickRefusal, ClusterReply, ClusterRequest, ClusterStatus, MetaCall, MetaProtocol, MetaRequest, NewBrick,
};
use wire::net::{CallError, Credential, Endpoint, MemoryHub, Net, NetConfig, Role};
use wire::status::Status;

use super::exporter::{self, Exporter};
use super::life::{self, Ending};
use super::server::{self, Place, Server};
use super::{addresses, is_ours, joining, listen_address, reachable};
use crate::admin::Admin;
use crate::{brick_admin, refusal};

/// Wait between two looks whether the namespace has let the bricks in.
const PAUSE: Duration = Duration::from_millis(20);
/// Wait between two looks whether the namespace refuses bricks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// So long it must refuse a disk as another one's before that is believed.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// Wait between two looks whether bricks that are not let in were removed from the cluster.
const REMOVED_PAUSE: Duration = Duration::from_secs(5);
/// The same of bricks that are let in, as far as they have heard.
const REMOVED_PAUSE_KNOWN: Duration = Duration::from_secs(60);
/// Exit code where all of its bricks were removed from the cluster or replaced: starting it again is no use. The unit in
/// `dist/systemd` names it.
const OVER: u8 = 78;
/// Longest wait for a namespace to show whose it is.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// Options of `brickyard brick`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Options {
    #[command(subcommand)]
    pub order: Option<brick_admin::Order>,
    /// Directory of a brick, best a disk of its own; repeat it for several
    #[arg(long = "dir", value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
    /// Address and port that the other machines reach this one at; remembered
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub listen: Option<SocketAddr>,
    /// Where the namespace is: makes new bricks of directories that are none
    #[arg(long, value_name = "ADDR:PORT,...")]
    pub join: Option<String>,
    #[command(flatten)]
    pub token: joining::TokenOptions,
    /// The new directory takes the place of this brick, whose disk is lost; its content comes from the copies
    #[arg(long, value_name = "BRICK", requires = "join")]
    pub replace: Option<u32>,
    /// With --replace: also if nobody else has all of that brick's data, which is given up then
    #[arg(long, requires = "replace")]
    pub lose_data: bool,
    /// Only join and make the bricks, then exit: what comes before a service is started
    #[arg(long, requires = "join")]
    pub prepare: bool,
    /// Name of the machine: copies are kept on different ones [default: the host name]; remembered
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    #[command(flatten)]
    pub metrics: exporter::Options,
}

/// Runs the bricks until told to end.
///
/// # Errors
/// What keeps them from running, in one line; directories that were refused are as they were.
pub fn run(options: Options) -> Result<ExitCode> {
    let places = server::look(&options.dirs)?;
    life::run(async {
        let mut ending = Ending::new()?;
        let exporter = Exporter::bind(&options.metrics).await?;
        let prepared = tokio::select! {
            prepared = prepare(&options, places) => prepared?,
            () = ending.asked() => return Ok(ExitCode::SUCCESS),
        };
        if options.prepare {
            for config in &prepared.configs {
                println!("brick {} is in {}", config.brick, config.dir.display());
            }
            return Ok(ExitCode::SUCCESS);
        }
        serve(prepared, exporter, ending).await
    })
}

/// What is needed to serve.
struct Prepared {
    configs: Vec<brick_server::Config>,
    net: Net,
    places: Vec<Place>,
    server: Server,
}

/// Sees to it that every directory is a brick, and the server a member of their cluster.
async fn prepare(options: &Options, mut places: Vec<Place>) -> Result<Prepared> {
    let Some(first) = places.first() else { bail!("give at least one --dir") };
    let remembered = places.iter().find_map(|place| place.server().transpose()).transpose()?;
    let host = match (&options.host, &remembered) {
        (Some(host), _) => host.clone(),
        (None, Some(server)) => server.host.clone(),
        (None, None) => control::config::hostname(),
    };
    let namespaces = options.join.as_deref().map(addresses).transpose()?;
    let known = places.iter().find_map(|place| place.credential().transpose()).transpose()?;
    let new = places.iter().filter(|place| place.brick.is_none()).count();
    if let Some(missing) = places.iter().find(|place| place.brick.is_none())
        && namespaces.is_none()
    {
        bail!(
            "{} holds no brick: its disk may not be mounted, look at that first; if the disk was replaced, join again with --join, \
             --token and --replace BRICK; to make a new brick of it, join with --join and --token",
            missing.dir.display()
        );
    }
    ensure!(
        options.replace.is_none() || new == 1,
        "--replace: give exactly one directory that holds no brick, not {new}"
    );
    let no_credential = || {
        anyhow!(
            "{} has no credential (no {}): put its backup back, or join again with --join, --token and --listen",
            first.dir.display(),
            first.credential_file().display()
        )
    };
    if known.is_none() && namespaces.is_none() {
        return Err(no_credential());
    }
    // Before a token is used up, or a number given.
    for place in places.iter().filter(|place| place.brick.is_none()) {
        dir::ensure_room(&place.dir)?;
    }
    let listen = match (options.listen, &remembered) {
        (Some(listen), _) => reachable(listen)?,
        (None, Some(server)) => server.listen,
        (None, None) => {
            bail!("give --listen ADDR:PORT: the address that the other machines reach this one at")
        }
    };
    let token = options.token.read()?;
    if let Some(token) = &token {
        for place in &places {
            place.check_cluster(token.cluster, "the join token")?;
        }
    }
    if new > 0 && (token.is_some() || known.is_some()) {
        is_ours(listen)?;
    }
    let credential = match (known, &namespaces, token) {
        (Some(known), None, _) => known,
        (Some(known), Some(namespaces), _) => {
            known.with_namespaces(namespaces.iter().copied().map(Endpoint::Tls).collect())
        }
        (None, Some(namespaces), Some(token)) => {
            first.prepare()?;
            joining::obtain(
                &first.credential_file(),
                namespaces,
                &token,
                Role::Brick,
                &host,
                joining::PATIENCE,
            )
            .await?
        }
        (None, Some(_), None) => bail!("give --token: make one with `brickyard token --cred FILE brick`"),
        (None, None, _) => return Err(no_credential()),
    };
    for place in &places {
        place.check_cluster(credential.identity().cluster, "its server's credential")?;
    }
    let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
    let server = Server { listen, host };
    refuse_strangers(&net, credential.namespaces()).await?;
    for place in &mut places {
        place.remember(&credential)?;
        if place.brick.is_none() {
            place.remember_server(&server)?;
            make_brick(place, &server, &credential, &net, options).await?;
        }
    }
    let mut configs = Vec::new();
    for place in &places {
        let Some(brick) = place.brick else { bail!("{} holds no brick", place.dir.display()) };
        configs.push(brick_server::Config::new(
            place.dir.clone(),
            brick.brick,
            brick.cluster,
            credential.identity().node,
            server.host.clone(),
            Endpoint::Tls(listen),
            credential.namespaces().to_vec(),
        ));
    }
    ensure!(
        !credential.namespaces().is_empty(),
        "{} does not say where the namespace is: give --join",
        places[0].credential_file().display()
    );
    Ok(Prepared { configs, net, places, server })
}

/// A namespace that will never have anything to do with this server is told of at once, and not waited for.
async fn refuse_strangers(net: &Net, namespaces: &[Endpoint]) -> Result<()> {
    let call = MetaCall {
        session: None,
        seq: CallSeq(0),
        answered_below: CallSeq(0),
        request: MetaRequest::Cluster(ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 }),
    };
    for namespace in namespaces {
        let deadline = Instant::now() + FIRST_LOOK;
        match net.request::<MetaProtocol>(namespace, &call, Default::default(), deadline).await {
            Err(CallError::Net(error)) if !error.is_transient() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Gets a number for a new brick and makes its directory.
async fn make_brick(
    place: &mut Place,
    server: &Server,
    credential: &Credential,
    net: &Net,
    options: &Options,
) -> Result<()> {
    let identity = credential.identity();
    // With the room that is left by those made before it.
    dir::ensure_room(&place.dir)?;
    let store = place.store_to_be()?;
    let admin = Admin::over(net.clone(), credential.namespaces().to_vec())?;
    let brick = match options.replace {
        Some(brick) => replaced(&admin, BrickId(brick), store, options.lose_data).await?,
        None => added(&admin, store, server, credential).await?,
    };
    let (dir, cluster) = (place.dir.clone(), identity.cluster);
    let made = tokio::task::spawn_blocking(move || brick_server::format_as(&dir, cluster, brick, store));
    made.await.context("a thread panicked")?.with_context(|| {
        format!(
            "cannot make brick {brick} (the same command does it once this is mended; `brickyard brick remove {brick}` \
             takes the number back)"
        )
    })?;
    place.brick = Some(brick_server::identify(&place.dir)?);
    tracing::info!(%brick, dir = %place.dir.display(), "made a brick");
    Ok(())
}

/// A number for a new brick: the same one for the same store.
async fn added(admin: &Admin, store: StoreId, server: &Server, credential: &Credential) -> Result<BrickId> {
    let request = ClusterRequest::AddBrick(NewBrick {
        store,
        node: credential.identity().node,
        host: server.host.clone(),
        endpoint: Endpoint::Tls(server.listen),
    });
    match admin.cluster(request).await? {
        ClusterReply::Added(brick) => Ok(brick),
        other => bail!("the namespace answered something else than the number of a brick: {other:?}"),
    }
}

/// The number of a brick whose disk is lost: it must be known, and not be alive; and unless data is to be lost, somebody
/// else must have all of its data. The namespace judges that now and again when the new disk comes up.
async fn replaced(admin: &Admin, brick: BrickId, store: StoreId, lose_data: bool) -> Result<BrickId> {
    let unknown = || anyhow!("--replace {brick}: the cluster has no brick {brick}; see `brickyard status`");
    let map = admin.map().await?;
    let known = map.bricks.get(&brick).ok_or_else(unknown)?;
    ensure!(
        !known.alive,
        "--replace {brick}: brick {brick} is alive on {} at {}: stop it first, or leave --replace out to make a new brick",
        known.host,
        known.endpoint
    );
    match admin.cluster(ClusterRequest::ReplaceBrick { brick, store, lose_data }).await? {
        ClusterReply::Done => Ok(brick),
        ClusterReply::Refused(BrickRefusal::OnlyCopy(only)) => bail!(
            "--replace {brick}: nobody else has all data of {}: bring the old disk back (`brickyard salvage` gets files \
             off it), or add --lose-data to give that data up",
            brick_admin::named(&only)
        ),
        ClusterReply::Refused(_) => Err(unknown()),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

async fn serve(prepared: Prepared, exporter: Exporter, mut ending: Ending) -> Result<ExitCode> {
    let Prepared { configs, net, places, server } = prepared;
    let dirs: BTreeMap<BrickId, PathBuf> = configs.iter().map(|c| (c.brick, c.dir.clone())).collect();
    let namespaces = configs.first().map(|config| config.namespaces.clone()).unwrap_or_default();
    let admin = Admin::over(net.clone(), namespaces)?;
    let running = brick_server::start_all(configs, net.clone()).await?;
    // The directories are held now: a start that was refused has changed nothing.
    for place in &places {
        place.remember_server(&server)?;
    }
    let life = async {
        let_in(&running).await;
        let numbers: Vec<String> = running.registrations().iter().map(|own| own.brick.to_string()).collect();
        let word = if numbers.len() == 1 { "brick" } else { "bricks" };
        life::ready(&format!("{word} {} at {}", numbers.join(", "), running.endpoint()))?;
        std::future::pending::<Result<ExitCode>>().await
    };
    let lived = tokio::select! {
        lived = life => lived,
        () = exporter.serve(|| exporter::bricks(&running, &net)) => Ok(ExitCode::SUCCESS),
        () = ending.asked() => Ok(ExitCode::SUCCESS),
        why = all_over(&running, &dirs, &admin) => {
            refusal::say(&anyhow!("{}", why.join("; and ")));
            Ok(ExitCode::from(OVER))
        }
    };
    let stopped = running.stop().await.context("a brick could not be closed cleanly");
    let code = lived?;
    stopped?;
    Ok(code)
}

/// Returns when the namespace knows this life of every brick.
async fn let_in(running: &brick_server::Running) {
    while !are_known(running) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the namespace knows this life of every brick, as far as these have heard.
fn are_known(running: &brick_server::Running) -> bool {
    let registrations = running.registrations();
    running.map().is_some_and(|map| {
        registrations
            .iter()
            .all(|own| map.bricks.get(&own.brick).is_some_and(|brick| brick.alive && brick.boot == own.boot))
    })
}

/// Why a brick will not be served by this directory any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// It was removed from the cluster.
    Removed,
    /// Another disk has its place, or this one is another brick's.
    OtherDisk,
}

impl Over {
    /// What the administrator reads, with what to do.
    fn text(self, brick: BrickId, dir: &Path) -> String {
        let dir = dir.display();
        let why = match self {
            Over::Removed => format!("removed from the cluster: brick {brick}"),
            Over::OtherDisk => format!(
                "{dir} is not brick {brick} any more: another disk has taken its place, or this one is another brick's"
            ),
        };
        format!(
            "{why}. To use {dir} again, empty it (`brickyard salvage` gets files off it first) and join anew with --join and --token"
        )
    }
}

/// Closes bricks that are over, each with a line in the log, while the others go on. Returns when all are, with what is to be
/// said of each.
async fn all_over(
    running: &brick_server::Running,
    dirs: &BTreeMap<BrickId, PathBuf>,
    admin: &Admin,
) -> Vec<String> {
    let mut over: BTreeMap<BrickId, String> = BTreeMap::new();
    let mut asked = Instant::now();
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        let refused = running.refusals();
        let others =
            refused.iter().filter(|(_, why, held)| *why == Status::OtherDisk && *held >= REFUSED_FOR);
        let mut found: Vec<(BrickId, Over)> = others.map(|(brick, _, _)| (*brick, Over::OtherDisk)).collect();
        // A brick whose disk has failed, or that is removed while the namespace is restored from a backup, does not hear of it.
        let pause = if are_known(running) { REMOVED_PAUSE_KNOWN } else { REMOVED_PAUSE };
        if refused.iter().any(|(_, why, _)| *why == Status::Forbidden) || asked.elapsed() >= pause {
            asked = Instant::now();
            match admin.status().await {
                Ok(now) => {
                    let removed = dirs.keys().filter(|brick| is_removed(&now, **brick));
                    found.extend(removed.map(|brick| (*brick, Over::Removed)));
                }
                Err(error) => {
                    tracing::debug!("cannot ask whether bricks were removed: {}", refusal::one_line(&error));
                }
            }
        }
        for (brick, why) in found {
            let Some(dir) = dirs.get(&brick).filter(|_| !over.contains_key(&brick)) else { continue };
            running.close(brick).await;
            let text = why.text(brick, dir);
            if over.len() + 1 < dirs.len() {
                tracing::warn!("{text}; this server's other bricks go on");
            }
            over.insert(brick, text);
        }
        if over.len() == dirs.len() {
            return over.into_values().collect();
        }
    }
}

/// A number that was given and is not there was taken back, and is never given again.
fn is_removed(now: &ClusterStatus, brick: BrickId) -> bool {
    // A state that was set back does not know who was added since.
    now.behind.is_none() && brick.0 < now.wishes.next_brick && !now.map.bricks.contains_key(&brick)
}

#[cfg(test)]
mod tests {
    /// The service manager knows the exit code after which nothing is to be started again.
    #[test]
    fn the_unit_names_the_exit_code() {
        let unit = include_str!("../../dist/systemd/brickyard-brick@.service");
        assert!(unit.contains(&format!("\nRestartPreventExitStatus={}\n", super::OVER)), "{unit}");
    }
}
