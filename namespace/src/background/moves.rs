//! Has members join and leave chains, as [`crate::chain::plan`] says, and new files go where there is room, as
//! [`crate::chain::tables`] says.
//!
//! Period: `plan_every`, at once when a member that leaves is known to know it, and not before all bricks had their time to
//! be heard of after a start: who seems dead then may only not have spoken yet. Budget: the plan's own, so many copies a
//! brick at a time.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};
use wire::map::ClusterMap;
use wire::meta::Wishes;

use crate::background::{Stop, stopped};
use crate::chain::plan::{Facts, Step, plan};
use crate::chain::tables::{self, Choice};
use crate::error::Error;
use crate::machine::command::{Op, Outcome};
use crate::namespace::{Namespace, lock};

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    tokio::select! {
        () = stopped(&mut stop) => return,
        () = sleep(namespace.config.brick_grace) => {}
    }
    let mut ticks = interval(namespace.config.plan_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = ticks.tick() => {}
            () = namespace.watchers.informed.notified() => {}
        }
        if namespace.is_behind() {
            continue;
        }
        if let Err(error) = pass(&namespace).await {
            namespace.failed(&error);
        }
    }
}

/// Plans once and has the steps taken.
async fn pass(namespace: &Namespace) -> Result<(), Error> {
    let (map, wishes) = (namespace.map(), namespace.wishes()?);
    lock(&namespace.watchers.bricks).forget_removed(&map);
    let facts = namespace.facts(&wishes)?;
    // What is even is not known before the heads of all chains have said what they hold.
    let known = map.chains.values().all(|c| c.head().is_none() || facts.sizes.contains_key(&c.id));
    lay_out(namespace, &map, &facts).await;
    let planned = plan(&map, &Wishes { rebalancing: wishes.rebalancing && known, ..wishes }, &facts);
    if !planned.steps.is_empty() {
        for step in &planned.steps {
            match step {
                Step::Join { chain, brick, .. } => info!(%chain, %brick, "a brick is to join a chain"),
                Step::Leave { chain, brick, .. } => info!(%chain, %brick, "a brick is to leave a chain"),
                Step::Stay { chain, brick, .. } => info!(%chain, %brick, "a brick fell behind in a chain"),
            }
        }
        match namespace.propose(Op::Move(planned.steps)).await {
            Ok(Outcome::Moved(members)) => namespace.metrics.moved(members),
            Ok(_) => {}
            Err(status) => warn!(%status, "could not move members of chains; trying again"),
        }
    } else if planned.even {
        info!("all bricks have their share");
        if let Err(status) = namespace.propose(Op::Rebalance { on: false }).await {
            warn!(%status, "could not note that all bricks have their share; trying again");
        }
    }
    Ok(())
}

/// Has new files laid out by the chains that have room, once all living bricks have said how much they have.
async fn lay_out(namespace: &Namespace, map: &ClusterMap, facts: &Facts) {
    if map.bricks.values().any(|brick| brick.alive && !facts.space.contains_key(&brick.id)) {
        return;
    }
    let open = tables::open(map, &facts.space);
    if tables::choose(map, &open) == Choice::Stay {
        return;
    }
    info!(chains = open.len(), of = map.chains.len(), "new files go to other chains, by the room there is");
    if let Err(status) = namespace.propose(Op::LayOut(open)).await {
        warn!(%status, "could not have new files go elsewhere; trying again");
    }
}
