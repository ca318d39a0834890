//! The service over the net: what callers, bricks and operators see.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use namespace::machine::Machine;
use namespace::store::db::Db;
use namespace::verify::verify;
use namespace::{Config, Error, start};
use tokio::time::timeout;
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, ClusterId, Ino, LockHandle, LockOwner, MapEpoch};
use wire::map::{Chain, ClusterMap, MemberState};
use wire::meta::*;
use wire::net::{Authority, Endpoint, MemoryHub, Role};
use wire::status::{FsError, Status};

use crate::cluster::{Client, Cluster, FakeBrick, LONG, call, copy_dir, net, until};
use crate::harness::{CLUSTER, name, new};

fn mkdir(text: &str) -> FsRequest {
    FsRequest::Mkdir { parent: Ino::ROOT, name: name(text), new: new(0o755) }
}

async fn exists(client: &Client, ino: Ino) -> bool {
    match client.fs(FsRequest::GetAttr { ino }).await {
        Ok(_) => true,
        Err(Status::Fs(FsError::Stale)) => false,
        other => panic!("{other:?}"),
    }
}

async fn gone(client: &Client, ino: Ino) {
    until("a removed file is freed", async || (!exists(client, ino).await).then_some(())).await;
}

/// Invariant 1 of the room: the directory at the moment of an answer has what was answered,
/// and many callers share a flush.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_survive_a_crash() {
    let cluster = Cluster::new(2, |_| {}).await;
    let client = Arc::new(cluster.client(1).await);
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..200 {
        let client = client.clone();
        calls.spawn(async move { client.fs(mkdir(&format!("d{i}"))).await.unwrap() });
    }
    assert_eq!(calls.join_all().await.len(), 200);
    let image = cluster.dir.path().join("image");
    copy_dir(&cluster.config.dir, &image);
    let db = Arc::new(Db::open(&image).unwrap());
    let report = verify(&*db).unwrap();
    assert_eq!((report.problems, report.entries), (Vec::new(), 200));
    Machine::open(db, CLUSTER, 2, Timestamp::now()).unwrap();
    let metrics = cluster.running.as_ref().unwrap().metrics();
    assert!(metrics.commands >= 200 && metrics.batches < metrics.commands, "{metrics:?}");
    cluster.sound().await;
}

/// The same call arriving many times, also while the first is under way, is one call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_carried_out_once() {
    let mut cluster = Cluster::new(0, |_| {}).await;
    let client = Arc::new(cluster.client(1).await);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        calls.spawn(async move { client.fs_as(7, mkdir("d")).await });
    }
    let answers = calls.join_all().await;
    assert!(answers[0].is_ok() && answers.iter().all(|a| *a == answers[0]));
    cluster.restart().await;
    assert_eq!(client.fs_as(7, mkdir("d")).await, answers[0]);
    assert_eq!(client.fs(mkdir("d")).await, Err(Status::Fs(FsError::Exists)));
}

/// Invariant 2 of the room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlinked_files_live_while_open() {
    let cluster = Cluster::new(2, |_| {}).await;
    let (one, two) = (cluster.client(1).await, cluster.client(2).await);
    let kept = one.file("kept", 100).await;
    let other = one.file("other", 100).await;
    two.fs(FsRequest::Open { ino: kept, access: Access::Read }).await.unwrap();
    one.unlink("kept").await;
    one.unlink("other").await;
    gone(&one, other).await;
    assert_eq!(one.attr(FsRequest::GetAttr { ino: kept }).await.unwrap().nlink, 0);
    assert_eq!(cluster.status().await.orphans, 1);
    two.fs(FsRequest::Close { ino: kept, access: Access::Read }).await.unwrap();
    gone(&one, kept).await;
    until("chunks are cut", async || (cluster.cut_by(kept, 0).len() == 2).then_some(())).await;
    until("nothing is owed", async || (cluster.status().await.trims == 0).then_some(())).await;
    assert_eq!(two.fs(FsRequest::Open { ino: kept, access: Access::Read }).await, Err(FsError::Stale.into()));
    // A session that ends lets go of what it had.
    let held = two.create("held", Access::Read).await;
    one.unlink("held").await;
    assert!(exists(&one, held).await);
    two.cluster(ClusterRequest::CloseSession).await.unwrap();
    gone(&one, held).await;
    cluster.sound().await;
}

