//! The data service: bricks, which hold chunks, and the chains they form.
//!
//! ```text
//! server ──> ops (one verb a file) ──> store   chunks on one disk, crash-safe, checksummed
//!     background (one loop a file)  ──> chain   who may do what, by the map alone
//! ```
//!
//! 1. What a commit acknowledged is on stable storage (see [`store`]).
//! 2. Serving members of a chain never hold different bytes for one version, and a change is
//!    acknowledged when all of them have it (`writers_race_and_copies_agree`).
//! 3. No read returns bytes that fail their checksum (`a_flipped_byte_is_repaired`), or a
//!    version older than one acknowledged before (`a_restarted_member_catches_up_before_it_reads`).
//! 4. A session on the block list changes nothing (`a_blocked_session_changes_nothing`).
//!
//! Not here: names, files, who is alive, which brick belongs to which chain. A brick knows
//! its directory and the map.

mod background;
mod brick;
mod chain;
mod config;
mod error;
mod metrics;
mod namespace;
mod ops;
mod pool;
mod server;
#[cfg(test)]
mod sim;
pub mod store;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use wire::brick::BrickProtocol;
use wire::id::{BootId, BrickId, ClusterId, StoreId};
use wire::map::ClusterMap;
use wire::meta::{BrickRegistration, BrickReport};
use wire::net::{Endpoint, Net, Service, Serving, typed::Typed};

use background::commit::Committer;
use brick::{Brick, Parts};
pub use config::Config;
pub use error::Error;
pub use metrics::Snapshot;
use namespace::Namespaces;
use pool::Pool;
use server::Server;
use store::ChunkStore;
use store::dir::{self, Held};
pub use store::salvage::salvage;

/// How long calls under way may take to end when a server stops.
const DRAIN: Duration = Duration::from_secs(3);
/// How long calls that were given up may hold a brick after that.
const LINGER: Duration = Duration::from_secs(20);

/// Makes an empty brick directory.
///
/// # Errors
/// [`Error::Dir`]: there is something in it, or it can't be written.
pub fn format(dir: &Path, cluster: ClusterId, brick: BrickId) -> Result<StoreId, Error> {
    Ok(dir::format(dir, cluster, brick)?)
}

/// The same with a store id that was drawn before the brick had a number.
///
/// # Errors
/// See [`format()`].
pub fn format_as(dir: &Path, cluster: ClusterId, brick: BrickId, store: StoreId) -> Result<(), Error> {
    Ok(dir::format_as(dir, cluster, brick, store)?)
}

/// Whose directory it is, read from its identity alone.
///
/// # Errors
/// [`Error::Dir`]: it is no brick, damaged, or of a newer format.
pub fn identify(dir: &Path) -> Result<dir::Identity, Error> {
    Ok(dir::identify(dir)?)
}

/// Bricks that are served. To be stopped: dropping it leaves its tasks running.
pub struct Running {
    serving: Serving,
    door: Arc<Door>,
    bricks: Vec<Arc<Brick>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Opens a brick and serves it.
///
/// # Errors
/// See [`Error`]; the directory is untouched if it is refused.
pub async fn start(config: Config, net: Net) -> Result<Running, Error> {
    start_all(vec![config], net).await
}

/// Opens several bricks and serves them at one endpoint.
///
/// # Errors
/// See [`Error`]; no brick is served then.
pub async fn start_all(configs: Vec<Config>, net: Net) -> Result<Running, Error> {
    let (listen, cluster) = configs.first().map(|c| (c.listen, c.cluster)).ok_or(Error::Config)?;
    if configs.iter().any(|c| c.listen != listen || c.cluster != cluster) {
        return Err(Error::Config);
    }
    let mut opened = Vec::new();
    for config in configs {
        // Waits for the disk and reads the whole index; there is nothing else to do here yet.
        let (dir, cluster, brick, limits) = (config.dir.clone(), config.cluster, config.brick, config.limits);
        let open = move || -> Result<_, Error> {
            let held = Held::take(&dir, cluster, Some(brick))?;
            let store = held.open(limits)?;
            Ok((held, store))
        };
        let (held, store) = tokio::task::spawn_blocking(open)
            .await
            .map_err(|e| Error::Thread(std::io::Error::other(e)))??;
        opened.push((config, held, Arc::new(store)));
    }
    // Bricks must know where they answer before they exist, so the listener comes first and
    // says that it knows no brick until they do.
    let door = Arc::new(Door::default());
    let serving =
        net.serve(&listen, Service::Brick, Typed::<BrickProtocol, _>::handler(door.clone())).await?;
    let endpoint = serving.endpoint();
    let (stop, stopped) = watch::channel(false);
    let mut bricks = Vec::new();
    let mut tasks = JoinSet::new();
    for (config, held, store) in opened {
        let store: Arc<dyn ChunkStore> = store;
        let metrics = Arc::new(metrics::Metrics::default());
        let name = format!("brick{}", config.brick);
        let brick = Arc::new(Brick::new(Parts {
            committer: Committer::start(
                &format!("{name}-commit"),
                store.clone(),
                metrics.clone(),
                config.commit_interval,
            )
            .map_err(Error::Thread)?,
            pool: Pool::start(&name, config.threads, config::POOL_JOBS).map_err(Error::Thread)?,
            namespaces: Namespaces::new(config.namespaces.clone()),
            boot: BootId(u64::from_le_bytes(dir::random()?).max(1)),
            net: net.clone(),
            store_id: held.identity.store,
            held: Some(held),
            store,
            metrics,
            endpoint,
            config,
        }));
        for work in background::loops(&brick, &stopped) {
            tasks.spawn(work);
        }
        tracing::info!(brick = %brick.id, boot = %brick.boot, %endpoint, "serving");
        bricks.push(brick);
    }
    door.open(Server::new(bricks.iter().cloned()));
    Ok(Running { serving, door, bricks, stop, tasks })
}

impl Running {
    /// Where they answer.
    pub fn endpoint(&self) -> Endpoint {
        self.serving.endpoint()
    }

