//! Chains that work: changes reach all, reads come from any, members come and go.

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest, ChainRef, Change, Extent, TrimOrder};
use wire::id::{BrickId, CallSeq, ChainEpoch, ChunkVersion, MapEpoch, SessionId};
use wire::map::MemberState::{LastServing, Offline, Serving, Syncing};
use wire::net::Role;
use wire::status::Status;

use crate::support::{CHAIN, Cluster, key, status, until};

/// A change is on all members when it is acknowledged, and any of them can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_all_members() {
    let cluster = Cluster::pair().await;
    let data: Vec<u8> = (0..300_000u32).map(|i| (i / 3) as u8).collect();
    let (version, delta, members) = cluster.change(key(5, 2), Change::Write { offset: 1000 }, &data).await;
    assert_eq!(version, ChunkVersion(1));
    assert_eq!(delta, 74 * 4096);
    assert_eq!(members.iter().map(|(b, _)| *b).collect::<Vec<_>>(), [BrickId(0), BrickId(1)]);
    for brick in [0, 1] {
        let read = cluster.read(brick, key(5, 2), 0, 400_000).await;
        assert_eq!(read.len(), 301_000);
        assert!(read[..1000].iter().all(|b| *b == 0));
        assert_eq!(&read[1000..], data);
        assert_eq!(cluster.commit(brick).await, members[brick as usize].1);
        assert_eq!(cluster.read(brick, key(5, 2), 300_990, 50).await, &data[299_990..]);
        assert!(cluster.read(brick, key(5, 3), 0, 50).await.is_empty());
    }
    let (version, delta, _) = cluster.change(key(5, 2), Change::Punch { offset: 4096, len: 8192 }, &[]).await;
    assert_eq!((version, delta), (ChunkVersion(2), -8192));
    let request = BrickRequest::Extents { chain: cluster.chain(CHAIN), key: key(5, 2) };
    let (reply, _) = cluster.call(1, request, Bytes::new()).await.unwrap();
    let extents = vec![Extent { offset: 0, len: 4096 }, Extent { offset: 12288, len: 301_000 - 12288 }];
    assert_eq!(reply, BrickReply::Extents { len: 301_000, extents });
    assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
    assert_eq!(cluster.metrics(0).changes, 2);
    assert_eq!(cluster.metrics(1).forwards, 2);
}

/// The same call again gets the same answer and changes nothing, also after others wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_change_gets_its_first_answer() {
    let cluster = Cluster::pair().await;
    let writer = cluster.writer();
    let change = Change::Write { offset: 0 };
    let first = cluster.try_change(key(1, 0), writer, change, b"one").await.unwrap();
    cluster.write(key(1, 0), 0, b"two").await;
    assert_eq!(cluster.try_change(key(1, 0), writer, change, b"one").await.unwrap(), first);
    assert_eq!(cluster.read(1, key(1, 0), 0, 9).await, "two");
}

/// A member that was killed comes back with what it had committed, and serves only when it
/// has what was acknowledged without it being durable there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_member_catches_up_before_it_reads() {
    let mut cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"first").await;
    cluster.commit(0).await;
    cluster.commit(1).await;
    for round in 0..3u8 {
        for brick in [0, 1] {
            let data = vec![round + 1; 10_000];
            cluster.write(key(1, 0), 100 * u32::from(round), &data).await;
            cluster.write(key(2, u64::from(round)), 0, &data).await;
            cluster.crash(brick).await;
            cluster.up(brick).await;
            assert_eq!(cluster.read(brick, key(1, 0), 100 * u32::from(round), 10_000).await, data);
            assert_eq!(cluster.read(brick, key(2, u64::from(round)), 0, 10_000).await, data);
            assert_eq!(cluster.read(1 - brick, key(1, 0), 100 * u32::from(round), 10_000).await, data);
            assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
        }
    }
}

/// Both are killed: what was committed is there, and both hold the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_killed_agree_afterwards() {
    let mut cluster = Cluster::pair().await;
    for n in 0..20 {
        cluster.write(key(n, 0), 0, &[n as u8; 5000]).await;
    }
    // Durable on one is enough to come back.
    cluster.commit(1).await;
    for n in 0..20 {
        cluster.write(key(n, 0), 5000, &[99; 100]).await;
    }
    cluster.crash(0).await;
    cluster.crash(1).await;
    cluster.up(1).await;
    // Until the other one is there, nobody knows who has what.
    assert_eq!(status(cluster.try_read(1, key(3, 0), 0, 10).await), Status::Busy);
    cluster.up(0).await;
    for n in 0..20 {
        assert_eq!(cluster.read(0, key(n, 0), 0, 5000).await, vec![n as u8; 5000]);
        assert_eq!(cluster.read(1, key(n, 0), 0, 5000).await, vec![n as u8; 5000]);
    }
    cluster.until_equal(0, 1).await;
    assert_eq!(cluster.holds(0).await.len(), 20);
}

