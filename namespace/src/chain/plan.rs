//! Who is to join and to leave chains, so that every chain has its copies on the bricks that
//! are wanted, on different machines, and every brick its share.
//!
//! Pure, and without a memory: all follows from the map, the wishes and what is known of the
//! bricks now, so a plan that was cut off by a restart is simply made again. A member is moved
//! in three steps: the new one joins and is brought up to date, the old one begins to leave, and goes when it
//! knows that. Which one that is follows from the loads as well: adding the new member has made it the one that
//! can be spared most.
//!
//! 1. A step never takes a copy that is wanted ([`super::left`]; `histories_keep_every_copy`).
//! 2. When faults stop, steps end, and then every chain has its copies, on different machines
//!    where there are enough with room (`histories_keep_every_copy`).
//! 3. Loads that are even stay as they are, and no move makes them less even
//!    (`rebalancing_evens_loads_with_few_moves`), and no brick that is away is waited for (`who_is_away_is_not_waited_for`). A chain loads its members by what it holds, and a little in any case, so that
//!    also empty ones are spread (`rebalancing_evens_what_bricks_hold`).
//! 4. A brick takes part in at most [`Wishes::syncs_a_brick`] moves at a time
//!    (`moves_are_made_a_few_at_a_time`).
//! 5. A brick that owes cuts joins nothing: it would cut what it is given
//!    (`who_owes_cuts_does_not_join`).
//! 6. A chain that lacks a member gets one, waits for its turn, or is said to be stuck
//!    (`a_chain_that_finds_nobody_says_why`).
//! 7. A member that is to be brought up to date on a full brick is replaced where another one has room
//!    (`who_is_full_is_replaced_before_it_serves`).
//! 8. Nobody joins a chain whose head can't reach it, and one that its head could not reach for long is replaced
//!    (`who_is_cut_off_for_long_is_replaced`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use wire::id::{BootId, BrickId, ChainEpoch, ChainId};
use wire::map::{Chain, ClusterMap, MemberState};
use wire::meta::{BrickReport, Stuck, Wishes, is_full};

use crate::chain;

/// Weight of the largest brick; others have theirs by size. Coarse, so that bricks whose sizes
/// change a little do not make members move.
const WEIGHTS: u64 = 16;
/// A chain counts one more for each such part of the largest brick that it holds.
const SHARES: u64 = 256;
/// Part of a brick that stays free when members join: a twentieth.
const KEPT_FREE: u64 = 20;

/// One change of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A brick becomes a member and is brought up to date.
    Join {
        /// The chain.
        chain: ChainId,
        /// As it was when this was planned.
        epoch: ChainEpoch,
        /// Who.
        brick: BrickId,
    },
    /// A member that serves begins to leave; any other one goes.
    Leave {
        /// The chain.
        chain: ChainId,
        /// As it was when this was planned.
        epoch: ChainEpoch,
        /// Who.
        brick: BrickId,
    },
    /// A member that is leaving is to stay, and is brought up to date.
    Stay {
        /// The chain.
        chain: ChainId,
        /// As it was when this was planned.
        epoch: ChainEpoch,
        /// Who.
        brick: BrickId,
    },
}

impl Step {
    /// The chain that changes.
    pub fn chain(&self) -> ChainId {
        match self {
            Step::Join { chain, .. } | Step::Leave { chain, .. } | Step::Stay { chain, .. } => *chain,
        }
    }
}

/// Room on a brick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes it could hold.
    pub total_bytes: u64,
    /// Bytes it could still take.
    pub free_bytes: u64,
    /// Size of its disk, of which others may have taken some; 0 where nobody knows.
    pub disk_bytes: u64,
}

impl Space {
    /// What a brick says of itself.
    pub fn of(report: &BrickReport) -> Space {
        let BrickReport { total_bytes, free_bytes, disk_bytes, .. } = *report;
        Space { total_bytes, free_bytes, disk_bytes }
    }

    /// Whether it can hardly take anything any more.
    fn is_full(&self) -> bool {
        is_full(self.total_bytes.max(self.disk_bytes), self.free_bytes)
    }
}

