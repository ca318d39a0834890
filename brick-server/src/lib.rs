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
//! 5. A brick whose disk failed serves again, in a new life, when its disk does (see [`keeper`]).
//!
//! Not here: names, files, who is alive, which brick belongs to which chain. A brick knows
//! its directory and the map.

mod background;
mod brick;
mod chain;
mod config;
mod error;
mod keeper;
mod maps;
mod memory;
mod metrics;
mod namespace;
mod ops;
mod pool;
mod server;
#[cfg(test)]
mod sim;
pub mod store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use wire::brick::BrickProtocol;
use wire::id::{BrickId, ClusterId, StoreId};
use wire::map::ClusterMap;
use wire::meta::{BrickRegistration, BrickReport};
use wire::net::{Endpoint, Net, Service, Serving, typed::Typed};
use wire::status::Status;

use brick::Brick;
pub use config::Config;
pub use error::Error;
use keeper::Keeper;
use metrics::Metrics;
pub use metrics::Snapshot;
use server::{Seat, Server};
use store::dir;
pub use store::salvage::salvage;

/// How long calls under way may take to end when a server stops.
const DRAIN: Duration = Duration::from_secs(3);

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
    server: Arc<Server>,
    metrics: Vec<(BrickId, Arc<Metrics>)>,
    /// One for each keeper.
    stops: BTreeMap<BrickId, watch::Sender<bool>>,
    keepers: JoinSet<Result<(), Error>>,
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
    // All are opened before anybody is served: where one is refused, nothing has happened.
    let mut opened = Vec::new();
    for config in &configs {
        opened.push(keeper::open(config).await?);
    }
    let mut noted = Vec::new();
    for opened in opened {
        noted.push(opened.note_life().await?);
    }
    // Bricks must know where they answer before they exist, so the listener comes first.
    let server = Arc::new(Server::new(configs.iter().map(|config| config.brick)));
    let handler = Typed::<BrickProtocol, _>::handler(server.clone());
    let serving = net.serve(&listen, Service::Brick, handler).await?;
    let endpoint = serving.endpoint();
    let (mut metrics, mut keepers, mut stops) = (Vec::new(), JoinSet::new(), BTreeMap::new());
    for (config, noted) in configs.into_iter().zip(noted) {
        let keeper = Keeper::new(config, net.clone(), endpoint, server.clone());
        metrics.push((keeper.brick(), keeper.metrics()));
        let life = keeper.begin(noted)?;
        let (stop, stopped) = watch::channel(false);
        stops.insert(keeper.brick(), stop);
        keepers.spawn(keeper.run(life, stopped));
    }
    Ok(Running { serving, server, metrics, stops, keepers })
}

impl Running {
    /// Where they answer.
    pub fn endpoint(&self) -> Endpoint {
        self.serving.endpoint()
    }

    /// What each that is open says of itself to the namespace.
    pub fn registrations(&self) -> Vec<BrickRegistration> {
        self.server.open().iter().map(|brick| brick.registration()).collect()
    }

    /// How each is.
    pub fn reports(&self) -> Vec<(BrickId, BrickReport)> {
        let report = |(id, seat)| match seat {
            Seat::Open(brick) => Some((id, brick.report())),
            Seat::Failed(report) => Some((id, report)),
            Seat::Away => None,
        };
        self.server.seats().into_iter().filter_map(report).collect()
    }

    /// What each has counted.
    pub fn metrics(&self) -> Vec<(BrickId, Snapshot)> {
        self.metrics.iter().map(|(brick, metrics)| (*brick, metrics.snapshot())).collect()
    }

    /// The newest map any of them has.
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.server.open().iter().map(|brick| brick.map()).max_by_key(|map| map.epoch)
    }

    /// Those that the namespace does not let in, why, and for how long it has said so.
    pub fn refusals(&self) -> Vec<(BrickId, Status, Duration)> {
        let refused = |brick: &Arc<Brick>| brick.refusal().map(|(why, since)| (brick.id, why, since));
        self.server.open().iter().filter_map(refused).collect()
    }

    /// Serves a brick no more, for good, and gives its directory free; the others go on. What becomes of it is told by
    /// [`Running::stop`].
    pub async fn close(&self, brick: BrickId) {
        let Some(stop) = self.stops.get(&brick) else { return };
        // The receiver may be gone.
        let _ = stop.send(true);
        stop.closed().await;
        self.server.leave(brick);
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
        for brick in self.server.open() {
            if crash {
                brick.store.fail("crashed on purpose".to_owned());
            } else if brick.config.farewell {
                brick.say_goodbye().await;
            }
        }
        self.serving.stop(patience).await;
        for stop in self.stops.values() {
            // The receiver may be gone.
            let _ = stop.send(true);
        }
        let mut done = Ok(());
        while let Some(ended) = self.keepers.join_next().await {
            if let Err(error) = ended.unwrap_or_else(|e| Err(Error::Thread(std::io::Error::other(e)))) {
                done = Err(error);
            }
        }
        done
    }
}
