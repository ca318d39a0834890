//! The namespace is set back to an earlier state, by its backup or by a member that had missed the last changes, after chains have
//! moved: the bricks know better where everything is, nothing they hold is freed by the old map, and all of it reads right again.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::hosts::Process;
use brickyard_tests::{HostCluster, Shape, seed, wait};

const LIMIT: Duration = Duration::from_secs(120);
const BYTES: usize = 20_000_000;
const FILES: u64 = 3;
/// Epochs of adopted maps are beyond this.
const LEAP: u64 = 1 << 20;

/// Writes files whose content is that of a time.
fn fill(dir: &Path, time: u64) -> Result<()> {
    for number in 0..FILES {
        let path = dir.join(format!("file-{number}"));
        std::fs::write(&path, seed::bytes(number + 100 * time, 0, BYTES))?;
        std::fs::File::open(&path)?.sync_all()?;
    }
    Ok(())
}

fn verify(dir: &Path, time: u64) -> Result<()> {
    for number in 0..FILES {
        let path = dir.join(format!("file-{number}"));
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(content == seed::bytes(number + 100 * time, 0, BYTES), "{} reads wrong", path.display());
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(done.success(), "cannot copy {}", from.display());
    Ok(())
}

/// As docs/admin.md says: while it is stopped.
fn back_up(cluster: &mut HostCluster) -> Result<()> {
    let place = cluster.workshop().path().join("namespace");
    cluster.namespace.stop()?;
    copy(&place, &cluster.workshop().path().join("backup"))?;
    cluster.namespace.start().map(drop)
}

/// Puts the backup in the place of the namespace, which is stopped.
fn put_back(cluster: &HostCluster) -> Result<()> {
    let place = cluster.workshop().path().join("namespace");
    std::fs::remove_dir_all(&place)?;
    copy(&cluster.workshop().path().join("backup"), &place)
}

fn drain(cluster: &HostCluster, bricks: &[u32]) -> Result<()> {
    for brick in bricks {
        cluster.admin(&["brick", "drain", &brick.to_string(), "--wait"])?.limit(LIMIT).ok()?;
    }
    Ok(())
}

/// What is done after the backup: other content, a new file, and all chains leave the first two bricks.
fn go_on(cluster: &HostCluster) -> Result<()> {
    fill(cluster.mountpoint(), 2)?;
    std::fs::write(cluster.mountpoint().join("later"), seed::bytes(9, 0, BYTES))?;
    drain(cluster, &[0, 1])
}

fn spawn(cluster: &mut HostCluster, bricks: &[usize]) -> Result<Vec<Receiver<String>>> {
    bricks.iter().map(|at| cluster.bricks[*at].spawn()).collect()
}

/// Waits until all of them are let in.
fn ready(all: Vec<Receiver<String>>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    for lines in all {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let line = line.context("a brick was not let in")?;
        ensure!(line.starts_with("ready: "), "{line}");
    }
    Ok(())
}

/// Waits until the namespace says that it was set back, and for whom it waits.
fn waits_for(cluster: &HostCluster, bricks: &[u64]) -> Result<()> {
    wait::until_true("it is said who is waited for", LIMIT, || {
        let status = cluster.status()?;
        let waits: Option<Vec<u64>> = status["behind"]["waits_for"]
            .as_array()
            .map(|all| all.iter().filter_map(serde_json::Value::as_u64).collect());
        Ok(waits.as_deref() == Some(bricks))
    })?;
    let told = cluster.admin(&["status"])?.ok()?.text();
    let names: Vec<String> = bricks.iter().map(ToString::to_string).collect();
    let advice = format!("`brickyard namespace adopt --without {}`", names.join(","));
    ensure!(told.contains("SET BACK") && told.contains(&advice), "{told}");
    Ok(())
}

/// How often bricks freed what was of chains they had left.
fn freed(cluster: &HostCluster, bricks: &[usize]) -> usize {
    let lines = bricks.iter().flat_map(|at| cluster.bricks[*at].log().lines());
    lines.filter(|line| line.contains("freed chunks of chains it is not in any more")).count()
}

fn adopted(cluster: &HostCluster) -> Result<()> {
    wait::until_true("the newest map is adopted", LIMIT, || {
        let status = cluster.status()?;
        Ok(status["map_epoch"].as_u64() > Some(LEAP) && status["health"] == "healthy")
    })
}

/// Everything is there and right, a file that was made since only lost its name, and all of it goes on.
fn goes_on(cluster: &mut HostCluster) -> Result<()> {
    adopted(cluster)?;
    verify(cluster.mountpoint(), 2)?;
    ensure!(!cluster.mountpoint().join("later").exists(), "a name came out of nothing");
    let told = cluster.check(true)?.text();
    ensure!(told.contains("of files whose names were lost"), "{told}");
    cluster.admin(&["namespace", "free-lost"])?.ok()?;
    wait::until_true("what had no name is freed", LIMIT, || {
        // Until it is, it belongs to no file.
        Ok(cluster.check(false).is_ok_and(|told| !told.text().contains("of files whose names were lost")))
    })?;
    fill(cluster.mountpoint(), 3)?;
    std::fs::write(cluster.mountpoint().join("new"), seed::bytes(10, 0, BYTES))?;
    verify(cluster.mountpoint(), 3)?;
    cluster.check(true).map(drop)
}

fn allow(cluster: &mut HostCluster) {
    for line in [
        "state is older than what bricks have seen",
        "a brick has seen a map that this state does not know",
        "adopted the newest map that bricks have seen",
    ] {
        cluster.allow_log(line);
    }
}

/// All four bricks are in the backup, and the chains have moved from two of them to the two others since.
#[test]
fn what_moved_after_the_backup_is_found() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    allow(&mut cluster);
    fill(cluster.mountpoint(), 1)?;
    back_up(&mut cluster)?;
    go_on(&cluster)?;
    let before = freed(&cluster, &[2, 3]);
    cluster.stop()?;
    put_back(&cluster)?;
    cluster.namespace.start()?;
    let all = spawn(&mut cluster, &[3, 2, 1, 0])?;
    ready(all)?;
    cluster.start_mount()?;
    ensure!(freed(&cluster, &[2, 3]) == before, "bricks freed the only copies");
    goes_on(&mut cluster)?;
    cluster.finish()
}

