//! What programs see when something breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brickyard_fs_client::{ClientConfig, Error, FallocateMode, OpenOptions};
use rustix::io::Errno;
use wire::brick::BrickRequest;
use wire::chunk::DEFAULT_CHUNK_BYTES;
use wire::id::{BrickId, Ino};
use wire::map::MemberState;
use wire::meta::{Access, AttrChanges, FsRequest, Name, NewInode};
use wire::status::{FsError, Status};

use crate::cluster::{Cluster, FakeBrick, Fault, pattern, read_write, until};

fn is_change(request: &BrickRequest) -> bool {
    matches!(request, BrickRequest::Change { .. })
}

/// A full disk comes out of each handle, with its number: out of fsync or close, and out of a write before that.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_told_to_each_handle() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let first = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let second = client.open(first.ino(), read_write()).await.unwrap();
    let third = client.open(first.ino(), read_write()).await.unwrap();
    cluster.world.fault(|_, r| is_change(r).then_some(Fault::Refuse(Status::Fs(FsError::NoSpace))));
    client.write_at(&first, 0, b"lost").await.unwrap();
    let number = |result: Result<(), Error>| result.unwrap_err().errno();
    assert_eq!(number(client.fsync(&first).await), Errno::NOSPC);
    client.fsync(&first).await.unwrap();
    cluster.world.heal();
    assert_eq!(number(client.write_at(&second, 0, b"not taken").await), Errno::NOSPC);
    client.write_at(&second, 0, b"taken").await.unwrap();
    // The kernel may have kept from the program what the write was told, and it may be a forked child
    // that was told at a close: fsync relies on neither.
    assert_eq!(number(client.flush(&second).await), Errno::NOSPC);
    client.flush(&second).await.unwrap();
    assert_eq!(number(client.fsync(&second).await), Errno::NOSPC);
    client.write_at(&second, 0, b"taken").await.unwrap();
    client.fsync(&second).await.unwrap();
    assert_eq!(number(client.release(third).await), Errno::NOSPC);
    // Somebody heard of it: those who come later do not.
    let late = client.open(first.ino(), read_write()).await.unwrap();
    client.fsync(&late).await.unwrap();
    assert_eq!(&client.read_at(&late, 0, 10).await.unwrap()[..], b"taken");
    for file in [first, second, late] {
        client.release(file).await.unwrap();
    }
    client.shutdown().await.unwrap();
}

/// A part of a block whose rest nobody can read can't be written: that is told at once, and what else is written to the file is kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_not_waited_for() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let first = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let second = client.open(first.ino(), read_write()).await.unwrap();
    let is_lost = |request: &BrickRequest| match request {
        BrickRequest::Change { key, .. } => key.index == 0,
        _ => false,
    };
    cluster.world.fault(move |_, r| is_lost(r).then_some(Fault::Refuse(Status::Corrupt)));
    let begun = Instant::now();
    client.write_at(&first, 5, b"part").await.unwrap();
    client.write_at(&second, 1 << 20, b"elsewhere").await.unwrap();
    let told = client.fsync(&first).await.unwrap_err();
    assert!(matches!(told, Error::Corrupt { .. }) && told.errno() == Errno::IO, "{told}");
    assert!(begun.elapsed() < Duration::from_secs(5), "told after {:?}", begun.elapsed());
    client.fsync(&second).await.unwrap_err();
    client.fsync(&second).await.unwrap();
    assert_eq!(&client.read_at(&second, 1 << 20, 20).await.unwrap()[..], b"elsewhere");
    for file in [first, second] {
        // The close of each may tell it, too.
        let _ = client.release(file).await;
    }
    client.shutdown().await.unwrap();
}

