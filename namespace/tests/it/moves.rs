//! Bricks that join, end, are emptied, removed and replaced: by the state machine, and by a
//! service with bricks that only say what they are told to.

use std::collections::BTreeSet;
use std::time::Duration;

use namespace::chain::growth::{self, HEADS_A_BRICK, MOST_CHAINS_A_BRICK};
use namespace::chain::plan::Step;
use namespace::machine::command::{Op, Outcome};
use wire::id::{BootId, BrickId, ChainId, StoreId};
use wire::map::MemberState;
use wire::meta::*;
use wire::net::{Endpoint, Role};
use wire::status::Status;

use crate::cluster::{Cluster, until};
use crate::harness::{World, registration};

fn new_brick(store: u8, host: &str) -> NewBrick {
    let (node, endpoint) = (wire::id::NodeId([store; 16]), Endpoint::Memory(u64::from(store) + 1));
    NewBrick { store: StoreId([store; 16]), node, host: host.into(), endpoint }
}

fn add(world: &mut World, store: u8, host: &str) -> BrickId {
    match world.op(Op::AddBrick(new_brick(store, host))).unwrap() {
        Outcome::Added(brick) => brick,
        other => panic!("{other:?}"),
    }
}

fn come_up(world: &mut World, id: u32, host: &str) {
    let brick = BrickRegistration { host: host.into(), ..registration(id, 7, Endpoint::Memory(1)) };
    world.op(Op::RegisterBrick { brick, stayed: BTreeSet::new() }).unwrap();
}

fn wishes(world: &World) -> Wishes {
    namespace::machine::wishes::read(&**world.machine.store(), &world.machine.map()).unwrap()
}

/// Six bricks in chains, on six machines.
fn six() -> World {
    let mut world = World::new();
    let bricks = (0..6).map(|id| BrickRegistration {
        host: format!("host{id}"),
        ..registration(id, 1, Endpoint::Memory(1))
    });
    world.op(Op::AddBricks(bricks.collect())).unwrap();
    world
}

/// A number stands for one brick for good; asking again for the same store gives the same.
#[test]
fn numbers_of_bricks_are_never_reused() {
    let mut world = World::new();
    assert_eq!(add(&mut world, 10, "a"), BrickId(0));
    assert_eq!(add(&mut world, 11, "b"), BrickId(1));
    assert_eq!(add(&mut world, 11, "b"), BrickId(1));
    assert_eq!(add(&mut world, 0, "c"), BrickId(2));
    assert_eq!(add(&mut world, 0, "c"), BrickId(3), "a directory that is not made yet is nobody's");
    assert_eq!(world.op(Op::RemoveBrick { brick: BrickId(3), force: false }), Ok(Outcome::Done));
    world.reopen();
    assert_eq!(add(&mut world, 12, "d"), BrickId(4));
    let gone = registration(3, 9, Endpoint::Memory(1));
    let op = Op::RegisterBrick { brick: gone, stayed: BTreeSet::new() };
    assert_eq!(world.op(op), Err(Status::Forbidden), "it was removed");
    world.sound();
}

/// Bricks join one by one; chains are made when there are two machines, and every newcomer makes more, for new files.
#[test]
fn bricks_that_join_make_chains() {
    let mut world = World::new();
    for (store, host) in [(1, "a"), (2, "a"), (3, "b"), (4, "c"), (5, "d"), (6, "e"), (7, "f")] {
        add(&mut world, store, host);
    }
    come_up(&mut world, 0, "a");
    come_up(&mut world, 1, "a");
    assert!(world.machine.map().chains.is_empty(), "one machine is not enough for two copies");
    come_up(&mut world, 2, "b");
    let born = world.machine.map();
    assert_eq!(born.tables.len(), 1);
    for chain in born.chains.values() {
        assert!(chain.state_of(BrickId(2)).is_some() && chain.members.len() == 2, "{chain:?}");
        assert!(chain.members.iter().all(|m| m.state == MemberState::Serving));
    }
    for (id, host) in [(3, "c"), (4, "d"), (5, "e"), (6, "f")] {
        come_up(&mut world, id, host);
    }
    let grown = world.machine.map();
    grown.verify().unwrap();
    for (id, chain) in &born.chains {
        assert_eq!(grown.chains[id].members, chain.members, "nothing moves by itself");
    }
    assert_eq!(grown.current_table().unwrap().len(), grown.chains.len());
    for id in 0..7 {
        let heads = grown.chains.values().filter(|c| c.head() == Some(BrickId(id))).count();
        assert!(heads >= HEADS_A_BRICK && grown.chains_of(BrickId(id)).count() >= 2 * HEADS_A_BRICK, "{id}");
    }
    world.sound();
}

