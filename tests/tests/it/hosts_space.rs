//! Bricks with little room: a drain that cannot end, and a substitute that is filled up by somebody else.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::disks::{self, Filler};
use brickyard_tests::{HostCluster, Shape, seed, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(150);
/// Of each brick's disk.
const DISK_MIB: u64 = 512;
/// More than two of the three bricks can hold, with two copies.
const FILES: u64 = 24;
const FILE_BYTES: usize = 20_000_000;

fn fill(dir: &Path) -> Result<()> {
    for number in 0..FILES {
        let path = dir.join(format!("file-{number}"));
        std::fs::write(&path, seed::bytes(number, 0, FILE_BYTES))?;
        File::open(&path)?.sync_all()?;
    }
    Ok(())
}

fn verify(dir: &Path) -> Result<()> {
    for number in 0..FILES {
        let path = dir.join(format!("file-{number}"));
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(content == seed::bytes(number, 0, FILE_BYTES), "{} reads wrong", path.display());
    }
    Ok(())
}

fn brick(cluster: &HostCluster, id: u64) -> Result<Value> {
    let status = cluster.status()?;
    let bricks = status["bricks"].as_array().context("no bricks")?;
    bricks.iter().find(|b| b["id"].as_u64() == Some(id)).cloned().context("no such brick")
}

/// Three bricks, so full that none can be spared: the drain of one ends with the reason and what to do. A fourth
/// joins to take its place, and its disk is filled up by somebody else while it is being filled: it says so, nothing
/// is lost, and when there is room again, the drain comes to its end by itself.
#[test]
fn a_substitute_that_fills_up_is_waited_for() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 3, replicas: 2 })?;
    for number in 0..3 {
        disks::give(&cluster, number, DISK_MIB)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let dir = cluster.mountpoint().join("space");
    std::fs::create_dir(&dir)?;
    fill(&dir)?;

    let drain = |cluster: &HostCluster| cluster.admin(&["brick", "drain", "2", "--wait"]);
    let done = drain(&cluster)?.limit(LIMIT).run()?;
    let said = done.error_text();
    ensure!(done.status.code() == Some(1) && said.lines().count() == 1, "{}: {said}", done.status);
    for words in ["brick 2 is not empty", "no other brick has room", "add a brick", "brick drain 2 --undo"] {
        ensure!(said.contains(words), "{words:?} is not in {said:?}");
    }

    disks::give(&cluster, 3, DISK_MIB)?;
    cluster.add_brick(3)?;
    wait::until_true("the substitute is being filled", LIMIT, || {
        Ok(brick(&cluster, 3)?["chunks"].as_u64() > Some(0))
    })?;
    let mut filler = Filler::fill(&cluster.brick_dir(3))?;
    wait::until_true("the substitute says that its disk is full", LIMIT, || {
        // As fast as it finds any room.
        filler.take_the_rest()?;
        Ok(brick(&cluster, 3)?["note"].as_str().is_some_and(|note| note.contains("its disk is full")))
    })?;
    verify(&dir)?;
    filler.remove()?;
    drain(&cluster)?.limit(LIMIT).ok()?;
    ensure!(brick(&cluster, 2)?["chains"] == 0, "{}", brick(&cluster, 2)?);
    cluster.admin(&["brick", "remove", "2"])?.ok()?;
    cluster.bricks[2].stop()?;
    cluster.wait_whole(LIMIT)?;
    verify(&dir)?;
    cluster.check(true)?;
    cluster.allow_log("disk is full");
    cluster.allow_log("says that it can serve no more");
    cluster.allow_log("no space");
    cluster.allow_log("it was removed from the cluster");
    cluster.finish()
}

