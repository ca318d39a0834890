//! Records of the journal, byte for byte.
//!
//! ```text
//! head of a segment   "BYJS" | version u16 | lap u16 | store u64 | first sequence number u64
//!                     | crc32c u32 of these; at offsets 0 and 4096
//! head of a record    "BYJR" | version u16 | 0 u16 | store u64 | sequence number u64
//!                     | bytes of the body u32 | bytes to the next record u32
//!                     | crc32c u32 of the body | crc32c u32 of this head
//! body                any number of
//!   1  header         | inode u64 | index u64 | header (see `record`)
//!   2  no header      | inode u64 | index u64
//!   3  no groups      | inode u64 | index u64
//!   4  group          | inode u64 | index u64 | group u32 | length u16 | group (see `record`)
//!   5  no group       | inode u64 | index u64 | group u32
//!   6  data           | position u48 | 4096 bytes
//! ```
//! Numbers are little endian. The first record of a segment is at 8192; each begins at a multiple
//! of 512, and no sector ever holds parts of two. `store` is drawn when the brick is formatted, so
//! that a journal of another brick is told apart.
//!
//! | version | since | why |
//! |---|---|---|
//! | 1 | 0.2.0 | the first |
//!
//! The bytes of version 1 never change (`the_records_are_golden`).

use bytes::Bytes;
use wire::chunk::ChunkKey;
use wire::id::Ino;

use super::index::IndexChange;
use super::record::{BLOCK, Group, HEADER_BYTES, Header};

/// Version of the journal.
const VERSION: u16 = 1;
/// What a segment begins with.
pub const SEGMENT_MAGIC: &[u8; 4] = b"BYJS";
const RECORD_MAGIC: &[u8; 4] = b"BYJR";
/// Bytes of a record's head.
pub const HEAD_BYTES: usize = 40;
/// Where the first record of a segment is.
pub const FIRST_RECORD: u64 = 2 * BLOCK as u64;
/// What records begin at multiples of.
pub const SECTOR: usize = 512;
/// Bytes a block of data takes in a body.
pub const DATA_BYTES: usize = 7 + BLOCK;

const SET_HEADER: u8 = 1;
const NO_HEADER: u8 = 2;
const WIPE: u8 = 3;
const SET_GROUP: u8 = 4;
const NO_GROUP: u8 = 5;
const DATA: u8 = 6;

/// Bytes of the journal that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Written by a newer version.
    #[error("the journal has version {0}, this program knows {VERSION}")]
    Newer(u16),
    /// A body whose checksum is right and whose content is not.
    #[error("record {0} of the journal makes no sense")]
    Malformed(u64),
}

/// Head of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    /// Times the segment was begun before; stays at its most.
    pub lap: u16,
    /// Drawn when the brick was formatted.
    pub store: u64,
    /// Sequence number of its first record.
    pub first: u64,
}

/// Head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// Drawn when the brick was formatted.
    pub store: u64,
    /// Sequence number.
    pub seq: u64,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// From this record's beginning to where the next one begins.
    pub stride_bytes: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

/// One step of a record.
// There is one at a time, on the stack.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The index changes.
    Change(IndexChange),
    /// A block holds this, if the index still says so in the end.
    Data(u64, Bytes),
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn checked_version(bytes: &[u8]) -> Option<Result<(), JournalError>> {
    let version = u16::from_le_bytes(number(bytes, 4)?);
    Some(if version > VERSION { Err(JournalError::Newer(version)) } else { Ok(()) })
}

impl SegmentHead {
    /// The bytes that are stored, a block of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.lap.to_le_bytes());
        out.extend_from_slice(&self.store.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.resize(BLOCK, 0);
        out
    }

    /// Reads what [`SegmentHead::encode`] made; `None` if it is none, or damaged.
    ///
    /// # Errors
    /// [`JournalError::Newer`].
    pub fn decode(bytes: &[u8]) -> Result<Option<SegmentHead>, JournalError> {
        let parse = || {
            let crc = u32::from_le_bytes(number(bytes, 24)?);
            if bytes.get(..4)? != SEGMENT_MAGIC || crc32c::crc32c(&bytes[..24]) != crc {
                return None;
            }
            Some(checked_version(bytes)?.and_then(|()| {
                let parse = || {
                    Some(SegmentHead {
                        lap: u16::from_le_bytes(number(bytes, 6)?),
                        store: u64::from_le_bytes(number(bytes, 8)?),
                        first: u64::from_le_bytes(number(bytes, 16)?),
                    })
                };
                parse().ok_or(JournalError::Malformed(0))
            }))
        };
        parse().transpose()
    }
}

