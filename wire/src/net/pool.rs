//! The connections of a net: made on demand, shared by all calls, made anew after a failure.
//!
//! 1. However many calls want the same connection, it is dialled once
//!    (`concurrent_first_calls_connect_once`).
//! 2. A caller that goes away while it waits for a connection does not end the attempt for
//!    the others: dialling is a task of its own, bounded by `connect_timeout`.
//! 3. A call made while a failed connection waits for its next attempt fails at once with the
//!    last error, so that a caller with another choice loses no time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use crate::frame::Frame;
use crate::handshake::{Answer, HandshakeError, Hello, Identity, Service};
use crate::net::Context;
use crate::net::endpoint::Endpoint;
use crate::net::error::{Delivery, NetError};
use crate::net::memory::MemoryLink;
use crate::net::quic::QuicLink;
use crate::net::tls::TlsLink;

/// Peers whose connections are remembered before those long unused are forgotten.
const MAX_REMEMBERED: usize = 1024;

/// One open connection, whatever its transport.
pub(crate) enum Link {
    Memory(MemoryLink),
    Quic(QuicLink),
    Tls(TlsLink),
}

impl Link {
    async fn connect(context: &Context, to: &Endpoint, service: Service) -> Result<Link, NetError> {
        Ok(match *to {
            Endpoint::Memory(number) => Link::Memory(MemoryLink::connect(context, number, service)?),
            Endpoint::Quic(address) => Link::Quic(QuicLink::connect(context, address, service).await?),
            Endpoint::Tls(address) => Link::Tls(TlsLink::connect(context, address, service).await?),
        })
    }

    fn is_open(&self) -> bool {
        match self {
            Link::Memory(link) => link.is_open(),
            Link::Quic(link) => link.is_open(),
            Link::Tls(link) => link.is_open(),
        }
    }

    fn in_flight(&self) -> usize {
        match self {
            Link::Memory(link) => link.in_flight(),
            Link::Quic(link) => link.in_flight(),
            Link::Tls(link) => link.in_flight(),
        }
    }

    async fn call(&self, request: Frame, deadline: Instant) -> Result<Frame, NetError> {
        match self {
            Link::Memory(link) => link.call(request, deadline).await,
            Link::Quic(link) => link.call(request, deadline).await,
            Link::Tls(link) => link.call(request, deadline).await,
        }
    }
}

type Dialled = Option<Result<Arc<Link>, NetError>>;

/// One place for a connection to a peer.
#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Dialling {
        result: watch::Receiver<Dialled>,
        /// How long to wait after this attempt, should it fail.
        backoff: Duration,
    },
    Open(Arc<Link>),
    Failed {
        error: NetError,
        again_at: Instant,
        backoff: Duration,
    },
}

struct Slots {
    slots: Vec<Slot>,
    last_use: Instant,
}

type Key = (Endpoint, Service);

pub(crate) struct Pool {
    context: Arc<Context>,
    peers: Arc<Mutex<HashMap<Key, Slots>>>,
}

/// What a call found: a connection, or an attempt to wait for.
enum Found {
    Open(Arc<Link>),
    Dialling(watch::Receiver<Dialled>),
}

