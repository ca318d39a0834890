//! Bricks, chains and cuts, as the state machine sees them.

use std::collections::BTreeSet;

use namespace::chain::plan::Step;
use namespace::machine::command::{CutAck, Op, Outcome, TrimAck};
use namespace::machine::reached::{is_taken_back, noted};
use namespace::machine::txn::load;
use namespace::store::keys;
use namespace::store::records::Trim;
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, Ino, StoreId};
use wire::map::MemberState;
use wire::meta::{Access, BrickRefusal, FsRequest};
use wire::net::Endpoint;
use wire::status::Status;

use crate::harness::{ROOT, World, name, registration};

fn with_bricks(count: u32) -> World {
    let mut world = World::new();
    let bricks = (0..count).map(|id| registration(id, 1, Endpoint::Memory(1))).collect();
    world.op(Op::AddBricks(bricks)).unwrap();
    world
}

fn dead(world: &mut World, id: u32, boot: u64) {
    world.op(Op::BrickDead { brick: BrickId(id), boot: BootId(boot) }).unwrap();
}

fn register(world: &mut World, id: u32, boot: u64, stayed: &[u32]) {
    let brick = registration(id, boot, Endpoint::Memory(1));
    let stayed = stayed.iter().copied().map(BrickId).collect();
    world.op(Op::RegisterBrick { brick, stayed }).unwrap();
}

fn states(world: &World, id: u32) -> BTreeSet<MemberState> {
    let map = world.machine.map();
    map.verify().unwrap();
    map.chains_of(BrickId(id)).filter_map(|c| c.state_of(BrickId(id))).collect()
}

fn owed(world: &World, ino: Ino) -> Vec<(u32, u64)> {
    let trim: Option<Trim> = load(&**world.machine.store(), &keys::trim(ino)).unwrap();
    trim.map(|t| t.owed.iter().map(|(b, s)| (b.0, *s)).collect()).unwrap_or_default()
}

fn ack(world: &mut World, ino: Ino, brick: u32, size: u64) {
    world.op(Op::TrimsDone(vec![TrimAck { ino, brick: BrickId(brick), size }])).unwrap();
}

/// Who joins a chain of which somebody owes a cut, and may be given what is to be cut, owes it as well. Cuts made by the map of before settle
/// nothing.
#[test]
fn who_joins_owes_what_the_others_owe() {
    let mut world = with_bricks(3);
    let file = world.written_file(ROOT, "f", 10_000);
    world.set_size(file, 10);
    let two: Vec<u32> = owed(&world, file).iter().map(|(brick, _)| *brick).collect();
    assert_eq!(two.len(), 2);
    let third = (0..3).find(|brick| !two.contains(brick)).unwrap();
    let map = world.machine.map();
    let cuts = |map, bricks: &[u32]| {
        let bricks = bricks.iter().map(|brick| (BrickId(*brick), 10)).collect();
        Op::CutsDone(vec![CutAck { ino: file, map, bricks }])
    };
    let chain = world.attr(file).layout.chain(&map, 0).unwrap();
    let step = Step::Join { chain, epoch: map.chains[&chain].epoch, brick: BrickId(third) };
    assert_eq!(world.op(Op::Move(vec![step])), Ok(Outcome::Moved(1)));
    assert_eq!(owed(&world, file).len(), 3, "the third one is given copies");
    world.op(cuts(map.epoch, &two)).unwrap();
    assert_eq!(owed(&world, file).len(), 3, "by the map of before");
    let now = world.machine.map().epoch;
    world.op(cuts(now, &[0, 1, 2])).unwrap();
    assert_eq!(owed(&world, file), []);
    // A dead one owes it alone, and who joins then gets nothing from it.
    world.set_size(file, 5);
    dead(&mut world, two[0], 1);
    let now = world.machine.map();
    let living: Vec<u32> = owed(&world, file).into_iter().map(|(b, _)| b).filter(|b| *b != two[0]).collect();
    let bricks = living.iter().map(|brick| (BrickId(*brick), 5)).collect();
    world.op(Op::CutsDone(vec![CutAck { ino: file, map: now.epoch, bricks }])).unwrap();
    assert_eq!(owed(&world, file), [(two[0], 5)]);
    dead(&mut world, living[0], 1);
    assert_eq!(owed(&world, file), [(two[0], 5)]);
    world.sound();
}