/// After a restart nothing is freed before every session has said what it has open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_files_survive_a_restart() {
    let mut cluster = Cluster::new(2, |_| {}).await;
    let (one, two) = (cluster.client(1).await, cluster.client(2).await);
    let kept = one.create("kept", Access::Read).await;
    let other = two.create("other", Access::Read).await;
    one.unlink("kept").await;
    one.unlink("other").await;
    cluster.restart().await;
    assert!(one.renew(None).await.unwrap(), "it is asked");
    assert!(!one.renew(Some(vec![(kept, Access::Read)])).await.unwrap());
    assert!(exists(&one, other).await, "the second was not heard yet");
    assert!(!two.renew(Some(Vec::new())).await.unwrap());
    gone(&one, other).await;
    assert!(exists(&one, kept).await);
    one.fs(FsRequest::Close { ino: kept, access: Access::Read }).await.unwrap();
    gone(&one, kept).await;
    cluster.sound().await;
}

/// After a restart files that were removed wait for those to be heard who may have them open, and not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_files_do_not_wait_for_the_silent() {
    let mut cluster = Cluster::new(0, |config| {
        config.session_ttl = Duration::from_millis(500);
        config.sweep = Duration::from_millis(100);
    })
    .await;
    let (silent, other) = (cluster.client(1).await, cluster.client(2).await);
    let kept = other.create("kept", Access::Read).await;
    other.unlink("kept").await;
    cluster.restart().await;
    assert_eq!(other.renew(Some(vec![])).await, Ok(false));
    gone(&other, kept).await;
    assert_eq!(silent.renew(None).await, Err(Status::SessionGone));
    // With nothing to be freed it would have lived.
    let silent = cluster.client(1).await;
    cluster.restart().await;
    assert_eq!(other.renew(Some(vec![])).await, Ok(false));
    until("it is silent", async || {
        let sessions = cluster.status().await.sessions;
        sessions.iter().find(|s| s.session == silent.session).filter(|s| s.heard_ms > 700).map(drop)
    })
    .await;
    assert_eq!(silent.renew(None).await, Ok(true));
}

/// A mount that is not heard any more keeps what it has until somebody needs it, and can go on with it. Then it is over, and
/// nobody else: who asks for its lock gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_ends_when_it_is_in_the_way() {
    let cluster = Cluster::new(2, |config| config.session_ttl = Duration::from_secs(2)).await;
    let (silent, bystander, other) =
        (cluster.client(1).await, cluster.client(2).await, cluster.client(3).await);
    let heard_late = async |session| {
        until("it is silent", async || {
            let sessions = cluster.status().await.sessions;
            sessions.iter().find(|s| s.session == session).filter(|s| s.heard_ms > 2200).map(drop)
        })
        .await;
    };
    let ino = silent.file("f", 100).await;
    let wish = |owner| LockWish {
        ino,
        kind: LockKind::Flock,
        owner: LockOwner(owner),
        handle: LockHandle(1),
        range: LockRange::ALL,
        mode: LockMode::Exclusive,
        pid: 7,
    };
    assert!(matches!(silent.fs(FsRequest::Lock(wish(1))).await, Ok(FsReply::Locked { .. })));
    let FsReply::Locks { locks, .. } = silent.fs(FsRequest::ListLocks { ino }).await.unwrap() else {
        panic!()
    };
    // Heard again before anybody needed it: nothing is lost.
    heard_late(silent.session).await;
    assert_eq!(silent.renew(None).await, Ok(false));
    let held = other.fs(FsRequest::Lock(wish(1))).await.unwrap();
    assert_eq!(held, FsReply::LockedBy(Some(locks[0].1)), "it was heard just now");
    // Somebody who waits has it when its time is over.
    let waits = FsRequest::AwaitLock { wish: wish(1), wait_ms: 20_000 };
    other.renew(None).await.unwrap();
    assert_eq!(other.fs(waits).await, Ok(FsReply::LockedBy(None)));
    assert!(matches!(other.fs(FsRequest::Lock(wish(1))).await, Ok(FsReply::Locked { .. })));
    assert_eq!(silent.renew(None).await, Err(Status::SessionGone));
    assert!(cluster.map().await.blocked.contains_key(&silent.session));
    // One who only tries has it at once, of one who is silent.
    heard_late(other.session).await;
    let third = cluster.client(4).await;
    assert!(matches!(third.fs(FsRequest::Lock(wish(1))).await, Ok(FsReply::Locked { .. })));
    assert_eq!(other.renew(None).await, Err(Status::SessionGone));
    // Nobody needed anything of this one.
    assert_eq!(bystander.renew(None).await, Ok(false));
    cluster.sound().await;
}

