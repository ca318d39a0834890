//! Locks, as a client takes, keeps and loses them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brickyard_fs_client::{Client, ClientConfig, Error, FallocateMode, File, Lock, OpenOptions};
use tokio::sync::Notify;
use wire::brick::BrickRequest;
use wire::id::{Ino, LockGeneration, LockOwner, MapEpoch};
use wire::meta::{AttrChanges, LockKind, LockMode, LockRange, Name, NewInode};
use wire::status::{FsError, Status};

use crate::cluster::{Cluster, Fault, pattern, until};

fn lock(owner: u64, mode: LockMode) -> Lock {
    Lock { kind: LockKind::Range, owner: LockOwner(owner), range: LockRange::ALL, mode, pid: 7 }
}

async fn made(client: &Client, name: &str) -> Arc<File> {
    let (name, new) =
        (Name::new(name.as_bytes().to_vec()).unwrap(), NewInode { mode: 0o644, umask: 0, uid: 0, gid: 0 });
    client.create(Ino::ROOT, name, new, true, OpenOptions::read_write()).await.unwrap().file
}

async fn locked(client: &Client, file: &Arc<File>, owner: u64) {
    client.lock(file, lock(owner, LockMode::Exclusive), None).await.unwrap();
}

/// The next holder of a lock sees what the one before has written, and its size; who waits gets it at once, and who gives up
/// waiting has nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_under_a_lock_is_seen_by_the_next_holder() {
    let cluster = Cluster::start().await;
    let (one, other) = (cluster.client().await, cluster.client().await);
    let mine = made(&one, "f").await;
    let theirs = other.open(mine.ino(), OpenOptions::read_write()).await.unwrap();
    let wanted = lock(1, LockMode::Exclusive);
    for round in 0..20u64 {
        locked(&one, &mine, 1).await;
        assert!(matches!(other.lock(&theirs, wanted, None).await, Err(Error::Locked)));
        let held = other.test_lock(&theirs, wanted).await.unwrap().unwrap();
        assert_eq!((held.0.pid, held.1), (7, false));
        let cancelled = Notify::new();
        let gives_up = other.lock(&theirs, wanted, Some(&cancelled));
        let (gave_up, ()) = tokio::join!(gives_up, async {
            tokio::time::sleep(Duration::from_millis(15)).await;
            cancelled.notify_one();
        });
        assert!(matches!(gave_up, Err(Error::Locked)));
        let data = pattern(round, 100_000);
        one.write_at(&mine, round * 100_000, &data).await.unwrap();
        let forever = Notify::new();
        let (waited, given_up) = tokio::join!(
            other.lock(&theirs, wanted, Some(&forever)),
            one.unlock(&mine, LockKind::Range, LockOwner(1), LockRange::ALL),
        );
        given_up.unwrap();
        waited.unwrap();
        assert_eq!(other.getattr(mine.ino()).await.unwrap().size, (round + 1) * 100_000);
        assert!(other.read_at(&theirs, round * 100_000, 100_000).await.unwrap() == data);
        other.unlock(&theirs, LockKind::Range, LockOwner(1), LockRange::ALL).await.unwrap();
        assert_eq!(cluster.namespace.locks(), 0);
    }
    for (client, file) in [(one, mine), (other, theirs)] {
        client.release(file).await.unwrap();
        client.shutdown().await.unwrap();
    }
}

/// Closing a file ends the locks that were taken through it, of all owners, and no others; also one that is granted while
/// it is being closed.
#[tokio::test(flavor = "multi_thread")]
async fn locks_end_with_their_file() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let first = made(&client, "f").await;
    let second = client.open(first.ino(), OpenOptions::read_only()).await.unwrap();
    for (file, owner) in [(&first, 1), (&first, 2), (&second, 3)] {
        client.lock(file, lock(owner, LockMode::Shared), None).await.unwrap();
    }
    assert!(client.may_hold(first.ino(), LockKind::Range, LockOwner(3)));
    let ino = first.ino();
    client.release(first).await.unwrap();
    assert_eq!(cluster.namespace.locks(), 1);
    // Somebody waits through a file that is closed meanwhile.
    let third = client.open(ino, OpenOptions::read_write()).await.unwrap();
    let waiter = {
        let (client, third) = (client.clone(), third.clone());
        tokio::spawn(
            async move { client.lock(&third, lock(4, LockMode::Exclusive), Some(&Notify::new())).await },
        )
    };
    until("somebody waits", || client.may_hold(ino, LockKind::Range, LockOwner(4))).await;
    client.release(third).await.unwrap();
    client.release(second).await.unwrap();
    assert!(matches!(waiter.await.unwrap(), Err(Error::Locked)));
    assert_eq!(cluster.namespace.locks(), 0);
    client.shutdown().await.unwrap();
}

