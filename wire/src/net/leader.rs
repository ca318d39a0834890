//! Which member of the namespace to ask: all its callers find the one that leads by themselves.
//!
//! 1. Who is told where the leader is asks there next; who cannot reach a member, or is told that it
//!    does not lead and knows nobody, asks the next one of those it was given
//!    (`callers_find_the_leader`).
//!    Members that it was not given it is told of, and remembers while it runs (`callers_learn_of_members`).
//! 2. Of many callers that fail at the same member one moves on, and all follow it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net::{CallError, Endpoint};
use crate::status::{Advice, Status};

#[derive(Debug)]
struct At {
    /// Those given, then those learned of.
    known: Vec<Endpoint>,
    asked: Option<Endpoint>,
    turn: usize,
}

/// The members a caller was given, and the one it asks.
#[derive(Debug)]
pub struct Members {
    given: Vec<Endpoint>,
    at: Mutex<At>,
}

impl Members {
    /// Begins at the first.
    pub fn new(known: Vec<Endpoint>) -> Members {
        let at = Mutex::new(At { known: known.clone(), asked: known.first().copied(), turn: 0 });
        Members { given: known, at }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member to ask; `None` if none was given.
    pub fn to_ask(&self) -> Option<Endpoint> {
        self.at().asked
    }

    /// How many are known.
    pub fn count(&self) -> usize {
        self.at().known.len()
    }

    /// All that are known but this one.
    pub fn others(&self, than: Endpoint) -> Vec<Endpoint> {
        self.at().known.iter().copied().filter(|known| *known != than).collect()
    }

    /// Who the members are, as one of them says. Those that were given stay known.
    pub fn learn(&self, members: impl IntoIterator<Item = Endpoint>) {
        let mut known = self.given.clone();
        for member in members {
            if !known.contains(&member) {
                known.push(member);
            }
        }
        self.at().known = known;
    }

    /// What asking `asked` failed with: the next to ask may be another one.
    pub fn failed(&self, asked: Endpoint, error: &CallError) {
        let mut at = self.at();
        if at.asked != Some(asked) {
            return;
        }
        match error.status() {
            Some(Status::NotLeader(Some(leader))) if leader != asked => at.asked = Some(leader),
            Some(Status::NotLeader(_) | Status::NoMajority) => turn(&mut at),
            // It answered, and leads.
            Some(_) => {}
            None if error.advice() == Advice::Retry => turn(&mut at),
            None => {}
        }
    }

    /// Whether asking again, perhaps elsewhere, may find one that leads.
    pub fn is_elsewhere(error: &CallError) -> bool {
        match error.status() {
            Some(status) => matches!(status, Status::NotLeader(_) | Status::NoMajority),
            None => error.advice() == Advice::Retry,
        }
    }
}

fn turn(at: &mut At) {
    if at.known.is_empty() {
        return;
    }
    at.turn = (at.turn + 1) % at.known.len();
    if at.asked == Some(at.known[at.turn]) {
        at.turn = (at.turn + 1) % at.known.len();
    }
    at.asked = Some(at.known[at.turn]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Endpoint = Endpoint::Memory(1);
    const B: Endpoint = Endpoint::Memory(2);
    const NEW: Endpoint = Endpoint::Memory(9);

    /// Invariant 1, also for a leader that nobody told of before.
    #[test]
    fn callers_find_the_leader() {
        let members = Members::new(vec![A, B]);
        let told = |leader| CallError::Status(Status::NotLeader(leader));
        members.failed(A, &told(Some(NEW)));
        assert_eq!(members.to_ask(), Some(NEW));
        // Late news of a member that is not asked any more.
        members.failed(A, &told(Some(B)));
        assert_eq!(members.to_ask(), Some(NEW));
        members.failed(NEW, &told(None));
        assert_eq!(members.to_ask(), Some(B));
        members.failed(B, &CallError::Status(Status::NoMajority));
        assert_eq!(members.to_ask(), Some(A));
        members.failed(A, &CallError::Status(Status::Busy));
        assert_eq!(members.to_ask(), Some(A), "a busy leader leads");
    }

    /// Those learned of are asked, too; those given are not forgotten.
    #[test]
    fn callers_learn_of_members() {
        let one = Members::new(vec![A]);
        one.learn([NEW, B]);
        assert_eq!((one.to_ask(), one.count()), (Some(A), 3));
        let mut asked = Vec::new();
        for _ in 0..3 {
            let at = one.to_ask().unwrap_or(A);
            one.failed(at, &CallError::Status(Status::NotLeader(None)));
            asked.push(at);
        }
        assert_eq!(asked, [A, NEW, B]);
        one.learn([]);
        assert_eq!(one.count(), 1);
    }

    /// With one member there is no other to ask.
    #[test]
    fn one_member_is_asked_again() {
        let one = Members::new(vec![A]);
        let told = |leader| CallError::Status(Status::NotLeader(leader));
        one.failed(A, &told(None));
        assert_eq!(one.to_ask(), Some(A));
    }
}
