//! What all calls and loops of one member share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use wire::brick::TrimOrder;
use wire::id::{Ino, SessionId};
use wire::map::ClusterMap;
use wire::meta::{Timestamp, Wishes};
use wire::net::Net;
use wire::status::Status;

use crate::background::doubts::on_their_way;
use crate::chain::plan::{Facts, Space};
use crate::config::Config;
use crate::error::Error;
use crate::log::raft::RaftLog;
use crate::log::{Leadership, Log};
use crate::machine::command::{Answer, Caller, Command, Effects, Op};
use crate::machine::sessions;
use crate::machine::txn::load;
use crate::machine::wishes;
use crate::metrics::Metrics;
use crate::soft::apart::Apart;
use crate::soft::behind::Claims;
use crate::soft::bricks::Bricks;
use crate::soft::clock::SteadyClock;
use crate::soft::doubts::Doubts;
use crate::soft::lock_waits::LockWaits;
use crate::soft::opens::Opens;
use crate::soft::reached::Reached;
use crate::soft::refusals::Refusals;
use crate::soft::sessions::Sessions;
use crate::soft::watches::Watches;
use crate::store::db::Db;
use crate::store::maps::decode_map;
use crate::store::records::Counters;
use crate::store::{Read, keys};

/// What changes with every batch, whoever proposed it.
pub struct Watchers {
    /// The newest map.
    pub map: watch::Sender<Arc<ClusterMap>>,
    /// Grows whenever a wait for trims should look again.
    pub trimmed: watch::Sender<u64>,
    /// Grows whenever a wait for signs of life should look again.
    pub heard: watch::Sender<u64>,
    /// Files with chunks to cut.
    pub trims: mpsc::Sender<Ino>,
    /// There are orphans.
    pub orphans: Notify,
    /// A brick may have ended.
    pub suspected: Notify,
    /// A member that leaves a chain may know that now.
    pub informed: Notify,
    /// Sessions that live.
    pub sessions: Mutex<Sessions>,
    /// What they have open for reading.
    pub opens: Mutex<Opens>,
    /// Who waits for locks.
    pub lock_waits: Mutex<LockWaits>,
    /// Grows whenever locks were given up: whoever broke one looks again.
    pub unlocked: watch::Sender<u64>,
    /// Grows whenever sessions ended: whoever needs what one had looks again.
    pub ended: watch::Sender<u64>,
    /// Grows whenever locks were broken: whoever may hold one looks.
    pub recalled: watch::Sender<u64>,
    /// Sessions of which locks were broken, and since when they were told.
    pub recalls: Mutex<BTreeMap<SessionId, Instant>>,
    /// Who waits for changes of directories.
    pub watches: Mutex<Watches>,
    /// Which bricks can't reach each other.
    pub apart: Mutex<Apart>,
    /// Which bricks are said not to answer.
    pub doubts: Mutex<Doubts>,
    /// One is said not to.
    pub doubted: Notify,
    /// Who was not let in as a brick.
    pub refusals: Mutex<Refusals>,
    /// Which maps bricks have seen.
    pub claims: Mutex<Claims>,
    /// How far the disks of bricks have come.
    pub reached: Mutex<Reached>,
    /// When bricks were heard.
    pub bricks: Mutex<Bricks>,
    /// What join tokens expire by.
    pub clock: Mutex<SteadyClock>,
    /// Becomes true when the service stops: who waits answers at once.
    pub stopping: watch::Sender<bool>,
    /// Whether this member leads, and what is in memory only is made for that: nobody is answered
    /// before.
    pub reigns: watch::Sender<bool>,
}

impl Watchers {
    /// Returns when the service stops.
    pub async fn stopped(&self) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }
}

