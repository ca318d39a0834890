//! The storage roles of `up`: namespace, bricks, client, mount.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use brick_server::store::dir::{self, DirError};
use fs_client::{Client, ClientConfig, Mount, MountConfig, Sharing};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::id::{BrickId, CallSeq, ChainId, ClusterId, NodeId};
use wire::map::{ClusterMap, Member, MemberState};
use wire::meta::{
    BrickRefusal, ClusterReply, ClusterRequest, ClusterStatus, MetaCall, MetaProtocol, MetaReply, MetaRequest,
};
use wire::net::pki::random_id;
use wire::net::{CallError, Endpoint, Net, Role};
use wire::status::Status;

use super::credentials::Credentials;
use super::home::{Home, State};
use crate::cli::{TransportKind, UpOptions};

/// Longest wait for every chain to have somebody who serves. A brick is given up 2.5 s after it
/// was heard last, and compares its copies with the others' before it serves.
const CHAINS_DEADLINE: Duration = Duration::from_secs(20);
/// A namespace that was set back has heard the bricks of its machine in so long; who is missing then is told.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Wait between two looks at the map.
const PAUSE: Duration = Duration::from_millis(20);
/// Free bytes of the filesystem below which the scheduler is not started.
const ROOM_BYTES: u64 = 4 << 20;
/// How long the mount waits for what its kernel holds to be written, and for each step of unmounting.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(3);
/// How long what is written and not yet with the bricks is waited for after that, while nothing gets on.
const FLUSH_PATIENCE: Duration = Duration::from_secs(6);
/// Longest wait for one answer of the namespace.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// What runs, in the order it was started.
pub struct Storage {
    home: Home,
    namespace: namespace::Running,
    bricks: Vec<brick_server::Running>,
    client: Client,
    mount: Mount,
}

impl Storage {
    /// Starts everything; when it fails, what was started is stopped again.
    ///
    /// # Errors
    /// Why it cannot run, in one line.
    pub async fn start(options: &UpOptions, mut home: Home) -> Result<Storage> {
        let cluster: ClusterId = home.identity.cluster.parse().with_context(|| home.damaged())?;
        let mount_client: NodeId = home.identity.mount_client.parse().with_context(|| home.damaged())?;
        let node = NodeId(random_id()?);
        let credentials = Credentials::open(&home, cluster)?;
        let host = control::config::hostname();

        let listen = match options.transport {
            TransportKind::Tls => Endpoint::Tls(options.listen),
            TransportKind::Quic => Endpoint::Quic(options.listen),
        };
        let names = home.join("namespace");
        if home.identity.state == State::Ready && !names.exists() {
            bail!(
                "{} is missing: it has the names of all files, and without it the bricks would be taken for empty; put \
                 its backup back and start again (without one, 'brickyard salvage --help' tells what the bricks give back)",
                names.display()
            );
        }
        let mut config = namespace::Config::new(names, listen);
        config.replicas = home.identity.replicas;
        let namespace = namespace::start(config, credentials.net(Role::Namespace, node)?)
            .await
            .context("cannot start the namespace")?;
        let namespaces = vec![namespace.endpoint()];

        let mut starting = Starting { namespace: Some(namespace), bricks: Vec::new(), client: None };
        let started = async {
            let brick_net = credentials.net(Role::Brick, node)?;
            let admin = credentials.net(Role::Admin, node)?;
            let known = match home.identity.state {
                State::Ready => Some(status(&admin, &namespaces[0]).await?),
                State::Creating => None,
            };
            let irreplaceable = known.as_ref().map_or(Ok(BTreeMap::new()), |known| irreplaceable(&home, &known.map))?;
            for number in 0..home.identity.bricks {
                let dir = home.brick(number);
                if known.as_ref().is_some_and(|known| crate::status::is_removed(known, BrickId(number))) {
                    tracing::info!(brick = number, dir = %dir.display(), "was removed from the cluster: not opened");
                    continue;
                }
                if let Some(chains) = irreplaceable.get(&BrickId(number))
                    && !options.replace.contains(&number)
                {
                    tracing::error!(
                        brick = number, dir = %dir.display(), ?chains,
                        "a brick's directory is gone, and nobody else has all data of these chains: going on without \
                         them. Look whether its disk is mounted, put the directory back, and start again; \
                         --replace BRICK makes it anew and gives that data up"
                    );
                    continue;
                }
                prepare_brick(&home, &dir, cluster, BrickId(number))?;
                if options.replace.contains(&number) {
                    give_up(&admin, &namespaces[0], BrickId(number), &dir).await?;
                }
                let mut config = brick_server::Config::new(
                    dir,
                    BrickId(number),
                    cluster,
                    node,
                    host.clone(),
                    Endpoint::Tls(brick_address(options.listen, number)?),
                    namespaces.clone(),
                );
                // They stop together, and the namespace right after them.
                config.farewell = false;
                match brick_server::start(config, brick_net.clone()).await {
                    Ok(running) => starting.bricks.push(running),
                    Err(error) if is_loss(&error) => {
                        tracing::error!(
                            brick = number, %error,
                            "a brick is damaged: going on with the copies of its data. Keep its directory while \
                             `brickyard status` shows a chain that has it as last-serving: `brickyard salvage` gets \
                             files off it. If there is none, move it away and start again: it is made anew and refilled"
                        );
                    }
                    Err(error) => return Err(error).with_context(|| format!("cannot start brick {number}")),
                }
            }
            add_bricks(&admin, &namespaces[0], &starting.bricks, &home).await?;
            home.set_ready()?;
            wait_for_chains(&admin, &namespaces[0], &home).await?;
            home.publish_endpoints(&[namespaces[0].to_string()])?;

            let mut config = ClientConfig::new(mount_client, namespaces.clone());
            config.host = host.clone();
            config.mount = options.mount.display().to_string();
            config.sharing = if options.shared { Sharing::Shared } else { Sharing::Sole };
            let client = Client::connect(config, credentials.net(Role::Client, node)?)
                .await
                .context("cannot open a session with the namespace")?;
            starting.client = Some(client.clone());
            let mount_config = MountConfig { stop_timeout: UNMOUNT_PATIENCE, ..MountConfig::default() };
            let mount = Mount::start(client.clone(), &options.mount, mount_config).await?;
            anyhow::Ok((client, mount))
        }
        .await;
        match (started, starting.namespace.take()) {
            (Ok((client, mount)), Some(namespace)) => {
                Ok(Storage { home, namespace, bricks: starting.bricks, client, mount })
            }
            (Err(error), namespace) => {
                starting.namespace = namespace;
                starting.undo().await;
                Err(error)
            }
            (Ok(_), None) => bail!("the namespace ended while starting"),
        }
    }

