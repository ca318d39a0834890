//! The caller's end of TLS over TCP: many calls on one connection, told apart by number.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::frame::{Frame, FrameKind};
use crate::handshake::{Hello, Service};
use crate::net::Context;
use crate::net::config::NetConfig;
use crate::net::crypto::{Failure, peer_identity};
use crate::net::endpoint::Endpoint;
use crate::net::error::{Delivery, NetError};
use crate::net::memory::Decrement;
use crate::net::pool::judge_answer;
use crate::net::stream::{
    Liveness, Outgoing, Stage, read_body, read_head, read_message, write_frames, write_message,
};

/// The failure inside an I/O error of a TLS stream.
pub(crate) fn tls_failure(error: &io::Error) -> Option<Failure> {
    error.get_ref()?.downcast_ref::<rustls::Error>().map(Failure::from)
}

/// Calls that wait for their replies.
struct Calls {
    waiting: Mutex<Waiting>,
    /// The service has said that it is stopping.
    leaving: AtomicBool,
}

struct Waiting {
    calls: HashMap<u64, oneshot::Sender<Replied>>,
    /// Why the connection ended, once it has.
    ended: Option<String>,
}

enum Replied {
    Reply(Frame),
    Declined,
    Lost,
    Ended(String),
}

impl Calls {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, call: u64, replied: Replied) {
        let waiter = self.waiting().calls.remove(&call);
        if let Some(waiter) = waiter {
            // A caller that gave up in this moment needs no answer.
            let _ = waiter.send(replied);
        }
    }

    fn end(&self, why: String) {
        let calls = {
            let mut waiting = self.waiting();
            waiting.ended.get_or_insert_with(|| why.clone());
            std::mem::take(&mut waiting.calls)
        };
        for waiter in calls.into_values() {
            let _ = waiter.send(Replied::Ended(why.clone()));
        }
    }
}

/// A caller's end of a connection.
pub(crate) struct TlsLink {
    to: Endpoint,
    calls: Arc<Calls>,
    queue: mpsc::Sender<Outgoing>,
    next_call: AtomicU64,
    in_flight: AtomicUsize,
    driver: JoinHandle<()>,
}

impl Drop for TlsLink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl TlsLink {
    /// Connects and shakes hands. The caller bounds the time.
    pub(crate) async fn connect(
        context: &Context,
        address: SocketAddr,
        service: Service,
    ) -> Result<TlsLink, NetError> {
        let to = Endpoint::Tls(address);
        let tcp = TcpStream::connect(address)
            .await
            .map_err(|error| NetError::Unreachable { to, detail: error.to_string() })?;
        let (crypto, verdict) = context.crypto.client();
        let broken = |error: io::Error| match tls_failure(&error) {
            Some(failure) => context.crypto.explain(&to, &verdict, failure),
            None if error.kind() == io::ErrorKind::InvalidData => {
                context.crypto.explain(&to, &verdict, Failure::Other(error.to_string()))
            }
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                NetError::Unreachable { to, detail: "it hung up during the handshake".to_owned() }
            }
            None => NetError::Unreachable { to, detail: error.to_string() },
        };
        tcp.set_nodelay(true).map_err(broken)?;
        let name = ServerName::try_from(context.crypto.server_name())
            .map_err(|error| NetError::Tls { to, detail: error.to_string() })?;
        let mut stream = TlsConnector::from(crypto).connect(name, tcp).await.map_err(broken)?;
        let hello = Hello { version: context.config.protocol_version, service, caller: context.identity };
        write_message(&mut stream, &hello.encode()).await.map_err(broken)?;
        let answer = read_message(&mut stream).await.map_err(broken)?;
        let certified = peer_identity(stream.get_ref().1.peer_certificates())?;
        judge_answer(&to, &hello, &answer, Some(&certified))?;

