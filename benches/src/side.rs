//! The two sides of a comparison.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A directory to measure in, emptied and removed when dropped.
#[derive(Debug)]
pub struct Side {
    /// How the table calls it.
    pub name: &'static str,
    dir: PathBuf,
}

impl Side {
    /// Makes a directory of its own below `base`.
    ///
    /// # Errors
    /// If `base` is no directory that can be written, or has less than `need_bytes` free.
    pub fn new(name: &'static str, base: &Path, need_bytes: u64) -> Result<Self> {
        let meta =
            std::fs::metadata(base).with_context(|| format!("cannot use --{name} {}", base.display()))?;
        ensure!(meta.is_dir(), "--{name} {} is not a directory", base.display());
        let space = rustix::fs::statvfs(base)?;
        let free_bytes = space.f_bavail * space.f_frsize;
        ensure!(
            free_bytes >= need_bytes,
            "--{name} {} has {} MiB free, the benchmark needs {}: give another directory, or --quick",
            base.display(),
            free_bytes >> 20,
            need_bytes >> 20
        );
        let dir = base.join(format!("brickyard-bench.{}", std::process::id()));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { name, dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("brickyard-bench: cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// Fails unless both directories lie on different filesystems.
///
/// # Errors
/// If they do not, or cannot be looked at.
pub fn ensure_apart(mount: &Path, local: &Path) -> Result<()> {
    let device = |option: &str, path: &Path| -> Result<u64> {
        Ok(std::fs::metadata(path).with_context(|| format!("cannot use {option} {}", path.display()))?.dev())
    };
    if device("--mount", mount)? == device("--local", local)? {
        bail!(
            "{} and {} lie on one filesystem: give --mount a directory on the mount and --local one on a local disk",
            mount.display(),
            local.display()
        );
    }
    Ok(())
}
