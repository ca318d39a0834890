//! One run: bricks that come and go, the faults, and the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use wire::brick::{BrickCall, BrickProtocol, BrickReply};
use wire::id::{BootId, BrickId, ClusterId, NodeId, SessionId, StoreId};
use wire::map::MemberState;
use wire::meta::MetaProtocol;
use wire::net::{
    Authority, BoxFuture, Endpoint, MemoryHub, Net, NetConfig, Peer, Role, Service, Serving, TypedHandler,
    typed::Typed,
};
use wire::status::Status;

use crate::background::{self, commit::Committer};
use crate::brick::{Brick, Parts, lock};
use crate::chain::lineages::Beginning;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::namespace::Namespaces;
use crate::pool::Pool;
use crate::server::{Seat, Server};
use crate::sim::clients::{CHUNKS, CLIENTS, Client, Shared};
use crate::sim::namespace::{CHAIN, SimNamespace};
use crate::sim::oracle::Oracle;
use crate::sim::store::{Disk, SimStore};
use crate::sim::world::{Process, Sky, World};
use crate::store::ChunkStore;

const CLUSTER: ClusterId = ClusterId([9; 16]);
/// Longest time, in the simulation, until all is at rest once nothing fails any more.
const REST_AFTER: Duration = Duration::from_secs(300);

/// What a run is to be.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    /// Members of the chain.
    pub members: u32,
    /// Bricks there are.
    pub bricks: u32,
    /// Steps before the weather turns fair.
    pub steps: u64,
}

/// What a run was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub steps: u64,
    pub trace: u64,
    pub crashes: u64,
    pub lasted: Duration,
    pub epoch: u64,
}

fn node(brick: u32) -> NodeId {
    NodeId([brick as u8; 16])
}

/// A brick's process while it lives.
struct Running {
    brick: Arc<Brick>,
    store: Arc<SimStore>,
    process: Arc<Process>,
    tasks: JoinSet<()>,
    serving: Serving,
    _stop: watch::Sender<bool>,
}

/// Answers for a brick while its process is not frozen.
struct Door {
    server: RwLock<Option<Arc<Server>>>,
    process: Arc<Process>,
}

impl TypedHandler<BrickProtocol> for Door {
    fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: BrickCall,
        payload: Bytes,
    ) -> BoxFuture<'static, (Result<BrickReply, Status>, Bytes)> {
        let process = self.process.clone();
        Box::pin(process.subject(async move {
            let server = self.server.read().ok().and_then(|server| server.clone());
            match server {
                Some(server) => server.handle(peer, request, payload).await,
                None => (Err(Status::Busy), Bytes::new()),
            }
        }))
    }
}

struct Cluster {
    world: Arc<World>,
    namespace: Arc<SimNamespace>,
    namespace_at: Endpoint,
    nets: BTreeMap<u32, Net>,
    disks: Mutex<BTreeMap<u32, Disk>>,
    running: BTreeMap<u32, Running>,
    graves: Vec<Serving>,
    boots: u64,
    /// When the run began.
    begun: Instant,
    /// The last life of each brick.
    lives: BTreeMap<u32, BootId>,
    shared_sessions: Arc<AtomicU64>,
}

fn config(brick: u32, namespace: Endpoint) -> Config {
    let mut config = Config::new(
        "/nowhere".into(),
        BrickId(brick),
        CLUSTER,
        node(brick),
        format!("host{brick}"),
        Endpoint::Memory(0),
        vec![namespace],
    );
    // So that both ways of forwarding occur.
    config.parallel_bytes = 32;
    config
}