/// Bricks are added once and make chains; new files are laid out by the newest table.
#[test]
fn bricks_make_chains_once() {
    let mut world = with_bricks(6);
    let map = world.machine.map();
    assert_eq!(map.bricks.len(), 6);
    assert!(map.chains.len() >= 12 && map.tables.len() == 1);
    let again = (0..6).map(|id| registration(id, 5, Endpoint::Memory(2))).collect();
    world.op(Op::AddBricks(again)).unwrap();
    assert_eq!(world.machine.map(), map);
    let file = world.file(ROOT, "f");
    let layout = world.attr(file).layout;
    assert!(layout.chain(&map, 0).is_some());
    world.op(Op::AddBricks(vec![registration(6, 1, Endpoint::Memory(1))])).unwrap();
    let grown = world.machine.map();
    assert_eq!(grown.tables.len(), 2);
    for (id, chain) in &map.chains {
        assert_eq!(grown.chains[id].members, chain.members);
    }
    let newer = world.file(ROOT, "g");
    assert!(world.attr(newer).layout.table > layout.table);
    world.reopen();
    assert_eq!(world.machine.map(), grown);
    world.sound();
}

/// Death, return and sync of a brick, with growing epochs.
#[test]
fn a_brick_goes_and_comes_back() {
    let mut world = with_bricks(3);
    let before = world.machine.map();
    dead(&mut world, 0, 7);
    assert_eq!(world.machine.map(), before, "another life was meant");
    dead(&mut world, 0, 1);
    let map = world.machine.map();
    assert_eq!(map.epoch.0, before.epoch.0 + 1);
    assert_eq!(states(&world, 0), BTreeSet::from([MemberState::Offline]));
    register(&mut world, 0, 2, &[]);
    assert_eq!(states(&world, 0), BTreeSet::from([MemberState::Syncing]));
    let chains: Vec<_> = world.machine.map().chains_of(BrickId(0)).map(|c| (c.id, c.epoch)).collect();
    for (chain, epoch) in chains {
        assert!(epoch > before.chains[&chain].epoch);
        world.op(Op::SyncDone { chain, epoch, brick: BrickId(0) }).unwrap();
        world.op(Op::SyncDone { chain, epoch, brick: BrickId(0) }).unwrap();
    }
    assert_eq!(states(&world, 0), BTreeSet::from([MemberState::Serving]));
    register(&mut world, 0, 3, &[1, 2]);
    assert_eq!(states(&world, 0), BTreeSet::from([MemberState::Syncing]));
    world.sound();
}

