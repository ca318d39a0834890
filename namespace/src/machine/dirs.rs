//! Names: made, linked, removed.

use wire::id::{DirCookie, Ino, SessionId};
use wire::meta::{FileKind, FsReply, MAX_LINKS, MAX_SYMLINK_BYTES, Name, NewInode, What};
use wire::status::FsError;

use bytes::Bytes;

use crate::machine::FIRST_COOKIE;
use crate::machine::acl;
use crate::machine::files::{changed, modified};
use crate::machine::txn::{Do, Txn};
use crate::machine::{inodes, journal};
use crate::store::records::{Entry, Inode, Listed, Place, encode};
use crate::store::{Read, keys};

/// Makes a name for an inode in `dir`, which the caller writes. Its place is behind all others.
pub fn add_name(
    txn: &mut Txn<'_>,
    parent: Ino,
    dir: &mut Inode,
    name: &Name,
    ino: Ino,
    kind: FileKind,
) -> Do<()> {
    let cookie = dir.next_cookie;
    dir.next_cookie = DirCookie(cookie.0 + 1);
    dir.size += 1;
    put_name(txn, parent, name, Entry { ino, kind, cookie })
}

/// Writes what a name stands for, at its place in the listing, which its inode is known to be in from now on.
pub fn put_name(txn: &mut Txn<'_>, parent: Ino, name: &Name, entry: Entry) -> Do<()> {
    txn.put(keys::entry(parent, name), &entry)?;
    let listed = Listed { name: name.clone(), ino: entry.ino, kind: entry.kind };
    txn.put(keys::listed(parent, entry.cookie), &listed)?;
    txn.put(keys::place(entry.ino), &Place { parent, cookie: entry.cookie })
}

/// Removes a name from `dir`, which the caller writes.
pub fn remove_name(txn: &mut Txn<'_>, parent: Ino, dir: &mut Inode, name: &Name, entry: &Entry) -> Do<()> {
    txn.delete(keys::entry(parent, name));
    txn.delete(keys::listed(parent, entry.cookie));
    dir.size = dir.size.saturating_sub(1);
    leave_place(txn, parent, entry)
}

/// An inode lost the name that was `entry`: it is not known to be there any more.
pub fn leave_place(txn: &mut Txn<'_>, parent: Ino, entry: &Entry) -> Do<()> {
    let key = keys::place(entry.ino);
    if txn.load::<Place>(&key)? == Some(Place { parent, cookie: entry.cookie }) {
        txn.delete(key);
    }
    Ok(())
}

/// Makes an inode as if in a directory, which gives it a group, a layout and access lists. The caller writes it.
pub fn fresh(
    txn: &mut Txn<'_>,
    (parent, dir): (Ino, &Inode),
    new: &NewInode,
    kind: FileKind,
    finish: impl FnOnce(&mut Inode),
) -> Do<(Ino, Inode)> {
    let is_dir = kind == FileKind::Directory;
    let ino = inodes::give(txn);
    txn.counters.inodes += 1;
    let group_inherits = dir.mode & 0o2000 != 0;
    let (mode, lists) = acl::heritage(txn, (parent, dir), new, kind)?;
    let mut layout = dir.layout;
    if kind == FileKind::File {
        layout.table = txn.map.current.unwrap_or_default();
        // Consecutive files begin on consecutive chains. Only the low bits matter.
        layout.seed = ino.0 as u32;
    }
    let mut inode = Inode {
        kind,
        mode: mode | if is_dir && group_inherits { 0o2000 } else { 0 },
        nlink: if is_dir { 2 } else { 1 },
        uid: new.uid,
        gid: if group_inherits { dir.gid } else { new.gid },
        rdev: 0,
        size: 0,
        allocated_bytes: 0,
        atime: txn.at,
        mtime: txn.at,
        ctime: txn.at,
        btime: txn.at,
        mtime_set: None,
        layout,
        xattrs: 0,
        xattr_list_bytes: 0,
        written: false,
        dirty_tail: false,
        parent: if is_dir { parent } else { Ino(0) },
        next_cookie: FIRST_COOKIE,
        target: Bytes::new(),
    };
    finish(&mut inode);
    acl::bequeath(txn, ino, &mut inode, lists)?;
    Ok((ino, inode))
}

/// Makes an inode with a name, and writes both and the directory.
pub fn make(
    txn: &mut Txn<'_>,
    parent: Ino,
    name: &Name,
    new: &NewInode,
    kind: FileKind,
    finish: impl FnOnce(&mut Inode),
) -> Do<(Ino, Inode)> {
    let mut dir = txn.live_dir(parent)?;
    if txn.entry(parent, name)?.is_some() {
        return Err(FsError::Exists.into());
    }
    journal::check_name(name)?;
    if kind == FileKind::Directory {
        if dir.nlink >= MAX_LINKS {
            return Err(FsError::TooManyLinks.into());
        }
        dir.nlink += 1;
    }
    let (ino, inode) = fresh(txn, (parent, &dir), new, kind, finish)?;
    add_name(txn, parent, &mut dir, name, ino, kind)?;
    modified(&mut dir, txn.at);
    txn.put_inode(parent, &dir)?;
    txn.put_inode(ino, &inode)?;
    let what = match kind {
        FileKind::File => What::Create,
        FileKind::Directory => What::Mkdir,
        FileKind::Symlink => What::Symlink,
        _ => What::Mknod,
    };
    journal::note(txn, parent, name, (ino, kind), what)?;
    Ok((ino, inode))
}

/// What the record of an inode without a name says if it never had one.
const NEVER_NAMED: bool = true;

