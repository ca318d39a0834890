//! The library: one [`Client`] is one session with the namespace and one set of buffers.
//!
//! | file | what it knows |
//! |---|---|
//! | `session`, `bricks`, `retry` | calls, and what to do when they fail |
//! | `inode`, `gather`, `held` | what is kept of an inode: dirty, in flight, unstable |
//! | `locks`, `broken` | locks, and what losing one means |
//! | `open`, `table` | handles and inodes in use, what the namespace is told of them |
//! | `write`, `commit`, `again` | writing behind, durability, what was lost is sent again |
//! | `read`, `readahead` | reading |
//! | `names`, `space`, `paths` | everything else programs ask for |
//! | `survey` | which chunks of a file exist |
//! | `changes` | what changes in a directory |
//! | `ticker` | what happens with time |

mod again;
mod bricks;
mod broken;
mod changes;
mod commit;
mod detours;
mod gather;
mod held;
mod inode;
mod leader;
mod locks;
mod names;
mod open;
mod paths;
mod privileges;
mod read;
mod readahead;
mod retry;
mod session;
mod space;
mod survey;
mod table;
mod ticker;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use wire::map::ClusterMap;
use wire::net::{Members, Net};

pub use broken::LockList;
pub use locks::Lock;
pub use names::DirPage;
pub use open::{Created, File, OpenOptions, SyncMode};
pub use space::FallocateMode;

use crate::config::{ClientConfig, Sharing};
use crate::error::Error;
use crate::locked;
use crate::metrics::{Metrics, Snapshot};
use crate::stuck::{Operations, Stuck};

/// Operations younger than this are not stuck.
const STUCK: Duration = Duration::from_secs(1);
/// How long background tasks may take to notice that they are to stop.
const STOP: Duration = Duration::from_secs(2);

/// What is there before there is a session.
pub(crate) struct Outside {
    pub(crate) config: ClientConfig,
    pub(crate) net: Net,
    pub(crate) metrics: Metrics,
    /// Of the namespace.
    pub(crate) members: Members,
    pub(crate) last_asked: leader::LastAsked,
}

/// Everything the clones of a client share.
pub(crate) struct Shared {
    pub(crate) outside: Outside,
    pub(crate) runtime: Handle,
    pub(crate) session: session::Session,
    pub(crate) loads: bricks::Loads,
    pub(crate) table: table::Table,
    pub(crate) locks: locks::Locks,
    /// Numbers of what locks are taken through.
    pub(crate) lock_handles: AtomicU64,
    pub(crate) operations: Operations,
    /// Bytes that may still be written before writers wait.
    pub(crate) window: Semaphore,
    pub(crate) flight_slots: Semaphore,
    pub(crate) readahead_window: Arc<Semaphore>,
    /// Who may wait for changes at the namespace.
    pub(crate) watches: Semaphore,
    /// Numbers of acknowledgements.
    pub(crate) stamps: AtomicU64,
    pub(crate) commit_wanted: Notify,
    pub(crate) committed: Notify,
    pub(crate) stopping: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A client of the filesystem. Cheap to clone; clones are the same client. Ends with
/// [`Client::shutdown`]; one that is only dropped goes on renewing its session.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("session", &self.shared.session.id()).finish_non_exhaustive()
    }
}

impl Client {
    /// Who else changes the files.
    pub fn sharing(&self) -> Sharing {
        self.shared.outside.config.sharing
    }

    /// Opens a session. Needs a tokio runtime, which runs the background work from then on.
    ///
    /// # Errors
    /// [`Error::Deadline`] if nobody answers, [`Error::Net`] if somebody refuses.
    pub async fn connect(config: ClientConfig, net: Net) -> Result<Client, Error> {
        let deadline = Instant::now() + config.deadline;
        let members = Members::new(config.namespaces.clone());
        let last_asked = leader::LastAsked::default();
        let outside = Outside { config, net, metrics: Metrics::default(), members, last_asked };
        let grant = session::open_session(&outside, deadline).await?;
        let config = &outside.config;
        let shared = Arc::new(Shared {
            runtime: Handle::current(),
            session: session::Session::new(grant),
            loads: bricks::Loads::default(),
            table: table::Table::default(),
            locks: locks::Locks::default(),
            lock_handles: AtomicU64::new(0),
            operations: Operations::default(),
            window: Semaphore::new(config.window_bytes.max(2 << 20)),
            flight_slots: Semaphore::new(config.flights.max(1)),
            readahead_window: Arc::new(Semaphore::new(config.readahead_bytes)),
            watches: Semaphore::new(changes::WAITS),
            stamps: AtomicU64::new(0),
            commit_wanted: Notify::new(),
            committed: Notify::new(),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
            outside,
        });
        let tasks = vec![
            tokio::spawn(shared.clone().keep_session()),
            tokio::spawn(shared.clone().keep_map()),
            tokio::spawn(shared.clone().keep_ticking()),
            tokio::spawn(shared.clone().keep_committing()),
            tokio::spawn(shared.clone().watch_boots()),
            tokio::spawn(shared.clone().keep_probing()),
        ];
        locked(&shared.tasks).extend(tasks);
        Ok(Client { shared })
    }

