//! Where the bytes of a file are: plain arithmetic, the same in every room.
//!
//! The namespace keeps no record per chunk. A file carries a [`FileLayout`]; with the cluster
//! map anybody computes which chain holds which piece.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::chunk::{ChunkKey, DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES};
use crate::id::{ChainId, Ino};
use crate::map::ClusterMap;

/// Version of the chain table a file is laid out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TableVersion(pub u32);

/// How a file is cut and spread. Fixed at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileLayout {
    /// The chain table.
    pub table: TableVersion,
    /// Where in the table the file starts, so that files begin on different chains.
    pub seed: u32,
    /// Over how many chains of the table the file is spread; 0 = all.
    pub stripe: u16,
    /// Bytes of a chunk: a power of two from 1 MiB to 64 MiB.
    pub chunk_bytes: u32,
}

impl Default for FileLayout {
    fn default() -> Self {
        Self { table: TableVersion(0), seed: 0, stripe: 0, chunk_bytes: DEFAULT_CHUNK_BYTES }
    }
}

/// A run of a file inside one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which chunk.
    pub index: u64,
    /// Where in the chunk, in bytes.
    pub offset: u32,
    /// How much, in bytes; more than 0.
    pub len: u32,
    /// Where it stands in the run that was cut, in bytes.
    pub at: u64,
}

impl Piece {
    /// The chunk of file `ino` that the piece is in.
    pub fn key(&self, ino: Ino) -> ChunkKey {
        ChunkKey { ino, index: self.index }
    }
}

impl FileLayout {
    /// Whether the numbers make sense (they come from disk and network).
    pub fn is_valid(&self) -> bool {
        self.chunk_bytes.is_power_of_two() && (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&self.chunk_bytes)
    }

    /// Cuts `len` bytes from `offset` at chunk borders and into pieces of at most `max_len`.
    ///
    /// Pieces after the first start at multiples of `max_len` in their chunk where `max_len`
    /// is a power of two, so that pieces of a stream are whole ones.
    pub fn pieces(&self, offset: u64, len: u64, max_len: u32) -> impl Iterator<Item = Piece> + use<> {
        let chunk = u64::from(self.chunk_bytes.max(1));
        let step = u64::from(max_len.clamp(1, self.chunk_bytes.max(1)));
        let end = offset.saturating_add(len);
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let index = at / chunk;
            let inside = at % chunk;
            let border = ((inside / step) + 1) * step;
            let take = (border.min(chunk) - inside).min(end - at);
            let piece = Piece {
                index,
                // Both are below the chunk size, which is a u32.
                offset: inside as u32,
                len: take as u32,
                at: at - offset,
            };
            at += take;
            Some(piece)
        })
    }

    /// The chain that holds chunk `index`; none if the map does not know the table.
    pub fn chain(&self, map: &ClusterMap, index: u64) -> Option<ChainId> {
        let table = map.tables.get(&self.table)?;
        let stripe = self.chains(map)?;
        let slot = (u64::from(self.seed) + index % stripe) % table.len() as u64;
        table.get(slot as usize).copied()
    }

    /// The chains that hold these bytes of the file, each once.
    pub fn chains_of(&self, map: &ClusterMap, bytes: Range<u64>) -> impl Iterator<Item = ChainId> {
        let chunk = u64::from(self.chunk_bytes.max(1));
        let (first, end) = (bytes.start / chunk, bytes.end.div_ceil(chunk));
        // After one round every chain has come up.
        let round = self.chains(map).unwrap_or(0);
        let end = if bytes.is_empty() { first } else { end.min(first.saturating_add(round)) };
        (first..end).filter_map(|index| self.chain(map, index))
    }

    /// Over how many chains the file is spread, at least 1: chunks whose indexes differ by a multiple of it are in
    /// the same one. None if the map does not know the table.
    pub fn chains(&self, map: &ClusterMap) -> Option<u64> {
        let wide = map.tables.get(&self.table)?.len() as u64;
        if wide == 0 {
            return None;
        }
        Some(if self.stripe == 0 { wide } else { u64::from(self.stripe).min(wide) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Pieces cover the run exactly, in order, and none crosses a chunk border.
        #[test]
        fn pieces_cover_the_run(
            chunk_shift in 20u32..27, offset in 0u64..1 << 40, len in 0u64..1 << 28, max_shift in 12u32..23,
        ) {
            let layout = FileLayout { chunk_bytes: 1 << chunk_shift, ..FileLayout::default() };
            let mut at = 0;
            for piece in layout.pieces(offset, len, 1 << max_shift) {
                prop_assert_eq!(piece.at, at);
                prop_assert!(piece.len > 0 && piece.len <= 1 << max_shift);
                prop_assert_eq!(
                    piece.index * u64::from(layout.chunk_bytes) + u64::from(piece.offset),
                    offset + at
                );
                prop_assert!(piece.offset + piece.len <= layout.chunk_bytes);
                at += u64::from(piece.len);
            }
            prop_assert_eq!(at, len);
        }
    }

    proptest! {
        /// The chains of a range are those of its chunks, each once.
        #[test]
        fn chains_of_a_range_are_those_of_its_chunks(
            wide in 1u64..9, stripe in 0u16..12, seed in 0u32..20, from in 0u64..30, len in 0u64..30,
        ) {
            let mut map = ClusterMap::new(crate::id::ClusterId([1; 16]), 2);
            let table = TableVersion(3);
            map.tables.insert(table, (0..wide).map(|id| ChainId(id as u32)).collect());
            let layout = FileLayout { table, seed, stripe, chunk_bytes: MIN_CHUNK_BYTES };
            let chunk = u64::from(MIN_CHUNK_BYTES);
            // Begins within a chunk, and ends in one.
            let bytes = from * chunk + 7..(from + len) * chunk + 7;
            let mut found: Vec<_> = layout.chains_of(&map, bytes.clone()).collect();
            let many = found.len();
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(many, found.len());
            let mut wanted: Vec<_> = layout
                .pieces(bytes.start, bytes.end - bytes.start, MIN_CHUNK_BYTES)
                .filter_map(|piece| layout.chain(&map, piece.index))
                .collect();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(found, wanted);
        }
    }

    /// A stream is cut at multiples of the piece size even when it starts in between.
    #[test]
    fn pieces_align_after_the_first() {
        let layout = FileLayout::default();
        let pieces: Vec<_> = layout.pieces(4_194_204, 1_100_000, 1 << 20).collect();
        assert_eq!(
            pieces.iter().map(|p| (p.index, p.offset, p.len)).collect::<Vec<_>>(),
            [(0, 4_194_204, 100), (1, 0, 1 << 20), (1, 1 << 20, 1_100_000 - 100 - (1 << 20)),]
        );
    }
}
