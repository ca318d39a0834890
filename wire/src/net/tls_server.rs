//! The service's end of TLS over TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};
use tracing::{debug, error, warn};

use crate::frame::{Frame, FrameKind};
use crate::handshake::Answer;
use crate::join::{
    JOIN_VERSION, JoinAnswer, JoinMessageError, JoinRefusal, JoinRequest, MAX_JOIN_BYTES, decode, encode,
};
use crate::net::crypto::{ALPN_JOIN, peer_identity};
use crate::net::serving::{Budget, ConnectionCount, GOODBYE, Outcome, Phase, ServingShared, reached};
use crate::net::stream::{
    Liveness, Outgoing, read_body, read_head, read_message, read_message_up_to, write_frames, write_message,
};
use crate::net::{Joiner, Peer};

/// Connections the kernel keeps ready for us to accept.
const BACKLOG: i32 = 1024;
/// How long to wait after a failed accept, such as when there are no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Joiners of one listener at the same time; each may cost a flush of the disk.
const JOINING: usize = 16;

/// Opens the listener and serves it in a task of its own.
pub(crate) fn listen(
    shared: Arc<ServingShared>,
    address: SocketAddr,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    // A restarted service takes its port back although old connections linger there; a port
    // that somebody listens at is still refused.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    Ok((address, tokio::spawn(accept(shared, listener))))
}

