//! When each brick was heard last, in which life, and what that proves.
//!
//! 1. A brick is declared dead only `dead_after` after it was last heard, or after the grace
//!    that bricks have when the service starts (`bricks_are_dead_after_their_time`).
//! 2. A brick that restarts alone is told apart from a restart of all: another member counts as
//!    one that stayed only if it was heard after the registration arrived, in a life that began
//!    before the earlier life of the restarted one ended (`a_restart_of_all_is_told_apart`).
//! 3. A brick is looked for before its time only when the connection of its last heartbeat has
//!    ended: a firewall that refuses connections to a living brick does not end that
//!    (`who_hung_up_is_looked_for`).
//! 4. A brick that keeps dying is kept out for longer each time, unless a chain waits for it
//!    alone (`who_keeps_dying_is_kept_out`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;
use wire::id::{BootId, BrickId, ChainId, MapEpoch};
use wire::map::{Chain, ClusterMap, MemberState};
use wire::meta::BrickReport;
use wire::net::Peer;

/// Deaths that are forgiven before a brick is kept out for a while.
pub const FREE_DEATHS: u32 = 3;
/// How long it is kept out after the next death; twice that after the one that follows, and so on.
pub const FIRST_HOLD: Duration = Duration::from_secs(5);
/// Longest time a brick is kept out: well below the minute that programs wait for what it alone has, such as
/// a block that is rotten in the other copy.
pub const LONGEST_HOLD: Duration = Duration::from_secs(20);
/// Deaths that are told within so long are one.
pub const ONE_DEATH: Duration = Duration::from_secs(3);
/// A brick that did not die for so long has a clean slate.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug, Default, Clone)]
struct Seen {
    deadline: Option<Instant>,
    /// Last sign of life, and of which life.
    heard: Option<(Instant, BootId)>,
    /// The map it had then.
    has: MapEpoch,
    /// When the life in the map began, if since this process did.
    registered: Option<Instant>,
    report: Option<BrickReport>,
    /// Bytes it holds of each chain, once it has said so.
    holdings: Option<BTreeMap<ChainId, u64>>,
    /// What the last heartbeat came over.
    connection: Option<Weak<Peer>>,
    /// Since when it is missed.
    missed: Option<Instant>,
    /// How often it died, without a long good time in between, and when last.
    deaths: u32,
    died: Option<Instant>,
}

/// What was heard of bricks.
#[derive(Debug)]
pub struct Bricks {
    dead_after: Duration,
    grace: Duration,
    seen: BTreeMap<BrickId, Seen>,
    /// Registrations that wait for evidence: life and arrival.
    pending: BTreeMap<BrickId, (BootId, Instant)>,
    /// All are about to stop, and so is this process: nobody is missed any more.
    stopping: bool,
}

impl Bricks {
    /// Nothing was heard yet.
    pub fn new(dead_after: Duration, grace: Duration) -> Self {
        Self { dead_after, grace, seen: BTreeMap::new(), pending: BTreeMap::new(), stopping: false }
    }

    /// A sign of life of a brick in the life the map knows.
    pub fn heard(&mut self, brick: BrickId, boot: BootId, has: MapEpoch, report: BrickReport, now: Instant) {
        let seen = self.seen.entry(brick).or_default();
        seen.heard = Some((now, boot));
        seen.has = has;
        seen.report = Some(report);
        seen.deadline = Some(now + self.dead_after);
    }

    /// Whether a life of a brick was heard so lately that it lives.
    pub fn is_heard(&self, brick: BrickId, boot: BootId, now: Instant) -> bool {
        let heard = self.seen.get(&brick).and_then(|seen| seen.heard);
        heard.is_some_and(|(at, of)| of == boot && now.saturating_duration_since(at) < self.dead_after)
    }

    /// Whether a life of a brick was heard after `then`.
    pub fn is_heard_after(&self, brick: BrickId, boot: BootId, then: Instant) -> bool {
        let heard = self.seen.get(&brick).and_then(|seen| seen.heard);
        heard.is_some_and(|(at, of)| of == boot && at > then)
    }

