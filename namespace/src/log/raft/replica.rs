//! The state machine beneath the replicated log.
//!
//! 1. The place of the last entry applied and the members as of then are written with its effects, in
//!    one batch: a state never says that it has more or less than it has (`a_killed_member_takes_up_its_state`).
//! 2. Batches are in memory until a snapshot is made, which flushes them first; the log is cut only up
//!    to a snapshot. So what a crash takes away is applied again from the log.
//! 3. Only the member that founded the cluster applies the log from its beginning: the state that the
//!    log begins with is nowhere else. All others begin with a snapshot (`a_member_without_a_beginning_applies_nothing`).

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::{EntryPayload, Snapshot as RaftSnapshot};
use wire::id::ClusterId;
use wire::meta::Timestamp;

use super::snapshot::{Dir, Place};
use super::store::Store;
use super::types::{LogId, Membership, Reply, SnapshotMeta, Types};
use crate::config::BATCH_COMMANDS;
use crate::error::Error;
use crate::machine::command::{Command, Effects, LogIndex};
use crate::machine::txn::load;
use crate::machine::{Birth, Machine};
use crate::metrics::Metrics;
use crate::store::db::{Db, peek};
use crate::store::keys;
use crate::store::maps::decode_map;
use crate::store::records::encode;

/// A snapshot as it is handed about.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<Types, Arc<Dir>>;
type Newest = Arc<Mutex<Option<(SnapshotMeta, Arc<Dir>)>>>;

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// What a member applies entries to.
pub struct Replica {
    machine: Machine<Db>,
    cluster: ClusterId,
    founder: bool,
    last: Option<LogId>,
    membership: Membership,
    snapshots: Arc<Place>,
    newest: Newest,
    metrics: Arc<Metrics>,
    observe: Box<dyn FnMut(Effects) + Send + Sync>,
}

/// What a replica begins with.
pub struct Beginning {
    /// The state.
    pub machine: Machine<Db>,
    /// Whose.
    pub cluster: ClusterId,
    /// Whether the state is where the log begins.
    pub founder: bool,
    /// Where snapshots are made.
    pub snapshots: Arc<Place>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Is told the effects of each batch before its callers hear.
    pub observe: Box<dyn FnMut(Effects) + Send + Sync>,
}

