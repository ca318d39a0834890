//! The first engine: fresh blocks for every change, an overlay of what is not durable, one
//! group commit at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use wire::chunk::ChunkKey;
use wire::id::{ChainId, ChunkVersion};

use super::alloc::{Allocator, Run, Used};
use super::counters::{Tally, add};
use super::disk::Disk;
use super::index::{Index, IndexError};
use super::lease::{Lease, SharedAllocator, lock, push_block};
use super::overlay::Overlay;
use super::record::{BLOCK, GROUP_BLOCKS, Group, Header, Slot, digest_of};
use super::{StoreError, Usage};

/// Locks for chunks: a chunk takes the one its key falls on.
const STRIPES: usize = 256;
/// Blocks that only changes which free space may take, so that a full disk can be emptied.
const SHRINK_BLOCKS: u64 = 64;

/// Numbers an engine works by.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The disk is full when less than this share of it is free, in percent. Default 1.
    pub min_free_percent: u64,
    /// The data files grow by this much at a time, in bytes. Default 64 MiB.
    pub grow_bytes: u64,
    /// Most index records in memory that are not durable; writers wait then. Default 32,768
    /// (about 10 MiB).
    pub overlay_entries: usize,
    /// Most bytes written that are not durable; writers wait then. Default 256 MiB.
    pub overlay_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            min_free_percent: 1,
            grow_bytes: 64 << 20,
            overlay_entries: 32_768,
            overlay_bytes: 256 << 20,
        }
    }
}

/// What blocks are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// New data.
    Data,
    /// A change that frees space, or a repair.
    Shrink,
}

/// A store over a disk and an index.
pub struct Engine<D, I> {
    pub(super) disk: D,
    pub(super) index: I,
    pub(super) limits: Limits,
    pub(super) allocator: SharedAllocator,
    pub(super) overlay: Mutex<Overlay>,
    stripes: Vec<RwLock<()>>,
    pub(super) committing: Mutex<()>,
    failure: OnceLock<String>,
    pub(super) tally: Tally,
    chunks: AtomicU64,
    /// How many bricks share what is left of the filesystem, for reports.
    sharers: Arc<AtomicU64>,
}

impl<D, I> std::fmt::Debug for Engine<D, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("failure", &self.failure.get()).finish_non_exhaustive()
    }
}

/// A chunk's header with the blocks of a change worked in.
struct Edited {
    groups: Vec<(u32, Group)>,
    freed: Vec<Run>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Rebuilds what is in memory from the index. `sharers` counts the bricks on this
    /// filesystem.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the index can't be read, or speaks of blocks that the disk
    /// does not have or that two chunks claim.
    pub fn open(
        disk: D,
        index: I,
        limits: Limits,
        sharers: Arc<AtomicU64>,
    ) -> Result<Engine<D, I>, StoreError> {
        let end = disk.len() / BLOCK as u64;
        let mut used = Used::new(end);
        let mut wrong = None;
        let failed = |e: IndexError| StoreError::Failed(e.to_string());
        index
            .each_group(&mut |key, _, group| {
                for slot in group.slots.iter().flatten() {
                    if !used.claim(slot.position) {
                        wrong = Some((key, slot.position));
                    }
                }
            })
            .map_err(failed)?;
        if let Some((key, position)) = wrong {
            return Err(StoreError::Failed(format!(
                "the index places a block of chunk {key} at {position}, which {}",
                if position < end { "another block has" } else { "is beyond the end of the data files" }
            )));
        }
        let (mut chunks, mut blocks, mut after) = (0, 0, None);
        loop {
            let page = index.headers(after, 4096).map_err(failed)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            chunks += page.len() as u64;
            blocks += page.iter().map(|(_, h)| u64::from(h.blocks)).sum::<u64>();
        }
        if blocks != used.count() {
            // Every byte is still guarded by its own checksum, so this is no reason not to serve.
            tracing::warn!(in_headers = blocks, in_groups = used.count(), "the index's counts differ");
        }
        Ok(Engine {
            disk,
            index,
            limits,
            allocator: Arc::new(Mutex::new(Allocator::rebuild(&used))),
            overlay: Mutex::default(),
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            committing: Mutex::default(),
            failure: OnceLock::new(),
            tally: Tally::default(),
            chunks: AtomicU64::new(chunks),
            sharers,
        })
    }

