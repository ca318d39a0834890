//! Power is lost at any moment.

use super::super::index::IndexError;
use super::*;

/// Every state a chunk was acknowledged in, from the last committed one on.
type Histories = BTreeMap<ChunkKey, Vec<Option<(u64, Vec<u8>)>>>;

/// How often the runs met what they are there for.
#[derive(Debug, Default)]
struct Met {
    full_disk: u32,
    failed_disk: u32,
    commits: u32,
    crashes_in_commits: u32,
    checkpoints: u32,
    replayed: u32,
    clones: u32,
}

fn remember(histories: &mut Histories, model: &Model) {
    for n in 0..6 {
        let state = model.get(&key(n)).cloned();
        let history = histories.entry(key(n)).or_insert_with(|| vec![None]);
        if history.last() != Some(&state) {
            history.push(state);
        }
    }
}

/// What this run's store is like: small journals, so that they are trimmed often, and every way a
/// change can take to the disk.
fn limits(random: &mut Random) -> Limits {
    Limits {
        grow_bytes: 1 << 18,
        small_bytes: [0, 4096, 64 << 10][random.below(3) as usize],
        journal_data_bytes: [0, 16 << 10, 64 << 10][random.below(3) as usize],
        deferred_bytes: [0, 16 << 10, 1 << 20][random.below(3) as usize],
        ..LIMITS
    }
}

/// What is there must be one of the states it may be in, for each chunk by itself.
fn judge(store: &TestStore, model: &mut Model, histories: &mut Histories) {
    for n in 0..6 {
        let found = content(store, key(n)).unwrap();
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
}

/// One store from its making through some crashes.
fn run(seed: u64, met: &mut Met) {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let small = random.one_in(5);
    let segment = [32 << 10, 64 << 10, 256 << 10][random.below(3) as usize];
    let mut machine = Machine::new(if small { 1 << 20 } else { 1 << 30 }, segment);
    if random.one_in(4) {
        machine.journal = machine.journal.map(FaultyDisk::with_large_sectors);
    }
    let limits = limits(&mut random);
    // Many changes of a few blocks, or a few of many.
    let size = if small { 400_000 } else { [9_000, 30_000, 150_000][random.below(3) as usize] };
    let mut model = Model::new();
    let mut histories = Histories::new();
    for _life in 0..2 + random.below(2) {
        let store = try_open(&machine, limits).unwrap();
        nothing_leaks(&store, &machine.index);
        judge(&store, &mut model, &mut histories);
        if random.one_in(4) {
            compare(&store, &model);
        }
        for _ in 0..random.below(24) {
            match step(&store, &mut model, &mut random, size) {
                Ok(()) => remember(&mut histories, &model),
                Err(StoreError::NoSpace) => met.full_disk += 1,
                Err(StoreError::Failed(_)) => {
                    met.failed_disk += 1;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
            if random.one_in(5) {
                if random.one_in(30) {
                    machine.index.fail_flushes(Some(IndexError::NoSpace("full".to_owned())));
                }
                match store.commit() {
                    Ok(()) => {}
                    // Nothing is lost: a later commit makes up for it, or a crash leaves less.
                    Err(StoreError::NoSpace) => {
                        machine.index.fail_flushes(None);
                        continue;
                    }
                    Err(_) => {
                        met.failed_disk += 1;
                        break;
                    }
                }
                machine.index.fail_flushes(None);
                met.commits += 1;
                nothing_leaks(&store, &machine.index);
                for history in histories.values_mut() {
                    history.drain(..history.len() - 1);
                }
            }
            match random.below(250) {
                0 => machine.data.fail_writes(true),
                1 => machine.data.fail_sync(true),
                2 => machine.data.fail_reads(true),
                3 => machine.journal[random.below(2) as usize].fail_writes(true),
                4 => machine.journal[random.below(2) as usize].fail_sync(true),
                5 => machine.owners.fail_sync(true),
                _ => {}
            }
        }
        if random.one_in(3) {
            // The crash comes within a commit: some disk does not get to it.
            match random.below(5) {
                0 => machine.index.crash_before_write(),
                1 => machine.data.fail_sync(true),
                2 => machine.data.fail_writes(true),
                _ => machine.journal.iter().for_each(|disk| disk.fail_sync(true)),
            }
            let _ = store.commit();
            met.crashes_in_commits += 1;
        }
        met.checkpoints += store.counters().checkpoints as u32;
        met.clones += u32::from(machine.index.positions().len() as u64 > store.taken_blocks());
        drop(store);
        machine = machine.crash(&mut random);
        met.replayed += u32::from(machine.index.applied_is_behind());
    }
    let store = try_open(&machine, limits).unwrap();
    nothing_leaks(&store, &machine.index);
    judge(&store, &mut model, &mut histories);
    compare(&store, &model);
}

fn run_all(first: u64) {
    let mut met = Met::default();
    let begun = std::time::Instant::now();
    for seed in seeds(first, 1_250) {
        let told = Told(seed);
        run(seed, &mut met);
        drop(told);
    }
    eprintln!("{met:?} in {:?}", begun.elapsed());
    if !is_chosen() {
        let Met { full_disk, failed_disk, commits, crashes_in_commits, checkpoints, replayed, clones } = met;
        let all = [full_disk, failed_disk, commits, crashes_in_commits, checkpoints, replayed, clones];
        assert!(all.iter().all(|n| *n > 20), "the seeds no longer meet every case: {met:?}");
    }
}

/// Each eighth of the runs is a test of its own, so that they go side by side: they share nothing.
macro_rules! eighth {
    ($(#[$doc:meta])* $name:ident, $number:expr) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            run_all($number * 10_000_000);
        }
    };
}

eighth!(
    /// Power is lost at any moment, also within a commit or a checkpoint, on a disk that tears and
    /// loses what was not flushed, that is sometimes small and sometimes fails, with an index that
    /// comes back older than the journal: each chunk is at an acknowledged state not older than the
    /// committed one, bytes and all, and no block is lost or has two owners that do not know of each
    /// other.
    crashes_keep_what_was_committed, 0
);
eighth!(crashes_keep_what_was_committed_2, 1);
eighth!(crashes_keep_what_was_committed_3, 2);
eighth!(crashes_keep_what_was_committed_4, 3);
eighth!(crashes_keep_what_was_committed_5, 4);
eighth!(crashes_keep_what_was_committed_6, 5);
eighth!(crashes_keep_what_was_committed_7, 6);
eighth!(crashes_keep_what_was_committed_8, 7);
