//! `rename`, with its loop check, exchange and no-replace, as one command.
//!
//! A place in a listing belongs to a name: a name that is replaced or exchanged keeps it, and a
//! file renamed within its directory to a new name takes its place along. So a listing
//! in progress shows every name that existed all the while exactly once, and a loop that
//! renames what it lists ends.

use wire::id::Ino;
use wire::meta::{FileKind, FsReply, MAX_LINKS, Name, NewInode, RenameMode, What};
use wire::status::FsError;

use crate::machine::dirs::{self, add_name, drop_link, leave_place, put_name, remove_name};
use crate::machine::files::{changed, modified};
use crate::machine::journal;
use crate::machine::txn::{Do, Txn};
use crate::store::records::{Entry, Inode};

/// `rename`.
pub fn rename(txn: &mut Txn<'_>, from: (Ino, &Name), to: (Ino, &Name), mode: RenameMode) -> Do<FsReply> {
    txn.dir(from.0)?;
    txn.live_dir(to.0)?;
    let source = txn.entry(from.0, from.1)?.ok_or(FsError::NotFound)?;
    journal::check_name(to.1)?;
    let target = txn.entry(to.0, to.1)?;
    match (mode, &target) {
        (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists.into()),
        (RenameMode::Exchange, None) => return Err(FsError::NotFound.into()),
        _ => {}
    }
    if source.kind == FileKind::Directory && is_within(txn, to.0, source.ino)? {
        return Err(FsError::Invalid.into());
    }
    match target {
        Some(target) if target.ino == source.ino => {}
        Some(target) if mode == RenameMode::Exchange => exchange(txn, from, source, to, target)?,
        Some(target) => replace(txn, from, source, to, target)?,
        None => simply(txn, from, source, to)?,
    }
    if mode == RenameMode::Whiteout && txn.entry(from.0, from.1)?.is_none() {
        let new = NewInode { mode: 0, umask: 0, uid: 0, gid: 0 };
        dirs::make(txn, from.0, from.1, &new, FileKind::CharDevice, |_| {})?;
    }
    Ok(FsReply::Done)
}

/// Notes that a name is gone, and what has it now.
fn note_from(txn: &mut Txn<'_>, from: (Ino, &Name), source: Entry, to: (Ino, &Name)) -> Do<()> {
    let what = What::RenameFrom { dir: to.0, name: to.1.clone() };
    journal::note(txn, from.0, from.1, (source.ino, source.kind), what)
}

/// Notes that a name stands for what had another one.
fn note_to(txn: &mut Txn<'_>, from: (Ino, &Name), source: Entry, to: (Ino, &Name)) -> Do<()> {
    let what = What::RenameTo { dir: from.0, name: from.1.clone() };
    journal::note(txn, to.0, to.1, (source.ino, source.kind), what)
}

/// Whether `dir` is `top` or below it.
fn is_within(txn: &Txn<'_>, mut dir: Ino, top: Ino) -> Do<bool> {
    while dir != top {
        if dir == Ino::ROOT {
            return Ok(false);
        }
        dir = txn.dir(dir)?.parent;
    }
    Ok(true)
}

/// Writes the one or two directories that names went from and to, `links` being the change of
/// subdirectories in each.
fn close(txn: &mut Txn<'_>, from: Ino, mut from_dir: Inode, to: Ino, to_dir: Option<Inode>) -> Do<()> {
    modified(&mut from_dir, txn.at);
    txn.put_inode(from, &from_dir)?;
    if let Some(mut to_dir) = to_dir {
        modified(&mut to_dir, txn.at);
        txn.put_inode(to, &to_dir)?;
    }
    Ok(())
}

/// The moved inode changed, and a directory has another parent.
fn settle(txn: &mut Txn<'_>, ino: Ino, parent: Ino) -> Do<()> {
    let mut inode = txn.inode(ino)?;
    if inode.kind == FileKind::Directory {
        inode.parent = parent;
    }
    changed(&mut inode, txn.at);
    txn.put_inode(ino, &inode)
}

