//! A namespace in memory's reach, with bricks that only remember what they were told to cut.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use namespace::{Config, Running, start};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest, ChunkSummary};
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, CallSeq, ChainId, ChunkVersion, Ino, MapEpoch, NodeId, SessionId};
use wire::map::ClusterMap;
use wire::meta::*;
use wire::net::typed::Typed;
use wire::net::{
    Authority, BoxFuture, CallError, Endpoint, MemoryHub, Net, NetConfig, Peer, Role, Service, Serving,
    TypedHandler,
};
use wire::status::Status;

use crate::harness::{CLUSTER, registration};

pub const LONG: Duration = Duration::from_secs(20);

/// A brick that remembers cuts and answers them while its gate is open.
pub struct FakeBrick {
    pub id: u32,
    pub boot: AtomicU64,
    pub beats: AtomicBool,
    /// The last life the namespace took a beat of.
    pub heard: AtomicU64,
    pub gate: watch::Sender<bool>,
    /// Whether it can be reached; its beats go out all the same.
    pub reached: watch::Sender<bool>,
    /// Whether somebody writes again what was cut.
    pub refilled: AtomicBool,
    pub cuts: Mutex<Vec<(Ino, u64)>>,
    /// What it lists until it is cut.
    pub chunks: Mutex<BTreeSet<ChunkKey>>,
    /// How often it was asked for the first page.
    pub listed: AtomicU64,
}

impl TypedHandler<BrickProtocol> for FakeBrick {
    fn handle(
        self: Arc<Self>,
        _peer: Arc<Peer>,
        call: BrickCall,
        _payload: Bytes,
    ) -> BoxFuture<'static, (Result<BrickReply, Status>, Bytes)> {
        Box::pin(async move {
            self.reached.subscribe().wait_for(|reached| *reached).await.unwrap();
            let (ino, chunk_bytes, size) = match call.request {
                BrickRequest::Trim { ino, chunk_bytes, size, .. } => (ino, u64::from(chunk_bytes), size),
                BrickRequest::List { after, max, .. } => return (Ok(self.list(after, max)), Bytes::new()),
                _ => return (Err(Status::Malformed), Bytes::new()),
            };
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            self.cuts.lock().unwrap().push((ino, size));
            let mut chunks = self.chunks.lock().unwrap();
            let before = chunks.clone();
            chunks.retain(|key| key.ino != ino || key.index * chunk_bytes < size);
            let cut_chunks = (before.len() - chunks.len()) as u64;
            if self.refilled.load(Ordering::SeqCst) {
                *chunks = before;
            }
            (Ok(BrickReply::Trimmed { freed_bytes: 0, cut_chunks }), Bytes::new())
        })
    }
}

impl FakeBrick {
    fn list(&self, after: Option<ChunkKey>, max: u32) -> BrickReply {
        self.listed.fetch_add(u64::from(after.is_none()), Ordering::SeqCst);
        // Small pages, so that there are several.
        let max = max.min(2) as usize;
        let held = self.chunks.lock().unwrap();
        let rest: Vec<_> = held.iter().filter(|key| after.is_none_or(|a| **key > a)).collect();
        let chunks = rest.iter().take(max).map(|key| ChunkSummary {
            key: **key,
            chain: ChainId(1),
            version: ChunkVersion(1),
            len: 10,
            allocated_bytes: 4096,
            digest: 0,
            writer: None,
        });
        BrickReply::Chunks { chunks: chunks.collect(), end: rest.len() <= max }
    }
}

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub hub: MemoryHub,
    pub authority: Authority,
    pub config: Config,
    pub running: Option<Running>,
    pub bricks: Vec<Arc<FakeBrick>>,
    pub serving: Vec<Serving>,
    pub admin: Net,
    beaters: tokio::task::JoinSet<()>,
    beating: Vec<tokio::task::AbortHandle>,
}

