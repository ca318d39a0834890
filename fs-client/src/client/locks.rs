//! Locks: taken at the namespace, remembered here with the open file they were taken through.
//!
//! 1. Before a lock is given up, what was written under it is where others read it, with its size
//!    (`what_was_written_under_a_lock_is_seen_by_the_next_holder`).
//! 2. Locks end with the open file they were taken through, also one that is granted when it is closed already
//!    (`locks_end_with_their_file`).
//! 3. Whoever held it before and was cut off writes nothing any more once the lock is granted: bricks are asked by a map that
//!    blocks it (`a_lock_is_used_by_a_map_that_blocks_its_former_holder`).
//! 4. With the session its locks are gone, and somebody else may hold them: whatever was written through a file that
//!    held one and had not reached the bricks by then never does, and the file takes no further change
//!    (`who_lost_a_lock_writes_no_more`).
//! 5. Before the namespace may give up a session that it does not hear, whoever holds locks here writes no more, and waits: for being told that
//!    they are held, or lost (`who_may_be_about_to_lose_a_lock_waits`).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use wire::id::{Ino, LockGeneration, LockHandle, LockOwner, MapEpoch, SessionId};
use wire::meta::{FsReply, FsRequest, LockHeld, LockKind, LockMode, LockRange, LockWish, Recall};

use super::inode::OpenInode;
use super::open::File;
use super::retry::Retry;
use super::{Client, Shared};
use crate::error::Error;
use crate::locked;

/// How long the namespace is asked to wait at a time, in milliseconds: whoever is cancelled meanwhile is in
/// its line for that long.
const WAIT_MS: u32 = 2_000;
/// Pause before locks that could not be given up are given up again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// Pause of an open file that asks for more than what it is about to lose.
const SOON: Duration = Duration::from_millis(100);

/// A lock that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Which kind.
    pub kind: LockKind,
    /// For whom.
    pub owner: LockOwner,
    /// Which bytes.
    pub range: LockRange,
    /// What it is to exclude.
    pub mode: LockMode,
    /// The process, for people.
    pub pid: u32,
}

impl Lock {
    fn wish(&self, file: &File) -> LockWish {
        let Lock { kind, owner, range, mode, pid } = *self;
        LockWish { ino: file.ino(), kind, owner, handle: file.handle, range, mode, pid }
    }
}

/// Somebody may hold locks.
#[derive(Debug)]
struct Taken {
    kind: LockKind,
    owner: LockOwner,
    handle: LockHandle,
    file: Weak<File>,
    /// It was told so; else it may be about to be.
    granted: bool,
}

/// An open file that lost a lock.
#[derive(Debug)]
struct Lost {
    handle: LockHandle,
    file: Weak<File>,
}

/// Who may hold locks here.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    taken: Mutex<HashMap<Ino, Vec<Taken>>>,
    /// Who lost some, as long as it is open.
    lost: Mutex<HashMap<Ino, Vec<Lost>>>,
    /// Broken ones that are being given up.
    recalls: Mutex<HashSet<Recall>>,
}

impl Locks {
    fn note(&self, file: &Arc<File>, lock: &Lock) {
        let (kind, owner, handle) = (lock.kind, lock.owner, file.handle);
        let mut taken = locked(&self.taken);
        let of_file = taken.entry(file.ino()).or_default();
        if !of_file.iter().any(|t| (t.kind, t.owner, t.handle) == (kind, owner, handle)) {
            let file = Arc::downgrade(file);
            of_file.push(Taken { kind, owner, handle, file, granted: false });
        }
    }

    fn granted(&self, file: &File, lock: &Lock) {
        let mut taken = locked(&self.taken);
        let of_file = taken.get_mut(&file.ino()).into_iter().flatten();
        let own = |t: &&mut Taken| (t.kind, t.owner, t.handle) == (lock.kind, lock.owner, file.handle);
        of_file.filter(own).for_each(|t| t.granted = true);
    }

