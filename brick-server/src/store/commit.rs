//! Commit: what was published becomes durable.
//!
//! ```text
//! frozen generation ── much data, or some is in the data files ──> data files, flushed ──┐
//!        └─────────── little data ───────────────────────────────────────────────────────┴─> journal
//! journal, flushed ──> index (in memory) ──> blocks nobody needs any more are free
//! ```
//!
//! So a commit costs one flush for little data, which is in the journal then and comes to its place
//! later, sorted and without what was overwritten meanwhile; and two for much data, which is written
//! once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::aligned::Aligned;
use super::checkpoint::MOST_DESCRIBED;
use super::counters::add;
use super::disk::{Disk, WritePart};
use super::engine::{Engine, Journal};
use super::index::{Index, IndexChange};
use super::journal::{DATA_BYTES, push_change, push_data};
use super::lease::lock;
use super::log::Appended;
use super::overlay::Generation;
use super::owners::Owner;
use super::record::{BLOCK, GROUP_BLOCKS};
use super::{Pressure, StoreError};

/// Most bytes of one write to the data files.
const WRITE_BYTES: usize = 1 << 20;

/// A part of a generation on its way to the journal.
#[derive(Default)]
struct Part {
    body: Vec<u8>,
    changes: Vec<IndexChange>,
    data: Vec<u64>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Makes the overlay durable.
    pub(super) fn commit_all(&self) -> Result<(), StoreError> {
        let mut journal = lock(&self.journal);
        self.check()?;
        self.hints.sync().map_err(|e| self.disk_failed("flushing the hints", &e))?;
        self.pay(&mut journal)?;
        // A generation that could not be made durable last time goes first.
        let rounds = if lock(&self.overlay).frozen.is_some() { 2 } else { 1 };
        for _ in 0..rounds {
            let Some(generation) = lock(&self.overlay).freeze() else { return Ok(()) };
            // Before it is logged: should the journal be begun anew in the middle of it, the table
            // has them. An owner whose block does not hold what it says is none.
            self.describe(&generation);
            self.log_generation(&mut journal, &generation)?;
            lock(&self.overlay).frozen = None;
            self.release(&generation);
            add(&self.tally.commits, 1);
        }
        if lock(&self.held).journalled_bytes() > self.limits.deferred_bytes {
            self.write_deferred()?;
        }
        self.enter_owners(MOST_DESCRIBED)
    }

    /// Brings the index up to the journal's last record, should it have refused it.
    fn pay(&self, journal: &mut Journal<D>) -> Result<(), StoreError> {
        if let Some((seq, changes)) = &journal.owed {
            let written = self.index.write(&mut changes.iter().cloned(), *seq);
            written.map_err(|e| self.index_failed(e))?;
            journal.owed = None;
        }
        Ok(())
    }

    fn log_generation(
        &self,
        journal: &mut Journal<D>,
        generation: &Arc<Generation>,
    ) -> Result<(), StoreError> {
        let open: Vec<(u64, Bytes)> = {
            let held = lock(&self.held);
            generation.fresh.keys().filter_map(|&p| Some((p, held.get_open(p)?))).collect()
        };
        let few = (open.len() * BLOCK) as u64 <= self.limits.journal_data_bytes;
        let inline = few && !generation.direct;
        if !inline {
            self.write_sorted(&open)?;
            add(&self.tally.flushes, 1);
            self.disk.sync().map_err(|e| self.fail(format!("flushing: {e}")))?;
            let mut held = lock(&self.held);
            open.iter().for_each(|(position, _)| held.forget(*position));
        }
        let most = journal.log.most_bytes() / 4;
        let mut part = Part::default();
        for (position, bytes) in open.iter().filter(|_| inline) {
            if part.body.len() + DATA_BYTES > most {
                self.log_part(journal, std::mem::take(&mut part))?;
            }
            push_data(&mut part.body, *position, bytes);
            part.data.push(*position);
        }
        let mut encoded = Vec::new();
        for (_, changes) in generation.changes() {
            // The changes of one chunk stay together: what is durable of it is one version.
            let changes: Vec<IndexChange> = changes.collect();
            encoded.clear();
            changes.iter().for_each(|change| push_change(&mut encoded, change));
            if !part.body.is_empty() && part.body.len() + encoded.len() > most {
                self.log_part(journal, std::mem::take(&mut part))?;
            }
            part.body.extend_from_slice(&encoded);
            part.changes.extend(changes);
        }
        self.log_part(journal, part)
    }