/// With the session its locks are gone: what was written through their file and did not reach the bricks never does, and the
/// file takes no further change; files without locks go on, and so does a new opening of that one.
#[tokio::test(flavor = "multi_thread")]
async fn who_lost_a_lock_writes_no_more() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let (held, free, waits) =
        (made(&client, "held").await, made(&client, "free").await, made(&client, "waits").await);
    locked(&client, &held, 1).await;
    client.write_at(&held, 0, b"safe").await.unwrap();
    client.fsync(&held).await.unwrap();
    // Something on its way, and something that is only gathered.
    cluster.world.fault(|_, request| match request {
        BrickRequest::Change { .. } => Some(Fault::Refuse(Status::Busy)),
        _ => None,
    });
    for file in [&held, &free] {
        client.write_at(file, 0, &pattern(1, 3 << 20)).await.unwrap();
        client.write_at(file, 3 << 20, b"a tail").await.unwrap();
    }
    cluster.namespace.expire_sessions();
    until("the loss is noticed", || held.is_lost()).await;
    cluster.world.heal();
    assert!(!free.is_lost());
    client.fsync(&free).await.unwrap();
    assert!(client.read_at(&free, 0, 3 << 20).await.unwrap() == pattern(1, 3 << 20));
    let lost = |result: Result<(), Error>| assert!(matches!(result, Err(Error::LockLost)), "{result:?}");
    lost(client.write_at(&held, 0, b"more").await);
    lost(client.try_write_at(&held, 0, b"more").expect("no wait is needed to refuse"));
    lost(client.fsync(&held).await);
    lost(client.fsync(&held).await);
    lost(client.lock(&held, lock(1, LockMode::Exclusive), None).await.map(drop));
    // Whoever waits for one has not lost any.
    locked(&client, &waits, 1).await;
    let again = client.open(held.ino(), OpenOptions::read_write()).await.unwrap();
    locked(&client, &again, 1).await;
    assert_eq!(client.getattr(held.ino()).await.unwrap().size, 4);
    assert_eq!(client.read_at(&again, 0, 100).await.unwrap(), b"safe"[..]);
    client.write_at(&again, 4, b" again").await.unwrap();
    client.fsync(&again).await.unwrap();
    assert_eq!(client.read_at(&again, 0, 100).await.unwrap(), b"safe again"[..]);
    // The one who lost it is told at the latest when it closes.
    let _ = client.release(held).await;
    for file in [free, waits, again] {
        client.release(file).await.unwrap();
    }
    assert_eq!(cluster.namespace.locks(), 0);
    client.shutdown().await.unwrap();
}

/// A lock is not given out before the map is known by which its former holder is blocked.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_used_by_a_map_that_blocks_its_former_holder() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = made(&client, "f").await;
    let next = MapEpoch(client.map().epoch.0 + 1);
    cluster.namespace.inner.lock().unwrap().lock_map = Some(next);
    let granted = {
        let (client, file) = (client.clone(), file.clone());
        tokio::spawn(async move { client.lock(&file, lock(1, LockMode::Exclusive), None).await })
    };
    until("it is granted at the namespace", || cluster.namespace.locks() == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!granted.is_finished(), "it is used by an old map");
    cluster.world.map.send_modify(|map| map.epoch = next);
    granted.await.unwrap().unwrap();
    assert!(client.map().epoch >= next);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

async fn generation(client: &Client, ino: Ino) -> LockGeneration {
    client.locks_on(ino).await.unwrap().locks[0].1.generation
}

