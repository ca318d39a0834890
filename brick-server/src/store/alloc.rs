//! Which blocks of the disk are free. In memory only: rebuilt from the index at start, so
//! that nothing can leak across a crash.
//!
//! 1. Free runs are disjoint and never touch each other (`random_use_keeps_the_books`).
//! 2. A block is handed out at most once until it is given back (`random_use_keeps_the_books`).
//!
//! Large requests, best fit: the smallest free run that holds all of it, else the largest ones.
//! Small ones, next fit: behind the one before, so that what is written together lies together
//! and a commit's blocks are in the order of the disk.

use std::collections::{BTreeMap, BTreeSet};

/// Neighbouring blocks, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// First block.
    pub start: u64,
    /// How many; more than 0.
    pub blocks: u64,
}

impl Run {
    /// One block.
    pub fn one(block: u64) -> Run {
        Run { start: block, blocks: 1 }
    }

    fn end(self) -> u64 {
        self.start + self.blocks
    }
}

/// Which blocks the index speaks of: a bit a block.
#[derive(Debug)]
pub struct Used {
    end: u64,
    bits: Vec<u64>,
}

impl Used {
    /// None of the blocks below `end`.
    pub fn new(end: u64) -> Used {
        Used { end, bits: vec![0; end.div_ceil(64) as usize] }
    }

    /// Adds a block; `false` if it is there already or beyond the end.
    pub fn claim(&mut self, block: u64) -> bool {
        let Some(word) = self.bits.get_mut((block / 64) as usize).filter(|_| block < self.end) else {
            return false;
        };
        let bit = 1 << (block % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether it is there.
    pub fn has(&self, block: u64) -> bool {
        let word = self.bits.get((block / 64) as usize);
        block < self.end && word.is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.bits.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(at, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u64 * 64 + bit)
        })
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Allocator {
    by_start: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
    free: u64,
    end: u64,
    next: u64,
}

impl Allocator {
    /// Everything below the end is free but for what `used` says.
    pub fn rebuild(used: &Used) -> Allocator {
        let mut this = Allocator { end: used.end, ..Allocator::default() };
        let mut next = 0;
        for block in used.blocks() {
            this.insert(Run { start: next, blocks: block - next });
            next = block + 1;
        }
        this.insert(Run { start: next, blocks: used.end - next });
        this
    }

    /// Blocks that are free.
    pub fn free_blocks(&self) -> u64 {
        self.free
    }

    /// Blocks there are.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The disk has grown.
    pub fn grow(&mut self, end: u64) {
        if end > self.end {
            let run = Run { start: self.end, blocks: end - self.end };
            self.end = end;
            self.give_back(run);
        }
    }

    /// Takes `blocks` blocks, in as few runs as is easy; `None` if there are not as many.
    pub fn take(&mut self, blocks: u64) -> Option<Vec<Run>> {
        if blocks > self.free {
            return None;
        }
        let mut runs = Vec::with_capacity(1);
        let mut left = blocks;
        while left > 0 {
            let (size, start) = match self.by_size.range((left, 0)..).next() {
                Some(&found) => found,
                None => *self.by_size.last()?,
            };
            self.remove(Run { start, blocks: size });
            let take = size.min(left);
            if size > take {
                self.insert(Run { start: start + take, blocks: size - take });
            }
            runs.push(Run { start, blocks: take });
            left -= take;
        }
        Some(runs)
    }

    /// Takes `blocks` blocks behind those taken so before; `None` if there are not as many.
    pub fn take_next(&mut self, blocks: u64) -> Option<Vec<Run>> {
        if blocks > self.free {
            return None;
        }
        let mut runs = Vec::with_capacity(1);
        let mut left = blocks;
        while left > 0 {
            let behind = self.by_start.range(self.next..).next().or_else(|| self.by_start.iter().next());
            let (start, size) = behind.map(|(&start, &size)| (start, size))?;
            self.remove(Run { start, blocks: size });
            let take = size.min(left);
            if size > take {
                self.insert(Run { start: start + take, blocks: size - take });
            }
            runs.push(Run { start, blocks: take });
            self.next = start + take;
            left -= take;
        }
        Some(runs)
    }

    /// Makes a run free again.
    pub fn give_back(&mut self, run: Run) {
        let mut run = run;
        if let Some((&start, &blocks)) = self.by_start.range(..run.start).next_back() {
            debug_assert!(start + blocks <= run.start, "block {} given back twice", run.start);
            if start + blocks == run.start {
                self.remove(Run { start, blocks });
                run = Run { start, blocks: blocks + run.blocks };
            }
        }
        if let Some((&start, &blocks)) = self.by_start.range(run.start..).next() {
            debug_assert!(run.end() <= start, "block {start} given back twice");
            if run.end() == start {
                self.remove(Run { start, blocks });
                run.blocks += blocks;
            }
        }
        self.insert(run);
    }

    fn insert(&mut self, run: Run) {
        if run.blocks > 0 {
            self.by_start.insert(run.start, run.blocks);
            self.by_size.insert((run.blocks, run.start));
            self.free += run.blocks;
        }
    }

    fn remove(&mut self, run: Run) {
        self.by_start.remove(&run.start);
        self.by_size.remove(&(run.blocks, run.start));
        self.free -= run.blocks;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is taken and given back: no block is handed out twice, and the count of
        /// free ones is right.
        #[test]
        fn random_use_keeps_the_books(steps in prop::collection::vec((0u8..4, 1u64..40), 1..200)) {
            let mut allocator = Allocator::rebuild(&Used::new(0));
            let mut held: Vec<Run> = Vec::new();
            let mut end = 0;
            for (what, n) in steps {
                match what {
                    0 => {
                        end += n;
                        allocator.grow(end);
                    }
                    1 | 2 => {
                        let taken = if what == 1 { allocator.take(n) } else { allocator.take_next(n) };
                        if let Some(runs) = taken {
                            prop_assert_eq!(runs.iter().map(|r| r.blocks).sum::<u64>(), n);
                            held.extend(runs);
                        }
                    }
                    _ => {
                        if !held.is_empty() {
                            let run = held.swap_remove((n as usize) % held.len());
                            allocator.give_back(run);
                        }
                    }
                }
                let mut owners = vec![0u8; end as usize];
                for run in held.iter().copied().chain(allocator.by_start.iter().map(|(&start, &blocks)| Run { start, blocks })) {
                    for block in run.start..run.end() {
                        owners[block as usize] += 1;
                    }
                }
                prop_assert!(owners.iter().all(|&n| n == 1));
                prop_assert_eq!(allocator.free_blocks(), allocator.by_start.values().sum::<u64>());
                prop_assert_eq!(allocator.by_size.len(), allocator.by_start.len());
                let runs: Vec<_> = allocator.by_start.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].0 + w[0].1 < *w[1].0));
            }
        }
    }

    /// A rebuilt allocator knows what is used; a block that two claim is told.
    #[test]
    fn rebuild_finds_double_use() {
        let mut used = Used::new(10);
        assert!(used.claim(0) && used.claim(4) && used.claim(5));
        assert!(!used.claim(4) && !used.claim(10));
        assert_eq!(used.count(), 3);
        let mut allocator = Allocator::rebuild(&used);
        assert_eq!(allocator.free_blocks(), 7);
        assert_eq!(allocator.take(4).unwrap(), [Run { start: 6, blocks: 4 }]);
    }
}
