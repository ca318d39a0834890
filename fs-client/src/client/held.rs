//! Changes that bricks have acknowledged and that are not durable yet, or not yet known to the namespace, kept so that they can be
//! sent again. Pure: no clock, no I/O.
//!
//! 1. Held changes never overlap: a newer acknowledgement cuts what it covers out of older
//!    ones, so sending again can never bring old bytes back (`newer_changes_cut_older_ones`).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use tokio::time::Instant;
use wire::durability::Holders;
use wire::id::ChunkVersion;

/// What a change puts into the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// These bytes.
    Data(Bytes),
    /// So many zeros, as a hole.
    Zeros(u64),
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Content::Data(bytes) => bytes.len() as u64,
            Content::Zeros(len) => *len,
        }
    }

    /// The part from `from` to `to`.
    pub(crate) fn part(&self, from: u64, to: u64) -> Content {
        match self {
            Content::Data(bytes) => Content::Data(bytes.slice(from as usize..to as usize)),
            Content::Zeros(_) => Content::Zeros(to - from),
        }
    }

    /// What it costs to keep, in bytes, the record included.
    fn cost(&self) -> u64 {
        const RECORD_BYTES: u64 = 256;
        match self {
            Content::Data(bytes) => bytes.len() as u64 + RECORD_BYTES,
            Content::Zeros(_) => RECORD_BYTES,
        }
    }
}

/// One acknowledged change.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) content: Content,
    /// Generation of the write it came from.
    pub(crate) generation: u64,
    /// Number of the acknowledgement.
    pub(crate) stamp: u64,
    /// Version of the chunk that it made.
    pub(crate) version: ChunkVersion,
    /// The one that it made when it was sent first.
    pub(crate) first: ChunkVersion,
    /// Who has it in memory.
    pub(crate) holders: Holders,
    pub(crate) since: Instant,
    /// The namespace knew of it before that.
    pub(crate) told: bool,
    /// It can't be lost any more, and is kept until the namespace knows of it: somebody may have cut the file behind its back.
    pub(crate) durable: bool,
}

impl Held {
    /// Whether the namespace knows of it, which was told of all up to the stamp `reported`.
    pub(crate) fn is_told(&self, reported: u64) -> bool {
        self.told || self.stamp <= reported
    }
}

/// The held changes of one file.
#[derive(Debug, Default)]
pub(crate) struct HeldMap {
    map: BTreeMap<u64, Held>,
    cost: u64,
}

