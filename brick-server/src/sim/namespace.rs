//! The namespace of a simulation: one member, always there (messages to it are lost all the
//! same), with the law of chains as the namespace has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use wire::id::{BootId, BrickId, ChainEpoch, ChainId, ClusterId, MapEpoch, SessionId};
use wire::map::{BrickInfo, Chain, ClusterMap, Member, MemberState};
use wire::meta::{
    BrickRegistration, ClusterReply, ClusterRequest, MapMemory, MetaCall, MetaProtocol, MetaReply,
    MetaRequest,
};
use wire::net::{BoxFuture, Peer, TypedHandler};
use wire::status::Status;

use crate::brick::lock;
use crate::sim::world::World;

/// A brick not heard for so long is dead.
const DEAD_AFTER: Duration = Duration::from_millis(2500);
/// The one chain.
pub const CHAIN: ChainId = ChainId(1);

pub struct SimNamespace {
    world: Arc<World>,
    map: Mutex<ClusterMap>,
    changed: Notify,
    heard: Mutex<BTreeMap<BrickId, Instant>>,
    /// Who can't reach whom, told when first.
    apart: Mutex<BTreeMap<[(BrickId, BootId); 2], Instant>>,
}

impl SimNamespace {
    pub fn new(world: Arc<World>, cluster: ClusterId) -> Arc<SimNamespace> {
        let map = Mutex::new(ClusterMap::new(cluster, 2));
        Arc::new(SimNamespace {
            world,
            map,
            changed: Notify::new(),
            heard: Mutex::default(),
            apart: Mutex::default(),
        })
    }

    pub fn map(&self) -> ClusterMap {
        lock(&self.map).clone()
    }

    fn change(&self, change: impl FnOnce(&mut ClusterMap)) {
        let mut map = lock(&self.map);
        change(&mut map);
        map.epoch.0 += 1;
        self.changed.notify_waiters();
        if let Err(wrong) = map.verify() {
            panic!("{wrong}");
        }
        if let Some(chain) = map.chains.get(&CHAIN) {
            self.world.serving(chain.epoch.0, &chain.serving().collect::<Vec<_>>());
        }
        self.world.note(map.epoch.0);
        tracing::info!(epoch = %map.epoch, chain = ?map.chains.get(&CHAIN), "map");
    }

    /// The chain as it begins.
    pub fn found(&self, members: &[BrickId]) {
        self.change(|map| {
            let members = members.iter().map(|&brick| Member { brick, state: MemberState::Serving });
            let chain = Chain { id: CHAIN, epoch: ChainEpoch(1), members: members.collect() };
            map.chains.insert(CHAIN, chain);
        });
    }

    pub fn block(&self, session: SessionId) -> MapEpoch {
        self.change(|map| {
            map.blocked.insert(session, map.epoch);
        });
        lock(&self.map).epoch
    }

    /// Puts a brick that is no member in the place of one: it is synced first.
    pub fn substitute(&self, new: BrickId) {
        if lock(&self.map).chains[&CHAIN].state_of(new).is_none() {
            self.law(|chain| {
                chain.members.push(Member { brick: new, state: MemberState::Waiting });
            });
        }
    }

    /// Some member that nobody needs begins to leave, if there is one more than `wanted`.
    fn trim(&self, chain: &mut Chain, wanted: usize) {
        let serving: Vec<BrickId> = chain.serving().collect();
        if serving.len() > wanted {
            Self::leaves(chain, serving[self.world.dice.below(serving.len() as u64) as usize]);
        }
    }

    fn leaves(chain: &mut Chain, brick: BrickId) {
        let serves = |m: &&mut Member| m.brick == brick && m.state == MemberState::Serving;
        chain.members.iter_mut().filter(serves).for_each(|m| m.state = MemberState::Leaving);
    }

    /// A brick is known to have the map in which it is leaving: it goes, or is brought up to date.
    fn left(&self, brick: BrickId) {
        let wanted = usize::from(lock(&self.map).replicas);
        self.law(|chain| {
            if chain.serving().count() >= wanted {
                chain.members.retain(|m| m.brick != brick);
            }
            let leaves = |m: &&mut Member| m.brick == brick;
            chain.members.iter_mut().filter(leaves).for_each(|m| m.state = MemberState::Syncing);
        });
    }

    fn state_of(&self, brick: BrickId) -> Option<MemberState> {
        lock(&self.map).chains.get(&CHAIN).and_then(|chain| chain.state_of(brick))
    }