/// An inode has no name: it is freed when nobody has it open. `never_named`: it may get one until then.
pub fn orphaned(txn: &mut Txn<'_>, ino: Ino, never_named: bool) -> Do<()> {
    if never_named {
        txn.put(keys::orphan(ino), &NEVER_NAMED)?;
    } else {
        txn.put(keys::orphan(ino), &())?;
    }
    txn.counters.orphans += 1;
    txn.effects.orphans = true;
    Ok(())
}

/// `mkdir`.
pub fn mkdir(txn: &mut Txn<'_>, parent: Ino, name: &Name, new: &NewInode) -> Do<FsReply> {
    let (ino, inode) = make(txn, parent, name, new, FileKind::Directory, |_| {})?;
    Ok(FsReply::Attr(inode.attr(ino)))
}

/// `mknod`.
pub fn mknod(
    txn: &mut Txn<'_>,
    parent: Ino,
    name: &Name,
    new: &NewInode,
    kind: FileKind,
    rdev: u32,
) -> Do<FsReply> {
    let rdev = match kind {
        FileKind::Directory | FileKind::Symlink => return Err(FsError::Invalid.into()),
        FileKind::CharDevice | FileKind::BlockDevice => rdev,
        FileKind::File | FileKind::Fifo | FileKind::Socket => 0,
    };
    let (ino, inode) = make(txn, parent, name, new, kind, |inode| inode.rdev = rdev)?;
    Ok(FsReply::Attr(inode.attr(ino)))
}

/// `symlink`.
pub fn symlink(txn: &mut Txn<'_>, parent: Ino, name: &Name, target: &Bytes, new: &NewInode) -> Do<FsReply> {
    if target.is_empty() {
        return Err(FsError::NotFound.into());
    }
    if target.len() > MAX_SYMLINK_BYTES {
        return Err(FsError::NameTooLong.into());
    }
    if target.contains(&0) {
        return Err(FsError::Invalid.into());
    }
    let (ino, inode) = make(txn, parent, name, new, FileKind::Symlink, |inode| {
        inode.mode = 0o777;
        inode.size = target.len() as u64;
        inode.target = target.clone();
    })?;
    Ok(FsReply::Attr(inode.attr(ino)))
}

/// `link`. A file that never had a name gets one by the session that has it open; one that lost its last name gets none.
pub fn link(txn: &mut Txn<'_>, session: SessionId, ino: Ino, parent: Ino, name: &Name) -> Do<FsReply> {
    let mut dir = txn.live_dir(parent)?;
    if txn.entry(parent, name)?.is_some() {
        return Err(FsError::Exists.into());
    }
    journal::check_name(name)?;
    let mut inode = txn.inode(ino)?;
    if inode.kind == FileKind::Directory {
        return Err(FsError::NotPermitted.into());
    }
    if inode.nlink == 0 {
        let never_named = txn.get(&keys::orphan(ino))? == Some(encode(&NEVER_NAMED)?);
        if !never_named || txn.get(&keys::writer(ino, session))?.is_none() {
            return Err(FsError::NotFound.into());
        }
        txn.delete(keys::orphan(ino));
        txn.counters.orphans = txn.counters.orphans.saturating_sub(1);
    }
    if inode.nlink >= MAX_LINKS {
        return Err(FsError::TooManyLinks.into());
    }
    inode.nlink += 1;
    changed(&mut inode, txn.at);
    add_name(txn, parent, &mut dir, name, ino, inode.kind)?;
    modified(&mut dir, txn.at);
    txn.put_inode(parent, &dir)?;
    txn.put_inode(ino, &inode)?;
    journal::note(txn, parent, name, (ino, inode.kind), What::Link)?;
    Ok(FsReply::Attr(inode.attr(ino)))
}

/// An inode loses a name; without any it waits to be freed.
pub fn drop_link(txn: &mut Txn<'_>, ino: Ino) -> Do<()> {
    let mut inode = txn.inode(ino)?;
    inode.nlink = match inode.kind {
        FileKind::Directory => {
            // Whoever waits for changes in it is told that there won't be any.
            txn.effects.changed.push(ino);
            0
        }
        _ => inode.nlink.saturating_sub(1),
    };
    changed(&mut inode, txn.at);
    if inode.nlink == 0 {
        orphaned(txn, ino, false)?;
    }
    txn.put_inode(ino, &inode)
}

/// `unlink`.
pub fn unlink(txn: &mut Txn<'_>, parent: Ino, name: &Name) -> Do<FsReply> {
    let mut dir = txn.dir(parent)?;
    let entry = txn.entry(parent, name)?.ok_or(FsError::NotFound)?;
    if entry.kind == FileKind::Directory {
        return Err(FsError::IsDirectory.into());
    }
    remove_name(txn, parent, &mut dir, name, &entry)?;
    modified(&mut dir, txn.at);
    txn.put_inode(parent, &dir)?;
    drop_link(txn, entry.ino)?;
    journal::note(txn, parent, name, (entry.ino, entry.kind), What::Unlink)?;
    Ok(FsReply::Done)
}

/// `rmdir`.
pub fn rmdir(txn: &mut Txn<'_>, parent: Ino, name: &Name) -> Do<FsReply> {
    let mut dir = txn.dir(parent)?;
    let entry = txn.entry(parent, name)?.ok_or(FsError::NotFound)?;
    if entry.kind != FileKind::Directory {
        return Err(FsError::NotDirectory.into());
    }
    if txn.inode(entry.ino)?.size > 0 {
        return Err(FsError::NotEmpty.into());
    }
    remove_name(txn, parent, &mut dir, name, &entry)?;
    dir.nlink = dir.nlink.saturating_sub(1);
    modified(&mut dir, txn.at);
    txn.put_inode(parent, &dir)?;
    drop_link(txn, entry.ino)?;
    journal::note(txn, parent, name, (entry.ino, entry.kind), What::Rmdir)?;
    Ok(FsReply::Done)
}
