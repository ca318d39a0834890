//! The few things the log asks of a disk, so that tests can have one that is full or breaks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A disk. Errors are final: what was written before one may or may not be there.
pub trait Disk: Send + Sync + 'static {
    /// Writes all bytes at an offset, in bytes.
    ///
    /// # Errors
    /// If they cannot all be written.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written to the file is durable.
    ///
    /// # Errors
    /// If it is not.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}
