//! Which living bricks can't reach each other, as the heads of their chains say.
//!
//! A brick that the namespace hears and a head does not is neither dead nor of use to that head: the chain would wait for it
//! without end. One of the two stops serving in the chains they share.
//!
//! 1. A pair counts only when both were heard here, in the lives that were told of, after that was told: a machine that is
//!    cut off from all is told of by heads, too, and found dead before (`who_is_dead_is_not_cut_off`).
//! 2. Of a pair the one that can't be reached by more bricks is to stop: its own link may be what is broken. Of equals the one
//!    that is not the head (`the_lonelier_one_is_out`).
//! 3. What is not told again for [`FORGOTTEN_AFTER`] is over (`what_is_not_told_again_is_over`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wire::id::{BootId, BrickId};

use crate::chain::plan::pair;

/// See 3 in the module's head. Heads tell once a second.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

/// A life of a brick.
pub type Life = (BrickId, BootId);

#[derive(Debug, Clone, Copy)]
struct Told {
    by: Life,
    of: Life,
    first: Instant,
    last: Instant,
}

/// A pair that counts, and which of it is to stop serving in the chains of that head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Who can't reach the other one.
    pub head: BrickId,
    /// The other one.
    pub member: BrickId,
    /// One of them.
    pub out: BrickId,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Apart {
    told: BTreeMap<(BrickId, BrickId), Told>,
}

impl Apart {
    /// A head says that it can't reach a brick. Whether that is news.
    pub fn told(&mut self, by: Life, of: Life, now: Instant) -> bool {
        self.forget(now);
        let known = self.told.get_mut(&(by.0, of.0)).filter(|told| (told.by, told.of) == (by, of));
        if let Some(told) = known {
            told.last = now;
            return false;
        }
        self.told.insert((by.0, of.0), Told { by, of, first: now, last: now });
        true
    }

    fn forget(&mut self, now: Instant) {
        self.told.retain(|_, told| now.saturating_duration_since(told.last) < FORGOTTEN_AFTER);
    }

    /// Pairs that can't reach each other, and since when.
    pub fn pairs(&self, now: Instant) -> BTreeMap<[BrickId; 2], Instant> {
        let mut pairs = BTreeMap::new();
        let lasts = |told: &&Told| now.saturating_duration_since(told.last) < FORGOTTEN_AFTER;
        for told in self.told.values().filter(lasts) {
            let since = pairs.entry(pair(told.by.0, told.of.0)).or_insert(told.first);
            *since = told.first.min(*since);
        }
        pairs
    }

    /// Who is to stop serving. `heard_after` says whether a life of a brick was heard after an instant.
    pub fn judge(&mut self, now: Instant, heard_after: impl Fn(Life, Instant) -> bool) -> Vec<Verdict> {
        self.forget(now);
        let lives = |told: &Told| heard_after(told.by, told.first) && heard_after(told.of, told.first);
        let pairs = self.pairs(now);
        let lonely = |brick: BrickId| pairs.keys().filter(|pair| pair.contains(&brick)).count();
        let mut verdicts = Vec::new();
        for told in self.told.values().filter(|told| lives(told)) {
            let (head, member) = (told.by.0, told.of.0);
            let out = if lonely(head) > lonely(member) { head } else { member };
            verdicts.push(Verdict { head, member, out });
        }
        verdicts
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn life(brick: u32) -> Life {
        (BrickId(brick), BootId(1))
    }

    fn verdict(head: u32, member: u32, out: u32) -> Verdict {
        Verdict { head: BrickId(head), member: BrickId(member), out: BrickId(out) }
    }

    /// Rule 1.
    #[test]
    fn who_is_dead_is_not_cut_off() {
        let (mut apart, start) = (Apart::default(), Instant::now());
        assert!(apart.told(life(1), life(2), start));
        assert!(!apart.told(life(1), life(2), start), "no news");
        let silent = |silent: u32| move |(brick, _): Life, _: Instant| brick != BrickId(silent);
        assert_eq!(apart.judge(start, silent(2)), []);
        assert_eq!(apart.judge(start, silent(1)), []);
        assert_eq!(apart.judge(start, silent(9)), [verdict(1, 2, 2)]);
        // Another life of the same brick is another matter.
        let second = |(_, boot): Life, _: Instant| boot == BootId(2);
        assert_eq!(apart.judge(start, second), []);
        assert!(apart.told(life(1), (BrickId(2), BootId(2)), start));
    }

    /// Rule 2.
    #[test]
    fn the_lonelier_one_is_out() {
        let (mut apart, start) = (Apart::default(), Instant::now());
        apart.told(life(1), life(2), start);
        apart.told(life(1), life(3), start);
        apart.told(life(4), life(1), start);
        let expected = [verdict(1, 2, 1), verdict(1, 3, 1), verdict(4, 1, 1)];
        assert_eq!(apart.judge(start, |_, _| true), expected);
        apart.told(life(2), life(3), start);
        apart.told(life(3), life(2), start);
        let both = apart.judge(start, |_, _| true);
        assert_eq!(
            both[2..4],
            [verdict(2, 3, 3), verdict(3, 2, 2)],
            "each goes on with the chains it is head of"
        );
    }

    /// Rule 3.
    #[test]
    fn what_is_not_told_again_is_over() {
        let (mut apart, start) = (Apart::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        apart.told(life(2), life(1), start);
        apart.told(life(2), life(1), later(4));
        assert_eq!(apart.pairs(later(8)), BTreeMap::from([([BrickId(1), BrickId(2)], start)]));
        assert!(apart.pairs(later(9)).is_empty());
        assert!(apart.judge(later(9), |_, _| true).is_empty());
        assert!(apart.told(life(2), life(1), later(10)), "news again");
    }
}
