//! Random changes without faults.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Random changes, commits and clean restarts, against a vector of bytes.
    #[test]
    fn random_changes_match_the_model(seed in any::<u64>()) {
        let machine = machine();
        let index = &machine.index;
        let mut random = Random(seed);
        let mut store = open(&machine);
        let mut model = Model::new();
        for _ in 0..60 {
            step(&store, &mut model, &mut random, 200_000).unwrap();
            if random.one_in(10) {
                store.commit().unwrap();
                nothing_leaks(&store, index);
            }
            if random.one_in(20) {
                store.commit().unwrap();
                drop(store);
                store = open(&machine);
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
