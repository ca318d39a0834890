//! Handles: opened, flushed, closed, and what the namespace is told of them.
//!
//! 1. The namespace is told of the first handle of an inode and access before the handle is
//!    given out, and of the last one's end after everything was reported
//!    (`the_namespace_knows_what_is_open`).
//! 2. A call that is given up half-way leaves nothing behind: what it held goes back by itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use wire::id::{Ino, LockHandle};
use wire::meta::{
    Access, Attr, AttrChanges, FileKind, FsReply, FsRequest, LateChanges, Name, NewInode, Timestamp,
    WriteReport,
};
use wire::status::FsError;

use super::again::Order;
use super::inode::{BeenCut, OpenInode, State, Told, joined};
use super::readahead::Readahead;
use super::table::{Creation, User};
use super::{Client, Shared};
use crate::config::Sharing;
use crate::error::Error;
use crate::locked;

/// When a write is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// When asked, or some seconds later.
    #[default]
    None,
    /// Before it returns (`O_DSYNC`, `O_SYNC`).
    Each,
}

/// What a handle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Writes go to the end.
    pub append: bool,
    /// The file is emptied first.
    pub truncate: bool,
    /// Nothing is kept in memory: writes return when the bricks have them.
    pub direct: bool,
    /// When writes are durable.
    pub sync: SyncMode,
}

impl OpenOptions {
    /// For reading only.
    pub fn read_only() -> Self {
        Self { read: true, ..Self::default() }
    }

    /// For reading and writing.
    pub fn read_write() -> Self {
        Self { read: true, write: true, ..Self::default() }
    }

    pub(crate) fn access(&self) -> Access {
        if self.write { Access::Write } else { Access::Read }
    }
}

/// A handle. It is closed by [`Client::release`]; one that is only dropped stays open at the
/// namespace until the session ends.
#[derive(Debug)]
pub struct File {
    pub(crate) inode: Arc<OpenInode>,
    pub(crate) options: OpenOptions,
    /// How many errors of writing behind its fsyncs were told.
    pub(crate) known_failures: AtomicU64,
    /// The same of its writes.
    pub(crate) failures_at_write: AtomicU64,
    /// The same of its closes.
    pub(crate) failures_at_close: AtomicU64,
    pub(crate) readahead: Mutex<Readahead>,
    /// What locks taken through it are known by.
    pub(crate) handle: LockHandle,
    /// See [`File::is_lost`].
    pub(crate) lost: AtomicBool,
    /// It is being closed: a lock that is granted to it now is given up again.
    pub(crate) closed: AtomicBool,
}

impl File {
    /// Its inode.
    pub fn ino(&self) -> Ino {
        self.inode.ino
    }

    /// What it was opened for.
    pub fn options(&self) -> OpenOptions {
        self.options
    }
}

/// A file made (or found) and opened.
#[derive(Debug)]
pub struct Created {
    /// The handle.
    pub file: Arc<File>,
    /// Its attributes.
    pub attr: Attr,
    /// It did not exist.
    pub new: bool,
}

impl Client {
    /// Opens a file.
    ///
    /// # Errors
    /// Among others [`FsError::NotFound`] and [`FsError::IsDirectory`].
    pub async fn open(&self, ino: Ino, options: OpenOptions) -> Result<Arc<File>, Error> {
        self.shared.operations.run("open", ino, self.shared.open(ino, options)).await
    }

    /// Makes a regular file and opens it; an existing one is only opened unless `exclusive`.
    ///
    /// # Errors
    /// Among others [`FsError::Exists`].
    pub async fn create(
        &self,
        parent: Ino,
        name: Name,
        new: NewInode,
        exclusive: bool,
        options: OpenOptions,
    ) -> Result<Created, Error> {
        let work = self.shared.create(parent, name, new, exclusive, options);
        self.shared.operations.run("create", parent, work).await
    }

