//! Clones: a chunk that points to another one's blocks. Whoever changes one of them later gets
//! fresh blocks, as always; blocks have owners, counted.

use wire::chunk::ChunkKey;
use wire::id::{ChainId, ChunkVersion};

use super::StoreError;
use super::change::Blocks;
use super::disk::Disk;
use super::engine::Engine;
use super::index::Index;
use super::lease::lock;
use super::record::{Group, Header};

impl<D: Disk, I: Index> Engine<D, I> {
    /// See [`super::ChunkStore::clone_chunk`].
    pub(super) fn clone_all(
        &self,
        from: ChunkKey,
        to: ChunkKey,
        chain: ChainId,
        version: ChunkVersion,
    ) -> Result<Option<Header>, StoreError> {
        if from == to || version.0 == 0 {
            return Err(StoreError::Range);
        }
        // Two locks, always in the same order; one, if both keys fall on it.
        let (a, b) =
            (Self::stripe_of(from).min(Self::stripe_of(to)), Self::stripe_of(from).max(Self::stripe_of(to)));
        let _first = self.lock_stripe(a);
        let _second = (a != b).then(|| self.lock_stripe(b));
        let Some(source) = self.header_of(from)? else { return Ok(None) };
        let groups: Vec<(u32, Group)> = self
            .groups_of(from)?
            .into_iter()
            .map(|(number, group)| {
                let present = (0..).zip(&group.slots).filter(|(_, slot)| slot.is_some());
                let shared = present.fold(0, |bits, (at, _): (u32, _)| bits | 1 << at);
                (number, Group { shared, ..group })
            })
            .collect();
        let header = Header { chain, version, delta_blocks: source.blocks as i32, writer: None, ..source };
        {
            let mut blocks = lock(&self.blocks);
            for slot in groups.iter().flat_map(|(_, group)| group.slots).flatten() {
                blocks.share(slot.position);
            }
        }
        let shared = self.replace_all(
            to,
            Some(header),
            groups.clone(),
            Blocks::default(),
            Some((from, source, groups.clone())),
        );
        if let Err(error) = shared {
            // Nothing points to them a second time.
            let mut blocks = lock(&self.blocks);
            for slot in groups.iter().flat_map(|(_, group)| group.slots).flatten() {
                blocks.release(super::alloc::Run::one(slot.position), &mut |_| {});
            }
            return Err(error);
        }
        Ok(Some(header))
    }
}
