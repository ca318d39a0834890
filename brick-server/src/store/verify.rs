//! Looking at all bytes of a chunk: for scrubbing, and for comparing it with another member's.

use wire::chunk::ChunkKey;

use super::StoreError;
use super::aligned::Aligned;
use super::disk::Disk;
use super::engine::Engine;
use super::index::Index;
use super::pieces::{PIECE_BYTES, PieceDigest};
use super::record::{BLOCK, GROUP_BLOCKS, Group, Header};

/// How much is read at a time, in groups.
const GROUPS: u32 = 16;

/// One group's bytes, as `Engine::each_group` shows them.
struct Seen<'a> {
    number: u32,
    group: Group,
    bytes: &'a [u8],
    /// Blocks of the chunk that fail their checksum.
    bad: Vec<u32>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Shows each group up to the chunk's end. The caller holds the chunk's stripe.
    fn each_group(
        &self,
        key: ChunkKey,
        header: &Header,
        see: &mut dyn FnMut(Seen<'_>),
    ) -> Result<(), StoreError> {
        let blocks = header.len.div_ceil(BLOCK as u32);
        let count = blocks.div_ceil(GROUP_BLOCKS);
        let mut memory = Aligned::any((GROUPS.min(count) * PIECE_BYTES) as usize);
        for from in (0..count).step_by(GROUPS as usize) {
            let to = (from + GROUPS).min(count);
            let mut groups = Vec::new();
            for number in from..to {
                groups.push(self.group_of(key, number)?);
            }
            let mut slots: Vec<_> = groups.iter().flat_map(|group| group.slots).collect();
            slots.truncate((blocks - from * GROUP_BLOCKS) as usize);
            let bytes = &mut memory[..slots.len() * BLOCK];
            let bad = self.read_slots(&slots, bytes)?;
            let bad: Vec<u32> = bad.into_iter().map(|at| from * GROUP_BLOCKS + at as u32).collect();
            for ((number, group), bytes) in (from..to).zip(groups).zip(bytes.chunks(PIECE_BYTES as usize)) {
                let bad = bad.iter().copied().filter(|block| block / GROUP_BLOCKS == number).collect();
                see(Seen { number, group, bytes, bad });
            }
        }
        Ok(())
    }

    /// See [`super::ChunkStore::verify`].
    pub(super) fn verify_all(&self, key: ChunkKey) -> Result<([u8; 32], u32), StoreError> {
        let _shared = self.read_lock(key);
        let mut hasher = blake3::Hasher::new();
        let mut corrupt = 0;
        let Some(header) = self.header_of(key)? else { return Ok((*hasher.finalize().as_bytes(), 0)) };
        let mut left = header.len as usize;
        self.each_group(key, &header, &mut |seen| {
            corrupt += seen.bad.len() as u32;
            let hash = seen.group.hash.filter(|_| seen.bad.is_empty());
            if hash.is_some_and(|hash| hash != PieceDigest::of(seen.bytes).0) {
                tracing::error!(chunk = %key, piece = seen.number, "blocks fit their checksums, and the piece not its hash");
                corrupt += 1;
            }
            let take = left.min(seen.bytes.len());
            hasher.update(&seen.bytes[..take]);
            left -= take;
        })?;
        Ok((*hasher.finalize().as_bytes(), corrupt))
    }

    /// See [`super::ChunkStore::pieces`]. Hashes that had to be computed are kept.
    pub(super) fn all_pieces(&self, key: ChunkKey) -> Result<(Option<Header>, Vec<PieceDigest>), StoreError> {
        let shared = self.read_lock(key);
        let Some(header) = self.header_of(key)? else { return Ok((None, Vec::new())) };
        let count = header.len.div_ceil(PIECE_BYTES);
        let mut out = Vec::with_capacity(count as usize);
        for number in 0..count {
            let group = self.group_of(key, number)?;
            out.push(if group.is_empty() { Some(PieceDigest::zeros()) } else { group.hash.map(PieceDigest) });
        }
        let mut learned = Vec::new();
        if out.iter().any(Option::is_none) {
            let mut bad = Vec::new();
            self.each_group(key, &header, &mut |seen| {
                bad.extend(seen.bad);
                if let Some(unknown) = out.get_mut(seen.number as usize).filter(|digest| digest.is_none()) {
                    let digest = PieceDigest::of(seen.bytes);
                    *unknown = Some(digest);
                    learned.push((seen.number, Group { hash: Some(digest.0), ..seen.group }));
                }
            })?;
            if !bad.is_empty() {
                return Err(StoreError::Corrupt { key, version: header.version, blocks: bad });
            }
        }
        drop(shared);
        let _alone = self.write_lock(key);
        self.learn_hashes(key, header, learned)?;
        Ok((Some(header), out.into_iter().flatten().collect()))
    }
}
