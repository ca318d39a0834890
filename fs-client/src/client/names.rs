//! Names and attributes: calls to the namespace, and what local, unreported writes change in
//! the answers.
//!
//! 1. A rename or link never becomes durable before the data it publishes: what this client
//!    has written to the inode is made durable first (`a_rename_waits_for_its_data`).
//! 2. An answer that is older than a report of this client is never the last word
//!    (`an_old_answer_does_not_hide_a_report`).
//! 3. Attributes changed behind the namespace's back are seen here at once, and told with the writes before
//!    them, in one call, at the last close or fsync (`attributes_of_a_written_file_are_told_with_its_writes`).

use std::sync::Arc;

use bytes::Bytes;
use wire::id::{DirCookie, Ino};
use wire::meta::{
    ACL_ACCESS, Attr, AttrChanges, DirEntry, FileKind, FsReply, FsRequest, Name, NewInode, RenameMode,
    SetTime, StatFs, XattrMode,
};

use super::inode::OpenInode;
use super::open::File;
use super::table::User;
use super::{Client, Shared};
use crate::error::Error;
use crate::locked;
use crate::stuck::part_of_operation;

/// A part of a listing.
#[derive(Debug, Clone, Default)]
pub struct DirPage {
    /// In order.
    pub entries: Vec<DirEntry>,
    /// Nothing comes after the last one.
    pub end: bool,
}

/// Whether a change of attributes can be told later: it must not fail then.
fn can_wait(changes: &AttrChanges) -> bool {
    let valid =
        |time: Option<SetTime>| !matches!(time, Some(SetTime::To(time)) if time.nanos >= 1_000_000_000);
    changes.size.is_none() && valid(changes.atime) && valid(changes.mtime)
}

fn wrong(wanted: &str) -> Error {
    Error::unexpected("the namespace", wanted)
}

impl Shared {
    /// A call that is answered with attributes.
    async fn attr_of(&self, request: FsRequest) -> Result<Attr, Error> {
        match self.fs(request).await? {
            FsReply::Attr(attr) => Ok(self.merged(attr)),
            _ => Err(wrong("attributes")),
        }
    }

    /// What the namespace says and what was written here since.
    fn merged(&self, attr: Attr) -> Attr {
        match self.in_use(attr.ino) {
            None => attr,
            Some(inode) => {
                let mut state = locked(&inode.state);
                state.absorb(&attr);
                state.view()
            }
        }
    }

    pub(crate) async fn get_attr(&self, ino: Ino) -> Result<Attr, Error> {
        // What is told of the inode meanwhile is not forgotten before an older answer is here.
        let _user = User::enter(self, ino);
        self.attr_of(FsRequest::GetAttr { ino }).await
    }

    pub(crate) async fn look_up(&self, parent: Ino, name: Name) -> Result<Attr, Error> {
        let reports = self.table.reports();
        let attr = self.attr_of(FsRequest::Lookup { parent, name }).await?;
        if attr.kind == FileKind::File && self.table.reports() != reports {
            // It may be this file that was told of, and forgotten, since the question was answered.
            return self.get_attr(attr.ino).await;
        }
        Ok(attr)
    }

    pub(crate) async fn set_attr(self: &Arc<Self>, ino: Ino, changes: AttrChanges) -> Result<Attr, Error> {
        self.set_attr_through(None, ino, changes).await
    }

    async fn set_attr_through(
        self: &Arc<Self>,
        file: Option<Arc<File>>,
        ino: Ino,
        changes: AttrChanges,
    ) -> Result<Attr, Error> {
        if let Some(file) = &file {
            self.until_trusted(file).await?;
        }
        let orders = changes.size.is_some() || changes.mtime.is_some();
        let inode = self.in_use(ino).filter(|inode| orders || locked(&inode.state).late.is_some());
        let Some(inode) = inode else { return self.attr_of(FsRequest::SetAttr { ino, changes }).await };
        // Goes on when the caller does not wait: what it cuts here and there belongs together.
        let shared = self.clone();
        let work = async move { shared.set_attr_in_order(file.as_deref(), &inode, &changes).await };
        self.runtime.spawn(part_of_operation(work)).await.map_err(|_| Error::Stopping)?
    }

