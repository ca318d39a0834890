//! Sending again what bricks have acknowledged: what they have lost with a life of theirs, and what others have cut before it was reported.
//!
//! 1. What bricks may have lost is sent as what it was, so that it undoes nothing that came later (see [`wire::brick::Again`]); what was cut is
//!    written anew, as if it came after the cut (`what_others_cut_meanwhile_is_written_again`).
//! 2. A newer change of the same bytes that is under way comes first: it cuts this one when it is acknowledged.
//! 3. Nothing is made anew that was rightly cut or deleted: what the namespace had been told of before
//!    (`a_cut_that_comes_late_takes_nothing_that_is_durable`).

use std::ops::Range;
use std::sync::Arc;

use wire::id::BrickId;
use wire::map::ClusterMap;
use wire::meta::{Access, FsReply, FsRequest};

use super::Shared;
use super::held::Held;
use super::inode::{Again, BeenCut, Flight, OpenInode, State};
use crate::error::Error;
use crate::locked;
use crate::metrics::add;

/// How the caller has the inode's order.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// Not yet: it is to be shared.
    Shared,
    Alone,
}

/// Whether none of those who serve its chain by the map can have a held change any more.
fn is_lost(map: &ClusterMap, held: &Held) -> bool {
    if held.durable {
        return false;
    }
    let Some(chain) = map.chains.get(&held.holders.chain) else { return false };
    let has = |brick: BrickId| {
        let boot = map.bricks.get(&brick).map(|info| info.boot);
        held.holders.members.iter().any(|holder| holder.brick == brick && Some(holder.boot) == boot)
    };
    chain.serving().next().is_some() && !chain.serving().any(has)
}

impl Shared {
    /// Writes again what others may have cut while it was written and before it was reported. Returns when the bricks have it, or it
    /// failed.
    ///
    /// # Errors
    /// If the namespace does not say that nothing is being cut any more.
    pub(super) async fn write_again(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        order: Order,
    ) -> Result<(), Error> {
        let _order = match order {
            Order::Shared => Some(inode.order.read().await),
            Order::Alone => None,
        };
        if locked(&inode.state).been_cut.is_some_and(|cut| cut.session_over) {
            // It lets nobody open a file for writing before.
            let mut told = inode.gate.lock().await;
            self.tell_open(inode, &mut told, Access::Write).await?;
        }
        loop {
            let changed = inode.changed.notified();
            if !self.launch_cut(inode) {
                break;
            }
            changed.await;
        }
        self.flush_inode(inode).await;
        Ok(())
    }

    /// Sends what was cut; whether some of it can't be sent yet, since something newer is on its way there.
    fn launch_cut(self: &Arc<Self>, inode: &Arc<OpenInode>) -> bool {
        let mut state = locked(&inode.state);
        let Some(cut) = state.been_cut.take() else { return false };
        let BeenCut { size, stamp, .. } = cut;
        let (kept, reported) = (state.held.cost(), state.reported);
        let mut left = false;
        for (offset, held) in state.held.behind(size) {
            let is_newer = held.stamp > stamp;
            let in_the_way = state.in_flight(offset, offset + held.content.len());
            if held.is_told(reported) {
                // Reported before the cut: it was cut rightly.
            } else if is_newer || in_the_way {
                left |= !is_newer;
                state.held.insert(offset, held);
            } else {
                self.relaunch(inode, &mut state, offset, held, None);
            }
        }
        if left {
            state.been_cut = Some(cut);
        }
        self.account_held(kept, state.held.cost());
        left
    }

    /// Sends again what is held at these offsets and was acknowledged by `stamp`; whether some of it can't be sent now. Nobody has the
    /// inode's order alone.
    pub(super) fn launch_again(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        offsets: &[u64],
        stamp: u64,
    ) -> bool {
        tracing::info!(inode = %inode.ino, pieces = offsets.len(),
            "a brick restarted or was replaced before it committed; sending data again");
        let mut state = locked(&inode.state);
        let kept = state.held.cost();
        let mut left = false;
        for offset in offsets {
            let Some(held) = state.held.remove(*offset) else { continue };
            let end = offset + held.content.len();
            // A newer change of the same bytes is under way: when it is acknowledged it cuts
            // this one, and the next round sees to the rest.
            if state.in_flight(*offset, end) || held.stamp > stamp {
                state.held.insert(*offset, held);
                left = true;
                continue;
            }
            let again = Again::of(&held, state.reported);
            self.relaunch(inode, &mut state, *offset, held, Some(again));
        }
        self.account_held(kept, state.held.cost());
        left
    }

    /// Whether some of a range is held that no brick can have any more.
    pub(crate) fn has_lost(&self, state: &State, range: &Range<u64>) -> bool {
        !state.held.is_empty() && {
            let map = self.map();
            state.held.within(range).any(|(_, held)| is_lost(&map, held))
        }
    }

    /// Sends again what of a range no brick can have any more, so that nobody here misses it. Whether there was any, or was since
    /// `resends` were counted: what bricks said of the range in between does not count then.
    pub(crate) async fn send_lost_again(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        range: &Range<u64>,
        resends: u64,
    ) -> bool {
        {
            let state = locked(&inode.state);
            if !self.has_lost(&state, range) {
                return state.resends != resends;
            }
        }
        self.forget_gone(inode).await;
        let order = inode.order.read().await;
        let changed = inode.changed.notified();
        let map = self.map();
        let lost: Vec<u64> = {
            let state = locked(&inode.state);
            state.held.within(range).filter(|(_, held)| is_lost(&map, held)).map(|(at, _)| at).collect()
        };
        if !lost.is_empty() && self.launch_again(inode, &lost, u64::MAX) {
            // What is newer and on its way comes first.
            drop(order);
            changed.await;
        }
        true
    }

    /// Forgets what must not be made anew: of an inode that was deleted for good, and behind an end that others have cut the file to after
    /// they were told what was written there.
    pub(super) async fn forget_gone(self: &Arc<Self>, inode: &Arc<OpenInode>) {
        let answer = self.fs(FsRequest::GetAttr { ino: inode.ino }).await;
        let mut state = locked(&inode.state);
        let (kept, reported) = (state.held.cost(), state.reported);
        match answer {
            Ok(FsReply::Attr(attr)) => {
                for (offset, held) in state.held.behind(attr.size) {
                    if !held.is_told(reported) {
                        state.held.insert(offset, held);
                    }
                }
            }
            Err(error) if error.is_gone() && state.readers + state.writers == 0 => {
                state.held.cut(0, u64::MAX)
            }
            // Nothing is known then: what is sent again is never lost.
            Ok(_) | Err(_) => {}
        }
        self.account_held(kept, state.held.cost());
    }

    /// Sends what was held, and counts it.
    fn relaunch(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        state: &mut State,
        offset: u64,
        held: Held,
        again: Option<Again>,
    ) {
        add(&self.outside.metrics.resends, 1);
        state.resends += 1;
        let Held { content, generation, .. } = held;
        self.launch(inode, state, offset, Flight { content, generation, window: 0, again });
    }
}
