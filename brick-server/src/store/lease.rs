//! Blocks that were taken and that nobody points to yet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::alloc::Run;
use super::blocks::Blocks;

/// The blocks of a disk, shared by a store and the leases it gave.
pub type SharedBlocks = Arc<Mutex<Blocks>>;

/// Locks a mutex whose holders can't leave it half changed: they do not panic in between.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks that go back when the lease is dropped, unless they are kept.
#[derive(Debug)]
pub struct Lease {
    blocks: SharedBlocks,
    runs: Vec<Run>,
}

impl Lease {
    /// A lease of these runs, which must have been taken from `blocks`.
    pub fn new(blocks: SharedBlocks, runs: Vec<Run>) -> Lease {
        Lease { blocks, runs }
    }

    /// The blocks.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Takes over the blocks of another lease of the same disk.
    pub fn join(&mut self, mut other: Lease) {
        self.runs.append(&mut other.runs);
    }

    /// The blocks are pointed to now and stay taken.
    pub fn keep(mut self) {
        self.runs.clear();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.runs.is_empty() {
            let mut blocks = lock(&self.blocks);
            for run in self.runs.drain(..) {
                blocks.free.give_back(run);
            }
        }
    }
}

/// Adds a block to runs, joined with the last one where it follows it.
pub fn push_block(runs: &mut Vec<Run>, block: u64) {
    match runs.last_mut() {
        Some(last) if last.start + last.blocks == block => last.blocks += 1,
        _ => runs.push(Run::one(block)),
    }
}
