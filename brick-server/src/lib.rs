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
mod opening;
mod ops;
mod pool;
mod server;
#[cfg(test)]
mod sim;
pub mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use wire::brick::BrickProtocol;
use wire::id::{BrickId, ClusterId, StoreId};
use wire::map::ClusterMap;
use wire::meta::{BrickRegistration, BrickReport};
use wire::net::{Endpoint, Net, Service, Serving, typed::Typed};
use wire::status::Status;

use brick::{Brick, lock};
pub use config::Config;
pub use error::Error;
use keeper::Keeper;
pub use keeper::Pauses;
use metrics::Metrics;
pub use metrics::Snapshot;
use opening::{Opening, Openings};
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
    net: Net,
    listen: Endpoint,
    cluster: ClusterId,
    kept: Mutex<Kept>,
}

/// The bricks of a server that have a keeper.
#[derive(Default)]
struct Kept {
    metrics: Vec<(BrickId, Arc<Metrics>)>,
    /// One for each keeper.
    stops: BTreeMap<BrickId, watch::Sender<bool>>,
    keepers: JoinSet<Result<(), Error>>,
    /// Those that were not open in time when the server started.
    openings: BTreeMap<BrickId, Opening>,
}

/// Opens a brick and serves it.
///
/// # Errors
/// See [`Error`]; the directory is untouched if it is refused.
pub async fn start(config: Config, net: Net) -> Result<Running, Error> {
    let (running, _) = start_all(vec![config], net).await?;
    Ok(running)
}

/// Opens several bricks and serves them at one endpoint: those that can be, with what is wrong with each of the others.
///
/// # Errors
/// See [`Error`]; no brick can be served then.
pub async fn start_all(configs: Vec<Config>, net: Net) -> Result<(Running, Vec<(Config, Error)>), Error> {
    let (listen, cluster) = configs.first().map(|c| (c.listen, c.cluster)).ok_or(Error::Config)?;
    if configs.iter().any(|c| c.listen != listen || c.cluster != cluster) {
        return Err(Error::Config);
    }
    let server = Arc::new(Server::new(configs.iter().map(|config| config.brick)));
    // All are opened before anybody is served: where all are refused, nothing has happened.
    let mut taken = BTreeSet::new();
    let (configs, twice): (Vec<Config>, Vec<Config>) =
        configs.into_iter().partition(|config| taken.insert(config.brick));
    let Openings { opened, mut refused, slow } = opening::open_all(configs).await;
    refused.extend(twice.into_iter().map(|config| {
        let twice = Error::Twice { brick: config.brick, dir: config.dir.clone() };
        (config, twice)
    }));
    let mut noted = Vec::new();
    for (config, open) in opened {
        match open.note_life().await {
            Ok(life) => noted.push((config, life)),
            Err(error) => refused.push((config, error)),
        }
    }
    if noted.is_empty() {
        let mut refused = refused.into_iter();
        let first = refused.next().map_or(Error::Config, |(_, error)| error);
        for (config, error) in refused {
            tracing::error!(brick = %config.brick, %error, "a brick can't be served");
        }
        return Err(first);
    }
    // Bricks must know where they answer before they exist, so the listener comes first.
    let handler = Typed::<BrickProtocol, _>::handler(server.clone());
    let serving = net.serve(&listen, Service::Brick, handler).await?;
    let running = Running { serving, server, net, listen, cluster, kept: Mutex::default() };
    for (config, life) in noted {
        running.keep(config, life)?;
    }
    for opening in slow {
        let config = opening.config.clone();
        let slow = Error::Slow { dir: config.dir.clone() };
        lock(&running.kept).openings.insert(config.brick, opening);
        refused.push((config, slow));
    }
    for (config, error) in &refused {
        if !matches!(error, Error::Twice { .. }) {
            let report = BrickReport { failed: Some(error.to_string()), ..BrickReport::default() };
            running.server.seat(config.brick, Seat::Failed(report));
        }
    }
    Ok((running, refused))
}

impl Running {
    /// Opens one more brick and serves it beside the others.
    ///
    /// # Errors
    /// See [`Error`]; the others are served as before.
    pub async fn add(&self, config: Config) -> Result<(), Error> {
        if config.listen != self.listen || config.cluster != self.cluster {
            return Err(Error::Config);
        }
        if lock(&self.kept).stops.contains_key(&config.brick) {
            return Err(Error::Twice { brick: config.brick, dir: config.dir });
        }
        let begun =
            lock(&self.kept).openings.remove(&config.brick).filter(|begun| begun.config.dir == config.dir);
        let opened = begun.unwrap_or_else(|| Opening::begin(config.clone())).end().await?;
        let life = opened.note_life().await?;
        self.keep(config, life)
    }

    /// Gives a brick into the care of a keeper.
    fn keep(&self, config: Config, life: keeper::Noted) -> Result<(), Error> {
        let keeper = Keeper::new(config, self.net.clone(), self.serving.endpoint(), self.server.clone());
        let life = keeper.begin(life)?;
        let (stop, stopped) = watch::channel(false);
        let mut kept = lock(&self.kept);
        kept.metrics.push((keeper.brick(), keeper.metrics()));
        kept.stops.insert(keeper.brick(), stop);
        kept.keepers.spawn(keeper.run(life, stopped));
        Ok(())
    }

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
        lock(&self.kept).metrics.iter().map(|(brick, metrics)| (*brick, metrics.snapshot())).collect()
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
        let stop = lock(&self.kept).stops.remove(&brick);
        if let Some(stop) = stop {
            // The receiver may be gone.
            let _ = stop.send(true);
            stop.closed().await;
        }
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

    async fn end(self, patience: Duration, crash: bool) -> Result<(), Error> {
        for brick in self.server.open() {
            brick.reach.rest();
            if crash {
                brick.store.fail("crashed on purpose".to_owned());
            } else if brick.config.farewell {
                brick.say_goodbye().await;
            }
        }
        self.serving.stop(patience).await;
        let mut kept = self.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        for stop in kept.stops.values() {
            // The receiver may be gone.
            let _ = stop.send(true);
        }
        let mut done = Ok(());
        while let Some(ended) = kept.keepers.join_next().await {
            if let Err(error) = ended.unwrap_or_else(|e| Err(Error::Thread(std::io::Error::other(e)))) {
                done = Err(error);
            }
        }
        done
    }
}
