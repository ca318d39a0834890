//! When each brick was heard last, in which life, and what that proves.
//!
//! 1. A brick is declared dead only `dead_after` after it was last heard, or after the grace
//!    that bricks have when the service starts (`bricks_are_dead_after_their_time`).
//! 2. A brick that restarts alone is told apart from a restart of all: another member counts as
//!    one that stayed only if it was heard after the registration arrived, in a life that began
//!    before the earlier life of the restarted one ended (`a_restart_of_all_is_told_apart`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use wire::id::{BootId, BrickId};
use wire::map::{ClusterMap, MemberState};
use wire::meta::BrickReport;

#[derive(Debug, Default, Clone)]
struct Seen {
    deadline: Option<Instant>,
    /// Last sign of life, and of which life.
    heard: Option<(Instant, BootId)>,
    /// When the life in the map began, if since this process did.
    registered: Option<Instant>,
    report: Option<BrickReport>,
}

/// What was heard of bricks.
#[derive(Debug)]
pub struct Bricks {
    dead_after: Duration,
    grace: Duration,
    seen: BTreeMap<BrickId, Seen>,
    /// Registrations that wait for evidence: life and arrival.
    pending: BTreeMap<BrickId, (BootId, Instant)>,
}

impl Bricks {
    /// Nothing was heard yet.
    pub fn new(dead_after: Duration, grace: Duration) -> Self {
        Self { dead_after, grace, seen: BTreeMap::new(), pending: BTreeMap::new() }
    }

    /// A sign of life of a brick in the life the map knows.
    pub fn heard(&mut self, brick: BrickId, boot: BootId, report: BrickReport, now: Instant) {
        let seen = self.seen.entry(brick).or_default();
        seen.heard = Some((now, boot));
        seen.report = Some(report);
        seen.deadline = Some(now + self.dead_after);
    }

    /// A brick's registration arrived.
    pub fn arrived(&mut self, brick: BrickId, boot: BootId, now: Instant) -> Instant {
        let pending = self.pending.entry(brick).or_insert((boot, now));
        if pending.0 != boot {
            *pending = (boot, now);
        }
        pending.1
    }

    /// Whether the brick's last registration, not carried out yet, is of this life.
    pub fn is_pending(&self, brick: BrickId, boot: BootId) -> bool {
        self.pending.get(&brick).is_some_and(|(b, _)| *b == boot)
    }

    /// A brick whose registration waits for evidence lives, though its beats say a life that the
    /// map does not know yet.
    pub fn waits(&mut self, brick: BrickId, now: Instant) {
        self.seen.entry(brick).or_default().deadline = Some(now + self.dead_after);
    }

    /// A brick's registration was carried out.
    pub fn registered(&mut self, brick: BrickId, boot: BootId, now: Instant) {
        if self.is_pending(brick, boot) {
            self.pending.remove(&brick);
            let seen = self.seen.entry(brick).or_default();
            seen.registered = Some(now);
            seen.heard = Some((now, boot));
            seen.deadline = Some(now + self.dead_after);
        }
    }

    /// Who of those that serve with `brick` is known to have stayed while it restarted; nothing
    /// while that is open.
    pub fn stayed(&self, map: &ClusterMap, brick: BrickId, arrived: Instant) -> Option<BTreeSet<BrickId>> {
        let mut stayed = BTreeSet::new();
        let info = map.bricks.get(&brick)?;
        let last_life = self.seen.get(&brick).and_then(|s| s.heard).filter(|(_, b)| *b == info.boot);
        let mates: BTreeSet<BrickId> = map
            .chains_of(brick)
            .filter(|c| c.state_of(brick) == Some(MemberState::Serving))
            .flat_map(|c| c.serving())
            .filter(|b| *b != brick)
            .collect();
        for mate in mates {
            let Some(known) = map.bricks.get(&mate).filter(|b| b.alive) else { continue };
            if self.pending.get(&mate).is_some_and(|(boot, _)| *boot != known.boot) {
                continue;
            }
            let seen = self.seen.get(&mate);
            match seen.and_then(|s| s.heard) {
                Some((at, boot)) if at > arrived && boot == known.boot => {}
                _ => return None,
            }
            let began = seen.and_then(|s| s.registered);
            let overlapped = match (began, last_life) {
                (None, _) => true,
                (Some(began), Some((last, _))) => last > began,
                (Some(_), None) => false,
            };
            if overlapped {
                stayed.insert(mate);
            }
        }
        Some(stayed)
    }

