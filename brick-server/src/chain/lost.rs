//! Blocks that were found bad and that no member could put right: each is told and counted once, not each time
//! somebody meets it.
//!
//! A chunk that has changed since is forgotten: what was bad may have been written over, and is found again if not.

use std::collections::{BTreeMap, BTreeSet};

use wire::chunk::ChunkKey;
use wire::id::ChunkVersion;

/// Chunks remembered; of more, blocks are told again.
const MOST: usize = 4096;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Lost {
    chunks: BTreeMap<ChunkKey, (ChunkVersion, BTreeSet<u32>)>,
}

impl Lost {
    /// Those of the blocks, found bad at `version`, that were not known to be lost.
    pub fn unknown(&self, key: ChunkKey, version: ChunkVersion, blocks: &[u32]) -> Vec<u32> {
        let known = self.chunks.get(&key).filter(|(at, _)| *at == version).map(|(_, blocks)| blocks);
        blocks.iter().copied().filter(|block| known.is_none_or(|known| !known.contains(block))).collect()
    }

    /// Nobody could put these right.
    pub fn note(&mut self, key: ChunkKey, version: ChunkVersion, blocks: impl IntoIterator<Item = u32>) {
        if self.chunks.len() >= MOST && !self.chunks.contains_key(&key) {
            return;
        }
        let entry = self.chunks.entry(key).or_insert_with(|| (version, BTreeSet::new()));
        if entry.0 != version {
            *entry = (version, BTreeSet::new());
        }
        entry.1.extend(blocks);
    }

    /// These are right again.
    pub fn found(&mut self, key: ChunkKey, blocks: impl IntoIterator<Item = u32>) {
        let Some((_, lost)) = self.chunks.get_mut(&key) else { return };
        for block in blocks {
            lost.remove(&block);
        }
        if lost.is_empty() {
            self.chunks.remove(&key);
        }
    }

    /// Chunks with such blocks, and at which version.
    pub fn chunks(&self) -> Vec<(ChunkKey, ChunkVersion)> {
        self.chunks.iter().map(|(key, (version, _))| (*key, *version)).collect()
    }

    /// A chunk is at another version now, or gone.
    pub fn forget(&mut self, key: ChunkKey, version: ChunkVersion) {
        if self.chunks.get(&key).is_some_and(|(at, _)| *at == version) {
            self.chunks.remove(&key);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.chunks.values().map(|(_, blocks)| blocks.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::id::Ino;

    /// A block is unknown until it was noted, and again once its chunk has changed.
    #[test]
    fn a_block_is_told_once_a_version() {
        let (key, other) = (ChunkKey { ino: Ino(1), index: 0 }, ChunkKey { ino: Ino(1), index: 1 });
        let (one, two) = (ChunkVersion(1), ChunkVersion(2));
        let mut lost = Lost::default();
        assert_eq!(lost.unknown(key, one, &[3, 4]), [3, 4]);
        lost.note(key, one, [3, 4]);
        assert_eq!(lost.unknown(key, one, &[3, 4, 5]), [5]);
        assert_eq!(lost.unknown(key, two, &[3]), [3]);
        assert_eq!(lost.unknown(other, one, &[3]), [3]);
        assert_eq!(lost.count(), 2);
        lost.found(key, [3]);
        assert_eq!((lost.count(), lost.chunks()), (1, vec![(key, one)]));
        lost.note(key, two, [9]);
        assert_eq!(lost.unknown(key, two, &[4, 9]), [4]);
        lost.forget(key, one);
        assert_eq!(lost.count(), 1);
        lost.forget(key, two);
        assert_eq!(lost.count(), 0);
    }
}
