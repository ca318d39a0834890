//! What keeps the chains of a brick that is away from going to others.
//!
//! 1. It is told before the brick is given up, as it will be then if nothing changes
//!    (`what_hinders_is_told_before_its_time`).

use std::collections::BTreeSet;

use tokio::time::Instant;
use wire::id::{BrickId, ChainId};
use wire::map::ClusterMap;
use wire::meta::{Stuck, Wishes};

use super::plan::{Facts, stuck};

/// The chains of each brick that is away, and since when that is, which would find no other member were it given up now, with
/// all that have been away for as long.
pub fn hindrances(
    map: &ClusterMap,
    wishes: &Wishes,
    facts: &Facts,
    away: &[(BrickId, Instant)],
) -> Vec<(BrickId, ChainId, Stuck)> {
    let mut hindrances = Vec::new();
    let mut facts = facts.clone();
    let times: BTreeSet<Instant> = away.iter().map(|(_, since)| *since).collect();
    // What is planned is the same for all that went at one time, as the bricks of one machine do.
    for time in times {
        facts.lost = away.iter().filter(|(_, since)| *since <= time).map(|(brick, _)| *brick).collect();
        let stuck = stuck(map, wishes, &facts);
        for (brick, _) in away.iter().filter(|(_, since)| *since == time) {
            let mine = stuck.iter().filter(|(chain, _)| {
                map.chains.get(chain).is_some_and(|chain| chain.state_of(*brick).is_some())
            });
            hindrances.extend(mine.map(|(chain, why)| (*brick, *chain, *why)));
        }
    }
    hindrances.sort_by_key(|(brick, chain, _)| (*brick, *chain));
    hindrances
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::gone;
    use crate::chain::plan_tests::{add_chain, bricks, facts};
    use std::time::Duration;

    fn leave(map: &mut ClusterMap, brick: u32) {
        let brick = BrickId(brick);
        map.bricks.get_mut(&brick).unwrap().alive = false;
        for chain in map.chains.values_mut() {
            gone(chain, brick);
        }
    }

    #[test]
    fn what_hinders_is_told_before_its_time() {
        let (mut map, now) = (bricks(&[0, 1, 2], 2), Instant::now());
        let (first, second) = (add_chain(&mut map, &[0, 1]), add_chain(&mut map, &[0, 2]));
        let wishes = Wishes::new(0);
        let told = |map: &ClusterMap, facts: &Facts, away: &[(u32, u64)]| {
            let since = |s: &u64| now + Duration::from_secs(*s);
            let away: Vec<_> = away.iter().map(|(brick, s)| (BrickId(*brick), since(s))).collect();
            hindrances(map, &wishes, facts, &away)
        };
        leave(&mut map, 0);
        let mut known = facts(&map);
        known.sizes = [(first, 1), (second, 1)].into();
        assert_eq!(told(&map, &known, &[(0, 5)]), [], "each chain has the third brick");
        known.space.get_mut(&BrickId(2)).unwrap().free_bytes = 0;
        let found = told(&map, &known, &[(0, 5)]);
        assert!(
            matches!(found[..], [(BrickId(0), chain, Stuck::NoRoom { .. })] if chain == first),
            "{found:?}"
        );
        // The one that would take it went later, and may be back by then.
        let mut map2 = map.clone();
        leave(&mut map2, 2);
        let known = facts(&map2);
        let found = told(&map2, &known, &[(0, 5), (2, 6)]);
        assert_eq!(found[0], (BrickId(0), first, Stuck::Away));
        assert_eq!(found[1], (BrickId(0), second, Stuck::Unserved));
        // When that one is given up, the other has been for long.
        assert_eq!(found[2..], [(BrickId(2), second, Stuck::Unserved)]);
        let found = told(&map2, &known, &[(0, 6), (2, 5)]);
        assert_eq!(found[0], (BrickId(0), first, Stuck::NoBrick));
    }
}