/// What is known of the bricks beside the map.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Room, of those heard of.
    pub space: BTreeMap<BrickId, Space>,
    /// Bytes that a copy of each chain takes, of those that are known.
    pub sizes: BTreeMap<ChainId, u64>,
    /// Bricks dead for so long that their chains get other members.
    pub lost: BTreeSet<BrickId>,
    /// Bricks that still have chunks to cut.
    pub owing: BTreeSet<BrickId>,
    /// Living bricks that have this map, or a later one.
    pub informed: BTreeSet<BrickId>,
    /// Pairs of bricks that can't reach each other, the lower number first.
    pub apart: BTreeSet<[BrickId; 2]>,
    /// Those of them that have been so for as long as a brick may be away.
    pub estranged: BTreeSet<[BrickId; 2]>,
}

/// Two bricks in order.
pub fn pair(a: BrickId, b: BrickId) -> [BrickId; 2] {
    if a < b { [a, b] } else { [b, a] }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one step a chain.
    pub steps: Vec<Step>,
    /// Chains that lack a member and find none, and why.
    pub stuck: Vec<(ChainId, Stuck)>,
    /// Nothing is under way, and no move would make loads more even.
    pub even: bool,
}

/// Takes a step on a copy of the chain, if it still fits. Returns whether it did.
pub fn take(
    map: &ClusterMap,
    chain: &mut Chain,
    wishes: &Wishes,
    owing: &BTreeSet<BrickId>,
    step: &Step,
) -> bool {
    match *step {
        Step::Join { epoch, brick, .. } => {
            let alive = chain.members.iter().filter(|m| is_up(m.state)).count();
            epoch == chain.epoch
                && map.bricks.get(&brick).is_some_and(|b| b.alive)
                && !wishes.draining.contains(&brick)
                && !owing.contains(&brick)
                && alive <= usize::from(map.replicas.max(1))
                && chain::joined(chain, brick)
        }
        Step::Leave { epoch, brick, .. } => epoch == chain.epoch && chain::left(chain, brick, map.replicas),
        Step::Stay { epoch, brick, .. } => epoch == chain.epoch && chain::fell_behind(chain, brick),
    }
}

fn is_up(state: MemberState) -> bool {
    matches!(state, MemberState::Serving | MemberState::Syncing | MemberState::Waiting | MemberState::Leaving)
}

/// How much a brick carries for its weight: compared as fractions.
#[derive(Debug, Clone, Copy)]
struct Burden {
    shares: u64,
    weight: u64,
}

impl Burden {
    fn cmp(&self, other: &Burden) -> Ordering {
        (self.shares * other.weight).cmp(&(other.shares * self.weight))
    }
}

/// A plan in the making.
struct Planner<'a> {
    map: &'a ClusterMap,
    wishes: &'a Wishes,
    facts: &'a Facts,
    replicas: usize,
    weight: BTreeMap<BrickId, u64>,
    /// What each chain loads a member with.
    share: BTreeMap<ChainId, u64>,
    /// What each brick will be loaded with when what is under way is done.
    load: BTreeMap<BrickId, u64>,
    /// Who will be the members of each chain then.
    stay: BTreeMap<ChainId, Vec<BrickId>>,
    /// Copies each brick takes part in making.
    syncs: BTreeMap<BrickId, u32>,
    steps: BTreeMap<ChainId, Step>,
}

/// What is to be done now.
pub fn plan(map: &ClusterMap, wishes: &Wishes, facts: &Facts) -> Plan {
    let mut planner = Planner::new(map, wishes, facts);
    let stuck = planner.replace();
    planner.spread();
    let mut even = false;
    if wishes.rebalancing {
        even = !planner.can_be_more_even();
        planner.balance();
    }
    let moving = map.chains.values().any(|c| c.syncing().chain(c.leaving()).next().is_some());
    let even = even && planner.steps.is_empty() && !moving;
    Plan { steps: planner.steps.into_values().collect(), stuck, even }
}

/// Chains that lack a member and find none.
pub fn stuck(map: &ClusterMap, wishes: &Wishes, facts: &Facts) -> Vec<(ChainId, Stuck)> {
    Planner::new(map, wishes, facts).replace()
}

impl<'a> Planner<'a> {
    /// Finds members for chains that lack some; those for which there is none.
    fn replace(&mut self) -> Vec<(ChainId, Stuck)> {
        self.leave();
        self.fill();
        self.stuck()
    }

