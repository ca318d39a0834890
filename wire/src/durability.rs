//! Whether an acknowledged change is durable, judged from what its holders say when they commit.
//!
//! A change is acknowledged when every serving member of its chain has it in memory. A member
//! that commits in the same life has it on disk then, provided that nothing took it away again
//! meanwhile: a member that left its chain is brought up to date before it serves again, also by
//! one that itself has lost the change with its memory. So the same life is not enough
//! (`a_member_that_was_brought_up_to_date_does_not_vouch`). What is enough:
//!
//! 1. *All* who took the change commit in the lives in which they took it: nobody lost memory,
//!    so nobody without the change could ever serve.
//! 2. Or one of them that served then commits so and serves no more than two epochs after the acknowledgement, by a
//!    map in which all others who took it and are in sync commit so, too: to leave, to be brought
//!    up to date and to serve again takes three epochs, so it has served without a break until
//!    there, and whoever serves later has it from those. One that was being brought up to date does
//!    not vouch, since it may be given something older before it serves; but it has to commit as
//!    well, since it may serve before long (`only_those_who_served_vouch`).
//!
//! Everything else is sent again, which is never wrong.

use std::sync::Arc;

use crate::id::{BootId, BrickId, ChainEpoch, ChainId};
use crate::map::{Chain, MemberState};

/// One that took a change over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The brick.
    pub brick: BrickId,
    /// In which life.
    pub boot: BootId,
    /// It served then, and was not being brought up to date.
    pub served: bool,
}

/// Who acknowledged a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// The chain it belongs to.
    pub chain: ChainId,
    /// Epoch of the chain in which it was.
    pub epoch: ChainEpoch,
    /// All that took it over.
    pub members: Arc<[Holder]>,
}

/// What a round of commits says of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is durable.
    Durable,
    /// A member that has to be heard did not answer.
    Unknown,
    /// It may be lost: it has to be sent again.
    Again,
}

/// Epochs of a chain in which nobody can leave it and serve again in the same life.
const UNBROKEN_EPOCHS: u64 = 2;

impl Holders {
    /// Of a change that these took over in `chain`, as it was then.
    pub fn of(chain: &Chain, took: &[(BrickId, BootId)]) -> Holders {
        let holder = |&(brick, boot): &(BrickId, BootId)| {
            let served = chain.state_of(brick) == Some(MemberState::Serving);
            Holder { brick, boot, served }
        };
        Holders { chain: chain.id, epoch: chain.epoch, members: took.iter().map(holder).collect() }
    }

