//! The chunk store: chunks of bytes with versions and checksums on one disk.
//!
//! ```text
//! DIR/brick.json    whose directory this is, and in which format (see `dir`)
//! DIR/lock          locked by the process that serves it; holds its number
//! DIR/data.N        4 KiB blocks, in no order (see `disk`, `alloc`)
//! DIR/journal.0/.1  what was committed since the last checkpoint (see `journal`, `log`)
//! DIR/index/        RocksDB: chunk -> version, length, blocks, checksums (see `record`)
//! DIR/owners.N      block -> whose it was when it was written (see `owners`)
//! DIR/hints         inode -> path (see `hints`)
//! DIR/reserve       room for the index when somebody fills the disk (see `room`)
//! ```
//!
//! Nothing is ever written in place: a change goes to fresh blocks, is then pointed to by an
//! index entry in memory (*unstable*), and becomes durable with the next commit: data, then one
//! record in the journal. The index is a cache of the journal. Why it is built so, and what it
//! costs: docs/design/2026-11-25-chunk-store.md.
//!
//! | to understand | read |
//! |---|---|
//! | a change's way | `edit` (prepare), `change` (publish), `overlay`, `held`, `commit`, `checkpoint` |
//! | what is on disk | `record`, `journal`, `owners`, `hints`, `dir` |
//! | after a crash | `open`, `log`; without a cluster, `salvage` |
//! | space | `alloc`, `blocks` (owners counted), `lease`, `space`, `clones`; on a full disk `room`, `reserve` |
//! | the disk | `disk` (the trait), `file_disk`, `uring`; `faulty`, its twin for tests |
//!
//! 1. After a crash each chunk is at a version between the last committed and the last
//!    acknowledged one, with exactly that version's bytes (`crashes_keep_what_was_committed`).
//! 2. No bytes are returned that fail their checksum (`flipped_bits_are_found`,
//!    `rotten_and_stray_blocks_are_detected`).
//! 3. A block is reused only when neither a durable index nor a reader can look at it, and no
//!    block is lost for good (`crashes_keep_what_was_committed`).
//! 4. Bytes of a block beyond the chunk's length are zeros (`random_changes_match_the_model`).
//! 5. A full disk refuses new data and nothing else (`a_full_disk_refuses_new_data_only`).
//! 6. A journal with a part missing is refused, never read as a shorter one (`a_hole_is_refused`,
//!    `damaged_journals_are_detected`).
//!
//! The store knows nothing of files, chains, members or the network.

mod aligned;
mod alloc;
mod blocks;
mod change;
mod checkpoint;
mod chunks;
mod clones;
mod commit;
mod counters;
pub mod dir;
pub mod disk;
mod edit;
mod engine;
#[cfg(test)]
mod faulty;
pub mod file_disk;
mod held;
mod hints;
pub mod index;
mod journal;
mod lease;
mod listing;
pub mod lives;
mod log;
mod open;
mod overlay;
mod owners;
mod pieces;
pub mod record;
pub mod reserve;
pub mod rocks;
mod room;
pub mod salvage;
pub mod seen;
mod silence;
mod space;
#[cfg(test)]
mod tests;
mod turns;
mod uring;
mod verify;

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;
use wire::brick::{Change, Extent, LostBlock, WriterId};
use wire::chunk::ChunkKey;
use wire::id::{ChainId, ChunkVersion, Ino};

pub use counters::StoreCounters;
pub use engine::{Engine, Io, Limits};
pub use hints::Renewal;
pub use open::Medium;
pub use pieces::{PIECE_BYTES, PieceDigest};
pub use record::Header;

/// What a store could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no room for new data. Nothing has changed.
    #[error("no space left on the brick")]
    NoSpace,
    /// These blocks of the chunk fail their checksum. Nothing has changed.
    #[error("blocks {blocks:?} of chunk {key} fail their checksum")]
    Corrupt {
        /// The chunk.
        key: ChunkKey,
        /// Its version.
        version: ChunkVersion,
        /// Numbers of the blocks in the chunk.
        blocks: Vec<u32>,
    },
    /// The chunk has another version than the caller builds on. Nothing has changed.
    #[error("the chunk is at version {0}")]
    Version(ChunkVersion),
    /// A range that is outside of what a chunk can be.
    #[error("a range no chunk has")]
    Range,
    /// The disk or the index failed; the store serves no more.
    #[error("the brick's disk failed: {0}")]
    Failed(String),
}

