//! Names, places in listings, and directories that are missing.

use bytes::Bytes;
use wire::id::{DirCookie, Ino};
use wire::layout::FileLayout;
use wire::meta::{FileKind, Name, Timestamp, What};
use wire::status::FsError;

use super::counts::xattr_sums;
use super::flaw::{LostDir, Named};
use super::{Done, MOST_COOKIE, ensure_free_place, keep, take_name, tell, unmark};
use crate::machine::files::{changed, modified};
use crate::machine::txn::{Do, Txn};
use crate::machine::{FIRST_COOKIE, inodes, journal};
use crate::store::records::{Entry, Inode, Listed, Place};
use crate::store::{Read, keys};

/// A name whose inode, kind or place is not right.
pub fn entry(txn: &mut Txn<'_>, parent: Ino, name: &Name, done: &mut Done) -> Do<()> {
    let Some(entry) = txn.entry(parent, name)? else { return Ok(()) };
    let Some(dir) = txn.load::<Inode>(&keys::inode(parent))? else { return Ok(()) };
    if dir.kind != FileKind::Directory {
        return Ok(());
    }
    let Some(inode) = txn.load::<Inode>(&keys::inode(entry.ino))? else {
        // A directory is made anew instead.
        return if entry.kind == FileKind::Directory {
            Ok(())
        } else {
            remove(txn, (parent, dir), name, &entry, done)
        };
    };
    if inode.kind != entry.kind && inode.kind != FileKind::Directory && txn.any(&keys::names(entry.ino))? {
        // Things are in it, so its record may be the one that is wrong.
        return Ok(());
    }
    place_again(txn, (parent, dir), name, Entry { kind: inode.kind, ..entry }, entry, done)
}

/// Removes a name that stands for nothing.
fn remove(
    txn: &mut Txn<'_>,
    (parent, mut dir): (Ino, Inode),
    name: &Name,
    entry: &Entry,
    done: &mut Done,
) -> Do<()> {
    let ino = entry.ino;
    take_name(txn, parent, &mut dir, name, entry)?;
    modified(&mut dir, txn.at);
    txn.put_inode(parent, &dir)?;
    if entry.kind == FileKind::File {
        // What bricks have of it is kept until the administrator says otherwise.
        inodes::keep(txn, ino, ino)?;
    }
    journal::note(txn, parent, name, (ino, entry.kind), What::Unlink)?;
    tell(done, parent, format!("the name {parent}/{name} of inode {ino}, which does not exist, was removed"));
    Ok(())
}

/// Makes a name what it is to be, at a place in the listing that nothing else has.
fn place_again(
    txn: &mut Txn<'_>,
    (parent, mut dir): (Ino, Inode),
    name: &Name,
    mut after: Entry,
    before: Entry,
    done: &mut Done,
) -> Do<()> {
    let listed = |entry: &Entry| Listed { name: name.clone(), ino: entry.ino, kind: entry.kind };
    let there: Option<Listed> = txn.load(&keys::listed(parent, before.cookie))?;
    let was_given = (FIRST_COOKIE..dir.next_cookie).contains(&before.cookie);
    if after == before && was_given && there == Some(listed(&after)) {
        return Ok(());
    }
    let is_own = there.as_ref().is_some_and(|there| there.name == *name);
    let is_sane = (FIRST_COOKIE.0..MOST_COOKIE).contains(&before.cookie.0);
    let is_taken = match &there {
        Some(there) if !is_own => {
            let owner = txn.entry(parent, &there.name)?;
            owner.is_some_and(|owner| owner.cookie == before.cookie)
        }
        _ => false,
    };
    if is_sane && !is_taken {
        dir.next_cookie = dir.next_cookie.max(DirCookie(before.cookie.0 + 1));
    } else {
        if is_own {
            txn.delete(keys::listed(parent, before.cookie));
        }
        ensure_free_place(txn, parent, &mut dir)?;
        after.cookie = dir.next_cookie;
        dir.next_cookie = DirCookie(after.cookie.0 + 1);
    }
    txn.put(keys::entry(parent, name), &after)?;
    txn.put(keys::listed(parent, after.cookie), &listed(&after))?;
    let place: Option<Place> = txn.load(&keys::place(after.ino))?;
    if place.is_none_or(|place| place == Place { parent, cookie: before.cookie }) {
        txn.put(keys::place(after.ino), &Place { parent, cookie: after.cookie })?;
    }
    modified(&mut dir, txn.at);
    txn.put_inode(parent, &dir)?;
    if after.kind == before.kind {
        tell(done, after.ino, format!("{parent}/{name} is listed in its place again"));
    } else {
        tell(done, after.ino, format!("{parent}/{name} is {:?} by name, as by its inode", after.kind));
    }
    Ok(())
}