/// Without its member a chain takes no changes until the map says so; then it goes on alone,
/// and the member is brought up to date when it is back, while changes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_member_is_waited_for_then_done_without_then_synced() {
    let mut cluster = Cluster::pair().await;
    for n in 0..40 {
        cluster.write(key(n, 0), 0, &[n as u8; 20_000]).await;
    }
    cluster.crash(1).await;
    let writer = cluster.writer();
    let change = Change::Write { offset: 3 };
    assert_eq!(status(cluster.try_change(key(1, 0), writer, change, b"alone").await), Status::Busy);
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Offline)]);
    let (_, _, members) = cluster.change(key(1, 0), change, b"alone").await;
    assert_eq!(members.len(), 1);
    // While it is away: changed, made, removed, shortened.
    for n in 0..10 {
        cluster.write(key(n, 0), 7, b"changed").await;
        cluster.write(key(100 + n, 0), 0, b"made").await;
        cluster.trim(0, 20 + n, 0).await;
        cluster.trim(0, 30 + n, 777).await;
    }
    cluster.up(1).await;
    assert_eq!(status(cluster.try_read(1, key(1, 0), 0, 10).await), Status::WrongMember);
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
    for n in 0..10 {
        cluster.write(key(n, 0), 9, b"meanwhile").await;
    }
    let namespace = cluster.namespace.clone();
    until("the member serves again", || {
        let map = namespace.map();
        async move { map.chains[&CHAIN].state_of(BrickId(1)) == Some(Serving) }
    })
    .await;
    assert_eq!(cluster.read(1, key(1, 0), 3, 15).await, "alonchmeanwhile");
    cluster.until_equal(0, 1).await;
    assert_eq!(cluster.holds(1).await.len(), 40);
}

/// The last one to serve goes on from what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_to_serve_comes_back_alone() {
    let mut cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"both").await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Offline)]);
    cluster.write(key(1, 0), 0, b"one ").await;
    cluster.down(0).await;
    cluster.namespace.set_chain(CHAIN, &[(0, LastServing), (1, Offline)]);
    cluster.up(0).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
    assert_eq!(cluster.read(0, key(1, 0), 0, 9).await, "one ");
    assert_eq!(cluster.read(1, key(1, 0), 0, 9).await, "one ");
}

/// What a session on the block list asks for is refused by head and member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_session_changes_nothing() {
    let cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"before").await;
    cluster.namespace.change(|map| {
        map.blocked.insert(SessionId(1), map.epoch);
    });
    // The caller's newer map makes the brick fetch it before it decides.
    let change = Change::Write { offset: 0 };
    let refused = cluster.try_change(key(1, 0), cluster.writer(), change, b"after!").await;
    assert_eq!(status(refused), Status::SessionGone);
    let request = BrickRequest::Forward {
        chain: cluster.chain(CHAIN),
        key: key(1, 0),
        writer: cluster.writer(),
        base: ChunkVersion(1),
        to: ChunkVersion(2),
        change,
        again: None,
        floor: None,
    };
    let net = cluster.net(Role::Brick);
    let epoch = cluster.namespace.map().epoch;
    let refused = cluster.raw(&net, 1, epoch, request, Bytes::from_static(b"after!")).await;
    assert_eq!(status(refused), Status::SessionGone);
    assert_eq!(cluster.read(1, key(1, 0), 0, 9).await, "before");
}