/// Locks; a panic elsewhere does not make these tables wrong, each change is one step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    /// Takes note of what a batch did. Called before its callers are answered.
    pub fn observe(&self, effects: Effects) {
        let now = Instant::now();
        for (session, class) in effects.begun {
            lock(&self.sessions).began(session, class, now);
        }
        let any_ended = !effects.ended.is_empty();
        for session in effects.ended {
            lock(&self.sessions).ended(session);
            lock(&self.opens).end(session);
        }
        if any_ended {
            self.ended.send_modify(|n| *n += 1);
        }
        if let Some(map) = effects.map {
            self.map.send_replace(map);
            self.trimmed.send_modify(|n| *n += 1);
            self.heard.send_modify(|n| *n += 1);
        }
        if effects.trimmed {
            self.trimmed.send_modify(|n| *n += 1);
        }
        for ino in effects.trims {
            // A full queue is no loss: the sweep reads the records.
            if self.trims.try_send(ino).is_err() {
                break;
            }
        }
        if !effects.unlocked.is_empty() {
            self.unlocked.send_modify(|n| *n += 1);
        }
        for ino in effects.unlocked {
            lock(&self.lock_waits).changed(ino);
        }
        if !effects.recalled.is_empty() {
            self.recalled.send_modify(|n| *n += 1);
        }
        for session in effects.recalled {
            lock(&self.recalls).entry(session).or_insert(now);
        }
        if !effects.changed.is_empty() {
            lock(&self.watches).changed(&effects.changed);
        }
        if effects.orphans {
            self.orphans.notify_one();
        }
        for (chain, brick) in effects.lost {
            tracing::error!(
                %chain, %brick,
                "the disk of a brick was replaced while it was the only one to hold everything of this chain: what it alone \
                 had is given up, and the chain goes on with what others have"
            );
        }
    }
}

/// One member of the metadata service.
pub struct Namespace {
    /// Knobs.
    pub config: Config,
    /// How bricks are reached.
    pub net: Net,
    /// The state, for reading.
    pub db: Arc<Db>,
    /// How the state is changed.
    pub log: Arc<dyn Log>,
    /// The same, where there are or may be other members.
    pub raft: Option<Arc<RaftLog>>,
    /// What changes with every batch.
    pub watchers: Arc<Watchers>,
    /// What was done.
    pub metrics: Arc<Metrics>,
    /// Number of the last order to trim. Begins with the time, so that it grows over restarts, too.
    pub trims: AtomicU64,
}

impl Namespace {
    /// The next order to trim.
    pub fn next_trim(&self) -> TrimOrder {
        let term = match *self.log.leadership().borrow() {
            Leadership::Leading { term } => term,
            // Deposed a moment ago: later than nothing.
            Leadership::Following { .. } => 0,
        };
        TrimOrder { term, number: self.trims.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// The newest map.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.watchers.map.borrow().clone()
    }

    /// What a caller hears while this member does not lead.
    ///
    /// # Errors
    /// "Not the leader".
    pub fn leads(&self) -> Result<(), Status> {
        if *self.watchers.reigns.borrow() {
            return Ok(());
        }
        match *self.log.leadership().borrow() {
            // It is about to be ready.
            Leadership::Leading { .. } => Err(Status::NotLeader(None)),
            Leadership::Following { leader } => Err(Status::NotLeader(leader)),
        }
    }

    /// Makes anew what is in memory only: this member leads from now on, and has heard nobody yet.
    /// Sessions and bricks have their full time to be heard in.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn take_over(&self) -> Result<(), Error> {
        let map = self.db.get(keys::MAP)?.ok_or_else(|| Error::Corrupt {
            key: keys::MAP.escape_ascii().to_string(),
            detail: "missing".to_owned(),
        })?;
        let map = Arc::new(decode_map(keys::MAP, &map)?);
        let mut sessions = Sessions::new(self.config.session_ttls());
        for (key, _) in self.db.all(b"S")? {
            let session = SessionId(keys::first(&key).unwrap_or_default());
            sessions.known(session, sessions::class(&*self.db, session)?, Instant::now());
        }
        let mut recalls = BTreeMap::new();
        for (key, _) in self.db.all(b"B")? {
            recalls.insert(SessionId(keys::first(&key).unwrap_or_default()), Instant::now());
        }
        *lock(&self.watchers.recalls) = recalls;
        let seen = load(&*self.db, keys::CLOCK)?.unwrap_or_default();
        *lock(&self.watchers.sessions) = sessions;
        *lock(&self.watchers.opens) = Opens::default();
        *lock(&self.watchers.apart) = Apart::default();
        *lock(&self.watchers.doubts) = Doubts::default();
        *lock(&self.watchers.refusals) = Refusals::default();
        *lock(&self.watchers.bricks) = Bricks::new(self.config.brick_dead_after, self.config.brick_grace);
        *lock(&self.watchers.clock) = SteadyClock::new(seen, std::time::Instant::now());
        self.watchers.map.send_if_modified(|known| {
            let newer = map.epoch > known.epoch;
            if newer {
                *known = map;
            }
            newer
        });
        // Last: while they stand, nothing is done by what was heard before.
        *lock(&self.watchers.claims) = Claims::default();
        Ok(())
    }

