//! Reading ahead of a sequential reader. One [`Readahead`] a handle; pure but for the clock.
//!
//! 1. What was read ahead is used only while nothing was written to the inode here since it was
//!    asked for, and nothing was in flight then: each slot carries the inode's version
//!    (`reads_ahead_never_show_old_bytes`).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::gather::PIECE_BYTES;
use crate::error::Error;

/// Kernel threads hand in the requests of one stream out of order, as far as the kernel itself reads ahead, and
/// twice that while one part is waited for and the next one asked for: a read this near to where the last one
/// ended still belongs to it.
const SLACK_BYTES: u64 = 8 * PIECE_BYTES;
/// Reads in a row before reading ahead begins.
const STREAK: u32 = 2;
/// Least that is read ahead.
const LEAST_BYTES: u64 = 256 << 10;

/// What a slot's read came to; `None` while under way.
pub(crate) type Outcome = Option<Result<Bytes, Error>>;

/// A piece being read or read ahead.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) outcome: watch::Receiver<Outcome>,
    pub(crate) started: Instant,
    pub(crate) version: u64,
    /// How much of the piece was within the file.
    pub(crate) len: u64,
    /// Bytes of it that were handed out.
    pub(crate) taken: u64,
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// The pieces read ahead for one handle, by number of the piece in the file.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    /// Where a sequential reader would go on.
    next: u64,
    streak: u32,
    pub(crate) slots: BTreeMap<u64, Slot>,
}

impl Readahead {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }

    /// The outcome to wait for if a piece was asked for in this version, not longer ago than
    /// `age`, at least `len` bytes of it.
    pub(crate) fn find(
        &self,
        piece: u64,
        version: u64,
        age: Duration,
        len: u64,
    ) -> Option<watch::Receiver<Outcome>> {
        let slot = self.slots.get(&piece)?;
        let fits = slot.version == version && slot.len >= len && slot.started.elapsed() <= age;
        fits.then(|| slot.outcome.clone())
    }

    /// Notes that bytes of a piece were handed out. One that was handed out whole is not kept: the kernel has it.
    pub(crate) fn took(&mut self, piece: u64, bytes: u64) {
        let Some(slot) = self.slots.get_mut(&piece) else { return };
        slot.taken += bytes;
        if slot.taken >= slot.len {
            self.slots.remove(&piece);
        }
    }

    /// Notes a read; returns the numbers of the pieces to be read ahead now.
    pub(crate) fn note(&mut self, offset: u64, len: u64, size: u64, most: u64) -> std::ops::Range<u64> {
        let end = offset + len;
        let near = offset <= self.next.saturating_add(SLACK_BYTES)
            && self.next <= offset.saturating_add(SLACK_BYTES);
        if !near || (self.streak == 0 && offset != self.next) {
            self.streak = u32::from(offset == 0);
            self.next = end;
            self.clear();
            return 0..0;
        }
        self.streak = self.streak.saturating_add(1);
        self.next = self.next.max(end);
        let passed = self.next.saturating_sub(SLACK_BYTES) / PIECE_BYTES;
        self.slots.retain(|piece, _| *piece >= passed);
        if self.streak < STREAK {
            return 0..0;
        }
        let ahead = (len.max(LEAST_BYTES) << (self.streak - STREAK).min(8)).min(most);
        let until = (self.next + ahead).min(size);
        if until <= self.next {
            return 0..0;
        }
        self.next / PIECE_BYTES..until.div_ceil(PIECE_BYTES)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A stream is noticed at its second read, and the window grows to its limit.
    #[test]
    fn a_stream_is_noticed_and_the_window_grows() {
        let mut ahead = Readahead::default();
        let size = 100 * MIB;
        assert!(ahead.note(0, 128 << 10, size, 8 * MIB).is_empty());
        assert_eq!(ahead.note(128 << 10, 128 << 10, size, 8 * MIB), 0..1);
        let mut widest = 0;
        for nth in 2..200 {
            let pieces = ahead.note(nth * (128 << 10), 128 << 10, size, 8 * MIB);
            widest = widest.max(pieces.end - pieces.start);
        }
        assert!((8..=9).contains(&widest), "{widest}");
    }

    /// A stream that is handed in out of order, by threads that wait for slow bricks, asks for each piece once.
    #[test]
    fn a_disordered_stream_asks_for_each_piece_once() {
        let (step, size) = (256 << 10, 64 * MIB);
        for seed in 0..50u64 {
            let mut ahead = Readahead::default();
            let window = Arc::new(tokio::sync::Semaphore::new(usize::MAX >> 4));
            let (_done, outcome) = watch::channel::<Outcome>(None);
            let mut reads: Vec<u64> = (0..size / step).map(|nth| nth * step).collect();
            // What the kernel reads ahead at a time is shuffled, but for the beginning of the file.
            for (nth, batch) in reads.chunks_mut((4 * MIB / step) as usize).enumerate().skip(1) {
                let turn = (seed * 31 + nth as u64 * 7) % batch.len() as u64;
                batch.rotate_left(turn as usize);
                if seed % 2 == 1 {
                    batch.reverse();
                }
            }
            let (mut asked, mut alone) = (0, 0);
            for offset in reads {
                for number in ahead.note(offset, step, size, 8 * MIB) {
                    ahead.slots.entry(number).or_insert_with(|| {
                        asked += 1;
                        let permit = window.clone().try_acquire_owned().unwrap();
                        let (outcome, started) = (outcome.clone(), Instant::now());
                        Slot { outcome, started, version: 0, len: MIB, taken: 0, _permit: permit }
                    });
                }
                let piece = offset / PIECE_BYTES;
                match ahead.find(piece, 0, Duration::from_secs(60), offset % PIECE_BYTES + step) {
                    Some(_) => ahead.took(piece, step),
                    None => alone += 1,
                }
            }
            assert!(asked <= 64 && alone <= 8, "seed {seed}: {asked} pieces, {alone} reads of their own");
        }
    }

    /// Jumping about reads nothing ahead; nor does the end of the file.
    #[test]
    fn random_reads_read_nothing_ahead() {
        let mut ahead = Readahead::default();
        for nth in 0..50u64 {
            let offset = (nth * 7919 % 100) * 10 * MIB;
            assert!(ahead.note(offset, 4096, 1000 * MIB, 8 * MIB).is_empty());
        }
        let mut ahead = Readahead::default();
        assert!(ahead.note(0, MIB, MIB, 8 * MIB).is_empty());
        assert!(ahead.note(MIB, 0, MIB, 8 * MIB).is_empty());
    }
}