    /// Makes a regular file without a name, as if in `parent`, and opens it for reading and writing; [`Client::link`] gives it a
    /// name.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if the directory is gone.
    pub async fn create_unnamed(
        &self,
        parent: Ino,
        new: NewInode,
        options: OpenOptions,
    ) -> Result<Created, Error> {
        let options = OpenOptions { write: true, truncate: false, ..options };
        let work = self.shared.create_by(FsRequest::CreateUnnamed { parent, new }, options);
        self.shared.operations.run("create", parent, work).await
    }

    /// What `close` promises: the bricks have the data in memory, and where other mounts may look
    /// ([`Sharing::Shared`]) the namespace knows the size; else it learns it when the last handle is
    /// released. Not durable: see [`Client::fsync`].
    ///
    /// # Errors
    /// Errors of writing behind this handle was not told yet.
    pub async fn flush(&self, file: &File) -> Result<(), Error> {
        self.shared.operations.run("flush", file.ino(), self.shared.flush(file)).await
    }

    /// Closes a handle, after everything was flushed.
    ///
    /// # Errors
    /// As [`Client::flush`]. The handle is closed even so.
    pub async fn release(&self, file: Arc<File>) -> Result<(), Error> {
        self.shared.operations.run("release", file.ino(), self.shared.release(file)).await
    }

