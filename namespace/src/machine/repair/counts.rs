//! What inodes say of their names, entries and attributes.

use std::ops::ControlFlow;

use wire::id::Ino;
use wire::meta::{FileKind, What};

use super::flaw::{Count, Named};
use super::{Done, keep, take_name, tell, tell_of_none, unmark};
use crate::machine::FIRST_COOKIE;
use crate::machine::files::{changed, modified};
use crate::machine::journal;
use crate::machine::txn::{Do, Txn};
use crate::store::records::Inode;
use crate::store::{Read, keys};

/// Directories that are followed upwards at most.
const MAX_DEPTH: usize = 1 << 16;

/// Number of extended attributes, and length of the list of their names.
pub fn xattr_sums(txn: &Txn<'_>, ino: Ino) -> Do<(u32, u32)> {
    let prefix = keys::xattr(ino, &[]);
    let mut sums = (0u32, 0u32);
    txn.scan(&prefix, &keys::after(&prefix), &mut |key, _| {
        sums.0 = sums.0.saturating_add(1);
        sums.1 = sums.1.saturating_add(keys::rest(key).len() as u32 + 1);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(sums)
}

/// An inode without a name that does not exist.
pub fn orphan(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    if txn.get(&keys::inode(ino))?.is_none() && unmark(txn, ino)? {
        tell_of_none(done, format!("inode {ino}, which does not exist, is not waited for any more"));
    }
    Ok(())
}

/// Extended attributes of an inode that does not exist.
pub fn xattrs(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    if txn.get(&keys::inode(ino))?.is_some() || txn.any(&keys::names(ino))? {
        return Ok(());
    }
    let pairs = txn.all(&keys::xattr(ino, &[]))?;
    if !pairs.is_empty() {
        tell_of_none(
            done,
            format!("{} extended attributes of inode {ino}, which does not exist, are gone", pairs.len()),
        );
    }
    for (key, _) in pairs {
        txn.delete(key);
    }
    Ok(())
}

/// What an inode counts of its extended attributes, and its times.
pub fn inode(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    let Some(mut inode) = txn.load::<Inode>(&keys::inode(ino))? else { return Ok(()) };
    let before = inode.clone();
    (inode.xattrs, inode.xattr_list_bytes) = xattr_sums(txn, ino)?;
    if (inode.xattrs, inode.xattr_list_bytes) != (before.xattrs, before.xattr_list_bytes) {
        tell(
            done,
            ino,
            format!("inode {ino} has {} extended attributes, and said {}", inode.xattrs, before.xattrs),
        );
    }
    if inode.mtime_set.is_none() && inode.mtime > inode.ctime {
        // As if it had been set by hand.
        inode.mtime_set = Some(inode.ctime);
        tell(
            done,
            ino,
            format!("inode {ino}: its time of modification, which is in the future, counts as set"),
        );
    }
    if inode.kind == FileKind::Directory && inode.next_cookie < FIRST_COOKIE {
        inode.next_cookie = FIRST_COOKIE;
        tell(done, ino, format!("directory {ino}: its listing begins at {FIRST_COOKIE} again"));
    }
    if inode == before {
        return Ok(());
    }
    changed(&mut inode, txn.at);
    txn.put_inode(ino, &inode)
}

/// Names and entries as counted, if they are still those.
pub fn names(txn: &mut Txn<'_>, count: &Count, done: &mut Done) -> Do<()> {
    let ino = count.ino;
    let Some(mut inode) = txn.load::<Inode>(&keys::inode(ino))? else { return Ok(()) };
    if inode.ctime != count.ctime {
        return Ok(());
    }
    let (is_dir, is_root) = (inode.kind == FileKind::Directory, ino == Ino::ROOT);
    let is_marked = txn.get(&keys::orphan(ino))?.is_some();
    if count.names == 0 && !is_root && is_marked && inode.nlink == 0 && count.entries == 0 {
        // It was removed, and is in use or about to be freed.
        if is_dir && inode.size != 0 {
            inode.size = 0;
            changed(&mut inode, txn.at);
            txn.put_inode(ino, &inode)?;
            tell_of_none(done, format!("directory {ino}, which was removed, says that it is empty"));
        }
        return Ok(());
    }
    let before = inode.clone();
    if is_dir {
        inode.nlink = count.subdirs.saturating_add(2);
        inode.size = count.entries;
    } else {
        inode.nlink = count.names;
    }
    if count.names == 0 && !is_root {
        keep(txn, ino, &mut inode, done)?;
        return txn.put_inode(ino, &inode);
    }
    if is_dir {
        inode.parent = if is_root { ino } else { count.parent };
    }
    if unmark(txn, ino)? {
        tell(done, ino, format!("inode {ino} has a name, and is not to be freed"));
    }
    if inode.nlink != before.nlink {
        tell(
            done,
            ino,
            format!("the link count of inode {ino} is {}, and was {}", inode.nlink, before.nlink),
        );
    }
    if inode.size != before.size {
        tell(done, ino, format!("directory {ino} has {} entries, and said {}", inode.size, before.size));
    }
    if inode.parent != before.parent {
        tell(done, ino, format!("directory {ino} is in {}, and said {}", inode.parent, before.parent));
    }
    if inode == before {
        return Ok(());
    }
    changed(&mut inode, txn.at);
    txn.put_inode(ino, &inode)
}

/// Removes one of several names of a directory, which has another one.
pub fn extra(txn: &mut Txn<'_>, ino: Ino, extra: &Named, kept: Option<&Named>, done: &mut Done) -> Do<()> {
    let (parent, name) = extra;
    let Some(entry) = txn.entry(*parent, name)?.filter(|entry| entry.ino == ino) else { return Ok(()) };
    let Some(mut inode) = txn.load::<Inode>(&keys::inode(ino))? else { return Ok(()) };
    let has_other = match kept {
        Some((parent, name)) => txn.entry(*parent, name)?.is_some_and(|entry| entry.ino == ino),
        None => ino == Ino::ROOT,
    };
    if inode.kind != FileKind::Directory || kept == Some(extra) || !has_other {
        return Ok(());
    }
    let Some(mut dir) = txn.load::<Inode>(&keys::inode(*parent))? else { return Ok(()) };
    take_name(txn, *parent, &mut dir, name, &entry)?;
    modified(&mut dir, txn.at);
    if *parent == ino {
        inode = dir;
    } else {
        txn.put_inode(*parent, &dir)?;
        changed(&mut inode, txn.at);
    }
    txn.put_inode(ino, &inode)?;
    journal::note(txn, *parent, name, (ino, FileKind::Directory), What::Rmdir)?;
    tell(done, ino, format!("directory {ino} had several names, and lost {parent}/{name}"));
    Ok(())
}

/// A directory that is in itself by way of others is taken out of there.
pub fn ring(txn: &mut Txn<'_>, ino: Ino, (parent, name): &Named, done: &mut Done) -> Do<()> {
    let Some(entry) = txn.entry(*parent, name)?.filter(|entry| entry.ino == ino) else { return Ok(()) };
    let mut at = *parent;
    let mut depth = 0;
    while at != ino {
        depth += 1;
        let Some(dir) = txn.load::<Inode>(&keys::inode(at))? else { return Ok(()) };
        if at == Ino::ROOT || depth > MAX_DEPTH || dir.kind != FileKind::Directory {
            return Ok(());
        }
        at = dir.parent;
    }
    let Some(mut dir) = txn.load::<Inode>(&keys::inode(*parent))? else { return Ok(()) };
    take_name(txn, *parent, &mut dir, name, &entry)?;
    modified(&mut dir, txn.at);
    txn.put_inode(*parent, &dir)?;
    journal::note(txn, *parent, name, (ino, FileKind::Directory), What::Rmdir)?;
    // Read only now: it may be in itself.
    let Some(mut inode) = txn.load::<Inode>(&keys::inode(ino))? else { return Ok(()) };
    tell(done, ino, format!("directory {ino} was in itself, as {parent}/{name}, and out of reach"));
    keep(txn, ino, &mut inode, done)?;
    txn.put_inode(ino, &inode)
}