    /// Makes everything written durable, ends the session and all background work. Gives up when nothing gets on for
    /// twice the deadline of the configuration. A second call does nothing.
    ///
    /// # Errors
    /// The first failure; the client is ended all the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.shutdown_within(self.shared.outside.config.deadline * 2).await
    }

    /// As [`Client::shutdown`], for those who can't wait that long: what is not written when nothing got on for
    /// `patience` is given up, once all files that can be brought to their end have been (in a quarter of that time
    /// more). A slow disk is waited for as long as it writes.
    ///
    /// # Errors
    /// The first failure; [`Error::Unwritten`] says how much was given up, and why.
    pub async fn shutdown_within(&self, patience: Duration) -> Result<(), Error> {
        let shared = &self.shared;
        let lost = &shared.outside.metrics.lost_bytes;
        let lost_before = lost.load(Ordering::Relaxed);
        let mut synced = self.bounded_sync(patience).await;
        if matches!(synced, Err(Error::Unwritten { .. }))
            && let Ok(Err(error)) = timeout(patience / 4, shared.sync_acknowledged()).await
        {
            tracing::warn!(%error, "a file that the bricks have could not be brought to its end");
        }
        if shared.stopping.send_replace(true) {
            return Ok(());
        }
        if synced.is_ok() {
            // What was written while the first pass ran.
            synced = self.bounded_sync(patience).await;
        }
        let lost_now = lost.load(Ordering::Relaxed) - lost_before;
        if synced.is_ok() && lost_now > 0 {
            synced = Err(Error::Unwritten {
                bytes: lost_now,
                files: 1,
                why: "it was given up while the rest was written".to_owned(),
            });
        }
        let closed = timeout(patience, shared.close_session()).await.unwrap_or(Err(Error::Stopping));
        let tasks = std::mem::take(&mut *locked(&shared.tasks));
        for mut task in tasks {
            if timeout(STOP, &mut task).await.is_err() {
                task.abort();
            }
        }
        synced.and(closed)
    }

    async fn bounded_sync(&self, patience: Duration) -> Result<(), Error> {
        let mut sync = std::pin::pin!(self.sync_all());
        let mut left = self.shared.left_to_write();
        loop {
            if let Ok(result) = timeout(patience, &mut sync).await {
                return result;
            }
            let now = self.shared.left_to_write();
            if now >= left {
                break;
            }
            left = now;
        }
        let (bytes, files) = self.shared.unwritten();
        let waits = self.stuck().into_iter().map(|stuck| stuck.waiting_for);
        let why = waits.into_iter().find(|what| !what.is_empty());
        let why = why.unwrap_or_else(|| "the bricks do not answer".to_owned());
        Err(Error::Unwritten { bytes, files, why })
    }

    /// What it has done so far.
    pub fn metrics(&self) -> Snapshot {
        self.shared.outside.metrics.snapshot()
    }

    /// Operations that have run for more than a second, and what they wait for.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.shared.operations.stuck(STUCK)
    }

    /// The cluster map as known now.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.shared.map()
    }

    /// The runtime its work runs on.
    pub fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Sleeps; false as soon as the client stops.
    pub(crate) async fn sleep_unless_stopping(&self, time: Duration) -> bool {
        let mut stop = self.stopping.subscribe();
        tokio::select! {
            () = sleep(time) => !self.is_stopping(),
            _ = stop.wait_for(|stop| *stop) => false,
        }
    }
}
