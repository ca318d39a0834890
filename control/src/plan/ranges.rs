//! A set of numbers kept as intervals: task numbers still to run, job numbers used up.
//!
//! 1. Intervals are disjoint, not empty, not adjacent, so equal sets are equal values. `agrees_with_a_plain_set`

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of `u64`; its size in memory and on disk is that of its intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(BTreeMap<u64, u64>);

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut out = Ranges::default();
        for (first, last) in pairs {
            out.insert_range(first, last);
        }
        out
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0.into_iter().collect()
    }
}

impl Ranges {
    /// True without any number in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Is `n` in it?
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        self.0.range(..=n).next_back().is_some_and(|(_, last)| *last >= n)
    }

    /// The smallest number in it.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(first, _)| *first)
    }

    /// The smallest number `>= from` that isn't in it.
    #[must_use]
    pub fn first_gap(&self, from: u64) -> u64 {
        match self.0.range(..=from).next_back() {
            Some((_, last)) if *last >= from => last + 1,
            _ => from,
        }
    }

    /// Adds one number; false if it was in it.
    pub fn insert(&mut self, n: u64) -> bool {
        let new = !self.contains(n);
        self.insert_range(n, n);
        new
    }

    /// Adds `first..=last` (nothing when `first > last`).
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut low, mut high) = (first, last);
        if let Some((f, l)) = self.0.range(..=first).next_back()
            && l.saturating_add(1) >= first
        {
            low = *f;
            high = high.max(*l);
        }
        let joined: Vec<u64> = self.0.range(low..=high.saturating_add(1)).map(|(f, _)| *f).collect();
        for f in joined {
            if let Some(l) = self.0.remove(&f) {
                high = high.max(l);
            }
        }
        self.0.insert(low, high);
    }

    /// Takes one number out; false if it wasn't in it.
    pub fn remove(&mut self, n: u64) -> bool {
        let Some((first, last)) = self.0.range(..=n).next_back().map(|(f, l)| (*f, *l)) else { return false };
        if last < n {
            return false;
        }
        self.0.remove(&first);
        if first < n {
            self.0.insert(first, n - 1);
        }
        if n < last {
            self.0.insert(n + 1, last);
        }
        true
    }

    /// All numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// All intervals `(first, last)`, rising.
    pub fn intervals(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(steps in prop::collection::vec((0u8..3, 0u64..40, 0u64..8), 0..60)) {
            let mut set = BTreeSet::new();
            let mut ranges = Ranges::default();
            for (act, n, more) in steps {
                match act {
                    0 => prop_assert_eq!(ranges.insert(n), set.insert(n)),
                    1 => prop_assert_eq!(ranges.remove(n), set.remove(&n)),
                    _ => { ranges.insert_range(n, n + more); set.extend(n..=n + more); }
                }
                prop_assert_eq!(ranges.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ranges.len(), set.len() as u64);
                prop_assert_eq!(ranges.first(), set.first().copied());
                prop_assert_eq!(ranges.first_gap(n), (n..).find(|x| !set.contains(x)).unwrap());
                let pairs: Vec<_> = ranges.intervals().collect();
                prop_assert!(pairs.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{:?}", pairs);
                let again: Ranges = serde_json::from_slice(&serde_json::to_vec(&ranges).unwrap()).unwrap();
                prop_assert_eq!(&again, &ranges);
            }
        }
    }
}