/// A cluster that somebody has for himself can be mounted by others once he is not heard any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_mount_keeps_nobody_out() {
    let cluster = Cluster::new(0, |config| config.session_ttl = Duration::from_secs(2)).await;
    let sole = cluster.try_client(1, Sharing::Sole).await.unwrap();
    assert_eq!(cluster.try_client(2, Sharing::Shared).await.map(|c| c.session), Err(Status::NotAlone));
    until("it is silent", async || {
        cluster.status().await.sessions.first().filter(|s| s.heard_ms > 2200).map(drop)
    })
    .await;
    let other = cluster.client(2).await;
    assert_eq!(sole.renew(None).await, Err(Status::SessionGone));
    other.fs(mkdir("a")).await.unwrap();
}

/// A lock that is broken is given up by its mount, which is told at once; a mount that does not do so in time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_locks_are_told_and_enforced() {
    let mut cluster = Cluster::new(0, |config| config.recall_grace = Duration::from_millis(700)).await;
    let (holder, other) = (Arc::new(cluster.client(1).await), Arc::new(cluster.client(2).await));
    let ino = holder.file("f", 100).await;
    let wish = LockWish {
        ino,
        kind: LockKind::Flock,
        owner: LockOwner(1),
        handle: LockHandle(5),
        range: LockRange::ALL,
        mode: LockMode::Exclusive,
        pid: 7,
    };
    let locked = async |client: &Client| match client.fs(FsRequest::Lock(wish)).await {
        Ok(FsReply::Locked { generation, .. }) => generation,
        other => panic!("{other:?}"),
    };
    let generation = locked(&holder).await;
    let epoch = cluster.map().await.epoch;
    let waits = {
        let holder = holder.clone();
        tokio::spawn(
            async move { holder.cluster(ClusterRequest::GetMap { after: epoch, wait_ms: 20_000 }).await },
        )
    };
    let breaks = {
        let other = other.clone();
        tokio::spawn(async move { other.fs(FsRequest::BreakLock { ino, generation }).await })
    };
    let Ok(ClusterReply::Recalls { recalls, .. }) = timeout(LONG, waits).await.unwrap().unwrap() else {
        panic!("it was not told")
    };
    assert_eq!(recalls, [Recall { ino, handle: LockHandle(5) }]);
    holder.fs(FsRequest::DropLocks { ino, handle: LockHandle(5) }).await.unwrap();
    assert_eq!(breaks.await.unwrap(), Ok(FsReply::Done));
    assert_eq!(holder.renew(None).await, Ok(false), "it did what it was told");
    // And one that does nothing, over a restart of the namespace.
    let generation = locked(&other).await;
    let breaks = {
        let holder = holder.clone();
        tokio::spawn(async move { holder.fs_as(77, FsRequest::BreakLock { ino, generation }).await })
    };
    until("it is told", async || {
        let told = other.cluster(ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 }).await;
        matches!(told, Ok(ClusterReply::Recalls { .. })).then_some(())
    })
    .await;
    cluster.restart().await;
    let _ = breaks.await.unwrap();
    let again = holder.fs_as(77, FsRequest::BreakLock { ino, generation }).await;
    assert_eq!(again, Ok(FsReply::Done));
    assert_eq!(other.renew(None).await, Err(Status::SessionGone));
    cluster.sound().await;
}

