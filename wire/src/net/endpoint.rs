//! Where a service is reached, and by which transport.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ParseIdError;

/// An address with its transport, written `quic://127.0.0.1:7000`, `tls://[::1]:7000` or
/// `memory://7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// QUIC: sessions, metadata, heartbeats, nodes far away.
    Quic(SocketAddr),
    /// TLS over TCP: bulk data within the cluster.
    Tls(SocketAddr),
    /// A number in a [`MemoryHub`](crate::net::MemoryHub), within one process.
    Memory(u64),
}

impl Endpoint {
    /// The network address, if it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match *self {
            Endpoint::Quic(address) | Endpoint::Tls(address) => Some(address),
            Endpoint::Memory(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Quic(address) => write!(f, "quic://{address}"),
            Endpoint::Tls(address) => write!(f, "tls://{address}"),
            Endpoint::Memory(number) => write!(f, "memory://{number}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once("://") {
            Some(("quic", address)) => address.parse().ok().map(Endpoint::Quic),
            Some(("tls", address)) => address.parse().ok().map(Endpoint::Tls),
            Some(("memory", number)) => number.parse().ok().map(Endpoint::Memory),
            _ => None,
        };
        parsed.ok_or_else(|| ParseIdError {
            text: text.to_owned(),
            what: "endpoint like quic://127.0.0.1:7000",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Endpoints survive their text form; other texts are refused by name.
    #[test]
    fn endpoints_round_trip_as_text() {
        for text in ["quic://127.0.0.1:7000", "tls://[::1]:7000", "memory://7"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["127.0.0.1:7000", "quic://host:1", "memory://x", "http://127.0.0.1:1"] {
            let wrong = text.parse::<Endpoint>().unwrap_err();
            assert!(wrong.to_string().contains(text), "{wrong}");
        }
    }
}
