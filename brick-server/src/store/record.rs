//! Records of the index, byte for byte.
//!
//! ```text
//! key of a header   'h' | inode u64 BE | index u64 BE
//! key of a group    'g' | inode u64 BE | index u64 BE | group u32 BE
//! header            1 | flags u8 (1: a writer) | chain u32 | version u64 | length u32
//!                     | blocks u32 | digest u64 | delta i32 | session u64 | call u64
//! group             2 | flags u8 (1: a run, 2: a hash, 4: shared blocks) | present u16, a bit a block
//!                     | shared u16, a bit a block, if any | BLAKE3 of the 64 KiB, if known
//!                     | position u48: of the first block of a run, or of each block
//!                     | crc32c u32 a present block
//! key of the mark   'm'
//! mark              sequence number u64 of the last journal record that is in the index
//! ```
//! Numbers in values are little endian. A position is the number of a 4 KiB block of the data
//! files taken together.
//!
//! | record | version | since | why |
//! |---|---|---|---|
//! | header | 1 | 0.1.0 | the first |
//! | group | 1 | 0.1.0 | the first; not read any more, no directory of that format was ever in use |
//! | group | 2 | 0.2.0 | runs take 73 bytes instead of 163; BLAKE3 of a piece; blocks of clones |
//!
//! The bytes of a version never change (`the_records_are_golden`).

use wire::brick::WriterId;
use wire::chunk::{BLOCK_BYTES, ChunkKey};
use wire::id::{CallSeq, ChainId, ChunkVersion, Ino, SessionId};

/// Blocks of one group record: 64 KiB.
pub const GROUP_BLOCKS: u32 = 16;
/// Version of a header.
const HEADER_VERSION: u8 = 1;
/// Version of a group.
const GROUP_VERSION: u8 = 2;
const HAS_WRITER: u8 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 50;
const IS_RUN: u8 = 1;
const HAS_HASH: u8 = 2;
const HAS_SHARED: u8 = 4;
/// Key of the mark.
pub const MARK_KEY: &[u8] = b"m";

/// A record that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It was written by a newer version.
    #[error("a {what} of record version {version}, this program knows {known}")]
    Newer {
        /// Which kind of record.
        what: &'static str,
        /// Its version.
        version: u8,
        /// The newest this program reads.
        known: u8,
    },
    /// Its bytes make no sense.
    #[error("a {what} that is not one")]
    Malformed {
        /// Which kind of record.
        what: &'static str,
    },
}

/// What the index says of a chunk as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The chain it is written through.
    pub chain: ChainId,
    /// Its version; 0 is no chunk.
    pub version: ChunkVersion,
    /// End of its furthest byte, in bytes.
    pub len: u32,
    /// Blocks allocated.
    pub blocks: u32,
    /// Of its content: [`digest_of`] summed up over its blocks.
    pub digest: u64,
    /// What the last change did to `blocks`.
    pub delta_blocks: i32,
    /// Who made the last change, so that a retry is known again.
    pub writer: Option<WriterId>,
}

/// Where one block lies, if it lies anywhere, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its number on the disk.
    pub position: u64,
    /// CRC32C of its 4 KiB.
    pub crc: u32,
}

/// Up to 16 blocks that follow each other in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Group {
    /// The blocks; `None` is a hole.
    pub slots: [Option<Slot>; GROUP_BLOCKS as usize],
    /// A bit for each block that another chunk may have, too.
    pub shared: u16,
    /// BLAKE3 of the 64 KiB, if somebody computed it since they changed.
    pub hash: Option<[u8; 32]>,
}

impl Group {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    fn is_run(&self) -> bool {
        let mut present = self.slots.iter().flatten();
        let Some(first) = present.next() else { return false };
        let mut follow = (first.position + 1..).zip(present).peekable();
        follow.peek().is_some() && follow.all(|(next, slot)| slot.position == next)
    }
}