    /// Takes out all that were granted.
    fn take_granted(&self) -> Vec<Taken> {
        let mut taken = locked(&self.taken);
        let granted = taken.values_mut().flat_map(|of_file| of_file.extract_if(.., |t| t.granted)).collect();
        taken.retain(|_, of_file| !of_file.is_empty());
        granted
    }

    /// Whether somebody may hold something on a file.
    fn has(&self, ino: Ino, which: impl Fn(&Taken) -> bool) -> bool {
        locked(&self.taken).get(&ino).is_some_and(|taken| taken.iter().any(which))
    }

    /// The open file that a broken lock was taken through, if it is still open.
    pub(super) fn file_of(&self, recall: Recall) -> Option<Arc<File>> {
        let taken = locked(&self.taken);
        taken.get(&recall.ino)?.iter().find(|t| t.handle == recall.handle)?.file.upgrade()
    }

    /// Whether a broken lock is not being given up already.
    pub(super) fn begin_recall(&self, recall: Recall) -> bool {
        locked(&self.recalls).insert(recall)
    }

    pub(super) fn end_recall(&self, recall: Recall) {
        locked(&self.recalls).remove(&recall);
    }

    /// The file takes no change any more; whether it did before.
    pub(super) fn note_lost(&self, file: &Arc<File>) -> bool {
        // First, so that nobody is told somebody else's number instead.
        let (handle, weak) = (file.handle, Arc::downgrade(file));
        let mut lost = locked(&self.lost);
        let is_new = !file.lost.swap(true, Ordering::AcqRel);
        if is_new {
            lost.entry(file.ino()).or_default().push(Lost { handle, file: weak });
            tracing::warn!(inode = %file.ino(), "a lock is lost; nothing more is written through its file");
        }
        is_new
    }

    /// Whether an open file has lost a lock on an inode.
    pub(super) fn has_lost(&self, ino: Ino, which: impl Fn(LockHandle) -> bool) -> bool {
        let mut lost = locked(&self.lost);
        lost.retain(|_, of_file| {
            of_file.retain(|lost| lost.file.strong_count() > 0);
            !of_file.is_empty()
        });
        lost.get(&ino).is_some_and(|of_file| of_file.iter().any(|lost| which(lost.handle)))
    }

    pub(super) fn forget_handle(&self, ino: Ino, handle: LockHandle) {
        self.forget(ino, |taken| taken.handle == handle);
    }

    fn forget(&self, ino: Ino, which: impl Fn(&Taken) -> bool) {
        let mut taken = locked(&self.taken);
        if let Some(of_file) = taken.get_mut(&ino) {
            of_file.retain(|t| !which(t));
            if of_file.is_empty() {
                taken.remove(&ino);
            }
        }
    }
}

impl File {
    /// Whether a lock that it held is gone without having been given up: it takes no change any more.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Refuses a change through a file that lost a lock.
    pub(crate) fn not_lost(&self) -> Result<(), Error> {
        if self.is_lost() { Err(Error::LockLost) } else { Ok(()) }
    }
}

impl Client {
    /// Takes a lock. Where another owner's is in the way it is waited for, if `cancelled` is given, until that is notified.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is not, or no more, waited for; [`Deadlock`](wire::status::FsError::Deadlock) and [`NoLocks`](wire::status::FsError::NoLocks);
    /// [`Error::LockLost`] if the file has lost one.
    pub async fn lock(
        &self,
        file: &Arc<File>,
        lock: Lock,
        cancelled: Option<&Notify>,
    ) -> Result<LockGeneration, Error> {
        self.shared.operations.run("lock", file.ino(), self.shared.lock(file, lock, cancelled)).await
    }

    /// Gives up what an owner holds of a range.
    ///
    /// # Errors
    /// If what was written under it does not reach the bricks, or the namespace does not answer.
    pub async fn unlock(
        &self,
        file: &Arc<File>,
        kind: LockKind,
        owner: LockOwner,
        range: LockRange,
    ) -> Result<(), Error> {
        self.shared.operations.run("unlock", file.ino(), self.shared.unlock(file, kind, owner, range)).await
    }