/// Power fails everywhere, and the backup that is put back knows only two of the four bricks: both new ones are waited for, and their
/// numbers are not given again.
#[test]
fn bricks_that_joined_after_the_backup_are_known_again() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    allow(&mut cluster);
    fill(cluster.mountpoint(), 1)?;
    back_up(&mut cluster)?;
    cluster.add_brick(2)?;
    cluster.add_brick(3)?;
    go_on(&cluster)?;
    cluster.allow_log("a brick's process has ended");
    cluster.mount.stop()?;
    for brick in &mut cluster.bricks {
        brick.kill9()?;
    }
    cluster.namespace.kill9()?;
    put_back(&cluster)?;
    cluster.namespace.start()?;
    let old = spawn(&mut cluster, &[0, 1])?;
    waits_for(&cluster, &[2, 3])?;
    let refused = cluster.admin(&["brick", "drain", "0"])?.run()?;
    ensure!(!refused.status.success() && refused.error_text().contains("was set back"), "{refused:?}");
    let new = spawn(&mut cluster, &[2, 3])?;
    ready(old.into_iter().chain(new).collect())?;
    cluster.start_mount()?;
    goes_on(&mut cluster)?;
    cluster.add_brick(4)?;
    let bricks =
        cluster.status()?["bricks"].as_array().map(|all| all.iter().map(|b| b["id"].as_u64()).collect());
    ensure!(bricks == Some((0..5).map(Some).collect::<Vec<_>>()), "{bricks:?}");
    cluster.finish()
}

/// Bricks and a mount run on while the backup is put back. They go on without a restart, also when one ends afterwards.
#[test]
fn bricks_and_mounts_run_on_over_a_restore() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    // The mount and the bricks miss the namespace, and later a brick.
    cluster.allow_log("");
    fill(cluster.mountpoint(), 1)?;
    back_up(&mut cluster)?;
    go_on(&cluster)?;
    cluster.namespace.stop()?;
    put_back(&cluster)?;
    cluster.namespace.start()?;
    goes_on(&mut cluster)?;
    cluster.bricks[2].kill9()?;
    let begun = Instant::now();
    fill(cluster.mountpoint(), 4)?;
    ensure!(begun.elapsed() < Duration::from_secs(40), "writing went on after {:?}", begun.elapsed());
    verify(cluster.mountpoint(), 4)?;
    cluster.bricks[2].start()?;
    cluster.wait_whole(LIMIT)?;
    cluster.check(true)?;
    cluster.finish()
}

