//! Written data that waits to be sent, gathered into pieces. Pure: no clock, no I/O.
//!
//! 1. Extents never overlap and never cross a multiple of [`PIECE_BYTES`]
//!    (`gathering_equals_a_plain_buffer`).
//! 2. The newest byte written at a place is the one that is read and sent (the same test).

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

/// Largest piece sent, and what pieces are aligned to; every chunk size is a multiple.
pub(crate) const PIECE_BYTES: u64 = wire::chunk::MAX_IO_BYTES as u64;

/// Some bytes that wait.
#[derive(Debug)]
struct Extent {
    bytes: BytesMut,
    /// The oldest generation of writes in it.
    generation: u64,
    /// When its oldest byte came.
    since: Instant,
}

/// Bytes taken out to be sent.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    pub(crate) generation: u64,
}

/// The gathered data of one file.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    extents: BTreeMap<u64, Extent>,
    /// Extents to be sent as soon as nothing in flight overlaps them.
    due: BTreeSet<u64>,
    total: u64,
}

fn slot_of(offset: u64) -> u64 {
    offset / PIECE_BYTES
}

impl Gather {
    /// Bytes gathered.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Whether extents wait to be sent.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether data of this generation or an older one is here.
    pub(crate) fn holds(&self, generation: u64) -> bool {
        self.extents.values().any(|e| e.generation <= generation)
    }

