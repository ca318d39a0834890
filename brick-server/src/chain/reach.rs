//! Which other bricks can't be reached, as far as this one has tried.
//!
//! A brick is *doubted* when a call to it failed or takes long, and then asked again and again for a sign of life that needs no disk:
//! one that is only slow is believed at once. Who gives none for [`SILENCE`] can't be reached, until it answers.
//!
//! 1. Who answers is neither doubted nor out of reach (`an_answer_ends_all_doubt`).
//! 2. Nobody is out of reach who was not asked, and a refusal at once is no longer a silence than a wait: a brick that
//!    restarts refuses for a moment (`silence_has_to_last`).
//! 3. Another life of a brick is asked anew: it is elsewhere (`another_life_is_asked_anew`).
//! 4. A brick that is stopping doubts nobody: where a whole cluster stops, all of its bricks refuse each other
//!    (`who_stops_judges_nobody`).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use wire::id::{BootId, BrickId};

use crate::brick::lock;

/// See the module's head.
pub const SILENCE: Duration = Duration::from_millis(1500);

/// What is known of a brick in doubt.
#[derive(Debug, Clone, Copy, Default)]
struct Doubt {
    /// The life that owes a sign of itself, and since when.
    owes: Option<(BootId, Instant)>,
    is_out: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Reach {
    doubted: Mutex<BTreeMap<BrickId, Doubt>>,
    /// How many are out of reach: most of the time none, and no lock is needed to know.
    out: AtomicUsize,
    /// This brick is stopping.
    rests: AtomicBool,
    /// Somebody is doubted.
    pub wake: Notify,
}

impl Reach {
    /// A call to a brick failed or takes long.
    pub fn doubt(&self, brick: BrickId) {
        let mut doubted = lock(&self.doubted);
        if !self.rests.load(Ordering::SeqCst) {
            doubted.entry(brick).or_default();
            self.wake.notify_one();
        }
    }

    /// This brick is stopping: rule 4.
    pub fn rest(&self) {
        self.rests.store(true, Ordering::SeqCst);
        let mut doubted = lock(&self.doubted);
        doubted.clear();
        self.count(&doubted);
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

    /// Asked at `asked`, a life of it gave none until now. Whether it is out of reach.
    pub fn silent(&self, brick: BrickId, boot: BootId, asked: Instant, now: Instant) -> bool {
        let mut doubted = lock(&self.doubted);
        if self.rests.load(Ordering::SeqCst) {
            return false;
        }
        let doubt = doubted.entry(brick).or_default();
        let since = match doubt.owes {
            Some((of, since)) if of == boot => since,
            _ => asked,
        };
        doubt.owes = Some((boot, since));
        doubt.is_out = now.saturating_duration_since(since) >= SILENCE;
        let is_out = doubt.is_out;
        self.count(&doubted);
        is_out
    }

    fn count(&self, doubted: &BTreeMap<BrickId, Doubt>) {
        self.out.store(doubted.values().filter(|doubt| doubt.is_out).count(), Ordering::Relaxed);
    }

    /// Whether a brick can't be reached.
    pub fn is_out(&self, brick: BrickId) -> bool {
        self.out.load(Ordering::Relaxed) > 0
            && lock(&self.doubted).get(&brick).is_some_and(|doubt| doubt.is_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BrickId = BrickId(1);
    const BOOT: BootId = BootId(1);

    #[test]
    fn silence_has_to_last() {
        let (reach, start) = (Reach::default(), Instant::now());
        reach.doubt(A);
        assert_eq!(reach.doubted(), [A]);
        assert!(!reach.is_out(A));
        for ms in 0..15 {
            let at = start + Duration::from_millis(ms * 100);
            assert!(!reach.silent(A, BOOT, at, at), "refused at once, again and again");
        }
        reach.doubt(A);
        assert!(!reach.is_out(A), "another doubt is no silence");
        assert!(reach.silent(A, BOOT, start + SILENCE, start + SILENCE));
        assert!(reach.is_out(A) && !reach.is_out(BrickId(2)));
    }

    #[test]
    fn an_answer_ends_all_doubt() {
        let (reach, start) = (Reach::default(), Instant::now());
        reach.doubt(A);
        assert!(reach.silent(A, BOOT, start, start + SILENCE));
        assert!(reach.is_out(A));
        reach.answered(A);
        assert!(!reach.is_out(A) && reach.doubted().is_empty());
        let later = start + SILENCE;
        assert!(!reach.silent(A, BOOT, later, later), "it starts anew");
    }

    #[test]
    fn who_stops_judges_nobody() {
        let (reach, start) = (Reach::default(), Instant::now());
        assert!(reach.silent(A, BOOT, start, start + SILENCE));
        reach.rest();
        assert!(!reach.is_out(A), "what it said before is over");
        reach.doubt(A);
        assert!(reach.doubted().is_empty());
        assert!(!reach.silent(A, BOOT, start, start + SILENCE), "a ping on its way");
    }

    #[test]
    fn another_life_is_asked_anew() {
        let (reach, start) = (Reach::default(), Instant::now());
        assert!(reach.silent(A, BOOT, start, start + SILENCE));
        let later = start + SILENCE;
        assert!(!reach.silent(A, BootId(2), later, later));
        assert!(!reach.is_out(A));
        assert!(reach.silent(A, BootId(2), later + SILENCE, later + SILENCE));
    }
}