    /// Living bricks that have this map, or a newer one, in the life it names.
    pub fn informed(&self, map: &ClusterMap) -> BTreeSet<BrickId> {
        let has = |brick: BrickId, boot: BootId| {
            let seen = self.seen.get(&brick);
            seen.is_some_and(|s| s.heard.is_some_and(|(_, of)| of == boot) && s.has >= map.epoch)
        };
        map.bricks.values().filter(|b| b.alive && has(b.id, b.boot)).map(|b| b.id).collect()
    }

    /// A brick says what it holds of its chains.
    pub fn holds(&mut self, brick: BrickId, bytes: Vec<(ChainId, u64)>) {
        self.seen.entry(brick).or_default().holdings = Some(bytes.into_iter().collect());
    }

    /// Bytes of a copy of each chain, by the word of its head.
    pub fn sizes(&self, map: &ClusterMap) -> BTreeMap<ChainId, u64> {
        let size = |chain: &Chain| {
            let holdings = self.seen.get(&chain.head()?)?.holdings.as_ref()?;
            Some((chain.id, holdings.get(&chain.id).copied().unwrap_or(0)))
        };
        map.chains.values().filter_map(size).collect()
    }

    /// A brick says why it serves no more. That is no sign of life.
    pub fn failed(&mut self, brick: BrickId, report: BrickReport) {
        self.seen.entry(brick).or_default().report = Some(report);
    }

    /// From now on nobody counts as dead: all bricks are about to stop, and this process with them.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// What a brick's last heartbeat came over.
    pub fn came_over(&mut self, brick: BrickId, connection: Weak<Peer>) {
        self.seen.entry(brick).or_default().connection = Some(connection);
    }

    /// Living bricks whose last heartbeat came over a connection that has ended since. They may
    /// have ended, too.
    pub fn hung_up(&self, map: &ClusterMap) -> Vec<(BrickId, BootId)> {
        if self.stopping {
            return Vec::new();
        }
        let gone = |seen: &Seen| seen.connection.as_ref().is_some_and(|c| c.strong_count() == 0);
        let hung_up = |brick: BrickId| self.seen.get(&brick).is_some_and(gone);
        map.bricks.values().filter(|b| b.alive && hung_up(b.id)).map(|b| (b.id, b.boot)).collect()
    }

    /// A brick has died: was not heard any more, or began a new life unasked. Told twice within
    /// [`ONE_DEATH`] it is the same death: a new life was noticed before the old one was missed,
    /// or says so again.
    pub fn died(&mut self, brick: BrickId, now: Instant) {
        let seen = self.seen.entry(brick).or_default();
        if seen.died.is_some_and(|last| now.saturating_duration_since(last) < ONE_DEATH) {
            return;
        }
        if seen.died.is_none_or(|last| now.saturating_duration_since(last) >= FORGIVEN_AFTER) {
            seen.deaths = 0;
        }
        seen.deaths = seen.deaths.saturating_add(1);
        seen.died = Some(now);
    }

    /// For how long yet the brick is kept out, if it is.
    pub fn held(&self, map: &ClusterMap, brick: BrickId, now: Instant) -> Option<Duration> {
        let seen = self.seen.get(&brick)?;
        let over = seen.deaths.checked_sub(FREE_DEATHS + 1)?;
        let hold = FIRST_HOLD.saturating_mul(1 << over.min(16)).min(LONGEST_HOLD);
        let left = (seen.died? + hold).checked_duration_since(now).filter(|left| !left.is_zero())?;
        let waited_for = map.chains_of(brick).any(|c| c.state_of(brick) == Some(MemberState::LastServing));
        (!waited_for).then_some(left)
    }

    /// Bricks that are not alive by the map, and since when this service misses them.
    pub fn missed(&self, map: &ClusterMap) -> Vec<(BrickId, Instant)> {
        let since = |brick: BrickId| self.seen.get(&brick).and_then(|s| s.missed).map(|at| (brick, at));
        map.bricks.values().filter(|b| !b.alive).filter_map(|b| since(b.id)).collect()
    }

