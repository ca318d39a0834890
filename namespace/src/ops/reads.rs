//! Verbs that only look.

use std::ops::ControlFlow;

use bytes::Bytes;

use wire::id::{DirCookie, Ino};
use wire::meta::{DirEntry, FileKind, FsReply, FsRequest, MAX_DIR_ENTRIES, Name, StatFs};
use wire::status::{FsError, Status};

use crate::error::Error;
use crate::machine::txn::load;
use crate::machine::xattrs::check_name;
use crate::namespace::{Namespace, lock};
use crate::store::records::{Entry, Inode, Listed, decode};
use crate::store::{Read, keys};

/// A rule or the disk said no.
enum No {
    Rule(FsError),
    Store(Error),
}

impl From<FsError> for No {
    fn from(error: FsError) -> Self {
        No::Rule(error)
    }
}

impl From<Error> for No {
    fn from(error: Error) -> Self {
        No::Store(error)
    }
}

fn inode(state: &dyn Read, ino: Ino) -> Result<Inode, No> {
    Ok(load(state, &keys::inode(ino))?.ok_or(FsError::Stale)?)
}

fn dir(state: &dyn Read, ino: Ino) -> Result<Inode, No> {
    let inode = inode(state, ino)?;
    if inode.kind == FileKind::Directory { Ok(inode) } else { Err(FsError::NotDirectory.into()) }
}

fn lookup(state: &dyn Read, parent: Ino, name: &Name) -> Result<FsReply, No> {
    let Some(entry) = load::<Entry>(state, &keys::entry(parent, name))? else {
        dir(state, parent)?;
        return Err(FsError::NotFound.into());
    };
    // Between the two reads the name may have gone, and its inode with it.
    let inode: Inode = load(state, &keys::inode(entry.ino))?.ok_or(FsError::NotFound)?;
    Ok(FsReply::Attr(inode.attr(entry.ino)))
}

fn lookup_parent(state: &dyn Read, ino: Ino) -> Result<FsReply, No> {
    let parent = dir(state, ino)?.parent;
    Ok(FsReply::Attr(inode(state, parent)?.attr(parent)))
}

fn readlink(state: &dyn Read, ino: Ino) -> Result<FsReply, No> {
    let inode = inode(state, ino)?;
    match inode.kind {
        FileKind::Symlink => Ok(FsReply::Target(inode.target)),
        _ => Err(FsError::Invalid.into()),
    }
}

/// A part of a listing, of one moment: `state` must be one.
fn readdir(state: &dyn Read, ino: Ino, after: DirCookie, max: u32, attrs: bool) -> Result<FsReply, No> {
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

fn get_xattr(state: &dyn Read, ino: Ino, name: &[u8]) -> Result<FsReply, No> {
    check_name(name)?;
    match load::<Bytes>(state, &keys::xattr(ino, name))? {
        Some(value) => Ok(FsReply::Value(value)),
        None => {
            inode(state, ino)?;
            Err(FsError::NoAttribute.into())
        }
    }
}

fn list_xattr(state: &dyn Read, ino: Ino) -> Result<FsReply, No> {
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

impl Namespace {
    /// A verb that only looks.
    pub async fn look(&self, request: &FsRequest) -> Result<FsReply, Status> {
        self.log.read_barrier().await?;
        self.metrics.read();
        let db = &*self.db;
        let reply = match request {
            FsRequest::Lookup { parent, name } => lookup(db, *parent, name),
            FsRequest::LookupParent { ino } => lookup_parent(db, *ino),
            FsRequest::GetAttr { ino } => return self.get_attr(*ino),
            FsRequest::Readlink { ino } => readlink(db, *ino),
            FsRequest::ReadDir { ino, after, max, with_attrs } => {
                readdir(&db.moment(), *ino, *after, *max, *with_attrs)
            }
            FsRequest::GetXattr { ino, name } => get_xattr(db, *ino, name),
            FsRequest::ListXattr { ino } => list_xattr(&db.moment(), *ino),
            FsRequest::StatFs => self.statfs().map_err(No::Store),
            _ => return Err(Status::Malformed),
        };
        self.told(reply)
    }

    /// Attributes of an inode.
    pub fn get_attr(&self, ino: Ino) -> Result<FsReply, Status> {
        self.told(inode(&*self.db, ino).map(|inode| FsReply::Attr(inode.attr(ino))))
    }

    fn told(&self, reply: Result<FsReply, No>) -> Result<FsReply, Status> {
        reply.map_err(|no| match no {
            No::Rule(error) => Status::Fs(error),
            No::Store(error) => self.failed(&error),
        })
    }

    fn statfs(&self) -> Result<FsReply, Error> {
        let map = self.map();
        let replicas = u64::from(map.replicas.max(1));
        let reports = lock(&self.watchers.bricks).reports();
        let sum = |of: fn(&wire::meta::BrickReport) -> u64| {
            let known = reports.iter().filter(|(b, _)| map.bricks.contains_key(b));
            known.map(|(_, report)| of(report)).fold(0u64, u64::saturating_add) / replicas
        };
        Ok(FsReply::StatFs(StatFs {
            total_bytes: sum(|r| r.total_bytes),
            free_bytes: sum(|r| r.free_bytes),
            inodes: self.counters()?.inodes,
        }))
    }
}