/// A mount that is not heard for very long is over: blocked, its tails cut, its files let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_expires() {
    let cluster = Cluster::new(2, |config| {
        config.session_ttl = Duration::from_millis(500);
        config.session_keep = Duration::from_secs(1);
    })
    .await;
    let silent = cluster.client(1).await;
    let written = silent.file("written", 100).await;
    silent.fs(FsRequest::Open { ino: written, access: Access::Write }).await.unwrap();
    let before = cluster.map().await.epoch;
    let waited = cluster.ask(ClusterRequest::GetMap { after: before, wait_ms: 20_000 }).await.unwrap();
    let ClusterReply::Map(map) = waited else { panic!("{waited:?}") };
    assert!(map.epoch > before && map.blocked.contains_key(&silent.session));
    assert_eq!(silent.fs(mkdir("d")).await, Err(Status::SessionGone));
    assert_eq!(silent.renew(None).await, Err(Status::SessionGone));
    until("the tail is cut", async || (cluster.cut_by(written, 100).len() == 2).then_some(())).await;
    let again = cluster.client(1).await;
    assert!(again.session > silent.session);
    assert!(exists(&again, written).await);
    cluster.sound().await;
}

/// A mount that comes up again under its name ends its earlier session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_session_ends_the_earlier_one() {
    let cluster = Cluster::new(0, |_| {}).await;
    let (first, other) = (cluster.client(1).await, cluster.client(2).await);
    let second = cluster.client(1).await;
    assert_eq!(first.fs(mkdir("a")).await, Err(Status::SessionGone));
    second.fs(mkdir("a")).await.unwrap();
    other.fs(mkdir("b")).await.unwrap();
    let sessions = cluster.status().await.sessions;
    assert_eq!(sessions.iter().map(|s| s.host.as_str()).collect::<Vec<_>>(), ["host2", "host1"]);
}

/// Invariant 3 of the room: a shrink is answered when the bricks have done it; growing, opening and looking
/// wait for it too; a dead brick is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_answered_when_it_is_done() {
    let cluster = Cluster::new(2, |_| {}).await;
    let client = Arc::new(cluster.client(1).await);
    let file = client.file("f", 10_000).await;
    cluster.bricks[1].gate.send_replace(false);
    let spawn = |size| {
        let client = client.clone();
        tokio::spawn(async move { client.set_size(file, size).await })
    };
    let shrink = spawn(10);
    until("one brick has cut", async || (!cluster.cut_by(file, 10).is_empty()).then_some(())).await;
    let grow = spawn(500);
    let opener = {
        let client = client.clone();
        tokio::spawn(async move { client.attr(FsRequest::Open { ino: file, access: Access::Write }).await })
    };
    let looker = {
        let client = client.clone();
        tokio::spawn(async move { client.attr(FsRequest::GetAttr { ino: file }).await })
    };
    until("the cut is recorded", async || (cluster.status().await.trims == 1).then_some(())).await;
    assert!(!shrink.is_finished() && !grow.is_finished() && !opener.is_finished() && !looker.is_finished());
    cluster.bricks[1].gate.send_replace(true);
    assert_eq!(shrink.await.unwrap().unwrap().size, 10);
    assert_eq!(looker.await.unwrap().unwrap().size, 10);
    assert_eq!(grow.await.unwrap().unwrap().size, 500);
    assert!(opener.await.unwrap().is_ok());
    assert_eq!(cluster.cut_by(file, 10).len(), 2);
    // A brick that neither answers nor beats is waited for until it counts as dead.
    cluster.bricks[1].gate.send_replace(false);
    cluster.bricks[1].beats.store(false, Ordering::SeqCst);
    let cut = timeout(LONG, client.set_size(file, 5)).await.unwrap();
    assert_eq!(cut.unwrap().size, 5);
    assert!(!cluster.map().await.bricks[&BrickId(1)].alive);
    assert_eq!(cluster.status().await.trims, 1);
    cluster.sound().await;
}

