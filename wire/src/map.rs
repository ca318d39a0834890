//! The cluster map: which bricks exist, how they form chains, who of them serves.
//!
//! Only the namespace changes the map; everybody else holds a copy and says with each
//! call which epoch it is at. Invariants, asserted by [`ClusterMap::verify`]:
//!
//! 1. Members of a chain are distinct bricks of the map.
//! 2. Serving members stand before all others, so the first one is the head.
//! 3. A chain has at most one last-serving member, and then no serving one.
//! 4. Every chain of a table exists.
//! 5. A member leaves only where another one serves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ended::EndedSessions;
use crate::id::{BootId, BrickId, ChainEpoch, ChainId, ClusterId, MapEpoch, NodeId, StoreId};
use crate::layout::TableVersion;
use crate::net::Endpoint;

/// State of one brick in one chain (after 3FS, whose public target states these are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// Holds everything acknowledged; takes reads and writes.
    Serving,
    /// Takes every new write and is being given what it missed; no reads.
    Syncing,
    /// Alive and behind, while nobody can bring it up to date.
    Waiting,
    /// Gone, and the last one that held everything: the chain waits for it.
    LastServing,
    /// Gone.
    Offline,
    /// About to stop being one that holds everything: clients do not read from it any more, but every change waits for it
    /// until it is known to know that. Whoever reads there by an older map so misses nothing that was acknowledged.
    Leaving,
}

/// One place in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The brick.
    pub brick: BrickId,
    /// What it may do.
    pub state: MemberState,
}

/// An ordered group of bricks that hold the same chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its number.
    pub id: ChainId,
    /// Grows with every change of `members`.
    pub epoch: ChainEpoch,
    /// Serving members first.
    pub members: Vec<Member>,
}

impl Chain {
    /// The member that orders writes: the first serving one, if any serves.
    pub fn head(&self) -> Option<BrickId> {
        self.serving().next()
    }

    /// Members that hold everything acknowledged, head first.
    pub fn serving(&self) -> impl Iterator<Item = BrickId> + '_ {
        self.with_state(MemberState::Serving)
    }

    /// Members that are being brought up to date.
    pub fn syncing(&self) -> impl Iterator<Item = BrickId> + '_ {
        self.with_state(MemberState::Syncing)
    }

    /// Members that clients read from no more, and that changes wait for until they know it.
    pub fn leaving(&self) -> impl Iterator<Item = BrickId> + '_ {
        self.with_state(MemberState::Leaving)
    }

    /// What `brick` may do in this chain, if it is a member.
    pub fn state_of(&self, brick: BrickId) -> Option<MemberState> {
        self.members.iter().find(|m| m.brick == brick).map(|m| m.state)
    }

    fn with_state(&self, state: MemberState) -> impl Iterator<Item = BrickId> + '_ {
        self.members.iter().filter(move |m| m.state == state).map(|m| m.brick)
    }
}

/// What everybody must know of a brick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrickInfo {
    /// Its number.
    pub id: BrickId,
    /// The contents it was registered with; another one under the same number is a replaced disk.
    pub store: StoreId,
    /// The holder of the certificate that serves it.
    pub node: NodeId,
    /// The machine it is in, as people call it: members of a chain are on different ones
    /// where there are enough.
    pub host: String,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// Its present life; 0 when it has not reported since the namespace came up.
    pub boot: BootId,
    /// The namespace hears from it.
    pub alive: bool,
}

/// The whole map. Versioned by `epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Whose map it is.
    pub cluster: ClusterId,
    /// Grows with every change.
    pub epoch: MapEpoch,
    /// Replicas each new chain gets.
    pub replicas: u8,
    /// All bricks, dead ones too.
    pub bricks: BTreeMap<BrickId, BrickInfo>,
    /// All chains.
    pub chains: BTreeMap<ChainId, Chain>,
    /// Chain tables files are laid out by. Never changed once a file uses one; the last is
    /// for new files.
    pub tables: BTreeMap<TableVersion, Vec<ChainId>>,
    /// Sessions that may change nothing any more, and since which epoch.
    pub blocked: EndedSessions,
}

impl ClusterMap {
    /// A map of a cluster without bricks.
    pub fn new(cluster: ClusterId, replicas: u8) -> Self {
        Self {
            cluster,
            epoch: MapEpoch(1),
            replicas,
            bricks: BTreeMap::new(),
            chains: BTreeMap::new(),
            tables: BTreeMap::new(),
            blocked: EndedSessions::default(),
        }
    }

    /// The table new files are laid out by, if there are chains yet.
    pub fn current_table(&self) -> Option<TableVersion> {
        self.tables.keys().next_back().copied()
    }

    /// Where a brick answers.
    pub fn endpoint_of(&self, brick: BrickId) -> Option<&Endpoint> {
        self.bricks.get(&brick).map(|b| &b.endpoint)
    }

