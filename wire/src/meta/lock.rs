//! Locks on files, shared by all mounts.

use serde::{Deserialize, Serialize};

use crate::id::{Ino, LockGeneration, LockHandle, LockOwner, SessionId};
use crate::meta::Timestamp;

/// The two kinds of locks; as on a local filesystem, neither knows of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// Of `flock`: the whole file, held by an open file.
    Flock,
    /// Of `fcntl` and `lockf`: ranges of bytes, held by a process (POSIX) or an open file (OFD).
    Range,
}

/// What a lock excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockMode {
    /// Exclusive locks of others.
    Shared,
    /// All locks of others.
    Exclusive,
}

impl LockMode {
    /// Whether two locks of different owners exclude each other where they overlap.
    pub fn excludes(self, other: LockMode) -> bool {
        self == LockMode::Exclusive || other == LockMode::Exclusive
    }
}

/// Bytes `start` to `end`, both included; up to `u64::MAX`: however long the file becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Last byte; not before `start`.
    pub end: u64,
}

impl LockRange {
    /// The whole file.
    pub const ALL: LockRange = LockRange { start: 0, end: u64::MAX };

    /// Whether they have a byte in common.
    pub fn overlaps(self, other: LockRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A lock that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWish {
    /// The file.
    pub ino: Ino,
    /// Which kind.
    pub kind: LockKind,
    /// For whom.
    pub owner: LockOwner,
    /// Through which open file.
    pub handle: LockHandle,
    /// Which bytes; all of them for `flock`.
    pub range: LockRange,
    /// What it is to exclude.
    pub mode: LockMode,
    /// Process that asks, for people and `F_GETLK`.
    pub pid: u32,
}

/// A lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHeld {
    /// By which mount.
    pub session: SessionId,
    /// By whom there.
    pub owner: LockOwner,
    /// Taken through which open file.
    pub handle: LockHandle,
    /// Which bytes.
    pub range: LockRange,
    /// What it excludes.
    pub mode: LockMode,
    /// Process that asked for it, in its machine.
    pub pid: u32,
    /// Which grant it is of.
    pub generation: LockGeneration,
    /// Since when.
    pub since: Timestamp,
}

/// A mount that holds locks, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockPlace {
    /// Its session.
    pub session: SessionId,
    /// The machine.
    pub host: String,
    /// Where it is mounted there.
    pub mount: String,
}

/// Somebody who waits for a lock, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWaiter {
    /// From which mount.
    pub session: SessionId,
    /// For what.
    pub wish: LockWish,
    /// For how long, in milliseconds, as far as the member that leads knows.
    pub waits_ms: u64,
    /// What is in the way: held, or of generation 0 where it is another one's who waits for longer.
    pub by: Option<LockHeld>,
    /// How long that is held, in milliseconds, by the clock of whoever leads.
    pub held_ms: u64,
}

/// An open file that is to give up its locks, since one of them was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Recall {
    /// The file.
    pub ino: Ino,
    /// The open file.
    pub handle: LockHandle,
}
