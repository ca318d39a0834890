//! The first words on a connection: who calls, for which service, in which version.
//!
//! ```text
//! both ways:  length u16 LE | magic "BRYD" | version u16 LE | the rest, by version
//! hello:      postcard of cluster, service, node, role
//! answer:     postcard of Welcome or Refusal
//! ```
//!
//! 1. Magic and version have the same place in every version, so that two programs of
//!    different versions can always say so to each other (`another_version_is_told_apart`).
//! 2. The bytes of version 1 never change (`the_layout_is_golden`).
//! 3. A hello that says another node, role or cluster than the caller's certificate is
//!    refused (`a_hello_must_say_what_the_certificate_says`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, NodeId, ParseIdError};

/// The version of everything that travels. A peer of another one is refused.
///
/// | version | since | why |
/// |---|---|---|
/// | 1 | 0.1.0 | the first |
pub const PROTOCOL_VERSION: u16 = 1;
/// Begins every hello and every answer.
pub const MAGIC: [u8; 4] = *b"BRYD";
/// Longest hello or answer, in bytes.
pub const MAX_HANDSHAKE_BYTES: usize = 512;

const PREFIX_BYTES: usize = MAGIC.len() + 2;

/// What a listener offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Service {
    /// Names, metadata, the cluster map.
    Namespace,
    /// Chunks.
    Brick,
}

impl Service {
    /// Whether a holder of this role may answer for this service.
    pub fn may_be_served_by(self, role: Role) -> bool {
        match self {
            Service::Namespace => matches!(role, Role::Namespace | Role::Admin),
            Service::Brick => matches!(role, Role::Brick | Role::Admin),
        }
    }

    /// Whether a holder of this role may call this service at all.
    pub fn may_be_called_by(self, role: Role) -> bool {
        match self {
            Service::Namespace => true,
            Service::Brick => role != Role::Agent,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Service::Namespace => "namespace",
            Service::Brick => "brick",
        })
    }
}

/// What the holder of a certificate is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The cluster's owner: may call and serve everything.
    Admin,
    /// A member of the metadata service.
    Namespace,
    /// A server of bricks.
    Brick,
    /// A mount.
    Client,
    /// A compute node.
    Agent,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [Role::Admin, Role::Namespace, Role::Brick, Role::Client, Role::Agent];

    /// The word for it in certificates and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Namespace => "namespace",
            Role::Brick => "brick",
            Role::Client => "client",
            Role::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| ParseIdError { text: text.to_owned(), what: "role" })
    }
}

/// What a certificate says about its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The holder.
    pub node: NodeId,
    /// What the holder may be.
    pub role: Role,
}

/// What the caller says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The caller's protocol version.
    pub version: u16,
    /// The service it wants.
    pub service: Service,
    /// Who it is; must be what its certificate says.
    pub caller: Identity,
}

/// Why a caller is turned away. "Theirs" is what the refusing side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The server belongs to another cluster.
    OtherCluster {
        /// The server's cluster.
        theirs: ClusterId,
    },
    /// The server speaks another version.
    OtherVersion {
        /// The server's version.
        theirs: u16,
    },
    /// The server at that address is for something else.
    WrongService {
        /// What it is for.
        theirs: Service,
    },
    /// The caller's role may not call this service, or its hello contradicts its certificate.
    Forbidden,
}

impl Refusal {
    /// One line for people that names both sides; `mine` is what the refused caller had said.
    pub fn explain(&self, mine: &Hello) -> String {
        match self {
            Refusal::OtherCluster { theirs } => {
                format!("it belongs to cluster {theirs}, and this program to cluster {}", mine.caller.cluster)
            }
            Refusal::OtherVersion { theirs } => format!(
                "it speaks protocol version {theirs}, and this program version {}; \
                 upgrade the older one",
                mine.version
            ),
            Refusal::WrongService { theirs } => format!(
                "it serves the {theirs} service, and the {} service was asked for; \
                 check the address",
                mine.service
            ),
            Refusal::Forbidden => {
                format!("a credential of role {} may not call the {} service", mine.caller.role, mine.service)
            }
        }
    }
}

/// What the server says after a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Calls may begin.
    Welcome(Identity),
    /// The connection ends here.
    Refused(Refusal),
}

/// Bytes that are no handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The magic is missing: the peer is something else.
    #[error("the peer does not speak Brickyard's protocol")]
    NotBrickyard,
    /// The message is of another version; nothing more of it can be read.
    #[error("the peer speaks protocol version {theirs}")]
    OtherVersion {
        /// The version of the message.
        theirs: u16,
    },
    /// Right version, wrong bytes.
    #[error("a malformed handshake")]
    Malformed,
}

