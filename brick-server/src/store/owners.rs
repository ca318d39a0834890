//! The table of owners: for each block of the data files, whose it was when it was written. With it
//! `salvage` finds files even where the index is lost.
//!
//! ```text
//! owner   inode u64 | index u48 | block u16 | version u48 | length of the chunk u32
//!         | crc32c of the block u32 | check u16: low half of the crc32c of the 30 bytes before
//! ```
//! Numbers are little endian. The owner of block *n* is at 32 *n*. A block of a clone names the chunk
//! it was written for; the clone is known to index and journal only.
//!
//! | version | since | why |
//! |---|---|---|
//! | 1 | 0.2.0 | the first |
//!
//! 1. Whatever the journal does not tell any more, the table tells: it is flushed before the
//!    journal is trimmed (`owners_are_there_after_a_trim`).

use std::collections::BTreeMap;
use std::io;

use wire::chunk::ChunkKey;
use wire::id::Ino;

use super::aligned::Aligned;
use super::disk::{Disk, ReadPart, WritePart};
use super::record::BLOCK;

/// Bytes of one owner.
pub const OWNER_BYTES: usize = 32;
const IN_BLOCK: u64 = (BLOCK / OWNER_BYTES) as u64;
/// Blocks of the table that are changed at a time.
const BATCH: usize = 256;

/// Whose a block was when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The chunk.
    pub key: ChunkKey,
    /// Which block of it.
    pub block: u16,
    /// The chunk's version then.
    pub version: u64,
    /// The chunk's length then, in bytes.
    pub len: u32,
    /// CRC32C of the block.
    pub crc: u32,
}

impl Owner {
    /// The bytes that are stored.
    pub fn encode(&self) -> [u8; OWNER_BYTES] {
        let mut out = [0; OWNER_BYTES];
        out[..8].copy_from_slice(&self.key.ino.0.to_le_bytes());
        out[8..14].copy_from_slice(&self.key.index.to_le_bytes()[..6]);
        out[14..16].copy_from_slice(&self.block.to_le_bytes());
        out[16..22].copy_from_slice(&self.version.to_le_bytes()[..6]);
        out[22..26].copy_from_slice(&self.len.to_le_bytes());
        out[26..30].copy_from_slice(&self.crc.to_le_bytes());
        let check = crc32c::crc32c(&out[..30]) as u16;
        out[30..].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// Reads what [`Owner::encode`] made; `None` if there is none.
    pub fn decode(bytes: &[u8]) -> Option<Owner> {
        let bytes: &[u8; OWNER_BYTES] = bytes.try_into().ok()?;
        let number = |range: std::ops::Range<usize>| {
            let mut out = [0; 8];
            out[..range.len()].copy_from_slice(&bytes[range]);
            u64::from_le_bytes(out)
        };
        if bytes.iter().all(|byte| *byte == 0)
            || number(30..32) != u64::from(crc32c::crc32c(&bytes[..30]) as u16)
        {
            return None;
        }
        Some(Owner {
            key: ChunkKey { ino: Ino(number(0..8)), index: number(8..14) },
            block: number(14..16) as u16,
            version: number(16..22),
            len: number(22..26) as u32,
            crc: number(26..30) as u32,
        })
    }
}

/// Bytes of the table for a disk with blocks below `end`.
pub fn table_bytes(end: u64) -> u64 {
    (end * OWNER_BYTES as u64).next_multiple_of(BLOCK as u64)
}

/// Enters owners; not durable before the table is flushed. Returns the bytes written.
///
/// # Errors
/// What the disk says.
pub fn enter<D: Disk>(table: &D, owners: &BTreeMap<u64, Owner>) -> io::Result<u64> {
    let mut touched: Vec<u64> = owners.keys().map(|position| position / IN_BLOCK).collect();
    touched.dedup();
    for batch in touched.chunks(BATCH) {
        let mut memory: Vec<Aligned> = batch.iter().map(|_| Aligned::zeros(BLOCK)).collect();
        let offsets = || batch.iter().map(|block| block * BLOCK as u64);
        let mut parts: Vec<ReadPart<'_>> = offsets().zip(memory.iter_mut().map(|m| &mut **m)).collect();
        table.read(&mut parts)?;
        for (block, bytes) in batch.iter().zip(&mut memory) {
            for (position, owner) in owners.range(block * IN_BLOCK..(block + 1) * IN_BLOCK) {
                let at = (position % IN_BLOCK) as usize * OWNER_BYTES;
                bytes[at..at + OWNER_BYTES].copy_from_slice(&owner.encode());
            }
        }
        let parts: Vec<WritePart<'_>> = offsets().zip(memory.iter().map(|m| &**m)).collect();
        table.write(&parts)?;
    }
    Ok((touched.len() * BLOCK) as u64)
}

/// Shows every owner there is.
///
/// # Errors
/// What the disk says.
pub fn each<D: Disk>(table: &D, see: &mut dyn FnMut(u64, Owner)) -> io::Result<()> {
    let mut at = 0;
    let len = table.len() / BLOCK as u64 * BLOCK as u64;
    while at < len {
        let mut bytes = Aligned::zeros((len - at).min((BATCH * BLOCK) as u64) as usize);
        table.read(&mut [(at, &mut bytes)])?;
        for (i, bytes) in bytes.chunks(OWNER_BYTES).enumerate() {
            if let Some(owner) = Owner::decode(bytes) {
                see(at / OWNER_BYTES as u64 + i as u64, owner);
            }
        }
        at += bytes.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The bytes of version 1, for good; damage is no owner.
    #[test]
    fn owners_are_golden() {
        let owner = Owner {
            key: ChunkKey { ino: Ino(0x0807_0605_0403_0201), index: 0x0e0d_0c0b_0a09 },
            block: 0x100f,
            version: 0x1615_1413_1211,
            len: 0x1a19_1817,
            crc: 0x1e1d_1c1b,
        };
        let bytes = owner.encode();
        let golden: Vec<u8> = (1..=30).collect();
        assert_eq!(bytes[..30], golden);
        assert_eq!(bytes[30..], (crc32c::crc32c(&golden) as u16).to_le_bytes());
        assert_eq!(Owner::decode(&bytes), Some(owner));
        let mut rotten = bytes;
        rotten[9] ^= 4;
        assert_eq!(Owner::decode(&rotten), None);
        assert_eq!(Owner::decode(&[0; OWNER_BYTES]), None);
    }
}
