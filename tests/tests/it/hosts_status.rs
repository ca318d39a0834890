//! What `status` says of bricks with which something is wrong, as it is shown to people.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::{HostCluster, Shape, seed, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits for a brick's note to have all of these words; gives it back.
fn until_noted(cluster: &HostCluster, brick: u64, words: &[&str]) -> Result<String> {
    let mut note = String::new();
    wait::until_true("the note says so", LIMIT, || {
        let status = cluster.status()?;
        let bricks = status["bricks"].as_array().context("no bricks")?;
        let found = bricks.iter().find(|b| b["id"] == brick).with_context(|| format!("no brick {brick}"))?;
        note = found["note"].as_str().context("no note")?.to_owned();
        Ok(words.iter().all(|word| note.contains(word)))
    })
    .with_context(|| format!("brick {brick}, {words:?}: {note:?}"))?;
    Ok(note)
}

/// A dead brick: whether it is replaced, what hinders that, that it is not missed any more, and that the chain waits for it.
#[test]
fn a_dead_brick_is_told_with_what_becomes_of_it() -> Result<()> {
    let mut cluster = HostCluster::prepare_with_bricks(Shape { bricks: 2, replicas: 2 })?;
    cluster.wait_whole(LIMIT)?;
    cluster.bricks[1].stop()?;
    let note = until_noted(&cluster, 1, &["can't be replaced in ", "bring it back, or add a brick"])?;
    ensure!(!note.contains("; replaced") && !note.contains("being replaced"), "{note}");
    cluster.add_brick(2)?;
    let note = until_noted(&cluster, 1, &["replaced in ", " s"])?;
    ensure!(!note.contains("can't"), "{note}");
    cluster.admin(&["brick", "settings", "--repair-after", "3s"])?.ok()?;
    cluster.wait_whole(LIMIT)?;
    until_noted(&cluster, 1, &["no data is missing without it", "brickyard brick remove 1"])?;
    cluster.admin(&["brick", "remove", "1"])?.ok()?;

    cluster.bricks[0].stop()?;
    until_noted(&cluster, 0, &["can't be replaced in ", "add a brick"])?;
    cluster.bricks[2].stop()?;
    let note = until_noted(&cluster, 2, &["nobody else has all data of chain", ": bring it back"])?;
    ensure!(!note.contains("replaced"), "{note}");
    cluster.bricks[2].start()?;
    cluster.bricks[0].start()?;
    cluster.wait_whole(LIMIT)?;
    cluster.finish()
}

/// When the command says that all was read, nothing is said of reading any more.
#[test]
fn a_scrub_that_has_ended_is_shown_no_more() -> Result<()> {
    let cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    let file = cluster.mountpoint().join("file");
    std::fs::write(&file, seed::bytes(31, 0, 30_000_000))?;
    std::fs::File::open(&file)?.sync_all()?;
    for _ in 0..6 {
        cluster.admin(&["brick", "scrub", "--wait"])?.ok()?;
        let status = cluster.status()?;
        for brick in status["bricks"].as_array().context("no bricks")? {
            ensure!(brick["scrub_total_bytes"] == 0 && brick["note"] == "", "{brick}");
        }
    }
    cluster.finish()
}
