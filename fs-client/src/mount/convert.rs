//! Between the kernel's shapes and the library's.

use rustix::fs::OFlags;
use rustix::io::Errno;
use wire::meta::{FileKind, Name, SetTime};

use super::kernel::When;
use crate::client::{OpenOptions, SyncMode};
use crate::error::Error;

/// The number the kernel gets.
pub(super) fn errno(error: &Error) -> Errno {
    error.errno()
}

pub(super) fn name(name: &[u8]) -> Result<Name, Error> {
    Ok(Name::new(name.to_vec())?)
}

/// The kind in the type bits of a mode; none for directories, links and nonsense.
pub(super) fn node_kind(mode: u32) -> Option<FileKind> {
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

pub(super) fn set_time(time: When) -> SetTime {
    match time {
        When::Now => SetTime::Now,
        When::At(time) => SetTime::To(time),
    }
}

/// What `open` flags ask for.
pub(super) fn open_options(flags: u32) -> OpenOptions {
    let flags = OFlags::from_bits_retain(flags);
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
