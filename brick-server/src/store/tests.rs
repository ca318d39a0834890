//! The real store over a faulty disk, against a plain model.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use proptest::prelude::*;
use wire::brick::{Change, Extent, WriterId};
use wire::chunk::{BLOCK_BYTES, ChunkKey};
use wire::id::{CallSeq, ChainId, ChunkVersion, Ino, SessionId};

use super::faulty::{FaultyDisk, MemIndex, Random};
use super::index::IndexError;
use super::record::BLOCK;
use super::{ChunkStore, Engine, Header, Limits, PIECE_BYTES, PieceDigest, Pressure, Staged, StoreError};

type TestStore = Engine<FaultyDisk, MemIndex>;

const CHAIN: ChainId = ChainId(3);
const LIMITS: Limits =
    Limits { min_free_percent: 0, grow_bytes: 1 << 20, overlay_entries: 1 << 20, overlay_bytes: 1 << 40 };

fn open(disk: &FaultyDisk, index: &MemIndex) -> TestStore {
    Engine::open(disk.clone(), index.clone(), LIMITS, Arc::new(AtomicU64::new(1))).unwrap()
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
    store.publish(prepared, CHAIN, Some(writer(base.0)))
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
    match random.below(10) {
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

/// After a commit every block in use belongs to exactly one chunk.
fn nothing_leaks(store: &TestStore, index: &MemIndex) {
    let positions = index.positions();
    assert_eq!(store.taken_blocks(), positions.len() as u64, "blocks leaked");
    let blocks: u64 = store.list(None, None, 100).unwrap().0.iter().map(|(_, h)| u64::from(h.blocks)).sum();
    assert_eq!(blocks, positions.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Random changes, commits and clean restarts, against a vector of bytes.
    #[test]
    fn random_changes_match_the_model(seed in any::<u64>()) {
        let (disk, index) = (FaultyDisk::new(1 << 30), MemIndex::default());
        let mut random = Random(seed);
        let mut store = open(&disk, &index);
        let mut model = Model::new();
        for _ in 0..60 {
            step(&store, &mut model, &mut random, 200_000).unwrap();
            if random.one_in(10) {
                store.commit().unwrap();
                nothing_leaks(&store, &index);
            }
            if random.one_in(20) {
                store.commit().unwrap();
                drop(store);
                store = open(&disk, &index);
            }
            if random.one_in(8) {
                compare(&store, &model);
            }
        }
        compare(&store, &model);
        // Equal content has equal digests, whatever blocks hold it.
        for (key, (_, bytes)) in &model {
            let other = ChunkKey { ino: Ino(99), index: 0 };
            write(&store, other, 0, bytes.iter().copied().chain([0]).collect::<Vec<_>>().as_slice()).unwrap();
            prop_assert_eq!(store.chunk(other).unwrap().unwrap().digest, store.chunk(*key).unwrap().unwrap().digest);
            store.remove(other, ChunkVersion(u64::MAX)).unwrap();
        }
    }
}

/// The seeds to run: `BRICKYARD_SEED` alone, or as many as `BRICKYARD_SEEDS` says.
fn seeds(default: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("BRICKYARD_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("BRICKYARD_SEEDS").unwrap_or(default)).collect(),
    }
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

/// Every state a chunk was acknowledged in, from the last committed one on.
type Histories = BTreeMap<ChunkKey, Vec<Option<(u64, Vec<u8>)>>>;

fn remember(histories: &mut Histories, model: &Model) {
    for n in 0..6 {
        let state = model.get(&key(n)).cloned();
        let history = histories.entry(key(n)).or_insert_with(|| vec![None]);
        if history.last() != Some(&state) {
            history.push(state);
        }
    }
}

/// Power is lost at any moment, also within a commit, on a disk that tears and loses what
/// was not synced, that is sometimes small and sometimes fails: each chunk is at an
/// acknowledged state not older than the committed one, bytes and all, and no block is lost.
#[test]
fn crashes_keep_what_was_committed() {
    let mut seen = [0u32; 4];
    for seed in seeds(400) {
        let told = Told(seed);
        let mut random = Random(seed);
        let limit = if random.one_in(4) { 2 << 20 } else { 1 << 30 };
        let (mut disk, mut index) = (FaultyDisk::new(limit), MemIndex::default());
        let mut model = Model::new();
        let mut histories = Histories::new();
        for _life in 0..4 {
            let store = open(&disk, &index);
            nothing_leaks(&store, &index);
            // What is there must be one of the states it may be in, for each chunk by itself.
            for n in 0..6 {
                let found = content(&store, key(n)).unwrap();
                let history = histories.entry(key(n)).or_insert_with(|| vec![None]);
                let versions = || history.iter().map(|h| h.as_ref().map(|h| h.0)).collect::<Vec<_>>();
                let version = found.as_ref().map(|f| f.0);
                assert!(history.contains(&found), "chunk {} at {version:?} of {:?}", key(n), versions());
                match &found {
                    Some(state) => model.insert(key(n), state.clone()),
                    None => model.remove(&key(n)),
                };
                *history = vec![found];
            }
            compare(&store, &model);
            for _ in 0..random.below(40) {
                match step(&store, &mut model, &mut random, if limit > 1 << 28 { 60_000 } else { 900_000 }) {
                    Ok(()) => remember(&mut histories, &model),
                    Err(StoreError::NoSpace) => seen[0] += 1,
                    Err(StoreError::Failed(_)) => {
                        seen[1] += 1;
                        break;
                    }
                    Err(other) => panic!("{other}"),
                }
                if random.one_in(6) {
                    match store.commit() {
                        Ok(()) => {}
                        Err(_) => break,
                    }
                    seen[2] += 1;
                    nothing_leaks(&store, &index);
                    for history in histories.values_mut() {
                        history.drain(..history.len() - 1);
                    }
                }
                match random.below(150) {
                    0 => disk.fail_writes(true),
                    1 => disk.fail_sync(true),
                    2 => disk.fail_reads(true),
                    _ => {}
                }
            }
            if random.one_in(3) {
                // The crash comes between the data and the index.
                index.crash_before_write();
                let _ = store.commit();
                seen[3] += 1;
            }
            drop(store);
            disk = disk.crash(&mut random);
            index = index.crash();
        }
        drop(told);
    }
    if std::env::var("BRICKYARD_SEED").is_err() {
        assert!(seen.iter().all(|n| *n > 20), "the seeds no longer meet every case: {seen:?}");
    }
}

/// A bit that rots is found by reads, by changes that build on it and by verification; the
/// right bytes put it right, others do not.
#[test]
fn flipped_bits_are_found() {
    for seed in seeds(50) {
        let told = Told(seed);
        let mut random = Random(seed);
        let (disk, index) = (FaultyDisk::new(1 << 30), MemIndex::default());
        let store = open(&disk, &index);
        let bytes = random.bytes(100_000);
        let version = write(&store, key(0), 0, &bytes).unwrap().version;
        store.commit().unwrap();
        let positions = index.positions();
        let block = random.below(positions.len() as u64) as u32;
        disk.flip(positions[block as usize], random.next());
        let start = block * BLOCK_BYTES;
        let found = store.read(key(0), start, 10);
        let corrupt = StoreError::Corrupt { key: key(0), version, blocks: vec![block] };
        assert_eq!(found, Err(corrupt.clone()));
        assert_eq!(write(&store, key(0), start + 1, b"x"), Err(corrupt));
        assert_eq!(store.verify(key(0)).unwrap().1, 1);
        let end = bytes.len().min((start + BLOCK_BYTES) as usize);
        let right = &bytes[start as usize..end];
        assert!(!store.repair(key(0), version, block, &right[1..]).unwrap());
        assert!(!store.repair(key(0), ChunkVersion(9), block, right).unwrap());
        assert!(store.repair(key(0), version, block, right).unwrap());
        assert_eq!(content(&store, key(0)).unwrap().unwrap(), (version.0, bytes));
        store.commit().unwrap();
        nothing_leaks(&store, &index);
        drop(told);
    }
}

/// A full disk takes no new data, and everything else: reads, deletes, holes, commits. What
/// was freed can be used again.
#[test]
fn a_full_disk_refuses_new_data_only() {
    let (disk, index) = (FaultyDisk::new(4 << 20), MemIndex::default());
    let store = open(&disk, &index);
    let mut written = 0u64;
    let piece = vec![7; 100_000];
    let full = loop {
        match write(&store, ChunkKey { ino: Ino(1), index: written }, 0, &piece) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, StoreError::NoSpace);
    assert!(written > 20, "{written}");
    store.commit().unwrap();
    assert_eq!(store.failure(), None);
    for index in 0..written {
        assert_eq!(content(&store, ChunkKey { ino: Ino(1), index }).unwrap().unwrap().1, piece);
    }
    let first = ChunkKey { ino: Ino(1), index: 0 };
    apply(&store, first, Change::Punch { offset: 100, len: 5000 }, &[]).unwrap();
    assert!(store.cut(first, 50_001).unwrap().is_some());
    store.remove(ChunkKey { ino: Ino(1), index: 1 }, ChunkVersion(9)).unwrap().unwrap();
    // Not before it is durable that nobody needs the old blocks.
    assert_eq!(write(&store, key(0), 0, &piece), Err(StoreError::NoSpace));
    store.commit().unwrap();
    write(&store, key(0), 0, &piece).unwrap();
    store.commit().unwrap();
    nothing_leaks(&store, &index);
}

/// A disk that fails to write or to flush is not used any more, and what was committed before
/// is there after a restart.
#[test]
fn a_failed_disk_is_not_used_any_more() {
    for how in 0..3 {
        let (disk, index) = (FaultyDisk::new(1 << 30), MemIndex::default());
        let store = open(&disk, &index);
        write(&store, key(0), 0, b"committed").unwrap();
        store.commit().unwrap();
        let failed = match how {
            0 => {
                disk.fail_writes(true);
                write(&store, key(0), 0, b"lost").map(drop)
            }
            1 => {
                write(&store, key(0), 0, b"lost").unwrap();
                disk.fail_sync(true);
                store.commit()
            }
            _ => {
                disk.fail_reads(true);
                store.read(key(0), 0, 9).map(drop)
            }
        };
        assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
        disk.fail_reads(false);
        disk.fail_writes(false);
        disk.fail_sync(false);
        assert!(matches!(store.read(key(0), 0, 9), Err(StoreError::Failed(_))));
        assert!(matches!(store.commit(), Err(StoreError::Failed(_))));
        assert!(store.failure().is_some());
        let (disk, index) = (disk.crash(&mut Random(how)), index.crash());
        let store = open(&disk, &index);
        assert_eq!(content(&store, key(0)).unwrap().unwrap(), (1, b"committed".to_vec()));
    }
}

/// An index without room refuses the commit and loses nothing: the next one carries it out,
/// together with what came after.
#[test]
fn a_commit_without_room_is_made_up_for() {
    let (disk, index) = (FaultyDisk::new(1 << 30), MemIndex::default());
    let store = open(&disk, &index);
    write(&store, key(0), 0, b"first").unwrap();
    index.fail_writes(Some(IndexError::NoSpace("full".to_owned())));
    assert_eq!(store.commit(), Err(StoreError::NoSpace));
    write(&store, key(0), 3, b"second").unwrap();
    assert_eq!(store.commit(), Err(StoreError::NoSpace));
    assert_eq!(content(&store, key(0)).unwrap().unwrap(), (2, b"firsecond".to_vec()));
    assert!(store.pressure() > Pressure::Clean);
    index.fail_writes(None);
    store.commit().unwrap();
    assert_eq!(store.pressure(), Pressure::Clean);
    nothing_leaks(&store, &index);
    let store = open(&disk.crash(&mut Random(1)), &index.crash());
    assert_eq!(content(&store, key(0)).unwrap().unwrap(), (2, b"firsecond".to_vec()));
}

/// A change that was prepared on another version is refused; what was prepared and dropped
/// leaves no block behind.
#[test]
fn prepared_changes_leave_nothing_behind() {
    let (disk, index) = (FaultyDisk::new(1 << 30), MemIndex::default());
    let store = open(&disk, &index);
    write(&store, key(0), 0, &[1; 5000]).unwrap();
    let change = Change::Write { offset: 10 };
    let data = Bytes::from(vec![2; 9000]);
    let (a, b) = (
        store.prepare(key(0), ChunkVersion(1), change, &data).unwrap(),
        store.prepare(key(0), ChunkVersion(1), change, &data).unwrap(),
    );
    assert_eq!(store.publish(a, CHAIN, None).unwrap().version, ChunkVersion(2));
    assert_eq!(store.publish(b, CHAIN, None), Err(StoreError::Version(ChunkVersion(2))));
    drop(store.prepare(key(0), ChunkVersion(2), change, &data).unwrap());
    let stale = store.prepare(key(0), ChunkVersion(1), change, &data);
    assert_eq!(stale.unwrap_err(), StoreError::Version(ChunkVersion(2)));
    let mut staged = Staged::new();
    store.stage(&mut staged, 0, &data).unwrap();
    assert_eq!(store.stage(&mut staged, 4096, &data), Err(StoreError::Range));
    drop(staged);
    store.commit().unwrap();
    nothing_leaks(&store, &index);
    let header = store.chunk(key(0)).unwrap().unwrap();
    assert_eq!((header.writer, header.len, header.blocks), (None, 9010, 3));
}

/// Pages join up to the whole list, whatever is durable, changed or removed since.
#[test]
fn listings_join_up() {
    let (disk, index) = (FaultyDisk::new(1 << 30), MemIndex::default());
    let store = open(&disk, &index);
    let mut random = Random(5);
    let mut expected = BTreeMap::new();
    for round in 0..4 {
        for _ in 0..60 {
            let key = ChunkKey { ino: Ino(random.below(10)), index: random.below(10) };
            if random.one_in(3) {
                store.remove(key, ChunkVersion(u64::MAX)).unwrap();
                expected.remove(&key);
            } else {
                expected.insert(key, write(&store, key, 0, b"x").unwrap());
            }
        }
        for max in [1, 2, 3, 7, 1000] {
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let (page, end) = store.list(Some(CHAIN), after, max).unwrap();
                assert!(page.len() <= max);
                after = page.last().map(|(key, _)| *key).or(after);
                all.extend(page);
                if end {
                    break;
                }
            }
            assert_eq!(all, expected.clone().into_iter().collect::<Vec<_>>());
        }
        assert_eq!(store.list(Some(ChainId(9)), None, 10).unwrap(), (vec![], true));
        if round % 2 == 0 {
            store.commit().unwrap();
        }
    }
}

/// Readers and writers of the same chunks in many threads: every read is one of the written
/// contents, whole.
#[test]
fn readers_see_whole_versions() {
    let (disk, index) = (FaultyDisk::new(1 << 30), MemIndex::default());
    let store = open(&disk, &index);
    write(&store, key(0), 0, &[0; 50_000]).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, done) = (&store, &done);
        scope.spawn(move || {
            for n in 1..200u8 {
                write(store, key(0), 0, &[n; 50_000]).unwrap();
                if n.is_multiple_of(5) {
                    store.commit().unwrap();
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(move || {
                let mut last = 0;
                while last < 199 && !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let read = store.read(key(0), 0, 50_000).unwrap();
                    assert!(read.data.iter().all(|b| *b == read.data[0]), "a torn read");
                    assert!(read.data[0] >= last, "went back");
                    last = read.data[0];
                }
            });
        }
    });
    store.commit().unwrap();
    nothing_leaks(&store, &index);
}
