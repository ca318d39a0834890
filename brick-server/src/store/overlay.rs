//! Changes of the index that are not in the journal yet.
//!
//! There are at most two generations: the *active* one takes changes, the *frozen* one is
//! being written to journal and index. A reader looks into the active one, then the frozen one, then
//! the index.
//!
//! 1. A generation is frozen whole, so that what is durable is a prefix of every chunk's
//!    versions (`crashes_keep_what_was_committed`).
//! 2. Blocks that a generation made superfluous become free only when it is durable
//!    (`crashes_keep_what_was_committed`).

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::chunk::ChunkKey;

use super::alloc::Run;
use super::index::IndexChange;
use super::record::{Group, Header};

/// What a generation says of one chunk.
#[derive(Debug, Default)]
pub struct DirtyChunk {
    /// The header now; `None`: the chunk is gone.
    pub header: Option<Header>,
    /// Groups that are not here are empty, whatever is below.
    pub masks: bool,
    /// Groups that changed.
    pub groups: BTreeMap<u32, Group>,
}

/// One layer of changes.
#[derive(Debug, Default)]
pub struct Generation {
    chunks: BTreeMap<ChunkKey, DirtyChunk>,
    entries: usize,
    /// Blocks that one owner does not need any more once this generation is durable.
    pub freed: Vec<Run>,
    /// Blocks that were first pointed to in it and still are, and by whom.
    pub fresh: BTreeMap<u64, (ChunkKey, u32)>,
    /// Whether anything was written to the data files for it.
    pub direct: bool,
    /// Bytes of data that came with it.
    pub written_bytes: u64,
}

impl Generation {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.freed.is_empty()
    }

    /// Records it holds, as a measure of its memory.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Sets the header of a chunk; the groups in `groups` change with it. With `masks`, all
    /// other groups become empty.
    pub fn put(
        &mut self,
        key: ChunkKey,
        header: Option<Header>,
        masks: bool,
        groups: impl IntoIterator<Item = (u32, Group)>,
    ) {
        let chunk = self.chunks.entry(key).or_insert_with(|| {
            self.entries += 1;
            DirtyChunk::default()
        });
        chunk.header = header;
        if masks {
            self.entries -= chunk.groups.len();
            chunk.masks = true;
            chunk.groups.clear();
        }
        for (number, group) in groups {
            if chunk.groups.insert(number, group).is_none() {
                self.entries += 1;
            }
        }
    }

    /// What it says of a chunk, if it says anything.
    pub fn get(&self, key: ChunkKey) -> Option<&DirtyChunk> {
        self.chunks.get(&key)
    }

    /// Chunks it speaks of, in order, after `after`.
    pub fn after(&self, after: Option<ChunkKey>) -> impl Iterator<Item = (ChunkKey, Option<Header>)> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.chunks.range((from, Unbounded)).map(|(key, chunk)| (*key, chunk.header))
    }

    /// It, as a batch for the index: the changes of one chunk after the other.
    pub fn changes(&self) -> impl Iterator<Item = (ChunkKey, impl Iterator<Item = IndexChange> + '_)> + '_ {
        self.chunks.iter().map(|(&key, chunk)| {
            let wipe = chunk.masks.then_some(IndexChange::Wipe(key));
            let groups = chunk.groups.iter().map(move |(&n, &group)| IndexChange::Group(key, n, group));
            (key, wipe.into_iter().chain([IndexChange::Header(key, chunk.header)]).chain(groups))
        })
    }
}

/// Both generations.
#[derive(Debug, Default)]
pub struct Overlay {
    /// Takes changes.
    pub active: Generation,
    /// On its way to journal and index.
    pub frozen: Option<Arc<Generation>>,
}

impl Overlay {
    /// The generation that is to be made durable now, if any: one that could not be last time goes
    /// first.
    pub fn freeze(&mut self) -> Option<Arc<Generation>> {
        if self.frozen.is_none() && !self.active.is_empty() {
            self.frozen = Some(Arc::new(std::mem::take(&mut self.active)));
        }
        self.frozen.clone()
    }

    fn layers(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(&self.active).chain(self.frozen.as_deref())
    }

    /// The header of a chunk, if the overlay knows of it: `Some(None)` is a chunk that is gone.
    pub fn header(&self, key: ChunkKey) -> Option<Option<Header>> {
        self.layers().find_map(|layer| layer.get(key)).map(|chunk| chunk.header)
    }

    /// One group, if the overlay knows of it.
    pub fn group(&self, key: ChunkKey, number: u32) -> Option<Group> {
        for chunk in self.layers().filter_map(|layer| layer.get(key)) {
            if let Some(group) = chunk.groups.get(&number) {
                return Some(*group);
            }
            if chunk.masks {
                return Some(Group::default());
            }
        }
        None
    }

    /// All groups the overlay knows of a chunk, and whether what is below counts, too.
    pub fn groups(&self, key: ChunkKey) -> (BTreeMap<u32, Group>, bool) {
        let mut known = BTreeMap::new();
        for chunk in self.layers().filter_map(|layer| layer.get(key)) {
            for (number, group) in &chunk.groups {
                known.entry(*number).or_insert(*group);
            }
            if chunk.masks {
                return (known, false);
            }
        }
        (known, true)
    }

    /// Chunks the overlay knows of, in order, after `after`: about `max` of each layer. The
    /// second part is the last key the page speaks for; none: it goes to the end.
    pub fn page(
        &self,
        after: Option<ChunkKey>,
        max: usize,
    ) -> (BTreeMap<ChunkKey, Option<Header>>, Option<ChunkKey>) {
        let mut page = BTreeMap::new();
        let mut horizon: Option<ChunkKey> = None;
        for layer in self.layers() {
            let mut last = None;
            let mut taken = 0;
            for (key, header) in layer.after(after) {
                page.entry(key).or_insert(header);
                last = Some(key);
                taken += 1;
                if taken == max {
                    break;
                }
            }
            if taken == max {
                horizon = horizon.into_iter().chain(last).min();
            }
        }
        if let Some(horizon) = horizon {
            page.retain(|key, _| *key <= horizon);
        }
        (page, horizon)
    }

    /// Bytes written for what is not durable.
    pub fn written_bytes(&self) -> u64 {
        self.layers().map(|layer| layer.written_bytes).sum()
    }

    /// Records of both generations.
    pub fn entries(&self) -> usize {
        self.layers().map(Generation::entries).sum()
    }
}