    fn new(map: &'a ClusterMap, wishes: &'a Wishes, facts: &'a Facts) -> Self {
        let largest = facts.space.values().map(|s| s.total_bytes).max().unwrap_or(0).max(1);
        let weigh = |brick: &BrickId| {
            let Some(space) = facts.space.get(brick) else { return WEIGHTS };
            let parts = u128::from(space.total_bytes) * u128::from(WEIGHTS) + u128::from(largest / 2);
            u64::try_from(parts / u128::from(largest)).unwrap_or(WEIGHTS).clamp(1, WEIGHTS)
        };
        let mut planner = Self {
            map,
            wishes,
            facts,
            replicas: usize::from(map.replicas.max(1)),
            weight: map.bricks.keys().map(|b| (*b, weigh(b))).collect(),
            share: BTreeMap::new(),
            load: BTreeMap::new(),
            stay: BTreeMap::new(),
            syncs: BTreeMap::new(),
            steps: BTreeMap::new(),
        };
        let share_of = |chain: ChainId| {
            let size = u128::from(facts.sizes.get(&chain).copied().unwrap_or(0));
            let shares = size * u128::from(SHARES) / u128::from(largest);
            1 + u64::try_from(shares).unwrap_or(SHARES).min(SHARES)
        };
        planner.share = map.chains.keys().map(|chain| (*chain, share_of(*chain))).collect();
        for chain in map.chains.values() {
            let stays = |brick: &BrickId| planner.stays(chain, *brick);
            let stay: Vec<_> = chain.members.iter().map(|m| m.brick).filter(stays).collect();
            for brick in &stay {
                *planner.load.entry(*brick).or_default() += planner.share_of(chain.id);
            }
            planner.stay.insert(chain.id, stay);
            for member in chain.syncing() {
                planner.begin_sync(chain, member);
            }
        }
        // A chain that nobody serves stays as it is until somebody does.
        for chain in map.chains.values().filter(|c| c.head().is_some()) {
            while planner.members_of(chain.id).len() > planner.replicas {
                let Some(spared) = planner.most_spared(chain.id) else { break };
                planner.drop_from(chain.id, spared);
            }
        }
        planner
    }

    /// Whether the brick is to stay in its chains.
    fn keeps(&self, brick: BrickId) -> bool {
        !self.wishes.draining.contains(&brick) && !self.facts.lost.contains(&brick)
    }

    /// Whether the brick is to stay in the chain, as long as that has not too many members.
    fn stays(&self, chain: &Chain, brick: BrickId) -> bool {
        self.keeps(brick) && !self.is_estranged(chain, brick) && !self.is_crammed(chain, brick)
    }

    /// Whether the brick has fallen behind in the chain, and the head has long been unable to reach it.
    fn is_estranged(&self, chain: &Chain, brick: BrickId) -> bool {
        let behind = chain.state_of(brick) == Some(MemberState::Syncing);
        behind && chain.head().is_some_and(|head| self.facts.estranged.contains(&pair(head, brick)))
    }

    /// Whether the brick is being brought up to date in the chain, has no room for that, and another one has, or has come already.
    fn is_crammed(&self, chain: &Chain, brick: BrickId) -> bool {
        let others = chain.members.iter().filter(|m| m.brick != brick && is_up(m.state)).count();
        let comes = |other: BrickId| self.is_up(other) && self.could_join(other, chain);
        chain.state_of(brick) == Some(MemberState::Syncing)
            && self.facts.space.get(&brick).is_some_and(Space::is_full)
            && (others >= self.replicas || self.map.bricks.keys().any(|other| comes(*other)))
    }

    fn share_of(&self, chain: ChainId) -> u64 {
        self.share.get(&chain).copied().unwrap_or(1)
    }

    fn members_of(&self, chain: ChainId) -> &[BrickId] {
        self.stay.get(&chain).map_or(&[], Vec::as_slice)
    }

    fn drop_from(&mut self, chain: ChainId, brick: BrickId) {
        if let Some(stay) = self.stay.get_mut(&chain) {
            stay.retain(|b| *b != brick);
        }
        let share = self.share_of(chain);
        if let Some(load) = self.load.get_mut(&brick) {
            *load = load.saturating_sub(share);
        }
    }

    fn add_to(&mut self, chain: ChainId, brick: BrickId) {
        self.stay.entry(chain).or_default().push(brick);
        *self.load.entry(brick).or_default() += self.share_of(chain);
    }

    fn begin_sync(&mut self, chain: &Chain, brick: BrickId) {
        for one in chain.head().into_iter().chain([brick]) {
            *self.syncs.entry(one).or_default() += 1;
        }
    }

