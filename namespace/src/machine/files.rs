//! Attributes, and files being written.

use wire::chunk::{BLOCK_BYTES, MAX_FILE_BYTES};
use wire::id::{Ino, SessionId};
use wire::meta::{
    Access, AttrChanges, FileKind, FsReply, LateChanges, Name, NewInode, SetTime, Timestamp, What,
    WriteReport,
};
use wire::status::FsError;

use crate::machine::trims::{self, Targets};
use crate::machine::txn::{Do, Txn};
use crate::machine::{acl, dirs, journal};
use crate::store::records::{Cut, Inode};
use crate::store::{Read, keys};

/// Something of the inode changed: `ctime` becomes now, or the next point after it was.
pub fn changed(inode: &mut Inode, at: Timestamp) {
    inode.ctime = at.max(inode.ctime.next());
}

/// The content changed: `mtime` too. It is never beyond `ctime` but when set by hand, so it
/// grows as strictly.
pub fn modified(inode: &mut Inode, at: Timestamp) {
    changed(inode, at);
    inode.mtime = inode.ctime;
    inode.mtime_set = None;
}

/// `setattr`.
pub fn set_attr(txn: &mut Txn<'_>, session: SessionId, ino: Ino, changes: &AttrChanges) -> Do<FsReply> {
    let mut inode = txn.inode(ino)?;
    let at = txn.at;
    changed(&mut inode, at);
    set_attr_at(txn, session, ino, inode, changes, at)
}

/// `setattr` of a moment that may be past, of an inode whose `ctime` says so already.
fn set_attr_at(
    txn: &mut Txn<'_>,
    session: SessionId,
    ino: Ino,
    mut inode: Inode,
    changes: &AttrChanges,
    at: Timestamp,
) -> Do<FsReply> {
    if let Some(size) = changes.size {
        if size < inode.size {
            note_cut(txn, session, ino, &inode, size)?;
        }
        resize(txn, ino, &mut inode, size)?;
    }
    if let Some(mode) = changes.mode {
        inode.mode = mode & 0o7777;
        acl::follow_mode(txn, ino, &mut inode)?;
    }
    inode.uid = changes.uid.unwrap_or(inode.uid);
    inode.gid = changes.gid.unwrap_or(inode.gid);
    match changes.atime {
        Some(SetTime::Now) => inode.atime = at,
        Some(SetTime::To(time)) => inode.atime = valid(time)?,
        None => {}
    }
    match changes.mtime {
        Some(SetTime::Now) => {
            inode.mtime = inode.ctime;
            inode.mtime_set = None;
        }
        Some(SetTime::To(time)) => {
            inode.mtime = valid(time)?;
            inode.mtime_set = Some(inode.ctime);
        }
        None => {}
    }
    txn.put_inode(ino, &inode)?;
    let what = if changes.size.is_some() { What::Truncate } else { What::SetAttr };
    journal::note_inode(txn, ino, inode.kind, what)?;
    Ok(FsReply::Attr(inode.attr(ino)))
}

fn valid(time: Timestamp) -> Result<Timestamp, FsError> {
    if time.nanos < 1_000_000_000 { Ok(time) } else { Err(FsError::Invalid) }
}

/// Another size; what is beyond a smaller one is cut on the bricks.
fn resize(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode, size: u64) -> Do<()> {
    match inode.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(FsError::IsDirectory.into()),
        _ => return Err(FsError::Invalid.into()),
    }
    if size > MAX_FILE_BYTES {
        return Err(FsError::TooLarge.into());
    }
    if size < inode.size {
        let targets = if inode.dirty_tail || txn.any(&keys::writers(ino))? {
            Targets::AllBricks
        } else {
            Targets::Range(size, inode.size)
        };
        trims::record(txn, ino, inode, size, targets)?;
        let rest = size.div_ceil(u64::from(BLOCK_BYTES)).saturating_mul(u64::from(BLOCK_BYTES));
        inode.allocated_bytes = inode.allocated_bytes.min(rest);
    }
    inode.size = size;
    inode.mtime = inode.ctime;
    inode.mtime_set = None;
    Ok(())
}

