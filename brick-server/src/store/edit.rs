//! Changes on their way: at fresh places, not yet visible.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::brick::{Change, LostBlock};
use wire::chunk::{ChunkKey, MAX_CHUNK_BYTES};
use wire::id::ChunkVersion;

use super::StoreError;
use super::aligned::Aligned;
use super::alloc::Run;
use super::change::Blocks;
use super::counters::add;
use super::disk::{Disk, WritePart};
use super::engine::Engine;
use super::index::Index;
use super::lease::Lease;
use super::record::{BLOCK, Slot, digest_of};
use super::space::Need;
#[cfg(doc)]
use super::{Prepared, Staged};

const BLOCK_U32: u32 = BLOCK as u32;

/// What this engine keeps in a [`Prepared`].
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) key: ChunkKey,
    pub(super) base: ChunkVersion,
    /// The chunk is at least this long afterwards.
    pub(super) end: u32,
    pub(super) blocks: Blocks,
    pub(super) lease: Lease,
}

/// What this engine keeps in a [`Staged`].
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) blocks: BTreeMap<u32, Slot>,
    pub(super) lease: Option<Lease>,
    pub(super) next: u32,
    pub(super) written_bytes: u64,
}

impl Parts {
    pub(super) fn digest(&self) -> u64 {
        self.blocks.iter().fold(0, |sum: u64, (&block, slot)| sum.wrapping_add(digest_of(block, slot.crc)))
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// See [`super::ChunkStore::prepare`]. The caller holds the chunk's stripe.
    pub(super) fn prepare_locked(
        &self,
        key: ChunkKey,
        base: ChunkVersion,
        change: Change,
        data: &Bytes,
    ) -> Result<Edit, StoreError> {
        let header = self.header_of(key)?;
        let version = header.map_or(ChunkVersion(0), |h| h.version);
        if version != base {
            return Err(StoreError::Version(version));
        }
        match change {
            Change::Write { offset } => self.prepare_write(key, base, offset, data),
            Change::Punch { offset, len } => {
                let end = header.map_or(0, |h| h.len);
                let from = offset.min(end);
                let to = offset.saturating_add(len).min(end);
                self.prepare_punch(key, base, from, to)
            }
        }
    }

    fn prepare_write(
        &self,
        key: ChunkKey,
        base: ChunkVersion,
        offset: u32,
        data: &[u8],
    ) -> Result<Edit, StoreError> {
        let end = u64::from(offset) + data.len() as u64;
        if data.is_empty() || end > u64::from(MAX_CHUNK_BYTES) {
            return Err(StoreError::Range);
        }
        let end = end as u32;
        let first = offset / BLOCK_U32;
        let last = (end - 1) / BLOCK_U32;
        let count = last - first + 1;
        let mut bytes = Aligned::any(count as usize * BLOCK);
        // Blocks that the data covers only in part are completed with what is there.
        if !offset.is_multiple_of(BLOCK_U32) {
            bytes[..BLOCK].copy_from_slice(&self.block_or_zeros(key, base, first)?);
        }
        if !end.is_multiple_of(BLOCK_U32) && (last > first || offset.is_multiple_of(BLOCK_U32)) {
            let at = (count as usize - 1) * BLOCK;
            bytes[at..].copy_from_slice(&self.block_or_zeros(key, base, last)?);
        }
        let inside = (offset - first * BLOCK_U32) as usize;
        bytes[inside..inside + data.len()].copy_from_slice(data);
        let small = (data.len() as u64) < u64::from(self.limits.small_bytes);
        let lease = self.reserve(u64::from(count), if small { Need::Small } else { Need::Data })?;
        let mut blocks = Blocks::default();
        self.settle(first, bytes, lease.runs(), small, &mut blocks)?;
        add(&self.tally.payload_bytes, data.len() as u64);
        Ok(Edit { key, base, end, blocks, lease })
    }

    /// Gives blocks from `first` on their places in `runs`: written there, or, if small, held until
    /// they are.
    fn settle(
        &self,
        first: u32,
        bytes: Aligned,
        runs: &[Run],
        small: bool,
        blocks: &mut Blocks,
    ) -> Result<(), StoreError> {
        let positions = runs.iter().flat_map(|run| run.start..run.start + run.blocks);
        for ((block, position), bytes) in (first..).zip(positions).zip(bytes.chunks_exact(BLOCK)) {
            blocks.slots.push((block, Some(Slot { position, crc: crc32c::crc32c(bytes) })));
        }
        blocks.written_bytes += bytes.len() as u64;
        if small {
            let bytes = Bytes::from_owner(bytes);
            let new = &blocks.slots[blocks.slots.len() - bytes.len() / BLOCK..];
            for (at, slot) in new.iter().enumerate() {
                let position = slot.1.map_or(0, |slot| slot.position);
                // A block of many keeps them all in memory; that is at most 64 KiB.
                blocks.held.push((position, bytes.slice(at * BLOCK..(at + 1) * BLOCK)));
            }
            return Ok(());
        }
        blocks.direct = true;
        let mut parts: Vec<WritePart<'_>> = Vec::with_capacity(runs.len());
        let mut rest = &bytes[..];
        for run in runs {
            let (here, more) = rest.split_at(run.blocks as usize * BLOCK);
            parts.push((run.start * BLOCK as u64, here));
            rest = more;
        }
        self.write_data(&parts)
    }

    /// Gives one block a fresh place.
    pub(super) fn settle_one(
        &self,
        block: u32,
        bytes: Aligned,
        blocks: &mut Blocks,
    ) -> Result<Lease, StoreError> {
        let lease = self.reserve(1, Need::Shrink)?;
        self.settle(block, bytes, lease.runs(), self.limits.small_bytes > 0, blocks)?;
        Ok(lease)
    }

    /// `from..to` is within the chunk's length.
    fn prepare_punch(
        &self,
        key: ChunkKey,
        base: ChunkVersion,
        from: u32,
        to: u32,
    ) -> Result<Edit, StoreError> {
        let lease = self.reserve(0, Need::Shrink)?;
        let mut prepared = Edit { key, base, end: 0, blocks: Blocks::default(), lease };
        if from >= to {
            return Ok(prepared);
        }
        let end_of_chunk = self.header_of(key)?.map_or(0, |h| h.len);
        let (first, last) = (from / BLOCK_U32, (to - 1) / BLOCK_U32);
        let slots = self.slots(key, first, last)?;
        for (block, slot) in (first..).zip(slots) {
            if slot.is_none() {
                continue;
            }
            let start = block * BLOCK_U32;
            let begins = from.max(start);
            let ends = to.min(start + BLOCK_U32);
            // What is beyond the chunk's end is zeros already, so a hole up to there takes
            // the rest of the block along.
            if begins == start && (ends == start + BLOCK_U32 || ends == end_of_chunk) {
                prepared.blocks.slots.push((block, None));
                continue;
            }
            let mut bytes = self.block_or_zeros(key, base, block)?;
            bytes[(begins - start) as usize..(ends - start) as usize].fill(0);
            let lease = self.settle_one(block, bytes, &mut prepared.blocks)?;
            prepared.lease.join(lease);
        }
        Ok(prepared)
    }

    /// See [`super::ChunkStore::stage`].
    pub(super) fn stage_part(&self, staged: &mut Parts, offset: u32, data: &Bytes) -> Result<(), StoreError> {
        if data.is_empty() {
            return Ok(());
        }
        let end = u64::from(offset) + data.len() as u64;
        if !offset.is_multiple_of(BLOCK_U32) || offset < staged.next || end > u64::from(MAX_CHUNK_BYTES) {
            return Err(StoreError::Range);
        }
        let mut bytes = Aligned::any(data.len().next_multiple_of(BLOCK));
        bytes[..data.len()].copy_from_slice(data);
        bytes[data.len()..].fill(0);
        let count = (bytes.len() / BLOCK) as u32;
        let lease = self.reserve(u64::from(count), Need::Data)?;
        let first = offset / BLOCK_U32;
        let mut blocks = Blocks::default();
        self.settle(first, bytes, lease.runs(), false, &mut blocks)?;
        staged.blocks.extend(blocks.slots.iter().filter_map(|(block, slot)| slot.map(|slot| (*block, slot))));
        staged.next = (first + count) * BLOCK_U32;
        staged.written_bytes += blocks.written_bytes;
        add(&self.tally.payload_bytes, data.len() as u64);
        match &mut staged.lease {
            Some(all) => all.join(lease),
            none => *none = Some(lease),
        }
        Ok(())
    }

    /// See [`super::ChunkStore::stage_lost`]. Zeros take its place, under a checksum that they fail.
    pub(super) fn stage_lost_block(&self, staged: &mut Parts, lost: LostBlock) -> Result<(), StoreError> {
        let offset = lost.block.checked_mul(BLOCK_U32).ok_or(StoreError::Range)?;
        self.stage_part(staged, offset, &Bytes::from_static(&[0; BLOCK]))?;
        if let Some(slot) = staged.blocks.get_mut(&lost.block) {
            slot.crc = lost.crc;
        }
        Ok(())
    }
}
