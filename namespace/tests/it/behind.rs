//! A state that was set back, as the machine and the service see it: what it does not know, and what it adopts.

use std::collections::BTreeSet;
use std::sync::Arc;

use namespace::machine::command::{Op, Outcome};
use namespace::machine::inodes;
use namespace::machine::lineage::{self, knows};
use namespace::machine::trims::useless;
use namespace::store::records::Counters;
use namespace::store::{Write, keys};
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, Ino, MapEpoch, NodeId, SessionId, StoreId};
use wire::map::ClusterMap;
use wire::mark::MapMark;
use wire::meta::*;
use wire::net::{Endpoint, Role};
use wire::status::Status;

use crate::cluster::Cluster;
use crate::harness::{ROOT, World, registration};
use crate::store::MemStore;

fn with_bricks(count: u32) -> World {
    let mut world = World::new();
    let bricks = (0..count).map(|id| registration(id, 1, Endpoint::Memory(1))).collect();
    world.op(Op::AddBricks(bricks)).unwrap();
    world
}

/// The same state once more: its backup, put back.
fn copy(world: &World) -> World {
    let store = MemStore::default();
    let all = world.machine.store().dump().into_iter().map(|(key, value)| (key, Some(value))).collect();
    store.write(&all).unwrap();
    let at = Timestamp { secs: world.now, nanos: 0 };
    let machine = namespace::machine::Machine::open(Arc::new(store), crate::harness::CLUSTER, 2, at).unwrap();
    World { machine, now: world.now, seq: world.seq, session: world.session }
}

fn saw(world: &World) -> MapMemory {
    let map = world.machine.map();
    MapMemory { epoch: map.epoch, mark: MapMark::of(&map) }
}

fn is_known(world: &World, saw: MapMemory) -> bool {
    knows(&**world.machine.store(), &world.machine.map(), saw).unwrap()
}

fn counters(world: &World) -> Counters {
    namespace::machine::txn::load(&**world.machine.store(), keys::COUNTERS).unwrap().unwrap()
}

fn dead(world: &mut World, id: u32) {
    world.op(Op::BrickDead { brick: BrickId(id), boot: BootId(1) }).unwrap();
}

