//! Plans for small clusters, each rule by itself; histories are in [`super::simulation`].
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use wire::id::{BootId, BrickId, ChainEpoch, ChainId, ClusterId, NodeId, StoreId};
use wire::map::{BrickInfo, Chain, ClusterMap, Member, MemberState};
use wire::meta::{Stuck, Wishes};
use wire::net::Endpoint;

use super::growth;
use super::plan::*;

const GIB: u64 = 1 << 30;

pub fn brick(id: u32, host: u32) -> BrickInfo {
    BrickInfo {
        id: BrickId(id),
        store: StoreId([id as u8; 16]),
        node: NodeId([id as u8; 16]),
        host: format!("host{host}"),
        endpoint: Endpoint::Memory(u64::from(id) + 1),
        boot: BootId(1),
        alive: true,
    }
}

/// Bricks in the hosts given, without chains.
pub fn bricks(hosts: &[u32], replicas: u8) -> ClusterMap {
    let mut map = ClusterMap::new(ClusterId([1; 16]), replicas);
    for (id, host) in (0..).zip(hosts) {
        map.bricks.insert(BrickId(id), brick(id, *host));
    }
    map
}

pub fn add_chain(map: &mut ClusterMap, members: &[u32]) -> ChainId {
    let id = ChainId(map.chains.len() as u32 + 1);
    let members =
        members.iter().map(|b| Member { brick: BrickId(*b), state: MemberState::Serving }).collect();
    map.chains.insert(id, Chain { id, epoch: ChainEpoch(1), members });
    id
}

/// A cluster as it is born.
pub fn cluster(hosts: &[u32], replicas: u8) -> ClusterMap {
    let mut map = bricks(hosts, replicas);
    for group in growth::due(&map, &Wishes::new(1)) {
        add_chain(&mut map, &group.iter().map(|b| b.0).collect::<Vec<_>>());
    }
    map
}

pub fn facts(map: &ClusterMap) -> Facts {
    let space = Space { total_bytes: 100 * GIB, free_bytes: 90 * GIB, disk_bytes: 0 };
    let informed = map.bricks.keys().copied().collect();
    Facts { space: map.bricks.keys().map(|b| (*b, space)).collect(), informed, ..Facts::default() }
}

fn wishes() -> Wishes {
    Wishes::new(0)
}

/// Takes the steps; every member that syncs is up to date afterwards.
fn settle_once(map: &mut ClusterMap, wishes: &Wishes, facts: &Facts) -> Plan {
    let planned = plan(map, wishes, facts);
    for step in &planned.steps {
        let mut chain = map.chains[&step.chain()].clone();
        assert!(take(map, &mut chain, wishes, &facts.owing, step), "{step:?} of {chain:?}");
        map.chains.insert(chain.id, chain);
    }
    map.verify().unwrap();
    let chains: Vec<_> = map.chains.keys().copied().collect();
    for id in chains {
        let chain = map.chains.get_mut(&id).unwrap();
        let (epoch, syncing) = (chain.epoch, chain.syncing().next());
        if let Some(member) = syncing {
            super::sync_done(chain, epoch, member).unwrap();
        }
    }
    planned
}

/// Settles until there is nothing to do; gives the number of joins.
fn settle(map: &mut ClusterMap, wishes: &Wishes, facts: &Facts) -> usize {
    let mut joins = 0;
    for _ in 0..1000 {
        let planned = settle_once(map, wishes, facts);
        if planned.steps.is_empty() {
            return joins;
        }
        joins += planned.steps.iter().filter(|s| matches!(s, Step::Join { .. })).count();
    }
    panic!("it does not end: {map:?}");
}

fn members(map: &ClusterMap, chain: ChainId) -> BTreeSet<u32> {
    map.chains[&chain].members.iter().map(|m| m.brick.0).collect()
}

fn loads(map: &ClusterMap) -> Vec<usize> {
    map.bricks.keys().map(|b| map.chains_of(*b).count()).collect()
}

/// A cluster that is well is left alone, whatever its shape.
#[test]
fn what_is_well_stays() {
    for (hosts, replicas) in [(&[0, 0, 0, 0, 0, 0][..], 2), (&[0, 1, 2, 3, 4, 5], 3), (&[0, 0, 1, 1], 2)] {
        let map = cluster(hosts, replicas);
        assert_eq!(plan(&map, &wishes(), &facts(&map)).steps, []);
    }
}

