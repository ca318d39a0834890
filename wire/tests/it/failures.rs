//! Calls and connections that break, and what is promised about them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use wire::frame::Frame;
use wire::net::{Delivery, Endpoint, Net, NetConfig, NetError, Role, Service};

use crate::support::*;

/// Short times, so that what takes seconds in a cluster takes less here.
fn hasty() -> NetConfig {
    NetConfig {
        keepalive: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(800),
        ..NetConfig::default()
    }
}

/// A stopping service finishes what runs, declines what comes, and then is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_service_finishes_its_calls() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let (client, to, watched) = (pair.client.clone(), pair.to, pair.watched.clone());
        let call = |text: &'static str| {
            let client = client.clone();
            async move { client.call(&to, Service::Brick, Frame::new(text), deadline()).await }
        };
        let mut running = JoinSet::new();
        for _ in 0..3 {
            running.spawn(call("hold on"));
        }
        until("three have begun", || watched.begun() == 3).await;
        let stopping = tokio::spawn(pair.serving.stop(STUCK));
        let late = soon("a declined call", async {
            loop {
                match call("too late").await {
                    Ok(_) => sleep(Duration::from_millis(2)).await,
                    Err(error) => break error,
                }
            }
        })
        .await;
        assert_eq!(late.delivery(), Delivery::NotSent, "{listen}: {late:?}");
        assert!(late.is_transient(), "{listen}: {late:?}");
        assert!(!stopping.is_finished());
        watched.open();
        while let Some(done) = soon("running calls", running.join_next()).await {
            assert_eq!(done.unwrap().unwrap().header, "hold on");
        }
        let drained = soon("the stop", stopping).await.unwrap();
        assert_eq!(drained.calls_given_up, 0, "{listen}");
        // A connection whose end is not noticed yet takes a call, and says so.
        soon("the end to be noticed", async {
            while call("anyone there").await.unwrap_err().delivery() != Delivery::NotSent {}
        })
        .await;
        let served = watched.begun();
        assert_eq!(watched.ended(), served);
    }
}

/// A stop does not wait for ever, and says how many calls it gave up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_gives_up_calls_that_take_too_long() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        let (client, to) = (pair.client.clone(), pair.to);
        let call =
            tokio::spawn(
                async move { client.call(&to, Service::Brick, Frame::new("hold on"), deadline()).await },
            );
        until("it has begun", || pair.watched.begun() == 1).await;
        let drained = soon("the stop", pair.serving.stop(Duration::from_millis(50))).await;
        assert_eq!(drained.calls_given_up, 1, "{listen}");
        let error = soon("the call", call).await.unwrap().unwrap_err();
        assert_eq!(error.delivery(), Delivery::Sent, "{listen}: {error:?}");
    }
}

