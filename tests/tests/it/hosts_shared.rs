//! Files that two machines write, while something fails: what one was told is durable is not undone by what the other does later.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::{HostCluster, Shape, seed, wait};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a file.
const LENGTH: usize = 65_536;

fn two_mounts() -> Result<(HostCluster, PathBuf, PathBuf)> {
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    let there = cluster.add_mount()?;
    let here = cluster.mountpoint().to_owned();
    Ok((cluster, here, there))
}

fn open(path: &std::path::Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// One machine writes and closes, the other one writes over that, cuts it, writes it anew or makes a hole, and has that made durable. Then some
/// bricks are killed. The first one, which knows nothing of the other, sends again what may be lost, and undoes nothing by it.
fn undoes_nothing(killed: &[usize]) -> Result<()> {
    const FILES: u64 = 16;
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("");
    let old = |number: u64| seed::bytes(number, 0, LENGTH);
    let new = |number: u64| seed::bytes(number + 100, 0, LENGTH);
    for number in 0..FILES {
        open(&here.join(number.to_string()))?.write_all_at(&old(number), 0)?;
    }
    let mut expected = Vec::new();
    for number in 0..FILES {
        let mut bytes = old(number);
        let file = open(&there.join(number.to_string()))?;
        let mut read = vec![0; LENGTH];
        file.read_exact_at(&mut read, 0)?;
        ensure!(read == bytes, "file {number} was closed, and is not seen elsewhere");
        match number % 4 {
            0 => {
                bytes = new(number);
                file.write_all_at(&bytes, 0)?;
            }
            1 => {
                file.set_len(4096)?;
                file.set_len(LENGTH as u64)?;
                bytes[4096..].fill(0);
            }
            2 => {
                file.set_len(0)?;
                bytes = new(number);
                file.write_all_at(&bytes, 0)?;
            }
            _ => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, flags, 8192, 40_960)?;
                bytes[8192..8192 + 40_960].fill(0);
            }
        }
        file.sync_all()?;
        expected.push(bytes);
    }
    for brick in killed {
        cluster.bricks[*brick].kill9()?;
    }
    for brick in killed {
        cluster.bricks[*brick].start()?;
    }
    cluster.wait_whole(LIMIT)?;
    // What it held is sent again when it is durable.
    for number in 0..FILES {
        File::open(here.join(number.to_string()))?.sync_all()?;
    }
    for (number, expected) in expected.iter().enumerate() {
        for mount in [&there, &here] {
            let read = std::fs::read(mount.join(number.to_string()))?;
            let wrong = read.iter().zip(expected).filter(|(a, b)| a != b).count();
            ensure!(
                read.len() == LENGTH && wrong == 0,
                "file {number}: {wrong} of {} bytes are wrong",
                read.len()
            );
        }
    }
    cluster.check(true)?;
    cluster.finish()
}

#[test]
fn what_is_sent_again_undoes_nothing() -> Result<()> {
    undoes_nothing(&[0, 1, 2])
}

/// The other one has lost nothing, and knows that.
#[test]
fn what_is_sent_again_for_one_brick_undoes_nothing() -> Result<()> {
    undoes_nothing(&[0])
}

/// A machine writes to a file, and is cut off from the namespace before that knows of it, for so long that its session ends: another
/// one wants a lock that it holds on another file. What it wrote is there when it is back and fsync says so.
#[test]
fn what_was_written_in_a_session_that_ended_is_there() -> Result<()> {
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("");
    let (host, namespace) = (cluster.client().clone(), cluster.namespace.host().clone());
    let mut content = seed::bytes(1, 0, 4096);
    let file = open(&here.join("file"))?;
    file.write_all_at(&content, 0)?;
    file.sync_all()?;
    let held = open(&here.join("locked"))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    content.extend(seed::bytes(2, 0, 500_000));
    file.write_all_at(&content[4096..], 4096)?;
    host.part_from(&namespace)?;
    let waiting = open(&there.join("locked"))?;
    flock(&waiting, FlockOperation::LockExclusive)?;
    host.meet(&namespace)?;
    wait::until_true("it is back", LIMIT, || {
        Ok(cluster.status()?["sessions"].as_array().is_some_and(|sessions| sessions.len() == 2))
    })?;
    // A call that tells of writes and cuts the file in one comes first.
    content.truncate(400_000);
    file.set_len(400_000).context("truncation in the new session")?;
    file.sync_all().context("fsync in the new session")?;
    for mount in [&there, &here] {
        let read = std::fs::read(mount.join("file"))?;
        let wrong = read.iter().zip(&content).filter(|(a, b)| a != b).count();
        ensure!(read.len() == content.len() && wrong == 0, "{wrong} of {} bytes are wrong", read.len());
    }
    drop((file, held, waiting));
    cluster.finish()
}

