//! The joiner's end: from a token to a credential.
//!
//! 1. Nothing secret is said before the server has proven to be of the token's cluster: its
//!    certificate must be signed by the authority whose fingerprint the token carries
//!    (`a_token_of_another_cluster_is_refused_by_name`).
//! 2. Asking again with the same key and token, after a lost answer, is the same request
//!    (`a_lost_answer_costs_no_second_use` in the namespace's tests).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::handshake::Role;
use crate::id::ClusterId;
use crate::join::{
    JoinAnswer, JoinMessageError, JoinRefusal, JoinRequest, MAX_HOST_BYTES, MAX_JOIN_BYTES, Token, decode,
    encode,
};
use crate::net::BoxFuture;
use crate::net::crypto::{Failure, JoinTrust, peer_identity};
use crate::net::endpoint::Endpoint;
use crate::net::pki::{Credential, CredentialError, JoinKey, cluster_name};
use crate::net::stream::{read_message_up_to, write_message};
use crate::net::tls::tls_failure;

/// Longest time for one server to answer a joiner.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Decides who is taken in.
pub trait Joiner: Send + Sync + 'static {
    /// Answers one request. Runs to its end even when the joiner is gone. `from` is where it
    /// comes from, for the log, in which the request's secret must not appear.
    fn join(self: Arc<Self>, request: JoinRequest, from: String) -> BoxFuture<'static, JoinAnswer>;
}

/// Joining failed. One clear line each.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JoinError {
    /// The cluster said no.
    #[error("{0}")]
    Refused(JoinRefusal),
    /// The server is of another cluster than the token.
    #[error(
        "the join token is for cluster {token}, and {to} belongs to {}",
        theirs.map_or("another cluster".to_owned(), |id| format!("cluster {id}"))
    )]
    OtherCluster {
        /// The server.
        to: Endpoint,
        /// The token's cluster.
        token: ClusterId,
        /// What the server's certificate says, unproven, if it says anything.
        theirs: Option<ClusterId>,
    },
    /// The server is no member of the namespace.
    #[error(
        "{to} takes nobody in: give the address of the namespace (what `brickyard init --listen` was given)"
    )]
    NotNamespace {
        /// The server.
        to: Endpoint,
    },
    /// Nobody answered.
    #[error("{to} can't be reached: {detail}")]
    Unreachable {
        /// The server.
        to: Endpoint,
        /// What happened.
        detail: String,
    },
    /// Joining goes over TLS only, and an address is needed.
    #[error("give the address of the namespace as HOST:PORT")]
    NoAddress,
    /// What was received can't be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl JoinError {
    /// Whether asking another member, or the same one later, may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, JoinError::Unreachable { .. } | JoinError::Refused(JoinRefusal::Busy))
    }
}

/// Asks the members of the namespace, one after the other, for a credential. It says where they are.
///
/// # Errors
/// What the first one said that answered, or why the last one did not. With an error that is
/// [transient](JoinError::is_transient) the same may be asked again.
pub async fn join(
    to: &[SocketAddr],
    token: &Token,
    role: Role,
    key: &JoinKey,
    host: &str,
) -> Result<Credential, JoinError> {
    let mut last = JoinError::NoAddress;
    for address in to {
        let endpoint = Endpoint::Tls(*address);
        let asked = timeout(JOIN_TIMEOUT, ask(*address, token, role, key, host)).await.unwrap_or_else(|_| {
            let detail = format!("no answer in {} s", JOIN_TIMEOUT.as_secs());
            Err(JoinError::Unreachable { to: endpoint, detail })
        });
        match asked {
            Ok(credential) => {
                return Ok(credential.with_namespaces(to.iter().copied().map(Endpoint::Tls).collect()));
            }
            Err(error) if error.is_transient() => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn ask(
    address: SocketAddr,
    token: &Token,
    role: Role,
    key: &JoinKey,
    host: &str,
) -> Result<Credential, JoinError> {
    let to = Endpoint::Tls(address);
    let unreachable = |detail: String| JoinError::Unreachable { to, detail };
    let tcp = TcpStream::connect(address).await.map_err(|error| unreachable(error.to_string()))?;
    let trust = JoinTrust::new(token);
    let name = ServerName::try_from(cluster_name(token.cluster))
        .map_err(|error| CredentialError::Crypto(error.to_string()))?;
    let connector = TlsConnector::from(trust.config()?);
    let mut stream = connector.connect(name, tcp).await.map_err(|error| {
        if let Some(theirs) = trust.other_authority() {
            return JoinError::OtherCluster { to, token: token.cluster, theirs };
        }
        match tls_failure(&error) {
            // 120: it does not speak of joining. 116: it wants a certificate.
            Some(Failure::Alert(120 | 116)) => JoinError::NotNamespace { to },
            Some(Failure::Alert(alert)) => unreachable(format!("it hung up (alert {alert})")),
            Some(Failure::Other(detail)) => unreachable(detail),
            None => unreachable(error.to_string()),
        }
    })?;
    let identity = peer_identity(stream.get_ref().1.peer_certificates())?;
    if identity.cluster != token.cluster {
        let theirs = Some(identity.cluster);
        return Err(JoinError::OtherCluster { to, token: token.cluster, theirs });
    }
    if !matches!(identity.role, Role::Namespace | Role::Admin) {
        return Err(JoinError::NotNamespace { to });
    }
    let fits = host.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_HOST_BYTES);
    let host = host[..fits.last().unwrap_or(0)].to_owned();
    let request = JoinRequest { secret: token.secret, role, key: key.public(), host };
    let malformed = |error: JoinMessageError| unreachable(error.to_string());
    let exchange = async {
        write_message(&mut stream, &encode(&request).map_err(io::Error::other)?).await?;
        read_message_up_to(&mut stream, MAX_JOIN_BYTES).await
    };
    let answer = exchange.await.map_err(|error| unreachable(error.to_string()))?;
    match decode::<JoinAnswer>(&answer) {
        Ok(JoinAnswer::Granted { certificate, authority }) => {
            let credential = key.credential(&certificate, &authority, token.authority)?;
            let granted = credential.identity();
            if granted.role != role || granted.cluster != token.cluster {
                return Err(malformed(JoinMessageError::Malformed));
            }
            Ok(credential)
        }
        Ok(JoinAnswer::Refused(refusal)) => Err(JoinError::Refused(refusal)),
        Err(JoinMessageError::OtherVersion { theirs }) => {
            Err(JoinError::Refused(JoinRefusal::OtherVersion { theirs }))
        }
        Err(error) => Err(malformed(error)),
    }
}
