//! Locks seen from outside: who holds them, what number one's own has, and breaking those of others.
//!
//! 1. An open file of which a lock was broken takes no change from the moment on in which its mount hears of it. What was written through it before
//!    is on the bricks, and all of it answered for, before the lock is given up (`who_holds_a_broken_lock_writes_no_more`); a mount that
//!    does not get there in time loses its session, and then the bricks refuse what is still on its way.
//! 2. Nobody is told the number of a lock that somebody else on this mount took after the own one was lost (`tokens_are_those_of_who_asks`).

use std::sync::Arc;

use wire::id::{Ino, LockGeneration, SessionId};
use wire::meta::{FsReply, FsRequest, LockHeld, LockKind, LockPlace, Recall};
use wire::status::FsError;

use super::locks::AGAIN;
use super::open::File;
use super::{Client, Shared};
use crate::error::Error;

/// All locks on a file.
#[derive(Debug, Clone)]
pub struct LockList {
    /// By kind and in order of their first bytes.
    pub locks: Vec<(LockKind, LockHeld)>,
    /// The mounts that hold them.
    pub places: Vec<LockPlace>,
}

impl Client {
    /// Who holds locks on a file, in the whole cluster.
    ///
    /// # Errors
    /// If the namespace does not answer.
    pub async fn locks_on(&self, ino: Ino) -> Result<LockList, Error> {
        self.shared.operations.run("list-locks", ino, self.shared.locks_on(ino)).await
    }

    /// The fencing token: the generation of the newest lock that `process` took on a file. For a process that took none
    /// (a child of the one that did): that of the only open file of this mount that holds one.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`] if there is none; [`Error::LockLost`] if an open file of this mount has lost a lock on the file, and the process
    /// has taken no other since.
    pub async fn lock_token(&self, ino: Ino, process: u32) -> Result<LockGeneration, Error> {
        self.shared.operations.run("lock-token", ino, self.shared.lock_token(ino, process)).await
    }

    /// Breaks the lock with this generation, and returns when nothing can come through the open file that held it.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`] if no lock has this generation.
    pub async fn break_lock(&self, ino: Ino, generation: LockGeneration) -> Result<(), Error> {
        let broken = async {
            match self.shared.fs(FsRequest::BreakLock { ino, generation }).await? {
                FsReply::Done => Ok(()),
                _ => Err(Error::unexpected("the namespace", "done")),
            }
        };
        self.shared.operations.run("break-lock", ino, broken).await
    }
}

impl Shared {
    async fn locks_on(&self, ino: Ino) -> Result<LockList, Error> {
        match self.fs(FsRequest::ListLocks { ino }).await? {
            FsReply::Locks { locks, places } => Ok(LockList { locks, places }),
            _ => Err(Error::unexpected("the namespace", "locks")),
        }
    }

    async fn lock_token(&self, ino: Ino, process: u32) -> Result<LockGeneration, Error> {
        let listed = self.locks_on(ino).await?;
        let session = self.session.id();
        let here: Vec<LockHeld> =
            listed.locks.into_iter().map(|(_, lock)| lock).filter(|lock| lock.session == session).collect();
        let newest = |locks: &mut dyn Iterator<Item = &LockHeld>| locks.map(|lock| lock.generation).max();
        let live = |lock: &&LockHeld| !self.locks.has_lost(ino, |handle| handle == lock.handle);
        if let Some(own) = newest(&mut here.iter().filter(live).filter(|lock| lock.pid == process)) {
            return Ok(own);
        }
        if self.locks.has_lost(ino, |_| true) {
            return Err(Error::LockLost);
        }
        let only = here.first().is_some_and(|first| here.iter().all(|lock| lock.handle == first.handle));
        newest(&mut here.iter()).filter(|_| only).ok_or(FsError::NoAttribute.into())
    }

    /// Open files are to give up their locks, since somebody broke one.
    pub(crate) fn recall(self: &Arc<Self>, recalls: Vec<Recall>) {
        let session = self.session.id();
        for recall in recalls.into_iter().filter(|recall| self.locks.begin_recall(*recall)) {
            self.runtime.spawn(self.clone().give_up_broken(recall, session));
        }
    }

    async fn give_up_broken(self: Arc<Self>, recall: Recall, session: SessionId) {
        let file = self.locks.file_of(recall);
        if let Some(file) = &file {
            self.locks.note_lost(file);
        }
        while self.session.id() == session {
            let Err(error) = self.give_up(recall, file.as_ref()).await else { break };
            tracing::debug!(inode = %recall.ino, %error, "a broken lock is not given up yet");
            if !self.sleep_unless_stopping(AGAIN).await {
                break;
            }
        }
        self.locks.end_recall(recall);
    }

    async fn give_up(self: &Arc<Self>, recall: Recall, file: Option<&Arc<File>>) -> Result<(), Error> {
        let Recall { ino, handle } = recall;
        // Nothing that was begun through it goes on beyond this: what follows looks whether it is lost.
        let _alone = match file {
            Some(file) => Some(file.inode.order.write().await),
            None => None,
        };
        if let Some(file) = file.filter(|file| file.options.write) {
            self.flush_inode(&file.inode).await;
            self.report(&file.inode).await?;
        }
        self.fs(FsRequest::DropLocks { ino, handle }).await?;
        self.locks.forget_handle(ino, handle);
        Ok(())
    }
}
