//! How far the disks of living bricks have come, as they tell with their heartbeats: see [`crate::machine::reached`].
//!
//! 1. A disk counts as set back only where less was committed on it than it had told itself
//!    (`a_disk_that_lacks_what_it_told_was_set_back`).

use wire::id::{BrickId, StoreId};
use wire::map::ClusterMap;

use crate::machine::reached::{Records, merge};

/// See the module's head.
#[derive(Debug, Default)]
pub struct Reached {
    told: Records,
}

impl Reached {
    /// A brick with this disk says how far that has come.
    pub fn says(&mut self, brick: BrickId, store: StoreId, records: u64) {
        merge(&mut self.told, &Records::from([(brick, (store, records))]));
    }

    /// What a brick has told is over: it was let in with less.
    pub fn forget(&mut self, brick: BrickId) {
        self.told.remove(&brick);
    }

    /// Whether a brick with this disk, which says so, lacks what it has told, or what is noted of it.
    pub fn is_set_back(&self, noted: &Records, brick: BrickId, store: StoreId, records: u64) -> bool {
        let known = [self.told.get(&brick), noted.get(&brick)].into_iter().flatten();
        known.filter(|(of, _)| *of == store).any(|(_, known)| *known > records)
    }

    /// What was told of disks that are there and is not noted.
    pub fn news(&self, map: &ClusterMap, noted: &Records) -> Records {
        let is_noted = |brick: &BrickId, (store, records): &(StoreId, u64)| {
            noted.get(brick).is_some_and(|(of, noted)| of == store && noted >= records)
        };
        let is_there =
            |brick: &BrickId, store: StoreId| map.bricks.get(brick).is_some_and(|info| info.store == store);
        let news =
            self.told.iter().filter(|(brick, of)| of.1 > 0 && is_there(brick, of.0) && !is_noted(brick, of));
        news.map(|(brick, of)| (*brick, *of)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::id::{BootId, ClusterId, NodeId};
    use wire::map::BrickInfo;
    use wire::net::Endpoint;

    fn map(brick: BrickId, store: StoreId) -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId([1; 16]), 1);
        let info = BrickInfo {
            id: brick,
            store,
            node: NodeId([0; 16]),
            host: String::new(),
            endpoint: Endpoint::Memory(1),
            boot: BootId(1),
            alive: true,
        };
        map.bricks.insert(brick, info);
        map
    }

    /// Invariant 1.
    #[test]
    fn a_disk_that_lacks_what_it_told_was_set_back() {
        let (brick, one, other) = (BrickId(3), StoreId([1; 16]), StoreId([2; 16]));
        let (mut reached, none, map) = (Reached::default(), Records::new(), map(brick, one));
        assert!(!reached.is_set_back(&none, brick, one, 0) && reached.news(&map, &none).is_empty());
        reached.says(brick, one, 0);
        assert!(reached.news(&map, &none).is_empty(), "nothing was committed");
        reached.says(brick, one, 7);
        reached.says(brick, one, 5);
        assert!(reached.is_set_back(&none, brick, one, 6) && !reached.is_set_back(&none, brick, one, 7));
        assert!(!reached.is_set_back(&none, brick, other, 0), "that is another disk");
        let news = reached.news(&map, &none);
        assert_eq!(news, Records::from([(brick, (one, 7))]));
        assert!(reached.news(&map, &news).is_empty());
        // The next leader knows what was noted.
        let next = Reached::default();
        assert!(next.is_set_back(&news, brick, one, 6) && !next.is_set_back(&news, brick, one, 8));
        reached.says(brick, other, 1);
        assert!(reached.news(&map, &none).is_empty(), "the map names another disk");
        assert!(!reached.is_set_back(&none, brick, other, 1) && !reached.is_set_back(&none, brick, one, 1));
    }
}
