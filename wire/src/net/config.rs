//! Every knob of the transports.

use std::time::Duration;

use crate::handshake::PROTOCOL_VERSION;

/// Knobs of a [`Net`](crate::net::Net); the defaults are right for a cluster in one place.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Longest time to connect, certificates and handshake included. Default 3 s.
    pub connect_timeout: Duration,
    /// Longest time a caller may take for its part of the handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// How often a sign of life is sent on a silent connection. Default 1 s.
    pub keepalive: Duration,
    /// A connection on which nothing was heard for this long is given up. At least twice
    /// `keepalive`. Default 5 s.
    pub idle_timeout: Duration,
    /// How long to wait before connecting again after the first failure, doubling with each;
    /// calls in between fail at once. Default 20 ms.
    pub backoff_first: Duration,
    /// Longest such wait. Default 500 ms.
    pub backoff_most: Duration,
    /// Connections per peer and service over TLS: one carries at most what one core can
    /// encrypt. The second is opened when the first is in use. 1 to 16, default 2.
    pub tls_connections: usize,
    /// Calls in progress that a service takes from one connection; it reads no further
    /// ones until one of them ends. Default 1024.
    pub calls_in_progress: usize,
    /// Payload bytes of requests in progress that a service takes from one connection. At
    /// least one largest payload. Default 32 MiB.
    pub payload_in_progress_bytes: usize,
    /// Frames that wait for their turn on one connection before callers wait themselves.
    /// Default 64.
    pub queue_frames: usize,
    /// Connections one listener holds; more are turned away. Default 4096.
    pub connections_most: usize,
    /// Most bytes of a UDP payload over QUIC. At most 6550: ten of them are one batch of the
    /// kernel's segmentation, which ends at 64 KiB; larger ones fail and read as a black hole
    /// (measured). Links with less are found out by probing. Default 6500.
    pub quic_mtu_bytes: u16,
    /// Send and receive buffer of QUIC's sockets: the kernel's default of 208 KiB loses
    /// packets even on loopback (measured 0.6 %). Default 4 MiB.
    pub udp_buffer_bytes: usize,
    /// Bytes in flight that one QUIC connection keeps for sending again. Default 4 MiB.
    pub quic_send_window_bytes: u64,
    /// Bytes that one QUIC connection may have in flight towards us. Default 16 MiB.
    pub quic_receive_window_bytes: u32,
    /// Longest time a caller may take to send one request over QUIC. Default 30 s.
    pub request_timeout: Duration,
    /// What this program says its version is. Only tests change it.
    pub protocol_version: u16,
}

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            backoff_first: Duration::from_millis(20),
            backoff_most: Duration::from_millis(500),
            tls_connections: 2,
            calls_in_progress: 1024,
            payload_in_progress_bytes: 32 << 20,
            queue_frames: 64,
            connections_most: 4096,
            quic_mtu_bytes: 6500,
            udp_buffer_bytes: 4 << 20,
            quic_send_window_bytes: 4 << 20,
            quic_receive_window_bytes: 16 << 20,
            request_timeout: Duration::from_secs(30),
            protocol_version: PROTOCOL_VERSION,
        }
    }
}
