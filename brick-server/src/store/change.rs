//! Changes of what the overlay says of a chunk. Callers hold the chunk's stripe for writing.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use wire::chunk::ChunkKey;

use super::StoreError;
use super::disk::Disk;
use super::engine::Engine;
use super::index::Index;
use super::lease::{lock, push_block};
use super::overlay::Generation;
use super::record::{GROUP_BLOCKS, Group, Header, Slot, digest_of};

/// Blocks of a change, and what comes with them.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Blocks that change, in order; `None` becomes a hole.
    pub slots: Vec<(u32, Option<Slot>)>,
    /// Bytes of those that are not in the data files yet, by place.
    pub held: Vec<(u64, Bytes)>,
    /// Whether any of it is in the data files already.
    pub direct: bool,
    /// Bytes of data.
    pub written_bytes: u64,
}

/// Another chunk that changes together with one.
pub type Beside = (ChunkKey, Header, Vec<(u32, Group)>);

/// A chunk's groups with the blocks of a change worked in.
struct Edited {
    groups: Vec<(u32, Group)>,
    /// Places nobody points to any more from this chunk.
    left: Vec<u64>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Points `blocks` to their new places in `header` and the groups.
    fn point(&self, key: ChunkKey, header: &mut Header, blocks: &Blocks) -> Result<Edited, StoreError> {
        let mut edited = Edited { groups: Vec::new(), left: Vec::new() };
        let before = header.blocks;
        for &(block, new) in &blocks.slots {
            let number = block / GROUP_BLOCKS;
            if edited.groups.last().is_none_or(|(last, _)| *last != number) {
                let mut group = self.group_of(key, number)?;
                group.hash = None;
                edited.groups.push((number, group));
            }
            let Some((_, group)) = edited.groups.last_mut() else { continue };
            group.shared &= !(1 << (block % GROUP_BLOCKS));
            let slot = &mut group.slots[(block % GROUP_BLOCKS) as usize];
            if let Some(old) = std::mem::replace(slot, new) {
                edited.left.push(old.position);
                header.blocks -= 1;
                header.digest = header.digest.wrapping_sub(digest_of(block, old.crc));
            }
            if let Some(new) = new {
                header.blocks += 1;
                header.digest = header.digest.wrapping_add(digest_of(block, new.crc));
            }
        }
        header.delta_blocks = header.blocks as i32 - before as i32;
        Ok(edited)
    }

    /// One owner let go of these places. Those that nothing durable points to are free at once.
    fn let_go(&self, active: &mut Generation, left: impl IntoIterator<Item = u64>) {
        let mut held = lock(&self.held);
        let mut blocks = lock(&self.blocks);
        for position in left {
            if active.fresh.contains_key(&position) && !blocks.is_shared(position) {
                active.fresh.remove(&position);
                blocks.release(super::alloc::Run::one(position), &mut |block| held.forget(block));
            } else {
                push_block(&mut active.freed, position);
            }
        }
    }

    /// Enters the blocks of a change into the active generation.
    fn take_in(&self, active: &mut Generation, key: ChunkKey, blocks: Blocks) {
        let mut held = lock(&self.held);
        for (position, bytes) in blocks.held {
            held.hold(position, bytes);
        }
        let new =
            blocks.slots.iter().filter_map(|(block, slot)| slot.map(|slot| (slot.position, (key, *block))));
        active.fresh.extend(new);
        active.direct |= blocks.direct;
        active.written_bytes += blocks.written_bytes;
    }

    /// Changes some blocks of a chunk and sets its header, which stands for the chunk before.
    pub(super) fn edit(
        &self,
        key: ChunkKey,
        mut header: Header,
        blocks: Blocks,
        new: bool,
    ) -> Result<Header, StoreError> {
        let delta = header.delta_blocks;
        let edited = self.point(key, &mut header, &blocks)?;
        if blocks.slots.is_empty() {
            header.delta_blocks = delta;
        }
        let mut overlay = lock(&self.overlay);
        overlay.active.put(key, Some(header), false, edited.groups);
        self.take_in(&mut overlay.active, key, blocks);
        self.let_go(&mut overlay.active, edited.left);
        if new {
            self.chunks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(header)
    }

    /// Replaces all blocks of a chunk, or removes it. `beside`: groups of another chunk, with its
    /// header, that change together with it. Gives back whether the chunk was there before.
    pub(super) fn replace_all(
        &self,
        key: ChunkKey,
        header: Option<Header>,
        groups: Vec<(u32, Group)>,
        blocks: Blocks,
        beside: Option<Beside>,
    ) -> Result<bool, StoreError> {
        let existed = self.header_of(key)?.is_some();
        let left: Vec<u64> = self.all_slots(key)?.into_iter().map(|(_, slot)| slot.position).collect();
        let mut overlay = lock(&self.overlay);
        overlay.active.put(key, header, true, groups);
        if let Some((other, header, groups)) = beside {
            overlay.active.put(other, Some(header), false, groups);
        }
        self.take_in(&mut overlay.active, key, blocks);
        self.let_go(&mut overlay.active, left);
        match (existed, header.is_some()) {
            (false, true) => self.chunks.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.chunks.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        Ok(existed)
    }

    /// Sets the hashes of groups that are still as they were when those were computed.
    pub(super) fn learn_hashes(
        &self,
        key: ChunkKey,
        header: Header,
        known: Vec<(u32, Group)>,
    ) -> Result<(), StoreError> {
        if known.is_empty() || self.header_of(key)? != Some(header) {
            return Ok(());
        }
        let mut groups = Vec::new();
        for (number, group) in known {
            if self.group_of(key, number)?.slots == group.slots {
                groups.push((number, group));
            }
        }
        lock(&self.overlay).active.put(key, Some(header), false, groups);
        Ok(())
    }
}