    /// The data directory.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The library behind the mount.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the filesystem has room for small files.
    ///
    /// # Errors
    /// If the namespace does not answer.
    pub async fn has_room(&self) -> Result<bool> {
        let space = self.client.statfs().await.context("cannot tell how full the filesystem is")?;
        Ok(space.free_bytes >= ROOM_BYTES)
    }

    /// Returns when somebody has unmounted it from outside.
    pub async fn unmounted(&self) {
        self.mount.wait().await;
    }

    /// Flushes, unmounts, stops the roles. What can't be flushed in time is given up.
    ///
    /// # Errors
    /// If data could not be flushed; everything is stopped all the same.
    pub async fn stop(self) -> Result<()> {
        if let Err(error) = self.mount.stop().await {
            // Not the last word: the client goes on with it.
            tracing::info!(%error, "not everything is written yet");
        }
        let closed = self.client.shutdown_within(FLUSH_PATIENCE).await.context("stopped with data unwritten");
        self.namespace.bricks_stop();
        let committed = stop_bricks(self.bricks).await;
        self.namespace.stop().await;
        drop(self.home);
        closed.and(committed)
    }
}

/// What has been started so far, to be stopped when the rest fails.
struct Starting {
    namespace: Option<namespace::Running>,
    bricks: Vec<brick_server::Running>,
    client: Option<Client>,
}

impl Starting {
    async fn undo(self) {
        if let Some(client) = self.client
            && let Err(error) = client.shutdown().await
        {
            tracing::warn!(%error, "could not end the session cleanly");
        }
        if let Some(namespace) = &self.namespace {
            namespace.bricks_stop();
        }
        if let Err(error) = stop_bricks(self.bricks).await {
            tracing::warn!(%error, "could not stop the bricks cleanly");
        }
        if let Some(namespace) = self.namespace {
            namespace.stop().await;
        }
    }
}

/// Stops all at once, whatever becomes of one: one that waits for a fellow's answer waits no longer than all.
async fn stop_bricks(bricks: Vec<brick_server::Running>) -> Result<()> {
    let mut stopping: JoinSet<_> = bricks.into_iter().map(brick_server::Running::stop).collect();
    let mut outcome = Ok(());
    while let Some(stopped) = stopping.join_next().await {
        let stopped = stopped.context("a brick's end was cut short");
        outcome = outcome.and(stopped.and_then(|s| s.context("a brick could not be closed cleanly")));
    }
    outcome
}