fn add(world: &mut World, store: u8) -> BrickId {
    let new = NewBrick {
        store: StoreId([store; 16]),
        node: NodeId([store; 16]),
        host: format!("host{store}"),
        endpoint: Endpoint::Memory(u64::from(store)),
    };
    match world.op(Op::AddBrick(new)).unwrap() {
        Outcome::Added(brick) => brick,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_state_that_was_set_back_and_went_on_knows_what_it_does_not() {
    let mut world = with_bricks(3);
    let before = saw(&world);
    let mut back = copy(&world);
    dead(&mut world, 0);
    let lost = saw(&world);
    assert!(is_known(&world, before) && is_known(&world, lost) && is_known(&back, before));
    assert!(!is_known(&back, lost), "it is newer");
    // The state that was put back goes on: other things get the same epochs, and later ones.
    dead(&mut back, 1);
    assert_eq!(saw(&back).epoch, lost.epoch);
    assert!(!is_known(&back, lost) && is_known(&back, saw(&back)));
    dead(&mut back, 2);
    assert!(saw(&back).epoch > lost.epoch && !is_known(&back, lost) && is_known(&back, before));
    back.reopen();
    assert!(!is_known(&back, lost));
    let map = world.machine.map();
    assert_eq!(back.op(Op::Adopt(Box::new(map.as_ref().clone()))), Ok(Outcome::Done));
    let now = back.machine.map();
    assert!(is_known(&back, lost) && is_known(&back, saw(&back)));
    assert!(!now.bricks[&BrickId(0)].alive && now.bricks[&BrickId(1)].alive && now.bricks[&BrickId(2)].alive);
    back.op(Op::Adopt(Box::new(map.as_ref().clone()))).unwrap();
    assert_eq!(back.machine.map(), now, "it is known now");
    back.sound();
}

#[test]
fn marks_are_kept_for_long_and_not_for_ever() {
    let mut world = with_bricks(2);
    let first = saw(&world);
    for _ in 0..lineage::MARKS + 10 {
        let session = world.open_session(9);
        world.op(Op::EndSession { session, clean: true }).unwrap();
    }
    let marks = world.machine.store().dump().into_keys().filter(|key| key.starts_with(keys::MARKS)).count();
    assert_eq!(marks as u64, lineage::MARKS);
    assert!(is_known(&world, first) && is_known(&world, saw(&world)));
}

#[test]
fn no_lost_number_is_given_again() {
    let mut world = with_bricks(3);
    let open = world.file(ROOT, "open");
    let ended = world.session;
    let stays = world.open_session(2);
    let mut back = copy(&world);
    // What is lost: files, sessions, a brick that joined, one whose disk was replaced, one that was removed.
    let lost_file = world.file(ROOT, "lost");
    let lost_session = world.open_session(7);
    let joined = add(&mut world, 50);
    let mut other = registration(0, 2, Endpoint::Memory(1));
    other.store = StoreId([99; 16]);
    world.op(Op::RegisterBrick { brick: other, stayed: BTreeSet::new() }).unwrap();
    world.op(Op::EndSession { session: ended, clean: true }).unwrap();
    let newest = world.machine.map();
    let (before, map_before) = (counters(&back), back.machine.map());

    back.op(Op::DrainBrick { brick: BrickId(0), drain: true }).unwrap();
    back.op(Op::Adopt(Box::new(newest.as_ref().clone()))).unwrap();
    back.sound();
    let (after, map) = (counters(&back), back.machine.map());
    map.verify().unwrap();
    assert!(map.epoch.0 >= newest.epoch.0 + lineage::LOST_EPOCHS);
    assert_eq!((&map.bricks, &map.tables, map.current), (&newest.bricks, &newest.tables, newest.current));
    for (id, chain) in &newest.chains {
        assert_eq!(map.chains[id].members, chain.members);
        let known = map_before.chains[id].epoch.max(chain.epoch);
        assert!(map.chains[id].epoch.0 >= known.0 + lineage::LOST_EPOCHS);
    }
    assert_eq!(after.next_ino, newest.inodes_below + lineage::LOST_INODES);
    assert!(map.inodes_below > after.next_ino);
    assert!(lost_file.0 >= before.next_ino && lost_file.0 < after.next_ino);
    let new_session = back.open_session(8);
    assert!(new_session.0 >= before.next_session + lineage::LOST_SESSIONS && new_session > lost_session);
    for over in [ended, lost_session, SessionId(new_session.0 - 1)] {
        assert!(map.blocked.contains_key(&over), "{over} may write");
    }
    for lives in [stays, new_session] {
        assert!(!map.blocked.contains_key(&lives), "{lives} may not write");
    }
    back.session = stays;
    assert!(back.file(ROOT, "new").0 >= after.next_ino && open.0 < before.next_ino);
    assert_eq!(add(&mut back, 60), BrickId(joined.0 + 1));
    let former = registration(0, 3, Endpoint::Memory(1));
    let refused = back.op(Op::RegisterBrick { brick: former, stayed: BTreeSet::new() });
    assert_eq!(refused, Err(Status::OtherDisk), "its disk was replaced, which this state did not know");
    back.reopen();
    back.sound();
}

#[test]
fn what_lost_names_had_is_kept() {
    let mut world = with_bricks(2);
    let gone = world.written_file(ROOT, "gone", 100);
    let mut back = copy(&world);
    let lost = world.written_file(ROOT, "lost", 100);
    dead(&mut world, 0);
    back.unlink(ROOT, "gone").unwrap();
    back.op(Op::Reclaim(vec![gone])).unwrap();
    back.op(Op::Adopt(Box::new(world.machine.map().as_ref().clone()))).unwrap();
    let is_useless = |back: &World, ino: Ino| {
        let next = counters(back).next_ino;
        useless(&**back.machine.store(), next, ChunkKey { ino, index: 0 }).unwrap().is_some()
    };
    assert!(!is_useless(&back, lost), "nobody knows whether it is of use");
    let owed = namespace::machine::txn::load::<namespace::store::records::Trim>(
        &**back.machine.store(),
        &keys::trim(gone),
    );
    assert_eq!(owed.unwrap().unwrap().owed.len(), 2, "all bricks cut what was removed before");
    assert_eq!(back.op(Op::Collect(vec![ChunkKey { ino: lost, index: 0 }])), Ok(Outcome::Collected(0)));
    back.op(Op::FreeLost).unwrap();
    assert!(is_useless(&back, lost));
    back.sound();
}

#[test]
fn what_is_no_map_of_this_cluster_is_not_adopted() {
    let mut world = with_bricks(2);
    let map = world.machine.map();
    let mut strange = ClusterMap { epoch: MapEpoch(map.epoch.0 + 1), ..map.as_ref().clone() };
    strange.cluster = wire::id::ClusterId([0; 16]);
    assert_eq!(world.op(Op::Adopt(Box::new(strange))), Err(Status::Malformed));
    let mut broken = ClusterMap { epoch: MapEpoch(map.epoch.0 + 1), ..map.as_ref().clone() };
    broken.bricks.clear();
    assert_eq!(world.op(Op::Adopt(Box::new(broken))), Err(Status::Malformed));
    assert_eq!(world.machine.map(), map);
    world.sound();
}

/// The service does nothing from the moment it hears of a newer map, and goes on by that one when all have spoken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_was_set_back_asks_its_bricks() {
    let mut cluster = Cluster::new(2, |_| {}).await;
    let client = cluster.client(1).await;
    let before = cluster.map().await;
    let mut newest = ClusterMap { epoch: MapEpoch(before.epoch.0 + 7), ..before.clone() };
    for (id, alive) in [(7, true), (8, false)] {
        let brick = wire::map::BrickInfo {
            id: BrickId(id),
            store: StoreId([id as u8 + 1; 16]),
            alive,
            ..before.bricks[&BrickId(0)].clone()
        };
        newest.bricks.insert(BrickId(id), brick);
    }
    let come_up = |map: &ClusterMap| ClusterRequest::ComeUp {
        brick: registration(7, 1, Endpoint::Memory(77)),
        lives: vec![BootId(1)],
        saw: Some(MapMemory { epoch: map.epoch, mark: MapMark::of(map) }),
        records: 0,
    };
    assert_eq!(cluster.ask(come_up(&before)).await, Err(Status::Busy), "nobody has heard of it");
    assert_eq!(cluster.ask(come_up(&newest)).await, Ok(ClusterReply::Behind { tell_map: true }));
    let behind = cluster.status().await.behind.unwrap();
    assert_eq!((behind.newest, behind.by), (newest.epoch, BrickId(7)));
    let none = client.cluster(ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 }).await;
    assert_eq!(none, Err(Status::NamespaceBehind));
    assert_eq!(client.attr(FsRequest::GetAttr { ino: ROOT }).await, Err(Status::NamespaceBehind));
    assert!(client.renew(None).await.is_err());
    let dead = ClusterRequest::Farewell { brick: BrickId(0), boot: BootId(1) };
    assert_eq!(cluster.ask(dead).await, Err(Status::NamespaceBehind));
    let adopt =
        |without: &[u32]| ClusterRequest::Adopt { without: without.iter().copied().map(BrickId).collect() };
    let refused = cluster.ask(adopt(&[])).await.unwrap();
    assert!(matches!(refused, ClusterReply::AdoptRefused(AdoptRefusal::WaitsFor(_))), "{refused:?}");
    for id in 0..2 {
        let said = ClusterRequest::ComeUp {
            brick: registration(id, 1, Endpoint::Memory(u64::from(id))),
            lives: Vec::new(),
            saw: Some(MapMemory { epoch: before.epoch, mark: MapMark::of(&before) }),
            records: 0,
        };
        assert_eq!(cluster.ask(said).await, Ok(ClusterReply::Behind { tell_map: false }));
    }
    let tell = ClusterRequest::Saw { brick: BrickId(7), map: Box::new(newest.clone()) };
    cluster.ask(tell).await.unwrap();
    crate::cluster::until("it goes on", async || client.attr(FsRequest::GetAttr { ino: ROOT }).await.ok())
        .await;
    let now = cluster.map().await;
    assert!(
        now.epoch > newest.epoch
            && now.bricks.contains_key(&BrickId(7))
            && now.bricks.contains_key(&BrickId(8))
    );
    assert!(client.renew(None).await.is_ok(), "its session was not lost");
    assert_eq!(cluster.ask(adopt(&[])).await, Ok(ClusterReply::AdoptRefused(AdoptRefusal::NotBehind)));
    let as_client = cluster.net(Role::Client, 3);
    let denied =
        crate::cluster::call(&as_client, cluster.endpoint(), None, 0, MetaRequest::Cluster(adopt(&[])));
    assert_eq!(denied.await.unwrap_err(), Status::Forbidden);
    cluster.stop().await;
}

