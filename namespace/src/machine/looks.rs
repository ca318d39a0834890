//! Verbs that only look.
//!
//! 1. A listing shows every entry that was there all the while exactly once, whatever comes
//!    and goes meanwhile (`listings_skip_and_double_nothing`).
//! 2. A path leads to its inode; that of a file with several names may be unknown, after the newest of
//!    them was removed (`paths_lead_to_their_inodes`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use wire::id::{DirCookie, Ino};
use wire::meta::{DirEntry, FileKind, FsReply, FsRequest, MAX_DIR_ENTRIES, Name};
use wire::status::{FsError, Status};

use crate::error::Error;
use crate::machine::locks;
use crate::machine::txn::{Do, load};
use crate::machine::xattrs::check_name;
use crate::store::records::{Entry, Inode, Listed, Place, decode};
use crate::store::{Read, keys};

/// Directories a path is followed through.
const MAX_DEPTH: usize = 8192;

/// Answers a verb that only looks, but for `statfs`, which is not about the state alone.
/// Listings need a `state` that stands still.
pub fn look(state: &dyn Read, request: &FsRequest) -> Do<FsReply> {
    match request {
        FsRequest::Lookup { parent, name } => lookup(state, *parent, name),
        FsRequest::LookupParent { ino } => lookup_parent(state, *ino),
        FsRequest::GetAttr { ino } => Ok(FsReply::Attr(inode(state, *ino)?.attr(*ino))),
        FsRequest::Readlink { ino } => readlink(state, *ino),
        FsRequest::ReadDir { ino, after, max, with_attrs } => readdir(state, *ino, *after, *max, *with_attrs),
        FsRequest::GetXattr { ino, name } => get_xattr(state, *ino, name),
        FsRequest::ListXattr { ino } => list_xattr(state, *ino),
        FsRequest::ListLocks { ino } => locks::list(state, *ino),
        _ => Err(Status::Malformed.into()),
    }
}

fn inode(state: &dyn Read, ino: Ino) -> Do<Inode> {
    load(state, &keys::inode(ino))?.ok_or_else(|| FsError::Stale.into())
}

fn dir(state: &dyn Read, ino: Ino) -> Do<Inode> {
    let inode = inode(state, ino)?;
    if inode.kind == FileKind::Directory { Ok(inode) } else { Err(FsError::NotDirectory.into()) }
}

fn lookup(state: &dyn Read, parent: Ino, name: &Name) -> Do<FsReply> {
    let Some(entry) = load::<Entry>(state, &keys::entry(parent, name))? else {
        dir(state, parent)?;
        return Err(FsError::NotFound.into());
    };
    // Between the two reads the name may have gone, and its inode with it.
    let inode: Inode = load(state, &keys::inode(entry.ino))?.ok_or(FsError::NotFound)?;
    Ok(FsReply::Attr(inode.attr(entry.ino)))
}

fn lookup_parent(state: &dyn Read, ino: Ino) -> Do<FsReply> {
    let parent = dir(state, ino)?.parent;
    Ok(FsReply::Attr(inode(state, parent)?.attr(parent)))
}

fn readlink(state: &dyn Read, ino: Ino) -> Do<FsReply> {
    let inode = inode(state, ino)?;
    match inode.kind {
        FileKind::Symlink => Ok(FsReply::Target(inode.target)),
        _ => Err(FsError::Invalid.into()),
    }
}

/// A part of a listing, of one moment: `state` must be one.
fn readdir(state: &dyn Read, ino: Ino, after: DirCookie, max: u32, attrs: bool) -> Do<FsReply> {
    dir(state, ino)?;
    let max = max.clamp(1, MAX_DIR_ENTRIES) as usize;
    let mut entries: Vec<DirEntry> = Vec::new();
    let mut end = true;
    let Some(next) = after.0.checked_add(1) else {
        return Ok(FsReply::Entries { entries, end });
    };
    let from = keys::listed(ino, DirCookie(next));
    state.scan(&from, &keys::after(&keys::listing(ino)), &mut |key, value| {
        if entries.len() == max {
            end = false;
            return Ok(ControlFlow::Break(()));
        }
        let listed: Listed = decode(key, value)?;
        let cookie = DirCookie(keys::second(key).unwrap_or_default());
        entries.push(DirEntry { name: listed.name, ino: listed.ino, kind: listed.kind, cookie, attr: None });
        Ok(ControlFlow::Continue(()))
    })?;
    if attrs {
        for entry in &mut entries {
            entry.attr = load::<Inode>(state, &keys::inode(entry.ino))?.map(|i| i.attr(entry.ino));
        }
    }
    Ok(FsReply::Entries { entries, end })
}

/// The path of an inode below the root, by the newest of its names; `None` if it has none or none is known.
/// `dirs` keeps what was found of directories, for the next one: `state` must be one moment's.
///
/// # Errors
/// If the disk fails or a record is not one.
pub fn path(
    state: &dyn Read,
    ino: Ino,
    dirs: &mut BTreeMap<Ino, Option<Vec<u8>>>,
) -> Result<Option<Vec<u8>>, Error> {
    // Downwards from here: names to be put in front, until a directory whose path is known.
    let mut below: Vec<(Ino, Vec<u8>)> = Vec::new();
    let mut at = ino;
    let mut found = loop {
        if at == Ino::ROOT {
            break Some(Vec::new());
        }
        if let Some(known) = dirs.get(&at) {
            break known.clone();
        }
        let Some(place) = load::<Place>(state, &keys::place(at))? else { break None };
        let listed = load::<Listed>(state, &keys::listed(place.parent, place.cookie))?;
        let Some(listed) = listed.filter(|listed| listed.ino == at) else { break None };
        below.push((at, listed.name.as_bytes().to_vec()));
        if below.len() > MAX_DEPTH {
            break None;
        }
        at = place.parent;
    };
    while let Some((here, name)) = below.pop() {
        if let Some(path) = &mut found {
            path.push(b'/');
            path.extend_from_slice(&name);
        }
        if here != ino {
            dirs.insert(here, found.clone());
        }
    }
    Ok(found)
}

fn get_xattr(state: &dyn Read, ino: Ino, name: &[u8]) -> Do<FsReply> {
    check_name(name)?;
    match load::<Bytes>(state, &keys::xattr(ino, name))? {
        Some(value) => Ok(FsReply::Value(value)),
        None => {
            inode(state, ino)?;
            Err(FsError::NoAttribute.into())
        }
    }
}

fn list_xattr(state: &dyn Read, ino: Ino) -> Do<FsReply> {
    if inode(state, ino)?.xattrs == 0 {
        return Ok(FsReply::Names(Vec::new()));
    }
    let prefix = keys::xattr(ino, &[]);
    let mut names = Vec::new();
    state.scan(&prefix, &keys::after(&prefix), &mut |key, _| {
        names.push(Bytes::copy_from_slice(keys::rest(key)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(FsReply::Names(names))
}
