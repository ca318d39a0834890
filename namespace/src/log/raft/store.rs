//! The log of a member: entries, votes and marks as records of one [`Journal`], with the newest
//! entries in memory, too.
//!
//! 1. Entries, votes and cuts are one stream of records: what came first is durable first.
//! 2. A vote is durable before it is given; an entry before it counts (`what_is_acknowledged_is_found_again`).
//! 3. Files are deleted only when the mark that their entries are of no use is durable, and every
//!    file begins with all marks, so that it needs none before it (`purged_files_are_not_missed`).
//! 4. Entries follow each other without a gap, or the log is refused (`a_gap_is_refused`).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::journal::{Journal, JournalError, Owner, Place};
use super::types::{Entry, LogId, Types, Vote};
use crate::store::hold::Hold;

/// Entries kept in memory, in bytes of their records; older ones are read from the disk.
const CACHE_BYTES: usize = 32 << 20;
/// Most bytes of entries sent to another member at once; one entry may be larger.
const SEND_BYTES: usize = 1 << 20;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const CUT: u8 = 3;
const COMMITTED: u8 = 4;
const PURGED: u8 = 5;

struct Slot {
    place: Place,
    id: LogId,
    entry: Option<Arc<Entry>>,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<u64, Slot>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Bytes of the entries in memory, and the first of them.
    cached_bytes: usize,
    cached_from: u64,
}

/// The log; clones are the same.
#[derive(Clone)]
pub struct Store {
    journal: Arc<Journal>,
    state: Arc<Mutex<State>>,
    /// Entries up to here are durable, and so readable from the disk. Not in the state: the thread
    /// that writes must never wait for those who wait for it.
    durable: Arc<AtomicU64>,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn pack<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(other)
}

fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err("a record has bytes too many".to_owned()),
        Err(error) => Err(format!("a record cannot be read: {error}")),
    }
}

impl State {
    fn found(&mut self, place: Place, kind: u8, body: &[u8]) -> Result<(), String> {
        match kind {
            ENTRY => {
                let entry: Entry = unpack(body)?;
                let id = entry.log_id;
                // A file may begin with a mark that is older than the entries which went with the file before: whether
                // the first entry is the one that must be there is known at the end of the log.
                let follows = self.slots.last_key_value().map(|(last, _)| last + 1);
                if self.purged.is_some_and(|purged| id.index <= purged.index) {
                    return Ok(());
                }
                if follows.is_some_and(|follows| id.index != follows) {
                    return Err(format!("entry {} stands where another one must", id.index));
                }
                self.slots.insert(id.index, Slot { place, id, entry: None });
            }
            VOTE => self.vote = unpack(body)?,
            CUT => self.cut(unpack(body)?),
            COMMITTED => self.committed = unpack(body)?,
            PURGED => self.purge(unpack(body)?),
            kind => return Err(format!("records of kind {kind} are not known")),
        }
        Ok(())
    }

    fn cut(&mut self, after: Option<u64>) {
        let gone = self.slots.split_off(&after.map_or(0, |last| last + 1));
        self.forget(gone.values());
    }

    fn purge(&mut self, upto: Option<LogId>) {
        let Some(upto) = upto else { return };
        let kept = self.slots.split_off(&(upto.index + 1));
        let gone = std::mem::replace(&mut self.slots, kept);
        self.forget(gone.values());
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
        }
    }

    fn forget<'a>(&mut self, gone: impl Iterator<Item = &'a Slot>) {
        let cached = gone.filter(|slot| slot.entry.is_some()).map(|slot| slot.place.length as usize);
        self.cached_bytes = self.cached_bytes.saturating_sub(cached.sum());
    }

    /// Lets go of entries that can be read from the disk.
    fn trim_cache(&mut self, durable: u64) {
        while self.cached_bytes > CACHE_BYTES && self.cached_from <= durable {
            let first = self.slots.range_mut(self.cached_from..=durable).next();
            let Some((index, slot)) = first else { return };
            let next = index + 1;
            if slot.entry.take().is_some() {
                self.cached_bytes = self.cached_bytes.saturating_sub(slot.place.length as usize);
            }
            self.cached_from = next;
        }
    }
}