/// The substitute joins first, on a machine of its own; the drained brick leaves when it is in
/// sync; then nothing is left to do.
#[test]
fn a_drained_brick_is_substituted_first() {
    let mut map = bricks(&[0, 1, 0, 2], 2);
    let chain = add_chain(&mut map, &[0, 1]);
    let mut wishes = wishes();
    wishes.draining.insert(BrickId(1));
    let facts = facts(&map);
    let first = settle_once(&mut map, &wishes, &facts);
    // Brick 2 is in the machine of brick 0, which stays.
    assert_eq!(first.steps, [Step::Join { chain, epoch: ChainEpoch(1), brick: BrickId(3) }]);
    assert_eq!(members(&map, chain), [0, 1, 3].into());
    let epoch = map.chains[&chain].epoch;
    assert_eq!(plan(&map, &wishes, &facts).steps, [Step::Leave { chain, epoch, brick: BrickId(1) }]);
    assert_eq!(settle(&mut map, &wishes, &facts), 0);
    assert_eq!(members(&map, chain), [0, 3].into());
}

/// While the substitute is not up to date, the drained brick stays.
#[test]
fn who_is_drained_serves_until_the_other_does() {
    let mut map = bricks(&[0, 1, 2], 2);
    let chain = add_chain(&mut map, &[0, 1]);
    let mut wishes = wishes();
    wishes.draining.insert(BrickId(0));
    let facts = facts(&map);
    let step = plan(&map, &wishes, &facts).steps[0];
    let mut joined = map.chains[&chain].clone();
    assert!(take(&map, &mut joined, &wishes, &facts.owing, &step));
    map.chains.insert(chain, joined);
    assert_eq!(plan(&map, &wishes, &facts).steps, []);
    // Drained bricks that are all there is stay, too.
    wishes.draining.extend([BrickId(1), BrickId(2)]);
    let planned = plan(&map, &wishes, &facts).steps;
    assert!(planned.iter().all(|s| matches!(s, Step::Leave { brick: BrickId(2), .. })), "{planned:?}");
}

/// A member that the head can't reach is waited for as a dead one is; then another takes its place, which the head can reach.
#[test]
fn who_is_cut_off_for_long_is_replaced() {
    let mut map = bricks(&[0, 1, 2, 3], 2);
    let chain = add_chain(&mut map, &[0, 1]);
    let mut facts = facts(&map);
    let [head, member, cut] = [0, 1, 2].map(BrickId);
    assert!(super::cut_off(map.chains.get_mut(&chain).unwrap(), head, member, member));
    facts.apart = [pair(head, member), pair(cut, head)].into();
    facts.informed.remove(&member);
    assert_eq!(plan(&map, &wishes(), &facts).steps, [], "it may not know yet");
    facts.informed.insert(member);
    let epoch = map.chains[&chain].epoch;
    let stay = Step::Stay { chain, epoch, brick: member };
    assert_eq!(plan(&map, &wishes(), &facts).steps, [stay]);
    assert!(take(&map, &mut map.chains[&chain].clone(), &wishes(), &facts.owing, &stay));
    assert!(super::fell_behind(map.chains.get_mut(&chain).unwrap(), member));
    assert_eq!(plan(&map, &wishes(), &facts).steps, [], "they may meet again");
    facts.estranged = facts.apart.clone();
    let epoch = map.chains[&chain].epoch;
    assert_eq!(plan(&map, &wishes(), &facts).steps, [Step::Join { chain, epoch, brick: BrickId(3) }]);
}

/// A dead brick is waited for until it counts as lost; then another takes its place, and when
/// that one serves, the dead one leaves.
#[test]
fn a_lost_brick_is_replaced_and_then_leaves() {
    let mut map = cluster(&[0, 1, 2, 3, 4, 5], 2);
    let mut facts = facts(&map);
    map.bricks.get_mut(&BrickId(0)).unwrap().alive = false;
    for chain in map.chains.values_mut() {
        super::gone(chain, BrickId(0));
    }
    assert_eq!(plan(&map, &wishes(), &facts).steps, []);
    facts.lost.insert(BrickId(0));
    let had = map.chains_of(BrickId(0)).count();
    assert_eq!(settle(&mut map, &wishes(), &facts), had);
    assert_eq!(map.chains_of(BrickId(0)).count(), 0);
    assert!(map.chains.values().all(|c| c.serving().count() == 2 && c.members.len() == 2));
}