    /// Takes data in; returns by how many bytes the total grew.
    pub(crate) fn insert(&mut self, offset: u64, data: &[u8], generation: u64, now: Instant) -> u64 {
        let before = self.total;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let room = PIECE_BYTES - at % PIECE_BYTES;
            let (part, later) = rest.split_at(rest.len().min(room as usize));
            self.insert_part(at, part, generation, now);
            at += part.len() as u64;
            rest = later;
        }
        self.total - before
    }

    /// Takes in data that lies within one slot.
    fn insert_part(&mut self, start: u64, data: &[u8], generation: u64, now: Instant) {
        let slot_start = slot_of(start) * PIECE_BYTES;
        // An extent that the data overlaps or continues.
        let base = self
            .extents
            .range_mut(slot_start..=start)
            .next_back()
            .filter(|(at, extent)| **at + extent.bytes.len() as u64 >= start);
        let (base, mut end) = match base {
            Some((at, extent)) => {
                let inside = (start - at) as usize;
                let overlap = data.len().min(extent.bytes.len() - inside);
                extent.bytes[inside..inside + overlap].copy_from_slice(&data[..overlap]);
                extent.bytes.extend_from_slice(&data[overlap..]);
                self.total += (data.len() - overlap) as u64;
                (*at, at + extent.bytes.len() as u64)
            }
            None => {
                let bytes = BytesMut::from(data);
                self.extents.insert(start, Extent { bytes, generation, since: now });
                self.total += data.len() as u64;
                (start, start + data.len() as u64)
            }
        };
        // Later extents that are overlapped now give what sticks out.
        while let Some(at) = self.extents.range(base + 1..end).next().map(|(at, _)| *at) {
            let Some(swallowed) = self.extents.remove(&at) else { break };
            if self.due.remove(&at) {
                self.due.insert(base);
            }
            self.total -= swallowed.bytes.len() as u64;
            let Some(extent) = self.extents.get_mut(&base) else { break };
            let known = (end - at) as usize;
            if known < swallowed.bytes.len() {
                extent.bytes.extend_from_slice(&swallowed.bytes[known..]);
                self.total += (swallowed.bytes.len() - known) as u64;
                end = at + swallowed.bytes.len() as u64;
            }
            extent.generation = extent.generation.min(swallowed.generation);
            extent.since = extent.since.min(swallowed.since);
        }
    }

    /// Everything gathered by now is to be sent.
    pub(crate) fn all_due(&mut self) {
        self.due.extend(self.extents.keys());
    }

    /// What was gathered up to `then` is to be sent.
    pub(crate) fn old_due(&mut self, then: Instant) {
        self.due.extend(self.extents.iter().filter(|(_, e)| e.since <= then).map(|(at, _)| *at));
    }

    /// Whole pieces among those that `offset..offset + len` touches are to be sent.
    pub(crate) fn whole_due(&mut self, offset: u64, len: u64) {
        for slot in slot_of(offset)..=slot_of(offset + len.saturating_sub(1)) {
            let at = slot * PIECE_BYTES;
            if self.extents.get(&at).is_some_and(|e| e.bytes.len() as u64 == PIECE_BYTES) {
                self.due.insert(at);
            }
        }
    }

    /// Takes out what is due and not `blocked` (given start and end); neighbours that are due
    /// go together.
    pub(crate) fn take_due(&mut self, blocked: impl Fn(u64, u64) -> bool) -> Vec<Taken> {
        let ready: Vec<u64> = self
            .due
            .iter()
            .copied()
            .filter(|at| self.extents.get(at).is_some_and(|e| !blocked(*at, at + e.bytes.len() as u64)))
            .collect();
        let mut taken: Vec<(u64, BytesMut, u64)> = Vec::new();
        for at in ready {
            self.due.remove(&at);
            let Some(extent) = self.extents.remove(&at) else { continue };
            self.total -= extent.bytes.len() as u64;
            match taken.last_mut() {
                Some((start, bytes, generation))
                    if *start + bytes.len() as u64 == at && slot_of(*start) == slot_of(at) =>
                {
                    bytes.extend_from_slice(&extent.bytes);
                    *generation = (*generation).min(extent.generation);
                }
                _ => taken.push((at, extent.bytes, extent.generation)),
            }
        }
        taken
            .into_iter()
            .map(|(offset, bytes, generation)| {
                // Kept until it is durable: not with room to grow.
                let roomy = bytes.capacity() > bytes.len() + bytes.len() / 4;
                let bytes = if roomy { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() };
                Taken { offset, bytes, generation }
            })
            .collect()
    }

    /// Copies of what is gathered within a range, in order.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> Vec<(u64, Bytes)> {
        let first = slot_of(start) * PIECE_BYTES;
        self.extents
            .range(first..end)
            .filter_map(|(at, extent)| {
                let from = start.max(*at);
                let to = end.min(at + extent.bytes.len() as u64);
                (from < to).then(|| {
                    let inside = &extent.bytes[(from - at) as usize..(to - at) as usize];
                    (from, Bytes::copy_from_slice(inside))
                })
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACE: usize = 3 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever is written in whatever order, what is read and what is taken out equals a
        /// plain buffer, in pieces that respect the borders.
        #[test]
        fn gathering_equals_a_plain_buffer(
            writes in proptest::collection::vec((0usize..SPACE - 1, 1usize..300_000, any::<u8>()), 1..40),
            due_after in 0usize..40,
        ) {
            let mut gather = Gather::default();
            let mut model: Vec<Option<u8>> = vec![None; SPACE];
            let now = Instant::now();
            for (nth, (offset, len, fill)) in writes.iter().enumerate() {
                let len = (*len).min(SPACE - offset);
                let before = model.iter().flatten().count();
                let grown = gather.insert(*offset as u64, &vec![*fill; len], nth as u64, now);
                model[*offset..offset + len].fill(Some(*fill));
                prop_assert_eq!(grown as usize, model.iter().flatten().count() - before);
                if nth == due_after {
                    gather.all_due();
                }
            }
            prop_assert_eq!(gather.total() as usize, model.iter().flatten().count());
            let mut read = vec![None; SPACE];
            for (at, bytes) in gather.overlapping(0, SPACE as u64) {
                for (cell, byte) in read[at as usize..].iter_mut().zip(bytes.iter()) {
                    *cell = Some(*byte);
                }
            }
            prop_assert!(read == model);
            gather.all_due();
            let mut sent = vec![None; SPACE];
            for Taken { offset, bytes, .. } in gather.take_due(|_, _| false) {
                prop_assert_eq!(slot_of(offset), slot_of(offset + bytes.len() as u64 - 1));
                for (cell, byte) in sent[offset as usize..].iter_mut().zip(bytes.iter()) {
                    prop_assert!(cell.is_none());
                    *cell = Some(*byte);
                }
            }
            prop_assert!(sent == model);
            prop_assert_eq!(gather.total(), 0);
            prop_assert!(!gather.has_due());
        }
    }

    /// A whole piece is due as soon as it is whole, and one that is blocked stays.
    #[test]
    fn whole_pieces_are_due_at_once() {
        let mut gather = Gather::default();
        let now = Instant::now();
        gather.insert(0, &vec![1; PIECE_BYTES as usize - 1], 0, now);
        gather.whole_due(0, PIECE_BYTES - 1);
        assert!(!gather.has_due());
        gather.insert(PIECE_BYTES - 1, &[2; 2], 0, now);
        gather.whole_due(PIECE_BYTES - 1, 2);
        assert!(gather.take_due(|_, _| true).is_empty());
        let taken = gather.take_due(|_, _| false);
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].offset, taken[0].bytes.len() as u64), (0, PIECE_BYTES));
        assert_eq!(gather.total(), 1);
    }
}
