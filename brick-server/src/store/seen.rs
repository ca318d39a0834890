//! The newest map a brick has seen, on its disk: a namespace whose state was set back does not know what was done since, and the
//! bricks do.
//!
//! ```text
//! DIR/map   magic, 8 bytes | version, u32 | crc32c of the rest, u32 | the map, postcard
//! ```
//! Numbers are little-endian.
//!
//! | version | since | why |
//! |---|---|---|
//! | 1 | 0.2.0 | the first |
//! | 2 | 0.1.0 | how far numbers of inodes go, and the last reign; version 1 ends before that |
//!
//! 1. It is written whole beside the old one and takes its place when it is durable, so a crash leaves one of the two
//!    (`the_newest_map_is_there_after_a_crash`).
//! 2. One that is damaged says nothing, as one that is missing; one of a later version is refused, since it may say more than
//!    this program knows (`what_cannot_be_read_is_told_apart`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use wire::map::ClusterMap;

/// The file in a brick's directory.
pub const MAP_FILE: &str = "map";
/// What is to become it.
const NEW_FILE: &str = "map.new";
const MAGIC: &[u8; 8] = b"BYSEENMP";
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 16;

fn encode(map: &ClusterMap) -> io::Result<Vec<u8>> {
    let body = postcard::to_allocvec(map).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The map of a file's bytes; nothing if they are damaged, a number if they are of that later version.
fn decode(bytes: &[u8]) -> Result<Option<ClusterMap>, u32> {
    if !bytes.starts_with(MAGIC) {
        return Ok(None);
    }
    // What a map of that version lacks at its end: nobody knew how far numbers of inodes go, nor reigns.
    let lacks: &[u8] = match number(bytes, MAGIC.len()) {
        Some(1) => &[0, 0],
        Some(VERSION) => &[],
        Some(later) if later > VERSION => return Err(later),
        _ => return Ok(None),
    };
    let (Some(sum), Some(body)) = (number(bytes, 12), bytes.get(HEAD_BYTES..)) else { return Ok(None) };
    if crc32c::crc32c(body) != sum {
        return Ok(None);
    }
    match postcard::take_from_bytes::<ClusterMap>(&[body, lacks].concat()) {
        Ok((map, [])) if map.verify().is_ok() => Ok(Some(map)),
        _ => Ok(None),
    }
}

/// The map noted last in a brick's directory, if there is one that can be read.
///
/// # Errors
/// What the disk says; a file of a later version.
pub fn read(dir: &Path) -> io::Result<Option<ClusterMap>> {
    let path = dir.join(MAP_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match decode(&bytes) {
        Ok(Some(map)) => Ok(Some(map)),
        Ok(None) => {
            tracing::warn!(
                file = %path.display(),
                "can't be read: whether the namespace was set back is not known here until it has been heard"
            );
            Ok(None)
        }
        Err(later) => Err(io::Error::other(format!(
            "it is of version {later}, this program knows {VERSION}; use the newer brickyard that wrote it"
        ))),
    }
}

/// Notes a map in place of the one before: it is on stable storage when this returns.
///
/// # Errors
/// What the disk says; the one before is as it was.
pub fn write(dir: &Path, map: &ClusterMap) -> io::Result<()> {
    let bytes = encode(map)?;
    let new = dir.join(NEW_FILE);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // What there is of it only takes room.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    fs::rename(&new, dir.join(MAP_FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::{ClusterId, MapEpoch};

    fn map(epoch: u64) -> ClusterMap {
        ClusterMap { epoch: MapEpoch(epoch), ..ClusterMap::new(ClusterId([1; 16]), 2) }
    }

    #[test]
    fn the_newest_map_is_there_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        for epoch in [3, 300] {
            write(dir.path(), &map(epoch)).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Some(map(epoch)));
        }
        // The next one was being written.
        fs::write(dir.path().join(NEW_FILE), b"BYSEENMP half").unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(map(300)));
        write(dir.path(), &map(301)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(map(301)));
        assert!(!dir.path().join(NEW_FILE).exists());
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &map(7)).unwrap();
        let good = fs::read(dir.path().join(MAP_FILE)).unwrap();
        let read_as = |bytes: &[u8]| {
            fs::write(dir.path().join(MAP_FILE), bytes).unwrap();
            read(dir.path())
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            // A version that is not known is never read as damage.
            let is_version = (8..12).contains(&at);
            assert_eq!(read_as(&bad).is_err(), is_version, "byte {at}");
            if !is_version {
                assert_eq!(read_as(&bad).unwrap(), None, "byte {at}");
            }
            assert_eq!(read_as(&good[..at]).unwrap(), None, "{at} bytes");
        }
    }

    /// Bytes on disk, for good.
    #[test]
    fn a_noted_map_is_what_it_always_was() {
        let golden = |version: u8, ends: &[u8]| {
            let body = [&[1; 16][..], &[0xac, 2, 2, 0, 0, 0, 0, 0], ends].concat();
            let head = [&b"BYSEENMP"[..], &[version, 0, 0, 0], &crc32c::crc32c(&body).to_le_bytes()].concat();
            [head, body].concat()
        };
        let map = ClusterMap { inodes_below: 300, reign: 7, ..map(300) };
        assert_eq!(encode(&map).unwrap(), golden(2, &[0xac, 2, 7]));
        assert_eq!(decode(&golden(2, &[0xac, 2, 7])), Ok(Some(map.clone())));
        assert_eq!(decode(&golden(1, &[])), Ok(Some(ClusterMap { inodes_below: 0, reign: 0, ..map })));
    }
}
