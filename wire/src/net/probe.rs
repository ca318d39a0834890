//! Whether anybody listens at an address, asked without the pool: a remembered failure or a
//! connection that is still open would be yesterday's answer.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::endpoint::Endpoint;
use crate::net::{Context, Net};

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// Somebody listens.
    Listens,
    /// The machine says that nobody listens there.
    Refused,
    /// No answer in time, or the transport cannot tell.
    Unknown,
}

impl Net {
    /// Connects once, without a handshake, and hangs up.
    pub async fn probe(&self, to: &Endpoint, within: Duration) -> Probed {
        let context: &Context = &self.inner.context;
        match *to {
            Endpoint::Memory(number) if context.hub.listens(number) => Probed::Listens,
            Endpoint::Memory(_) => Probed::Refused,
            Endpoint::Tls(address) => match timeout(within, TcpStream::connect(address)).await {
                Ok(Ok(_)) => Probed::Listens,
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Probed::Refused,
                Ok(Err(_)) | Err(_) => Probed::Unknown,
            },
            // A datagram to a closed port is answered by ICMP, which the socket does not show.
            Endpoint::Quic(_) => Probed::Unknown,
        }
    }
}