    fn host(&self, brick: BrickId) -> &str {
        self.map.bricks.get(&brick).map_or("", |b| b.host.as_str())
    }

    /// Whether another of `members` is in the same machine.
    fn shares_host(&self, brick: BrickId, members: &[BrickId]) -> bool {
        members.iter().any(|other| *other != brick && self.host(*other) == self.host(brick))
    }

    fn weight_of(&self, brick: BrickId) -> u64 {
        self.weight.get(&brick).copied().unwrap_or(WEIGHTS)
    }

    /// What a brick carries, twice.
    fn burden(&self, brick: BrickId) -> Burden {
        let load = self.load.get(&brick).copied().unwrap_or(0);
        Burden { shares: 2 * load, weight: self.weight_of(brick) }
    }

    /// What a brick would be relieved of without the chain, for each of its shares. The sum of the squares of
    /// loads, each by its weight, changes by this; it falls with every move that is made.
    fn relief(&self, brick: BrickId, chain: ChainId) -> Burden {
        let Burden { shares, weight } = self.burden(brick);
        Burden { shares: shares.saturating_sub(self.share_of(chain)), weight }
    }

    /// What the chain would burden it with, for each of its shares.
    fn cost(&self, brick: BrickId, chain: ChainId) -> Burden {
        let Burden { shares, weight } = self.burden(brick);
        Burden { shares: shares + self.share_of(chain), weight }
    }

    /// The member that the chain needs least, of those that are to stay: one that is leaving already. Of equals the one that
    /// has been there longest: the others may have joined to take its place.
    fn most_spared(&self, chain: ChainId) -> Option<BrickId> {
        let stay = self.members_of(chain);
        let leaves = |brick: BrickId| {
            let found = self.map.chains.get(&chain);
            found.and_then(|c| c.state_of(brick)) == Some(MemberState::Leaving)
        };
        // The last of equals is taken.
        stay.iter().rev().copied().max_by(|a, b| {
            let hosts = self.shares_host(*a, stay).cmp(&self.shares_host(*b, stay));
            leaves(*a).cmp(&leaves(*b)).then(hosts).then(self.relief(*a, chain).cmp(&self.relief(*b, chain)))
        })
    }

    /// Members that are not to stay leave when they may, one a chain.
    fn leave(&mut self) {
        for chain in self.map.chains.values() {
            let serving = chain.serving().count();
            for member in &chain.members {
                let brick = member.brick;
                if member.state == MemberState::Leaving {
                    if self.facts.informed.contains(&brick) {
                        self.go_or_stay(chain, brick);
                        break;
                    }
                    continue;
                }
                // One that is being brought up to date is a copy soon: it goes only when there
                // are enough, or when it is not wanted and others are coming.
                let hopeful = is_up(member.state) && member.state != MemberState::Serving;
                let others_come =
                    !self.stays(chain, brick) && self.members_of(chain.id).len() >= self.replicas;
                let wait = hopeful && serving < self.replicas && !others_come;
                if self.members_of(chain.id).contains(&brick) || wait {
                    continue;
                }
                if chain::left(&mut chain.clone(), brick, self.map.replicas) {
                    self.steps.insert(chain.id, Step::Leave { chain: chain.id, epoch: chain.epoch, brick });
                    break;
                }
            }
        }
    }

    /// What becomes of a member that is leaving, and knows it.
    fn go_or_stay(&mut self, chain: &Chain, brick: BrickId) {
        let (id, epoch) = (chain.id, chain.epoch);
        let wanted = self.members_of(id).contains(&brick);
        let step = if !wanted && chain::left(&mut chain.clone(), brick, self.map.replicas) {
            Step::Leave { chain: id, epoch, brick }
        } else {
            Step::Stay { chain: id, epoch, brick }
        };
        self.steps.insert(id, step);
    }

    /// Whether the chain can take a new member now.
    fn is_open(&self, chain: &Chain) -> bool {
        let up = chain.members.iter().filter(|m| is_up(m.state)).count();
        chain.head().is_some() && up <= self.replicas && !self.steps.contains_key(&chain.id)
    }

