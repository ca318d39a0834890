//! The engine: what it is made of, and how it looks things up.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use wire::chunk::ChunkKey;
use wire::id::ChunkVersion;

use super::StoreError;
use super::aligned::Aligned;
use super::checkpoint::Described;
use super::counters::{Tally, add};
use super::disk::{Disk, ReadPart, WritePart};
use super::held::Held;
use super::hints::Hints;
use super::index::{Index, IndexChange, IndexError};
use super::lease::{SharedBlocks, lock};
use super::log::Log;
use super::overlay::Overlay;
use super::record::{BLOCK, GROUP_BLOCKS, Group, Header, Slot};
use super::turns::Turns;

/// Locks for chunks: a chunk takes the one its key falls on.
const STRIPES: usize = 256;

/// What a store does its input and output with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// io_uring and O_DIRECT where the kernel and the filesystem have them.
    #[default]
    Auto,
    /// O_DIRECT where the filesystem has it, and plain calls from several threads.
    Threads,
    /// The kernel's page cache, and plain calls.
    Buffered,
}

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
    /// A change of less than this is held in memory until the next commit; 0: none is. Default
    /// 64 KiB.
    pub small_bytes: u32,
    /// Most bytes held in memory that are not durable; writers wait then. Default 32 MiB.
    pub held_bytes: u64,
    /// A commit of at most this much held data puts it into the journal, a larger one into the data
    /// files. Default 512 KiB.
    pub journal_data_bytes: u64,
    /// Data that is in the journal only is written to the data files beyond this. Default 8 MiB.
    pub deferred_bytes: u64,
    /// How input and output are done. The variable `BRICKYARD_DISK_IO` (`threads`, `buffered`) goes
    /// before it.
    pub io: Io,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            min_free_percent: 1,
            grow_bytes: 64 << 20,
            overlay_entries: 32_768,
            overlay_bytes: 256 << 20,
            small_bytes: 64 << 10,
            held_bytes: 32 << 20,
            journal_data_bytes: 512 << 10,
            deferred_bytes: 8 << 20,
            io: Io::Auto,
        }
    }
}

/// A store over disks and an index.
pub struct Engine<D, I> {
    pub(super) disk: D,
    pub(super) owners: D,
    pub(super) index: I,
    pub(super) hints: Hints,
    pub(super) limits: Limits,
    pub(super) blocks: SharedBlocks,
    pub(super) overlay: Mutex<Overlay>,
    pub(super) held: Mutex<Held>,
    /// Owners of blocks that are to be entered before the journal is trimmed.
    pub(super) described: Mutex<Described>,
    stripes: Vec<RwLock<()>>,
    pub(super) turns: Turns,
    /// Held by the one commit there is at a time.
    pub(super) journal: Mutex<Journal<D>>,
    failure: OnceLock<String>,
    pub(super) tally: Tally,
    pub(super) chunks: AtomicU64,
    /// Number of the last record of the journal, for who does not wait for a commit.
    pub(super) records: AtomicU64,
    /// How many bricks share what is left of the filesystem, for reports.
    pub(super) sharers: Arc<AtomicU64>,
}

/// The journal, and how far the index is behind it.
pub(super) struct Journal<D> {
    pub(super) log: Log<D>,
    /// The last record, should the index not have it yet.
    pub(super) owed: Option<(u64, Vec<IndexChange>)>,
}

/// What an engine is made from once everything was read.
pub(super) struct Opened<D, I> {
    pub(super) disk: D,
    pub(super) owners: D,
    pub(super) index: I,
    pub(super) hints: Hints,
    pub(super) log: Log<D>,
    pub(super) blocks: SharedBlocks,
    pub(super) described: Described,
    pub(super) chunks: u64,
    pub(super) limits: Limits,
    pub(super) sharers: Arc<AtomicU64>,
}

