//! Room set aside on a disk for whoever must write when somebody else has filled it.
//!
//! A file takes it, is removed when the disk is full, and made again when there is plenty. Nobody else's data
//! takes it: bricks leave a hundredth of the disk free, and it is not more than that (or 4 MiB).
//!
//! 1. It is given up only when less is free than is needed, and only by the process that holds the directory
//!    (`given_up_when_full_and_made_again_with_room`).

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Name of the file.
pub const RESERVE_FILE: &str = "reserve";
/// Most bytes set aside: the databases of 64 bricks are opened with less.
const LARGEST_BYTES: u64 = 64 << 20;
/// And least, on a small disk.
const SMALLEST_BYTES: u64 = 4 << 20;
/// The disk must have so many times that free before it is set aside again.
const ROOM_TIMES: u64 = 4;

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    total: u64,
    /// What a process without privileges can take.
    pub free: u64,
}

impl Space {
    /// Of the disk that a file or directory lies on.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of(path: &Path) -> io::Result<Space> {
        let found = statvfs(path)?;
        Ok(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// Bytes to set aside here.
    pub fn reserve(self) -> u64 {
        (self.total / 100).clamp(SMALLEST_BYTES, LARGEST_BYTES)
    }
}

/// The room set aside in one directory.
#[derive(Debug)]
pub struct Reserve {
    dir: PathBuf,
}

impl Reserve {
    /// In this directory.
    pub fn in_dir(dir: &Path) -> Reserve {
        Reserve { dir: dir.to_owned() }
    }

    fn file(&self) -> PathBuf {
        self.dir.join(RESERVE_FILE)
    }

    /// How full the disk is now.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn space(&self) -> io::Result<Space> {
        Space::of(&self.dir)
    }

    /// Gives it up, for a start, if the disk is full; whether it did.
    ///
    /// # Errors
    /// If it cannot be told how full the disk is, or the file not be removed.
    pub fn give_up_if_full(&self) -> io::Result<bool> {
        let space = self.space()?;
        self.give_up_below(space, space.reserve())
    }

    /// Gives it up if less than `needed` bytes are free; whether it did.
    ///
    /// # Errors
    /// If the file can't be removed.
    pub fn give_up_below(&self, space: Space, needed: u64) -> io::Result<bool> {
        if space.free >= needed {
            return Ok(false);
        }
        match std::fs::remove_file(self.file()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets it aside if it is not there and there is plenty of room; whether it is there now.
    ///
    /// # Errors
    /// If the file cannot be made though there is room.
    pub fn set_aside(&self) -> io::Result<bool> {
        self.set_aside_in(self.space()?)
    }

    /// The same on a disk that is so full.
    ///
    /// # Errors
    /// See [`Reserve::set_aside`].
    pub fn set_aside_in(&self, space: Space) -> io::Result<bool> {
        let (path, bytes) = (self.file(), space.reserve());
        let have = path.metadata().map_or(0, |meta| meta.len());
        if have >= bytes {
            return Ok(true);
        }
        if space.free < ROOM_TIMES * bytes {
            return Ok(false);
        }
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
        made.sync_all()?;
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn given_up_when_full_and_made_again_with_room() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::in_dir(dir.path());
        let space = |free| Space { total: 1000 * MIB, free };
        let held = || reserve.file().metadata().map_or(0, |meta| meta.len());
        assert_eq!(space(0).reserve(), 10 * MIB);
        assert_eq!(Space { total: 10 * MIB, free: 0 }.reserve(), SMALLEST_BYTES);
        assert_eq!(Space { total: u64::MAX, free: 0 }.reserve(), LARGEST_BYTES);
        assert!(!reserve.set_aside_in(space(39 * MIB)).unwrap() && held() == 0);
        assert!(reserve.set_aside_in(space(40 * MIB)).unwrap() && held() == 10 * MIB);
        use std::os::unix::fs::MetadataExt;
        assert!(reserve.file().metadata().unwrap().blocks() * 512 >= 10 * MIB, "nothing is set aside");
        assert!(!reserve.give_up_below(space(10 * MIB), 10 * MIB).unwrap() && held() == 10 * MIB);
        assert!(reserve.give_up_below(space(10 * MIB - 1), 10 * MIB).unwrap() && held() == 0);
        assert!(!reserve.give_up_below(space(0), 10 * MIB).unwrap());
    }
}
