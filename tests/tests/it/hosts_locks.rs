//! Locks between mounts on two machines.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brickyard_tests::kernel::{RangeLock, range_lock, try_range_lock};
use brickyard_tests::{HostCluster, Shape, seed, wait};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::locks::{Holder, PROBE, attempt, flock_excludes, ranges_exclude};

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster mounted on two machines, and both mount points.
fn two_mounts() -> Result<(HostCluster, PathBuf, PathBuf)> {
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    let there = cluster.add_mount()?;
    let here = cluster.mountpoint().to_owned();
    Ok((cluster, here, there))
}

/// Locks exclude, wake, split, join and end between two machines as they do on one.
#[test]
fn locks_exclude_between_mounts() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    for (here, there) in [(&here, &there), (&there, &here), (&here, &here)] {
        flock_excludes(&here.join("flock"), &there.join("flock"))?;
        ranges_exclude(&here.join("ranges"), &there.join("ranges"))?;
    }
    // Of one file, each kind knows only its own.
    let file = File::open(here.join("flock"))?;
    let _range = Holder::start("range", &there.join("flock"), &["0", "0"])?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    drop((file, _range));
    cluster.finish()
}

/// When a holder is killed, whoever waits on another machine has its lock within a second; and who waits, and is killed,
/// ends at once.
#[test]
fn a_lock_of_a_killed_holder_is_handed_over() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    for (kind, more) in [("flock", &[][..]), ("range", &["0", "10"][..])] {
        std::fs::write(here.join(kind), "content")?;
        for _ in 0..5 {
            let holder = Holder::start(kind, &there.join(kind), more)?;
            let waiter = |path: PathBuf| {
                Command::new(PROBE).arg(kind).arg(path).arg("wait").args(more).stdout(Stdio::piped()).spawn()
            };
            let (mut killed, waits) = (waiter(here.join(kind))?, waiter(here.join(kind))?);
            for one in [&killed, &waits] {
                let wchan = format!("/proc/{}/wchan", one.id());
                wait::until_true("it waits for the lock", LIMIT, || {
                    Ok(std::fs::read_to_string(&wchan)?.contains("request_wait_answer"))
                })?;
            }
            killed.kill()?;
            let begun = Instant::now();
            ensure!(killed.wait()?.signal() == Some(9));
            ensure!(
                begun.elapsed() < Duration::from_secs(1),
                "a killed waiter ended after {:?}",
                begun.elapsed()
            );
            drop(holder);
            let begun = Instant::now();
            let done = waits.wait_with_output()?;
            ensure!(done.stdout == b"locked\n", "the waiter got {:?}", String::from_utf8_lossy(&done.stdout));
            ensure!(begun.elapsed() < Duration::from_secs(1), "handed over after {:?}", begun.elapsed());
            ensure!(
                attempt(kind, &here.join(kind), more)? == "locked",
                "something of the killed waiter is left"
            );
        }
    }
    cluster.finish()
}

/// Two that wait for each other, on two machines: one of them is told.
#[test]
fn waiting_in_a_circle_is_refused() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    std::fs::write(here.join("file"), "0123456789")?;
    let open = |path: PathBuf| File::options().read(true).write(true).open(path);
    let ours = open(here.join("file"))?;
    // A process that holds the second half and waits for all.
    ensure!(try_range_lock(&ours, RangeLock::Write, 0, 5)?);
    let script = "import fcntl,sys\nf=open(sys.argv[1],'r+b')\nfcntl.lockf(f,fcntl.LOCK_EX,5,5)\nprint('holds',flush=True)\nfcntl.lockf(f,fcntl.LOCK_EX,5,0)\nprint('has all',flush=True)";
    let mut other = Command::new("python3")
        .args(["-c", script])
        .arg(there.join("file"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(other.stdout.take().context("no output")?));
    ensure!(lines.next().context("it ended")?? == "holds");
    let wchan = format!("/proc/{}/wchan", other.id());
    wait::until_true("it waits", LIMIT, || {
        Ok(std::fs::read_to_string(&wchan)?.contains("request_wait_answer"))
    })?;
    let refused = range_lock(&ours, RangeLock::Write, 5, 5);
    ensure!(
        refused.as_ref().is_err_and(|e| e.raw_os_error() == Some(Errno::DEADLK.raw_os_error())),
        "{refused:?}"
    );
    // What it held it holds still; when it gives it up the other one goes on.
    ensure!(try_range_lock(&ours, RangeLock::Unlock, 0, 5)?);
    ensure!(lines.next().context("it ended")?? == "has all");
    ensure!(other.wait()?.success());
    drop(ours);
    cluster.finish()
}

/// The machine of a holder is cut off: others have its lock within 13 s, and when it is back, nothing that it writes through
/// the file with the lost lock gets anywhere; new openings do.
#[test]
fn a_holder_that_was_cut_off_is_fenced() -> Result<()> {
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("");
    let data = |n: u64| seed::bytes(n, 0, 300_000);
    let host = cluster.mounts[0].host().clone();
    let healer = host.healer()?;
    std::fs::write(here.join("file"), data(1))?;
    let held = File::options().read(true).write(true).open(there.join("file"))?;
    let free = File::create(there.join("free"))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    held.write_all_at(&data(2), 0)?;
    held.sync_all()?;
    host.cut()?;
    // Written under the lock, and on its way for ever.
    held.write_all_at(&data(3), 100_000)?;
    (&free).write_all(&data(4))?;
    let ours = File::options().read(true).write(true).open(here.join("file"))?;
    let begun = Instant::now();
    flock(&ours, FlockOperation::LockExclusive)?;
    let took = begun.elapsed();
    eprintln!("handed over {took:?} after the cut");
    ensure!(took < Duration::from_secs(13), "handed over {took:?} after the cut");
    let mut seen = vec![0; 300_000];
    ours.read_exact_at(&mut seen, 0)?;
    ensure!(seen == data(2), "what was synced under the lock is not there");
    ours.write_all_at(&data(5), 0)?;
    ours.sync_all()?;
    healer.heal()?;
    let is_eio = |result: std::io::Result<()>| {
        result.is_err_and(|e| e.raw_os_error() == Some(Errno::IO.raw_os_error()))
    };
    wait::until_true("the old holder learns of its loss", LIMIT, || {
        Ok(is_eio(held.write_all_at(b"late", 0)))
    })?;
    for _ in 0..3 {
        ensure!(is_eio(held.write_all_at(&data(6), 0)) && is_eio(held.sync_all()) && is_eio(held.set_len(5)));
    }
    // What needs no lock goes on where it was.
    free.sync_all()?;
    ensure!(std::fs::read(here.join("free"))? == data(4));
    ours.read_exact_at(&mut seen, 0)?;
    ensure!(seen == data(5), "the old holder has written over the new one's data");
    let again = File::options().read(true).write(true).open(there.join("file"))?;
    ensure!(flock(&again, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK));
    drop(ours);
    flock(&again, FlockOperation::LockExclusive)?;
    again.write_all_at(b"mine", 0)?;
    again.sync_all()?;
    drop((again, held, free));
    let now = std::fs::read(here.join("file"))?;
    ensure!(now[..4] == *b"mine" && now[4..] == data(5)[4..] && now.len() == 300_000);
    cluster.check(true)?;
    cluster.finish()
}