    /// Chains that `brick` is a member of.
    pub fn chains_of(&self, brick: BrickId) -> impl Iterator<Item = &Chain> + '_ {
        self.chains.values().filter(move |c| c.state_of(brick).is_some())
    }

    /// Checks the invariants of the module's head.
    ///
    /// # Errors
    /// The first rule that does not hold, in words.
    pub fn verify(&self) -> Result<(), String> {
        for chain in self.chains.values() {
            let mut seen = std::collections::BTreeSet::new();
            let mut serving_over = false;
            for member in &chain.members {
                if !self.bricks.contains_key(&member.brick) {
                    return Err(format!("chain {}: brick {} is not in the map", chain.id, member.brick));
                }
                if !seen.insert(member.brick) {
                    return Err(format!("chain {}: brick {} stands in it twice", chain.id, member.brick));
                }
                match member.state {
                    MemberState::Serving if serving_over => {
                        return Err(format!("chain {}: a serving member behind another state", chain.id));
                    }
                    MemberState::Serving => {}
                    _ => serving_over = true,
                }
            }
            let last = chain.members.iter().filter(|m| m.state == MemberState::LastServing).count();
            if last > 1 || (last == 1 && chain.head().is_some()) {
                return Err(format!("chain {}: last-serving beside a serving member", chain.id));
            }
            if chain.head().is_none() && chain.leaving().next().is_some() {
                return Err(format!("chain {}: a member leaves though nobody serves", chain.id));
            }
        }
        for (table, chains) in &self.tables {
            if let Some(missing) = chains.iter().find(|c| !self.chains.contains_key(c)) {
                return Err(format!("table {}: chain {missing} does not exist", table.0));
            }
        }
        Ok(())
    }
}

/// Groups bricks into chains of `replicas`, several a brick, so that a lost brick's load and
/// rebuild fall on many others and every brick is head about as often as any other.
///
/// `hosts` gives each brick's machine; members of a chain are on different machines where
/// there are at least `replicas` machines. The order of the result is the order of a table.
/// A cyclic design: for each distance d, chains (i, i+d, i+2d, ...) with the bricks ordered
/// so that neighbours are on different machines.
pub fn plan_chains(bricks: &[(BrickId, String)], replicas: u8) -> Vec<Vec<BrickId>> {
    /// Chains each brick is head of, at most.
    const HEADS_A_BRICK: usize = 3;
    let n = bricks.len();
    let r = usize::from(replicas.max(1));
    if n == 0 || n < r {
        return Vec::new();
    }
    if r == 1 {
        return bricks.iter().map(|(b, _)| vec![*b]).collect();
    }
    // Deal the machines out in turn, so that neighbours in `order` differ in machine.
    let mut by_host: BTreeMap<&str, Vec<BrickId>> = BTreeMap::new();
    for (brick, host) in bricks {
        by_host.entry(host).or_default().push(*brick);
    }
    let host_of: BTreeMap<BrickId, &str> = bricks.iter().map(|(b, h)| (*b, h.as_str())).collect();
    let enough_hosts = by_host.len() >= r;
    let mut order = Vec::with_capacity(n);
    let mut round = 0;
    while order.len() < n {
        order.extend(by_host.values().filter_map(|list| list.get(round)));
        round += 1;
    }
    let mut chains: Vec<Vec<BrickId>> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for start in 0..n {
        let mut heads = 0;
        for distance in 1..n {
            if heads == HEADS_A_BRICK {
                break;
            }
            let chain: Vec<BrickId> = (0..r).map(|k| order[(start + k * distance) % n]).collect();
            let mut group = chain.clone();
            group.sort_unstable();
            group.dedup();
            let mut machines: Vec<&str> = group.iter().map(|b| host_of[b]).collect();
            machines.sort_unstable();
            machines.dedup();
            if group.len() < r || (enough_hosts && machines.len() < r) || !seen.insert(group) {
                continue;
            }
            chains.push(chain);
            heads += 1;
        }
    }
    // Spread heads over the table: chain k of every brick before chain k+1 of any.
    let mut dealt: Vec<(usize, usize, Vec<BrickId>)> = Vec::with_capacity(chains.len());
    let mut count: BTreeMap<BrickId, usize> = BTreeMap::new();
    for (at, chain) in chains.into_iter().enumerate() {
        let nth = count.entry(chain[0]).or_default();
        dealt.push((*nth, at, chain));
        *nth += 1;
    }
    dealt.sort_unstable_by_key(|(nth, at, _)| (*nth, *at));
    dealt.into_iter().map(|(_, _, chain)| chain).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Chains have distinct members, on distinct machines where there are enough, and
        /// every brick is in one.
        #[test]
        fn planned_chains_are_sound(machines in 1usize..8, a_machine in 1usize..5, replicas in 1u8..4) {
            let bricks: Vec<_> = (0..machines * a_machine)
                .map(|i| (BrickId(i as u32), format!("host{}", i / a_machine)))
                .collect();
            let chains = plan_chains(&bricks, replicas);
            if bricks.len() < usize::from(replicas) {
                prop_assert!(chains.is_empty());
                return Ok(());
            }
            for chain in &chains {
                let mut members = chain.clone();
                members.sort_unstable();
                members.dedup();
                prop_assert_eq!(members.len(), usize::from(replicas));
                if machines >= usize::from(replicas) {
                    let mut hosts: Vec<_> = members.iter().map(|b| b.0 as usize / a_machine).collect();
                    hosts.dedup();
                    prop_assert_eq!(hosts.len(), usize::from(replicas));
                }
            }
            for (brick, _) in &bricks {
                prop_assert!(chains.iter().any(|c| c.contains(brick)), "{brick} is in no chain");
            }
        }
    }

    /// Six bricks in pairs: each is head equally often, and a lost one is covered by several.
    #[test]
    fn six_bricks_share_the_load() {
        let bricks: Vec<_> = (0..6).map(|i| (BrickId(i), "one".to_owned())).collect();
        let chains = plan_chains(&bricks, 2);
        for (brick, _) in &bricks {
            let heads = chains.iter().filter(|c| c[0] == *brick).count();
            assert!((2..=3).contains(&heads), "{brick} is head of {heads}");
            let mut partners: Vec<_> =
                chains.iter().filter(|c| c.contains(brick)).flatten().filter(|b| *b != brick).collect();
            partners.sort_unstable();
            partners.dedup();
            assert!(partners.len() >= 3, "{brick} has {} partners", partners.len());
        }
    }
}
