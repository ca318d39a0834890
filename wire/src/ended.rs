//! Sessions that are over and may change nothing any more.
//!
//! Numbers of sessions are given in order and never twice, so what is over is kept as ranges
//! of them: there are at most as many ranges as sessions that live, and one, however many have
//! come and gone. Nothing is ever taken out, so no brick can let a call of an old session pass
//! since the list was pruned (`ended_sessions_stay_ended`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{MapEpoch, SessionId};

/// A range's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Until {
    last: SessionId,
    /// Epoch of the map from which on all of the range is over.
    since: MapEpoch,
}

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndedSessions {
    /// By the first session of each. They do not touch.
    ranges: BTreeMap<SessionId, Until>,
}

impl EndedSessions {
    fn find(&self, session: SessionId) -> Option<&Until> {
        let (_, until) = self.ranges.range(..=session).next_back()?;
        (until.last >= session).then_some(until)
    }

    /// Whether the session is over.
    pub fn contains_key(&self, session: &SessionId) -> bool {
        self.find(*session).is_some()
    }

    /// A map epoch from which on the session is over by every map; who is given what it had must
    /// only use bricks that know this epoch or a later one.
    pub fn since(&self, session: SessionId) -> Option<MapEpoch> {
        self.find(session).map(|until| until.since)
    }

    /// All that are over, in order: the first and the last session of each range, and since which epoch.
    pub fn each(&self) -> impl Iterator<Item = (SessionId, SessionId, MapEpoch)> + '_ {
        self.ranges.iter().map(|(first, until)| (*first, until.last, until.since))
    }

    /// The latest epoch from which on a session is over.
    pub fn newest(&self) -> Option<MapEpoch> {
        self.ranges.values().map(|until| until.since).max()
    }

    /// The session is over from this map epoch on.
    pub fn insert(&mut self, session: SessionId, epoch: MapEpoch) {
        if self.contains_key(&session) {
            return;
        }
        let (mut first, mut until) = (session, Until { last: session, since: epoch });
        if let Some((before, its)) = self.ranges.range(..session).next_back()
            && its.last.0.checked_add(1) == Some(session.0)
        {
            first = *before;
            until.since = until.since.max(its.since);
        }
        if let Some(next) = session.0.checked_add(1).map(SessionId)
            && let Some(its) = self.ranges.remove(&next)
        {
            until.last = its.last;
            until.since = until.since.max(its.since);
        }
        self.ranges.insert(first, until);
    }

    /// All sessions from `first` to `last` are over from this map epoch on.
    pub fn insert_all(&mut self, first: SessionId, last: SessionId, epoch: MapEpoch) {
        if first > last {
            return;
        }
        let (mut first, mut until) = (first, Until { last, since: epoch });
        // What it touches becomes one with it.
        let touches = |from: &SessionId, its: &Until, first: SessionId, last: SessionId| {
            its.last.0.saturating_add(1) >= first.0 && from.0 <= last.0.saturating_add(1)
        };
        let joined: Vec<SessionId> = self
            .ranges
            .iter()
            .filter(|(from, its)| touches(from, its, first, last))
            .map(|(from, _)| *from)
            .collect();
        for from in joined {
            let Some(its) = self.ranges.remove(&from) else { continue };
            first = first.min(from);
            until.last = until.last.max(its.last);
            until.since = until.since.max(its.since);
        }
        self.ranges.insert(first, until);
    }

    /// All that another list has is over, too.
    pub fn extend(&mut self, other: &EndedSessions) {
        for (first, until) in &other.ranges {
            self.insert_all(*first, until.last, until.since);
        }
    }

    /// How many ranges there are.
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a plain list: what was ended stays ended, since no earlier than it was, and
        /// there is no range too many.
        #[test]
        fn ended_sessions_stay_ended(ends in prop::collection::vec(0u64..40, 0..60)) {
            let (mut ended, mut model) = (EndedSessions::default(), BTreeMap::new());
            for (epoch, session) in (1..).zip(ends) {
                ended.insert(SessionId(session), MapEpoch(epoch));
                model.entry(session).or_insert(epoch);
            }
            let mut ranges = 0;
            for session in 0..41 {
                let known = model.get(&session);
                prop_assert_eq!(ended.contains_key(&SessionId(session)), known.is_some());
                if let Some(epoch) = known {
                    prop_assert!(ended.since(SessionId(session)) >= Some(MapEpoch(*epoch)));
                    ranges += usize::from(session == 0 || !model.contains_key(&(session - 1)));
                }
            }
            prop_assert_eq!(ended.ranges(), ranges);
        }
    }

    proptest! {
        /// Ranges are what their sessions one by one are.
        #[test]
        fn ranges_end_as_their_sessions(ranges in prop::collection::vec((0u64..40, 0u64..6), 0..12)) {
            let (mut ended, mut one_by_one) = (EndedSessions::default(), EndedSessions::default());
            for (first, more) in &ranges {
                ended.insert_all(SessionId(*first), SessionId(first + more), MapEpoch(7));
                for session in *first..=first + more {
                    one_by_one.insert(SessionId(session), MapEpoch(7));
                }
            }
            prop_assert_eq!(&ended, &one_by_one);
            let mut both = EndedSessions::default();
            both.insert(SessionId(3), MapEpoch(9));
            both.extend(&ended);
            for session in 0..50 {
                let over = session == 3 || ended.contains_key(&SessionId(session));
                prop_assert_eq!(both.contains_key(&SessionId(session)), over);
            }
        }
    }

    /// The largest number is no special case.
    #[test]
    fn the_last_number_ends_too() {
        let mut ended = EndedSessions::default();
        for session in [u64::MAX, u64::MAX - 2, u64::MAX - 1] {
            ended.insert(SessionId(session), MapEpoch(1));
        }
        assert_eq!(ended.ranges(), 1);
        assert!(ended.contains_key(&SessionId(u64::MAX)) && !ended.contains_key(&SessionId(0)));
    }
}
