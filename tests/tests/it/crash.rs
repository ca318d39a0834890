//! kill -9 of everything in the middle of writes, from a seed, again and again on one cluster.
//!
//! `BRICKYARD_CRASH_ROUNDS` (default 10) and `BRICKYARD_SEED` choose how often and how.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brickyard_tests::kernel::Mapping;
use brickyard_tests::place::setting;
use brickyard_tests::seed::{self, Rng};
use brickyard_tests::workload::{Stopped, Worker};
use brickyard_tests::{Cluster, Options, status, wait};
use rustix::fs::OFlags;

const WORKERS: u64 = 4;
/// A round ends by this time even when few operations were done.
const ROUND_LIMIT: Duration = Duration::from_secs(10);
/// Everything that was deleted must be free again by then.
const RECLAIM_LIMIT: Duration = Duration::from_secs(90);

/// Every fsynced file is byte-identical after a kill -9 in the middle of writes, what was not
/// synced is old or new and nothing else, names are those before or after the call under way,
/// `brickyard check` is content, and in the end no space is lost.
#[test]
fn killed_in_the_middle_of_writes_keeps_every_promise() -> Result<()> {
    let rounds = setting("BRICKYARD_CRASH_ROUNDS", 10)?;
    let seed = seed::of_this_run()?;
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::start(Options::default())?;
    let empty = cluster.status_json()?;
    let root = cluster.dir("crash")?;
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let dir = root.join(format!("w{number}"));
        std::fs::create_dir(&dir)?;
        workers.push(Worker::new(dir, seed, number));
    }
    let mut total = 0;
    for round in 0..rounds {
        let most = rng.between(20, 1500);
        total += run_and_kill(&mut cluster, &mut workers, most).with_context(|| format!("round {round}"))?;
        cluster.up().with_context(|| format!("start after crash {round}"))?;
        for worker in &mut workers {
            worker.judge().with_context(|| format!("after crash {round}"))?;
        }
        cluster.check().with_context(|| format!("after crash {round}"))?;
    }
    eprintln!("{rounds} crashes, {total} operations, every promise kept");
    // What everybody deleted is free again: nothing leaks for good.
    drop(workers);
    std::fs::remove_dir_all(&root)?;
    wait_until_reclaimed(&cluster, &empty)?;
    cluster.check()?;
    cluster.finish()
}

/// Lets the workers work until `most` operations were begun, then kills; returns how many.
fn run_and_kill(cluster: &mut Cluster, workers: &mut [Worker], most: u64) -> Result<u64> {
    let operations = AtomicU64::new(0);
    let killed = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let operations = &operations;
                scope.spawn(move || worker.work(operations, u64::MAX))
            })
            .collect();
        let start = Instant::now();
        while operations.load(Ordering::Relaxed) < most
            && start.elapsed() < ROUND_LIMIT
            && !threads.iter().any(|thread| thread.is_finished())
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        let early = threads.iter().any(|thread| thread.is_finished());
        killed.store(true, Ordering::SeqCst);
        cluster.kill9()?;
        for thread in threads {
            let stopped = thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            let Stopped { doing, error } = stopped.context("a worker came to an end of its work")?;
            ensure!(!early, "a call failed before anything was killed: {doing}: {error}");
        }
        Ok(())
    })?;
    Ok(operations.load(Ordering::Relaxed))
}

/// Waits until the bricks hold no more chunks, and the namespace no more inodes, than at first.
fn wait_until_reclaimed(cluster: &Cluster, empty: &serde_json::Value) -> Result<()> {
    let mut last = String::new();
    wait::until_true("all space is free again", RECLAIM_LIMIT, || {
        let now = cluster.status_json()?;
        let mut clean = true;
        last.clear();
        for field in ["inodes", "orphans", "trims"] {
            clean &= status::number(&now, field)? <= status::number(empty, field)?;
            last += &format!("{field} {} ", now[field]);
        }
        let chunks = status::brick_sum(&now, "chunks")?;
        last += &format!("chunks {chunks}");
        Ok(clean && chunks <= status::brick_sum(empty, "chunks")?)
    })
    .with_context(|| format!("left over: {last}"))
}

/// Every other call that promises durability keeps its promise too: O_DSYNC, O_SYNC, msync, and
/// fsync through another handle than the writing one.
#[test]
fn every_way_to_sync_survives_a_crash() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let dir = cluster.dir("synced")?;
    let content = |pattern| seed::bytes(pattern, 0, 2_500_000);
    let mut files = Vec::new();
    for (name, flags) in [("dsync", OFlags::DSYNC), ("sync", OFlags::SYNC)] {
        let mut options = File::options();
        options.create(true).write(true).custom_flags(flags.bits() as i32);
        let file = options.open(dir.join(name))?;
        file.write_all_at(&content(1), 0)?;
        files.push(file);
    }
    let mapped =
        File::options().create(true).truncate(true).read(true).write(true).open(dir.join("mapped"))?;
    mapped.set_len(2_500_000)?;
    let mut mapping = Mapping::shared(&mapped, 2_500_000)?;
    mapping.write(0, &content(2));
    mapping.sync()?;
    let writer = File::create(dir.join("other-handle"))?;
    writer.write_all_at(&content(3), 0)?;
    File::open(dir.join("other-handle"))?.sync_all()?;
    files.extend([mapped, writer]);
    cluster.kill9()?;
    drop((mapping, files));
    cluster.up()?;
    for (name, pattern) in [("dsync", 1), ("sync", 1), ("mapped", 2), ("other-handle", 3)] {
        ensure!(std::fs::read(dir.join(name))? == content(pattern), "{name} was lost");
    }
    cluster.check()?;
    cluster.finish()
}

/// Files deleted while open, and open when everything dies, leave nothing behind.
#[test]
fn space_of_open_unlinked_files_returns_after_a_crash() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let empty = cluster.status_json()?;
    let dir = cluster.dir("orphans")?;
    let mut open = Vec::new();
    for number in 0..20 {
        let path = dir.join(format!("{number}"));
        std::fs::write(&path, seed::bytes(number, 0, 1_500_000))?;
        let file = std::fs::File::open(&path)?;
        file.sync_all()?;
        std::fs::remove_file(&path)?;
        open.push(file);
    }
    ensure!(status::number(&cluster.status_json()?, "orphans")? >= 20, "unlinked open files are not counted");
    cluster.kill9()?;
    drop(open);
    cluster.up()?;
    std::fs::remove_dir(cluster.mount().join("orphans"))?;
    wait_until_reclaimed(&cluster, &empty)?;
    cluster.check()?;
    cluster.finish()
}