    /// Bricks whose time is over, with the life the map knows. Those new to this process get
    /// their grace.
    pub fn dead(&mut self, map: &ClusterMap, now: Instant) -> Vec<(BrickId, BootId)> {
        let mut dead = Vec::new();
        for info in map.bricks.values().filter(|b| b.alive) {
            let seen = self.seen.entry(info.id).or_default();
            if now >= *seen.deadline.get_or_insert(now + self.grace) {
                dead.push((info.id, info.boot));
            }
        }
        dead
    }

    /// This process stood still for that long: nobody could be heard.
    pub fn extend(&mut self, by: Duration) {
        for seen in self.seen.values_mut() {
            seen.deadline = seen.deadline.map(|d| d + by);
        }
    }

    /// Whether all that live by the map were heard since this process began, in the life the
    /// map knows.
    pub fn all_heard(&self, map: &ClusterMap) -> bool {
        let heard = |id, boot| self.seen.get(&id).and_then(|s| s.heard).is_some_and(|(_, b)| b == boot);
        map.bricks.values().filter(|b| b.alive).all(|b| heard(b.id, b.boot))
    }

    /// Last report of each.
    pub fn reports(&self) -> Vec<(BrickId, BrickReport)> {
        self.seen.iter().filter_map(|(b, seen)| Some((*b, seen.report?))).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::{ChainEpoch, ChainId, ClusterId, NodeId, StoreId};
    use wire::map::{BrickInfo, Chain, Member};
    use wire::net::Endpoint;

    const DEAD: Duration = Duration::from_millis(2500);
    const GRACE: Duration = Duration::from_secs(5);

    fn map() -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        for id in 0..2 {
            let brick = BrickInfo {
                id: BrickId(id),
                store: StoreId([1; 16]),
                node: NodeId([1; 16]),
                host: "h".into(),
                endpoint: Endpoint::Memory(1),
                boot: BootId(1),
                alive: true,
            };
            map.bricks.insert(BrickId(id), brick);
        }
        let members = (0..2).map(|b| Member { brick: BrickId(b), state: MemberState::Serving }).collect();
        map.chains.insert(ChainId(1), Chain { id: ChainId(1), epoch: ChainEpoch(1), members });
        map
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Invariant 1.
    #[test]
    fn bricks_are_dead_after_their_time() {
        let (mut bricks, map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        assert!(bricks.dead(&map, start).is_empty());
        bricks.heard(BrickId(0), BootId(1), BrickReport::default(), start + ms(4000));
        assert!(bricks.dead(&map, start + ms(4999)).is_empty());
        assert_eq!(bricks.dead(&map, start + ms(5000)), [(BrickId(1), BootId(1))]);
        bricks.extend(ms(1000));
        assert!(bricks.dead(&map, start + ms(5999)).is_empty());
        assert_eq!(bricks.dead(&map, start + ms(7499)), [(BrickId(1), BootId(1))]);
        assert_eq!(bricks.dead(&map, start + ms(7500)).len(), 2);
    }

    /// Invariant 2.
    #[test]
    fn a_restart_of_all_is_told_apart() {
        let (mut bricks, mut map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        let (a, b) = (BrickId(0), BrickId(1));
        let report = BrickReport::default();
        // Brick a restarts alone: b is heard afterwards in its old life.
        bricks.heard(b, BootId(1), report, start);
        let arrived = bricks.arrived(a, BootId(2), start + ms(100));
        assert_eq!(bricks.stayed(&map, a, arrived), None);
        bricks.heard(b, BootId(1), report, start + ms(500));
        assert_eq!(bricks.stayed(&map, a, arrived), Some(BTreeSet::from([b])));
        // Both restart: each finds the other's registration, whoever is first.
        let arrived_b = bricks.arrived(b, BootId(2), start + ms(600));
        assert_eq!(bricks.stayed(&map, a, arrived), Some(BTreeSet::new()));
        assert_eq!(bricks.stayed(&map, b, arrived_b), Some(BTreeSet::new()));
        // The first is done and heard of before the second is looked at: its new life began
        // after the second's old one was heard last, so it proves nothing.
        map.bricks.get_mut(&a).unwrap().boot = BootId(2);
        bricks.registered(a, BootId(2), start + ms(700));
        assert_eq!(bricks.stayed(&map, b, arrived_b), Some(BTreeSet::new()));
        // A dead one proves nothing either.
        map.bricks.get_mut(&a).unwrap().alive = false;
        assert_eq!(bricks.stayed(&map, b, arrived_b), Some(BTreeSet::new()));
    }
}
