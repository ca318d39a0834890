//! The law of chains: what becomes of their members when bricks go and come.
//!
//! Pure: a chain and an event in, the chain after it. Held to by the tests named:
//!
//! 1. A chain never has a serving and a last-serving member at once, and at most one of the
//!    latter (`any_history_is_lawful`).
//! 2. A member that missed an acknowledged write never serves before it was synced: only
//!    the one that was last to serve comes back serving (`only_those_who_hold_everything_serve`).
//! 3. The epoch grows with every change of the members (`any_history_is_lawful`).
//! 4. A replaced disk never serves before it was synced, unless it took the place of the only one that held everything and
//!    nobody else is left: who replaces that one has given up what it held, and the chain goes on with what is there
//!    (`only_those_who_hold_everything_serve`, `a_chain_that_was_given_up_goes_on`).
//! 5. Nobody leaves a chain whose going would take a copy that is wanted, and never the last
//!    one that holds everything (`any_history_is_lawful`, `nobody_leaves_who_is_needed`).
//! 6. A living member that serves stops doing so in two steps: it is *leaving* first, when clients do not read from it but
//!    changes still wait for it; what it is then, or whether it is a member, is decided when it is known to have that map.
//!    Otherwise it would go on answering readers by the map it has while others acknowledge changes without it
//!    (`who_serves_leaves_in_two_steps`).
//!
//! [`growth`] says when chains are made, [`plan`] who is to join and to leave them, [`absence`] what hinders that where a brick is
//! away, [`tables`] which chains new files go to.

pub mod absence;
pub mod growth;
pub mod plan;
pub mod tables;

use std::collections::BTreeSet;

use wire::id::{BrickId, ChainEpoch};
use wire::map::{Chain, Member, MemberState};

/// Why a member cannot be declared synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSynced {
    /// The chain is at another epoch.
    OtherEpoch,
    /// The brick is no member or was not being synced.
    NotSyncing,
}

/// The brick is gone. Returns whether the chain changed.
pub fn gone(chain: &mut Chain, brick: BrickId) -> bool {
    let others_serve = chain.serving().any(|b| b != brick);
    change(chain, |member| {
        if member.brick != brick {
            return;
        }
        member.state = match member.state {
            MemberState::Serving if !others_serve => MemberState::LastServing,
            MemberState::LastServing => MemberState::LastServing,
            _ => MemberState::Offline,
        };
    })
}

/// The brick is back with the disk it had. Returns whether the chain changed.
pub fn back(chain: &mut Chain, brick: BrickId) -> bool {
    change(chain, |member| {
        if member.brick != brick {
            return;
        }
        member.state = match member.state {
            MemberState::LastServing => MemberState::Serving,
            MemberState::Offline => MemberState::Waiting,
            other => other,
        };
    })
}

/// The brick has begun a new life without having been missed. Writes that it had only in
/// memory are lost; if one of `stayed` (bricks known to live on since before) serves, that one
/// has them. The epoch always grows, so that a sync under way starts again and members
/// compare.
pub fn restarted(chain: &mut Chain, brick: BrickId, stayed: &BTreeSet<BrickId>) -> bool {
    if chain.state_of(brick).is_none() {
        return false;
    }
    let another_has_all = chain.serving().any(|b| b != brick && stayed.contains(&b));
    let changed = change(chain, |member| {
        let serves = member.state == MemberState::Serving && another_has_all;
        // Its new life has the map, and lacks what it had in memory.
        if member.brick == brick && (serves || member.state == MemberState::Leaving) {
            member.state = MemberState::Waiting;
        }
    });
    if !changed {
        chain.epoch = ChainEpoch(chain.epoch.0 + 1);
    }
    true
}

/// The brick came with another disk: what it had is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is no member.
    NotMember,
    /// Another member holds everything.
    Harmless,
    /// Nobody else is known to hold everything: the chain goes on with what another one has, or empty.
    Lost,
}

/// Whether nobody but the brick is known to hold everything of the chain.
pub fn is_only_with_all(chain: &Chain, brick: BrickId) -> bool {
    let holds_all = matches!(chain.state_of(brick), Some(MemberState::Serving | MemberState::LastServing));
    holds_all && !chain.serving().any(|b| b != brick)
}

/// The brick is back with another disk.
pub fn replaced(chain: &mut Chain, brick: BrickId) -> Replaced {
    if chain.state_of(brick).is_none() {
        return Replaced::NotMember;
    }
    let is_lost = is_only_with_all(chain, brick);
    let heir = is_lost.then(|| heir(chain, brick));
    let changed = change(chain, |member| {
        if member.brick == brick {
            member.state = MemberState::Waiting;
        }
        if Some(member.brick) == heir {
            member.state = match member.state {
                MemberState::Offline => MemberState::LastServing,
                _ => MemberState::Serving,
            };
        }
    });
    if !changed {
        chain.epoch = ChainEpoch(chain.epoch.0 + 1);
    }
    if is_lost { Replaced::Lost } else { Replaced::Harmless }
}

/// Who goes on with a chain of which `brick` alone held everything, and holds nothing any more: one that is there, else one that
/// may come back, else the empty one.
fn heir(chain: &Chain, brick: BrickId) -> BrickId {
    let first = |state| chain.members.iter().find(|m| m.brick != brick && m.state == state).map(|m| m.brick);
    first(MemberState::Waiting).or_else(|| first(MemberState::Offline)).unwrap_or(brick)
}

