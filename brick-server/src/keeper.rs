//! Keeps a brick served: closes it when its disk has failed, opens it anew when the disk works again.
//!
//! ```text
//!           its disk fails; the namespace is told          opened: a new life
//!  open ──────────────────────────────────────> closed ────────────────────────> open
//!                                                 └── tried after 2 s, 4 s, ... LONGEST_PAUSE
//! ```
//!
//! 1. What was not durable when the disk failed is lost, and nobody is told otherwise: the next life has another boot id, as
//!    after a restart of the process (`a_disk_that_comes_back_is_served_again`).
//! 2. While it is closed, nothing in its directory is open: the disk can be unmounted, repaired, and mounted again.
//! 3. It ends when it is stopped, whatever the disk does.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::id::{BootId, BrickId};
use wire::map::ClusterMap;
use wire::meta::{BrickReport, ClusterRequest};
use wire::net::{Endpoint, Net};

use crate::background;
use crate::background::commit::Committer;
use crate::brick::{Brick, Parts};
use crate::chain::lineages::Beginning;
use crate::config::{self, Config};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::namespace::Namespaces;
use crate::pool::Pool;
use crate::server::{Seat, Server};
use crate::store::ChunkStore;
use crate::store::dir::{self, FileStore, Held};
use crate::store::lives::Lives;

/// How long calls that were given up may hold a brick that is to be closed.
const LINGER: Duration = Duration::from_secs(20);
/// Pause before a closed brick is opened again; twice that after each time it failed.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A brick that did not fail for so long has a clean slate.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// Pauses between tries to open a directory, each longer than the one before, up to a minute.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Pauses(FIRST_PAUSE)
    }
}

impl Pauses {
    /// The one to make now.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// A brick's directory whose store is open. Nothing in it was changed.
pub struct Opened {
    held: Held,
    store: FileStore,
}

/// The same with a life noted in it that is about to begin.
pub struct Noted {
    opened: Opened,
    boot: BootId,
    lives: Option<Lives>,
    seen: Option<ClusterMap>,
}

impl Opened {
    /// Notes a life of it on the disk.
    ///
    /// # Errors
    /// [`Error::Dir`], or no random numbers to be had.
    pub async fn note_life(self) -> Result<Noted, Error> {
        let note = move || -> Result<_, Error> {
            let boot = BootId(u64::from_le_bytes(dir::random()?).max(1));
            let seen = self.held.seen_map()?;
            let lives = self.held.begin_life(boot)?;
            Ok(Noted { opened: self, boot, lives, seen })
        };
        tokio::task::spawn_blocking(note).await.map_err(|e| Error::Thread(std::io::Error::other(e)))?
    }
}

/// Takes a brick's directory and opens the store in it. Waits for the disk and reads the whole index.
///
/// # Errors
/// [`Error::Dir`]; nothing was changed.
pub async fn open(config: &Config) -> Result<Opened, Error> {
    let (dir, cluster, brick, limits) = (config.dir.clone(), config.cluster, config.brick, config.limits);
    let open = move || -> Result<_, Error> {
        let held = Held::take(&dir, cluster, Some(brick))?;
        let store = held.open(limits)?;
        Ok(Opened { held, store })
    };
    tokio::task::spawn_blocking(open).await.map_err(|e| Error::Thread(std::io::Error::other(e)))?
}

/// One brick of the process, through all its lives.
pub struct Keeper {
    config: Config,
    net: Net,
    endpoint: Endpoint,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
}

/// A brick from its opening to its closing.
pub struct Life {
    brick: Arc<Brick>,
    began: Instant,
    stop: watch::Sender<bool>,
    loops: JoinSet<()>,
}

impl Keeper {
    /// Of a brick that answers at `endpoint` by `server`.
    pub fn new(config: Config, net: Net, endpoint: Endpoint, server: Arc<Server>) -> Keeper {
        Keeper { config, net, endpoint, server, metrics: Arc::default() }
    }

    /// Whose it is.
    pub fn brick(&self) -> BrickId {
        self.config.brick
    }

