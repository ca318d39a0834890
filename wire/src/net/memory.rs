//! Calls within one process, without sockets: for tests that want to repeat themselves to the
//! letter, also under paused time.
//!
//! The handshake's bytes are made and judged as on a wire, and the same limits hold; only
//! TLS is missing, so a caller's word stands in for its certificate.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::frame::Frame;
use crate::handshake::{Answer, Hello, Identity, Service};
use crate::net::endpoint::Endpoint;
use crate::net::error::{Delivery, NetError};
use crate::net::pool::judge_answer;
use crate::net::serving::{Outcome, ServingShared};
use crate::net::{Context, Peer};

/// What becomes of one call in memory, for simulations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// When the service gets the request; `None`: never. A request that comes late still
    /// comes, whatever its caller was told meanwhile.
    pub arrives_after: Option<Duration>,
    /// How long the reply travels.
    pub reply_after: Duration,
    /// When the caller is told that the connection broke, unless it has the reply by then.
    pub breaks_after: Option<Duration>,
}

/// Decides what becomes of the calls of a hub.
pub trait Weather: Send + Sync + 'static {
    /// A call of `from` to the service at number `to`.
    fn fate(&self, from: &Identity, to: u64) -> Fate;
}

/// Where services in memory are found by number. Cheap to clone; clones are the same hub.
#[derive(Clone, Default)]
pub struct MemoryHub {
    listeners: Arc<Mutex<BTreeMap<u64, Arc<ServingShared>>>>,
    weather: Option<Arc<dyn Weather>>,
}

impl std::fmt::Debug for MemoryHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryHub").finish_non_exhaustive()
    }
}

impl MemoryHub {
    /// An empty hub.
    pub fn new() -> MemoryHub {
        MemoryHub::default()
    }

    /// An empty hub whose calls are lost, late or cut off as `weather` says.
    pub fn with_weather(weather: Arc<dyn Weather>) -> MemoryHub {
        MemoryHub { weather: Some(weather), ..MemoryHub::default() }
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<ServingShared>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a listener at `number`, or at the first free one if that is 0.
    pub(crate) fn insert(&self, number: u64, shared: Arc<ServingShared>) -> Option<u64> {
        let mut listeners = self.listeners();
        let number = match number {
            0 => listeners.last_key_value().map_or(1, |(last, _)| last + 1),
            _ if listeners.contains_key(&number) => return None,
            _ => number,
        };
        listeners.insert(number, shared);
        Some(number)
    }

    /// Whether a service has this number.
    pub(crate) fn listens(&self, number: u64) -> bool {
        self.listeners().contains_key(&number)
    }

    /// Takes `shared` away from `number`, if it is still there.
    pub(crate) fn remove(&self, number: u64, shared: &Arc<ServingShared>) {
        let mut listeners = self.listeners();
        if listeners.get(&number).is_some_and(|found| Arc::ptr_eq(found, shared)) {
            listeners.remove(&number);
        }
    }
}

/// A caller's end of a connection in memory.
pub(crate) struct MemoryLink {
    to: Endpoint,
    peer: Arc<Peer>,
    listener: Arc<ServingShared>,
    slots: Arc<Semaphore>,
    in_flight: AtomicUsize,
    /// Who calls, and what may become of it.
    weather: Option<(Identity, u64, Arc<dyn Weather>)>,
}

impl MemoryLink {
    /// Finds the listener and shakes hands.
    pub(crate) fn connect(context: &Context, number: u64, service: Service) -> Result<MemoryLink, NetError> {
        let to = Endpoint::Memory(number);
        let listener =
            context.hub.listeners().get(&number).cloned().ok_or_else(|| NetError::Unreachable {
                to,
                detail: "no service has this number".to_owned(),
            })?;
        let hello = Hello { version: context.config.protocol_version, service, caller: context.identity };
        let said = listener
            .judge(&hello.encode(), &context.identity, "memory")
            .map(|answer: Answer| answer.encode(listener.version()));
        let Some(said) = said else {
            return Err(NetError::Unreachable { to, detail: "no answer".to_owned() });
        };
        judge_answer(&to, &hello, &said, None)?;
        Ok(MemoryLink {
            to,
            peer: listener.new_peer(context.identity, format!("memory of {}", context.identity.node)),
            slots: Arc::new(Semaphore::new(listener.config().calls_in_progress.max(1))),
            listener,
            in_flight: AtomicUsize::new(0),
            weather: context.hub.weather.clone().map(|weather| (context.identity, number, weather)),
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.listener.is_running()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) async fn call(&self, request: Frame, deadline: Instant) -> Result<Frame, NetError> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _count = Decrement(&self.in_flight);
        let to = self.to;
        let late = |delivery| move |_| NetError::Deadline { to, delivery };
        let slot = timeout_at(deadline, self.slots.clone().acquire_owned())
            .await
            .map_err(late(Delivery::NotSent))?;
        if deadline <= Instant::now() {
            return Err(NetError::Deadline { to, delivery: Delivery::NotSent });
        }
        let lost =
            |detail: &str| NetError::Closed { to, delivery: Delivery::Sent, detail: detail.to_owned() };
        let (answer, reply) = oneshot::channel();
        let (listener, peer) = (self.listener.clone(), self.peer.clone());
        let mut breaks_at = None;
        match &self.weather {
            None => {
                let Some(work) = listener.begin() else { return Err(NetError::Stopping { to }) };
                tokio::spawn(async move {
                    let outcome = listener.run(peer, request).await;
                    // A caller that is gone needs no answer.
                    let _ = answer.send(outcome);
                    drop((slot, work));
                });
            }
            Some((from, number, weather)) => {
                let fate = weather.fate(from, *number);
                breaks_at = fate.breaks_after.map(|after| Instant::now() + after);
                tokio::spawn(async move {
                    match fate.arrives_after {
                        None => {
                            // Its caller hears nothing until it gives up.
                            drop(slot);
                            tokio::time::sleep_until(deadline).await;
                            drop(answer);
                            return;
                        }
                        Some(Duration::ZERO) => {}
                        Some(after) => sleep(after).await,
                    }
                    // A service that has ended in between looks to the caller as if it had
                    // ended during the call.
                    let Some(work) = listener.begin() else { return };
                    let outcome = listener.run(peer, request).await;
                    if !fate.reply_after.is_zero() {
                        sleep(fate.reply_after).await;
                    }
                    let _ = answer.send(outcome);
                    drop((slot, work));
                });
            }
        }
        let until = breaks_at.map_or(deadline, |at| at.min(deadline));
        match timeout_at(until, reply).await {
            Err(_) if until < deadline => Err(lost("the connection broke")),
            Err(elapsed) => Err(late(Delivery::Sent)(elapsed)),
            Ok(Ok(Outcome::Reply(reply))) => Ok(reply),
            Ok(Ok(Outcome::Lost) | Err(_)) => Err(lost("the service lost the call")),
            Ok(Ok(Outcome::Stopped)) => Err(lost("the service stopped")),
        }
    }
}

/// Takes one off a count when dropped.
pub(crate) struct Decrement<'a>(pub(crate) &'a AtomicUsize);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