/// A chain whose last holder is away is left as it is: nobody else has its data.
#[test]
fn a_chain_without_a_head_is_left_alone() {
    let mut map = bricks(&[0, 1, 2], 2);
    add_chain(&mut map, &[0, 1]);
    let mut facts = facts(&map);
    for id in 0..2 {
        map.bricks.get_mut(&BrickId(id)).unwrap().alive = false;
        facts.lost.insert(BrickId(id));
        for chain in map.chains.values_mut() {
            super::gone(chain, BrickId(id));
        }
    }
    let mut wishes = wishes();
    wishes.rebalancing = true;
    wishes.draining.insert(BrickId(0));
    assert_eq!(plan(&map, &wishes, &facts).steps, []);
}

/// Invariant 4: with many chains to move, only so many copies are made at a time.
#[test]
fn moves_are_made_a_few_at_a_time() {
    let mut map = cluster(&[0, 1, 2, 3, 4, 5, 6, 7], 2);
    let mut wishes = wishes();
    wishes.draining.insert(BrickId(0));
    let facts = facts(&map);
    for limit in [1, 2, 3] {
        wishes.syncs_a_brick = limit;
        let mut syncs = vec![0; 8];
        for step in plan(&map, &wishes, &facts).steps {
            let Step::Join { chain, brick, .. } = step else { panic!("{step:?}") };
            syncs[brick.0 as usize] += 1;
            syncs[map.chains[&chain].head().unwrap().0 as usize] += 1;
        }
        assert!(syncs.iter().all(|n| *n <= limit) && syncs.contains(&limit), "{syncs:?}");
    }
    settle(&mut map, &wishes, &facts);
    assert_eq!(map.chains_of(BrickId(0)).count(), 0);
}

/// Invariant 5, at planning and when the step is taken.
#[test]
fn who_owes_cuts_does_not_join() {
    let mut map = bricks(&[0, 1, 2, 3], 2);
    let chain = add_chain(&mut map, &[0, 1]);
    let mut wishes = wishes();
    wishes.draining.insert(BrickId(0));
    let mut facts = facts(&map);
    let owing = BTreeSet::from([BrickId(2)]);
    let step = Step::Join { chain, epoch: ChainEpoch(1), brick: BrickId(2) };
    assert!(!take(&map, &mut map.chains[&chain].clone(), &wishes, &owing, &step));
    assert!(take(&map, &mut map.chains[&chain].clone(), &wishes, &BTreeSet::new(), &step));
    facts.owing = owing;
    assert_eq!(
        plan(&map, &wishes, &facts).steps,
        [Step::Join { chain, epoch: ChainEpoch(1), brick: BrickId(3) }]
    );
}

/// Two copies in one machine are separated as soon as there is another machine; a full brick
/// is none.
#[test]
fn copies_in_one_machine_are_separated() {
    let mut map = bricks(&[0, 0], 2);
    let chain = add_chain(&mut map, &[0, 1]);
    let alone = facts(&map);
    assert_eq!(settle(&mut map, &wishes(), &alone), 0);
    map.bricks.insert(BrickId(2), brick(2, 1));
    let mut full = facts(&map);
    full.space.insert(BrickId(2), Space { total_bytes: 100 * GIB, free_bytes: GIB, disk_bytes: 0 });
    assert_eq!(settle(&mut map, &wishes(), &full), 0);
    let facts = facts(&map);
    assert_eq!(settle(&mut map, &wishes(), &facts), 1);
    assert!(members(&map, chain).contains(&2) && members(&map, chain).len() == 2);
}

/// A copy in the same machine is better than none, where there is no other machine; but another
/// machine that is only busy is waited for.
#[test]
fn a_crowded_machine_is_the_last_resort() {
    let mut map = bricks(&[0, 0, 1], 2);
    let chain = add_chain(&mut map, &[0, 2]);
    let mut facts = facts(&map);
    map.bricks.get_mut(&BrickId(2)).unwrap().alive = false;
    super::gone(map.chains.get_mut(&chain).unwrap(), BrickId(2));
    facts.lost.insert(BrickId(2));
    map.bricks.insert(BrickId(3), BrickInfo { alive: false, ..brick(3, 2) });
    assert_eq!(plan(&map, &wishes(), &facts).steps, [], "brick 3 may come back");
    facts.lost.insert(BrickId(3));
    assert_eq!(settle(&mut map, &wishes(), &facts), 1);
    assert_eq!(members(&map, chain), [0, 1].into());
}