/// The file is about to be cut, at its `ctime`. Who writes to it may not know that yet.
fn note_cut(txn: &mut Txn<'_>, session: SessionId, ino: Ino, inode: &Inode, size: u64) -> Do<()> {
    let before = txn.load::<Cut>(&keys::cut(ino))?;
    if before.is_some() || txn.any(&keys::writers(ino))? {
        let size = before.map_or(size, |cut| cut.size.min(size));
        txn.put(keys::cut(ino), &Cut { size, by: session, at: inode.ctime, over: None })?;
    }
    Ok(())
}

/// Whether what was written may have been cut behind the back of who reports it, and behind which size. Nobody can tell its bytes from those
/// that were to be cut: so all that was begun before the cuts were known to be over counts as gone.
fn been_cut(
    txn: &mut Txn<'_>,
    session: SessionId,
    ino: Ino,
    inode: &mut Inode,
    report: &WriteReport,
) -> Do<Option<u64>> {
    let Some(cut) = txn.load::<Cut>(&keys::cut(ino))? else { return Ok(None) };
    let knew = |since: Timestamp| report.knew >= since;
    if report.end <= cut.size || cut.over.is_some_and(knew) || (cut.by == session && knew(cut.at)) {
        return Ok(None);
    }
    if cut.over.is_none() && !trims::is_under_way(txn, &txn.map, ino)? {
        let at = txn.at;
        changed(inode, at);
        txn.put_inode(ino, inode)?;
        txn.put(keys::cut(ino), &Cut { over: Some(inode.ctime), ..cut })?;
    }
    Ok(Some(cut.size))
}

/// `open` with O_CREAT: makes a file, or takes the one that is there.
pub fn create(
    txn: &mut Txn<'_>,
    session: SessionId,
    parent: Ino,
    name: &Name,
    new: &NewInode,
    exclusive: bool,
    access: Access,
) -> Do<FsReply> {
    if let Some(entry) = txn.entry(parent, name)? {
        match entry.kind {
            _ if exclusive => return Err(FsError::Exists.into()),
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IsDirectory.into()),
            _ => return Err(FsError::Exists.into()),
        }
        let mut inode = txn.inode(entry.ino)?;
        if access == Access::Write {
            add_writer(txn, session, entry.ino, &mut inode)?;
        }
        return Ok(FsReply::Created { attr: inode.attr(entry.ino), new: false });
    }
    let (ino, mut inode) = dirs::make(txn, parent, name, new, FileKind::File, |_| {})?;
    if access == Access::Write {
        add_writer(txn, session, ino, &mut inode)?;
    }
    Ok(FsReply::Created { attr: inode.attr(ino), new: true })
}

/// `open` with O_TMPFILE: a file that has no name until it is linked, and is freed if it is closed before.
pub fn create_unnamed(txn: &mut Txn<'_>, session: SessionId, parent: Ino, new: &NewInode) -> Do<FsReply> {
    let dir = txn.live_dir(parent)?;
    let (ino, mut inode) = dirs::fresh(txn, (parent, &dir), new, FileKind::File, |inode| inode.nlink = 0)?;
    txn.put_inode(ino, &inode)?;
    dirs::orphaned(txn, ino, true)?;
    add_writer(txn, session, ino, &mut inode)?;
    Ok(FsReply::Created { attr: inode.attr(ino), new: true })
}

fn add_writer(txn: &mut Txn<'_>, session: SessionId, ino: Ino, inode: &mut Inode) -> Do<()> {
    txn.put(keys::writer(ino, session), &())?;
    if !inode.written {
        inode.written = true;
        txn.put_inode(ino, inode)?;
    }
    Ok(())
}

