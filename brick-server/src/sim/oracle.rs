//! Who may see what: every cell of a chunk is written by one client with growing numbers, or by all in turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use wire::brick::Again;
use wire::chunk::ChunkKey;
use wire::durability::Holders;
use wire::id::{BrickId, ChunkVersion};

use crate::brick::lock;
use crate::sim::world::World;

/// A cell: its chunk and its place there.
pub type CellId = (ChunkKey, u32);
/// Place of the cell in every chunk that all write.
pub const SHARED: u32 = 2000;

#[derive(Debug, Clone)]
pub struct Acked {
    pub value: u64,
    at: Instant,
    pub version: ChunkVersion,
    /// Of the first time.
    pub first: ChunkVersion,
    pub holders: Holders,
    committed: bool,
}

impl Acked {
    pub fn new(value: u64, version: ChunkVersion, first: ChunkVersion, holders: Holders) -> Acked {
        Acked { value, at: Instant::now(), version, first, holders, committed: false }
    }

    /// What bricks are told when it is sent again.
    pub fn again(&self) -> Again {
        let took = self.holders.members.iter().map(|holder| (holder.brick, holder.boot)).collect();
        Again { version: self.version, first: self.first, took }
    }
}

#[derive(Debug, Default)]
struct Cell {
    invoked: u64,
    /// Not known to be committed, and the last that is.
    acked: Vec<Acked>,
    forbidden: BTreeMap<u64, &'static str>,
    /// The last value seen, and how many crashes there had been.
    seen: Option<(u64, u64)>,
    /// What each version showed under each head, since the last crash. A head may number a copy anew to level a member that is
    /// being brought up to date; a successor that does not know gives that number once more.
    versions: BTreeMap<(u64, u64), u64>,
    versions_of: u64,
}

/// See the module's head.
pub struct Oracle {
    world: Arc<World>,
    cells: Mutex<BTreeMap<CellId, Cell>>,
}

/// What a read must not fall behind, as it was when it began.
pub struct Floor {
    guaranteed: Vec<Acked>,
    seen: Option<(u64, u64)>,
    crashes: u64,
}

impl Oracle {
    pub fn new(world: Arc<World>) -> Oracle {
        Oracle { world, cells: Mutex::default() }
    }

    fn with<T>(&self, cell: CellId, work: impl FnOnce(&mut Cell) -> T) -> T {
        work(lock(&self.cells).entry(cell).or_default())
    }

    /// The next value of a cell.
    pub fn invoke(&self, cell: CellId) -> u64 {
        self.with(cell, |cell| {
            cell.invoked += 1;
            cell.invoked
        })
    }

    pub fn acked(&self, cell: CellId, acked: Acked) {
        tracing::info!(?cell, ?acked, "acknowledged");
        self.with(cell, |cell| {
            // Earlier ones that are not committed are overwritten.
            cell.acked.retain(|a| a.committed || a.value > acked.value);
            cell.acked.push(acked);
        });
    }

    /// The value must never be seen.
    pub fn forbid(&self, cell: CellId, value: u64, why: &'static str) {
        tracing::info!(?cell, value, why, "forbidden");
        self.with(cell, |cell| {
            cell.forbidden.insert(value, why);
            // What was lost before may not be written again.
            cell.acked.retain(|acked| acked.value != value);
        });
    }

    /// Its writer was told that it may be lost.
    pub fn given_up(&self, cell: CellId, value: u64) {
        self.with(cell, |cell| cell.acked.retain(|acked| acked.committed || acked.value != value));
    }

    /// What is not known to be committed.
    pub fn uncommitted(&self, cell: CellId) -> Vec<Acked> {
        self.with(cell, |cell| cell.acked.iter().filter(|a| !a.committed).cloned().collect())
    }

    pub fn committed(&self, cell: CellId, acked: &Acked) {
        let value = acked.value;
        self.with(cell, |cell| {
            cell.acked.retain(|a| a.value > value);
            cell.acked.push(Acked { committed: true, ..acked.clone() });
        });
    }

    fn is_kept(&self, acked: &Acked) -> bool {
        acked.committed || acked.holders.members.iter().any(|h| self.world.kept(h.brick, h.boot, acked.at))
    }

    pub fn begin_read(&self, cell: CellId) -> Floor {
        let crashes = self.world.crash_count();
        self.with(cell, |cell| Floor {
            guaranteed: cell.acked.iter().filter(|a| self.is_kept(a)).cloned().collect(),
            seen: cell.seen,
            crashes,
        })
    }

    /// # Panics
    /// If the value must not be seen.
    pub fn end_read(
        &self,
        cell: CellId,
        floor: &Floor,
        (tenure, version): (u64, u64),
        value: u64,
        from: BrickId,
    ) {
        let crashes = self.world.crash_count();
        let now = Instant::now();
        self.with(cell, |state| {
            let place = || format!("cell {cell:?} at version {version} of brick {from}, {now:?}");
            assert!(value <= state.invoked, "{value} was never written: {}", place());
            let refused = state.forbidden.get(&value);
            assert!(refused.is_none(), "{value} was refused ({refused:?}): {}", place());
            for acked in floor.guaranteed.iter().filter(|a| self.is_kept(a)) {
                assert!(value >= acked.value, "read {value} after {acked:?}: {}", place());
            }
            if let Some((seen, then)) = floor.seen.filter(|(_, then)| *then == crashes) {
                assert!(value >= seen, "read {value} after {seen} was ({then} crashes): {}", place());
            }
            if state.versions_of != crashes || state.versions.len() > 1000 {
                state.versions.clear();
                state.versions_of = crashes;
            }
            if floor.crashes == crashes {
                let known = *state.versions.entry((tenure, version)).or_insert(value);
                assert_eq!(known, value, "two contents of one version: {}", place());
                let seen = state.seen.filter(|(_, then)| *then == crashes).map_or(0, |(seen, _)| seen);
                state.seen = Some((seen.max(value), crashes));
            }
        });
    }

    /// # Panics
    /// If a cell is not at rest with the last value written.
    pub fn at_rest(&self, read: impl Fn(CellId) -> u64) {
        for (id, cell) in lock(&self.cells).iter() {
            let value = read(*id);
            assert!(!cell.forbidden.contains_key(&value), "{value} of {id:?} was refused, and stays");
            if let Some(last) = cell.acked.iter().filter(|a| a.committed).map(|a| a.value).max() {
                assert!(value >= last, "{id:?} ends with {value}, committed was {last}");
            }
            assert!(value <= cell.invoked);
        }
    }
}
