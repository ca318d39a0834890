//! Bricks that this machine can't reach, though the cluster can: a cable, a switch or a firewall between the two of them.
//!
//! The namespace hears such a brick, so it stays in its chains, and nobody else can do what is its to do. Calls to it go through
//! another brick that can be reached, which hands them on, until it answers here again.
//!
//! ```text
//!            asked, and nothing heard for PROBE_AFTER           silent for DETOUR_AFTER
//! in touch ─────────────────────────────────────────> probed ──────────────────────────> through others
//!     ^  <──────────── any answer ─────────────────────┘                                      │
//!     └────────────────────────── a probe is answered ────────────────────────────────────────┘
//! ```
//!
//! 1. Who takes long is not out of reach: a probe asks nothing of the disk
//!    (`tests`: `a_disk_that_hangs_is_left_and_taken_back`).
//! 2. A call that went both ways is carried out once: a change keeps its number
//!    (`a_brick_out_of_reach_is_written_through_another`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::brick::{BrickCall, BrickProtocol, BrickRequest};
use wire::id::BrickId;
use wire::map::ClusterMap;
use wire::net::typed::CallError;

use super::Shared;

/// How often it is looked who is to be probed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A brick that was asked something and said nothing for so long is probed.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// How long a probe may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// A brick that answers nothing, not even probes, for so long is out of reach. Longer than the cluster takes to give up one that it does
/// not hear; one that is heard and that nobody reaches is set aside some two seconds later.
const DETOUR_AFTER: Duration = Duration::from_secs(3);

/// What is heard of a brick.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// Since when something is asked of it and nothing was heard.
    quiet: Option<Instant>,
    /// Since when it does not answer probes, at least one of them.
    deaf: Option<Instant>,
}

impl Contact {
    /// Something is asked of it.
    pub(super) fn asked(&mut self, now: Instant) {
        self.quiet.get_or_insert(now);
    }

    /// It said something. Whether it was out of reach.
    pub(super) fn heard(&mut self, now: Instant, still_asked: bool) -> bool {
        let was_out = self.is_out(now);
        *self = Contact { quiet: still_asked.then_some(now), deaf: None };
        was_out
    }

    /// It did not answer a probe. Whether it is out of reach now and was not before.
    fn missed(&mut self, begun: Instant, now: Instant) -> bool {
        let was_out = self.deaf.is_some_and(|since| begun.saturating_duration_since(since) >= DETOUR_AFTER);
        let since = self.quiet.unwrap_or(begun);
        self.deaf.get_or_insert(since);
        !was_out && self.is_out(now)
    }

    /// Nothing is asked of it any more.
    pub(super) fn rests(&mut self) {
        if self.deaf.is_none() {
            self.quiet = None;
        }
    }

    fn is_to_be_probed(&self, now: Instant) -> bool {
        let is_quiet = self.quiet.is_some_and(|since| now.saturating_duration_since(since) >= PROBE_AFTER);
        self.deaf.is_some() || is_quiet
    }

    fn is_out(&self, now: Instant) -> bool {
        self.deaf.is_some_and(|since| now.saturating_duration_since(since) >= DETOUR_AFTER)
    }
}

impl Shared {
    /// Through whom a brick is asked that can't be reached from here; none: directly.
    pub(super) fn detour(&self, map: &ClusterMap, to: BrickId) -> Option<BrickId> {
        let now = Instant::now();
        if !self.loads.contact(to, |contact| contact.is_out(now)) {
            return None;
        }
        let others = map.bricks.values().filter(|brick| brick.alive && brick.id != to).map(|brick| brick.id);
        let in_touch = others.filter(|brick| !self.loads.contact(*brick, |contact| contact.is_out(now)));
        self.loads.rank(in_touch.collect()).into_iter().next()
    }

    /// Returns when a brick can't be reached any more, and others can be asked to.
    pub(super) async fn out_of_reach(&self, map: &ClusterMap, brick: BrickId) {
        loop {
            let mut lost = std::pin::pin!(self.loads.lost_touch.notified());
            lost.as_mut().enable();
            if self.detour(map, brick).is_some() {
                return;
            }
            lost.await;
        }
    }

    /// Probes bricks that are quiet, until the client stops.
    pub(crate) async fn keep_probing(self: Arc<Self>) {
        let mut probed: BTreeSet<BrickId> = BTreeSet::new();
        let mut probes = JoinSet::new();
        while self.sleep_unless_stopping(LOOK_EVERY).await {
            while let Some(done) = probes.try_join_next() {
                match done {
                    Ok(brick) => drop(probed.remove(&brick)),
                    // Whose it was is not known: all may be begun again.
                    Err(_) => probed.clear(),
                }
            }
            let now = Instant::now();
            for brick in self.loads.all() {
                if self.loads.contact(brick, |contact| contact.is_to_be_probed(now)) && probed.insert(brick) {
                    let shared = self.clone();
                    probes.spawn(async move {
                        shared.probe(brick).await;
                        brick
                    });
                }
            }
        }
    }

    async fn probe(&self, brick: BrickId) {
        let map = self.map();
        let begun = Instant::now();
        let Some((endpoint, info)) = map.endpoint_of(brick).zip(map.bricks.get(&brick)) else {
            self.loads.contact(brick, |contact| contact.heard(begun, false));
            return;
        };
        if !info.alive {
            // Nobody asks it anything.
            self.loads.contact(brick, |contact| contact.heard(begun, false));
            return;
        }
        let call = BrickCall { brick, map: map.epoch, request: BrickRequest::Ping };
        let asked =
            self.outside.net.request::<BrickProtocol>(endpoint, &call, Bytes::new(), begun + PROBE_PATIENCE);
        let is_heard = !matches!(asked.await, Err(CallError::Net(_)));
        let now = Instant::now();
        if is_heard {
            self.loads.heard(brick, now);
            return;
        }
        if self.loads.contact(brick, |contact| contact.missed(begun, now)) {
            tracing::warn!(
                %brick, %endpoint, host = info.host,
                "can't be reached from here, though the cluster hears it: goes through other bricks; look at the network between"
            );
            self.loads.lost_touch.notify_waiters();
        }
        // Perhaps nobody can: the namespace looks for itself.
        self.suspect(brick, info.boot).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_nothing_is_out_of_reach_until_it_does() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut contact = Contact::default();
        contact.asked(at(0));
        assert!(!contact.is_to_be_probed(at(999)) && contact.is_to_be_probed(at(1000)));
        assert!(!contact.heard(at(1100), true), "slow, not out of reach");
        assert!(!contact.is_to_be_probed(at(2000)) && contact.is_to_be_probed(at(2100)));
        assert!(!contact.missed(at(2100), at(3100)));
        assert!(contact.is_to_be_probed(at(3100)));
        assert!(contact.missed(at(3200), at(4200)), "nothing for three seconds");
        assert!(contact.is_out(at(4200)));
        assert!(!contact.missed(at(4300), at(5300)), "told once");
        contact.rests();
        assert!(
            contact.is_out(at(5400)) && contact.is_to_be_probed(at(5400)),
            "looked after until it answers"
        );
        assert!(contact.heard(at(6000), false));
        assert!(!contact.is_out(at(9000)) && !contact.is_to_be_probed(at(9000)));
    }
}
