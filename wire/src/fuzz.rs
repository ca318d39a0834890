//! Mangled messages, for tests of whoever has to understand messages of others.
//!
//! A campaign takes messages that are right and spoils them: bits, numbers, lengths, parts of one in another. It ends after a number of
//! rounds, or, with `BRICKYARD_FUZZ_SECONDS`, when that time is over. `BRICKYARD_SEED` repeats it: the same seed spoils the same way.

use std::time::{Duration, Instant};

/// Numbers at which programs break.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, i32::MAX as u64, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// See the module's head.
#[derive(Debug)]
pub struct Campaign {
    seed: u64,
    state: u64,
    round: u64,
    rounds: u64,
    until: Option<Instant>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Campaign {
    /// One of so many rounds, unless the environment says otherwise.
    pub fn of(rounds: u64) -> Campaign {
        let seed = number("BRICKYARD_SEED").unwrap_or(1);
        let until = number("BRICKYARD_FUZZ_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
        Campaign { seed, state: seed, round: 0, rounds, until }
    }

    /// Whether there is another round.
    pub fn goes_on(&mut self) -> bool {
        self.round += 1;
        self.until.map_or(self.round <= self.rounds, |until| Instant::now() < until)
    }

    /// A number below another one, which is not 0. By splitmix64.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// One of these messages, spoiled in a few places.
    pub fn spoil(&mut self, messages: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(messages).clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() as u64 + 1) as usize;
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 => bytes.truncate(at),
                3 => bytes.insert(at, self.below(256) as u8),
                // A number as fixed width has it, and as postcard has it.
                4 => {
                    let edge = self.pick(&EDGES).to_ne_bytes();
                    let end = (at + 8).min(bytes.len());
                    bytes.splice(at..end, edge[..end - at].iter().copied());
                }
                5 => {
                    let mut edge = *self.pick(&EDGES);
                    let mut varint = Vec::new();
                    while edge >= 0x80 {
                        varint.push(edge as u8 | 0x80);
                        edge >>= 7;
                    }
                    varint.push(edge as u8);
                    let end = (at + 1).min(bytes.len());
                    bytes.splice(at..end, varint);
                }
                _ => {
                    let other = self.pick(messages).clone();
                    let from = self.below(other.len() as u64 + 1) as usize;
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
            }
        }
        bytes
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed in round {} with BRICKYARD_SEED={}", self.round, self.seed);
        }
    }
}
