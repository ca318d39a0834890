//! Starting, dispatching, stopping.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use wire::id::SessionId;
use wire::map::ClusterMap;
use wire::meta::{
    Access, ClusterReply, ClusterRequest, FsReply, FsRequest, MetaCall, MetaProtocol, MetaReply, MetaRequest,
    Timestamp,
};
use wire::net::typed::Typed;
use wire::net::{BoxFuture, Endpoint, Net, Peer, Role, Service, Serving, TypedHandler};
use wire::status::Status;

use crate::background;
use crate::config::{Config, TRIM_QUEUE};
use crate::error::Error;
use crate::log::Solo;
use crate::machine::command::{Caller, Op};
use crate::machine::txn::load;
use crate::machine::{Birth, Machine};
use crate::metrics::{Metrics, Snapshot};
use crate::namespace::{Namespace, Watchers};
use crate::ops::join::Doorway;
use crate::soft::bricks::Bricks;
use crate::soft::clock::SteadyClock;
use crate::soft::opens::Opens;
use crate::soft::sessions::Sessions;
use crate::store::db::Db;
use crate::store::{Read, identity, keys};

/// Longest time calls may take to end when the service stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// A member that runs. Dropping it ends it without ceremony; nothing that was answered is lost.
pub struct Running {
    serving: Serving,
    namespace: Arc<Namespace>,
    solo: Arc<Solo>,
    stop: watch::Sender<bool>,
    loops: JoinSet<()>,
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
    let opened = {
        let dir = config.dir.clone();
        let birth = Birth { replicas: config.replicas, bricks: config.birth_bricks };
        tokio::task::spawn_blocking(move || {
            identity::claim(&dir, cluster)?;
            let db = Arc::new(Db::open(&dir)?);
            let machine = Machine::open(db.clone(), cluster, birth, Timestamp::now())?;
            Ok::<_, Error>((db, machine))
        })
    };
    let (db, machine) = opened.await.map_err(|error| Error::Thread(std::io::Error::other(error)))??;
    let mut sessions = Sessions::default();
    for (key, _) in db.all(b"S")? {
        sessions.known(SessionId(keys::first(&key).unwrap_or_default()), Instant::now());
    }
    let (trims, trims_queue) = mpsc::channel(TRIM_QUEUE);
    let map: Arc<ClusterMap> = machine.map();
    let watchers = Arc::new(Watchers {
        map: watch::Sender::new(map),
        trimmed: watch::Sender::new(0),
        heard: watch::Sender::new(0),
        trims,
        orphans: Notify::new(),
        suspected: Notify::new(),
        sessions: Mutex::new(sessions),
        opens: Mutex::new(Opens::default()),
        bricks: Mutex::new(Bricks::new(config.brick_dead_after, config.brick_grace)),
        clock: Mutex::new(SteadyClock::new(
            load(&*db, keys::CLOCK)?.unwrap_or_default(),
            std::time::Instant::now(),
        )),
        stopping: watch::Sender::new(false),
    });
    info!(dir = %config.dir.display(), %cluster, applied = machine.applied().0, "the namespace is open");
    let observer = watchers.clone();
    let solo = Arc::new(Solo::start(machine, metrics.clone(), move |effects| observer.observe(effects))?);
    let listen = config.listen;
    let namespace =
        Arc::new(Namespace { config, net: net.clone(), db, log: solo.clone(), watchers, metrics });
    let handler = Typed::<MetaProtocol, _>::handler(Arc::new(Door(Arc::downgrade(&namespace))));
    let serving = if namespace.config.authority.is_some() {
        let doorway = Arc::new(Doorway(Arc::downgrade(&namespace)));
        net.serve_and_take_in(&listen, Service::Namespace, handler, doorway).await?
    } else {
        net.serve(&listen, Service::Namespace, handler).await?
    };
    let (stop, stopped) = watch::channel(false);
    let mut loops = JoinSet::new();
    loops.spawn(background::liveness::run(namespace.clone(), stopped.clone()));
    loops.spawn(background::moves::run(namespace.clone(), stopped.clone()));
    loops.spawn(background::reclaim::run(namespace.clone(), stopped.clone()));
    loops.spawn(background::collect::run(namespace.clone(), stopped.clone()));
    loops.spawn(background::tokens::run(namespace.clone(), stopped.clone()));
    loops.spawn(background::trims::run(namespace.clone(), trims_queue, stopped));
    Ok(Running { serving, namespace, solo, stop, loops })
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