        let calls = Arc::new(Calls {
            waiting: Mutex::new(Waiting { calls: HashMap::new(), ended: None }),
            leaving: AtomicBool::new(false),
        });
        let (queue, queued) = mpsc::channel(context.config.queue_frames.max(1));
        let driver = tokio::spawn(drive(stream, queued, calls.clone(), context.config.clone()));
        Ok(TlsLink { to, calls, queue, next_call: AtomicU64::new(1), in_flight: AtomicUsize::new(0), driver })
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.queue.is_closed() && !self.calls.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) async fn call(&self, request: Frame, deadline: Instant) -> Result<Frame, NetError> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _count = Decrement(&self.in_flight);
        let to = self.to;
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (waiter, reply) = oneshot::channel();
        {
            let mut waiting = self.calls.waiting();
            if let Some(why) = &waiting.ended {
                let detail = why.clone();
                return Err(NetError::Closed { to, delivery: Delivery::NotSent, detail });
            }
            waiting.calls.insert(call, waiter);
        }
        let place = Place { calls: &self.calls, call, stage: Arc::default() };
        let delivery = || match place.stage.withdraw() {
            true => Delivery::NotSent,
            false => Delivery::Sent,
        };
        let outgoing = Outgoing {
            kind: FrameKind::Request,
            call,
            frame: request,
            stage: Some(place.stage.clone()),
            _work: None,
        };
        let exchange = async {
            if self.queue.send(outgoing).await.is_err() {
                return Replied::Ended("it ended before the call was sent".to_owned());
            }
            match reply.await {
                Ok(replied) => replied,
                Err(_) => Replied::Ended("it ended before the reply".to_owned()),
            }
        };
        match timeout_at(deadline, exchange).await {
            Err(_) => Err(NetError::Deadline { to, delivery: delivery() }),
            Ok(Replied::Reply(frame)) => Ok(frame),
            Ok(Replied::Declined) => Err(NetError::Stopping { to }),
            Ok(Replied::Lost) => Err(NetError::Closed {
                to,
                delivery: Delivery::Sent,
                detail: "the service lost the call".to_owned(),
            }),
            Ok(Replied::Ended(detail)) => Err(NetError::Closed { to, delivery: delivery(), detail }),
        }
    }
}

/// A call's place among those that wait; given up when dropped.
struct Place<'a> {
    calls: &'a Calls,
    call: u64,
    stage: Arc<Stage>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.stage.withdraw();
        self.calls.waiting().calls.remove(&self.call);
    }
}

/// Owns the connection: reads, writes and watches it until one of them ends.
async fn drive(
    stream: TlsStream<TcpStream>,
    queue: mpsc::Receiver<Outgoing>,
    calls: Arc<Calls>,
    config: NetConfig,
) {
    let (mut reader, writer) = tokio::io::split(stream);
    let alive = Liveness::new();
    let why = tokio::select! {
        error = read_replies(&mut reader, &calls, &alive) => error.to_string(),
        written = write_frames(writer, queue, &alive, config.keepalive) => match written {
            Ok(()) => "it is no longer needed".to_owned(),
            Err(error) => error.to_string(),
        },
        () = alive.gone(config.idle_timeout) => {
            format!("nothing was heard for {} ms", config.idle_timeout.as_millis())
        }
    };
    calls.end(why);
}

/// Hands replies to their callers until the stream fails; returns how it did.
async fn read_replies<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut R,
    calls: &Calls,
    alive: &Liveness,
) -> io::Error {
    loop {
        let frame = async {
            let head = read_head(reader, alive)
                .await?
                .ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionReset, "the peer closed it"))?;
            Ok((head, read_body(reader, &head, alive).await?))
        };
        match frame.await {
            Err(error) => return error,
            Ok((head, frame)) => match head.kind {
                FrameKind::Reply => calls.answer(head.call, Replied::Reply(frame)),
                FrameKind::Declined => {
                    calls.leaving.store(true, Ordering::Relaxed);
                    calls.answer(head.call, Replied::Declined);
                }
                FrameKind::Lost => calls.answer(head.call, Replied::Lost),
                FrameKind::Alive => {}
                FrameKind::Request => {
                    return io::Error::new(io::ErrorKind::InvalidData, "the peer sent a request");
                }
            },
        }
    }
}
