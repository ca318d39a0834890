//! A cluster in memory: one namespace, three bricks in chains of two, and knobs to break them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brickyard_fs_client::{Client, ClientConfig, OpenOptions};
use bytes::Bytes;
use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest, Change, ChunkSummary, Extent};
use wire::chunk::{BLOCK_BYTES, ChunkKey};
use wire::id::{
    BootId, BrickId, ChainEpoch, ChainId, ChunkVersion, ClusterId, Ino, MapEpoch, NodeId, StoreId,
};
use wire::map::{BrickInfo, Chain, ClusterMap, Member, MemberState};
use wire::meta::MetaProtocol;
use wire::net::typed::{Typed, TypedHandler};
use wire::net::{Authority, BoxFuture, Endpoint, MemoryHub, Net, NetConfig, Peer, Role, Service, Serving};
use wire::status::Status;

use crate::namespace::FakeNamespace;

pub const CHUNK_BYTES: u32 = 1 << 20;

/// What a brick is made to do with a call.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Answers this instead of doing it.
    Refuse(Status),
    /// Does it after so long.
    Slow(Duration),
    /// Does it, and the answer is lost.
    Mute,
}

type FaultRule = Arc<dyn Fn(BrickId, &BrickRequest) -> Option<Fault> + Send + Sync>;

#[derive(Clone, Default)]
pub struct FakeChunk {
    pub data: Vec<u8>,
    pub blocks: BTreeSet<u32>,
}

impl FakeChunk {
    fn write(&mut self, offset: u32, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[offset as usize..end].copy_from_slice(data);
        self.blocks.extend(offset / BLOCK_BYTES..(end as u32).div_ceil(BLOCK_BYTES));
    }

    fn punch(&mut self, offset: u32, len: u32) {
        let end = ((offset + len) as usize).min(self.data.len());
        if (offset as usize) < end {
            self.data[offset as usize..end].fill(0);
        }
        let last = if end == self.data.len() { u32::MAX } else { (offset + len) / BLOCK_BYTES };
        self.blocks.retain(|b| *b < offset.div_ceil(BLOCK_BYTES) || *b >= last);
    }

    fn cut(&mut self, len: usize) {
        self.data.truncate(len);
        self.blocks.retain(|b| (*b * BLOCK_BYTES) < len as u32);
    }

    fn extents(&self) -> Vec<Extent> {
        let mut out: Vec<Extent> = Vec::new();
        for block in &self.blocks {
            let offset = block * BLOCK_BYTES;
            let len = BLOCK_BYTES.min(self.data.len() as u32 - offset);
            match out.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => out.push(Extent { offset, len }),
            }
        }
        out
    }
}

#[derive(Default)]
pub struct FakeBrick {
    pub boot: u64,
    pub memory: BTreeMap<ChunkKey, FakeChunk>,
    pub durable: BTreeMap<ChunkKey, FakeChunk>,
}

/// Everything the fakes share.
pub struct World {
    pub map: tokio::sync::watch::Sender<ClusterMap>,
    pub bricks: Mutex<BTreeMap<BrickId, FakeBrick>>,
    pub fault: Mutex<Option<FaultRule>>,
    /// Changes being carried out: chunk, start and end.
    pub changing: Mutex<Vec<(ChunkKey, u32, u32)>>,
    pub overlaps: AtomicUsize,
    pub changing_bytes: AtomicU64,
    pub most_changing_bytes: AtomicU64,
    pub changes: AtomicU64,
    pub commits: AtomicU64,
    pub reads: AtomicU64,
}

impl World {
    pub fn fault(&self, rule: impl Fn(BrickId, &BrickRequest) -> Option<Fault> + Send + Sync + 'static) {
        *self.fault.lock().unwrap() = Some(Arc::new(rule));
    }

