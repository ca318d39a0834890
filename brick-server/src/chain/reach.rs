//! Which other bricks can't be reached, as far as this one has tried.
//!
//! A brick is *doubted* when a call to it failed or takes long, and then asked for a sign of life that needs no disk: one that is
//! only slow is believed at once. Who gave none [`PINGS`] times in a row can't be reached, until it answers.
//!
//! 1. Who answers is neither doubted nor out of reach (`an_answer_ends_all_doubt`).
//! 2. Nobody is out of reach who was not asked (`silence_has_to_last`).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use wire::id::BrickId;

use crate::brick::lock;

/// Signs of life a brick has to owe before it counts as out of reach.
pub const PINGS: u32 = 2;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Reach {
    /// Those in doubt, and how many signs of life they owe.
    doubted: Mutex<BTreeMap<BrickId, u32>>,
    /// How many are out of reach: most of the time none, and no lock is needed to know.
    out: AtomicUsize,
    /// Somebody is doubted.
    pub wake: Notify,
}

impl Reach {
    /// A call to a brick failed or takes long.
    pub fn doubt(&self, brick: BrickId) {
        lock(&self.doubted).entry(brick).or_insert(0);
        self.wake.notify_one();
    }

    /// Who is to be asked for a sign of life.
    pub fn doubted(&self) -> Vec<BrickId> {
        lock(&self.doubted).keys().copied().collect()
    }

    /// It gave one, or is no concern any more.
    pub fn answered(&self, brick: BrickId) {
        let mut doubted = lock(&self.doubted);
        doubted.remove(&brick);
        self.count(&doubted);
    }

    /// It gave none. Whether it is out of reach.
    pub fn silent(&self, brick: BrickId) -> bool {
        let mut doubted = lock(&self.doubted);
        let owed = doubted.entry(brick).or_insert(0);
        *owed = owed.saturating_add(1);
        let is_out = *owed >= PINGS;
        self.count(&doubted);
        is_out
    }

    fn count(&self, doubted: &BTreeMap<BrickId, u32>) {
        self.out.store(doubted.values().filter(|owed| **owed >= PINGS).count(), Ordering::Relaxed);
    }

    /// Whether a brick can't be reached.
    pub fn is_out(&self, brick: BrickId) -> bool {
        self.out.load(Ordering::Relaxed) > 0
            && lock(&self.doubted).get(&brick).is_some_and(|owed| *owed >= PINGS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BrickId = BrickId(1);

    #[test]
    fn silence_has_to_last() {
        let reach = Reach::default();
        reach.doubt(A);
        assert_eq!(reach.doubted(), [A]);
        assert!(!reach.is_out(A));
        assert!(!reach.silent(A));
        reach.doubt(A);
        assert!(!reach.is_out(A), "another doubt is no silence");
        assert!(reach.silent(A));
        assert!(reach.is_out(A) && !reach.is_out(BrickId(2)));
    }

    #[test]
    fn an_answer_ends_all_doubt() {
        let reach = Reach::default();
        reach.doubt(A);
        while !reach.silent(A) {}
        assert!(reach.is_out(A));
        reach.answered(A);
        assert!(!reach.is_out(A) && reach.doubted().is_empty());
        assert!(!reach.silent(A), "it starts anew");
    }
}