    /// What the brick counts, in all its lives.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Begins a life: the brick answers when this returns.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn begin(&self, noted: Noted) -> Result<Life, Error> {
        let Noted { opened: Opened { held, store }, boot, lives, seen } = noted;
        let store: Arc<dyn ChunkStore> = Arc::new(store);
        let name = format!("brick{}", self.config.brick);
        let committer = Committer::start(
            &format!("{name}-commit"),
            store.clone(),
            self.metrics.clone(),
            self.config.commit_interval,
        );
        let brick = Arc::new(Brick::new(Parts {
            committer: committer.map_err(Error::Thread)?,
            pool: Pool::start(&name, self.config.threads, config::POOL_JOBS).map_err(Error::Thread)?,
            namespaces: Namespaces::new(self.config.namespaces.clone()),
            boot,
            beginning: Beginning {
                boot,
                is_first: lives.as_ref().is_some_and(|lives| lives.known() == [boot]),
                vouching: lives.as_ref().and_then(Lives::before),
                began_ms: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as u64),
            },
            lives,
            seen,
            net: self.net.clone(),
            store_id: held.identity.store,
            held: Some(held),
            store,
            metrics: self.metrics.clone(),
            endpoint: self.endpoint,
            config: self.config.clone(),
        }));
        let (stop, stopped) = watch::channel(false);
        let loops = background::loops(&brick, &stopped).into_iter().collect();
        self.server.seat(brick.id, Seat::Open(brick.clone()));
        tracing::info!(brick = %brick.id, boot = %brick.boot, endpoint = %self.endpoint, "serving");
        Ok(Life { brick, began: Instant::now(), stop, loops })
    }

    /// Goes from life to life until `stop`.
    ///
    /// # Errors
    /// What became of the last life: [`Error::Commit`], [`Error::Lingering`].
    pub async fn run(self, mut life: Life, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let mut pauses = Pauses::default();
        loop {
            let stopped = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => true,
                () = life.failure() => false,
            };
            if stopped {
                self.server.seat(self.config.brick, Seat::Away);
                return life.end().await;
            }
            if life.began.elapsed() >= FORGIVEN_AFTER {
                pauses = Pauses::default();
            }
            let closed = self.close(life).await;
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                next = self.reopen(closed, &mut pauses) => life = next,
            }
        }
    }

    /// Closes a brick whose disk failed; which life that was, and the last it said of itself.
    async fn close(&self, life: Life) -> (BootId, BrickReport) {
        let (boot, report) = (life.brick.boot, life.brick.report());
        self.server.seat(self.config.brick, Seat::Failed(report.clone()));
        self.tell(boot, &report).await;
        if let Err(error) = life.end().await {
            tracing::warn!(brick = %self.config.brick, %error, "a brick whose disk failed is not closed yet");
        }
        (boot, report)
    }

    /// Opens a closed brick as soon as that can be done.
    async fn reopen(&self, (boot, mut report): (BootId, BrickReport), pauses: &mut Pauses) -> Life {
        let why = report.failed.clone().unwrap_or_default();
        let mut told = String::new();
        loop {
            tokio::time::sleep(pauses.next_pause()).await;
            let begin = async { self.begin(open(&self.config).await?.note_life().await?) };
            match begin.await {
                Ok(life) => return life,
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::warn!(brick = %self.config.brick, error, "could not be opened again yet");
                    }
                    report.failed = Some(format!("{why}; not opened again: {error}"));
                    self.server.seat(self.config.brick, Seat::Failed(report.clone()));
                    self.tell(boot, &report).await;
                    told = error;
                }
            }
        }
    }

    /// Tells the namespace how the brick is that can't say it itself.
    async fn tell(&self, boot: BootId, report: &BrickReport) {
        let namespaces = Namespaces::new(self.config.namespaces.clone());
        let (brick, map, report) = (self.config.brick, wire::id::MapEpoch(0), report.clone());
        if let Err(error) =
            namespaces.ask(&self.net, ClusterRequest::Heartbeat { brick, boot, map, report }).await
        {
            tracing::info!(brick = %self.config.brick, %error, "the namespace could not be told: the brick will be missed");
        }
    }
}

impl Life {
    /// Returns when the disk has failed.
    async fn failure(&self) {
        while self.brick.store.failure().is_none() {
            tokio::time::sleep(self.brick.config.heartbeat).await;
        }
    }

    /// Ends all work, makes everything durable where the disk works, and closes the files.
    async fn end(mut self) -> Result<(), Error> {
        // The receivers may all be gone.
        let _ = self.stop.send(true);
        while self.loops.join_next().await.is_some() {}
        let (id, brick) = (self.brick.id, self.brick);
        // Calls that were given up still run to their end.
        let begun = Instant::now();
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
            Some(why) => tracing::info!(brick = %id, why, "closed; its disk had failed before"),
            None => {
                tracing::info!(brick = %id, "stopped");
                closed.map_err(Error::Commit)?;
            }
        }
        if gone { Ok(()) } else { Err(Error::Lingering(id)) }
    }
}
