//! Starting, dispatching, stopping.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use wire::id::SessionId;
use wire::map::ClusterMap;
use wire::meta::{
    Access, CheckRequest, ClusterReply, ClusterRequest, FsReply, FsRequest, MetaCall, MetaProtocol,
    MetaReply, MetaRequest, Timestamp,
};
use wire::net::typed::Typed;
use wire::net::{BoxFuture, Endpoint, Net, Peer, Role, Service, Serving, TypedHandler};
use wire::status::Status;

use crate::background::reign::{self, Trims};
use crate::config::{Config, TRIM_QUEUE, WATCHES};
use crate::error::Error;
use crate::log::raft::journal::Owner;
use crate::log::raft::replica::{Beginning, Replica};
use crate::log::raft::snapshot::Place;
use crate::log::raft::store::Store;
use crate::log::raft::{LOG_DIR, RaftLog, SNAPSHOTS_DIR};
use crate::log::{Leadership, Log, Solo};
use crate::machine::command::{Caller, NewSession, Op};
use crate::machine::{Birth, Machine};
use crate::metrics::{Metrics, Snapshot};
use crate::namespace::{Namespace, Watchers};
use crate::ops::behind::is_answered_behind;
use crate::ops::join::Doorway;
use crate::soft::bricks::Bricks;
use crate::soft::clock::SteadyClock;
use crate::soft::sessions::Sessions;
use crate::soft::watches::Watches;
use crate::store::db::{Db, Durability, current_dir, peek};
use crate::store::hold::Hold;
use crate::store::{identity, keys};

/// Longest time calls may take to end when the service stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// A member that runs. Dropping it ends it without ceremony; nothing that was answered is lost.
pub struct Running {
    serving: Serving,
    namespace: Arc<Namespace>,
    order: Order,
    hold: Hold,
    stop: watch::Sender<bool>,
    reign: JoinHandle<()>,
}

/// Who puts commands in order.
#[derive(Clone)]
enum Order {
    Alone(Arc<Solo>),
    Member(Arc<RaftLog>),
}

