//! The blocks of the disk: which are free, and which have more than one owner.
//!
//! 1. A block is free when its last owner let go of it, not before (`clones_share_and_part`).

use std::collections::HashMap;

use super::alloc::{Allocator, Run, Used};

/// See the module's head. In memory only: rebuilt from the index at start.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Which are free.
    pub free: Allocator,
    /// Owners beyond the first, for blocks that have any.
    more: HashMap<u64, u32>,
}

impl Blocks {
    /// One more owner of a block that is in use.
    pub fn share(&mut self, block: u64) {
        *self.more.entry(block).or_default() += 1;
    }

    /// Whether a block has several owners.
    pub fn is_shared(&self, block: u64) -> bool {
        self.more.contains_key(&block)
    }

    /// One owner lets go of each block of a run. `freed` is told of those that are free now, before
    /// anyone can take them.
    pub fn release(&mut self, run: Run, freed: &mut dyn FnMut(u64)) {
        let all = run.start..run.start + run.blocks;
        if self.more.is_empty() {
            all.for_each(freed);
            self.free.give_back(run);
            return;
        }
        for block in all {
            match self.more.get_mut(&block) {
                Some(1) => drop(self.more.remove(&block)),
                Some(more) => *more -= 1,
                None => {
                    freed(block);
                    self.free.give_back(Run::one(block));
                }
            }
        }
    }
}

/// What the index says of blocks, collected.
#[derive(Debug)]
pub struct Census {
    used: Used,
    shared: Used,
    more: HashMap<u64, u32>,
}

impl Census {
    /// Of a disk with blocks below `end`.
    pub fn new(end: u64) -> Census {
        Census { used: Used::new(end), shared: Used::new(end), more: HashMap::new() }
    }

    /// A chunk has the block; `shared`: others may, too. `false`: it is beyond the end, or somebody
    /// else has it and neither says that it is shared.
    pub fn claim(&mut self, block: u64, shared: bool) -> bool {
        let first = self.used.claim(block);
        if first {
            if shared {
                self.shared.claim(block);
            }
            return true;
        }
        if !self.used.has(block) || !(shared || self.shared.has(block)) {
            return false;
        }
        self.shared.claim(block);
        *self.more.entry(block).or_default() += 1;
        true
    }

    /// Blocks in use.
    pub fn count(&self) -> u64 {
        self.used.count()
    }

    /// What is free is the rest.
    pub fn finish(self) -> Blocks {
        Blocks { free: Allocator::rebuild(&self.used), more: self.more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owners are counted, whether they were counted at start or came later.
    #[test]
    fn the_last_owner_frees() {
        let mut census = Census::new(10);
        assert!(census.claim(3, true) && census.claim(4, false) && census.claim(3, true));
        assert!(census.claim(3, false), "one that says so is enough");
        assert!(!census.claim(4, false) && !census.claim(10, true));
        assert_eq!(census.count(), 2);
        let mut blocks = census.finish();
        assert!(blocks.is_shared(3) && !blocks.is_shared(4));
        blocks.share(4);
        let mut freed = Vec::new();
        for _ in 0..3 {
            blocks.release(Run { start: 3, blocks: 2 }, &mut |block| freed.push(block));
            if freed == [4] {
                break;
            }
        }
        assert_eq!(freed, [4]);
        blocks.release(Run::one(3), &mut |block| freed.push(block));
        assert_eq!(freed, [4, 3]);
        assert_eq!(blocks.free.free_blocks(), 10);
    }
}