    /// Proposes a command of the service itself.
    ///
    /// # Errors
    /// What the command answers.
    pub async fn propose(&self, op: Op) -> Answer {
        if self.is_behind() {
            return Err(Status::NamespaceBehind);
        }
        self.propose_anyway(op).await
    }

    /// The same, though bricks have seen what the state does not know.
    ///
    /// # Errors
    /// What the command answers.
    pub async fn propose_anyway(&self, op: Op) -> Answer {
        self.log.propose(Command { at: Timestamp::now(), who: None, op }).await?.answer
    }

    /// Proposes a command for a call.
    ///
    /// # Errors
    /// What the command answers.
    pub async fn propose_for(&self, who: Caller, op: Op) -> Answer {
        if self.is_behind() {
            return Err(Status::NamespaceBehind);
        }
        self.log.propose(Command { at: Timestamp::now(), who: Some(who), op }).await?.answer
    }

    /// The session of a call, which must live.
    ///
    /// # Errors
    /// If there is none or it is over.
    pub fn session(&self, session: Option<SessionId>) -> Result<SessionId, Status> {
        let session = session.ok_or(Status::Malformed)?;
        if lock(&self.watchers.sessions).lives(session) { Ok(session) } else { Err(Status::SessionGone) }
    }

    /// Makes of a failure of the store what the caller hears, and logs it.
    pub fn failed(&self, error: &Error) -> Status {
        tracing::error!(%error, "reading the namespace's store failed");
        Status::from(error)
    }

    /// Numbers of things.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn counters(&self) -> Result<Counters, Error> {
        load(&*self.db, keys::COUNTERS)?.ok_or_else(|| Error::Corrupt {
            key: keys::COUNTERS.escape_ascii().to_string(),
            detail: "missing".to_owned(),
        })
    }

    /// What is wanted of the bricks.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn wishes(&self) -> Result<Wishes, Error> {
        wishes::read(&*self.db, &self.map())
    }

    /// What is known of the bricks now, for a plan.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn facts(&self, wishes: &Wishes) -> Result<Facts, Error> {
        let (map, now) = (self.map(), Instant::now());
        let owing = self.counters()?.owed.into_keys().collect();
        let bricks = lock(&self.watchers.bricks);
        let space = bricks.reports().into_iter().map(|(brick, report)| (brick, Space::of(&report)));
        let limit = Duration::from_millis(wishes.repair_after_ms);
        let missed = bricks.missed(&map).into_iter();
        let lost = missed.filter(|(_, since)| now.saturating_duration_since(*since) >= limit);
        let on_their_way = on_their_way(self, &map);
        let informed = bricks.informed(&map).difference(&on_their_way).copied().collect();
        let pairs = lock(&self.watchers.apart).pairs(now);
        let long = pairs.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= limit);
        Ok(Facts {
            space: space.collect(),
            sizes: bricks.sizes(&map),
            lost: lost.map(|(brick, _)| brick).collect(),
            owing,
            informed,
            estranged: long.map(|(pair, _)| *pair).collect(),
            apart: pairs.into_keys().collect(),
        })
    }

    /// Waits until no living brick owes cuts of `ino`. Those that are dead do it before they
    /// are in a chain again.
    ///
    /// # Errors
    /// "Busy" if that takes too long, or the service stops: the same call may be made again.
    pub async fn wait_for_trims(&self, ino: Ino) -> Result<(), Status> {
        let deadline = Instant::now() + self.config.trim_wait;
        let mut trimmed = self.watchers.trimmed.subscribe();
        loop {
            trimmed.borrow_and_update();
            if !self.is_being_cut(ino)? {
                return Ok(());
            }
            tokio::select! {
                changed = timeout_at(deadline, trimmed.changed()) => match changed {
                    Ok(Ok(())) => {}
                    _ => return Err(Status::Busy),
                },
                () = self.watchers.stopped() => return Err(Status::Busy),
            }
        }
    }
}
