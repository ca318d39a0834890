//! The faulty twin of a disk: in memory, with crashes that lose or tear what was not synced,
//! flipped bits, errors and a limit, all drawn from one seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, ReadPart, Space, WritePart};
use super::hints::Hints;
use super::index::{Index, IndexChange, IndexError};
use super::open::Medium;
use super::record::{BLOCK, Group, Header, Slot};
use wire::chunk::ChunkKey;

const SECTOR: usize = 512;

/// Numbers from a seed: SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        for piece in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
        out
    }
}

#[derive(Debug, Default)]
struct State {
    stable: BTreeMap<u64, Box<[u8; BLOCK]>>,
    unsynced: Vec<(u64, Vec<u8>)>,
    current: BTreeMap<u64, Box<[u8; BLOCK]>>,
    len: u64,
    limit: u64,
    fail_reads: bool,
    fail_writes: bool,
    fail_sync: bool,
    align: usize,
    misdirect: Option<u64>,
}

/// See the module's head. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

fn put(map: &mut BTreeMap<u64, Box<[u8; BLOCK]>>, offset: u64, data: &[u8]) {
    let mut at = 0;
    while at < data.len() {
        let position = offset + at as u64;
        let inside = (position % BLOCK as u64) as usize;
        let take = (BLOCK - inside).min(data.len() - at);
        let block = map.entry(position / BLOCK as u64).or_insert_with(|| Box::new([0; BLOCK]));
        block[inside..inside + take].copy_from_slice(&data[at..at + take]);
        at += take;
    }
}

fn get(map: &BTreeMap<u64, Box<[u8; BLOCK]>>, offset: u64, into: &mut [u8]) {
    let mut at = 0;
    while at < into.len() {
        let position = offset + at as u64;
        let inside = (position % BLOCK as u64) as usize;
        let take = (BLOCK - inside).min(into.len() - at);
        match map.get(&(position / BLOCK as u64)) {
            Some(bytes) => into[at..at + take].copy_from_slice(&bytes[inside..inside + take]),
            None => into[at..at + take].fill(0),
        }
        at += take;
    }
}