    /// Forgets bricks that are not in the map any more.
    pub fn forget_removed(&mut self, map: &ClusterMap) {
        self.seen.retain(|brick, _| map.bricks.contains_key(brick));
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
        if self.stopping {
            return dead;
        }
        for info in map.bricks.values() {
            let seen = self.seen.entry(info.id).or_default();
            if !info.alive {
                seen.missed.get_or_insert(now);
                continue;
            }
            seen.missed = None;
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
            seen.missed = seen.missed.map(|since| since + by);
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
        self.seen.iter().filter_map(|(b, seen)| Some((*b, seen.report.clone()?))).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::{ChainEpoch, ClusterId, NodeId, StoreId};
    use wire::map::{BrickInfo, Member};
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

    #[test]
    fn nobody_is_missed_while_all_stop() {
        let (mut bricks, map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        bricks.heard(BrickId(0), BootId(1), MapEpoch(1), BrickReport::default(), start);
        bricks.came_over(BrickId(0), Weak::new());
        assert_eq!(bricks.hung_up(&map), [(BrickId(0), BootId(1))]);
        bricks.stop();
        bricks.heard(BrickId(0), BootId(1), MapEpoch(1), BrickReport::default(), start + ms(1));
        assert!(bricks.hung_up(&map).is_empty());
        assert!(bricks.dead(&map, start + GRACE * 2).is_empty());
    }

    /// Invariant 1.
    #[test]
    fn bricks_are_dead_after_their_time() {
        let (mut bricks, map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        assert!(bricks.dead(&map, start).is_empty());
        bricks.heard(BrickId(0), BootId(1), MapEpoch(1), BrickReport::default(), start + ms(4000));
        assert!(bricks.dead(&map, start + ms(4999)).is_empty());
        assert_eq!(bricks.dead(&map, start + ms(5000)), [(BrickId(1), BootId(1))]);
        bricks.extend(ms(1000));
        assert!(bricks.dead(&map, start + ms(5999)).is_empty());
        assert_eq!(bricks.dead(&map, start + ms(7499)), [(BrickId(1), BootId(1))]);
        assert_eq!(bricks.dead(&map, start + ms(7500)).len(), 2);
    }

    /// Who has the map, and is the brick that the map names.
    #[test]
    fn the_informed_have_the_map() {
        let (mut bricks, mut map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        map.epoch = MapEpoch(7);
        bricks.heard(BrickId(0), BootId(1), MapEpoch(6), BrickReport::default(), start);
        bricks.heard(BrickId(1), BootId(1), MapEpoch(7), BrickReport::default(), start);
        assert_eq!(bricks.informed(&map), BTreeSet::from([BrickId(1)]));
        assert!(!bricks.is_heard_after(BrickId(1), BootId(1), start));
        assert!(bricks.is_heard_after(BrickId(1), BootId(1), start - ms(1)));
        assert!(!bricks.is_heard_after(BrickId(1), BootId(2), start - ms(1)));
        map.bricks.get_mut(&BrickId(1)).unwrap().boot = BootId(2);
        assert!(bricks.informed(&map).is_empty());
    }

    /// The head's word counts, for chains of which it holds nothing, too.
    #[test]
    fn heads_say_how_large_chains_are() {
        let (mut bricks, mut map) = (Bricks::new(DEAD, GRACE), map());
        assert!(bricks.sizes(&map).is_empty());
        bricks.holds(BrickId(1), vec![(ChainId(1), 7)]);
        assert!(bricks.sizes(&map).is_empty(), "it is not the head");
        bricks.holds(BrickId(0), vec![(ChainId(1), 8), (ChainId(9), 1)]);
        assert_eq!(bricks.sizes(&map), BTreeMap::from([(ChainId(1), 8)]));
        bricks.holds(BrickId(0), vec![]);
        assert_eq!(bricks.sizes(&map), BTreeMap::from([(ChainId(1), 0)]));
        map.chains.get_mut(&ChainId(1)).unwrap().members.swap(0, 1);
        assert_eq!(bricks.sizes(&map), BTreeMap::from([(ChainId(1), 7)]));
    }

    /// Invariant 3.
    #[test]
    fn who_hung_up_is_looked_for() {
        let (mut bricks, mut map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        assert!(bricks.hung_up(&map).is_empty(), "nothing is known yet");
        let authority = wire::net::Authority::create(ClusterId([1; 16])).unwrap();
        let credential = authority.issue(wire::net::Role::Brick, NodeId([1; 16])).unwrap();
        let identity = credential.identity();
        let peer = std::sync::Arc::new(Peer { identity, address: "a".into(), connection: 1 });
        bricks.heard(BrickId(0), BootId(1), MapEpoch(1), BrickReport::default(), start);
        bricks.came_over(BrickId(0), std::sync::Arc::downgrade(&peer));
        assert!(bricks.hung_up(&map).is_empty());
        drop(peer);
        assert_eq!(bricks.hung_up(&map), [(BrickId(0), BootId(1))]);
        map.bricks.get_mut(&BrickId(0)).unwrap().alive = false;
        assert!(bricks.hung_up(&map).is_empty());
    }

    /// Invariant 4.
    #[test]
    fn who_keeps_dying_is_kept_out() {
        let (mut bricks, mut map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        let (a, mut now) = (BrickId(0), start);
        let mut dies = |bricks: &mut Bricks| {
            now += Duration::from_secs(4);
            bricks.died(a, now);
            // The same death, told again.
            bricks.died(a, now + Duration::from_secs(2));
            now
        };
        for _ in 0..FREE_DEATHS {
            let now = dies(&mut bricks);
            assert_eq!(bricks.held(&map, a, now), None);
        }
        let now = dies(&mut bricks);
        assert_eq!(bricks.held(&map, a, now), Some(FIRST_HOLD));
        assert_eq!(bricks.held(&map, a, now + FIRST_HOLD), None);
        let now = dies(&mut bricks);
        assert_eq!(bricks.held(&map, a, now), Some(2 * FIRST_HOLD));
        for _ in 0..100 {
            dies(&mut bricks);
        }
        let now = dies(&mut bricks);
        assert_eq!(bricks.held(&map, a, now), Some(LONGEST_HOLD));
        assert_eq!(bricks.held(&map, BrickId(1), now), None, "another brick is another matter");
        let chain = map.chains.get_mut(&ChainId(1)).unwrap();
        chain.members[0].state = MemberState::LastServing;
        assert_eq!(bricks.held(&map, a, now), None, "the chain has nobody else");
        chain_back(&mut map);
        bricks.died(a, now + FORGIVEN_AFTER);
        assert_eq!(bricks.held(&map, a, now + FORGIVEN_AFTER), None);
    }

    fn chain_back(map: &mut ClusterMap) {
        map.chains.get_mut(&ChainId(1)).unwrap().members[0].state = MemberState::Serving;
    }

    /// Who is missed, and since when.
    #[test]
    fn the_missed_are_missed_since_they_were_seen_dead() {
        let (mut bricks, mut map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        map.bricks.get_mut(&BrickId(1)).unwrap().alive = false;
        bricks.dead(&map, start);
        bricks.dead(&map, start + ms(500));
        assert_eq!(bricks.missed(&map), [(BrickId(1), start)]);
        map.bricks.get_mut(&BrickId(1)).unwrap().alive = true;
        bricks.dead(&map, start + ms(600));
        map.bricks.get_mut(&BrickId(1)).unwrap().alive = false;
        bricks.dead(&map, start + ms(700));
        assert_eq!(bricks.missed(&map), [(BrickId(1), start + ms(700))]);
    }

    /// Invariant 2.
    #[test]
    fn a_restart_of_all_is_told_apart() {
        let (mut bricks, mut map, start) = (Bricks::new(DEAD, GRACE), map(), Instant::now());
        let (a, b) = (BrickId(0), BrickId(1));
        let report = BrickReport::default();
        // Brick a restarts alone: b is heard afterwards in its old life.
        bricks.heard(b, BootId(1), MapEpoch(1), report.clone(), start);
        let arrived = bricks.arrived(a, BootId(2), start + ms(100));
        assert_eq!(bricks.stayed(&map, a, arrived), None);
        bricks.heard(b, BootId(1), MapEpoch(1), report, start + ms(500));
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