/// Calls in another epoch, to another member or of another role are refused with what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misdirected_calls_are_refused() {
    let cluster = Cluster::pair().await;
    cluster.write(key(1, 0), 0, b"data").await;
    let now = cluster.chain(CHAIN);
    let read = |epoch| BrickRequest::Read {
        chain: ChainRef { id: CHAIN, epoch: ChainEpoch(epoch) },
        key: key(1, 0),
        offset: 0,
        len: 4,
    };
    let old = cluster.call(0, read(now.epoch.0 - 1), Bytes::new()).await;
    assert_eq!(status(old), Status::ChainChanged(now.epoch));
    let newer = cluster.call(0, read(now.epoch.0 + 1), Bytes::new()).await;
    assert_eq!(status(newer), Status::MapBehind);
    let net = cluster.net(Role::Client);
    let beyond = MapEpoch(cluster.namespace.map().epoch.0 + 1);
    let unknown = cluster.raw(&net, 0, beyond, read(now.epoch.0), Bytes::new()).await;
    assert_eq!(status(unknown), Status::MapBehind);
    let change = Change::Write { offset: 0 };
    let request = BrickRequest::Change {
        chain: now,
        key: key(1, 0),
        writer: cluster.writer(),
        answered_below: CallSeq(0),
        change,
        again: None,
    };
    let member = cluster.call(1, request, Bytes::from_static(b"x")).await;
    assert_eq!(status(member), Status::WrongMember);
    let empty = cluster.try_change(key(1, 0), cluster.writer(), change, b"").await;
    assert_eq!(status(empty), Status::Malformed);
    let beyond_end = Change::Write { offset: u32::MAX };
    let outside = cluster.try_change(key(1, 0), cluster.writer(), beyond_end, b"x").await;
    assert_eq!(status(outside), Status::Malformed);
    let trim =
        BrickRequest::Trim { ino: key(1, 0).ino, chunk_bytes: 4 << 20, size: 0, order: TrimOrder::default() };
    assert_eq!(status(cluster.call(0, trim.clone(), Bytes::new()).await), Status::Forbidden);
    let forward = BrickRequest::Forward {
        chain: now,
        key: key(1, 0),
        writer: cluster.writer(),
        base: ChunkVersion(1),
        to: ChunkVersion(2),
        change,
        again: None,
        floor: None,
    };
    assert_eq!(status(cluster.call(1, forward.clone(), Bytes::from_static(b"x")).await), Status::Forbidden);
    // Nor through another brick, and no further than through one.
    let through = async |request: &BrickRequest| {
        let relay = request.to_be_relayed(BrickId(1)).unwrap();
        cluster.call(0, relay, Bytes::from_static(b"x")).await
    };
    let twice = BrickRequest::Ping.to_be_relayed(BrickId(1)).unwrap();
    for forbidden in [&forward, &trim, &twice] {
        assert_eq!(status(through(forbidden).await), Status::Forbidden, "{forbidden:?}");
    }
    assert_eq!(through(&BrickRequest::Ping).await.unwrap().0, BrickReply::Done);
    let garbage = BrickRequest::Relay { to: BrickId(1), request: Bytes::from_static(&[255; 9]) };
    assert_eq!(status(cluster.call(0, garbage, Bytes::new()).await), Status::Malformed);
    assert_eq!(cluster.read(1, key(1, 0), 0, 9).await, "data");
}

/// A trim removes what is beyond, cuts the chunk on the border, keeps the rest, survives a
/// kill, and does no harm when repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_leaves_nothing_beyond() {
    let mut cluster = Cluster::pair().await;
    for index in 0..4 {
        cluster.write(key(8, index), 0, &[index as u8 + 1; 30_000]).await;
        cluster.write(key(9, index), 0, b"another file").await;
    }
    for brick in [0, 1] {
        let size = (4 << 20) + 10_000;
        assert_eq!(cluster.trim(brick, 8, size).await, (5 + 8 + 8) * 4096);
        assert_eq!(cluster.trim(brick, 8, size).await, 0);
    }
    assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
    cluster.crash(0).await;
    cluster.crash(1).await;
    cluster.up(0).await;
    cluster.up(1).await;
    for brick in [0, 1] {
        assert_eq!(cluster.read(brick, key(8, 0), 0, 40_000).await, vec![1; 30_000]);
        assert_eq!(cluster.read(brick, key(8, 1), 0, 40_000).await, vec![2; 10_000]);
        assert!(cluster.read(brick, key(8, 2), 0, 40_000).await.is_empty());
        assert_eq!(cluster.read(brick, key(9, 3), 0, 40_000).await, "another file");
    }
    cluster.write(key(8, 1), 12_000, b"x").await;
    let read = cluster.read(1, key(8, 1), 9_990, 4096).await;
    assert_eq!(read.len(), 2011);
    assert!(read[10..2010].iter().all(|b| *b == 0), "what was cut came back");
    for brick in [0, 1] {
        cluster.trim(brick, 8, 0).await;
        cluster.trim(brick, 9, 0).await;
        assert!(cluster.holds(brick).await.is_empty());
    }
}

