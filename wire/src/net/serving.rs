//! A service being offered: what its listener, its connections and its calls share, and how
//! it stops.
//!
//! A service goes through three phases: it runs; it drains (no new connections, new calls are
//! declined, running ones finish); it is closed (connections end, calls that still ran are
//! given up).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, info};

use crate::frame::{Frame, MAX_PAYLOAD_BYTES};
use crate::handshake::{Answer, Doorkeeper, Identity, Service};
use crate::net::config::NetConfig;
use crate::net::counters::Counters;
use crate::net::endpoint::Endpoint;
use crate::net::error::NetError;
use crate::net::{Context, Handler, Joiner, Peer, quic_server, tls_server};

/// How long closing connections may take to say goodbye.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    Draining,
    Closed,
}

/// Returns when a service has come that far.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, this: Phase) {
    // The guard must not be held any longer, and without a sender the service is gone.
    let _ = phase.wait_for(|phase| *phase >= this).await;
}

/// What became of a call that was begun.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Frame),
    /// The handler panicked or its reply may not travel.
    Lost,
    /// The service was closed before the handler was done.
    Stopped,
}

/// What listener, connections and calls of one service share.
pub(crate) struct ServingShared {
    context: Arc<Context>,
    doorkeeper: Doorkeeper,
    handler: Arc<dyn Handler>,
    joiner: Option<Arc<dyn Joiner>>,
    phase: watch::Sender<Phase>,
    active: AtomicUsize,
    idle: Notify,
}

impl ServingShared {
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn config(&self) -> &NetConfig {
        &self.context.config
    }

    /// Who decides about callers that want to join, where they can.
    pub(crate) fn joiner(&self) -> Option<Arc<dyn Joiner>> {
        self.joiner.clone()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.context.counters
    }

    pub(crate) fn version(&self) -> u16 {
        self.doorkeeper.version
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Running
    }

    /// Judges a hello and logs a refusal. `None`: the caller speaks another language and gets
    /// no answer.
    pub(crate) fn judge(&self, hello: &[u8], certified: &Identity, from: &str) -> Option<Answer> {
        if !self.is_running() {
            return None;
        }
        let answer = self.doorkeeper.judge(hello, certified);
        match &answer {
            Ok(Answer::Welcome(_)) => return answer.ok(),
            Ok(Answer::Refused(refusal)) => {
                info!(from, node = %certified.node, role = %certified.role, ?refusal,
                    service = %self.doorkeeper.service, "refused a caller");
            }
            Err(error) => info!(from, %error, "turned a caller away"),
        }
        self.counters().callers_refused.add(1);
        answer.ok()
    }