impl Pool {
    pub(crate) fn new(context: Arc<Context>) -> Pool {
        Pool { context, peers: Arc::default() }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<Key, Slots>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clear(&self) {
        self.peers().clear();
    }

    /// Forgets failures to connect to a peer.
    pub(crate) fn try_again(&self, to: &Endpoint, service: Service) {
        if let Some(entry) = self.peers().get_mut(&(*to, service)) {
            entry.slots.retain(|slot| !matches!(slot, Slot::Failed { .. }));
        }
    }

    pub(crate) async fn call(
        &self,
        to: &Endpoint,
        service: Service,
        request: Frame,
        deadline: Instant,
    ) -> Result<Frame, NetError> {
        request.check().map_err(NetError::TooLarge)?;
        let link = match self.find(to, service)? {
            Found::Open(link) => link,
            Found::Dialling(mut result) => {
                let late = |_| NetError::Deadline { to: *to, delivery: Delivery::NotSent };
                let dialled = timeout_at(deadline, result.wait_for(Option::is_some))
                    .await
                    .map_err(late)?
                    .ok()
                    .and_then(|dialled| dialled.clone());
                // The sender is gone without a word only when the runtime ends.
                dialled.ok_or_else(|| NetError::Closed {
                    to: *to,
                    delivery: Delivery::NotSent,
                    detail: "the attempt to connect was given up".to_owned(),
                })??
            }
        };
        link.call(request, deadline).await
    }

    /// The least busy connection to a peer, or the attempt to make one. Takes and releases
    /// the lock, never waits.
    fn find(&self, to: &Endpoint, service: Service) -> Result<Found, NetError> {
        let now = Instant::now();
        let mut peers = self.peers();
        if peers.len() >= MAX_REMEMBERED && !peers.contains_key(&(*to, service)) {
            let unused = 12 * self.context.config.idle_timeout;
            peers.retain(|_, slots| now.duration_since(slots.last_use) < unused);
        }
        let wanted = match to {
            Endpoint::Tls(_) => self.context.config.tls_connections.clamp(1, 16),
            Endpoint::Quic(_) | Endpoint::Memory(_) => 1,
        };
        let entry = peers.entry((*to, service)).or_insert_with(|| Slots { slots: Vec::new(), last_use: now });
        entry.last_use = now;
        entry.slots.resize_with(wanted, Slot::default);

        // An idle connection; else a place that is free to be dialled; else the least busy
        // one; else an attempt under way; else the failure to report.
        let mut best: Option<(usize, Arc<Link>)> = None;
        let mut free: Option<(usize, Duration)> = None;
        let mut dialling: Option<watch::Receiver<Dialled>> = None;
        let mut failure: Option<NetError> = None;
        for (index, slot) in entry.slots.iter_mut().enumerate() {
            match slot {
                Slot::Open(link) if link.is_open() => {
                    let load = link.in_flight();
                    if best.as_ref().is_none_or(|(least, _)| load < *least) {
                        best = Some((load, link.clone()));
                    }
                }
                Slot::Open(_) | Slot::Empty => {
                    *slot = Slot::Empty;
                    free.get_or_insert((index, self.context.config.backoff_first));
                }
                Slot::Dialling { result, .. } => {
                    dialling.get_or_insert_with(|| result.clone());
                }
                Slot::Failed { error, again_at, backoff } => {
                    if now >= *again_at {
                        let next = (*backoff * 2).min(self.context.config.backoff_most);
                        free.get_or_insert((index, next));
                    } else {
                        failure.get_or_insert_with(|| error.clone());
                    }
                }
            }
        }
        match (best, free, dialling, failure) {
            (Some((0, link)), ..) => Ok(Found::Open(link)),
            // More connections only help a peer that is reachable; while the first attempt
            // is under way or has failed, nobody makes a second one.
            (Some((_, link)), Some((index, backoff)), None, None) => {
                self.dial(&mut entry.slots[index], to, service, backoff);
                Ok(Found::Open(link))
            }
            (Some((_, link)), ..) => Ok(Found::Open(link)),
            (None, _, Some(result), _) => Ok(Found::Dialling(result)),
            (None, _, None, Some(error)) => Err(error),
            (None, Some((index, backoff)), None, None) if matches!(to, Endpoint::Memory(_)) => {
                // Nothing to wait for; and those who call at once stay in their order.
                self.connect_in_memory(&mut entry.slots[index], to, service, backoff).map(Found::Open)
            }
            (None, Some((index, backoff)), None, None) => {
                Ok(Found::Dialling(self.dial(&mut entry.slots[index], to, service, backoff)))
            }
            // Every slot is one of the above, and there is at least one.
            (None, None, None, None) => {
                Err(NetError::Unreachable { to: *to, detail: "no place for a connection".to_owned() })
            }
        }
    }

    fn connect_in_memory(
        &self,
        slot: &mut Slot,
        to: &Endpoint,
        service: Service,
        backoff: Duration,
    ) -> Result<Arc<Link>, NetError> {
        let made = match *to {
            Endpoint::Memory(number) => MemoryLink::connect(&self.context, number, service),
            Endpoint::Quic(_) | Endpoint::Tls(_) => {
                Err(NetError::Unreachable { to: *to, detail: "it is not in memory".to_owned() })
            }
        };
        match made {
            Ok(link) => {
                self.context.counters.connections_made.add(1);
                let link = Arc::new(Link::Memory(link));
                *slot = Slot::Open(link.clone());
                Ok(link)
            }
            Err(error) => {
                self.context.counters.connections_failed.add(1);
                *slot = Slot::Failed { error: error.clone(), again_at: Instant::now() + backoff, backoff };
                Err(error)
            }
        }
    }

    /// Starts to connect, for the calls that wait and those to come.
    fn dial(
        &self,
        slot: &mut Slot,
        to: &Endpoint,
        service: Service,
        backoff: Duration,
    ) -> watch::Receiver<Dialled> {
        let (tell, result) = watch::channel(None);
        *slot = Slot::Dialling { result: result.clone(), backoff };
        let (context, to) = (self.context.clone(), *to);
        let peers = Arc::downgrade(&self.peers);
        let ours = result.clone();
        tokio::spawn(async move {
            let limit = context.config.connect_timeout;
            let dialled = timeout(limit, Link::connect(&context, &to, service))
                .await
                .unwrap_or_else(|_| {
                    Err(NetError::Unreachable {
                        to,
                        detail: format!("no answer within {} ms", limit.as_millis()),
                    })
                })
                .map(Arc::new);
            match &dialled {
                Ok(_) => context.counters.connections_made.add(1),
                Err(error) => {
                    context.counters.connections_failed.add(1);
                    debug!(%to, %service, %error, "could not connect");
                }
            }
            if let Some(peers) = peers.upgrade() {
                let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
                // The net may have been told to disconnect in between.
                let slot = peers.get_mut(&(to, service)).and_then(|entry| {
                    entry.slots.iter_mut().find(
                        |slot| matches!(slot, Slot::Dialling { result, .. } if result.same_channel(&ours)),
                    )
                });
                if let Some(slot) = slot {
                    let backoff = match slot {
                        Slot::Dialling { backoff, .. } => *backoff,
                        _ => backoff,
                    };
                    *slot = match &dialled {
                        Ok(link) => Slot::Open(link.clone()),
                        Err(error) => {
                            Slot::Failed { error: error.clone(), again_at: Instant::now() + backoff, backoff }
                        }
                    };
                }
            }
            tell.send_replace(Some(dialled));
        });
        result
    }
}

/// A caller's side of the handshake: what the answer means. `certified` is what the server's
/// certificate says, where there is one.
pub(crate) fn judge_answer(
    to: &Endpoint,
    hello: &Hello,
    answer: &[u8],
    certified: Option<&Identity>,
) -> Result<(), NetError> {
    let odd = |detail: String| NetError::Protocol { to: *to, delivery: Delivery::NotSent, detail };
    match Answer::decode(answer, hello.version) {
        Ok(Answer::Welcome(identity)) => {
            if certified.is_some_and(|certified| *certified != identity) {
                return Err(odd("its answer contradicts its certificate".to_owned()));
            }
            if identity.cluster != hello.caller.cluster {
                return Err(NetError::OtherCluster {
                    to: *to,
                    ours: hello.caller.cluster,
                    theirs: Some(identity.cluster),
                });
            }
            if !hello.service.may_be_served_by(identity.role) {
                return Err(NetError::Impostor { to: *to, role: identity.role });
            }
            Ok(())
        }
        Ok(Answer::Refused(refusal)) => {
            Err(NetError::Refused { to: *to, refusal, explanation: refusal.explain(hello) })
        }
        Err(error @ (HandshakeError::NotBrickyard | HandshakeError::Malformed))
        | Err(error @ HandshakeError::OtherVersion { .. }) => Err(odd(error.to_string())),
    }
}