/// A brick that has no room to commit until the deadline: fsync says that the disk is full, keeps what was
/// written, and makes it durable when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn no_room_to_commit_is_told_and_loses_nothing() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config();
    config.deadline = Duration::from_secs(1);
    let client = cluster.client_with(config).await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let is_commit = |request: &BrickRequest| matches!(request, BrickRequest::Commit);
    cluster.world.fault(move |_, r| is_commit(r).then_some(Fault::Refuse(Status::Fs(FsError::NoSpace))));
    client.write_at(&file, 0, b"kept").await.unwrap();
    assert_eq!(client.fsync(&file).await.unwrap_err().errno(), Errno::NOSPC);
    assert_eq!(client.fsync(&file).await.unwrap_err().errno(), Errno::NOSPC);
    cluster.world.heal();
    client.fsync(&file).await.unwrap();
    let attr = cluster.namespace.attr_of(file.ino());
    assert_eq!(cluster.world.durable_file(file.ino(), &attr.layout, attr.size), b"kept");
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// One chain waits for a brick that is away: who can't wait gives up what belongs there, is told how much, and has all else
/// written, sizes included.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_wait_writes_what_can_be_written() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let stuck = client.create_path(b"stuck", 0o600, read_write()).await.unwrap();
    let whole = client.create_path(b"whole", 0o600, read_write()).await.unwrap();
    let away = stuck.ino();
    let is_of =
        move |request: &BrickRequest| matches!(request, BrickRequest::Change { key, .. } if key.ino == away);
    cluster.world.fault(move |_, r| is_of(r).then_some(Fault::Refuse(Status::Busy)));
    let (a, b) = (pattern(1, 100_000), pattern(2, 50_000));
    client.write_at(&stuck, 0, &a).await.unwrap();
    client.write_at(&whole, 0, &b).await.unwrap();
    let begun = Instant::now();
    let error = client.shutdown_within(Duration::from_secs(2)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let Error::Unwritten { bytes, files, ref why } = error else { panic!("{error}") };
    assert!((100_000..=150_000).contains(&bytes) && (1..=2).contains(&files) && !why.is_empty(), "{error}");
    cluster.world.heal();
    let attr = cluster.namespace.attr_of(whole.ino());
    assert_eq!(attr.size, 50_000, "its size was not told");
    assert_eq!(cluster.world.durable_file(whole.ino(), &attr.layout, attr.size), b);
}

/// Bricks that are slow, and get on: nothing is given up, however long it takes all in all.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_waits_for_who_gets_on() {
    let cluster = Cluster::start().await;
    let client = cluster.client_with(ClientConfig { flights: 1, ..cluster.config() }).await;
    let slow = |request: &BrickRequest| matches!(request, BrickRequest::Change { .. });
    cluster.world.fault(move |_, r| slow(r).then_some(Fault::Slow(Duration::from_millis(400))));
    let mut files = Vec::new();
    for number in 0..8 {
        let path = format!("file-{number}");
        let file = client.create_path(path.as_bytes(), 0o600, read_write()).await.unwrap();
        client.write_at(&file, 0, &pattern(number, 50_000)).await.unwrap();
        files.push(file);
    }
    let (begun, patience) = (Instant::now(), Duration::from_millis(1_200));
    client.shutdown_within(patience).await.unwrap();
    assert!(begun.elapsed() > 2 * patience, "{:?}: nothing was slow", begun.elapsed());
    for (number, file) in files.iter().enumerate() {
        let attr = cluster.namespace.attr_of(file.ino());
        let durable = cluster.world.durable_file(file.ino(), &attr.layout, attr.size);
        assert!(durable == pattern(number as u64, 50_000), "file {number} is not whole");
    }
}

