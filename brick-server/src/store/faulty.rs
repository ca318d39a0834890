//! The faulty twin of a disk: in memory, with crashes that lose or tear what was not synced,
//! flipped bits, errors and a limit, all drawn from one seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, Space};
use super::index::{Index, IndexChange, IndexError};
use super::record::{BLOCK, Group, Header};
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

impl FaultyDisk {
    pub fn new(limit: u64) -> FaultyDisk {
        FaultyDisk { state: Arc::new(Mutex::new(State { limit, ..State::default() })) }
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
            for (i, sector) in data.chunks(SECTOR).enumerate() {
                let at = offset + (i * SECTOR) as u64;
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
        let state =
            State { current: stable.clone(), stable, len: state.len, limit: state.limit, ..State::default() };
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
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if state.fail_reads {
            return Err(eio());
        }
        if offset + into.len() as u64 > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (i, piece) in into.chunks_mut(BLOCK).enumerate() {
            match state.current.get(&(offset / BLOCK as u64 + i as u64)) {
                Some(bytes) => piece.copy_from_slice(&bytes[..piece.len()]),
                None => piece.fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        assert_eq!(offset % BLOCK as u64, 0);
        assert_eq!(data.len() % BLOCK, 0);
        if state.fail_writes {
            return Err(eio());
        }
        if offset + data.len() as u64 > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (i, piece) in data.chunks(BLOCK).enumerate() {
            let mut bytes = Box::new([0; BLOCK]);
            bytes.copy_from_slice(piece);
            state.current.insert(offset / BLOCK as u64 + i as u64, bytes);
        }
        state.unsynced.push((offset, data.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.fail_sync {
            return Err(eio());
        }
        for (offset, data) in std::mem::take(&mut state.unsynced) {
            for (i, piece) in data.chunks(BLOCK).enumerate() {
                put(&mut state.stable, offset + (i * BLOCK) as u64, piece);
            }
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

    fn space(&self) -> io::Result<Space> {
        let state = self.state();
        Ok(Space { total_bytes: state.limit, available_bytes: state.limit - state.len })
    }
}

#[derive(Debug, Default)]
struct Records {
    headers: BTreeMap<ChunkKey, Vec<u8>>,
    groups: BTreeMap<(ChunkKey, u32), Vec<u8>>,
    fail: Option<IndexError>,
    crash_before_write: bool,
}

/// An index in memory, durable as RocksDB with a synced log is. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct MemIndex {
    records: Arc<Mutex<Records>>,
}

impl MemIndex {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fail_writes(&self, fail: Option<IndexError>) {
        self.records().fail = fail;
    }

    /// What a crash leaves, in a new index.
    pub fn crash(&self) -> MemIndex {
        let records = self.records();
        let left = Records {
            headers: records.headers.clone(),
            groups: records.groups.clone(),
            ..Records::default()
        };
        MemIndex { records: Arc::new(Mutex::new(left)) }
    }

    /// The next write does nothing and says it failed: the crash came after the data.
    pub fn crash_before_write(&self) {
        self.records().crash_before_write = true;
    }

    /// Position of every block there is.
    pub fn positions(&self) -> Vec<u64> {
        let mut out = Vec::new();
        let _ =
            self.each_group(&mut |_, _, group| out.extend(group.slots.iter().flatten().map(|s| s.position)));
        out
    }
}

fn readable<T>(parsed: Result<T, super::record::RecordError>) -> Result<T, IndexError> {
    parsed.map_err(|e| IndexError::Failed(e.to_string()))
}

impl Index for MemIndex {
    fn header(&self, key: ChunkKey) -> Result<Option<Header>, IndexError> {
        self.records().headers.get(&key).map(|b| readable(Header::decode(b))).transpose()
    }

    fn group(&self, key: ChunkKey, group: u32) -> Result<Option<Group>, IndexError> {
        self.records().groups.get(&(key, group)).map(|b| readable(Group::decode(b))).transpose()
    }

    fn groups(&self, key: ChunkKey) -> Result<Vec<(u32, Group)>, IndexError> {
        let records = self.records();
        let range = records.groups.range((key, 0)..=(key, u32::MAX));
        range.map(|((_, n), b)| Ok((*n, readable(Group::decode(b))?))).collect()
    }

    fn headers(&self, after: Option<ChunkKey>, max: usize) -> Result<Vec<(ChunkKey, Header)>, IndexError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let records = self.records();
        let range = records.headers.range((after.map_or(Unbounded, Excluded), Unbounded));
        range.take(max).map(|(k, b)| Ok((*k, readable(Header::decode(b))?))).collect()
    }

    fn each_group(&self, see: &mut dyn FnMut(ChunkKey, u32, &Group)) -> Result<(), IndexError> {
        for ((key, number), bytes) in &self.records().groups {
            see(*key, *number, &readable(Group::decode(bytes))?);
        }
        Ok(())
    }

    fn write(&self, changes: &mut dyn Iterator<Item = IndexChange>) -> Result<(), IndexError> {
        let mut records = self.records();
        if std::mem::take(&mut records.crash_before_write) {
            return Err(IndexError::Failed("crashed".to_owned()));
        }
        if let Some(error) = &records.fail {
            return Err(error.clone());
        }
        for change in changes {
            match change {
                IndexChange::Wipe(key) => records.groups.retain(|(k, _), _| *k != key),
                IndexChange::Header(key, Some(header)) => {
                    records.headers.insert(key, header.encode());
                }
                IndexChange::Header(key, None) => {
                    records.headers.remove(&key);
                }
                IndexChange::Group(key, number, group) if group.is_empty() => {
                    records.groups.remove(&(key, number));
                }
                IndexChange::Group(key, number, group) => {
                    records.groups.insert((key, number), group.encode());
                }
            }
        }
        Ok(())
    }
}
