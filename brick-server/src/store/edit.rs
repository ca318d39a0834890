//! Changes on their way: written to fresh blocks, not yet visible.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::brick::Change;
use wire::chunk::{ChunkKey, MAX_CHUNK_BYTES};
use wire::id::ChunkVersion;

use super::StoreError;
use super::counters::add;
use super::disk::Disk;
use super::engine::{Engine, Need};
use super::index::Index;
use super::lease::Lease;
use super::record::{BLOCK, Slot, digest_of};
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
    /// Blocks that change, in order.
    pub(super) blocks: Vec<(u32, Option<Slot>)>,
    pub(super) lease: Lease,
    pub(super) written_bytes: u64,
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
        // Blocks that the data covers only in part are completed with what is there.
        let mut edges: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for block in [first, last] {
            let start = block * BLOCK_U32;
            let from = offset.max(start);
            let to = end.min(start + BLOCK_U32);
            if to - from < BLOCK_U32 && !edges.contains_key(&block) {
                let mut bytes = self.block_or_zeros(key, base, block)?;
                let source = &data[(from - offset) as usize..(to - offset) as usize];
                bytes[(from - start) as usize..(to - start) as usize].copy_from_slice(source);
                edges.insert(block, bytes);
            }
        }
        let count = last - first + 1;
        let lease = self.reserve(u64::from(count), Need::Data)?;
        let mut blocks = Vec::with_capacity(count as usize);
        let mut block = first;
        for run in lease.runs() {
            let run_end = block + run.blocks as u32;
            let mut position = run.start;
            while block < run_end {
                // As many as lie side by side in the caller's bytes, or one edge.
                let (source, n): (&[u8], u32) = match edges.get(&block) {
                    Some(bytes) => (bytes, 1),
                    None => {
                        let stop = if edges.contains_key(&last) { last.min(run_end) } else { run_end };
                        let from = (block * BLOCK_U32 - offset) as usize;
                        (&data[from..from + (stop - block) as usize * BLOCK], stop - block)
                    }
                };
                self.write_blocks(position, source)?;
                for (i, bytes) in source.chunks_exact(BLOCK).enumerate() {
                    let slot = Slot { position: position + i as u64, crc: crc32c::crc32c(bytes) };
                    blocks.push((block + i as u32, Some(slot)));
                }
                block += n;
                position += u64::from(n);
            }
        }
        let written_bytes = u64::from(count) * BLOCK as u64;
        add(&self.tally.payload_bytes, data.len() as u64);
        Ok(Edit { key, base, end, blocks, lease, written_bytes })
    }

    /// `from..to` is within the chunk's length.
    fn prepare_punch(
        &self,
        key: ChunkKey,
        base: ChunkVersion,
        from: u32,
        to: u32,
    ) -> Result<Edit, StoreError> {
        let mut prepared = Edit {
            key,
            base,
            end: 0,
            blocks: Vec::new(),
            lease: self.reserve(0, Need::Shrink)?,
            written_bytes: 0,
        };
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
                prepared.blocks.push((block, None));
                continue;
            }
            let mut bytes = self.block_or_zeros(key, base, block)?;
            bytes[(begins - start) as usize..(ends - start) as usize].fill(0);
            let (slot, lease) = self.write_fresh(&bytes, Need::Shrink)?;
            prepared.lease.join(lease);
            prepared.written_bytes += BLOCK as u64;
            prepared.blocks.push((block, Some(slot)));
        }
        Ok(prepared)
    }

    /// Writes one block to a fresh place.
    pub(super) fn write_fresh(&self, bytes: &[u8], need: Need) -> Result<(Slot, Lease), StoreError> {
        let lease = self.reserve(1, need)?;
        let position = lease.runs().first().map_or(0, |run| run.start);
        self.write_blocks(position, bytes)?;
        Ok((Slot { position, crc: crc32c::crc32c(bytes) }, lease))
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
        let whole = data.len() / BLOCK * BLOCK;
        let mut tail = vec![0; if whole < data.len() { BLOCK } else { 0 }];
        tail[..data.len() - whole].copy_from_slice(&data[whole..]);
        let count = data.len().div_ceil(BLOCK) as u64;
        let lease = self.reserve(count, Need::Data)?;
        let mut block = offset / BLOCK_U32;
        let mut at = 0;
        for run in lease.runs() {
            let mut position = run.start;
            let run_end = run.start + run.blocks;
            while position < run_end {
                let source = match (run_end - position) as usize * BLOCK {
                    _ if at == whole => &tail[..],
                    bytes => &data[at..at + bytes.min(whole - at)],
                };
                self.write_blocks(position, source)?;
                for bytes in source.chunks_exact(BLOCK) {
                    staged.blocks.insert(block, Slot { position, crc: crc32c::crc32c(bytes) });
                    block += 1;
                    position += 1;
                }
                at += source.len();
            }
        }
        staged.next = block * BLOCK_U32;
        add(&self.tally.payload_bytes, data.len() as u64);
        staged.written_bytes += count * BLOCK as u64;
        match &mut staged.lease {
            Some(all) => all.join(lease),
            none => *none = Some(lease),
        }
        Ok(())
    }
}
