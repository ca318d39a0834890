//! Bricks come and go; what follows for their chains is the law of [`crate::chain`].

use std::collections::{BTreeMap, BTreeSet};

use wire::id::{BootId, BrickId, ChainEpoch, ChainId, StoreId};
use wire::map::{BrickInfo, Chain, ClusterMap, Member, MemberState};
use wire::meta::{BrickRefusal, BrickRegistration};
use wire::status::Status;

use crate::chain::tables::{self, Choice};
use crate::chain::{self, NotSynced, Replaced, growth};
use crate::machine::reached;
use crate::machine::trims;
use crate::machine::txn::{Do, Txn, load};
use crate::machine::wishes;
use crate::soft::apart::Verdict;
use crate::store::{Read, keys};

fn info(brick: &BrickRegistration) -> BrickInfo {
    BrickInfo {
        id: brick.brick,
        store: brick.store,
        node: brick.node,
        host: brick.host.clone(),
        endpoint: brick.endpoint,
        boot: brick.boot,
        alive: true,
    }
}

/// Adds bricks, and makes chains of them; chains that exist are kept, and so are the tables that files were laid out by.
pub fn add(txn: &mut Txn<'_>, bricks: &[BrickRegistration]) -> Do<()> {
    let mut wishes = wishes::load(txn)?;
    // A number that was given and is not in the map is that of a brick which was removed.
    let is_new =
        |b: &&BrickRegistration| !txn.map.bricks.contains_key(&b.brick) && b.brick.0 >= wishes.next_brick;
    let new: Vec<_> = bricks.iter().filter(is_new).collect();
    if new.is_empty() {
        return Ok(());
    }
    let map = txn.change_map();
    for brick in new {
        map.bricks.insert(brick.brick, info(brick));
        wishes.next_brick = wishes.next_brick.max(brick.brick.0.saturating_add(1));
    }
    wishes::store(txn, &wishes)?;
    let all: Vec<_> = txn.map.bricks.values().map(|b| (b.id, b.host.as_str())).collect();
    let groups = growth::of(&txn.map, &all);
    make_chains(txn, groups);
    Ok(())
}

/// Makes the chains that are due, of bricks that are there, and has new files go to them as well.
pub fn grow(txn: &mut Txn<'_>) -> Do<()> {
    let due = growth::due(&txn.map, &wishes::load(txn)?);
    make_chains(txn, due);
    Ok(())
}

fn make_chains(txn: &mut Txn<'_>, groups: Vec<Vec<BrickId>>) {
    if groups.is_empty() {
        return;
    }
    let map = txn.change_map();
    let mut table: BTreeSet<ChainId> = map.current_table().unwrap_or_default().iter().copied().collect();
    for group in groups {
        let id = ChainId(map.chains.keys().next_back().map_or(1, |last| last.0 + 1));
        let members = group.iter().map(|b| Member { brick: *b, state: MemberState::Serving }).collect();
        let mut chain = Chain { id, epoch: ChainEpoch(1), members };
        for brick in group {
            if !map.bricks.get(&brick).is_some_and(|b| b.alive) {
                chain::gone(&mut chain, brick);
            }
        }
        map.chains.insert(id, chain);
        table.insert(id);
    }
    let table = tables::deal(map, &table);
    map.add_table(table);
}

/// Has new files go to these chains.
pub fn lay_out_by(txn: &mut Txn<'_>, chains: &BTreeSet<ChainId>) {
    let open = chains.iter().copied().filter(|chain| txn.map.chains.contains_key(chain)).collect();
    match tables::choose(&txn.map, &open) {
        Choice::Stay => {}
        Choice::Use(version) => txn.change_map().current = Some(version),
        Choice::Make(table) => txn.change_map().add_table(table),
    }
}

/// A brick has come up.
pub fn register(txn: &mut Txn<'_>, brick: &BrickRegistration, stayed: &BTreeSet<BrickId>) -> Do<()> {
    let id = brick.brick;
    let Some(before) = txn.map.bricks.get(&id).cloned() else {
        // It may be about to be added. A number that was given and is not there was taken back.
        let removed = id.0 < wishes::load(txn)?.next_brick;
        return Err(if removed { Status::Forbidden } else { Status::Busy }.into());
    };
    if before.alive && before == info(brick) {
        return Ok(());
    }
    let is_other = before.store != StoreId([0; 16]) && before.store != brick.store;
    if is_other {
        may_take_the_place(txn, &txn.map, brick)?;
    }
    txn.change_map().bricks.insert(id, info(brick));
    reached::let_in(txn, id)?;
    if is_other {
        let mut former: BTreeSet<StoreId> = txn.load(keys::FORMER_STORES)?.unwrap_or_default();
        former.insert(before.store);
        txn.put(keys::FORMER_STORES.to_vec(), &former)?;
        give_up(txn, id, None)?;
        trims::forget_brick(txn, id)?;
        let mut lost = Vec::new();
        for chain in txn.change_map().chains.values_mut() {
            if chain::replaced(chain, id) == Replaced::Lost {
                lost.push((chain.id, id));
            }
        }
        txn.effects.lost.extend(lost);
    } else if !before.alive {
        admit(txn, id)?;
    } else if before.boot != brick.boot && before.boot != BootId(0) {
        for chain in txn.change_map().chains.values_mut() {
            chain::restarted(chain, id, stayed);
        }
    }
    grow(txn)
}

