//! Space: taking blocks, growing the data files, and how full the store is.

use std::sync::atomic::Ordering;

use super::alloc::Allocator;
use super::disk::Disk;
use super::engine::Engine;
use super::index::Index;
use super::lease::{Lease, lock};
use super::owners;
use super::record::BLOCK;
use super::{StoreError, Usage};

/// Blocks that only changes which free space may take, so that a full disk can be emptied.
const SHRINK_BLOCKS: u64 = 64;

/// What blocks are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// New data that is written at once.
    Data,
    /// New data that is written with others.
    Small,
    /// A change that frees space, or a repair.
    Shrink,
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Takes fresh blocks.
    pub(super) fn reserve(&self, blocks: u64, need: Need) -> Result<Lease, StoreError> {
        let keep = match need {
            Need::Data | Need::Small => SHRINK_BLOCKS,
            Need::Shrink => 0,
        };
        let mut all = lock(&self.blocks);
        let want = blocks + keep;
        if blocks > 0 && all.free.free_blocks() < want {
            let step = (self.limits.grow_bytes / BLOCK as u64).max(1);
            let more = (want - all.free.free_blocks()).div_ceil(step) * step;
            self.grow(&mut all.free, more)?;
        }
        if blocks > 0 && all.free.free_blocks() < want {
            return Err(StoreError::NoSpace);
        }
        let runs = match need {
            Need::Data => all.free.take(blocks),
            Need::Small | Need::Shrink => all.free.take_next(blocks),
        };
        let runs = runs.ok_or(StoreError::NoSpace)?;
        drop(all);
        Ok(Lease::new(self.blocks.clone(), runs))
    }

    /// Makes the data files larger, and the table of owners with them, if there is room.
    fn grow(&self, free: &mut Allocator, blocks: u64) -> Result<(), StoreError> {
        let space = self.disk.space().map_err(|e| self.fail(format!("asking for free space: {e}")))?;
        let min_free = space.total_bytes / 100 * self.limits.min_free_percent;
        let bytes = blocks * BLOCK as u64;
        if space.available_bytes < min_free.saturating_add(bytes) {
            return Ok(());
        }
        let end = free.end() + blocks;
        let table = self.owners.allocate(owners::table_bytes(end));
        match table.and_then(|()| self.disk.allocate(end * BLOCK as u64)) {
            Ok(()) => {
                free.grow(end);
                Ok(())
            }
            Err(e) if is_full(&e) => Ok(()),
            Err(e) => Err(self.fail(format!("growing the data files: {e}"))),
        }
    }

    pub(super) fn usage_now(&self) -> Usage {
        let sharers = self.sharers.load(Ordering::Relaxed).max(1);
        let (growable, disk_bytes) = self.disk.space().map_or((0, 0), |space| {
            let min_free = space.total_bytes / 100 * self.limits.min_free_percent;
            // Less than a step can't be taken.
            let step = self.limits.grow_bytes.max(BLOCK as u64);
            let steps = space.available_bytes.saturating_sub(min_free) / step;
            (steps * step / sharers, space.total_bytes / sharers)
        });
        let blocks = lock(&self.blocks);
        let block = BLOCK as u64;
        Usage {
            used_bytes: (blocks.free.end() - blocks.free.free_blocks()) * block,
            free_bytes: blocks.free.free_blocks().saturating_sub(SHRINK_BLOCKS) * block + growable,
            disk_bytes,
            chunks: self.chunks.load(Ordering::Relaxed),
        }
    }

    pub(super) fn has_free(&self, bytes: u64) -> bool {
        lock(&self.blocks).free.free_blocks() * BLOCK as u64 > bytes + self.limits.grow_bytes / 2
    }

    /// Blocks in use or leased.
    #[cfg(test)]
    pub(super) fn taken_blocks(&self) -> u64 {
        let blocks = lock(&self.blocks);
        blocks.free.end() - blocks.free.free_blocks()
    }
}
