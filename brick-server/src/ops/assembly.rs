//! A chunk's new content put together from what this copy has and what another one sends.

use std::ops::Range;

use bytes::Bytes;
use wire::brick::{ChunkSummary, Extent, LostBlock};
use wire::chunk::{BLOCK_BYTES, MAX_IO_BYTES};

use crate::store::{ChunkStore, Staged, StoreError};

/// Content on its way, complete up to some point.
#[derive(Debug)]
pub struct Assembly {
    to: ChunkSummary,
    next: u32,
    staged: Staged,
}

impl Assembly {
    /// Nothing yet of what the chunk is to be.
    pub fn new(to: ChunkSummary) -> Assembly {
        Assembly { to, next: 0, staged: Staged::new() }
    }

    /// What it is to be.
    pub fn to(&self) -> &ChunkSummary {
        &self.to
    }

    /// Up to here it is complete, in bytes.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Takes over what this copy has up to `end`.
    ///
    /// # Errors
    /// As the store.
    pub fn keep(&mut self, store: &dyn ChunkStore, end: u32) -> Result<(), StoreError> {
        let (from, end) = (self.next, end.min(self.to.len));
        if from >= end {
            return Ok(());
        }
        let (_, extents) = store.extents(self.to.key)?;
        for extent in extents {
            let stop = (extent.offset + extent.len).min(end);
            for offset in (extent.offset.max(from)..stop).step_by(MAX_IO_BYTES as usize) {
                let bytes = store.read(self.to.key, offset, MAX_IO_BYTES.min(stop - offset))?;
                store.stage(&mut self.staged, offset, &bytes.data)?;
            }
        }
        self.next = end;
        Ok(())
    }

    /// Takes what was sent for a range; blocks of zeros stay holes, those that are lost to everybody are lost
    /// here, too.
    ///
    /// # Errors
    /// As the store.
    pub fn take(
        &mut self,
        store: &dyn ChunkStore,
        part: Extent,
        data: &Bytes,
        lost: &[LostBlock],
    ) -> Result<(), StoreError> {
        let mut from = 0;
        for lost in lost {
            let at = (u64::from(lost.block) * u64::from(BLOCK_BYTES)).saturating_sub(part.offset.into());
            let at = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
            self.take_run(store, part.offset, data, from..at)?;
            store.stage_lost(&mut self.staged, *lost)?;
            from = (at + BLOCK_BYTES as usize).min(data.len());
        }
        self.take_run(store, part.offset, data, from..data.len())?;
        self.next = part.offset + part.len;
        Ok(())
    }

    /// Takes a part of what was sent from `offset` on, which begins at a block.
    fn take_run(
        &mut self,
        store: &dyn ChunkStore,
        offset: u32,
        data: &Bytes,
        run: Range<usize>,
    ) -> Result<(), StoreError> {
        let block = BLOCK_BYTES as usize;
        let is_hole = |at: usize| data[at..run.end.min(at + block)].iter().all(|byte| *byte == 0);
        let mut at = run.start;
        while at < run.end {
            let hole = is_hole(at);
            let mut end = at + block;
            while end < run.end && is_hole(end) == hole {
                end += block;
            }
            let end = end.min(run.end);
            if !hole {
                store.stage(&mut self.staged, offset + at as u32, &data.slice(at..end))?;
            }
            at = end;
        }
        Ok(())
    }

    /// Whether it has become what it was to be.
    pub fn is_right(&self) -> bool {
        self.staged.digest() == self.to.digest
    }

    /// What it is, to be switched over to.
    pub fn done(self) -> (ChunkSummary, Staged) {
        (self.to, self.staged)
    }
}
