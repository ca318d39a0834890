//! What a store does, call by call.

use super::super::Pressure;
use super::super::index::IndexError;
use super::*;

/// A bit that rots is found by reads, by changes that build on it and by verification; the
/// right bytes put it right, others do not.
#[test]
fn flipped_bits_are_found() {
    for seed in seeds(0, 50) {
        let told = Told(seed);
        let mut random = Random(seed);
        let machine = machine();
        let (disk, index) = (&machine.data, &machine.index);
        let store = open(&machine);
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
        nothing_leaks(&store, index);
        drop(told);
    }
}

/// A block that nobody can read goes to another store as its checksum: the copy has the digest of the original,
/// reads fail there as they do here, all other bytes are right, and the right bytes put it right.
#[test]
fn a_lost_block_is_copied_as_lost() {
    let (machine, other) = (machine(), machine());
    let (from, to) = (open(&machine), open(&other));
    let bytes = Random(7).bytes(100_000);
    let header = write(&from, key(0), 0, &bytes).unwrap();
    from.commit().unwrap();
    let bad = 3;
    machine.data.flip(machine.index.positions()[bad as usize], 5);
    let (found, lost) = from.read_what_is_left(key(0), 0, 100_000).unwrap();
    assert_eq!(found.version, header.version);
    assert_eq!(lost.iter().map(|lost| lost.block).collect::<Vec<_>>(), [bad]);
    let hole = (bad * BLOCK_BYTES) as usize..((bad + 1) * BLOCK_BYTES) as usize;
    let mut left = bytes.clone();
    left[hole.clone()].fill(0);
    assert_eq!(found.data, left);

    let mut staged = Staged::new();
    to.stage(&mut staged, 0, &found.data.slice(..hole.start)).unwrap();
    to.stage_lost(&mut staged, lost[0]).unwrap();
    to.stage(&mut staged, hole.end as u32, &found.data.slice(hole.end..)).unwrap();
    assert_eq!(staged.digest(), header.digest);
    to.switch(key(0), header.chain, header.version, header.len, staged).unwrap();
    to.commit().unwrap();
    drop(to);
    let to = open(&other);
    let corrupt = StoreError::Corrupt { key: key(0), version: header.version, blocks: vec![bad] };
    assert_eq!(to.read(key(0), 0, 100_000), Err(corrupt.clone()));
    assert_eq!(to.pieces(key(0)), Err(corrupt));
    assert_eq!(to.verify(key(0)).unwrap().1, 1);
    assert_eq!(to.read(key(0), 0, hole.start as u32).unwrap().data, bytes[..hole.start]);
    assert!(!to.repair(key(0), header.version, bad, &[0; 4096]).unwrap());
    assert!(to.repair(key(0), header.version, bad, &bytes[hole]).unwrap());
    assert_eq!(content(&to, key(0)).unwrap().unwrap(), (header.version.0, bytes));
    to.commit().unwrap();
    nothing_leaks(&to, &other.index);
}

/// A full disk takes no new data, and everything else: reads, deletes, holes, commits. What
/// was freed can be used again.
#[test]
fn a_full_disk_refuses_new_data_only() {
    let machine = Machine::new(4 << 20, SEGMENT);
    let index = &machine.index;
    let store = open(&machine);
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
    nothing_leaks(&store, index);
}

/// A full store says that it is full, though its disk has room left: less than what it grows by.
#[test]
fn room_that_cannot_be_taken_is_not_told() {
    let machine = Machine::new((4 << 20) + LIMITS.grow_bytes / 2, SEGMENT);
    let store = open(&machine);
    let piece = vec![7; 100_000];
    let told = store.usage().free_bytes;
    let mut written = 0u64;
    while write(&store, ChunkKey { ino: Ino(1), index: written }, 0, &piece).is_ok() {
        written += 1;
    }
    let left = store.usage().free_bytes;
    assert!(left < 102_400, "{left} bytes are told to be free, and 100,000 are refused");
    let taken = told - left;
    assert!(taken <= written * 102_400 + (256 << 10), "{told} were told, {written} times 100,000 taken");
}

