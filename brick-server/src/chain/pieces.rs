//! Which parts of a chunk two members hold different bytes in, by the digests of its pieces.

use wire::brick::Extent;

/// BLAKE3 of a piece.
pub type Digest = [u8; 32];

/// The ranges of a chunk of `len` bytes in which `theirs` differs from `ours`, in order, none
/// longer than `most` bytes (a multiple of `piece`). A piece that a list does not have is
/// zeros.
pub fn differing(
    ours: &[Digest],
    theirs: &[Digest],
    zeros: Digest,
    piece: u32,
    len: u32,
    most: u32,
) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for (number, offset) in (0..len).step_by(piece as usize).enumerate() {
        let of = |list: &[Digest]| list.get(number).copied().unwrap_or(zeros);
        if of(ours) == of(theirs) {
            continue;
        }
        let bytes = piece.min(len - offset);
        match out.last_mut() {
            Some(last) if last.offset + last.len == offset && last.len + bytes <= most => last.len += bytes,
            _ => out.push(Extent { offset, len: bytes }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECE: u32 = 10;

    fn digests(bytes: &[u8]) -> Vec<Digest> {
        let digest = |piece: &[u8]| {
            let mut out = [0; 32];
            out[..piece.len()].copy_from_slice(piece);
            out
        };
        bytes.chunks(PIECE as usize).map(digest).collect()
    }

    proptest! {
        /// What is sent makes the other copy equal, and no piece that is equal is sent.
        #[test]
        fn what_differs_is_sent_and_nothing_else(
            ours in prop::collection::vec(0u8..3, 0..200),
            theirs in prop::collection::vec(0u8..3, 0..200),
            same in 0usize..200,
        ) {
            let mut theirs = theirs;
            let same = same.min(ours.len()).min(theirs.len());
            theirs[..same].copy_from_slice(&ours[..same]);
            let runs =
                differing(&digests(&ours), &digests(&theirs), [0; 32], PIECE, ours.len() as u32, 3 * PIECE);
            let mut made = theirs.clone();
            made.resize(ours.len(), 0);
            let mut end = 0;
            for run in &runs {
                prop_assert!(run.len > 0 && run.len <= 3 * PIECE && run.offset >= end);
                end = run.offset + run.len;
                let range = run.offset as usize..end as usize;
                prop_assert!(
                    range.start.is_multiple_of(PIECE as usize)
                        && (range.start >= same / PIECE as usize * PIECE as usize)
                );
                made[range.clone()].copy_from_slice(&ours[range]);
            }
            prop_assert_eq!(made, ours);
        }
    }
}
