//! QUIC: settings of both ends, and the caller's end. One stream carries one call.
//!
//! 1. A request whose sender goes away before its last byte is reset, never finished: the
//!    service runs a call only after the end of its stream
//!    (`a_request_cut_short_is_never_executed`).
//! 2. A restarted service is recognised by its callers at their next sign of life
//!    (`a_restarted_service_is_recognised_at_once`).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::crypto::HmacKey;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ReadError, RecvStream, SendStream, TokioRuntime, TransportConfig, VarInt, WriteError,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::frame::{Frame, FrameError, FrameKind, HEAD_BYTES, Head};
use crate::handshake::{Hello, Identity, Service};
use crate::net::Context;
use crate::net::config::NetConfig;
use crate::net::crypto::{Failure, peer_identity};
use crate::net::endpoint::Endpoint;
use crate::net::error::{Delivery, NetError};
use crate::net::memory::Decrement;
use crate::net::pki::CredentialError;
use crate::net::pool::judge_answer;
use crate::net::serving::kibibytes;
use crate::net::stream::{read_message, write_message};

/// Application error codes on streams and connections. They travel: add only at the end.
pub(crate) mod code {
    use quinn::VarInt;

    /// Nothing wrong: the connection is no longer needed, or the service has stopped.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// The call was not begun and will not be.
    pub(crate) const DECLINED: VarInt = VarInt::from_u32(1);
    /// The call was begun and its reply was lost in the service.
    pub(crate) const LOST: VarInt = VarInt::from_u32(2);
    /// The bytes made no sense.
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(3);
    /// The sender gave up in the middle.
    pub(crate) const ABANDONED: VarInt = VarInt::from_u32(4);
    /// The handshake ended in a refusal.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(5);
}

/// The least a QUIC packet must be able to carry.
const MIN_MTU_BYTES: u16 = 1200;
/// Ten packets of this size are the most that one send of the kernel takes.
const MAX_MTU_BYTES: u16 = 6550;

fn mtu(config: &NetConfig) -> u16 {
    config.quic_mtu_bytes.clamp(MIN_MTU_BYTES, MAX_MTU_BYTES)
}

/// How connections over QUIC behave, at both ends. `local` says that peers are on this
/// machine, where large packets need no probing.
pub(crate) fn transport(config: &NetConfig, local: bool) -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu(config));
    let idle_ms = u32::try_from(config.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let calls = u32::try_from(config.calls_in_progress).unwrap_or(u32::MAX).max(1);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(calls.min(1 << 16)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .keep_alive_interval(Some(config.keepalive))
        .send_window(config.quic_send_window_bytes)
        .receive_window(VarInt::from_u32(config.quic_receive_window_bytes))
        .initial_rtt(Duration::from_millis(5))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery));
    if local {
        transport.initial_mtu(mtu(config));
    }
    Arc::new(transport)
}

fn apply_mtu(endpoint: &mut EndpointConfig, config: &NetConfig) -> io::Result<()> {
    endpoint.max_udp_payload_size(mtu(config)).map_err(io::Error::other)?;
    Ok(())
}

