//! When each session was heard last, and who is in somebody's way.
//!
//! 1. A session that is silent is given up when somebody needs what it has, not before, and not any more when nobody does; in the end
//!    all the same, so that what the dead had open is freed (`sessions_are_given_up_for_somebody`).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::id::SessionId;
use wire::meta::SessionClass;

#[derive(Debug, Clone, Copy)]
struct Live {
    class: SessionClass,
    heard: Instant,
    told: bool,
    /// Until when somebody needs what it has.
    needed: Option<Instant>,
}

/// How long sessions live without being heard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ttls {
    /// Of the standard class.
    pub standard: Duration,
    /// Of class `ha`.
    pub ha: Duration,
}

impl Ttls {
    fn of(&self, class: SessionClass) -> Duration {
        match class {
            SessionClass::Standard => self.standard,
            SessionClass::Ha => self.ha,
        }
    }
}

/// When a session was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Which.
    pub session: SessionId,
    /// Time since then.
    pub ago: Duration,
    /// Whether that was within its time to live.
    pub lives: bool,
}

/// Sessions that live.
#[derive(Debug, Default)]
pub struct Sessions {
    ttls: Ttls,
    live: HashMap<SessionId, Live>,
}

impl Sessions {
    /// None yet.
    pub fn new(ttls: Ttls) -> Self {
        Self { ttls, live: HashMap::new() }
    }

    /// One that is known from before the start: it has a full time to live, and is asked what it
    /// has open.
    pub fn known(&mut self, session: SessionId, class: SessionClass, now: Instant) {
        self.live.insert(session, Live { class, heard: now, told: false, needed: None });
    }

    /// One that began now, with nothing open.
    pub fn began(&mut self, session: SessionId, class: SessionClass, now: Instant) {
        self.live.insert(session, Live { class, heard: now, told: true, needed: None });
    }

    /// One is over.
    pub fn ended(&mut self, session: SessionId) {
        self.live.remove(&session);
    }

    /// Whether it lives.
    pub fn lives(&self, session: SessionId) -> bool {
        self.live.contains_key(&session)
    }

    /// It was heard; `told` if it said what it has open. Gives whether it has to be asked
    /// for that, or nothing if it does not live.
    pub fn renew(&mut self, session: SessionId, now: Instant, told: bool) -> Option<bool> {
        let live = self.live.get_mut(&session)?;
        live.heard = now;
        live.told |= told;
        Some(!live.told)
    }

    /// Whether all have said what they have open.
    pub fn all_told(&self) -> bool {
        self.live.values().all(|live| live.told)
    }

    /// Somebody needs what it has, until then.
    pub fn need(&mut self, session: SessionId, until: Instant) {
        if let Some(live) = self.live.get_mut(&session) {
            live.needed = live.needed.max(Some(until));
        }
    }

    /// Somebody has to know what those have open that have not said so, until then.
    pub fn need_untold(&mut self, until: Instant) {
        for live in self.live.values_mut().filter(|live| !live.told) {
            live.needed = live.needed.max(Some(until));
        }
    }

    /// Whether it is not heard for its time to live.
    pub fn is_silent(&self, session: SessionId, now: Instant) -> bool {
        self.live.get(&session).is_some_and(|live| self.is_late(live, now))
    }

    /// All that are.
    pub fn silent(&self, now: Instant) -> Vec<SessionId> {
        self.live.iter().filter(|(_, live)| self.is_late(live, now)).map(|(session, _)| *session).collect()
    }

    fn is_late(&self, live: &Live, now: Instant) -> bool {
        now.saturating_duration_since(live.heard) >= self.ttls.of(live.class)
    }

    /// Those to be given up: silent, and somebody needs what they have, or silent for `longest`.
    pub fn expired(&self, now: Instant, longest: Duration) -> Vec<SessionId> {
        let late = |live: &Live| {
            let needed = live.needed.is_some_and(|until| until >= now);
            let forgotten = now.saturating_duration_since(live.heard) >= longest;
            self.is_late(live, now) && (needed || forgotten)
        };
        self.live.iter().filter(|(_, live)| late(live)).map(|(session, _)| *session).collect()
    }

