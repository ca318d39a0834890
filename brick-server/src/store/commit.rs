//! Commit: what was published becomes durable.
//!
//! The order is what makes a crash harmless: the data, then the index in one batch, and only
//! then are the blocks free that nobody needs any more.

use std::sync::Arc;

use super::counters::add;
use super::disk::Disk;
use super::engine::Engine;
use super::index::Index;
use super::lease::lock;
use super::{Pressure, StoreError};

impl<D: Disk, I: Index> Engine<D, I> {
    /// Makes the overlay durable: data first, then the index in one batch, then what became
    /// superfluous is free.
    pub(super) fn commit_all(&self) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.committing);
        self.check()?;
        // A generation that found no room in the index last time goes first.
        let rounds = if lock(&self.overlay).frozen.is_some() { 2 } else { 1 };
        for _ in 0..rounds {
            let generation = {
                let mut overlay = lock(&self.overlay);
                if overlay.frozen.is_none() && !overlay.active.is_empty() {
                    overlay.frozen = Some(Arc::new(std::mem::take(&mut overlay.active)));
                }
                overlay.frozen.clone()
            };
            let Some(generation) = generation else { return Ok(()) };
            if generation.written_bytes > 0 {
                add(&self.tally.flushes, 1);
                self.disk.sync().map_err(|e| self.fail(format!("flushing: {e}")))?;
            }
            self.index.write(&mut generation.changes()).map_err(|e| self.index_failed(e))?;
            add(&self.tally.commits, 1);
            lock(&self.overlay).frozen = None;
            let mut allocator = lock(&self.allocator);
            for run in &generation.freed {
                allocator.give_back(*run);
            }
        }
        Ok(())
    }

    pub(super) fn pressure_now(&self) -> Pressure {
        let overlay = lock(&self.overlay);
        let (entries, bytes) = (overlay.entries(), overlay.written_bytes());
        if entries == 0 {
            Pressure::Clean
        } else if entries >= self.limits.overlay_entries || bytes >= self.limits.overlay_bytes {
            Pressure::TooMuch
        } else if entries >= self.limits.overlay_entries / 4 || bytes >= self.limits.overlay_bytes / 4 {
            Pressure::Much
        } else {
            Pressure::Some
        }
    }
}