/// The member of the namespace that is left had been away while chains moved.
#[test]
fn a_member_that_missed_moves_is_recovered() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    cluster.allow_log("");
    for number in 0..2 {
        cluster.add_member(number)?;
    }
    for number in 0..4 {
        cluster.add_brick(number)?;
    }
    // It knows of all members from the start.
    cluster.start_mount()?;
    fill(cluster.mountpoint(), 1)?;
    cluster.namespace.stop()?;
    go_on(&cluster)?;
    cluster.mount.stop()?;
    for brick in &mut cluster.bricks {
        brick.kill9()?;
    }
    cluster.members.iter_mut().try_for_each(Process::kill9)?;
    cluster.members.clear();
    let place = cluster.workshop().path().join("namespace");
    let run = cluster.client().run(binary()?).args(["namespace", "recover", "--dir"]).arg(&place);
    run.arg("--others-are-lost").ok()?;
    cluster.namespace.start()?;
    let all = spawn(&mut cluster, &[0, 1, 2, 3])?;
    ready(all)?;
    cluster.start_mount()?;
    goes_on(&mut cluster)?;
    cluster.finish()
}

/// One of the bricks is lost with the namespace: it is waited for, until the administrator says that it is lost.
#[test]
fn a_lost_brick_is_given_up_by_word() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    cluster.allow_log("");
    fill(cluster.mountpoint(), 1)?;
    back_up(&mut cluster)?;
    fill(cluster.mountpoint(), 2)?;
    std::fs::write(cluster.mountpoint().join("later"), seed::bytes(9, 0, BYTES))?;
    drain(&cluster, &[0])?;
    cluster.mount.stop()?;
    for brick in &mut cluster.bricks {
        brick.kill9()?;
    }
    cluster.namespace.kill9()?;
    put_back(&cluster)?;
    cluster.namespace.start()?;
    let there = spawn(&mut cluster, &[0, 1, 2])?;
    waits_for(&cluster, &[3])?;
    let refused = cluster.admin(&["namespace", "adopt"])?.run()?;
    ensure!(!refused.status.success() && refused.error_text().contains("--without 3"), "{refused:?}");
    let told = cluster.admin(&["namespace", "adopt", "--without", "3"])?.ok()?.text();
    ensure!(told.contains("goes on"), "{told}");
    ready(there)?;
    cluster.start_mount()?;
    verify(cluster.mountpoint(), 2)?;
    let again = cluster.admin(&["namespace", "adopt"])?.run()?;
    ensure!(again.error_text().contains("nothing to adopt"), "{again:?}");
    // It was not lost after all.
    cluster.bricks[3].start()?;
    cluster.wait_whole(LIMIT)?;
    goes_on(&mut cluster)?;
    cluster.finish()
}

/// No brick and no mount has come or gone since the backup: files that are made after it was put back show nothing of those that were
/// lost with the state in between, which is kept.
#[test]
fn what_was_only_written_after_the_backup_is_not_seen_in_new_files() -> Result<()> {
    const MADE: u64 = 20;
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    cluster.allow_log("");
    fill(cluster.mountpoint(), 1)?;
    let begun = SystemTime::now();
    back_up(&mut cluster)?;
    wait::until_true("all bricks have the map that came with the start", LIMIT, || {
        let noted = |at: usize| std::fs::metadata(cluster.brick_dir(at).join("map"))?.modified();
        (0..3)
            .map(|at| Ok(noted(at)? > begun))
            .collect::<Result<Vec<bool>>>()
            .map(|all| !all.contains(&false))
    })?;
    for number in 0..MADE {
        let path = cluster.mountpoint().join(format!("lost-{number}"));
        std::fs::write(&path, seed::bytes(200 + number, 0, 100_000))?;
        std::fs::File::open(&path)?.sync_all()?;
    }
    cluster.namespace.stop()?;
    put_back(&cluster)?;
    cluster.namespace.start()?;
    // No brick has spoken yet.
    for number in 0..MADE {
        let path = cluster.mountpoint().join(format!("new-{number}"));
        let file = std::fs::File::create(&path)?;
        // One hole, and nothing else.
        file.set_len(100_000)?;
        file.sync_all()?;
        let there = std::fs::read(&path)?;
        ensure!(there == vec![0; 100_000], "{} shows what it never had", path.display());
    }
    // It is told by the next change of the map at the latest: a brick comes up.
    cluster.bricks[0].stop()?;
    cluster.bricks[0].start()?;
    adopted(&cluster)?;
    verify(cluster.mountpoint(), 1)?;
    let told = cluster.check(true)?.text();
    ensure!(told.contains("of files whose names were lost"), "{told}");
    cluster.admin(&["namespace", "free-lost"])?.ok()?;
    wait::until_true("what had no name is freed", LIMIT, || {
        Ok(cluster.check(false).is_ok_and(|told| !told.text().contains("of files whose names were lost")))
    })?;
    cluster.finish()
}
