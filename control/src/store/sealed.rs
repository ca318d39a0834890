//! The envelope of every small file of this room: one readable line, then the content.
//!
//! ```text
//! brickyard KIND VERSION CRC32C LENGTH\n
//! LENGTH bytes of content
//! ```
//!
//! KIND says what it is, so that a file under a wrong name isn't taken for something else. CRC32C (eight hex digits)
//! covers the content. Version 1 is the first of every kind.
//!
//! 1. Bytes that were cut, changed or lengthened are refused. `damaged_bytes_are_refused`
//! 2. A newer version is refused by its number, never guessed at. `a_newer_version_is_refused_by_number`

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

const MAGIC: &str = "brickyard";
/// The longest first line.
const HEADER_MAX: usize = 80;

/// A kind of sealed file: name and latest version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// The word in the first line.
    pub name: &'static str,
    /// The version written, and the latest one read.
    pub version: u32,
}

/// Wraps content.
pub(crate) fn seal(kind: Kind, content: &[u8]) -> Vec<u8> {
    let mut out =
        format!("{MAGIC} {} {} {:08x} {}\n", kind.name, kind.version, crc32c::crc32c(content), content.len())
            .into_bytes();
    out.extend_from_slice(content);
    out
}

/// Unwraps content; `path` is for the error only.
pub(crate) fn open<'a>(kind: Kind, bytes: &'a [u8], path: &Path) -> Result<&'a [u8]> {
    let refuse = |reason: &str| Error::Format { path: path.to_path_buf(), reason: reason.to_owned() };
    let end = bytes
        .iter()
        .take(HEADER_MAX)
        .position(|b| *b == b'\n')
        .ok_or_else(|| refuse("it doesn't begin with a brickyard header line"))?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| refuse("its header isn't text"))?;
    let content = &bytes[end + 1..];
    let mut words = header.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(refuse("it isn't a file of brickyard"));
    }
    let name = words.next().unwrap_or_default();
    if name != kind.name {
        return Err(refuse(&format!("it is a {name:?}, not a {:?}", kind.name)));
    }
    let version: u32 =
        words.next().and_then(|w| w.parse().ok()).ok_or_else(|| refuse("its version isn't a number"))?;
    if version > kind.version {
        return Err(Error::Newer { path: path.to_path_buf(), found: version, known: kind.version });
    }
    if version != kind.version {
        return Err(refuse("there is no such version"));
    }
    let crc = words.next().and_then(|w| u32::from_str_radix(w, 16).ok());
    let len = words.next().and_then(|w| w.parse::<usize>().ok());
    if words.next().is_some() || len != Some(content.len()) {
        return Err(refuse("its length doesn't agree with its header"));
    }
    if crc != Some(crc32c::crc32c(content)) {
        return Err(refuse("its checksum is wrong"));
    }
    Ok(content)
}

/// Wraps a value as JSON.
pub(crate) fn seal_json<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(value)
        .map_err(|e| Error::Config(format!("a {} can't be written as JSON: {e}", kind.name)))?;
    Ok(seal(kind, &json))
}

/// Unwraps a value written by [`seal_json`].
pub(crate) fn open_json<T: DeserializeOwned>(kind: Kind, bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(open(kind, bytes, path)?)
        .map_err(|e| Error::Format { path: path.to_path_buf(), reason: format!("its content: {e}") })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { name: "thing", version: 1 };

    #[test]
    fn the_envelope_keeps_its_bytes() {
        assert_eq!(seal(KIND, b"123456789"), b"brickyard thing 1 e3069283 9\n123456789");
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = seal(KIND, b"some content");
        let path = Path::new("f");
        assert_eq!(open(KIND, &good, path).unwrap(), b"some content");
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x01;
            assert!(open(KIND, &bad, path).is_err(), "byte {i} changed");
            assert!(open(KIND, &good[..i], path).is_err(), "cut to {i}");
        }
        let mut longer = good.clone();
        longer.push(b'x');
        assert!(open(KIND, &longer, path).is_err());
        assert!(open(Kind { name: "other", version: 1 }, &good, path).is_err());
    }

    #[test]
    fn a_newer_version_is_refused_by_number() {
        let newer = seal(Kind { name: "thing", version: 7 }, b"x");
        let error = open(KIND, &newer, Path::new("f")).unwrap_err();
        assert!(matches!(error, Error::Newer { found: 7, known: 1, .. }));
    }
}