impl Cluster {
    /// A namespace, and `count` bricks that are in its map and beat.
    pub async fn new(count: u32, tune: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = MemoryHub::new();
        let authority = Authority::create(CLUSTER).unwrap();
        let admin = net(&authority, &hub, Role::Admin, 250);
        let mut config = Config::new(dir.path().join("ns"), Endpoint::Memory(1000));
        config.sweep = Duration::from_millis(50);
        config.tick = Duration::from_millis(20);
        // Machines that run tests stand still for longer than ours ever should.
        config.brick_dead_after = Duration::from_secs(2);
        config.session_ttl = Duration::from_secs(60);
        tune(&mut config);
        let running = start(config.clone(), net(&authority, &hub, Role::Namespace, 251)).await.unwrap();
        let mut cluster = Self {
            dir,
            hub,
            authority,
            config,
            running: Some(running),
            bricks: Vec::new(),
            serving: Vec::new(),
            admin,
            beaters: tokio::task::JoinSet::new(),
            beating: Vec::new(),
        };
        cluster.add_bricks(count).await;
        cluster
    }

    async fn add_bricks(&mut self, count: u32) {
        let mut registrations = Vec::new();
        for id in 0..count {
            registrations.push(self.make_brick(id).await);
        }
        self.ask(ClusterRequest::AddBricks(registrations)).await.unwrap();
    }

    /// A brick that beats and is not in the map yet.
    async fn make_brick(&mut self, id: u32) -> BrickRegistration {
        let brick = Arc::new(FakeBrick {
            id,
            boot: AtomicU64::new(1),
            beats: AtomicBool::new(true),
            heard: AtomicU64::new(0),
            gate: watch::Sender::new(true),
            reached: watch::Sender::new(true),
            refilled: AtomicBool::new(false),
            cuts: Mutex::new(Vec::new()),
            chunks: Mutex::new(BTreeSet::new()),
            listed: AtomicU64::new(0),
        });
        let net = self.net(Role::Brick, id as u8);
        let handler = Typed::<BrickProtocol, _>::handler(brick.clone());
        let serving = net.serve(&Endpoint::Memory(0), Service::Brick, handler).await.unwrap();
        let registration = registration(id, 1, serving.endpoint());
        self.serving.push(serving);
        self.bricks.push(brick.clone());
        self.beating.push(self.beaters.spawn(beat(brick, net, self.endpoint())));
        registration
    }

    /// One more brick gets its number and comes up.
    pub async fn join(&mut self) -> BrickId {
        let id = self.bricks.len() as u32;
        let up = self.make_brick(id).await;
        let (store, node, host, endpoint) = (up.store, up.node, up.host.clone(), up.endpoint);
        let new = NewBrick { store, node, host, endpoint };
        assert_eq!(self.ask(ClusterRequest::AddBrick(new)).await, Ok(ClusterReply::Added(BrickId(id))));
        self.ask(ClusterRequest::ComeUp { brick: up, lives: Vec::new(), saw: None, records: 0 })
            .await
            .unwrap();
        BrickId(id)
    }

    pub fn endpoint(&self) -> Endpoint {
        self.config.listen
    }

    pub fn net(&self, role: Role, node: u8) -> Net {
        net(&self.authority, &self.hub, role, node)
    }