    /// A handshake that failed. Who hangs up in it may only have looked whether somebody listens, as [`Net::probe`](crate::net::Net::probe)
    /// does.
    pub(crate) fn fell(&self, from: SocketAddr, error: &io::Error) {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            debug!(%from, service = %self.doorkeeper.service, "a caller hung up in the handshake");
        } else {
            self.turned_away(from, &error.to_string());
        }
    }

    /// Counts and logs a caller that failed before its hello.
    pub(crate) fn turned_away(&self, from: SocketAddr, why: &str) {
        self.counters().callers_refused.add(1);
        info!(%from, why, service = %self.doorkeeper.service, "turned a caller away");
    }

    pub(crate) fn new_peer(&self, identity: Identity, address: String) -> Arc<Peer> {
        let connection = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        self.counters().connections_taken.add(1);
        debug!(connection, address, node = %identity.node, role = %identity.role,
            service = %self.doorkeeper.service, "took a connection");
        Arc::new(Peer { identity, address, connection })
    }

    /// Begins a call, unless the service is stopping.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Work> {
        // Counted first and looked second: whoever drains sets the phase first and looks at
        // the count second, so one of both sees the other.
        self.active.fetch_add(1, Ordering::SeqCst);
        let work = Work { shared: self.clone() };
        self.counters().serving_now.add(1);
        if self.is_running() {
            return Some(work);
        }
        self.counters().calls_declined.add(1);
        None
    }

    /// Runs the handler to its end, or until the service is closed.
    pub(crate) async fn run(&self, peer: Arc<Peer>, request: Frame) -> Outcome {
        let counters = self.counters();
        counters.calls_served.add(1);
        counters.bytes_received.add(request.len() as u64);
        let mut phase = self.phase();
        let connection = peer.connection;
        let handler = self.handler.clone();
        // A panic ends this call and nothing else.
        let mut call = match catch_unwind(AssertUnwindSafe(|| handler.handle(peer, request))) {
            Ok(call) => call,
            Err(_) => return self.lost(connection, "a handler panicked"),
        };
        let guarded = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(reply)) => Poll::Ready(Some(reply)),
            Err(_) => Poll::Ready(None),
        });
        let reply = tokio::select! {
            biased;
            reply = guarded => reply,
            () = reached(&mut phase, Phase::Closed) => return Outcome::Stopped,
        };
        let Some(reply) = reply else {
            return self.lost(connection, "a handler panicked");
        };
        match reply.check() {
            Ok(()) => {
                counters.bytes_sent.add(reply.len() as u64);
                Outcome::Reply(reply)
            }
            Err(error) => self.lost(connection, &error.to_string()),
        }
    }

    fn lost(&self, connection: u64, why: &str) -> Outcome {
        error!(connection, service = %self.doorkeeper.service, why, "lost a call");
        Outcome::Lost
    }
}

/// A call in progress, until its reply is on its way. Draining waits for it.
pub(crate) struct Work {
    shared: Arc<ServingShared>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.shared.counters().serving_now.subtract(1);
        if self.shared.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

/// Counts a connection for as long as it lives.
pub(crate) struct ConnectionCount<'a>(&'a ServingShared);

impl<'a> ConnectionCount<'a> {
    pub(crate) fn new(shared: &'a ServingShared) -> ConnectionCount<'a> {
        shared.counters().connections_now.add(1);
        ConnectionCount(shared)
    }
}

impl Drop for ConnectionCount<'_> {
    fn drop(&mut self) {
        self.0.counters().connections_now.subtract(1);
    }
}

/// A listener and its connections; ends, without ceremony, when dropped.
pub struct Serving {
    endpoint: Endpoint,
    shared: Arc<ServingShared>,
    listener: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// How a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Calls that were still running at the deadline and were given up.
    pub calls_given_up: usize,
}

impl Serving {
    /// Where it is reached: the real port, where 0 was asked for.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Stops: takes no further connections and calls, lets running calls finish for at most
    /// `patience`, then closes the connections. Takes at most four seconds longer than that.
    pub async fn stop(mut self, patience: Duration) -> Drained {
        self.shared.phase.send_replace(Phase::Draining);
        self.unlist();
        let all_done = async {
            loop {
                let idle = self.shared.idle.notified();
                tokio::pin!(idle);
                idle.as_mut().enable();
                if self.shared.active.load(Ordering::SeqCst) == 0 {
                    return;
                }
                idle.await;
            }
        };
        // What is still running then is counted and told to the caller.
        let _ = timeout(patience, all_done).await;
        let calls_given_up = self.shared.active.load(Ordering::SeqCst);
        self.shared.phase.send_replace(Phase::Closed);
        if let Some(mut listener) = self.listener.take()
            && timeout(4 * GOODBYE, &mut listener).await.is_err()
        {
            listener.abort();
        }
        Drained { calls_given_up }
    }

