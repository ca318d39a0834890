//! Requests of the kernel, each translated to one call of the library.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use tokio::sync::watch;
use wire::id::{Ino, LockOwner};
use wire::meta::{
    ACL_ACCESS, ACL_DEFAULT, Attr, AttrChanges, FileKind, LockKind, LockRange, MAX_NAME_BYTES, NewInode,
    RenameMode, XattrMode,
};

use super::changes::{self, WatchHandle};
use super::convert::{self, errno, name};
use super::dir::DirHandle;
use super::handles::Handles;
use super::kernel::{
    self, Handler, Interrupts, Listing, OpenFlags, Operation, Reply, Request, SetAttr, Wanted,
};
use super::lock_attributes;
use crate::client::{Client, Created, FallocateMode, File, Lock};
use crate::config::Sharing;
use crate::error::Error;

/// The number the kernel has for the root of every mount.
const ROOT: u64 = 1;
/// Largest request of the kernel, in bytes.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// What `statvfs` calls a block, in bytes.
const STATFS_BLOCK_BYTES: u32 = 4096;
/// Inodes said to be free: there is no limit.
const FREE_INODES: u64 = 1 << 40;
/// Copied in one request at most, so that others are served meanwhile.
const MOST_COPIED_BYTES: u64 = 64 << 20;

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// How long the kernel may use what it is told without asking again.
#[derive(Debug, Clone, Copy)]
struct Validity(Duration);

impl Validity {
    /// Beside other mounts, not at all. Alone, names and directories change through this kernel
    /// only, which knows by itself what it changes.
    fn new(sharing: Sharing) -> Self {
        Self(match sharing {
            Sharing::Sole => Duration::from_secs(3600),
            Sharing::Shared => Duration::ZERO,
        })
    }

    /// For names.
    fn of_names(self) -> Duration {
        self.0
    }

    /// For attributes. Those of files are asked for each time: the space of one written through a
    /// mapping changes without the kernel forgetting what it was told, and `tar --sparse` takes a
    /// file without blocks for empty.
    fn of(self, kind: FileKind) -> Duration {
        match kind {
            FileKind::Directory => self.0,
            _ => Duration::ZERO,
        }
    }
}

/// The kernel's counterpart.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(super) client: Client,
    /// The directory that the kernel calls its root.
    root: Ino,
    sharing: Sharing,
    valid: Validity,
    files: Arc<Handles<File>>,
    dirs: Handles<DirHandle>,
    pub(super) watches: Arc<Handles<WatchHandle>>,
    /// Becomes true when the mount is to end: whoever waits for something that may never come waits no more.
    pub(super) ending: watch::Sender<bool>,
    interrupts: Arc<Interrupts>,
}

/// Gives up a request unless the value is there.
macro_rules! or_reply {
    ($reply:ident, $value:expr) => {
        match $value {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(&error)),
        }
    };
}

macro_rules! or_bad_handle {
    ($reply:ident, $value:expr) => {
        match $value {
            Some(value) => value,
            None => return $reply.error(Errno::BADF),
        }
    };
}

fn new_inode(request: &Request<'_>, mode: u32, umask: u32) -> NewInode {
    let (mode, umask) = ((mode & 0o7777) as u16, (umask & 0o777) as u16);
    NewInode { mode, umask, uid: request.uid, gid: request.gid }
}

/// Attributes of the system's that are none of ours.
fn is_foreign(name: &[u8]) -> bool {
    name.starts_with(b"system.") && !is_acl(name)
}

fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

/// How the kernel is to treat a handle.
fn open_flags(file: &File, sharing: Sharing) -> OpenFlags {
    let options = file.options();
    let mut flags = 0;
    if options.direct {
        flags |= kernel::OPEN_DIRECT | kernel::OPEN_PARALLEL_WRITES;
    }
    if !options.write && sharing == Sharing::Sole {
        // Elsewhere closing gives up locks.
        flags |= kernel::OPEN_NO_FLUSH;
    }
    if sharing == Sharing::Sole && !options.direct {
        flags |= kernel::OPEN_KEEP_CACHE;
    }
    flags
}

