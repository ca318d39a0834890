//! Clones.

use super::*;

/// A clone holds what its source held, takes no space, and goes its own way from then on; the
/// blocks of both are free when the last of them is gone, also over restarts.
#[test]
fn clones_share_and_part() {
    let machine = machine();
    let store = open(&machine);
    let mut random = Random(3);
    let bytes = random.bytes(300_000);
    write(&store, key(0), 0, &bytes).unwrap();
    store.commit().unwrap();
    let used = store.taken_blocks();
    for n in 1..4 {
        let header = store.clone_chunk(key(0), key(n), CHAIN, ChunkVersion(5)).unwrap().unwrap();
        assert_eq!((header.version, header.blocks), (ChunkVersion(5), used as u32));
    }
    store.commit().unwrap();
    assert_eq!(store.taken_blocks(), used);
    // Half a block of one of them.
    write(&store, key(1), 70_000, b"its own").unwrap();
    store.commit().unwrap();
    assert_eq!(store.taken_blocks(), used + 1);
    let mut changed = bytes.clone();
    changed[70_000..70_007].copy_from_slice(b"its own");
    drop(store);
    let machine = machine.crash(&mut random);
    let store = open(&machine);
    nothing_leaks(&store, &machine.index);
    for n in [0, 2, 3] {
        assert!(content(&store, key(n)).unwrap().unwrap().1 == bytes, "chunk {n}");
    }
    assert!(content(&store, key(1)).unwrap().unwrap() == (6, changed));
    for n in [0, 3, 2, 1] {
        assert!(store.remove(key(n), ChunkVersion(9)).unwrap().is_some());
        store.commit().unwrap();
        nothing_leaks(&store, &machine.index);
    }
    assert_eq!(store.taken_blocks(), 0);
}

/// There is no clone of a chunk that is none, nor of a chunk on itself.
#[test]
fn odd_clones_are_refused() {
    let machine = machine();
    let store = open(&machine);
    assert_eq!(store.clone_chunk(key(0), key(1), CHAIN, ChunkVersion(1)).unwrap(), None);
    assert_eq!(store.chunk(key(1)).unwrap(), None);
    write(&store, key(0), 0, b"x").unwrap();
    assert_eq!(store.clone_chunk(key(0), key(0), CHAIN, ChunkVersion(2)), Err(StoreError::Range));
    assert_eq!(store.clone_chunk(key(0), key(1), CHAIN, ChunkVersion(0)), Err(StoreError::Range));
}