/// Bytes of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBytes {
    /// Version they were read at; 0: there is no such chunk.
    pub version: ChunkVersion,
    /// The bytes; they end where the chunk ends.
    pub data: Bytes,
}

/// A change that only has to be published. Dropped otherwise, what it took is free again. What
/// is in it is the matter of the store that made it.
#[derive(Debug)]
pub struct Prepared(Box<dyn Any + Send>);

impl Prepared {
    /// Wraps what a store needs to publish a change.
    pub fn new(change: impl Any + Send) -> Prepared {
        Prepared(Box::new(change))
    }

    /// What the store put in.
    ///
    /// # Errors
    /// [`StoreError::Range`] if another kind of store made it.
    pub fn open<T: Any>(self) -> Result<T, StoreError> {
        self.0.downcast().map(|change| *change).map_err(|_| StoreError::Range)
    }
}

/// The parts of a chunk's future content that are there already. Dropped otherwise, what they
/// took is free again. What is in it is the matter of the store it was given to first.
#[derive(Debug, Default)]
pub struct Staged {
    parts: Option<Box<dyn Any + Send>>,
    digest: u64,
}

impl Staged {
    /// Nothing yet.
    pub fn new() -> Staged {
        Staged::default()
    }

    /// Digest of the content so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// What the store has put in, or nothing yet.
    ///
    /// # Errors
    /// [`StoreError::Range`] if another kind of store put it in.
    pub fn take<T: Any + Default>(&mut self) -> Result<T, StoreError> {
        match self.parts.take() {
            None => Ok(T::default()),
            Some(parts) => parts.downcast().map(|parts| *parts).map_err(|_| StoreError::Range),
        }
    }

    /// Puts it back, with its digest.
    pub fn put(&mut self, digest: u64, parts: impl Any + Send) {
        self.digest = digest;
        self.parts = Some(Box::new(parts));
    }
}

/// How full a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of blocks in use.
    pub used_bytes: u64,
    /// Bytes it can still take.
    pub free_bytes: u64,
    /// Size of its disk, or of its part of one that it shares; 0 where nobody knows. Others may have taken some of it.
    pub disk_bytes: u64,
    /// Chunks.
    pub chunks: u64,
}

/// How much waits for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing does.
    Clean,
    /// Something does.
    Some,
    /// A commit should begin now.
    Much,
    /// Writers should wait for one.
    TooMuch,
}

/// Part of the answer to a cut: what it did to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrunk {
    /// The chunk's header before.
    pub before: Header,
    /// Blocks that became free.
    pub freed_blocks: u32,
}

