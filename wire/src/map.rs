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
//! 6. The table that is current exists, and there is one if there are any.

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
    /// Chain tables files are laid out by. Never changed once a file uses one.
    pub tables: BTreeMap<TableVersion, Vec<ChainId>>,
    /// Sessions that may change nothing any more, and since which epoch.
    pub blocked: EndedSessions,
    /// The table that new files are laid out by.
    pub current: Option<TableVersion>,
    /// Numbers of inodes that were given are below this; 0: it is not known how far they go.
    pub inodes_below: u64,
    /// A number that whoever began to lead last has drawn: a state that is set back has other maps from then on, also of the same epochs
    /// and with the same in them.
    pub reign: u64,
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
            current: None,
            inodes_below: 0,
            reign: 0,
        }
    }

    /// The table new files are laid out by, if there are chains yet.
    pub fn current_table(&self) -> Option<&[ChainId]> {
        self.tables.get(&self.current?).map(Vec::as_slice)
    }

    /// Adds a table, and has new files laid out by it.
    pub fn add_table(&mut self, chains: Vec<ChainId>) {
        let version = TableVersion(self.tables.keys().next_back().map_or(0, |last| last.0 + 1));
        self.tables.insert(version, chains);
        self.current = Some(version);
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
        if self.current_table().is_none() && !self.tables.is_empty() {
            return Err(format!("the table for new files, {:?}, does not exist", self.current));
        }
        Ok(())
    }
}
