//! Bricks lose what was not durable, once or twice, while the machine that wrote it is away; others go on with the same files, and are
//! told that what they wrote is durable. When the first one is back it sends again what was lost, and undoes nothing by it: where that
//! can't be done, its `fsync` says so.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::{HostCluster, Shape, seed};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a file.
const LENGTH: usize = 65_536;
const FILES: u64 = 16;

/// How bricks are killed after the second machine's `fsync`.
#[derive(Clone, Copy, PartialEq)]
enum Second {
    Never,
    AllAtOnce,
    OneByOne,
}

/// What is expected of a file.
struct Expected {
    /// What the machine wrote that was away then.
    old: Vec<u8>,
    /// What the other one had made durable, by bytes; nothing: it left them alone.
    durable: Vec<Option<u8>>,
}

impl Expected {
    /// Bytes that are none of those that may be there; `said_yes`: fsync of the first machine.
    fn wrong(&self, read: &[u8], said_yes: bool) -> usize {
        let may_be = |at: usize, byte: u8| match self.durable[at] {
            Some(durable) => byte == durable,
            None => byte == self.old[at] || !said_yes && byte == 0,
        };
        (0..LENGTH).filter(|at| !read.get(*at).is_some_and(|byte| may_be(*at, *byte))).count()
    }
}

/// What the second machine does with a file.
fn change(path: &Path, number: u64, old: Vec<u8>) -> Result<Expected> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let new = seed::bytes(number + 100, 0, LENGTH);
    let mut durable = vec![None; LENGTH];
    let mut write = |from: usize, to: usize| -> Result<()> {
        file.write_all_at(&new[from..to], from as u64)?;
        durable[from..to].iter_mut().zip(&new[from..to]).for_each(|(byte, new)| *byte = Some(*new));
        Ok(())
    };
    match number % 4 {
        0 => write(0, LENGTH)?,
        1 => write(8192, 12_288)?,
        2 => {
            file.set_len(0)?;
            write(0, LENGTH)?;
        }
        _ => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, flags, 8192, 40_960)?;
            durable[8192..8192 + 40_960].fill(Some(0));
        }
    }
    file.sync_all().with_context(|| format!("fsync of file {number}"))?;
    Ok(Expected { old, durable })
}

fn lose_all(cluster: &mut HostCluster) -> Result<()> {
    for brick in &mut cluster.bricks {
        brick.kill9()?;
    }
    for brick in &mut cluster.bricks {
        brick.start()?;
    }
    cluster.wait_whole(LIMIT)
}

fn lose_one_by_one(cluster: &mut HostCluster) -> Result<()> {
    for number in 0..cluster.bricks.len() {
        cluster.bricks[number].kill9()?;
        cluster.bricks[number].start()?;
        cluster.wait_whole(LIMIT)?;
    }
    Ok(())
}

fn who_was_away_undoes_nothing(second: Second) -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    let there = cluster.add_mount()?;
    let here = cluster.mountpoint().to_owned();
    cluster.allow_log("");
    let mut written = Vec::new();
    for number in 0..FILES {
        let old = seed::bytes(number, 0, LENGTH);
        std::fs::write(here.join(number.to_string()), &old)?;
        written.push(old);
    }
    // The first mount is the client's.
    cluster.mount.signal(Signal::STOP)?;
    lose_all(&mut cluster)?;
    let mut expected = Vec::new();
    for (number, old) in (0..FILES).zip(written) {
        expected.push(change(&there.join(number.to_string()), number, old)?);
    }
    match second {
        Second::Never => {}
        Second::AllAtOnce => lose_all(&mut cluster)?,
        Second::OneByOne => lose_one_by_one(&mut cluster)?,
    }
    cluster.mount.signal(Signal::CONT)?;
    let mut said_yes = Vec::new();
    for number in 0..FILES {
        said_yes.push(match File::open(here.join(number.to_string()))?.sync_all() {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => false,
            Err(error) => return Err(error).context(format!("fsync of file {number} by who was away")),
        });
    }
    let judge = |mount: &Path, direct: i32| -> Result<()> {
        for (number, (expected, said_yes)) in expected.iter().zip(&said_yes).enumerate() {
            let path = mount.join(number.to_string());
            let file = OpenOptions::new().read(true).custom_flags(direct).open(&path)?;
            ensure!(file.metadata()?.len() == LENGTH as u64, "{}: another length", path.display());
            let mut read = vec![0; LENGTH];
            file.read_exact_at(&mut read, 0).with_context(|| path.display().to_string())?;
            let wrong = expected.wrong(&read, *said_yes);
            ensure!(wrong == 0, "{}: {wrong} bytes are wrong, fsync said yes: {said_yes}", path.display());
        }
        Ok(())
    };
    for mount in [&there, &here] {
        judge(mount, 0)?;
        judge(mount, rustix::fs::OFlags::DIRECT.bits() as i32)?;
    }
    let refused = said_yes.iter().filter(|yes| !**yes).count();
    match second {
        // It is known what the one life in between has done.
        Second::Never => ensure!(refused == 0, "{refused} of {FILES} fsyncs failed"),
        _ => ensure!(
            (refused > 0) == cluster.mount.log().warned("bricks have started more than once"),
            "{refused} refused"
        ),
    }
    // Told once; what is written from now on is durable.
    for number in 0..FILES {
        let file = OpenOptions::new().read(true).write(true).open(here.join(number.to_string()))?;
        file.write_all_at(b"and on", 100)?;
        file.sync_all().with_context(|| format!("the next fsync of file {number}"))?;
    }
    cluster.check(true)?;
    cluster.finish()
}

#[test]
fn who_was_away_while_bricks_lost_undoes_nothing() -> Result<()> {
    who_was_away_undoes_nothing(Second::Never)
}

#[test]
fn who_was_away_while_bricks_lost_twice_undoes_nothing() -> Result<()> {
    who_was_away_undoes_nothing(Second::AllAtOnce)
}

#[test]
fn who_was_away_while_bricks_lost_and_restarted_in_turn_undoes_nothing() -> Result<()> {
    who_was_away_undoes_nothing(Second::OneByOne)
}
