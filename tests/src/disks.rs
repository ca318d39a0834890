//! Small disks of their own for bricks: filled up, turned read-only, mended.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::HostCluster;
use crate::run::Run;

/// Gives a brick that is not there yet a disk of its own, in mebibytes; it goes with the workshop.
pub fn give(cluster: &HostCluster, brick: usize, mib: u64) -> Result<()> {
    let image = image(cluster, brick);
    File::create(&image)?.set_len(mib << 20)?;
    Run::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).ok()?;
    let dir = cluster.brick_dir(brick);
    std::fs::create_dir(&dir)?;
    mount(&image, &dir)
}

fn image(cluster: &HostCluster, brick: usize) -> PathBuf {
    cluster.workshop().path().join(format!("disk{brick}.img"))
}

fn mount(image: &Path, dir: &Path) -> Result<()> {
    Run::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(image).arg(dir).ok().map(drop)
}

/// What the kernel does to a disk in which it has found an error: from now on nothing can be written to it.
pub fn turn_read_only(cluster: &HostCluster, brick: usize) -> Result<()> {
    let found = Run::new("findmnt")
        .args(["-n", "-o", "SOURCE", "--mountpoint"])
        .arg(cluster.brick_dir(brick))
        .ok()?;
    let source = found.text();
    let device = Path::new(&source).file_name().with_context(|| format!("no device: {source:?}"))?;
    let switch = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
    std::fs::write(&switch, "1").with_context(|| switch.display().to_string())
}

/// Takes a disk away while it is used: its directory is empty from now on, whoever has files open keeps them.
pub fn take_away(cluster: &HostCluster, brick: usize) -> Result<()> {
    Run::new("umount").arg("-l").arg(cluster.brick_dir(brick)).ok().map(drop)
}

/// Mounts a disk that was taken away.
pub fn put_back(cluster: &HostCluster, brick: usize) -> Result<()> {
    mount(&image(cluster, brick), &cluster.brick_dir(brick))
}

/// A disk that does not answer any more, until this is dropped: whoever writes to it waits.
#[derive(Debug)]
pub struct Frozen(PathBuf);

impl Frozen {
    /// Freezes the disk of a brick.
    pub fn freeze(cluster: &HostCluster, brick: usize) -> Result<Frozen> {
        let dir = cluster.brick_dir(brick);
        Run::new("fsfreeze").arg("--freeze").arg(&dir).ok()?;
        Ok(Frozen(dir))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = Run::new("fsfreeze").arg("--unfreeze").arg(&self.0).ok() {
            eprintln!("{} stays frozen: {error:#}", self.0.display());
        }
    }
}

/// What an administrator does about it: unmount, check, mount. Fails while something on the disk is open.
pub fn mend(cluster: &HostCluster, brick: usize) -> Result<()> {
    let (image, dir) = (image(cluster, brick), cluster.brick_dir(brick));
    Run::new("umount").arg(&dir).ok()?;
    let checked = Run::new("e2fsck").args(["-f", "-p"]).arg(&image).run()?;
    // 1: errors were corrected.
    anyhow::ensure!(matches!(checked.status.code(), Some(0 | 1)), "{}", checked.text());
    mount(&image, &dir)
}

/// Somebody else's files on a disk.
#[derive(Debug)]
pub struct Filler {
    dir: PathBuf,
    files: Vec<PathBuf>,
}

impl Filler {
    /// Takes all the room that is left in a directory's filesystem.
    pub fn fill(dir: &Path) -> Result<Filler> {
        let mut filler = Filler { dir: dir.to_owned(), files: Vec::new() };
        filler.take_the_rest()?;
        Ok(filler)
    }

    /// Takes what became free meanwhile.
    pub fn take_the_rest(&mut self) -> Result<()> {
        let path = self.dir.join(format!("filler{}", self.files.len()));
        let file = File::create(&path);
        if file.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull) {
            return Ok(());
        }
        self.files.push(path);
        let (file, mut at, mut step) = (file?, 0, 256 << 20);
        while step >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error).context("cannot fill the disk"),
            }
        }
        Ok(())
    }

    /// Gives it all back.
    pub fn remove(self) -> Result<()> {
        self.files.iter().try_for_each(|file| Ok(std::fs::remove_file(file)?))
    }
}