impl RecordHead {
    /// The head of a record with this body.
    pub fn of(store: u64, seq: u64, body: &[u8], align: usize) -> RecordHead {
        let stride = (HEAD_BYTES + body.len()).next_multiple_of(align.max(SECTOR));
        RecordHead {
            store,
            seq,
            body_bytes: body.len() as u32,
            stride_bytes: stride as u32,
            body_crc: crc32c::crc32c(body),
        }
    }

    /// The bytes that are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES);
        out.extend_from_slice(RECORD_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.store.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.body_bytes.to_le_bytes());
        out.extend_from_slice(&self.stride_bytes.to_le_bytes());
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads what [`RecordHead::encode`] made; `None` if it is none, or damaged.
    ///
    /// # Errors
    /// [`JournalError::Newer`].
    pub fn decode(bytes: &[u8]) -> Result<Option<RecordHead>, JournalError> {
        let parse = || {
            let crc = u32::from_le_bytes(number(bytes, 36)?);
            if bytes.get(..4)? != RECORD_MAGIC || crc32c::crc32c(&bytes[..36]) != crc {
                return None;
            }
            if let Err(newer) = checked_version(bytes)? {
                return Some(Err(newer));
            }
            let head = RecordHead {
                store: u64::from_le_bytes(number(bytes, 8)?),
                seq: u64::from_le_bytes(number(bytes, 16)?),
                body_bytes: u32::from_le_bytes(number(bytes, 24)?),
                stride_bytes: u32::from_le_bytes(number(bytes, 28)?),
                body_crc: u32::from_le_bytes(number(bytes, 32)?),
            };
            let fits = head.stride_bytes as usize >= HEAD_BYTES + head.body_bytes as usize
                && (head.stride_bytes as usize).is_multiple_of(SECTOR);
            fits.then_some(Ok(head))
        };
        parse().transpose()
    }
}

fn push_key(out: &mut Vec<u8>, tag: u8, key: ChunkKey) {
    out.push(tag);
    out.extend_from_slice(&key.ino.0.to_le_bytes());
    out.extend_from_slice(&key.index.to_le_bytes());
}

/// Adds a change of the index to a body.
pub fn push_change(out: &mut Vec<u8>, change: &IndexChange) {
    match change {
        IndexChange::Wipe(key) => push_key(out, WIPE, *key),
        IndexChange::Header(key, None) => push_key(out, NO_HEADER, *key),
        IndexChange::Header(key, Some(header)) => {
            push_key(out, SET_HEADER, *key);
            out.extend_from_slice(&header.encode());
        }
        IndexChange::Group(key, number, group) if group.is_empty() => {
            push_key(out, NO_GROUP, *key);
            out.extend_from_slice(&number.to_le_bytes());
        }
        IndexChange::Group(key, number, group) => {
            push_key(out, SET_GROUP, *key);
            out.extend_from_slice(&number.to_le_bytes());
            let bytes = group.encode();
            out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(&bytes);
        }
    }
}

/// Adds a block of data to a body.
pub fn push_data(out: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    out.push(DATA);
    out.extend_from_slice(&position.to_le_bytes()[..6]);
    out.extend_from_slice(bytes);
}

/// The steps of a record's body, in order.
///
/// # Errors
/// [`JournalError::Malformed`].
pub fn steps(seq: u64, body: &Bytes) -> Result<Vec<Step>, JournalError> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let (step, end) = step(body, at).ok_or(JournalError::Malformed(seq))?;
        out.push(step);
        at = end;
    }
    Ok(out)
}