impl Store {
    /// Opens the log in a directory, or makes it there.
    ///
    /// # Errors
    /// If it is somebody else's or damaged, or the disk fails.
    pub fn open(dir: &Path, owner: Owner, disk: Arc<dyn Disk>, hold: Hold) -> Result<Self, JournalError> {
        let mut state = State::default();
        let journal =
            Journal::open(dir, owner, disk, hold, |place, kind, body| state.found(place, kind, body))?;
        // What was read from the disk can be read again.
        let durable = state.slots.last_key_value().map_or(0, |(last, _)| *last);
        state.cached_from = durable + 1;
        if let (Some((first, _)), Some(purged)) = (state.slots.first_key_value(), state.purged)
            && *first != purged.index + 1
        {
            return Err(JournalError::Refused {
                path: dir.to_owned(),
                detail: format!("entries {} to {} of the log are missing", purged.index + 1, first - 1),
            });
        }
        if let (Some((first, _)), None) = (state.slots.first_key_value(), state.purged)
            && *first != 0
        {
            return Err(JournalError::Refused {
                path: dir.to_owned(),
                detail: format!("the log begins with entry {first}"),
            });
        }
        Ok(Self {
            journal: Arc::new(journal),
            state: Arc::new(Mutex::new(state)),
            durable: Arc::new(AtomicU64::new(durable)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new file where it is time, with all marks at its head.
    fn make_room(&self, state: &State) -> io::Result<()> {
        if self.journal.is_full() {
            self.journal.rotate();
            self.journal.push(PURGED, &pack(&state.purged)?)?;
            self.journal.push(VOTE, &pack(&state.vote)?)?;
            self.journal.push(COMMITTED, &pack(&state.committed)?)?;
        }
        Ok(())
    }

    async fn synced(&self) -> io::Result<()> {
        let (done, heard) = oneshot::channel();
        // Nobody listens only where the member was stopped.
        self.journal.sync(Box::new(move |result| drop(done.send(result))));
        heard.await.unwrap_or_else(|_| Err(other("the log is closed")))
    }

    /// The vote that is durable or about to be, whether a leader was known.
    pub fn has_voted(&self) -> bool {
        self.state().vote.is_some()
    }

    fn entries(&self, range: impl RangeBounds<u64>, most: usize) -> io::Result<Vec<Entry>> {
        let mut from_disk = Vec::new();
        let mut entries: Vec<Option<Entry>> = Vec::new();
        {
            let state = self.state();
            let mut bytes = 0;
            if !is_empty(&range) {
                for slot in state.slots.range(range).map(|(_, slot)| slot) {
                    bytes += slot.place.length as usize;
                    if bytes > most && !entries.is_empty() {
                        break;
                    }
                    match &slot.entry {
                        Some(entry) => entries.push(Some(entry.as_ref().clone())),
                        None => {
                            from_disk.push((entries.len(), slot.place));
                            entries.push(None);
                        }
                    }
                }
            }
        }
        for (at, place) in from_disk {
            let entry: Entry = unpack(&self.journal.read(place)?).map_err(other)?;
            entries[at] = Some(entry);
        }
        Ok(entries.into_iter().flatten().collect())
    }
}

fn is_empty(range: &impl RangeBounds<u64>) -> bool {
    // `BTreeMap::range` does not take a range whose end is before its start.
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(from), Bound::Excluded(to)) => from >= to,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Excluded(from), Bound::Excluded(to) | Bound::Included(to)) => from >= to,
        _ => false,
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.entries(range, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start..end, SEND_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.state().vote)
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.state();
        let last = state.slots.last_key_value().map(|(_, slot)| slot.id).or(state.purged);
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        {
            let mut state = self.state();
            self.make_room(&state)?;
            self.journal.push(VOTE, &pack(&Some(*vote))?)?;
            state.vote = Some(*vote);
        }
        self.synced().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut state = self.state();
        self.make_room(&state)?;
        // Not waited for: what is older only means more to be applied by what others say.
        self.journal.push(COMMITTED, &pack(&committed)?)?;
        state.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let state = self.state();
        // The mark may have become durable before the entry has.
        let last = state.slots.last_key_value().map(|(_, slot)| slot.id).or(state.purged);
        Ok(state.committed.min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let last = {
            let mut state = self.state();
            for entry in entries {
                self.make_room(&state)?;
                let (id, body) = (entry.log_id, pack(&entry)?);
                let place = self.journal.push(ENTRY, &body)?;
                state.cached_bytes += place.length as usize;
                state.slots.insert(id.index, Slot { place, id, entry: Some(Arc::new(entry)) });
            }
            state.trim_cache(self.durable.load(Ordering::Acquire));
            state.slots.last_key_value().map_or(0, |(last, _)| *last)
        };
        let durable = self.durable.clone();
        self.journal.sync(Box::new(move |result| {
            if result.is_ok() {
                durable.store(last, Ordering::Release);
            }
            callback.io_completed(result);
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        {
            let mut state = self.state();
            self.make_room(&state)?;
            let after = last.map(|id| id.index);
            self.journal.push(CUT, &pack(&after)?)?;
            state.cut(after);
            state.cached_from = state.cached_from.min(after.map_or(0, |last| last + 1));
            self.durable.fetch_min(after.unwrap_or(0), Ordering::AcqRel);
        }
        self.synced().await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let oldest = {
            let mut state = self.state();
            self.make_room(&state)?;
            self.journal.push(PURGED, &pack(&Some(upto))?)?;
            state.purge(Some(upto));
            state.slots.first_key_value().map_or(self.journal.segment(), |(_, slot)| slot.place.segment)
        };
        self.synced().await?;
        self.journal.delete_before(oldest)
    }
}