/// Writes a file of 5 MB durably; whether there was room for it.
fn write_if_room(dir: &Path, number: u64) -> Result<bool> {
    let path = dir.join(format!("file-{number}"));
    let write = || {
        std::fs::write(&path, seed::bytes(number, 0, 5_000_000))?;
        File::open(&path)?.sync_all()
    };
    match write() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            std::fs::remove_file(&path)?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn used(cluster: &HostCluster, id: u64) -> Result<u64> {
    let brick = brick(cluster, id)?;
    let number = |field: &str| brick[field].as_u64().with_context(|| format!("no {field}"));
    Ok(number("total_bytes")? - number("free_bytes")?)
}

/// The disk of one brick of four is full of something else: as soon as it has said so, no new file is refused, small or spread
/// over all chains that take any, `df` tells the room that the others have, what there was stays readable, and when there is room
/// again the brick takes new files as before.
#[test]
fn a_full_brick_stops_no_new_files() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 4, replicas: 2 })?;
    for number in 0..4 {
        // Large enough that the brick says that it closes before its last room is written to.
        disks::give(&cluster, number, 4 * DISK_MIB)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let dir = cluster.mountpoint().join("space");
    std::fs::create_dir(&dir)?;
    let write = |name: &str, seed: u64, bytes: usize| -> Result<()> {
        let path = dir.join(name);
        std::fs::write(&path, seed::bytes(seed, 0, bytes))
            .and_then(|()| File::open(&path)?.sync_all())
            .with_context(|| format!("writing {name}"))
    };
    let verify = |name: &str, seed: u64, bytes: usize| -> Result<()> {
        ensure!(std::fs::read(dir.join(name))? == seed::bytes(seed, 0, bytes), "{name} reads wrong");
        Ok(())
    };
    write("old", 99, FILE_BYTES)?;
    let closed = || -> Result<usize> {
        let status = cluster.status()?;
        let chains = status["chains"].as_array().context("no chains")?;
        Ok(chains.iter().filter(|chain| chain["takes_new_files"] == false).count())
    };
    ensure!(closed()? == 0, "some chain takes no new files at first");
    let mut filler = Filler::fill(&cluster.brick_dir(0))?;
    wait::until_true("new files go elsewhere", LIMIT, || {
        filler.take_the_rest()?;
        Ok(closed()? > 0)
    })?;
    let at_first = used(&cluster, 0)?;
    for number in 0..40 {
        // As fast as it finds any room.
        filler.take_the_rest()?;
        write(&format!("small-{number}"), number, 1_000_000)?;
    }
    write("large", 98, 200_000_000)?;
    let told = rustix::fs::statvfs(&dir)?;
    let free = told.f_bavail * told.f_frsize;
    // Three disks of 2 GiB, two copies, and what is there already.
    ensure!((1_800_000_000..3_000_000_000).contains(&free), "{free} bytes are free");
    ensure!(used(&cluster, 0)? <= at_first + 1_000_000, "new files went to the full brick");
    verify("old", 99, FILE_BYTES)?;
    verify("large", 98, 200_000_000)?;
    for number in 0..40 {
        verify(&format!("small-{number}"), number, 1_000_000)?;
    }
    filler.remove()?;
    let mut number = 40;
    wait::until_true("the brick takes new files again", LIMIT, || {
        write(&format!("small-{number}"), number, 1_000_000)?;
        number += 1;
        Ok(used(&cluster, 0)? > at_first + 10_000_000)
    })?;
    cluster.wait_whole(LIMIT)?;
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}

/// Bricks are added beside full ones. New files have room on them at once; rebalancing gives them their part of what the others
/// hold, not only empty chains: there is room on all afterwards.
#[test]
fn bricks_beside_full_ones_make_room() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 4, replicas: 2 })?;
    for number in 0..4 {
        disks::give(&cluster, number, DISK_MIB)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let dir = cluster.mountpoint().join("space");
    std::fs::create_dir(&dir)?;
    let mut files = 0;
    while write_if_room(&dir, files)? {
        files += 1;
    }
    ensure!(files > 20, "{files} files were enough");
    for number in 4..6 {
        disks::give(&cluster, number, DISK_MIB)?;
        cluster.add_brick(number)?;
    }
    wait::until_true("new files go to the new bricks", LIMIT, || {
        let has_room = write_if_room(&dir, files)?;
        files += u64::from(has_room);
        Ok(has_room && [4, 5].into_iter().all(|id| used(&cluster, id).is_ok_and(|bytes| bytes > 40_000_000)))
    })?;
    wait::until_true("the new bricks hold their part", LIMIT, || {
        cluster.admin(&["brick", "rebalance", "--wait"])?.limit(LIMIT).ok()?;
        // What the heads hold is told now and then: the first may have been told before all was written.
        Ok((4..6)
            .map(|id| used(&cluster, id))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .all(|bytes| bytes > 100_000_000))
    })?;
    // On disks as small as these a brick fills up before the next report of its room is heard: then other chains take the file.
    for number in files..files + files / 4 {
        wait::until_true("a new file goes where there is room", LIMIT, || write_if_room(&dir, number))
            .with_context(|| format!("no room for file {number}, {files} were there before"))?;
    }
    cluster.wait_whole(LIMIT)?;
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}