/// The head says that the brick has everything now.
///
/// # Errors
/// If the head spoke of another epoch or the brick was not being synced. A brick that serves
/// already is no error: the head said it twice.
pub fn sync_done(chain: &mut Chain, epoch: ChainEpoch, brick: BrickId) -> Result<bool, NotSynced> {
    match chain.state_of(brick) {
        Some(MemberState::Serving) => Ok(false),
        _ if chain.epoch != epoch => Err(NotSynced::OtherEpoch),
        Some(MemberState::Syncing) => Ok(change(chain, |member| {
            if member.brick == brick {
                member.state = MemberState::Serving;
            }
        })),
        _ => Err(NotSynced::NotSyncing),
    }
}

/// The brick becomes a member, behind all others, to be brought up to date; not in a chain
/// that nobody serves. Returns whether the chain changed.
pub fn joined(chain: &mut Chain, brick: BrickId) -> bool {
    if chain.head().is_none() || chain.state_of(brick).is_some() {
        return false;
    }
    chain.members.push(Member { brick, state: MemberState::Syncing });
    chain.epoch = ChainEpoch(chain.epoch.0 + 1);
    true
}

/// The brick begins to leave if it serves, and stops being a member otherwise, if as many others serve
/// as copies are wanted; one that is only on its way to a copy may leave as soon as somebody
/// serves. One that is leaving has to know that (law 6). Returns whether the chain changed.
pub fn left(chain: &mut Chain, brick: BrickId, replicas: u8) -> bool {
    let others = chain.serving().filter(|b| *b != brick).count();
    let Some(state) = chain.state_of(brick) else { return false };
    let needed = match state {
        MemberState::LastServing => return false,
        MemberState::Serving | MemberState::Leaving | MemberState::Offline => usize::from(replicas.max(1)),
        MemberState::Syncing | MemberState::Waiting => 1,
    };
    others >= needed
        && if state == MemberState::Serving { begins_to_leave(chain, brick) } else { removed(chain, brick) }
}

/// The head can't reach a member that serves, so it can't give it what it is told: `out`, one of the two, begins to leave.
/// Returns whether the chain changed.
pub fn cut_off(chain: &mut Chain, head: BrickId, member: BrickId, out: BrickId) -> bool {
    would_cut_off(chain, head, member, out) && begins_to_leave(chain, out)
}

/// Whether [`cut_off`] would change the chain.
pub fn would_cut_off(chain: &Chain, head: BrickId, member: BrickId, out: BrickId) -> bool {
    let serves = |brick| chain.state_of(brick) == Some(MemberState::Serving);
    // Head and member both serve, so one of them stays.
    head != member && serves(member) && chain.head() == Some(head) && (out == head || out == member)
}

/// The brick can't be reached, so others go on with the chain, if any serve it. Returns whether the chain changed.
pub fn steps_back(chain: &mut Chain, brick: BrickId) -> bool {
    would_step_back(chain, brick) && begins_to_leave(chain, brick)
}

/// Whether [`steps_back`] would change the chain.
pub fn would_step_back(chain: &Chain, brick: BrickId) -> bool {
    chain.state_of(brick) == Some(MemberState::Serving) && chain.serving().any(|b| b != brick)
}

/// A member that is leaving knows it, and is to stay: it is brought up to date. Returns whether the chain
/// changed.
pub fn fell_behind(chain: &mut Chain, brick: BrickId) -> bool {
    change(chain, |member| {
        if member.brick == brick && member.state == MemberState::Leaving {
            member.state = MemberState::Syncing;
        }
    })
}

fn begins_to_leave(chain: &mut Chain, brick: BrickId) -> bool {
    let others_serve = chain.serving().any(|b| b != brick);
    change(chain, |member| {
        if member.brick == brick && member.state == MemberState::Serving && others_serve {
            member.state = MemberState::Leaving;
        }
    })
}

/// The brick is given up: it stops being a member though nobody has taken its place, if it
/// does not serve and somebody else does. Returns whether the chain changed.
pub fn expelled(chain: &mut Chain, brick: BrickId) -> bool {
    let serves = matches!(chain.state_of(brick), Some(MemberState::Serving));
    !serves && chain.head().is_some() && removed(chain, brick)
}

fn removed(chain: &mut Chain, brick: BrickId) -> bool {
    let before = chain.members.len();
    chain.members.retain(|member| member.brick != brick);
    let changed = chain.members.len() != before;
    if changed {
        chain.epoch = ChainEpoch(chain.epoch.0 + 1);
    }
    changed
}

/// Applies `edit` to every member, then what follows from it for the others: with a serving
/// member those alive are synced, without one they wait. Order: serving first, else as before.
fn change(chain: &mut Chain, edit: impl FnMut(&mut Member)) -> bool {
    let before = chain.members.clone();
    chain.members.iter_mut().for_each(edit);
    let served = chain.head().is_some();
    for member in &mut chain.members {
        member.state = match member.state {
            MemberState::Waiting if served => MemberState::Syncing,
            MemberState::Syncing | MemberState::Leaving if !served => MemberState::Waiting,
            other => other,
        };
    }
    // A member that was synced goes behind those that served before it: stable sort, and
    // newcomers stood behind them already.
    chain.members.sort_by_key(|member| member.state != MemberState::Serving);
    let changed = chain.members != before;
    if changed {
        chain.epoch = ChainEpoch(chain.epoch.0 + 1);
    }
    changed
}

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