impl<D, I> std::fmt::Debug for Engine<D, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("failure", &self.failure.get()).finish_non_exhaustive()
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    pub(super) fn assemble(parts: Opened<D, I>) -> Engine<D, I> {
        Engine {
            disk: parts.disk,
            owners: parts.owners,
            index: parts.index,
            hints: parts.hints,
            limits: parts.limits,
            blocks: parts.blocks,
            overlay: Mutex::default(),
            held: Mutex::default(),
            described: Mutex::new(parts.described),
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            turns: Turns::default(),
            records: AtomicU64::new(parts.log.last()),
            journal: Mutex::new(Journal { log: parts.log, owed: None }),
            failure: OnceLock::new(),
            tally: Tally::default(),
            chunks: AtomicU64::new(parts.chunks),
            sharers: parts.sharers,
        }
    }

    pub(super) fn stripe_of(key: ChunkKey) -> usize {
        let hash = (key.ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(key.index);
        (hash ^ (hash >> 32)) as usize % STRIPES
    }

    pub(super) fn read_lock(&self, key: ChunkKey) -> RwLockReadGuard<'_, ()> {
        self.stripes[Self::stripe_of(key)].read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_lock(&self, key: ChunkKey) -> RwLockWriteGuard<'_, ()> {
        self.lock_stripe(Self::stripe_of(key))
    }

    pub(super) fn lock_stripe(&self, number: usize) -> RwLockWriteGuard<'_, ()> {
        self.stripes[number].write().unwrap_or_else(PoisonError::into_inner)
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

    /// All groups of a chunk that hold anything, in order.
    pub(super) fn groups_of(&self, key: ChunkKey) -> Result<Vec<(u32, Group)>, StoreError> {
        let (mut known, below) = lock(&self.overlay).groups(key);
        if below {
            for (number, group) in self.index.groups(key).map_err(|e| self.index_failed(e))? {
                known.entry(number).or_insert(group);
            }
        }
        Ok(known.into_iter().filter(|(_, group)| !group.is_empty()).collect())
    }

    /// All blocks of a chunk that lie anywhere, in order.
    pub(super) fn all_slots(&self, key: ChunkKey) -> Result<Vec<(u32, Slot)>, StoreError> {
        let mut out = Vec::new();
        for (number, group) in self.groups_of(key)? {
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
        // First what is held, then the disk: a block moves the other way round.
        let held: Vec<_> = {
            let held = lock(&self.held);
            let of = |slot: &Option<Slot>| slot.and_then(|slot| held.get(slot.position));
            if held.is_empty() { Vec::new() } else { slots.iter().map(of).collect() }
        };
        let held = |at: usize| held.get(at).and_then(Option::as_ref);
        let mut parts: Vec<ReadPart<'_>> = Vec::new();
        let mut rest = &mut into[..slots.len() * BLOCK];
        let mut at = 0;
        while at < slots.len() {
            let n = match slots[at] {
                Some(first) if held(at).is_none() => {
                    let follow = (first.position..).zip(at..slots.len());
                    let is_next =
                        |p: u64, i: usize| slots[i].is_some_and(|s| s.position == p) && held(i).is_none();
                    follow.take_while(|&(p, i)| is_next(p, i)).count()
                }
                _ => 1,
            };
            let (here, more) = std::mem::take(&mut rest).split_at_mut(n * BLOCK);
            rest = more;
            match (slots[at], held(at)) {
                (None, _) => here.fill(0),
                (_, Some(bytes)) => here.copy_from_slice(bytes),
                (Some(first), None) => parts.push((first.position * BLOCK as u64, here)),
            }
            at += n;
        }
        if !parts.is_empty() {
            add(&self.tally.read_bytes, parts.iter().map(|(_, bytes)| bytes.len() as u64).sum());
            self.disk.read(&mut parts).map_err(|e| self.fail(format!("reading: {e}")))?;
        }
        let blocks = slots.iter().zip(into.chunks_exact(BLOCK)).enumerate();
        let bad = blocks.filter(|(_, (slot, bytes))| slot.is_some_and(|s| s.crc != crc32c::crc32c(bytes)));
        Ok(bad.map(|(at, _)| at).collect())
    }

    /// One block of a chunk, verified.
    pub(super) fn block_or_zeros(
        &self,
        key: ChunkKey,
        version: ChunkVersion,
        block: u32,
    ) -> Result<Aligned, StoreError> {
        let mut bytes = Aligned::zeros(BLOCK);
        let slots = self.slots(key, block, block)?;
        if !self.read_slots(&slots, &mut bytes)?.is_empty() {
            return Err(StoreError::Corrupt { key, version, blocks: vec![block] });
        }
        Ok(bytes)
    }

    /// Writes to the data files.
    pub(super) fn write_data(&self, parts: &[WritePart<'_>]) -> Result<(), StoreError> {
        add(&self.tally.data_bytes, parts.iter().map(|(_, bytes)| bytes.len() as u64).sum());
        self.disk.write(parts).map_err(|e| self.disk_failed("writing", &e))
    }

    pub(super) fn disk_failed(&self, what: &str, error: &std::io::Error) -> StoreError {
        match error.kind() {
            // A filesystem that could not reserve the space.
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
            _ => self.fail(format!("{what}: {error}")),
        }
    }
}