    pub fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// A brick loses what it had not committed and comes back with a new life.
    pub fn restart(&self, brick: BrickId) {
        let boot = {
            let mut bricks = self.bricks.lock().unwrap();
            let brick = bricks.get_mut(&brick).unwrap();
            brick.boot += 1;
            brick.memory = brick.durable.clone();
            brick.boot
        };
        self.map.send_modify(|map| {
            map.epoch.0 += 1;
            map.bricks.get_mut(&brick).unwrap().boot = BootId(boot);
        });
    }

    pub fn set_state(&self, brick: BrickId, state: MemberState) {
        self.map.send_modify(|map| {
            map.epoch.0 += 1;
            let epoch = map.epoch.0;
            for chain in map.chains.values_mut() {
                if let Some(member) = chain.members.iter_mut().find(|m| m.brick == brick) {
                    member.state = state;
                    chain.epoch = ChainEpoch(epoch);
                    chain.members.sort_by_key(|m| m.state != MemberState::Serving);
                }
            }
        });
    }

    /// What is durable of a file on every member of its chains, or a panic if they differ.
    pub fn durable_file(&self, ino: Ino, layout: &wire::layout::FileLayout, size: u64) -> Vec<u8> {
        let map = self.map.borrow().clone();
        let bricks = self.bricks.lock().unwrap();
        let mut out = vec![0; size as usize];
        for piece in layout.pieces(0, size, CHUNK_BYTES) {
            let chain = &map.chains[&layout.chain(&map, piece.index).unwrap()];
            let copies: Vec<Vec<u8>> = chain
                .serving()
                .map(|b| {
                    let mut data =
                        bricks[&b].durable.get(&piece.key(ino)).map(|c| c.data.clone()).unwrap_or_default();
                    data.resize(CHUNK_BYTES as usize, 0);
                    data
                })
                .collect();
            assert!(copies.windows(2).all(|w| w[0] == w[1]), "members differ in chunk {}", piece.index);
            let at = piece.at as usize;
            out[at..at + piece.len as usize].copy_from_slice(&copies[0][..piece.len as usize]);
        }
        out
    }

    pub fn trim(&self, ino: Ino, size: u64) {
        for brick in self.bricks.lock().unwrap().values_mut() {
            for chunks in [&mut brick.memory, &mut brick.durable] {
                chunks.retain(|key, chunk| {
                    if key.ino != ino {
                        return true;
                    }
                    let start = key.index * u64::from(CHUNK_BYTES);
                    if start >= size {
                        return false;
                    }
                    chunk.cut(((size - start).min(u64::from(CHUNK_BYTES)) as usize).min(chunk.data.len()));
                    true
                });
            }
        }
    }