/// An open file whose lock somebody broke takes no change from then on; what was written through it before is on the bricks, with its
/// size, before anybody else has the lock; other open files go on.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_broken_lock_writes_no_more() {
    let cluster = Cluster::start().await;
    let (one, other) = (cluster.client().await, cluster.client().await);
    let held = made(&one, "held").await;
    let beside = one.open(held.ino(), OpenOptions::read_write()).await.unwrap();
    let theirs = other.open(held.ino(), OpenOptions::read_write()).await.unwrap();
    locked(&one, &held, 1).await;
    let data = pattern(3, 200_000);
    one.write_at(&held, 0, &data).await.unwrap();
    let wrong = LockGeneration(999);
    assert!(matches!(other.break_lock(held.ino(), wrong).await, Err(Error::Fs(FsError::NoAttribute))));
    let broken = generation(&other, held.ino()).await;
    let waits = {
        let (other, theirs) = (other.clone(), theirs.clone());
        tokio::spawn(
            async move { other.lock(&theirs, lock(2, LockMode::Exclusive), Some(&Notify::new())).await },
        )
    };
    other.break_lock(held.ino(), broken).await.unwrap();
    waits.await.unwrap().unwrap();
    assert!(held.is_lost() && !beside.is_lost());
    assert_eq!(other.getattr(held.ino()).await.unwrap().size, 200_000);
    assert!(other.read_at(&theirs, 0, 200_000).await.unwrap() == data);
    let lost = |result: Result<(), Error>| assert!(matches!(result, Err(Error::LockLost)), "{result:?}");
    let cut = AttrChanges { size: Some(1), ..AttrChanges::default() };
    lost(one.write_at(&held, 0, b"more").await);
    lost(one.fsync(&held).await);
    lost(one.setattr_through(&held, cut).await.map(drop));
    lost(one.fallocate(&held, FallocateMode::PunchHole, 0, 10).await);
    lost(one.lock(&held, lock(1, LockMode::Exclusive), None).await.map(drop));
    assert_eq!(other.getattr(held.ino()).await.unwrap().size, 200_000);
    // What holds no lock is as free as it was.
    one.write_at(&beside, 200_000, b"beside").await.unwrap();
    one.fsync(&beside).await.unwrap();
    assert_eq!(cluster.namespace.locks(), 1);
    let _ = one.release(held).await;
    for (client, file) in [(&one, beside), (&other, theirs)] {
        client.release(file).await.unwrap();
    }
    assert_eq!(cluster.namespace.locks(), 0);
    one.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}

/// A broken lock is not given up before what is on its way to the bricks is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_lock_waits_for_its_writes() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let held = made(&client, "held").await;
    locked(&client, &held, 1).await;
    cluster.world.fault(|_, request| match request {
        BrickRequest::Change { .. } => Some(Fault::Refuse(Status::Busy)),
        _ => None,
    });
    client.write_at(&held, 0, &pattern(1, 3 << 20)).await.unwrap();
    let broken = generation(&client, held.ino()).await;
    client.break_lock(held.ino(), broken).await.unwrap();
    until("the loss is noticed", || held.is_lost()).await;
    assert_eq!(cluster.namespace.locks(), 1, "given up with writes under way");
    cluster.world.heal();
    until("it is given up", || cluster.namespace.locks() == 0).await;
    assert_eq!(cluster.namespace.size_of(held.ino()), 3 << 20);
    let _ = client.release(held).await;
    client.shutdown().await.unwrap();
}