#[derive(Serialize, Deserialize)]
struct HelloBody {
    cluster: ClusterId,
    service: Service,
    node: NodeId,
    role: Role,
}

#[derive(Serialize, Deserialize)]
enum AnswerBody {
    Welcome(Identity),
    Refused(Refusal),
}

fn encode(version: u16, body: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + 64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&version.to_le_bytes());
    // Encoding plain numbers into a growing vector cannot fail; were it to, the peer would
    // find the message malformed.
    match postcard::to_extend(body, out) {
        Ok(out) => out,
        Err(_) => MAGIC.to_vec(),
    }
}

/// Splits a message into version and body.
fn prefix(bytes: &[u8]) -> Result<(u16, &[u8]), HandshakeError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(HandshakeError::NotBrickyard)?;
    let (version, body) = rest.split_first_chunk::<2>().ok_or(HandshakeError::Malformed)?;
    Ok((u16::from_le_bytes(*version), body))
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], version: u16) -> Result<T, HandshakeError> {
    let (theirs, body) = prefix(bytes)?;
    if theirs != version {
        return Err(HandshakeError::OtherVersion { theirs });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(HandshakeError::Malformed),
    }
}

impl Hello {
    /// The bytes that travel, without their length.
    pub fn encode(&self) -> Vec<u8> {
        let Identity { cluster, node, role } = self.caller;
        encode(self.version, &HelloBody { cluster, service: self.service, node, role })
    }

    /// Reads a hello in `version`.
    pub fn decode(bytes: &[u8], version: u16) -> Result<Hello, HandshakeError> {
        let HelloBody { cluster, service, node, role } = decode(bytes, version)?;
        Ok(Hello { version, service, caller: Identity { cluster, node, role } })
    }
}

impl Answer {
    /// The bytes that travel, without their length, said in `version`.
    pub fn encode(&self, version: u16) -> Vec<u8> {
        encode(
            version,
            &match *self {
                Answer::Welcome(identity) => AnswerBody::Welcome(identity),
                Answer::Refused(refusal) => AnswerBody::Refused(refusal),
            },
        )
    }

    /// Reads an answer in `version`. An answer in another version is a refusal for that
    /// reason, whatever else it says.
    pub fn decode(bytes: &[u8], version: u16) -> Result<Answer, HandshakeError> {
        match decode(bytes, version) {
            Ok(AnswerBody::Welcome(identity)) => Ok(Answer::Welcome(identity)),
            Ok(AnswerBody::Refused(refusal)) => Ok(Answer::Refused(refusal)),
            Err(HandshakeError::OtherVersion { theirs }) => {
                Ok(Answer::Refused(Refusal::OtherVersion { theirs }))
            }
            Err(error) => Err(error),
        }
    }
}

/// A server's side of the handshake.
#[derive(Debug, Clone, Copy)]
pub struct Doorkeeper {
    /// The version this server speaks.
    pub version: u16,
    /// Who it is.
    pub identity: Identity,
    /// What it serves.
    pub service: Service,
}

