//! The engine as a [`ChunkStore`]: one call of it after the other.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use std::time::Duration;
use wire::brick::{Change, Extent, LostBlock, WriterId};
use wire::chunk::{ChunkKey, MAX_CHUNK_BYTES};
use wire::id::{ChainId, ChunkVersion, Ino};

use super::aligned::Aligned;
use super::change::Blocks;
use super::disk::Disk;
use super::edit::{Edit, Parts};
use super::engine::Engine;
use super::index::Index;
use super::pieces::PieceDigest;
use super::record::{BLOCK, GROUP_BLOCKS, Group, Header, digest_of};
use super::{
    ChunkStore, Prepared, Pressure, ReadBytes, Renewal, Shrunk, Staged, StoreCounters, StoreError, Usage,
};

const BLOCK_U32: u32 = BLOCK as u32;

impl<D: Disk, I: Index> Engine<D, I> {
    /// What is there, with zeros in place of blocks that fail their checksum, and those blocks.
    fn read_and_judge(
        &self,
        key: ChunkKey,
        offset: u32,
        len: u32,
    ) -> Result<(ReadBytes, Vec<LostBlock>), StoreError> {
        self.check()?;
        // While the lock is held no block of the chunk can become free.
        let _shared = self.read_lock(key);
        let Some(header) = self.header_of(key)? else {
            return Ok((ReadBytes { version: ChunkVersion(0), data: Bytes::new() }, Vec::new()));
        };
        let version = header.version;
        let end = offset.saturating_add(len).min(header.len);
        if offset >= end {
            return Ok((ReadBytes { version, data: Bytes::new() }, Vec::new()));
        }
        let (first, last) = (offset / BLOCK_U32, (end - 1) / BLOCK_U32);
        let slots = self.slots(key, first, last)?;
        let mut bytes = Aligned::any(slots.len() * BLOCK);
        let mut lost = Vec::new();
        for at in self.read_slots(&slots, &mut bytes)? {
            bytes[at * BLOCK..(at + 1) * BLOCK].fill(0);
            lost.extend(slots[at].map(|slot| LostBlock { block: first + at as u32, crc: slot.crc }));
        }
        let start = first * BLOCK_U32;
        let data = Bytes::from_owner(bytes).slice((offset - start) as usize..(end - start) as usize);
        Ok((ReadBytes { version, data }, lost))
    }

    /// Adds to what was staged.
    fn stage_more(
        &self,
        staged: &mut Staged,
        more: impl FnOnce(&mut Parts) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.check()?;
        let mut parts: Parts = staged.take()?;
        let done = more(&mut parts);
        staged.put(parts.digest(), parts);
        done
    }
}

impl<D: Disk, I: Index> ChunkStore for Engine<D, I> {
    fn chunk(&self, key: ChunkKey) -> Result<Option<Header>, StoreError> {
        self.check()?;
        let _shared = self.read_lock(key);
        self.header_of(key)
    }

    fn read(&self, key: ChunkKey, offset: u32, len: u32) -> Result<ReadBytes, StoreError> {
        let (found, lost) = self.read_and_judge(key, offset, len)?;
        if lost.is_empty() {
            return Ok(found);
        }
        let blocks = lost.iter().map(|lost| lost.block).collect();
        Err(StoreError::Corrupt { key, version: found.version, blocks })
    }

    fn read_what_is_left(
        &self,
        key: ChunkKey,
        offset: u32,
        len: u32,
    ) -> Result<(ReadBytes, Vec<LostBlock>), StoreError> {
        self.read_and_judge(key, offset, len)
    }

    fn prepare(
        &self,
        key: ChunkKey,
        base: ChunkVersion,
        change: Change,
        data: &Bytes,
    ) -> Result<Prepared, StoreError> {
        self.check()?;
        let _shared = self.read_lock(key);
        self.prepare_locked(key, base, change, data).map(Prepared::new)
    }