/// A disk that fails to write, flush or read is not used any more, and what was committed before
/// is there after a restart.
#[test]
fn a_failed_disk_is_not_used_any_more() {
    let large = vec![1; 100_000];
    for how in 0..5 {
        let machine = machine();
        let store = open(&machine);
        write(&store, key(0), 0, &large).unwrap();
        store.commit().unwrap();
        let failed = match how {
            0 => {
                machine.data.fail_writes(true);
                write(&store, key(0), 0, &[2; 100_000]).map(drop)
            }
            1 => {
                write(&store, key(0), 0, &[2; 100_000]).unwrap();
                machine.data.fail_sync(true);
                store.commit()
            }
            2 => {
                machine.data.fail_reads(true);
                store.read(key(0), 0, 9).map(drop)
            }
            3 => {
                write(&store, key(0), 0, b"lost").unwrap();
                machine.journal[0].fail_writes(true);
                store.commit()
            }
            _ => {
                write(&store, key(0), 0, b"perhaps lost").unwrap();
                machine.journal[0].fail_sync(true);
                store.commit()
            }
        };
        assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
        for disk in [&machine.data, &machine.journal[0]] {
            disk.fail_reads(false);
            disk.fail_writes(false);
            disk.fail_sync(false);
        }
        assert!(matches!(store.read(key(0), 0, 9), Err(StoreError::Failed(_))));
        assert!(matches!(store.commit(), Err(StoreError::Failed(_))));
        assert!(store.failure().is_some());
        let store = open(&machine.crash(&mut Random(how)));
        let (version, bytes) = content(&store, key(0)).unwrap().unwrap();
        if how < 4 || version == 1 {
            assert!((version, bytes) == (1, large.clone()), "{version}");
        } else {
            assert_eq!((version, &bytes[..13]), (2, &b"perhaps lost\x01"[..]));
        }
    }
}

/// An index without room refuses the commit and loses nothing: the next one carries it out,
/// together with what came after.
#[test]
fn a_commit_without_room_is_made_up_for() {
    let machine = machine();
    let index = &machine.index;
    let store = open(&machine);
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
    nothing_leaks(&store, index);
    let store = open(&machine.crash(&mut Random(1)));
    assert_eq!(content(&store, key(0)).unwrap().unwrap(), (2, b"firsecond".to_vec()));
}

/// A change that was prepared on another version is refused; what was prepared and dropped
/// leaves no block behind.
#[test]
fn prepared_changes_leave_nothing_behind() {
    let machine = machine();
    let index = &machine.index;
    let store = open(&machine);
    write(&store, key(0), 0, &[1; 5000]).unwrap();
    let change = Change::Write { offset: 10 };
    let data = Bytes::from(vec![2; 9000]);
    let (a, b) = (
        store.prepare(key(0), ChunkVersion(1), change, &data).unwrap(),
        store.prepare(key(0), ChunkVersion(1), change, &data).unwrap(),
    );
    assert_eq!(store.publish(a, CHAIN, None, ChunkVersion(2)).unwrap().version, ChunkVersion(2));
    assert_eq!(store.publish(b, CHAIN, None, ChunkVersion(2)), Err(StoreError::Version(ChunkVersion(2))));
    drop(store.prepare(key(0), ChunkVersion(2), change, &data).unwrap());
    let stale = store.prepare(key(0), ChunkVersion(1), change, &data);
    assert_eq!(stale.unwrap_err(), StoreError::Version(ChunkVersion(2)));
    let mut staged = Staged::new();
    store.stage(&mut staged, 0, &data).unwrap();
    assert_eq!(store.stage(&mut staged, 4096, &data), Err(StoreError::Range));
    drop(staged);
    store.commit().unwrap();
    nothing_leaks(&store, index);
    let header = store.chunk(key(0)).unwrap().unwrap();
    assert_eq!((header.writer, header.len, header.blocks), (None, 9010, 3));
}

/// Pages join up to the whole list, whatever is durable, changed or removed since.
#[test]
fn listings_join_up() {
    let machine = machine();

    let store = open(&machine);
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
    let machine = machine();
    let index = &machine.index;
    let store = open(&machine);
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
    nothing_leaks(&store, index);
}