    /// What a copy of the chain takes, in bytes: unless its head has said so, what that one holds, by its chains.
    fn size_of(&self, chain: &Chain) -> u64 {
        if let Some(size) = self.facts.sizes.get(&chain.id) {
            return *size;
        }
        let used = |space: &Space| space.total_bytes.saturating_sub(space.free_bytes);
        let of_head = chain.head().and_then(|head| {
            let chains = self.map.chains_of(head).count().max(1) as u64;
            self.facts.space.get(&head).map(|space| used(space) / chains)
        });
        of_head.unwrap_or(0)
    }

    /// What members that join a brick may take of it, in bytes.
    fn room_of(space: &Space) -> u64 {
        space.free_bytes.saturating_sub(space.total_bytes / KEPT_FREE)
    }

    /// Whether the brick could become a member, sooner or later.
    fn has_room(&self, brick: BrickId, chain: &Chain) -> bool {
        self.facts.space.get(&brick).is_none_or(|space| {
            let kept = space.total_bytes / KEPT_FREE;
            // Else a member that joins a small disk would be one to be replaced at once.
            !space.is_full() && space.free_bytes >= self.size_of(chain).saturating_add(kept)
        })
    }

    fn could_join(&self, brick: BrickId, chain: &Chain) -> bool {
        self.keeps(brick)
            && chain.state_of(brick).is_none()
            && chain.head().is_none_or(|head| !self.facts.apart.contains(&pair(head, brick)))
            && self.has_room(brick, chain)
    }

    fn is_up(&self, brick: BrickId) -> bool {
        self.map.bricks.get(&brick).is_some_and(|b| b.alive && b.boot != BootId(0))
            && self.facts.space.contains_key(&brick)
    }

    /// Whether it could become one now.
    fn can_join(&self, brick: BrickId, chain: &Chain) -> bool {
        let busy = |brick| self.syncs.get(&brick).copied().unwrap_or(0) >= self.wishes.syncs_a_brick;
        self.is_up(brick)
            && self.could_join(brick, chain)
            && !self.facts.owing.contains(&brick)
            && !busy(brick)
            && !chain.head().is_none_or(busy)
    }

    fn join(&mut self, chain: &Chain, brick: BrickId) {
        self.add_to(chain.id, brick);
        self.begin_sync(chain, brick);
        self.steps.insert(chain.id, Step::Join { chain: chain.id, epoch: chain.epoch, brick });
    }

    /// The brick to join the chain next, beside `members`: on another machine if that can be
    /// had now or later.
    fn best(&self, chain: &Chain, members: &[BrickId]) -> Option<BrickId> {
        let apart = |brick: &BrickId| !self.shares_host(*brick, members);
        let all = || self.map.bricks.keys().copied();
        let lightest =
            |a: &BrickId, b: &BrickId| self.cost(*a, chain.id).cmp(&self.cost(*b, chain.id)).then(a.cmp(b));
        let now = || all().filter(|b| self.can_join(*b, chain));
        if let Some(best) = now().filter(apart).min_by(lightest) {
            return Some(best);
        }
        let later = all().any(|b| apart(&b) && self.could_join(b, chain));
        if later { None } else { now().min_by(lightest) }
    }

    /// Chains that lack members get them, the neediest first.
    fn fill(&mut self) {
        let mut short: Vec<&Chain> =
            self.map.chains.values().filter(|c| self.members_of(c.id).len() < self.replicas).collect();
        short.sort_by_key(|c| (c.serving().filter(|b| self.keeps(*b)).count(), c.id));
        for chain in short {
            if self.is_open(chain)
                && let Some(brick) = self.best(chain, self.members_of(chain.id))
            {
                self.join(chain, brick);
            }
        }
    }

    /// Why a chain that lacks a member finds none; `None`: it does, in its turn.
    fn why_stuck(&self, chain: &Chain) -> Option<Stuck> {
        if chain.head().is_none() {
            return Some(Stuck::Unserved);
        }
        let others =
            || self.map.bricks.keys().copied().filter(|b| self.keeps(*b) && chain.state_of(*b).is_none());
        if others().next().is_none() {
            return Some(Stuck::NoBrick);
        }
        if !others().any(|b| self.has_room(b, chain)) {
            let most_bytes = others().filter_map(|b| self.facts.space.get(&b)).map(Self::room_of).max();
            let needed_bytes = self.size_of(chain);
            return Some(Stuck::NoRoom { most_bytes: most_bytes.unwrap_or(0), needed_bytes });
        }
        (!others().any(|b| self.is_up(b) && self.has_room(b, chain))).then_some(Stuck::Away)
    }