    fn publish(
        &self,
        prepared: Prepared,
        chain: ChainId,
        writer: Option<WriterId>,
        to: ChunkVersion,
    ) -> Result<Header, StoreError> {
        self.check()?;
        let Edit { key, base, end, blocks, lease } = prepared.open()?;
        let _alone = self.write_lock(key);
        let found = self.header_of(key)?;
        let version = found.map_or(ChunkVersion(0), |h| h.version);
        if version != base {
            return Err(StoreError::Version(version));
        }
        if to <= base {
            return Err(StoreError::Range);
        }
        let mut header =
            found.unwrap_or(Header { chain, version, len: 0, blocks: 0, digest: 0, delta_blocks: 0, writer });
        header.chain = chain;
        header.version = to;
        header.len = header.len.max(end);
        header.writer = writer;
        header.delta_blocks = 0;
        let header = self.edit(key, header, blocks, found.is_none())?;
        lease.keep();
        if found.is_none() {
            self.hints.came(key.ino);
        }
        Ok(header)
    }

    fn stage(&self, staged: &mut Staged, offset: u32, data: &Bytes) -> Result<(), StoreError> {
        self.stage_more(staged, |parts| self.stage_part(parts, offset, data))
    }

    fn stage_lost(&self, staged: &mut Staged, lost: LostBlock) -> Result<(), StoreError> {
        self.stage_more(staged, |parts| self.stage_lost_block(parts, lost))
    }

    fn switch(
        &self,
        key: ChunkKey,
        chain: ChainId,
        version: ChunkVersion,
        len: u32,
        staged: Staged,
    ) -> Result<(), StoreError> {
        self.check()?;
        let mut staged = staged;
        let Parts { blocks, lease, written_bytes, .. } = staged.take()?;
        let beyond = blocks.last_key_value().is_some_and(|(&last, _)| last * BLOCK_U32 >= len);
        if beyond || len > MAX_CHUNK_BYTES || version.0 == 0 {
            return Err(StoreError::Range);
        }
        let mut header = Header {
            chain,
            version,
            len,
            blocks: blocks.len() as u32,
            digest: 0,
            delta_blocks: 0,
            writer: None,
        };
        let mut groups: Vec<(u32, Group)> = Vec::new();
        let slots = blocks.iter().map(|(&block, &slot)| (block, Some(slot))).collect();
        for (block, slot) in blocks {
            header.digest = header.digest.wrapping_add(digest_of(block, slot.crc));
            let number = block / GROUP_BLOCKS;
            if groups.last().is_none_or(|(last, _)| *last != number) {
                groups.push((number, Group::default()));
            }
            if let Some((_, group)) = groups.last_mut() {
                group.slots[(block % GROUP_BLOCKS) as usize] = Some(slot);
            }
        }
        let _alone = self.write_lock(key);
        let blocks = Blocks { slots, direct: written_bytes > 0, written_bytes, ..Blocks::default() };
        let existed = self.replace_all(key, Some(header), groups, blocks, None)?;
        if !existed {
            self.hints.came(key.ino);
        }
        if let Some(lease) = lease {
            lease.keep();
        }
        Ok(())
    }

    fn set_version(&self, key: ChunkKey, chain: ChainId, version: ChunkVersion) -> Result<(), StoreError> {
        self.check()?;
        let _alone = self.write_lock(key);
        let found = self.header_of(key)?;
        let empty = Header { chain, version, len: 0, blocks: 0, digest: 0, delta_blocks: 0, writer: None };
        let header = Header { chain, version, ..found.unwrap_or(empty) };
        self.edit(key, header, Blocks::default(), found.is_none()).map(drop)
    }

    fn remove(&self, key: ChunkKey, up_to: ChunkVersion) -> Result<Option<Shrunk>, StoreError> {
        self.check()?;
        let _alone = self.write_lock(key);
        let Some(before) = self.header_of(key)?.filter(|h| h.version <= up_to) else { return Ok(None) };
        self.replace_all(key, None, Vec::new(), Blocks::default(), None)?;
        Ok(Some(Shrunk { before, freed_blocks: before.blocks }))
    }

    fn cut(&self, key: ChunkKey, len: u32) -> Result<Option<Shrunk>, StoreError> {
        self.check()?;
        let _alone = self.write_lock(key);
        let Some(before) = self.header_of(key)?.filter(|h| h.len > len) else { return Ok(None) };
        let mut blocks = Blocks::default();
        let mut lease = None;
        let kept = len.div_ceil(BLOCK_U32);
        let inside = len % BLOCK_U32;
        if inside > 0 && self.slots(key, kept - 1, kept - 1)?.first().is_some_and(Option::is_some) {
            let mut bytes = self.block_or_zeros(key, before.version, kept - 1)?;
            bytes[inside as usize..].fill(0);
            lease = Some(self.settle_one(kept - 1, bytes, &mut blocks)?);
        }
        for (block, _) in self.all_slots(key)?.into_iter().filter(|(block, _)| *block >= kept) {
            blocks.slots.push((block, None));
        }
        let header = Header { version: ChunkVersion(before.version.0 + 1), len, delta_blocks: 0, ..before };
        let after = self.edit(key, header, blocks, false)?;
        if let Some(lease) = lease {
            lease.keep();
        }
        Ok(Some(Shrunk { before, freed_blocks: before.blocks - after.blocks }))
    }

