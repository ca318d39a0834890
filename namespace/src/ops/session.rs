//! Sessions: opened, renewed, closed.

use tokio::time::Instant;

use wire::id::{Ino, MapEpoch, NodeId, SessionId};
use wire::meta::{Access, ClusterReply, SessionGrant, Sharing};
use wire::status::Status;

use crate::machine::command::{Op, Outcome};
use crate::namespace::{Namespace, lock};

/// Longest text of a session, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

impl Namespace {
    /// Starts a session.
    pub async fn open_session(
        &self,
        client: NodeId,
        host: String,
        mount: String,
        sharing: Sharing,
    ) -> Result<ClusterReply, Status> {
        if host.len() > MAX_TEXT_BYTES || mount.len() > MAX_TEXT_BYTES {
            return Err(Status::Malformed);
        }
        let op = Op::OpenSession { client, host, mount, sharing };
        let Outcome::Session(session) = self.propose(op).await? else { return Err(Status::Malformed) };
        let ms = |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Ok(ClusterReply::Session(SessionGrant {
            session,
            ttl_ms: ms(self.config.session_ttl),
            renew_ms: ms(self.config.session_renew),
            map: self.map().as_ref().clone(),
        }))
    }

    /// Keeps a session alive.
    pub fn renew(
        &self,
        session: SessionId,
        _map: MapEpoch,
        open: Option<Vec<(Ino, Access)>>,
    ) -> Result<ClusterReply, Status> {
        let told = open.is_some();
        // First what is open: once all have told, orphans are freed.
        for (ino, access) in open.into_iter().flatten() {
            if access == Access::Read && !lock(&self.watchers.opens).open(session, ino) {
                tracing::warn!(%session, %ino, "a session told too late that it has a removed file open");
            }
        }
        let renewed = lock(&self.watchers.sessions).renew(session, Instant::now(), told);
        let Some(tell_open) = renewed else {
            lock(&self.watchers.opens).end(session);
            return Err(Status::SessionGone);
        };
        Ok(ClusterReply::Renewed { map: self.map().epoch, tell_open })
    }

    /// Ends a session that says goodbye.
    pub async fn close_session(&self, session: SessionId) -> Result<ClusterReply, Status> {
        self.propose(Op::EndSession { session, clean: true }).await?;
        Ok(ClusterReply::Done)
    }
}
