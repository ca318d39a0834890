//! Asks bricks that others can't reach, and has those set aside that answer nobody ([`crate::soft::doubts`]).
//!
//! Period: `ask_every` while somebody is doubted.
//!
//! 1. A brick that is heard may serve by the map it has. So it first leaves its chains in good order, as far as others serve them, and
//!    is given up once it serves nothing. It comes up again at once, and is let in when it can be reached.
//! 2. Where nobody else serves a chain it stays: somebody may reach it.
//! 3. Who reaches no other brick either is itself out of reach, and judges nobody.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;
use wire::id::BrickId;
use wire::map::{ClusterMap, MemberState};

use crate::background::liveness::give_up;
use crate::background::{Stop, stopped};
use crate::chain::would_step_back;
use crate::machine::command::Op;
use crate::namespace::{Namespace, lock};
use crate::soft::apart::Life;

/// Other bricks that are asked, to know whether this process reaches anybody.
const ASKED_FOR_COMPARISON: usize = 8;

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    loop {
        let is_busy = tokio::select! {
            () = stopped(&mut stop) => return,
            is_busy = round(&namespace) => is_busy,
        };
        let wait = async {
            if is_busy {
                sleep(namespace.config.ask_every).await;
            } else {
                namespace.watchers.doubted.notified().await;
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = wait => {}
        }
    }
}

/// Asks all that are doubted, and does what follows. Whether any are.
async fn round(namespace: &Arc<Namespace>) -> bool {
    let map = namespace.map();
    let doubted = lock(&namespace.watchers.doubts).doubted(&map, Instant::now());
    if doubted.is_empty() {
        return false;
    }
    let mut asks = JoinSet::new();
    for life in doubted {
        let Some(endpoint) = map.endpoint_of(life.0).copied() else { continue };
        let (namespace, begun) = (namespace.clone(), Instant::now());
        asks.spawn(async move { (life, begun, namespace.reaches(life.0, &endpoint).await) });
    }
    while let Some(done) = asks.join_next().await {
        // What panicked told nothing.
        let Ok((life, begun, answers)) = done else { continue };
        lock(&namespace.watchers.doubts).asked(life, begun, answers);
    }
    let unreached = lock(&namespace.watchers.doubts).unreached(Instant::now());
    if !unreached.is_empty() && !namespace.is_behind() && reaches_another(namespace, &map, &unreached).await {
        let mut steps = JoinSet::new();
        for (life, _) in unreached {
            let namespace = namespace.clone();
            steps.spawn(async move { step_back(&namespace, life).await });
        }
        while let Some(done) = steps.join_next().await {
            if let Err(error) = done {
                warn!(%error, "the chains of a brick out of reach were not seen to; trying again");
            }
        }
    }
    true
}

/// Rule 3.
async fn reaches_another(
    namespace: &Arc<Namespace>,
    map: &ClusterMap,
    unreached: &[(Life, Instant)],
) -> bool {
    let is_other = |brick: &BrickId| !unreached.iter().any(|((of, _), _)| of == brick);
    let others = map.bricks.values().filter(|info| info.alive && is_other(&info.id));
    let mut asks = JoinSet::new();
    for info in others.take(ASKED_FOR_COMPARISON) {
        let (namespace, brick, endpoint) = (namespace.clone(), info.id, info.endpoint);
        asks.spawn(async move { namespace.reaches(brick, &endpoint).await });
    }
    while let Some(done) = asks.join_next().await {
        if matches!(done, Ok(true)) {
            return true;
        }
    }
    false
}

/// Rules 1 and 2.
async fn step_back(namespace: &Namespace, (brick, boot): Life) {
    if namespace.map().chains.values().any(|chain| would_step_back(chain, brick)) {
        warn!(%brick, "a brick that is heard can't be reached at its address: others go on with its chains");
        if let Err(status) = namespace.propose(Op::StepBack(brick)).await {
            warn!(%brick, %status, "could not have others go on with the chains of a brick; trying again");
            return;
        }
    }
    if serves(&namespace.map(), brick) {
        return;
    }
    // It leaves, and is to know that. It tells with a heartbeat.
    let deadline = Instant::now() + namespace.config.brick_dead_after;
    let mut heard = namespace.watchers.heard.subscribe();
    while !lock(&namespace.watchers.bricks).informed(&namespace.map()).contains(&brick) {
        match timeout_at(deadline, heard.changed()).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
    if !serves(&namespace.map(), brick) {
        warn!(%brick, "a brick that can't be reached at its address is kept out until it can");
        give_up(namespace, brick, boot).await;
    }
}

/// Whether a brick serves a chain and is not about to leave it.
fn serves(map: &ClusterMap, brick: BrickId) -> bool {
    let serves = |state| matches!(state, Some(MemberState::Serving | MemberState::LastServing));
    map.chains_of(brick).any(|chain| serves(chain.state_of(brick)))
}

/// Bricks out of reach that leave all their chains, and are given up once they know it: nobody is to bring them up to date.
pub fn on_their_way(namespace: &Namespace, map: &ClusterMap) -> BTreeSet<BrickId> {
    let unreached = lock(&namespace.watchers.doubts).unreached(Instant::now());
    unreached.into_iter().map(|((brick, _), _)| brick).filter(|brick| !serves(map, *brick)).collect()
}