/// Invariant 6: nobody else, nobody with room, nobody up; and when one is, it joins.
#[test]
fn a_chain_that_finds_nobody_says_why() {
    let mut map = bricks(&[0, 1], 2);
    let chain = add_chain(&mut map, &[0, 1]);
    let mut wishes = wishes();
    assert_eq!(plan(&map, &wishes, &facts(&map)).stuck, [], "nothing is to be done");
    wishes.draining.insert(BrickId(1));
    assert_eq!(plan(&map, &wishes, &facts(&map)).stuck, [(chain, Stuck::NoBrick)]);
    map.bricks.insert(BrickId(2), brick(2, 2));
    let mut full = facts(&map);
    full.space.insert(BrickId(2), Space { total_bytes: 100 * GIB, free_bytes: 14 * GIB, disk_bytes: 0 });
    let planned = plan(&map, &wishes, &full);
    let (most_bytes, needed_bytes) = (9 * GIB, 10 * GIB);
    assert_eq!(planned.stuck, [(chain, Stuck::NoRoom { most_bytes, needed_bytes })]);
    assert_eq!(planned.steps, []);
    map.bricks.get_mut(&BrickId(2)).unwrap().alive = false;
    assert_eq!(plan(&map, &wishes, &facts(&map)).stuck, [(chain, Stuck::Away)]);
    map.bricks.get_mut(&BrickId(2)).unwrap().alive = true;
    let facts = facts(&map);
    let planned = settle_once(&mut map, &wishes, &facts);
    assert_eq!((planned.steps.len(), planned.stuck), (1, vec![]));
    assert_eq!(plan(&map, &wishes, &facts).stuck, [], "it is about to leave");
    for id in [0, 1, 2] {
        super::gone(map.chains.get_mut(&chain).unwrap(), BrickId(id));
    }
    assert_eq!(plan(&map, &wishes, &facts).stuck, [], "those who stay may come back");
}

/// A brick twice as large gets twice as many chains.
#[test]
fn shares_follow_sizes() {
    let mut map = cluster(&[0, 1, 2, 3, 4, 5], 2);
    map.bricks.insert(BrickId(6), brick(6, 6));
    let mut facts = facts(&map);
    facts.space.insert(BrickId(6), Space { total_bytes: 200 * GIB, free_bytes: 200 * GIB, disk_bytes: 0 });
    let mut wishes = wishes();
    wishes.rebalancing = true;
    settle(&mut map, &wishes, &facts);
    let loads = loads(&map);
    let total: usize = loads.iter().sum();
    assert!(loads[6] * 8 >= total * 2 - 8 && loads[6] * 8 <= total * 2 + 8, "{loads:?}");
    assert!(plan(&map, &wishes, &facts).even);
}

proptest! {
    /// Invariant 3: bricks that were added get their share by as few moves as that takes, and
    /// then it is even; nothing moves where nobody asked.
    #[test]
    fn rebalancing_evens_loads_with_few_moves(before in 4u32..9, added in 1u32..5, replicas in 1u8..4) {
        let hosts: Vec<_> = (0..before).collect();
        let mut map = cluster(&hosts, replicas);
        for id in before..before + added {
            map.bricks.insert(BrickId(id), brick(id, id));
        }
        let facts = facts(&map);
        prop_assert_eq!(settle(&mut map, &wishes(), &facts), 0);
        let mut wishes = wishes();
        wishes.rebalancing = true;
        let total: usize = loads(&map).iter().sum();
        let share = total / (before + added) as usize;
        let moves = settle(&mut map, &wishes, &facts);
        let loads = loads(&map);
        prop_assert_eq!(loads.iter().sum::<usize>(), total);
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        prop_assert!(moves <= (share + 1) * added as usize + 2, "{} moves for {:?}", moves, loads);
        prop_assert!(plan(&map, &wishes, &facts).even);
        for chain in map.chains.values() {
            prop_assert_eq!(chain.members.len(), usize::from(replicas));
        }
    }
}

/// A brick that is added beside full ones gets a part of what they hold, and not only of the chains that were made for it; what
/// is even by bytes is left alone, also where chains are not.
#[test]
fn rebalancing_evens_what_bricks_hold() {
    let mut map = cluster(&[0, 1, 2], 2);
    let old: Vec<_> = map.chains.keys().copied().collect();
    map.bricks.insert(BrickId(3), brick(3, 3));
    // Empty ones, as many as a brick has at birth.
    for group in growth::due(&map, &Wishes::new(1)) {
        add_chain(&mut map, &group.iter().map(|b| b.0).collect::<Vec<_>>());
    }
    assert_eq!(loads(&map)[3], 2 * growth::HEADS_A_BRICK);
    let mut facts = facts(&map);
    for chain in map.chains.keys() {
        facts.sizes.insert(*chain, if old.contains(chain) { 10 * GIB } else { 0 });
    }
    let mut wishes = wishes();
    wishes.rebalancing = true;
    let moves = settle(&mut map, &wishes, &facts);
    assert!(moves <= 16, "{moves} moves");
    let held =
        |map: &ClusterMap, id: u32| map.chains_of(BrickId(id)).map(|c| facts.sizes[&c.id]).sum::<u64>() / GIB;
    let mut all: Vec<_> = (0..4).map(|id| held(&map, id)).collect();
    all.sort_unstable();
    assert_eq!(all, [60; 4], "{:?}", map.chains);
    assert!(plan(&map, &wishes, &facts).even);
}

