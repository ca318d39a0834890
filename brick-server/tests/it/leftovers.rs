//! A brick that has left a chain keeps nothing of it.

use wire::brick::Change;
use wire::map::MemberState::{Serving, Syncing};
use wire::map::{ClusterMap, Member};
use wire::status::Status;

use crate::support::*;

/// What a chain left behind is freed, what other chains hold stays; when the brick is a member
/// again it is given everything, however quickly the maps follow each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_left_is_freed() {
    let mut cluster = Cluster::pair().await;
    for n in 0..300 {
        cluster.write(key(n, 0), 0, &[n as u8; 5000]).await;
    }
    cluster.commit(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving)]);
    cluster.change(key(1, 0), Change::Write { offset: 0 }, b"without it").await;
    until("brick 1 holds nothing", async || cluster.holds(1).await.is_empty()).await;
    assert_eq!(cluster.holds(0).await.len(), 300);
    // Back and away and back, faster than anything is freed.
    for _ in 0..5 {
        cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
        cluster.write(key(2, 0), 0, b"changed").await;
        cluster.namespace.set_chain(CHAIN, &[(0, Serving)]);
        cluster.write(key(3, 0), 0, b"changed").await;
    }
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
    cluster.write(key(4, 0), 0, b"changed").await;
    cluster.until_readable(&[1]).await;
    cluster.until_equal(0, 1).await;
    assert_eq!(cluster.holds(1).await.len(), 300);
    // A brick that was down while its chain left it frees it when it comes up.
    cluster.down(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving)]);
    cluster.up(1).await;
    until("brick 1 holds nothing again", async || cluster.holds(1).await.is_empty()).await;
    assert_eq!(cluster.holds(0).await.len(), 300);
}

/// A namespace that was set back gives a map by which the brick has left its chain: it takes none that is older than what it had in the
/// life before, frees nothing by it and serves nothing by it. By a newer one it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_map_is_not_taken_after_a_restart() {
    let mut cluster = Cluster::pair().await;
    for n in 0..20 {
        cluster.write(key(n, 0), 0, &[n as u8; 5000]).await;
    }
    cluster.commit(1).await;
    let mut old = cluster.namespace.map();
    let chain = old.chains.get_mut(&CHAIN).unwrap();
    chain.epoch.0 += 1;
    chain.members = vec![Member { brick: wire::id::BrickId(0), state: Serving }];
    for _ in 0..1000 {
        cluster.namespace.change(|_| {});
    }
    let newest = cluster.namespace.map();
    until("both have the newest map", async || {
        [0, 1].iter().all(|brick| cluster.epoch_of(*brick) == newest.epoch)
    })
    .await;
    cluster.down(1).await;
    cluster.namespace.set_back(old);
    cluster.up(1).await;
    until("it says why it is not let in", async || cluster.refusal(1) == Some(Status::NamespaceBehind)).await;
    assert!(cluster.namespace.map().epoch < newest.epoch, "the old map is still the old one");
    assert_eq!(cluster.epoch_of(1).0, 0, "it has no map to serve by");
    assert_eq!(cluster.holds(1).await.len(), 20);
    until("a brick that runs on hears of it", async || cluster.refusal(0) == Some(Status::NamespaceBehind))
        .await;
    assert_eq!(cluster.epoch_of(0), newest.epoch);
    let next = ClusterMap { epoch: wire::id::MapEpoch(newest.epoch.0 + 1000), ..newest };
    cluster.namespace.set_back(next);
    cluster.until_readable(&[0, 1]).await;
    assert_eq!(cluster.holds(1).await.len(), 20);
}