    /// Stops: takes no further calls, lets running ones end for some seconds, and closes the
    /// database.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        self.namespace.watchers.stopping.send_replace(true);
        let drained = self.serving.stop(PATIENCE).await;
        if drained.calls_given_up > 0 {
            warn!(calls = drained.calls_given_up, "stopped in the middle of calls");
        }
        while let Some(ended) = self.loops.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "a loop of the namespace did not end well");
            }
        }
        self.solo.stop().await;
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
    }
}

/// Where calls come in. It does not own the service: connections may outlive it, and its
/// directory is to be free when it has stopped.
struct Door(Weak<Namespace>);

impl TypedHandler<MetaProtocol> for Door {
    fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: MetaCall,
        _payload: Bytes,
    ) -> BoxFuture<'static, (Result<MetaReply, Status>, Bytes)> {
        let namespace = self.0.upgrade();
        Box::pin(async move {
            let answer = match namespace {
                Some(namespace) => namespace.answer(&peer, request).await,
                None => Err(Status::Busy),
            };
            (answer, Bytes::new())
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
        MetaRequest::Cluster(C::OpenSession { .. } | C::Renew { .. } | C::CloseSession) => client,
        MetaRequest::Cluster(
            C::RegisterBrick(_)
            | C::Heartbeat { .. }
            | C::SyncDone { .. }
            | C::AddBrick(_)
            | C::Farewell { .. },
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
            | C::Configure(_),
        ) => role == Role::Admin,
        MetaRequest::Cluster(C::GetMap { .. } | C::Status) => true,
    }
}

impl Namespace {
    async fn answer(self: Arc<Self>, peer: &Arc<Peer>, call: MetaCall) -> Result<MetaReply, Status> {
        if !may(peer.identity.role, &call.request) {
            return Err(Status::Forbidden);
        }
        match call.request {
            MetaRequest::Fs(request) => {
                self.fs(call.session, call.seq, call.answered_below, request).await.map(MetaReply::Fs)
            }
            MetaRequest::Cluster(request) => {
                self.cluster(peer, call.session, request).await.map(MetaReply::Cluster)
            }
            MetaRequest::Check(request) => self.check(request).await.map(MetaReply::Check),
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
                self.open_for_read(session.ok_or(Status::Malformed)?, &request)
            }
            FsRequest::Close { access: Access::Read, .. } => {
                self.close_for_read(session.ok_or(Status::Malformed)?, &request)
            }
            _ => self.look(&request).await,
        }
    }

    async fn cluster(
        &self,
        peer: &Arc<Peer>,
        session: Option<SessionId>,
        request: ClusterRequest,
    ) -> Result<ClusterReply, Status> {
        use ClusterRequest as C;
        match request {
            C::OpenSession { client, host, mount, sharing } => {
                self.open_session(client, host, mount, sharing).await
            }
            C::Renew { map, open } => self.renew(self.session(session)?, map, open),
            C::CloseSession => self.close_session(session.ok_or(Status::Malformed)?).await,
            C::GetMap { after, wait_ms } => self.get_map(after, wait_ms).await,
            C::RegisterBrick(brick) => self.register_brick(brick).await,
            C::Heartbeat { brick, boot, report, .. } => {
                let connection = Arc::downgrade(peer);
                self.heartbeat(brick, boot, report, connection).await
            }
            C::SyncDone { chain, epoch, brick } => self.sync_done(chain, epoch, brick).await,
            C::Status => self.status(),
            C::AddBricks(bricks) => self.add_bricks(bricks).await,
            C::MakeToken { hash, role, ttl_s, uses } => self.make_token(hash, role, ttl_s, uses).await,
            C::AddBrick(brick) => self.order(Op::AddBrick(brick)).await,
            C::Farewell { brick, boot } => self.farewell(brick, boot).await,
            C::Suspect { brick, boot } => Ok(self.suspect(brick, boot)),
            C::DrainBrick { brick, drain } => self.order(Op::DrainBrick { brick, drain }).await,
            C::RemoveBrick { brick, force } => self.order(Op::RemoveBrick { brick, force }).await,
            C::Rebalance { on } => self.order(Op::Rebalance { on }).await,
            C::Configure(change) => self.order(Op::Configure(change)).await,
        }
    }
}