    /// A lock of another owner that is in the way, and whether it is held on this mount.
    ///
    /// # Errors
    /// If the namespace does not answer.
    pub async fn test_lock(&self, file: &Arc<File>, lock: Lock) -> Result<Option<(LockHeld, bool)>, Error> {
        match self.shared.fs(FsRequest::TestLock(lock.wish(file))).await? {
            FsReply::LockedBy(held) => Ok(held.map(|held| (held, held.session == self.shared.session.id()))),
            _ => Err(Error::unexpected("the namespace", "a lock")),
        }
    }

    /// Whether an owner may hold locks of a kind on a file.
    pub fn may_hold(&self, ino: Ino, kind: LockKind, owner: LockOwner) -> bool {
        self.shared.locks.has(ino, |taken| (taken.kind, taken.owner) == (kind, owner))
    }
}

impl Shared {
    pub(crate) fn lock_handle(&self) -> LockHandle {
        LockHandle(self.lock_handles.fetch_add(1, Ordering::Relaxed) + 1)
    }

    async fn lock(
        self: &Arc<Self>,
        file: &Arc<File>,
        lock: Lock,
        cancelled: Option<&Notify>,
    ) -> Result<LockGeneration, Error> {
        let wish = lock.wish(file);
        loop {
            if file.is_lost() {
                return Err(Error::LockLost);
            }
            // Before it is granted: whoever closes the file meanwhile gives it up.
            self.locks.note(file, &lock);
            let session = self.session.id();
            match self.fs(FsRequest::Lock(wish)).await? {
                FsReply::Locked { generation, map } => {
                    if file.closed.load(Ordering::Acquire) {
                        self.drop_locks(file).await?;
                        return Err(Error::Locked);
                    }
                    self.reach_map(map).await?;
                    // Granted to a session that is gone is not granted.
                    if self.session.id() != session {
                        continue;
                    }
                    self.locks.granted(file, &lock);
                    if self.session.id() != session {
                        continue;
                    }
                    return Ok(generation);
                }
                FsReply::LockedBy(Some(held)) if (held.session, held.handle) == (session, file.handle) => {
                    // One of its own, which was broken: it is about to hear of that.
                    if !self.sleep_unless_stopping(SOON).await {
                        return Err(Error::Stopping);
                    }
                    continue;
                }
                FsReply::LockedBy(_) => {}
                _ => return Err(Error::unexpected("the namespace", "a lock")),
            }
            let Some(cancelled) = cancelled else { return Err(Error::Locked) };
            tokio::select! {
                biased;
                () = cancelled.notified() => return Err(Error::Locked),
                waited = self.wait_for_lock(wish) => waited?,
            }
        }
    }

    /// Returns when this map is known: from then on every brick that is asked has heard of those it blocks.
    async fn reach_map(&self, wanted: MapEpoch) -> Result<(), Error> {
        let mut retry = Retry::until(&self.outside.metrics, Instant::now() + self.outside.config.deadline);
        while self.map().epoch < wanted {
            let known = self.map().epoch;
            self.refresh_map(known).await;
            if self.map().epoch == known {
                retry
                    .pause("the namespace", &format!("the map is at {known}, and {wanted} is needed"))
                    .await?;
            }
        }
        Ok(())
    }

