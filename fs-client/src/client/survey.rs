//! Which chunks of a file exist, in order: asked of its chains page by page, so that a hole costs a call a chain
//! however long it is.
//!
//! 1. Every chunk that existed before the survey began, and exists until it passes, is given once, in
//!    order of index (`lanes_join_up_in_order`).
//! 2. A chain is asked again only when everything it has told was used (`lanes_join_up_in_order`).

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinSet;
use wire::brick::ChunkSummary;
use wire::id::Ino;
use wire::layout::FileLayout;

use super::Shared;
use crate::error::Error;
use crate::stuck::part_of_operation;

/// Chunks asked of a chain at first: most questions are answered by the next one.
const FIRST_PAGE: u32 = 16;
/// And at most.
const LARGEST_PAGE: u32 = 4096;

/// A chunk that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Existing {
    pub(crate) index: u64,
    pub(crate) fill: Fill,
}

/// How much of a chunk holds data, as far as its summary tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Nothing: it was punched.
    Empty,
    /// Some; its extents say what.
    Part,
    /// Everything.
    Whole,
}

impl Existing {
    fn of(summary: &ChunkSummary, chunk_bytes: u32) -> Self {
        let fill = match summary.allocated_bytes {
            0 => Fill::Empty,
            all if all == chunk_bytes && summary.len == chunk_bytes => Fill::Whole,
            _ => Fill::Part,
        };
        Self { index: summary.key.index, fill }
    }
}

/// What one chain has told.
#[derive(Debug, Default)]
struct Lane {
    found: VecDeque<Existing>,
    /// First index it was not asked for.
    from: u64,
    end: bool,
}

/// The answers of all chains of a file, joined. Pure.
#[derive(Debug)]
struct Lanes {
    lanes: Vec<Lane>,
    /// Chunks from here on are not wanted.
    until: u64,
}

impl Lanes {
    /// For chunks `from..until` of a file over so many chains. Chunk `i` is in lane `i % lanes`.
    fn new(lanes: u64, from: u64, until: u64) -> Self {
        let lane = |number| {
            // Of a short run only some chains can have a chunk.
            let first = from + (number + lanes - from % lanes) % lanes;
            Lane { found: VecDeque::new(), from, end: first >= until }
        };
        Self { lanes: (0..lanes).map(lane).collect(), until }
    }

    /// Lanes that have to be asked before the next chunk is known, and from which index on.
    fn wanted(&self) -> Vec<(u64, u64)> {
        let dry = |lane: &Lane| lane.found.is_empty() && !lane.end;
        (0..)
            .zip(&self.lanes)
            .filter(|(_, lane)| dry(lane))
            .map(|(number, lane)| (number, lane.from))
            .collect()
    }

    /// An answer.
    fn fill(&mut self, number: u64, chunks: impl IntoIterator<Item = Existing>, end: bool) {
        let Some(lane) = self.lanes.get_mut(number as usize) else { return };
        let before = lane.from;
        for chunk in chunks {
            // Out of order or asked for before: nothing honest, and nothing to loop over.
            if chunk.index >= lane.from && chunk.index < self.until {
                lane.from = chunk.index + 1;
                lane.found.push_back(chunk);
            }
        }
        lane.end = end || lane.from == before || lane.from >= self.until;
    }

    /// The next chunk; only to be asked when nothing is wanted.
    fn pop(&mut self) -> Option<Existing> {
        let next = |lane: &Lane| lane.found.front().map(|chunk| chunk.index);
        let lane =
            self.lanes.iter_mut().filter(|lane| !lane.found.is_empty()).min_by_key(|lane| next(lane))?;
        lane.found.pop_front()
    }
}

/// See the module's head.
pub(crate) struct Survey {
    shared: Arc<Shared>,
    ino: Ino,
    layout: FileLayout,
    lanes: Lanes,
    page: u32,
}

impl Survey {
    /// Of chunks `from..until`.
    ///
    /// # Errors
    /// If nobody knows the chains of the file.
    pub(crate) async fn begin(
        shared: &Arc<Shared>,
        ino: Ino,
        layout: FileLayout,
        from: u64,
        until: u64,
    ) -> Result<Self, Error> {
        let mut chains = layout.chains(&shared.map());
        if chains.is_none() {
            // The file is younger than the map: any question about it waits for a newer one.
            shared.extents(ino, &layout, from).await?;
            chains = layout.chains(&shared.map());
        }
        let chains = chains.ok_or_else(|| Error::unexpected("the namespace", "the table of a file"))?;
        let lanes = Lanes::new(chains, from, until);
        Ok(Self { shared: shared.clone(), ino, layout, lanes, page: FIRST_PAGE })
    }

    /// The next chunk that exists.
    ///
    /// # Errors
    /// If a chain cannot be asked.
    pub(crate) async fn next(&mut self) -> Result<Option<Existing>, Error> {
        loop {
            let wanted = self.lanes.wanted();
            if wanted.is_empty() {
                return Ok(self.lanes.pop());
            }
            let mut calls = JoinSet::new();
            for (lane, from) in wanted {
                let (shared, ino, layout, page) = (self.shared.clone(), self.ino, self.layout, self.page);
                calls.spawn(part_of_operation(async move {
                    (lane, shared.file_chunks(ino, &layout, lane, from, page).await)
                }));
            }
            while let Some(done) = calls.join_next().await {
                let (lane, answer) = done.map_err(|_| Error::Stopping)?;
                let (chunks, end) = answer?;
                let chunk_bytes = self.layout.chunk_bytes;
                self.lanes.fill(lane, chunks.iter().map(|chunk| Existing::of(chunk, chunk_bytes)), end);
            }
            self.page = (self.page * 4).min(LARGEST_PAGE);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However many chains, however long their pages: what comes out is what exists, in order, and
        /// no chain is asked for what it told before.
        #[test]
        fn lanes_join_up_in_order(
            chunks in proptest::collection::btree_set(0u64..400, 0..80),
            lanes in 1u64..8,
            from in 0u64..420,
            until in 0u64..420,
            page in 1usize..9,
        ) {
            let mut survey = Lanes::new(lanes, from, until);
            let mut asked: BTreeSet<(u64, u64)> = BTreeSet::new();
            let mut out = Vec::new();
            loop {
                let wanted = survey.wanted();
                for (lane, at) in &wanted {
                    prop_assert!(asked.insert((*lane, *at)), "asked twice");
                    let rest: Vec<u64> =
                        chunks.iter().copied().filter(|i| i % lanes == *lane && i >= at).collect();
                    let told = rest.iter().take(page).map(|i| Existing { index: *i, fill: Fill::Part });
                    survey.fill(*lane, told, rest.len() <= page);
                }
                if wanted.is_empty() {
                    match survey.pop() {
                        Some(chunk) => out.push(chunk.index),
                        None => break,
                    }
                }
            }
            let expected: Vec<u64> = chunks.iter().copied().filter(|i| (from..until).contains(i)).collect();
            prop_assert_eq!(out, expected);
        }
    }

    /// A chain that answers nonsense ends the survey instead of being asked for ever.
    #[test]
    fn answers_that_lead_nowhere_end() {
        let mut lanes = Lanes::new(1, 5, 100);
        lanes.fill(0, [Existing { index: 2, fill: Fill::Whole }], false);
        assert!(lanes.wanted().is_empty());
        assert_eq!(lanes.pop(), None);
    }
}