impl HeldMap {
    /// What keeping them costs, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Held)> {
        self.map.iter().map(|(at, held)| (*at, held))
    }

    /// Those that touch a range.
    pub(crate) fn within(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &Held)> {
        let before = self.map.range(..range.start).next_back();
        let before = before.filter(|(at, held)| *at + held.content.len() > range.start);
        before.into_iter().chain(self.map.range(range.clone())).map(|(at, held)| (*at, held))
    }

    /// Those that are not durable.
    pub(crate) fn undurable(&self) -> impl Iterator<Item = (u64, &Held)> {
        self.iter().filter(|(_, held)| !held.durable)
    }

    /// When the oldest of them was acknowledged.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.undurable().map(|(_, held)| held.since).min()
    }

    /// One has become durable: it goes if it was reported, by the stamp of the last that was.
    pub(crate) fn secured(&mut self, offset: u64, reported: u64) {
        match self.map.get_mut(&offset) {
            Some(held) if !held.is_told(reported) => held.durable = true,
            Some(_) => drop(self.remove(offset)),
            None => {}
        }
    }

    /// All up to a stamp were reported: those that are durable go.
    pub(crate) fn reported(&mut self, stamp: u64) {
        let done: Vec<u64> =
            self.iter().filter(|(_, held)| held.durable && held.is_told(stamp)).map(|(at, _)| at).collect();
        for at in done {
            self.remove(at);
        }
    }

    /// Takes out what lies behind `size`, with where it begins.
    pub(crate) fn behind(&mut self, size: u64) -> Vec<(u64, Held)> {
        let range = size..u64::MAX;
        let touched: Vec<u64> = self.within(&range).map(|(at, _)| at).collect();
        let mut behind = Vec::new();
        for at in touched {
            let Some(held) = self.remove(at) else { continue };
            let from = size.saturating_sub(at);
            if from > 0 {
                self.put(at, Held { content: held.content.part(0, from), ..held.clone() });
            }
            let content = held.content.part(from, held.content.len());
            behind.push((at + from, Held { content, ..held }));
        }
        behind
    }

    /// Keeps a change, newer than all others.
    pub(crate) fn insert(&mut self, offset: u64, held: Held) {
        self.cut(offset, offset + held.content.len());
        self.put(offset, held);
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, offset: u64) -> Option<Held> {
        let held = self.map.remove(&offset)?;
        self.cost -= held.content.cost();
        Some(held)
    }

    /// Forgets what lies in a range.
    pub(crate) fn cut(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let mut touched: Vec<u64> = self.map.range(start..end).map(|(at, _)| *at).collect();
        if let Some((at, held)) = self.map.range(..start).next_back()
            && at + held.content.len() > start
        {
            touched.push(*at);
        }
        for at in touched {
            let Some(held) = self.remove(at) else { continue };
            let held_end = at + held.content.len();
            if at < start {
                let content = held.content.part(0, start - at);
                self.put(at, Held { content, ..held.clone() });
            }
            if held_end > end {
                let content = held.content.part(end - at, held_end - at);
                self.put(end, Held { content, ..held });
            }
        }
    }

    fn put(&mut self, offset: u64, held: Held) {
        self.cost += held.content.cost();
        self.map.insert(offset, held);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use wire::id::{ChainEpoch, ChainId};

    use super::*;

    proptest! {
        /// What is held equals a plain buffer that the same changes and cuts were made in.
        #[test]
        fn newer_changes_cut_older_ones(
            steps in proptest::collection::vec((0u64..500, 1u64..200, 0u8..3, any::<u8>()), 1..60),
        ) {
            let mut held = HeldMap::default();
            let mut model: Vec<Option<u8>> = vec![None; 700];
            for (stamp, (offset, len, what, fill)) in steps.iter().enumerate() {
                let range = *offset as usize..(offset + len) as usize;
                let content = match what {
                    0 => Content::Data(vec![*fill; *len as usize].into()),
                    1 => Content::Zeros(*len),
                    _ => {
                        held.cut(*offset, offset + len);
                        model[range].fill(None);
                        continue;
                    }
                };
                model[range].fill(Some(if *what == 0 { *fill } else { 0 }));
                held.insert(*offset, Held {
                    content,
                    generation: 0,
                    stamp: stamp as u64,
                    version: ChunkVersion(1),
                    first: ChunkVersion(1),
                    holders: Holders { chain: ChainId(1), epoch: ChainEpoch(1), members: Arc::new([]) },
                    since: Instant::now(),
                    told: false,
                    durable: false,
                });
            }
            let mut seen: Vec<Option<u8>> = vec![None; 700];
            let mut cost = 0;
            for (at, one) in held.iter() {
                cost += one.content.cost();
                for i in 0..one.content.len() {
                    let cell = &mut seen[(at + i) as usize];
                    prop_assert!(cell.is_none(), "two hold one place");
                    *cell = Some(match &one.content {
                        Content::Data(bytes) => bytes[i as usize],
                        Content::Zeros(_) => 0,
                    });
                }
            }
            prop_assert!(seen == model);
            let range = steps.len() as u64 * 7 % 600..650;
            let touching = held.iter().filter(|(at, one)| *at < range.end && at + one.content.len() > range.start);
            prop_assert!(held.within(&range).map(|(at, _)| at).eq(touching.map(|(at, _)| at)));
            prop_assert_eq!(cost, held.cost());
            // What lies behind a size, and what does not, is what there was.
            let size = range.start;
            let pieces = held.behind(size);
            prop_assert!(pieces.iter().all(|(at, _)| *at >= size));
            prop_assert!(held.iter().all(|(at, one)| at + one.content.len() <= size));
            for (at, one) in pieces {
                prop_assert!(one.content.len() > 0);
                held.insert(at, one);
            }
            let again = |at: u64| held.within(&(at..at + 1)).next().is_some();
            prop_assert!((0..700).all(|at| again(at) == model[at as usize].is_some()));
        }
    }
}