/// Draws connection ids that say nothing about their life: a keyed hash of a count.
#[derive(Default)]
struct ConnectionIds {
    key: RandomState,
    drawn: u64,
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.drawn += 1;
        ConnectionId::new(&self.key.hash_one(self.drawn).to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The settings of a listening socket. Callers of an earlier life of the same service are
/// told at once that it has forgotten them.
pub(crate) fn listener_config(config: &NetConfig, reset_key: Arc<dyn HmacKey>) -> io::Result<EndpointConfig> {
    let mut endpoint = EndpointConfig::new(reset_key);
    // The library's default generator signs its ids with a secret of this life, and ids of
    // an earlier one would be ignored in place of being reset.
    endpoint.cid_generator(|| Box::<ConnectionIds>::default());
    apply_mtu(&mut endpoint, config)?;
    Ok(endpoint)
}

/// A socket with room for bursts.
pub(crate) fn bind(address: SocketAddr, config: &NetConfig) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    // The kernel grants less than asked for where its administrator says so; that costs
    // speed only.
    socket.set_recv_buffer_size(config.udp_buffer_bytes)?;
    socket.set_send_buffer_size(config.udp_buffer_bytes)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Who is at the other end, by its certificate.
pub(crate) fn certified_peer(connection: &Connection) -> Result<Identity, CredentialError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    peer_identity(chain.as_deref().map(Vec::as_slice))
}

/// The sockets from which this program calls, one for each family of addresses, opened when
/// first needed.
#[derive(Default)]
pub(crate) struct QuicDialer {
    endpoints: Mutex<[Option<quinn::Endpoint>; 2]>,
}

impl QuicDialer {
    fn endpoint(&self, to: SocketAddr, config: &NetConfig) -> io::Result<quinn::Endpoint> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let (slot, any): (_, SocketAddr) = match to {
            SocketAddr::V4(_) => (&mut endpoints[0], (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&mut endpoints[1], (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let mut settings = EndpointConfig::default();
        apply_mtu(&mut settings, config)?;
        let endpoint = quinn::Endpoint::new(settings, None, bind(any, config)?, Arc::new(TokioRuntime))?;
        Ok(slot.insert(endpoint).clone())
    }
}

/// What happened to a connection, for people.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "nothing was heard for too long".to_owned(),
        ConnectionError::ApplicationClosed(_) => "the peer closed it".to_owned(),
        ConnectionError::LocallyClosed => "it is no longer needed".to_owned(),
        ConnectionError::Reset => "the peer was started anew".to_owned(),
        other => other.to_string(),
    }
}

/// The TLS alert in a connection's end, if that is what ended it.
fn alert(error: &ConnectionError) -> Option<u8> {
    let ConnectionError::ConnectionClosed(close) = error else { return None };
    let code = u64::from(close.error_code);
    // QUIC carries TLS alerts as 0x100 plus the alert.
    (0x100..0x200).contains(&code).then_some((code & 0xff) as u8)
}

/// A caller's end of a connection.
pub(crate) struct QuicLink {
    to: Endpoint,
    connection: Connection,
    leaving: AtomicBool,
    in_flight: AtomicUsize,
    room: Semaphore,
    room_kibibytes: u32,
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.connection.close(code::DONE, b"");
    }
}

impl QuicLink {
    /// Connects and shakes hands. The caller bounds the time.
    pub(crate) async fn connect(
        context: &Context,
        address: SocketAddr,
        service: Service,
    ) -> Result<QuicLink, NetError> {
        let to = Endpoint::Quic(address);
        let unreachable =
            |error: &dyn std::fmt::Display| NetError::Unreachable { to, detail: error.to_string() };
        let (crypto, verdict) = context.crypto.client();
        let broken = |error: ConnectionError| match (alert(&error), &error) {
            (Some(alert), _) => context.crypto.explain(&to, &verdict, Failure::Alert(alert)),
            (None, ConnectionError::TransportError(inner)) => {
                context.crypto.explain(&to, &verdict, Failure::Other(inner.to_string()))
            }
            (None, _) => NetError::Unreachable { to, detail: describe(&error) },
        };
        let crypto = QuicClientConfig::try_from(crypto)
            .map_err(|error| NetError::Tls { to, detail: error.to_string() })?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(transport(&context.config, address.ip().is_loopback()));
        let connection = context
            .quic
            .endpoint(address, &context.config)
            .map_err(|error| unreachable(&error))?
            .connect_with(client, address, &context.crypto.server_name())
            .map_err(|error| unreachable(&error))?
            .await
            .map_err(broken)?;
        // From here on, leaving early closes the connection.
        let room_kibibytes = kibibytes(context.config.quic_receive_window_bytes as usize / 2);
        let link = QuicLink {
            to,
            connection,
            leaving: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            room: Semaphore::new(room_kibibytes as usize),
            room_kibibytes,
        };
        let hello = Hello { version: context.config.protocol_version, service, caller: context.identity };
        let exchange = async {
            let (mut send, mut receive) = link.connection.open_bi().await?;
            write_message(&mut send, &hello.encode()).await?;
            let _ = send.finish();
            read_message(&mut receive).await
        };
        let answer = match exchange.await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match link.connection.close_reason() {
                    Some(reason) => broken(reason),
                    None => unreachable(&error),
                });
            }
        };
        let certified = certified_peer(&link.connection)?;
        judge_answer(&to, &hello, &answer, Some(&certified))?;
        Ok(link)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.leaving.load(Ordering::Relaxed) && self.connection.close_reason().is_none()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) async fn call(&self, request: Frame, deadline: Instant) -> Result<Frame, NetError> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _count = Decrement(&self.in_flight);
        let delivered = AtomicBool::new(false);
        let delivery = || match delivered.load(Ordering::Relaxed) {
            true => Delivery::Sent,
            false => Delivery::NotSent,
        };
        let to = self.to;
        match timeout_at(deadline, self.exchange(request, &delivered)).await {
            Err(_) => Err(NetError::Deadline { to, delivery: delivery() }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Broken::Stream(code))) if code == code::DECLINED => {
                self.leaving.store(true, Ordering::Relaxed);
                Err(NetError::Stopping { to })
            }
            Ok(Err(Broken::Stream(code))) => {
                let detail = match code {
                    code::LOST => "the service lost the call".to_owned(),
                    code::MALFORMED => "the peer did not understand the request".to_owned(),
                    code => format!("the peer gave the call up (code {code})"),
                };
                Err(NetError::Closed { to, delivery: delivery(), detail })
            }
            Ok(Err(Broken::Connection(detail))) => Err(NetError::Closed { to, delivery: delivery(), detail }),
            Ok(Err(Broken::Malformed(detail))) => {
                Err(NetError::Protocol { to, delivery: delivery(), detail })
            }
        }
    }

    async fn exchange(&self, request: Frame, delivered: &AtomicBool) -> Result<Frame, Broken> {
        // Requests under way never fill the service's window: those that wait for its budget
        // would keep out the rest of those that have it.
        let share = kibibytes(request.len()).min(self.room_kibibytes);
        let _room = self
            .room
            .acquire_many(share)
            .await
            .map_err(|_| Broken::Connection("it was closed".to_owned()))?;
        let (send, mut receive) = self.connection.open_bi().await?;
        let mut sending = Sending(Some(send));
        match sending.frame(FrameKind::Request, &request).await {
            Ok(()) => {
                // Only the end of the stream makes the service begin.
                delivered.store(true, Ordering::Relaxed);
                sending.finish();
            }
            // The service turned the request away before its end, and says why on its side of
            // the stream or by this code.
            Err(WriteError::Stopped(code)) => return Err(Broken::Stream(code)),
            Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
            Err(error) => return Err(Broken::Connection(error.to_string())),
        }
        match receive_frame(&mut receive).await? {
            (FrameKind::Reply, reply) => Ok(reply),
            (kind, _) => Err(Broken::Malformed(format!("a {kind:?} in place of a reply"))),
        }
    }
}

