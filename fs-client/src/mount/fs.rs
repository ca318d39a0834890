//! Requests of the kernel, each translated to one call of the library.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, XattrFlags};
use wire::id::Ino;
use wire::meta::{
    ACL_ACCESS, ACL_DEFAULT, Attr, AttrChanges, FileKind, MAX_NAME_BYTES, NewInode, RenameMode, XattrMode,
};

use super::convert::{self, errno, name};
use super::dir::{DirHandle, Line};
use super::reply::{
    GENERATION, Handles, Validity, reply_attr, reply_data, reply_empty, reply_entry, reply_written,
    reply_xattr,
};
use crate::client::{Client, FallocateMode, File};
use crate::config::Sharing;

/// Largest request of the kernel, in bytes.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// What `statvfs` calls a block, in bytes.
const STATFS_BLOCK_BYTES: u64 = 4096;
/// Inodes said to be free: there is no limit.
const FREE_INODES: u64 = 1 << 40;
/// Copied in one request at most: nothing can interrupt it.
const MOST_COPIED_BYTES: u64 = 64 << 20;

const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// The kernel's counterpart.
#[derive(Debug)]
pub(crate) struct Adapter {
    client: Client,
    /// The directory that the kernel calls its root.
    root: Ino,
    max_background: u16,
    sharing: Sharing,
    valid: Validity,
    files: Arc<Handles<File>>,
    dirs: Arc<Handles<DirHandle>>,
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
            None => return $reply.error(Errno::EBADF),
        }
    };
}

fn new_inode(request: &Request, mode: u32, umask: u32) -> NewInode {
    let (mode, umask) = ((mode & 0o7777) as u16, (umask & 0o777) as u16);
    NewInode { mode, umask, uid: request.uid(), gid: request.gid() }
}

/// Attributes of the system's that are none of ours.
fn is_foreign(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"system.") && !is_acl(name)
}

fn is_acl(name: &OsStr) -> bool {
    name.as_bytes() == ACL_ACCESS || name.as_bytes() == ACL_DEFAULT
}