    /// What each says of itself to the namespace.
    pub fn registrations(&self) -> Vec<BrickRegistration> {
        self.bricks.iter().map(|brick| brick.registration()).collect()
    }

    /// How each is.
    pub fn reports(&self) -> Vec<(BrickId, BrickReport)> {
        self.bricks.iter().map(|brick| (brick.id, brick.report())).collect()
    }

    /// What each has counted.
    pub fn metrics(&self) -> Vec<(BrickId, Snapshot)> {
        self.bricks.iter().map(|brick| (brick.id, brick.metrics.snapshot())).collect()
    }

    /// The newest map any of them has.
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.bricks.iter().map(|brick| brick.map()).max_by_key(|map| map.epoch)
    }

    /// Ends calls under way, makes everything durable and gives the directories free. A brick whose
    /// disk had failed before is only given free: it said so then, and has acknowledged nothing since.
    ///
    /// # Errors
    /// [`Error::Commit`] if something acknowledged could not be made durable,
    /// [`Error::Lingering`] if something still holds a brick.
    pub async fn stop(self) -> Result<(), Error> {
        self.end(DRAIN, false).await
    }

    /// Ends without a commit or a farewell, as a crash would: what was not committed is lost.
    /// For tests.
    ///
    /// # Errors
    /// [`Error::Lingering`] if something still holds a brick.
    pub async fn crash(self) -> Result<(), Error> {
        self.end(Duration::ZERO, true).await
    }

    async fn end(mut self, patience: Duration, crash: bool) -> Result<(), Error> {
        if crash {
            for brick in &self.bricks {
                brick.store.fail("crashed on purpose".to_owned());
            }
        }
        if !crash {
            for brick in self.bricks.iter().filter(|brick| brick.config.farewell) {
                brick.say_goodbye().await;
            }
        }
        self.serving.stop(patience).await;
        // Connections that others still hold keep the door, and must not keep the bricks.
        self.door.close();
        // The receivers may all be gone.
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        let mut done = Ok(());
        for brick in self.bricks.drain(..) {
            if let Err(error) = close(brick).await {
                done = Err(error);
            }
        }
        done
    }
}

/// Commits, ends the threads and closes the files.
async fn close(brick: Arc<Brick>) -> Result<(), Error> {
    let id = brick.id;
    // Calls that were given up still run to their end.
    let begun = tokio::time::Instant::now();
    while Arc::strong_count(&brick) > 1 && begun.elapsed() < LINGER {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let closing = tokio::task::spawn_blocking(move || {
        brick.pool.close();
        let failed = brick.store.failure();
        let closed = brick.committer.close();
        (failed, closed, Arc::into_inner(brick).is_some())
    });
    let (failed, closed, gone) = closing.await.map_err(|e| Error::Thread(std::io::Error::other(e)))?;
    match failed {
        Some(why) => tracing::info!(brick = %id, why, "stopped; its disk had failed before"),
        None => {
            tracing::info!(brick = %id, "stopped");
            closed.map_err(Error::Commit)?;
        }
    }
    if gone { Ok(()) } else { Err(Error::Lingering(id)) }
}

/// Answers "busy" while no server is behind it.
#[derive(Default)]
struct Door {
    server: RwLock<Option<Arc<Server>>>,
}

impl Door {
    fn open(&self, server: Server) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(server));
    }

    fn close(&self) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl wire::net::TypedHandler<BrickProtocol> for Door {
    fn handle(
        self: Arc<Self>,
        peer: Arc<wire::net::Peer>,
        request: wire::brick::BrickCall,
        payload: bytes::Bytes,
    ) -> wire::net::BoxFuture<'static, (Result<wire::brick::BrickReply, wire::status::Status>, bytes::Bytes)>
    {
        let server = self.server.read().unwrap_or_else(PoisonError::into_inner).clone();
        match server {
            Some(server) => server.handle(peer, request, payload),
            None => Box::pin(async { (Err(wire::status::Status::Busy), bytes::Bytes::new()) }),
        }
    }
}
