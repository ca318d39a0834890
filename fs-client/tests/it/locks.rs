//! Locks, as a client takes, keeps and loses them.

use std::sync::Arc;
use std::time::Duration;

use brickyard_fs_client::{Client, Error, File, Lock, OpenOptions};
use tokio::sync::Notify;
use wire::brick::BrickRequest;
use wire::id::{Ino, LockOwner, MapEpoch};
use wire::meta::{LockKind, LockMode, LockRange, Name, NewInode};
use wire::status::Status;

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