/// A chain of three: all have it, and two go on when one is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_hold_the_same() {
    let mut cluster = Cluster::start(3).await;
    cluster.namespace.set_chain(CHAIN, &[(2, Serving), (0, Serving), (1, Serving)]);
    cluster.until_readable(&[0, 1, 2]).await;
    let (_, _, members) = cluster.change(key(1, 0), Change::Write { offset: 0 }, &[1; 100_000]).await;
    assert_eq!(members.len(), 3);
    cluster.crash(2).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Serving), (2, Offline)]);
    cluster.write(key(1, 0), 10, b"two left").await;
    cluster.up(2).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Serving), (2, Syncing)]);
    assert_eq!(cluster.read(2, key(1, 0), 10, 8).await, "two left");
    cluster.until_equal(0, 1).await;
    cluster.until_equal(0, 2).await;
}

/// A brick that came up trims nothing before it has compared its copies: a fellow that comes
/// later would give back what it answered for. Not even a kill of both brings it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_waits_for_the_comparison() {
    let mut cluster = Cluster::pair().await;
    cluster.write(key(8, 0), 0, &[1; 30_000]).await;
    for brick in [0, 1] {
        cluster.commit(brick).await;
        cluster.crash(brick).await;
    }
    cluster.up(1).await;
    let trim =
        BrickRequest::Trim { ino: key(8, 0).ino, chunk_bytes: 4 << 20, size: 0, order: TrimOrder::default() };
    let net = cluster.net(Role::Namespace);
    let early = cluster.raw(&net, 1, cluster.namespace.map().epoch, trim, Bytes::new()).await;
    assert_eq!(status(early), Status::Busy);
    assert_eq!(cluster.holds(1).await.len(), 1);
    cluster.up(0).await;
    cluster.until_readable(&[0, 1]).await;
    for brick in [1, 0] {
        cluster.trim(brick, 8, 0).await;
    }
    for brick in [0, 1] {
        cluster.crash(brick).await;
    }
    for brick in [0, 1] {
        cluster.up(brick).await;
    }
    cluster.until_readable(&[0, 1]).await;
    assert!(cluster.holds(0).await.is_empty() && cluster.holds(1).await.is_empty());
}

/// A session that was blocked before a trim is blocked on the brick that answered it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_comes_with_its_map() {
    let cluster = Cluster::pair().await;
    let (change, writer) = (Change::Write { offset: 0 }, cluster.writer());
    cluster.write(key(8, 0), 0, b"data").await;
    let before = cluster.namespace.map().epoch;
    cluster.namespace.change(|map| {
        map.blocked.insert(writer.session, map.epoch);
    });
    let trim =
        BrickRequest::Trim { ino: key(8, 0).ino, chunk_bytes: 4 << 20, size: 0, order: TrimOrder::default() };
    let (net, epoch) = (cluster.net(Role::Namespace), cluster.namespace.map().epoch);
    let head = cluster.head(CHAIN);
    cluster.raw(&net, head, epoch, trim, Bytes::new()).await.unwrap();
    // The writer does not know the map that blocks it.
    let request = BrickRequest::Change {
        chain: cluster.chain(CHAIN),
        key: key(8, 0),
        writer,
        answered_below: CallSeq(0),
        change,
        again: None,
    };
    let late =
        cluster.raw(&cluster.net(Role::Client), head, before, request, Bytes::from_static(b"late")).await;
    assert_eq!(status(late), Status::SessionGone);
}

/// A trim that was given up and comes late takes nothing of what was written since a later one was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_trim_takes_nothing() {
    let cluster = Cluster::pair().await;
    cluster.write(key(8, 0), 0, &[1; 30_000]).await;
    let net = cluster.net(Role::Namespace);
    let trim = |number| BrickRequest::Trim {
        ino: key(8, 0).ino,
        chunk_bytes: 4 << 20,
        size: 100,
        order: TrimOrder { term: 1, number },
    };
    let epoch = cluster.namespace.map().epoch;
    for brick in [0, 1] {
        cluster.raw(&net, brick, epoch, trim(2), Bytes::new()).await.unwrap();
    }
    cluster.write(key(8, 0), 20_000, &[2; 1000]).await;
    for brick in [0, 1] {
        let late = cluster.raw(&net, brick, epoch, trim(1), Bytes::new()).await;
        assert_eq!(status(late), Status::Busy);
        assert_eq!(cluster.read(brick, key(8, 0), 20_000, 1000).await, vec![2; 1000]);
    }
}
