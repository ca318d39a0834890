//! The second process of lock tests: takes a lock, says so, and holds it until its input ends.
//!
//! `brickyard-probe flock|range PATH hold|try|wait [START LENGTH]`: prints `locked` or `busy`.

use std::fs::File;
use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use brickyard_tests::kernel::{RangeLock, range_lock, try_range_lock};
use rustix::fs::{FlockOperation, flock};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brickyard-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, path, mode, more @ ..] = args.as_slice() else {
        bail!("usage: brickyard-probe flock|range PATH hold|try|wait [START LENGTH]")
    };
    let file =
        File::options().read(true).write(true).open(path).with_context(|| format!("cannot open {path}"))?;
    let locked = match kind.as_str() {
        "flock" => take_flock(&file, mode)?,
        "range" => {
            let start = more.first().map_or(Ok(0), |text| text.parse())?;
            let length = more.get(1).map_or(Ok(0), |text| text.parse())?;
            take_range(&file, mode, start, length)?
        }
        other => bail!("unknown kind of lock: {other}"),
    };
    println!("{}", if locked { "locked" } else { "busy" });
    std::io::stdout().flush()?;
    if mode == "hold" && locked {
        // The holder keeps the lock until the test closes our input, or kills us.
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

fn take_flock(file: &File, mode: &str) -> Result<bool> {
    if mode == "wait" {
        flock(file, FlockOperation::LockExclusive)?;
        return Ok(true);
    }
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn take_range(file: &File, mode: &str, start: i64, length: i64) -> Result<bool> {
    if mode == "wait" {
        range_lock(file, RangeLock::Write, start, length)?;
        return Ok(true);
    }
    Ok(try_range_lock(file, RangeLock::Write, start, length)?)
}
