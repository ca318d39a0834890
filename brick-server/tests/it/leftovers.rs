//! A brick that has left a chain keeps nothing of it.

use wire::brick::Change;
use wire::map::MemberState::{Serving, Syncing};

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