    /// Returns when a lock may be free.
    async fn wait_for_lock(&self, wish: LockWish) -> Result<(), Error> {
        loop {
            crate::stuck::waiting_for(|| "another holder to give up the lock".to_owned());
            match self.fs(FsRequest::AwaitLock { wish, wait_ms: WAIT_MS }).await {
                Ok(FsReply::LockedBy(None)) => return Ok(()),
                Ok(FsReply::LockedBy(Some(_))) => {}
                Ok(_) => return Err(Error::unexpected("the namespace", "a lock")),
                // As long as nobody leads, the holder gives nothing up either.
                Err(error @ (Error::Deadline { .. } | Error::Net(_))) => {
                    if !self.sleep_unless_stopping(AGAIN).await {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns when what locks taken through the file exclude can be relied on: at once, unless the namespace was not heard for so long
    /// that it may be about to give them to others.
    pub(crate) async fn until_trusted(&self, file: &File) -> Result<(), Error> {
        if !self.is_untrusted(file) {
            return Ok(());
        }
        let begun = Instant::now();
        let deadline = begun + self.outside.config.deadline;
        loop {
            let renewed = self.session.renewed.notified();
            file.not_lost()?;
            if !self.is_untrusted(file) {
                return Ok(());
            }
            let what = "the namespace to say that a lock is still held";
            crate::stuck::waiting_for(|| what.to_owned());
            if timeout_at(deadline, renewed).await.is_err() {
                let (what, last) = (what.to_owned(), "it does not answer".to_owned());
                return Err(Error::Deadline { what, waited_ms: begun.elapsed().as_millis() as u64, last });
            }
        }
    }

    /// Whether the file holds locks that others may be about to get.
    pub(crate) fn is_untrusted(&self, file: &File) -> bool {
        self.session.is_in_jeopardy() && self.locks.has(file.ino(), |taken| taken.handle == file.handle)
    }

    /// What was written through a file is where others read it.
    async fn show_others(self: &Arc<Self>, file: &File) -> Result<(), Error> {
        if file.options.write {
            self.flush_inode(&file.inode).await;
            self.report(&file.inode).await?;
        }
        Ok(())
    }

    async fn unlock(
        self: &Arc<Self>,
        file: &Arc<File>,
        kind: LockKind,
        owner: LockOwner,
        range: LockRange,
    ) -> Result<(), Error> {
        let ino = file.ino();
        if !self.locks.has(ino, |taken| (taken.kind, taken.owner) == (kind, owner)) {
            return Ok(());
        }
        let shown = self.show_others(file).await;
        self.fs(FsRequest::Unlock { ino, kind, owner, range }).await?;
        if range == LockRange::ALL {
            self.locks.forget(ino, |taken| (taken.kind, taken.owner) == (kind, owner));
        }
        shown
    }

    pub(crate) async fn drop_locks(self: &Arc<Self>, file: &Arc<File>) -> Result<(), Error> {
        let (ino, handle) = (file.ino(), file.handle);
        if !self.locks.has(ino, |taken| taken.handle == handle) {
            return Ok(());
        }
        let shown = self.show_others(file).await;
        let session = self.session.id();
        match self.fs(FsRequest::DropLocks { ino, handle }).await {
            Ok(_) => self.locks.forget(ino, |taken| taken.handle == handle),
            Err(error) => {
                self.runtime.spawn(self.clone().drop_later(ino, handle, session));
                return Err(error);
            }
        }
        shown
    }

    /// Nobody will ask for it again: it is tried until the locks are gone, at the latest with their session.
    async fn drop_later(self: Arc<Self>, ino: Ino, handle: LockHandle, session: SessionId) {
        while self.session.id() == session && self.sleep_unless_stopping(AGAIN).await {
            match self.fs(FsRequest::DropLocks { ino, handle }).await {
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(inode = %ino, %error, "locks of a closed file are not given up yet")
                }
            }
        }
        self.locks.forget(ino, |taken| taken.handle == handle);
    }

    /// The session is gone, and its locks with it; `now` is the one that took its place. Others may hold them by now:
    /// nothing that was written under them may follow.
    pub(crate) fn lose_locks(&self, now: SessionId) {
        for file in self.locks.take_granted().into_iter().filter_map(|taken| taken.file.upgrade()) {
            self.locks.note_lost(&file);
            // Also of one whose lock was broken before: what it had under way may not be tried again.
            self.forsake(&file.inode, now);
        }
    }

    /// Drops what was written to a file before this session and is not on the bricks.
    fn forsake(&self, inode: &OpenInode, session: SessionId) {
        let mut state = locked(&inode.state);
        // Under the lock: whatever is taken from the state is known to be from before or after.
        inode.forsaken_before.fetch_max(session.0, Ordering::AcqRel);
        let kept = state.held.cost();
        let gathered = state.forsake();
        state.fail(Error::LockLost);
        self.account_held(kept, state.held.cost());
        drop(state);
        self.window.add_permits(gathered as usize);
        inode.changed.notify_waiters();
    }
}
