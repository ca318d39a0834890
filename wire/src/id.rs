//! Identifiers. Every id is a newtype: a chain is never handed where a brick is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct ParseIdError {
    /// The text as given.
    pub text: String,
    /// What was expected, for people.
    pub what: &'static str,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $what:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| ParseIdError {
                    text: text.to_owned(),
                    what: $what,
                })
            }
        }
    };
}

number_id!(
    /// An inode number: never reused, equal to the FUSE node id.
    Ino(u64), "inode number"
);
impl Ino {
    /// The root directory; FUSE fixes its node id at 1.
    pub const ROOT: Ino = Ino(1);
}

number_id!(
    /// Who holds locks, within a session: what the kernel calls a lock owner.
    LockOwner(u64), "lock owner"
);
number_id!(
    /// An open file, within a session: locks that were taken through it die with it.
    LockHandle(u64), "open file"
);
number_id!(
    /// Place of an entry in the change journal: grows by one with each, is the same on all members, and is given once.
    JournalIndex(u64), "index of the change journal"
);
number_id!(
    /// Counts grants of locks; a later grant has a higher one. What a program may pass on as a fencing token.
    LockGeneration(u64), "lock generation"
);

number_id!(
    /// A brick: one directory or disk that holds chunks.
    BrickId(u32), "brick number"
);
number_id!(
    /// A chain: an ordered group of bricks that hold the same chunks.
    ChainId(u32), "chain number"
);
number_id!(
    /// Version of one chain's membership; grows with every change of it.
    ChainEpoch(u64), "chain epoch"
);
number_id!(
    /// Version of the whole cluster map; grows with every change of it.
    MapEpoch(u64), "map epoch"
);
number_id!(
    /// One mount (or other user of the filesystem) at the namespace. Never reused.
    SessionId(u64), "session number"
);
number_id!(
    /// Number of a call within its session, given by the caller, growing. With the
    /// session it names a call for good, so that a retry can return its first result.
    CallSeq(u64), "call number"
);
number_id!(
    /// A process' life: drawn anew at each start. A brick whose boot id changed has
    /// forgotten the writes that were not committed.
    BootId(u64), "boot id"
);
number_id!(
    /// Version of one chunk, given by the head of its chain, growing by one with each change.
    ChunkVersion(u64), "chunk version"
);
number_id!(
    /// Position in a directory's listing; stable while entries come and go.
    DirCookie(u64), "directory cookie"
);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let wrong = || ParseIdError { text: text.to_owned(), what: $what };
                let digits = text.as_bytes();
                if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(wrong());
                }
                let mut id = [0u8; 16];
                for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
                }
                Ok(Self(id))
            }
        }
    };
}

uuid_id!(
    /// A cluster, for ever. Printed as 32 hexadecimal digits.
    ClusterId, "cluster id"
);
uuid_id!(
    /// The contents of one brick directory, drawn when it was formatted: a replaced
    /// disk under an old brick number is recognised by it.
    StoreId, "store id"
);
uuid_id!(
    /// One holder of a certificate.
    NodeId, "node id"
);

impl NodeId {
    /// A name for one of several things that the holder does: the same for the same purpose.
    pub fn for_purpose(self, purpose: &str) -> NodeId {
        let mut text = self.0.to_vec();
        text.extend_from_slice(purpose.as_bytes());
        let hash = blake3::derive_key("brickyard 2026-11 purpose of a node", &text);
        NodeId(std::array::from_fn(|i| hash[i]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Ids survive their own text form, and bad text is refused with its name.
    #[test]
    fn ids_round_trip_as_text() {
        let id = ClusterId([0xab; 16]);
        assert_eq!(id.to_string().parse::<ClusterId>().unwrap(), id);
        assert_eq!("17".parse::<BrickId>().unwrap(), BrickId(17));
        let wrong = "zz".parse::<ClusterId>().unwrap_err();
        assert_eq!(wrong.to_string(), "\"zz\" is not a cluster id");
        assert!("é".repeat(16).parse::<ClusterId>().is_err());
    }
}
