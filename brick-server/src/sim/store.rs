//! A store in memory that forgets in a crash what was not committed, wholly or in part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use wire::brick::{Change, Extent, LostBlock, WriterId};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_CHUNK_BYTES};
use wire::id::{ChainId, ChunkVersion, Ino};

use crate::brick::lock;
use crate::sim::world::World;
use crate::store::{
    ChunkStore, Header, PIECE_BYTES, PieceDigest, Prepared, Pressure, ReadBytes, Renewal, Shrunk, Staged,
    StoreCounters, StoreError, Usage,
};

const BLOCK: usize = BLOCK_BYTES as usize;

type Block = Arc<[u8; BLOCK]>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub header: Header,
    pub blocks: BTreeMap<u32, Block>,
}

/// What is on a disk.
pub type Disk = BTreeMap<ChunkKey, Chunk>;

#[derive(Debug, Default)]
struct State {
    committed: Disk,
    live: Disk,
    /// What was published since the last commit, in order.
    log: Vec<(ChunkKey, Option<Chunk>)>,
    failure: Option<String>,
    full: bool,
    stuffed: bool,
}

/// See the module's head. One life of a disk.
#[derive(Debug)]
pub struct SimStore {
    state: Mutex<State>,
}

struct Edit {
    key: ChunkKey,
    base: ChunkVersion,
    end: u32,
    blocks: Vec<(u32, Option<Block>)>,
}

type Parts = BTreeMap<u32, Block>;

fn digest_of(block: u32, bytes: &[u8; BLOCK]) -> u64 {
    if bytes.iter().all(|b| *b == 0) {
        return 0;
    }
    let mut x =
        (u64::from(block) << 32 | u64::from(crc32c::crc32c(bytes))).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 31)
}

fn digest(blocks: &BTreeMap<u32, Block>) -> u64 {
    blocks.iter().fold(0, |sum: u64, (block, bytes)| sum.wrapping_add(digest_of(*block, bytes)))
}

impl State {
    fn check(&self) -> Result<(), StoreError> {
        self.failure.as_ref().map_or(Ok(()), |why| Err(StoreError::Failed(why.clone())))
    }

    fn put(&mut self, key: ChunkKey, chunk: Option<Chunk>) {
        match &chunk {
            Some(chunk) => self.live.insert(key, chunk.clone()),
            None => self.live.remove(&key),
        };
        self.log.push((key, chunk));
    }
}

impl SimStore {
    /// What a disk holds, in a new life.
    pub fn open(disk: Disk) -> SimStore {
        SimStore { state: Mutex::new(State { live: disk.clone(), committed: disk, ..State::default() }) }
    }

    /// The power fails: what was committed stays, of the rest what was first, as far as the
    /// dice say.
    pub fn crash(&self, world: &World) -> Disk {
        let mut state = lock(&self.state);
        state.failure = Some("crashed".to_owned());
        let log = std::mem::take(&mut state.log);
        let kept = match world.dice.below(3) {
            0 => world.dice.below(log.len() as u64 + 1) as usize,
            _ => 0,
        };
        let mut disk = std::mem::take(&mut state.committed);
        for (key, chunk) in log.into_iter().take(kept) {
            match chunk {
                Some(chunk) => disk.insert(key, chunk),
                None => disk.remove(&key),
            };
        }
        disk
    }

    pub fn set_full(&self, full: bool) {
        let mut state = lock(&self.state);
        (state.full, state.stuffed) = (full, false);
    }

    /// Full to the last byte: nothing can be committed either.
    pub fn stuff(&self) {
        let mut state = lock(&self.state);
        (state.full, state.stuffed) = (true, true);
    }

    pub fn contents(&self) -> Disk {
        lock(&self.state).live.clone()
    }
}

fn bytes_of(chunk: &Chunk, offset: u32, end: u32) -> Vec<u8> {
    let mut out = vec![0; (end - offset) as usize];
    let first = offset / BLOCK_BYTES;
    for (block, bytes) in chunk.blocks.range(first..=(end - 1) / BLOCK_BYTES) {
        let start = block * BLOCK_BYTES;
        let (from, to) = (offset.max(start), end.min(start + BLOCK_BYTES));
        out[(from - offset) as usize..(to - offset) as usize]
            .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
    }
    out
}

impl ChunkStore for SimStore {
    fn chunk(&self, key: ChunkKey) -> Result<Option<Header>, StoreError> {
        let state = lock(&self.state);
        state.check()?;
        Ok(state.live.get(&key).map(|chunk| chunk.header))
    }

