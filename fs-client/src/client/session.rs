//! Calls to the namespace: the session, its numbered calls, and the map.
//!
//! 1. A changing call keeps its number through every retry, so that it is done once
//!    (`lost_replies_do_not_repeat_changes`).
//! 2. `answered_below` never passes a call whose answer is still awaited: numbers are handed
//!    out and looked at under one lock.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wire::id::{BootId, BrickId, CallSeq, MapEpoch, SessionId};
use wire::map::ClusterMap;
use wire::meta::{
    ClusterReply, ClusterRequest, FsReply, FsRequest, MetaCall, MetaReply, MetaRequest, Recall, SessionGrant,
};
use wire::net::typed::CallError;
use wire::status::Advice;

use super::Shared;
use super::retry::Retry;
use crate::error::Error;
use crate::locked;
use crate::metrics::add;

/// How long a fetch of the map waits for a newer one.
const MAP_WAIT_MS: u32 = 500;
/// Longest wait for the namespace to take note of a brick that does not answer.
const SUSPECT_WAIT: Duration = Duration::from_millis(300);
/// How long the background fetch of the map waits for a newer one. A namespace that stops lets
/// calls it has begun come to their end, so this is also what a client can add to that.
const MAP_POLL_MS: u32 = 2_000;

/// Numbers of calls.
#[derive(Debug)]
struct Numbers {
    next: u64,
    awaited: BTreeSet<u64>,
}

/// What is known of the session.
#[derive(Debug)]
pub(crate) struct Session {
    current: Mutex<(SessionId, Duration)>,
    numbers: Mutex<Numbers>,
    /// How long it lives without being heard, and when the last call was made that kept it alive.
    trust: Mutex<(Duration, Instant)>,
    /// It was kept alive, or another one has taken its place.
    pub(crate) renewed: Notify,
    map: watch::Sender<Arc<ClusterMap>>,
    /// One fetch of the map at a time; when the namespace was asked last.
    refreshing: tokio::sync::Mutex<Option<Instant>>,
    /// One opening of a session at a time.
    reopening: tokio::sync::Mutex<()>,
}

impl Session {
    /// One that was `asked` for then.
    pub(crate) fn new((grant, asked): (SessionGrant, Instant)) -> Self {
        Self {
            trust: Mutex::new((ttl_of(&grant), asked)),
            renewed: Notify::new(),
            current: Mutex::new((grant.session, Duration::from_millis(u64::from(grant.renew_ms.max(10))))),
            numbers: Mutex::new(Numbers { next: 1, awaited: BTreeSet::new() }),
            map: watch::Sender::new(Arc::new(grant.map)),
            refreshing: tokio::sync::Mutex::default(),
            reopening: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> SessionId {
        locked(&self.current).0
    }

    /// The namespace has answered a call that keeps the session alive and was made then.
    fn note_heard(&self, asked: Instant) {
        let mut trust = locked(&self.trust);
        trust.1 = trust.1.max(asked);
        drop(trust);
        self.renewed.notify_waiters();
    }

    /// Whether the namespace may be about to give the session up: what it holds cannot be relied on any more.
    pub(crate) fn is_in_jeopardy(&self) -> bool {
        let (ttl, heard) = *locked(&self.trust);
        heard.elapsed() >= ttl * 3 / 4
    }

    pub(crate) fn renew_every(&self) -> Duration {
        locked(&self.current).1
    }

    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        self.map.borrow().clone()
    }

    pub(crate) fn map_changes(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// Takes a map if it is newer than the one known.
    pub(crate) fn absorb_map(&self, map: ClusterMap) {
        if let Err(broken) = map.verify() {
            tracing::error!(epoch = %map.epoch, broken, "refused a map that contradicts itself");
            return;
        }
        self.map.send_if_modified(|known| {
            let newer = map.epoch > known.epoch;
            if newer {
                *known = Arc::new(map);
            }
            newer
        });
    }

    fn take_number(&self) -> u64 {
        let mut numbers = locked(&self.numbers);
        let number = numbers.next;
        numbers.next += 1;
        numbers.awaited.insert(number);
        number
    }

    fn answered_below(&self) -> CallSeq {
        let numbers = locked(&self.numbers);
        CallSeq(numbers.awaited.first().copied().unwrap_or(numbers.next))
    }
}

/// A number whose answer is awaited while this lives.
struct Awaited<'a>(&'a Session, u64);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        locked(&self.0.numbers).awaited.remove(&self.1);
    }
}