/// Growth 3 and 4: when chains were made there are none to be made, however many bricks join; and they are not too many.
#[test]
fn growth_ends() {
    let mut world = World::new();
    for id in 0..8 {
        let host = format!("host{}", id / 2);
        add(&mut world, id as u8 + 1, &host);
        come_up(&mut world, id, &host);
        assert_eq!(growth::due(&world.machine.map(), &wishes(&world)).len(), 0, "with {id}");
    }
    assert_eq!(world.op(Op::Rebalance { on: true }), Ok(Outcome::Done));
    // Bricks that are added and taken away again, for years.
    for id in 8..48 {
        assert_eq!(world.op(Op::DrainBrick { brick: BrickId(id - 8), drain: true }), Ok(Outcome::Done));
        for chain in world.machine.map().chains_of(BrickId(id - 8)).cloned().collect::<Vec<_>>() {
            let to = (id - 7..id).map(BrickId).find(|to| chain.state_of(*to).is_none()).unwrap();
            let (chain, brick) = (chain.id, BrickId(id - 8));
            let epoch = |world: &World| world.machine.map().chains[&chain].epoch;
            for step in 0..4 {
                let epoch = epoch(&world);
                world
                    .op(match step {
                        0 => Op::Move(vec![Step::Join { chain, epoch, brick: to }]),
                        1 => Op::SyncDone { chain, epoch, brick: to },
                        _ => Op::Move(vec![Step::Leave { chain, epoch, brick }]),
                    })
                    .unwrap();
            }
        }
        let remove = Op::RemoveBrick { brick: BrickId(id - 8), force: false };
        assert_eq!(world.op(remove), Ok(Outcome::Done));
        let host = format!("host{}", id / 2);
        add(&mut world, id as u8 + 1, &host);
        come_up(&mut world, id, &host);
    }
    let map = world.machine.map();
    assert!(map.chains.len() <= 8 * MOST_CHAINS_A_BRICK, "{} chains", map.chains.len());
}

/// By force only what is dead and has its data elsewhere; without force only what is empty.
#[test]
fn removing_never_loses_the_only_copy() {
    let mut world = six();
    let remove = |world: &mut World, id, force| world.op(Op::RemoveBrick { brick: BrickId(id), force });
    let refused = |why| Ok(Outcome::Refused(why));
    assert_eq!(remove(&mut world, 9, true), refused(BrickRefusal::Unknown));
    let chains: Vec<ChainId> = world.machine.map().chains_of(BrickId(0)).map(|c| c.id).collect();
    assert_eq!(remove(&mut world, 0, false), refused(BrickRefusal::HoldsChains(chains)));
    assert_eq!(remove(&mut world, 0, true), refused(BrickRefusal::Alive));
    let dead = |world: &mut World, id| {
        world.op(Op::BrickDead { brick: BrickId(id), boot: BootId(1) }).unwrap();
    };
    dead(&mut world, 0);
    dead(&mut world, 1);
    let both: Vec<ChainId> = world
        .machine
        .map()
        .chains_of(BrickId(0))
        .filter(|c| c.state_of(BrickId(1)).is_some())
        .map(|c| c.id)
        .collect();
    assert!(!both.is_empty());
    let before = world.machine.map();
    for id in [0, 1] {
        assert_eq!(remove(&mut world, id, true), refused(BrickRefusal::OnlyCopy(both.clone())));
    }
    assert_eq!(world.machine.map(), before, "what is refused changes nothing");
    let back = BrickRegistration { host: "host1".into(), ..registration(1, 2, Endpoint::Memory(1)) };
    world.op(Op::RegisterBrick { brick: back, stayed: BTreeSet::new() }).unwrap();
    assert_eq!(remove(&mut world, 0, true), Ok(Outcome::Done));
    let map = world.machine.map();
    map.verify().unwrap();
    assert!(!map.bricks.contains_key(&BrickId(0)));
    assert!(map.chains.values().all(|c| c.head().is_some()));
    world.op(Op::AddBricks(vec![registration(0, 3, Endpoint::Memory(1))])).unwrap();
    assert_eq!(world.machine.map(), map, "it was removed");
    world.sound();
}

