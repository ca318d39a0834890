//! Opening: the journal is replayed into the index, and what is in memory is rebuilt from that.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use wire::chunk::ChunkKey;

use super::StoreError;
use super::aligned::Aligned;
use super::blocks::Census;
use super::checkpoint::{Described, MOST_DESCRIBED};
use super::disk::{Disk, WritePart};
use super::engine::{Engine, Limits, Opened};
use super::hints::Hints;
use super::index::{Index, IndexChange, IndexError};
use super::journal::{self, Step};
use super::log::{Log, LogError};
use super::owners::{self, Owner};
use super::record::{BLOCK, GROUP_BLOCKS, Header};

/// What a store lies on.
#[derive(Debug)]
pub struct Medium<D, I> {
    /// The data files.
    pub data: D,
    /// The two segments of the journal.
    pub journal: [D; 2],
    /// The table of owners.
    pub owners: D,
    /// The index.
    pub index: I,
    /// Names of files.
    pub hints: Hints,
    /// Drawn when the brick was formatted.
    pub store: u64,
}

/// What a journal tells.
#[derive(Debug, Default)]
struct Told {
    data: BTreeMap<u64, Bytes>,
    described: Described,
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// Owners of the blocks that a record's changes speak of.
pub fn describe_changes(changes: &[IndexChange], described: &mut Described) {
    let mut last: Option<(ChunkKey, Header)> = None;
    for change in changes {
        match change {
            IndexChange::Header(key, header) => last = header.map(|header| (*key, header)),
            IndexChange::Group(key, number, group) => {
                let Some((_, header)) = last.filter(|(of, _)| of == key) else { continue };
                for (block, slot) in (number * GROUP_BLOCKS..).zip(&group.slots) {
                    // The owner of a block that is shared may be another chunk.
                    let shared = group.shared & 1 << (block % GROUP_BLOCKS) != 0;
                    if let Some(slot) = slot.filter(|_| !shared) {
                        let (version, len, crc) = (header.version.0, header.len, slot.crc);
                        let owner = Owner { key: *key, block: block as u16, version, len, crc };
                        described.insert(slot.position, owner);
                    }
                }
            }
            IndexChange::Wipe(_) => {}
        }
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Opens what a crash or a clean stop left. `sharers` counts the bricks on this filesystem.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if journal or index can't be read, do not fit together, or speak of
    /// blocks that the disk does not have or that two chunks claim.
    pub fn open(
        medium: Medium<D, I>,
        limits: Limits,
        sharers: Arc<AtomicU64>,
    ) -> Result<Engine<D, I>, StoreError> {
        let Medium { data: disk, journal, owners, index, hints, store } = medium;
        let applied = index.applied().map_err(failed)?;
        let mut told = Told::default();
        let mut wrong = None;
        let log = Log::open(journal, store, applied, &mut |seq, body| {
            let mut changes = Vec::new();
            for step in journal::steps(seq, &body)? {
                match step {
                    Step::Data(position, bytes) => drop(told.data.insert(position, bytes)),
                    Step::Change(change) => changes.push(change),
                }
            }
            describe_changes(&changes, &mut told.described);
            if told.described.len() > MOST_DESCRIBED {
                owners::enter(&owners, &std::mem::take(&mut told.described))?;
            }
            if seq > applied && wrong.is_none() {
                wrong = index.write(&mut changes.into_iter(), seq).err();
            }
            Ok::<(), LogError>(())
        })
        .map_err(failed)?;
        if let Some(error) = wrong {
            return Err(failed(error));
        }
        let census = restore(&disk, &index, &told.data)?;
        let (mut chunks, mut after) = (0, None);
        loop {
            let page = index.headers(after, 4096).map_err(failed)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            chunks += page.len() as u64;
        }
        tracing::debug!(chunks, blocks = census.count(), applied, last = log.last(), "opened a store");
        Ok(Engine::assemble(Opened {
            disk,
            owners,
            index,
            hints,
            log,
            blocks: Arc::new(Mutex::new(census.finish())),
            described: told.described,
            chunks,
            limits,
            sharers,
        }))
    }
}

/// Counts the blocks in use, and writes those of them that the journal holds to their places: they
/// may not have got there.
fn restore<D: Disk, I: Index>(
    disk: &D,
    index: &I,
    data: &BTreeMap<u64, Bytes>,
) -> Result<Census, StoreError> {
    let end = disk.len() / BLOCK as u64;
    let mut census = Census::new(end);
    let mut wrong = None;
    let mut needed: BTreeMap<u64, &Bytes> = BTreeMap::new();
    let each = index.each_group(&mut |key, _, group| {
        for (at, slot) in group.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            if !census.claim(slot.position, group.shared & 1 << at != 0) {
                wrong = Some((key, slot.position));
            }
            // A later record may have given the place to other bytes, which were written to it.
            let held = data.get(&slot.position).filter(|bytes| crc32c::crc32c(bytes) == slot.crc);
            needed.extend(held.map(|bytes| (slot.position, bytes)));
        }
    });
    each.map_err(|e: IndexError| failed(e))?;
    if let Some((key, position)) = wrong {
        return Err(StoreError::Failed(format!(
            "the index places a block of chunk {key} at {position}, which {}: make the brick anew from its copies (`brickyard brick \
             --replace` in an empty directory), or get the files off with `brickyard salvage`",
            if position < end { "another block has" } else { "is beyond the end of the data files" }
        )));
    }
    for batch in needed.into_iter().collect::<Vec<_>>().chunks(256) {
        let memory: Vec<Aligned> = batch.iter().map(|(_, bytes)| Aligned::of(bytes)).collect();
        let offsets = batch.iter().map(|(position, _)| position * BLOCK as u64);
        let parts: Vec<WritePart<'_>> = offsets.zip(memory.iter().map(|m| &**m)).collect();
        disk.write(&parts).map_err(failed)?;
    }
    if !data.is_empty() {
        disk.sync().map_err(failed)?;
    }
    Ok(census)
}
