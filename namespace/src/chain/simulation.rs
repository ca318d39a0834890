//! Histories of a cluster under the law: bricks die, come back, restart, lose their disks, are
//! drained and asked for balance, while members join, are brought up to date and leave. Two
//! phases: faults first, then they stop and everything has to come right. An oracle knows
//! what each disk holds. Seeded: a failure names its seed, and `BRICKYARD_SEED` repeats it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use wire::id::{BootId, BrickId, ChainEpoch, ChainId};
use wire::map::{ClusterMap, MemberState};
use wire::meta::Wishes;

use super::plan::{Facts, plan, take};
use super::plan_tests::{cluster, facts};
use super::*;

/// A small generator of numbers that look random (SplitMix64, as published by Steele, Lea and
/// Flood in 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

struct World {
    dice: Dice,
    /// Faults have stopped.
    is_fair: bool,
    map: ClusterMap,
    wishes: Wishes,
    facts: Facts,
    /// Last write of each chain that was acknowledged.
    written: BTreeMap<ChainId, u64>,
    /// Last write that each disk holds, without a gap before it.
    held: BTreeMap<(BrickId, ChainId), u64>,
    /// A report that a member is up to date which is still on its way.
    late: Option<(ChainId, ChainEpoch, BrickId)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let bricks = 4 + dice.below(4) as u32;
        let a_host = 1 + dice.below(2) as u32;
        let replicas = 1 + dice.below(3) as u8;
        let hosts: Vec<u32> = (0..bricks).map(|b| b / a_host).collect();
        let map = cluster(&hosts, replicas);
        let mut facts = facts(&map);
        // Some are as good as empty.
        facts.sizes =
            map.chains.keys().map(|chain| (*chain, (dice.below(8) as u64).saturating_sub(4) << 30)).collect();
        let written = map.chains.keys().map(|c| (*c, 0)).collect();
        let held = map.chains.values().flat_map(|c| c.members.iter().map(|m| ((m.brick, c.id), 0))).collect();
        Self { dice, is_fair: false, map, wishes: Wishes::new(0), facts, written, held, late: None }
    }

    fn any_brick(&mut self) -> BrickId {
        BrickId(self.dice.below(self.map.bricks.len()) as u32)
    }

    fn is_up(&self, brick: BrickId) -> bool {
        self.map.bricks[&brick].alive
    }

    fn each_chain(&mut self, mut event: impl FnMut(&mut Chain) -> bool) {
        for chain in self.map.chains.values_mut() {
            let before = (chain.members.clone(), chain.epoch);
            event(chain);
            assert!(chain.members == before.0 || chain.epoch > before.1, "epoch of a changed chain");
        }
    }

    fn die(&mut self, brick: BrickId) {
        self.map.bricks.get_mut(&brick).unwrap().alive = false;
        self.each_chain(|chain| gone(chain, brick));
    }

    fn come_back(&mut self, brick: BrickId) {
        let info = self.map.bricks.get_mut(&brick).unwrap();
        info.alive = true;
        info.boot = BootId(info.boot.0 + 1);
        self.facts.lost.remove(&brick);
        self.each_chain(|chain| back(chain, brick));
    }

    /// The disk is replaced by an empty one.
    fn replace(&mut self, brick: BrickId) {
        self.map.bricks.get_mut(&brick).unwrap().alive = true;
        self.facts.lost.remove(&brick);
        for ((b, _), held) in &mut self.held {
            if *b == brick {
                *held = 0;
            }
        }
        let mut heirs = Vec::new();
        self.each_chain(|chain| {
            if replaced(chain, brick) == Replaced::Lost {
                let has_all =
                    |m: &&Member| matches!(m.state, MemberState::Serving | MemberState::LastServing);
                heirs.push((chain.id, chain.members.iter().find(has_all).unwrap().brick));
            }
            true
        });
        // What the heir has is everything from now on.
        for (chain, heir) in heirs {
            let held = self.held.get(&(heir, chain)).copied().unwrap_or_default();
            self.held.insert((heir, chain), held);
            self.written.insert(chain, held);
        }
    }

    fn write(&mut self) {
        let chain = &self.map.chains[&ChainId(1 + self.dice.below(self.map.chains.len()) as u32)];
        if chain.head().is_some() {
            let written = self.written.get_mut(&chain.id).unwrap();
            *written += 1;
            for brick in chain.serving().chain(chain.leaving()) {
                self.held.insert((brick, chain.id), *written);
            }
        }
    }

    /// A member is brought up to date; sometimes the head's word of it arrives later.
    fn sync(&mut self, at_once: bool) {
        let syncing: Vec<_> = self
            .map
            .chains
            .values()
            .flat_map(|c| c.syncing().map(|b| (c.id, c.epoch, b)).collect::<Vec<_>>())
            .collect();
        if syncing.is_empty() {
            return;
        }
        let word = syncing[self.dice.below(syncing.len())];
        if !at_once && self.dice.below(4) == 0 {
            self.late = Some(word);
            return;
        }
        let (id, epoch, brick) = word;
        // Writes reach a syncing member from its joining on, so it has everything now.
        self.held.insert((brick, id), self.written[&id]);
        assert_eq!(sync_done(self.map.chains.get_mut(&id).unwrap(), epoch, brick), Ok(true));
    }

    /// A word of an earlier epoch declares nobody up to date.
    fn deliver_late(&mut self) {
        let Some((id, epoch, brick)) = self.late.take() else { return };
        let chain = self.map.chains.get_mut(&id).unwrap();
        let was = chain.state_of(brick);
        if chain.epoch != epoch {
            let done = sync_done(chain, epoch, brick);
            assert!(done != Ok(true), "an old word made {brick} serve");
            assert_eq!(chain.state_of(brick), was);
        } else if sync_done(chain, epoch, brick) == Ok(true) {
            self.held.insert((brick, id), self.written[&id]);
        }
    }

    /// Plans and takes the steps, unless they are "lost on the way".
    fn plan(&mut self) -> usize {
        let alive: Vec<_> = self.map.bricks.values().filter(|b| b.alive).map(|b| b.id).collect();
        let slow = if self.is_fair { 0 } else { 3 };
        self.facts.informed = alive.into_iter().filter(|_| self.dice.below(10) >= slow).collect();
        let planned = plan(&self.map, &self.wishes, &self.facts);
        for step in &planned.steps {
            let mut chain = self.map.chains[&step.chain()].clone();
            let up_to_date = chain.serving().count();
            assert!(take(&self.map, &mut chain, &self.wishes, &self.facts.owing, step), "{step:?} {chain:?}");
            let wanted = usize::from(self.map.replicas);
            assert!(chain.serving().count() >= up_to_date.min(wanted), "{step:?} took a copy of {chain:?}");
            self.map.chains.insert(chain.id, chain);
        }
        if planned.even {
            self.wishes.rebalancing = false;
        }
        planned.steps.len()
    }

    fn fault(&mut self) {
        let brick = self.any_brick();
        match self.dice.below(40) {
            0..6 if self.is_up(brick) => self.die(brick),
            6..12 if !self.is_up(brick) => self.come_back(brick),
            12 if self.is_up(brick) => {
                let stayed = self.map.bricks.values().filter(|b| b.alive && b.id != brick).map(|b| b.id);
                let stayed: BTreeSet<_> = stayed.collect();
                self.each_chain(|chain| restarted(chain, brick, &stayed));
            }
            13 if self.dice.below(8) == 0 => self.replace(brick),
            14 if !self.is_up(brick) => {
                self.facts.lost.insert(brick);
            }
            15 => {
                if !self.wishes.draining.remove(&brick) && self.wishes.draining.len() < 2 {
                    self.wishes.draining.insert(brick);
                }
            }
            16 => self.wishes.rebalancing = !self.wishes.rebalancing,
            17 => self.deliver_late(),
            18 if self.dice.below(4) == 0 => self.step_back(),
            18 => self.cut_off(),
            19..24 => self.sync(false),
            24..28 => {
                self.plan();
            }
            _ => self.write(),
        }
    }

    /// Some head can't reach a member.
    fn cut_off(&mut self) {
        let (brick, of_head) = (self.any_brick(), self.dice.below(3) == 0);
        self.each_chain(|chain| {
            let Some(head) = chain.head() else { return false };
            cut_off(chain, head, brick, if of_head { head } else { brick })
        });
    }

    /// Some brick can't be reached by anybody.
    fn step_back(&mut self) {
        let brick = self.any_brick();
        self.each_chain(|chain| steps_back(chain, brick));
    }

    fn check(&self) {
        self.map.verify().unwrap();
        for chain in self.map.chains.values() {
            for brick in chain.serving() {
                let held = self.held.get(&(brick, chain.id)).copied();
                assert_eq!(held, Some(self.written[&chain.id]), "{brick} serves chain {}", chain.id);
            }
            // Whatever happened, somebody that is a member still has everything.
            let kept = chain
                .members
                .iter()
                .any(|m| self.held.get(&(m.brick, chain.id)) == Some(&self.written[&chain.id]));
            assert!(kept, "nobody has all of chain {}", chain.id);
            assert!(chain.members.len() <= 2 * usize::from(self.map.replicas) + 1, "{chain:?}");
        }
    }

    /// Faults stop: everything comes right, and then nothing moves any more.
    fn heal(&mut self) {
        self.is_fair = true;
        for brick in self.map.bricks.keys().copied().collect::<Vec<_>>() {
            if !self.is_up(brick) {
                self.come_back(brick);
            }
        }
        let mut quiet = 0;
        for _ in 0..10_000 {
            let steps = self.plan();
            let moving = self.map.chains.values().any(|c| c.syncing().chain(c.leaving()).next().is_some());
            self.sync(true);
            self.check();
            quiet = if steps == 0 && !moving { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
        }
        assert_eq!(quiet, 2, "it does not end");
        self.is_fair = false;
        let keeps = |b: &&wire::map::BrickInfo| !self.wishes.draining.contains(&b.id);
        let wanted = usize::from(self.map.replicas);
        let keepers = self.map.bricks.values().filter(keeps).count();
        let hosts: BTreeSet<_> = self.map.bricks.values().filter(keeps).map(|b| b.host.clone()).collect();
        for chain in self.map.chains.values() {
            assert!(chain.members.iter().all(|m| m.state == MemberState::Serving), "{chain:?}");
            assert_eq!(chain.members.len(), wanted, "{chain:?}");
            if keepers < wanted {
                continue;
            }
            assert!(chain.serving().all(|b| !self.wishes.draining.contains(&b)), "{chain:?}");
            let apart: BTreeSet<_> = chain.serving().map(|b| self.map.bricks[&b].host.clone()).collect();
            assert!(apart.len() == wanted.min(hosts.len()), "{chain:?} of {hosts:?}");
        }
    }
}

/// See the module's head, and the invariants of [`super::plan`].
#[test]
fn histories_keep_every_copy() {
    let given = std::env::var("BRICKYARD_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = given.map_or(0..1500, |seed| seed..seed + 1);
    for seed in seeds {
        let history = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for round in 0..3 {
                for _ in 0..150 {
                    world.fault();
                    world.check();
                }
                world.heal();
                if round == 1 {
                    world.wishes.draining.clear();
                    world.wishes.rebalancing = true;
                    world.heal();
                }
            }
        });
        assert!(history.is_ok(), "BRICKYARD_SEED={seed} repeats it");
    }
}
