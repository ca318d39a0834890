//! Bytes of blocks that are not in the data files yet.
//!
//! A small change is not written when it is made: its blocks have their places, and their bytes
//! are held here. A block leaves when it was written out, or when nobody needs it any more; a
//! reader that looks here first and then at the disk therefore always finds it.
//!
//! 1. A block that was journalled leaves only after it was written to the data files, and the
//!    journal is trimmed only after those were flushed (`crashes_keep_what_was_committed`).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::record::BLOCK;

/// Bytes of one block.
#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    journalled: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Held {
    blocks: HashMap<u64, Entry>,
    journalled: usize,
}

impl Held {
    /// Keeps the bytes of a block.
    pub fn hold(&mut self, position: u64, bytes: Bytes) {
        self.blocks.insert(position, Entry { bytes, journalled: false });
    }

    /// The bytes of a block, if they are here.
    pub fn get(&self, position: u64) -> Option<Bytes> {
        self.blocks.get(&position).map(|entry| entry.bytes.clone())
    }

    /// The bytes of a block, if they are nowhere but here.
    pub fn get_open(&self, position: u64) -> Option<Bytes> {
        self.blocks.get(&position).filter(|entry| !entry.journalled).map(|entry| entry.bytes.clone())
    }

    /// Nobody needs the block any more, or it is in the data files.
    pub fn forget(&mut self, position: u64) {
        if self.blocks.remove(&position).is_some_and(|entry| entry.journalled) {
            self.journalled -= 1;
        }
    }

    /// The blocks are in the journal.
    pub fn mark_journalled(&mut self, positions: impl Iterator<Item = u64>) {
        for position in positions {
            if let Some(entry) = self.blocks.get_mut(&position).filter(|entry| !entry.journalled) {
                entry.journalled = true;
                self.journalled += 1;
            }
        }
    }

    /// Blocks that are in the journal and not in the data files, by place.
    pub fn journalled(&self) -> BTreeMap<u64, Bytes> {
        let of_journal = self.blocks.iter().filter(|(_, entry)| entry.journalled);
        of_journal.map(|(&position, entry)| (position, entry.bytes.clone())).collect()
    }

    /// Bytes of them.
    pub fn journalled_bytes(&self) -> u64 {
        (self.journalled * BLOCK) as u64
    }

    /// Bytes that are in neither.
    pub fn open_bytes(&self) -> u64 {
        ((self.blocks.len() - self.journalled) * BLOCK) as u64
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
