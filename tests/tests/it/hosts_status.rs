//! What `status` says of bricks with which something is wrong, as it is shown to people, and a mount that waits for bricks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::{HostCluster, Shape, disks, seed, wait};

use crate::bad_input::refused;

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

/// All bricks are away: a mount waits for them as long as it was told to, also while the namespace has just started and takes
/// them for alive, and then says which ones it misses; with some of them it mounts and says what is missing.
#[test]
fn a_mount_waits_for_bricks_and_names_them() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 1 })?;
    cluster.allow_log("");
    for n in 0..8 {
        std::fs::write(cluster.mountpoint().join(format!("file{n}")), vec![n; 100_000])?;
    }
    cluster.mount.stop()?;
    for brick in &mut cluster.bricks {
        brick.kill9()?;
    }
    cluster.namespace.stop()?;
    cluster.namespace.start()?;
    let credential = cluster.workshop().path().join("client.cred");
    let mount = |wait: u32| -> Result<_> {
        let options = format!("host=client,cred={},wait={wait}", credential.display());
        let run =
            cluster.client().run(binary()?).arg("mount").arg(format!("{}:/", cluster.namespace_address()));
        run.arg(cluster.mountpoint()).args(["-o", &options]).limit(LIMIT).run()
    };
    let places: Vec<String> = cluster
        .bricks
        .iter()
        .map(|brick| format!("tls://{}:7100 on {}", brick.host().address(), brick.host().label()))
        .collect();
    for wait in [1, 8] {
        let words = [
            "no file can be read or written: bricks 0 (",
            &places[0],
            &places[1],
            "do not answer",
            "wait=SECONDS",
        ];
        refused("a mount without bricks", &mount(wait)?, &words)?;
    }
    // It waits, and is ready as soon as one is there.
    let ready = cluster.spawn_mount()?;
    wait::until_true("the mount says what it waits for", LIMIT, || {
        Ok(cluster.mount.log().tail(20).contains("no file can be read or written"))
    })?;
    ensure!(ready.try_recv().is_err(), "it is mounted");
    cluster.bricks[0].start()?;
    let line = ready.recv_timeout(LIMIT)?;
    ensure!(line.starts_with("ready: "), "{line}");
    let says = format!("chains wait: brick 1 ({}) does not answer", places[1]);
    ensure!(cluster.mount.log().tail(20).contains(&says), "{says}: {}", cluster.mount.log().tail(20));
    ensure!(std::fs::read_dir(cluster.mountpoint())?.count() >= 8, "names are missing");
    cluster.bricks[1].start()?;
    for n in 0..8 {
        ensure!(std::fs::read(cluster.mountpoint().join(format!("file{n}")))? == vec![n; 100_000], "file{n}");
    }
    cluster.finish()
}

/// A brick's disk is taken away under it, by force: `status` says that it is gone, from where, and what to do; when it is mounted
/// again the brick is served again, without a restart.
#[test]
fn a_disk_that_is_gone_is_told_with_what_to_do() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    cluster.allow_log("");
    disks::give(&cluster, 0, 300)?;
    cluster.add_brick(0)?;
    cluster.add_brick(1)?;
    cluster.start_mount()?;
    let file = cluster.mountpoint().join("file");
    let bytes = seed::bytes(32, 0, 20_000_000);
    std::fs::write(&file, &bytes)?;
    std::fs::File::open(&file)?.sync_all()?;
    disks::take_away(&cluster, 0)?;
    let dir = cluster.brick_dir(0).display().to_string();
    let words = [
        "brick.json is gone from ",
        &dir,
        "not opened again",
        "look whether its disk is mounted",
        "serves again by itself",
    ];
    let note = until_noted(&cluster, 0, &words)?;
    eprintln!("{note}");
    eprintln!("{}", cluster.admin(&["status"])?.ok()?.text());
    ensure!(std::fs::read(&file)? == bytes, "not readable from the copy");
    disks::put_back(&cluster, 0)?;
    cluster.wait_whole(LIMIT)?;
    until_noted(&cluster, 0, &[""])?;
    cluster.check(true)?;
    cluster.finish()
}
