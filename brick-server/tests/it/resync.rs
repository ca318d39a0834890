//! A member that was away gets what it missed, and not much more.

use std::time::Duration;

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest, Change};
use wire::id::{BrickId, ChunkVersion};
use wire::map::MemberState::{Offline, Serving, Syncing};
use wire::net::Role;
use wire::status::Status;

use crate::support::{CHAIN, Cluster, flip, key, status, until};

async fn until_serving(cluster: &Cluster, brick: u32) {
    let namespace = cluster.namespace.clone();
    until("the member serves again", || {
        let map = namespace.map();
        async move { map.chains[&CHAIN].state_of(BrickId(brick)) == Some(Serving) }
    })
    .await;
}

/// Whether it is small writes here and there or a large one, at most twice the bytes that
/// changed travel, also when writes go on meanwhile and meet chunks not yet synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resync_ships_only_what_differs() {
    let mut cluster = Cluster::pair().await;
    for n in 0..24 {
        cluster.write(key(n, 0), 0, &vec![n as u8 + 1; 1 << 20]).await;
    }
    for brick in [0, 1] {
        cluster.commit(brick).await;
    }
    cluster.crash(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Offline)]);
    let mut changed = 0;
    for n in 0..12u64 {
        for part in 0..3u32 {
            let data = vec![200 + part as u8; 4096];
            cluster.write(key(n, 0), (part * 301 + n as u32) % 250 * 4096, &data).await;
            changed += data.len() as u64;
        }
    }
    cluster.write(key(12, 0), 100_000, &[77; 300_000]).await;
    changed += 300_000;
    let before = cluster.metrics(0).resync_bytes;
    cluster.up(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
    // These may come before their chunks are synced.
    for n in 0..12 {
        cluster.write(key(n, 0), 900_000, b"meanwhile").await;
    }
    until_serving(&cluster, 1).await;
    cluster.until_equal(0, 1).await;
    let moved = cluster.metrics(0).resync_bytes - before;
    eprintln!("changed {changed} bytes, moved {moved}");
    assert!(moved <= 2 * changed, "moved {moved} bytes for {changed} that changed");
    assert!(moved >= changed, "moved {moved} bytes only");
    assert_eq!(cluster.read(1, key(3, 0), 900_000, 9).await, "meanwhile");
}

/// The head's heartbeats say how many bytes there are to bring a member up to date, and ever more of them
/// as done; nothing when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_in_bytes() {
    const CHUNKS: u64 = 8;
    let mut cluster = Cluster::pair().await;
    cluster.crash(0).await;
    let mut slow = cluster.config(0);
    slow.copy_bytes_per_second = 4 << 20;
    cluster.namespace.set_chain(CHAIN, &[(1, Serving), (0, Offline)]);
    cluster.up_with(0, slow).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Offline)]);
    for n in 0..CHUNKS {
        cluster.write(key(n, 0), 0, &vec![n as u8 + 1; 1 << 20]).await;
    }
    assert_eq!(cluster.namespace.report(0).unwrap().sync_total_bytes, 0, "nothing is to be done");
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
    let mut seen = std::collections::BTreeSet::new();
    let namespace = cluster.namespace.clone();
    until("the member serves again", || {
        let report = namespace.report(0).unwrap();
        if report.sync_total_bytes > 0 {
            assert_eq!(report.sync_total_bytes, CHUNKS << 20);
            assert!(
                seen.last().is_none_or(|last| *last <= report.sync_done_bytes),
                "{report:?} after {seen:?}"
            );
            seen.insert(report.sync_done_bytes);
        }
        let map = namespace.map();
        async move { map.chains[&CHAIN].state_of(BrickId(1)) == Some(Serving) }
    })
    .await;
    assert!(seen.len() >= 3, "{seen:?}");
    until("nothing is said to be under way", || {
        let report = namespace.report(0).unwrap();
        async move { (report.sync_total_bytes, report.sync_done_bytes) == (0, 0) }
    })
    .await;
}

/// A head that finds a newer copy at a member takes it, though one block of it can be read by nobody: the rest is served
/// by both, that block fails on both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_copy_is_taken_though_a_block_of_it_is_lost() {
    let mut cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, &[7; 200_000]).await;
    cluster.crash(0).await;
    cluster.namespace.set_chain(CHAIN, &[(1, Serving), (0, Offline)]);
    let bad = 17 * 4096;
    let mut newer = vec![9; 150_000];
    newer[bad as usize..][..8].copy_from_slice(b"unlucky!");
    cluster.write(key(1, 0), 0, &newer).await;
    cluster.commit(1).await;
    assert_eq!(flip(&cluster.dir_of(1), b"unlucky!"), 1);
    let config = cluster.config(0);
    cluster.up_with(0, config).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Serving)]);
    for brick in [0, 1] {
        assert_eq!(cluster.read(brick, key(1, 0), 0, bad).await, newer[..bad as usize], "brick {brick}");
        let after = cluster.read(brick, key(1, 0), bad + 4096, 200_000 - bad - 4096).await;
        assert_eq!(after[..150_000 - bad as usize - 4096], newer[bad as usize + 4096..], "brick {brick}");
        assert!(after[150_000 - bad as usize - 4096..].iter().all(|byte| *byte == 7), "brick {brick}");
    }
    for (brick, held) in [(0, cluster.holds(0).await), (1, cluster.holds(1).await)] {
        assert_eq!(held.iter().map(|(_, _, corrupt)| *corrupt).sum::<u32>(), 1, "brick {brick}");
    }
}

