//! A namespace in memory: as much POSIX as the client's tests need.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use wire::id::{CallSeq, DirCookie, Ino, LockGeneration, MapEpoch, SessionId};
use wire::layout::{FileLayout, TableVersion};
use wire::meta::{
    Access, Attr, AttrChanges, ClusterReply, ClusterRequest, DirEntry, FileKind, FsReply, FsRequest,
    LockHeld, LockKind, LockWish, MetaCall, MetaProtocol, MetaReply, MetaRequest, Name, NewInode, Recall,
    RenameMode, SessionGrant, SetTime, StatFs, Timestamp, WriteReport, XattrMode,
};
use wire::net::typed::TypedHandler;
use wire::net::{BoxFuture, Peer};
use wire::status::{FsError, Status};

use crate::cluster::{CHUNK_BYTES, World};

/// The layout of every file here.
pub fn layout_of(ino: Ino) -> FileLayout {
    FileLayout { table: TableVersion(0), seed: ino.0 as u32, stripe: 0, chunk_bytes: CHUNK_BYTES }
}

struct Node {
    attr: Attr,
    parent: Ino,
    entries: BTreeMap<Name, (Ino, u64)>,
    target: Bytes,
    xattrs: BTreeMap<Bytes, Bytes>,
}

#[derive(Default)]
pub struct Inner {
    nodes: HashMap<Ino, Node>,
    next_ino: u64,
    next_cookie: u64,
    clock: Timestamp,
    pub open: BTreeSet<(SessionId, Ino, Access)>,
    replies: HashMap<(SessionId, CallSeq), Result<FsReply, Status>>,
    sessions: BTreeSet<SessionId>,
    next_session: u64,
    locks: Vec<(Ino, LockKind, LockHeld)>,
    next_generation: u64,
    /// Files cut that were open for writing: to which size, and the `ctime` of who knows.
    cuts: HashMap<Ino, (u64, Timestamp)>,
    /// Open files that are to give up their locks.
    recalls: BTreeSet<(SessionId, Recall)>,
    /// The map that grants of locks name.
    pub lock_map: Option<MapEpoch>,
}

pub struct FakeNamespace {
    world: Arc<World>,
    pub inner: Mutex<Inner>,
    /// Answers to so many changing calls get lost.
    pub lose_replies: AtomicU64,
    /// So many calls are answered with "busy".
    pub busy: AtomicU64,
    /// So many renewals.
    pub deaf: AtomicU64,
    /// Asks clients to tell what they have open.
    pub tell_open: AtomicU64,
    /// Looks carried out and not answered.
    pub looks_under_way: AtomicU64,
    /// Answers to looks are kept back while somebody writes here.
    pub held_looks: tokio::sync::RwLock<()>,
    /// Changes of sizes that have come.
    pub cuts_under_way: AtomicU64,
    /// Reports of what was written that have come.
    pub reports_under_way: AtomicU64,
    /// Who has this alone keeps both from being made, and files from being opened for writing.
    pub held_cuts: tokio::sync::RwLock<()>,
    /// Somebody broke a lock.
    recalled: Notify,
    /// Every changing call that was carried out.
    pub log: Mutex<Vec<FsRequest>>,
    pub told: Mutex<Vec<(Ino, Access)>>,
}

type Answer = Result<FsReply, Status>;

