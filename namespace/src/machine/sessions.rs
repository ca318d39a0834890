//! Sessions begin and end.

use wire::id::{Ino, SessionId};
use wire::meta::{SessionClass, Sharing};
use wire::status::Status;

use crate::error::Error;
use crate::machine::command::NewSession;
use crate::machine::files;
use crate::machine::locks;
use crate::machine::trims::Targets;
use crate::machine::txn::{Do, Txn, load};
use crate::store::records::{Inode, Session, decode};
use crate::store::{Read, keys};

/// A new session; the earlier one of the same client ends as one that died. A session that is the
/// only one of its cluster and any other one exclude each other.
pub fn open(txn: &mut Txn<'_>, new: &NewSession) -> Do<SessionId> {
    let NewSession { client, host, mount, sharing, class } = new;
    let mut earlier = None;
    let mut others = false;
    for (key, value) in txn.all(b"S")? {
        let other: Session = decode(&key, &value)?;
        if other.client == *client {
            earlier = keys::first(&key).map(SessionId);
        } else {
            others = true;
        }
    }
    let sole = txn.load::<SessionId>(keys::SOLE)?;
    if others && (*sharing == Sharing::Sole || sole.is_some_and(|sole| earlier != Some(sole))) {
        return Err(Status::NotAlone.into());
    }
    if let Some(session) = earlier {
        end(txn, session, false)?;
    }
    let session = SessionId(txn.counters.next_session);
    txn.counters.next_session += 1;
    let record = Session { client: *client, host: host.clone(), mount: mount.clone(), since: txn.at };
    txn.put(keys::session(session), &record)?;
    if *class != SessionClass::Standard {
        txn.put(keys::class(session), class)?;
    }
    if *sharing == Sharing::Sole {
        txn.put(keys::SOLE.to_vec(), &session)?;
    }
    txn.effects.begun.push((session, *class));
    Ok(session)
}

/// The class of a session.
///
/// # Errors
/// If the disk fails or the record is not one.
pub fn class(state: &(impl Read + ?Sized), session: SessionId) -> Result<SessionClass, Error> {
    Ok(load(state, &keys::class(session))?.unwrap_or_default())
}

/// A session is over. One that did not say goodbye may have written more than it reported, and
/// may still be writing: it is blocked, and what it had open for writing is cut at the size
/// that is known.
pub fn end(txn: &mut Txn<'_>, session: SessionId, clean: bool) -> Do<()> {
    if txn.get(&keys::session(session))?.is_none() {
        return Ok(());
    }
    give_up(txn, session, clean)
}

/// Takes all from a session that has no record and still has something, as from one that died. Whether it did.
pub fn bury(txn: &mut Txn<'_>, session: SessionId) -> Do<bool> {
    // Were one blocked that is yet to begin, it could do nothing then.
    if txn.get(&keys::session(session))?.is_some() || session.0 >= txn.counters.next_session {
        return Ok(false);
    }
    let has_any = txn.get(&keys::answered(session))?.is_some()
        || txn.any(&keys::answers(session))?
        || txn.any(&keys::held_by(session))?
        || txn.any(&keys::recalled_of(session))?
        || !written_by(txn, session)?.is_empty();
    if !has_any {
        return Ok(false);
    }
    for (key, _) in txn.all(&keys::answers(session))? {
        txn.delete(key);
    }
    txn.delete(keys::answered(session));
    give_up(txn, session, false)?;
    for (key, _) in txn.all(&keys::recalled_of(session))? {
        txn.delete(key);
    }
    Ok(true)
}

fn give_up(txn: &mut Txn<'_>, session: SessionId, clean: bool) -> Do<()> {
    txn.delete(keys::session(session));
    txn.delete(keys::class(session));
    if txn.load::<SessionId>(keys::SOLE)? == Some(session) {
        txn.delete(keys::SOLE.to_vec());
    }
    txn.effects.ended.push(session);
    locks::drop_session(txn, session)?;
    for ino in written_by(txn, session)? {
        if clean {
            files::close_for_write(txn, session, ino)?;
            continue;
        }
        txn.delete(keys::writer(ino, session));
        let Some(mut inode) = txn.load::<Inode>(&keys::inode(ino))? else { continue };
        if txn.any(&keys::writers(ino))? {
            inode.dirty_tail = true;
            txn.put_inode(ino, &inode)?;
        } else {
            txn.delete(keys::cut(ino));
            files::cut_tail(txn, ino, &mut inode, Targets::AllBricks)?;
        }
    }
    // Also one that said goodbye: nothing of it is under way, and so the list stays short.
    let map = txn.change_map();
    map.blocked.insert(session, map.epoch);
    Ok(())
}

fn written_by(txn: &Txn<'_>, session: SessionId) -> Result<Vec<Ino>, Error> {
    let mut inos = Vec::new();
    txn.scan(b"W", &keys::after(b"W"), &mut |key, _| {
        if keys::second(key) == Some(session.0)
            && let Some(ino) = keys::first(key)
        {
            inos.push(Ino(ino));
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(inos)
}