    async fn set_attr_in_order(
        self: &Arc<Self>,
        file: Option<&File>,
        inode: &Arc<OpenInode>,
        changes: &AttrChanges,
    ) -> Result<Attr, Error> {
        // Writes before it must not come after it, in bytes as in times.
        let _alone = inode.order.write().await;
        file.map_or(Ok(()), File::not_lost)?;
        self.flush_inode(inode).await;
        file.map_or(Ok(()), File::not_lost)?;
        let done = self.report_and_set(inode, changes).await;
        let mut state = locked(&inode.state);
        if changes.size.is_some() && matches!(&done, Err(error) if !matches!(error, Error::Fs(_))) {
            state.cut_in_doubt = true;
        }
        done?;
        if let Some(size) = changes.size {
            state.cut_in_doubt = false;
            let kept = state.held.cost();
            state.held.cut(size, u64::MAX);
            self.account_held(kept, state.held.cost());
            state.version += 1;
        }
        // Nothing was written meanwhile: all there is to know is in the answer.
        let writes = state.writes;
        state.settle_pending(writes);
        Ok(state.view())
    }

    /// The same; if writes before it are to be reported still, it is told together with them, when they are made
    /// durable or the file is closed.
    async fn set_attr_behind(self: &Arc<Self>, ino: Ino, changes: AttrChanges) -> Result<Attr, Error> {
        match self.in_use(ino) {
            Some(inode) if can_wait(&changes) => match self.put_late(&inode, &changes).await {
                Some(attr) => Ok(attr),
                None => self.set_attr(ino, changes).await,
            },
            _ => self.set_attr(ino, changes).await,
        }
    }

    /// Notes a change of attributes, unless there is nothing it could be told with.
    async fn put_late(self: &Arc<Self>, inode: &Arc<OpenInode>, changes: &AttrChanges) -> Option<Attr> {
        if !locked(&inode.state).may_be_late() {
            return None;
        }
        let _alone = match changes.mtime {
            // Writes before it must not come after it.
            Some(_) => {
                let alone = inode.order.write().await;
                self.flush_inode(inode).await;
                Some(alone)
            }
            None => None,
        };
        let mut state = locked(&inode.state);
        // The file may have been closed meanwhile.
        if !state.may_be_late() {
            return None;
        }
        state.put_late(changes);
        let attr = state.view();
        let list = !std::mem::replace(&mut state.listed, true);
        drop(state);
        if list {
            self.note_dirty(inode);
        }
        Some(attr)
    }

    /// Makes durable what was written here to an inode that is about to get a name.
    async fn sync_before_publishing(self: &Arc<Self>, ino: Ino) -> Result<(), Error> {
        match self.in_use(ino) {
            Some(inode) if !locked(&inode.state).is_clean() => self.sync_inode(&inode).await,
            _ => Ok(()),
        }
    }