    /// Whether [`Client::flush`] has nothing to do.
    pub fn is_flushed(&self, file: &File) -> bool {
        let state = locked(&file.inode.state);
        state.is_written()
            && (self.sharing() == Sharing::Sole || !state.is_untold())
            && state.failures == file.failures_at_close.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn open(self: &Arc<Self>, ino: Ino, options: OpenOptions) -> Result<Arc<File>, Error> {
        let user = User::enter(self, ino);
        let file = self.open_entered(&user.inode, options).await?;
        user.keep();
        if options.truncate
            && let Err(error) =
                self.set_attr(ino, AttrChanges { size: Some(0), ..AttrChanges::default() }).await
        {
            // The handle was never given out; its close has nothing else to say.
            let _ = self.release(file).await;
            return Err(error);
        }
        Ok(file)
    }

    async fn open_entered(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        options: OpenOptions,
    ) -> Result<Arc<File>, Error> {
        let access = options.access();
        let mut told = inode.gate.lock().await;
        if !*told.of(access) {
            self.tell_open(inode, &mut told, access).await?;
        }
        Ok(self.handle(inode, options))
    }

    pub(super) async fn tell_open(
        &self,
        inode: &OpenInode,
        told: &mut Told,
        access: Access,
    ) -> Result<(), Error> {
        match self.fs(FsRequest::Open { ino: inode.ino, access }).await? {
            FsReply::Attr(attr) => {
                if attr.kind == FileKind::File && !attr.layout.is_valid() {
                    return Err(Error::Protocol {
                        who: "the namespace".to_owned(),
                        detail: format!("inode {} has a layout that makes no sense", inode.ino),
                    });
                }
                *told.of(access) = true;
                inode.told_any.store(true, Ordering::Relaxed);
                locked(&inode.state).absorb(&attr);
                Ok(())
            }
            _ => Err(Error::unexpected("the namespace", "attributes")),
        }
    }

    /// A handle of an inode the caller has entered, while the gate is held.
    fn handle(&self, inode: &Arc<OpenInode>, options: OpenOptions) -> Arc<File> {
        let mut state = locked(&inode.state);
        match options.access() {
            Access::Read => state.readers += 1,
            Access::Write => state.writers += 1,
        }
        // An error nobody heard of is told to whoever comes next.
        let untold = state.failure.as_ref().is_some_and(|failure| !failure.told);
        let known = state.failures - u64::from(untold);
        Arc::new(File {
            inode: inode.clone(),
            options,
            known_failures: AtomicU64::new(known),
            failures_at_write: AtomicU64::new(known),
            failures_at_close: AtomicU64::new(known),
            readahead: Mutex::default(),
            handle: self.lock_handle(),
            lost: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: Name,
        new: NewInode,
        exclusive: bool,
        options: OpenOptions,
    ) -> Result<Created, Error> {
        let access = options.access();
        self.create_by(FsRequest::Create { parent, name, new, exclusive, access }, options).await
    }

    /// Carries out a request that makes and opens a file.
    async fn create_by(self: &Arc<Self>, request: FsRequest, options: OpenOptions) -> Result<Created, Error> {
        let access = options.access();
        let creation = Creation::begin(&self.table);
        let reply = self.fs(request).await?;
        let FsReply::Created { attr, new } = reply else {
            return Err(Error::unexpected("the namespace", "what was created"));
        };
        if attr.kind != FileKind::File {
            return Err(match attr.kind {
                FileKind::Directory => FsError::IsDirectory.into(),
                _ => FsError::Exists.into(),
            });
        }
        let user = User::enter(self, attr.ino);
        let inode = user.inode.clone();
        let file = {
            let mut told = inode.gate.lock().await;
            let closed = creation.end(attr.ino);
            let result = if closed || !attr.layout.is_valid() {
                self.tell_open(&inode, &mut told, access).await
            } else {
                *told.of(access) = true;
                inode.told_any.store(true, Ordering::Relaxed);
                let mut state = locked(&inode.state);
                state.absorb(&attr);
                if new {
                    // Nobody else has written to it.
                    state.own_mtime = Some(attr.mtime);
                }
                Ok(())
            };
            result?;
            user.keep();
            self.handle(&inode, options)
        };
        if options.truncate
            && !new
            && let Err(error) =
                self.set_attr(attr.ino, AttrChanges { size: Some(0), ..AttrChanges::default() }).await
        {
            // The handle was never given out; its close has nothing else to say.
            let _ = self.release(file).await;
            return Err(error);
        }
        let attr = locked(&inode.state).view();
        Ok(Created { file, attr, new })
    }

    async fn flush(self: &Arc<Self>, file: &File) -> Result<(), Error> {
        self.flush_inode(&file.inode).await;
        let reported = match self.outside.config.sharing {
            Sharing::Shared => self.report(&file.inode).await.map(drop),
            Sharing::Sole => Ok(()),
        };
        self.tell_closer(file)?;
        reported
    }

    async fn release(self: &Arc<Self>, file: Arc<File>) -> Result<(), Error> {
        let mut closing = Closing { shared: self, file: &file, counted: true };
        if file.options.write {
            self.flush_inode(&file.inode).await;
        }
        file.closed.store(true, Ordering::Release);
        let unlocked = self.drop_locks(&file).await;
        closing.uncount();
        let closed = self.tell_closed(&file.inode).await.and(unlocked);
        let failed = self.tell_closer(&file);
        failed.and(closed)
    }

    /// Tells the namespace what has no handle any more.
    pub(crate) async fn tell_closed(self: &Arc<Self>, inode: &Arc<OpenInode>) -> Result<(), Error> {
        loop {
            match self.tell_closed_once(inode).await? {
                Answer::BeenCut => self.write_again(inode, Order::Shared).await?,
                Answer::Nothing | Answer::Attr(_) => return Ok(()),
            }
        }
    }

    async fn tell_closed_once(&self, inode: &OpenInode) -> Result<Answer, Error> {
        let mut told = inode.gate.lock().await;
        let (readers, writers) = {
            let state = locked(&inode.state);
            (state.readers, state.writers)
        };
        let mut result = Ok(Answer::Nothing);
        if told.write && writers == 0 {
            self.table.note_close(inode.ino);
            result = self.tell(inode, &mut told, Occasion::Close).await;
            if matches!(result, Ok(Answer::BeenCut)) {
                return result;
            }
        }
        if told.read && readers == 0 {
            self.table.note_close(inode.ino);
            let closed = self.fs(FsRequest::Close { ino: inode.ino, access: Access::Read }).await;
            match closed {
                Ok(_) => told.read = false,
                Err(error) if error.is_gone() => told.read = false,
                Err(error) => result = result.and(Err(error)),
            }
        }
        inode.told_any.store(told.read || told.write, Ordering::Relaxed);
        result
    }

    /// Tells the namespace what was written and acknowledged, and attributes changed since. Whether some of it had to be written again: it
    /// is not durable then, though it was.
    pub(crate) async fn report(self: &Arc<Self>, inode: &Arc<OpenInode>) -> Result<bool, Error> {
        let mut again = false;
        while locked(&inode.state).is_untold() {
            let answer = self.tell(inode, &mut *inode.gate.lock().await, Occasion::Report).await?;
            if !matches!(answer, Answer::BeenCut) {
                break;
            }
            self.write_again(inode, Order::Shared).await?;
            again = true;
        }
        Ok(again)
    }

    /// The same by who has the inode's order alone, and changes attributes then, in one call.
    pub(crate) async fn report_and_set(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        changes: &AttrChanges,
    ) -> Result<Attr, Error> {
        loop {
            // The gate is let go of before anything is written again.
            let answer = self.tell(inode, &mut *inode.gate.lock().await, Occasion::Set(changes)).await?;
            match answer {
                Answer::Attr(attr) => return Ok(attr),
                Answer::BeenCut => self.write_again(inode, Order::Alone).await?,
                Answer::Nothing => return Err(Error::unexpected("the namespace", "attributes")),
            }
        }
    }

    /// Tells with the gate held.
    async fn tell(
        &self,
        inode: &OpenInode,
        told: &mut Told,
        occasion: Occasion<'_>,
    ) -> Result<Answer, Error> {
        let closes = told.write && matches!(occasion, Occasion::Close);
        let ino = inode.ino;
        let (mut untold, late, writes, begun, upto) = {
            let mut state = locked(&inode.state);
            if state.been_cut.is_some() {
                return Ok(Answer::BeenCut);
            }
            state.unreported_since = None;
            state.telling = true;
            let begun = inode.era(self.session.id());
            let mut report = state.unreported.take();
            if let Some(report) = report.as_mut().filter(|_| !state.is_written()) {
                // The last ones are yet to come: they have the same time, and are to be noticed elsewhere.
                report.mtime = report.mtime.before();
            }
            // What is acknowledged is in the report, or was in an earlier one.
            let upto = self.stamps.load(Ordering::SeqCst);
            (Untold { inode, report }, state.late, state.writes, begun, upto)
        };
        let then = match (late, &occasion) {
            (None, Occasion::Set(changes)) => Some(LateChanges { changes: **changes, at: Timestamp::now() }),
            (Some(late), Occasion::Set(changes)) => {
                let at = Timestamp::now().max(late.at);
                Some(LateChanges { changes: joined(&late.changes, changes), at })
            }
            (late, _) => late.map(|late| LateChanges { changes: late.changes, at: late.at }),
        };
        let request = match (untold.report, then) {
            (None, Some(then)) if !closes => FsRequest::SetAttr { ino, changes: then.changes },
            (None, None) if closes => FsRequest::Close { ino, access: Access::Write },
            (None, None) => return Ok(Answer::Nothing),
            (report, then) => {
                let report = report.unwrap_or(WriteReport::NOTHING);
                FsRequest::ReportWrite { ino, report, then, closes }
            }
        };
        let deadline = Instant::now() + self.outside.config.deadline;
        let session = self.session.id();
        let may = || {
            inode.not_forsaken(begun)?;
            // What was written in a session that is over may have been cut with it.
            if self.session.id() == session { Ok(()) } else { Err(Error::SessionOver) }
        };
        let answer = self.fs_while(request, deadline, may).await;
        self.table.note_report();
        let mut state = locked(&inode.state);
        // What was changed meanwhile is told the next time.
        let tells_all = |state: &State| state.late.map(|late| late.number) == late.map(|late| late.number);
        let reported = |state: &mut State| {
            state.reported = upto;
            let kept = state.held.cost();
            state.held.reported(upto);
            self.account_held(kept, state.held.cost());
        };
        match answer {
            Ok(FsReply::BeenCut { attr, size }) => {
                tracing::info!(inode = %ino, size, "the file was cut meanwhile: writing again what is behind that");
                state.absorb(&attr);
                state.cut_in_doubt = false;
                let stamp = self.stamps.load(Ordering::SeqCst);
                state.been_cut = Some(BeenCut { size, stamp, session_over: false });
                // What lies before it was written and is reported the next time; what lies behind it when it is written again.
                untold.report =
                    untold.report.take().into_iter().chain(state.unreported.take()).reduce(WriteReport::and);
                if let Some(report) = &mut untold.report {
                    *report = WriteReport { end: report.end.min(size), knew: attr.ctime, ..*report };
                }
                Ok(Answer::BeenCut)
            }
            Ok(reply) => {
                untold.report = None;
                reported(&mut state);
                if tells_all(&state) {
                    state.late = None;
                }
                let answer = match reply {
                    FsReply::Attr(attr) => {
                        state.absorb_own(&attr);
                        state.own_mtime = Some(attr.mtime);
                        Answer::Attr(attr)
                    }
                    _ => Answer::Nothing,
                };
                state.settle_pending(writes);
                told.write &= !closes;
                Ok(answer)
            }
            // An inode that is gone has no size to be told.
            Err(error) if error.is_gone() => {
                untold.report = None;
                reported(&mut state);
                state.late = None;
                told.write &= !closes;
                state.settle_pending(writes);
                Err(error)
            }
            Err(Error::SessionOver) => Ok(Answer::BeenCut),
            // What was written under a lost lock has no say in the file any more.
            Err(Error::LockLost) => {
                untold.report = None;
                Err(Error::LockLost)
            }
            Err(error) => {
                if state.late.is_some() {
                    state.unreported_since.get_or_insert_with(Instant::now);
                }
                // Not with the lock held: what is untold goes back.
                drop(state);
                Err(error)
            }
        }
    }
}

/// What the namespace answers.
enum Answer {
    /// Nothing of use, or there was nothing to tell.
    Nothing,
    Attr(Attr),
    /// Nothing was done: others have cut the file.
    BeenCut,
}

/// Why the namespace is told.
enum Occasion<'a> {
    /// Somebody wants it to know.
    Report,
    /// The last writing handle is gone.
    Close,
    /// Attributes are to be changed after what was written.
    Set(&'a AttrChanges),
}

/// A handle being closed: whatever interrupts that, it is closed afterwards, and what could
/// not be told is told in the background.
struct Closing<'a> {
    shared: &'a Shared,
    file: &'a File,
    counted: bool,
}

impl Closing<'_> {
    fn uncount(&mut self) {
        if !std::mem::replace(&mut self.counted, false) {
            return;
        }
        let mut state = locked(&self.file.inode.state);
        match self.file.options.access() {
            Access::Read => state.readers -= 1,
            Access::Write => state.writers -= 1,
        }
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.uncount();
        let inode = &self.file.inode;
        let untold = {
            let mut state = locked(&inode.state);
            let unused = state.readers + state.writers == 0;
            let untold = unused && inode.told_any.load(Ordering::Relaxed);
            state.listed |= untold;
            untold
        };
        if untold {
            self.shared.note_dirty(inode);
        }
        self.shared.leave(inode);
    }
}

/// A report on its way, one at a time; it goes back to the inode unless it was told.
struct Untold<'a> {
    inode: &'a OpenInode,
    report: Option<WriteReport>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        let mut state = locked(&self.inode.state);
        state.telling = false;
        if let Some(report) = self.report.take() {
            state.add_report(report);
        }
    }
}