/// Another disk under an old number starts empty; if it took the place of the last one, the chain goes on with what others
/// have. The old disk is not let in again, nor is another brick's.
#[test]
fn a_replaced_disk_is_synced_or_given_up() {
    let mut world = with_bricks(2);
    let mut other = registration(0, 2, Endpoint::Memory(1));
    other.store = StoreId([99; 16]);
    world.op(Op::RegisterBrick { brick: other.clone(), stayed: BTreeSet::new() }).unwrap();
    assert_eq!(states(&world, 0), BTreeSet::from([MemberState::Syncing]));
    dead(&mut world, 1, 1);
    assert_eq!(states(&world, 1), BTreeSet::from([MemberState::LastServing]));
    let mut last = registration(1, 2, Endpoint::Memory(1));
    last.store = StoreId([98; 16]);
    // It is the last one: first that has to be given up, for this disk.
    let register = Op::RegisterBrick { brick: last.clone(), stayed: BTreeSet::new() };
    let replace = |store: u8, lose_data: bool| {
        let store = StoreId([store; 16]);
        Op::ReplaceBrick { brick: BrickId(1), store, lose_data }
    };
    assert_eq!(world.op(register.clone()), Err(Status::OnlyDisk));
    let refused = world.op(replace(98, false));
    assert!(matches!(refused, Ok(Outcome::Refused(BrickRefusal::OnlyCopy(chains))) if !chains.is_empty()));
    world.op(replace(97, true)).unwrap();
    assert_eq!(world.op(register.clone()), Err(Status::OnlyDisk), "another disk was meant");
    assert_eq!(states(&world, 1), BTreeSet::from([MemberState::LastServing]));
    world.op(replace(98, true)).unwrap();
    let (at, op) = (world.at(), register);
    let applied = world.batch(vec![namespace::machine::command::Command { at, who: None, op }]);
    assert!(!applied.effects.lost.is_empty());
    let map = world.machine.map();
    assert!(map.chains.values().all(|c| c.head() == Some(BrickId(0))));
    let refused = |world: &mut World, id: u32, store: StoreId| {
        let mut brick = registration(id, 9, Endpoint::Memory(1));
        brick.store = store;
        let before = world.machine.map();
        let answer = world.op(Op::RegisterBrick { brick, stayed: BTreeSet::new() });
        assert_eq!(answer, Err(Status::OtherDisk));
        assert_eq!(world.machine.map(), before);
    };
    for (id, former) in [
        (0, registration(0, 1, Endpoint::Memory(1)).store),
        (1, registration(1, 1, Endpoint::Memory(1)).store),
    ] {
        refused(&mut world, id, former);
        dead(&mut world, id, 2);
        refused(&mut world, id, former);
        refused(&mut world, id, registration(1 - id, 1, Endpoint::Memory(1)).store);
    }
    refused(&mut world, 0, StoreId([98; 16]));
    world.reopen();
    refused(&mut world, 1, StoreId([99; 16]));
    world.sound();
}

/// A cut is owed by the bricks that may have the bytes, and settled by each for itself.
#[test]
fn cuts_are_owed_where_bytes_are() {
    let mut world = with_bricks(6);
    let small = world.written_file(ROOT, "small", 10);
    world.set_size(small, 0);
    assert_eq!(owed(&world, small).len(), 2, "one chunk, two copies");
    let empty = world.file(ROOT, "empty");
    world.unlink(ROOT, "empty").unwrap();
    world.op(Op::Reclaim(vec![empty])).unwrap();
    assert!(owed(&world, empty).is_empty());
    let open = world.written_file(ROOT, "open", 10);
    world.fs(FsRequest::Open { ino: open, access: Access::Write }).unwrap();
    world.set_size(open, 5);
    assert_eq!(owed(&world, open).len(), 6, "a writer may have written anywhere");
    world.set_size(open, 3);
    assert!(owed(&world, open).iter().all(|(_, size)| *size == 3));
    ack(&mut world, open, 0, 5);
    assert_eq!(owed(&world, open).len(), 6, "an old acknowledgement settles nothing");
    for brick in 0..6 {
        ack(&mut world, open, brick, 3);
    }
    assert!(owed(&world, open).is_empty());
    let (brick, size) = owed(&world, small)[0];
    ack(&mut world, small, brick, size);
    assert_eq!(owed(&world, small).len(), 1);
    world.sound();
}

/// A brick that was dead when something was cut does it before it is in a chain again, though
/// others have gone on.
#[test]
fn a_dead_brick_cuts_before_it_is_back() {
    let mut world = with_bricks(2);
    let file = world.written_file(ROOT, "f", 100);
    dead(&mut world, 0, 1);
    world.set_size(file, 50);
    ack(&mut world, file, 1, 50);
    world.set_size(file, 1000);
    assert_eq!(owed(&world, file), [(0, 50)]);
    register(&mut world, 0, 2, &[]);
    assert_eq!(states(&world, 0), BTreeSet::from([MemberState::Offline]));
    assert!(world.machine.map().bricks[&BrickId(0)].alive);
    ack(&mut world, file, 0, 50);
    assert_eq!(states(&world, 0), BTreeSet::from([MemberState::Syncing]));
    world.sound();
}

