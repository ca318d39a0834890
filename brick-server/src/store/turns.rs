//! One commit for all who wait for one.
//!
//! A caller is served by a commit that began after it called. Whoever finds none under way carries
//! out the next one for everybody who came meanwhile. A plain lock would let one thread commit again
//! and again while others, whose changes went with it, wait for their turn to learn that: measured, 4
//! threads that commit each change got as far as one alone.
//!
//! 1. No commit is taken for one that began before the call (`a_commit_serves_those_who_came_before`).

use std::sync::{Condvar, Mutex, PoisonError};

use super::StoreError;
use super::lease::lock;

#[derive(Debug)]
struct State {
    running: bool,
    begun: u64,
    done: u64,
    result: Result<(), StoreError>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    ended: Condvar,
}

impl Default for Turns {
    fn default() -> Self {
        let state = State { running: false, begun: 0, done: 0, result: Ok(()) };
        Turns { state: Mutex::new(state), ended: Condvar::new() }
    }
}

impl Turns {
    /// Carries out `work`, or waits until somebody did.
    ///
    /// # Errors
    /// What `work` said, whoever did it.
    pub fn take(&self, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let wanted = state.begun + 1;
        while state.running && state.done < wanted {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.done >= wanted {
            return state.result.clone();
        }
        state.running = true;
        state.begun += 1;
        let mine = state.begun;
        drop(state);
        let panicked = Err(StoreError::Failed("a commit panicked".to_owned()));
        let mut end = Ended { turns: self, mine, result: panicked };
        end.result = work();
        end.result.clone()
    }
}

/// Lets the others go on, also when the work panics.
struct Ended<'a> {
    turns: &'a Turns,
    mine: u64,
    result: Result<(), StoreError>,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.turns.state);
        state.running = false;
        state.done = self.mine;
        state.result = self.result.clone();
        self.turns.ended.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Every caller finds its change made durable, and many share a commit.
    #[test]
    fn a_commit_serves_those_who_came_before() {
        let turns = Turns::default();
        let (published, durable, commits) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let mine = published.fetch_add(1, Ordering::SeqCst) + 1;
                        turns
                            .take(|| {
                                let all = published.load(Ordering::SeqCst);
                                std::thread::yield_now();
                                durable.fetch_max(all, Ordering::SeqCst);
                                commits.fetch_add(1, Ordering::SeqCst);
                                Ok(())
                            })
                            .unwrap();
                        assert!(durable.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert_eq!(durable.load(Ordering::SeqCst), 2000);
        assert!(commits.load(Ordering::SeqCst) <= 2000);
        // A failure is told to whoever it concerns, and to nobody after that.
        assert_eq!(turns.take(|| Err(StoreError::NoSpace)), Err(StoreError::NoSpace));
        assert_eq!(turns.take(|| Ok(())), Ok(()));
    }
}
