//! Numbers and layouts of the protocol, version 7: everything in the machine's own byte order.
//!
//! | part | where |
//! |---|---|
//! | a request | 40 bytes of head, then what its operation takes: numbers, names that end with a zero byte, data |
//! | an answer | 16 bytes of head, then what its operation gives; an error has no more than the head |

use std::time::Duration;

use wire::meta::{Attr, FileKind, Timestamp};

/// The version that is spoken.
pub(super) const MAJOR: u32 = 7;
/// The youngest minor version that is known here.
pub(super) const MINOR: u32 = 45;
/// The oldest that is enough: Linux 5.4.
pub(super) const OLDEST_MINOR: u32 = 31;

/// Length of the head of a request, in bytes.
pub(super) const IN_HEAD: usize = 40;
/// Length of the head of an answer, in bytes.
pub(super) const OUT_HEAD: usize = 16;
/// Longest request beside the data of a write, in bytes.
pub(super) const MOST_ARGUMENTS: usize = 64 << 10;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $value:expr),+ $(,)?) => {
        $($(#[$doc])* pub(super) const $name: u32 = $value;)+
    };
}

// Operations.
numbers! {
    LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, READLINK = 5, SYMLINK = 6, MKNOD = 8, MKDIR = 9,
    UNLINK = 10, RMDIR = 11, RENAME = 12, LINK = 13, OPEN = 14, READ = 15, WRITE = 16, STATFS = 17,
    RELEASE = 18, FSYNC = 20, SETXATTR = 21, GETXATTR = 22, LISTXATTR = 23, REMOVEXATTR = 24, FLUSH = 25,
    INIT = 26, OPENDIR = 27, READDIR = 28, RELEASEDIR = 29, FSYNCDIR = 30, GETLK = 31,
    SETLK = 32, SETLKW = 33, CREATE = 35, INTERRUPT = 36,
    DESTROY = 38, IOCTL = 39, POLL = 40, BATCH_FORGET = 42, FALLOCATE = 43, READDIRPLUS = 44, RENAME2 = 45, LSEEK = 46,
    COPY_FILE_RANGE = 47, TMPFILE = 51, STATX = 52, COPY_FILE_RANGE_64 = 53,
}

// Types of locks, as `fcntl` has them, and the flag of those of `flock`.
numbers! {
    LOCK_SHARED = 0, LOCK_EXCLUSIVE = 1, LOCK_NONE = 2, LOCK_IS_FLOCK = 1,
}

// What poll is told: bytes can be read, are a message's, can be written; the other side is gone. What the kernel says of a file
// that has no opinion of its own.
numbers! {
    POLL_IN = 1, POLL_HANG_UP = 0x10, POLL_READ = 0x40, POLL_ANY = 0x145,
}
/// What poll asks for: to be woken later.
pub(super) const POLL_WAITS: u32 = 1;
/// The kernel is told, unasked, that somebody who polled should look again.
pub(super) const NOTIFY_POLL: u32 = 1;

/// The order to an open `.brickyard.watch` to begin after an index: `_IOW('B', 1, u64)`.
pub(in crate::mount) const WATCH_FROM: u32 = 0x4008_4201;
/// The question where it has come to: `_IOR('B', 2, u64)`.
pub(in crate::mount) const WATCH_POSITION: u32 = 0x8008_4202;

/// The last byte of a file, as the kernel counts.
pub(super) const LAST_BYTE: u64 = i64::MAX as u64;

// What `SETATTR` says of itself.
numbers! {
    SET_MODE = 1, SET_UID = 1 << 1, SET_GID = 1 << 2, SET_SIZE = 1 << 3, SET_ATIME = 1 << 4, SET_MTIME = 1 << 5,
    SET_HANDLE = 1 << 6, SET_ATIME_NOW = 1 << 7, SET_MTIME_NOW = 1 << 8,
}

/// What `statx` is told: everything of `stat`, and the time of birth.
pub(super) const STATX_ALL: u32 = 0xfff;

/// Flags of the first handshake.
pub(super) mod init {
    /// Reads may be under way side by side.
    pub const ASYNC_READ: u64 = 1;
    /// Locks of `fcntl` are asked for.
    pub const POSIX_LOCKS: u64 = 1 << 1;
    /// Inodes can be found again by number.
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    /// Writes of more than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The umask is left to us.
    pub const DONT_MASK: u64 = 1 << 6;
    /// Locks of `flock` are asked for.
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    /// Pages go when the modification time or the size are new ones.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// Listings with attributes.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// ... where they seem to be of use.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct reads and writes may be under way side by side.
    pub const ASYNC_DIO: u64 = 1 << 15;
    /// Calls in one directory, too.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// The kernel judges by access control lists.
    pub const POSIX_ACL: u64 = 1 << 20;
    /// Requests of more than 32 pages.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// Who sets an access list may be somebody who loses the set-group-id bit by that.
    pub const SETXATTR_EXT: u64 = 1 << 29;
    /// There are more than 32 flags.
    pub const INIT_EXT: u64 = 1 << 30;
    /// What is open past the kernel's pages may be mapped into memory and shared all the same.
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// Who writes past the kernel's pages takes the set-user-id bit away by that.
pub(in crate::mount) const WRITE_DROPS_PRIVILEGES: u32 = 1 << 2;
/// Who sets the access list takes the set-group-id bit away by that.
pub(in crate::mount) const SETXATTR_DROPS_GROUP_ID: u32 = 1;

/// How the kernel is to treat an open file.
pub(in crate::mount) type OpenFlags = u32;
/// Past its pages.
pub(in crate::mount) const OPEN_DIRECT: OpenFlags = 1;
/// Pages of before are still good.
pub(in crate::mount) const OPEN_KEEP_CACHE: OpenFlags = 1 << 1;
/// It has no positions, and reads of one process do not wait for each other.
pub(in crate::mount) const OPEN_STREAM: OpenFlags = 1 << 4;
/// Closing it has nothing to tell.
pub(in crate::mount) const OPEN_NO_FLUSH: OpenFlags = 1 << 5;
/// Direct writes may be under way side by side.
pub(in crate::mount) const OPEN_PARALLEL_WRITES: OpenFlags = 1 << 6;

/// The kernel's unit of `st_blocks`, in bytes.
const STAT_BLOCK_BYTES: u64 = 512;
/// What `st_blksize` says: large enough for good throughput, small enough for the buffers
/// that the C library makes of it for every open file.
const BLOCK_SIZE_HINT: u32 = 128 << 10;

/// Type bits of a mode.
fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Fifo => 0o01_0000,
        FileKind::CharDevice => 0o02_0000,
        FileKind::Directory => 0o04_0000,
        FileKind::BlockDevice => 0o06_0000,
        FileKind::File => 0o10_0000,
        FileKind::Symlink => 0o12_0000,
        FileKind::Socket => 0o14_0000,
    }
}

