//! Verbs that change something: proposed, and answered when durable; those that cut files
//! also when no living brick has the cut bytes any more, so that nobody reads them again.

use wire::id::{Ino, SessionId};
use wire::meta::{Access, FsReply, FsRequest, LateChanges, WriteReport};
use wire::status::{FsError, Status};

use crate::machine::command::{Caller, Op, Outcome};
use crate::machine::txn::load;
use crate::namespace::{Namespace, lock};
use crate::soft::opens::Creating;
use crate::store::records::Cut;
use crate::store::{Read, keys};

/// A create under way, over when dropped.
struct Held<'a>(&'a Namespace, Creating);

impl<'a> Held<'a> {
    fn new(namespace: &'a Namespace) -> Self {
        Self(namespace, lock(&namespace.watchers.opens).creating())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.0.watchers.opens).created(&self.1);
    }
}

impl Namespace {
    /// A verb that changes something.
    pub async fn change(&self, who: Caller, request: FsRequest) -> Result<FsReply, Status> {
        let session = self.session(Some(who.session))?;
        match request {
            FsRequest::Create { access: Access::Read, .. } => {
                let reply = {
                    let _creating = Held::new(self);
                    let reply = self.done(who, request).await;
                    self.opened(session, reply)
                };
                self.settled(reply).await
            }
            FsRequest::Create { .. } | FsRequest::CreateUnnamed { .. } | FsRequest::Open { .. } => {
                let reply = self.done(who, request).await;
                self.settled(reply).await
            }
            FsRequest::SetAttr { ino, ref changes }
            | FsRequest::ReportWrite { ino, then: Some(LateChanges { ref changes, .. }), .. }
                if changes.size.is_some() =>
            {
                // Before: growing must not bring back what an earlier cut is still to take.
                self.wait_for_trims(ino).await?;
                let reply = self.done(who, request).await;
                self.settled(reply).await
            }
            FsRequest::ReportWrite { ino, ref report, .. } if self.may_be_cut(ino, report)? => {
                self.wait_for_trims(ino).await?;
                let reply = self.done(who, request).await;
                self.settled(reply).await
            }
            FsRequest::Lock(wish) => {
                self.end_silent_holders(session, &wish).await?;
                self.done(who, FsRequest::Lock(wish)).await
            }
            FsRequest::BreakLock { ino, generation } => {
                let reply = self.done(who, request).await?;
                self.until_given_up(ino, generation).await?;
                Ok(reply)
            }
            _ => self.done(who, request).await,
        }
    }

    async fn done(&self, who: Caller, request: FsRequest) -> Result<FsReply, Status> {
        match self.propose_for(who, Op::Fs(request)).await? {
            Outcome::Fs(reply) => Ok(reply),
            _ => Err(Status::Malformed),
        }
    }

    /// Whether it was written behind a cut.
    fn may_be_cut(&self, ino: Ino, report: &WriteReport) -> Result<bool, Status> {
        let cut: Option<Cut> = load(&*self.db, &keys::cut(ino)).map_err(|error| self.failed(&error))?;
        Ok(cut.is_some_and(|cut| report.end > cut.size))
    }

    /// What a create found or made is open in the session.
    fn opened(&self, session: SessionId, reply: Result<FsReply, Status>) -> Result<FsReply, Status> {
        if let Ok(FsReply::Created { attr, .. }) = &reply
            && !lock(&self.watchers.opens).open(session, attr.ino)
        {
            // Only a retry can find it gone: it was unlinked after the first answer.
            return Err(FsError::Stale.into());
        }
        reply
    }

    /// The reply, once nobody owes cuts of the inode it speaks of.
    async fn settled(&self, reply: Result<FsReply, Status>) -> Result<FsReply, Status> {
        let reply = reply?;
        if let FsReply::Attr(attr) | FsReply::Created { attr, .. } | FsReply::BeenCut { attr, .. } = &reply {
            self.wait_for_trims(attr.ino).await?;
        }
        Ok(reply)
    }

    /// `Open` for reading: remembered in memory.
    pub fn open_for_read(&self, session: SessionId, request: &FsRequest) -> Result<FsReply, Status> {
        let FsRequest::Open { ino, .. } = *request else { return Err(Status::Malformed) };
        if !lock(&self.watchers.opens).open(session, ino) {
            return Err(FsError::Stale.into());
        }
        // It is held now, so what is read next stays.
        let attr = self.get_attr(ino);
        if attr.is_err() {
            lock(&self.watchers.opens).close(session, ino);
        }
        attr
    }

    /// `Close` of what was open for reading.
    pub fn close_for_read(&self, session: SessionId, request: &FsRequest) -> Result<FsReply, Status> {
        let FsRequest::Close { ino, .. } = *request else { return Err(Status::Malformed) };
        lock(&self.watchers.opens).close(session, ino);
        let orphan = self.db.get(&keys::orphan(ino)).map_err(|error| self.failed(&error))?;
        if orphan.is_some() {
            self.watchers.orphans.notify_one();
        }
        Ok(FsReply::Done)
    }
}