/// What a restarted brick lost is sent again before fsync returns.
#[tokio::test(flavor = "multi_thread")]
async fn data_lost_by_a_restarted_brick_is_sent_again() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let mut data = pattern(1, 3 << 20);
    client.write_at(&file, 0, &data).await.unwrap();
    client.flush(&file).await.unwrap();
    // Overwritten after the restart of one: the old bytes must not come back.
    cluster.world.restart(BrickId(0));
    client.write_at(&file, 500_000, &[9; 50_000]).await.unwrap();
    data[500_000..550_000].fill(9);
    for brick in 0..3 {
        cluster.world.restart(BrickId(brick));
    }
    client.fsync(&file).await.unwrap();
    assert!(client.metrics().resends > 0);
    let attr = cluster.namespace.attr_of(file.ino());
    assert_eq!(attr.size, 3 << 20);
    assert!(cluster.world.durable_file(file.ino(), &attr.layout, attr.size) == data);
    assert!(client.read_at(&file, 0, 4 << 20).await.unwrap() == data);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A file is cut while data of it that restarted bricks have lost is sent again: what was cut stays away.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_does_not_come_back_after_a_cut() {
    let cluster = Cluster::start().await;
    let client = Arc::new(cluster.client().await);
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let ino = file.ino();
    let sized = move |size| AttrChanges { size: Some(size), ..AttrChanges::default() };
    client.write_at(&file, 0, &pattern(1, 300_000)).await.unwrap();
    client.flush(&file).await.unwrap();
    let held = cluster.namespace.held_cuts.write().await;
    let cut = tokio::spawn({
        let client = client.clone();
        async move { client.setattr(ino, sized(100)).await }
    });
    until("the cut to be asked for", || cluster.namespace.cuts_under_way.load(Ordering::SeqCst) == 1).await;
    cluster.world.fault(|_, request| is_change(request).then_some(Fault::Slow(Duration::from_millis(200))));
    let commits = cluster.world.commits.load(Ordering::SeqCst);
    for brick in 0..3 {
        cluster.world.restart(BrickId(brick));
    }
    until("the loss to be found", || cluster.world.commits.load(Ordering::SeqCst) > commits).await;
    drop(held);
    cut.await.unwrap().unwrap();
    client.setattr(ino, sized(300_000)).await.unwrap();
    client.fsync(&file).await.unwrap();
    cluster.world.heal();
    let read = client.read_at(&file, 0, 300_000).await.unwrap();
    assert!(read[..100] == pattern(1, 300_000)[..100], "what was not cut is gone");
    assert!(read[100..].iter().all(|byte| *byte == 0), "what was cut is back");
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// The size is being told to the namespace when fsync is called: it returns when that is done, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn fsync_waits_for_a_report_under_way() {
    let cluster = Cluster::start().await;
    let client = Arc::new(cluster.client().await);
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let held = cluster.namespace.held_cuts.write().await;
    client.write_at(&file, 0, &pattern(1, 300_000)).await.unwrap();
    // Nobody asked for it: it is told when it is old enough.
    until("a report", || cluster.namespace.reports_under_way.load(Ordering::SeqCst) > 0).await;
    let (syncing, synced) = (client.clone(), file.clone());
    let mut sync = tokio::spawn(async move { syncing.fsync(&synced).await });
    let early = tokio::time::timeout(Duration::from_millis(500), &mut sync).await;
    assert!(early.is_err(), "durable, and the namespace knows of nothing: {early:?}");
    drop(held);
    sync.await.unwrap().unwrap();
    assert_eq!(cluster.namespace.size_of(file.ino()), 300_000);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// All bricks have restarted, and what they had in memory is not sent again yet: whoever wrote it reads it all the same, and
/// finds it when looking for data.
#[tokio::test(flavor = "multi_thread")]
async fn what_restarted_bricks_have_lost_is_read() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let old = pattern(1, 300_000);
    client.write_at(&file, 0, &old).await.unwrap();
    client.fsync(&file).await.unwrap();
    let mut new = pattern(2, 300_000);
    client.write_at(&file, 0, &new).await.unwrap();
    client.write_at(&file, 170 * 4096, &new).await.unwrap();
    client.flush(&file).await.unwrap();
    // Commits tell nothing: what was lost is not found by them.
    cluster
        .world
        .fault(|_, request| matches!(request, BrickRequest::Commit).then_some(Fault::Refuse(Status::Busy)));
    for brick in 0..3 {
        cluster.world.restart(BrickId(brick));
    }
    let newest = cluster.world.map.borrow().epoch;
    until("the map to be known", || client.map().epoch >= newest).await;
    assert_eq!(client.seek_data(&file, 400_000).await.unwrap(), 170 * 4096);
    let read = client.read_at(&file, 0, 300_000).await.unwrap();
    assert!(read == new, "older bytes, or none");
    // Newer ones are not hidden by what is sent again.
    client.write_at(&file, 1000, b"newest").await.unwrap();
    new[1000..1006].copy_from_slice(b"newest");
    assert!(client.read_at(&file, 0, 300_000).await.unwrap() == new);
    cluster.world.heal();
    client.fsync(&file).await.unwrap();
    let layout = client.getattr(file.ino()).await.unwrap().layout;
    assert!(cluster.world.durable_file(file.ino(), &layout, 300_000) == new);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Another machine cuts the file while this one writes behind the cut, knowing nothing of it: what fsync acknowledges is there. What was
/// told before stays cut.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_cut_meanwhile_is_written_again() {
    let cluster = Cluster::start().await;
    // Nothing is told before it is asked for.
    let config = ClientConfig { flush_age: Duration::from_secs(3600), ..cluster.config() };
    let client = cluster.client_with(config).await;
    let other = cluster.client().await;
    let file = client.create_path(b"f", 0o600, OpenOptions { direct: true, ..read_write() }).await.unwrap();
    let ino = file.ino();
    let mut model = pattern(1, 300_000);
    client.write_at(&file, 0, &model).await.unwrap();
    client.fsync(&file).await.unwrap();
    client.write_at(&file, 400_000, &pattern(2, 1000)).await.unwrap();
    client.flush(&file).await.unwrap();
    let pieces = [(50, 3), (250_000, 4), (500_000, 5)];
    for (at, seed) in pieces {
        client.write_at(&file, at, &pattern(seed, 1000)).await.unwrap();
    }
    other.setattr(ino, AttrChanges { size: Some(100), ..AttrChanges::default() }).await.unwrap();
    client.write_at(&file, 600_000, &pattern(6, 1000)).await.unwrap();
    client.fsync(&file).await.unwrap();

    model.truncate(100);
    for (at, seed) in pieces.into_iter().chain([(600_000, 6)]) {
        model.resize(model.len().max(at as usize + 1000), 0);
        model[at as usize..at as usize + 1000].copy_from_slice(&pattern(seed, 1000));
    }
    assert_eq!(cluster.namespace.size_of(ino), 601_000);
    let layout = other.getattr(ino).await.unwrap().layout;
    assert!(cluster.world.durable_file(ino, &layout, 601_000) == model, "acknowledged by fsync, and gone");
    assert!(client.read_at(&file, 0, 700_000).await.unwrap() == model);
    // It knows now, and is not told again.
    let reports = cluster.namespace.reports_under_way.load(Ordering::SeqCst);
    client.write_at(&file, 700_000, &pattern(7, 1000)).await.unwrap();
    client.fsync(&file).await.unwrap();
    assert_eq!(cluster.namespace.reports_under_way.load(Ordering::SeqCst), reports + 1);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}

