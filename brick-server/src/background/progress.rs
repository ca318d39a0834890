//! How far a head is with bringing members up to date, in bytes of the copies.
//!
//! It counts from the moment in which a member is to be brought up to date and none was before,
//! until none is any more. A copy that is compared and found equal counts like one that was sent.
//!
//! 1. What is done never shrinks while it counts, though a pass may have to be begun anew
//!    (`progress_grows_until_nothing_is_left`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use wire::id::{BrickId, ChainId};

use crate::brick::lock;

/// One chain's copy on one member.
pub type Target = (ChainId, BrickId);

#[derive(Debug, Default, Clone)]
struct Bytes {
    total: u64,
    /// Of the pass under way.
    passed: u64,
    /// Of the pass that came furthest.
    most: u64,
}

#[derive(Debug)]
struct Episode {
    begun: Instant,
    copies: BTreeMap<Target, Bytes>,
}

/// What is to be done, and what of it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Bytes of all copies.
    pub total_bytes: u64,
    /// Bytes compared and, where they differed, sent.
    pub done_bytes: u64,
    /// For how long it has been at it.
    pub elapsed: Duration,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Progress {
    episode: Mutex<Option<Episode>>,
}

impl Progress {
    /// These copies are to be brought up to date. Returns those whose size is still to be
    /// measured.
    pub fn wanted(&self, copies: &BTreeSet<Target>) -> BTreeSet<Target> {
        let mut episode = lock(&self.episode);
        if copies.is_empty() {
            *episode = None;
            return BTreeSet::new();
        }
        let episode =
            episode.get_or_insert_with(|| Episode { begun: Instant::now(), copies: BTreeMap::new() });
        // Of those that are not wanted any more, what was done stays done; the rest need not be.
        for (copy, bytes) in &mut episode.copies {
            if !copies.contains(copy) {
                bytes.total = bytes.most;
            }
        }
        copies.iter().filter(|copy| !episode.copies.contains_key(copy)).copied().collect()
    }

    /// What a copy holds.
    pub fn measured(&self, copy: Target, total: u64) {
        if let Some(episode) = lock(&self.episode).as_mut() {
            episode.copies.entry(copy).or_default().total = total;
        }
    }

    fn with(&self, copy: Target, work: impl FnOnce(&mut Bytes)) {
        if let Some(bytes) = lock(&self.episode).as_mut().and_then(|e| e.copies.get_mut(&copy)) {
            work(bytes);
        }
    }

    /// A pass over a copy begins.
    pub fn begin(&self, copy: Target) {
        self.with(copy, |bytes| bytes.passed = 0);
    }

    /// So many more bytes were looked at.
    pub fn passed(&self, copy: Target, more: u64) {
        self.with(copy, |bytes| {
            bytes.passed += more;
            bytes.most = bytes.most.max(bytes.passed);
            // It may have grown since it was measured.
            bytes.total = bytes.total.max(bytes.most);
        });
    }

    /// A copy is up to date.
    pub fn finished(&self, copy: Target) {
        // It may have shrunk since it was measured.
        self.with(copy, |bytes| bytes.most = bytes.total);
    }

    /// How far it is; all zeros while nothing is to be done.
    pub fn report(&self) -> Report {
        let episode = lock(&self.episode);
        let Some(episode) = episode.as_ref() else { return Report::default() };
        let sum = |of: fn(&Bytes) -> u64| episode.copies.values().map(of).sum();
        Report {
            total_bytes: sum(|b| b.total),
            done_bytes: sum(|b| b.most),
            elapsed: episode.begun.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(progress: &Progress) -> (u64, u64) {
        let report = progress.report();
        (report.done_bytes, report.total_bytes)
    }

    /// Copies come, are gone through, perhaps twice, and are finished; one that is given up keeps
    /// what was done. When nothing is left, nothing is reported, and the next time counts anew.
    #[tokio::test(start_paused = true)]
    async fn progress_grows_until_nothing_is_left() {
        let progress = Progress::default();
        let (a, b) = ((ChainId(1), BrickId(1)), (ChainId(2), BrickId(1)));
        assert_eq!(progress.report(), Report::default());
        let both = BTreeSet::from([a, b]);
        assert_eq!(progress.wanted(&both), both);
        progress.measured(a, 100);
        progress.measured(b, 50);
        assert!(progress.wanted(&both).is_empty());
        assert_eq!(bytes(&progress), (0, 150));
        progress.begin(a);
        progress.passed(a, 60);
        progress.begin(a);
        progress.passed(a, 40);
        assert_eq!(bytes(&progress), (60, 150), "the second pass is not as far yet");
        progress.passed(a, 50);
        progress.finished(a);
        assert_eq!(bytes(&progress), (100, 150));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(progress.report().elapsed, Duration::from_secs(3));
        // Somebody else is head of the first chain now; a third one comes.
        let (c, rest) = ((ChainId(3), BrickId(2)), b);
        assert_eq!(progress.wanted(&BTreeSet::from([rest, c])), BTreeSet::from([c]));
        progress.measured(c, 10);
        progress.passed(b, 70);
        assert_eq!(bytes(&progress), (170, 180), "it has grown");
        assert!(progress.wanted(&BTreeSet::from([b])).is_empty());
        assert_eq!(bytes(&progress), (170, 170), "what is given up need not be done");
        assert!(progress.wanted(&BTreeSet::new()).is_empty());
        assert_eq!(progress.report(), Report::default());
        progress.passed(a, 5);
        assert_eq!(progress.report(), Report::default());
        assert_eq!(progress.wanted(&BTreeSet::from([a])), BTreeSet::from([a]));
        assert_eq!(bytes(&progress), (0, 0));
    }
}
