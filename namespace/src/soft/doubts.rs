//! Living bricks of which somebody says that they do not answer: what this service found when it asked them itself.
//!
//! Heartbeats go out through a firewall that lets nothing in. A brick behind one is heard, so it stays head of its chains, and nobody can
//! reach it there.
//!
//! ```text
//!        told of                    asked, no answer                UNREACHED_AFTER
//! quiet ─────────> doubted ────────────────────────────> silent ────────────────────> out of reach
//!   ^                 │ not told again    ^                 │                              │
//!   └─────────────────┘ FORGOTTEN_AFTER   └─ any answer ────┴──────────────────────────────┘
//! ```
//!
//! 1. One witness is not enough: what is broken may be that one's own (`it_takes_two_to_find_a_brick_out_of_reach`).
//! 2. Who was found silent is asked until it answers, told of or not (`who_is_silent_is_asked_until_it_answers`).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::id::{BootId, BrickId};
use wire::map::ClusterMap;

use crate::soft::apart::Life;

/// See the picture in the module's head. Who can't reach a brick says so once a second.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);
/// How long a brick may give no answer to this service, after others said so: about as long as one may be silent that is not heard.
pub const UNREACHED_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Doubt {
    boot: BootId,
    told: Instant,
    silent: Option<Instant>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Doubts(BTreeMap<BrickId, Doubt>);

impl Doubts {
    /// Somebody says that a brick does not answer.
    pub fn told(&mut self, (brick, boot): Life, now: Instant) {
        let doubt = self.0.entry(brick).or_insert(Doubt { boot, told: now, silent: None });
        if doubt.boot != boot {
            *doubt = Doubt { boot, told: now, silent: None };
        }
        doubt.told = now;
    }

    /// Who is to be asked.
    pub fn doubted(&mut self, map: &ClusterMap, now: Instant) -> Vec<Life> {
        self.0.retain(|brick, doubt| {
            let lives = map.bricks.get(brick).is_some_and(|info| info.alive && info.boot == doubt.boot);
            let told = now.saturating_duration_since(doubt.told) < FORGOTTEN_AFTER;
            lives && (told || doubt.silent.is_some())
        });
        self.0.iter().map(|(brick, doubt)| (*brick, doubt.boot)).collect()
    }

    /// A brick was asked at `begun`, and answered or not.
    pub fn asked(&mut self, (brick, boot): Life, begun: Instant, answers: bool) {
        if let Some(doubt) = self.0.get_mut(&brick).filter(|doubt| doubt.boot == boot) {
            doubt.silent = if answers { None } else { doubt.silent.or(Some(begun)) };
        }
    }

    /// Who is out of reach, and since when.
    pub fn unreached(&self, now: Instant) -> Vec<(Life, Instant)> {
        let since = |doubt: &Doubt| {
            doubt.silent.filter(|since| now.saturating_duration_since(*since) >= UNREACHED_AFTER)
        };
        self.0.iter().filter_map(|(brick, doubt)| Some(((*brick, doubt.boot), since(doubt)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use wire::id::{ClusterId, NodeId, StoreId};
    use wire::map::BrickInfo;
    use wire::net::Endpoint;

    use super::*;

    const A: Life = (BrickId(1), BootId(7));

    fn map(alive: bool) -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        let brick = BrickInfo {
            id: A.0,
            store: StoreId([1; 16]),
            node: NodeId([1; 16]),
            host: "h".into(),
            endpoint: Endpoint::Memory(1),
            boot: A.1,
            alive,
        };
        map.bricks.insert(A.0, brick);
        map
    }

    /// Rule 1.
    #[test]
    fn it_takes_two_to_find_a_brick_out_of_reach() {
        let (mut doubts, start, map) = (Doubts::default(), Instant::now(), map(true));
        let at = |ms| start + Duration::from_millis(ms);
        doubts.asked(A, at(0), false);
        assert!(
            doubts.unreached(at(9000)).is_empty() && doubts.doubted(&map, at(0)).is_empty(),
            "nobody told"
        );
        doubts.told(A, at(0));
        assert_eq!(doubts.doubted(&map, at(0)), [A]);
        doubts.asked(A, at(0), true);
        assert!(doubts.unreached(at(3000)).is_empty(), "it answers here");
        assert_eq!(doubts.doubted(&map, at(4999)), [A]);
        assert!(doubts.doubted(&map, at(5000)).is_empty(), "not told again");
        doubts.told(A, at(6000));
        doubts.asked(A, at(6000), false);
        assert!(doubts.unreached(at(7999)).is_empty());
        assert_eq!(doubts.unreached(at(8000)), [(A, at(6000))]);
    }

    /// Rule 2.
    #[test]
    fn who_is_silent_is_asked_until_it_answers() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        doubts.told(A, at(0));
        doubts.asked(A, at(0), false);
        doubts.asked(A, at(1000), false);
        assert_eq!(doubts.doubted(&map(true), at(60_000)), [A]);
        assert_eq!(doubts.unreached(at(60_000)), [(A, at(0))]);
        doubts.asked(A, at(60_000), true);
        assert!(doubts.unreached(at(60_000)).is_empty() && doubts.doubted(&map(true), at(60_000)).is_empty());
        // Another life is another matter, and a dead one is none.
        doubts.told(A, at(70_000));
        doubts.asked(A, at(70_000), false);
        doubts.asked((A.0, BootId(8)), at(71_000), true);
        assert_eq!(doubts.unreached(at(72_000)), [(A, at(70_000))]);
        doubts.told((A.0, BootId(8)), at(72_000));
        assert!(doubts.unreached(at(80_000)).is_empty());
        doubts.told(A, at(80_000));
        assert!(doubts.doubted(&map(false), at(80_000)).is_empty());
    }
}