async fn accept(shared: Arc<ServingShared>, listener: TcpListener) {
    let acceptor = Acceptor {
        members: shared.context().crypto.server(),
        joiners: shared.joiner().map(|joiner| (shared.context().crypto.joining(), joiner)),
        joining: Arc::new(Semaphore::new(JOINING)),
    };
    let places = Arc::new(Semaphore::new(shared.config().connections_most.max(1)));
    let mut connections = JoinSet::new();
    let mut phase = shared.phase();
    loop {
        tokio::select! {
            () = reached(&mut phase, Phase::Draining) => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let (shared, acceptor) = (shared.clone(), acceptor.clone());
                        connections.spawn(async move {
                            serve_connection(shared, acceptor, stream, from).await;
                            drop(place);
                        });
                    }
                    Err(_) => shared.turned_away(from, "too many connections"),
                },
                Err(error) => {
                    warn!(%error, "could not take a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    // Each connection sees the phase itself and says goodbye in bounded time.
    while connections.join_next().await.is_some() {}
}

/// How a connection begins: as a member's, or as that of somebody who wants to become one.
#[derive(Clone)]
struct Acceptor {
    members: Arc<ServerConfig>,
    joiners: Option<(Arc<ServerConfig>, Arc<dyn Joiner>)>,
    joining: Arc<Semaphore>,
}

/// Why a connection goes no further.
enum Unmet {
    /// Turned away, which has been logged.
    Silent,
    /// The same, after last words on this socket.
    Spoken(TcpStream),
}

impl Acceptor {
    /// TLS. Those who want to join are served to the end here.
    async fn accept(
        self,
        shared: &ServingShared,
        stream: TcpStream,
        from: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, Unmet> {
        let fallen = |(error, socket): (io::Error, TcpStream)| {
            shared.fell(from, &error);
            Unmet::Spoken(socket)
        };
        let Some((config, joiner)) = self.joiners else {
            return TlsAcceptor::from(self.members).accept(stream).into_fallible().await.map_err(fallen);
        };
        let mut hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
        let start = match (&mut hello).await {
            Ok(start) => start,
            Err(error) => {
                shared.fell(from, &error);
                return Err(hello.take_io().map_or(Unmet::Silent, Unmet::Spoken));
            }
        };
        let joins = start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == ALPN_JOIN));
        if !joins {
            return start.into_stream(self.members).into_fallible().await.map_err(fallen);
        }
        let Ok(_place) = self.joining.try_acquire() else {
            shared.turned_away(from, "too many want to join at the same time");
            return Err(Unmet::Silent);
        };
        let mut stream = start.into_stream(config).into_fallible().await.map_err(fallen)?;
        match take_in(&mut stream, joiner, from).await {
            Ok(()) => Err(Unmet::Spoken(stream.into_inner().0)),
            Err(error) => {
                shared.turned_away(from, &error.to_string());
                Err(Unmet::Silent)
            }
        }
    }
}

/// Hears one request to join and answers it.
async fn take_in(
    stream: &mut TlsStream<TcpStream>,
    joiner: Arc<dyn Joiner>,
    from: SocketAddr,
) -> io::Result<()> {
    let asked = read_message_up_to(stream, MAX_JOIN_BYTES).await?;
    let answer = match decode::<JoinRequest>(&asked) {
        // In a task of its own: a certificate that was begun is counted, whoever still waits.
        Ok(request) => tokio::spawn(joiner.join(request, from.to_string())).await.unwrap_or_else(|error| {
            error!(%error, "could not answer a joiner");
            JoinAnswer::Refused(JoinRefusal::Busy)
        }),
        Err(JoinMessageError::OtherVersion { .. }) => {
            JoinAnswer::Refused(JoinRefusal::OtherVersion { theirs: JOIN_VERSION })
        }
        Err(JoinMessageError::Malformed) => JoinAnswer::Refused(JoinRefusal::Malformed),
        Err(error @ JoinMessageError::NotBrickyard) => return Err(io::Error::other(error)),
    };
    write_message(stream, &encode(&answer).map_err(io::Error::other)?).await?;
    stream.shutdown().await
}

async fn serve_connection(
    shared: Arc<ServingShared>,
    acceptor: Acceptor,
    stream: TcpStream,
    from: SocketAddr,
) {
    let mut phase = shared.phase();
    let limit = shared.config().handshake_timeout;
    let met = tokio::select! {
        met = timeout(limit, meet(&shared, acceptor, stream, from)) => met,
        () = reached(&mut phase, Phase::Closed) => return,
    };
    match met {
        Ok(Ok((stream, peer))) => {
            let _counted = ConnectionCount::new(&shared);
            let why = drive(&shared, stream, peer.clone()).await;
            debug!(connection = peer.connection, why, "a connection ended");
        }
        // Turned away in time: being slow to hang up is no second offence.
        Ok(Err(Unmet::Spoken(socket))) => linger(socket).await,
        Ok(Err(Unmet::Silent)) => {}
        Err(_) => shared.turned_away(from, "no handshake in time"),
    }
}

/// TLS and handshake.
async fn meet(
    shared: &Arc<ServingShared>,
    acceptor: Acceptor,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<(TlsStream<TcpStream>, Arc<Peer>), Unmet> {
    let turned_away = |why: &dyn std::fmt::Display| shared.turned_away(from, &why.to_string());
    if let Err(error) = stream.set_nodelay(true) {
        turned_away(&error);
        return Err(Unmet::Silent);
    }
    let mut stream = acceptor.accept(shared, stream, from).await?;
    let certified = match peer_identity(stream.get_ref().1.peer_certificates()) {
        Ok(identity) => identity,
        Err(error) => {
            turned_away(&error);
            return Err(Unmet::Silent);
        }
    };
    let exchange = async {
        let hello = read_message(&mut stream).await?;
        let answer = shared.judge(&hello, &certified, &from.to_string());
        if let Some(answer) = &answer {
            write_message(&mut stream, &answer.encode(shared.version())).await?;
        }
        if !matches!(answer, Some(Answer::Welcome(_))) {
            stream.shutdown().await?;
        }
        io::Result::Ok(answer)
    };
    match exchange.await {
        Ok(Some(Answer::Welcome(_))) => Ok((stream, shared.new_peer(certified, from.to_string()))),
        Ok(_) => Err(Unmet::Spoken(stream.into_inner().0)),
        Err(error) => {
            turned_away(&error);
            Err(Unmet::Silent)
        }
    }
}

/// Waits a moment for the caller to hang up, so that our last words are not destroyed by the
/// reset that closing a socket with unread bytes causes.
async fn linger(mut socket: TcpStream) {
    let drain = async {
        let _ = socket.shutdown().await;
        let mut scratch = [0; 1024];
        let mut left: usize = 64 << 10;
        while let Ok(read @ 1..) = socket.read(&mut scratch).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(GOODBYE, drain).await;
}

/// Owns the connection until it ends; says why it did.
async fn drive(shared: &Arc<ServingShared>, stream: TlsStream<TcpStream>, peer: Arc<Peer>) -> String {
    let config = shared.config();
    let (reader, writer) = tokio::io::split(stream);
    let (replies, queue) = mpsc::channel(config.queue_frames.max(1));
    let alive = Liveness::new();
    let mut phase = shared.phase();
    let mut writing = std::pin::pin!(write_frames(writer, queue, &alive, config.keepalive));
    // Reading owns the sender of replies, beside the calls it began.
    let reading = read_requests(shared, reader, peer, replies, &alive);
    tokio::select! {
        ended = reading => match ended {
            Ok(()) => return "the peer closed it".to_owned(),
            Err(error) => return error.to_string(),
        },
        written = &mut writing => match written {
            Ok(()) => return "it is no longer needed".to_owned(),
            Err(error) => return error.to_string(),
        },
        () = alive.gone(config.idle_timeout) => {
            return format!("nothing was heard for {} ms", config.idle_timeout.as_millis());
        }
        () = reached(&mut phase, Phase::Closed) => {}
    }
    // Replies that are ready still leave; the peer may be gone, so only for a moment.
    let _ = timeout(GOODBYE, writing).await;
    "the service stopped".to_owned()
}

/// Begins the calls that arrive, as fast as the budget allows.
async fn read_requests<R: AsyncRead + Unpin>(
    shared: &Arc<ServingShared>,
    mut reader: R,
    peer: Arc<Peer>,
    replies: mpsc::Sender<Outgoing>,
    alive: &Liveness,
) -> io::Result<()> {
    let budget = Budget::new(shared.config());
    while let Some(head) = read_head(&mut reader, alive).await? {
        match head.kind {
            FrameKind::Request => {}
            FrameKind::Alive => continue,
            FrameKind::Reply | FrameKind::Declined | FrameKind::Lost => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the caller sent a reply"));
            }
        }
        let share = match budget.try_take(head.payload_bytes) {
            Some(share) => share,
            None => {
                alive.pause();
                let share = budget.take(head.payload_bytes).await;
                alive.resume();
                share
            }
        };
        let request = read_body(&mut reader, &head, alive).await?;
        let work = shared.begin();
        let (shared, peer, replies) = (shared.clone(), peer.clone(), replies.clone());
        tokio::spawn(async move {
            let (kind, frame) = match &work {
                None => (FrameKind::Declined, Frame::default()),
                Some(_) => match shared.run(peer, request).await {
                    Outcome::Reply(reply) => (FrameKind::Reply, reply),
                    Outcome::Lost => (FrameKind::Lost, Frame::default()),
                    Outcome::Stopped => return,
                },
            };
            // Fails when the caller is gone and nobody wants the reply.
            let _ = replies.send(Outgoing { kind, call: head.call, frame, stage: None, _work: work }).await;
            drop(share);
        });
    }
    Ok(())
}