    /// Where a head can't reach a member though both are heard, one of them begins to leave.
    fn part(&self) {
        let told: Vec<_> = lock(&self.apart).iter().map(|(pair, first)| (*pair, *first)).collect();
        for (pair, first) in told {
            let [(head, _), (member, _)] = pair;
            let map = self.map();
            let lives = |(id, boot)| map.bricks.get(&id).is_some_and(|b| b.alive && b.boot == boot);
            let heard = |(id, _)| lock(&self.heard).get(&id).is_some_and(|at| *at > first);
            if !pair.into_iter().all(lives) || first.elapsed() > DEAD_AFTER {
                lock(&self.apart).remove(&pair);
                continue;
            }
            let heads = map.chains.get(&CHAIN).is_some_and(|chain| chain.head() == Some(head));
            if heads && pair.into_iter().all(heard) && self.state_of(member) == Some(MemberState::Serving) {
                lock(&self.apart).remove(&pair);
                let out = if self.world.dice.one_in(3) { head } else { member };
                self.law(|chain| Self::leaves(chain, out));
            }
        }
    }

    /// Edits the chain, then does what follows; see the namespace's law.
    fn law(&self, edit: impl FnOnce(&mut Chain)) {
        self.change(|map| {
            let Some(chain) = map.chains.get_mut(&CHAIN) else { return };
            edit(chain);
            let served = chain.head().is_some();
            for member in &mut chain.members {
                member.state = match member.state {
                    MemberState::Waiting if served => MemberState::Syncing,
                    MemberState::Syncing | MemberState::Leaving if !served => MemberState::Waiting,
                    other => other,
                };
            }
            chain.members.sort_by_key(|member| member.state != MemberState::Serving);
            chain.epoch.0 += 1;
        });
    }

    fn gone(chain: &mut Chain, brick: BrickId) {
        let others_serve = chain.serving().any(|b| b != brick);
        for member in chain.members.iter_mut().filter(|m| m.brick == brick) {
            member.state = match member.state {
                MemberState::Serving if !others_serve => MemberState::LastServing,
                MemberState::LastServing => MemberState::LastServing,
                _ => MemberState::Offline,
            };
        }
    }

    fn back(chain: &mut Chain, brick: BrickId) {
        for member in chain.members.iter_mut().filter(|m| m.brick == brick) {
            member.state = match member.state {
                MemberState::LastServing => MemberState::Serving,
                MemberState::Offline => MemberState::Waiting,
                other => other,
            };
        }
    }

    fn register(&self, brick: BrickRegistration) -> ClusterReply {
        let (id, boot) = (brick.brick, brick.boot);
        let before = lock(&self.map).bricks.get(&id).cloned();
        let info = BrickInfo {
            id,
            store: brick.store,
            node: brick.node,
            host: brick.host,
            endpoint: brick.endpoint,
            boot,
            alive: true,
        };
        lock(&self.heard).insert(id, Instant::now());
        let before_boot = before.as_ref().map(|info| info.boot);
        let known = before.as_ref() == Some(&info);
        let stayed = self.stayed(id);
        if !known {
            self.change(|map| {
                map.bricks.insert(id, info);
            });
        }
        match before {
            _ if known => {}
            None => {}
            Some(before) if !before.alive => self.law(|chain| Self::back(chain, id)),
            Some(before) if before.boot != boot => self.law(|chain| {
                let another_has_all = chain.serving().any(|b| b != id && stayed.contains(&b));
                let serving = |m: &&mut Member| m.brick == id && m.state == MemberState::Serving;
                if another_has_all {
                    chain.members.iter_mut().filter(serving).for_each(|m| m.state = MemberState::Waiting);
                }
                let leaving = |m: &&mut Member| m.brick == id && m.state == MemberState::Leaving;
                chain.members.iter_mut().filter(leaving).for_each(|m| m.state = MemberState::Waiting);
            }),
            Some(_) => {}
        }
        let began_anew = before_boot.is_some_and(|before| before != boot);
        if began_anew
            && lock(&self.map).chains.get(&CHAIN).and_then(|c| c.state_of(id)) == Some(MemberState::Serving)
        {
            self.world.loss_shows();
        }
        ClusterReply::Map(self.map())
    }

