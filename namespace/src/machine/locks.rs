//! Locks on files, of all mounts.
//!
//! ```text
//! L ino kind       -> who holds what, in order of the first byte
//! H session ino    -> the session holds locks on the inode
//! B session ino    -> open files of the session of which a lock on the inode was broken, and that hold it still
//! ```
//! 1. Locks of different owners that exclude each other do not overlap, and what one owner holds of a kind on a file
//!    never overlaps itself (`locks_match_the_model`).
//! 2. Taking a lock replaces what its owner held of those bytes, in one step or not at all; of `flock` what it held goes
//!    first, as on Linux, so that two that share a lock and both want it alone do not wait for each other for ever
//!    (`locks_match_the_model`).
//! 3. A later grant has a higher generation, over all files (`generations_grow`).
//! 4. Who takes a lock is told the map by which its former holders are blocked (`a_grant_names_the_map`).
//! 5. With its session a lock is gone (`locks_match_the_model`); sessions that ended hold none, which [`crate::verify`] checks.
//! 6. An open file of which a lock was broken gets no more locks, and keeps what it has until it gives all of it up or its session ends:
//!    nobody takes over before nothing more can come through it (`a_broken_lock_is_held_until_its_file_gives_it_up`).

use std::collections::BTreeSet;

use wire::id::{Ino, LockGeneration, LockHandle, LockOwner, SessionId};
use wire::meta::{FsReply, LockHeld, LockKind, LockPlace, LockRange, LockWish, Recall};
use wire::status::{FsError, Status};

use crate::config::LOCKS_A_FILE;
use crate::error::Error;
use crate::machine::txn::{Do, Txn, load};
use crate::store::records::{Session, decode};
use crate::store::{Read, keys};

const KINDS: [LockKind; 2] = [LockKind::Flock, LockKind::Range];

/// Who holds a lock, in the whole cluster.
pub type Holder = (SessionId, LockOwner);

fn holder(lock: &LockHeld) -> Holder {
    (lock.session, lock.owner)
}

/// The locks of a kind on a file.
///
/// # Errors
/// If the disk fails or the record is not one.
pub fn held(state: &(impl Read + ?Sized), ino: Ino, kind: LockKind) -> Result<Vec<LockHeld>, Error> {
    Ok(load(state, &keys::locks(ino, kind))?.unwrap_or_default())
}

/// Those that are in the way of somebody's wish.
pub fn in_the_way<'a>(
    held: &'a [LockHeld],
    who: Holder,
    wish: &LockWish,
) -> impl Iterator<Item = &'a LockHeld> {
    let (range, mode) = (wish.range, wish.mode);
    held.iter()
        .filter(move |lock| holder(lock) != who && lock.range.overlaps(range) && lock.mode.excludes(mode))
}

/// Takes a range away from an owner; whether it had any of it.
fn give_up(held: &mut Vec<LockHeld>, who: Holder, range: LockRange) -> bool {
    let mut any = false;
    let mut left = Vec::with_capacity(held.len() + 1);
    for lock in held.drain(..) {
        if holder(&lock) != who || !lock.range.overlaps(range) {
            left.push(lock);
            continue;
        }
        any = true;
        if let Some(end) = range.start.checked_sub(1).filter(|end| lock.range.start <= *end) {
            left.push(LockHeld { range: LockRange { end, ..lock.range }, ..lock });
        }
        if let Some(start) = range.end.checked_add(1).filter(|start| *start <= lock.range.end) {
            left.push(LockHeld { range: LockRange { start, ..lock.range }, ..lock });
        }
    }
    *held = left;
    any
}

/// Makes one of locks of an owner that are alike and touch, with the generation of the latest; sorts all.
fn join(held: &mut Vec<LockHeld>, who: Holder) {
    held.sort_by_key(|lock| (lock.range, lock.generation));
    let mut joined: Vec<LockHeld> = Vec::with_capacity(held.len());
    for lock in held.drain(..) {
        // Between two that touch there may be one of somebody else's, shared as they are.
        let own = joined.iter_mut().rev().find(|last| holder(last) == who);
        match own.filter(|last| {
            let alike = (last.mode, last.handle) == (lock.mode, lock.handle);
            holder(&lock) == who && alike && last.range.end.checked_add(1) == Some(lock.range.start)
        }) {
            Some(last) => {
                last.range.end = lock.range.end;
                last.generation = last.generation.max(lock.generation);
                last.since = last.since.max(lock.since);
                last.pid = lock.pid;
            }
            None => joined.push(lock),
        }
    }
    *held = joined;
}

