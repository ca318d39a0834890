//! Reading the whole namespace to verify it.

use serde::{Deserialize, Serialize};

use crate::id::Ino;
use crate::layout::FileLayout;
use crate::meta::FileKind;

/// What a check across namespace and bricks needs of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeSummary {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Bytes of it that were written, as far as its record tells: less where a writer died, more where it was cut to a hole.
    pub allocated_bytes: u64,
    /// Where they are.
    pub layout: FileLayout,
    /// Somebody has it open for writing: chunks beyond `size` are no mistake.
    pub open_for_write: bool,
    /// Chunks of it are being freed or cut: leftovers are no mistake.
    pub trimming: bool,
}

/// Calls of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckRequest {
    /// Verifies the namespace's own records against each other (names and inodes, link
    /// counts, listings, orphans), from one moment's state. -> `Problems`
    Namespace,
    /// Inodes after this one in order of number, files only, those being freed too. -> `Inodes`
    Files {
        /// The last one seen.
        after: Ino,
        /// Most wanted.
        max: u32,
    },
}

/// Answers to [`CheckRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckReply {
    /// What is wrong, in words; empty when all is right. At most 1,000 are told.
    Problems {
        /// Inodes looked at.
        inodes: u64,
        /// Directory entries looked at.
        entries: u64,
        /// What is wrong.
        problems: Vec<String>,
    },
    /// Files.
    Inodes {
        /// In order of number.
        inodes: Vec<InodeSummary>,
        /// None comes after.
        end: bool,
    },
}