/// Who waits for a cut hears at once that the service stops, and holds it up no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_that_waits_does_not_hold_up_a_stop() {
    let mut cluster = Cluster::new(2, |_| {}).await;
    let client = Arc::new(cluster.client(1).await);
    let file = client.file("f", 10_000).await;
    cluster.bricks[1].gate.send_replace(false);
    let shrink = tokio::spawn({
        let client = client.clone();
        async move { client.set_size(file, 10).await }
    });
    until("one brick has cut", async || (!cluster.cut_by(file, 10).is_empty()).then_some(())).await;
    let stopped = timeout(Duration::from_secs(3), cluster.stop()).await;
    assert!(stopped.is_ok(), "it waits for the brick");
    assert!(shrink.await.unwrap().is_err());
}

/// A brick that has not cut yet gives what is cut back to one that has: as a head does that levels copies. It is cut there again before
/// the cut is answered, whether the other one cuts it later or is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_back_is_cut_again() {
    for given_up in [false, true] {
        let cluster = Cluster::new(2, |_| {}).await;
        let client = Arc::new(cluster.client(1).await);
        let file = client.file("f", 10 << 20).await;
        let chunk = ChunkKey { ino: file, index: 1 };
        let gives = |brick: usize| cluster.bricks[brick].chunks.lock().unwrap().insert(chunk);
        assert!(gives(0) && gives(1));
        cluster.bricks[0].gate.send_replace(false);
        let shrink = tokio::spawn({
            let client = client.clone();
            async move { client.set_size(file, 10).await }
        });
        until("one brick has cut", async || cluster.cut_by(file, 10).contains(&1).then_some(())).await;
        assert!(gives(1), "it had cut it");
        if given_up {
            cluster.bricks[0].beats.store(false, Ordering::SeqCst);
        } else {
            cluster.bricks[0].gate.send_replace(true);
        }
        assert_eq!(timeout(LONG, shrink).await.unwrap().unwrap().unwrap().size, 10);
        assert!(cluster.bricks[1].chunks.lock().unwrap().is_empty(), "given up: {given_up}");
        assert_eq!(cluster.bricks[0].chunks.lock().unwrap().is_empty(), !given_up);
        cluster.sound().await;
    }
}

/// Somebody writes behind the new end all the while: the cut is answered after a few rounds, and what is written then stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_behind_a_cut_does_not_hold_it_up() {
    let cluster = Cluster::new(2, |_| {}).await;
    let client = cluster.client(1).await;
    let file = client.file("f", 10 << 20).await;
    let chunk = ChunkKey { ino: file, index: 1 };
    cluster.bricks[0].chunks.lock().unwrap().insert(chunk);
    cluster.bricks[0].refilled.store(true, Ordering::SeqCst);
    assert_eq!(timeout(LONG, client.set_size(file, 10)).await.unwrap().unwrap().size, 10);
    let rounds = cluster.bricks[0].cuts.lock().unwrap().len();
    assert!((2..=4).contains(&rounds), "{rounds} rounds");
    assert!(cluster.bricks[0].chunks.lock().unwrap().contains(&chunk));
    cluster.sound().await;
}

/// A brick is heard, and nobody can reach it: others go on with its chains, then it is given up, and not let in before it is reached. A
/// namespace that reaches nobody judges nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_nobody_can_reach_is_set_aside() {
    let quick = |config: &mut Config| config.ask_every = Duration::from_millis(50);
    let cluster = Cluster::new(3, quick).await;
    let first = BrickId(0);
    let suspect = async |brick: BrickId| {
        let suspect = ClusterRequest::Suspect { brick, boot: BootId(1) };
        assert_eq!(cluster.ask(suspect).await, Ok(ClusterReply::Done));
    };
    let serves =
        |map: &ClusterMap| map.chains_of(first).any(|c| c.state_of(first) == Some(MemberState::Serving));
    let unreached = async |number: usize| {
        until("so many are out of reach", async || {
            (cluster.status().await.unreached_ms.len() == number).then_some(())
        })
        .await;
    };
    for brick in &cluster.bricks {
        brick.reached.send_replace(false);
    }
    for brick in 0..3 {
        suspect(BrickId(brick)).await;
    }
    unreached(3).await;
    assert!(cluster.map().await.chains.values().all(|chain| chain.serving().count() == 2));
    cluster.bricks[2].reached.send_replace(true);
    cluster.bricks[1].reached.send_replace(true);
    let kept_out = async || {
        let map = cluster.map().await;
        assert!(map.bricks[&first].alive || !serves(&map));
        for other in [BrickId(1), BrickId(2)] {
            let leaves = |chain: &Chain| chain.state_of(other) == Some(MemberState::Leaving);
            assert!(map.bricks[&other].alive && !map.chains_of(other).any(leaves), "{map:?}");
        }
        (!map.bricks[&first].alive).then_some(map)
    };
    let map = until("it is given up", kept_out).await;
    assert!(map.chains.values().all(|chain| chain.head().is_some()), "{map:?}");
    assert_eq!(cluster.reboot(0, 1).await, Err(Status::Unreached));
    cluster.bricks[0].reached.send_replace(true);
    assert!(matches!(cluster.reboot(0, 1).await, Ok(ClusterReply::Map(_))));
    cluster.sound().await;
}

