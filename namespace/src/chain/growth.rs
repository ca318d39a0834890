//! When new chains are made, and of which bricks: at the birth of a cluster, and when a brick joins it.
//!
//! A chain is moved as a whole, so there are several of each group of bricks where there are few bricks: what is in them can be
//! spread over many more later. Chains are never taken away, since files are laid out by them; new ones are empty, so they
//! cost nothing, and which of all chains new files go to is for [`super::tables`] to say.
//!
//! 1. No chains are made before there are bricks enough for all copies
//!    (`a_cluster_is_born_when_there_are_enough`).
//! 2. Members of a new chain are in different machines where there are enough; every brick is head about as often as any other,
//!    and shares its chains with as many others as can be, so that the load and the repair of a lost one fall on many
//!    (`new_chains_are_sound`).
//! 3. Making chains leaves none due (`growth_ends`).
//! 4. There are never more than [`MOST_CHAINS_A_BRICK`] for each brick by growth: bricks that join then get their share by moving
//!    members instead ([`super::plan`], `growth_ends`).

use std::collections::{BTreeMap, BTreeSet};

use wire::id::BrickId;
use wire::map::ClusterMap;
use wire::meta::Wishes;

/// Chains each brick is head of at the birth of a cluster.
pub const HEADS_A_BRICK: usize = 4;
/// From so many chains on for each brick no more are made.
pub const MOST_CHAINS_A_BRICK: usize = 4 * HEADS_A_BRICK;

/// The chains that are to be made, each with its members, the head first.
pub fn due(map: &ClusterMap, wishes: &Wishes) -> Vec<Vec<BrickId>> {
    let usable: Vec<_> = map
        .bricks
        .values()
        .filter(|b| b.alive && !wishes.draining.contains(&b.id))
        .map(|b| (b.id, b.host.as_str()))
        .collect();
    // Those that the administrator wants there, or else machines enough for the copies.
    let is_born = !map.chains.is_empty()
        || if wishes.birth_bricks == 0 {
            let hosts: BTreeSet<&str> = usable.iter().map(|(_, host)| *host).collect();
            hosts.len() >= usize::from(map.replicas)
        } else {
            usable.len() >= wishes.birth_bricks as usize
        };
    if is_born { of(map, &usable) } else { Vec::new() }
}

/// The chains that are to be made of these bricks, however few machines they are in: of all of them if there are no chains
/// yet, else for those that are in none.
pub fn of(map: &ClusterMap, bricks: &[(BrickId, &str)]) -> Vec<Vec<BrickId>> {
    let replicas = usize::from(map.replicas.max(1));
    if bricks.len() < replicas {
        Vec::new()
    } else if map.chains.is_empty() {
        at_birth(bricks, replicas)
    } else {
        for_newcomers(map, bricks, replicas)
    }
}

/// All chains of a new cluster, in the order of its table: the first of every head before the second of any.
fn at_birth(bricks: &[(BrickId, &str)], replicas: usize) -> Vec<Vec<BrickId>> {
    let mut matcher = Matcher::new(bricks);
    let order = matcher.order.clone();
    (0..HEADS_A_BRICK).flat_map(|_| order.clone()).map(|head| matcher.group(head, replicas)).collect()
}

/// Chains for bricks that are in none, as many for each as one has at birth.
fn for_newcomers(map: &ClusterMap, usable: &[(BrickId, &str)], replicas: usize) -> Vec<Vec<BrickId>> {
    let mut matcher = Matcher::new(usable);
    for chain in map.chains.values() {
        let members: Vec<BrickId> = chain.members.iter().map(|m| m.brick).collect();
        matcher.count(&members);
    }
    let mut groups = Vec::new();
    for (brick, _) in usable.iter().filter(|(brick, _)| map.chains_of(*brick).next().is_none()) {
        for nth in 0..HEADS_A_BRICK * replicas {
            if map.chains.len() + groups.len() >= MOST_CHAINS_A_BRICK * usable.len() {
                return groups;
            }
            let mut group = matcher.group(*brick, replicas);
            group.rotate_left(nth % replicas);
            groups.push(group);
        }
    }
    groups
}

/// Finds partners for bricks.
struct Matcher<'a> {
    /// So that neighbours are in different machines.
    order: Vec<BrickId>,
    hosts: BTreeMap<BrickId, &'a str>,
    /// In how many chains each is.
    chains: BTreeMap<BrickId, usize>,
    /// In how many each two are together, the lower number first.
    together: BTreeMap<[BrickId; 2], usize>,
}

