//! A cluster's credentials, handlers that can be watched, and waiting with a deadline.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use wire::frame::Frame;
use wire::id::{ClusterId, NodeId};
use wire::net::{
    Authority, BoxFuture, Credential, Endpoint, Handler, MemoryHub, Net, NetConfig, Peer, Role, Service,
    Serving,
};

/// Longest time anything in these tests may take before it counts as stuck.
pub const STUCK: Duration = Duration::from_secs(20);

pub fn deadline() -> Instant {
    Instant::now() + STUCK
}

/// Awaits something that must happen.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(STUCK, future).await.unwrap_or_else(|_| panic!("stuck: {what}"))
}

/// Waits until a condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub fn any_quic() -> Endpoint {
    "quic://127.0.0.1:0".parse().unwrap()
}

pub fn any_tls() -> Endpoint {
    "tls://127.0.0.1:0".parse().unwrap()
}

pub fn any_memory() -> Endpoint {
    Endpoint::Memory(0)
}

pub fn everywhere() -> [Endpoint; 3] {
    [any_quic(), any_tls(), any_memory()]
}

pub fn sockets() -> [Endpoint; 2] {
    [any_quic(), any_tls()]
}

/// One cluster: an authority and a hub.
pub struct Cluster {
    pub authority: Authority,
    pub hub: MemoryHub,
}

impl Cluster {
    pub fn new(number: u8) -> Cluster {
        Cluster { authority: Authority::create(ClusterId([number; 16])).unwrap(), hub: MemoryHub::new() }
    }

    pub fn credential(&self, role: Role) -> Credential {
        self.authority.issue(role, NodeId([role as u8 + 1; 16])).unwrap()
    }

    pub fn net_with(&self, role: Role, config: NetConfig) -> Net {
        Net::new(&self.credential(role), self.hub.clone(), config).unwrap()
    }

    pub fn net(&self, role: Role) -> Net {
        self.net_with(role, NetConfig::default())
    }
}

/// A brick and a client of it.
pub struct Pair {
    pub cluster: Cluster,
    pub brick: Net,
    pub client: Net,
    pub serving: Serving,
    pub to: Endpoint,
    pub watched: Arc<Watched>,
}

pub async fn pair_with(listen: Endpoint, config: NetConfig) -> Pair {
    let cluster = Cluster::new(1);
    let brick = cluster.net_with(Role::Brick, config.clone());
    let client = cluster.net_with(Role::Client, config);
    let watched = Arc::new(Watched::default());
    let serving = brick.serve(&listen, Service::Brick, watched.clone()).await.unwrap();
    let to = serving.endpoint();
    Pair { cluster, brick, client, serving, to, watched }
}

pub async fn pair(listen: Endpoint) -> Pair {
    pair_with(listen, NetConfig::default()).await
}

impl Pair {
    pub async fn call(&self, request: Frame) -> Result<Frame, wire::net::NetError> {
        self.client.call(&self.to, Service::Brick, request, deadline()).await
    }

    pub async fn echo(&self, text: &'static str) {
        let request = Frame::new(text).with_payload(Bytes::from(vec![7; 3000]));
        assert_eq!(self.call(request.clone()).await.unwrap(), request);
    }
}

/// Echoes, and on headers that begin with a word of its own does worse:
/// `hold ...` waits for a permit first, `panic`, `huge` (a reply that may not travel),
/// `nap MS` (sleeps).
pub struct Watched {
    pub begun: AtomicUsize,
    pub ended: AtomicUsize,
    pub most_at_once: AtomicUsize,
    pub seen: Mutex<BTreeSet<Bytes>>,
    pub peers: Mutex<Vec<Arc<Peer>>>,
    pub gate: Semaphore,
}

impl Default for Watched {
    fn default() -> Self {
        Watched {
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            seen: Mutex::default(),
            peers: Mutex::default(),
            gate: Semaphore::new(0),
        }
    }
}

impl Watched {
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    pub fn open(&self) {
        self.gate.add_permits(1 << 20);
    }
}

impl Handler for Watched {
    fn handle(self: Arc<Self>, peer: Arc<Peer>, request: Frame) -> BoxFuture<'static, Frame> {
        let begun = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(begun - self.ended(), Ordering::SeqCst);
        self.seen.lock().unwrap().insert(request.header.clone());
        self.peers.lock().unwrap().push(peer);
        Box::pin(async move {
            let text = String::from_utf8_lossy(&request.header).into_owned();
            let mut words = text.split(' ');
            let reply = match words.next() {
                Some("hold") => {
                    self.gate.acquire().await.unwrap().forget();
                    request
                }
                Some("panic") => panic!("as the test asked for"),
                Some("huge") => Frame::new(vec![0; wire::frame::MAX_HEADER_BYTES + 1]),
                Some("nap") => {
                    let ms = words.next().unwrap().parse().unwrap();
                    sleep(Duration::from_millis(ms)).await;
                    request
                }
                _ => request,
            };
            self.ended.fetch_add(1, Ordering::SeqCst);
            reply
        })
    }
}
