//! A cluster for tests: bricks in temporary directories, a fake namespace, a client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brick_server::{Config, Running};
use bytes::Bytes;
use tokio::time::Instant;
use wire::brick::{
    Again, BrickCall, BrickProtocol, BrickReply, BrickRequest, ChainRef, Change, ChunkSummary, TrimOrder,
    WriterId,
};
use wire::chunk::ChunkKey;
use wire::id::{
    BootId, BrickId, CallSeq, ChainEpoch, ChainId, ChunkVersion, ClusterId, Ino, MapEpoch, NodeId, SessionId,
};
use wire::map::{BrickInfo, Chain, ClusterMap, Member, MemberState};
use wire::meta::{BrickReport, ClusterReply, ClusterRequest, MetaCall, MetaProtocol, MetaReply, MetaRequest};
use wire::net::{
    Authority, BoxFuture, CallError, Endpoint, MemoryHub, Net, NetConfig, Peer, Role, Service, Serving,
    TypedHandler, typed::Typed,
};
use wire::status::Status;

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const CHAIN: ChainId = ChainId(1);
/// Longest any test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn key(ino: u64, index: u64) -> ChunkKey {
    ChunkKey { ino: Ino(ino), index }
}

/// A namespace that registers bricks and otherwise does what the test tells it.
pub struct FakeNamespace {
    map: Mutex<ClusterMap>,
    reports: Mutex<BTreeMap<BrickId, (BootId, BrickReport)>>,
    silent: AtomicBool,
    directory: Mutex<(String, usize)>,
}

impl FakeNamespace {
    fn new() -> FakeNamespace {
        FakeNamespace {
            map: Mutex::new(ClusterMap::new(CLUSTER, 2)),
            reports: Mutex::default(),
            silent: AtomicBool::new(false),
            directory: Mutex::new(("old".to_owned(), 0)),
        }
    }

    pub fn map(&self) -> ClusterMap {
        self.map.lock().unwrap().clone()
    }

    /// Changes the map, giving it a new epoch.
    pub fn change(&self, change: impl FnOnce(&mut ClusterMap)) {
        let mut map = self.map.lock().unwrap();
        change(&mut map);
        map.epoch.0 += 1;
        map.verify().unwrap();
    }

    /// Puts another map in the place of its own, be it older.
    pub fn set_back(&self, map: ClusterMap) {
        map.verify().unwrap();
        *self.map.lock().unwrap() = map;
    }

    /// Sets the members of a chain, giving it a new epoch.
    pub fn set_chain(&self, id: ChainId, members: &[(u32, MemberState)]) {
        let members: Vec<_> =
            members.iter().map(|&(brick, state)| Member { brick: BrickId(brick), state }).collect();
        self.change(|map| {
            let chain = map.chains.entry(id).or_insert(Chain { id, epoch: ChainEpoch(0), members: vec![] });
            chain.epoch.0 += 1;
            chain.members = members;
        });
    }

    pub fn report(&self, brick: u32) -> Option<BrickReport> {
        self.reports.lock().unwrap().get(&BrickId(brick)).map(|(_, report)| report.clone())
    }

    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn answer(&self, request: ClusterRequest) -> Result<ClusterReply, Status> {
        if self.silent.load(Ordering::Relaxed) {
            if matches!(request, ClusterRequest::Paths(_)) {
                self.directory.lock().unwrap().1 += 1;
            }
            return Err(Status::Busy);
        }
        match request {
            ClusterRequest::GetMap { .. } | ClusterRequest::NextMap { .. } => {
                Ok(ClusterReply::Map(self.map()))
            }
            ClusterRequest::ComeUp { brick: r, .. } => {
                let info = BrickInfo {
                    id: r.brick,
                    store: r.store,
                    node: r.node,
                    host: r.host,
                    endpoint: r.endpoint,
                    boot: r.boot,
                    alive: true,
                };
                self.change(|map| {
                    map.bricks.insert(r.brick, info);
                });
                self.reports.lock().unwrap().insert(r.brick, (r.boot, BrickReport::default()));
                Ok(ClusterReply::Map(self.map()))
            }
            ClusterRequest::Heartbeat { brick, boot, report, .. } => {
                let mut reports = self.reports.lock().unwrap();
                let known = reports.get(&brick).is_some_and(|(b, _)| *b == boot);
                if known {
                    reports.insert(brick, (boot, report));
                }
                Ok(ClusterReply::Heartbeat { map: self.map().epoch, register: !known })
            }
            ClusterRequest::SyncDone { chain, epoch, brick } => {
                let fits = self.map().chains.get(&chain).is_some_and(|c| c.epoch == epoch);
                if fits {
                    self.change(|map| {
                        let chain = map.chains.get_mut(&chain).unwrap();
                        let member = chain.members.iter_mut().find(|m| m.brick == brick).unwrap();
                        member.state = MemberState::Serving;
                        chain.members.sort_by_key(|m| m.state);
                        chain.epoch.0 += 1;
                    });
                }
                Ok(ClusterReply::Map(self.map()))
            }
            // Two at a time, and odd ones have no name.
            ClusterRequest::Paths(inodes) => {
                let mut directory = self.directory.lock().unwrap();
                directory.1 += 1;
                let name = |ino: &Ino| {
                    ino.0.is_multiple_of(2).then(|| Bytes::from(format!("/{}/{ino}", directory.0)))
                };
                Ok(ClusterReply::Paths(inodes.iter().take(2).map(name).collect()))
            }
            _ => Err(Status::Malformed),
        }
    }