/// Two bricks can't hold two copies when one of them is drained.
#[test]
fn a_drain_that_cannot_end_is_refused() {
    let mut world = six();
    for id in 0..4 {
        assert_eq!(world.op(Op::DrainBrick { brick: BrickId(id), drain: true }), Ok(Outcome::Done));
    }
    let last = world.op(Op::DrainBrick { brick: BrickId(4), drain: true });
    assert_eq!(last, Ok(Outcome::Refused(BrickRefusal::TooFewBricks { left: 1, replicas: 2 })));
    assert_eq!(wishes(&world).draining, (0..4).map(BrickId).collect());
    assert_eq!(world.op(Op::DrainBrick { brick: BrickId(0), drain: false }), Ok(Outcome::Done));
    assert_eq!(world.op(Op::DrainBrick { brick: BrickId(4), drain: true }), Ok(Outcome::Done));
    world.reopen();
    assert_eq!(wishes(&world).draining, (1..5).map(BrickId).collect());
}

/// A step of an earlier epoch, or one that would take a copy, is left out; the others are taken.
#[test]
fn an_old_step_is_left_out() {
    let mut world = six();
    let map = world.machine.map();
    let chain = &map.chains[&ChainId(1)];
    let spare = map.bricks.keys().copied().find(|b| chain.state_of(*b).is_none()).unwrap();
    let head = chain.head().unwrap();
    let join = Step::Join { chain: chain.id, epoch: chain.epoch, brick: spare };
    let leave = Step::Leave { chain: chain.id, epoch: chain.epoch, brick: head };
    assert_eq!(world.op(Op::Move(vec![leave])), Ok(Outcome::Moved(0)), "nobody has taken its place");
    assert_eq!(world.machine.map(), map);
    assert_eq!(world.op(Op::Move(vec![join, join, leave])), Ok(Outcome::Moved(1)));
    let joined = world.machine.map().chains[&chain.id].clone();
    assert_eq!(joined.state_of(spare), Some(MemberState::Syncing));
    let early = Step::Leave { chain: chain.id, epoch: joined.epoch, brick: head };
    assert_eq!(world.op(Op::Move(vec![early])), Ok(Outcome::Moved(0)));
    world.op(Op::SyncDone { chain: chain.id, epoch: joined.epoch, brick: spare }).unwrap();
    let epoch = world.machine.map().chains[&chain.id].epoch;
    let now = Step::Leave { chain: chain.id, epoch, brick: head };
    assert_eq!(world.op(Op::Move(vec![now])), Ok(Outcome::Moved(0)), "it only begins to leave");
    let leaving = world.machine.map().chains[&chain.id].clone();
    assert_eq!(leaving.state_of(head), Some(MemberState::Leaving));
    assert_eq!(world.op(Op::Move(vec![now])), Ok(Outcome::Moved(0)), "it is of an earlier epoch");
    let goes = Step::Leave { chain: chain.id, epoch: leaving.epoch, brick: head };
    assert_eq!(world.op(Op::Move(vec![goes])), Ok(Outcome::Moved(1)));
    let after = world.machine.map();
    assert_eq!(after.chains[&chain.id].members.len(), 2);
    assert_eq!(after.tables, map.tables, "files stay where their layouts say");
    world.sound();
}

fn is_alive(map: &wire::map::ClusterMap, id: u32) -> bool {
    map.bricks[&BrickId(id)].alive
}