/// A token is that of the process that asks; of another process, if it is the only one there can be; and never one that somebody else got
/// after the own one was lost.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_those_of_who_asks() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let first = made(&client, "f").await;
    let ino = first.ino();
    let second = client.open(ino, OpenOptions::read_write()).await.unwrap();
    let none = |token: Result<LockGeneration, Error>| {
        assert!(matches!(token, Err(Error::Fs(FsError::NoAttribute))), "{token:?}");
    };
    none(client.lock_token(ino, 7).await);
    let byte = |n: u64| LockRange { start: n, end: n };
    let of = |pid: u32, n: u64| Lock { pid, range: byte(n), ..lock(u64::from(pid), LockMode::Exclusive) };
    let sevens = client.lock(&first, of(7, 1), None).await.unwrap();
    assert_eq!(client.lock_token(ino, 7).await.unwrap(), sevens);
    assert_eq!(client.lock_token(ino, 99).await.unwrap(), sevens, "a child of the holder");
    let later = client.lock(&first, of(7, 5), None).await.unwrap();
    assert_eq!(client.lock_token(ino, 7).await.unwrap(), later);
    let eights = client.lock(&second, of(8, 9), None).await.unwrap();
    assert_eq!(client.lock_token(ino, 7).await.unwrap(), later);
    assert_eq!(client.lock_token(ino, 8).await.unwrap(), eights);
    none(client.lock_token(ino, 99).await);
    client.break_lock(ino, sevens).await.unwrap();
    until("it is given up", || cluster.namespace.locks() == 1).await;
    assert_eq!(client.lock_token(ino, 8).await.unwrap(), eights);
    for process in [7, 99] {
        let token = client.lock_token(ino, process).await;
        assert!(matches!(token, Err(Error::LockLost)), "{token:?}");
    }
    let _ = client.release(first).await;
    assert_eq!(client.lock_token(ino, 99).await.unwrap(), eights);
    client.release(second).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Locks of a file that is closed while the namespace does not answer are given up once it does.
#[tokio::test(flavor = "multi_thread")]
async fn locks_that_could_not_be_given_up_are_later() {
    let cluster = Cluster::start().await;
    let config = ClientConfig { deadline: Duration::from_millis(300), ..cluster.config() };
    let client = cluster.client_with(config).await;
    let file = made(&client, "f").await;
    locked(&client, &file, 1).await;
    // The session itself goes on.
    cluster.namespace.busy.store(u64::MAX, Ordering::SeqCst);
    let ino = file.ino();
    client.release(file).await.expect_err("nobody answers");
    assert_eq!(cluster.namespace.locks(), 1);
    assert!(client.may_hold(ino, LockKind::Range, LockOwner(1)));
    cluster.namespace.busy.store(0, Ordering::SeqCst);
    until("it is given up", || cluster.namespace.locks() == 0).await;
    until("nothing is left to do", || !client.may_hold(ino, LockKind::Range, LockOwner(1))).await;
    // With their session they are gone by themselves, and nobody tries for ever.
    let file = made(&client, "g").await;
    locked(&client, &file, 1).await;
    cluster.namespace.busy.store(u64::MAX, Ordering::SeqCst);
    let ino = file.ino();
    client.release(file).await.expect_err("nobody answers");
    cluster.namespace.expire_sessions();
    cluster.namespace.busy.store(0, Ordering::SeqCst);
    until("nothing is left to do", || !client.may_hold(ino, LockKind::Range, LockOwner(1))).await;
    client.shutdown().await.unwrap();
}

/// When the namespace has not answered for most of the time that a session lives, whoever writes through a file with a lock waits until it is
/// known whether it is held still; others go on.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_be_about_to_lose_a_lock_waits() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let (held, free) = (made(&client, "held").await, made(&client, "free").await);
    locked(&client, &held, 1).await;
    for lost in [false, true] {
        cluster.namespace.deaf.store(u64::MAX, Ordering::SeqCst);
        until("the lock is in doubt", || client.try_write_at(&held, 0, b"held").is_none()).await;
        assert!(client.try_write_at(&free, 0, b"free").expect("it holds no lock").is_ok());
        let waits = {
            let (client, held) = (client.clone(), held.clone());
            tokio::spawn(async move { client.write_at(&held, 0, b"late").await })
        };
        until("it is said what it waits for", || {
            client.stuck().iter().any(|stuck| stuck.waiting_for.contains("still held"))
        })
        .await;
        assert!(!waits.is_finished());
        if lost {
            cluster.namespace.expire_sessions();
        }
        cluster.namespace.deaf.store(0, Ordering::SeqCst);
        let written = waits.await.unwrap();
        match lost {
            false => written.unwrap(),
            true => assert!(matches!(written, Err(Error::LockLost)), "{written:?}"),
        }
    }
    assert!(client.try_write_at(&held, 0, b"held").expect("no wait is needed to refuse").is_err());
    let _ = client.release(held).await;
    client.release(free).await.unwrap();
    client.shutdown().await.unwrap();
}
