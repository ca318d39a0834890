//! Everything random comes from a printed seed.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::place::setting;

/// A small, fast generator (SplitMix64): good enough to choose operations and fill files.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.bits() % bound }
    }

    /// A number in `low..high`; `low` if the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed of this run: `BRICKYARD_SEED`, or the clock; printed so that a failure can be repeated.
pub fn of_this_run() -> Result<u64> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let seed = setting("BRICKYARD_SEED", clock % 1_000_000_000)?;
    eprintln!("seed: BRICKYARD_SEED={seed}");
    Ok(seed)
}

/// The byte that pattern `id` has at position `at` of its file: any range can be made and checked alone.
pub fn byte(id: u64, at: u64) -> u8 {
    (mix(id.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at / 8)) >> (8 * (at % 8))) as u8
}

/// Fills `buffer` with pattern `id` as it stands from position `at` on.
pub fn fill(id: u64, at: u64, buffer: &mut [u8]) {
    let base = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut position = at;
    let mut rest = buffer;
    while !rest.is_empty() {
        let word = mix(base.wrapping_add(position / 8)).to_le_bytes();
        let skip = (position % 8) as usize;
        let count = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&word[skip..skip + count]);
        rest = later;
        position += count as u64;
    }
}

/// `length` bytes of pattern `id` from position `at`.
pub fn bytes(id: u64, at: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    fill(id, at, &mut buffer);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pattern is the same however it is cut.
    #[test]
    fn a_pattern_can_be_cut_anywhere() {
        let whole = bytes(7, 0, 100);
        for at in 0..50 {
            assert_eq!(bytes(7, at, 37), whole[at as usize..at as usize + 37]);
            assert_eq!(byte(7, at), whole[at as usize]);
        }
        assert_ne!(bytes(8, 0, 100), whole);
    }
}