/// A part of a copy that comes after the copy has changed is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_parts_change_nothing() {
    let cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"first").await;
    let before = cluster.holds(1).await[0].0;
    cluster.write(key(1, 0), 0, b"second").await;
    let now = cluster.holds(1).await[0].0;
    let patch = |base, to| BrickRequest::Patch {
        chain: cluster.chain(CHAIN),
        to,
        base,
        offset: 0,
        covers: 5,
        first: true,
        last: true,
        lost: Vec::new(),
        lineage: None,
    };
    let net = cluster.net(Role::Brick);
    let epoch = cluster.namespace.map().epoch;
    let late = patch((ChunkVersion(1), before.digest), before);
    let refused = cluster.raw(&net, 1, epoch, late, Bytes::from_static(b"first")).await;
    assert_eq!(status(refused), Status::Busy);
    // The right base, and bytes that do not make what was promised.
    let wrong = patch((now.version, now.digest), before);
    let refused = cluster.raw(&net, 1, epoch, wrong, Bytes::from_static(b"wrong")).await;
    assert_eq!(status(refused), Status::Corrupt);
    assert_eq!(cluster.read(1, key(1, 0), 0, 9).await, "second");
    assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
}

/// A member that holds a change which the head has not shown sends readers away until the head
/// has settled it; nobody sees it come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_the_head_does_not_know_is_never_seen() {
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
    let (reply, _) = cluster.raw(&net, 1, epoch, forward, Bytes::from_static(b"phantom")).await.unwrap();
    assert!(matches!(reply, BrickReply::Changed { .. }));
    for _ in 0..20 {
        for brick in [1, 0] {
            assert_eq!(cluster.read(brick, key(1, 0), 0, 9).await, "agreed");
        }
    }
    cluster.until_equal(0, 1).await;
}

/// Asked to, the scrubber finds a flipped byte nobody has read, has it put right, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrubber_finds_what_nobody_reads() {
    let cluster = Cluster::pair().await;
    let mut data = vec![0xa5; 300_000];
    data[..8].copy_from_slice(b"forgotte");
    cluster.write(key(1, 0), 0, &data).await;
    cluster.write(key(2, 0), 0, &[1; 100_000]).await;
    for brick in [0, 1] {
        cluster.commit(brick).await;
    }
    assert_eq!(flip(&cluster.dir_of(1), b"forgotte"), 1);
    let net = cluster.net(Role::Admin);
    let epoch = cluster.namespace.map().epoch;
    let ask = async |begin| {
        let request = BrickRequest::Scrub { begin };
        match cluster.raw(&net, 1, epoch, request, Bytes::new()).await.unwrap().0 {
            BrickReply::Scrub(report) => report,
            other => panic!("{other:?}"),
        }
    };
    assert!(ask(true).await.running);
    until("the round is through", || async { !ask(false).await.running }).await;
    let report = ask(false).await;
    assert_eq!((report.rounds, report.bad_chunks, report.lost_blocks), (1, 1, 0), "{report:?}");
    assert_eq!(report.done_bytes, 400_000);
    assert_eq!(cluster.metrics(1).repaired_blocks, 1);
    assert!(cluster.holds(1).await.iter().all(|(_, _, corrupt)| *corrupt == 0));
}

/// A round that is asked for while one by the clock is under way reads everything now: it takes the place of that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_that_is_asked_for_waits_for_no_slow_one() {
    let mut cluster = Cluster::pair().await;
    for ino in 1..=8 {
        cluster.write(key(ino, 0), 0, &vec![0xa5; 1 << 20]).await;
    }
    cluster.down(1).await;
    let mut config = cluster.config(1);
    config.scrub_period = Duration::from_secs(2);
    cluster.up_with(1, config).await;
    let net = cluster.net(Role::Admin);
    let epoch = cluster.namespace.map().epoch;
    let ask = async |begin| {
        let request = BrickRequest::Scrub { begin };
        match cluster.raw(&net, 1, epoch, request, Bytes::new()).await.unwrap().0 {
            BrickReply::Scrub(report) => report,
            other => panic!("{other:?}"),
        }
    };
    until("a round by the clock is under way", || async {
        let report = ask(false).await;
        report.running && report.done_bytes > 0
    })
    .await;
    let begun = ask(true).await;
    assert!(begun.running && begun.done_bytes == 0, "{begun:?}");
    until("the round is through", || async { !ask(false).await.running }).await;
    let report = ask(false).await;
    assert_eq!((report.rounds, report.done_bytes), (begun.rounds + 1, 8 << 20), "{report:?}");
}