fn ttl_of(grant: &SessionGrant) -> Duration {
    Duration::from_millis(u64::from(grant.ttl_ms))
}

/// Opens a session; tries until `deadline` unless something has to be mended. Also when it was asked for.
pub(crate) async fn open_session(
    shared: &super::Outside,
    deadline: Instant,
) -> Result<(SessionGrant, Instant), Error> {
    let config = &shared.config;
    let call = MetaCall {
        session: None,
        seq: CallSeq(0),
        answered_below: CallSeq(0),
        request: MetaRequest::Cluster(ClusterRequest::OpenSession {
            client: config.client,
            host: config.host.clone(),
            mount: config.mount.clone(),
            sharing: config.sharing,
            class: config.class,
        }),
    };
    let mut retry = Retry::until(&shared.metrics, deadline);
    loop {
        if shared.members.count() == 0 {
            return Err(no_namespace());
        }
        add(&shared.metrics.meta_calls, 1);
        let attempt = retry.attempt(config.attempt_timeout);
        let asked = Instant::now();
        match shared.ask_leader(&call, attempt).await {
            Ok(MetaReply::Cluster(ClusterReply::Session(grant))) => {
                add(&shared.metrics.sessions, 1);
                tracing::info!(session = %grant.session, map = %grant.map.epoch, "opened a session");
                return Ok((grant, asked));
            }
            Ok(_) => return Err(Error::unexpected("the namespace", "a session")),
            Err(error) if error.advice() == Advice::GiveUp => {
                return Err(Error::of_call("the namespace", error));
            }
            Err(error) => retry.pause("the namespace", &error).await?,
        }
    }
}

fn no_namespace() -> Error {
    Error::Protocol { who: "the configuration".to_owned(), detail: "it names no namespace".to_owned() }
}

