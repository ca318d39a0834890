//! Disks that rot, fill up or vanish, and a namespace that falls silent.

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest, Change};
use wire::id::{BrickId, ChunkVersion};
use wire::map::MemberState::{Offline, Serving, Syncing};
use wire::net::Role;
use wire::status::{FsError, Status};

use crate::support::{CHAIN, CLUSTER, Cluster, FakeNamespace, flip, key, status, until};

/// A block that begins with a word.
fn marked(word: &[u8], len: usize) -> Vec<u8> {
    let mut data = vec![0xa5; len];
    data[..word.len()].copy_from_slice(word);
    data
}

/// A flipped byte is read right, put right, and counted; so is one below a partial write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_is_repaired() {
    for brick in [0u32, 1] {
        let cluster = Cluster::pair().await;
        let (read, written) = (marked(b"to be read", 9000), marked(b"to be written", 9000));
        cluster.write(key(1, 0), 4096, &read).await;
        cluster.write(key(2, 0), 8192, &written).await;
        assert_eq!(flip(&cluster.dir_of(brick), b"to be read"), 1);
        assert_eq!(flip(&cluster.dir_of(brick), b"to be written"), 1);
        assert_eq!(cluster.read(brick, key(1, 0), 4096, 9000).await, read);
        assert_eq!(cluster.metrics(brick).repaired_blocks, 1);
        cluster.write(key(2, 0), 8292, b"over it").await;
        assert_eq!(cluster.metrics(brick).corrupt_blocks, 2);
        assert_eq!(cluster.metrics(brick).repaired_blocks, 2);
        assert_eq!(cluster.metrics(1 - brick).corrupt_blocks, 0);
        assert_eq!(cluster.read(brick, key(2, 0), 8192, 13).await, "to be written");
        assert_eq!(cluster.read(brick, key(2, 0), 8292, 7).await, "over it");
        cluster.until_equal(0, 1).await;
        let namespace = cluster.namespace.clone();
        until("the namespace knows", || {
            let report = namespace.report(brick).unwrap();
            async move { (report.corrupt_blocks, report.repaired_blocks) == (2, 2) }
        })
        .await;
    }
}

/// A check tells of a bad block and has it put right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_has_what_it_finds_put_right() {
    let cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 4096, &marked(b"nobody reads it", 9000)).await;
    assert_eq!(flip(&cluster.dir_of(1), b"nobody reads it"), 1);
    for bad in [1, 0] {
        let found: Vec<u32> = cluster.holds(1).await.iter().map(|(_, _, bad)| *bad).collect();
        assert_eq!(found, [bad]);
    }
    assert_eq!(cluster.metrics(1).repaired_blocks, 1);
}

/// The only one to serve has a bad block, and the member it is to bring up to date has it good: neither
/// waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_only_a_member_behind_has_is_repaired() {
    let mut cluster = Cluster::pair().await;
    let (mut one, two) = (marked(b"behind it", 300_000), marked(b"as it was", 9000));
    cluster.write(key(1, 0), 0, &one).await;
    cluster.write(key(2, 0), 0, &two).await;
    cluster.commit(1).await;
    cluster.crash(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Offline)]);
    // One chunk changes elsewhere while the member is away, the other one not at all.
    cluster.write(key(1, 0), 200_000, b"changed").await;
    one[200_000..200_007].copy_from_slice(b"changed");
    assert_eq!(flip(&cluster.dir_of(0), b"behind it"), 1);
    assert_eq!(flip(&cluster.dir_of(0), b"as it was"), 1);
    assert_eq!(status(cluster.try_read(0, key(1, 0), 0, 100).await), Status::Corrupt);
    cluster.up(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
    let namespace = cluster.namespace.clone();
    until("the member serves again", || {
        let map = namespace.map();
        async move { map.chains[&CHAIN].state_of(BrickId(1)) == Some(Serving) }
    })
    .await;
    for brick in [0, 1] {
        assert_eq!(cluster.read(brick, key(1, 0), 0, 300_000).await, one);
        assert_eq!(cluster.read(brick, key(2, 0), 0, 9000).await, two);
    }
    cluster.until_equal(0, 1).await;
}