    fn stripe(&self, key: ChunkKey) -> &RwLock<()> {
        let hash = (key.ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(key.index);
        &self.stripes[(hash ^ (hash >> 32)) as usize % STRIPES]
    }

    pub(super) fn read_lock(&self, key: ChunkKey) -> RwLockReadGuard<'_, ()> {
        self.stripe(key).read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_lock(&self, key: ChunkKey) -> RwLockWriteGuard<'_, ()> {
        self.stripe(key).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses everything once something failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.failure.get().map_or(Ok(()), |why| Err(StoreError::Failed(why.clone())))
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    pub(super) fn fail(&self, why: String) -> StoreError {
        if self.failure.set(why.clone()).is_ok() {
            tracing::error!(why, "the brick's disk failed, it serves no more");
        }
        StoreError::Failed(why)
    }

    pub(super) fn index_failed(&self, error: IndexError) -> StoreError {
        match error {
            IndexError::NoSpace(_) => StoreError::NoSpace,
            IndexError::Failed(why) => self.fail(why),
        }
    }

    // What the index says, overlay included. Callers hold the chunk's stripe.

    pub(super) fn header_of(&self, key: ChunkKey) -> Result<Option<Header>, StoreError> {
        if let Some(known) = lock(&self.overlay).header(key) {
            return Ok(known);
        }
        // Nobody can have changed the chunk in between, and a generation leaves the overlay
        // only after it is in the index.
        self.index.header(key).map_err(|e| self.index_failed(e))
    }

    pub(super) fn group_of(&self, key: ChunkKey, number: u32) -> Result<Group, StoreError> {
        if let Some(group) = lock(&self.overlay).group(key, number) {
            return Ok(group);
        }
        Ok(self.index.group(key, number).map_err(|e| self.index_failed(e))?.unwrap_or_default())
    }

    /// Where the blocks `first..=last` of a chunk are.
    pub(super) fn slots(
        &self,
        key: ChunkKey,
        first: u32,
        last: u32,
    ) -> Result<Vec<Option<Slot>>, StoreError> {
        let mut out = Vec::with_capacity((last - first + 1) as usize);
        let mut block = first;
        while block <= last {
            let group = self.group_of(key, block / GROUP_BLOCKS)?;
            let stop = last.min(block | (GROUP_BLOCKS - 1));
            let from = (block % GROUP_BLOCKS) as usize;
            out.extend_from_slice(&group.slots[from..=from + (stop - block) as usize]);
            block = stop + 1;
        }
        Ok(out)
    }

    /// All blocks of a chunk that lie anywhere, in order.
    pub(super) fn all_slots(&self, key: ChunkKey) -> Result<Vec<(u32, Slot)>, StoreError> {
        let (mut known, below) = lock(&self.overlay).groups(key);
        if below {
            for (number, group) in self.index.groups(key).map_err(|e| self.index_failed(e))? {
                known.entry(number).or_insert(group);
            }
        }
        let mut out = Vec::new();
        for (number, group) in known {
            let blocks = (number * GROUP_BLOCKS..).zip(group.slots);
            out.extend(blocks.filter_map(|(block, slot)| slot.map(|slot| (block, slot))));
        }
        Ok(out)
    }

    // The disk.

    /// Reads blocks that lie at `slots` into `into`, holes as zeros. Returns the places in
    /// `slots` of those whose checksum does not match.
    pub(super) fn read_slots(
        &self,
        slots: &[Option<Slot>],
        into: &mut [u8],
    ) -> Result<Vec<usize>, StoreError> {
        let mut bad = Vec::new();
        let mut at = 0;
        while at < slots.len() {
            let Some(first) = slots[at] else {
                into[at * BLOCK..(at + 1) * BLOCK].fill(0);
                at += 1;
                continue;
            };
            let follow = (first.position..).zip(&slots[at..]);
            let n = follow.take_while(|(p, slot)| slot.is_some_and(|s| s.position == *p)).count();
            let bytes = &mut into[at * BLOCK..(at + n) * BLOCK];
            self.disk
                .read_at(first.position * BLOCK as u64, bytes)
                .map_err(|e| self.fail(format!("reading: {e}")))?;
            for (i, (slot, bytes)) in slots[at..at + n].iter().zip(bytes.chunks_exact(BLOCK)).enumerate() {
                if slot.is_some_and(|slot| slot.crc != crc32c::crc32c(bytes)) {
                    bad.push(at + i);
                }
            }
            at += n;
        }
        Ok(bad)
    }

    /// One block of a chunk, verified.
    pub(super) fn block_or_zeros(
        &self,
        key: ChunkKey,
        version: ChunkVersion,
        block: u32,
    ) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; BLOCK];
        let slots = self.slots(key, block, block)?;
        if !self.read_slots(&slots, &mut bytes)?.is_empty() {
            return Err(StoreError::Corrupt { key, version, blocks: vec![block] });
        }
        Ok(bytes)
    }

    pub(super) fn write_blocks(&self, position: u64, bytes: &[u8]) -> Result<(), StoreError> {
        add(&self.tally.data_bytes, bytes.len() as u64);
        self.disk.write_at(position * BLOCK as u64, bytes).map_err(|e| match e.kind() {
            // A filesystem that could not reserve the space.
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
            _ => self.fail(format!("writing: {e}")),
        })
    }

    // Space.

    /// Takes fresh blocks.
    pub(super) fn reserve(&self, blocks: u64, need: Need) -> Result<Lease, StoreError> {
        let keep = match need {
            Need::Data => SHRINK_BLOCKS,
            Need::Shrink => 0,
        };
        let mut allocator = lock(&self.allocator);
        let want = blocks + keep;
        if blocks > 0 && allocator.free_blocks() < want {
            let step = (self.limits.grow_bytes / BLOCK as u64).max(1);
            let more = (want - allocator.free_blocks()).div_ceil(step) * step;
            self.grow(&mut allocator, more)?;
        }
        if blocks > 0 && allocator.free_blocks() < want {
            return Err(StoreError::NoSpace);
        }
        let runs = allocator.take(blocks).ok_or(StoreError::NoSpace)?;
        drop(allocator);
        Ok(Lease::new(self.allocator.clone(), runs))
    }

    /// Makes the data files larger, if there is room.
    fn grow(&self, allocator: &mut Allocator, blocks: u64) -> Result<(), StoreError> {
        let space = self.disk.space().map_err(|e| self.fail(format!("asking for free space: {e}")))?;
        let min_free = space.total_bytes / 100 * self.limits.min_free_percent;
        let bytes = blocks * BLOCK as u64;
        if space.available_bytes < min_free.saturating_add(bytes) {
            return Ok(());
        }
        let end = allocator.end() + blocks;
        match self.disk.allocate(end * BLOCK as u64) {
            Ok(()) => {
                allocator.grow(end);
                Ok(())
            }
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(self.fail(format!("growing the data files: {e}"))),
        }
    }

    pub(super) fn usage_now(&self) -> Usage {
        let growable = self.disk.space().map_or(0, |space| {
            let min_free = space.total_bytes / 100 * self.limits.min_free_percent;
            space.available_bytes.saturating_sub(min_free) / self.sharers.load(Ordering::Relaxed).max(1)
        });
        let allocator = lock(&self.allocator);
        let block = BLOCK as u64;
        Usage {
            used_bytes: (allocator.end() - allocator.free_blocks()) * block,
            free_bytes: allocator.free_blocks().saturating_sub(SHRINK_BLOCKS) * block + growable,
            chunks: self.chunks.load(Ordering::Relaxed),
        }
    }

    pub(super) fn has_free(&self, bytes: u64) -> bool {
        lock(&self.allocator).free_blocks() * BLOCK as u64 > bytes + self.limits.grow_bytes / 2
    }

    /// Blocks in use or leased.
    #[cfg(test)]
    pub(super) fn taken_blocks(&self) -> u64 {
        let allocator = lock(&self.allocator);
        allocator.end() - allocator.free_blocks()
    }

    // Changes of the index. Callers hold the chunk's stripe for writing.

    /// Points `blocks` to their new places in `header` and the groups.
    fn point(
        &self,
        key: ChunkKey,
        header: &mut Header,
        blocks: &[(u32, Option<Slot>)],
    ) -> Result<Edited, StoreError> {
        let mut edited = Edited { groups: Vec::new(), freed: Vec::new() };
        let before = header.blocks;
        for &(block, new) in blocks {
            let number = block / GROUP_BLOCKS;
            if edited.groups.last().is_none_or(|(last, _)| *last != number) {
                edited.groups.push((number, self.group_of(key, number)?));
            }
            let Some((_, group)) = edited.groups.last_mut() else { continue };
            let slot = &mut group.slots[(block % GROUP_BLOCKS) as usize];
            if let Some(old) = std::mem::replace(slot, new) {
                push_block(&mut edited.freed, old.position);
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

    /// Changes some blocks of a chunk and sets its header, which stands for the chunk before.
    pub(super) fn edit(
        &self,
        key: ChunkKey,
        mut header: Header,
        blocks: &[(u32, Option<Slot>)],
        written_bytes: u64,
        new: bool,
    ) -> Result<Header, StoreError> {
        let delta = header.delta_blocks;
        let edited = self.point(key, &mut header, blocks)?;
        if blocks.is_empty() {
            header.delta_blocks = delta;
        }
        let mut overlay = lock(&self.overlay);
        overlay.active.put(key, Some(header), false, edited.groups);
        overlay.active.freed.extend(edited.freed);
        overlay.active.written_bytes += written_bytes;
        if new {
            self.chunks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(header)
    }

    /// Replaces all blocks of a chunk, or removes it.
    pub(super) fn replace_all(
        &self,
        key: ChunkKey,
        header: Option<Header>,
        groups: Vec<(u32, Group)>,
        written_bytes: u64,
    ) -> Result<(), StoreError> {
        let existed = self.header_of(key)?.is_some();
        let mut freed = Vec::new();
        for (_, slot) in self.all_slots(key)? {
            push_block(&mut freed, slot.position);
        }
        let mut overlay = lock(&self.overlay);
        overlay.active.put(key, header, true, groups);
        overlay.active.freed.extend(freed);
        overlay.active.written_bytes += written_bytes;
        match (existed, header.is_some()) {
            (false, true) => self.chunks.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.chunks.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        Ok(())
    }

    // Listing.

    pub(super) fn list_page(
        &self,
        chain: Option<ChainId>,
        after: Option<ChunkKey>,
        max: usize,
    ) -> Result<(Vec<(ChunkKey, Header)>, bool), StoreError> {
        let max = max.max(1);
        let mut out: Vec<(ChunkKey, Header)> = Vec::new();
        let mut after = after;
        loop {
            // The overlay first: what leaves it in between is then found in the index.
            let (mut page, overlay_ends) = lock(&self.overlay).page(after, max);
            let stored = self.index.headers(after, max).map_err(|e| self.index_failed(e))?;
            let index_ends = (stored.len() == max).then(|| stored.last().map(|(key, _)| *key)).flatten();
            let horizon = overlay_ends.into_iter().chain(index_ends).min();
            for (key, header) in stored {
                page.entry(key).or_insert(Some(header));
            }
            for (key, header) in page {
                if horizon.is_some_and(|horizon| key > horizon) {
                    break;
                }
                if let Some(header) = header.filter(|h| chain.is_none_or(|chain| h.chain == chain)) {
                    out.push((key, header));
                }
            }
            if out.len() > max {
                out.truncate(max);
                return Ok((out, false));
            }
            match horizon {
                None => return Ok((out, true)),
                Some(_) if out.len() == max => return Ok((out, false)),
                Some(horizon) => after = Some(horizon),
            }
        }
    }
}