/// What writers that died may have left is cut: at once, or when the last writer closes.
#[test]
fn dead_writers_leave_no_tail() {
    let mut world = with_bricks(2);
    let alone = world.written_file(ROOT, "alone", 100);
    let shared = world.written_file(ROOT, "shared", 100);
    let living = world.open_session(7);
    for ino in [alone, shared] {
        world.fs(FsRequest::Open { ino, access: Access::Write }).unwrap();
    }
    let dying = std::mem::replace(&mut world.session, living);
    world.fs(FsRequest::Open { ino: shared, access: Access::Write }).unwrap();
    world.op(Op::EndSession { session: dying, clean: false }).unwrap();
    assert_eq!(owed(&world, alone), [(0, 100), (1, 100)]);
    assert!(owed(&world, shared).is_empty());
    world.sound();
    world.fs(FsRequest::Close { ino: shared, access: Access::Write }).unwrap();
    assert_eq!(owed(&world, shared), [(0, 100), (1, 100)]);
    // A clean end cuts nothing.
    let clean = world.written_file(ROOT, "clean", 100);
    world.fs(FsRequest::Open { ino: clean, access: Access::Write }).unwrap();
    world.op(Op::EndSession { session: living, clean: true }).unwrap();
    assert!(owed(&world, clean).is_empty());
    world.sound();
}

/// A writer keeps a removed file; then it is freed and its chunks are cut.
#[test]
fn a_writer_keeps_a_removed_file() {
    let mut world = with_bricks(2);
    let file = world.written_file(ROOT, "f", 100);
    world.fs(FsRequest::Open { ino: file, access: Access::Write }).unwrap();
    world.fs(FsRequest::Unlink { parent: ROOT, name: name("f") }).unwrap();
    world.op(Op::Reclaim(vec![file])).unwrap();
    assert_eq!(world.attr(file).nlink, 0);
    world.fs(FsRequest::Close { ino: file, access: Access::Write }).unwrap();
    world.op(Op::Reclaim(vec![file])).unwrap();
    assert!(world.fs(FsRequest::GetAttr { ino: file }).is_err());
    assert_eq!(owed(&world, file), [(0, 0), (1, 0)]);
    world.sound();
}

fn collect(world: &mut World, ino: Ino, index: u64) -> u64 {
    match world.op(Op::Collect(vec![ChunkKey { ino, index }])).unwrap() {
        Outcome::Collected(files) => files,
        other => panic!("{other:?}"),
    }
}

/// Chunks of files that are gone, and those beyond the end of a file, are cut on all bricks,
/// dead ones too.
#[test]
fn chunks_of_no_use_are_collected() {
    let mut world = with_bricks(6);
    let gone = world.written_file(ROOT, "gone", 10);
    world.unlink(ROOT, "gone").unwrap();
    world.op(Op::Reclaim(vec![gone])).unwrap();
    for (brick, size) in owed(&world, gone) {
        ack(&mut world, gone, brick, size);
    }
    dead(&mut world, 3, 1);
    assert_eq!(collect(&mut world, gone, 0), 1);
    assert_eq!(owed(&world, gone), (0..6).map(|brick| (brick, 0)).collect::<Vec<_>>());
    world.sound();
    let short = world.written_file(ROOT, "short", 10);
    assert_eq!(collect(&mut world, short, 1), 1);
    assert_eq!(owed(&world, short).len(), 6);
    assert!(owed(&world, short).iter().all(|(_, size)| *size == 10));
    world.sound();
}

