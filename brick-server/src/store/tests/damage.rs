//! A disk that lies: blocks that rot or are written to the wrong place.

use super::*;

/// Whatever rots or goes astray in the data files, a read returns the right bytes or says that
/// they are corrupt, and so do changes that build on them, pieces and verification.
#[test]
fn rotten_and_stray_blocks_are_detected() {
    let mut met = [0u32; 3];
    for seed in seeds(0, 1_000) {
        let told = Told(seed);
        let mut random = Random(seed);
        let mut machine = machine();
        let limits = Limits { small_bytes: 0, grow_bytes: 1 << 18, ..LIMITS };
        let mut store = try_open(&machine, limits).unwrap();
        let mut model = Model::new();
        let mut damaged = false;
        for _ in 0..20 {
            if random.one_in(6) {
                machine.data.misdirect(random.below(12));
                damaged = true;
                met[0] += 1;
            }
            if random.one_in(6) {
                let positions = machine.index.positions();
                if !positions.is_empty() {
                    machine
                        .data
                        .flip(positions[random.below(positions.len() as u64) as usize], random.next());
                    damaged = true;
                }
            }
            match step(&store, &mut model, &mut random, 40_000) {
                Ok(()) => {}
                Err(StoreError::Corrupt { .. }) => {
                    assert!(damaged);
                    met[1] += 1;
                }
                Err(other) => panic!("{other}"),
            }
            if random.one_in(3) {
                store.commit().unwrap();
            }
        }
        store.commit().unwrap();
        if random.one_in(2) {
            drop(store);
            machine = machine.crash(&mut random);
            store = try_open(&machine, limits).unwrap();
        }
        for (key, (version, bytes)) in &model {
            let pieces: Vec<_> = bytes.chunks(PIECE_BYTES as usize).map(PieceDigest::of).collect();
            match content(&store, *key) {
                Ok(found) => assert!(found == Some((*version, bytes.clone())), "wrong bytes of {key}"),
                Err(StoreError::Corrupt { blocks, .. }) => {
                    assert!(damaged);
                    met[2] += 1;
                    assert_eq!(store.verify(*key).unwrap().1, blocks.len() as u32);
                    let whole = store.pieces(*key);
                    assert!(whole.is_err() || whole == Ok((store.chunk(*key).unwrap(), pieces)));
                    continue;
                }
                Err(other) => panic!("{other}"),
            }
            assert!(store.pieces(*key).unwrap().1 == pieces);
        }
        drop(told);
    }
    if !is_chosen() {
        assert!(met.iter().all(|n| *n > 50), "the seeds no longer meet every case: {met:?}");
    }
}

/// A journal whose disk writes a record to the wrong place, or lets one rot, is refused, unless it
/// did not matter any more.
#[test]
fn damaged_journals_are_detected() {
    let mut refused = 0;
    for seed in seeds(0, 500) {
        let told = Told(seed);
        let mut random = Random(seed);
        let machine = machine();
        let store = open(&machine);
        let mut model = Model::new();
        let at = random.below(6);
        for n in 0..8 {
            if n == at && seed % 2 == 0 {
                machine.journal[0].misdirect(random.below(40));
            }
            step(&store, &mut model, &mut random, 8_000).unwrap();
            // Something to commit, each time.
            write(&store, key(9), 0, &random.bytes(5)).unwrap();
            store.commit().unwrap();
        }
        drop(store);
        if seed % 2 == 1 {
            // The first records; the last one can't be told from one that a crash cut off.
            machine.journal[0].poke(8192 + random.below(3000), &[random.next() as u8 | 1, 0x55]);
        }
        let machine = machine.crash(&mut random);
        match try_open(&machine, LIMITS) {
            Err(StoreError::Failed(why)) => {
                assert!(why.contains("the journal is damaged"), "{why}");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
            Ok(store) => {
                for (key, state) in &model {
                    assert!(content(&store, *key).unwrap().as_ref() == Some(state), "wrong bytes of {key}");
                }
            }
        }
        drop(told);
    }
    assert!(is_chosen() || refused > 300, "{refused}");
}