    fn read(&self, key: ChunkKey, offset: u32, len: u32) -> Result<ReadBytes, StoreError> {
        let state = lock(&self.state);
        state.check()?;
        let Some(chunk) = state.live.get(&key) else {
            return Ok(ReadBytes { version: ChunkVersion(0), data: Bytes::new() });
        };
        let end = offset.saturating_add(len).min(chunk.header.len);
        let data = if offset < end { bytes_of(chunk, offset, end) } else { Vec::new() };
        Ok(ReadBytes { version: chunk.header.version, data: data.into() })
    }

    fn read_what_is_left(
        &self,
        key: ChunkKey,
        offset: u32,
        len: u32,
    ) -> Result<(ReadBytes, Vec<LostBlock>), StoreError> {
        // No block of this disk rots.
        self.read(key, offset, len).map(|found| (found, Vec::new()))
    }

    fn prepare(
        &self,
        key: ChunkKey,
        base: ChunkVersion,
        change: Change,
        data: &Bytes,
    ) -> Result<Prepared, StoreError> {
        let state = lock(&self.state);
        state.check()?;
        let old = state.live.get(&key);
        let version = old.map_or(ChunkVersion(0), |chunk| chunk.header.version);
        if version != base {
            return Err(StoreError::Version(version));
        }
        let Change::Write { offset } = change else { return Err(StoreError::Range) };
        if state.full {
            return Err(StoreError::NoSpace);
        }
        let end = offset + data.len() as u32;
        let mut blocks = Vec::new();
        for block in offset / BLOCK_BYTES..=(end - 1) / BLOCK_BYTES {
            let start = block * BLOCK_BYTES;
            let mut bytes = old.and_then(|chunk| chunk.blocks.get(&block)).map_or([0; BLOCK], |b| **b);
            let (from, to) = (offset.max(start), end.min(start + BLOCK_BYTES));
            bytes[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            blocks.push((block, Some(Arc::new(bytes))));
        }
        Ok(Prepared::new(Edit { key, base, end, blocks }))
    }

    fn publish(
        &self,
        prepared: Prepared,
        chain: ChainId,
        writer: Option<WriterId>,
        to: ChunkVersion,
    ) -> Result<Header, StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        let Edit { key, base, end, blocks } = prepared.open()?;
        let found = state.live.get(&key).cloned();
        let version = found.as_ref().map_or(ChunkVersion(0), |chunk| chunk.header.version);
        if version != base {
            return Err(StoreError::Version(version));
        }
        if to <= base {
            return Err(StoreError::Range);
        }
        let empty = Header { chain, version, len: 0, blocks: 0, digest: 0, delta_blocks: 0, writer };
        let mut chunk = found.unwrap_or(Chunk { header: empty, blocks: BTreeMap::new() });
        for (block, bytes) in blocks {
            match bytes {
                Some(bytes) => chunk.blocks.insert(block, bytes),
                None => chunk.blocks.remove(&block),
            };
        }
        let header = &mut chunk.header;
        header.chain = chain;
        header.version = to;
        header.len = header.len.max(end);
        header.writer = writer;
        header.delta_blocks = chunk.blocks.len() as i32 - header.blocks as i32;
        header.blocks = chunk.blocks.len() as u32;
        header.digest = digest(&chunk.blocks);
        let header = *header;
        state.put(key, Some(chunk));
        Ok(header)
    }

    fn stage(&self, staged: &mut Staged, offset: u32, data: &Bytes) -> Result<(), StoreError> {
        let state = lock(&self.state);
        state.check()?;
        if state.full {
            return Err(StoreError::NoSpace);
        }
        if data.is_empty() {
            return Ok(());
        }
        let mut parts: Parts = staged.take()?;
        let next = parts.last_key_value().map_or(0, |(block, _)| (block + 1) * BLOCK_BYTES);
        if !offset.is_multiple_of(BLOCK_BYTES) || offset < next {
            return Err(StoreError::Range);
        }
        for (at, piece) in (offset / BLOCK_BYTES..).zip(data.chunks(BLOCK)) {
            let mut bytes = [0; BLOCK];
            bytes[..piece.len()].copy_from_slice(piece);
            parts.insert(at, Arc::new(bytes));
        }
        staged.put(digest(&parts), parts);
        Ok(())
    }

    fn stage_lost(&self, _: &mut Staged, _: LostBlock) -> Result<(), StoreError> {
        Err(StoreError::Range)
    }

