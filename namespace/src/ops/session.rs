//! Sessions: opened, renewed, closed.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use wire::id::{Ino, MapEpoch, SessionId};
use wire::meta::{Access, ClusterReply, SessionClass, SessionGrant};
use wire::status::Status;

use crate::machine::command::{NewSession, Op, Outcome};
use crate::namespace::{Namespace, lock};

/// Longest text of a session, in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// How long somebody waits for the end of a session that nobody hears and that is in the way.
const PATIENCE: Duration = Duration::from_secs(2);

impl Namespace {
    /// Starts a session.
    pub async fn open_session(&self, new: NewSession) -> Result<ClusterReply, Status> {
        if new.host.len() > MAX_TEXT_BYTES || new.mount.len() > MAX_TEXT_BYTES {
            return Err(Status::Malformed);
        }
        let (ttl, renew) = match new.class {
            SessionClass::Standard => (self.config.session_ttl, self.config.session_renew),
            SessionClass::Ha => (self.config.ha_session_ttl, self.config.ha_session_renew),
        };
        let begin = Op::BeginSession(new);
        let mut begun = self.propose(begin.clone()).await;
        if begun == Err(Status::NotAlone) && self.end_silent(|_| true).await {
            begun = self.propose(begin).await;
        }
        let Outcome::Session(session) = begun? else { return Err(Status::Malformed) };
        let ms = |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Ok(ClusterReply::Session(SessionGrant {
            session,
            ttl_ms: ms(ttl),
            renew_ms: ms(renew),
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

    /// Ends those sessions that were not heard for their time to live, since somebody needs what they have; whether there were any. The
    /// loop that knows whether this process stood still does it.
    pub async fn end_silent(&self, which: impl Fn(SessionId) -> bool) -> bool {
        let (now, mut ended) = (Instant::now(), self.watchers.ended.subscribe());
        let silent: Vec<SessionId> = {
            let mut sessions = lock(&self.watchers.sessions);
            let silent = sessions.silent(now).into_iter().filter(|session| which(*session)).collect();
            for session in &silent {
                let session: &SessionId = session;
                sessions.need(*session, now + PATIENCE);
            }
            silent
        };
        if silent.is_empty() {
            return false;
        }
        self.watchers.suspected.notify_one();
        let over = |session: &SessionId| !lock(&self.watchers.sessions).is_silent(*session, Instant::now());
        while !silent.iter().all(over) {
            match timeout_at(now + PATIENCE, ended.changed()).await {
                Ok(Ok(())) => {}
                _ => break,
            }
        }
        true
    }

    /// Ends a session that says goodbye.
    pub async fn close_session(&self, session: SessionId) -> Result<ClusterReply, Status> {
        self.propose(Op::EndSession { session, clean: true }).await?;
        Ok(ClusterReply::Done)
    }

    /// Ends the session of a mount because somebody says so.
    pub async fn end_session(&self, session: SessionId) -> Result<ClusterReply, Status> {
        self.propose(Op::EndSession { session, clean: false }).await?;
        tracing::warn!(%session, "a session was ended by the administrator");
        Ok(ClusterReply::Done)
    }
}
