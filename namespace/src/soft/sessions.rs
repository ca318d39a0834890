//! When each session was heard last.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::id::SessionId;

#[derive(Debug, Clone, Copy)]
struct Live {
    heard: Instant,
    told: bool,
}

/// Sessions that live.
#[derive(Debug, Default)]
pub struct Sessions {
    live: HashMap<SessionId, Live>,
}

impl Sessions {
    /// One that is known from before the start: it has a full time to live, and is asked what it
    /// has open.
    pub fn known(&mut self, session: SessionId, now: Instant) {
        self.live.insert(session, Live { heard: now, told: false });
    }

    /// One that began now, with nothing open.
    pub fn began(&mut self, session: SessionId, now: Instant) {
        self.live.insert(session, Live { heard: now, told: true });
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

    /// Those not heard for `ttl`.
    pub fn expired(&self, now: Instant, ttl: Duration) -> Vec<SessionId> {
        let late = |live: &Live| now.saturating_duration_since(live.heard) >= ttl;
        self.live.iter().filter(|(_, live)| late(live)).map(|(session, _)| *session).collect()
    }

    /// This process stood still for that long: nobody could be heard.
    pub fn extend(&mut self, by: Duration) {
        for live in self.live.values_mut() {
            live.heard += by;
        }
    }

    /// All with the time since they were heard.
    pub fn heard(&self, now: Instant) -> Vec<(SessionId, Duration)> {
        self.live.iter().map(|(s, live)| (*s, now.saturating_duration_since(live.heard))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(12);

    /// A session lives for its time from the last renewal, longer when this process stood still.
    #[test]
    fn sessions_expire_when_not_renewed() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        sessions.began(SessionId(1), start);
        sessions.began(SessionId(2), start);
        let later = start + Duration::from_secs(10);
        assert_eq!(sessions.renew(SessionId(2), later, false), Some(false));
        assert!(sessions.expired(later, TTL).is_empty());
        assert_eq!(sessions.expired(start + TTL, TTL), [SessionId(1)]);
        sessions.extend(Duration::from_secs(1));
        assert!(sessions.expired(start + TTL, TTL).is_empty());
        sessions.ended(SessionId(1));
        assert_eq!(sessions.renew(SessionId(1), later, false), None);
    }

    /// After a restart a session is asked what it has open until it says so.
    #[test]
    fn known_sessions_are_asked() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        sessions.known(SessionId(1), start);
        assert!(!sessions.all_told());
        assert_eq!(sessions.renew(SessionId(1), start, false), Some(true));
        assert_eq!(sessions.renew(SessionId(1), start, true), Some(false));
        assert!(sessions.all_told());
    }
}