impl<'a> Matcher<'a> {
    fn new(bricks: &[(BrickId, &'a str)]) -> Self {
        let mut by_host: BTreeMap<&str, Vec<BrickId>> = BTreeMap::new();
        for (brick, host) in bricks {
            by_host.entry(host).or_default().push(*brick);
        }
        let mut order = Vec::with_capacity(bricks.len());
        for round in 0.. {
            let before = order.len();
            order.extend(by_host.values().filter_map(|list| list.get(round)));
            if order.len() == before {
                break;
            }
        }
        Self {
            order,
            hosts: bricks.iter().copied().collect(),
            chains: BTreeMap::new(),
            together: BTreeMap::new(),
        }
    }

    fn count(&mut self, group: &[BrickId]) {
        for (nth, one) in group.iter().enumerate() {
            *self.chains.entry(*one).or_default() += 1;
            for other in &group[nth + 1..] {
                *self.together.entry(super::plan::pair(*one, *other)).or_default() += 1;
            }
        }
    }

    /// A chain of `replicas` bricks, of which there are as many, with this head; it is counted.
    fn group(&mut self, head: BrickId, replicas: usize) -> Vec<BrickId> {
        let at = self.order.iter().position(|brick| *brick == head).unwrap_or(0);
        let mut group = vec![head];
        while group.len() < replicas {
            let after = (1..self.order.len()).map(|step| self.order[(at + step) % self.order.len()]);
            let next = after.filter(|brick| !group.contains(brick)).min_by_key(|brick| {
                let same_host =
                    group.iter().filter(|other| self.hosts.get(other) == self.hosts.get(brick)).count();
                let met = |other: &BrickId| {
                    self.together.get(&super::plan::pair(*brick, *other)).copied().unwrap_or(0)
                };
                let met: usize = group.iter().map(met).sum();
                (same_host, met, self.chains.get(brick).copied().unwrap_or(0))
            });
            match next {
                Some(next) => group.push(next),
                None => break,
            }
        }
        self.count(&group);
        group
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(machines: usize, of_each: impl Fn(usize) -> usize) -> Vec<(BrickId, String)> {
        let hosts = (0..machines).flat_map(|host| std::iter::repeat_n(host, of_each(host)));
        (0..).zip(hosts).map(|(id, host)| (BrickId(id), format!("host{host}"))).collect()
    }

    fn born(bricks: &[(BrickId, String)], replicas: usize) -> Vec<Vec<BrickId>> {
        let bricks: Vec<_> = bricks.iter().map(|(id, host)| (*id, host.as_str())).collect();
        at_birth(&bricks, replicas)
    }

    proptest! {
        #[test]
        fn new_chains_are_sound(sizes in prop::collection::vec(1usize..5, 1..8), replicas in 1usize..4) {
            let bricks = named(sizes.len(), |host| sizes[host]);
            prop_assume!(bricks.len() >= replicas);
            let hosts: BTreeMap<_, _> = bricks.iter().cloned().collect();
            let chains = born(&bricks, replicas);
            for chain in &chains {
                let members: BTreeSet<_> = chain.iter().collect();
                prop_assert_eq!(members.len(), replicas);
                let apart: BTreeSet<_> = chain.iter().map(|brick| &hosts[brick]).collect();
                prop_assert_eq!(apart.len(), replicas.min(sizes.len()));
            }
            for (brick, _) in &bricks {
                prop_assert_eq!(chains.iter().filter(|chain| chain[0] == *brick).count(), HEADS_A_BRICK);
            }
        }

        /// In machines of equal size all bricks are in about as many chains.
        #[test]
        fn even_machines_share_evenly(machines in 1usize..12, a_machine in 1usize..5, replicas in 1usize..4) {
            prop_assume!(machines >= replicas);
            let bricks = named(machines, |_| a_machine);
            let chains = born(&bricks, replicas);
            for (brick, _) in &bricks {
                let count = chains.iter().filter(|chain| chain.contains(brick)).count();
                let fair = HEADS_A_BRICK * replicas;
                prop_assert!(count.abs_diff(fair) <= replicas, "{} is in {}, not {}", brick, count, fair);
            }
        }
    }

    /// Six bricks in pairs: each is head as often, and a lost one is covered by all others.
    #[test]
    fn six_bricks_share_the_load() {
        let bricks = named(1, |_| 6);
        let chains = born(&bricks, 2);
        for (brick, _) in &bricks {
            let partners: BTreeSet<_> = chains.iter().filter(|c| c.contains(brick)).flatten().collect();
            assert_eq!(partners.len(), 6, "{brick} and its partners");
        }
    }
}