/// A truncation ends in an error and comes all the same, later, when the program has written behind it and was told that this is durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_comes_late_takes_nothing_that_is_durable() {
    let cluster = Cluster::start().await;
    let config = ClientConfig { deadline: Duration::from_secs(2), ..cluster.config() };
    let client = cluster.client_with(config).await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let ino = file.ino();
    let mut model = pattern(1, 300_000);
    client.write_at(&file, 0, &model).await.unwrap();
    client.fsync(&file).await.unwrap();

    let held = cluster.namespace.held_cuts.write().await;
    let size = AttrChanges { size: Some(100), ..AttrChanges::default() };
    assert_eq!(client.setattr(ino, size).await.unwrap_err().errno(), Errno::IO);
    client.write_at(&file, 200_000, b"new").await.unwrap();
    assert_eq!(client.fsync(&file).await.unwrap_err().errno(), Errno::IO, "durable, though it may be cut");
    drop(held);
    until("the cut", || cluster.namespace.size_of(ino) == 100).await;
    client.fsync(&file).await.unwrap();

    model.truncate(100);
    model.resize(200_000, 0);
    model.extend(b"new");
    let layout = client.getattr(ino).await.unwrap().layout;
    assert!(cluster.world.durable_file(ino, &layout, 200_003) == model);
    assert!(client.read_at(&file, 0, 300_000).await.unwrap() == model);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A hole is made where restarted bricks have lost what was there: it is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_does_not_fill_a_hole() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let data = pattern(1, 300_000);
    client.write_at(&file, 0, &data).await.unwrap();
    client.flush(&file).await.unwrap();
    cluster
        .world
        .fault(|_, request| matches!(request, BrickRequest::Commit).then_some(Fault::Refuse(Status::Busy)));
    for brick in 0..3 {
        cluster.world.restart(BrickId(brick));
    }
    client.fallocate(&file, FallocateMode::PunchHole, 100_000, 100_000).await.unwrap();
    cluster.world.heal();
    client.fsync(&file).await.unwrap();
    assert!(client.metrics().resends > 0, "nothing was to be sent again");
    let read = client.read_at(&file, 0, 300_000).await.unwrap();
    assert!(
        read[..100_000] == data[..100_000] && read[200_000..] == data[200_000..],
        "what is beside the hole is gone"
    );
    assert!(read[100_000..200_000].iter().all(|byte| *byte == 0), "the hole is filled");
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A hole that can't be made leaves what fsync has to see to.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_fails_forgets_nothing() {
    let cluster = Cluster::start().await;
    let config = ClientConfig { deadline: Duration::from_secs(3), ..cluster.config() };
    let client = cluster.client_with(config).await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let data = pattern(1, 300_000);
    client.write_at(&file, 0, &data).await.unwrap();
    client.flush(&file).await.unwrap();
    // A short hole is made without asking which chunks there are.
    let long = 70 * u64::from(DEFAULT_CHUNK_BYTES);
    client.fallocate(&file, FallocateMode::Allocate { keep_size: false }, 0, long).await.unwrap();
    cluster.world.fault(|_, request| {
        let commits = matches!(request, BrickRequest::Commit);
        let lists = matches!(request, BrickRequest::ListFile { .. } | BrickRequest::Extents { .. });
        (commits || lists).then_some(Fault::Refuse(Status::Busy))
    });
    assert!(client.fallocate(&file, FallocateMode::PunchHole, 100_000, long).await.is_err());
    for brick in 0..3 {
        cluster.world.restart(BrickId(brick));
    }
    cluster.world.heal();
    client.fsync(&file).await.unwrap();
    let layout = cluster.namespace.attr_of(file.ino()).layout;
    assert!(cluster.world.durable_file(file.ino(), &layout, 300_000) == data, "fsync said yes");
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A closed file's unstable data is sent again by itself when the map tells of a restart, and
/// not if the file was deleted meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_are_noticed_without_fsync() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let data = pattern(1, 100_000);
    let kept = client.create_path(b"kept", 0o600, read_write()).await.unwrap();
    let gone = client.create_path(b"gone", 0o600, read_write()).await.unwrap();
    let (kept_ino, gone_ino) = (kept.ino(), gone.ino());
    for file in [kept, gone] {
        client.write_at(&file, 0, &data).await.unwrap();
        client.release(file).await.unwrap();
    }
    client.unlink(Ino::ROOT, Name::new(&b"gone"[..]).unwrap()).await.unwrap();
    for brick in 0..3 {
        cluster.world.restart(BrickId(brick));
    }
    until("nothing unstable to be left", || client.metrics().uncommitted_bytes_now == 0).await;
    let layout = cluster.namespace.attr_of(kept_ino).layout;
    assert!(cluster.world.durable_file(kept_ino, &layout, 100_000) == data);
    let revived = |brick: &FakeBrick| brick.memory.keys().any(|key| key.ino == gone_ino);
    assert!(!cluster.world.bricks.lock().unwrap().values().any(revived));
    client.shutdown().await.unwrap();
}