    async fn sync_name_before_publishing(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<(), Error> {
        if self.dirty_inodes().is_empty() {
            return Ok(());
        }
        match self.look_up(parent, name.clone()).await {
            // Any file with unstable data may be below it.
            Ok(attr) if attr.kind == FileKind::Directory => self.sync_everything().await,
            Ok(attr) => self.sync_before_publishing(attr.ino).await,
            // The rename itself finds the right words.
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn rename(
        self: &Arc<Self>,
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    ) -> Result<(), Error> {
        self.sync_name_before_publishing(parent, &name).await?;
        if mode == RenameMode::Exchange {
            self.sync_name_before_publishing(new_parent, &new_name).await?;
        }
        self.done(FsRequest::Rename { parent, name, new_parent, new_name, mode }).await
    }

    async fn link(self: &Arc<Self>, ino: Ino, parent: Ino, name: Name) -> Result<Attr, Error> {
        self.sync_before_publishing(ino).await?;
        self.attr_of(FsRequest::Link { ino, parent, name }).await
    }

    /// A call that is answered with nothing.
    async fn done(&self, request: FsRequest) -> Result<(), Error> {
        match self.fs(request).await? {
            FsReply::Done | FsReply::Attr(_) => Ok(()),
            _ => Err(wrong("done")),
        }
    }

    async fn read_dir(
        &self,
        ino: Ino,
        after: DirCookie,
        max: u32,
        with_attrs: bool,
    ) -> Result<DirPage, Error> {
        match self.fs(FsRequest::ReadDir { ino, after, max, with_attrs }).await? {
            FsReply::Entries { mut entries, end } => {
                for entry in &mut entries {
                    entry.attr = entry.attr.take().map(|attr| self.merged(attr));
                }
                Ok(DirPage { entries, end })
            }
            _ => Err(wrong("entries")),
        }
    }

    /// After a change of extended attributes: how many there are now.
    async fn recount_xattrs(&self, ino: Ino) {
        if let Some(inode) = self.in_use(ino) {
            // Unknown until somebody looks: then nobody skips asking for one that exists.
            locked(&inode.state).attr.xattrs = u32::MAX;
        }
    }

    /// Before an access control list is looked at or changed: permission bits that are still to be told are
    /// a part of it.
    async fn tell_mode(self: &Arc<Self>, ino: Ino, name: &[u8]) -> Result<(), Error> {
        match self.in_use(ino) {
            Some(inode) if name == ACL_ACCESS && locked(&inode.state).late.is_some() => {
                self.sync_inode(&inode).await
            }
            _ => Ok(()),
        }
    }

    /// After one was changed: the permission bits are others.
    async fn learn_mode(&self, ino: Ino, name: &[u8]) -> Result<(), Error> {
        match self.in_use(ino) {
            Some(_) if name == ACL_ACCESS => self.get_attr(ino).await.map(drop),
            _ => Ok(()),
        }
    }
}

impl Client {
    /// The inode of a name.
    ///
    /// # Errors
    /// As of every call here: what the namespace says, or that it can't be reached.
    pub async fn lookup(&self, parent: Ino, name: Name) -> Result<Attr, Error> {
        self.shared.operations.run("lookup", parent, self.shared.look_up(parent, name)).await
    }

    /// The parent of a directory.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn lookup_parent(&self, ino: Ino) -> Result<Attr, Error> {
        let work = self.shared.attr_of(FsRequest::LookupParent { ino });
        self.shared.operations.run("lookup", ino, work).await
    }

    /// Attributes, with what was written here and not reported yet.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, Error> {
        self.shared.operations.run("getattr", ino, self.shared.get_attr(ino)).await
    }

    /// Changes attributes; a change of size or time comes after all writes before it.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn setattr(&self, ino: Ino, changes: AttrChanges) -> Result<Attr, Error> {
        self.shared.operations.run("setattr", ino, self.shared.set_attr(ino, changes)).await
    }

    /// The same through an open file: nothing if it has lost a lock.
    ///
    /// # Errors
    /// As [`Client::lookup`]; [`Error::LockLost`].
    pub async fn setattr_through(&self, file: &Arc<File>, changes: AttrChanges) -> Result<Attr, Error> {
        let work = self.shared.set_attr_through(Some(file.clone()), file.ino(), changes);
        self.shared.operations.run("setattr", file.ino(), work).await
    }

    /// The same for the only mount of a cluster: nobody else can see whether the namespace knows it yet. A change
    /// of a file that is being written waits until its writes are reported, at the next fsync or at the last
    /// close, and saves a call of its own; until then it is as durable as they are.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn setattr_behind(&self, ino: Ino, changes: AttrChanges) -> Result<Attr, Error> {
        self.shared.operations.run("setattr", ino, self.shared.set_attr_behind(ino, changes)).await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn mkdir(&self, parent: Ino, name: Name, new: NewInode) -> Result<Attr, Error> {
        let work = self.shared.attr_of(FsRequest::Mkdir { parent, name, new });
        self.shared.operations.run("mkdir", parent, work).await
    }

