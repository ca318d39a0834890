//! Why a call over the net, or a listener, failed.

use crate::frame::FrameError;
use crate::handshake::Refusal;
use crate::id::ClusterId;
use crate::net::endpoint::Endpoint;
use crate::net::pki::CredentialError;

/// Whether the service may have begun a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Certainly not: the call can be made elsewhere without a second thought.
    NotSent,
    /// It may have been carried out, wholly or not at all, or still be at it.
    Sent,
}

/// Whose certificate is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This program's.
    Ours,
    /// The peer's.
    Theirs,
}

/// A call, a connection or a listener failed. One clear line each, for people.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// The peer answered the hello with a refusal. Trying again is no use.
    #[error("{to} refused the connection: {explanation}")]
    Refused {
        /// The peer.
        to: Endpoint,
        /// Its reason.
        refusal: Refusal,
        /// The reason with both sides named.
        explanation: String,
    },
    /// The peer's certificate is not of this cluster's authority.
    #[error(
        "the peer at {to} belongs to another cluster (its certificate was not signed by this \
         cluster's authority{}; this is cluster {ours})",
        theirs.map(|id| format!(" but says cluster {id}")).unwrap_or_default()
    )]
    OtherCluster {
        /// The peer.
        to: Endpoint,
        /// This program's cluster.
        ours: ClusterId,
        /// What the peer's certificate says, unproven, if it says anything.
        theirs: Option<ClusterId>,
    },
    /// A certificate has run out (or a clock is wrong by years).
    #[error("{} certificate has expired or is not valid yet, connecting to {to}; \
             compare both clocks; if they agree, issue a new credential",
        match whose { Whose::Ours => "this program's", Whose::Theirs => "the peer's" })]
    Expired {
        /// The peer.
        to: Endpoint,
        /// Whose certificate.
        whose: Whose,
    },
    /// The peer holds a credential of this cluster, for another role.
    #[error("the peer at {to} holds a credential of role {role}, which may not serve this")]
    Impostor {
        /// The peer.
        to: Endpoint,
        /// The role its certificate says.
        role: crate::handshake::Role,
    },
    /// TLS failed for another reason, such as a peer that wants no certificate of ours.
    #[error("no secure connection to {to}: {detail}")]
    Tls {
        /// The peer.
        to: Endpoint,
        /// What TLS says.
        detail: String,
    },
    /// Nobody answers at the address.
    #[error("{to} can't be reached: {detail}")]
    Unreachable {
        /// The peer.
        to: Endpoint,
        /// What the system says.
        detail: String,
    },
    /// The deadline passed first.
    #[error("no answer from {to} within the deadline")]
    Deadline {
        /// The peer.
        to: Endpoint,
        /// Whether the call may have been begun.
        delivery: Delivery,
    },
    /// The connection broke while the call was under way.
    #[error("the connection to {to} was lost: {detail}")]
    Closed {
        /// The peer.
        to: Endpoint,
        /// Whether the call may have been begun.
        delivery: Delivery,
        /// What happened.
        detail: String,
    },
    /// The service is stopping and declined the call.
    #[error("the service at {to} is stopping")]
    Stopping {
        /// The peer.
        to: Endpoint,
    },
    /// The request is larger than a frame may be.
    #[error("the request can't travel: {0}")]
    TooLarge(FrameError),
    /// The peer's bytes make no sense.
    #[error("{to} sent what is not understood: {detail}")]
    Protocol {
        /// The peer.
        to: Endpoint,
        /// Whether a call may have been begun.
        delivery: Delivery,
        /// What was wrong.
        detail: String,
    },
    /// Another listener has the address.
    #[error("{listen} is in use by another program or service; choose another port or stop it")]
    AddressInUse {
        /// The address.
        listen: Endpoint,
    },
    /// The address can't be listened at.
    #[error("can't listen at {listen}: {detail}")]
    Listen {
        /// The address.
        listen: Endpoint,
        /// What the system says.
        detail: String,
    },
    /// The credential can't be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl NetError {
    /// Whether the service may have begun the call.
    pub fn delivery(&self) -> Delivery {
        match self {
            NetError::Deadline { delivery, .. }
            | NetError::Closed { delivery, .. }
            | NetError::Protocol { delivery, .. } => *delivery,
            _ => Delivery::NotSent,
        }
    }

    /// Whether the same call may succeed in a moment; otherwise something has to be mended.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            NetError::Unreachable { .. }
                | NetError::Deadline { .. }
                | NetError::Closed { .. }
                | NetError::Stopping { .. }
        )
    }
}
