//! The disk behind the store, as narrow as it can be so that a faulty twin can stand in.
//!
//! A disk is one linear space of bytes that only grows. Invariants every implementation keeps:
//!
//! 1. What was written before a `sync` that succeeded is there after a crash; what was not may
//!    be there, wholly, partly or not at all.
//! 2. A range that was allocated can be written without running out of space, and the length
//!    of the space survives a crash.

use std::io;
use std::time::Duration;

/// Room on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Size of the filesystem the data files are in.
    pub total_bytes: u64,
    /// What it could still take.
    pub available_bytes: u64,
}

/// Bytes to be read, and where from.
pub type ReadPart<'a> = (u64, &'a mut [u8]);
/// Bytes to be written, and where to.
pub type WritePart<'a> = (u64, &'a [u8]);

/// Where blocks are kept. All calls block; they may come from several threads at once. Offsets
/// and lengths are multiples of [`Disk::align`]; memory that is aligned to 4 KiB saves a copy.
pub trait Disk: Send + Sync + 'static {
    /// Fills each part from its offset. A range that was never written reads as anything.
    ///
    /// # Errors
    /// What the operating system says; a range beyond the end is an error.
    fn read(&self, parts: &mut [ReadPart<'_>]) -> io::Result<()>;

    /// Writes each part at its offset, within what was allocated, in any order.
    ///
    /// # Errors
    /// What the operating system says; the ranges hold anything then.
    fn write(&self, parts: &[WritePart<'_>]) -> io::Result<()>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// After an error nobody knows what is durable: the disk must not be used any more.
    fn sync(&self) -> io::Result<()>;

    /// Grows the space to `len` bytes, reserved.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is no room; nothing has changed then.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Bytes of the space.
    fn len(&self) -> u64;

    /// Whether nothing was allocated yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What offsets and lengths must be multiples of: 512 or 4096.
    fn align(&self) -> usize;

    /// For how long it has left something unanswered, and answered nothing else.
    fn silence(&self) -> Duration {
        Duration::ZERO
    }

    /// Room left for growing.
    ///
    /// # Errors
    /// What the operating system says.
    fn space(&self) -> io::Result<Space>;
}