/// Starts a member: takes up the state of its directory (or makes a new filesystem there), and
/// serves it.
///
/// # Errors
/// If the directory is not this cluster's, is in use, or cannot be read; if the address cannot
/// be listened at.
pub async fn start(config: Config, net: Net) -> Result<Running, Error> {
    let cluster = net.identity().cluster;
    let metrics = Arc::new(Metrics::default());
    let hold = Hold::default();
    let opened = {
        let config = config.clone();
        let held = hold.clone();
        let birth = Birth { replicas: config.replicas, bricks: config.birth_bricks };
        tokio::task::spawn_blocking(move || {
            let dir = &config.dir;
            identity::claim(dir, cluster)?;
            let has_log = dir.join(LOG_DIR).exists();
            if config.member.is_some() && !has_log && peeked(dir, keys::RAFT)? {
                return Err(Error::NotNamespace {
                    dir: dir.clone(),
                    detail: format!(
                        "its log ({LOG_DIR}) is gone: it may have promised what is in no state; remove this member and join anew"
                    ),
                });
            }
            let durability = match &config.member {
                Some(_) => Durability::Log,
                // Its state may lag behind its log.
                None if has_log => return Err(Error::NeedsMembers { dir: dir.clone() }),
                None => Durability::Flush,
            };
            let db = Arc::new(Db::open_with(dir, durability, held.clone())?);
            let machine = Machine::open(db.clone(), cluster, birth, Timestamp::now())?;
            let parts = match &config.member {
                Some(member) => {
                    // What the log goes on from.
                    db.flush()?;
                    let owner = Owner { cluster, member: member.id };
                    let store = Store::open(&dir.join(LOG_DIR), owner, member.disk.clone(), held.clone())?;
                    let path = dir.join(SNAPSHOTS_DIR);
                    let place =
                        Place::open(path.clone(), held).map_err(|source| Error::Io { path, source })?;
                    Some((member.clone(), store, Arc::new(place)))
                }
                None => None,
            };
            Ok::<_, Error>((db, machine, parts))
        })
    };
    let (db, machine, parts) =
        opened.await.map_err(|error| Error::Thread(std::io::Error::other(error)))??;
    let (trims, trims_queue) = mpsc::channel(TRIM_QUEUE);
    let map: Arc<ClusterMap> = machine.map();
    let watchers = Arc::new(Watchers {
        map: watch::Sender::new(map),
        trimmed: watch::Sender::new(0),
        heard: watch::Sender::new(0),
        trims,
        orphans: Notify::new(),
        suspected: Notify::new(),
        informed: Notify::new(),
        sessions: Mutex::new(Sessions::new(config.session_ttls())),
        opens: Mutex::default(),
        lock_waits: Mutex::default(),
        unlocked: watch::Sender::new(0),
        ended: watch::Sender::new(0),
        recalled: watch::Sender::new(0),
        recalls: Mutex::default(),
        watches: Mutex::new(Watches::new(WATCHES)),
        apart: Mutex::default(),
        doubts: Mutex::default(),
        doubted: Notify::new(),
        refusals: Mutex::default(),
        reached: Mutex::default(),
        claims: Mutex::default(),
        bricks: Mutex::new(Bricks::new(config.brick_dead_after, config.brick_grace)),
        clock: Mutex::new(SteadyClock::new(Timestamp::default(), std::time::Instant::now())),
        stopping: watch::Sender::new(false),
        reigns: watch::Sender::new(false),
    });
    info!(dir = %config.dir.display(), %cluster, applied = machine.applied().0, "the namespace is open");
    let observer = watchers.clone();
    let observe = move |effects| observer.observe(effects);
    let (order, log, raft): (Order, Arc<dyn Log>, _) = match parts {
        None => {
            let solo = Arc::new(Solo::start(machine, metrics.clone(), observe)?);
            (Order::Alone(solo.clone()), solo, None)
        }
        Some((member, store, place)) => {
            let replica = Replica::open(Beginning {
                machine,
                cluster,
                founder: member.founder,
                snapshots: place.clone(),
                metrics: metrics.clone(),
                observe: Box::new(observe),
            })?;
            let raft = Arc::new(RaftLog::start(&member, net.clone(), store, replica, place).await?);
            (Order::Member(raft.clone()), raft.clone(), Some(raft))
        }
    };
    let listen = config.listen;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let trims = AtomicU64::new(u64::try_from(since_epoch.as_micros()).unwrap_or_default());
    let namespace = Arc::new(Namespace { config, net: net.clone(), db, log, raft, watchers, metrics, trims });
    let trims: Trims = Arc::new(tokio::sync::Mutex::new(trims_queue));
    // Who is alone leads from the first moment.
    let leads = *namespace.log.leadership().borrow();
    let begun = match &order {
        Order::Alone(_) => {
            reign::announce(&namespace).await.map_err(|status| Error::Log(status.to_string()))?;
            Some((leads, reign::begin(&namespace, &trims)?))
        }
        Order::Member(_) => None,
    };
    let handler = Typed::<MetaProtocol, _>::handler(Arc::new(Door(Arc::downgrade(&namespace))));
    let serving = if namespace.config.authority.is_some() {
        let doorway = Arc::new(Doorway(Arc::downgrade(&namespace)));
        net.serve_and_take_in(&listen, Service::Namespace, handler, doorway).await?
    } else {
        net.serve(&listen, Service::Namespace, handler).await?
    };
    let (stop, stopped) = watch::channel(false);
    let reign = tokio::spawn(reign::run(namespace.clone(), trims, begun, stopped));
    Ok(Running { serving, namespace, order, hold, stop, reign })
}

impl Running {
    /// Where it is reached: the real port, where 0 was asked for.
    pub fn endpoint(&self) -> Endpoint {
        self.serving.endpoint()
    }