/// A runtime of its own, which ends without a goodbye, stands in for a process.
fn process() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A service whose process dies in the middle of a call: the caller learns in bounded time,
/// and finds the next one at the same address without being told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_is_noticed_and_found_again() {
    for listen in sockets() {
        let cluster = Cluster::new(1);
        let (brick, client) =
            (cluster.net_with(Role::Brick, hasty()), cluster.net_with(Role::Client, hasty()));
        let watched = Arc::new(Watched::default());
        // A runtime of its own that ends without a goodbye stands in for the process.
        let process =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (net, handler) = (brick.clone(), watched.clone());
        let serving = process
            .spawn(async move { net.serve(&listen, Service::Brick, handler).await.unwrap() })
            .await
            .unwrap();
        let to = serving.endpoint();
        let call = |text: &'static str| {
            let client = client.clone();
            async move { client.call(&to, Service::Brick, Frame::new(text), deadline()).await }
        };
        call("hello").await.unwrap();
        let interrupted = tokio::spawn(call("hold on"));
        until("it has begun", || watched.begun() == 2).await;
        std::mem::forget(serving);
        process.shutdown_background();
        let error = soon("the interrupted call", interrupted).await.unwrap().unwrap_err();
        assert!(matches!(error, NetError::Closed { delivery: Delivery::Sent, .. }), "{listen}: {error:?}");
        let _serving = soon("its port", async {
            loop {
                match brick.serve(&to, Service::Brick, watched.clone()).await {
                    Ok(serving) => break serving,
                    Err(NetError::AddressInUse { .. }) => sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
        .await;
        soon("a new connection", async {
            while let Err(error) = call("hello again").await {
                assert!(error.is_transient(), "{listen}: {error:?}");
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// A service that dies and comes back has forgotten its callers, and they learn it at their
/// next sign of life, long before the silence would tell them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_service_is_recognised_at_once() {
    for listen in sockets() {
        let config = NetConfig { idle_timeout: 3 * STUCK, ..hasty() };
        let cluster = Cluster::new(1);
        let client = cluster.net_with(Role::Client, config.clone());
        // The next life has the same credential, as from a file.
        let credential = cluster.credential(Role::Brick);
        let life = || Net::new(&credential, cluster.hub.clone(), config.clone()).unwrap();
        let watched = Arc::new(Watched::default());
        let process = process();
        let (net, handler) = (life(), watched.clone());
        let serving = process
            .spawn(async move { net.serve(&listen, Service::Brick, handler).await.unwrap() })
            .await
            .unwrap();
        let to = serving.endpoint();
        let caller = client.clone();
        let interrupted =
            tokio::spawn(
                async move { caller.call(&to, Service::Brick, Frame::new("hold on"), deadline()).await },
            );
        until("it has begun", || watched.begun() == 1).await;
        std::mem::forget(serving);
        process.shutdown_background();
        let next = life();
        let _serving = soon("its port", async {
            loop {
                match next.serve(&to, Service::Brick, watched.clone()).await {
                    Ok(serving) => break serving,
                    Err(NetError::AddressInUse { .. }) => sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
        .await;
        let error = soon("the interrupted call", interrupted).await.unwrap().unwrap_err();
        assert!(matches!(error, NetError::Closed { delivery: Delivery::Sent, .. }), "{listen}: {error:?}");
        client.call(&to, Service::Brick, Frame::new("hello"), deadline()).await.unwrap();
    }
}

/// A caller that gives up harms neither the connection nor the call it made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_leaves_the_connection_usable() {
    for listen in everywhere() {
        let config = NetConfig { tls_connections: 1, ..NetConfig::default() };
        let pair = pair_with(listen, config).await;
        pair.echo("first").await;
        let (client, to) = (pair.client.clone(), pair.to);
        let abandoned =
            tokio::spawn(
                async move { client.call(&to, Service::Brick, Frame::new("hold on"), deadline()).await },
            );
        until("it has begun", || pair.watched.begun() == 2).await;
        abandoned.abort();
        assert!(abandoned.await.unwrap_err().is_cancelled());
        // Given up at every point of the way out.
        for micros in 0..100 {
            let request = Frame::new("hasty").with_payload(vec![1; 300_000]);
            let soon = Instant::now() + Duration::from_micros(10 * micros);
            let _ = pair.client.call(&pair.to, Service::Brick, request, soon).await;
        }
        pair.echo("last").await;
        assert_eq!(pair.client.counters().connections_made.get(), 1, "{listen}");
        pair.watched.open();
        until("the abandoned call ran to its end", || pair.watched.ended() == pair.watched.begun()).await;
    }
}

/// Whatever moment a call fails at: if it is said not to have been sent, it never ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_not_sent_was_not_executed() {
    for listen in everywhere() {
        let config = NetConfig { queue_frames: 2, tls_connections: 1, calls_in_progress: 4, ..hasty() };
        let pair = pair_with(listen, config).await;
        let mut calls = JoinSet::new();
        for number in 0..300u64 {
            let (client, to) = (pair.client.clone(), pair.to);
            calls.spawn(async move {
                let name = Bytes::from(format!("nap 1 {number}"));
                let request = Frame::new(name.clone()).with_payload(vec![2; 20_000]);
                // From hopeless to generous.
                let soon = Instant::now() + Duration::from_micros(number * number / 2);
                let result = client.call(&to, Service::Brick, request, soon).await;
                (name, result.map_err(|error| error.delivery()))
            });
        }
        let mut not_sent = BTreeSet::new();
        let mut answered = 0;
        while let Some(done) = soon("all calls", calls.join_next()).await {
            match done.unwrap() {
                (_, Ok(_)) => answered += 1,
                (_, Err(Delivery::Sent)) => {}
                (name, Err(Delivery::NotSent)) => {
                    not_sent.insert(name);
                }
            }
        }
        // One more through the same connection: what was under way before it has arrived.
        pair.echo("the last").await;
        until("all have ended", || pair.watched.ended() == pair.watched.begun()).await;
        assert!(!not_sent.is_empty(), "{listen}: {answered} answered");
        let seen = pair.watched.seen.lock().unwrap();
        let wrong: Vec<_> = not_sent.intersection(&seen).collect();
        assert!(wrong.is_empty(), "{listen}: executed though not sent: {wrong:?}");
    }
}

/// A handler that fails is one lost call, told at once, and nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_handler_loses_one_call() {
    for listen in everywhere() {
        let pair = pair(listen).await;
        for word in ["panic", "huge"] {
            let error = soon("a lost call", pair.call(Frame::new(word))).await.unwrap_err();
            assert!(
                matches!(error, NetError::Closed { delivery: Delivery::Sent, .. }),
                "{listen}: {error:?}"
            );
            pair.echo("unharmed").await;
        }
        assert_eq!(pair.brick.counters().connections_taken.get(), 1, "{listen}");
    }
}

/// Long calls outlive the idle time-out: signs of life keep the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_call_keeps_its_connection() {
    for listen in sockets() {
        let pair = pair_with(listen, hasty()).await;
        pair.call(Frame::new("nap 1500")).await.unwrap();
        assert_eq!(pair.client.counters().connections_made.get(), 1, "{listen}");
    }
}

/// Nobody at the address: an error soon, another soon after, and a connection once there is
/// somebody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_told_at_once() {
    for listen in everywhere() {
        let pair = pair_with(listen, hasty()).await;
        let to = pair.to;
        pair.serving.stop(STUCK).await;
        let call = || async { pair.client.call(&to, Service::Brick, Frame::new("hello"), deadline()).await };
        for _ in 0..5 {
            let error = soon("an error", call()).await.unwrap_err();
            assert!(matches!(error, NetError::Unreachable { .. }), "{listen}: {error:?}");
            assert_eq!(error.delivery(), Delivery::NotSent);
        }
        let failed = pair.client.counters().connections_failed.get();
        assert!(failed <= 4, "{listen}: {failed} attempts, without a pause");
        let _serving = pair.brick.serve(&to, Service::Brick, pair.watched.clone()).await.unwrap();
        soon("a connection", async {
            while call().await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// A wire that can be cut: passes bytes between a caller and a service until told not to.
async fn wire_to(service: Endpoint, cut: Arc<AtomicBool>, tasks: &mut JoinSet<()>) -> Endpoint {
    let target = service.address().unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    match service {
        Endpoint::Tls(_) => {
            let listener = TcpListener::bind(any).await.unwrap();
            let address = listener.local_addr().unwrap();
            tasks.spawn(async move {
                let mut pumps = JoinSet::new();
                while let Ok((near, _)) = listener.accept().await {
                    let far = TcpStream::connect(target).await.unwrap();
                    let (near, far) = (near.into_split(), far.into_split());
                    for (mut from, mut into) in [(near.0, far.1), (far.0, near.1)] {
                        let cut = cut.clone();
                        pumps.spawn(async move {
                            let mut buffer = vec![0; 65_536];
                            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                                if cut.load(Ordering::SeqCst) {
                                    // Swallowed, and both sides stay connected.
                                    continue;
                                }
                                if into.write_all(&buffer[..read]).await.is_err() {
                                    break;
                                }
                            }
                            std::future::pending::<()>().await;
                        });
                    }
                }
            });
            Endpoint::Tls(address)
        }
        _ => {
            let near = UdpSocket::bind(any).await.unwrap();
            let far = UdpSocket::bind(any).await.unwrap();
            let address = near.local_addr().unwrap();
            tasks.spawn(async move {
                let (mut inward, mut outward) = (vec![0; 65_536], vec![0; 65_536]);
                let mut caller = None;
                loop {
                    let (socket, to, bytes) = tokio::select! {
                        got = near.recv_from(&mut inward) => {
                            let (length, from) = got.unwrap();
                            caller = Some(from);
                            (&far, target, &inward[..length])
                        }
                        got = far.recv_from(&mut outward) => {
                            let (length, _) = got.unwrap();
                            (&near, caller.unwrap(), &outward[..length])
                        }
                    };
                    if !cut.load(Ordering::SeqCst) {
                        let _ = socket.send_to(bytes, to).await;
                    }
                }
            });
            Endpoint::Quic(address)
        }
    }
}

/// A peer that falls silent without a word is given up by both sides within the idle
/// time-out, and a call in between ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_noticed() {
    for listen in sockets() {
        let pair = pair_with(listen, hasty()).await;
        let mut tasks = JoinSet::new();
        let cut = Arc::new(AtomicBool::new(false));
        let to = wire_to(pair.to, cut.clone(), &mut tasks).await;
        let call = |text: &'static str| {
            let client = pair.client.clone();
            async move { client.call(&to, Service::Brick, Frame::new(text), deadline()).await }
        };
        call("hello").await.unwrap();
        let interrupted = tokio::spawn(call("hold on"));
        until("it has begun", || pair.watched.begun() == 2).await;
        cut.store(true, Ordering::SeqCst);
        let began = Instant::now();
        let error = soon("the interrupted call", interrupted).await.unwrap().unwrap_err();
        assert!(matches!(error, NetError::Closed { delivery: Delivery::Sent, .. }), "{listen}: {error:?}");
        assert!(began.elapsed() < Duration::from_secs(4), "{listen}: {:?}", began.elapsed());
        until("the service has noticed", || pair.brick.counters().connections_now.get() == 0).await;
        cut.store(false, Ordering::SeqCst);
        soon("a new connection", async {
            while call("hello again").await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}
