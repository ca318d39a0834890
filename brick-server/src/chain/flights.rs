//! Changes that are under way at a head, by their sessions.
//!
//! A member that shows its copies after a session was blocked has to know that nothing of that
//! session is on its way any more: another member may have it already, and show it later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use wire::id::{ChainId, SessionId};

use crate::brick::lock;

type Counts = Arc<Mutex<BTreeMap<(ChainId, SessionId), usize>>>;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Flights {
    counts: Counts,
}

/// A change under way, until it is dropped.
#[derive(Debug)]
pub struct Flight {
    counts: Counts,
    key: (ChainId, SessionId),
}

impl Flights {
    /// A change begins.
    pub fn begin(&self, chain: ChainId, session: SessionId) -> Flight {
        let key = (chain, session);
        *lock(&self.counts).entry(key).or_insert(0) += 1;
        Flight { counts: self.counts.clone(), key }
    }

    /// Whether a change of one of these sessions is under way in a chain.
    pub fn has_of(&self, chain: ChainId, blocked: impl Fn(&SessionId) -> bool) -> bool {
        let of_chain = (chain, SessionId(0))..=(chain, SessionId(u64::MAX));
        lock(&self.counts).range(of_chain).any(|((_, session), _)| blocked(session))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session is on its way until its last change is through, in this chain alone.
    #[test]
    fn the_last_one_ends_it() {
        let flights = Flights::default();
        let (chain, session) = (ChainId(1), SessionId(7));
        let first = flights.begin(chain, session);
        let second = flights.begin(chain, session);
        drop(first);
        assert!(flights.has_of(chain, |s| *s == session));
        assert!(!flights.has_of(ChainId(2), |s| *s == session));
        assert!(!flights.has_of(chain, |s| *s == SessionId(8)));
        drop(second);
        assert!(!flights.has_of(chain, |_| true));
    }
}