    /// The newest map.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.namespace.map()
    }

    /// What it has done.
    pub fn metrics(&self) -> Snapshot {
        self.namespace.metrics.snapshot()
    }

    /// The log, where there are or may be other members.
    pub fn raft(&self) -> Option<&Arc<RaftLog>> {
        self.namespace.raft.as_ref()
    }

    /// All bricks are about to stop, and this process with them: those that are faster count as dead no more.
    pub fn bricks_stop(&self) {
        crate::namespace::lock(&self.namespace.watchers.bricks).stop();
    }

    /// Whether it leads and answers.
    pub fn leads(&self) -> bool {
        *self.namespace.watchers.reigns.borrow()
    }

    /// Returns when this member leads and answers, or knows who does, or after `limit`.
    pub async fn settled(&self, limit: Duration) {
        let mut reigns = self.namespace.watchers.reigns.subscribe();
        let mut leadership = self.namespace.log.leadership();
        let known = async {
            let leads = async { reigns.wait_for(|reigns| *reigns).await.is_ok() };
            let follows = async {
                let other = |now: &Leadership| matches!(now, Leadership::Following { leader: Some(_) });
                leadership.wait_for(other).await.is_ok()
            };
            tokio::select! {
                known = leads => known,
                known = follows => known,
            }
        };
        if tokio::time::timeout(limit, known).await.is_err() {
            warn!("no member of the namespace leads; this one waits for the others");
        }
    }

    /// Stops: takes no further calls, lets running ones end for some seconds, and closes the
    /// database.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        self.namespace.watchers.stopping.send_replace(true);
        let drained = self.serving.stop(PATIENCE).await;
        if drained.calls_given_up > 0 {
            warn!(calls = drained.calls_given_up, "stopped in the middle of calls");
        }
        if let Err(error) = self.reign.await {
            warn!(%error, "the loops of the namespace did not end well");
        }
        match &self.order {
            Order::Alone(solo) => solo.stop().await,
            Order::Member(raft) => raft.stop().await,
        }
        drop(self.order);
        let db = self.namespace.db.clone();
        drop(self.namespace);
        // A check may still be reading.
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(&db) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let closed = tokio::task::spawn_blocking(move || {
            let flushed = db.flush();
            drop(db);
            flushed
        });
        match closed.await {
            Ok(Ok(())) => info!("the namespace is closed"),
            Ok(Err(error)) => warn!(%error, "the database could not be flushed; its log has everything"),
            Err(error) => warn!(%error, "the database could not be closed"),
        }
        if !self.hold.let_go(PATIENCE).await {
            warn!("something still works in the directory of the namespace");
        }
    }

    /// Ends at once, as a killed process does: nothing is flushed, and who calls hears nothing.
    pub async fn kill(self) {
        let _ = self.stop.send(true);
        self.reign.abort();
        let _ = self.reign.await;
        drop(self.serving);
        match &self.order {
            Order::Alone(solo) => solo.stop().await,
            Order::Member(raft) => raft.stop().await,
        }
        drop(self.order);
        drop(self.namespace);
        if !self.hold.let_go(PATIENCE).await {
            warn!("something still works in the directory of the namespace");
        }
    }
}

/// Whether the database of a directory has a record, where there is a database.
fn peeked(dir: &std::path::Path, key: &[u8]) -> Result<bool, Error> {
    let path = current_dir(dir)?;
    Ok(path.join("CURRENT").exists() && peek(&path, key)?.is_some())
}

/// Where calls come in. It does not own the service: connections may outlive it, and its
/// directory is to be free when it has stopped.
struct Door(Weak<Namespace>);

impl TypedHandler<MetaProtocol> for Door {
    fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: MetaCall,
        payload: Bytes,
    ) -> BoxFuture<'static, (Result<MetaReply, Status>, Bytes)> {
        let namespace = self.0.upgrade();
        Box::pin(async move {
            let Some(namespace) = namespace else { return (Err(Status::Busy), Bytes::new()) };
            if matches!(request.request, MetaRequest::Peer) {
                return match namespace.peer(peer.identity.role, &payload).await {
                    Ok(answer) => (Ok(MetaReply::Peer), answer),
                    Err(status) => (Err(status), Bytes::new()),
                };
            }
            (namespace.answer(&peer, request).await, Bytes::new())
        })
    }
}

