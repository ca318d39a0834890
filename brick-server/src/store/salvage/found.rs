//! What is known of chunks: from the index, the journal, the table of owners.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::chunk::ChunkKey;

use super::super::checkpoint::Described;
use super::super::file_disk::FileDisk;
use super::super::index::IndexChange;
use super::super::journal::{self, Step};
use super::super::open::describe_changes;
use super::super::overlay::{DirtyChunk, Generation};
use super::super::owners::{self, Owner};
use super::super::record::{GROUP_BLOCKS, Group, Header, Slot, digest_of};
use super::scan::{Lost, Scan};

/// A chunk that was found: where its blocks may be, the best place first.
#[derive(Debug, Default)]
pub struct Chunk {
    pub len: u32,
    pub blocks: BTreeMap<u32, Vec<Slot>>,
    /// Its header, if that is known and all blocks are those it speaks of.
    pub header: Option<Header>,
    /// A part of the journal is lost that may have spoken of it.
    pub older: bool,
}

impl Chunk {
    /// The digest of the blocks it has.
    pub fn digest(&self) -> u64 {
        let slots = self.blocks.iter().filter_map(|(block, slots)| Some((block, slots.first()?)));
        slots.fold(0, |sum: u64, (block, slot)| sum.wrapping_add(digest_of(*block, slot.crc)))
    }
}

/// What the journal tells.
#[derive(Debug, Default)]
pub struct Journal {
    scan: Scan,
    records: Vec<(u64, Vec<IndexChange>)>,
    data: BTreeMap<u64, Bytes>,
}

impl Journal {
    /// Reads as much as there is.
    pub fn read(segments: &[FileDisk; 2], store: u64) -> Journal {
        let mut this = Journal { scan: Scan::read(segments, store), ..Journal::default() };
        for (seq, body) in std::mem::take(&mut this.scan.records) {
            let Ok(steps) = journal::steps(seq, &body) else {
                this.scan.reject(seq);
                continue;
            };
            let mut changes = Vec::new();
            for step in steps {
                match step {
                    Step::Change(change) => changes.push(change),
                    Step::Data(position, bytes) => {
                        this.data.insert(position, bytes);
                    }
                }
            }
            this.records.push((seq, changes));
            this.scan.records.insert(seq, Bytes::new());
        }
        this
    }

    /// Nothing of it is known, for this reason.
    pub fn none(why: String) -> Journal {
        Journal { scan: Scan::none(why), ..Journal::default() }
    }

    /// The last record that is known to the table of owners, too.
    pub fn before(&self) -> u64 {
        self.scan.first().saturating_sub(1)
    }

    /// What is missing behind this record, if anything.
    pub fn lost(&self, applied: u64) -> Option<Lost> {
        self.scan.lost(applied)
    }

    /// The last record behind this one that speaks of each chunk.
    pub fn touched(&self, applied: u64) -> BTreeMap<ChunkKey, u64> {
        let mut out = BTreeMap::new();
        for (seq, changes) in self.records.iter().filter(|(seq, _)| *seq > applied) {
            out.extend(changes.iter().map(|change| match change {
                IndexChange::Wipe(key) | IndexChange::Header(key, _) | IndexChange::Group(key, ..) => {
                    (*key, *seq)
                }
            }));
        }
        out
    }

    /// The bytes of a block, if they are in the journal.
    pub fn data(&self, slot: &Slot) -> Option<&Bytes> {
        self.data.get(&slot.position).filter(|bytes| crc32c::crc32c(bytes) == slot.crc)
    }

    /// What records after this one say.
    pub fn after(&self, applied: u64) -> Generation {
        let mut all = Generation::default();
        for (_, changes) in self.records.iter().filter(|(seq, _)| *seq > applied) {
            let (mut wiped, mut last) = (None, None);
            for change in changes {
                match change {
                    IndexChange::Wipe(key) => wiped = Some(*key),
                    IndexChange::Header(key, header) => {
                        last = Some((*key, *header));
                        all.put(*key, *header, wiped.take() == Some(*key), []);
                    }
                    IndexChange::Group(key, number, group) => {
                        let header = last.filter(|(of, _)| of == key).and_then(|(_, header)| header);
                        all.put(*key, header, false, [(*number, *group)]);
                    }
                }
            }
        }
        all
    }