    /// Who lived on while this brick began anew.
    fn stayed(&self, id: BrickId) -> BTreeSet<BrickId> {
        let Some(ended) = self.world.life(id).and_then(|life| life.last_end) else { return BTreeSet::new() };
        let map = lock(&self.map);
        let lives_on = |info: &&BrickInfo| {
            self.world
                .life(info.id)
                .is_some_and(|life| life.alive && life.boot == info.boot && life.born < ended)
        };
        map.bricks.values().filter(|b| b.id != id && b.alive).filter(lives_on).map(|b| b.id).collect()
    }

    async fn answer(&self, request: ClusterRequest) -> Result<ClusterReply, Status> {
        match request {
            ClusterRequest::GetMap { after, wait_ms }
            | ClusterRequest::NextMap { saw: MapMemory { epoch: after, .. }, wait_ms, .. } => {
                let newer = async {
                    loop {
                        let mut changed = std::pin::pin!(self.changed.notified());
                        changed.as_mut().enable();
                        if lock(&self.map).epoch > after {
                            return;
                        }
                        changed.await;
                    }
                };
                // Whatever it is when time is over.
                let _ = timeout(Duration::from_millis(wait_ms.into()), newer).await;
                Ok(ClusterReply::Map(self.map()))
            }
            ClusterRequest::ComeUp { brick, .. } => {
                // A call of an earlier life that came late.
                if self.world.life(brick.brick).is_none_or(|life| life.boot != brick.boot) {
                    return Err(Status::Busy);
                }
                Ok(self.register(brick))
            }
            ClusterRequest::Heartbeat { brick, boot, map: has, report } => {
                let known = lock(&self.map).bricks.get(&brick).is_some_and(|b| b.alive && b.boot == boot);
                if report.failed.is_some() {
                    if known {
                        self.declare_dead(brick);
                    }
                    return Ok(ClusterReply::Heartbeat { map: lock(&self.map).epoch, register: false });
                }
                if known {
                    lock(&self.heard).insert(brick, Instant::now());
                    let informed = has >= lock(&self.map).epoch;
                    if informed && self.state_of(brick) == Some(MemberState::Leaving) {
                        self.left(brick);
                    }
                }
                Ok(ClusterReply::Heartbeat { map: lock(&self.map).epoch, register: !known })
            }
            ClusterRequest::SyncDone { chain, epoch, brick } => {
                let fits = {
                    let map = lock(&self.map);
                    let found = &map.chains[&chain];
                    found.epoch == epoch && found.state_of(brick) == Some(MemberState::Syncing)
                };
                if !fits {
                    return Err(Status::WrongMember);
                }
                let wanted = usize::from(lock(&self.map).replicas);
                self.law(|chain| {
                    let member = chain.members.iter_mut().find(|m| m.brick == brick);
                    member.into_iter().for_each(|m| m.state = MemberState::Serving);
                    self.trim(chain, wanted);
                });
                Ok(ClusterReply::Map(self.map()))
            }
            ClusterRequest::Unreachable { by, brick } => {
                lock(&self.apart).entry([by, brick]).or_insert_with(Instant::now);
                Ok(ClusterReply::Done)
            }
            _ => Err(Status::Malformed),
        }
    }

    pub fn set_replicas(&self, replicas: u8) {
        self.change(|map| map.replicas = replicas);
    }

    /// Declares dead who was not heard for too long. For ever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let late: Vec<BrickId> = {
                let (map, heard) = (lock(&self.map), lock(&self.heard));
                let silent = |id: &BrickId| heard.get(id).is_none_or(|at| at.elapsed() > DEAD_AFTER);
                map.bricks.values().filter(|b| b.alive).map(|b| b.id).filter(silent).collect()
            };
            late.into_iter().for_each(|brick| self.declare_dead(brick));
            self.part();
        }
    }

    fn declare_dead(&self, brick: BrickId) {
        self.change(|map| {
            map.bricks.entry(brick).and_modify(|info| info.alive = false);
        });
        self.law(|chain| Self::gone(chain, brick));
    }
}

impl TypedHandler<MetaProtocol> for SimNamespace {
    fn handle(
        self: Arc<Self>,
        _: Arc<Peer>,
        call: MetaCall,
        _: Bytes,
    ) -> BoxFuture<'static, (Result<MetaReply, Status>, Bytes)> {
        Box::pin(async move {
            let answer = match call.request {
                MetaRequest::Cluster(request) => self.answer(request).await.map(MetaReply::Cluster),
                _ => Err(Status::Malformed),
            };
            (answer, Bytes::new())
        })
    }
}
