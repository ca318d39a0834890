//! What a store counts: how many bytes each part of it wrote for the bytes it was given.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one store since it was opened, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreCounters {
    /// Data that callers wrote or staged.
    pub payload_bytes: u64,
    /// Written to the journal, padding included.
    pub journal_bytes: u64,
    /// Written to the data files.
    pub data_bytes: u64,
    /// Written to the table of owners.
    pub owner_bytes: u64,
    /// Written by the index: flushes and compactions.
    pub index_bytes: u64,
    /// Read from the data files.
    pub read_bytes: u64,
    /// Commits that made something durable, a number.
    pub commits: u64,
    /// Flushes asked of the disk, a number.
    pub flushes: u64,
    /// Times the journal was trimmed, a number.
    pub checkpoints: u64,
}

impl StoreCounters {
    /// Everything written to the disk.
    pub fn written_bytes(&self) -> u64 {
        self.journal_bytes + self.data_bytes + self.owner_bytes + self.index_bytes
    }
}

/// The counters a store keeps itself; the index keeps its own.
#[derive(Debug, Default)]
pub struct Tally {
    /// See [`StoreCounters::payload_bytes`].
    pub payload_bytes: AtomicU64,
    /// See [`StoreCounters::journal_bytes`].
    pub journal_bytes: AtomicU64,
    /// See [`StoreCounters::data_bytes`].
    pub data_bytes: AtomicU64,
    /// See [`StoreCounters::owner_bytes`].
    pub owner_bytes: AtomicU64,
    /// See [`StoreCounters::read_bytes`].
    pub read_bytes: AtomicU64,
    /// See [`StoreCounters::commits`].
    pub commits: AtomicU64,
    /// See [`StoreCounters::flushes`].
    pub flushes: AtomicU64,
    /// See [`StoreCounters::checkpoints`].
    pub checkpoints: AtomicU64,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Tally {
    /// All of them, with what the index says.
    pub fn read(&self, index_bytes: u64) -> StoreCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounters {
            payload_bytes: get(&self.payload_bytes),
            journal_bytes: get(&self.journal_bytes),
            data_bytes: get(&self.data_bytes),
            owner_bytes: get(&self.owner_bytes),
            index_bytes,
            read_bytes: get(&self.read_bytes),
            commits: get(&self.commits),
            flushes: get(&self.flushes),
            checkpoints: get(&self.checkpoints),
        }
    }
}