    fn serve(&self, call: &BrickCall, payload: &Bytes) -> Result<(BrickReply, Bytes), Status> {
        let map = self.map.borrow().clone();
        let check = |chain: &wire::brick::ChainRef| {
            let known = &map.chains[&chain.id];
            if known.epoch != chain.epoch {
                return Err(Status::ChainChanged(known.epoch));
            }
            if known.state_of(call.brick) != Some(MemberState::Serving) {
                return Err(Status::WrongMember);
            }
            Ok(known.clone())
        };
        let mut bricks = self.bricks.lock().unwrap();
        let mine = bricks.get_mut(&call.brick).unwrap();
        match &call.request {
            BrickRequest::Read { chain, key, offset, len } => {
                check(chain)?;
                self.reads.fetch_add(1, Ordering::Relaxed);
                let data = mine.memory.get(key).map(|c| c.data.as_slice()).unwrap_or_default();
                let from = (*offset as usize).min(data.len());
                let to = ((offset + len) as usize).min(data.len());
                Ok((BrickReply::Read { version: ChunkVersion(1) }, Bytes::copy_from_slice(&data[from..to])))
            }
            BrickRequest::Change { chain, key, change, .. } => {
                let chain = check(chain)?;
                if chain.head() != Some(call.brick) {
                    return Err(Status::WrongMember);
                }
                let mut members = Vec::new();
                let mut delta = 0;
                for member in chain.serving() {
                    let brick = bricks.get_mut(&member).unwrap();
                    let chunk = brick.memory.entry(*key).or_default();
                    let before = chunk.blocks.len() as i64;
                    match change {
                        Change::Write { offset } => chunk.write(*offset, payload),
                        Change::Punch { offset, len } => chunk.punch(*offset, *len),
                    }
                    delta = (chunk.blocks.len() as i64 - before) * i64::from(BLOCK_BYTES);
                    members.push((member, BootId(brick.boot)));
                }
                self.changes.fetch_add(1, Ordering::Relaxed);
                let changed =
                    BrickReply::Changed { version: ChunkVersion(1), allocated_delta_bytes: delta, members };
                Ok((changed, Bytes::new()))
            }
            BrickRequest::Commit => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                mine.durable = mine.memory.clone();
                Ok((BrickReply::Committed { boot: BootId(mine.boot) }, Bytes::new()))
            }
            BrickRequest::Extents { chain, key } => {
                check(chain)?;
                let chunk = mine.memory.get(key).cloned().unwrap_or_default();
                let extents = chunk.extents();
                Ok((BrickReply::Extents { len: chunk.data.len() as u32, extents }, Bytes::new()))
            }
            BrickRequest::ListFile { chain, ino, from, max } => {
                check(chain)?;
                let layout = crate::namespace::layout_of(*ino);
                let first = ChunkKey { ino: *ino, index: *from };
                let last = ChunkKey { ino: *ino, index: u64::MAX };
                let mut chunks: Vec<ChunkSummary> = mine
                    .memory
                    .range(first..=last)
                    .filter(|(key, _)| layout.chain(&map, key.index) == Some(chain.id))
                    .map(|(key, chunk)| ChunkSummary {
                        key: *key,
                        chain: chain.id,
                        version: ChunkVersion(1),
                        len: chunk.data.len() as u32,
                        allocated_bytes: chunk.blocks.len() as u32 * BLOCK_BYTES,
                        digest: 0,
                        writer: None,
                    })
                    .collect();
                let end = chunks.len() <= *max as usize;
                chunks.truncate(*max as usize);
                Ok((BrickReply::Chunks { chunks, end }, Bytes::new()))
            }
            _ => Err(Status::Malformed),
        }
    }
}

struct BrickService(Arc<World>);

impl TypedHandler<BrickProtocol> for BrickService {
    fn handle(
        self: Arc<Self>,
        _peer: Arc<Peer>,
        call: BrickCall,
        payload: Bytes,
    ) -> BoxFuture<'static, (Result<BrickReply, Status>, Bytes)> {
        Box::pin(async move {
            let world = &self.0;
            let rule = world.fault.lock().unwrap().clone();
            let fault = rule.and_then(|rule| rule(call.brick, &call.request));
            let run = match &call.request {
                BrickRequest::Change { key, change, .. } => {
                    let (from, len) = match change {
                        Change::Write { offset } => (*offset, payload.len() as u32),
                        Change::Punch { offset, len } => (*offset, *len),
                    };
                    Some((*key, from, from + len))
                }
                _ => None,
            };
            if let Some((key, from, to)) = run {
                let mut changing = world.changing.lock().unwrap();
                if changing.iter().any(|(k, f, t)| *k == key && *f < to && from < *t) {
                    world.overlaps.fetch_add(1, Ordering::Relaxed);
                }
                changing.push((key, from, to));
                drop(changing);
                let now = world.changing_bytes.fetch_add(payload.len() as u64, Ordering::SeqCst)
                    + payload.len() as u64;
                world.most_changing_bytes.fetch_max(now, Ordering::SeqCst);
            }
            if let Some(Fault::Slow(time)) = fault {
                tokio::time::sleep(time).await;
            }
            let answer = match fault {
                Some(Fault::Refuse(status)) => Err(status),
                _ => world.serve(&call, &payload),
            };
            if let Some(run) = run {
                let mut changing = world.changing.lock().unwrap();
                let at = changing.iter().position(|r| *r == run).unwrap();
                changing.swap_remove(at);
                world.changing_bytes.fetch_sub(payload.len() as u64, Ordering::SeqCst);
            }
            if let Some(Fault::Mute) = fault {
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            match answer {
                Ok((reply, payload)) => (Ok(reply), payload),
                Err(status) => (Err(status), Bytes::new()),
            }
        })
    }
}