    /// This process stood still for that long: nobody could be heard.
    pub fn extend(&mut self, by: Duration) {
        for live in self.live.values_mut() {
            live.heard += by;
        }
    }

    /// All, and when they were heard.
    pub fn heard(&self, now: Instant) -> Vec<Heard> {
        let one = |(session, live): (&SessionId, &Live)| Heard {
            session: *session,
            ago: now.saturating_duration_since(live.heard),
            lives: !self.is_late(live, now),
        };
        self.live.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(12);
    const LONGEST: Duration = Duration::from_secs(3600);
    const STANDARD: SessionClass = SessionClass::Standard;

    fn none() -> Sessions {
        Sessions::new(Ttls { standard: TTL, ha: Duration::from_secs(5) })
    }

    /// A session lives for its time from the last renewal, longer when this process stood still.
    #[test]
    fn sessions_expire_when_not_renewed() {
        let start = Instant::now();
        let mut sessions = none();
        sessions.began(SessionId(1), STANDARD, start);
        sessions.began(SessionId(2), STANDARD, start);
        let later = start + Duration::from_secs(10);
        let soon = |at: Instant| at + Duration::from_secs(60);
        for session in 1..4 {
            sessions.need(SessionId(session), soon(start));
        }
        assert_eq!(sessions.renew(SessionId(2), later, false), Some(false));
        assert!(sessions.expired(later, LONGEST).is_empty());
        let mut heard = sessions.heard(start + TTL);
        heard.sort_by_key(|heard| heard.session);
        let ago = |heard: &Heard| (heard.ago.as_secs(), heard.lives);
        assert_eq!(heard.iter().map(ago).collect::<Vec<_>>(), [(12, false), (2, true)]);
        sessions.began(SessionId(3), SessionClass::Ha, later);
        sessions.need(SessionId(3), soon(start));
        assert_eq!(sessions.expired(start + TTL, LONGEST), [SessionId(1)]);
        assert_eq!(
            sessions.expired(later + Duration::from_secs(5), LONGEST).len(),
            2,
            "its class has less time"
        );
        sessions.ended(SessionId(3));
        sessions.extend(Duration::from_secs(1));
        assert!(sessions.expired(start + TTL, LONGEST).is_empty());
        sessions.ended(SessionId(1));
        assert_eq!(sessions.renew(SessionId(1), later, false), None);
    }

    /// After a restart a session is asked what it has open until it says so.
    #[test]
    fn known_sessions_are_asked() {
        let start = Instant::now();
        let mut sessions = none();
        sessions.known(SessionId(1), STANDARD, start);
        assert!(!sessions.all_told());
        assert_eq!(sessions.renew(SessionId(1), start, false), Some(true));
        assert_eq!(sessions.renew(SessionId(1), start, true), Some(false));
        assert!(sessions.all_told());
    }

    /// Invariant 1.
    #[test]
    fn sessions_are_given_up_for_somebody() {
        let start = Instant::now();
        let mut sessions = none();
        sessions.began(SessionId(1), STANDARD, start);
        let late = start + TTL * 2;
        let second = Duration::from_secs(1);
        assert!(sessions.is_silent(SessionId(1), late) && !sessions.is_silent(SessionId(1), start + second));
        assert_eq!(sessions.silent(late), [SessionId(1)]);
        assert!(sessions.expired(late, LONGEST).is_empty());
        sessions.need(SessionId(1), late + second);
        assert_eq!(sessions.expired(late, LONGEST), [SessionId(1)]);
        // Whoever needed it has gone.
        assert!(sessions.expired(late + second * 2, LONGEST).is_empty());
        sessions.need(SessionId(1), late + second);
        assert_eq!(sessions.renew(SessionId(1), late, false), Some(false));
        assert!(sessions.expired(late, LONGEST).is_empty() && !sessions.is_silent(SessionId(1), late));
        assert_eq!(sessions.expired(late + LONGEST, LONGEST), [SessionId(1)]);
        sessions.known(SessionId(2), STANDARD, start);
        sessions.need_untold(late);
        assert_eq!(sessions.expired(late, LONGEST), [SessionId(2)], "what it has open nobody knows");
    }
}