impl Replica {
    /// Takes up the state.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(from: Beginning) -> Result<Self, Error> {
        let noted: Option<(Option<LogId>, Membership)> = load(&**from.machine.store(), keys::RAFT)?;
        let (last, membership) = noted.unwrap_or_default();
        Ok(Self {
            machine: from.machine,
            cluster: from.cluster,
            founder: from.founder,
            last,
            membership,
            snapshots: from.snapshots,
            newest: Newest::default(),
            metrics: from.metrics,
            observe: from.observe,
        })
    }

    fn apply_batch(&mut self, entries: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let begun = Instant::now();
        if self.last.is_none() && !self.founder && !entries.is_empty() {
            return Err(other("this member has no state for the log to go on from; it needs a snapshot"));
        }
        let mut commands: Vec<(LogIndex, Command)> = Vec::with_capacity(entries.len());
        let mut callers = Vec::with_capacity(entries.len());
        for (entry, caller) in entries {
            let index = LogIndex(entry.log_id.index);
            self.last = Some(entry.log_id);
            let mut is_command = false;
            match entry.payload {
                EntryPayload::Normal(command) => {
                    commands.push((index, command));
                    is_command = true;
                }
                EntryPayload::Membership(members) => {
                    self.membership = Membership::new(Some(entry.log_id), members);
                }
                EntryPayload::Blank => {}
            }
            callers.push((index, is_command, caller));
        }
        let note = encode(&(self.last, &self.membership)).map_err(other)?;
        let applied = self.machine.apply_noting(&commands, &[(keys::RAFT.to_vec(), note)]).map_err(other)?;
        self.metrics.batch(commands.len(), begun.elapsed());
        (self.observe)(applied.effects);
        let mut answers = applied.answers.into_iter();
        for (index, is_command, caller) in callers {
            let answer = if is_command { answers.next() } else { None };
            if let Some(caller) = caller {
                caller.send(Reply { index, answer });
            }
        }
        Ok(())
    }

    /// Applies everything a log has beyond the state. Gives how many entries that was.
    ///
    /// # Errors
    /// If the log begins later than the state ends, or the disk fails.
    pub async fn catch_up(&mut self, mut log: Store) -> io::Result<u64> {
        let purged = log.get_log_state().await?.last_purged_log_id;
        if purged.map(|id| id.index) > self.last.map(|id| id.index) {
            return Err(other("the log begins later than the state ends: one of them is of another time"));
        }
        let mut applied = 0;
        loop {
            let next = self.last.map_or(0, |last| last.index + 1);
            let entries = log.limited_get_log_entries(next, u64::MAX).await?;
            if entries.is_empty() {
                return Ok(applied);
            }
            applied += entries.len() as u64;
            self.apply_batch(entries.into_iter().map(|entry| (entry, None)).collect())?;
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }

    /// Makes a snapshot of the state as it is.
    fn checkpoint(&self) -> io::Result<(SnapshotMeta, Arc<Dir>)> {
        let dir = self.snapshots.dir();
        self.machine.store().checkpoint(dir.path()).map_err(other)?;
        Ok((self.meta(), dir))
    }

    /// Looks whether a directory holds this cluster's state as `meta` says.
    fn check(&self, dir: &Path, meta: &SnapshotMeta) -> Result<(), Error> {
        let wrong = |detail: String| Error::NotNamespace { dir: dir.to_owned(), detail };
        let map = peek(dir, keys::MAP)?.ok_or_else(|| wrong("a snapshot without a map".to_owned()))?;
        let theirs = decode_map(keys::MAP, &map)?.cluster;
        if theirs != self.cluster {
            return Err(Error::OtherCluster { dir: dir.to_owned(), found: theirs, expected: self.cluster });
        }
        let noted = peek(dir, keys::RAFT)?.ok_or_else(|| wrong("a snapshot without its place".to_owned()))?;
        let (last, _): (Option<LogId>, Membership) = crate::store::records::decode(keys::RAFT, &noted)?;
        if last != meta.last_log_id {
            return Err(wrong("a snapshot of another place in the log than it is sent as".to_owned()));
        }
        Ok(())
    }

    fn install(&mut self, meta: &SnapshotMeta, dir: &Path) -> Result<(), Error> {
        self.check(dir, meta)?;
        let db = self.machine.store().clone();
        db.replace(dir)?;
        // The birth is never used: the snapshot has a state.
        self.machine = Machine::open(db, self.cluster, Birth::from(1), Timestamp::now())?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        (self.observe)(Effects { map: Some(self.machine.map()), ..Effects::default() });
        Ok(())
    }
}

/// A snapshot that was made and is to be handed out.
pub struct Builder {
    made: Option<io::Result<(SnapshotMeta, Arc<Dir>)>>,
    newest: Newest,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Arc<Dir>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (meta, snapshot) = self.made.take().unwrap_or_else(|| Err(other("it was handed out")))?;
        let newest = Some((meta.clone(), snapshot.clone()));
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = newest;
        Ok(RaftSnapshot { meta, snapshot })
    }
}

impl RaftStateMachine<Types> for Replica {
    type SnapshotData = Arc<Dir>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        loop {
            let mut batch = Vec::new();
            while batch.len() < BATCH_COMMANDS
                && let Some(entry) = entries.next().await
            {
                batch.push(entry?);
            }
            let last = batch.len() < BATCH_COMMANDS;
            if !batch.is_empty() {
                self.apply_batch(batch)?;
            }
            if last {
                return Ok(());
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { made: Some(self.checkpoint()), newest: self.newest.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Arc<Dir>) -> io::Result<()> {
        self.install(meta, snapshot.path()).map_err(other)?;
        drop(snapshot);
        let made = self.checkpoint()?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        tracing::info!(last = %self.last.map_or(0, |id| id.index), "took up the state of a snapshot");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(newest.map(|(meta, snapshot)| RaftSnapshot { meta, snapshot }))
    }
}
