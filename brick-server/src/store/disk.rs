//! The disk behind the store, as narrow as it can be so that a faulty twin can stand in.
//!
//! A disk is one linear space of bytes that only grows. Invariants every implementation keeps:
//!
//! 1. What was written before a `sync` that succeeded is there after a crash; what was not may
//!    be there, wholly, partly or not at all.
//! 2. A range that was allocated can be written without running out of space.

use std::io;

/// Room on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Size of the filesystem the data files are in.
    pub total_bytes: u64,
    /// What it could still take.
    pub available_bytes: u64,
}

/// Where blocks are kept. All calls block; they may come from several threads at once.
pub trait Disk: Send + Sync + 'static {
    /// Fills `into` from `offset`. A range that was never written reads as anything.
    ///
    /// # Errors
    /// What the operating system says; a range beyond the end is an error.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `data` at `offset`, within what was allocated.
    ///
    /// # Errors
    /// What the operating system says; the range holds anything then.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

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

    /// Room left for growing.
    ///
    /// # Errors
    /// What the operating system says.
    fn space(&self) -> io::Result<Space>;
}
