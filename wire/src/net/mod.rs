//! The net: how a call travels from one room to another, whatever the transport.
//!
//! A [`Net`] is a program's credential with everything that follows from it. [`Net::serve`]
//! offers a service at an [`Endpoint`], [`Net::call`] makes one call to another and connects
//! as needed. QUIC, TLS over TCP and memory differ in cost, not in what they promise:
//!
//! 1. A call that fails with [`Delivery::NotSent`] was not and will not be begun by the service
//!    (`a_call_that_was_not_sent_was_not_executed`).
//! 2. A service runs every call it begins to its end, whatever becomes of the caller; handlers
//!    are not cancelled by a lost connection (`a_cancelled_call_leaves_the_connection_usable`).
//! 3. A message that was cut short is never taken for a whole one: lengths stand in the head,
//!    and half a message ends in a reset (`a_request_cut_short_is_never_executed`).
//! 4. Every wait ends: calls at their deadline, connecting and handshakes at their time-outs,
//!    silent connections at `idle_timeout` (`a_silent_peer_is_noticed`).
//! 5. Nobody without a certificate of the cluster gets an answer (`strangers_get_no_answer`), but
//!    to the one question whether they may join (`joiners_get_nothing_but_an_answer`).
//!
//! Not here: retries (the caller knows what may be repeated), what calls mean, who may do
//! what beyond [`Service::may_be_called_by`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Instant;

use crate::frame::Frame;
pub use crate::handshake::{Identity, Refusal, Role, Service};

mod config;
mod counters;
mod crypto;
mod endpoint;
mod error;
mod joining;
mod leader;
mod memory;
pub mod pki;
mod pool;
mod probe;
mod quic;
mod quic_server;
mod serving;
mod stream;
mod tls;
mod tls_server;
pub mod typed;

pub use config::NetConfig;
pub use counters::{Counter, Counters};
pub use endpoint::Endpoint;
pub use error::{Delivery, NetError, Whose};
pub use joining::{JoinError, Joiner, join};
pub use leader::Members;
pub use memory::{Fate, MemoryHub, Weather};
pub use pki::{Authority, Credential, CredentialError, JoinKey};
pub use probe::Probed;
pub use serving::{Drained, Serving, check_listen};
pub use typed::{CallError, Protocol, TypedHandler};

use crypto::Crypto;
use pool::Pool;
use quic::QuicDialer;

/// A future that owns what it needs.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers the calls of one service.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call. Runs to its end even when the caller is gone. A reply larger than a
    /// frame may be is lost, and so is the reply of a handler that panics: the caller learns
    /// of it at once.
    fn handle(self: Arc<Self>, peer: Arc<Peer>, request: Frame) -> BoxFuture<'static, Frame>;
}

/// Who calls: proven by certificate, or by being in the same process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Cluster, node and role.
    pub identity: Identity,
    /// Where the connection comes from, for people.
    pub address: String,
    /// Number of the connection within this process; never used twice.
    pub connection: u64,
}

/// A program's way to call and to serve. Cheap to clone; connections are shared by the clones
/// and end with the last of them. Needs a tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Net {
    inner: Arc<NetInner>,
}

/// What transports need to know.
pub(crate) struct Context {
    pub(crate) identity: Identity,
    pub(crate) config: NetConfig,
    pub(crate) crypto: Crypto,
    pub(crate) counters: Counters,
    pub(crate) hub: MemoryHub,
    pub(crate) quic: QuicDialer,
}

struct NetInner {
    context: Arc<Context>,
    pool: Pool,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl Net {
    /// Makes a net from a credential. `memory` is where endpoints in memory are looked up:
    /// nets that shall meet there share it.
    pub fn new(credential: &Credential, memory: MemoryHub, config: NetConfig) -> Result<Net, NetError> {
        let crypto = Crypto::new(credential, config.protocol_version)?;
        let context = Arc::new(Context {
            identity: credential.identity(),
            quic: QuicDialer::default(),
            crypto,
            counters: Counters::default(),
            hub: memory,
            config,
        });
        Ok(Net { inner: Arc::new(NetInner { pool: Pool::new(context.clone()), context }) })
    }

    /// Who this program is.
    pub fn identity(&self) -> Identity {
        self.inner.context.identity
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.inner.context.counters
    }

    /// Makes one call: connects if needed, sends, waits for the reply until `deadline`.
    ///
    /// Calls of one caller may overtake each other. Dropping the future gives the call up;
    /// the service may still carry it out. Nothing is tried twice: [`NetError::delivery`]
    /// says whether that would be safe. After a failed attempt to connect, calls fail at once
    /// for a short time, so callers that try again should wait a little in between.
    pub async fn call(
        &self,
        to: &Endpoint,
        service: Service,
        request: Frame,
        deadline: Instant,
    ) -> Result<Frame, NetError> {
        let counters = &self.inner.context.counters;
        counters.calls_made.add(1);
        let sent = request.len() as u64;
        let reply = self.inner.pool.call(to, service, request, deadline).await;
        match &reply {
            Ok(reply) => {
                counters.bytes_sent.add(sent);
                counters.bytes_received.add(reply.len() as u64);
            }
            Err(_) => counters.calls_failed.add(1),
        }
        reply
    }

    /// Offers a service at `listen`; port 0 takes a free one, and [`Serving::endpoint`] says
    /// which. The listener is open when this returns.
    ///
    /// Fails with [`NetError::AddressInUse`] or [`NetError::Listen`].
    pub async fn serve(
        &self,
        listen: &Endpoint,
        service: Service,
        handler: Arc<dyn Handler>,
    ) -> Result<Serving, NetError> {
        serving::serve(self.inner.context.clone(), listen, service, handler, None).await
    }

    /// The same, and answers at the same address those who have no certificate and want to
    /// join. Over TLS only: elsewhere nobody can join.
    pub async fn serve_and_take_in(
        &self,
        listen: &Endpoint,
        service: Service,
        handler: Arc<dyn Handler>,
        joiner: Arc<dyn Joiner>,
    ) -> Result<Serving, NetError> {
        serving::serve(self.inner.context.clone(), listen, service, handler, Some(joiner)).await
    }

    /// The next call to a peer connects at once, though an attempt has failed a moment ago: who calls to find out whether it can be
    /// reached wants no earlier answer.
    pub fn try_again(&self, to: &Endpoint, service: Service) {
        self.inner.pool.try_again(to, service);
    }

    /// Lets go of every connection made by [`Net::call`]: each closes when the calls under way
    /// on it have ended, and later calls connect anew.
    pub fn disconnect(&self) {
        self.inner.pool.clear();
    }
}