impl Cluster {
    async fn start(&mut self, number: u32) {
        if self.running.contains_key(&number) {
            return;
        }
        let world = self.world.clone();
        let id = BrickId(number);
        let disk = lock(&self.disks).get(&number).cloned().unwrap_or_default();
        let store = Arc::new(SimStore::open(disk));
        let net = self.nets[&number].clone();
        net.disconnect();
        self.boots += 1;
        let boot = BootId(self.boots);
        let before = self.lives.insert(number, boot);
        world.born(id, boot);
        let process = Arc::new(Process::default());
        let door = Arc::new(Door { server: RwLock::new(None), process: process.clone() });
        let handler = Typed::<BrickProtocol, _>::handler(door.clone());
        let serving = match net.serve(&Endpoint::Memory(0), Service::Brick, handler).await {
            Ok(serving) => serving,
            Err(error) => panic!("{error}"),
        };
        let endpoint = serving.endpoint();
        if let Endpoint::Memory(address) = endpoint {
            world.at_address(address, node(number));
        }
        let metrics = Arc::new(Metrics::default());
        let dynamic: Arc<dyn ChunkStore> = store.clone();
        let (for_pool, for_commits) = (world.clone(), world.clone());
        let config = config(number, self.namespace_at);
        let brick = Arc::new(Brick::new(Parts {
            committer: Committer::simulated(
                dynamic.clone(),
                metrics.clone(),
                config.commit_interval,
                move || for_commits.disk_delay(id) + for_commits.dice.ms(1, 10),
            ),
            pool: Pool::simulated(move || for_pool.disk_delay(id)),
            namespaces: Namespaces::new(vec![self.namespace_at]),
            boot,
            beginning: Beginning {
                boot,
                is_first: !lock(&self.disks).contains_key(&number),
                vouching: before,
                began_ms: self.begun.elapsed().as_millis() as u64 + 1,
            },
            lives: None,
            seen: None,
            net,
            store_id: StoreId([number as u8 + 1; 16]),
            held: None,
            store: dynamic,
            metrics,
            endpoint,
            config,
        }));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for work in background::loops(&brick, &stopped) {
            tasks.spawn(process.clone().subject(work));
        }
        if let Ok(mut server) = door.server.write() {
            let answering = Server::new([brick.id]);
            answering.seat(brick.id, Seat::Open(brick.clone()));
            *server = Some(Arc::new(answering));
        }
        self.running.insert(number, Running { brick, store, process, tasks, serving, _stop: stop });
    }

    fn crash(&mut self, number: u32) {
        let Some(mut life) = self.running.remove(&number) else { return };
        life.tasks.abort_all();
        life.process.kill();
        if let Endpoint::Memory(address) = life.serving.endpoint() {
            self.world.no_address(address);
        }
        // Whoever still has its address finds nobody; it is let go of in the end, so that what
        // ran there ends in its own order.
        self.graves.push(life.serving);
        if lock(&life.brick.lineages).is_doubtful() {
            self.lives.remove(&number);
        }
        let disk = life.store.crash(&self.world);
        lock(&self.disks).insert(number, disk);
        self.world.died(BrickId(number));
    }

    async fn set_fair(&mut self, bricks: u32) {
        self.world.be_fair();
        for number in 0..bricks {
            self.world.cut(node(number), false);
            (0..bricks).for_each(|other| self.world.join(node(number), node(other)));
            self.world.slow_down(BrickId(number), false);
            if let Some(life) = self.running.get(&number) {
                life.process.freeze(false);
                life.store.set_full(false);
            }
            self.start(number).await;
        }
    }

