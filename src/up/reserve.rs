//! Room set aside for a start on a full disk.
//!
//! Databases write when they are opened. So a cluster whose disk somebody has filled could not be started, and
//! nobody could remove anything from it to make room. A file keeps some room for that one start: it is given
//! up when the disk is full, and made again at a later start when there is room enough. Bricks do not take
//! it: they leave a hundredth of the disk free, and it is not more than that (or 4 MiB).
//!
//! 1. It is given up only by the process that holds the directory, and only when less than its size is free
//!    (`given_up_when_full_and_made_again_with_room`, and on a full disk `tests`: `a_full_disk_starts`).

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Most bytes set aside: the databases of 64 bricks are opened with less.
const LARGEST_BYTES: u64 = 64 << 20;
/// And least, on a small disk.
const SMALLEST_BYTES: u64 = 4 << 20;
/// The disk must have so many times that free before it is set aside again.
const ROOM_TIMES: u64 = 4;

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy)]
struct Space {
    total: u64,
    free: u64,
}

impl Space {
    fn of(dir: &Path) -> Result<Space> {
        let found = statvfs(dir).with_context(|| format!("cannot tell how full {} is", dir.display()))?;
        Ok(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// Bytes to set aside here.
    fn reserve(self) -> u64 {
        (self.total / 100).clamp(SMALLEST_BYTES, LARGEST_BYTES)
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Gives it up if the disk is full; whether it did.
///
/// # Errors
/// If it cannot be told how full the disk is, or the file not be removed.
pub fn give_up_if_full(dir: &Path) -> Result<bool> {
    give_up(dir, Space::of(dir)?)
}

fn give_up(dir: &Path, space: Space) -> Result<bool> {
    if space.free >= space.reserve() {
        return Ok(false);
    }
    match std::fs::remove_file(file(dir)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| {
            format!("the disk of {} is full, and the room set aside cannot be given up", dir.display())
        }),
    }
}

/// Sets it aside if it is not there and there is room; whether it is there now.
///
/// # Errors
/// If the file cannot be made though there is room.
pub fn set_aside(dir: &Path) -> Result<bool> {
    set_aside_in(dir, Space::of(dir)?)
}

fn set_aside_in(dir: &Path, space: Space) -> Result<bool> {
    let (path, bytes) = (file(dir), space.reserve());
    let have = path.metadata().map_or(0, |meta| meta.len());
    if have >= bytes {
        return Ok(true);
    }
    if space.free < ROOM_TIMES * bytes {
        return Ok(false);
    }
    let make = || -> std::io::Result<()> {
        let mut made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        match fallocate(&made, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // A filesystem that cannot reserve.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                for _ in 0..bytes.div_ceil(1 << 20) {
                    made.write_all(&zeros)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        made.sync_all()
    };
    make().with_context(|| format!("cannot set room aside in {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn given_up_when_full_and_made_again_with_room() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let space = |free| Space { total: 1000 * MIB, free };
        let held = || file(dir.path()).metadata().map_or(0, |meta| meta.len());
        assert_eq!(space(0).reserve(), 10 * MIB);
        assert_eq!(Space { total: 10 * MIB, free: 0 }.reserve(), SMALLEST_BYTES);
        assert_eq!(Space { total: u64::MAX, free: 0 }.reserve(), LARGEST_BYTES);
        assert!(!set_aside_in(dir.path(), space(39 * MIB)).unwrap() && held() == 0);
        assert!(set_aside_in(dir.path(), space(40 * MIB)).unwrap() && held() == 10 * MIB);
        use std::os::unix::fs::MetadataExt;
        assert!(file(dir.path()).metadata().unwrap().blocks() * 512 >= 10 * MIB, "nothing is set aside");
        assert!(!give_up(dir.path(), space(10 * MIB)).unwrap() && held() == 10 * MIB);
        assert!(give_up(dir.path(), space(10 * MIB - 1)).unwrap() && held() == 0);
        assert!(!give_up(dir.path(), space(0)).unwrap());
    }
}