fn answer_nothing(reply: Reply, result: Result<(), Error>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn answer_data(reply: Reply, result: Result<Bytes, Error>) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

fn answer_written(reply: Reply, bytes: usize, result: Result<(), Error>) {
    match result {
        // One request is far below 4 GiB.
        Ok(()) => reply.count(bytes as u32),
        Err(error) => reply.error(errno(&error)),
    }
}

/// An extended attribute's value or a list of names, or how long it is.
fn answer_xattr(reply: Reply, size: u32, result: Result<Bytes, Error>) {
    match result {
        Ok(value) if size == 0 => reply.count(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::RANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Adapter {
    pub(crate) fn new(client: Client, root: Ino) -> Self {
        let sharing = client.sharing();
        let interrupts = Arc::<Interrupts>::default();
        Self {
            client,
            root,
            sharing,
            valid: Validity::new(sharing),
            files: Arc::default(),
            dirs: Handles::default(),
            watches: Arc::default(),
            ending: watch::Sender::new(false),
            interrupts,
        }
    }

    pub(crate) fn interrupts(&self) -> &Arc<Interrupts> {
        &self.interrupts
    }

    /// What is wanted of the kernel.
    pub(crate) fn wanted(&self, threads: usize, max_background: u16) -> Wanted {
        Wanted {
            max_write: MAX_WRITE_BYTES,
            max_background: max_background.max(64),
            // On a sole mount this would only drop what the kernel itself has just written, and a
            // page read again while it is being written comes back old: four processes on one
            // SQLite database with a write-ahead log damaged it.
            drops_pages: self.sharing == Sharing::Shared,
            // Alone, the kernel knows all who lock.
            asks_for_locks: self.sharing == Sharing::Shared,
            threads: threads.max(1),
        }
    }

    /// The inode that the kernel means.
    fn ino(&self, node: u64) -> Ino {
        if node == ROOT { self.root } else { Ino(node) }
    }

    /// Runs a request as a task, that nobody who is killed waits for.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        reply: Reply,
        work: impl FnOnce(Client, Reply) -> F,
    ) {
        let reply = reply.later(&self.interrupts);
        self.client.runtime().spawn(work(self.client.clone(), reply));
    }

    /// Answers with what a name stands for.
    pub(super) fn spawn_entry<F>(&self, reply: Reply, work: impl FnOnce(Client) -> F)
    where
        F: Future<Output = Result<Attr, Error>> + Send + 'static,
    {
        let (valid, root) = (self.valid, self.root);
        self.spawn(reply, |client, reply| {
            let found = work(client);
            async move {
                match found.await {
                    Ok(attr) => {
                        // The kernel has its own number for the root.
                        let node = if attr.ino == root { ROOT } else { attr.ino.0 };
                        reply.entry(node, valid.of_names(), valid.of(attr.kind), &attr);
                    }
                    Err(error) => reply.error(errno(&error)),
                }
            }
        });
    }

    /// Answers whether it was done.
    fn spawn_nothing<F>(&self, reply: Reply, work: impl FnOnce(Client) -> F)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.spawn(reply, |client, reply| {
            let done = work(client);
            async move { answer_nothing(reply, done.await) }
        });
    }

    fn lookup(&self, parent: Ino, entry: &[u8], reply: Reply) {
        match entry {
            // Asked for by NFS servers that come back with an old handle.
            b".." if parent != self.root => {
                self.spawn_entry(reply, |client| async move { client.lookup_parent(parent).await });
            }
            b"." | b".." => self.spawn_entry(reply, |client| async move { client.getattr(parent).await }),
            _ => {
                let is_watch = changes::is_watch(entry);
                let entry = or_reply!(reply, name(entry));
                self.spawn_entry(reply, |client| async move {
                    if is_watch {
                        return changes::lookup(&client, parent, entry).await;
                    }
                    client.lookup(parent, entry).await
                });
            }
        }
    }

    fn getattr(&self, ino: Ino, extended: bool, reply: Reply) {
        let valid = self.valid;
        self.spawn(reply, |client, reply| async move {
            match client.getattr(ino).await {
                Ok(attr) if extended => reply.statx(valid.of(attr.kind), &attr),
                Ok(attr) => reply.attr(valid.of(attr.kind), &attr),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setattr(&self, ino: Ino, set: SetAttr, reply: Reply) {
        let SetAttr { mode, uid, gid, size, atime, mtime, handle } = set;
        let file = handle.and_then(|handle| self.files.get(handle)).filter(|_| size.is_some());
        let changes = AttrChanges {
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        let (sharing, valid) = (self.sharing, self.valid);
        self.spawn(reply, |client, reply| async move {
            let done = match (sharing, file) {
                (Sharing::Sole, _) => client.setattr_behind(ino, changes).await,
                (Sharing::Shared, Some(file)) => client.setattr_through(&file, changes).await,
                (Sharing::Shared, None) => client.setattr(ino, changes).await,
            };
            match done {
                Ok(attr) => reply.attr(valid.of(attr.kind), &attr),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), flags: u32, reply: Reply) {
        let flags = RenameFlags::from_bits_retain(flags);
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::EXCHANGE {
            RenameMode::Exchange
        } else if flags == RenameFlags::WHITEOUT {
            RenameMode::Whiteout
        } else {
            return reply.error(Errno::INVAL);
        };
        let (parent, new_parent) = (from.0, to.0);
        let is_watch = changes::is_watch(from.1);
        let entry = or_reply!(reply, name(from.1));
        let new_entry = or_reply!(reply, name(to.1));
        self.spawn_nothing(reply, |client| async move {
            let done = client.rename(parent, entry, new_parent, new_entry, mode).await;
            if is_watch { changes::refused(done) } else { done }
        });
    }

    fn open(&self, ino: Ino, flags: u32, reply: Reply) {
        let (files, sharing) = (self.files.clone(), self.sharing);
        self.spawn(reply, |client, reply| async move {
            match client.open(ino, convert::open_options(flags)).await {
                Ok(file) => {
                    let flags = open_flags(&file, sharing);
                    let handle = files.insert(file);
                    if !reply.opened(handle, flags) {
                        close_unheard(&client, &files, handle).await;
                    }
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn create(&self, parent: Ino, entry: &[u8], new: NewInode, flags: u32, reply: Reply) {
        let entry = or_reply!(reply, name(entry));
        let exclusive = OFlags::from_bits_retain(flags).contains(OFlags::EXCL);
        self.spawn_created(reply, |client| async move {
            client.create(parent, entry, new, exclusive, convert::open_options(flags)).await
        });
    }

    /// Answers with what was made and opened.
    fn spawn_created<F>(&self, reply: Reply, work: impl FnOnce(Client) -> F)
    where
        F: Future<Output = Result<Created, Error>> + Send + 'static,
    {
        let (valid, files, sharing) = (self.valid, self.files.clone(), self.sharing);
        self.spawn(reply, |client, reply| {
            let made = work(client.clone());
            async move {
                match made.await {
                    Ok(created) => {
                        let flags = open_flags(&created.file, sharing);
                        let handle = files.insert(created.file);
                        let valid = (valid.of_names(), valid.of(FileKind::File));
                        if !reply.created(&created.attr, valid, handle, flags) {
                            close_unheard(&client, &files, handle).await;
                        }
                    }
                    Err(error) => reply.error(errno(&error)),
                }
            }
        });
    }

    fn read(&self, handle: u64, offset: u64, size: u32, reply: Reply) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        if let Some(bytes) = self.client.try_read_fresh(&file, offset, size as usize) {
            return reply.data(&bytes);
        }
        self.spawn(reply, |client, reply| async move {
            let bytes = if file.options().direct {
                client.read_at(&file, offset, size as usize).await
            } else {
                client.read_fresh(&file, offset, size as usize).await
            };
            answer_data(reply, bytes);
        });
    }

    fn write(&self, (handle, drops_privileges): (u64, bool), offset: u64, data: &[u8], reply: Reply) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        let drops = drops_privileges && self.client.is_privileged(&file);
        if !drops && let Some(result) = self.client.try_write_at(&file, offset, data) {
            return answer_written(reply, data.len(), result);
        }
        let data = data.to_vec();
        self.spawn(reply, move |client, reply| async move {
            let dropped = if drops { client.drop_privileges(&file).await } else { Ok(()) };
            let result = match dropped {
                Ok(()) => client.write_at(&file, offset, &data).await,
                Err(error) => Err(error),
            };
            answer_written(reply, data.len(), result);
        });
    }

    fn flush(&self, handle: u64, owner: LockOwner, reply: Reply) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        let written = file.options().write && !self.client.is_flushed(&file);
        // Whatever it was opened by: a process that closes a file holds none of its ranges any more.
        let locks = self.client.may_hold(file.ino(), LockKind::Range, owner);
        if !written && !locks {
            return reply.ok();
        }
        self.spawn_nothing(reply, |client| async move {
            let flushed = if written { client.flush(&file).await } else { Ok(()) };
            if !locks {
                return flushed;
            }
            let unlocked = client.unlock(&file, LockKind::Range, owner, LockRange::ALL).await;
            flushed.and(unlocked)
        });
    }

    fn get_lock(&self, asked: kernel::Lock, reply: Reply) {
        let file = or_bad_handle!(reply, self.files.get(asked.handle));
        let kernel::Lock { kind, owner, range, mode, pid, .. } = asked;
        let Some(mode) = mode else { return reply.error(Errno::INVAL) };
        self.spawn(reply, |client, reply| async move {
            match client.test_lock(&file, Lock { kind, owner, range, mode, pid }).await {
                // Processes of other machines have no number here.
                Ok(Some((held, here))) => reply.lock(Some(&held), if here { held.pid } else { 0 }),
                Ok(None) => reply.lock(None, 0),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn set_lock(&self, asked: kernel::Lock, wait: bool, reply: Reply) {
        let file = or_bad_handle!(reply, self.files.get(asked.handle));
        let kernel::Lock { kind, owner, range, mode, pid, .. } = asked;
        let Some(mode) = mode else {
            self.spawn_nothing(reply, |client| async move { client.unlock(&file, kind, owner, range).await });
            return;
        };
        let (reply, cancel) = reply.later_unless_interrupted(&self.interrupts);
        let client = self.client.clone();
        self.client.runtime().spawn(async move {
            let lock = Lock { kind, owner, range, mode, pid };
            match client.lock(&file, lock, wait.then_some(&*cancel)).await {
                Ok(_) => reply.ok(),
                Err(Error::Locked) if wait => reply.error(Errno::INTR),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdir(&self, handle: u64, offset: u64, size: u32, with_attrs: bool, reply: Reply) {
        let dir = or_bad_handle!(reply, self.dirs.get(handle));
        let valid = self.valid;
        self.spawn(reply, |client, reply| async move {
            let mut listing = Listing::new(size);
            let listed = dir.list(&client, offset, |line| {
                // `.` and `..` need no attributes: the kernel looks at their number only.
                let kind = line.entry.map_or(FileKind::Directory, |entry| entry.kind);
                if !with_attrs {
                    return listing.add(line.ino.0, line.position, kind, line.name);
                }
                let attr = line.entry.and_then(|entry| entry.attr.as_ref());
                let known = attr.map(|attr| (valid.of(attr.kind), attr));
                listing.add_with((line.ino.0, line.position), (kind, line.name), known)
            });
            match listed.await {
                Ok(()) => reply.listing(&listing),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    pub(super) fn statfs(&self, reply: Reply) {
        self.spawn(reply, |client, reply| async move {
            match client.statfs().await {
                Ok(space) => reply.statfs(&space, STATFS_BLOCK_BYTES, FREE_INODES, MAX_NAME_BYTES as u32),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setxattr(
        &self,
        (ino, uid): (Ino, u32),
        attribute: &[u8],
        value: &[u8],
        (flags, drops_group_id): (u32, bool),
        reply: Reply,
    ) {
        if is_foreign(attribute) {
            return reply.error(Errno::OPNOTSUPP);
        }
        if lock_attributes::is_own(attribute) {
            let (attribute, value) = (attribute.to_vec(), value.to_vec());
            return self.spawn_nothing(reply, |client| async move {
                lock_attributes::set(&client, ino, &attribute, &value, uid).await
            });
        }
        let flags = XattrFlags::from_bits_retain(flags);
        let mode = if flags.contains(XattrFlags::CREATE) {
            XattrMode::Create
        } else if flags.contains(XattrFlags::REPLACE) {
            XattrMode::Replace
        } else {
            XattrMode::Any
        };
        let attribute = Bytes::copy_from_slice(attribute);
        let value = Bytes::copy_from_slice(value);
        self.spawn_nothing(reply, move |client| async move {
            client.setxattr(ino, attribute, value, mode).await?;
            if drops_group_id { client.drop_group_id(ino).await } else { Ok(()) }
        });
    }

    pub(super) fn getxattr(&self, (ino, thread): (Ino, u32), attribute: &[u8], size: u32, reply: Reply) {
        if is_foreign(attribute) {
            return reply.error(Errno::OPNOTSUPP);
        }
        if lock_attributes::is_own(attribute) {
            let attribute = attribute.to_vec();
            return self.spawn(reply, |client, reply| async move {
                answer_xattr(reply, size, lock_attributes::get(&client, ino, &attribute, thread).await);
            });
        }
        // The kernel asks for these before every write, and with many a look at a file.
        let often = attribute == b"security.capability" || is_acl(attribute);
        if often && self.client.has_no_xattrs(ino) {
            return reply.error(Errno::NODATA);
        }
        let attribute = Bytes::copy_from_slice(attribute);
        self.spawn(reply, |client, reply| async move {
            answer_xattr(reply, size, client.getxattr(ino, attribute).await);
        });
    }

    fn listxattr(&self, ino: Ino, size: u32, reply: Reply) {
        self.spawn(reply, |client, reply| async move {
            let names = client.listxattr(ino).await.map(|names| {
                let mut list = Vec::new();
                for one in names {
                    list.extend_from_slice(&one);
                    list.push(0);
                }
                Bytes::from(list)
            });
            answer_xattr(reply, size, names);
        });
    }

    fn removexattr(&self, ino: Ino, attribute: &[u8], reply: Reply) {
        if is_foreign(attribute) {
            return reply.error(Errno::OPNOTSUPP);
        }
        let attribute = Bytes::copy_from_slice(attribute);
        self.spawn_nothing(reply, |client| async move { client.removexattr(ino, attribute).await });
    }

    fn fallocate(&self, handle: u64, offset: u64, len: u64, mode: u32, reply: Reply) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        let flags = FallocateFlags::from_bits_retain(mode);
        let keep_size = flags.contains(FallocateFlags::KEEP_SIZE);
        let rest = flags - FallocateFlags::KEEP_SIZE;
        let mode = if rest.is_empty() {
            FallocateMode::Allocate { keep_size }
        } else if rest == FallocateFlags::PUNCH_HOLE && keep_size {
            FallocateMode::PunchHole
        } else if rest == FallocateFlags::ZERO_RANGE {
            FallocateMode::ZeroRange { keep_size }
        } else {
            return reply.error(Errno::OPNOTSUPP);
        };
        self.spawn_nothing(reply, |client| async move { client.fallocate(&file, mode, offset, len).await });
    }

    fn lseek(&self, handle: u64, offset: u64, whence: u32, reply: Reply) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        // The bits of a number that may be below zero.
        if i64::try_from(offset).is_err() {
            return reply.error(Errno::NXIO);
        }
        self.spawn(reply, |client, reply| async move {
            let found = match whence {
                SEEK_DATA => client.seek_data(&file, offset).await,
                SEEK_HOLE => client.seek_hole(&file, offset).await,
                _ => return reply.error(Errno::INVAL),
            };
            match found {
                Ok(found) => reply.position(found),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_range(&self, from: (u64, u64), to: (u64, u64), len: u64, reply: Reply) {
        let (from_offset, to_offset) = (from.1, to.1);
        let from = or_bad_handle!(reply, self.files.get(from.0));
        let to = or_bad_handle!(reply, self.files.get(to.0));
        self.spawn(reply, |client, reply| async move {
            let len = len.min(MOST_COPIED_BYTES);
            match client.copy_range(&from, from_offset, &to, to_offset, len).await {
                // Far below 4 GiB, so both of the kernel's shapes of the answer are the same bytes.
                Ok(copied) => reply.count(copied as u32),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}

/// Closes what was opened for somebody who is gone.
async fn close_unheard(client: &Client, files: &Handles<File>, handle: u64) {
    if let Some(file) = files.remove(handle)
        && let Err(error) = client.release(file).await
    {
        tracing::debug!(%error, "what was opened for a process that is gone could not be closed well");
    }
}

impl Handler for Adapter {
    fn handle(&self, request: &Request<'_>, reply: Reply) {
        use Operation as O;
        if let Some(dir) = changes::watched(request.node) {
            return self.watch(dir, &request.operation, reply);
        }
        let ino = self.ino(request.node);
        match request.operation {
            O::Lookup { name } => self.lookup(ino, name, reply),
            O::GetAttr => self.getattr(ino, false, reply),
            O::StatX => self.getattr(ino, true, reply),
            O::SetAttr(set) => self.setattr(ino, set, reply),
            O::ReadLink => {
                self.spawn(reply, |client, reply| async move {
                    answer_data(reply, client.readlink(ino).await);
                });
            }
            O::Symlink { name: entry, target } => {
                let entry = or_reply!(reply, name(entry));
                let new = new_inode(request, 0o777, 0);
                let target = Bytes::copy_from_slice(target);
                self.spawn_entry(
                    reply,
                    |client| async move { client.symlink(ino, entry, target, new).await },
                );
            }
            O::MkNod { name: entry, mode, rdev, umask } => {
                let entry = or_reply!(reply, name(entry));
                let Some(kind) = convert::node_kind(mode) else { return reply.error(Errno::INVAL) };
                let new = new_inode(request, mode, umask);
                self.spawn_entry(
                    reply,
                    |client| async move { client.mknod(ino, entry, new, kind, rdev).await },
                );
            }
            O::MkDir { name: entry, mode, umask } => {
                let entry = or_reply!(reply, name(entry));
                let new = new_inode(request, mode, umask);
                self.spawn_entry(reply, |client| async move { client.mkdir(ino, entry, new).await });
            }
            O::Unlink { name: entry } => {
                let is_watch = changes::is_watch(entry);
                let entry = or_reply!(reply, name(entry));
                self.spawn_nothing(reply, |client| async move {
                    let done = client.unlink(ino, entry).await;
                    if is_watch { changes::refused(done) } else { done }
                });
            }
            O::RmDir { name: entry } => {
                let entry = or_reply!(reply, name(entry));
                self.spawn_nothing(reply, |client| async move { client.rmdir(ino, entry).await });
            }
            O::Rename { name, new_parent, new_name, flags } => {
                self.rename((ino, name), (self.ino(new_parent), new_name), flags, reply);
            }
            O::Link { node, .. } if changes::watched(node).is_some() => reply.error(Errno::PERM),
            O::Link { node, name: entry } => {
                let entry = or_reply!(reply, name(entry));
                let linked = self.ino(node);
                self.spawn_entry(reply, |client| async move { client.link(linked, ino, entry).await });
            }
            O::Open { flags } => self.open(ino, flags, reply),
            O::Create { name, flags, mode, umask } => {
                self.create(ino, name, new_inode(request, mode, umask), flags, reply);
            }
            O::TmpFile { flags, mode, umask } => {
                let (new, options) = (new_inode(request, mode, umask), convert::open_options(flags));
                self.spawn_created(
                    reply,
                    |client| async move { client.create_unnamed(ino, new, options).await },
                );
            }
            O::Read { handle, offset, size, .. } => self.read(handle, offset, size, reply),
            O::Write { handle, offset, data, drops_privileges } => {
                self.write((handle, drops_privileges), offset, data, reply)
            }
            O::StatFs => self.statfs(reply),
            O::Release { handle } => {
                let file = or_bad_handle!(reply, self.files.remove(handle));
                self.spawn_nothing(reply, |client| async move { client.release(file).await });
            }
            O::Fsync { handle } => {
                let file = or_bad_handle!(reply, self.files.get(handle));
                self.spawn_nothing(reply, |client| async move { client.fsync(&file).await });
            }
            O::Flush { handle, owner } => self.flush(handle, owner, reply),
            O::GetLock(lock) => self.get_lock(lock, reply),
            O::SetLock { lock, wait } => self.set_lock(lock, wait, reply),
            O::SetXattr { name, value, flags, drops_group_id } => {
                self.setxattr((ino, request.uid), name, value, (flags, drops_group_id), reply)
            }
            O::GetXattr { name, size } => self.getxattr((ino, request.pid), name, size, reply),
            O::ListXattr { size } => self.listxattr(ino, size, reply),
            O::RemoveXattr { name } => self.removexattr(ino, name, reply),
            O::OpenDir => {
                let handle = self.dirs.insert(Arc::new(DirHandle::new(ino)));
                if !reply.opened(handle, 0) {
                    self.dirs.remove(handle);
                }
            }
            O::ReadDir { handle, offset, size } => self.readdir(handle, offset, size, false, reply),
            O::ReadDirPlus { handle, offset, size } => self.readdir(handle, offset, size, true, reply),
            O::ReleaseDir { handle } => {
                self.dirs.remove(handle);
                reply.ok();
            }
            // What the namespace has answered is durable.
            O::FsyncDir => reply.ok(),
            O::FAllocate { handle, offset, len, mode } => self.fallocate(handle, offset, len, mode, reply),
            O::LSeek { handle, offset, whence } => self.lseek(handle, offset, whence, reply),
            O::CopyRange { from, from_offset, to, to_offset, len } => {
                self.copy_range((from, from_offset), (to, to_offset), len, reply);
            }
            O::IoCtl { .. } => reply.error(Errno::NOTTY),
            O::Poll { .. } => reply.always_ready(),
            O::Destroy => reply.ok(),
            O::Unknown(opcode) => {
                tracing::debug!(opcode, "the kernel asked for something that is not known");
                reply.error(Errno::NOSYS);
            }
            // These are not for a handler.
            O::Forget | O::Interrupt { .. } | O::Init(_) => reply.error(Errno::INVAL),
        }
    }
}
