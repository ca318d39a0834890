//! Whether a disk still answers.
//!
//! A disk that fails says so. One that hangs (a controller that resets, a cable, a filesystem that somebody froze) says nothing, and
//! who waits for it waits for as long as it likes. What is asked of a disk is counted here, reads and writes each by themselves,
//! since a frozen filesystem is still read. A disk is silent for as long as something is asked of it and nothing at all was answered:
//! a slow one that gets on with what it has to do is not.
//!
//! 1. Nothing asked, no silence; an answer ends it (`only_what_is_asked_and_not_answered_is_silence`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Calls of one kind.
#[derive(Debug, Default)]
struct Kind {
    asked: AtomicU64,
    /// When the last one was answered, or the first one asked, in milliseconds since the beginning.
    last: AtomicU64,
}

/// See the module's head. Clones are of the same disk.
#[derive(Debug, Clone)]
pub struct Silence(Arc<Calls>);

#[derive(Debug)]
struct Calls {
    begun: Instant,
    reads: Kind,
    writes: Kind,
}

impl Default for Silence {
    fn default() -> Silence {
        Silence(Arc::new(Calls { begun: Instant::now(), reads: Kind::default(), writes: Kind::default() }))
    }
}

/// Something was asked of the disk, which is answered when this is dropped.
#[derive(Debug)]
pub struct Asked<'a> {
    calls: &'a Calls,
    kind: &'a Kind,
}

impl Silence {
    /// Something is read.
    pub fn read(&self) -> Asked<'_> {
        self.0.ask(&self.0.reads)
    }

    /// Something is written, flushed or made larger.
    pub fn write(&self) -> Asked<'_> {
        self.0.ask(&self.0.writes)
    }

    /// For how long nothing of what it was asked was answered.
    pub fn lasts(&self) -> Duration {
        let now = self.0.now();
        let of = |kind: &Kind| match kind.asked.load(Ordering::Acquire) {
            0 => 0,
            _ => now.saturating_sub(kind.last.load(Ordering::Acquire)),
        };
        Duration::from_millis(of(&self.0.reads).max(of(&self.0.writes)))
    }
}

impl Calls {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn ask<'a>(&'a self, kind: &'a Kind) -> Asked<'a> {
        let now = self.now();
        if kind.asked.load(Ordering::Acquire) == 0 {
            // Before it counts as asked.
            kind.last.fetch_max(now, Ordering::AcqRel);
        }
        kind.asked.fetch_add(1, Ordering::AcqRel);
        Asked { calls: self, kind }
    }
}

impl Asked<'_> {
    /// A part of it was answered.
    pub fn gets_on(&self) {
        self.kind.last.fetch_max(self.calls.now(), Ordering::AcqRel);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.gets_on();
        self.kind.asked.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(silence: &Silence, at_least: Duration) {
        while silence.lasts() < at_least {
            std::thread::yield_now();
        }
    }

    #[test]
    fn only_what_is_asked_and_not_answered_is_silence() {
        const A_WHILE: Duration = Duration::from_millis(20);
        let silence = Silence::default();
        assert_eq!(silence.lasts(), Duration::ZERO);
        let hangs = silence.write();
        wait(&silence, A_WHILE);
        // A frozen filesystem is still read.
        drop(silence.read());
        assert!(silence.lasts() >= A_WHILE);
        // Another one of the kind is answered: it gets on.
        drop(silence.write());
        assert!(silence.lasts() < A_WHILE);
        wait(&silence, A_WHILE);
        hangs.gets_on();
        assert!(silence.lasts() < A_WHILE);
        wait(&silence, A_WHILE);
        drop(hangs);
        assert_eq!(silence.lasts(), Duration::ZERO);
        let again = silence.read();
        assert!(silence.lasts() < A_WHILE, "the time before it was asked does not count");
        drop(again);
    }
}
