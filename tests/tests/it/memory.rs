//! Memory: little at rest, bounded in use.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::resident_kib;
use brickyard_tests::place::setting;
use brickyard_tests::{Cluster, Options, seed};

const IDLE_LIMIT_KIB: u64 = 400 * 1024;
const GROWTH_LIMIT_KIB: u64 = 300 * 1024;
const PIECE: usize = 1 << 20;

/// At rest `up` takes less than 400 MiB, and a large file streams through, written and read
/// back, without growing it by more than 300 MiB at any time. The size is
/// `BRICKYARD_STREAM_MIB`, 1,024 unless told otherwise; 4,096 is what is promised.
#[test]
fn a_large_file_streams_through_in_little_memory() -> Result<()> {
    let mib = setting("BRICKYARD_STREAM_MIB", 1024)?;
    let cluster = Cluster::start(Options::with_scheduler(2))?;
    let pid = cluster.pid()?;
    let idle = resident_kib(pid)?;
    ensure!(idle < IDLE_LIMIT_KIB, "{idle} KiB at rest");
    let path = cluster.mount().join("large");
    let most = AtomicU64::new(idle);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let watcher = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(resident_kib(pid)?, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        let streamed = stream(&path, mib, &most, idle);
        done.store(true, Ordering::Relaxed);
        watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        streamed
    })?;
    let most = most.into_inner();
    eprintln!("{mib} MiB: {idle} KiB resident at rest, {most} KiB at most");
    std::fs::remove_file(&path)?;
    cluster.finish()
}

fn stream(path: &std::path::Path, mib: u64, most: &AtomicU64, idle: u64) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut file = File::create(path)?;
    for number in 0..mib {
        seed::fill(13, number << 20, &mut piece);
        file.write_all(&piece)?;
        check_growth(most, idle, "writing")?;
    }
    file.sync_all()?;
    drop(file);
    // What is read next comes through the cluster, not from the kernel's pages.
    let mut file = File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut expected = vec![0; PIECE];
    for number in 0..mib {
        file.read_exact(&mut piece).with_context(|| format!("at {number} MiB"))?;
        seed::fill(13, number << 20, &mut expected);
        ensure!(piece == expected, "wrong bytes at {number} MiB");
        check_growth(most, idle, "reading")?;
    }
    ensure!(file.read(&mut piece)? == 0, "the file is too long");
    Ok(())
}

fn check_growth(most: &AtomicU64, idle: u64, doing: &str) -> Result<()> {
    let grown = most.load(Ordering::Relaxed).saturating_sub(idle);
    ensure!(grown <= GROWTH_LIMIT_KIB, "{doing} grew the process by {grown} KiB over {idle} KiB");
    Ok(())
}
