//! Attributes of an inode.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::id::Ino;
use crate::layout::FileLayout;

/// A point in time: seconds since 1970 (before it: negative) and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// This machine's clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The representable point before it.
    pub fn before(self) -> Self {
        match self.nanos.checked_sub(1) {
            Some(nanos) => Self { secs: self.secs, nanos },
            None => Self { secs: self.secs.saturating_sub(1), nanos: 999_999_999 },
        }
    }

    /// The next representable point: what makes times of one inode strictly increase.
    pub fn next(self) -> Self {
        if self.nanos < 999_999_999 {
            Self { secs: self.secs, nanos: self.nanos + 1 }
        } else {
            Self { secs: self.secs.saturating_add(1), nanos: 0 }
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let secs = -(before.as_secs() as i64);
                match before.subsec_nanos() {
                    0 => Self { secs, nanos: 0 },
                    nanos => Self { secs: secs - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let nanos = Duration::from_nanos(u64::from(time.nanos));
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        let at = if time.secs >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
        at.and_then(|t| t.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The namespace's present.
    Now,
    /// This one.
    To(Timestamp),
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Everything `stat` tells, and where the bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, with set-user-id, set-group-id and sticky: `0o7777` at most.
    pub mode: u16,
    /// Names it has (of a directory: 2 and one for each subdirectory).
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Bytes of a file; length of a link's target; of a directory the number of its entries.
    pub size: u64,
    /// Bytes allocated for one copy: counted as written, so a hint where writers died.
    pub allocated_bytes: u64,
    /// Last access, as set; reading does not change it.
    pub atime: Timestamp,
    /// Last change of content; strictly increasing but for explicit setting.
    pub mtime: Timestamp,
    /// Last change of anything; strictly increasing.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Where the bytes are, of files.
    pub layout: FileLayout,
    /// How many extended attributes there are, so that nobody asks for them in vain.
    pub xattrs: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times before 1970 and far away survive both conversions.
    #[test]
    fn times_round_trip() {
        for (secs, nanos) in [(0, 0), (1, 999_999_999), (-1, 1), (-2_000_000_000, 500), (1 << 40, 7)] {
            let time = Timestamp { secs, nanos };
            assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
        for nanos in [0, 1, 999_999_999] {
            assert_eq!(Timestamp { secs: 1, nanos }.next().before(), Timestamp { secs: 1, nanos });
        }
        assert_eq!(Timestamp { secs: 1, nanos: 999_999_999 }.next(), Timestamp { secs: 2, nanos: 0 });
    }
}