impl Shared {
    /// The map as known now.
    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        self.session.map()
    }

    /// One call about files, tried until it has a final answer or the deadline is over.
    pub(crate) async fn fs(&self, request: FsRequest) -> Result<FsReply, Error> {
        self.fs_until(request, Instant::now() + self.outside.config.deadline).await
    }

    /// The same with a deadline.
    pub(crate) async fn fs_until(&self, request: FsRequest, deadline: Instant) -> Result<FsReply, Error> {
        self.fs_while(request, deadline, || Ok(())).await
    }

    /// The same as long as it `may` be asked; looked at in every session that it is tried in.
    pub(crate) async fn fs_while(
        &self,
        request: FsRequest,
        deadline: Instant,
        may: impl Fn() -> Result<(), Error>,
    ) -> Result<FsReply, Error> {
        let number = request.is_change().then(|| self.session.take_number());
        let _awaited = number.map(|number| Awaited(&self.session, number));
        let mut call = MetaCall {
            session: None,
            seq: CallSeq(number.unwrap_or(0)),
            answered_below: CallSeq(0),
            request: MetaRequest::Fs(request),
        };
        let mut retry = Retry::until(&self.outside.metrics, deadline);
        loop {
            let session = self.session.id();
            // After its number was read: what is lost with a session is so before another one takes its place.
            may()?;
            call.session = Some(session);
            call.answered_below = self.session.answered_below();
            let error = match self.meta_once(&call, retry.attempt(self.outside.config.attempt_timeout)).await
            {
                Ok(MetaReply::Fs(reply)) => return Ok(reply),
                Ok(_) => return Err(Error::unexpected("the namespace", "one about files")),
                Err(error) => error,
            };
            match error.advice() {
                Advice::GiveUp => return Err(Error::of_call("the namespace", error)),
                Advice::NewSession => self.reopen_session(session, deadline).await?,
                Advice::Retry | Advice::RefreshMap | Advice::TryOtherCopy => {
                    retry.pause("the namespace", &error).await?;
                }
            }
        }
    }

    /// One attempt of one call.
    pub(crate) async fn meta_once(&self, call: &MetaCall, deadline: Instant) -> Result<MetaReply, CallError> {
        add(&self.outside.metrics.meta_calls, 1);
        self.outside.ask_leader(call, deadline).await
    }

    /// One attempt of a call about the cluster, within the session.
    async fn cluster_once(&self, request: ClusterRequest, deadline: Instant) -> Result<ClusterReply, Error> {
        let call = MetaCall {
            session: Some(self.session.id()),
            seq: CallSeq(0),
            answered_below: self.session.answered_below(),
            request: MetaRequest::Cluster(request),
        };
        match self.meta_once(&call, deadline).await {
            Ok(MetaReply::Cluster(reply)) => Ok(reply),
            Ok(_) => Err(Error::unexpected("the namespace", "one about the cluster")),
            Err(error) => Err(Error::of_call("the namespace", error)),
        }
    }

    /// Tells the namespace that a brick does not answer; it looks for itself.
    pub(crate) async fn suspect(&self, brick: BrickId, boot: BootId) {
        let deadline = Instant::now() + SUSPECT_WAIT;
        if let Err(error) = self.cluster_once(ClusterRequest::Suspect { brick, boot }, deadline).await {
            tracing::debug!(%brick, %error, "could not tell the namespace of a brick that is away");
        }
    }

    /// Sees to it that the map is newer than `seen`, as far as one short wait can.
    pub(crate) async fn refresh_map(&self, seen: MapEpoch) {
        if self.map().epoch > seen {
            return;
        }
        let entered = Instant::now();
        let mut last_asked = self.session.refreshing.lock().await;
        // One asks for all who wait meanwhile: were there a newer map, it would be here.
        if self.map().epoch > seen || last_asked.is_some_and(|asked| asked >= entered) {
            return;
        }
        *last_asked = Some(Instant::now());
        let deadline = Instant::now() + Duration::from_millis(u64::from(MAP_WAIT_MS) * 4);
        // Broken locks are told to the one who always asks, too.
        self.fetch_map(seen, MAP_WAIT_MS, deadline).await;
    }

    /// Asks for the map once; what broken locks are to be given up, if that worked.
    async fn fetch_map(&self, after: MapEpoch, wait_ms: u32, deadline: Instant) -> Option<Vec<Recall>> {
        match self.cluster_once(ClusterRequest::GetMap { after, wait_ms }, deadline).await {
            Ok(ClusterReply::Map(map)) => {
                self.session.absorb_map(map);
                Some(Vec::new())
            }
            Ok(ClusterReply::Recalls { map, recalls }) => {
                self.session.absorb_map(map);
                Some(recalls)
            }
            // The caller tries again and reports the failure it has itself.
            Ok(_) | Err(_) => None,
        }
    }

    /// Opens a new session in place of one that is gone, and says in it what is open.
    pub(crate) async fn reopen_session(&self, gone: SessionId, deadline: Instant) -> Result<(), Error> {
        let _one = self.session.reopening.lock().await;
        if self.session.id() != gone {
            return Ok(());
        }
        if self.is_stopping() {
            return Err(Error::Stopping);
        }
        tracing::warn!(session = %gone, "the session is gone; opening a new one");
        let (grant, asked) = open_session(&self.outside, deadline).await?;
        let (session, ttl) = (grant.session, ttl_of(&grant));
        self.session.absorb_map(grant.map);
        // Before anything is done in the new one.
        self.lose_locks(session);
        self.doubt_untold();
        *locked(&self.session.trust) = (ttl, asked);
        *locked(&self.session.current) = (session, Duration::from_millis(u64::from(grant.renew_ms.max(10))));
        // Once more: what was acknowledged in between.
        self.doubt_untold();
        self.session.renewed.notify_waiters();
        for (ino, access) in self.open_inodes() {
            let number = self.session.take_number();
            let _awaited = Awaited(&self.session, number);
            let call = MetaCall {
                session: Some(session),
                seq: CallSeq(number),
                answered_below: self.session.answered_below(),
                request: MetaRequest::Fs(FsRequest::Open { ino, access }),
            };
            let attempt = deadline.min(Instant::now() + self.outside.config.attempt_timeout);
            if let Err(error) = self.meta_once(&call, attempt).await {
                // Its handles find out by themselves if the inode is gone.
                tracing::warn!(inode = %ino, %error, "could not open again in the new session");
            }
        }
        Ok(())
    }

    /// What the namespace was not told in a session that is over may have been cut with it.
    fn doubt_untold(&self) {
        for inode in self.dirty_inodes() {
            locked(&inode.state).session_over(self.stamps.load(Ordering::SeqCst));
        }
    }

    /// Asks who the members of the namespace are, so that another one is found when this one goes.
    async fn learn_members(&self) {
        // Renewals come after this.
        let deadline = Instant::now() + self.renewal_limit();
        match self.cluster_once(ClusterRequest::Members, deadline).await {
            Ok(ClusterReply::Members(members)) => {
                self.outside.members.learn(members.into_iter().map(|member| member.endpoint));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "could not ask for the namespace's members"),
        }
    }

    /// How long a renewal may take.
    fn renewal_limit(&self) -> Duration {
        self.session.renew_every().max(Duration::from_millis(500))
    }

    /// Keeps the session alive until the client stops.
    pub(crate) async fn keep_session(self: Arc<Self>) {
        let mut tell = false;
        let mut silent = false;
        loop {
            let pause = match (silent, tell) {
                // Another member may lead by now.
                (true, _) => self.session.renew_every() / 4,
                (false, true) => Duration::ZERO,
                (false, false) => self.session.renew_every(),
            };
            if !self.sleep_unless_stopping(pause).await {
                return;
            }
            let session = self.session.id();
            let open = tell.then(|| self.open_inodes());
            let map = self.map().epoch;
            let asked = Instant::now();
            let deadline = asked + self.renewal_limit();
            let call = MetaCall {
                session: Some(session),
                seq: CallSeq(0),
                answered_below: self.session.answered_below(),
                request: MetaRequest::Cluster(ClusterRequest::Renew { map, open }),
            };
            match self.meta_once(&call, deadline).await {
                Ok(MetaReply::Cluster(ClusterReply::Renewed { tell_open, .. })) => {
                    if silent {
                        tracing::info!("the namespace answers again");
                    }
                    silent = false;
                    self.session.note_heard(asked);
                    // Told in this very call: asking again means it was lost on the way.
                    tell = tell_open && !tell;
                    self.learn_members().await;
                }
                Ok(_) => tracing::error!("the namespace answered a renewal with something else"),
                Err(error) if error.advice() == Advice::NewSession => {
                    let deadline = Instant::now() + self.outside.config.deadline;
                    if let Err(error) = self.reopen_session(session, deadline).await {
                        tracing::warn!(%error, "could not open a new session; trying again");
                    }
                }
                Err(error) => {
                    if !silent {
                        tracing::warn!(%error, "could not renew the session; trying again");
                    }
                    silent = true;
                }
            }
        }
    }

    /// Keeps the map fresh until the client stops.
    pub(crate) async fn keep_map(self: Arc<Self>) {
        let mut pause = Duration::ZERO;
        while self.sleep_unless_stopping(pause).await {
            let deadline = Instant::now()
                + Duration::from_millis(u64::from(MAP_POLL_MS))
                + self.outside.config.attempt_timeout;
            let known = self.map().epoch;
            let fetch = self.fetch_map(known, MAP_POLL_MS, deadline);
            let begun = Instant::now();
            let mut stop = self.stopping.subscribe();
            let fetched = tokio::select! {
                fetched = fetch => fetched,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            // A service that answers at once without news must not be asked in a tight loop.
            let quick = begun.elapsed() < Duration::from_millis(100) && self.map().epoch == known;
            pause = match (fetched.is_some(), quick) {
                (true, false) => Duration::ZERO,
                (true, true) => Duration::from_millis(100),
                (false, _) => Duration::from_millis(500),
            };
            self.recall(fetched.unwrap_or_default());
        }
    }

    /// Ends the session.
    pub(crate) async fn close_session(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.outside.config.attempt_timeout;
        match self.cluster_once(ClusterRequest::CloseSession, deadline).await? {
            ClusterReply::Done => Ok(()),
            _ => Err(Error::unexpected("the namespace", "done")),
        }
    }
}
