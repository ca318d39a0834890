//! Small disks of their own for bricks, and filling them up.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::HostCluster;
use crate::run::Run;

/// Gives a brick that is not there yet a disk of its own, in mebibytes; it goes with the workshop.
pub fn give(cluster: &HostCluster, brick: usize, mib: u64) -> Result<()> {
    let image = cluster.workshop().path().join(format!("disk{brick}.img"));
    File::create(&image)?.set_len(mib << 20)?;
    Run::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).ok()?;
    let dir = cluster.brick_dir(brick);
    std::fs::create_dir(&dir)?;
    Run::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir).ok().map(drop)
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