/// What a request is read from. `None` wherever it is shorter than it should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// Passes over so many bytes.
    pub(super) fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    /// Up to the next zero byte.
    pub(super) fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let name = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(name)
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}

/// What an answer is written to.
#[derive(Debug, Default)]
pub(super) struct Output(pub(super) Vec<u8>);

impl Output {
    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn zeros(&mut self, bytes: usize) -> &mut Self {
        self.0.resize(self.0.len() + bytes, 0);
        self
    }

    /// 88 bytes.
    pub(super) fn attr(&mut self, attr: &Attr) -> &mut Self {
        self.u64(attr.ino.0).u64(attr.size).u64(attr.allocated_bytes.div_ceil(STAT_BLOCK_BYTES));
        let times = [attr.atime, attr.mtime, attr.ctime];
        times.iter().for_each(|time| {
            // Before 1970 the kernel takes the bits for a number below zero again.
            self.u64(time.secs as u64);
        });
        times.iter().for_each(|time| {
            self.u32(time.nanos);
        });
        self.u32(type_bits(attr.kind) | u32::from(attr.mode)).u32(attr.nlink).u32(attr.uid).u32(attr.gid);
        self.u32(attr.rdev).u32(BLOCK_SIZE_HINT).u32(0)
    }

    /// A name was found: 128 bytes. `node`: what the kernel is to call it; 0: nothing is told of it.
    pub(super) fn entry(&mut self, node: u64, name: Duration, valid: Duration, attr: &Attr) -> &mut Self {
        // Inode numbers are never used twice: one generation is enough.
        self.u64(node).u64(0).u64(name.as_secs()).u64(valid.as_secs());
        self.u32(name.subsec_nanos()).u32(valid.subsec_nanos()).attr(attr)
    }

    /// 256 bytes of `statx`.
    pub(super) fn statx(&mut self, attr: &Attr) -> &mut Self {
        self.u32(STATX_ALL).u32(BLOCK_SIZE_HINT).u64(0);
        self.u32(attr.nlink).u32(attr.uid).u32(attr.gid);
        // A mode fits into 16 bits.
        self.u16((type_bits(attr.kind) | u32::from(attr.mode)) as u16).u16(0);
        self.u64(attr.ino.0).u64(attr.size).u64(attr.allocated_bytes.div_ceil(STAT_BLOCK_BYTES)).u64(0);
        for time in [attr.atime, attr.btime, attr.ctime, attr.mtime] {
            let Timestamp { secs, nanos } = time;
            self.u64(secs as u64).u32(nanos).u32(0);
        }
        // The kernel's way of packing a device number, taken apart.
        let (major, minor) = ((attr.rdev >> 8) & 0xfff, (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xfff00));
        self.u32(major).u32(minor).u32(0).u32(0).zeros(14 * 8)
    }

    /// A line of a listing, without attributes.
    pub(super) fn line(&mut self, ino: u64, position: u64, kind: FileKind, name: &[u8]) -> &mut Self {
        self.u64(ino).u64(position).u32(name.len() as u32).u32(type_bits(kind) >> 12);
        self.0.extend_from_slice(name);
        let padding = self.0.len().next_multiple_of(8) - self.0.len();
        self.zeros(padding)
    }
}
