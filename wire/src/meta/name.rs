//! Names of directory entries: bytes, not text.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Why bytes are not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, `.`, `..`, or with `/` or NUL inside.
    #[error("not a name")]
    Invalid,
    /// Over [`MAX_NAME_BYTES`].
    #[error("name longer than 255 bytes")]
    TooLong,
}

/// A name of a directory entry: 1 to 255 bytes without `/` and NUL, not `.` and not `..`.
/// Checked where it enters, on the wire too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(Bytes);

impl Name {
    /// Takes bytes as a name.
    ///
    /// # Errors
    /// If they cannot be one.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        let reserved = matches!(&bytes[..], b"" | b"." | b"..");
        if reserved || bytes.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(NameError::Invalid);
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Name::new(Bytes::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Any bytes but the forbidden ones are a name, also when they come over the wire.
    #[test]
    fn names_are_bytes() {
        for good in [&b"a"[..], b"\xff\xfe", b"...", b"a b\n", &[b'x'; 255]] {
            let name = Name::new(good.to_vec()).unwrap();
            let sent = postcard::to_stdvec(&name).unwrap();
            assert_eq!(postcard::from_bytes::<Name>(&sent).unwrap(), name);
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(Name::new(bad.to_vec()), Err(NameError::Invalid));
            let sent = postcard::to_stdvec(&Bytes::copy_from_slice(bad)).unwrap();
            assert!(postcard::from_bytes::<Name>(&sent).is_err());
        }
        assert_eq!(Name::new(vec![b'x'; 256]), Err(NameError::TooLong));
    }
}