/// `open` for writing.
pub fn open_for_write(txn: &mut Txn<'_>, session: SessionId, ino: Ino) -> Do<FsReply> {
    let mut inode = txn.inode(ino)?;
    match inode.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(FsError::IsDirectory.into()),
        _ => return Err(FsError::Invalid.into()),
    }
    add_writer(txn, session, ino, &mut inode)?;
    Ok(FsReply::Attr(inode.attr(ino)))
}

/// The session writes to it no more, and has told all it wrote.
pub fn close_for_write(txn: &mut Txn<'_>, session: SessionId, ino: Ino) -> Do<FsReply> {
    let key = keys::writer(ino, session);
    if txn.get(&key)?.is_none() {
        return Ok(FsReply::Done);
    }
    txn.delete(key);
    if txn.get(&keys::cut(ino))?.is_some() && !txn.any(&keys::writers(ino))? {
        txn.delete(keys::cut(ino));
    }
    if let Some(mut inode) = txn.load::<Inode>(&keys::inode(ino))?
        && inode.dirty_tail
        && !txn.any(&keys::writers(ino))?
    {
        cut_tail(txn, ino, &mut inode, Targets::AllBricks)?;
    }
    Ok(FsReply::Done)
}

/// Cuts what writers that died may have left beyond the size.
pub fn cut_tail(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode, targets: Targets) -> Do<()> {
    trims::record(txn, ino, inode, inode.size, targets)?;
    if inode.dirty_tail {
        inode.dirty_tail = false;
        txn.put_inode(ino, inode)?;
    }
    Ok(())
}

/// What a session has written. The size only grows by it. What others have in memory is outdated by it, so `mtime` moves, unless it was
/// set by hand after those writes. `then` is a `setattr` that came after the writes.
pub fn report(
    txn: &mut Txn<'_>,
    session: SessionId,
    ino: Ino,
    report: &WriteReport,
    then: Option<&LateChanges>,
    closes: bool,
) -> Do<FsReply> {
    let mut inode = txn.inode(ino)?;
    if inode.kind != FileKind::File {
        return Err(FsError::Invalid.into());
    }
    if report.end > MAX_FILE_BYTES {
        return Err(FsError::TooLarge.into());
    }
    if let Some(size) = been_cut(txn, session, ino, &mut inode, report)? {
        return Ok(FsReply::BeenCut { attr: inode.attr(ino), size });
    }
    let before = inode.clone();
    let is_written = *report != WriteReport { knew: report.knew, ..WriteReport::NOTHING };
    inode.size = inode.size.max(report.end);
    inode.allocated_bytes = inode.allocated_bytes.saturating_add_signed(report.allocated_delta_bytes);
    inode.written = true;
    // The caller's clock is not ours; ahead of it nothing has been written yet.
    let written_at = report.mtime.min(txn.at);
    match inode.mtime_set {
        Some(set) if written_at > set => {
            inode.mtime = written_at;
            inode.mtime_set = None;
        }
        Some(_) => {}
        None if written_at > inode.mtime => inode.mtime = written_at,
        None if is_written => inode.mtime = inode.mtime.next(),
        None => {}
    }
    if inode != before {
        // The change was made when it was written, and was seen as such by then; a report of it is
        // no change of its own.
        inode.ctime = if written_at > inode.ctime { written_at } else { inode.ctime.next() };
        txn.put_inode(ino, &inode)?;
        journal::note_inode(txn, ino, inode.kind, What::Write)?;
    }
    if let Some(late) = then {
        // As with the writes: ahead of our clock nothing has happened yet.
        let at = late.at.min(txn.at);
        if inode == before {
            changed(&mut inode, at);
        } else {
            // One change with the writes; the later of the two moments is when it was.
            inode.ctime = inode.ctime.max(at);
        }
        set_attr_at(txn, session, ino, inode.clone(), &late.changes, at)?;
    }
    if closes {
        close_for_write(txn, session, ino)?;
    }
    if then.is_some() || closes {
        inode = txn.inode(ino)?;
    }
    Ok(FsReply::Attr(inode.attr(ino)))
}