/// A member that leaves its chain before it committed holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_does_not_hold_up_fsync() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let data = pattern(2, 3 << 20);
    client.write_at(&file, 0, &data).await.unwrap();
    client.flush(&file).await.unwrap();
    cluster.world.fault(|brick, _| (brick == BrickId(1)).then_some(Fault::Mute));
    let world = cluster.world.clone();
    let leave = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.set_state(BrickId(1), MemberState::Offline);
    });
    client.fsync(&file).await.unwrap();
    leave.await.unwrap();
    // Writing goes on with those that are left.
    client.write_at(&file, 0, &[5; 1000]).await.unwrap();
    client.fsync(&file).await.unwrap();
    let attr = cluster.namespace.attr_of(file.ino());
    let durable = cluster.world.durable_file(file.ino(), &attr.layout, attr.size);
    assert!(durable[..1000] == [5; 1000] && durable[1000..] == data[1000..]);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Reads go to another member when one is silent.
#[tokio::test(flavor = "multi_thread")]
async fn reads_survive_a_dead_member() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let data = pattern(2, 3 << 20);
    client.write_at(&file, 0, &data).await.unwrap();
    client.fsync(&file).await.unwrap();
    cluster.world.fault(|brick, _| (brick == BrickId(2)).then_some(Fault::Mute));
    for _ in 0..4 {
        assert!(client.read_at(&file, 0, 4 << 20).await.unwrap() == data);
    }
    cluster.world.heal();
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A damaged copy is read elsewhere; only when every copy is damaged is it an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_read_elsewhere() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let data = pattern(2, 3 << 20);
    client.write_at(&file, 0, &data).await.unwrap();
    client.fsync(&file).await.unwrap();
    let is_read = |r: &BrickRequest| matches!(r, BrickRequest::Read { .. });
    cluster
        .world
        .fault(move |brick, r| (brick == BrickId(0) && is_read(r)).then_some(Fault::Refuse(Status::Corrupt)));
    for _ in 0..4 {
        assert!(client.read_at(&file, 0, 4 << 20).await.unwrap() == data);
    }
    assert!(client.metrics().bad_copies > 0);
    cluster.world.fault(move |_, r| is_read(r).then_some(Fault::Refuse(Status::Corrupt)));
    let error = client.read_at(&file, 0, 100).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(error.errno(), Errno::IO);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A call whose answer was lost is done once.
