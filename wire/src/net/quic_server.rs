//! The service's end of QUIC.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{AsyncUdpSocket, Connection, Incoming, RecvStream, Runtime, SendStream, TokioRuntime};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::frame::FrameKind;
use crate::handshake::Answer;
use crate::net::Peer;
use crate::net::quic::{
    Broken, Sending, bind, certified_peer, code, listener_config, receive_body, receive_head, transport,
};
use crate::net::serving::{Budget, ConnectionCount, GOODBYE, Outcome, Phase, ServingShared, reached};
use crate::net::stream::{read_message, write_message};

/// How often to look whether the port is free after a stop.
const PORT_CHECK: Duration = Duration::from_millis(1);

/// Opens the listener and serves it in a task of its own.
pub(crate) fn listen(
    shared: Arc<ServingShared>,
    address: SocketAddr,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let config = shared.config();
    let crypto = QuicServerConfig::try_from(shared.context().crypto.server()).map_err(io::Error::other)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport(config, address.ip().is_loopback()));
    let socket = bind(address, config)?;
    let address = socket.local_addr()?;
    let settings = listener_config(config, shared.context().crypto.reset_key(address))?;
    let runtime = Arc::new(TokioRuntime);
    let socket = runtime.wrap_udp_socket(socket)?;
    let port = Arc::downgrade(&socket);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(settings, Some(server), socket, runtime)?;
    Ok((address, tokio::spawn(accept(shared, endpoint, port))))
}

/// Closes the endpoint with its owner, also when that is aborted.
struct Close(quinn::Endpoint);

impl Drop for Close {
    fn drop(&mut self) {
        self.0.close(code::DONE, b"the service has stopped");
    }
}

async fn accept(shared: Arc<ServingShared>, endpoint: quinn::Endpoint, port: Weak<dyn AsyncUdpSocket>) {
    let endpoint = Close(endpoint);
    let mut connections = JoinSet::new();
    let mut phase = shared.phase();
    loop {
        tokio::select! {
            () = reached(&mut phase, Phase::Draining) => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            incoming = endpoint.0.accept() => match incoming {
                Some(incoming) if connections.len() < shared.config().connections_most.max(1) => {
                    connections.spawn(serve_connection(shared.clone(), incoming));
                }
                Some(incoming) => {
                    shared.turned_away(incoming.remote_address(), "too many connections");
                    incoming.refuse();
                }
                None => break,
            },
        }
    }
    endpoint.0.set_server_config(None);
    // Each connection sees the phase itself and says goodbye.
    while connections.join_next().await.is_some() {}
    endpoint.0.close(code::DONE, b"the service has stopped");
    // Best effort: peers that miss the goodbye notice the silence.
    let _ = timeout(GOODBYE, endpoint.0.wait_idle()).await;
    drop(endpoint);
    // The library closes the socket in tasks of its own and tells nobody; but who has stopped
    // a service may want its port at once.
    let closed = async {
        while port.strong_count() > 0 {
            tokio::time::sleep(PORT_CHECK).await;
        }
    };
    if timeout(GOODBYE, closed).await.is_err() {
        warn!("the port of a stopped service is still held");
    }
}

async fn serve_connection(shared: Arc<ServingShared>, incoming: Incoming) {
    let from = incoming.remote_address();
    let limit = shared.config().handshake_timeout;
    let mut phase = shared.phase();
    let met = tokio::select! {
        met = timeout(limit, meet(&shared, incoming, from)) => met,
        () = reached(&mut phase, Phase::Closed) => return,
    };
    match met {
        Ok(Some((connection, peer))) => {
            let _counted = ConnectionCount::new(&shared);
            let number = peer.connection;
            let why = drive(&shared, connection, peer).await;
            debug!(connection = number, why, "a connection ended");
        }
        Ok(None) => {}
        Err(_) => shared.turned_away(from, "no handshake in time"),
    }
}