    pub async fn ask(&self, request: ClusterRequest) -> Result<ClusterReply, Status> {
        match call(&self.admin, self.endpoint(), None, 0, MetaRequest::Cluster(request)).await? {
            MetaReply::Cluster(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub async fn map(&self) -> ClusterMap {
        match self.ask(ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 }).await {
            Ok(ClusterReply::Map(map)) => map,
            other => panic!("{other:?}"),
        }
    }

    pub async fn status(&self) -> ClusterStatus {
        match self.ask(ClusterRequest::Status).await {
            Ok(ClusterReply::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// A brick begins a new life and says so.
    pub async fn reboot(&self, id: u32, boot: u64) -> Result<ClusterReply, Status> {
        self.bricks[id as usize].boot.store(boot, Ordering::SeqCst);
        let endpoint = self.serving[id as usize].endpoint();
        self.ask(ClusterRequest::ComeUp {
            brick: registration(id, boot, endpoint),
            lives: Vec::new(),
            saw: None,
            records: 0,
        })
        .await
    }

    /// The same of a brick whose disk knows these lives.
    pub async fn reboot_knowing(&self, id: u32, boot: u64, lives: &[u64]) -> Result<ClusterReply, Status> {
        let brick = registration(id, boot, self.serving[id as usize].endpoint());
        let lives = lives.iter().map(|boot| BootId(*boot)).collect();
        let answer = self.ask(ClusterRequest::ComeUp { brick, lives, saw: None, records: 0 }).await;
        if answer.is_ok() {
            self.bricks[id as usize].boot.store(boot, Ordering::SeqCst);
        }
        answer
    }

    /// A brick's connections end, as those of a process do that is killed; its address stays.
    pub fn hang_up(&self, id: usize) {
        self.beating[id].abort();
    }

    /// A brick's process ends: nobody listens any more.
    pub async fn kill(&mut self, id: usize) {
        self.hang_up(id);
        self.serving.remove(id).stop(Duration::ZERO).await;
    }

    /// The heads of chains say that members which are being brought up to date are.
    pub async fn sync_all(&self) {
        for chain in self.map().await.chains.values() {
            for brick in chain.syncing() {
                let request = ClusterRequest::SyncDone { chain: chain.id, epoch: chain.epoch, brick };
                // The chain may have changed meanwhile.
                if let Err(status) = self.ask(request).await {
                    assert!(matches!(status, Status::ChainChanged(_) | Status::WrongMember), "{status}");
                }
            }
        }
    }

    pub async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.restart_stopped().await;
    }

    pub async fn restart_stopped(&mut self) {
        let net = self.net(Role::Namespace, 251);
        self.running = Some(start(self.config.clone(), net).await.unwrap());
    }

    pub async fn client(&self, node: u8) -> Client {
        self.try_client(node, Sharing::Shared).await.unwrap()
    }

    pub async fn try_client(&self, node: u8, sharing: Sharing) -> Result<Client, Status> {
        let net = self.net(Role::Client, node);
        let client = ClusterRequest::OpenSession {
            client: NodeId([node; 16]),
            host: format!("host{node}"),
            mount: "/mnt".into(),
            sharing,
            class: SessionClass::Standard,
        };
        let reply = call(&net, self.endpoint(), None, 0, MetaRequest::Cluster(client)).await?;
        let MetaReply::Cluster(ClusterReply::Session(grant)) = reply else { panic!("{reply:?}") };
        Ok(Client { net, to: self.endpoint(), session: grant.session, seq: AtomicU64::new(0) })
    }

    pub async fn sound(&self) {
        let check = MetaRequest::Check(CheckRequest::Namespace);
        match call(&self.admin, self.endpoint(), None, 0, check).await {
            Ok(MetaReply::Check(CheckReply::Problems { problems, .. })) => {
                assert_eq!(problems, Vec::<String>::new());
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn cut_by(&self, ino: Ino, size: u64) -> BTreeSet<u32> {
        let has = |b: &&Arc<FakeBrick>| b.cuts.lock().unwrap().contains(&(ino, size));
        self.bricks.iter().filter(has).map(|b| b.id).collect()
    }
}

pub fn net(authority: &Authority, hub: &MemoryHub, role: Role, node: u8) -> Net {
    let credential = authority.issue(role, NodeId([node; 16])).unwrap();
    Net::new(&credential, hub.clone(), NetConfig::default()).unwrap()
}

pub async fn call(
    net: &Net,
    to: Endpoint,
    session: Option<SessionId>,
    seq: u64,
    request: MetaRequest,
) -> Result<MetaReply, Status> {
    let call = MetaCall { session, seq: CallSeq(seq), answered_below: CallSeq(0), request };
    match net.request::<MetaProtocol>(&to, &call, Bytes::new(), Instant::now() + LONG).await {
        Ok((reply, _)) => Ok(reply),
        Err(CallError::Status(status)) => Err(status),
        Err(error) => panic!("{error}"),
    }
}

/// Beats for a brick in the life it is in, for as long as it wants.
async fn beat(brick: Arc<FakeBrick>, net: Net, to: Endpoint) {
    let mut has = MapEpoch(0);
    loop {
        if brick.beats.load(Ordering::SeqCst) {
            let boot = brick.boot.load(Ordering::SeqCst);
            let request = MetaRequest::Cluster(ClusterRequest::Heartbeat {
                brick: BrickId(brick.id),
                boot: BootId(boot),
                map: has,
                report: BrickReport {
                    total_bytes: 1000 << 30,
                    free_bytes: 500 << 30,
                    ..BrickReport::default()
                },
            });
            let call = MetaCall { session: None, seq: CallSeq(0), answered_below: CallSeq(0), request };
            // The namespace may be down for a moment.
            let beat = net.request::<MetaProtocol>(&to, &call, Bytes::new(), Instant::now() + LONG).await;
            if let Ok((MetaReply::Cluster(ClusterReply::Heartbeat { register: false, map }), _)) = beat {
                has = map;
                let (id, life) = (BrickId(brick.id), BootId(boot));
                let holdings = ClusterRequest::Holdings { brick: id, boot: life, bytes: Vec::new() };
                let request = MetaRequest::Cluster(holdings);
                let call = MetaCall { session: None, seq: CallSeq(0), answered_below: CallSeq(0), request };
                // Told again with the next beat.
                let _ = net.request::<MetaProtocol>(&to, &call, Bytes::new(), Instant::now() + LONG).await;
                brick.heard.store(boot, Ordering::SeqCst);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub struct Client {
    pub net: Net,
    pub to: Endpoint,
    pub session: SessionId,
    pub seq: AtomicU64,
}

impl Client {
    pub fn next(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub async fn fs_as(&self, seq: u64, request: FsRequest) -> Result<FsReply, Status> {
        match call(&self.net, self.to, Some(self.session), seq, MetaRequest::Fs(request)).await? {
            MetaReply::Fs(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub async fn fs(&self, request: FsRequest) -> Result<FsReply, Status> {
        self.fs_as(self.next(), request).await
    }

    pub async fn attr(&self, request: FsRequest) -> Result<Attr, Status> {
        match self.fs(request).await? {
            FsReply::Attr(attr) | FsReply::Created { attr, .. } => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    pub async fn cluster(&self, request: ClusterRequest) -> Result<ClusterReply, Status> {
        match call(&self.net, self.to, Some(self.session), 0, MetaRequest::Cluster(request)).await? {
            MetaReply::Cluster(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub async fn renew(&self, open: Option<Vec<(Ino, Access)>>) -> Result<bool, Status> {
        match self.cluster(ClusterRequest::Renew { map: MapEpoch(0), open }).await? {
            ClusterReply::Renewed { tell_open, .. } => Ok(tell_open),
            other => panic!("{other:?}"),
        }
    }

    /// A file with `end` bytes that is closed again.
    pub async fn file(&self, text: &str, end: u64) -> Ino {
        let ino = self.create(text, Access::Write).await;
        let report = WriteReport {
            end,
            mtime: Timestamp::now(),
            allocated_delta_bytes: end as i64,
            ..WriteReport::NOTHING
        };
        self.fs(FsRequest::ReportWrite { ino, report, then: None, closes: true }).await.unwrap();
        ino
    }

    pub async fn create(&self, text: &str, access: Access) -> Ino {
        let request = FsRequest::Create {
            parent: Ino::ROOT,
            name: Name::new(text.as_bytes().to_vec()).unwrap(),
            new: NewInode { mode: 0o644, umask: 0, uid: 1, gid: 1 },
            exclusive: false,
            access,
        };
        self.attr(request).await.unwrap().ino
    }

    pub async fn unlink(&self, text: &str) {
        let name = Name::new(text.as_bytes().to_vec()).unwrap();
        self.fs(FsRequest::Unlink { parent: Ino::ROOT, name }).await.unwrap();
    }

    pub async fn set_size(&self, ino: Ino, size: u64) -> Result<Attr, Status> {
        let changes = AttrChanges { size: Some(size), ..AttrChanges::default() };
        self.attr(FsRequest::SetAttr { ino, changes }).await
    }
}

/// Waits until `holds` gives something; fails when that takes too long.
pub async fn until<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let found = timeout(LONG, async {
        loop {
            if let Some(found) = holds().await {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// What a crash would leave: the directory as it is now.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