/// A process that is gone is noticed by its connection and its address, long before its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ended_is_dead_at_once() {
    let mut cluster = Cluster::new(3, |config| config.brick_dead_after = Duration::from_secs(600)).await;
    until("all were heard", async || (cluster.status().await.bricks.len() == 3).then_some(())).await;
    cluster.kill(0).await;
    until("brick 0 is dead", async || (!is_alive(&cluster.map().await, 0)).then_some(())).await;
    let map = cluster.map().await;
    assert!(is_alive(&map, 1) && is_alive(&map, 2));
    assert!(map.chains.values().all(|c| c.head().is_some_and(|head| head != BrickId(0))));
    cluster.stop().await;
}

/// Where somebody listens, a lost connection alone proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_listens_is_not_given_up() {
    let mut cluster = Cluster::new(2, |config| config.brick_dead_after = Duration::from_secs(600)).await;
    until("all were heard", async || (cluster.status().await.bricks.len() == 2).then_some(())).await;
    cluster.hang_up(0);
    let running = cluster.running.as_ref().unwrap();
    until("it was looked for", async || (running.metrics().probes >= 3).then_some(())).await;
    assert!(is_alive(&cluster.map().await, 0));
    cluster.stop().await;
}

/// A brick that says goodbye is out at once; a word of an earlier life, or of a stranger, counts
/// for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_farewell_is_taken_at_its_word() {
    let mut cluster = Cluster::new(3, |_| {}).await;
    let farewell = |boot| ClusterRequest::Farewell { brick: BrickId(1), boot: BootId(boot) };
    cluster.ask(farewell(99)).await.unwrap();
    assert!(is_alive(&cluster.map().await, 1));
    cluster.bricks[1].beats.store(false, std::sync::atomic::Ordering::SeqCst);
    cluster.ask(farewell(1)).await.unwrap();
    let map = cluster.map().await;
    assert!(!is_alive(&map, 1) && map.chains.values().all(|c| c.head().is_some()));
    assert_eq!(cluster.running.as_ref().unwrap().metrics().bricks_died, 0);
    let stranger = cluster.net(Role::Client, 77);
    let call = wire::meta::MetaRequest::Cluster(farewell(1));
    let answer = crate::cluster::call(&stranger, cluster.endpoint(), None, 0, call).await;
    assert_eq!(answer, Err(Status::Forbidden));
    cluster.stop().await;
}

/// A brick that would serve on after it was declared dead is not let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_fences_too_late_is_refused() {
    let mut cluster = Cluster::new(2, |_| {}).await;
    let beat = |fence_after_ms| ClusterRequest::Heartbeat {
        brick: BrickId(0),
        boot: BootId(1),
        map: wire::id::MapEpoch(0),
        report: BrickReport { fence_after_ms, ..BrickReport::default() },
    };
    assert_eq!(cluster.ask(beat(2000)).await, Err(Status::Forbidden));
    assert!(cluster.ask(beat(1999)).await.is_ok());
    cluster.stop().await;
}

fn quick(config: &mut namespace::Config) {
    config.plan_every = Duration::from_millis(20);
    config.brick_grace = Duration::from_millis(500);
    config.brick_dead_after = Duration::from_secs(5);
}

async fn empty(cluster: &Cluster, id: u32) {
    until("the brick is in no chain", async || {
        cluster.sync_all().await;
        let map = cluster.map().await;
        map.verify().unwrap();
        assert!(map.chains.values().all(|c| c.serving().count() >= 2), "{:?}", map.chains);
        map.chains_of(BrickId(id)).next().is_none().then_some(())
    })
    .await;
}

/// A brick is emptied while every chain keeps its copies, over a restart of the namespace, and
/// can be removed then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_is_drained_and_removed() {
    let mut cluster = Cluster::new(6, quick).await;
    let drain = ClusterRequest::DrainBrick { brick: BrickId(2), drain: true };
    assert_eq!(cluster.ask(drain).await, Ok(ClusterReply::Done));
    until("the first move is under way", async || {
        cluster.map().await.chains.values().any(|c| c.syncing().next().is_some()).then_some(())
    })
    .await;
    cluster.restart().await;
    empty(&cluster, 2).await;
    let status = cluster.status().await;
    assert_eq!(status.wishes.draining, [BrickId(2)].into());
    assert!(status.map.chains.values().all(|c| c.members.len() == 2));
    let remove = ClusterRequest::RemoveBrick { brick: BrickId(2), force: false };
    assert_eq!(cluster.ask(remove).await, Ok(ClusterReply::Done));
    let status = cluster.status().await;
    assert!(!status.map.bricks.contains_key(&BrickId(2)) && status.wishes.draining.is_empty());
    cluster.stop().await;
    let mut again = cluster;
    again.restart_stopped().await;
    again.sound().await;
    again.stop().await;
}