fn skip(world: &mut World) {
    assert_eq!(world.op(Op::BeginReign(7)), Ok(Outcome::Done));
}

/// No brick, no mount came or went between the backup and the loss: all have seen the same map.
#[test]
fn a_state_set_back_beneath_one_map_gives_no_number_again() {
    let mut world = with_bricks(2);
    skip(&mut world);
    let kept = world.written_file(ROOT, "kept", 100);
    let mut back = copy(&world);
    let before = saw(&world);
    let lost: Vec<Ino> =
        (0..20).map(|number| world.written_file(ROOT, &format!("lost{number}"), 100)).collect();
    assert_eq!(saw(&world), before);
    assert!(is_known(&back, before));
    skip(&mut back);
    let new: Vec<Ino> = (0..20).map(|number| back.file(ROOT, &format!("new{number}"))).collect();
    assert!(new.iter().all(|new| !lost.contains(new) && *new > kept), "{new:?} {lost:?}");
    let is_useless = |back: &World, ino: Ino| {
        useless(&**back.machine.store(), counters(back).next_ino, ChunkKey { ino, index: 0 })
            .unwrap()
            .is_some()
    };
    assert!(lost.iter().all(|ino| !is_useless(&back, *ino)), "nobody knows whether it is of use");
    back.op(Op::FreeLost).unwrap();
    assert!(lost.iter().all(|ino| is_useless(&back, *ino)));
    back.reopen();
    back.sound();
}