/// A directory becomes a subdirectory of `to_dir` instead of `from_dir`.
fn move_link(from_dir: &mut Inode, to_dir: &mut Inode) -> Result<(), FsError> {
    if to_dir.nlink >= MAX_LINKS {
        return Err(FsError::TooManyLinks);
    }
    from_dir.nlink = from_dir.nlink.saturating_sub(1);
    to_dir.nlink += 1;
    Ok(())
}

/// To a name that was free.
fn simply(txn: &mut Txn<'_>, from: (Ino, &Name), source: Entry, to: (Ino, &Name)) -> Do<()> {
    let mut from_dir = txn.dir(from.0)?;
    remove_name(txn, from.0, &mut from_dir, from.1, &source)?;
    if from.0 == to.0 {
        put_name(txn, to.0, to.1, source)?;
        from_dir.size += 1;
        close(txn, from.0, from_dir, to.0, None)?;
    } else {
        let mut to_dir = txn.dir(to.0)?;
        if source.kind == FileKind::Directory {
            move_link(&mut from_dir, &mut to_dir)?;
        }
        add_name(txn, to.0, &mut to_dir, to.1, source.ino, source.kind)?;
        close(txn, from.0, from_dir, to.0, Some(to_dir))?;
    }
    note_from(txn, from, source, to)?;
    note_to(txn, from, source, to)?;
    settle(txn, source.ino, to.0)
}

/// Over a name that stood for something else.
fn replace(txn: &mut Txn<'_>, from: (Ino, &Name), source: Entry, to: (Ino, &Name), target: Entry) -> Do<()> {
    let source_is_dir = source.kind == FileKind::Directory;
    match (source_is_dir, target.kind == FileKind::Directory) {
        (true, false) => return Err(FsError::NotDirectory.into()),
        (false, true) => return Err(FsError::IsDirectory.into()),
        (true, true) if txn.inode(target.ino)?.size > 0 => return Err(FsError::NotEmpty.into()),
        _ => {}
    }
    let mut from_dir = txn.dir(from.0)?;
    remove_name(txn, from.0, &mut from_dir, from.1, &source)?;
    if source_is_dir {
        // Two directories become one: the one that was replaced counted in `to`, and
        // the one that moves counts there instead.
        from_dir.nlink = from_dir.nlink.saturating_sub(1);
    }
    leave_place(txn, to.0, &target)?;
    put_name(txn, to.0, to.1, Entry { cookie: target.cookie, ..source })?;
    let to_dir = if from.0 == to.0 { None } else { Some(txn.dir(to.0)?) };
    close(txn, from.0, from_dir, to.0, to_dir)?;
    drop_link(txn, target.ino)?;
    note_from(txn, from, source, to)?;
    note_to(txn, from, source, to)?;
    settle(txn, source.ino, to.0)
}

/// The two names swap what they stand for.
fn exchange(txn: &mut Txn<'_>, from: (Ino, &Name), source: Entry, to: (Ino, &Name), target: Entry) -> Do<()> {
    if target.kind == FileKind::Directory && is_within(txn, from.0, target.ino)? {
        return Err(FsError::Invalid.into());
    }
    put_name(txn, from.0, from.1, Entry { cookie: source.cookie, ..target })?;
    put_name(txn, to.0, to.1, Entry { cookie: target.cookie, ..source })?;
    let mut from_dir = txn.dir(from.0)?;
    let to_dir = if from.0 == to.0 {
        None
    } else {
        let mut to_dir = txn.dir(to.0)?;
        match (source.kind == FileKind::Directory, target.kind == FileKind::Directory) {
            (true, false) => move_link(&mut from_dir, &mut to_dir)?,
            (false, true) => move_link(&mut to_dir, &mut from_dir)?,
            _ => {}
        }
        Some(to_dir)
    };
    close(txn, from.0, from_dir, to.0, to_dir)?;
    note_to(txn, from, source, to)?;
    note_to(txn, to, target, from)?;
    settle(txn, source.ino, to.0)?;
    settle(txn, target.ino, from.0)
}
