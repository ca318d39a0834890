//! Which maps bricks say they have seen, and what follows where the state does not know one of them: it was set back to an earlier
//! one, from a backup or with a member that had missed the last changes, and the bricks know better what they hold.
//!
//! ```text
//!            a brick saw what is not known here        all that may know more have said
//!  as usual ──────────────────────────────────> behind ───────────────────────────────> the newest map is adopted
//! ```
//!
//! 1. From the first brick on that saw what the state does not know, until a map is adopted, the state is behind
//!    (`one_brick_that_saw_more_is_enough`).
//! 2. A map is adopted when nobody can have seen a newer one: those that live by the newest map that is told of have all said what they
//!    saw (`those_that_live_by_the_newest_map_are_waited_for`). Whoever is dead by that map has learned nothing since that one of them
//!    has not: to go on without them somebody had to learn it first.
//!
//! In memory only, and of the leader: bricks say it again to the next one.

use std::collections::{BTreeMap, BTreeSet};

use wire::id::{BrickId, MapEpoch, StoreId};
use wire::map::{BrickInfo, ClusterMap};
use wire::meta::Behind;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Claims {
    /// Bricks that have said what they saw, with what their disks are where that was said, too.
    said: BTreeMap<BrickId, Option<StoreId>>,
    /// Epoch of the newest map that a brick has seen and the state does not know, and which brick.
    newest: Option<(MapEpoch, BrickId)>,
    /// The newest such map of those that were told.
    told: Option<ClusterMap>,
}

impl Claims {
    /// A brick says which map it saw last, none where it has seen none, and whether the state knows that one. Whether this is the
    /// newest one heard of.
    pub fn says(
        &mut self,
        brick: BrickId,
        store: Option<StoreId>,
        saw: Option<MapEpoch>,
        is_known: bool,
    ) -> bool {
        let said = self.said.entry(brick).or_insert(store);
        // Without its disk being named it is the one that was let in.
        *said = store.or(*said);
        let Some(epoch) = saw.filter(|_| !is_known) else { return false };
        let newer = self.newest.is_none_or(|(newest, _)| newest < epoch);
        if newer {
            self.newest = Some((epoch, brick));
        }
        newer
    }

    fn has(&self, epoch: MapEpoch) -> bool {
        self.told.as_ref().is_some_and(|map| map.epoch == epoch)
    }

    /// Whether a brick that saw this map is to tell it.
    pub fn wants(&self, saw: MapEpoch) -> bool {
        self.newest.is_some_and(|(newest, _)| newest == saw) && !self.has(saw)
    }

    /// A brick tells the map it saw. One that was not asked for is none.
    pub fn tells(&mut self, map: ClusterMap) {
        if self.wants(map.epoch) {
            self.told = Some(map);
        }
    }

    /// Whether the state is behind.
    pub fn is_behind(&self) -> bool {
        self.newest.is_some()
    }

    /// How far it is, if it is.
    pub fn behind(&self) -> Option<Behind> {
        let (newest, by) = self.newest?;
        let lives = self.told.iter().flat_map(|map| map.bricks.values()).filter(|brick| brick.alive);
        // A new disk in the place of one that is lost says nothing for that.
        let has_said = |brick: &BrickInfo| {
            self.said.get(&brick.id).is_some_and(|store| store.is_none_or(|store| store == brick.store))
        };
        let mut waits_for: BTreeSet<BrickId> =
            lives.filter(|brick| !has_said(brick)).map(|brick| brick.id).collect();
        if !self.has(newest) {
            waits_for.insert(by);
        }
        Some(Behind { newest, by, waits_for })
    }