/// A running cluster.
pub struct Cluster {
    pub world: Arc<World>,
    pub namespace: Arc<FakeNamespace>,
    authority: Authority,
    hub: MemoryHub,
    _serving: Vec<Serving>,
}

pub const NAMESPACE: Endpoint = Endpoint::Memory(1);

fn net(authority: &Authority, hub: &MemoryHub, role: Role, node: u8) -> Net {
    let credential = authority.issue(role, NodeId([node; 16])).unwrap();
    Net::new(&credential, hub.clone(), NetConfig::default()).unwrap()
}

impl Cluster {
    pub async fn start() -> Cluster {
        let cluster = ClusterId([7; 16]);
        let authority = Authority::create(cluster).unwrap();
        let hub = MemoryHub::new();
        let mut map = ClusterMap::new(cluster, 2);
        let mut bricks = BTreeMap::new();
        for number in 0..3 {
            let id = BrickId(number);
            map.bricks.insert(
                id,
                BrickInfo {
                    id,
                    store: StoreId([number as u8; 16]),
                    node: NodeId([9; 16]),
                    host: format!("host{number}"),
                    endpoint: Endpoint::Memory(10 + u64::from(number)),
                    boot: BootId(1),
                    alive: true,
                },
            );
            bricks.insert(id, FakeBrick { boot: 1, ..FakeBrick::default() });
            let member = |brick| Member { brick: BrickId(brick), state: MemberState::Serving };
            map.chains.insert(
                ChainId(number),
                Chain {
                    id: ChainId(number),
                    epoch: ChainEpoch(1),
                    members: vec![member(number), member((number + 1) % 3)],
                },
            );
        }
        map.add_table(map.chains.keys().copied().collect());
        map.epoch = MapEpoch(2);
        map.verify().unwrap();
        let world = Arc::new(World {
            map: tokio::sync::watch::Sender::new(map),
            bricks: Mutex::new(bricks),
            fault: Mutex::default(),
            changing: Mutex::default(),
            overlaps: AtomicUsize::new(0),
            changing_bytes: AtomicU64::new(0),
            most_changing_bytes: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        });
        let namespace = Arc::new(FakeNamespace::new(world.clone()));
        let server = net(&authority, &hub, Role::Admin, 1);
        let mut serving = vec![
            server
                .serve(&NAMESPACE, Service::Namespace, Typed::<MetaProtocol, _>::handler(namespace.clone()))
                .await
                .unwrap(),
        ];
        for number in 0..3 {
            let handler = Typed::<BrickProtocol, _>::handler(Arc::new(BrickService(world.clone())));
            serving
                .push(server.serve(&Endpoint::Memory(10 + number), Service::Brick, handler).await.unwrap());
        }
        Cluster { world, namespace, authority, hub, _serving: serving }
    }

    pub fn config(&self) -> ClientConfig {
        ClientConfig {
            deadline: Duration::from_secs(20),
            attempt_timeout: Duration::from_millis(500),
            ..ClientConfig::new(NodeId([5; 16]), vec![NAMESPACE])
        }
    }

    pub async fn client_with(&self, config: ClientConfig) -> Client {
        Client::connect(config, net(&self.authority, &self.hub, Role::Client, 5)).await.unwrap()
    }

    pub async fn client(&self) -> Client {
        self.client_with(self.config()).await
    }
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn read_write() -> OpenOptions {
    OpenOptions::read_write()
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
