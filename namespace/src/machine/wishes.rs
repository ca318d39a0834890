//! What the administrator wants of the bricks, and the steps that are taken for it.
//!
//! 1. A brick's number is given once, also when the brick is removed
//!    (`numbers_of_bricks_are_never_reused`).
//! 2. A brick is removed only when nothing is lost by it (`removing_never_loses_the_only_copy`).
//! 3. A step is judged again when it is taken: it names the chain's epoch, and the law of
//!    chains decides (`an_old_step_is_left_out`).

use std::collections::BTreeSet;

use wire::id::{BootId, BrickId, ChainId, StoreId};
use wire::map::{BrickInfo, ClusterMap};
use wire::meta::{BrickRefusal, NewBrick, SettingsChange, Wishes};
use wire::status::Status;

use crate::chain;
use crate::chain::plan::{self, Step};
use crate::error::Error;
use crate::machine::txn::{self, Do, Txn};
use crate::machine::{bricks, trims};
use crate::store::{Read, keys};

/// Most copies one brick may be asked to take part in making at a time.
pub const MAX_SYNCS_A_BRICK: u32 = 64;

/// What is wanted. A directory of before there were wishes has none.
///
/// # Errors
/// If the state cannot be read.
pub fn read(state: &dyn Read, map: &ClusterMap) -> Result<Wishes, Error> {
    if let Some(wishes) = txn::load(state, keys::WISHES)? {
        return Ok(wishes);
    }
    let next_brick = map.bricks.keys().next_back().map_or(0, |last| last.0.saturating_add(1));
    Ok(Wishes { next_brick, ..Wishes::new(0) })
}

/// [`read`], within a command.
pub fn load(txn: &Txn<'_>) -> Do<Wishes> {
    Ok(read(txn, &txn.map)?)
}

/// Writes what is wanted.
pub fn store(txn: &mut Txn<'_>, wishes: &Wishes) -> Do<()> {
    txn.put(keys::WISHES.to_vec(), wishes)
}

/// A brick gets its number. It counts as dead until it comes up.
pub fn add(txn: &mut Txn<'_>, new: &NewBrick) -> Do<BrickId> {
    let drawn = new.store != StoreId([0; 16]);
    if let Some(known) = txn.map.bricks.values().find(|b| drawn && b.store == new.store) {
        return Ok(known.id);
    }
    let mut wishes = load(txn)?;
    let id = BrickId(wishes.next_brick);
    wishes.next_brick = wishes.next_brick.checked_add(1).ok_or(Status::Malformed)?;
    store(txn, &wishes)?;
    let info = BrickInfo {
        id,
        store: new.store,
        node: new.node,
        host: new.host.clone(),
        endpoint: new.endpoint,
        boot: BootId(0),
        alive: false,
    };
    txn.change_map().bricks.insert(id, info);
    Ok(id)
}

/// Empties a brick, or takes that back.
pub fn drain(txn: &mut Txn<'_>, brick: BrickId, drain: bool) -> Do<Option<BrickRefusal>> {
    if !txn.map.bricks.contains_key(&brick) {
        return Ok(Some(BrickRefusal::Unknown));
    }
    let mut wishes = load(txn)?;
    if drain {
        let stays = |b: &&BrickId| **b != brick && !wishes.draining.contains(b);
        let left = txn.map.bricks.keys().filter(stays).count();
        let holds = txn.map.chains_of(brick).next().is_some();
        if holds && left < usize::from(txn.map.replicas) {
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            return Ok(Some(BrickRefusal::TooFewBricks { left, replicas: txn.map.replicas }));
        }
        wishes.draining.insert(brick);
    } else {
        wishes.draining.remove(&brick);
    }
    store(txn, &wishes)?;
    Ok(None)
}

/// Forgets a brick.
pub fn remove(txn: &mut Txn<'_>, brick: BrickId, force: bool) -> Do<Option<BrickRefusal>> {
    let Some(info) = txn.map.bricks.get(&brick) else { return Ok(Some(BrickRefusal::Unknown)) };
    let alive = info.alive;
    let chains: Vec<ChainId> = txn.map.chains_of(brick).map(|c| c.id).collect();
    if !chains.is_empty() {
        if !force {
            return Ok(Some(BrickRefusal::HoldsChains(chains)));
        }
        if alive {
            return Ok(Some(BrickRefusal::Alive));
        }
        // A dead brick is no head: whoever is serves and holds everything.
        let only: Vec<ChainId> =
            txn.map.chains_of(brick).filter(|c| c.head().is_none()).map(|c| c.id).collect();
        if !only.is_empty() {
            return Ok(Some(BrickRefusal::OnlyCopy(only)));
        }
        for chain in txn.change_map().chains.values_mut() {
            chain::expelled(chain, brick);
        }
    }
    trims::forget_brick(txn, brick)?;
    bricks::give_up(txn, brick, None)?;
    txn.change_map().bricks.remove(&brick);
    let mut wishes = load(txn)?;
    wishes.draining.remove(&brick);
    store(txn, &wishes)?;
    Ok(None)
}

/// Gives all bricks their share, or stops doing so. Bricks that are in no chain get some for new files, too.
pub fn rebalance(txn: &mut Txn<'_>, on: bool) -> Do<()> {
    if on {
        bricks::grow(txn)?;
    }
    let mut wishes = load(txn)?;
    wishes.rebalancing = on;
    store(txn, &wishes)
}

/// Changes settings.
pub fn configure(txn: &mut Txn<'_>, change: &SettingsChange) -> Do<()> {
    let mut wishes = load(txn)?;
    if let Some(syncs) = change.syncs_a_brick {
        if !(1..=MAX_SYNCS_A_BRICK).contains(&syncs) {
            return Err(Status::Malformed.into());
        }
        wishes.syncs_a_brick = syncs;
    }
    wishes.repair_after_ms = change.repair_after_ms.unwrap_or(wishes.repair_after_ms);
    store(txn, &wishes)
}

/// Members join and leave chains. Returns how many have joined or left: who only begins to leave is still there. Steps that
/// do not fit any more are left out, and what is wanted is planned anew.
pub fn take_steps(txn: &mut Txn<'_>, steps: &[Step]) -> Do<u64> {
    let wishes = load(txn)?;
    let owing: BTreeSet<BrickId> = txn.counters.owed.keys().copied().collect();
    let mut moved = 0;
    for step in steps {
        let Some(mut chain) = txn.map.chains.get(&step.chain()).cloned() else { continue };
        let before = chain.members.len();
        if plan::take(&txn.map, &mut chain, &wishes, &owing, step) {
            moved += u64::from(chain.members.len() != before);
            txn.change_map().chains.insert(chain.id, chain);
        }
    }
    Ok(moved)
}
