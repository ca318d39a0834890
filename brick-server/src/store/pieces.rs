//! Digests of the 64 KiB pieces of a chunk, by which two members find what differs.
//!
//! 1. Two pieces have equal digests exactly when they hold equal bytes, wherever those lie and
//!    whether zeros are stored or a hole (`equal_bytes_have_equal_digests`).

use std::sync::OnceLock;

use super::record::{BLOCK, GROUP_BLOCKS};

/// Bytes of a piece.
pub const PIECE_BYTES: u32 = GROUP_BLOCKS * BLOCK as u32;

/// BLAKE3 of a piece, which counts as followed by zeros up to 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceDigest(pub [u8; 32]);

impl PieceDigest {
    /// Of at most 64 KiB.
    pub fn of(bytes: &[u8]) -> PieceDigest {
        static ZEROS: [u8; BLOCK] = [0; BLOCK];
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytes);
        let mut left = (PIECE_BYTES as usize).saturating_sub(bytes.len());
        while left > 0 {
            let take = left.min(BLOCK);
            hasher.update(&ZEROS[..take]);
            left -= take;
        }
        PieceDigest(*hasher.finalize().as_bytes())
    }

    /// Of a piece that is a hole.
    pub fn zeros() -> PieceDigest {
        static OF_ZEROS: OnceLock<PieceDigest> = OnceLock::new();
        *OF_ZEROS.get_or_init(|| PieceDigest::of(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows the end of the chunk counts as zeros, and nothing else is taken for them.
    #[test]
    fn equal_bytes_have_equal_digests() {
        let mut bytes = vec![7; 10_000];
        let short = PieceDigest::of(&bytes);
        bytes.resize(PIECE_BYTES as usize, 0);
        assert_eq!(PieceDigest::of(&bytes), short);
        assert_eq!(*blake3::hash(&bytes).as_bytes(), short.0);
        bytes[PIECE_BYTES as usize - 1] = 1;
        assert_ne!(PieceDigest::of(&bytes), short);
        assert_eq!(PieceDigest::of(&vec![0; PIECE_BYTES as usize]), PieceDigest::zeros());
    }
}