/// How the kernel is to treat a handle.
fn open_flags(file: &File, sharing: Sharing) -> FopenFlags {
    let options = file.options();
    let mut flags = FopenFlags::empty();
    if options.direct {
        flags |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    }
    if !options.write {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    if sharing == Sharing::Sole && !options.direct {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    flags
}

impl Adapter {
    pub(crate) fn new(client: Client, root: Ino, max_background: u16) -> Self {
        let sharing = client.sharing();
        let valid = Validity::new(sharing);
        Self { client, root, max_background, sharing, valid, files: Arc::default(), dirs: Arc::default() }
    }

    /// The inode that the kernel means.
    fn ino(&self, number: INodeNo) -> Ino {
        if number == INodeNo::ROOT { self.root } else { Ino(number.0) }
    }

    /// Runs a request as a task.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Client) -> F) {
        self.client.runtime().spawn(work(self.client.clone()));
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without FUSE_ATOMIC_O_TRUNC: so the kernel truncates by a call of its own, and takes the
        // set-user-id bit away like everywhere else.
        let wanted = [
            InitFlags::FUSE_EXPORT_SUPPORT,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_POSIX_ACL,
            // What is made in a directory with a default list has nothing to do with a umask.
            InitFlags::FUSE_DONT_MASK,
        ];
        // On a sole mount this would only drop what the kernel itself has just written, and a
        // page read again while it is being written comes back old: four processes on one
        // SQLite database with a write-ahead log damaged it.
        let shared = (self.sharing == Sharing::Shared).then_some(InitFlags::FUSE_AUTO_INVAL_DATA);
        for flag in wanted.into_iter().chain(shared) {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "this kernel does not know a flag of FUSE");
            }
        }
        // Values out of range come back with the nearest one that is allowed.
        if let Err(nearest) = config.set_max_write(MAX_WRITE_BYTES) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(u32::MAX) {
            let _ = config.set_max_readahead(nearest);
        }
        if let Err(nearest) = config.set_max_background(self.max_background.max(64)) {
            let _ = config.set_max_background(nearest);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEntry) {
        let parent = self.ino(parent);
        let valid = self.valid;
        match entry.as_bytes() {
            // Asked for by NFS servers that come back with an old handle.
            dots @ (b"." | b"..") => {
                let (up, root) = (dots == b".." && parent != self.root, self.root);
                self.spawn(|client| async move {
                    let found =
                        if up { client.lookup_parent(parent).await } else { client.getattr(parent).await };
                    // The kernel has its own number for the root.
                    let known =
                        |attr: Attr| if attr.ino == root { Attr { ino: Ino::ROOT, ..attr } } else { attr };
                    reply_entry(valid, reply, found.map(known));
                });
            }
            _ => {
                let entry = or_reply!(reply, name(entry));
                self.spawn(
                    |client| async move { reply_entry(valid, reply, client.lookup(parent, entry).await) },
                );
            }
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let number = self.ino(number);
        let valid = self.valid;
        self.spawn(|client| async move { reply_attr(valid, reply, client.getattr(number).await) });
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let number = self.ino(number);
        let valid = self.valid;
        let changes = AttrChanges {
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        let sharing = self.sharing;
        self.spawn(|client| async move {
            let done = match sharing {
                Sharing::Sole => client.setattr_behind(number, changes).await,
                Sharing::Shared => client.setattr(number, changes).await,
            };
            reply_attr(valid, reply, done);
        });
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        let number = self.ino(number);
        self.spawn(|client| async move { reply_data(reply, client.readlink(number).await) });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let parent = self.ino(parent);
        let valid = self.valid;
        let entry = or_reply!(reply, name(entry));
        let Some(kind) = convert::node_kind(mode) else { return reply.error(Errno::EINVAL) };
        let new = new_inode(request, mode, umask);
        self.spawn(|client| async move {
            reply_entry(valid, reply, client.mknod(parent, entry, new, kind, rdev).await);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let parent = self.ino(parent);
        let valid = self.valid;
        let entry = or_reply!(reply, name(entry));
        let new = new_inode(request, mode, umask);
        self.spawn(|client| async move { reply_entry(valid, reply, client.mkdir(parent, entry, new).await) });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        let parent = self.ino(parent);
        let entry = or_reply!(reply, name(entry));
        self.spawn(|client| async move { reply_empty(reply, client.unlink(parent, entry).await) });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        let parent = self.ino(parent);
        let entry = or_reply!(reply, name(entry));
        self.spawn(|client| async move { reply_empty(reply, client.rmdir(parent, entry).await) });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, entry: &OsStr, target: &Path, reply: ReplyEntry) {
        let parent = self.ino(parent);
        let valid = self.valid;
        let entry = or_reply!(reply, name(entry));
        let new = new_inode(request, 0o777, 0);
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        self.spawn(|client| async move {
            reply_entry(valid, reply, client.symlink(parent, entry, target, new).await);
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        new_parent: INodeNo,
        new_entry: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (parent, new_parent) = (self.ino(parent), self.ino(new_parent));
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        let entry = or_reply!(reply, name(entry));
        let new_entry = or_reply!(reply, name(new_entry));
        self.spawn(|client| async move {
            let done = client.rename(parent, entry, new_parent, new_entry, mode).await;
            reply_empty(reply, done);
        });
    }

    fn link(&self, _request: &Request, number: INodeNo, parent: INodeNo, entry: &OsStr, reply: ReplyEntry) {
        let (number, parent) = (self.ino(number), self.ino(parent));
        let valid = self.valid;
        let entry = or_reply!(reply, name(entry));
        self.spawn(|client| async move {
            reply_entry(valid, reply, client.link(number, parent, entry).await);
        });
    }

    fn open(&self, _request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let number = self.ino(number);
        let (files, sharing) = (self.files.clone(), self.sharing);
        self.spawn(|client| async move {
            match client.open(number, convert::open_options(flags.0)).await {
                Ok(file) => {
                    let flags = open_flags(&file, sharing);
                    reply.opened(files.insert(file), flags);
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let parent = self.ino(parent);
        let valid = self.valid;
        let entry = or_reply!(reply, name(entry));
        let new = new_inode(request, mode, umask);
        let (files, sharing) = (self.files.clone(), self.sharing);
        let exclusive = rustix::fs::OFlags::from_bits_retain(flags as u32).contains(rustix::fs::OFlags::EXCL);
        self.spawn(|client| async move {
            let options = convert::open_options(flags);
            match client.create(parent, entry, new, exclusive, options).await {
                Ok(created) => {
                    let flags = open_flags(&created.file, sharing);
                    let attr = convert::attr(&created.attr);
                    reply.created(
                        &valid.of(FileKind::File),
                        &attr,
                        GENERATION,
                        files.insert(created.file),
                        flags,
                    );
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        if let Some(bytes) = self.client.try_read_fresh(&file, offset, size as usize) {
            return reply.data(&bytes);
        }
        self.spawn(|client| async move {
            let bytes = if file.options().direct {
                client.read_at(&file, offset, size as usize).await
            } else {
                client.read_fresh(&file, offset, size as usize).await
            };
            reply_data(reply, bytes);
        });
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        if let Some(result) = self.client.try_write_at(&file, offset, data) {
            return reply_written(reply, data.len(), result);
        }
        let data = data.to_vec();
        self.spawn(|client| async move {
            let result = client.write_at(&file, offset, &data).await;
            reply_written(reply, data.len(), result);
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        if !file.options().write || self.client.is_flushed(&file) {
            return reply.ok();
        }
        self.spawn(|client| async move { reply_empty(reply, client.flush(&file).await) });
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let file = or_bad_handle!(reply, self.files.remove(handle));
        self.spawn(|client| async move { reply_empty(reply, client.release(file).await) });
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        self.spawn(|client| async move { reply_empty(reply, client.fsync(&file).await) });
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let number = self.ino(number);
        let handle = self.dirs.insert(Arc::new(DirHandle::new(number)));
        reply.opened(handle, FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let dir = or_bad_handle!(reply, self.dirs.get(handle));
        self.spawn(|client| async move {
            let add = |line: Line<'_>| {
                let kind =
                    line.entry.map_or(fuser::FileType::Directory, |entry| convert::file_type(entry.kind));
                reply.add(INodeNo(line.ino.0), line.position, kind, OsStr::from_bytes(line.name))
            };
            match dir.list(&client, offset, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let valid = self.valid;
        let dir = or_bad_handle!(reply, self.dirs.get(handle));
        self.spawn(|client| async move {
            let add = |line: Line<'_>| {
                let entry_name = OsStr::from_bytes(line.name);
                let attr = line.entry.and_then(|entry| entry.attr.as_ref());
                let time = attr.map_or(Duration::ZERO, |attr| valid.of(attr.kind));
                let attr = attr.map(convert::attr);
                // `.` and `..` need no attributes: the kernel looks at their number only.
                let kind = line.entry.map_or(FileKind::Directory, |entry| entry.kind);
                let attr = attr.unwrap_or_else(|| convert::bare_attr(line.ino, kind));
                reply.add(INodeNo(line.ino.0), line.position, entry_name, &time, &attr, GENERATION)
            };
            match dir.list(&client, offset, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.dirs.remove(handle);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // What the namespace has answered is durable.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        self.spawn(|client| async move {
            match client.statfs().await {
                Ok(space) => {
                    let free = space.free_bytes / STATFS_BLOCK_BYTES;
                    reply.statfs(
                        space.total_bytes / STATFS_BLOCK_BYTES,
                        free,
                        free,
                        space.inodes.saturating_add(FREE_INODES),
                        FREE_INODES,
                        STATFS_BLOCK_BYTES as u32,
                        MAX_NAME_BYTES as u32,
                        STATFS_BLOCK_BYTES as u32,
                    );
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        number: INodeNo,
        attribute: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let number = self.ino(number);
        if is_foreign(attribute) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let mode = if flags.contains(XattrFlags::CREATE) {
            XattrMode::Create
        } else if flags.contains(XattrFlags::REPLACE) {
            XattrMode::Replace
        } else {
            XattrMode::Any
        };
        let attribute = Bytes::copy_from_slice(attribute.as_bytes());
        let value = Bytes::copy_from_slice(value);
        self.spawn(|client| async move {
            reply_empty(reply, client.setxattr(number, attribute, value, mode).await);
        });
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, attribute: &OsStr, size: u32, reply: ReplyXattr) {
        let number = self.ino(number);
        if is_foreign(attribute) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        // The kernel asks for these before every write, and with many a look at a file.
        let often = attribute.as_bytes() == b"security.capability" || is_acl(attribute);
        if often && self.client.has_no_xattrs(number) {
            return reply.error(Errno::ENODATA);
        }
        let attribute = Bytes::copy_from_slice(attribute.as_bytes());
        self.spawn(|client| async move {
            reply_xattr(reply, size, client.getxattr(number, attribute).await);
        });
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let number = self.ino(number);
        self.spawn(|client| async move {
            let names = client.listxattr(number).await.map(|names| {
                let mut list = Vec::new();
                for one in names {
                    list.extend_from_slice(&one);
                    list.push(0);
                }
                Bytes::from(list)
            });
            reply_xattr(reply, size, names);
        });
    }

    fn removexattr(&self, _request: &Request, number: INodeNo, attribute: &OsStr, reply: ReplyEmpty) {
        let number = self.ino(number);
        if is_foreign(attribute) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let attribute = Bytes::copy_from_slice(attribute.as_bytes());
        self.spawn(|client| async move {
            reply_empty(reply, client.removexattr(number, attribute).await);
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        let keep_size = flags.contains(FallocateFlags::KEEP_SIZE);
        let rest = flags - FallocateFlags::KEEP_SIZE;
        let mode = if rest.is_empty() {
            FallocateMode::Allocate { keep_size }
        } else if rest == FallocateFlags::PUNCH_HOLE && keep_size {
            FallocateMode::PunchHole
        } else if rest == FallocateFlags::ZERO_RANGE {
            FallocateMode::ZeroRange { keep_size }
        } else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        self.spawn(|client| async move {
            reply_empty(reply, client.fallocate(&file, mode, offset, length).await);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let file = or_bad_handle!(reply, self.files.get(handle));
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.spawn(|client| async move {
            let found = match whence {
                SEEK_DATA => client.seek_data(&file, offset).await,
                SEEK_HOLE => client.seek_hole(&file, offset).await,
                _ => return reply.error(Errno::EINVAL),
            };
            match found {
                // Sizes are below 2^63.
                Ok(found) => reply.offset(found as i64),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from_number: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to_number: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = or_bad_handle!(reply, self.files.get(from));
        let to = or_bad_handle!(reply, self.files.get(to));
        self.spawn(|client| async move {
            let len = len.min(MOST_COPIED_BYTES);
            match client.copy_range(&from, from_offset, &to, to_offset, len).await {
                // At most what was asked for, which is below 4 GiB.
                Ok(copied) => reply.written(copied as u32),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}
