//! Which chains new files are laid out by: those that have room.
//!
//! A file is spread over all chains of its table, and stays with it. So a full brick would stop every new file, however much room
//! the others have, if its chains stayed in the table for new ones.
//!
//! ```text
//!                 a member has less than 1/32 free
//!   takes new files ──────────────────────────────> takes none
//!                   <──────────────────────────────
//!                 all members have 1/16 free or more
//! ```
//!
//! Of the disk's size, whoever it is that has taken the rest.
//!
//! 1. A chain with a full member gets no new files while another chain has room (`full_bricks_get_no_new_files`).
//! 2. Where none has room all take new files: what is left is used to the last (`what_is_left_is_used`).
//! 3. Little changes make no new table, and a table that was made before is used again (`tables_are_used_again`).
//! 4. There are at most [`MOST_TABLES`] tables of [`MOST_ENTRIES`] entries together; then the largest of them
//!    that has no full chain is used (`tables_are_few`). A table that a chain was made for is made in any case.

use std::collections::{BTreeMap, BTreeSet};

use wire::id::{BrickId, ChainId};
use wire::layout::TableVersion;
use wire::map::{Chain, ClusterMap, MemberState};

use crate::chain::plan::Space;

/// Tables that are made because of room, at most.
pub const MOST_TABLES: usize = 128;
/// Entries of all tables from which on none is made because of room.
pub const MOST_ENTRIES: usize = 1 << 16;
/// A brick with less free than this part of it takes no new files.
const CLOSES_BELOW: u64 = 32;
/// A brick with this part of it free, or more, takes them again.
const OPENS_AT: u64 = 16;

/// What becomes of the table for new files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It stays.
    Stay,
    /// It is this one of those there are.
    Use(TableVersion),
    /// It is a new one of these chains, in this order.
    Make(Vec<ChainId>),
}

/// The chains that are to take new files, by the room there is. A brick that nothing is known of is taken to have some.
pub fn open(map: &ClusterMap, space: &BTreeMap<BrickId, Space>) -> BTreeSet<ChainId> {
    let now: BTreeSet<ChainId> = map.current_table().unwrap_or_default().iter().copied().collect();
    let has_room = |chain: &Chain| {
        let part = if now.contains(&chain.id) { CLOSES_BELOW } else { OPENS_AT };
        let holds = chain.members.iter().filter(|m| m.state != MemberState::Offline);
        let mut known = holds.filter_map(|member| space.get(&member.brick));
        known.all(|space| space.free_bytes >= space.total_bytes.max(space.disk_bytes) / part)
    };
    let roomy: BTreeSet<ChainId> =
        map.chains.values().filter(|chain| has_room(chain)).map(|c| c.id).collect();
    if roomy.is_empty() { map.chains.keys().copied().collect() } else { roomy }
}

/// The table for new files that is to take these chains, of those in the map.
pub fn choose(map: &ClusterMap, open: &BTreeSet<ChainId>) -> Choice {
    let is_same =
        |table: &[ChainId]| table.len() == open.len() && table.iter().all(|chain| open.contains(chain));
    if open.is_empty() || map.current_table().is_some_and(is_same) {
        return Choice::Stay;
    }
    if let Some((version, _)) = map.tables.iter().rev().find(|(_, table)| is_same(table)) {
        return Choice::Use(*version);
    }
    let entries: usize = map.tables.values().map(Vec::len).sum();
    if map.tables.len() < MOST_TABLES && entries + open.len() <= MOST_ENTRIES {
        return Choice::Make(deal(map, open));
    }
    let fits = map.tables.iter().filter(|(_, table)| table.iter().all(|chain| open.contains(chain)));
    match fits.max_by_key(|(_, table)| table.len()) {
        Some((version, _)) if Some(*version) != map.current => Choice::Use(*version),
        _ => Choice::Stay,
    }
}

