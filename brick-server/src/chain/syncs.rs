//! What members that are being brought up to date missed meanwhile.
//!
//! A change need not wait for a member that does not serve yet: it may be full, or gone already.
//! But a member that missed one must not be declared up to date by the pass that was under way.
//!
//! 1. Once a pass was found complete, no change may be missed until the map has changed
//!    (`a_complete_pass_misses_nothing`).
//! 2. A change that is missed spoils every pass that was begun before it was published.
//! 3. What speaks of an older epoch changes nothing (`an_older_epoch_changes_nothing`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use wire::brick::ChainRef;
use wire::id::{BrickId, ChainEpoch, ChainId};

use crate::brick::lock;

#[derive(Debug, Clone, Copy)]
struct Pass {
    epoch: ChainEpoch,
    missed: bool,
    complete: bool,
    in_flight: usize,
}

type Passes = Arc<Mutex<BTreeMap<(ChainId, BrickId), Pass>>>;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Syncs {
    passes: Passes,
}

/// A change that a member misses, until it was published or dropped.
#[derive(Debug)]
pub struct Missed {
    passes: Passes,
    key: (ChainId, BrickId),
    epoch: ChainEpoch,
}

impl Drop for Missed {
    fn drop(&mut self) {
        let mut passes = lock(&self.passes);
        if let Some(pass) = passes.get_mut(&self.key).filter(|pass| pass.epoch == self.epoch) {
            pass.in_flight -= 1;
            pass.missed = true;
        }
    }
}

impl Syncs {
    /// `None`: the chain is further than the caller.
    fn with<T>(&self, chain: ChainRef, member: BrickId, work: impl FnOnce(&mut Pass) -> T) -> Option<T> {
        let mut passes = lock(&self.passes);
        let fresh = Pass { epoch: chain.epoch, missed: true, complete: false, in_flight: 0 };
        let pass = passes.entry((chain.id, member)).or_insert(fresh);
        if pass.epoch < chain.epoch {
            *pass = fresh;
        }
        (pass.epoch == chain.epoch).then(|| work(pass))
    }

    /// A pass over all chunks begins.
    pub fn begin(&self, chain: ChainRef, member: BrickId) {
        // Of an older epoch nothing is to be done.
        let _ = self.with(chain, member, |pass| pass.missed = pass.missed && pass.complete);
    }

    /// The pass is through. Whether the member has everything; then it misses nothing more.
    pub fn complete(&self, chain: ChainRef, member: BrickId) -> bool {
        let complete = self.with(chain, member, |pass| {
            pass.complete = pass.complete || (!pass.missed && pass.in_flight == 0);
            pass.complete
        });
        complete.unwrap_or(false)
    }

    /// The member may miss a change, while what is returned is held; `None`: it may not.
    pub fn miss(&self, chain: ChainRef, member: BrickId) -> Option<Missed> {
        let may = self.with(chain, member, |pass| {
            if !pass.complete {
                pass.missed = true;
                pass.in_flight += 1;
            }
            !pass.complete
        });
        let missed = || Missed { passes: self.passes.clone(), key: (chain.id, member), epoch: chain.epoch };
        may.unwrap_or(false).then(missed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A miss spoils the pass, also one that was begun while it was under way; a complete pass
    /// allows none; another epoch begins anew.
    #[test]
    fn a_complete_pass_misses_nothing() {
        let syncs = Syncs::default();
        let at = |epoch| ChainRef { id: ChainId(1), epoch: ChainEpoch(epoch) };
        let member = BrickId(2);
        assert!(!syncs.complete(at(1), member), "no pass was begun");
        syncs.begin(at(1), member);
        let missed = syncs.miss(at(1), member).unwrap();
        assert!(!syncs.complete(at(1), member));
        syncs.begin(at(1), member);
        assert!(!syncs.complete(at(1), member), "one is still to be published");
        drop(missed);
        assert!(!syncs.complete(at(1), member), "it was published after the pass began");
        syncs.begin(at(1), member);
        assert!(syncs.complete(at(1), member));
        assert!(syncs.miss(at(1), member).is_none());
        syncs.begin(at(1), member);
        assert!(syncs.miss(at(1), member).is_none());
        assert!(syncs.complete(at(1), member));
        assert!(syncs.miss(at(2), member).is_some());
        assert!(!syncs.complete(at(2), member));
    }

    /// A change of an older epoch neither spoils the pass nor opens it again.
    #[test]
    fn an_older_epoch_changes_nothing() {
        let syncs = Syncs::default();
        let at = |epoch| ChainRef { id: ChainId(1), epoch: ChainEpoch(epoch) };
        let member = BrickId(2);
        let old = syncs.miss(at(1), member).unwrap();
        let missed = syncs.miss(at(2), member).unwrap();
        assert!(syncs.miss(at(1), member).is_none());
        assert!(!syncs.complete(at(1), member));
        syncs.begin(at(1), member);
        drop(missed);
        syncs.begin(at(2), member);
        drop(old);
        assert!(syncs.complete(at(2), member));
        assert!(syncs.miss(at(1), member).is_none());
        assert!(syncs.miss(at(2), member).is_none());
    }
}