impl Doorkeeper {
    /// Judges a hello. `certified` is what the caller's certificate says. Bytes that are no
    /// hello at all are an error; everything else gets an answer, and the second value says
    /// for the log why it was a refusal.
    pub fn judge(&self, bytes: &[u8], certified: &Identity) -> Result<Answer, HandshakeError> {
        let hello = match Hello::decode(bytes, self.version) {
            Ok(hello) => hello,
            Err(HandshakeError::OtherVersion { .. }) => {
                return Ok(Answer::Refused(Refusal::OtherVersion { theirs: self.version }));
            }
            Err(error) => return Err(error),
        };
        let refusal = if hello.caller.cluster != self.identity.cluster {
            Refusal::OtherCluster { theirs: self.identity.cluster }
        } else if hello.service != self.service {
            Refusal::WrongService { theirs: self.service }
        } else if hello.caller != *certified || !self.service.may_be_called_by(certified.role) {
            Refusal::Forbidden
        } else {
            return Ok(Answer::Welcome(self.identity));
        };
        Ok(Answer::Refused(refusal))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(role: Role) -> Identity {
        Identity { cluster: ClusterId([0xc1; 16]), node: NodeId([0x0d; 16]), role }
    }

    fn hello() -> Hello {
        Hello { version: PROTOCOL_VERSION, service: Service::Brick, caller: identity(Role::Client) }
    }

    fn doorkeeper() -> Doorkeeper {
        Doorkeeper { version: PROTOCOL_VERSION, identity: identity(Role::Brick), service: Service::Brick }
    }

    /// The bytes of hello and answers are those of version 1, for good.
    #[test]
    fn the_layout_is_golden() {
        let mut golden = b"BRYD\x01\x00".to_vec();
        golden.extend([0xc1; 16]);
        golden.push(1);
        golden.extend([0x0d; 16]);
        golden.push(3);
        assert_eq!(hello().encode(), golden);
        assert_eq!(Hello::decode(&golden, 1).unwrap(), hello());

        let mut golden = b"BRYD\x01\x00\x00".to_vec();
        golden.extend([0xc1; 16]);
        golden.extend([0x0d; 16]);
        golden.push(2);
        let welcome = Answer::Welcome(identity(Role::Brick));
        assert_eq!(welcome.encode(1), golden);
        assert_eq!(Answer::decode(&golden, 1).unwrap(), welcome);

        let refusals: [(Refusal, &[u8]); 3] = [
            (Refusal::OtherVersion { theirs: 300 }, b"BRYD\x01\x00\x01\x01\xac\x02"),
            (Refusal::WrongService { theirs: Service::Brick }, b"BRYD\x01\x00\x01\x02\x01"),
            (Refusal::Forbidden, b"BRYD\x01\x00\x01\x03"),
        ];
        for (refusal, golden) in refusals {
            assert_eq!(Answer::Refused(refusal).encode(1), golden);
            assert_eq!(Answer::decode(golden, 1).unwrap(), Answer::Refused(refusal));
        }
    }

    /// Programs of two versions learn each other's, whatever follows the prefix.
    #[test]
    fn another_version_is_told_apart() {
        let newer = Hello { version: 2, ..hello() };
        let certified = identity(Role::Client);
        let answer = doorkeeper().judge(&newer.encode(), &certified).unwrap();
        assert_eq!(answer, Answer::Refused(Refusal::OtherVersion { theirs: 1 }));
        let heard = Answer::decode(b"BRYD\x07\x00 of a later age", 1).unwrap();
        assert_eq!(heard, Answer::Refused(Refusal::OtherVersion { theirs: 7 }));
        let Answer::Refused(refusal) = heard else { panic!("refused above") };
        assert_eq!(
            refusal.explain(&hello()),
            "it speaks protocol version 7, and this program version 1; upgrade the older one"
        );
    }

    /// The doorkeeper lets in whom the certificate names, and says why not otherwise.
    #[test]
    fn a_hello_must_say_what_the_certificate_says() {
        let keeper = doorkeeper();
        let judge = |hello: Hello, role| keeper.judge(&hello.encode(), &identity(role)).unwrap();
        assert_eq!(judge(hello(), Role::Client), Answer::Welcome(keeper.identity));
        let mut lie = hello();
        lie.caller.role = Role::Admin;
        assert_eq!(judge(lie, Role::Client), Answer::Refused(Refusal::Forbidden));
        let mut agent = hello();
        agent.caller.role = Role::Agent;
        assert_eq!(judge(agent, Role::Agent), Answer::Refused(Refusal::Forbidden));
        let lost = Hello { service: Service::Namespace, ..hello() };
        let wrong = Refusal::WrongService { theirs: Service::Brick };
        assert_eq!(judge(lost, Role::Client), Answer::Refused(wrong));
        let mut stranger = hello();
        stranger.caller.cluster = ClusterId([2; 16]);
        let other = Refusal::OtherCluster { theirs: keeper.identity.cluster };
        assert_eq!(judge(stranger, Role::Client), Answer::Refused(other));
        assert!(other.explain(&stranger).contains("c1c1c1"));
        assert!(other.explain(&stranger).contains("020202"));
        assert_eq!(
            keeper.judge(b"GET / HTTP/1.1", &identity(Role::Client)),
            Err(HandshakeError::NotBrickyard)
        );
    }

    proptest! {
        /// Arbitrary bytes are refused or understood, never a panic.
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..80), magic: bool) {
            let mut bytes = bytes;
            if magic {
                bytes.splice(0..0, *b"BRYD\x01\x00");
            }
            let _ = doorkeeper().judge(&bytes, &identity(Role::Client));
            let _ = Answer::decode(&bytes, PROTOCOL_VERSION);
        }
    }
}
