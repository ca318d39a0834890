//! What sessions have: locks, and files open for writing.

use wire::id::{Ino, LockGeneration, LockHandle, SessionId};
use wire::meta::{FileKind, LockHeld, LockKind};

use super::{Done, MOST_AHEAD, tell, tell_of_none};
use crate::machine::txn::{Do, Txn};
use crate::machine::{locks, sessions};
use crate::store::records::Inode;
use crate::store::{Read, keys};

/// A session is to know where it holds locks, and nowhere else.
pub fn holds(txn: &mut Txn<'_>, session: SessionId, ino: Ino, done: &mut Done) -> Do<()> {
    let key = keys::holds(session, ino);
    let any = locks::all_held(txn, ino)?.iter().any(|(_, lock)| lock.session == session);
    let is_known = txn.get(&key)?.is_some();
    if any && !is_known {
        txn.put(key, &())?;
        tell(done, ino, format!("session {session} knows again that it holds locks on inode {ino}"));
    } else if is_known && !any {
        txn.delete(key);
        tell(done, ino, format!("session {session} is not said any more to hold locks on inode {ino}"));
    }
    Ok(())
}

/// Locks of an inode that does not exist, and records of none.
pub fn locks(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    if txn.get(&keys::inode(ino))?.is_none() {
        let any = txn.any(&keys::all_locks(ino))?;
        locks::drop_inode(txn, ino)?;
        if any {
            tell_of_none(done, format!("locks on inode {ino}, which does not exist, are gone"));
        }
    }
    for kind in [LockKind::Flock, LockKind::Range] {
        let key = keys::locks(ino, kind);
        if txn.load::<Vec<LockHeld>>(&key)?.is_some_and(|held| held.is_empty()) {
            txn.delete(key);
            tell(done, ino, format!("an empty record of locks on inode {ino} is gone"));
        }
    }
    Ok(())
}

/// No lock has a generation beyond the last one given.
pub fn generation(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    let given: LockGeneration = txn.load(keys::LOCK_GENERATION)?.unwrap_or_default();
    let last = locks::all_held(txn, ino)?.iter().map(|(_, lock)| lock.generation).max().unwrap_or_default();
    if last > given && last.0 - given.0 <= MOST_AHEAD {
        txn.put(keys::LOCK_GENERATION.to_vec(), &last)?;
        tell_of_none(done, format!("generations of locks go on after {last}"));
    }
    Ok(())
}

/// Only open files that hold locks are to give them up.
pub fn recalled(txn: &mut Txn<'_>, session: SessionId, ino: Ino, done: &mut Done) -> Do<()> {
    let key = keys::recalled(session, ino);
    let Some(before) = txn.load::<Vec<LockHandle>>(&key)? else { return Ok(()) };
    let held = locks::all_held(txn, ino)?;
    let holds =
        |handle: &LockHandle| held.iter().any(|(_, lock)| (lock.session, lock.handle) == (session, *handle));
    let after: Vec<LockHandle> = before.iter().filter(|handle| holds(handle)).copied().collect();
    if after.is_empty() {
        txn.delete(key);
    } else if after != before {
        txn.put(key, &after)?;
    } else {
        return Ok(());
    }
    tell(done, ino, format!("session {session} is not to give up what it does not hold on inode {ino}"));
    Ok(())
}

/// What a session had that is over. It is blocked first, as with every session that ends: it may believe that it lives.
pub fn session(txn: &mut Txn<'_>, session: SessionId, done: &mut Done) -> Do<()> {
    if sessions::bury(txn, session)? {
        tell_of_none(
            done,
            format!(
                "session {session} is over: it is blocked, holds no locks, and what it had open for writing is closed"
            ),
        );
    }
    Ok(())
}

/// Open for writing, and no file.
pub fn writer(txn: &mut Txn<'_>, ino: Ino, session: SessionId, done: &mut Done) -> Do<()> {
    let inode = txn.load::<Inode>(&keys::inode(ino))?;
    let key = keys::writer(ino, session);
    if inode.is_none_or(|inode| inode.kind != FileKind::File) && txn.get(&key)?.is_some() {
        txn.delete(key);
        tell(
            done,
            ino,
            format!("inode {ino}, which is no file, is not open for writing in session {session} any more"),
        );
    }
    Ok(())
}

/// A cut that is kept for writers, and there are none.
pub fn cut(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    let key = keys::cut(ino);
    if txn.get(&key)?.is_some() && !txn.any(&keys::writers(ino))? {
        txn.delete(key);
        tell(done, ino, format!("a cut of inode {ino}, to which nobody writes, is not kept any more"));
    }
    Ok(())
}
