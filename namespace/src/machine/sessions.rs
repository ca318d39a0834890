//! Sessions begin and end.

use wire::id::{Ino, NodeId, SessionId};

use crate::error::Error;
use crate::machine::files;
use crate::machine::trims::Targets;
use crate::machine::txn::{Do, Txn};
use crate::store::records::{Inode, Session, decode};
use crate::store::{Read, keys};

/// A new session; the earlier one of the same client ends as one that died.
pub fn open(txn: &mut Txn<'_>, client: NodeId, host: &str, mount: &str) -> Do<SessionId> {
    for (key, value) in txn.all(b"S")? {
        let earlier: Session = decode(&key, &value)?;
        if earlier.client == client
            && let Some(session) = keys::first(&key)
        {
            end(txn, SessionId(session), false)?;
        }
    }
    let session = SessionId(txn.counters.next_session);
    txn.counters.next_session += 1;
    let record = Session { client, host: host.to_owned(), mount: mount.to_owned(), since: txn.at };
    txn.put(keys::session(session), &record)?;
    txn.effects.begun.push(session);
    Ok(session)
}

/// A session is over. One that did not say goodbye may have written more than it reported, and
/// may still be writing: it is blocked, and what it had open for writing is cut at the size
/// that is known.
pub fn end(txn: &mut Txn<'_>, session: SessionId, clean: bool) -> Do<()> {
    if txn.get(&keys::session(session))?.is_none() {
        return Ok(());
    }
    txn.delete(keys::session(session));
    txn.effects.ended.push(session);
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