/// Why a frame did not come or go over a stream.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The other end stopped or reset the stream with this code.
    Stream(VarInt),
    /// The connection ended.
    Connection(String),
    /// The bytes are no frame.
    Malformed(String),
}

impl From<ConnectionError> for Broken {
    fn from(error: ConnectionError) -> Self {
        Broken::Connection(describe(&error))
    }
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Broken::Stream(code),
            ReadError::ConnectionLost(error) => error.into(),
            other => Broken::Connection(other.to_string()),
        }
    }
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Broken::Malformed(error.to_string())
    }
}

/// The sending half of a stream; reset when dropped before its end, since dropping the bare
/// half would look like a proper end to the other side.
pub(crate) struct Sending(pub(crate) Option<SendStream>);

impl Sending {
    /// Sends one frame. The stream is still unfinished afterwards.
    pub(crate) async fn frame(&mut self, kind: FrameKind, frame: &Frame) -> Result<(), WriteError> {
        let Some(send) = &mut self.0 else { return Err(WriteError::ClosedStream) };
        let mut front = BytesMut::with_capacity(HEAD_BYTES + frame.header.len());
        front.extend_from_slice(&Head::of(kind, 0, frame).encode());
        front.extend_from_slice(&frame.header);
        send.write_all_chunks(&mut [front.freeze(), frame.payload.clone()]).await
    }

    /// Ends the stream properly.
    pub(crate) fn finish(&mut self) -> Option<SendStream> {
        let mut send = self.0.take()?;
        // Fails when the other end has stopped the stream, which reading will tell.
        let _ = send.finish();
        Some(send)
    }

    /// Ends the stream with a code.
    pub(crate) fn reset(&mut self, code: VarInt) {
        if let Some(mut send) = self.0.take() {
            // Fails when it has ended already.
            let _ = send.reset(code);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.reset(code::ABANDONED);
    }
}

/// Receives one frame and the end of the stream after it.
pub(crate) async fn receive_frame(receive: &mut RecvStream) -> Result<(FrameKind, Frame), Broken> {
    let head = receive_head(receive).await?;
    Ok((head.kind, receive_body(receive, &head).await?))
}

/// Receives the head of a frame.
pub(crate) async fn receive_head(receive: &mut RecvStream) -> Result<Head, Broken> {
    let mut head = [0; HEAD_BYTES];
    receive.read_exact(&mut head).await.map_err(|error| match error {
        quinn::ReadExactError::ReadError(error) => Broken::from(error),
        quinn::ReadExactError::FinishedEarly(_) => FrameError::WrongLength.into(),
    })?;
    Ok(Head::decode(&head)?)
}

/// Receives header, payload and the end of the stream.
pub(crate) async fn receive_body(receive: &mut RecvStream, head: &Head) -> Result<Frame, Broken> {
    let header = receive_part(receive, head.header_bytes).await?;
    let payload = receive_part(receive, head.payload_bytes).await?;
    match receive.read_chunk(1, true).await? {
        None => Ok(Frame { header, payload }),
        Some(_) => Err(FrameError::WrongLength.into()),
    }
}

/// Receives exactly that many bytes: pieces of a packet each, copied once into their place.
async fn receive_part(receive: &mut RecvStream, length: usize) -> Result<Bytes, Broken> {
    let mut part = BytesMut::new();
    while part.len() < length {
        let chunk = receive.read_chunk(length - part.len(), true).await?;
        let Some(chunk) = chunk else { return Err(FrameError::WrongLength.into()) };
        if chunk.bytes.len() == length {
            return Ok(chunk.bytes);
        }
        part.reserve(length - part.len());
        part.extend_from_slice(&chunk.bytes);
    }
    Ok(part.freeze())
}
