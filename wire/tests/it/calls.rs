//! Calls that succeed, alone and together.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::frame::{Frame, FrameError, MAX_PAYLOAD_BYTES};
use wire::net::{Delivery, NetConfig, NetError, Role, Service};

use crate::support::*;

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect::<Vec<_>>().into()
}

/// What is sent arrives, and what is answered comes back, at every size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_every_size_come_back_as_they_went() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        for (header, payload) in
            [(0, 0), (1, 0), (0, 1), (20, 64 << 10), (100, 1 << 20), (1 << 20, MAX_PAYLOAD_BYTES)]
        {
            let request = Frame::new(pattern(header)).with_payload(pattern(payload));
            let reply = soon("a call", pair.call(request.clone())).await.unwrap();
            assert!(reply == request, "{listen}: {header} and {payload} bytes differ");
        }
        let counters = pair.client.counters();
        assert_eq!(counters.calls_made.get(), 6);
        assert_eq!(counters.calls_failed.get(), 0);
        assert_eq!(counters.bytes_sent.get(), pair.brick.counters().bytes_received.get());
        assert_eq!(pair.brick.counters().calls_served.get(), 6);
    }
}

/// Many calls at once share few connections and get each its own reply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_get_each_its_own_reply() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let mut calls = JoinSet::new();
        for number in 0..64u64 {
            let (client, to) = (pair.client.clone(), pair.to);
            calls.spawn(async move {
                for round in 0..4 {
                    let request = Frame::new(format!("{number} {round}"))
                        .with_payload(pattern((number as usize * 977) % 70_000));
                    let reply = client.call(&to, Service::Brick, request.clone(), deadline()).await;
                    assert!(reply.unwrap() == request);
                }
            });
        }
        soon("64 callers", async {
            while let Some(done) = calls.join_next().await {
                done.unwrap();
            }
        })
        .await;
        let connections: BTreeSet<u64> =
            pair.watched.peers.lock().unwrap().iter().map(|peer| peer.connection).collect();
        assert!(connections.len() <= 2, "{listen}: {} connections", connections.len());
    }
}

/// A crowd that finds no connection makes one attempt, not one each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_calls_connect_once() {
    for listen in everywhere() {
        let config = NetConfig { tls_connections: 1, ..NetConfig::default() };
        let pair = pair_with(listen, config).await;
        let crowd: Vec<_> = (0..50).map(|_| pair.echo("me first")).collect();
        let crowd = crowd.into_iter().map(|call| Box::pin(soon("a crowd", call)));
        futures_all(crowd).await;
        assert_eq!(pair.client.counters().connections_made.get(), 1, "{listen}");
        assert_eq!(pair.brick.counters().connections_taken.get(), 1, "{listen}");
    }
}

/// Polls all of them until all are done, on one task.
async fn futures_all<F: std::future::Future<Output = ()> + Unpin>(all: impl Iterator<Item = F>) {
    let mut open: Vec<F> = all.collect();
    std::future::poll_fn(|cx| {
        open.retain_mut(|future| std::pin::Pin::new(future).poll(cx).is_pending());
        if open.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// The handler learns who calls, from the certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_knows_its_caller() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        pair.echo("who am I").await;
        let peer = pair.watched.peers.lock().unwrap()[0].clone();
        assert_eq!(peer.identity, pair.client.identity());
        assert_eq!(peer.identity.role, Role::Client);
        assert!(!peer.address.is_empty());
    }
}

/// What is too large is refused before anything is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_requests_are_refused_at_home() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let request = Frame::new("x").with_payload(vec![0; MAX_PAYLOAD_BYTES + 1]);
        let error = pair.call(request).await.unwrap_err();
        assert!(matches!(error, NetError::TooLarge(FrameError::TooLarge { part: "payload", .. })));
        assert_eq!(error.delivery(), Delivery::NotSent);
        pair.echo("still usable").await;
        assert_eq!(pair.watched.begun(), 1);
    }
}

/// A service takes no more calls from a connection than it is set to; the others wait and
/// are served in their turn, also when that takes longer than a silence may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_budget_wait_for_their_turn() {
    for listen in everywhere() {
        let config = NetConfig {
            calls_in_progress: 2,
            tls_connections: 1,
            keepalive: Duration::from_millis(50),
            idle_timeout: Duration::from_millis(300),
            ..NetConfig::default()
        };
        let pair = pair_with(listen, config).await;
        let mut calls = JoinSet::new();
        for number in 0..10 {
            let (client, to) = (pair.client.clone(), pair.to);
            // The payloads together are more than the sockets' buffers hold.
            let request = Frame::new(format!("hold {number}")).with_payload(pattern(1 << 20));
            calls.spawn(async move {
                client.call(&to, Service::Brick, request, deadline()).await.unwrap();
            });
        }
        let watched = &pair.watched;
        until("two have begun", || watched.begun() == 2).await;
        // Long enough for a third to begin, were it let in, and for the silence to be noticed,
        // were it one.
        let patience = Instant::now() + Duration::from_millis(900);
        until("time has passed", || Instant::now() > patience).await;
        assert_eq!(watched.begun(), 2, "{listen}");
        watched.open();
        soon("ten calls", async {
            while let Some(done) = calls.join_next().await {
                done.unwrap();
            }
        })
        .await;
        assert_eq!(watched.most_at_once.load(Ordering::SeqCst), 2, "{listen}");
    }
}

/// In memory a call that takes an hour takes no time: nothing waits for a real clock.
#[tokio::test(start_paused = true)]
async fn memory_works_under_paused_time() {
    let started = std::time::Instant::now();
    let pair = pair(any_memory()).await;
    let call = |text: &'static str, hours: u64| {
        let deadline = Instant::now() + Duration::from_secs(3600 * hours);
        pair.client.call(&pair.to, Service::Brick, Frame::new(text), deadline)
    };
    call("nap 3600000", 2).await.unwrap();
    let late = call("nap 7200000", 1).await.unwrap_err();
    assert!(matches!(late, NetError::Deadline { delivery: Delivery::Sent, .. }), "{late}");
    assert!(started.elapsed() < STUCK);
}

/// More large requests at once than anybody has room for all arrive, none waiting for
/// another that waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_large_requests_gets_through() {
    for listen in sockets() {
        let config = NetConfig {
            payload_in_progress_bytes: MAX_PAYLOAD_BYTES,
            quic_receive_window_bytes: 4 << 20,
            ..NetConfig::default()
        };
        let pair = pair_with(listen, config).await;
        let mut calls = JoinSet::new();
        let payload = pattern(1 << 20);
        for number in 0..60 {
            let (client, to) = (pair.client.clone(), pair.to);
            let request = Frame::new(format!("nap 1 {number}")).with_payload(payload.clone());
            calls.spawn(async move {
                let reply = client.call(&to, Service::Brick, request.clone(), deadline()).await;
                assert!(reply.unwrap() == request);
            });
        }
        soon("sixty calls", async {
            while let Some(done) = calls.join_next().await {
                done.unwrap();
            }
        })
        .await;
    }
}
