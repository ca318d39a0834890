//! The durable index, as narrow as the store needs it.

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

    /// Carries out all changes or none, durably.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn write(&self, changes: &mut dyn Iterator<Item = IndexChange>) -> Result<(), IndexError>;
}