/// A brick that is silent is dead; when it is back it first cuts what it owes, then is synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_brick_is_dead_until_it_is_back() {
    let cluster = Cluster::new(2, |_| {}).await;
    let client = cluster.client(1).await;
    let file = client.file("f", 10_000).await;
    cluster.bricks[0].beats.store(false, Ordering::SeqCst);
    let dead = async || {
        let map = cluster.map().await;
        (!map.bricks[&BrickId(0)].alive).then_some(map)
    };
    let map = until("a silent brick is dead", dead).await;
    let state = |map: &wire::map::ClusterMap| map.chains.values().next().unwrap().state_of(BrickId(0));
    assert_eq!(state(&map), Some(MemberState::Offline));
    client.set_size(file, 10).await.unwrap();
    cluster.bricks[0].beats.store(true, Ordering::SeqCst);
    cluster.reboot(0, 2).await.unwrap();
    let syncing = async || (state(&cluster.map().await) == Some(MemberState::Syncing)).then_some(());
    until("it is synced", syncing).await;
    assert!(cluster.cut_by(file, 10).contains(&0));
    let chain = cluster.map().await.chains.values().next().unwrap().clone();
    let done = ClusterRequest::SyncDone { chain: chain.id, epoch: chain.epoch, brick: BrickId(0) };
    let Ok(ClusterReply::Map(map)) = cluster.ask(done).await else { panic!("no map") };
    assert_eq!(state(&map), Some(MemberState::Serving));
    cluster.sound().await;
}

/// One brick that restarts is synced from the other, which stayed; when both restart, both
/// go on serving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_alone_is_told_from_a_restart_of_all() {
    let cluster = Cluster::new(2, |_| {}).await;
    let (a, b) = tokio::join!(cluster.reboot(0, 2), cluster.reboot(1, 2));
    assert!(a.is_ok() && b.is_ok());
    let map = cluster.map().await;
    assert!(map.chains.values().all(|c| c.serving().count() == 2), "{map:?}");
    let beaten = async || cluster.bricks.iter().all(|b| b.heard.load(Ordering::SeqCst) == 2).then_some(());
    until("both are heard in their new lives", beaten).await;
    cluster.reboot(0, 3).await.unwrap();
    let map = cluster.map().await;
    for chain in map.chains.values() {
        assert_eq!(chain.state_of(BrickId(0)), Some(MemberState::Syncing));
        assert_eq!(chain.state_of(BrickId(1)), Some(MemberState::Serving));
    }
    // A life nobody registered is told to.
    cluster.bricks[1].beats.store(false, Ordering::SeqCst);
    let boot = wire::id::BootId(9);
    let (brick, map, report) = (BrickId(1), MapEpoch(0), BrickReport::default());
    let beat = cluster.ask(ClusterRequest::Heartbeat { brick, boot, map, report }).await;
    assert!(matches!(beat, Ok(ClusterReply::Heartbeat { register: true, .. })));
}

