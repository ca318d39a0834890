//! Locks, as the state machine sees them.

use std::collections::BTreeMap;

use namespace::machine::command::{Command, Op};
use namespace::machine::locks::recalls;
use proptest::prelude::*;
use wire::id::{Ino, LockGeneration, LockHandle, LockOwner, SessionId};
use wire::meta::*;
use wire::status::{FsError, Status};

use crate::harness::{ROOT, World};

const BYTES: u64 = 12;

/// Somebody: which of two sessions, which of two owners there, through which of two open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Who(usize, u64, u64);

#[derive(Debug, Clone)]
enum Step {
    Lock(Who, LockKind, LockRange, LockMode),
    Unlock(Who, LockKind, LockRange),
    Drop(Who),
    /// The session ends, cleanly or not, and begins anew.
    End(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = (0..2usize, 0..2u64, 0..2u64).prop_map(|(s, o, h)| Who(s, o, h));
    let range = (0..BYTES, 1..BYTES)
        .prop_map(|(start, len)| LockRange { start, end: (start + len - 1).min(BYTES - 1) });
    let kind = prop_oneof![Just(LockKind::Flock), Just(LockKind::Range), Just(LockKind::Range)];
    let mode = prop_oneof![Just(LockMode::Shared), Just(LockMode::Exclusive)];
    let lock =
        (who.clone(), kind.clone(), range.clone(), mode).prop_map(|(w, k, r, m)| Step::Lock(w, k, r, m));
    let unlock = (who.clone(), kind, range).prop_map(|(w, k, r)| Step::Unlock(w, k, r));
    let step = prop_oneof![
        6 => lock,
        3 => unlock,
        1 => who.prop_map(Step::Drop),
        1 => (0..2usize, any::<bool>()).prop_map(|(s, clean)| Step::End(s, clean)),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Of every kind and byte, who holds it: session, owner, through which open file, and how.
type Model = BTreeMap<(LockKind, u64), Vec<(usize, u64, u64, LockMode)>>;

fn whole(kind: LockKind, range: LockRange) -> LockRange {
    if kind == LockKind::Flock { LockRange::ALL } else { range }
}

fn cells(
    model: &mut Model,
    kind: LockKind,
    range: LockRange,
) -> impl Iterator<Item = &mut Vec<(usize, u64, u64, LockMode)>> {
    model
        .iter_mut()
        .filter(move |((k, byte), _)| *k == kind && range.start <= *byte && *byte <= range.end)
        .map(|(_, v)| v)
}

fn wish(ino: Ino, who: Who, kind: LockKind, range: LockRange, mode: LockMode) -> LockWish {
    let (owner, handle) = (LockOwner(who.1), LockHandle(who.2));
    LockWish { ino, kind, owner, handle, range, mode, pid: 7 }
}

struct Locks {
    world: World,
    ino: Ino,
    sessions: Vec<SessionId>,
}

impl Locks {
    fn new() -> Locks {
        let mut world = World::new();
        let ino = world.file(ROOT, "f");
        let sessions = vec![world.open_session(11), world.open_session(12)];
        Locks { world, ino, sessions }
    }

    fn call(&mut self, session: usize, request: FsRequest) -> Result<FsReply, Status> {
        self.world.session = self.sessions[session];
        self.world.fs(request)
    }

    fn lock(
        &mut self,
        who: Who,
        kind: LockKind,
        range: LockRange,
        mode: LockMode,
    ) -> Result<FsReply, Status> {
        let wish = wish(self.ino, who, kind, range, mode);
        self.call(who.0, FsRequest::Lock(wish))
    }

    fn held(&mut self) -> Vec<(LockKind, LockHeld)> {
        match self.world.fs(FsRequest::ListLocks { ino: self.ino }).unwrap() {
            FsReply::Locks { locks, .. } => locks,
            other => panic!("{other:?}"),
        }
    }

    /// Of every kind and byte who holds it, by what the machine says.
    fn seen(&mut self) -> Model {
        let mut seen = empty();
        for (kind, lock) in self.held() {
            let session =
                self.sessions.iter().position(|s| *s == lock.session).expect("a session that is over");
            for cell in cells(&mut seen, kind, lock.range) {
                cell.push((session, lock.owner.0, lock.handle.0, lock.mode));
                cell.sort_by_key(|c| (c.0, c.1, c.2));
            }
        }
        seen
    }
}

fn empty() -> Model {
    let kinds = [LockKind::Flock, LockKind::Range];
    kinds.iter().flat_map(|kind| (0..BYTES).map(|byte| ((*kind, byte), Vec::new()))).collect()
}

proptest! {
    /// Whatever is locked, given up, dropped and ended: of every byte those hold it who should, and a lock is refused just
    /// where another owner's excludes it.
    #[test]
    fn locks_match_the_model(steps in steps()) {
        let mut locks = Locks::new();
        let mut model = empty();
        for step in steps {
            match step {
                Step::Lock(who, kind, range, mode) => {
                    let range = whole(kind, range);
                    let own = |c: &(usize, u64, u64, LockMode)| (c.0, c.1) == (who.0, who.1);
                    if kind == LockKind::Flock {
                        cells(&mut model, kind, range).for_each(|cell| cell.retain(|c| !own(c)));
                    }
                    let refused = cells(&mut model, kind, range).any(|cell| cell.iter().any(|c| !own(c) && c.3.excludes(mode)));
                    match locks.lock(who, kind, range, mode).unwrap() {
                        FsReply::Locked { .. } => {
                            prop_assert!(!refused, "{who:?} got {range:?}");
                            for cell in cells(&mut model, kind, range) {
                                cell.retain(|c| !own(c));
                                cell.push((who.0, who.1, who.2, mode));
                                cell.sort_by_key(|c| (c.0, c.1, c.2));
                            }
                        }
                        FsReply::LockedBy(Some(other)) => {
                            prop_assert!(refused, "{who:?} did not get {range:?}");
                            prop_assert!(other.range.overlaps(range) && other.mode.excludes(mode));
                        }
                        other => panic!("{other:?}"),
                    }
                }
                Step::Unlock(who, kind, range) => {
                    let range = whole(kind, range);
                    let (ino, owner) = (locks.ino, LockOwner(who.1));
                    locks.call(who.0, FsRequest::Unlock { ino, kind, owner, range }).unwrap();
                    cells(&mut model, kind, range).for_each(|cell| cell.retain(|c| (c.0, c.1) != (who.0, who.1)));
                }
                Step::Drop(who) => {
                    let (ino, handle) = (locks.ino, LockHandle(who.2));
                    locks.call(who.0, FsRequest::DropLocks { ino, handle }).unwrap();
                    model.values_mut().for_each(|cell| cell.retain(|c| (c.0, c.2) != (who.0, who.2)));
                }
                Step::End(session, clean) => {
                    let gone = locks.sessions[session];
                    locks.world.op(Op::EndSession { session: gone, clean }).unwrap();
                    locks.sessions[session] = locks.world.open_session(11 + session as u8);
                    model.values_mut().for_each(|cell| cell.retain(|c| c.0 != session));
                }
            }
            prop_assert_eq!(&locks.seen(), &model);
            locks.world.sound();
        }
        locks.world.reopen();
        prop_assert_eq!(&locks.seen(), &model);
    }
}

/// Every grant has a number of its own, higher than all before, on whatever file; what is held tells the last one.
#[test]
fn generations_grow() {
    let mut locks = Locks::new();
    let (one, other) = (Who(0, 1, 1), Who(1, 1, 1));
    let granted = |reply: Result<FsReply, Status>| match reply.unwrap() {
        FsReply::Locked { generation, .. } => generation,
        other => panic!("{other:?}"),
    };
    let low = LockRange { start: 0, end: 4 };
    let high = LockRange { start: 5, end: 9 };
    let first = granted(locks.lock(one, LockKind::Range, low, LockMode::Exclusive));
    let second = granted(locks.lock(other, LockKind::Range, high, LockMode::Exclusive));
    assert!(second > first);
    let file = locks.ino;
    locks.ino = locks.world.file(ROOT, "g");
    assert!(granted(locks.lock(one, LockKind::Flock, LockRange::ALL, LockMode::Shared)) > second);
    locks.ino = file;
    locks.call(1, FsRequest::DropLocks { ino: file, handle: LockHandle(1) }).unwrap();
    let last = granted(locks.lock(one, LockKind::Range, high, LockMode::Exclusive));
    // Both are one now, of the later number.
    let held = locks.held();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!((held[0].1.range, held[0].1.generation), (LockRange { start: 0, end: 9 }, last));
    assert_eq!(last, LockGeneration(4));
}

/// What makes no sense is refused, and a file has so many locks and no more; locks live on without a name and end with
/// the file.
#[test]
fn locks_have_limits() {
    let mut locks = Locks::new();
    let who = Who(0, 1, 1);
    let refused = |reply: Result<FsReply, Status>, error: FsError| assert_eq!(reply, Err(Status::Fs(error)));
    let backwards = LockRange { start: 5, end: 4 };
    refused(locks.lock(who, LockKind::Range, backwards, LockMode::Shared), FsError::Invalid);
    let part = LockRange { start: 0, end: 4 };
    refused(locks.lock(who, LockKind::Flock, part, LockMode::Shared), FsError::Invalid);
    let most = namespace::config::LOCKS_A_FILE as u64;
    for n in 0..most {
        let byte = LockRange { start: n * 2, end: n * 2 };
        assert!(matches!(
            locks.lock(who, LockKind::Range, byte, LockMode::Shared),
            Ok(FsReply::Locked { .. })
        ));
    }
    let beyond = LockRange { start: most * 2, end: most * 2 };
    refused(locks.lock(who, LockKind::Range, beyond, LockMode::Shared), FsError::NoLocks);
    assert_eq!(locks.held().len() as u64, most);
    let all = LockRange::ALL;
    assert!(matches!(locks.lock(who, LockKind::Range, all, LockMode::Shared), Ok(FsReply::Locked { .. })));
    assert_eq!(locks.held().len(), 1);
    locks.world.unlink(ROOT, "f").unwrap();
    assert_eq!(locks.held().len(), 1);
    locks.world.op(Op::Reclaim(vec![locks.ino])).unwrap();
    assert_eq!(locks.held(), []);
    locks.world.sound();
    refused(locks.lock(who, LockKind::Range, all, LockMode::Shared), FsError::Stale);
}

/// Who takes over the lock of a session that was ended is told of the map that blocks it.
#[test]
fn a_grant_names_the_map() {
    let mut locks = Locks::new();
    let (one, other) = (Who(0, 1, 1), Who(1, 1, 1));
    let all = LockRange::ALL;
    locks.lock(one, LockKind::Flock, all, LockMode::Exclusive).unwrap();
    let gone = locks.sessions[0];
    locks.world.op(Op::EndSession { session: gone, clean: false }).unwrap();
    let FsReply::Locked { map, .. } = locks.lock(other, LockKind::Flock, all, LockMode::Exclusive).unwrap()
    else {
        panic!("the lock of a session that is over is held");
    };
    let now = locks.world.machine.map();
    assert!(map == now.epoch && now.blocked.since(gone).is_some_and(|since| since <= map));
}

/// Invariant 6: a lock that is broken stays until its open file has given up all it holds; that file gets no more, and neither does its
/// owner by another one; others are as they were.
#[test]
fn a_broken_lock_is_held_until_its_file_gives_it_up() {
    let mut locks = Locks::new();
    let (holder, beside, other) = (Who(0, 1, 1), Who(0, 2, 2), Who(1, 1, 1));
    let part = |n: u64| LockRange { start: n * 10, end: n * 10 + 4 };
    let (kind, mode) = (LockKind::Range, LockMode::Exclusive);
    for (who, n) in [(holder, 0), (holder, 1), (beside, 2)] {
        assert!(matches!(locks.lock(who, kind, part(n), mode), Ok(FsReply::Locked { .. })));
    }
    let ino = locks.ino;
    let broken = locks.held()[0].1;
    let order = |generation| FsRequest::BreakLock { ino, generation };
    assert_eq!(
        locks.call(1, order(LockGeneration(broken.generation.0 + 100))),
        Err(Status::Fs(FsError::NoAttribute))
    );
    let at = locks.world.at();
    locks.world.session = locks.sessions[1];
    let command = locks.world.command(order(broken.generation));
    let applied = locks.world.batch(vec![Command { at, ..command }]);
    assert_eq!((applied.answers[0].is_ok(), applied.effects.recalled), (true, vec![locks.sessions[0]]));
    // Once more is nothing more, and it is remembered.
    locks.call(1, order(broken.generation)).unwrap();
    locks.world.reopen();
    let recalls =
        |locks: &Locks, n: usize| recalls(&**locks.world.machine.store(), locks.sessions[n]).unwrap();
    assert_eq!(recalls(&locks, 0), [Recall { ino, handle: LockHandle(1) }]);
    assert_eq!(recalls(&locks, 1), []);
    let by = |reply: Result<FsReply, Status>| match reply {
        Ok(FsReply::LockedBy(Some(lock))) => (lock.session, lock.handle),
        other => panic!("{other:?}"),
    };
    let whose = (locks.sessions[0], LockHandle(1));
    assert_eq!(by(locks.lock(holder, kind, part(3), mode)), whose);
    assert_eq!(by(locks.lock(Who(0, 1, 3), kind, part(0), mode)), whose);
    assert_eq!(by(locks.lock(other, kind, part(0), mode)), whose);
    assert!(matches!(locks.lock(beside, kind, part(4), mode), Ok(FsReply::Locked { .. })));
    assert!(matches!(locks.lock(other, kind, part(5), mode), Ok(FsReply::Locked { .. })));
    locks.world.sound();
    // Giving up a part is not all.
    locks.call(0, FsRequest::Unlock { ino, kind, owner: LockOwner(1), range: part(0) }).unwrap();
    assert_eq!(recalls(&locks, 0).len(), 1);
    locks.call(0, FsRequest::DropLocks { ino, handle: LockHandle(1) }).unwrap();
    assert_eq!(recalls(&locks, 0), []);
    assert!(matches!(locks.lock(other, kind, part(0), mode), Ok(FsReply::Locked { .. })));
    // With its session.
    let generation =
        locks.held().into_iter().find(|(_, lock)| lock.session == locks.sessions[0]).unwrap().1.generation;
    locks.call(1, order(generation)).unwrap();
    let gone = locks.sessions[0];
    locks.world.op(Op::EndSession { session: gone, clean: false }).unwrap();
    assert_eq!(recalls(&locks, 0), []);
    locks.world.sound();
}