fn take_one(counter: &AtomicU64) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Inner {
    fn now(&mut self) -> Timestamp {
        self.clock = self.clock.next().max(Timestamp::now());
        self.clock
    }

    fn node(&mut self, ino: Ino) -> Result<&mut Node, Status> {
        self.nodes.get_mut(&ino).ok_or(FsError::Stale.into())
    }

    fn dir(&mut self, ino: Ino) -> Result<&mut Node, Status> {
        match self.node(ino)? {
            node if node.attr.kind == FileKind::Directory => Ok(node),
            _ => Err(FsError::NotDirectory.into()),
        }
    }

    fn find(&mut self, parent: Ino, name: &Name) -> Result<Ino, Status> {
        self.dir(parent)?.entries.get(name).map(|(ino, _)| *ino).ok_or(FsError::NotFound.into())
    }

    fn make(&mut self, parent: Ino, kind: FileKind, new: &NewInode) -> Ino {
        self.next_ino += 1;
        let ino = Ino(self.next_ino);
        let now = self.now();
        let attr = Attr {
            ino,
            kind,
            mode: new.mode,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: 0,
            size: 0,
            allocated_bytes: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            layout: layout_of(ino),
            xattrs: 0,
        };
        self.nodes.insert(
            ino,
            Node { attr, parent, entries: BTreeMap::new(), target: Bytes::new(), xattrs: BTreeMap::new() },
        );
        ino
    }

    fn enter(&mut self, parent: Ino, name: &Name, ino: Ino) {
        self.next_cookie += 1;
        let cookie = self.next_cookie;
        let now = self.now();
        let dir = self.nodes.get_mut(&parent).unwrap();
        dir.entries.insert(name.clone(), (ino, cookie));
        dir.attr.size = dir.entries.len() as u64;
        dir.attr.mtime = now;
        dir.attr.ctime = now;
    }

    fn add(&mut self, parent: Ino, name: &Name, kind: FileKind, new: &NewInode) -> Result<Ino, Status> {
        if self.dir(parent)?.entries.contains_key(name) {
            return Err(FsError::Exists.into());
        }
        let ino = self.make(parent, kind, new);
        self.enter(parent, name, ino);
        Ok(ino)
    }

    fn attr(&mut self, ino: Ino) -> Answer {
        Ok(FsReply::Attr(self.node(ino)?.attr.clone()))
    }

    fn is_open(&self, ino: Ino) -> bool {
        self.open.iter().any(|(_, open, _)| *open == ino)
    }

    fn reap(&mut self, world: &World, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|n| n.attr.nlink == 0) && !self.is_open(ino) {
            self.nodes.remove(&ino);
            world.trim(ino, 0);
        }
    }

    fn drop_name(&mut self, world: &World, parent: Ino, name: &Name) -> Result<(), Status> {
        let ino = self.find(parent, name)?;
        let now = self.now();
        self.dir(parent)?.entries.remove(name);
        let node = self.node(ino)?;
        node.attr.nlink = if node.attr.kind == FileKind::Directory { 0 } else { node.attr.nlink - 1 };
        node.attr.ctime = now;
        self.reap(world, ino);
        Ok(())
    }

    fn set(&mut self, world: &World, ino: Ino, changes: &AttrChanges, at: Timestamp) -> Result<(), Status> {
        let attr = &mut self.node(ino)?.attr;
        attr.mode = changes.mode.unwrap_or(attr.mode);
        attr.uid = changes.uid.unwrap_or(attr.uid);
        attr.gid = changes.gid.unwrap_or(attr.gid);
        attr.ctime = at.max(attr.ctime.next());
        if let Some(size) = changes.size {
            attr.size = size;
            attr.mtime = attr.ctime;
            world.trim(ino, size);
        }
        let set = |time: Option<SetTime>, old| match time {
            None => old,
            Some(SetTime::Now) => at,
            Some(SetTime::To(time)) => time,
        };
        attr.atime = set(changes.atime, attr.atime);
        attr.mtime = set(changes.mtime, attr.mtime);
        Ok(())
    }

    fn change(&mut self, world: &World, session: SessionId, request: &FsRequest) -> Answer {
        match request {
            FsRequest::SetAttr { ino, changes } => {
                let now = self.now();
                self.set(world, *ino, changes, now)?;
                let writes = |open: &&(SessionId, Ino, Access)| (open.1, open.2) == (*ino, Access::Write);
                if let Some(size) = changes.size
                    && self.open.iter().any(|open| writes(&open))
                {
                    let over = self.node(*ino)?.attr.ctime;
                    let cut = self.cuts.entry(*ino).or_insert((size, over));
                    *cut = (cut.0.min(size), over);
                }
                self.attr(*ino)
            }
            FsRequest::Create { parent, name, new, exclusive, access } => {
                let (ino, fresh) = match self.find(*parent, name) {
                    Ok(_) if *exclusive => return Err(FsError::Exists.into()),
                    Ok(ino) => (ino, false),
                    Err(Status::Fs(FsError::NotFound)) => {
                        (self.add(*parent, name, FileKind::File, new)?, true)
                    }
                    Err(other) => return Err(other),
                };
                self.open.insert((session, ino, *access));
                Ok(FsReply::Created { attr: self.node(ino)?.attr.clone(), new: fresh })
            }
            FsRequest::Mkdir { parent, name, new } => {
                let ino = self.add(*parent, name, FileKind::Directory, new)?;
                self.attr(ino)
            }
            FsRequest::Mknod { parent, name, new, kind, rdev } => {
                let ino = self.add(*parent, name, *kind, new)?;
                self.node(ino)?.attr.rdev = *rdev;
                self.attr(ino)
            }
            FsRequest::Symlink { parent, name, target, new } => {
                let ino = self.add(*parent, name, FileKind::Symlink, new)?;
                let node = self.node(ino)?;
                node.target = target.clone();
                node.attr.size = target.len() as u64;
                self.attr(ino)
            }
            FsRequest::Link { ino, parent, name } => {
                if self.dir(*parent)?.entries.contains_key(name) {
                    return Err(FsError::Exists.into());
                }
                let now = self.now();
                let node = self.node(*ino)?;
                node.attr.nlink += 1;
                node.attr.ctime = now;
                self.enter(*parent, name, *ino);
                self.attr(*ino)
            }
            FsRequest::Unlink { parent, name } => {
                let ino = self.find(*parent, name)?;
                if self.node(ino)?.attr.kind == FileKind::Directory {
                    return Err(FsError::IsDirectory.into());
                }
                self.drop_name(world, *parent, name)?;
                Ok(FsReply::Done)
            }
            FsRequest::Rmdir { parent, name } => {
                let ino = self.find(*parent, name)?;
                if !self.dir(ino)?.entries.is_empty() {
                    return Err(FsError::NotEmpty.into());
                }
                self.drop_name(world, *parent, name)?;
                Ok(FsReply::Done)
            }
            FsRequest::Rename { parent, name, new_parent, new_name, mode } => {
                let ino = self.find(*parent, name)?;
                let target = self.find(*new_parent, new_name).ok();
                match (mode, target) {
                    (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists.into()),
                    (RenameMode::Exchange, None) => return Err(FsError::NotFound.into()),
                    (RenameMode::Exchange, Some(other)) => {
                        self.enter(*parent, name, other);
                        self.enter(*new_parent, new_name, ino);
                        return Ok(FsReply::Done);
                    }
                    (RenameMode::Replace, Some(other)) if other != ino => {
                        self.drop_name(world, *new_parent, new_name)?;
                    }
                    _ => {}
                }
                self.dir(*parent)?.entries.remove(name);
                self.enter(*new_parent, new_name, ino);
                self.node(ino)?.parent = *new_parent;
                Ok(FsReply::Done)
            }
            FsRequest::SetXattr { ino, name, value, mode } => {
                let node = self.node(*ino)?;
                match (mode, node.xattrs.contains_key(name)) {
                    (XattrMode::Create, true) => return Err(FsError::Exists.into()),
                    (XattrMode::Replace, false) => return Err(FsError::NoAttribute.into()),
                    _ => {}
                }
                node.xattrs.insert(name.clone(), value.clone());
                node.attr.xattrs = node.xattrs.len() as u32;
                node.attr.ctime = node.attr.ctime.next();
                Ok(FsReply::Done)
            }
            FsRequest::RemoveXattr { ino, name } => {
                let node = self.node(*ino)?;
                node.xattrs.remove(name).ok_or(FsError::NoAttribute)?;
                node.attr.xattrs = node.xattrs.len() as u32;
                Ok(FsReply::Done)
            }
            FsRequest::Open { ino, access } => {
                self.node(*ino)?;
                self.open.insert((session, *ino, *access));
                self.attr(*ino)
            }
            FsRequest::Close { ino, access } => {
                self.open.remove(&(session, *ino, *access));
                self.reap(world, *ino);
                Ok(FsReply::Done)
            }
            FsRequest::ReportWrite { ino, report, then, closes } => {
                if let Some(&(size, over)) = self.cuts.get(ino)
                    && report.end > size
                    && report.knew < over
                {
                    return Ok(FsReply::BeenCut { attr: self.node(*ino)?.attr.clone(), size });
                }
                let attr = &mut self.node(*ino)?.attr;
                attr.size = attr.size.max(report.end);
                if *report != WriteReport::NOTHING {
                    attr.mtime = attr.mtime.next().max(report.mtime);
                    // The change was made when it was written.
                    attr.ctime = attr.ctime.next().max(report.mtime);
                }
                attr.allocated_bytes =
                    attr.allocated_bytes.saturating_add_signed(report.allocated_delta_bytes);
                if let Some(late) = then {
                    self.set(world, *ino, &late.changes, late.at)?;
                }
                let attr = self.node(*ino)?.attr.clone();
                if *closes {
                    self.open.remove(&(session, *ino, Access::Write));
                    self.reap(world, *ino);
                }
                Ok(FsReply::Attr(attr))
            }
            FsRequest::Lock(wish) => {
                let own = |held: &LockHeld| (held.session, held.owner) == (session, wish.owner);
                if let Some(other) = self.in_the_way(session, wish) {
                    return Ok(FsReply::LockedBy(Some(other)));
                }
                self.next_generation += 1;
                let generation = LockGeneration(self.next_generation);
                let &LockWish { ino, kind, owner, handle, range, mode, pid } = wish;
                self.locks
                    .retain(|(i, k, held)| (*i, *k) != (ino, kind) || !own(held) || held.range != range);
                let since = Timestamp::default();
                let held = LockHeld { session, owner, handle, range, mode, pid, generation, since };
                self.locks.push((ino, kind, held));
                let map = self.lock_map.unwrap_or_default();
                Ok(FsReply::Locked { generation, map })
            }
            FsRequest::Unlock { ino, kind, owner, range } => {
                self.locks.retain(|(i, k, held)| {
                    let own = (held.session, held.owner) == (session, *owner);
                    (i, k) != (ino, kind) || !own || !held.range.overlaps(*range)
                });
                Ok(FsReply::Done)
            }
            FsRequest::BreakLock { ino, generation } => {
                let broken =
                    self.locks.iter().find(|(i, _, held)| i == ino && held.generation == *generation);
                let (_, _, held) = broken.ok_or(FsError::NoAttribute)?;
                self.recalls.insert((held.session, Recall { ino: *ino, handle: held.handle }));
                Ok(FsReply::Done)
            }
            FsRequest::DropLocks { ino, handle } => {
                self.recalls.remove(&(session, Recall { ino: *ino, handle: *handle }));
                self.locks
                    .retain(|(i, _, held)| i != ino || (held.session, held.handle) != (session, *handle));
                Ok(FsReply::Done)
            }
            _ => Err(Status::Malformed),
        }
    }

    /// Locks here are whole: giving up a part gives up all of it.
    fn in_the_way(&self, session: SessionId, wish: &LockWish) -> Option<LockHeld> {
        let alike = self.locks.iter().filter(|(ino, kind, _)| (*ino, *kind) == (wish.ino, wish.kind));
        let mut others =
            alike.map(|(_, _, held)| held).filter(|h| (h.session, h.owner) != (session, wish.owner));
        others.find(|held| held.range.overlaps(wish.range) && held.mode.excludes(wish.mode)).copied()
    }

    fn look(&mut self, session: SessionId, request: &FsRequest) -> Answer {
        match request {
            FsRequest::TestLock(wish) | FsRequest::AwaitLock { wish, .. } => {
                Ok(FsReply::LockedBy(self.in_the_way(session, wish)))
            }
            FsRequest::Lookup { parent, name } => {
                let ino = self.find(*parent, name)?;
                self.attr(ino)
            }
            FsRequest::LookupParent { ino } => {
                let parent = self.dir(*ino)?.parent;
                self.attr(parent)
            }
            FsRequest::GetAttr { ino } => self.attr(*ino),
            FsRequest::Readlink { ino } => Ok(FsReply::Target(self.node(*ino)?.target.clone())),
            FsRequest::ReadDir { ino, after, max, with_attrs } => {
                let mut found: Vec<(u64, Name, Ino)> = self
                    .dir(*ino)?
                    .entries
                    .iter()
                    .filter(|(_, (_, cookie))| *cookie > after.0)
                    .map(|(name, (ino, cookie))| (*cookie, name.clone(), *ino))
                    .collect();
                found.sort();
                let end = found.len() <= *max as usize;
                found.truncate(*max as usize);
                let entries = found
                    .into_iter()
                    .map(|(cookie, name, ino)| {
                        let attr = self.nodes[&ino].attr.clone();
                        DirEntry {
                            name,
                            ino,
                            kind: attr.kind,
                            cookie: DirCookie(cookie),
                            attr: with_attrs.then_some(attr),
                        }
                    })
                    .collect();
                Ok(FsReply::Entries { entries, end })
            }
            FsRequest::GetXattr { ino, name } => {
                Ok(FsReply::Value(self.node(*ino)?.xattrs.get(name).cloned().ok_or(FsError::NoAttribute)?))
            }
            FsRequest::ListXattr { ino } => {
                Ok(FsReply::Names(self.node(*ino)?.xattrs.keys().cloned().collect()))
            }
            FsRequest::ListLocks { ino } => {
                let of_file = self.locks.iter().filter(|(i, _, _)| i == ino);
                let locks = of_file.map(|(_, kind, held)| (*kind, *held)).collect();
                Ok(FsReply::Locks { locks, places: Vec::new() })
            }
            FsRequest::StatFs => Ok(FsReply::StatFs(StatFs {
                total_bytes: 1 << 40,
                free_bytes: 1 << 39,
                inodes: self.nodes.len() as u64,
            })),
            _ => Err(Status::Malformed),
        }
    }
}