/// A disk that knows lives, and not the last one, was set back; one that says nothing of them is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_know_the_last_life_is_refused() {
    let mut cluster = Cluster::new(2, |_| {}).await;
    assert_eq!(cluster.reboot_knowing(0, 7, &[5, 6, 7]).await, Err(Status::SetBack));
    assert!(cluster.reboot_knowing(0, 2, &[1, 2]).await.is_ok());
    assert_eq!(cluster.reboot_knowing(0, 3, &[1, 3]).await, Err(Status::SetBack), "its last life is 2 now");
    cluster.restart().await;
    assert_eq!(cluster.reboot_knowing(0, 4, &[1, 4]).await, Err(Status::SetBack));
    assert!(cluster.reboot_knowing(0, 5, &[]).await.is_ok());
    assert!(cluster.reboot_knowing(0, 6, &[2, 5, 6]).await.is_ok());
    cluster.stop().await;
}

/// After a restart of everything without one brick, the others serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_is_missing_after_a_restart_is_not_waited_for() {
    for missing in 0..2 {
        let mut cluster = Cluster::new(2, |config| {
            config.brick_grace = Duration::from_secs(1);
            config.brick_dead_after = Duration::from_secs(1);
        })
        .await;
        for brick in &cluster.bricks {
            brick.beats.store(false, Ordering::SeqCst);
        }
        cluster.restart().await;
        let here = 1 - missing;
        cluster.bricks[here as usize].beats.store(true, Ordering::SeqCst);
        cluster.reboot(here, 2).await.unwrap();
        let map = cluster.map().await;
        for chain in map.chains.values() {
            assert_eq!(chain.state_of(BrickId(here)), Some(MemberState::Serving));
            assert_eq!(chain.state_of(BrickId(missing)), Some(MemberState::Offline));
        }
    }
}

/// A brick whose disk failed is out at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_disk_is_out_at_once() {
    let cluster = Cluster::new(2, |config| config.brick_dead_after = LONG).await;
    cluster.bricks[0].beats.store(false, Ordering::SeqCst);
    let report = BrickReport { failed: Some("reading: rotten".to_owned()), ..BrickReport::default() };
    let (brick, boot, map) = (BrickId(0), wire::id::BootId(1), MapEpoch(0));
    for _ in 0..2 {
        let report = report.clone();
        let beat = cluster.ask(ClusterRequest::Heartbeat { brick, boot, map, report }).await;
        assert!(matches!(beat, Ok(ClusterReply::Heartbeat { register: false, .. })));
    }
    assert!(!cluster.map().await.bricks[&brick].alive);
    let Ok(ClusterReply::Status(status)) = cluster.ask(ClusterRequest::Status).await else {
        panic!("no status")
    };
    // The other one may have been heard by now.
    let told = status.bricks.iter().find(|(of, _)| *of == brick);
    assert_eq!(told, Some(&(brick, report)), "people read why");
}

/// Everybody keeps to the calls of its role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_keep_to_their_calls() {
    let cluster = Cluster::new(0, |_| {}).await;
    let look = || MetaRequest::Fs(FsRequest::GetAttr { ino: Ino::ROOT });
    let (brick, client) = (cluster.net(Role::Brick, 1), cluster.net(Role::Client, 2));
    let to = cluster.endpoint();
    assert_eq!(call(&brick, to, None, 0, look()).await, Err(Status::Forbidden));
    assert!(call(&client, to, None, 0, look()).await.is_ok());
    let add = MetaRequest::Cluster(ClusterRequest::AddBricks(Vec::new()));
    assert_eq!(call(&client, to, None, 0, add).await, Err(Status::Forbidden));
    assert_eq!(call(&client, to, None, 0, MetaRequest::Fs(mkdir("d"))).await, Err(Status::Malformed));
}