    /// One fault, and what ends it, later.
    async fn misfortune(&mut self, plan: &Plan, ends: &mut Vec<(Instant, End)>) {
        let world = self.world.clone();
        let dice = &world.dice;
        let number = dice.below(plan.bricks.into()) as u32;
        let now = Instant::now();
        let kind = dice.below(23);
        tracing::info!(kind, number, steps = world.steps(), "misfortune");
        match kind {
            0..=4 => {
                self.crash(number);
                ends.push((now + dice.ms(0, 6000), End::Start(number)));
            }
            5 => {
                for number in 0..plan.bricks {
                    self.crash(number);
                    ends.push((now + dice.ms(0, 3000), End::Start(number)));
                }
            }
            6..=8 => {
                if let Some(life) = self.running.get(&number) {
                    life.process.freeze(true);
                    ends.push((now + dice.ms(500, 12_000), End::Thaw(number)));
                }
            }
            9..=11 => {
                self.world.cut(node(number), true);
                ends.push((now + dice.ms(100, 6000), End::Join(number)));
            }
            12 => {
                if let Some(life) = self.running.get(&number) {
                    if dice.below(2) == 0 {
                        life.store.set_full(true);
                        ends.push((now + dice.ms(100, 3000), End::Empty(number)));
                    } else {
                        life.store.stuff();
                        ends.push((now + dice.ms(1000, 12_000), End::Empty(number)));
                    }
                }
            }
            13 | 14 => {
                let session =
                    SessionId(self.shared_sessions.load(Ordering::Relaxed) - dice.below(CLIENTS.into()));
                self.namespace.block(session);
            }
            15 => {
                world.slow_down(BrickId(number), true);
                ends.push((now + dice.ms(500, 10_000), End::Quick(number)));
            }
            16..=19 => self.namespace.substitute(BrickId(number)),
            _ => {
                let other = dice.below(plan.bricks.into()) as u32;
                if other != number {
                    self.world.part(node(number), node(other), dice.below(4) > 0);
                    ends.push((now + dice.ms(500, 20_000), End::Meet(number, other)));
                }
            }
        }
    }

    async fn end(&mut self, end: End) {
        tracing::info!(?end, "it ends");
        match end {
            End::Start(number) => self.start(number).await,
            End::Thaw(number) => {
                if let Some(life) = self.running.get(&number) {
                    life.process.freeze(false);
                }
            }
            End::Join(number) => self.world.cut(node(number), false),
            End::Meet(number, other) => self.world.join(node(number), node(other)),
            End::Quick(number) => self.world.slow_down(BrickId(number), false),
            End::Empty(number) => {
                if let Some(life) = self.running.get(&number) {
                    life.store.set_full(false);
                }
            }
        }
    }

    /// Why it is not at rest yet.
    fn unrest(&self) -> Option<String> {
        let map = self.namespace.map();
        let chain = &map.chains[&CHAIN];
        if let Some(member) = chain.members.iter().find(|m| m.state != MemberState::Serving) {
            return Some(format!("{member:?} of {chain:?}"));
        }
        let mut copies = Vec::new();
        for member in chain.serving() {
            let Some(life) = self.running.get(&member.0) else { return Some(format!("{member} is down")) };
            if !life.brick.is_sure() || life.brick.map().epoch != map.epoch {
                return Some(format!("{member} is not sure: {:?}", life.brick.standings()));
            }
            copies.push(life.store.contents());
        }
        let content = |disk: &Disk| {
            let of = |c: &crate::sim::store::Chunk| {
                (c.header.version, c.header.len, c.header.digest, c.blocks.clone())
            };
            disk.iter().map(|(key, c)| (*key, of(c))).collect::<Vec<_>>()
        };
        let first = content(&copies[0]);
        copies.iter().any(|copy| content(copy) != first).then(|| "copies differ".to_owned())
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Start(u32),
    Thaw(u32),
    Join(u32),
    Empty(u32),
    Quick(u32),
    Meet(u32, u32),
}

/// One run.
///
/// # Panics
/// If anything is wrong.
pub fn run(plan: Plan) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    match runtime {
        Ok(runtime) => runtime.block_on(story(plan)),
        Err(error) => panic!("{error}"),
    }
}