/// Writes the locks of a kind on a file, and what sessions hold of it. `before`: who held some.
fn put(txn: &mut Txn<'_>, ino: Ino, kind: LockKind, held: Vec<LockHeld>, before: &[LockHeld]) -> Do<()> {
    let other =
        self::held(txn, ino, if kind == LockKind::Flock { LockKind::Range } else { LockKind::Flock })?;
    for lock in before {
        let keeps = held.iter().chain(&other).any(|kept| kept.session == lock.session);
        if !keeps {
            txn.delete(keys::holds(lock.session, ino));
        }
        let key = keys::recalled(lock.session, ino);
        if let Some(mut recalled) = txn.load::<Vec<LockHandle>>(&key)? {
            let known = recalled.len();
            recalled.retain(|handle| {
                held.iter().chain(&other).any(|kept| (kept.session, kept.handle) == (lock.session, *handle))
            });
            if recalled.is_empty() {
                txn.delete(key);
            } else if recalled.len() < known {
                txn.put(key, &recalled)?;
            }
        }
    }
    for lock in &held {
        if !before.iter().any(|known| known.session == lock.session) {
            txn.put(keys::holds(lock.session, ino), &())?;
        }
    }
    let key = keys::locks(ino, kind);
    if held.is_empty() {
        txn.delete(key);
        return Ok(());
    }
    txn.put(key, &held)
}

/// Whether it makes sense.
///
/// # Errors
/// [`FsError::Invalid`].
pub fn check(wish: &LockWish) -> Result<(), FsError> {
    let whole = wish.kind == LockKind::Range || wish.range == LockRange::ALL;
    if whole && wish.range.start <= wish.range.end { Ok(()) } else { Err(FsError::Invalid) }
}

/// Takes a lock.
pub fn lock(txn: &mut Txn<'_>, session: SessionId, wish: &LockWish) -> Do<FsReply> {
    check(wish)?;
    txn.inode(wish.ino)?;
    let who = (session, wish.owner);
    let before = held(txn, wish.ino, wish.kind)?;
    let recalled = recalled(txn, session, wish.ino)?;
    if !recalled.is_empty() {
        // Its mount is about to tell the program; by another open file nothing is taken out of its hands either.
        let mut all = all_held(txn, wish.ino)?.into_iter().map(|(_, lock)| lock);
        let broken = all.find(|lock| {
            let concerned = lock.handle == wish.handle || holder(lock) == who;
            lock.session == session && concerned && recalled.contains(&lock.handle)
        });
        if broken.is_some() {
            return Ok(FsReply::LockedBy(broken));
        }
    }
    let mut after = before.clone();
    let gave_up = wish.kind == LockKind::Flock && give_up(&mut after, who, LockRange::ALL);
    let other = in_the_way(&after, who, wish).next().copied();
    if let Some(other) = other {
        if gave_up {
            put(txn, wish.ino, wish.kind, after, &before)?;
            txn.effects.unlocked.push(wish.ino);
        }
        return Ok(FsReply::LockedBy(Some(other)));
    }
    // What it held of the range may have excluded more than what it gets.
    if give_up(&mut after, who, wish.range) || gave_up {
        txn.effects.unlocked.push(wish.ino);
    }
    let last: LockGeneration = txn.load(keys::LOCK_GENERATION)?.unwrap_or_default();
    let generation = LockGeneration(last.0 + 1);
    txn.put(keys::LOCK_GENERATION.to_vec(), &generation)?;
    let &LockWish { owner, handle, range, mode, pid, .. } = wish;
    after.push(LockHeld { session, owner, handle, range, mode, pid, generation, since: txn.at });
    join(&mut after, who);
    if after.len() > LOCKS_A_FILE {
        return Err(FsError::NoLocks.into());
    }
    put(txn, wish.ino, wish.kind, after, &before)?;
    Ok(FsReply::Locked { generation, map: txn.map.epoch })
}

/// Gives up what an owner holds of a range.
pub fn unlock(txn: &mut Txn<'_>, who: Holder, ino: Ino, kind: LockKind, range: LockRange) -> Do<FsReply> {
    if range.start > range.end {
        return Err(FsError::Invalid.into());
    }
    let before = held(txn, ino, kind)?;
    let mut after = before.clone();
    if give_up(&mut after, who, range) {
        if after.len() > LOCKS_A_FILE {
            // A hole in a lock makes two of it.
            return Err(FsError::NoLocks.into());
        }
        put(txn, ino, kind, after, &before)?;
        txn.effects.unlocked.push(ino);
    }
    Ok(FsReply::Done)
}