    /// Every file is in a directory of this name from now on.
    pub fn rename_directory(&self, name: &str) {
        self.directory.lock().unwrap().0 = name.to_owned();
    }

    /// How often it was asked for paths.
    pub fn asked_for_paths(&self) -> usize {
        self.directory.lock().unwrap().1
    }
}

impl TypedHandler<MetaProtocol> for FakeNamespace {
    fn handle(
        self: Arc<Self>,
        _: Arc<Peer>,
        call: MetaCall,
        _: Bytes,
    ) -> BoxFuture<'static, (Result<MetaReply, Status>, Bytes)> {
        let answer = match call.request {
            MetaRequest::Cluster(request) => self.answer(request).map(MetaReply::Cluster),
            _ => Err(Status::Malformed),
        };
        Box::pin(async move { (answer, Bytes::new()) })
    }
}

/// Everything a test needs.
pub struct Cluster {
    pub namespace: Arc<FakeNamespace>,
    authority: Authority,
    hub: MemoryHub,
    dir: tempfile::TempDir,
    bricks: BTreeMap<u32, Running>,
    namespace_at: Endpoint,
    client: Net,
    calls: AtomicU64,
    _serving: Serving,
}

impl Cluster {
    /// Bricks 0..n, formatted and serving; no chains yet.
    pub async fn start(n: u32) -> Cluster {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let authority = Authority::create(CLUSTER).unwrap();
        let hub = MemoryHub::new();
        let namespace = Arc::new(FakeNamespace::new());
        let net = net(&authority, &hub, Role::Namespace, 1);
        let handler = Typed::<MetaProtocol, _>::handler(namespace.clone());
        let serving = net.serve(&Endpoint::Memory(0), Service::Namespace, handler).await.unwrap();
        let mut cluster = Cluster {
            namespace,
            client: self::net(&authority, &hub, Role::Client, 2),
            authority,
            hub,
            dir: tempfile::tempdir().unwrap(),
            bricks: BTreeMap::new(),
            namespace_at: serving.endpoint(),
            calls: AtomicU64::new(1),
            _serving: serving,
        };
        for brick in 0..n {
            brick_server::format(&cluster.dir_of(brick), CLUSTER, BrickId(brick)).unwrap();
            cluster.up(brick).await;
        }
        cluster
    }

    /// Two bricks, one chain.
    pub async fn pair() -> Cluster {
        let cluster = Cluster::start(2).await;
        cluster.namespace.set_chain(CHAIN, &[(0, MemberState::Serving), (1, MemberState::Serving)]);
        cluster.until_readable(&[0, 1]).await;
        cluster
    }

    pub fn dir_of(&self, brick: u32) -> PathBuf {
        self.dir.path().join(format!("brick{brick}"))
    }

    pub fn config(&self, brick: u32) -> Config {
        let mut config = Config::new(
            self.dir_of(brick),
            BrickId(brick),
            CLUSTER,
            NodeId([brick as u8; 16]),
            format!("host{brick}"),
            Endpoint::Memory(0),
            vec![self.namespace_at],
        );
        config.heartbeat = Duration::from_millis(50);
        // Bytes are in the data files at once, where tests flip them.
        config.limits.small_bytes = 0;
        config
    }

    pub fn net(&self, role: Role) -> Net {
        net(&self.authority, &self.hub, role, 9)
    }

    /// Starts a brick and waits until the namespace knows it.
    pub async fn up(&mut self, brick: u32) {
        let config = self.config(brick);
        self.up_with(brick, config).await;
    }

