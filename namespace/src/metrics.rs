//! What the service has done, as plain numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters since the start. They only grow, except where said.
#[derive(Debug, Default)]
pub struct Metrics {
    commands: AtomicU64,
    batches: AtomicU64,
    largest_batch: AtomicU64,
    apply_us: AtomicU64,
    slowest_apply_us: AtomicU64,
    reads: AtomicU64,
    trims_done: AtomicU64,
    trims_failed: AtomicU64,
    reclaimed: AtomicU64,
    collected: AtomicU64,
    sessions_expired: AtomicU64,
    bricks_died: AtomicU64,
    members_moved: AtomicU64,
    probes: AtomicU64,
    changes_told: AtomicU64,
}

/// A moment of [`Metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Commands applied.
    pub commands: u64,
    /// Batches they were applied in: flushes of the disk.
    pub batches: u64,
    /// Commands of the largest batch.
    pub largest_batch: u64,
    /// Time spent in applying and flushing, in microseconds.
    pub apply_us: u64,
    /// Longest time for one batch, in microseconds.
    pub slowest_apply_us: u64,
    /// Calls answered by reading alone.
    pub reads: u64,
    /// Trims bricks have acknowledged.
    pub trims_done: u64,
    /// Trims that failed and are tried again.
    pub trims_failed: u64,
    /// Inodes freed.
    pub reclaimed: u64,
    /// Files that were cut because chunks of no use were found.
    pub collected: u64,
    /// Sessions that were not renewed.
    pub sessions_expired: u64,
    /// Bricks declared dead.
    pub bricks_died: u64,
    /// Times a brick joined or left a chain for repair, drain or rebalancing.
    pub members_moved: u64,
    /// Times a brick's address was looked at since its connection had ended.
    pub probes: u64,
    /// Entries of the change journal told to those who watch directories.
    pub changes_told: u64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Metrics {
    pub(crate) fn batch(&self, commands: usize, time: Duration) {
        add(&self.commands, commands as u64);
        add(&self.batches, 1);
        self.largest_batch.fetch_max(commands as u64, Ordering::Relaxed);
        add(&self.apply_us, micros(time));
        self.slowest_apply_us.fetch_max(micros(time), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) {
        add(&self.reads, 1);
    }

    pub(crate) fn trimmed(&self, done: u64) {
        add(&self.trims_done, done);
    }

    pub(crate) fn trim_failed(&self) {
        add(&self.trims_failed, 1);
    }

    pub(crate) fn reclaim(&self, inodes: u64) {
        add(&self.reclaimed, inodes);
    }

    pub(crate) fn collect(&self, files: u64) {
        add(&self.collected, files);
    }

    pub(crate) fn session_expired(&self) {
        add(&self.sessions_expired, 1);
    }

    pub(crate) fn brick_died(&self) {
        add(&self.bricks_died, 1);
    }

    pub(crate) fn told_changes(&self, entries: u64) {
        add(&self.changes_told, entries);
    }

    pub(crate) fn probed(&self) {
        add(&self.probes, 1);
    }

    pub(crate) fn moved(&self, members: u64) {
        add(&self.members_moved, members);
    }

    /// All numbers now.
    pub fn snapshot(&self) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            commands: get(&self.commands),
            batches: get(&self.batches),
            largest_batch: get(&self.largest_batch),
            apply_us: get(&self.apply_us),
            slowest_apply_us: get(&self.slowest_apply_us),
            reads: get(&self.reads),
            trims_done: get(&self.trims_done),
            trims_failed: get(&self.trims_failed),
            reclaimed: get(&self.reclaimed),
            collected: get(&self.collected),
            sessions_expired: get(&self.sessions_expired),
            bricks_died: get(&self.bricks_died),
            members_moved: get(&self.members_moved),
            probes: get(&self.probes),
            changes_told: get(&self.changes_told),
        }
    }
}