/// Gives up those on a file that `which` says.
fn drop_those(txn: &mut Txn<'_>, ino: Ino, which: impl Fn(&LockHeld) -> bool) -> Do<()> {
    for kind in KINDS {
        let before = held(txn, ino, kind)?;
        let after: Vec<LockHeld> = before.iter().filter(|lock| !which(lock)).copied().collect();
        if after.len() < before.len() {
            put(txn, ino, kind, after, &before)?;
            txn.effects.unlocked.push(ino);
        }
    }
    Ok(())
}

/// Gives up all that was taken through an open file.
pub fn drop_handle(txn: &mut Txn<'_>, session: SessionId, ino: Ino, handle: LockHandle) -> Do<FsReply> {
    drop_those(txn, ino, |lock| lock.session == session && lock.handle == handle)?;
    Ok(FsReply::Done)
}

/// Gives up all that a session holds.
pub fn drop_session(txn: &mut Txn<'_>, session: SessionId) -> Do<()> {
    for (key, _) in txn.all(&keys::held_by(session))? {
        let ino = keys::second(&key).map(Ino).ok_or(Status::Malformed)?;
        drop_those(txn, ino, |lock| lock.session == session)?;
    }
    Ok(())
}

/// Gives up all that is held on an inode that is no more.
pub fn drop_inode(txn: &mut Txn<'_>, ino: Ino) -> Do<()> {
    drop_those(txn, ino, |_| true)
}

/// Breaks the lock with this generation: its open file is to give up all its locks on the file.
pub fn break_lock(txn: &mut Txn<'_>, ino: Ino, generation: LockGeneration) -> Do<FsReply> {
    txn.inode(ino)?;
    let broken = all_held(txn, ino)?.into_iter().find(|(_, lock)| lock.generation == generation);
    let Some((_, LockHeld { session, handle, .. })) = broken else {
        return Err(FsError::NoAttribute.into());
    };
    let mut recalled = recalled(txn, session, ino)?;
    if !recalled.contains(&handle) {
        recalled.push(handle);
        txn.put(keys::recalled(session, ino), &recalled)?;
    }
    txn.effects.recalled.push(session);
    Ok(FsReply::Done)
}

/// Open files of a session that are to give up their locks on a file.
fn recalled(state: &(impl Read + ?Sized), session: SessionId, ino: Ino) -> Result<Vec<LockHandle>, Error> {
    Ok(load(state, &keys::recalled(session, ino))?.unwrap_or_default())
}

/// All open files of a session that are to give up their locks.
///
/// # Errors
/// If the disk fails or a record is not one.
pub fn recalls(state: &(impl Read + ?Sized), session: SessionId) -> Result<Vec<Recall>, Error> {
    let mut recalls = Vec::new();
    for (key, value) in state.all(&keys::recalled_of(session))? {
        let ino = Ino(keys::second(&key).unwrap_or_default());
        let handles: Vec<LockHandle> = decode(&key, &value)?;
        recalls.extend(handles.into_iter().map(|handle| Recall { ino, handle }));
    }
    Ok(recalls)
}

/// All locks on an inode, by kind and in order of their first bytes.
///
/// # Errors
/// If the disk fails or a record is not one.
pub fn all_held(state: &(impl Read + ?Sized), ino: Ino) -> Result<Vec<(LockKind, LockHeld)>, Error> {
    let mut all = Vec::new();
    for kind in KINDS {
        all.extend(held(state, ino, kind)?.into_iter().map(|lock| (kind, lock)));
    }
    Ok(all)
}

/// All locks on an inode, with who holds them.
pub fn list(state: &dyn Read, ino: Ino) -> Do<FsReply> {
    let locks = all_held(state, ino)?;
    let sessions: BTreeSet<SessionId> = locks.iter().map(|(_, lock)| lock.session).collect();
    let mut places = Vec::new();
    for session in sessions {
        if let Some(Session { host, mount, .. }) = load(state, &keys::session(session))? {
            places.push(LockPlace { session, host, mount });
        }
    }
    Ok(FsReply::Locks { locks, places })
}