    /// Judges by `chain`, of a map not older than the acknowledgement, and by the life in which
    /// each holder said that it has committed; `None` of one that did not say so.
    pub fn judge(&self, chain: Option<&Chain>, committed: impl Fn(BrickId) -> Option<BootId>) -> Verdict {
        let unbroken = chain.is_some_and(|chain| chain.epoch.0 <= self.epoch.0 + UNBROKEN_EPOCHS);
        let (mut witnesses, mut absent, mut unknown) = (0, 0, false);
        for &Holder { brick, boot, served } in self.members.iter() {
            let state = chain.and_then(|chain| chain.state_of(brick));
            // The last one to serve comes back as it is, and the others follow it.
            let in_sync = matches!(
                state,
                Some(
                    MemberState::Serving
                        | MemberState::Syncing
                        | MemberState::LastServing
                        | MemberState::Leaving
                )
            );
            match committed(brick) {
                Some(now) if now == boot => {
                    witnesses += usize::from(served && unbroken && state == Some(MemberState::Serving));
                }
                _ if !in_sync => absent += 1,
                Some(_) => return Verdict::Again,
                None => unknown = true,
            }
        }
        match (unknown, witnesses) {
            (true, _) => Verdict::Unknown,
            (false, 0) if absent > 0 || self.members.is_empty() => Verdict::Again,
            (false, _) => Verdict::Durable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Member;
    use MemberState::{LastServing, Offline, Serving, Syncing, Waiting};

    const A: BrickId = BrickId(1);
    const B: BrickId = BrickId(2);
    const C: BrickId = BrickId(3);

    fn chain(epoch: u64, members: &[(BrickId, MemberState)]) -> Chain {
        let members = members.iter().map(|&(brick, state)| Member { brick, state }).collect();
        Chain { id: ChainId(1), epoch: ChainEpoch(epoch), members }
    }

    /// Taken over in epoch 5 by A and B, in their lives 10 and 20; what a later chain and later
    /// commits say.
    fn judge(later: &Chain, committed: &[(BrickId, u64)]) -> Verdict {
        let then = chain(5, &[(A, Serving), (B, Serving)]);
        let holders = Holders::of(&then, &[(A, BootId(10)), (B, BootId(20))]);
        let of = |brick| committed.iter().find(|(b, _)| *b == brick).map(|(_, boot)| BootId(*boot));
        holders.judge(Some(later), of)
    }

    /// Both committed, or one did while the other is away.
    #[test]
    fn who_served_on_vouches() {
        let both = chain(5, &[(A, Serving), (B, Serving)]);
        assert_eq!(judge(&both, &[(A, 10), (B, 20)]), Verdict::Durable);
        assert_eq!(judge(&both, &[(B, 20)]), Verdict::Unknown);
        assert_eq!(judge(&both, &[(A, 11), (B, 20)]), Verdict::Again);
        let one = chain(6, &[(B, Serving), (A, Offline)]);
        assert_eq!(judge(&one, &[(B, 20)]), Verdict::Durable);
        assert_eq!(judge(&one, &[]), Verdict::Unknown);
        assert_eq!(judge(&one, &[(A, 11), (B, 21)]), Verdict::Again);
        // A restarted brick is away and being brought up to date: the other one served all the time.
        let back = chain(7, &[(B, Serving), (A, Syncing)]);
        assert_eq!(judge(&back, &[(B, 20), (A, 10)]), Verdict::Durable);
        assert_eq!(judge(&chain(8, &[(B, Serving), (A, Offline)]), &[(B, 20)]), Verdict::Again);
        let last = chain(7, &[(B, LastServing), (A, Offline)]);
        assert_eq!(judge(&last, &[]), Verdict::Unknown);
        // All are as they were, wherever they stand by now.
        assert_eq!(judge(&chain(9, &[(C, Serving)]), &[(A, 10), (B, 20)]), Verdict::Durable);
        let nobody = Holders { chain: ChainId(1), epoch: ChainEpoch(5), members: Arc::new([]) };
        assert_eq!(nobody.judge(Some(&both), |_| None), Verdict::Again);
    }

    /// B took the change over while it was being brought up to date; A, which alone served, lost it
    /// with its memory, gave B what it was left with, and left: nobody vouches for the change.
    #[test]
    fn only_those_who_served_vouch() {
        let then = chain(5, &[(A, Serving), (B, Syncing)]);
        let holders = Holders::of(&then, &[(A, BootId(10)), (B, BootId(20))]);
        let after = chain(7, &[(B, Serving)]);
        assert_eq!(holders.judge(Some(&after), |brick| (brick == B).then_some(BootId(20))), Verdict::Again);
        // It has to commit all the same.
        let meanwhile = |brick| (brick == A).then_some(BootId(10));
        assert_eq!(holders.judge(Some(&then), meanwhile), Verdict::Unknown);
        assert_eq!(
            holders.judge(Some(&chain(6, &[(A, Serving), (B, Offline)])), meanwhile),
            Verdict::Durable
        );
    }

    /// A had the change in memory only and lost it; it came back as the one that serves; B, which
    /// was away a moment, was given what A was left with; then A went. B lives on as it did when
    /// it took the change over, and does not have it.
    #[test]
    fn a_member_that_was_brought_up_to_date_does_not_vouch() {
        let after = chain(9, &[(B, Serving), (A, Offline)]);
        assert_eq!(judge(&after, &[(B, 20)]), Verdict::Again);
        let replaced = chain(9, &[(C, Serving), (B, Serving)]);
        assert_eq!(judge(&replaced, &[(B, 20)]), Verdict::Again);
        // Nor while it is being brought up to date.
        for state in [Syncing, Waiting] {
            let meanwhile = chain(6, &[(C, Serving), (B, state), (A, Offline)]);
            assert_eq!(judge(&meanwhile, &[(B, 20)]), Verdict::Again);
        }
    }
}