    /// The map that is to be adopted, if nobody is waited for but those that are given up.
    ///
    /// # Errors
    /// Who is waited for; nobody where there is nothing to adopt.
    pub fn due(&self, without: &BTreeSet<BrickId>) -> Result<&ClusterMap, BTreeSet<BrickId>> {
        let Some(behind) = self.behind() else { return Err(BTreeSet::new()) };
        match &self.told {
            Some(map) if behind.waits_for.is_subset(without) => Ok(map),
            // Without a map there is nothing to adopt, whoever is given up.
            _ => Err(behind.waits_for),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::{BootId, ClusterId, NodeId};
    use wire::net::Endpoint;

    fn map(epoch: u64, bricks: &[(u32, bool)]) -> ClusterMap {
        let mut map = ClusterMap { epoch: MapEpoch(epoch), ..ClusterMap::new(ClusterId([1; 16]), 2) };
        for &(id, alive) in bricks {
            let brick = BrickInfo {
                id: BrickId(id),
                store: StoreId([1; 16]),
                node: NodeId([1; 16]),
                host: "h".into(),
                endpoint: Endpoint::Memory(1),
                boot: BootId(1),
                alive,
            };
            map.bricks.insert(brick.id, brick);
        }
        map
    }

    fn set(bricks: &[u32]) -> BTreeSet<BrickId> {
        bricks.iter().copied().map(BrickId).collect()
    }

    fn at(epoch: u64) -> Option<MapEpoch> {
        Some(MapEpoch(epoch))
    }

    /// Invariant 1.
    #[test]
    fn one_brick_that_saw_more_is_enough() {
        let mut claims = Claims::default();
        assert!(!claims.says(BrickId(0), None, at(9), true) && !claims.says(BrickId(1), None, None, true));
        assert!(!claims.is_behind() && claims.behind().is_none());
        assert_eq!(claims.due(&set(&[])), Err(set(&[])), "there is nothing to adopt");
        assert!(claims.says(BrickId(2), None, at(12), false), "that is news");
        assert!(!claims.says(BrickId(2), None, at(12), false), "that is none");
        claims.says(BrickId(0), None, at(10), true);
        assert_eq!(
            claims.behind().unwrap(),
            Behind { newest: MapEpoch(12), by: BrickId(2), waits_for: set(&[2]) }
        );
        assert_eq!(claims.due(&set(&[2])), Err(set(&[2])), "nobody has told the map yet");
    }

    /// Invariant 2.
    #[test]
    fn those_that_live_by_the_newest_map_are_waited_for() {
        let mut claims = Claims::default();
        claims.says(BrickId(0), None, at(5), true);
        claims.says(BrickId(2), None, at(12), false);
        assert!(claims.wants(MapEpoch(12)) && !claims.wants(MapEpoch(5)));
        claims.tells(map(11, &[(2, true)]));
        assert!(claims.wants(MapEpoch(12)), "that one was not asked for");
        claims.tells(map(12, &[(0, true), (1, false), (2, true), (3, true), (4, true)]));
        assert!(!claims.wants(MapEpoch(12)));
        assert_eq!(claims.behind().unwrap().waits_for, set(&[3, 4]), "0 and 2 have said, 1 was dead");
        assert_eq!(claims.due(&set(&[])), Err(set(&[3, 4])));
        assert_eq!(claims.due(&set(&[3])), Err(set(&[3, 4])));
        assert_eq!(claims.due(&set(&[3, 4, 7])).unwrap().epoch, MapEpoch(12));
        // One of them saw a newer one, by which the other one was dead.
        assert!(claims.says(BrickId(3), None, at(15), false));
        assert_eq!(
            claims.behind().unwrap(),
            Behind { newest: MapEpoch(15), by: BrickId(3), waits_for: set(&[3, 4]) }
        );
        assert_eq!(claims.due(&set(&[3, 4])).unwrap().epoch, MapEpoch(12), "it is lost before it has told");
        claims.tells(map(15, &[(0, false), (2, true), (3, true), (4, false)]));
        assert_eq!(claims.due(&set(&[])).unwrap().epoch, MapEpoch(15));
        // Another disk has not seen what this one has.
        claims.says(BrickId(2), Some(StoreId([9; 16])), None, true);
        assert_eq!(claims.behind().unwrap().waits_for, set(&[2]));
        claims.says(BrickId(2), Some(StoreId([1; 16])), at(15), false);
        // What is older changes nothing.
        claims.says(BrickId(4), None, at(14), false);
        assert_eq!(claims.due(&set(&[])).unwrap().epoch, MapEpoch(15));
    }
}
