//! Who waits for which lock. Pure: it is told what is held.
//!
//! 1. Those who waited longer come first: who could have a lock only because an earlier one in line does not have
//!    it yet is not told that it is free (`the_line_is_kept`).
//! 2. Who asks again in time is the one who waited all the while, at its old place (`who_asks_again_waits_on`).
//! 3. Who waits in a circle is found when the last one of the circle begins to wait (`circles_are_found`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use wire::id::{Ino, LockGeneration};
use wire::meta::{LockHeld, LockKind, LockRange, LockWish, Timestamp};

use crate::machine::locks::{Holder, in_the_way};

#[derive(Debug)]
struct Wait {
    since: Instant,
    who: Holder,
    wish: LockWish,
    changed: Arc<Notify>,
}

/// What a wait is known by when it is taken up again.
type Known = (Holder, Ino, LockKind, LockRange);

fn known(wait: &Wait) -> Known {
    (wait.who, wait.wish.ino, wait.wish.kind, wait.wish.range)
}

/// A wait that may be taken up again.
#[derive(Debug)]
struct Paused {
    number: u64,
    since: Instant,
    at: Instant,
}

/// Whoever asks again within this time has waited all the while.
const AGAIN: Duration = Duration::from_secs(2);

/// See the module's head.
#[derive(Debug, Default)]
pub struct LockWaits {
    next: u64,
    paused: BTreeMap<Known, Paused>,
    /// In the order of their beginning.
    waits: BTreeMap<u64, Wait>,
}

impl LockWaits {
    /// Somebody begins to wait: its number in line, and what tells it that something has changed.
    pub fn begin(&mut self, who: Holder, wish: LockWish, now: Instant) -> (u64, Arc<Notify>) {
        let changed = Arc::new(Notify::new());
        let mut wait = Wait { since: now, who, wish, changed: changed.clone() };
        let paused = self.paused.remove(&known(&wait));
        let again = paused.filter(|p| now.saturating_duration_since(p.at) <= AGAIN);
        let number = match again {
            Some(again) => {
                wait.since = again.since;
                again.number
            }
            None => {
                self.next += 1;
                self.next
            }
        };
        self.waits.insert(number, wait);
        (number, changed)
    }

    /// It waits no more; who is behind it may come first now. `told` to ask again: its place is kept for it until it does.
    pub fn end(&mut self, number: u64, told: Option<Instant>) {
        let Some(wait) = self.waits.remove(&number) else { return };
        if let Some(at) = told {
            self.paused.retain(|_, paused| at.saturating_duration_since(paused.at) <= AGAIN);
            self.paused.insert(known(&wait), Paused { number, since: wait.since, at });
        }
        self.changed(wait.wish.ino);
    }

    /// All that wait, longest first: their numbers, who, for what, since when.
    pub fn all(&self) -> Vec<(u64, Holder, LockWish, Instant)> {
        self.waits.iter().map(|(number, wait)| (*number, wait.who, wait.wish, wait.since)).collect()
    }

    /// Something was given up on a file.
    pub fn changed(&self, ino: Ino) {
        // One permit is kept for who is about to wait.
        self.waits.values().filter(|wait| wait.wish.ino == ino).for_each(|wait| wait.changed.notify_one());
    }

    /// What keeps somebody in line from having its lock, if `held` is held: a lock, or one that an earlier one in line is about
    /// to have.
    pub fn in_the_way(&self, number: u64, held: &[LockHeld]) -> Option<LockHeld> {
        let own = self.waits.get(&number)?;
        let mut held = held.to_vec();
        for wait in self.waits.range(..number).map(|(_, wait)| wait) {
            let alike = (wait.wish.ino, wait.wish.kind) == (own.wish.ino, own.wish.kind);
            if alike && in_the_way(&held, wait.who, &wait.wish).next().is_none() {
                held.push(as_if_held(wait));
            }
        }
        in_the_way(&held, own.who, &own.wish).next().copied()
    }

    /// Whether `who`, if it waits for that, waits for somebody who waits for it. `held`: what is held of the file and kind of a
    /// wish. Only owners of ranges are looked at, as on Linux.
    ///
    /// # Errors
    /// Those of `held`.
    pub fn would_wait_for_ever<E>(
        &self,
        who: Holder,
        wish: &LockWish,
        held: impl Fn(&LockWish) -> Result<Vec<LockHeld>, E>,
    ) -> Result<bool, E> {
        if wish.kind != LockKind::Range {
            return Ok(false);
        }
        let mut seen: BTreeSet<Holder> = BTreeSet::new();
        let mut waited_for = holders_in_the_way(&held(wish)?, who, wish);
        while let Some(other) = waited_for.pop() {
            if other == who {
                return Ok(true);
            }
            if !seen.insert(other) {
                continue;
            }
            for wait in self.waits.values().filter(|w| w.who == other && w.wish.kind == LockKind::Range) {
                waited_for.extend(holders_in_the_way(&held(&wait.wish)?, other, &wait.wish));
            }
        }
        Ok(false)
    }
}