#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_do_not_repeat_changes() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    cluster.namespace.lose_replies.store(1, Ordering::SeqCst);
    let new = NewInode { mode: 0o755, umask: 0, uid: 0, gid: 0 };
    client.mkdir(Ino::ROOT, Name::new(&b"d"[..]).unwrap(), new).await.unwrap();
    cluster.namespace.busy.store(3, Ordering::SeqCst);
    cluster.namespace.lose_replies.store(2, Ordering::SeqCst);
    client.rmdir(Ino::ROOT, Name::new(&b"d"[..]).unwrap()).await.unwrap();
    let log = cluster.namespace.log.lock().unwrap().clone();
    assert_eq!(log.iter().filter(|r| matches!(r, FsRequest::Mkdir { .. })).count(), 1);
    assert_eq!(log.iter().filter(|r| matches!(r, FsRequest::Rmdir { .. })).count(), 1);
    assert!(client.metrics().retries >= 5);
    client.shutdown().await.unwrap();
}

/// A session that is gone is replaced, and what was open is open in the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_replaced() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    client.write_at(&file, 0, b"before").await.unwrap();
    cluster.namespace.expire_sessions();
    client.write_at(&file, 6, b" and after").await.unwrap();
    client.fsync(&file).await.unwrap();
    assert!(cluster.namespace.is_open(file.ino(), Access::Write));
    assert_eq!(client.metrics().sessions, 2);
    // Idle sessions are replaced by the renewal.
    cluster.namespace.expire_sessions();
    until("a third session", || client.metrics().sessions == 3).await;
    until("the file to be open in it", || cluster.namespace.is_open(file.ino(), Access::Write)).await;
    assert_eq!(&client.read_at(&file, 0, 100).await.unwrap()[..], b"before and after");
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Nothing waits for ever: an operation that can't be done ends in an I/O error at its
/// deadline, and can be asked meanwhile what it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_in_io_errors() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config();
    config.deadline = Duration::from_secs(3);
    let client = cluster.client_with(config).await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    client.write_at(&file, 0, &[1; 100]).await.unwrap();
    client.fsync(&file).await.unwrap();
    cluster.world.fault(|_, _| Some(Fault::Refuse(Status::Busy)));
    let begun = Instant::now();
    let reading = {
        let (client, file) = (client.clone(), file.clone());
        tokio::spawn(async move { client.read_at(&file, 0, 10).await })
    };
    until("the read to be stuck", || client.stuck().iter().any(|s| s.what == "read")).await;
    let stuck = client.stuck();
    assert!(stuck.iter().any(|s| s.what == "read" && s.waiting_for.contains("busy")), "{stuck:?}");
    let error = reading.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert_eq!(error.errno(), Errno::IO);
    client.write_at(&file, 0, &[2; 100]).await.unwrap();
    assert_eq!(client.fsync(&file).await.unwrap_err().errno(), Errno::IO);
    assert!(begun.elapsed() < Duration::from_secs(15));
    cluster.world.heal();
    // What was lost was told; the file works on.
    client.write_at(&file, 0, &[3; 100]).await.unwrap();
    client.fsync(&file).await.unwrap();
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Calls refused since the map moved on are repeated with the new map.
#[tokio::test(flavor = "multi_thread")]
async fn map_changes_are_followed() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let refused = Arc::new(AtomicU64::new(0));
    let data = pattern(3, 2 << 20);
    for round in 0..5u64 {
        let state = if round % 2 == 0 { MemberState::Offline } else { MemberState::Serving };
        if state == MemberState::Serving {
            // Brought up to date by its chain.
            let mut bricks = cluster.world.bricks.lock().unwrap();
            let mut all = bricks[&BrickId(1)].memory.clone();
            all.extend(bricks[&BrickId(2)].memory.clone());
            bricks.get_mut(&BrickId(0)).unwrap().memory = all;
        }
        cluster.world.set_state(BrickId(0), state);
        client.write_at(&file, 0, &data).await.unwrap();
        client.fsync(&file).await.unwrap();
        assert!(client.read_at(&file, 0, 2 << 20).await.unwrap() == data);
        refused.fetch_add(1, Ordering::Relaxed);
    }
    let reader = client.open(file.ino(), OpenOptions::read_only()).await.unwrap();
    assert!(client.read_at(&reader, 0, 2 << 20).await.unwrap() == data);
    client.release(reader).await.unwrap();
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}
