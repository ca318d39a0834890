//! The real store over a faulty disk, against a plain model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;
mod clones;
mod crash;
mod damage;
mod journal;
mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use wire::brick::{Change, Extent, WriterId};
use wire::chunk::{BLOCK_BYTES, ChunkKey};
use wire::id::{CallSeq, ChainId, ChunkVersion, Ino, SessionId};

use super::faulty::{FaultyDisk, Machine, MemIndex, Random};
use super::record::BLOCK;
use super::{ChunkStore, Engine, Header, Io, Limits, PIECE_BYTES, PieceDigest, Staged, StoreError};

type TestStore = Engine<FaultyDisk, MemIndex>;

const CHAIN: ChainId = ChainId(3);
const SEGMENT: u64 = 1 << 20;
const LIMITS: Limits = Limits {
    min_free_percent: 0,
    grow_bytes: 1 << 20,
    overlay_entries: 1 << 20,
    overlay_bytes: 1 << 40,
    small_bytes: 64 << 10,
    held_bytes: 1 << 40,
    journal_data_bytes: 64 << 10,
    deferred_bytes: 128 << 10,
    io: Io::Auto,
};

fn try_open(machine: &Machine, limits: Limits) -> Result<TestStore, StoreError> {
    Engine::open(machine.medium(), limits, Arc::new(AtomicU64::new(1)))
}

fn open(machine: &Machine) -> TestStore {
    try_open(machine, LIMITS).unwrap()
}

fn machine() -> Machine {
    Machine::new(1 << 30, SEGMENT)
}

fn key(n: u64) -> ChunkKey {
    ChunkKey { ino: Ino(n / 3), index: n % 3 }
}

fn writer(n: u64) -> WriterId {
    WriterId { session: SessionId(1), seq: CallSeq(n) }
}

fn apply(store: &TestStore, key: ChunkKey, change: Change, data: &[u8]) -> Result<Header, StoreError> {
    let base = store.chunk(key)?.map_or(ChunkVersion(0), |h| h.version);
    let prepared = store.prepare(key, base, change, &Bytes::copy_from_slice(data))?;
    store.publish(prepared, CHAIN, Some(writer(base.0)), ChunkVersion(base.0 + 1))
}

fn write(store: &TestStore, key: ChunkKey, offset: u32, data: &[u8]) -> Result<Header, StoreError> {
    apply(store, key, Change::Write { offset }, data)
}

/// The whole content of a chunk.
fn content(store: &TestStore, key: ChunkKey) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let Some(header) = store.chunk(key)? else { return Ok(None) };
    let read = store.read(key, 0, header.len)?;
    assert_eq!(read.version, header.version);
    assert_eq!(read.data.len(), header.len as usize);
    Ok(Some((header.version.0, read.data.to_vec())))
}

/// What chunks are to be: a version and bytes.
type Model = BTreeMap<ChunkKey, (u64, Vec<u8>)>;

/// One random step on both store and model.
fn step(store: &TestStore, model: &mut Model, random: &mut Random, size: u64) -> Result<(), StoreError> {
    let key = key(random.below(6));
    let old = model.get(&key).cloned();
    let version = old.as_ref().map_or(0, |(v, _)| *v);
    let mut bytes = old.map_or_else(Vec::new, |(_, b)| b);
    match random.below(11) {
        0..=5 => {
            let mut offset = random.below(size);
            let mut len = 1 + random.below(size / 2);
            if random.one_in(2) {
                offset = offset / BLOCK as u64 * BLOCK as u64;
            }
            if random.one_in(2) {
                len = len.next_multiple_of(BLOCK as u64);
            }
            let data = random.bytes(len as usize);
            let end = (offset + len) as usize;
            write(store, key, offset as u32, &data)?;
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset as usize..end].copy_from_slice(&data);
            model.insert(key, (version + 1, bytes));
        }
        6 | 7 => {
            let (offset, len) = (random.below(size) as usize, random.below(size) as usize);
            if version == 0 {
                return Ok(());
            }
            apply(store, key, Change::Punch { offset: offset as u32, len: len as u32 }, &[])?;
            let len_now = bytes.len();
            bytes[offset.min(len_now)..(offset + len).min(len_now)].fill(0);
            model.insert(key, (version + 1, bytes));
        }
        8 => {
            let len = random.below(size) as usize;
            let done = store.cut(key, len as u32)?;
            assert_eq!(done.is_some(), bytes.len() > len);
            if done.is_some() {
                bytes.truncate(len);
                model.insert(key, (version + 1, bytes));
            }
        }
        9 => {
            let from = self::key(random.below(6));
            let Some((_, source)) = model.get(&from).cloned() else {
                assert_eq!(store.clone_chunk(from, self::key(7), CHAIN, ChunkVersion(1))?, None);
                return Ok(());
            };
            if from == key {
                return Ok(());
            }
            let header = store.clone_chunk(from, key, CHAIN, ChunkVersion(version + 2))?.unwrap();
            assert_eq!((header.version.0, header.len as usize), (version + 2, source.len()));
            model.insert(key, (version + 2, source));
        }
        _ if random.one_in(2) => {
            let done = store.remove(key, ChunkVersion(version))?;
            assert_eq!(done.is_some(), version > 0);
            model.remove(&key);
        }
        _ => {
            let len = 1 + random.below(size);
            let data = Bytes::from(random.bytes(len as usize));
            let mut staged = Staged::new();
            let border = (len / 2 / BLOCK as u64) as usize * BLOCK;
            store.stage(&mut staged, 0, &data.slice(..border))?;
            store.stage(&mut staged, border as u32, &data.slice(border..))?;
            store.switch(key, CHAIN, ChunkVersion(version + 2), len as u32, staged)?;
            model.insert(key, (version + 2, data.to_vec()));
        }
    }
    Ok(())
}

