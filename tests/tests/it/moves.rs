//! Bricks that are emptied, taken back and removed under a running cluster.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::{Cluster, Options, Run, seed, wait};

const LIMIT: Duration = Duration::from_secs(120);
const FILES: u64 = 40;
const BYTES: usize = 300_000;

fn fill(dir: &Path) -> Result<()> {
    for number in 0..FILES {
        std::fs::write(dir.join(format!("file-{number}")), seed::bytes(number, 0, BYTES))?;
    }
    std::fs::write(dir.join("big"), seed::bytes(99, 0, 30_000_000))?;
    Ok(())
}

fn verify(dir: &Path) -> Result<()> {
    for number in 0..FILES {
        let path = dir.join(format!("file-{number}"));
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(content == seed::bytes(number, 0, BYTES), "{} reads wrong", path.display());
    }
    ensure!(std::fs::read(dir.join("big"))? == seed::bytes(99, 0, 30_000_000), "the big file reads wrong");
    Ok(())
}

/// What `status --json` says of one brick.
fn brick(cluster: &Cluster, id: u64) -> Result<serde_json::Value> {
    let status = cluster.status_json()?;
    let bricks = status["bricks"].as_array().context("no bricks")?;
    Ok(bricks.iter().find(|b| b["id"].as_u64() == Some(id)).cloned().unwrap_or_default())
}

/// An order about bricks, to be given.
fn order(cluster: &Cluster, words: &[&str]) -> Result<Run> {
    Ok(cluster.command("brick")?.args(words).arg("--data").arg(cluster.data()).limit(LIMIT))
}

/// Writes files again and again until told to stop; every one reads as it was written. Returns
/// how many.
fn keep_writing(dir: &Path, stop: &AtomicBool, written: &AtomicU64) -> Result<u64> {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = dir.join(format!("busy-{}", number % 20));
        let content = seed::bytes(1000 + number, 0, 200_000);
        std::fs::write(&path, &content)?;
        ensure!(std::fs::read(&path)? == content, "{} reads wrong", path.display());
        number += 1;
        written.store(number, Ordering::Relaxed);
    }
    Ok(number)
}

/// While files are written a brick is emptied, taken back, given its share again, emptied for
/// good and removed; every chain has its copies all the time, the brick holds nothing in the
/// end, and the cluster starts again without it.
#[test]
fn a_brick_is_emptied_and_removed_while_files_are_written() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let dir = cluster.dir("moves")?;
    fill(&dir)?;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| keep_writing(&dir, &stop, &written));
        let orders = (|| -> Result<()> {
            wait::until_true("files are written", LIMIT, || Ok(written.load(Ordering::Relaxed) > 3))?;
            let held = order(&cluster, &["remove", "2"])?.run()?;
            ensure!(held.error_text().contains("brick drain 2"), "{}", held.error_text());
            order(&cluster, &["drain", "2", "--wait"])?.ok()?;
            ensure!(brick(&cluster, 2)?["chains"] == 0, "{}", brick(&cluster, 2)?);
            ensure!(cluster.status_json()?["health"] == "healthy", "{}", cluster.status_json()?);
            order(&cluster, &["drain", "2", "--undo"])?.ok()?;
            order(&cluster, &["rebalance", "--wait"])?.ok()?;
            ensure!(brick(&cluster, 2)?["chains"].as_u64() > Some(1), "{}", brick(&cluster, 2)?);
            order(&cluster, &["drain", "2", "--wait"])?.ok()?;
            wait::until_true("brick 2 holds nothing", LIMIT, || Ok(brick(&cluster, 2)?["chunks"] == 0))?;
            order(&cluster, &["remove", "2"])?.ok()?;
            ensure!(brick(&cluster, 2)?.is_null(), "{}", brick(&cluster, 2)?);
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let wrote = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        orders?;
        ensure!(wrote > 10, "only {wrote} files were written meanwhile");
        Ok(())
    })?;
    verify(&dir)?;
    cluster.check()?;
    cluster.allow_log("it was removed from the cluster");
    cluster.stop()?;
    // Its directory is nobody's any more, and none is made in its place.
    let place = cluster.data().join("bricks/2");
    std::fs::remove_dir_all(&place)?;
    cluster.up()?;
    verify(&dir)?;
    ensure!(brick(&cluster, 2)?.is_null(), "{}", brick(&cluster, 2)?);
    ensure!(!place.exists(), "a directory was made for a brick that was removed");
    cluster.finish()
}
