//! The service's end of TLS over TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use crate::frame::{Frame, FrameKind};
use crate::handshake::Answer;
use crate::net::Peer;
use crate::net::crypto::peer_identity;
use crate::net::serving::{Budget, ConnectionCount, GOODBYE, Outcome, Phase, ServingShared, reached};
use crate::net::stream::{
    Liveness, Outgoing, read_body, read_head, read_message, write_frames, write_message,
};

/// Connections the kernel keeps ready for us to accept.
const BACKLOG: i32 = 1024;
/// How long to wait after a failed accept, such as when there are no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

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
    let acceptor = TlsAcceptor::from(shared.context().crypto.server());
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

async fn serve_connection(
    shared: Arc<ServingShared>,
    acceptor: TlsAcceptor,
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
        Ok(Err(Some(socket))) => linger(socket).await,
        Ok(Err(None)) => {}
        Err(_) => shared.turned_away(from, "no handshake in time"),
    }
}

/// TLS and handshake. An error means that the caller was turned away, which has been logged;
/// it holds the socket if last words were said on it.
async fn meet(
    shared: &Arc<ServingShared>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<(TlsStream<TcpStream>, Arc<Peer>), Option<TcpStream>> {
    let turned_away = |why: &dyn std::fmt::Display| shared.turned_away(from, &why.to_string());
    if let Err(error) = stream.set_nodelay(true) {
        turned_away(&error);
        return Err(None);
    }
    let mut stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, socket)) => {
            turned_away(&error);
            return Err(Some(socket));
        }
    };
    let certified = match peer_identity(stream.get_ref().1.peer_certificates()) {
        Ok(identity) => identity,
        Err(error) => {
            turned_away(&error);
            return Err(None);
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
        Ok(_) => Err(Some(stream.into_inner().0)),
        Err(error) => {
            turned_away(&error);
            Err(None)
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