/// Everything a store says must be what the model says.
fn compare(store: &TestStore, model: &Model) {
    for n in 0..6 {
        let key = key(n);
        let found = content(store, key).unwrap();
        assert!(
            found.as_ref() == model.get(&key),
            "chunk {key}: versions {:?} and {:?}",
            found.map(|f| f.0),
            model.get(&key).map(|m| m.0)
        );
    }
    let (listed, end) = store.list(None, None, 100).unwrap();
    assert!(end);
    assert_eq!(
        listed.iter().map(|(k, h)| (*k, h.version.0)).collect::<Vec<_>>(),
        model.iter().map(|(k, (v, _))| (*k, *v)).collect::<Vec<_>>()
    );
    assert_eq!(store.usage().chunks, model.len() as u64);
    for (key, (_, bytes)) in model {
        let (hash, corrupt) = store.verify(*key).unwrap();
        assert_eq!((hash, corrupt), (*blake3::hash(bytes).as_bytes(), 0));
        let (header, pieces) = store.pieces(*key).unwrap();
        assert_eq!(header.map(|h| h.len as usize), Some(bytes.len()));
        let digests: Vec<_> = bytes.chunks(PIECE_BYTES as usize).map(PieceDigest::of).collect();
        assert!(pieces == digests, "digests of the pieces of {key}");
        let (header, extents) = store.extents(*key).unwrap();
        let header = header.unwrap();
        assert_eq!(
            extents.iter().map(|e| e.len.next_multiple_of(BLOCK_BYTES)).sum::<u32>(),
            header.blocks * BLOCK_BYTES
        );
        let mut at = 0;
        for Extent { offset, len } in extents {
            assert!(bytes[at as usize..offset as usize].iter().all(|b| *b == 0), "data in a hole");
            at = offset + len;
        }
        assert!(bytes[at as usize..].iter().all(|b| *b == 0), "data in the last hole");
    }
}

/// After a commit every block in use belongs to a chunk, and every chunk's blocks are in use.
fn nothing_leaks(store: &TestStore, index: &MemIndex) {
    let positions = index.positions();
    assert_eq!(
        store.taken_blocks(),
        positions.iter().collect::<std::collections::BTreeSet<_>>().len() as u64,
        "blocks leaked"
    );
    let blocks: u64 = store.list(None, None, 100).unwrap().0.iter().map(|(_, h)| u64::from(h.blocks)).sum();
    assert_eq!(blocks, positions.len() as u64);
}

/// The seeds to run: `BRICKYARD_SEED` alone, or as many from `first` on as is said; with
/// `BRICKYARD_CRASH_RUNS` as many as that instead of `normally`.
fn seeds(first: u64, normally: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("BRICKYARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("BRICKYARD_CRASH_RUNS").unwrap_or(normally),
    }
}

/// Whether somebody chose the seeds: then they need not meet every case.
fn is_chosen() -> bool {
    std::env::var("BRICKYARD_SEED").is_ok() || std::env::var("BRICKYARD_CRASH_RUNS").is_ok()
}

/// Says which seed it was when a test fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with BRICKYARD_SEED={}", self.0);
        }
    }
}
