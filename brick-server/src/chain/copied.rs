//! Which chunks were copied whole between members in this life.
//!
//! The namespace trims every member by itself. A copy that was made in between may bring back
//! on one member what was trimmed there already; so a member that trims a chunk which was
//! copied tells the others.

use std::collections::HashSet;

use wire::chunk::ChunkKey;

use crate::config::COPIED_CHUNKS;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Copied {
    keys: HashSet<ChunkKey>,
    overflown: bool,
}

impl Copied {
    /// A chunk was copied, or asked for in order to be.
    pub fn mark(&mut self, key: ChunkKey) {
        if self.keys.len() < COPIED_CHUNKS {
            self.keys.insert(key);
        } else {
            self.overflown = true;
        }
    }

    /// Whether it may have been; forgotten with that.
    pub fn take(&mut self, key: ChunkKey) -> bool {
        self.keys.remove(&key) || self.overflown
    }
}