/// Rebalancing ends though a brick that would get a share is not there: it was only added, or is away.
#[test]
fn who_is_away_is_not_waited_for() {
    let mut map = cluster(&[0, 1, 2], 2);
    map.bricks.insert(BrickId(3), BrickInfo { alive: false, boot: BootId(0), ..brick(3, 3) });
    let mut wishes = wishes();
    wishes.rebalancing = true;
    for boot in [0, 5] {
        map.bricks.get_mut(&BrickId(3)).unwrap().boot = BootId(boot);
        let facts = facts(&map);
        settle(&mut map, &wishes, &facts);
        assert!(plan(&map, &wishes, &facts).even, "with boot {boot}");
    }
    map.bricks.get_mut(&BrickId(3)).unwrap().alive = true;
    assert!(!plan(&map, &wishes, &facts(&map)).even);
}

/// Invariant 7.
#[test]
fn who_is_full_is_replaced_before_it_serves() {
    let mut map = bricks(&[0, 1, 2], 2);
    let chain = add_chain(&mut map, &[0, 1]);
    map.chains.get_mut(&chain).unwrap().members[1].state = MemberState::Syncing;
    let mut facts = facts(&map);
    let full = Space { total_bytes: 100 * GIB, free_bytes: GIB / 2, disk_bytes: 0 };
    facts.space.insert(BrickId(1), full);
    let epoch = map.chains[&chain].epoch;
    assert_eq!(plan(&map, &wishes(), &facts).steps, [Step::Join { chain, epoch, brick: BrickId(2) }]);
    facts.space.insert(BrickId(2), full);
    assert_eq!(plan(&map, &wishes(), &facts).steps, [], "nobody has more room");
    // A small disk is full by bytes, and would be left again at once.
    facts.sizes.insert(chain, 1 << 20);
    facts.space.insert(BrickId(2), Space { total_bytes: 100 << 20, free_bytes: 15 << 20, disk_bytes: 0 });
    assert_eq!(plan(&map, &wishes(), &facts).steps, [], "a small full disk takes nobody");
    facts.space.insert(BrickId(2), Space { free_bytes: 50 * GIB, ..full });
    let join = plan(&map, &wishes(), &facts).steps[0];
    assert!(take(&map, map.chains.clone().get_mut(&chain).unwrap(), &wishes(), &facts.owing, &join));
    assert!(super::joined(map.chains.get_mut(&chain).unwrap(), BrickId(2)));
    let epoch = map.chains[&chain].epoch;
    // Another one comes: no reason to wait for this one.
    assert_eq!(plan(&map, &wishes(), &facts).steps, [Step::Leave { chain, epoch, brick: BrickId(1) }]);
}

/// Invariant 1 of growth: with a number of bricks given, that many make chains; without one, as
/// many machines as there are copies.
#[test]
fn a_cluster_is_born_when_there_are_enough() {
    let mut map = bricks(&[0, 0, 0], 2);
    let chains = |map: &ClusterMap, birth_bricks| growth::due(map, &Wishes::new(birth_bricks)).len();
    assert_eq!(chains(&map, 0), 0, "all in one machine");
    assert_eq!(chains(&map, 3), 3 * growth::HEADS_A_BRICK);
    assert_eq!(chains(&map, 4), 0);
    map.bricks.get_mut(&BrickId(2)).unwrap().host = "another".into();
    assert_eq!(chains(&map, 0), 3 * growth::HEADS_A_BRICK);
    map.bricks.get_mut(&BrickId(1)).unwrap().alive = false;
    assert_eq!(chains(&map, 0), 2 * growth::HEADS_A_BRICK);
    map.bricks.get_mut(&BrickId(2)).unwrap().alive = false;
    assert_eq!(chains(&map, 1), 0, "one brick holds no two copies");
}