/// Address of brick `number`: the ports after the namespace's, or free ones.
///
/// # Errors
/// If there is no such port; `places::check_addresses` has refused that with better words.
pub fn brick_address(listen: SocketAddr, number: u32) -> Result<SocketAddr> {
    let mut address = listen;
    if listen.port() != 0 {
        let port = u32::from(listen.port()) + 1 + number;
        let Ok(port) = u16::try_from(port) else { bail!("--listen {listen}: there is no port {port}") };
        address.set_port(port);
    }
    Ok(address)
}

/// Whether nothing is where a brick's directory is to be.
fn is_gone(path: &Path) -> Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.all(|e| e.is_ok_and(|e| e.file_name() == "lost+found"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Bricks whose directory is gone, each with the chains of which nobody that is there has all data.
fn irreplaceable(home: &Home, map: &ClusterMap) -> Result<BTreeMap<BrickId, Vec<ChainId>>> {
    let mut gone = BTreeSet::new();
    for number in 0..home.identity.bricks {
        if is_gone(&home.brick(number))? {
            gone.insert(BrickId(number));
        }
    }
    Ok(only_there(map, &gone))
}

/// Of these bricks, those that hold all data of a chain which no other does, and those chains.
fn only_there(map: &ClusterMap, gone: &BTreeSet<BrickId>) -> BTreeMap<BrickId, Vec<ChainId>> {
    let mut only: BTreeMap<BrickId, Vec<ChainId>> = BTreeMap::new();
    for chain in map.chains.values() {
        let has_all = |m: &&Member| matches!(m.state, MemberState::Serving | MemberState::LastServing);
        let holders: Vec<BrickId> = chain.members.iter().filter(has_all).map(|m| m.brick).collect();
        if holders.iter().all(|holder| gone.contains(holder)) {
            for holder in holders {
                only.entry(holder).or_default().push(chain.id);
            }
        }
    }
    only
}

/// Makes the directory of a brick, where there is none.
fn prepare_brick(home: &Home, path: &Path, cluster: ClusterId, brick: BrickId) -> Result<()> {
    if !is_gone(path)? {
        return Ok(());
    }
    if home.identity.state == State::Ready {
        tracing::warn!(
            %brick, dir = %path.display(),
            "a brick's directory is gone; it is made anew and refilled from the copies"
        );
    }
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    dir::format(path, cluster, brick).with_context(|| format!("cannot format brick {brick}"))?;
    Ok(())
}

/// Tells the namespace that data may be lost by the disk that takes the place of a brick's.
async fn give_up(admin: &Net, namespace: &Endpoint, brick: BrickId, dir: &Path) -> Result<()> {
    // One that can't be read is told of when it is to be started.
    let Ok(identity) = dir::identify(dir) else { return Ok(()) };
    let request = ClusterRequest::ReplaceBrick { brick, store: identity.store, lose_data: true };
    match ask(admin, namespace, request).await? {
        // Of a new cluster nobody knows it yet.
        ClusterReply::Done | ClusterReply::Refused(BrickRefusal::Unknown) => Ok(()),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

/// Whether a brick's disk or content is broken, as opposed to being somebody else's.
fn is_loss(error: &brick_server::Error) -> bool {
    matches!(
        error,
        brick_server::Error::Dir(
            DirError::NoBrick { .. }
                | DirError::Damaged { .. }
                | DirError::Missing { .. }
                | DirError::Io { .. }
                | DirError::Index { .. }
                | DirError::Store { .. }
        )
    )
}

async fn ask(admin: &Net, namespace: &Endpoint, request: ClusterRequest) -> Result<ClusterReply> {
    let call = MetaCall {
        session: None,
        seq: CallSeq(0),
        answered_below: CallSeq(0),
        request: MetaRequest::Cluster(request),
    };
    let deadline = Instant::now() + CALL_DEADLINE;
    let (reply, _) = admin
        .request::<MetaProtocol>(namespace, &call, Default::default(), deadline)
        .await
        .context("the namespace does not answer")?;
    match reply {
        MetaReply::Cluster(reply) => Ok(reply),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

/// Tells the namespace which bricks there are; those it knows are left as they are.
async fn add_bricks(
    admin: &Net,
    namespace: &Endpoint,
    bricks: &[brick_server::Running],
    home: &Home,
) -> Result<()> {
    let registrations: Vec<_> = bricks.iter().flat_map(brick_server::Running::registrations).collect();
    loop {
        match ask(admin, namespace, ClusterRequest::AddBricks(registrations.clone())).await {
            Err(error) if is_behind(&error) => catch_up(admin, namespace, home).await?,
            added => return added.map(drop),
        }
    }
}

/// Waits until the namespace, which was set back, knows again what bricks have seen. It asks those that are there by itself; where
/// one is lost, the administrator has to say so, and can while this waits.
async fn catch_up(admin: &Net, namespace: &Endpoint, home: &Home) -> Result<()> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let status = status(admin, namespace).await?;
        let Some(behind) = &status.behind else { return Ok(()) };
        let text = crate::status::behind_as_text(status.map.epoch, behind);
        if begun.elapsed() >= CATCH_UP && text != told {
            home.publish_endpoints(&[namespace.to_string()])?;
            tracing::error!("{text} (with --data {}). This start waits for that", home.join("").display());
            told = text;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn status(admin: &Net, namespace: &Endpoint) -> Result<ClusterStatus> {
    match ask(admin, namespace, ClusterRequest::Status).await? {
        ClusterReply::Status(status) => Ok(*status),
        other => bail!("the namespace answered something else than its status: {other:?}"),
    }
}

/// Whether the namespace was set back and has not heard yet what bricks know.
fn is_behind(error: &anyhow::Error) -> bool {
    let behind = |cause: &CallError| matches!(cause, CallError::Status(Status::NamespaceBehind));
    error.chain().any(|cause| cause.downcast_ref().is_some_and(behind))
}

/// Returns once every chain that can be served is served, and the space of the bricks is known.
async fn wait_for_chains(admin: &Net, namespace: &Endpoint, home: &Home) -> Result<()> {
    let mut until = Instant::now() + CHAINS_DEADLINE;
    loop {
        let status = status(admin, namespace).await?;
        if status.behind.is_some() {
            catch_up(admin, namespace, home).await?;
            until = Instant::now() + CHAINS_DEADLINE;
            continue;
        }
        let map = &status.map;
        let alive = |brick: BrickId| map.bricks.get(&brick).is_some_and(|b| b.alive);
        let reported =
            |brick: BrickId| status.bricks.iter().any(|(b, report)| *b == brick && report.total_bytes > 0);
        let settled = map.chains.values().all(|chain| {
            chain.head().is_some_and(|head| alive(head) && reported(head))
                || chain.members.iter().all(|m| !alive(m.brick))
        });
        let late = Instant::now() > until;
        if (settled || late) && !map.chains.is_empty() {
            for chain in map.chains.values().filter(|c| !c.head().is_some_and(alive)) {
                tracing::error!(
                    chain = %chain.id, members = ?chain.members,
                    "a chain has no brick that serves it: its files cannot be read until the brick that \
                     held the last copy is back"
                );
            }
            return Ok(());
        }
        if late {
            bail!("the namespace knows no chains; its log says why");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::id::ChainEpoch;
    use wire::map::Chain;

    /// A directory that is gone can be made anew only while somebody else has all of its data.
    #[test]
    fn the_last_copies_are_told() {
        use MemberState::{LastServing, Offline, Serving, Syncing};
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        for (id, members) in [
            (1, [(0, Serving), (1, Serving)]),
            (2, [(1, LastServing), (2, Offline)]),
            (3, [(2, Serving), (0, Syncing)]),
        ] {
            let members = members.map(|(brick, state)| Member { brick: BrickId(brick), state }).to_vec();
            map.chains.insert(ChainId(id), Chain { id: ChainId(id), epoch: ChainEpoch(1), members });
        }
        let only = |gone: &[u32]| -> Vec<(u32, Vec<u32>)> {
            let only = only_there(&map, &gone.iter().copied().map(BrickId).collect());
            only.into_iter().map(|(b, chains)| (b.0, chains.iter().map(|chain| chain.0).collect())).collect()
        };
        assert_eq!(only(&[]), []);
        assert_eq!(only(&[0]), []);
        assert_eq!(only(&[1]), [(1, vec![2])]);
        assert_eq!(only(&[0, 1]), [(0, vec![1]), (1, vec![1, 2])]);
        assert_eq!(only(&[2]), [(2, vec![3])]);
    }
}