/// The chains of a brick that stays away get other members after `repair_after`, and when it
/// comes back after all, it is in none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_stays_away_is_replaced() {
    let mut cluster = Cluster::new(6, quick).await;
    until("all were heard", async || (cluster.status().await.bricks.len() == 6).then_some(())).await;
    let had = cluster.map().await.chains_of(BrickId(4)).count();
    cluster.kill(4).await;
    until("it is dead", async || (!is_alive(&cluster.map().await, 4)).then_some(())).await;
    let moved = || cluster.running.as_ref().unwrap().metrics().members_moved;
    assert_eq!(moved(), 0, "five minutes have not passed");
    let change = SettingsChange { repair_after_ms: Some(1), syncs_a_brick: Some(64) };
    assert_eq!(cluster.ask(ClusterRequest::Configure(change)).await, Ok(ClusterReply::Done));
    until("others have taken its place", async || {
        cluster.sync_all().await;
        let map = cluster.map().await;
        assert!(map.chains.values().all(|c| c.head().is_some()));
        let whole = map.chains.values().all(|c| c.serving().count() == 2 && c.members.len() == 2);
        (whole && map.chains_of(BrickId(4)).next().is_none()).then_some(())
    })
    .await;
    until("one has joined and one has left each chain", async || (moved() == 2 * had as u64).then_some(()))
        .await;
    // Somebody has to answer there.
    let (brick, lives) = (registration(4, 2, cluster.serving[0].endpoint()), Vec::new());
    let back = cluster.ask(ClusterRequest::ComeUp { brick, lives, saw: None, records: 0 }).await;
    assert!(matches!(back, Ok(ClusterReply::Map(_))));
    assert!(is_alive(&cluster.map().await, 4));
    cluster.stop().await;
}

/// A new brick gets its share when that is asked for, and the wish ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_brick_gets_its_share() {
    let mut cluster = Cluster::new(6, quick).await;
    let id = cluster.join().await;
    let before = cluster.map().await;
    assert_eq!(before.chains_of(id).count(), 2 * HEADS_A_BRICK, "for new files");
    cluster.ask(ClusterRequest::Rebalance { on: true }).await.unwrap();
    until("it has its share", async || {
        cluster.sync_all().await;
        let status = cluster.status().await;
        (!status.wishes.rebalancing).then_some(())
    })
    .await;
    let map = cluster.map().await;
    assert_eq!(map.tables, before.tables);
    let loads: Vec<usize> = map.bricks.keys().map(|b| map.chains_of(*b).count()).collect();
    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
    cluster.stop().await;
}

/// However many sessions come and go, cleanly or not, every one that is over is on the list, no
/// one that lives is, and the list is as long as there are sessions that live; whoever is let in
/// after an end is given a map that says so.
#[test]
fn the_list_of_ended_sessions_stays_short() {
    let mut world = World::new();
    let living = world.session;
    let mut over = Vec::new();
    for round in 0..3000u32 {
        let session = world.open_session(7);
        let clean = round % 3 == 0;
        let before = world.machine.map().epoch;
        world.op(Op::EndSession { session, clean }).unwrap();
        let map = world.machine.map();
        assert!(map.epoch > before);
        assert_eq!(map.blocked.since(session), Some(map.epoch), "who comes after it learns of it");
        over.push(session);
    }
    world.reopen();
    let map = world.machine.map();
    assert!(over.iter().all(|session| map.blocked.contains_key(session)));
    assert!(!map.blocked.contains_key(&living));
    assert!(map.blocked.ranges() <= 2, "{}", map.blocked.ranges());
    let next = world.open_session(8);
    assert!(!world.machine.map().blocked.contains_key(&next));
    world.sound();
}