    fn repair(
        &self,
        key: ChunkKey,
        version: ChunkVersion,
        block: u32,
        data: &[u8],
    ) -> Result<bool, StoreError> {
        self.check()?;
        let _alone = self.write_lock(key);
        let Some(header) = self.header_of(key)?.filter(|h| h.version == version) else { return Ok(false) };
        let Some(Some(slot)) = self.slots(key, block, block)?.first().copied() else { return Ok(false) };
        let mut bytes = Aligned::zeros(BLOCK);
        let Some(place) = bytes.get_mut(..data.len()) else { return Ok(false) };
        place.copy_from_slice(data);
        if crc32c::crc32c(&bytes) != slot.crc {
            return Ok(false);
        }
        let mut blocks = Blocks::default();
        let lease = self.settle_one(block, bytes, &mut blocks)?;
        let after = self.edit(key, header, blocks, false)?;
        debug_assert_eq!(after.digest, header.digest);
        lease.keep();
        Ok(true)
    }

    fn list(
        &self,
        chain: Option<ChainId>,
        after: Option<ChunkKey>,
        max: usize,
    ) -> Result<(Vec<(ChunkKey, Header)>, bool), StoreError> {
        self.check()?;
        self.list_page(chain, after, max)
    }

    fn extents(&self, key: ChunkKey) -> Result<(Option<Header>, Vec<Extent>), StoreError> {
        self.check()?;
        let _shared = self.read_lock(key);
        let Some(header) = self.header_of(key)? else { return Ok((None, Vec::new())) };
        let mut out: Vec<Extent> = Vec::new();
        for (block, _) in self.all_slots(key)? {
            let offset = block * BLOCK_U32;
            let len = BLOCK_U32.min(header.len.saturating_sub(offset));
            match out.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ if len > 0 => out.push(Extent { offset, len }),
                _ => {}
            }
        }
        Ok((Some(header), out))
    }

    fn verify(&self, key: ChunkKey) -> Result<([u8; 32], u32), StoreError> {
        self.check()?;
        self.verify_all(key)
    }

    fn pieces(&self, key: ChunkKey) -> Result<(Option<Header>, Vec<PieceDigest>), StoreError> {
        self.check()?;
        self.all_pieces(key)
    }

    fn clone_chunk(
        &self,
        from: ChunkKey,
        to: ChunkKey,
        chain: ChainId,
        version: ChunkVersion,
    ) -> Result<Option<Header>, StoreError> {
        self.check()?;
        self.clone_all(from, to, chain, version)
    }

    fn note_names(&self, names: &[(Ino, Bytes)]) -> Result<(), StoreError> {
        self.check()?;
        self.hints.note(names).map_err(|e| self.disk_failed("noting names", &e))
    }

    fn nameless(&self, max: usize) -> Vec<Ino> {
        self.hints.nameless(max)
    }

    fn renew_names(&self, step: Renewal<'_>) -> Result<(), StoreError> {
        self.check()?;
        self.hints.renew(step).map_err(|e| self.disk_failed("noting names anew", &e))
    }

    fn records(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    fn counters(&self) -> StoreCounters {
        self.tally.read(self.index.written_bytes())
    }

    fn commit(&self) -> Result<(), StoreError> {
        self.turns.take(|| self.commit_all())
    }

    fn pressure(&self) -> Pressure {
        self.pressure_now()
    }

    fn usage(&self) -> Usage {
        self.usage_now()
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.has_free(bytes)
    }

    fn silence(&self) -> Duration {
        self.disk.silence()
    }

    fn failure(&self) -> Option<String> {
        Engine::failure(self)
    }

    fn fail(&self, why: String) {
        let _ = Engine::fail(self, why);
    }
}