/// Who may make a call. Owners and modes are the kernels' matter.
fn may(role: Role, request: &MetaRequest) -> bool {
    use ClusterRequest as C;
    let client = matches!(role, Role::Client | Role::Admin);
    match request {
        MetaRequest::Fs(_) => client,
        MetaRequest::Check(_) => role == Role::Admin,
        MetaRequest::Peer => false,
        MetaRequest::Cluster(C::OpenSession { .. } | C::Renew { .. } | C::CloseSession) => client,
        MetaRequest::Cluster(
            C::ComeUp { .. }
            | C::NextMap { .. }
            | C::Saw { .. }
            | C::Heartbeat { .. }
            | C::SyncDone { .. }
            | C::AddBrick(_)
            | C::Farewell { .. }
            | C::Paths(_)
            | C::Unreachable { .. }
            | C::Holdings { .. }
            | C::ReplaceBrick { .. },
        ) => {
            matches!(role, Role::Brick | Role::Admin)
        }
        MetaRequest::Cluster(C::Suspect { .. }) => matches!(role, Role::Brick | Role::Client | Role::Admin),
        MetaRequest::Cluster(
            C::AddBricks(_)
            | C::MakeToken { .. }
            | C::DrainBrick { .. }
            | C::RemoveBrick { .. }
            | C::Rebalance { .. }
            | C::Configure(_)
            | C::Adopt { .. }
            | C::FreeLost
            | C::TakeBack(_)
            | C::EndSession(_)
            | C::RemoveMember { .. }
            | C::Lead { .. }
            | C::Journal(_),
        ) => role == Role::Admin,
        MetaRequest::Cluster(C::AddMember { .. }) => matches!(role, Role::Namespace | Role::Admin),
        MetaRequest::Cluster(C::Members) => true,
        MetaRequest::Cluster(C::Authority) => role == Role::Namespace,
        MetaRequest::Cluster(C::GetMap { .. } | C::Status | C::LockWaiters) => true,
    }
}

impl Namespace {
    /// A call of another member.
    async fn peer(self: Arc<Self>, role: Role, payload: &[u8]) -> Result<Bytes, Status> {
        match &self.raft {
            Some(raft) if role == Role::Namespace => raft.peer(payload).await,
            _ => Err(Status::Forbidden),
        }
    }

    async fn answer(self: Arc<Self>, peer: &Arc<Peer>, call: MetaCall) -> Result<MetaReply, Status> {
        if !may(peer.identity.role, &call.request) {
            return Err(Status::Forbidden);
        }
        if let MetaRequest::Cluster(ClusterRequest::Members) = call.request {
            // Whoever is asked says what it knows, most of all when nobody leads.
            return Ok(MetaReply::Cluster(self.members()));
        }
        if let MetaRequest::Check(CheckRequest::OwnSurvey) = call.request {
            return self.own_survey().await.map(MetaReply::Check);
        }
        self.leads()?;
        if self.is_behind() && !is_answered_behind(&call.request) {
            return Err(Status::NamespaceBehind);
        }
        match call.request {
            MetaRequest::Fs(request) => {
                self.fs(call.session, call.seq, call.answered_below, request).await.map(MetaReply::Fs)
            }
            MetaRequest::Cluster(request) => {
                self.cluster(peer, call.session, request).await.map(MetaReply::Cluster)
            }
            MetaRequest::Check(request) => self.check(request).await.map(MetaReply::Check),
            MetaRequest::Peer => Err(Status::Malformed),
        }
    }

    async fn fs(
        &self,
        session: Option<SessionId>,
        seq: wire::id::CallSeq,
        answered_below: wire::id::CallSeq,
        request: FsRequest,
    ) -> Result<FsReply, Status> {
        if request.is_change() {
            let session = self.session(session)?;
            return self.change(Caller { session, seq, answered_below }, request).await;
        }
        // Tools may look without a session; one that is told must live.
        let session = session.map(|s| self.session(Some(s))).transpose()?;
        match request {
            FsRequest::Open { access: Access::Read, .. } => {
                let reply = self.open_for_read(session.ok_or(Status::Malformed)?, &request)?;
                // Only who leads knows for others what is open.
                self.log.read_barrier().await?;
                Ok(reply)
            }
            FsRequest::Close { access: Access::Read, .. } => {
                self.close_for_read(session.ok_or(Status::Malformed)?, &request)
            }
            FsRequest::TestLock(wish) => self.test_lock(session.ok_or(Status::Malformed)?, &wish).await,
            FsRequest::AwaitLock { wish, wait_ms } => {
                self.await_lock(session.ok_or(Status::Malformed)?, wish, wait_ms).await
            }
            FsRequest::Watch { dir, after, most, wait_ms } => self.watch(dir, after, most, wait_ms).await,
            _ => self.look(&request).await,
        }
    }