impl FaultyDisk {
    pub fn new(limit: u64) -> FaultyDisk {
        FaultyDisk { state: Arc::new(Mutex::new(State { limit, align: SECTOR, ..State::default() })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine loses power: what was not synced is there in part, sector by sector.
    pub fn crash(&self, random: &mut Random) -> FaultyDisk {
        let mut state = self.state();
        let mut stable = std::mem::take(&mut state.stable);
        for (offset, data) in std::mem::take(&mut state.unsynced) {
            let lost = random.below(4);
            // Some disks write 512 bytes or none of them, some 4 KiB.
            let unit = if random.one_in(2) { SECTOR } else { BLOCK };
            for (i, sector) in data.chunks(unit).enumerate() {
                let at = offset + (i * unit) as u64;
                match lost {
                    0 => {}
                    1 => put(&mut stable, at, sector),
                    // Torn: this sector or not, and now and then rubbish.
                    _ if random.one_in(2) => put(&mut stable, at, sector),
                    _ if random.one_in(8) => put(&mut stable, at, &random.bytes(sector.len())),
                    _ => {}
                }
            }
        }
        let state = State {
            current: stable.clone(),
            stable,
            len: state.len,
            limit: state.limit,
            align: state.align,
            ..State::default()
        };
        FaultyDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// One bit of a block rots.
    pub fn flip(&self, block: u64, bit: u64) {
        let mut state = self.state();
        let byte = (bit / 8) as usize % BLOCK;
        let State { current, stable, .. } = &mut *state;
        for map in [current, stable] {
            if let Some(bytes) = map.get_mut(&block) {
                bytes[byte] ^= 1 << (bit % 8);
            }
        }
    }

    /// The next write goes somewhere else.
    pub fn misdirect(&self, away: u64) {
        self.state().misdirect = Some(away);
    }

    /// Sectors of 4 KiB.
    pub fn with_large_sectors(self) -> FaultyDisk {
        self.state().align = BLOCK;
        self
    }

    /// Bytes as a crash would leave them had everything been written.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        get(&self.state().current, offset, &mut out);
        out
    }

    /// Bytes change behind everybody's back.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        put(&mut state.current, offset, bytes);
        put(&mut state.stable, offset, bytes);
    }

    pub fn fail_writes(&self, fail: bool) {
        self.state().fail_writes = fail;
    }

    pub fn fail_reads(&self, fail: bool) {
        self.state().fail_reads = fail;
    }

    pub fn fail_sync(&self, fail: bool) {
        self.state().fail_sync = fail;
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Disk for FaultyDisk {
    fn read(&self, parts: &mut [ReadPart<'_>]) -> io::Result<()> {
        let state = self.state();
        if state.fail_reads {
            return Err(eio());
        }
        for (offset, into) in parts {
            assert_eq!(*offset % SECTOR as u64, 0);
            assert_eq!(into.len() % SECTOR, 0);
            if *offset + into.len() as u64 > state.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            get(&state.current, *offset, into);
        }
        Ok(())
    }

    fn write(&self, parts: &[WritePart<'_>]) -> io::Result<()> {
        let mut state = self.state();
        for (offset, data) in parts {
            assert_eq!(*offset % SECTOR as u64, 0);
            assert_eq!(data.len() % SECTOR, 0);
            if state.fail_writes {
                return Err(eio());
            }
            if *offset + data.len() as u64 > state.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut offset = *offset;
            if let Some(away) = state.misdirect.take() {
                // The disk writes somewhere else, and says that all is well.
                let room = (state.len - data.len() as u64) / BLOCK as u64;
                offset =
                    (offset / BLOCK as u64 + 1 + away) % (room + 1) * BLOCK as u64 + offset % BLOCK as u64;
                offset = offset.min(state.len - data.len() as u64);
            }
            put(&mut state.current, offset, data);
            state.unsynced.push((offset, data.to_vec()));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.fail_sync {
            return Err(eio());
        }
        for (offset, data) in std::mem::take(&mut state.unsynced) {
            put(&mut state.stable, offset, &data);
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len > state.limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.len = state.len.max(len);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.state().len
    }

    fn align(&self) -> usize {
        self.state().align
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state();
        Ok(Space { total_bytes: state.limit, available_bytes: state.limit - state.len })
    }
}

#[derive(Debug, Default, Clone)]
struct Records {
    headers: BTreeMap<ChunkKey, Vec<u8>>,
    groups: BTreeMap<(ChunkKey, u32), Vec<u8>>,
    applied: u64,
}

#[derive(Debug, Default)]
struct Memory {
    now: Records,
    flushed: Records,
    /// Batches since the last flush.
    batches: Vec<(Vec<IndexChange>, u64)>,
    fail: Option<IndexError>,
    fail_flush: Option<IndexError>,
    crash_before_write: bool,
    behind: bool,
}

/// An index in memory, as durable as RocksDB without a log is. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct MemIndex {
    memory: Arc<Mutex<Memory>>,
}

impl Records {
    fn apply(&mut self, change: IndexChange) {
        match change {
            IndexChange::Wipe(key) => self.groups.retain(|(k, _), _| *k != key),
            IndexChange::Header(key, Some(header)) => {
                self.headers.insert(key, header.encode());
            }
            IndexChange::Header(key, None) => {
                self.headers.remove(&key);
            }
            IndexChange::Group(key, number, group) if group.is_empty() => {
                self.groups.remove(&(key, number));
            }
            IndexChange::Group(key, number, group) => {
                self.groups.insert((key, number), group.encode());
            }
        }
    }
}

impl MemIndex {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fail_writes(&self, fail: Option<IndexError>) {
        self.memory().fail = fail;
    }

    pub fn fail_flushes(&self, fail: Option<IndexError>) {
        self.memory().fail_flush = fail;
    }

    /// What a crash leaves, in a new index: the batches up to some point after the last flush.
    pub fn crash(&self, random: &mut Random) -> MemIndex {
        let memory = self.memory();
        let mut left = memory.flushed.clone();
        let kept = random.below(memory.batches.len() as u64 + 1) as usize;
        for (changes, applied) in memory.batches.iter().take(if random.one_in(2) { kept } else { 0 }) {
            changes.iter().for_each(|change| left.apply(change.clone()));
            left.applied = *applied;
        }
        let behind = left.applied < memory.now.applied;
        let memory = Memory { now: left.clone(), flushed: left, behind, ..Memory::default() };
        MemIndex { memory: Arc::new(Mutex::new(memory)) }
    }

    /// The next write does nothing and says it failed: the crash came after the journal.
    pub fn crash_before_write(&self) {
        self.memory().crash_before_write = true;
    }

    /// Position of every block that any chunk has; one that several have comes several times.
    pub fn positions(&self) -> Vec<u64> {
        let mut out = Vec::new();
        let _ =
            self.each_group(&mut |_, _, group| out.extend(group.slots.iter().flatten().map(|s| s.position)));
        out
    }
}

impl MemIndex {
    /// Whether batches were lost: the journal has more than this index.
    pub fn applied_is_behind(&self) -> bool {
        self.memory().behind
    }

    /// Each block of each chunk.
    pub fn where_everything_is(&self) -> BTreeMap<(ChunkKey, u32), Slot> {
        let mut out = BTreeMap::new();
        let _ = self.each_group(&mut |key, number, group| {
            for (block, slot) in (number * 16..).zip(group.slots) {
                out.extend(slot.map(|slot| ((key, block), slot)));
            }
        });
        out
    }
}

fn readable<T>(parsed: Result<T, super::record::RecordError>) -> Result<T, IndexError> {
    parsed.map_err(|e| IndexError::Failed(e.to_string()))
}

impl Index for MemIndex {
    fn header(&self, key: ChunkKey) -> Result<Option<Header>, IndexError> {
        self.memory().now.headers.get(&key).map(|b| readable(Header::decode(b))).transpose()
    }

    fn group(&self, key: ChunkKey, group: u32) -> Result<Option<Group>, IndexError> {
        self.memory().now.groups.get(&(key, group)).map(|b| readable(Group::decode(b))).transpose()
    }

    fn groups(&self, key: ChunkKey) -> Result<Vec<(u32, Group)>, IndexError> {
        let memory = self.memory();
        let range = memory.now.groups.range((key, 0)..=(key, u32::MAX));
        range.map(|((_, n), b)| Ok((*n, readable(Group::decode(b))?))).collect()
    }

    fn headers(&self, after: Option<ChunkKey>, max: usize) -> Result<Vec<(ChunkKey, Header)>, IndexError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let memory = self.memory();
        let range = memory.now.headers.range((after.map_or(Unbounded, Excluded), Unbounded));
        range.take(max).map(|(k, b)| Ok((*k, readable(Header::decode(b))?))).collect()
    }

    fn each_group(&self, see: &mut dyn FnMut(ChunkKey, u32, &Group)) -> Result<(), IndexError> {
        for ((key, number), bytes) in &self.memory().now.groups {
            see(*key, *number, &readable(Group::decode(bytes))?);
        }
        Ok(())
    }

    fn write(&self, changes: &mut dyn Iterator<Item = IndexChange>, applied: u64) -> Result<(), IndexError> {
        let mut memory = self.memory();
        if std::mem::take(&mut memory.crash_before_write) {
            return Err(IndexError::Failed("crashed".to_owned()));
        }
        if let Some(error) = &memory.fail {
            return Err(error.clone());
        }
        let batch: Vec<IndexChange> = changes.collect();
        batch.iter().for_each(|change| memory.now.apply(change.clone()));
        memory.now.applied = applied;
        memory.batches.push((batch, applied));
        Ok(())
    }

    fn applied(&self) -> Result<u64, IndexError> {
        Ok(self.memory().now.applied)
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut memory = self.memory();
        if let Some(error) = &memory.fail_flush {
            return Err(error.clone());
        }
        memory.flushed = memory.now.clone();
        memory.batches.clear();
        Ok(())
    }

    fn written_bytes(&self) -> u64 {
        0
    }
}

/// Everything a store lies on. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Machine {
    pub data: FaultyDisk,
    pub journal: [FaultyDisk; 2],
    pub owners: FaultyDisk,
    pub index: MemIndex,
}

/// The number of every store in tests.
pub const STORE: u64 = 0x5707e;

impl Machine {
    /// A new one with this much room for data, and segments of the journal of this size.
    pub fn new(limit: u64, segment: u64) -> Machine {
        let journal = [FaultyDisk::new(segment), FaultyDisk::new(segment)];
        let formatted = super::log::format(&journal, STORE, segment);
        assert!(formatted.is_ok());
        Machine {
            data: FaultyDisk::new(limit),
            journal,
            owners: FaultyDisk::new(u64::MAX >> 8),
            index: MemIndex::default(),
        }
    }

    /// Power is lost.
    pub fn crash(&self, random: &mut Random) -> Machine {
        Machine {
            data: self.data.crash(random),
            journal: [self.journal[0].crash(random), self.journal[1].crash(random)],
            owners: self.owners.crash(random),
            index: self.index.crash(random),
        }
    }

    /// A kill, and an index that was never flushed.
    pub fn with_empty_index(&self) -> Machine {
        Machine { index: MemIndex::default(), ..self.clone() }
    }

    /// For the engine.
    pub fn medium(&self) -> Medium<FaultyDisk, MemIndex> {
        Medium {
            data: self.data.clone(),
            journal: self.journal.clone(),
            owners: self.owners.clone(),
            index: self.index.clone(),
            hints: Hints::default(),
            store: STORE,
        }
    }
}