/// Where no good copy is left, the read fails and says why; everything else is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_bad_everywhere_is_told() {
    let cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, &marked(b"rotten", 9000)).await;
    assert_eq!(flip(&cluster.dir_of(0), b"rotten"), 1);
    assert_eq!(flip(&cluster.dir_of(1), b"rotten"), 1);
    assert_eq!(status(cluster.try_read(0, key(1, 0), 0, 100).await), Status::Corrupt);
    assert_eq!(status(cluster.try_read(1, key(1, 0), 0, 100).await), Status::Corrupt);
    assert_eq!(cluster.read(0, key(1, 0), 4096, 100).await, vec![0xa5; 100]);
    // Written over whole, it is good again.
    cluster.write(key(1, 0), 0, &marked(b"fresh", 4096)).await;
    assert_eq!(cluster.read(1, key(1, 0), 0, 5).await, "fresh");
}

/// A member without room refuses, the caller is told, and no copy has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_member_leaves_no_trace() {
    for full in [0u32, 1] {
        let mut cluster = Cluster::pair().await;
        for n in 0..3 {
            cluster.write(key(n, 0), 0, &[1; 20_000]).await;
        }
        cluster.down(full).await;
        let mut config = cluster.config(full);
        config.limits.min_free_percent = 101;
        cluster.up_with(full, config).await;
        cluster.until_readable(&[0, 1]).await;
        // What is left of the space that the data file has already.
        let mut index = 0;
        let refused = loop {
            let change = Change::Write { offset: 0 };
            match cluster.try_change(key(50, index), cluster.writer(), change, &vec![2; 1 << 20]).await {
                Ok(_) => index += 1,
                Err(error) => break status(Err::<(), _>(error)),
            }
        };
        assert_eq!(refused, Status::Fs(FsError::NoSpace));
        assert!(index > 0);
        assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
        assert_eq!(cluster.read(full, key(0, 0), 0, 20_000).await, vec![1; 20_000]);
        for brick in [0, 1] {
            cluster.trim(brick, 50, 0).await;
        }
        cluster.write(key(60, 0), 0, &[3; 1 << 20]).await;
        cluster.until_equal(0, 1).await;
    }
}

/// A brick that hears nothing of the namespace stops serving by itself, and serves again
/// when it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_cut_off_fences_itself() {
    let mut cluster = Cluster::pair().await;
    cluster.down(0).await;
    let mut config = cluster.config(0);
    config.fence_after = std::time::Duration::from_millis(300);
    cluster.up_with(0, config).await;
    cluster.write(key(1, 0), 0, b"data").await;
    cluster.namespace.be_silent(true);
    until("the brick fences itself", || async {
        matches!(cluster.try_read(0, key(1, 0), 0, 4).await, Err(wire::net::CallError::Status(Status::Busy)))
    })
    .await;
    let change = Change::Write { offset: 0 };
    let refused = cluster.try_change(key(1, 0), cluster.writer(), change, b"late").await;
    assert_eq!(status(refused), Status::Busy);
    cluster.namespace.be_silent(false);
    assert_eq!(cluster.read(0, key(1, 0), 0, 9).await, "data");
}

/// A brick whose directory vanishes says so and serves no more; the other one goes on. Stopping it
/// then is no new failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vanished_directory_fails_the_brick() {
    let mut cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"data").await;
    std::fs::remove_dir_all(cluster.dir_of(0)).unwrap();
    let namespace = cluster.namespace.clone();
    until("the brick reports that it failed", || {
        let report = namespace.report(0).unwrap();
        async move { report.failed.is_some() }
    })
    .await;
    assert_eq!(status(cluster.try_read(0, key(1, 0), 0, 4).await), Status::DiskFailed);
    cluster.namespace.set_chain(CHAIN, &[(1, Serving), (0, Offline)]);
    assert_eq!(cluster.read(1, key(1, 0), 0, 9).await, "data");
    cluster.write(key(1, 0), 0, b"more").await;
    cluster.down(0).await;
}