    /// Owners of the blocks that records after this one speak of.
    pub fn described(&self, applied: u64) -> Described {
        let mut out = Described::new();
        let records = self.records.iter().filter(|(seq, _)| *seq > applied);
        records.for_each(|(_, changes)| describe_changes(changes, &mut out));
        out
    }
}

/// A chunk as the index knows it, with what the journal says on top. `None`: it is gone.
pub fn over(newer: Option<&DirtyChunk>, stored: Option<(Header, Vec<(u32, Group)>)>) -> Option<Chunk> {
    let (mut header, groups) = stored.map_or((None, Vec::new()), |(header, groups)| (Some(header), groups));
    let mut groups: BTreeMap<u32, Group> = groups.into_iter().collect();
    if let Some(newer) = newer {
        header = newer.header;
        if newer.masks {
            groups.clear();
        }
        groups.extend(&newer.groups);
    }
    let header = header?;
    let mut chunk = Chunk { len: header.len, ..Chunk::default() };
    for (number, group) in groups {
        let blocks = (number * GROUP_BLOCKS..).zip(group.slots);
        chunk.blocks.extend(blocks.filter_map(|(block, slot)| Some((block, vec![slot?]))));
    }
    // Behind a gap a record may speak of a part of what had changed.
    chunk.header = (chunk.digest() == header.digest).then_some(header);
    chunk.older = chunk.header.is_none();
    Some(chunk)
}

/// What the table of owners tells. It takes about 60 bytes of memory a block.
#[derive(Debug, Default)]
pub struct Owned {
    all: BTreeMap<u64, Owner>,
}

impl Owned {
    /// Reads the whole table.
    pub fn read(&mut self, table: &FileDisk, notes: &mut Vec<String>) {
        let read = owners::each(table, &mut |position, owner| {
            self.all.insert(position, owner);
        });
        if let Err(error) = read {
            notes.push(format!("the table of owners: {error}"));
        }
    }

    /// Later owners.
    pub fn add(&mut self, later: Described) {
        self.all.extend(later);
    }

    /// The chunks, the latest version of every block first; without those the journal says are gone.
    pub fn chunks(self, journal: &Journal) -> BTreeMap<ChunkKey, Chunk> {
        let newer = journal.after(journal.before());
        let mut versions: BTreeMap<ChunkKey, (u64, u32)> = BTreeMap::new();
        let mut found: BTreeMap<ChunkKey, BTreeMap<u32, Vec<(u64, Slot)>>> = BTreeMap::new();
        for (position, owner) in self.all {
            let latest = versions.entry(owner.key).or_default();
            *latest = (*latest).max((owner.version, owner.len));
            let slot = Slot { position, crc: owner.crc };
            let blocks = found.entry(owner.key).or_default();
            blocks.entry(u32::from(owner.block)).or_default().push((owner.version, slot));
        }
        let mut out = BTreeMap::new();
        for (key, blocks) in found {
            let mut chunk = Chunk { len: versions.get(&key).map_or(0, |v| v.1), ..Chunk::default() };
            for (block, mut slots) in blocks {
                slots.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
                chunk.blocks.insert(block, slots.into_iter().map(|(_, slot)| slot).collect());
            }
            out.insert(key, chunk);
        }
        // The journal knows better, where it knows anything.
        for (key, header) in newer.after(None) {
            let Some(header) = header else {
                out.remove(&key);
                continue;
            };
            let chunk = out.entry(key).or_default();
            chunk.len = header.len;
            let Some(dirty) = newer.get(key) else { continue };
            if dirty.masks {
                chunk.blocks.clear();
            }
            for (number, group) in &dirty.groups {
                for (block, slot) in (number * GROUP_BLOCKS..).zip(&group.slots) {
                    match slot {
                        Some(slot) => chunk.blocks.insert(block, vec![*slot]),
                        None => chunk.blocks.remove(&block),
                    };
                }
            }
            // The digest tells whether what others know of its blocks is the same.
            chunk.header = (chunk.digest() == header.digest).then_some(header);
            chunk.older = chunk.header.is_none();
        }
        out
    }
}