/// A backup is made while nobody leads: whoever leads next gives the same numbers as the one who led after the backup, and is told.
#[test]
fn a_state_set_back_to_before_a_reign_is_told() {
    let mut world = with_bricks(2);
    let mut back = copy(&world);
    world.op(Op::BeginReign(8)).unwrap();
    let lost = world.file(ROOT, "lost");
    assert!(!is_known(&back, saw(&world)));
    back.op(Op::BeginReign(9)).unwrap();
    assert_eq!(saw(&back).epoch, saw(&world).epoch);
    assert!(!is_known(&back, saw(&world)));
    let early = back.file(ROOT, "early");
    assert_ne!(early, lost, "before the first brick has spoken");
    back.op(Op::Adopt(Box::new(world.machine.map().as_ref().clone()))).unwrap();
    assert!(back.file(ROOT, "new") > lost.max(early));
    back.sound();
}

/// So much was made meanwhile that the map has changed: bricks tell of it.
#[test]
fn a_state_that_gave_more_than_its_map_allowed_had_another_map() {
    let mut world = with_bricks(2);
    let mut back = copy(&world);
    let allowed = world.machine.map().inodes_below;
    // Nearly half of what is allowed was made.
    let given = Counters { next_ino: allowed - inodes::BLOCK / 2 - 5, ..counters(&world) };
    let given = namespace::store::records::encode(&given).unwrap();
    world.machine.store().write(&[(keys::COUNTERS.to_vec(), Some(given))].into()).unwrap();
    world.reopen();
    let before = saw(&world);
    let files: Vec<Ino> = (0..10).map(|number| world.file(ROOT, &format!("file{number}"))).collect();
    assert_eq!(saw(&world).epoch.0, before.epoch.0 + 1, "bricks see it long before it matters");
    assert!(files[9].0 + inodes::BLOCK / 4 < allowed && !is_known(&back, saw(&world)));
    skip(&mut back);
    assert!(!is_known(&back, saw(&world)), "what it has of that epoch now is another map");
    back.op(Op::Adopt(Box::new(world.machine.map().as_ref().clone()))).unwrap();
    let new = back.file(ROOT, "new");
    assert!(new.0 > world.machine.map().inodes_below + lineage::LOST_INODES - 1);
    back.sound();
}

#[test]
fn skips_are_remembered_for_long_and_not_for_ever() {
    let mut world = with_bricks(2);
    let first = counters(&world).next_ino;
    let file = |world: &mut World| {
        world.file(ROOT, "file");
        world.unlink(ROOT, "file").unwrap();
    };
    for _ in 0..inodes::MOST_SKIPS {
        file(&mut world);
        skip(&mut world);
        skip(&mut world);
    }
    let lost = |world: &World| inodes::lost(&**world.machine.store()).unwrap();
    assert_eq!(lost(&world).len(), inodes::MOST_SKIPS, "twice in a row is once");
    assert_eq!(lost(&world)[0].0, Ino(first + 1));
    let seen = ClusterMap { epoch: MapEpoch(1 << 40), ..world.machine.map().as_ref().clone() };
    world.op(Op::Adopt(Box::new(seen))).unwrap();
    let kept = lost(&world);
    for _ in 0..inodes::MOST_SKIPS + 2 {
        file(&mut world);
        skip(&mut world);
    }
    let now = lost(&world);
    assert_eq!(now.len(), inodes::MOST_SKIPS + 1);
    assert_eq!(now.first(), kept.last(), "what was adopted is kept");
    world.sound();
}