fn holders_in_the_way(held: &[LockHeld], who: Holder, wish: &LockWish) -> Vec<Holder> {
    in_the_way(held, who, wish).map(|lock| (lock.session, lock.owner)).collect()
}

fn as_if_held(wait: &Wait) -> LockHeld {
    let LockWish { owner, handle, range, mode, pid, .. } = wait.wish;
    let (session, generation, since) = (wait.who.0, LockGeneration(0), Timestamp::default());
    LockHeld { session, owner, handle, range, mode, pid, generation, since }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use wire::id::{LockHandle, LockOwner, SessionId};
    use wire::meta::LockMode;

    use super::*;

    fn who(owner: u64) -> Holder {
        (SessionId(1), LockOwner(owner))
    }

    fn wish(ino: u64, owner: u64, mode: LockMode) -> LockWish {
        LockWish {
            ino: Ino(ino),
            kind: LockKind::Range,
            owner: LockOwner(owner),
            handle: LockHandle(1),
            range: LockRange { start: 5, end: 9 },
            mode,
            pid: 1,
        }
    }

    fn held(owner: u64, mode: LockMode) -> LockHeld {
        as_if_held(&Wait {
            since: Instant::now(),
            who: who(owner),
            wish: wish(1, owner, mode),
            changed: Arc::default(),
        })
    }

    /// Readers behind a writer that waits do not pass it; readers before it all go at once.
    #[test]
    fn the_line_is_kept() {
        use LockMode::{Exclusive, Shared};
        let (mut waits, now) = (LockWaits::default(), Instant::now());
        let mut line = |owner, mode| waits.begin(who(owner), wish(1, owner, mode), now).0;
        let (a, b, writer, c) = (line(1, Shared), line(2, Shared), line(3, Exclusive), line(4, Shared));
        let other_file = waits.begin(who(5), wish(2, 5, Exclusive), now).0;
        let free = |waits: &LockWaits, held: &[LockHeld]| {
            [a, b, writer, c, other_file].map(|number| waits.in_the_way(number, held).is_none())
        };
        let nobody = [held(9, Exclusive)];
        assert_eq!(free(&waits, &nobody), [false, false, false, false, false]);
        // Of the other file nothing is held.
        assert!(waits.in_the_way(other_file, &[]).is_none());
        assert_eq!(free(&waits, &[])[..4], [true, true, false, true]);
        // A reader that holds it lets readers in, also behind the writer, which can't have it anyway.
        assert_eq!(free(&waits, &[held(9, Shared)])[..4], [true, true, false, true]);
        waits.end(a, None);
        waits.end(b, None);
        assert_eq!(free(&waits, &[])[..4], [true, true, true, false]);
        waits.end(writer, None);
        assert!(waits.in_the_way(c, &[]).is_none());
    }

    /// Two or three that wait for each other: the last one is told, not the ones before.
    #[test]
    fn circles_are_found() {
        use LockMode::Exclusive;
        for length in 1..5u64 {
            let mut waits = LockWaits::default();
            // Owner n holds file n, and waits for the next one's.
            let of = |wish: &LockWish| Ok::<_, Infallible>(vec![held(wish.ino.0, Exclusive)]);
            for owner in 0..length {
                let next = (owner + 1) % length;
                let wanted = wish(next, owner, Exclusive);
                let circle = waits.would_wait_for_ever(who(owner), &wanted, of).unwrap();
                assert_eq!(circle, length > 1 && owner + 1 == length, "{owner} of {length}");
                let flock = LockWish { kind: LockKind::Flock, ..wanted };
                assert!(!waits.would_wait_for_ever(who(owner), &flock, of).unwrap());
                waits.begin(who(owner), wanted, Instant::now());
            }
        }
    }

    /// Who was told to ask again and does is where it was; who comes late, or had what it wanted, is at the end.
    #[test]
    fn who_asks_again_waits_on() {
        let (mut waits, start) = (LockWaits::default(), Instant::now());
        let wanted = |owner| wish(1, owner, LockMode::Exclusive);
        let first = waits.begin(who(1), wanted(1), start).0;
        let second = waits.begin(who(2), wanted(2), start + AGAIN / 2).0;
        let order = |waits: &LockWaits| waits.all().iter().map(|(_, who, _, _)| who.1.0).collect::<Vec<_>>();
        waits.end(first, Some(start + AGAIN));
        assert_eq!(waits.begin(who(1), wanted(1), start + AGAIN * 2).0, first);
        assert_eq!((order(&waits), waits.all()[0].3), (vec![1, 2], start));
        waits.end(first, Some(start + AGAIN * 2));
        waits.begin(who(1), wanted(1), start + AGAIN * 4);
        assert_eq!((order(&waits), waits.all()[1].3), (vec![2, 1], start + AGAIN * 4));
        waits.end(second, None);
        waits.begin(who(2), wanted(2), start + AGAIN * 4);
        assert_eq!(order(&waits), [1, 2]);
    }
}
