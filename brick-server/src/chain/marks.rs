//! Versions that a member holds, or knows to be missing, without knowing that all members have
//! them: a reader is not to see them here and then not elsewhere.
//!
//! CRAQ asks the tail which version is committed; here the head is asked, who publishes last.
//! A mark goes when the head stands by the version this member holds.

use std::collections::BTreeMap;

use wire::chunk::ChunkKey;
use wire::id::{ChainId, ChunkVersion, Ino};

use crate::config::MARKED_CHUNKS;

/// One mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The chain it came through.
    pub chain: ChainId,
    /// The version in question.
    pub version: ChunkVersion,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Marks {
    chunks: BTreeMap<ChunkKey, Mark>,
}

impl Marks {
    /// A version that may not be everywhere. `false`: too many are marked, and this one is not.
    #[must_use]
    pub fn set(&mut self, key: ChunkKey, chain: ChainId, version: ChunkVersion) -> bool {
        if self.chunks.len() >= MARKED_CHUNKS && !self.chunks.contains_key(&key) {
            return false;
        }
        self.chunks.insert(key, Mark { chain, version });
        true
    }

    /// The mark of a chunk.
    pub fn find(&self, key: ChunkKey) -> Option<Mark> {
        self.chunks.get(&key).copied()
    }

    /// All members have what this one has, unless it was marked anew meanwhile.
    pub fn clear(&mut self, key: ChunkKey, mark: Mark) {
        if self.chunks.get(&key) == Some(&mark) {
            self.chunks.remove(&key);
        }
    }

    /// The whole chain was compared.
    pub fn clear_chain(&mut self, chain: ChainId) {
        self.chunks.retain(|_, mark| mark.chain != chain);
    }

    /// Up to `max` marks of one chain.
    pub fn of_chain(&self, chain: ChainId, max: usize) -> Vec<(ChunkKey, Mark)> {
        self.chunks.iter().filter(|(_, m)| m.chain == chain).take(max).map(|(k, m)| (*k, *m)).collect()
    }

    /// Those of one file in a chain, up to `max`.
    pub fn of_file(&self, chain: ChainId, ino: Ino, max: usize) -> Vec<(ChunkKey, Mark)> {
        let keys = ChunkKey { ino, index: 0 }..=ChunkKey { ino, index: u64::MAX };
        let marks = self.chunks.range(keys).filter(|(_, m)| m.chain == chain);
        marks.take(max).map(|(k, m)| (*k, *m)).collect()
    }

    /// Chains with marks.
    pub fn chains(&self) -> Vec<ChainId> {
        let mut chains: Vec<ChainId> = self.chunks.values().map(|mark| mark.chain).collect();
        chains.sort_unstable();
        chains.dedup();
        chains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mark that was set anew is not cleared by what was learnt of the old one; there is a
    /// most.
    #[test]
    fn a_newer_mark_stays() {
        let mut marks = Marks::default();
        let key = |ino| ChunkKey { ino: Ino(ino), index: 0 };
        let chain = ChainId(1);
        assert!(marks.set(key(1), chain, ChunkVersion(3)));
        let old = Mark { chain, version: ChunkVersion(3) };
        assert!(marks.set(key(1), chain, ChunkVersion(4)));
        marks.clear(key(1), old);
        assert_eq!(marks.find(key(1)), Some(Mark { chain, version: ChunkVersion(4) }));
        marks.clear(key(1), Mark { chain, version: ChunkVersion(4) });
        assert_eq!(marks.find(key(1)), None);
        for ino in 0..MARKED_CHUNKS as u64 {
            assert!(marks.set(key(ino), ChainId(2), ChunkVersion(1)));
        }
        assert!(!marks.set(key(u64::MAX), chain, ChunkVersion(1)));
        assert!(marks.set(key(0), ChainId(2), ChunkVersion(2)));
        assert_eq!(marks.chains(), [ChainId(2)]);
        assert_eq!(marks.of_chain(ChainId(2), 5).len(), 5);
        assert_eq!(marks.of_file(ChainId(2), Ino(7), 5).len(), 1);
        assert!(marks.of_file(chain, Ino(7), 5).is_empty());
        marks.clear_chain(ChainId(2));
        assert!(marks.chains().is_empty());
    }
}