/// A table of these chains: the first of every head before the second of any.
pub fn deal(map: &ClusterMap, chains: &BTreeSet<ChainId>) -> Vec<ChainId> {
    let mut count: BTreeMap<Option<BrickId>, usize> = BTreeMap::new();
    let mut dealt: Vec<(usize, ChainId)> = chains
        .iter()
        .filter_map(|id| map.chains.get(id))
        .map(|chain| {
            let nth = count.entry(chain.members.first().map(|m| m.brick)).or_default();
            *nth += 1;
            (*nth, chain.id)
        })
        .collect();
    dealt.sort_unstable();
    dealt.into_iter().map(|(_, chain)| chain).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::plan_tests::cluster;

    fn space(map: &ClusterMap, free: &[u64]) -> BTreeMap<BrickId, Space> {
        let space = |free_bytes| Space { total_bytes: 3200, free_bytes, disk_bytes: 0 };
        map.bricks.keys().copied().zip(free.iter().copied().map(space)).collect()
    }

    /// Takes what is chosen; whether that is another table.
    fn turn(map: &mut ClusterMap, free: &[u64]) -> bool {
        let open = open(map, &space(map, free));
        match choose(map, &open) {
            Choice::Stay => return false,
            Choice::Use(version) => map.current = Some(version),
            Choice::Make(table) => map.add_table(table),
        }
        map.verify().unwrap();
        assert_eq!(choose(map, &open), Choice::Stay, "it is right then");
        true
    }

    fn born(hosts: &[u32]) -> ClusterMap {
        let mut map = cluster(hosts, 2);
        let all = map.chains.keys().copied().collect();
        let table = deal(&map, &all);
        assert_eq!(table.len(), map.chains.len());
        map.add_table(table);
        map
    }

    fn bricks_of_table(map: &ClusterMap) -> BTreeSet<u32> {
        let chains = map.current_table().unwrap().iter().map(|id| &map.chains[id]);
        chains.flat_map(|c| &c.members).map(|m| m.brick.0).collect()
    }

    #[test]
    fn full_bricks_get_no_new_files() {
        let mut map = born(&[0, 1, 2, 3]);
        assert!(!turn(&mut map, &[3000; 4]));
        assert!(turn(&mut map, &[3000, 99, 3000, 3000]));
        assert_eq!(bricks_of_table(&map), [0, 2, 3].into());
        // Who is away decides nothing.
        for chain in map.chains.values_mut() {
            crate::chain::gone(chain, BrickId(1));
        }
        assert!(turn(&mut map, &[3000, 99, 3000, 3000]));
        assert_eq!(bricks_of_table(&map), [0, 1, 2, 3].into());
        assert!(!turn(&mut map, &[3000]), "nothing is known of the others");
    }

    #[test]
    fn what_is_left_is_used() {
        let mut map = born(&[0, 1, 2]);
        assert!(turn(&mut map, &[80, 3000, 3000]));
        assert!(turn(&mut map, &[80, 80, 3000]), "only one has room, and none makes a chain alone");
        assert_eq!(map.current_table().unwrap().len(), map.chains.len());
        assert!(!turn(&mut map, &[0, 0, 0]));
    }

    #[test]
    fn tables_are_used_again() {
        let mut map = born(&[0, 1, 2, 3]);
        let first = map.current;
        assert!(turn(&mut map, &[99, 3000, 3000, 3000]));
        for free in [99, 100, 199, 150, 3] {
            assert!(!turn(&mut map, &[free, 3000, 3000, 3000]), "{free} is too little to begin again");
        }
        assert!(turn(&mut map, &[200, 3000, 3000, 3000]));
        assert_eq!(map.current, first);
        assert!(!turn(&mut map, &[100, 3000, 3000, 3000]), "enough to go on");
        assert!(turn(&mut map, &[99, 3000, 3000, 3000]));
        assert_eq!(map.tables.len(), 2);
    }

    #[test]
    fn tables_are_few() {
        let mut map = born(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for full in 0u32..512 {
            let free: Vec<u64> = (0..9).map(|brick| if full >> brick & 1 == 1 { 0 } else { 3000 }).collect();
            turn(&mut map, &free);
            let roomy = open(&map, &space(&map, &free));
            let table = map.current_table().unwrap();
            assert!(map.tables.len() <= MOST_TABLES);
            if map.tables.len() < MOST_TABLES {
                assert_eq!(table.iter().copied().collect::<BTreeSet<_>>(), roomy);
            }
        }
        assert_eq!(map.tables.len(), MOST_TABLES);
        turn(&mut map, &[0, 3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000]);
        assert_eq!(bricks_of_table(&map).len(), 8, "one that was made before");
    }
}