/// Refuses a disk that another one has taken the place of, or that is another brick's: it would serve what is long outdated, or
/// what is not its. And one that would take the place of the only one with all data of a chain, unless that was given up for it.
pub fn may_take_the_place(state: &dyn Read, map: &ClusterMap, brick: &BrickRegistration) -> Do<()> {
    let former: BTreeSet<StoreId> = load(state, keys::FORMER_STORES)?.unwrap_or_default();
    let is_anothers = map.bricks.values().any(|b| b.id != brick.brick && b.store == brick.store);
    if is_anothers || former.contains(&brick.store) {
        return Err(Status::OtherDisk.into());
    }
    let given_up: GivenUp = load(state, keys::GIVEN_UP)?.unwrap_or_default();
    let may_lose = given_up.get(&brick.brick) == Some(&brick.store);
    if may_lose || only_there(map, brick.brick).is_empty() { Ok(()) } else { Err(Status::OnlyDisk.into()) }
}

/// For which new disk of a brick it was said that data may be lost.
type GivenUp = BTreeMap<BrickId, StoreId>;

/// Chains of which nobody but the brick holds everything.
fn only_there(map: &ClusterMap, brick: BrickId) -> Vec<ChainId> {
    map.chains.values().filter(|chain| chain::is_only_with_all(chain, brick)).map(|chain| chain.id).collect()
}

/// A new disk is to take the place of a brick's. Whether that loses data is judged again when it comes up, so only
/// that it may is remembered.
pub fn replace(
    txn: &mut Txn<'_>,
    brick: BrickId,
    store: StoreId,
    lose_data: bool,
) -> Do<Option<BrickRefusal>> {
    if !txn.map.bricks.contains_key(&brick) {
        return Ok(Some(BrickRefusal::Unknown));
    }
    let only = only_there(&txn.map, brick);
    if !lose_data && !only.is_empty() {
        return Ok(Some(BrickRefusal::OnlyCopy(only)));
    }
    give_up(txn, brick, lose_data.then_some(store))?;
    Ok(None)
}

/// Remembers for which disk of a brick data may be lost, if for any.
pub fn give_up(txn: &mut Txn<'_>, brick: BrickId, store: Option<StoreId>) -> Do<()> {
    let before: GivenUp = txn.load(keys::GIVEN_UP)?.unwrap_or_default();
    let mut after = before.clone();
    match store {
        Some(store) => after.insert(brick, store),
        None => after.remove(&brick),
    };
    if after == before { Ok(()) } else { txn.put(keys::GIVEN_UP.to_vec(), &after) }
}

/// Lets a living brick back into its chains, once it owes no cuts.
pub fn admit(txn: &mut Txn<'_>, brick: BrickId) -> Do<()> {
    let alive = txn.map.bricks.get(&brick).is_some_and(|b| b.alive);
    let outside = txn
        .map
        .chains_of(brick)
        .any(|c| matches!(c.state_of(brick), Some(MemberState::Offline | MemberState::LastServing)));
    if alive && outside && !txn.counters.owed.contains_key(&brick) {
        for chain in txn.change_map().chains.values_mut() {
            chain::back(chain, brick);
        }
    }
    Ok(())
}

/// A brick is not heard any more, in the life it was known in.
pub fn dead(txn: &mut Txn<'_>, brick: BrickId, boot: BootId) -> Do<()> {
    if !txn.map.bricks.get(&brick).is_some_and(|b| b.alive && b.boot == boot) {
        return Ok(());
    }
    let map = txn.change_map();
    if let Some(info) = map.bricks.get_mut(&brick) {
        info.alive = false;
    }
    for chain in map.chains.values_mut() {
        chain::gone(chain, brick);
    }
    // Whoever waits for its cuts waits no more.
    txn.effects.trimmed = true;
    Ok(())
}

/// A head can't reach a living member: one of them begins to leave the chains of that head.
pub fn cut_off(txn: &mut Txn<'_>, verdict: Verdict) {
    change_chains(txn, |chain| chain::cut_off(chain, verdict.head, verdict.member, verdict.out));
}

/// A living brick can't be reached: it begins to leave the chains that others serve.
pub fn step_back(txn: &mut Txn<'_>, brick: BrickId) {
    change_chains(txn, |chain| chain::steps_back(chain, brick));
}

/// Changes chains, and the map if any changed.
fn change_chains(txn: &mut Txn<'_>, mut change: impl FnMut(&mut Chain) -> bool) {
    let mut after = txn.map.chains.clone();
    let mut changed = false;
    for chain in after.values_mut() {
        changed |= change(chain);
    }
    if changed {
        txn.change_map().chains = after;
    }
}

/// A member has been brought up to date.
pub fn sync_done(txn: &mut Txn<'_>, chain: ChainId, epoch: ChainEpoch, brick: BrickId) -> Do<()> {
    let mut after = txn.map.chains.get(&chain).ok_or(Status::WrongMember)?.clone();
    match chain::sync_done(&mut after, epoch, brick) {
        Ok(false) => Ok(()),
        Ok(true) => {
            txn.change_map().chains.insert(chain, after);
            Ok(())
        }
        Err(NotSynced::OtherEpoch) => Err(Status::ChainChanged(after.epoch).into()),
        Err(NotSynced::NotSyncing) => Err(Status::WrongMember.into()),
    }
}
