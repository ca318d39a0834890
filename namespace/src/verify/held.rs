//! Sessions, and what they have.

use std::collections::{BTreeSet, HashSet};

use wire::id::{Ino, LockGeneration, LockHandle, SessionId};
use wire::meta::{FileKind, LockHeld};

use super::names::Nodes;
use super::{Report, each, record};
use crate::error::Error;
use crate::machine::locks::all_held;
use crate::machine::repair::Flaw;
use crate::store::{Read, keys};

pub(super) fn sessions(state: &dyn Read, report: &mut Report, nodes: &Nodes) -> Result<(), Error> {
    let mut known = HashSet::new();
    each(state, b"S", |key, _| {
        known.insert(SessionId(keys::first(key).unwrap_or_default()));
        Ok(())
    })?;
    each(state, b"W", |key, _| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let session = SessionId(keys::second(key).unwrap_or_default());
        report.should(known.contains(&session), || {
            (
                format!("inode {ino} is open for writing in session {session}, which is over"),
                Flaw::Session(session),
            )
        });
        let is_file = match nodes.all.get(&ino) {
            Some(node) => node.kind == FileKind::File,
            None => nodes.exists(ino),
        };
        report.should(is_file, || {
            (format!("inode {ino} is open for writing and no file"), Flaw::Writer { ino, session })
        });
        Ok(())
    })?;
    each(state, b"Q", |key, _| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let is_written = state.any(&keys::writers(ino))?;
        report.should(is_written, || {
            (format!("a cut of inode {ino} is kept, and nobody has it open for writing"), Flaw::Cut(ino))
        });
        Ok(())
    })?;
    for tag in [b"A", b"U"] {
        each(state, tag, |key, _| {
            let session = SessionId(keys::first(key).unwrap_or_default());
            report.should(known.contains(&session), || {
                (format!("answers of session {session}, which is over"), Flaw::Session(session))
            });
            Ok(())
        })?;
    }
    Ok(())
}

/// What is held excludes nobody who holds something, is of files and sessions that exist, and every session
/// knows where it holds something.
pub(super) fn locks(state: &dyn Read, report: &mut Report, nodes: &Nodes) -> Result<(), Error> {
    let mut holds: BTreeSet<(SessionId, Ino)> = BTreeSet::new();
    let mut unreadable: BTreeSet<Ino> = BTreeSet::new();
    let mut last = (LockGeneration(0), Ino(0));
    each(state, b"L", |key, value| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let Some(held) = record::<Vec<LockHeld>>(report, key, value) else {
            unreadable.insert(ino);
            return Ok(());
        };
        report.should(nodes.exists(ino), || {
            (format!("locks on inode {ino}, which does not exist"), Flaw::Locks(ino))
        });
        report.should(!held.is_empty(), || {
            (format!("no locks on inode {ino}, and a record of them"), Flaw::Locks(ino))
        });
        for (at, lock) in held.iter().enumerate() {
            holds.insert((lock.session, ino));
            last = last.max((lock.generation, ino));
            let clash = held[at + 1..].iter().any(|other| {
                let same = (other.session, other.owner) == (lock.session, lock.owner);
                lock.range.overlaps(other.range) && (same || lock.mode.excludes(other.mode))
            });
            report.must(!clash, || format!("inode {ino}: locks that exclude each other"));
        }
        Ok(())
    })?;
    each(state, b"H", |key, _| {
        let session = SessionId(keys::first(key).unwrap_or_default());
        let ino = Ino(keys::second(key).unwrap_or_default());
        let has = holds.remove(&(session, ino)) || unreadable.contains(&ino);
        report.should(has, || {
            (
                format!("session {session} is said to hold locks on inode {ino}, and holds none"),
                Flaw::Holds { session, ino },
            )
        });
        report.should(state.get(&keys::session(session))?.is_some(), || {
            (format!("session {session}, which is over, holds locks on inode {ino}"), Flaw::Session(session))
        });
        Ok(())
    })?;
    each(state, b"B", |key, value| {
        let session = SessionId(keys::first(key).unwrap_or_default());
        let ino = Ino(keys::second(key).unwrap_or_default());
        let Some(recalled) = record::<Vec<LockHandle>>(report, key, value) else { return Ok(()) };
        if unreadable.contains(&ino) {
            return Ok(());
        }
        let held = all_held(state, ino)?;
        let holds = |handle| held.iter().any(|(_, lock)| (lock.session, lock.handle) == (session, handle));
        report.should(!recalled.is_empty() && recalled.iter().all(|handle| holds(*handle)), || {
            (
                format!("session {session} is to give up locks on inode {ino} that it does not hold"),
                Flaw::Recalled { session, ino },
            )
        });
        Ok(())
    })?;
    for (session, ino) in holds {
        report.wrong(format!("session {session} holds locks on inode {ino} and does not know"));
        report.flaw(Flaw::Holds { session, ino });
    }
    let given: LockGeneration = match state.get(keys::LOCK_GENERATION)? {
        Some(value) => record(report, keys::LOCK_GENERATION, &value).unwrap_or_default(),
        None => LockGeneration::default(),
    };
    report.should(last.0 <= given, || {
        (format!("lock generation {} was given before its turn", last.0), Flaw::LockGeneration(last.1))
    });
    Ok(())
}