    fn switch(
        &self,
        key: ChunkKey,
        chain: ChainId,
        version: ChunkVersion,
        len: u32,
        mut staged: Staged,
    ) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        let blocks: Parts = staged.take()?;
        if len > MAX_CHUNK_BYTES || version.0 == 0 {
            return Err(StoreError::Range);
        }
        let header = Header {
            chain,
            version,
            len,
            blocks: blocks.len() as u32,
            digest: digest(&blocks),
            delta_blocks: 0,
            writer: None,
        };
        state.put(key, Some(Chunk { header, blocks }));
        Ok(())
    }

    fn set_version(&self, key: ChunkKey, chain: ChainId, version: ChunkVersion) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        let empty = Header { chain, version, len: 0, blocks: 0, digest: 0, delta_blocks: 0, writer: None };
        let mut chunk =
            state.live.get(&key).cloned().unwrap_or(Chunk { header: empty, blocks: BTreeMap::new() });
        chunk.header.version = version;
        chunk.header.chain = chain;
        state.put(key, Some(chunk));
        Ok(())
    }

    fn remove(&self, key: ChunkKey, up_to: ChunkVersion) -> Result<Option<Shrunk>, StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        let Some(before) = state.live.get(&key).map(|c| c.header).filter(|h| h.version <= up_to) else {
            return Ok(None);
        };
        state.put(key, None);
        Ok(Some(Shrunk { before, freed_blocks: before.blocks }))
    }

    fn cut(&self, _: ChunkKey, _: u32) -> Result<Option<Shrunk>, StoreError> {
        Err(StoreError::Range)
    }

    fn repair(&self, _: ChunkKey, _: ChunkVersion, _: u32, _: &[u8]) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn list(
        &self,
        chain: Option<ChainId>,
        after: Option<ChunkKey>,
        max: usize,
    ) -> Result<(Vec<(ChunkKey, Header)>, bool), StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let state = lock(&self.state);
        state.check()?;
        let from = after.map_or(Unbounded, Excluded);
        let mut found: Vec<_> = state
            .live
            .range((from, Unbounded))
            .filter(|(_, c)| chain.is_none_or(|chain| c.header.chain == chain))
            .map(|(key, c)| (*key, c.header))
            .take(max + 1)
            .collect();
        let end = found.len() <= max;
        found.truncate(max);
        Ok((found, end))
    }

    fn extents(&self, key: ChunkKey) -> Result<(Option<Header>, Vec<Extent>), StoreError> {
        let state = lock(&self.state);
        state.check()?;
        let Some(chunk) = state.live.get(&key) else { return Ok((None, Vec::new())) };
        let extents = chunk.blocks.keys().filter_map(|block| {
            let offset = block * BLOCK_BYTES;
            let len = BLOCK_BYTES.min(chunk.header.len.saturating_sub(offset));
            (len > 0).then_some(Extent { offset, len })
        });
        Ok((Some(chunk.header), extents.collect()))
    }

    fn pieces(&self, key: ChunkKey) -> Result<(Option<Header>, Vec<PieceDigest>), StoreError> {
        let state = lock(&self.state);
        state.check()?;
        let Some(chunk) = state.live.get(&key) else { return Ok((None, Vec::new())) };
        let len = chunk.header.len;
        let digest = |start: u32| {
            let held = chunk.blocks.range(start / BLOCK_BYTES..(start + PIECE_BYTES) / BLOCK_BYTES);
            if held.clone().next().is_none() {
                return PieceDigest::zeros();
            }
            PieceDigest::of(&bytes_of(chunk, start, len.min(start + PIECE_BYTES)))
        };
        let starts = (0..len).step_by(PIECE_BYTES as usize);
        Ok((Some(chunk.header), starts.map(digest).collect()))
    }

    fn clone_chunk(
        &self,
        _: ChunkKey,
        _: ChunkKey,
        _: ChainId,
        _: ChunkVersion,
    ) -> Result<Option<Header>, StoreError> {
        Err(StoreError::Range)
    }

    fn note_names(&self, _: &[(Ino, Bytes)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn nameless(&self, _: usize) -> Vec<Ino> {
        Vec::new()
    }

    fn renew_names(&self, _: Renewal<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn records(&self) -> u64 {
        0
    }

    fn counters(&self) -> StoreCounters {
        StoreCounters::default()
    }

    fn verify(&self, _: ChunkKey) -> Result<([u8; 32], u32), StoreError> {
        Ok(([0; 32], 0))
    }

    fn commit(&self) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        state.check()?;
        if state.stuffed {
            return Err(StoreError::NoSpace);
        }
        let log = std::mem::take(&mut state.log);
        for (key, chunk) in log {
            match chunk {
                Some(chunk) => state.committed.insert(key, chunk),
                None => state.committed.remove(&key),
            };
        }
        Ok(())
    }

    fn pressure(&self) -> Pressure {
        if lock(&self.state).log.is_empty() { Pressure::Clean } else { Pressure::Some }
    }

    fn usage(&self) -> Usage {
        Usage {
            used_bytes: 0,
            free_bytes: 1 << 40,
            disk_bytes: 0,
            chunks: lock(&self.state).live.len() as u64,
        }
    }

    fn has_room(&self, _: u64) -> bool {
        !lock(&self.state).full
    }

    fn failure(&self) -> Option<String> {
        lock(&self.state).failure.clone()
    }

    fn fail(&self, why: String) {
        lock(&self.state).failure.get_or_insert(why);
    }
}