/// Chunks on one disk. Calls block, and may come from many threads; changes of one chunk must
/// come one after another, or those that lose get [`StoreError::Version`].
pub trait ChunkStore: Send + Sync + 'static {
    /// What is known of a chunk, if it exists.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn chunk(&self, key: ChunkKey) -> Result<Option<Header>, StoreError>;

    /// Up to `len` bytes from `offset`, verified.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Failed`].
    fn read(&self, key: ChunkKey, offset: u32, len: u32) -> Result<ReadBytes, StoreError>;

    /// [`ChunkStore::read`] where blocks that fail their checksum read as zeros, and are named with it.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn read_what_is_left(
        &self,
        key: ChunkKey,
        offset: u32,
        len: u32,
    ) -> Result<(ReadBytes, Vec<LostBlock>), StoreError>;

    /// Does all of a change that can fail, without anyone seeing it. `base` is the version it
    /// builds on.
    ///
    /// # Errors
    /// Every [`StoreError`]; nothing has changed then.
    fn prepare(
        &self,
        key: ChunkKey,
        base: ChunkVersion,
        change: Change,
        data: &Bytes,
    ) -> Result<Prepared, StoreError>;

    /// Makes a prepared change visible as version `to`, which is above the one it builds on.
    ///
    /// # Errors
    /// [`StoreError::Version`], [`StoreError::Range`], [`StoreError::Failed`]; what was prepared is dropped then.
    fn publish(
        &self,
        prepared: Prepared,
        chain: ChainId,
        writer: Option<WriterId>,
        to: ChunkVersion,
    ) -> Result<Header, StoreError>;

    /// Writes a part of a chunk's future content, block-aligned, after what was staged before.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Range`], [`StoreError::Failed`].
    fn stage(&self, staged: &mut Staged, offset: u32, data: &Bytes) -> Result<(), StoreError>;

    /// Stages a block that nobody can read any more: reading it fails here, too, until it is written or put
    /// right.
    ///
    /// # Errors
    /// As [`ChunkStore::stage`].
    fn stage_lost(&self, staged: &mut Staged, lost: LostBlock) -> Result<(), StoreError>;

    /// Makes what was staged the whole content of a chunk.
    ///
    /// # Errors
    /// [`StoreError::Range`], [`StoreError::Failed`].
    fn switch(
        &self,
        key: ChunkKey,
        chain: ChainId,
        version: ChunkVersion,
        len: u32,
        staged: Staged,
    ) -> Result<(), StoreError>;

    /// Gives a chunk another version, with the bytes it has.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn set_version(&self, key: ChunkKey, chain: ChainId, version: ChunkVersion) -> Result<(), StoreError>;

    /// Removes a chunk unless it is newer than `up_to`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn remove(&self, key: ChunkKey, up_to: ChunkVersion) -> Result<Option<Shrunk>, StoreError>;

    /// Shortens a chunk to `len`, if it is longer; its version grows by one then.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::NoSpace`], [`StoreError::Failed`].
    fn cut(&self, key: ChunkKey, len: u32) -> Result<Option<Shrunk>, StoreError>;

    /// Puts a block right that fails its checksum: `data`, padded with zeros, must be exactly
    /// what the checksum was made of. Says whether it was.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Failed`].
    fn repair(
        &self,
        key: ChunkKey,
        version: ChunkVersion,
        block: u32,
        data: &[u8],
    ) -> Result<bool, StoreError>;

    /// Up to `max` chunks in order, after `after`, of one chain or all; and whether that was
    /// the last one.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    #[allow(clippy::type_complexity)]
    fn list(
        &self,
        chain: Option<ChainId>,
        after: Option<ChunkKey>,
        max: usize,
    ) -> Result<(Vec<(ChunkKey, Header)>, bool), StoreError>;

    /// Where a chunk holds data, in order, not touching; and its header, if it exists.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn extents(&self, key: ChunkKey) -> Result<(Option<Header>, Vec<Extent>), StoreError>;

    /// BLAKE3 of a chunk's content, and how many of its blocks fail their checksum.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn verify(&self, key: ChunkKey) -> Result<([u8; 32], u32), StoreError>;

    /// The chunk's header, if it exists, and a digest for each 64 KiB piece of it up to its
    /// end.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Failed`].
    fn pieces(&self, key: ChunkKey) -> Result<(Option<Header>, Vec<PieceDigest>), StoreError>;

    /// Makes `to` a chunk with the content of `from`, sharing its blocks; takes no space and little
    /// time. `None`: there is no `from`, and nothing has changed.
    ///
    /// # Errors
    /// [`StoreError::Range`] if both are the same chunk, [`StoreError::Failed`].
    fn clone_chunk(
        &self,
        from: ChunkKey,
        to: ChunkKey,
        chain: ChainId,
        version: ChunkVersion,
    ) -> Result<Option<Header>, StoreError>;

    /// Notes paths of files for `salvage`; durable with the next commit.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Failed`].
    fn note_names(&self, names: &[(Ino, Bytes)]) -> Result<(), StoreError>;

    /// Up to `max` files that got a chunk here since they were asked for last, so that their names
    /// may not be known. After a restart, or where very many come at once, some are missing.
    fn nameless(&self, max: usize) -> Vec<Ino>;

    /// A step of noting all names anew: what was noted before the first one is forgotten with the last.
    ///
    /// # Errors
    /// As [`ChunkStore::note_names`].
    fn renew_names(&self, step: Renewal<'_>) -> Result<(), StoreError>;

    /// Makes everything published durable.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if the index finds no room: nothing is lost, and a later commit
    /// may succeed. [`StoreError::Failed`].
    fn commit(&self) -> Result<(), StoreError>;

    /// How much waits for a commit.
    fn pressure(&self) -> Pressure;

    /// Number of the last record of its journal: what it names is on stable storage, and it only grows, over all openings. 0 where
    /// nothing was ever committed, or nobody counts.
    fn records(&self) -> u64;

    /// What it has counted since it was opened.
    fn counters(&self) -> StoreCounters;

    /// How full it is.
    fn usage(&self) -> Usage;

    /// Whether `bytes` can be taken without a second thought.
    fn has_room(&self, bytes: u64) -> bool;

    /// For how long its disk has left something unanswered, and answered nothing else.
    fn silence(&self) -> Duration {
        Duration::ZERO
    }

    /// Why it serves no more, if so.
    fn failure(&self) -> Option<String>;

    /// Declares it failed: every later call is refused.
    fn fail(&self, why: String);
}