/// The step at `at`, and where the next one is.
fn step(body: &Bytes, at: usize) -> Option<(Step, usize)> {
    let tag = *body.get(at)?;
    if tag == DATA {
        let mut position = [0; 8];
        position[..6].copy_from_slice(body.get(at + 1..at + 7)?);
        let end = at + DATA_BYTES;
        body.get(..end)?;
        return Some((Step::Data(u64::from_le_bytes(position), body.slice(at + 7..end)), end));
    }
    let key = ChunkKey {
        ino: Ino(u64::from_le_bytes(number(body, at + 1)?)),
        index: u64::from_le_bytes(number(body, at + 9)?),
    };
    let at = at + 17;
    let (change, end) = match tag {
        SET_HEADER => {
            let end = at + HEADER_BYTES;
            (IndexChange::Header(key, Some(Header::decode(body.get(at..end)?).ok()?)), end)
        }
        NO_HEADER => (IndexChange::Header(key, None), at),
        WIPE => (IndexChange::Wipe(key), at),
        SET_GROUP => {
            let group = u32::from_le_bytes(number(body, at)?);
            let end = at + 6 + usize::from(u16::from_le_bytes(number(body, at + 4)?));
            (IndexChange::Group(key, group, Group::decode(body.get(at + 6..end)?).ok()?), end)
        }
        NO_GROUP => {
            (IndexChange::Group(key, u32::from_le_bytes(number(body, at)?), Group::default()), at + 4)
        }
        _ => return None,
    };
    Some((Step::Change(change), end))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use wire::id::{ChainId, ChunkVersion};

    use super::super::record::Slot;
    use super::*;

    const KEY: ChunkKey = ChunkKey { ino: Ino(0x0102), index: 3 };

    /// The bytes of version 1, for good.
    #[test]
    fn the_records_are_golden() {
        let head = SegmentHead { lap: 2, store: 0x0807_0605_0403_0201, first: 9 };
        let bytes = head.encode();
        let golden = *b"BYJS\x01\x00\x02\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\0\0\0\0\0\0\0";
        assert_eq!(bytes[..24], golden);
        assert_eq!(bytes[24..28], crc32c::crc32c(&golden).to_le_bytes());
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(SegmentHead::decode(&bytes).unwrap(), Some(head));
        let head = RecordHead::of(0x0807_0605_0403_0201, 9, b"body", 512);
        let bytes = head.encode();
        let golden = *b"BYJR\x01\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\0\0\0\0\0\0\0\x04\0\0\0\0\x02\0\0";
        assert_eq!(bytes[..32], golden);
        assert_eq!(bytes[32..36], crc32c::crc32c(b"body").to_le_bytes());
        assert_eq!(bytes[36..], crc32c::crc32c(&bytes[..36]).to_le_bytes());
        assert_eq!(RecordHead::decode(&bytes).unwrap(), Some(head));

        let header = Header {
            chain: ChainId(1),
            version: ChunkVersion(2),
            len: 3,
            blocks: 1,
            digest: 4,
            delta_blocks: 0,
            writer: None,
        };
        let mut group = Group::default();
        group.slots[0] = Some(Slot { position: 5, crc: 6 });
        let steps_of = vec![
            Step::Data(0x0605_0403_0201, Bytes::from(vec![7; BLOCK])),
            Step::Change(IndexChange::Wipe(KEY)),
            Step::Change(IndexChange::Header(KEY, Some(header))),
            Step::Change(IndexChange::Group(KEY, 8, group)),
            Step::Change(IndexChange::Group(KEY, 9, Group::default())),
            Step::Change(IndexChange::Header(KEY, None)),
        ];
        let key = *b"\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
        let mut golden = vec![6, 1, 2, 3, 4, 5, 6];
        golden.extend([7; BLOCK]);
        golden.push(3);
        golden.extend(key);
        golden.push(1);
        golden.extend(key);
        golden.extend(header.encode());
        golden.push(4);
        golden.extend(key);
        golden.extend([8, 0, 0, 0, 14, 0]);
        golden.extend(group.encode());
        golden.push(5);
        golden.extend(key);
        golden.extend([9, 0, 0, 0]);
        golden.push(2);
        golden.extend(key);
        let mut body = Vec::new();
        for step in &steps_of {
            match step {
                Step::Change(change) => push_change(&mut body, change),
                Step::Data(position, bytes) => push_data(&mut body, *position, bytes),
            }
        }
        assert_eq!(body, golden);
        assert_eq!(steps(9, &Bytes::from(body)).unwrap(), steps_of);
    }

    /// A later version is refused as such; a changed bit makes a head none.
    #[test]
    fn newer_journals_are_told_apart() {
        let mut bytes = RecordHead::of(1, 9, b"body", 4096).encode();
        bytes[4] = 2;
        assert_eq!(RecordHead::decode(&bytes), Ok(None));
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        let newer = RecordHead::decode(&bytes).unwrap_err();
        assert_eq!(newer.to_string(), "the journal has version 2, this program knows 1");
        let mut bytes = SegmentHead { lap: 0, store: 1, first: 1 }.encode();
        bytes[4] = 9;
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHead::decode(&bytes), Err(JournalError::Newer(9)));
        assert_eq!(SegmentHead::decode(&[0; 4096]), Ok(None));
    }

    proptest! {
        /// No bytes make the decoders panic.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = SegmentHead::decode(&bytes);
            let _ = RecordHead::decode(&bytes);
            let _ = steps(1, &Bytes::from(bytes));
        }
    }
}
