//! A disk without a byte left.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::{Cluster, Options, Run, seed, wait};
use rustix::mount::UnmountFlags;

const LIMIT: Duration = Duration::from_secs(60);

/// A small filesystem of its own at a directory, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(dir: &Path, mib: u64) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let size = format!("size={mib}m,mode=0755");
        Run::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir).ok()?;
        Ok(Self(dir.to_owned()))
    }

    /// Fills it to the last byte with a file beside the cluster's; returns that.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("somebody-elses-file");
        let mut file = File::create(&path)?;
        // Larger pieces first, and at last the bytes that are left.
        for piece in [1 << 20, 4096, 1] {
            let piece = vec![7; piece];
            while let Ok(()) = std::io::Write::write_all(&mut file, &piece) {}
        }
        let space = rustix::fs::statvfs(&self.0)?;
        ensure!(space.f_bavail == 0, "{} blocks are still free", space.f_bavail);
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

/// Somebody fills the disk to the last byte: the cluster stops, and starts again. Everything is read, files can be
/// removed and new ones refused; once there is room, it is used, the scheduler comes, and the next full disk is
/// survived as well.
#[test]
fn a_full_disk_starts() -> Result<()> {
    let mut cluster = Cluster::prepare(Options::with_scheduler(1))?;
    let disk = SmallDisk::at(&cluster.workshop().dir("disk")?, 1500)?;
    cluster.move_data(&disk.0.join("data"));
    for words in ["full", "room", "NoSpace", "written data is lost"] {
        cluster.allow_log(words);
    }
    cluster.up()?;
    let dir = cluster.dir("files")?;
    for number in 0..20 {
        std::fs::write(dir.join(format!("{number}")), seed::bytes(number, 0, 1_000_000))?;
        File::open(dir.join(format!("{number}")))?.sync_all()?;
    }
    for round in 0..2 {
        cluster.stop()?;
        let filler = disk.fill()?;
        cluster.up().with_context(|| format!("round {round}: start on a full disk"))?;
        for number in round..20 {
            let content = std::fs::read(dir.join(format!("{number}")))?;
            ensure!(content == seed::bytes(number, 0, 1_000_000), "file {number} reads wrong");
        }
        // Removing works, and is durable.
        std::fs::remove_file(dir.join(format!("{round}")))?;
        cluster.check()?;
        cluster.stop()?;
        cluster.up()?;
        ensure!(!dir.join(format!("{round}")).exists(), "a removed file is back");
        std::fs::remove_file(filler)?;
        let fresh = dir.join("fresh");
        wait::until_true("room is used", LIMIT, || {
            Ok(std::fs::write(&fresh, seed::bytes(77, 0, 500_000)).is_ok()
                && File::open(&fresh)?.sync_all().is_ok())
        })?;
        ensure!(std::fs::read(&fresh)? == seed::bytes(77, 0, 500_000));
        let job = || cluster.command("qsub")?.args(["-sync", "y", "-b", "y", "true"]).cwd(&dir).run();
        wait::until_true("the scheduler runs jobs", LIMIT, || Ok(job()?.status.success()))?;
        // Room is set aside again at a start with room.
        cluster.restart()?;
    }
    cluster.check()?;
    cluster.finish()
}