    fn unlist(&self) {
        if let Endpoint::Memory(number) = self.endpoint {
            self.shared.context.hub.remove(number, &self.shared);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.unlist();
        self.shared.phase.send_replace(Phase::Closed);
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

pub(crate) async fn serve(
    context: Arc<Context>,
    listen: &Endpoint,
    service: Service,
    handler: Arc<dyn Handler>,
    joiner: Option<Arc<dyn Joiner>>,
) -> Result<Serving, NetError> {
    let shared = Arc::new(ServingShared {
        doorkeeper: Doorkeeper {
            version: context.config.protocol_version,
            identity: context.identity,
            service,
        },
        handler,
        joiner,
        phase: watch::Sender::new(Phase::Running),
        active: AtomicUsize::new(0),
        idle: Notify::new(),
        context: context.clone(),
    });
    let (endpoint, listener) = match *listen {
        Endpoint::Memory(number) => {
            let number = context
                .hub
                .insert(number, shared.clone())
                .ok_or(NetError::AddressInUse { listen: *listen })?;
            (Endpoint::Memory(number), None)
        }
        Endpoint::Tls(address) => {
            let (address, listener) =
                tls_server::listen(shared.clone(), address).map_err(|e| cannot(listen, &e))?;
            (Endpoint::Tls(address), Some(listener))
        }
        Endpoint::Quic(address) => {
            let (address, listener) =
                quic_server::listen(shared.clone(), address).map_err(|e| cannot(listen, &e))?;
            (Endpoint::Quic(address), Some(listener))
        }
    };
    debug!(%endpoint, %service, "listening");
    Ok(Serving { endpoint, shared, listener })
}

/// Whether somebody could listen there now: it is tried, and given up again.
///
/// # Errors
/// As of listening.
pub fn check_listen(listen: &Endpoint) -> Result<(), NetError> {
    let tried = match listen {
        Endpoint::Tls(address) => std::net::TcpListener::bind(address).map(drop),
        Endpoint::Quic(address) => std::net::UdpSocket::bind(address).map(drop),
        Endpoint::Memory(_) => Ok(()),
    };
    tried.map_err(|error| cannot(listen, &error))
}

fn cannot(listen: &Endpoint, error: &std::io::Error) -> NetError {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        return NetError::AddressInUse { listen: *listen };
    }
    let detail = match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: give one that `ip address` shows".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root: choose another port or run it as root".to_owned()
        }
        _ => error.to_string(),
    };
    NetError::Listen { listen: *listen, detail }
}

/// What one connection may have in progress: calls, and bytes of their payloads.
pub(crate) struct Budget {
    calls: Arc<Semaphore>,
    kibibytes: Arc<Semaphore>,
}

/// One call's part of a [`Budget`], given back when dropped.
pub(crate) struct Share {
    _call: OwnedSemaphorePermit,
    _kibibytes: OwnedSemaphorePermit,
}

/// Bytes in the unit of budgets, rounded up.
pub(crate) fn kibibytes(bytes: usize) -> u32 {
    // Frames end at a few MiB, so this is far from overflowing.
    bytes.div_ceil(1024) as u32
}

impl Budget {
    pub(crate) fn new(config: &NetConfig) -> Budget {
        let bytes = config.payload_in_progress_bytes.max(MAX_PAYLOAD_BYTES);
        Budget {
            calls: Arc::new(Semaphore::new(config.calls_in_progress.max(1))),
            kibibytes: Arc::new(Semaphore::new(bytes / 1024)),
        }
    }

    /// A share, if it is to be had at once.
    pub(crate) fn try_take(&self, payload_bytes: usize) -> Option<Share> {
        Some(Share {
            _call: self.calls.clone().try_acquire_owned().ok()?,
            _kibibytes: self.kibibytes.clone().try_acquire_many_owned(kibibytes(payload_bytes)).ok()?,
        })
    }

    /// A share, when there is one.
    pub(crate) async fn take(&self, payload_bytes: usize) -> Share {
        loop {
            let call = self.calls.clone().acquire_owned().await;
            let bytes = self.kibibytes.clone().acquire_many_owned(kibibytes(payload_bytes)).await;
            // Neither semaphore is ever closed.
            if let (Ok(call), Ok(bytes)) = (call, bytes) {
                return Share { _call: call, _kibibytes: bytes };
            }
        }
    }
}
