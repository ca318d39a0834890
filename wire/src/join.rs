//! Joining: what a machine without a certificate says to get one, and the token that entitles it.
//!
//! ```text
//! token:      "by1-" and hexadecimal digits of:
//!             cluster id 16 | fingerprint of the authority 32 | secret 16 | check 4
//! both ways:  length u16 LE | magic "BRYJ" | version u16 LE | postcard of request or answer
//! ```
//!
//! The token lets both sides trust each other: the joiner knows the server by the fingerprint
//! before it has a certificate, and the server knows the joiner by the secret. The namespace
//! keeps only a hash of the secret. The joiner makes its own key; the private half never travels.
//!
//! 1. A token survives its text form, and a text with a digit wrong or missing is called
//!    damaged before anybody is asked (`tokens_round_trip_and_damage_is_noticed`).
//! 2. Secrets are in no debug output, so in no log (`secrets_are_not_shown`).
//! 3. Magic and version have the same place in every version; the bytes of version 1 never
//!    change (`the_layout_is_golden`).

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::handshake::Role;
use crate::id::{ClusterId, NodeId};

/// The version of what is said when joining.
///
/// | version | since | why |
/// |---|---|---|
/// | 1 | 0.1.0 | the first |
pub const JOIN_VERSION: u16 = 1;
/// Begins every message.
pub const JOIN_MAGIC: [u8; 4] = *b"BRYJ";
/// Longest message, in bytes: two certificates in text form and a little more.
pub const MAX_JOIN_BYTES: usize = 16 << 10;
/// Longest name of a machine that is told, in bytes.
pub const MAX_HOST_BYTES: usize = 255;

const TOKEN_PREFIX: &str = "by1-";
const TOKEN_BYTES: usize = 16 + 32 + 16 + CHECK_BYTES;
const CHECK_BYTES: usize = 4;

/// BLAKE3 of an authority's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate in its binary form.
    pub fn of(certificate: &[u8]) -> Fingerprint {
        Fingerprint(blake3::derive_key("brickyard 2026-11 fingerprint of an authority", certificate))
    }
}

/// What the namespace knows a token by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenHash(pub [u8; 32]);

/// What only the holder of a token knows.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 16]);

impl Secret {
    /// What the namespace keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(blake3::derive_key("brickyard 2026-11 secret of a join token", &self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// Entitles a machine to a certificate of one role in one cluster. Printed it is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// How the joiner knows a server of that cluster.
    pub authority: Fingerprint,
    /// What the namespace knows the joiner by.
    pub secret: Secret,
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("this is not a join token (those begin with {TOKEN_PREFIX}); make one with `brickyard token`")]
    NotToken,
    /// Digits are wrong, missing or too many.
    #[error("the join token is damaged: it was not copied completely, or was changed on the way")]
    Damaged,
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::derive_key("brickyard 2026-11 check of a join token", bytes);
    [hash[0], hash[1], hash[2], hash[3]]
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&check(&bytes));
        f.write_str(TOKEN_PREFIX)?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(TokenError::NotToken)?.as_bytes();
        if digits.len() != 2 * TOKEN_BYTES {
            return Err(TokenError::Damaged);
        }
        let mut bytes = [0; TOKEN_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or(TokenError::Damaged);
            // Two hexadecimal digits are at most 255.
            *byte = (nibble(pair[0])? * 16 + nibble(pair[1])?) as u8;
        }
        let (body, sum) = bytes.split_at(TOKEN_BYTES - CHECK_BYTES);
        if check(body) != *sum {
            return Err(TokenError::Damaged);
        }
        let part = |from: usize| -> [u8; 16] { std::array::from_fn(|i| body[from + i]) };
        Ok(Token {
            cluster: ClusterId(part(0)),
            authority: Fingerprint(std::array::from_fn(|i| body[16 + i])),
            secret: Secret(part(48)),
        })
    }
}

/// The public half of a joiner's key: a point of P-256, uncompressed, 65 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey(pub Vec<u8>);

impl PublicKey {
    /// Whether it has the form of one.
    pub fn is_well_formed(&self) -> bool {
        self.0.len() == 65 && self.0.first() == Some(&4)
    }

    /// The holder's name in the cluster. It follows from the key, so that a joiner who asks
    /// again after a lost answer is the same one.
    pub fn node(&self) -> NodeId {
        let hash = blake3::derive_key("brickyard 2026-11 node of a key", &self.0);
        NodeId(std::array::from_fn(|i| hash[i]))
    }
}

/// What a joiner asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// From its token.
    pub secret: Secret,
    /// What it wants to be; the token must be for that.
    pub role: Role,
    /// What is to be certified.
    pub key: PublicKey,
    /// The machine, for the log.
    pub host: String,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// It is a member of the cluster now.
    Granted {
        /// Its certificate, in text form.
        certificate: String,
        /// The authority's certificate, in text form.
        authority: String,
    },
    /// It is not.
    Refused(JoinRefusal),
}

/// Why a joiner is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// No such token was ever made, or it was forgotten long after it had ended.
    #[error("the cluster does not know this join token; make one with `brickyard token`")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired; make a new one with `brickyard token`")]
    Expired,
    /// It was used as often as it may be.
    #[error("the join token has been used already; make a new one with `brickyard token`")]
    UsedUp,
    /// It is for something else.
    #[error("the join token is for role {theirs}; make one for the right role with `brickyard token`")]
    OtherRole {
        /// The role it is for.
        theirs: Role,
    },
    /// The server speaks another version.
    #[error(
        "the cluster speaks version {theirs} of joining, this program {JOIN_VERSION}; upgrade the older one"
    )]
    OtherVersion {
        /// The server's version.
        theirs: u16,
    },
    /// The request makes no sense.
    #[error("the cluster did not understand the request to join")]
    Malformed,
    /// Not now.
    #[error("the cluster cannot take anybody in right now")]
    Busy,
}

