//! Locks between processes on one mount.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::kernel::{RangeLock, range_lock_holder, try_range_lock};
use brickyard_tests::{Place, Run, wait};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const PROBE: &str = env!("CARGO_BIN_EXE_brickyard-probe");

/// A process that holds a lock until it is let go or dropped (then it is killed).
struct Holder(Child);

impl Holder {
    /// Starts a process that takes the lock; returns once it says it has it.
    fn start(kind: &str, path: &Path, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(PROBE);
        command.arg(kind).arg(path).arg("hold").args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Self(command.spawn()?);
        let stdout = holder.0.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "locked\n", "the first holder got: {line:?}");
        Ok(holder)
    }

    fn let_go(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        wait::until("the end of the holder", Duration::from_secs(10), || Ok(self.0.try_wait()?))?;
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attempt(kind: &str, path: &Path, more: &[&str]) -> Result<String> {
    Ok(Run::new(PROBE).arg(kind).arg(path).arg("try").args(more).ok()?.text())
}

/// `flock` excludes between processes; it ends with the holder, also one that is killed.
#[test]
fn flock_excludes_between_processes() -> Result<()> {
    let place = Place::new()?;
    let path = place.join("lock");
    let file = File::create(&path)?;
    let holder = Holder::start("flock", &path, &[])?;
    ensure!(attempt("flock", &path, &[])? == "busy");
    ensure!(flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK));
    holder.let_go()?;
    ensure!(attempt("flock", &path, &[])? == "locked");
    // Who waits is woken by the death of the holder.
    let holder = Holder::start("flock", &path, &[])?;
    let path_of_waiter = path.clone();
    let waiter =
        std::thread::spawn(move || Run::new(PROBE).arg("flock").arg(path_of_waiter).arg("wait").ok());
    ensure!(attempt("flock", &path, &[])? == "busy");
    drop(holder);
    let done = waiter.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))??;
    ensure!(done.text() == "locked");
    // Shared among many, exclusive to none of them.
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    let other = File::open(&path)?;
    flock(&other, FlockOperation::NonBlockingLockShared)?;
    ensure!(attempt("flock", &path, &[])? == "busy");
    drop((file, other));
    ensure!(attempt("flock", &path, &[])? == "locked");
    // A waiter that is killed leaves at once and leaves nothing behind.
    let holder = Holder::start("flock", &path, &[])?;
    let waiting = Run::new(PROBE).arg("flock").arg(&path).arg("wait").limit(Duration::from_secs(1)).run();
    ensure!(waiting.is_err(), "two processes hold one lock");
    holder.let_go()?;
    wait::until_true("the lock of a killed waiter is free", Duration::from_secs(10), || {
        Ok(attempt("flock", &path, &[])? == "locked")
    })?;
    place.finish()
}

/// Byte-range locks exclude between processes where they overlap and only there, name their
/// holder, split and join.
#[test]
fn byte_ranges_exclude_between_processes() -> Result<()> {
    let place = Place::new()?;
    let path = place.join("ranges");
    std::fs::write(&path, "0123456789")?;
    let file = File::options().read(true).write(true).open(&path)?;
    let holder = Holder::start("range", &path, &["100", "100"])?;
    ensure!(attempt("range", &path, &["0", "100"])? == "locked", "ranges that only touch exclude");
    ensure!(attempt("range", &path, &["200", "0"])? == "locked", "ranges that only touch exclude");
    ensure!(attempt("range", &path, &["150", "1"])? == "busy");
    ensure!(attempt("range", &path, &["0", "0"])? == "busy");
    ensure!(!try_range_lock(&file, RangeLock::Read, 199, 1)?);
    let pid = range_lock_holder(&file, RangeLock::Write, 0, 0)?.context("nobody holds the lock")?;
    ensure!(pid == holder.0.id() as i32, "process {pid} shall hold the lock of {}", holder.0.id());
    holder.let_go()?;
    ensure!(range_lock_holder(&file, RangeLock::Write, 0, 0)?.is_none());
    // A hole unlocked in the middle of a range is free, both ends stay locked.
    ensure!(try_range_lock(&file, RangeLock::Write, 0, 100)?);
    ensure!(try_range_lock(&file, RangeLock::Unlock, 40, 20)?);
    ensure!(attempt("range", &path, &["40", "20"])? == "locked");
    ensure!(attempt("range", &path, &["39", "1"])? == "busy");
    ensure!(attempt("range", &path, &["60", "1"])? == "busy");
    // Closing any descriptor of the file drops the process's locks: the old rule of POSIX.
    drop(File::open(&path)?);
    wait::until_true("locks dropped by close", Duration::from_secs(5), || {
        Ok(attempt("range", &path, &["0", "0"])? == "locked")
    })?;
    drop(file);
    place.finish()
}