    pub async fn up_with(&mut self, brick: u32, config: Config) {
        let net = net(&self.authority, &self.hub, Role::Brick, brick as u8);
        let running = brick_server::start(config, net).await.unwrap();
        let boot = running.registrations()[0].boot;
        self.bricks.insert(brick, running);
        let namespace = self.namespace.clone();
        until("the brick has registered", || {
            let map = namespace.map();
            async move { map.bricks.get(&BrickId(brick)).is_some_and(|b| b.boot == boot) }
        })
        .await;
    }

    /// Epoch of the map a brick has.
    pub fn epoch_of(&self, brick: u32) -> MapEpoch {
        self.bricks[&brick].map().unwrap().epoch
    }

    /// Why the namespace does not let a brick in.
    pub fn refusal(&self, brick: u32) -> Option<Status> {
        self.bricks[&brick].refusals().first().map(|(_, why, _)| *why)
    }

    /// Stops a brick cleanly.
    pub async fn down(&mut self, brick: u32) {
        self.bricks.remove(&brick).unwrap().stop().await.unwrap();
    }

    /// Ends a brick as a kill would.
    pub async fn crash(&mut self, brick: u32) {
        self.bricks.remove(&brick).unwrap().crash().await.unwrap();
    }

    pub fn metrics(&self, brick: u32) -> brick_server::Snapshot {
        self.bricks[&brick].metrics()[0].1
    }

    pub fn chain(&self, id: ChainId) -> ChainRef {
        ChainRef { id, epoch: self.namespace.map().chains[&id].epoch }
    }

    pub fn head(&self, id: ChainId) -> u32 {
        self.namespace.map().chains[&id].head().unwrap().0
    }

    pub fn writer(&self) -> WriterId {
        WriterId { session: SessionId(1), seq: CallSeq(self.calls.fetch_add(1, Ordering::Relaxed)) }
    }

    /// One call with everything as the caller gives it.
    pub async fn raw(
        &self,
        net: &Net,
        brick: u32,
        map: MapEpoch,
        request: BrickRequest,
        payload: Bytes,
    ) -> Result<(BrickReply, Bytes), CallError> {
        let Some(endpoint) = self.namespace.map().endpoint_of(BrickId(brick)).copied() else {
            return Err(CallError::Status(Status::Busy));
        };
        let call = BrickCall { brick: BrickId(brick), map, request };
        let deadline = Instant::now() + Duration::from_secs(12);
        net.request::<BrickProtocol>(&endpoint, &call, payload, deadline).await
    }

    /// One call as a client with the newest map.
    pub async fn call(
        &self,
        brick: u32,
        request: BrickRequest,
        payload: Bytes,
    ) -> Result<(BrickReply, Bytes), CallError> {
        self.raw(&self.client, brick, self.namespace.map().epoch, request, payload).await
    }

    pub async fn try_change(
        &self,
        key: ChunkKey,
        writer: WriterId,
        change: Change,
        data: &[u8],
    ) -> Result<BrickReply, CallError> {
        self.try_change_again(key, writer, change, data, None).await
    }

    /// `again`: when it was acknowledged first.
    pub async fn try_change_again(
        &self,
        key: ChunkKey,
        writer: WriterId,
        change: Change,
        data: &[u8],
        again: Option<Again>,
    ) -> Result<BrickReply, CallError> {
        let request = BrickRequest::Change {
            chain: self.chain(CHAIN),
            key,
            writer,
            answered_below: CallSeq(0),
            change,
            again,
        };
        let sent = self.call(self.head(CHAIN), request, Bytes::copy_from_slice(data)).await;
        sent.map(|(reply, _)| reply)
    }

    /// Changes a chunk, again and again until it is done.
    pub async fn change(
        &self,
        key: ChunkKey,
        change: Change,
        data: &[u8],
    ) -> (ChunkVersion, i64, Vec<(BrickId, BootId)>) {
        self.change_again(key, change, data, None).await
    }