    async fn cluster(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        session: Option<SessionId>,
        request: ClusterRequest,
    ) -> Result<ClusterReply, Status> {
        use ClusterRequest as C;
        if matches!(
            request,
            C::Renew { .. }
                | C::GetMap { .. }
                | C::NextMap { .. }
                | C::ComeUp { .. }
                | C::Heartbeat { .. }
                | C::Saw { .. }
                | C::Adopt { .. }
                | C::Status
        ) {
            // These are answered from memory, and only the memory of who leads counts. A brick that
            // is told here that it lives was told so after the call began: whoever leads later gives it
            // longer than it serves without hearing more.
            self.log.read_barrier().await?;
        }
        match request {
            C::OpenSession { client, host, mount, sharing, class } => {
                self.open_session(NewSession { client, host, mount, sharing, class }).await
            }
            C::Renew { map, open } => self.renew(self.session(session)?, map, open),
            C::CloseSession => self.close_session(session.ok_or(Status::Malformed)?).await,
            C::GetMap { after, wait_ms } => self.get_map(session, after, wait_ms).await,
            C::ComeUp { brick, lives, saw, records } => self.come_up(brick, &lives, saw, records).await,
            C::NextMap { brick, saw, wait_ms } => self.next_map(brick, saw, wait_ms).await,
            C::Saw { map, .. } => self.tells(*map),
            C::Adopt { without } => self.adopt(&without).await,
            C::FreeLost => self.order(Op::FreeLost).await,
            C::EndSession(session) => self.end_session(session).await,
            C::TakeBack(brick) => self.order(Op::TakeBack(brick)).await,
            C::Heartbeat { brick, boot, map, report } => {
                let connection = Arc::downgrade(peer);
                self.heartbeat(brick, boot, map, report, connection).await
            }
            C::SyncDone { chain, epoch, brick } => self.sync_done(chain, epoch, brick).await,
            C::Status => self.status(),
            C::LockWaiters => self.lock_waiters().await,
            C::AddBricks(bricks) => self.add_bricks(bricks).await,
            C::MakeToken { hash, role, ttl_s, uses } => self.make_token(hash, role, ttl_s, uses).await,
            C::AddBrick(brick) => self.order(Op::AddBrick(brick)).await,
            C::Farewell { brick, boot } => self.farewell(brick, boot).await,
            C::ReplaceBrick { brick, store, lose_data } => {
                self.order(Op::ReplaceBrick { brick, store, lose_data }).await
            }
            C::Suspect { brick, boot } => Ok(self.suspect(brick, boot)),
            C::DrainBrick { brick, drain } => self.order(Op::DrainBrick { brick, drain }).await,
            C::RemoveBrick { brick, force } => self.order(Op::RemoveBrick { brick, force }).await,
            C::Rebalance { on } => self.order(Op::Rebalance { on }).await,
            C::Configure(change) => self.order(Op::Configure(change)).await,
            C::Journal(change) => self.journal(change).await,
            C::Members => Ok(self.members()),
            C::AddMember { id, endpoint } => self.add_member(id, endpoint).await,
            C::RemoveMember { id } => self.remove_member(id).await,
            C::Lead { id } => self.have_lead(id).await,
            C::Authority => self.authority(),
            C::Paths(inodes) => self.paths(inodes).await,
            C::Holdings { brick, boot, bytes } => Ok(self.holdings(brick, boot, bytes)),
            C::Unreachable { by, brick } => Ok(self.unreachable(by, brick)),
        }
    }
}