/// CRC32C of a block of zeros.
const ZERO_BLOCK_CRC: u32 = 0x98f9_4189;

/// What block `block` of a chunk with checksum `crc` adds to the chunk's digest. A block of
/// zeros adds as much as a hole does: nothing.
pub fn digest_of(block: u32, crc: u32) -> u64 {
    if crc == ZERO_BLOCK_CRC {
        return 0;
    }
    // The finaliser of SplitMix64: neighbouring inputs give unrelated outputs.
    let mut x = (u64::from(block) << 32 | u64::from(crc)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Length of a block as a `usize`.
pub const BLOCK: usize = BLOCK_BYTES as usize;

/// Key of a chunk's header.
pub fn header_key(key: ChunkKey) -> [u8; 17] {
    let mut out = [b'h'; 17];
    out[1..9].copy_from_slice(&key.ino.0.to_be_bytes());
    out[9..17].copy_from_slice(&key.index.to_be_bytes());
    out
}

/// Key of a group.
pub fn group_key(key: ChunkKey, group: u32) -> [u8; 21] {
    let mut out = [b'g'; 21];
    out[1..17].copy_from_slice(&header_key(key)[1..]);
    out[17..21].copy_from_slice(&group.to_be_bytes());
    out
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The chunk of a header's key.
pub fn parse_header_key(bytes: &[u8]) -> Option<ChunkKey> {
    if bytes.len() != 17 || bytes[0] != b'h' {
        return None;
    }
    Some(ChunkKey {
        ino: Ino(u64::from_be_bytes(number(bytes, 1)?)),
        index: u64::from_be_bytes(number(bytes, 9)?),
    })
}

/// Chunk and number of a group's key.
pub fn parse_group_key(bytes: &[u8]) -> Option<(ChunkKey, u32)> {
    if bytes.len() != 21 || bytes[0] != b'g' {
        return None;
    }
    let key = ChunkKey {
        ino: Ino(u64::from_be_bytes(number(bytes, 1)?)),
        index: u64::from_be_bytes(number(bytes, 9)?),
    };
    Some((key, u32::from_be_bytes(number(bytes, 17)?)))
}

fn check_version(what: &'static str, known: u8, bytes: &[u8]) -> Result<(), RecordError> {
    match bytes.first() {
        Some(&version) if version == known => Ok(()),
        Some(&version) if version > known => Err(RecordError::Newer { what, version, known }),
        _ => Err(RecordError::Malformed { what }),
    }
}

impl Header {
    /// The bytes that are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        let writer = self.writer.unwrap_or(WriterId { session: SessionId(0), seq: CallSeq(0) });
        out.push(HEADER_VERSION);
        out.push(if self.writer.is_some() { HAS_WRITER } else { 0 });
        out.extend_from_slice(&self.chain.0.to_le_bytes());
        out.extend_from_slice(&self.version.0.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        out.extend_from_slice(&self.digest.to_le_bytes());
        out.extend_from_slice(&self.delta_blocks.to_le_bytes());
        out.extend_from_slice(&writer.session.0.to_le_bytes());
        out.extend_from_slice(&writer.seq.0.to_le_bytes());
        out
    }

    /// Reads what [`Header::encode`] made.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Header, RecordError> {
        check_version("header", HEADER_VERSION, bytes)?;
        let malformed = RecordError::Malformed { what: "header" };
        if bytes.len() != HEADER_BYTES {
            return Err(malformed);
        }
        let parse = || {
            let writer = WriterId {
                session: SessionId(u64::from_le_bytes(number(bytes, 34)?)),
                seq: CallSeq(u64::from_le_bytes(number(bytes, 42)?)),
            };
            Some(Header {
                chain: ChainId(u32::from_le_bytes(number(bytes, 2)?)),
                version: ChunkVersion(u64::from_le_bytes(number(bytes, 6)?)),
                len: u32::from_le_bytes(number(bytes, 14)?),
                blocks: u32::from_le_bytes(number(bytes, 18)?),
                digest: u64::from_le_bytes(number(bytes, 22)?),
                delta_blocks: i32::from_le_bytes(number(bytes, 30)?),
                writer: (bytes[1] & HAS_WRITER != 0).then_some(writer),
            })
        };
        parse().ok_or(malformed)
    }
}

impl Group {
    /// The bytes that are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut present = 0u16;
        for (at, _) in self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()) {
            present |= 1 << at;
        }
        let shared = self.shared & present;
        let run = self.is_run();
        let mut out = Vec::with_capacity(6 + 32 + 10 * self.slots.len());
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        out.push(GROUP_VERSION);
        out.push(flag(run, IS_RUN) | flag(self.hash.is_some(), HAS_HASH) | flag(shared != 0, HAS_SHARED));
        out.extend_from_slice(&present.to_le_bytes());
        if shared != 0 {
            out.extend_from_slice(&shared.to_le_bytes());
        }
        if let Some(hash) = &self.hash {
            out.extend_from_slice(hash);
        }
        for slot in self.slots.iter().flatten().take(if run { 1 } else { usize::MAX }) {
            out.extend_from_slice(&slot.position.to_le_bytes()[..6]);
        }
        for slot in self.slots.iter().flatten() {
            out.extend_from_slice(&slot.crc.to_le_bytes());
        }
        out
    }

    /// Reads what [`Group::encode`] made.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Group, RecordError> {
        check_version("group", GROUP_VERSION, bytes)?;
        Group::parse(bytes).ok_or(RecordError::Malformed { what: "group" })
    }

    fn parse(bytes: &[u8]) -> Option<Group> {
        let flags = *bytes.get(1)?;
        if flags & !(IS_RUN | HAS_HASH | HAS_SHARED) != 0 {
            return None;
        }
        let present = u16::from_le_bytes(number(bytes, 2)?);
        let mut group = Group::default();
        let mut at = 4;
        if flags & HAS_SHARED != 0 {
            group.shared = u16::from_le_bytes(number(bytes, at)?);
            at += 2;
            if group.shared == 0 || group.shared & !present != 0 {
                return None;
            }
        }
        if flags & HAS_HASH != 0 {
            group.hash = Some(number(bytes, at)?);
            at += 32;
        }
        let count = present.count_ones() as usize;
        let positions = if flags & IS_RUN != 0 { 1 } else { count };
        let crcs = at + 6 * positions;
        if bytes.len() != crcs + 4 * count {
            return None;
        }
        let blocks = (0..GROUP_BLOCKS as usize).filter(|block| present & (1 << block) != 0);
        for (n, block) in blocks.enumerate() {
            let mut position = [0; 8];
            position[..6].copy_from_slice(bytes.get(at..at + 6)?);
            let mut position = u64::from_le_bytes(position);
            if flags & IS_RUN == 0 {
                at += 6;
            } else {
                position += n as u64;
            }
            let crc = u32::from_le_bytes(number(bytes, crcs + 4 * n)?);
            group.slots[block] = Some(Slot { position, crc });
        }
        // One group has one encoding.
        ((flags & IS_RUN != 0) == group.is_run()).then_some(group)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header {
        chain: ChainId(0x0102_0304),
        version: ChunkVersion(0x1112_1314_1516_1718),
        len: 0x2122_2324,
        blocks: 0x3132_3334,
        digest: 0x4142_4344_4546_4748,
        delta_blocks: -2,
        writer: Some(WriterId { session: SessionId(0x51), seq: CallSeq(0x61) }),
    };

    /// The bytes of version 1, for good.
    #[test]
    fn the_records_are_golden() {
        let golden = [
            1, 1, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22, 0x21, 0x34,
            0x33, 0x32, 0x31, 0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41, 0xfe, 0xff, 0xff, 0xff, 0x51,
            0, 0, 0, 0, 0, 0, 0, 0x61, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(HEADER.encode(), golden);
        assert_eq!(Header::decode(&golden).unwrap(), HEADER);
        let mut group = Group::default();
        group.slots[0] = Some(Slot { position: 0x0605_0403_0201, crc: 0x0d0c_0b0a });
        group.slots[15] = Some(Slot { position: 7, crc: 8 });
        let golden = [2, 0, 1, 0x80, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0x0d, 8, 0, 0, 0];
        assert_eq!(group.encode(), golden);
        assert_eq!(Group::decode(&golden).unwrap(), group);
        group.slots[15] = Some(Slot { position: 0x0605_0403_0202, crc: 8 });
        group.shared = 0x8000;
        group.hash = Some([0x77; 32]);
        let mut golden = vec![2, 7, 1, 0x80, 0, 0x80];
        golden.extend([0x77; 32]);
        golden.extend([1, 2, 3, 4, 5, 6, 0x0a, 0x0b, 0x0c, 0x0d, 8, 0, 0, 0]);
        assert_eq!(group.encode(), golden);
        assert_eq!(Group::decode(&golden).unwrap(), group);
        let key = ChunkKey { ino: Ino(0x0102), index: 3 };
        assert_eq!(header_key(key), *b"h\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03");
        assert_eq!(group_key(key, 4), *b"g\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03\0\0\0\x04");
        assert_eq!(parse_header_key(&header_key(key)), Some(key));
        assert_eq!(parse_group_key(&group_key(key, 4)), Some((key, 4)));
    }

    /// Records of a later version are refused as such, not taken for damage.
    #[test]
    fn newer_records_are_told_apart() {
        let mut bytes = HEADER.encode();
        bytes[0] = 2;
        assert_eq!(
            Header::decode(&bytes).unwrap_err().to_string(),
            "a header of record version 2, this program knows 1"
        );
        assert_eq!(
            Group::decode(&[3]).unwrap_err().to_string(),
            "a group of record version 3, this program knows 2"
        );
        assert_eq!(Group::decode(&[]).unwrap_err(), RecordError::Malformed { what: "group" });
    }

    /// A block of zeros and a hole are the same content.
    #[test]
    fn zeros_add_nothing_to_a_digest() {
        assert_eq!(crc32c::crc32c(&[0; BLOCK]), ZERO_BLOCK_CRC);
        assert_eq!(digest_of(7, ZERO_BLOCK_CRC), 0);
        assert_ne!(digest_of(7, 1), digest_of(8, 1));
    }

    proptest! {
        /// No bytes make the decoders panic, and what they accept they would have written.
        #[test]
        fn any_bytes_are_decoded_or_refused(
            flags in 0u8..8, present: [u8; 2], tail in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let mut bytes = vec![2, flags, present[0], present[1]];
            bytes.extend(tail);
            if let Ok(group) = Group::decode(&bytes) {
                prop_assert_eq!(group.encode(), bytes.clone());
            }
            bytes[0] = 1;
            let _ = Header::decode(&bytes);
        }

        /// Every group is read as it was written.
        #[test]
        fn groups_come_back(
            first in 0u64..1 << 40,
            slots in prop::collection::vec(prop::option::of((0u64..3, any::<u32>())), 16),
            hash in prop::option::of(any::<[u8; 32]>()),
            shared: u16,
        ) {
            let mut group = Group { hash, ..Group::default() };
            let mut position = first;
            for (at, slot) in slots.into_iter().enumerate() {
                if let Some((gap, crc)) = slot {
                    group.slots[at] = Some(Slot { position, crc });
                    group.shared |= shared & 1 << at;
                    // Mostly runs, as on a real disk.
                    position += 1 + gap / 2;
                }
            }
            prop_assert_eq!(Group::decode(&group.encode()).unwrap(), group);
        }
    }
}
