//! What sessions have open for reading, so that inodes without a name live on.
//!
//! 1. An inode that somebody has open is not freed, also when the opening and the freeing
//!    meet: whoever comes second sees the first (`opening_and_freeing_exclude_each_other`).
//! 2. A file that `create` found or made is open from before it could have been freed
//!    (`orphans_wait_for_creates_under_way`).

use std::collections::{BTreeSet, HashMap, HashSet};

use wire::id::{Ino, SessionId};

/// A `create` under way that will open what it finds.
#[derive(Debug, PartialEq, Eq)]
pub struct Creating(u64);

/// Who has what open.
#[derive(Debug, Default)]
pub struct Opens {
    by_session: HashMap<SessionId, HashSet<Ino>>,
    holders: HashMap<Ino, u32>,
    freeing: HashSet<Ino>,
    next_create: u64,
    creating: BTreeSet<u64>,
    /// Orphans seen and not freed yet, with the number the next create had then.
    seen: HashMap<Ino, u64>,
}

impl Opens {
    /// The session has it open now; false if it is being freed.
    #[must_use]
    pub fn open(&mut self, session: SessionId, ino: Ino) -> bool {
        if self.freeing.contains(&ino) {
            return false;
        }
        if self.by_session.entry(session).or_default().insert(ino) {
            *self.holders.entry(ino).or_default() += 1;
        }
        true
    }

    /// The session has it open no more.
    pub fn close(&mut self, session: SessionId, ino: Ino) {
        if let Some(inos) = self.by_session.get_mut(&session)
            && inos.remove(&ino)
        {
            if inos.is_empty() {
                self.by_session.remove(&session);
            }
            self.release(ino);
        }
    }

    /// The session is over.
    pub fn end(&mut self, session: SessionId) {
        for ino in self.by_session.remove(&session).unwrap_or_default() {
            self.release(ino);
        }
    }

    fn release(&mut self, ino: Ino) {
        if let Some(count) = self.holders.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                self.holders.remove(&ino);
            }
        }
    }

    /// A create begins; hand what it gives to [`Opens::created`].
    pub fn creating(&mut self) -> Creating {
        let number = self.next_create;
        self.next_create += 1;
        self.creating.insert(number);
        Creating(number)
    }

    /// A create is over, and what it found is open.
    pub fn created(&mut self, create: &Creating) {
        self.creating.remove(&create.0);
    }

    /// Those of `orphans` that may be freed: nobody has them open, and from now on nobody can.
    pub fn free(&mut self, orphans: &[Ino]) -> Vec<Ino> {
        let oldest = self.creating.first().copied().unwrap_or(u64::MAX);
        let mut free = Vec::new();
        for ino in orphans {
            // Creates that begin once it is an orphan cannot find it.
            let seen = *self.seen.entry(*ino).or_insert(self.next_create);
            if oldest >= seen && !self.holders.contains_key(ino) && self.freeing.insert(*ino) {
                free.push(*ino);
            }
        }
        free
    }

    /// The attempt to free these is over, one way or the other.
    pub fn freed(&mut self, inos: &[Ino]) {
        for ino in inos {
            self.freeing.remove(ino);
            self.seen.remove(ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const X: Ino = Ino(7);

    /// Invariant 1.
    #[test]
    fn opening_and_freeing_exclude_each_other() {
        let mut opens = Opens::default();
        assert!(opens.open(A, X) && opens.open(A, X) && opens.open(B, X));
        assert!(opens.free(&[X]).is_empty());
        opens.close(A, X);
        opens.close(A, X);
        assert!(opens.free(&[X]).is_empty());
        opens.end(B);
        assert_eq!(opens.free(&[X]), [X]);
        assert!(!opens.open(A, X));
        assert!(opens.free(&[X]).is_empty());
        opens.freed(&[X]);
        assert!(opens.open(A, X));
    }

    /// Invariant 2.
    #[test]
    fn orphans_wait_for_creates_under_way() {
        let mut opens = Opens::default();
        let early = opens.creating();
        assert!(opens.free(&[X]).is_empty());
        let late = opens.creating();
        opens.created(&early);
        assert_eq!(opens.free(&[X]), [X]);
        opens.created(&late);
    }
}
