//! Checkpoint: everything the journal tells is brought to where it belongs, so that the journal can
//! be begun anew.
//!
//! 1. The order is: held data to the data files, flushed; owners to their table, flushed; the index,
//!    flushed; and only then the other segment is begun (`crashes_keep_what_was_committed`).

use std::collections::BTreeMap;

use super::StoreError;
use super::counters::add;
use super::disk::Disk;
use super::engine::Engine;
use super::index::Index;
use super::lease::lock;
use super::log::Log;
use super::owners::{self, Owner};

/// Owners are entered before there are more than this, to bound memory: 256 MiB of data.
pub const MOST_DESCRIBED: usize = 1 << 16;

/// Owners of blocks, by place.
pub type Described = BTreeMap<u64, Owner>;

impl<D: Disk, I: Index> Engine<D, I> {
    /// See the module's head.
    pub(super) fn checkpoint(&self, log: &mut Log<D>) -> Result<(), StoreError> {
        self.write_deferred()?;
        add(&self.tally.flushes, 3);
        self.disk.sync().map_err(|e| self.fail(format!("flushing: {e}")))?;
        self.enter_owners(0)?;
        self.owners.sync().map_err(|e| self.fail(format!("the table of owners: {e}")))?;
        // Should there be no room for it, nothing is lost: the journal is as it was.
        self.index.flush().map_err(|e| self.index_failed(e))?;
        log.switch().map_err(|e| self.fail(format!("the journal: {e}")))?;
        add(&self.tally.checkpoints, 1);
        Ok(())
    }

    /// Enters the owners that were noted, if there are more than `many`.
    pub(super) fn enter_owners(&self, many: usize) -> Result<(), StoreError> {
        let described = {
            let mut described = lock(&self.described);
            if described.len() <= many {
                return Ok(());
            }
            std::mem::take(&mut *described)
        };
        let entered = owners::enter(&self.owners, &described);
        add(&self.tally.owner_bytes, entered.map_err(|e| self.fail(format!("the table of owners: {e}")))?);
        Ok(())
    }
}