    /// [`Cluster::change`] of one that was acknowledged before, perhaps.
    pub async fn change_again(
        &self,
        key: ChunkKey,
        change: Change,
        data: &[u8],
        again: Option<Again>,
    ) -> (ChunkVersion, i64, Vec<(BrickId, BootId)>) {
        let writer = self.writer();
        let begun = Instant::now();
        loop {
            match self.try_change_again(key, writer, change, data, again.clone()).await {
                Ok(BrickReply::Changed { version, allocated_delta_bytes, members }) => {
                    return (version, allocated_delta_bytes, members);
                }
                Ok(BrickReply::ThereAgain { parts, members }) => {
                    // The one that is lost first.
                    let version = parts.iter().map(|(_, version)| *version).max().unwrap();
                    return (version, 0, members);
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) if begun.elapsed() > PATIENCE => panic!("not done in time: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub async fn write(&self, key: ChunkKey, offset: u32, data: &[u8]) -> ChunkVersion {
        self.change(key, Change::Write { offset }, data).await.0
    }

    pub async fn try_read(
        &self,
        brick: u32,
        key: ChunkKey,
        offset: u32,
        len: u32,
    ) -> Result<(ChunkVersion, Bytes), CallError> {
        let request = BrickRequest::Read { chain: self.chain(CHAIN), key, offset, len };
        match self.call(brick, request, Bytes::new()).await? {
            (BrickReply::Read { version }, data) => Ok((version, data)),
            other => panic!("{other:?}"),
        }
    }

    /// Reads from a member, again and again while it is busy.
    pub async fn read(&self, brick: u32, key: ChunkKey, offset: u32, len: u32) -> Bytes {
        let begun = Instant::now();
        loop {
            match self.try_read(brick, key, offset, len).await {
                Ok((_, data)) => return data,
                Err(error) if begun.elapsed() > PATIENCE => panic!("not read in time: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub async fn commit(&self, brick: u32) -> BootId {
        match self.call(brick, BrickRequest::Commit, Bytes::new()).await.unwrap().0 {
            BrickReply::Committed { boot } => boot,
            other => panic!("{other:?}"),
        }
    }

    pub async fn trim(&self, brick: u32, ino: u64, size: u64) -> u64 {
        let request =
            BrickRequest::Trim { ino: Ino(ino), chunk_bytes: 4 << 20, size, order: TrimOrder::default() };
        let net = self.net(Role::Namespace);
        match self.raw(&net, brick, MapEpoch(0), request, Bytes::new()).await.unwrap().0 {
            BrickReply::Trimmed { freed_bytes, .. } => freed_bytes,
            other => panic!("{other:?}"),
        }
    }

    /// Everything a brick holds, with the hash of its content.
    pub async fn holds(&self, brick: u32) -> Vec<(ChunkSummary, [u8; 32], u32)> {
        let mut all = Vec::new();
        let mut after = None;
        let net = self.net(Role::Admin);
        loop {
            let request = BrickRequest::List { chain: None, after, max: 50 };
            let reply = self.raw(&net, brick, MapEpoch(0), request, Bytes::new()).await.unwrap().0;
            let BrickReply::Chunks { chunks, end } = reply else { panic!("{reply:?}") };
            for chunk in chunks {
                after = Some(chunk.key);
                let request = BrickRequest::Verify { key: chunk.key };
                let reply = self.raw(&net, brick, MapEpoch(0), request, Bytes::new()).await.unwrap().0;
                let BrickReply::Verified { hash, corrupt_blocks } = reply else { panic!("{reply:?}") };
                all.push((ChunkSummary { allocated_bytes: 0, writer: None, ..chunk }, hash, corrupt_blocks));
            }
            if end {
                return all;
            }
        }
    }

    /// Waits until the copies of these bricks are equal and good.
    pub async fn until_equal(&self, a: u32, b: u32) {
        until("the copies are equal", || async move {
            let (x, y) = (self.holds(a).await, self.holds(b).await);
            x == y && x.iter().all(|(_, _, corrupt)| *corrupt == 0)
        })
        .await;
    }

    /// Waits until these members serve reads.
    pub async fn until_readable(&self, bricks: &[u32]) {
        for brick in bricks {
            self.read(*brick, key(0, 0), 0, 0).await;
        }
    }
}

fn net(authority: &Authority, hub: &MemoryHub, role: Role, number: u8) -> Net {
    let credential = authority.issue(role, NodeId([number; 16])).unwrap();
    let config = NetConfig {
        backoff_first: Duration::from_millis(1),
        backoff_most: Duration::from_millis(5),
        ..NetConfig::default()
    };
    Net::new(&credential, hub.clone(), config).unwrap()
}

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < PATIENCE, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn status(result: Result<impl std::fmt::Debug, CallError>) -> Status {
    match result {
        Err(CallError::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// Flips a byte wherever `pattern` lies in a brick's data. Returns how often.
pub fn flip(dir: &Path, pattern: &[u8]) -> usize {
    let path = dir.join("data.0");
    let mut data = std::fs::read(&path).unwrap();
    let mut found = 0;
    let mut at = 0;
    while at + pattern.len() <= data.len() {
        // Blocks begin at multiples of 4 KiB, and patterns are put at their beginnings.
        if data[at..at + pattern.len()] == *pattern {
            data[at + 3] ^= 0x40;
            found += 1;
        }
        at += 4096;
    }
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&data, 0).unwrap();
    found
}
