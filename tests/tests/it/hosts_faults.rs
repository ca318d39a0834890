//! Faults of single machines in a cluster of several, and how long programs have to wait.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::disks::{self, Filler};
use brickyard_tests::place::setting;
use brickyard_tests::stall::{Stalls, Steady};
use brickyard_tests::{HostCluster, Shape, seed, thrash, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// A cluster under a steady writer and reader, while `fault` happens to a brick that both use.
fn under_load(fault: impl FnOnce(&mut HostCluster) -> Result<()>) -> Result<Stalls> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(100, LIMIT)?;
    fault(&mut cluster)?;
    steady.advance(300, LIMIT)?;
    let stalls = steady.finish()?;
    eprintln!("{stalls:?}");
    cluster.check(false)?;
    cluster.allow_log("");
    cluster.finish()?;
    Ok(stalls)
}

/// A cable is pulled: silence. Nobody waits longer than 4 s.
#[test]
fn a_silent_cut_stalls_no_longer_than_four_seconds() -> Result<()> {
    let stalls = under_load(|cluster| cluster.bricks[1].host().cut())?;
    let most = Duration::from_secs(4);
    ensure!(stalls.write <= most && stalls.read <= most, "{stalls:?}");
    Ok(())
}

/// A process is killed. Nobody waits longer than a second.
#[test]
fn a_killed_brick_stalls_no_longer_than_a_second() -> Result<()> {
    let stalls = under_load(|cluster| cluster.bricks[1].kill9())?;
    let most = Duration::from_secs(1);
    ensure!(stalls.write <= most && stalls.read <= most, "{stalls:?}");
    Ok(())
}

/// Somebody takes every byte of one brick's disk, as fast as the brick finds any: others take over before
/// anybody waits for longer than 4 s, and the brick is back when there is room.
#[test]
fn a_full_disk_stops_nothing_but_new_space_there() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 4, replicas: 2 })?;
    for number in 0..4 {
        disks::give(&cluster, number, 1024)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let steady = Steady::start(cluster.mountpoint())?;
    // From its second time through the file on, the writer needs no new space.
    steady.advance(Steady::STEPS + 10, LIMIT)?;
    let mut filler = Filler::fill(&cluster.brick_dir(1))?;
    // On a full disk it starts in the room it has set aside.
    cluster.bricks[1].kill9()?;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    wait::until_true("the full brick leaves its chains to others", LIMIT, || {
        filler.take_the_rest()?;
        steady.advance(5, LIMIT)?;
        Ok(cluster.bricks[1].log().warned("the disk is full: there is no room to commit"))
    })?;
    steady.advance(300, LIMIT)?;
    filler.remove()?;
    cluster.wait_whole(LIMIT)?;
    steady.advance(100, LIMIT)?;
    let stalls = steady.finish()?;
    eprintln!("{stalls:?}");
    let most = Duration::from_secs(4);
    ensure!(stalls.write <= most && stalls.read <= most, "{stalls:?}");
    cluster.check(true)?;
    for words in ["full", "process has ended"] {
        cluster.allow_log(words);
    }
    cluster.finish()
}

/// The kernel turns a brick's disk read-only: others take over before anybody waits for longer than 4 s, and `status` says why. The
/// brick lets go of the disk, so that it can be unmounted and checked, and is back when it is mounted again, without a restart.
#[test]
fn a_disk_that_turned_read_only_is_left_and_taken_back() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 4, replicas: 2 })?;
    for number in 0..4 {
        disks::give(&cluster, number, 1024)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(100, LIMIT)?;
    disks::turn_read_only(&cluster, 1)?;
    let says = |words: &str| -> Result<bool> {
        let status = cluster.status()?;
        let failed = |brick: &Value| brick["state"] == "failed" && brick["note"].to_string().contains(words);
        Ok(status["bricks"].as_array().context("no bricks")?.iter().any(failed))
    };
    wait::until_true("status says why", LIMIT, || says("Read-only file system"))?;
    // Whatever is still open on it is about to be closed.
    wait::until_true("the brick tried to open it again", LIMIT, || says("not opened again"))?;
    steady.advance(300, LIMIT)?;
    disks::mend(&cluster, 1)?;
    cluster.wait_whole(LIMIT)?;
    steady.advance(100, LIMIT)?;
    let stalls = steady.finish()?;
    eprintln!("{stalls:?}");
    let most = Duration::from_secs(4);
    ensure!(stalls.write <= most && stalls.read <= most, "{stalls:?}");
    cluster.check(true)?;
    for words in ["Read-only", "others take over", "opened again"] {
        cluster.allow_log(words);
    }
    cluster.finish()
}

/// A short thrashing; `./dev thrash` does it for longer.
#[test]
fn a_short_thrashing_loses_nothing() -> Result<()> {
    let seconds = setting("BRICKYARD_THRASH_SECONDS", 60)?;
    let report = thrash::run(Duration::from_secs(seconds), seed::of_this_run()?, &[])?;
    eprintln!("{report:?}");
    ensure!(report.faults.values().sum::<u64>() >= 3, "hardly anything went wrong: {report:?}");
    ensure!(report.rounds.values().all(|rounds| *rounds > 0), "a program did nothing: {report:?}");
    ensure!(report.promises_kept > 0);
    Ok(())
}