/// Bytes that are no message of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinMessageError {
    /// The magic is missing.
    #[error("the peer does not speak Brickyard's protocol")]
    NotBrickyard,
    /// Of another version.
    #[error("the peer speaks version {theirs} of joining")]
    OtherVersion {
        /// Which.
        theirs: u16,
    },
    /// Right version, wrong bytes.
    #[error("a malformed message")]
    Malformed,
}

/// The bytes of a request or an answer, without their length.
///
/// # Errors
/// Never for the messages of this module; the encoder's signature allows it.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, JoinMessageError> {
    let mut out = JOIN_MAGIC.to_vec();
    out.extend_from_slice(&JOIN_VERSION.to_le_bytes());
    postcard::to_extend(message, out).map_err(|_| JoinMessageError::Malformed)
}

/// Reads a request or an answer.
///
/// # Errors
/// See [`JoinMessageError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JoinMessageError> {
    let rest = bytes.strip_prefix(&JOIN_MAGIC).ok_or(JoinMessageError::NotBrickyard)?;
    let (version, body) = rest.split_first_chunk::<2>().ok_or(JoinMessageError::Malformed)?;
    let theirs = u16::from_le_bytes(*version);
    if theirs != JOIN_VERSION {
        return Err(JoinMessageError::OtherVersion { theirs });
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(JoinMessageError::Malformed),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            cluster: ClusterId([0xc1; 16]),
            authority: Fingerprint([0xfa; 32]),
            secret: Secret([0x5e; 16]),
        }
    }

    /// Invariant 1.
    #[test]
    fn tokens_round_trip_and_damage_is_noticed() {
        let text = token().to_string();
        assert_eq!(text.len(), 4 + 2 * 68);
        assert_eq!(text.parse::<Token>().unwrap(), token());
        assert_eq!(format!(" {text}\n").parse::<Token>().unwrap(), token());
        assert_eq!("secret".parse::<Token>(), Err(TokenError::NotToken));
        for broken in [&text[..20], &text[..text.len() - 1], &format!("{text}00"), "by1-", "by1-ü"] {
            assert_eq!(broken.parse::<Token>(), Err(TokenError::Damaged), "{broken}");
        }
        for at in 4..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed.parse::<Token>(), Err(TokenError::Damaged), "{changed}");
        }
    }

    /// Invariant 2.
    #[test]
    fn secrets_are_not_shown() {
        let request = JoinRequest {
            secret: token().secret,
            role: Role::Brick,
            key: PublicKey(vec![4; 65]),
            host: "h".into(),
        };
        for shown in [format!("{:?}", token()), format!("{request:?}")] {
            assert!(!shown.contains("5e") && !shown.contains("94"), "{shown}");
        }
    }

    /// Invariant 3.
    #[test]
    fn the_layout_is_golden() {
        let request = JoinRequest {
            secret: Secret([0x5e; 16]),
            role: Role::Brick,
            key: PublicKey(vec![4, 9]),
            host: "h".into(),
        };
        let mut golden = b"BRYJ\x01\x00".to_vec();
        golden.extend([0x5e; 16]);
        golden.extend([2, 2, 4, 9, 1, b'h']);
        assert_eq!(encode(&request).unwrap(), golden);
        assert_eq!(decode::<JoinRequest>(&golden).unwrap(), request);

        let granted = JoinAnswer::Granted { certificate: "c".into(), authority: "a".into() };
        let answers: [(JoinAnswer, &[u8]); 4] = [
            (granted, b"BRYJ\x01\x00\x00\x01c\x01a"),
            (JoinAnswer::Refused(JoinRefusal::Unknown), b"BRYJ\x01\x00\x01\x00"),
            (
                JoinAnswer::Refused(JoinRefusal::OtherRole { theirs: Role::Client }),
                b"BRYJ\x01\x00\x01\x03\x03",
            ),
            (JoinAnswer::Refused(JoinRefusal::Busy), b"BRYJ\x01\x00\x01\x06"),
        ];
        for (answer, golden) in answers {
            assert_eq!(encode(&answer).unwrap(), golden);
            assert_eq!(decode::<JoinAnswer>(golden).unwrap(), answer);
        }
        assert_eq!(
            decode::<JoinAnswer>(b"BRYJ\x02\x00 of a later age"),
            Err(JoinMessageError::OtherVersion { theirs: 2 })
        );
        assert_eq!(decode::<JoinAnswer>(b"GET /"), Err(JoinMessageError::NotBrickyard));
    }

    proptest! {
        /// Arbitrary bytes are refused or understood, never a panic.
        #[test]
        fn arbitrary_bytes_are_judged(mut bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
            if ours {
                bytes.splice(0..0, *b"BRYJ\x01\x00");
            }
            let _ = decode::<JoinRequest>(&bytes);
            let _ = decode::<JoinAnswer>(&bytes);
        }

        /// And so are arbitrary texts.
        #[test]
        fn arbitrary_texts_are_no_tokens(text in "(by1-)?[ -~]{0,160}") {
            prop_assert!(text.parse::<Token>().is_err());
        }
    }
}