/// What another machine wrote and closed is durable when fsync on this one says so, whatever becomes of that machine.
#[test]
fn fsync_is_for_what_others_wrote_too() -> Result<()> {
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("");
    let (old, new) = (seed::bytes(1, 0, 500_000), seed::bytes(2, 0, 500_000));
    let file = open(&there.join("file"))?;
    file.write_all_at(&old, 0)?;
    file.sync_all()?;
    std::fs::write(here.join("file"), &new)?;
    let ours = File::open(there.join("file"))?;
    let mut read = vec![0; new.len()];
    ours.read_exact_at(&mut read, 0)?;
    ensure!(read == new, "closed, and not seen elsewhere");
    ours.sync_all()?;
    // The first mount is the client's.
    cluster.mount.kill9()?;
    for brick in &mut cluster.bricks {
        brick.kill9()?;
    }
    for brick in &mut cluster.bricks {
        brick.start()?;
    }
    cluster.wait_whole(LIMIT)?;
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let ours = OpenOptions::new().read(true).custom_flags(direct).open(there.join("file"))?;
    ours.read_exact_at(&mut read, 0)?;
    ensure!(read == new, "acknowledged by fsync, and gone");
    drop((file, ours));
    cluster.finish()
}

/// A write that is told to the namespace after a later one of another machine is seen all the same, through files that were open and
/// read before.
#[test]
fn a_write_that_is_told_late_is_seen() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    for round in 0..3u64 {
        let name = format!("file{round}");
        let mut content = seed::bytes(round, 0, 4 * LENGTH);
        let (ours, theirs) = (open(&here.join(&name))?, open(&there.join(&name))?);
        ours.write_all_at(&content, 0)?;
        ours.sync_all()?;
        let mut read = vec![0; content.len()];
        theirs.read_exact_at(&mut read, 0)?;
        ensure!(read == content);
        ours.write_all_at(b"the first", 100)?;
        theirs.write_all_at(b"the second", 200_000)?;
        theirs.sync_all()?;
        // In the other kernel's memory now, with or without the first.
        theirs.read_exact_at(&mut read, 0)?;
        ours.sync_all()?;
        content[100..109].copy_from_slice(b"the first");
        content[200_000..200_010].copy_from_slice(b"the second");
        let sees = || -> Result<bool> {
            let mut read = vec![0; content.len()];
            theirs.read_exact_at(&mut read, 0)?;
            Ok(read == content)
        };
        wait::until_true("the other machine sees it", Duration::from_secs(3), sees)?;
    }
    cluster.finish()
}

/// A machine makes a file longer that another one has cut, which it has not heard of, and makes a hole of what it has just written: the
/// file ends where it was written to.
#[test]
fn a_hole_in_what_was_not_told_yet_keeps_the_size() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    for keep in [true, false] {
        for round in 0..4u64 {
            let name = format!("file-{keep}-{round}");
            let ours = open(&here.join(&name))?;
            ours.write_all_at(&seed::bytes(round, 0, 30_208), 0)?;
            ours.sync_all()?;
            let theirs = OpenOptions::new().write(true).truncate(true).open(there.join(&name))?;
            theirs.write_all_at(&seed::bytes(round + 10, 0, 1536), 0)?;
            theirs.sync_all()?;
            drop(theirs);
            ours.write_all_at(&seed::bytes(round + 20, 0, 19_456), 1024)?;
            let flags = if keep {
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
            } else {
                FallocateFlags::ZERO_RANGE
            };
            fallocate(&ours, flags, 8192, 12_288)?;
            ours.sync_all()?;
            let mut expected = seed::bytes(round + 10, 0, 1024);
            expected.extend(seed::bytes(round + 20, 0, 7168));
            expected.resize(20_480, 0);
            for mount in [&there, &here] {
                let read = std::fs::read(mount.join(&name))?;
                ensure!(read.len() == expected.len(), "{name}: {} bytes at {}", read.len(), mount.display());
                ensure!(read == expected, "{name}: wrong bytes at {}", mount.display());
            }
        }
    }
    cluster.finish()
}

/// A machine that has written to a file and not told of it yet sees what others write elsewhere in it, though its kernel remembers what
/// was there.
#[test]
fn who_has_written_itself_sees_what_others_write() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    let (ours, theirs) = (open(&here.join("file"))?, open(&there.join("file"))?);
    ours.write_all_at(&seed::bytes(1, 0, 4 * LENGTH), 0)?;
    ours.sync_all()?;
    let read = || -> Result<Vec<u8>> {
        let mut read = vec![0; 4096];
        ours.read_exact_at(&mut read, 0)?;
        Ok(read)
    };
    for round in 2..12u64 {
        ours.write_all_at(&seed::bytes(round, 0, 100), 3 * LENGTH as u64)?;
        // In the kernel's memory now, as of the time of that write.
        read()?;
        let new = seed::bytes(round, 0, 4096);
        theirs.write_all_at(&new, 0)?;
        theirs.sync_all()?;
        ensure!(read()? == new, "round {round}: what was acknowledged by fsync elsewhere is not seen");
    }
    drop((ours, theirs));
    cluster.finish()
}