/// Space is what bricks report, for one copy; pages of files tell what a check needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_and_files_are_told() {
    let cluster = Cluster::new(4, |_| {}).await;
    let client = cluster.client(1).await;
    let told = async || match client.fs(FsRequest::StatFs).await {
        Ok(FsReply::StatFs(told)) if told.total_bytes == 2000 << 30 => Some(told),
        _ => None,
    };
    let told = until("four bricks have reported", told).await;
    assert_eq!((told.free_bytes, told.inodes), (1000 << 30, 1));
    let open = client.create("open", Access::Write).await;
    let closed = client.file("closed", 5).await;
    client.fs(mkdir("d")).await.unwrap();
    let page = async |after, max| {
        let request = MetaRequest::Check(CheckRequest::Files { after, max });
        match call(&cluster.admin, cluster.endpoint(), None, 0, request).await {
            Ok(MetaReply::Check(CheckReply::Inodes { inodes, end })) => (inodes, end),
            other => panic!("{other:?}"),
        }
    };
    let (all, end) = page(Ino(0), 10).await;
    assert!(end);
    let brief: Vec<_> = all.iter().map(|i| (i.ino, i.size, i.open_for_write)).collect();
    assert_eq!(brief, [(open, 0, true), (closed, 5, false)]);
    let (first, end) = page(Ino(0), 1).await;
    assert_eq!((first.len(), end), (1, false));
    assert_eq!(page(first[0].ino, 1).await.0[0].ino, closed);
    assert_eq!(page(closed, 1).await, (Vec::new(), true));
}

/// A directory of another cluster, or one in use, is refused by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_peoples_directories_are_refused() {
    let cluster = Cluster::new(0, |_| {}).await;
    let hub = MemoryHub::new();
    let config = Config::new(&cluster.config.dir, Endpoint::Memory(1));
    let stranger = Authority::create(ClusterId([3; 16])).unwrap();
    let refused = start(config.clone(), net(&stranger, &hub, Role::Namespace, 1)).await;
    assert!(matches!(refused.err(), Some(Error::OtherCluster { .. })));
    let refused = start(config, net(&cluster.authority, &hub, Role::Namespace, 1)).await;
    assert!(matches!(refused.err(), Some(Error::InUse { .. })));
}

/// A chunk of no use that a brick holds is found after a start and cut on all; those of files
/// that exist stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_no_use_are_cut() {
    let mut cluster = Cluster::new(3, |_| {}).await;
    let client = cluster.client(1).await;
    let (gone, kept) = (client.file("gone", 100).await, client.file("kept", 100).await);
    let written = client.create("written", Access::Write).await;
    client.unlink("gone").await;
    gone_for_good(&client, &cluster, gone).await;
    cluster.stop().await;
    for brick in &cluster.bricks {
        brick.cuts.lock().unwrap().clear();
    }
    let chunk = |ino, index| ChunkKey { ino, index };
    let useful = [chunk(kept, 0), chunk(written, 0), chunk(written, 9)];
    let useless = [chunk(gone, 0), chunk(gone, 1), chunk(kept, 7)];
    for brick in &cluster.bricks[1..] {
        brick.chunks.lock().unwrap().extend(useful.iter().chain(&useless));
    }
    let net = cluster.net(Role::Namespace, 251);
    cluster.running = Some(start(cluster.config.clone(), net).await.unwrap());
    until("only what is of use is left", async || {
        let left = |b: &Arc<FakeBrick>| b.chunks.lock().unwrap().iter().copied().eq(useful);
        cluster.bricks[1..].iter().all(left).then_some(())
    })
    .await;
    until("all have cut", async || (cluster.status().await.trims == 0).then_some(())).await;
    assert_eq!((cluster.cut_by(gone, 0).len(), cluster.cut_by(kept, 100).len()), (3, 3));
    // Counted after it is done.
    until("they are counted", async || {
        (cluster.running.as_ref().unwrap().metrics().collected >= 2).then_some(())
    })
    .await;
    // Nothing more is found, and what is of use stays.
    let looked = |brick: &FakeBrick| brick.listed.load(Ordering::SeqCst);
    let before = looked(&cluster.bricks[2]);
    until("it looks again", async || (looked(&cluster.bricks[2]) > before + 1).then_some(())).await;
    let cuts: usize = cluster.bricks.iter().map(|b| b.cuts.lock().unwrap().len()).sum();
    // Of the one that stays once more, to find nothing.
    assert_eq!(cuts, 9);
    cluster.sound().await;
}

async fn gone_for_good(client: &Client, cluster: &Cluster, ino: Ino) {
    gone(client, ino).await;
    until("nothing is owed", async || (cluster.status().await.trims == 0).then_some(())).await;
}