    /// Chains that lack a member and find none.
    fn stuck(&self) -> Vec<(ChainId, Stuck)> {
        let lacks =
            |c: &&Chain| self.members_of(c.id).len() < self.replicas && !self.steps.contains_key(&c.id);
        let lacking = self.map.chains.values().filter(lacks);
        lacking.filter_map(|chain| Some((chain.id, self.why_stuck(chain)?))).collect()
    }

    /// Whether the chain is as it should be and nothing is under way in it.
    fn is_at_rest(&self, chain: &Chain) -> bool {
        self.is_open(chain)
            && chain.members.len() == self.replicas
            && self.members_of(chain.id).len() == self.replicas
            && chain.members.iter().all(|m| m.state == MemberState::Serving)
    }

    /// Members in one machine are separated where there is another machine.
    fn spread(&mut self) {
        for chain in self.map.chains.values() {
            let stay = self.members_of(chain.id).to_vec();
            let crowded = stay.iter().any(|b| self.shares_host(*b, &stay));
            if !crowded || !self.is_at_rest(chain) {
                continue;
            }
            let now = self.map.bricks.keys().copied().filter(|b| self.can_join(*b, chain));
            let apart = now.filter(|b| !self.shares_host(*b, &stay));
            let lightest = |a: &BrickId, b: &BrickId| {
                self.cost(*a, chain.id).cmp(&self.cost(*b, chain.id)).then(a.cmp(b))
            };
            if let Some(brick) = apart.min_by(lightest) {
                self.join(chain, brick);
                // Who leaves is decided as it will be when the new one is up to date.
                if let Some(spared) = self.most_spared(chain.id) {
                    self.drop_from(chain.id, spared);
                }
            }
        }
    }

    /// Whether moving the chain's member `from` to brick `to` is right by machines.
    fn fits(&self, chain: &Chain, from: BrickId, to: BrickId) -> bool {
        let others: Vec<_> = self.members_of(chain.id).iter().copied().filter(|b| *b != from).collect();
        // The new member crowds no machine more than the old one did, and when it is there the
        // old one is spared before others.
        let crowded = self.shares_host(from, &others);
        crowded || (!self.shares_host(to, &others) && !others.iter().any(|b| self.shares_host(*b, &others)))
    }

    /// The chain that holds most of those to move from the first brick to the second, if `may` lets it.
    fn movable(&self, from: BrickId, to: BrickId, may: impl Fn(&Self, &Chain) -> bool) -> Option<&'a Chain> {
        let helps = |chain: &&Chain| {
            chain.state_of(from).is_some()
                && self.members_of(chain.id).contains(&from)
                && self.cost(to, chain.id).cmp(&self.relief(from, chain.id)) == Ordering::Less
                && self.fits(chain, from, to)
                && may(self, chain)
        };
        let size = |chain: &&Chain| (self.share_of(chain.id), std::cmp::Reverse(chain.id));
        self.map.chains.values().filter(helps).max_by_key(size)
    }

    /// The move that makes loads most even, if `may` lets it.
    fn best_move(
        &self,
        may: impl Fn(&Self, &Chain, BrickId) -> bool,
    ) -> Option<(&'a Chain, BrickId, BrickId)> {
        let mut from: Vec<_> = self.map.bricks.keys().copied().filter(|b| self.keeps(*b)).collect();
        let mut to = from.clone();
        from.sort_by(|a, b| self.burden(*b).cmp(&self.burden(*a)).then(a.cmp(b)));
        to.sort_by(|a, b| self.burden(*a).cmp(&self.burden(*b)).then(a.cmp(b)));
        from.iter().find_map(|from| {
            to.iter().find_map(|to| {
                self.movable(*from, *to, |planner, chain| may(planner, chain, *to))
                    .map(|chain| (chain, *from, *to))
            })
        })
    }

    fn can_be_more_even(&self) -> bool {
        let may = |planner: &Self, chain: &Chain, to| {
            chain.head().is_some() && planner.is_up(to) && planner.could_join(to, chain)
        };
        self.best_move(may).is_some()
    }

    /// Moves members from bricks with more than their share to those with less.
    fn balance(&mut self) {
        while let Some((chain, from, to)) =
            self.best_move(|planner, chain, to| planner.is_at_rest(chain) && planner.can_join(to, chain))
        {
            self.join(chain, to);
            self.drop_from(chain.id, from);
        }
    }
}
