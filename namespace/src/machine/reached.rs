//! How far the disk of each brick has come: a disk that is behind that was set back, also within one life of its brick, of which
//! the lives that it knows say nothing.
//!
//! Each record of a brick's journal has a number, and numbers only grow. Bricks tell that of the last one on stable storage with
//! every heartbeat, and with what they come up; the leader remembers it, and notes it here at times and when a brick goes.
//!
//! 1. What is noted of a disk only grows, and is of the disk that the map names (`only_the_right_disk_counts`).

use std::collections::BTreeMap;

use wire::id::{BrickId, StoreId};

use crate::error::Error;
use crate::machine::txn::{Do, Txn, load};
use crate::store::{Read, keys};

/// The disk of each brick, and the number of the last record that it is known to have had.
pub type Records = BTreeMap<BrickId, (StoreId, u64)>;

/// What is noted.
///
/// # Errors
/// If the state can't be read.
pub fn noted(state: &dyn Read) -> Result<Records, Error> {
    Ok(load(state, keys::RECORDS)?.unwrap_or_default())
}

/// Takes what was told into what is known.
pub fn merge(known: &mut Records, told: &Records) {
    for (brick, (store, records)) in told {
        let entry = known.entry(*brick).or_insert((*store, 0));
        if entry.0 != *store {
            *entry = (*store, 0);
        }
        entry.1 = entry.1.max(*records);
    }
}

/// Notes what was told, of disks that are there.
pub fn note(txn: &mut Txn<'_>, told: &Records) -> Do<()> {
    let map = txn.map.clone();
    let is_there =
        |brick: &BrickId, of: &(StoreId, u64)| map.bricks.get(brick).is_some_and(|info| info.store == of.0);
    let mut known: Records = txn.load(keys::RECORDS)?.unwrap_or_default();
    let told: Records =
        told.iter().filter(|(brick, of)| is_there(brick, of)).map(|(brick, of)| (*brick, *of)).collect();
    merge(&mut known, &told);
    known.retain(|brick, of| is_there(brick, of));
    txn.put(keys::RECORDS.to_vec(), &known)?;
    Ok(())
}
