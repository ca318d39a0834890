//! Between the kernel's shapes and the library's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::UNIX_EPOCH;

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use rustix::fs::OFlags;
use wire::id::Ino;
use wire::meta::{Attr, FileKind, Name, SetTime, Timestamp};

use crate::client::{OpenOptions, SyncMode};
use crate::error::Error;

/// What `st_blksize` says: large enough for good throughput, small enough for the buffers
/// that the C library makes of it for every open file.
const BLOCK_SIZE_HINT: u32 = 128 << 10;
/// The kernel's unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

/// The number the kernel gets.
pub(crate) fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

pub(crate) fn name(name: &OsStr) -> Result<Name, Error> {
    Ok(Name::new(name.as_bytes().to_vec())?)
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in the type bits of a mode; none for directories, links and nonsense.
pub(crate) fn node_kind(mode: u32) -> Option<FileKind> {
    use rustix::fs::FileType as Kind;
    match Kind::from_raw_mode(mode) {
        Kind::RegularFile => Some(FileKind::File),
        Kind::Fifo => Some(FileKind::Fifo),
        Kind::Socket => Some(FileKind::Socket),
        Kind::CharacterDevice => Some(FileKind::CharDevice),
        Kind::BlockDevice => Some(FileKind::BlockDevice),
        _ => None,
    }
}

pub(crate) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated_bytes.div_ceil(STAT_BLOCK_BYTES),
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE_HINT,
        flags: 0,
    }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(match time.duration_since(UNIX_EPOCH) {
            Ok(_) => time.into(),
            // Before 1970 fuser subtracts the nanoseconds that the kernel means to be added.
            Err(before) => {
                let before = before.duration();
                Timestamp { secs: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
            }
        }),
    }
}

/// What `open` flags ask for.
pub(crate) fn open_options(flags: i32) -> OpenOptions {
    // The bits of a C int, taken as they are.
    let flags = OFlags::from_bits_retain(flags as u32);
    let access = flags & OFlags::RWMODE;
    let write = access == OFlags::WRONLY || access == OFlags::RDWR;
    OpenOptions {
        // The kernel reads through a write-only handle, too, to fill up pages.
        read: true,
        write,
        append: flags.contains(OFlags::APPEND),
        truncate: flags.contains(OFlags::TRUNC),
        direct: flags.contains(OFlags::DIRECT),
        sync: if flags.intersects(OFlags::DSYNC | OFlags::SYNC) { SyncMode::Each } else { SyncMode::None },
    }
}

/// Attributes of which only the number counts.
pub(crate) fn bare_attr(number: Ino, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(number.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE_HINT,
        flags: 0,
    }
}
