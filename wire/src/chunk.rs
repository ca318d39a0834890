//! Chunks: the pieces a file is made of.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Ino;

/// Bytes covered by one checksum and the unit of allocation on a brick.
pub const BLOCK_BYTES: u32 = 4096;
/// Most payload of one read or write call, in bytes.
pub const MAX_IO_BYTES: u32 = 1 << 20;
/// Smallest chunk a directory can ask for, in bytes.
pub const MIN_CHUNK_BYTES: u32 = 1 << 20;
/// Largest chunk a directory can ask for, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 64 << 20;
/// Chunk size of files for which nobody asked for another, in bytes.
pub const DEFAULT_CHUNK_BYTES: u32 = 4 << 20;
/// Largest size of a file, in bytes: offsets are signed 64-bit numbers in POSIX.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// Names a chunk for good: inode numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkKey {
    /// The file.
    pub ino: Ino,
    /// Which piece of it, from 0.
    pub index: u64,
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ino, self.index)
    }
}
