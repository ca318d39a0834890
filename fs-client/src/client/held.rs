//! Changes that bricks have acknowledged and not yet made durable, kept so that they can be
//! sent again. Pure: no clock, no I/O.
//!
//! 1. Held changes never overlap: a newer acknowledgement cuts what it covers out of older
//!    ones, so sending again can never bring old bytes back (`newer_changes_cut_older_ones`).

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::Instant;
use wire::durability::Holders;

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
    /// Who has it in memory.
    pub(crate) holders: Holders,
    pub(crate) since: Instant,
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

    /// When the oldest was acknowledged.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.map.values().map(|held| held.since).min()
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
                    holders: Holders { chain: ChainId(1), epoch: ChainEpoch(1), members: Arc::new([]) },
                    since: Instant::now(),
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
            prop_assert_eq!(cost, held.cost());
        }
    }
}
