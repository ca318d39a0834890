//! Locks between processes on one mount. `hosts_locks` tells the same stories of two mounts.

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

pub(crate) const PROBE: &str = env!("CARGO_BIN_EXE_brickyard-probe");

/// A process that holds a lock until it is let go or dropped (then it is killed).
pub(crate) struct Holder(Child);

impl Holder {
    /// Starts a process that takes the lock; returns once it says it has it.
    pub(crate) fn start(kind: &str, path: &Path, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(PROBE);
        command.arg(kind).arg(path).arg("hold").args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Self(command.spawn()?);
        let stdout = holder.0.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "locked\n", "the first holder got: {line:?}");
        Ok(holder)
    }

    pub(crate) fn let_go(mut self) -> Result<()> {
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

pub(crate) fn attempt(kind: &str, path: &Path, more: &[&str]) -> Result<String> {
    Ok(Run::new(PROBE).arg(kind).arg(path).arg("try").args(more).ok()?.text())
}

/// `flock` excludes between processes; it ends with the holder, also one that is killed.
#[test]
fn flock_excludes_between_processes() -> Result<()> {
    let place = Place::new()?;
    let path = place.join("lock");
    flock_excludes(&path, &path)?;
    place.finish()
}

/// The story, of processes that have the file `here` and others that have the same one `there`.
pub(crate) fn flock_excludes(here: &Path, there: &Path) -> Result<()> {
    let file = File::create(here)?;
    let holder = Holder::start("flock", there, &[])?;
    ensure!(attempt("flock", here, &[])? == "busy");
    ensure!(flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK));
    holder.let_go()?;
    ensure!(attempt("flock", here, &[])? == "locked");
    // Who waits is woken by the death of the holder.
    let holder = Holder::start("flock", there, &[])?;
    let path_of_waiter = here.to_owned();
    let waiter =
        std::thread::spawn(move || Run::new(PROBE).arg("flock").arg(path_of_waiter).arg("wait").ok());
    ensure!(attempt("flock", here, &[])? == "busy");
    drop(holder);
    let done = waiter.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))??;
    ensure!(done.text() == "locked");
    // Shared among many, exclusive to none of them.
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    let other = File::open(there)?;
    flock(&other, FlockOperation::NonBlockingLockShared)?;
    ensure!(attempt("flock", here, &[])? == "busy");
    drop((file, other));
    ensure!(attempt("flock", here, &[])? == "locked");
    // A waiter that is killed leaves at once and leaves nothing behind.
    let holder = Holder::start("flock", there, &[])?;
    let waiting = Run::new(PROBE).arg("flock").arg(here).arg("wait").limit(Duration::from_secs(1)).run();
    ensure!(waiting.is_err(), "two processes hold one lock");
    holder.let_go()?;
    wait::until_true("the lock of a killed waiter is free", Duration::from_secs(10), || {
        Ok(attempt("flock", here, &[])? == "locked")
    })?;
    Ok(())
}

/// Byte-range locks exclude between processes where they overlap and only there, name their
/// holder, split and join.
#[test]
fn byte_ranges_exclude_between_processes() -> Result<()> {
    let place = Place::new()?;
    let path = place.join("ranges");
    ranges_exclude(&path, &path)?;
    place.finish()
}

/// The story, of processes that have the file `here` and others that have the same one `there`. Those of other mounts have
/// no number here.
pub(crate) fn ranges_exclude(here: &Path, there: &Path) -> Result<()> {
    std::fs::write(here, "0123456789")?;
    let file = File::options().read(true).write(true).open(here)?;
    let holder = Holder::start("range", there, &["100", "100"])?;
    ensure!(attempt("range", there, &["0", "100"])? == "locked", "ranges that only touch exclude");
    ensure!(attempt("range", there, &["200", "0"])? == "locked", "ranges that only touch exclude");
    ensure!(attempt("range", there, &["150", "1"])? == "busy");
    ensure!(attempt("range", there, &["0", "0"])? == "busy");
    ensure!(!try_range_lock(&file, RangeLock::Read, 199, 1)?);
    let pid = range_lock_holder(&file, RangeLock::Write, 0, 0)?.context("nobody holds the lock")?;
    let known = if here == there { holder.0.id() as i32 } else { 0 };
    ensure!(pid == known, "process {pid} shall hold the lock of {known}");
    holder.let_go()?;
    ensure!(range_lock_holder(&file, RangeLock::Write, 0, 0)?.is_none());
    // A hole unlocked in the middle of a range is free, both ends stay locked.
    ensure!(try_range_lock(&file, RangeLock::Write, 0, 100)?);
    ensure!(try_range_lock(&file, RangeLock::Unlock, 40, 20)?);
    ensure!(attempt("range", there, &["40", "20"])? == "locked");
    ensure!(attempt("range", there, &["39", "1"])? == "busy");
    ensure!(attempt("range", there, &["60", "1"])? == "busy");
    // Closing any descriptor of the file drops the process's locks: the old rule of POSIX.
    drop(File::open(here)?);
    wait::until_true("locks dropped by close", Duration::from_secs(5), || {
        Ok(attempt("range", there, &["0", "0"])? == "locked")
    })?;
    drop(file);
    Ok(())
}