/// TLS and handshake. `None` when the caller was turned away, which has been logged.
async fn meet(
    shared: &Arc<ServingShared>,
    incoming: Incoming,
    from: SocketAddr,
) -> Option<(Connection, Arc<Peer>)> {
    let connected = async { incoming.accept()?.await };
    let connection = match connected.await {
        Ok(connection) => connection,
        Err(error) => {
            shared.turned_away(from, &error.to_string());
            return None;
        }
    };
    let certified = match certified_peer(&connection) {
        Ok(identity) => identity,
        Err(error) => {
            shared.turned_away(from, &error.to_string());
            return None;
        }
    };
    let exchange = async {
        let (mut send, mut receive) = connection.accept_bi().await?;
        let hello = read_message(&mut receive).await?;
        let answer = shared.judge(&hello, &certified, &from.to_string());
        if let Some(answer) = &answer {
            write_message(&mut send, &answer.encode(shared.version())).await?;
            let _ = send.finish();
            if matches!(answer, Answer::Refused(_)) {
                // Closing at once would overtake the answer.
                let _ = timeout(GOODBYE, send.stopped()).await;
            }
        }
        io::Result::Ok(answer)
    };
    match exchange.await {
        Ok(Some(Answer::Welcome(_))) => Some((connection, shared.new_peer(certified, from.to_string()))),
        Ok(_) => {
            connection.close(code::REFUSED, b"");
            None
        }
        Err(error) => {
            shared.turned_away(from, &error.to_string());
            connection.close(code::MALFORMED, b"");
            None
        }
    }
}

/// Begins the calls that arrive until the connection ends; says why it did.
async fn drive(shared: &Arc<ServingShared>, connection: Connection, peer: Arc<Peer>) -> String {
    let budget = Arc::new(Budget::new(shared.config()));
    let mut phase = shared.phase();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept_bi() => accepted,
            () = reached(&mut phase, Phase::Closed) => {
                connection.close(code::DONE, b"the service has stopped");
                return "the service stopped".to_owned();
            }
        };
        match accepted {
            Ok((send, receive)) => {
                let (shared, peer, budget) = (shared.clone(), peer.clone(), budget.clone());
                tokio::spawn(serve_call(shared, peer, budget, send, receive));
            }
            Err(error) => return error.to_string(),
        }
    }
}

async fn serve_call(
    shared: Arc<ServingShared>,
    peer: Arc<Peer>,
    budget: Arc<Budget>,
    send: SendStream,
    mut receive: RecvStream,
) {
    let mut sending = Sending(Some(send));
    let receiving = async {
        let head = receive_head(&mut receive).await?;
        if head.kind != FrameKind::Request {
            return Err(Broken::Malformed(format!("a {:?} in place of a request", head.kind)));
        }
        let share = match budget.try_take(head.payload_bytes) {
            Some(share) => share,
            None => budget.take(head.payload_bytes).await,
        };
        Ok((share, receive_body(&mut receive, &head).await?))
    };
    let (share, request) = match timeout(shared.config().request_timeout, receiving).await {
        Ok(Ok(received)) => received,
        Ok(Err(error)) => {
            if let Broken::Malformed(why) = error {
                debug!(connection = peer.connection, why, "a malformed request");
                // Fails when the stream has ended already.
                let _ = receive.stop(code::MALFORMED);
                sending.reset(code::MALFORMED);
            }
            return;
        }
        Err(_) => {
            debug!(connection = peer.connection, "a request did not arrive in time");
            let _ = receive.stop(code::DECLINED);
            sending.reset(code::DECLINED);
            return;
        }
    };
    let Some(work) = shared.begin() else {
        sending.reset(code::DECLINED);
        return;
    };
    let reply = match shared.run(peer, request).await {
        Outcome::Reply(reply) => reply,
        Outcome::Lost | Outcome::Stopped => {
            sending.reset(code::LOST);
            return;
        }
    };
    // Fails when the caller is gone and nobody wants the reply.
    if sending.frame(FrameKind::Reply, &reply).await.is_ok() {
        drop(share);
        if let Some(send) = sending.finish() {
            // The call counts as running until the caller has its reply, because closing the
            // connection would overtake it.
            let _ = timeout(GOODBYE, send.stopped()).await;
        }
    }
    drop(work);
}