    /// Makes a regular file without opening it, a pipe, a socket or a device.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn mknod(
        &self,
        parent: Ino,
        name: Name,
        new: NewInode,
        kind: FileKind,
        rdev: u32,
    ) -> Result<Attr, Error> {
        let work = self.shared.attr_of(FsRequest::Mknod { parent, name, new, kind, rdev });
        self.shared.operations.run("mknod", parent, work).await
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn symlink(
        &self,
        parent: Ino,
        name: Name,
        target: Bytes,
        new: NewInode,
    ) -> Result<Attr, Error> {
        let work = self.shared.attr_of(FsRequest::Symlink { parent, name, target, new });
        self.shared.operations.run("symlink", parent, work).await
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn readlink(&self, ino: Ino) -> Result<Bytes, Error> {
        self.shared
            .operations
            .run("readlink", ino, async {
                match self.shared.fs(FsRequest::Readlink { ino }).await? {
                    FsReply::Target(target) => Ok(target),
                    _ => Err(wrong("a target")),
                }
            })
            .await
    }

    /// Gives an inode one more name; its data is durable before.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn link(&self, ino: Ino, parent: Ino, name: Name) -> Result<Attr, Error> {
        self.shared.operations.run("link", ino, self.shared.link(ino, parent, name)).await
    }

    /// Removes a name that is not a directory's.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn unlink(&self, parent: Ino, name: Name) -> Result<(), Error> {
        let work = self.shared.done(FsRequest::Unlink { parent, name });
        self.shared.operations.run("unlink", parent, work).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn rmdir(&self, parent: Ino, name: Name) -> Result<(), Error> {
        let work = self.shared.done(FsRequest::Rmdir { parent, name });
        self.shared.operations.run("rmdir", parent, work).await
    }

    /// Renames; the data of what gets the new name is durable before.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn rename(
        &self,
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    ) -> Result<(), Error> {
        let work = self.shared.rename(parent, name, new_parent, new_name, mode);
        self.shared.operations.run("rename", parent, work).await
    }

    /// A part of a listing, without `.` and `..`, after a cookie (0: from the start).
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn readdir(
        &self,
        ino: Ino,
        after: DirCookie,
        max: u32,
        with_attrs: bool,
    ) -> Result<DirPage, Error> {
        let work = self.shared.read_dir(ino, after, max, with_attrs);
        self.shared.operations.run("readdir", ino, work).await
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn getxattr(&self, ino: Ino, name: Bytes) -> Result<Bytes, Error> {
        self.shared
            .operations
            .run("getxattr", ino, async {
                self.shared.tell_mode(ino, &name).await?;
                match self.shared.fs(FsRequest::GetXattr { ino, name }).await? {
                    FsReply::Value(value) => Ok(value),
                    _ => Err(wrong("a value")),
                }
            })
            .await
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn setxattr(&self, ino: Ino, name: Bytes, value: Bytes, mode: XattrMode) -> Result<(), Error> {
        let work = async {
            self.shared.tell_mode(ino, &name).await?;
            self.shared.recount_xattrs(ino).await;
            let request = FsRequest::SetXattr { ino, name: name.clone(), value, mode };
            let done = self.shared.done(request).await;
            self.shared.recount_xattrs(ino).await;
            done.and(self.shared.learn_mode(ino, &name).await)
        };
        self.shared.operations.run("setxattr", ino, work).await
    }

    /// Names of extended attributes.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn listxattr(&self, ino: Ino) -> Result<Vec<Bytes>, Error> {
        self.shared
            .operations
            .run("listxattr", ino, async {
                match self.shared.fs(FsRequest::ListXattr { ino }).await? {
                    FsReply::Names(names) => Ok(names),
                    _ => Err(wrong("names")),
                }
            })
            .await
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn removexattr(&self, ino: Ino, name: Bytes) -> Result<(), Error> {
        let work = async {
            self.shared.tell_mode(ino, &name).await?;
            let done = self.shared.done(FsRequest::RemoveXattr { ino, name }).await;
            self.shared.recount_xattrs(ino).await;
            done
        };
        self.shared.operations.run("removexattr", ino, work).await
    }

    /// Whether it is known without asking that an inode has no extended attributes.
    pub(crate) fn has_no_xattrs(&self, ino: Ino) -> bool {
        self.shared.in_use(ino).is_some_and(|inode| locked(&inode.state).attr.xattrs == 0)
    }

    /// Space and inodes.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn statfs(&self) -> Result<StatFs, Error> {
        self.shared
            .operations
            .run("statfs", Ino::ROOT, async {
                match self.shared.fs(FsRequest::StatFs).await? {
                    FsReply::StatFs(space) => Ok(space),
                    _ => Err(wrong("space")),
                }
            })
            .await
    }
}