impl FakeNamespace {
    pub fn new(world: Arc<World>) -> Self {
        let mut inner = Inner { next_cookie: 10, ..Inner::default() };
        let root =
            inner.make(Ino::ROOT, FileKind::Directory, &NewInode { mode: 0o755, umask: 0, uid: 0, gid: 0 });
        assert_eq!(root, Ino::ROOT);
        Self {
            world,
            inner: Mutex::new(inner),
            lose_replies: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            cuts_under_way: AtomicU64::new(0),
            reports_under_way: AtomicU64::new(0),
            held_cuts: tokio::sync::RwLock::default(),
            deaf: AtomicU64::new(0),
            tell_open: AtomicU64::new(0),
            looks_under_way: AtomicU64::new(0),
            held_looks: tokio::sync::RwLock::default(),
            recalled: Notify::new(),
            log: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Forgets every session.
    pub fn expire_sessions(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.sessions.clear();
        inner.open.clear();
        inner.locks.clear();
        inner.recalls.clear();
    }

    /// How many locks are held.
    pub fn locks(&self) -> usize {
        self.inner.lock().unwrap().locks.len()
    }

    pub fn is_open(&self, ino: Ino, access: Access) -> bool {
        self.inner.lock().unwrap().open.iter().any(|(_, i, a)| *i == ino && *a == access)
    }

    pub fn size_of(&self, ino: Ino) -> u64 {
        self.inner.lock().unwrap().nodes[&ino].attr.size
    }

    pub fn attr_of(&self, ino: Ino) -> Attr {
        self.inner.lock().unwrap().nodes[&ino].attr.clone()
    }

    fn fs(&self, call: &MetaCall, request: &FsRequest) -> Answer {
        let mut inner = self.inner.lock().unwrap();
        let session = call.session.filter(|s| inner.sessions.contains(s)).ok_or(Status::SessionGone)?;
        if !request.is_change() {
            return match request {
                FsRequest::Open { .. } | FsRequest::Close { .. } => {
                    inner.change(&self.world, session, request)
                }
                _ => inner.look(session, request),
            };
        }
        assert!(call.seq >= call.answered_below, "a call below what was said to be answered");
        if let Some(known) = inner.replies.get(&(session, call.seq)) {
            return known.clone();
        }
        let answer = inner.change(&self.world, session, request);
        self.recalled.notify_waiters();
        inner.replies.insert((session, call.seq), answer.clone());
        inner.replies.retain(|(s, seq), _| *s != session || *seq >= call.answered_below);
        self.log.lock().unwrap().push(request.clone());
        answer
    }

    async fn cluster(&self, call: &MetaCall, request: &ClusterRequest) -> Result<ClusterReply, Status> {
        match request {
            ClusterRequest::OpenSession { .. } => {
                let mut inner = self.inner.lock().unwrap();
                inner.next_session += 1;
                let session = SessionId(inner.next_session);
                inner.sessions.insert(session);
                let map = self.world.map.borrow().clone();
                Ok(ClusterReply::Session(SessionGrant { session, ttl_ms: 1000, renew_ms: 50, map }))
            }
            ClusterRequest::Renew { .. } if take_one(&self.deaf) => Err(Status::Busy),
            ClusterRequest::Renew { open, .. } => {
                let inner = self.inner.lock().unwrap();
                call.session.filter(|s| inner.sessions.contains(s)).ok_or(Status::SessionGone)?;
                if let Some(open) = open {
                    *self.told.lock().unwrap() = open.clone();
                }
                let map = self.world.map.borrow().epoch;
                Ok(ClusterReply::Renewed { map, tell_open: take_one(&self.tell_open) })
            }
            ClusterRequest::GetMap { after, wait_ms } => {
                let mut changes = self.world.map.subscribe();
                let until = Instant::now() + Duration::from_millis(u64::from(*wait_ms));
                loop {
                    let recalled = self.recalled.notified();
                    let recalls: Vec<Recall> = {
                        let inner = self.inner.lock().unwrap();
                        let own = inner.recalls.iter().filter(|(session, _)| call.session == Some(*session));
                        own.map(|(_, recall)| *recall).collect()
                    };
                    if !recalls.is_empty() {
                        return Ok(ClusterReply::Recalls { map: self.world.map.borrow().clone(), recalls });
                    }
                    tokio::select! {
                        _ = timeout_at(until, changes.wait_for(|map| map.epoch > *after)) => break,
                        () = recalled => {}
                    }
                }
                Ok(ClusterReply::Map(self.world.map.borrow().clone()))
            }
            ClusterRequest::CloseSession => {
                let mut inner = self.inner.lock().unwrap();
                if let Some(session) = call.session {
                    inner.sessions.remove(&session);
                    inner.open.retain(|(s, _, _)| *s != session);
                }
                Ok(ClusterReply::Done)
            }
            _ => Err(Status::Malformed),
        }
    }
}

impl TypedHandler<MetaProtocol> for FakeNamespace {
    fn handle(
        self: Arc<Self>,
        _peer: Arc<Peer>,
        call: MetaCall,
        _payload: Bytes,
    ) -> BoxFuture<'static, (Result<MetaReply, Status>, Bytes)> {
        Box::pin(async move {
            let answer = match &call.request {
                MetaRequest::Fs(request) => {
                    if take_one(&self.busy) {
                        return (Err(Status::Busy), Bytes::new());
                    }
                    if matches!(request, FsRequest::SetAttr { changes, .. } if changes.size.is_some()) {
                        self.cuts_under_way.fetch_add(1, Ordering::SeqCst);
                        drop(self.held_cuts.read().await);
                    }
                    if matches!(request, FsRequest::ReportWrite { .. }) {
                        self.reports_under_way.fetch_add(1, Ordering::SeqCst);
                        drop(self.held_cuts.read().await);
                    }
                    if matches!(request, FsRequest::Open { access: Access::Write, .. }) {
                        drop(self.held_cuts.read().await);
                    }
                    let answer = self.fs(&call, request);
                    if matches!(request, FsRequest::GetAttr { .. } | FsRequest::Lookup { .. }) {
                        self.looks_under_way.fetch_add(1, Ordering::SeqCst);
                        drop(self.held_looks.read().await);
                        self.looks_under_way.fetch_sub(1, Ordering::SeqCst);
                    }
                    if matches!(request, FsRequest::AwaitLock { .. }) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    if request.is_change() && take_one(&self.lose_replies) {
                        tokio::time::sleep(Duration::from_secs(3600)).await;
                    }
                    answer.map(MetaReply::Fs)
                }
                MetaRequest::Cluster(request) => self.cluster(&call, request).await.map(MetaReply::Cluster),
                MetaRequest::Check(_) | MetaRequest::Peer => Err(Status::Malformed),
            };
            (answer, Bytes::new())
        })
    }
}