async fn story(plan: Plan) -> Done {
    let begun = Instant::now();
    let world = World::new(plan.seed);
    let hub = MemoryHub::with_weather(Arc::new(Sky(world.clone())));
    let nets = nets(plan, &hub);
    let namespace = SimNamespace::new(world.clone(), CLUSTER);
    let handler = Typed::<MetaProtocol, _>::handler(namespace.clone());
    let serving = match nets[&200].serve(&Endpoint::Memory(0), Service::Namespace, handler).await {
        Ok(serving) => serving,
        Err(error) => panic!("{error}"),
    };
    if let Endpoint::Memory(address) = serving.endpoint() {
        world.at_address(address, node(200));
    }
    let mut cluster = Cluster {
        world: world.clone(),
        namespace: namespace.clone(),
        namespace_at: serving.endpoint(),
        nets,
        disks: Mutex::default(),
        running: BTreeMap::new(),
        graves: Vec::new(),
        boots: 0,
        begun: Instant::now(),
        lives: BTreeMap::new(),
        shared_sessions: Arc::new(AtomicU64::new(CLIENTS.into())),
    };
    for number in 0..plan.bricks {
        cluster.start(number).await;
    }
    while namespace.map().bricks.len() < plan.bricks as usize {
        sleep(Duration::from_millis(10)).await;
    }
    namespace.set_replicas(plan.members as u8);
    namespace.found(&(0..plan.members).map(BrickId).collect::<Vec<_>>());
    let watching = tokio::spawn(namespace.clone().watch());
    let shared = Arc::new(Shared {
        world: world.clone(),
        oracle: Oracle::new(world.clone()),
        namespace: cluster.namespace_at,
        sessions: cluster.shared_sessions.clone(),
        stop: AtomicBool::new(false),
        turns: (0..CHUNKS).map(|_| tokio::sync::Mutex::default()).collect(),
    });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client {
            number,
            shared: shared.clone(),
            net: cluster.nets[&(100 + number)].clone(),
            map: namespace.map(),
            session: SessionId(u64::from(number) + 1),
            seq: 0,
            held: BTreeMap::new(),
        };
        clients.spawn(client.run());
    }
    let mut ends = Vec::new();
    while world.steps() < plan.steps {
        sleep(world.dice.ms(20, 1500)).await;
        // A client that panicked has found something.
        while let Some(done) = clients.try_join_next() {
            done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        let now = Instant::now();
        let due: Vec<End> = ends.iter().filter(|(at, _)| *at <= now).map(|(_, end)| *end).collect();
        ends.retain(|(at, _)| *at > now);
        for end in due {
            cluster.end(end).await;
        }
        cluster.misfortune(&plan, &mut ends).await;
    }
    cluster.set_fair(plan.bricks).await;
    shared.stop.store(true, Ordering::Relaxed);
    let fair_since = Instant::now();
    let rest = async {
        while let Some(done) = clients.join_next().await {
            done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        while cluster.unrest().is_some() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(REST_AFTER, rest).await.is_err() {
        panic!("not at rest after {:?}: {:?}", fair_since.elapsed(), cluster.unrest());
    }
    let map = namespace.map();
    let head = map.chains[&CHAIN].head().unwrap_or(BrickId(0));
    let disk = cluster.running[&head.0].store.contents();
    shared.oracle.at_rest(|(key, offset)| {
        let block = disk.get(&key).and_then(|chunk| chunk.blocks.get(&(offset / 4096)));
        let from = (offset % 4096) as usize;
        block.map_or(0, |b| b[from..from + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    });
    watching.abort();
    Done {
        steps: world.steps(),
        trace: world.trace(),
        crashes: world.crash_count(),
        lasted: begun.elapsed(),
        epoch: map.epoch.0,
    }
}

fn nets(plan: Plan, hub: &MemoryHub) -> BTreeMap<u32, Net> {
    let config = NetConfig {
        backoff_first: Duration::from_millis(1),
        backoff_most: Duration::from_millis(5),
        ..NetConfig::default()
    };
    let authority = Authority::create(CLUSTER).unwrap_or_else(|error| panic!("{error}"));
    let bricks = (0..plan.bricks).map(|n| (n, Role::Brick));
    let clients = (100..100 + CLIENTS).map(|n| (n, Role::Client));
    bricks
        .chain(clients)
        .chain([(200, Role::Namespace)])
        .map(|(number, role)| {
            let net = authority
                .issue(role, node(number))
                .ok()
                .and_then(|credential| Net::new(&credential, hub.clone(), config.clone()).ok());
            (number, net.unwrap_or_else(|| panic!("no net")))
        })
        .collect()
}