/// What was of no use when a brick listed it and is of use now stays, and so does what is cut
/// anyway or is not known here.
#[test]
fn collecting_leaves_what_is_of_use() {
    let mut world = with_bricks(2);
    let held = world.written_file(ROOT, "held", 10);
    assert_eq!(collect(&mut world, held, 0), 0, "it holds the bytes of the file");
    world.fs(FsRequest::Open { ino: held, access: Access::Write }).unwrap();
    assert_eq!(collect(&mut world, held, 1), 0, "somebody writes");
    world.fs(FsRequest::Close { ino: held, access: Access::Write }).unwrap();
    world.set_size(held, 5);
    let before = owed(&world, held);
    ack(&mut world, held, before[0].0, 5);
    assert_eq!(collect(&mut world, held, 1), 0, "it is being cut");
    assert_eq!(owed(&world, held), before[1..]);
    let dying = world.written_file(ROOT, "dying", 10);
    let living = world.open_session(7);
    let first = std::mem::replace(&mut world.session, living);
    world.fs(FsRequest::Open { ino: dying, access: Access::Write }).unwrap();
    world.fs(FsRequest::Unlink { parent: ROOT, name: name("dying") }).unwrap();
    world.op(Op::EndSession { session: first, clean: false }).unwrap();
    assert_eq!(collect(&mut world, dying, 0), 0, "a writer keeps it");
    assert_eq!(collect(&mut world, Ino(1 << 40), 0), 0, "that number was never given");
    assert_eq!(collect(&mut world, Ino(u64::MAX), u64::MAX), 0);
    world.sound();
}

/// How far a disk has come only grows in what is noted, and is noted of the disks that the map names.
#[test]
fn only_the_right_disk_counts() {
    let mut world = with_bricks(2);
    let store = |brick: u32| registration(brick, 1, Endpoint::Memory(1)).store;
    let mut note = |told: &[(u32, StoreId, u64)]| {
        let told = told.iter().map(|(brick, store, records)| (BrickId(*brick), (*store, *records))).collect();
        world.op(Op::NoteRecords(told)).unwrap();
        noted(&**world.machine.store())
            .unwrap()
            .into_iter()
            .map(|(brick, of)| (brick.0, of.1))
            .collect::<Vec<_>>()
    };
    assert_eq!(note(&[(0, store(0), 9), (1, store(1), 4)]), [(0, 9), (1, 4)]);
    assert_eq!(note(&[(0, store(0), 7), (1, StoreId([77; 16]), 50), (5, store(5), 1)]), [(0, 9), (1, 4)]);
    assert_eq!(note(&[(1, store(1), 5)]), [(0, 9), (1, 5)]);
}

/// Of the module `reached`, 2.
#[test]
fn a_disk_is_taken_back_once() {
    let mut world = with_bricks(2);
    let store = registration(0, 1, Endpoint::Memory(1)).store;
    let taken = |world: &World| is_taken_back(&**world.machine.store(), BrickId(0), store).unwrap();
    let take = |world: &mut World, brick: u32| world.op(Op::TakeBack(BrickId(brick)));
    world.op(Op::NoteRecords([(BrickId(0), (store, 9))].into())).unwrap();
    assert_eq!(take(&mut world, 7), Ok(Outcome::Refused(BrickRefusal::Unknown)));
    assert_eq!(take(&mut world, 0), Ok(Outcome::Refused(BrickRefusal::Alive)));
    dead(&mut world, 0, 1);
    assert!(!taken(&world));
    assert_eq!(take(&mut world, 0), Ok(Outcome::Done));
    assert!(taken(&world));
    assert!(!is_taken_back(&**world.machine.store(), BrickId(0), StoreId([77; 16])).unwrap(), "another disk");
    register(&mut world, 0, 2, &[]);
    assert!(!taken(&world) && noted(&**world.machine.store()).unwrap().is_empty(), "it begins anew");
    world.sound();
}