    /// Makes a part durable, and known to the index.
    fn log_part(&self, journal: &mut Journal<D>, part: Part) -> Result<(), StoreError> {
        if part.body.is_empty() {
            return Ok(());
        }
        let seq = loop {
            add(&self.tally.flushes, 1);
            match journal.log.append(&part.body).map_err(|e| self.fail(format!("the journal: {e}")))? {
                Appended::Done { seq, bytes } => {
                    add(&self.tally.journal_bytes, bytes);
                    self.records.store(seq, Ordering::Release);
                    break seq;
                }
                Appended::Full if part.body.len() > journal.log.most_bytes() => {
                    return Err(self.fail("a change is larger than the journal".to_owned()));
                }
                Appended::Full => self.checkpoint(&mut journal.log)?,
            }
        };
        lock(&self.held).mark_journalled(part.data.iter().copied());
        journal.owed = Some((seq, part.changes));
        self.pay(journal)
    }

    /// Writes blocks to the data files, neighbours in one go. `blocks` is sorted.
    pub(super) fn write_sorted(&self, blocks: &[(u64, Bytes)]) -> Result<(), StoreError> {
        // One copy, into memory that O_DIRECT takes, two megabytes at a time.
        for batch in blocks.chunks(2 * WRITE_BYTES / BLOCK) {
            let mut memory = Aligned::any(batch.len() * BLOCK);
            for ((_, bytes), place) in batch.iter().zip(memory.chunks_exact_mut(BLOCK)) {
                place.copy_from_slice(bytes);
            }
            let mut parts: Vec<WritePart<'_>> = Vec::new();
            let mut from = 0;
            for at in 1..=batch.len() {
                let follows = at < batch.len() && batch[at].0 == batch[at - 1].0 + 1;
                if !follows || (at - from) * BLOCK == WRITE_BYTES {
                    parts.push((batch[from].0 * BLOCK as u64, &memory[from * BLOCK..at * BLOCK]));
                    from = at;
                }
            }
            self.write_data(&parts)?;
        }
        Ok(())
    }

    /// Brings what is in the journal only to its place in the data files.
    pub(super) fn write_deferred(&self) -> Result<(), StoreError> {
        let deferred: BTreeMap<u64, Bytes> = lock(&self.held).journalled();
        let blocks: Vec<(u64, Bytes)> = deferred.into_iter().collect();
        self.write_sorted(&blocks)?;
        let mut held = lock(&self.held);
        blocks.iter().for_each(|(position, _)| held.forget(*position));
        Ok(())
    }

    /// Notes whose the new blocks are.
    fn describe(&self, generation: &Generation) {
        let mut described = lock(&self.described);
        for (&position, &(key, block)) in &generation.fresh {
            let Some(chunk) = generation.get(key) else { continue };
            let slot =
                chunk.groups.get(&(block / GROUP_BLOCKS)).map(|g| g.slots[(block % GROUP_BLOCKS) as usize]);
            if let (Some(header), Some(Some(slot))) = (chunk.header, slot)
                && slot.position == position
            {
                let (version, len, crc) = (header.version.0, header.len, slot.crc);
                described.insert(position, Owner { key, block: block as u16, version, len, crc });
            }
        }
    }

    fn release(&self, generation: &Generation) {
        let mut held = lock(&self.held);
        let mut blocks = lock(&self.blocks);
        for run in &generation.freed {
            blocks.release(*run, &mut |block| held.forget(block));
        }
    }

    pub(super) fn pressure_now(&self) -> Pressure {
        let (entries, bytes) = {
            let overlay = lock(&self.overlay);
            (overlay.entries(), overlay.written_bytes())
        };
        let held = lock(&self.held).open_bytes();
        let Some(more) = [
            entries as u64 * 4 / self.limits.overlay_entries.max(1) as u64,
            bytes * 4 / self.limits.overlay_bytes.max(1),
            held * 4 / self.limits.held_bytes.max(1),
        ]
        .into_iter()
        .max() else {
            return Pressure::Clean;
        };
        match more {
            _ if entries == 0 => Pressure::Clean,
            0 => Pressure::Some,
            1..4 => Pressure::Much,
            _ => Pressure::TooMuch,
        }
    }
}