/// A place in a listing whose name says another one, or is missing. The name is made again if the inode says that it is there.
pub fn listed(
    txn: &mut Txn<'_>,
    parent: Ino,
    cookie: DirCookie,
    short: Option<Timestamp>,
    done: &mut Done,
) -> Do<()> {
    let Some(listed) = txn.load::<Listed>(&keys::listed(parent, cookie))? else { return Ok(()) };
    let name = &listed.name;
    let dir = txn.load::<Inode>(&keys::inode(parent))?.filter(|dir| dir.kind == FileKind::Directory);
    let of_name = txn.entry(parent, name)?;
    if of_name.is_some_and(|entry| entry.cookie == cookie) {
        return Ok(());
    }
    let inode = txn.load::<Inode>(&keys::inode(listed.ino))?;
    if let (None, Some(mut dir), Some(mut inode)) = (of_name, dir.clone(), inode)
        && is_named_here(txn, (parent, cookie), listed.ino, &inode, short)?
    {
        let entry = Entry { ino: listed.ino, kind: inode.kind, cookie };
        crate::machine::dirs::put_name(txn, parent, name, entry)?;
        // The directory counts it still, or is counted after this.
        dir.next_cookie = dir.next_cookie.max(DirCookie(cookie.0 + 1));
        modified(&mut dir, txn.at);
        txn.put_inode(parent, &dir)?;
        changed(&mut inode, txn.at);
        txn.put_inode(listed.ino, &inode)?;
        let what = if inode.kind == FileKind::Directory { What::Mkdir } else { What::Link };
        journal::note(txn, parent, name, (listed.ino, inode.kind), what)?;
        tell(
            done,
            listed.ino,
            format!("inode {} has the name {parent}/{name} again, which was listed only", listed.ino),
        );
        return Ok(());
    }
    txn.delete(keys::listed(parent, cookie));
    if let Some(mut dir) = dir {
        modified(&mut dir, txn.at);
        txn.put_inode(parent, &dir)?;
    }
    tell(done, parent, format!("{parent}/{name} was listed and is no name: it is not listed any more"));
    Ok(())
}

/// Whether an inode says that it has a name at a place of a listing.
fn is_named_here(
    txn: &Txn<'_>,
    (parent, cookie): (Ino, DirCookie),
    ino: Ino,
    inode: &Inode,
    short: Option<Timestamp>,
) -> Do<bool> {
    let is_sane = (FIRST_COOKIE.0..MOST_COOKIE).contains(&cookie.0);
    if !is_sane || ino == Ino::ROOT || txn.get(&keys::orphan(ino))?.is_some() {
        return Ok(false);
    }
    let place: Option<Place> = txn.load(&keys::place(ino))?;
    if place == Some(Place { parent, cookie }) {
        return Ok(true);
    }
    Ok(match inode.kind {
        FileKind::Directory => place.is_none() && inode.parent == parent,
        _ => short == Some(inode.ctime),
    })
}

/// Where the newest name of an inode is.
pub fn place(txn: &mut Txn<'_>, ino: Ino, named: Option<&Named>, done: &mut Done) -> Do<()> {
    let Some(place) = txn.load::<Place>(&keys::place(ino))? else { return Ok(()) };
    let is_there = txn
        .load::<Listed>(&keys::listed(place.parent, place.cookie))?
        .is_some_and(|listed| listed.ino == ino);
    if is_there && txn.load::<Inode>(&keys::inode(ino))?.is_some() {
        return Ok(());
    }
    let entry = match named {
        Some((parent, name)) => txn.entry(*parent, name)?.map(|entry| (*parent, entry)),
        None => None,
    };
    match entry.filter(|(_, entry)| entry.ino == ino) {
        Some((parent, entry)) => txn.put(keys::place(ino), &Place { parent, cookie: entry.cookie })?,
        None => txn.delete(keys::place(ino)),
    }
    tell(done, ino, format!("inode {ino}: where its name is is known again, as far as it has one"));
    Ok(())
}

/// Makes a directory again of which only the record is missing: what is in it, and its name, are there.
pub fn make_anew(txn: &mut Txn<'_>, lost: &LostDir, done: &mut Done) -> Do<()> {
    let ino = lost.ino;
    if txn.get(&keys::inode(ino))?.is_some() || ino.0 >= txn.counters.next_ino {
        return Ok(());
    }
    let is_root = ino == Ino::ROOT;
    let parent = match &lost.named {
        Some((parent, name)) => {
            let entry = txn.entry(*parent, name)?;
            if !entry.is_some_and(|entry| entry.ino == ino && entry.kind == FileKind::Directory) {
                return Ok(());
            }
            Some(*parent)
        }
        None if is_root => Some(ino),
        None if !txn.any(&keys::names(ino))? => return Ok(()),
        None => None,
    };
    let layout = match parent {
        Some(parent) => txn.load::<Inode>(&keys::inode(parent))?.map(|dir| dir.layout),
        None => None,
    };
    let (xattrs, xattr_list_bytes) = xattr_sums(txn, ino)?;
    let at = txn.at;
    let mut inode = Inode {
        kind: FileKind::Directory,
        mode: if is_root { 0o755 } else { 0o700 },
        nlink: lost.subdirs.checked_add(2).ok_or(FsError::TooManyLinks)?,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: lost.entries,
        allocated_bytes: 0,
        atime: at,
        mtime: at,
        ctime: at,
        btime: at,
        mtime_set: None,
        layout: layout.unwrap_or_else(FileLayout::default),
        xattrs,
        xattr_list_bytes,
        written: false,
        dirty_tail: false,
        parent: parent.unwrap_or(Ino::ROOT),
        next_cookie: lost.next_cookie.max(FIRST_COOKIE),
        target: Bytes::new(),
    };
    txn.counters.inodes += 1;
    unmark(txn, ino)?;
    tell(
        done,
        ino,
        format!(
            "directory {ino}, with {} entries, was made anew: its owner is root, its mode {:o}, its times are now",
            lost.entries, inode.mode
        ),
    );
    if parent.is_none() {
        keep(txn, ino, &mut inode, done)?;
    }
    txn.put_inode(ino, &inode)
}