/// A disk that was away and is there again, as one that was unmounted: the brick closes it, says why, and begins a new life when it
/// can. What was durable is there, and it catches up with what it missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_comes_back_is_served_again() {
    let mut cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"data").await;
    cluster.write(key(2, 0), 0, b"old").await;
    for brick in [0, 1] {
        cluster.commit(brick).await;
    }
    let before = cluster.namespace.map().bricks[&BrickId(0)].boot;
    let (dir, away) = (cluster.dir_of(0), cluster.dir_of(0).with_extension("away"));
    std::fs::rename(&dir, &away).unwrap();
    let namespace = cluster.namespace.clone();
    until("the brick has tried to open its directory again", || {
        let report = namespace.report(0).unwrap();
        async move { report.failed.is_some_and(|why| why.contains("is gone") && why.contains("not opened again")) }
    })
    .await;
    assert_eq!(status(cluster.try_read(0, key(1, 0), 0, 4).await), Status::DiskFailed);
    // Nothing in it is open: another may take it.
    drop(brick_server::store::dir::Held::take(&away, CLUSTER, Some(BrickId(0))).unwrap());
    cluster.namespace.set_chain(CHAIN, &[(1, Serving), (0, Offline)]);
    cluster.write(key(2, 0), 0, b"new").await;
    std::fs::rename(&away, &dir).unwrap();
    let boot_of = |namespace: &FakeNamespace| namespace.map().bricks[&BrickId(0)].boot;
    until("the brick begins a new life", || {
        let boot = boot_of(&namespace);
        async move { boot != before }
    })
    .await;
    cluster.namespace.set_chain(CHAIN, &[(1, Serving), (0, Syncing)]);
    until("it serves again", || {
        let map = namespace.map();
        async move { map.chains[&CHAIN].state_of(BrickId(0)) == Some(Serving) }
    })
    .await;
    assert_eq!(cluster.read(0, key(1, 0), 0, 4).await, "data");
    assert_eq!(cluster.read(0, key(2, 0), 0, 3).await, "new");
    cluster.until_equal(0, 1).await;
    // Away again while it stops: no failure of the stop.
    std::fs::rename(&dir, &away).unwrap();
    cluster.down(0).await;
}

/// A member holding a change that nobody acknowledged is levelled by the head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_nobody_acknowledged_is_levelled() {
    let cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"agreed").await;
    let forward = BrickRequest::Forward {
        chain: cluster.chain(CHAIN),
        key: key(1, 0),
        writer: cluster.writer(),
        base: ChunkVersion(1),
        to: ChunkVersion(2),
        change: Change::Write { offset: 0 },
        again: None,
        floor: None,
    };
    let net = cluster.net(Role::Brick);
    let epoch = cluster.namespace.map().epoch;
    let payload = Bytes::from_static(b"phantom");
    let (reply, _) = cluster.raw(&net, 1, epoch, forward.clone(), payload.clone()).await.unwrap();
    assert!(matches!(reply, BrickReply::Changed { version: ChunkVersion(2), .. }));
    // Repeated, it is known again.
    assert_eq!(cluster.raw(&net, 1, epoch, forward, payload).await.unwrap().0, reply);
    cluster.write(key(1, 0), 6, b"!").await;
    assert_eq!(cluster.read(0, key(1, 0), 0, 9).await, "agreed!");
    assert_eq!(cluster.read(1, key(1, 0), 0, 9).await, "agreed!");
    assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
}

/// A head that meets a bad block while its members take a large change over ends up with the
/// right bytes: repaired before, or taken whole from a member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_with_a_bad_block_keeps_up_with_its_members() {
    let cluster = Cluster::pair().await;
    for n in 0..8 {
        let word = format!("below the change {n}");
        let mut expected = marked(word.as_bytes(), 300_000);
        cluster.write(key(n, 0), 0, &expected).await;
        assert_eq!(flip(&cluster.dir_of(0), word.as_bytes()), 1);
        let data = vec![n as u8; 200_000];
        let (version, delta, members) =
            cluster.change(key(n, 0), Change::Write { offset: 1000 }, &data).await;
        assert_eq!((version, delta, members.len()), (ChunkVersion(2), 0, 2));
        expected[1000..201_000].copy_from_slice(&data);
        assert_eq!(cluster.read(0, key(n, 0), 0, 300_000).await, expected);
        assert_eq!(cluster.read(1, key(n, 0), 0, 300_000).await, expected);
    }
    assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
    eprintln!(
        "taken whole: {}, repaired: {}",
        cluster.metrics(0).pulled_chunks,
        cluster.metrics(0).repaired_blocks
    );
}
