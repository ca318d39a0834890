//! The index, as narrow as the store needs it. It is a cache of the journal: what is written to
//! it is durable only when it was flushed.
//!
//! 1. After a crash it holds a prefix of the batches written to it, which is at least what was
//!    there at the last flush, and knows where that prefix ends.

use wire::chunk::ChunkKey;

use super::record::{Group, Header};

/// What was wrong with the index. A store whose index failed serves no more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// No room for it: nothing was written, and the same may succeed later.
    #[error("no room for the index: {0}")]
    NoSpace(String),
    /// Anything else.
    #[error("the index failed: {0}")]
    Failed(String),
}

/// One step of a batch.
// There is one at a time, on the stack: a box would cost more than it saves.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexChange {
    /// All groups of a chunk are forgotten.
    Wipe(ChunkKey),
    /// The header of a chunk, or none.
    Header(ChunkKey, Option<Header>),
    /// A group of a chunk; an empty one is removed.
    Group(ChunkKey, u32, Group),
}

/// Chunk -> blocks, durable. Calls block and may come from several threads; there is one
/// writer.
pub trait Index: Send + Sync + 'static {
    /// The header of a chunk.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn header(&self, key: ChunkKey) -> Result<Option<Header>, IndexError>;

    /// One group of a chunk, if it has any block.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn group(&self, key: ChunkKey, group: u32) -> Result<Option<Group>, IndexError>;

    /// All groups of a chunk, in order.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn groups(&self, key: ChunkKey) -> Result<Vec<(u32, Group)>, IndexError>;

    /// Up to `max` headers in order of key, after `after`.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn headers(&self, after: Option<ChunkKey>, max: usize) -> Result<Vec<(ChunkKey, Header)>, IndexError>;

    /// Shows every group there is.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn each_group(&self, see: &mut dyn FnMut(ChunkKey, u32, &Group)) -> Result<(), IndexError>;

    /// Carries out all changes or none, and marks the journal's record `applied` as the last one
    /// that is in the index.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn write(&self, changes: &mut dyn Iterator<Item = IndexChange>, applied: u64) -> Result<(), IndexError>;

    /// The journal's last record that is in the index; 0: none.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn applied(&self) -> Result<u64, IndexError>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn flush(&self) -> Result<(), IndexError>;

    /// Bytes it wrote to the disk since it was opened.
    fn written_bytes(&self) -> u64;
}
