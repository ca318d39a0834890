//! How much can still be stored.
//!
//! 1. Room counts only where data can go: everything in a chain lies on each of its members, so a chain has what its fullest
//!    member has for it, whatever the others have left (`a_chain_has_what_its_fullest_member_has`).
//!    Chains that take no new files count for nothing: what is left of a full brick is for the files that are there.
//! 2. Room of bricks that are away, or in no chain, is none (`who_is_away_or_alone_has_no_room`).

use std::collections::{BTreeMap, BTreeSet};

use wire::id::{BrickId, ChainId};
use wire::map::ClusterMap;
use wire::meta::BrickReport;

/// Parts of a byte, so that many small rounding errors are not seen.
const PARTS: u128 = 1 << 16;

/// Bytes of new files that the cluster could still take. A brick's room is shared evenly by its chains of the table that these
/// are laid out by, as their data is.
pub fn free_bytes(map: &ClusterMap, reports: &[(BrickId, BrickReport)]) -> u64 {
    let chains: BTreeSet<ChainId> = map.current_table().unwrap_or_default().iter().copied().collect();
    let chains = || chains.iter().filter_map(|id| map.chains.get(id));
    let mut chains_of: BTreeMap<BrickId, u128> = BTreeMap::new();
    for member in chains().flat_map(|chain| &chain.members) {
        *chains_of.entry(member.brick).or_default() += 1;
    }
    let alive = |brick: BrickId| map.bricks.get(&brick).is_some_and(|info| info.alive);
    let shares: BTreeMap<BrickId, u128> = reports
        .iter()
        .filter(|(brick, _)| alive(*brick))
        .filter_map(|(brick, report)| {
            let chains = chains_of.get(brick)?;
            Some((*brick, u128::from(report.free_bytes) * PARTS / chains))
        })
        .collect();
    let of_chains = chains().map(|chain| {
        chain.members.iter().filter_map(|member| shares.get(&member.brick)).min().copied().unwrap_or(0)
    });
    let parts: u128 = of_chains.sum();
    u64::try_from((parts + PARTS / 2) / PARTS).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::{BootId, ChainEpoch, ClusterId, NodeId, StoreId};
    use wire::map::{BrickInfo, Chain, Member, MemberState};
    use wire::net::Endpoint;

    /// Bricks that all live, and chains of two of them.
    fn map(bricks: u32, chains: &[(u32, u32)]) -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        for id in (0..bricks).map(BrickId) {
            let info = BrickInfo {
                id,
                store: StoreId([1; 16]),
                node: NodeId([1; 16]),
                host: "h".into(),
                endpoint: Endpoint::Memory(1),
                boot: BootId(1),
                alive: true,
            };
            map.bricks.insert(id, info);
        }
        for (n, (a, b)) in chains.iter().enumerate() {
            let id = ChainId(n as u32);
            let member = |brick: u32| Member { brick: BrickId(brick), state: MemberState::Serving };
            let chain = Chain { id, epoch: ChainEpoch(1), members: vec![member(*a), member(*b)] };
            map.chains.insert(id, chain);
        }
        map.add_table(map.chains.keys().copied().collect());
        map
    }

    fn reports(free: &[u64]) -> Vec<(BrickId, BrickReport)> {
        let report = |free_bytes| BrickReport { free_bytes, ..BrickReport::default() };
        free.iter().enumerate().map(|(n, free)| (BrickId(n as u32), report(*free))).collect()
    }

    #[test]
    fn a_chain_has_what_its_fullest_member_has() {
        let map = map(3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(free_bytes(&map, &reports(&[1000, 1000, 1000])), 1500, "as much as two copies leave");
        assert_eq!(free_bytes(&map, &reports(&[1001, 1001, 1001])), 1502);
        // Brick 2 is full: only the chain of the other two takes anything.
        assert_eq!(free_bytes(&map, &reports(&[1000, 1000, 0])), 500);
        let mut other = map.clone();
        other.add_table(vec![ChainId(0)]);
        assert_eq!(free_bytes(&other, &reports(&[1000, 1000, 10])), 1000, "where new files go to");
        assert_eq!(free_bytes(&map, &reports(&[1000, 0, 0])), 0, "room that nothing can go to");
        assert_eq!(free_bytes(&map, &reports(&[u64::MAX, u64::MAX, u64::MAX])), u64::MAX);
    }

    #[test]
    fn who_is_away_or_alone_has_no_room() {
        let mut map = map(4, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(free_bytes(&map, &reports(&[1000, 1000, 1000, 5000])), 1500);
        map.bricks.get_mut(&BrickId(2)).unwrap().alive = false;
        assert_eq!(free_bytes(&map, &reports(&[1000, 1000, 0, 5000])), 1500, "others go on without it");
        map.bricks.get_mut(&BrickId(0)).unwrap().alive = false;
        assert_eq!(free_bytes(&map, &reports(&[1000, 1000, 0, 5000])), 1000, "nobody takes anything for one");
        assert_eq!(free_bytes(&map, &[]), 0);
    }
}
