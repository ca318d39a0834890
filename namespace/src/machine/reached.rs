//! How far the disk of each brick has come: a disk that is behind that was set back, also within one life of its brick, of which
//! the lives that it knows say nothing.
//!
//! Each record of a brick's journal has a number, and numbers only grow. Bricks tell that of the last one on stable storage with
//! every heartbeat, and with what they come up; the leader remembers it, and notes it here at times and when a brick goes.
//!
//! A disk that was set back is let in if somebody says so: snapshots of several machines are hardly ever of one moment, and what they
//! have may be all that there is. It is then as far as it says, and counts like one that was away.
//!
//! 1. What is noted of a disk only grows, and is of the disk that the map names (`only_the_right_disk_counts`).
//! 2. That a disk is let in all the same holds for that disk, and once (`a_disk_is_taken_back_once`).

use std::collections::BTreeMap;

use wire::id::{BrickId, StoreId};
use wire::meta::BrickRefusal;

use crate::error::Error;
use crate::machine::txn::{Do, Txn, load};
use crate::store::{Read, keys};

/// The disk of each brick, and the number of the last record that it is known to have had.
pub type Records = BTreeMap<BrickId, (StoreId, u64)>;

/// Disks that are to be let in all the same.
type TakenBack = BTreeMap<BrickId, StoreId>;

/// Whether a disk that was set back is to be let in all the same.
///
/// # Errors
/// If the state can't be read.
pub fn is_taken_back(state: &dyn Read, brick: BrickId, store: StoreId) -> Result<bool, Error> {
    let taken: TakenBack = load(state, keys::TAKEN_BACK)?.unwrap_or_default();
    Ok(taken.get(&brick) == Some(&store))
}

/// A brick whose disk was set back is to be let in with what that has. Not one that is alive: its next disk would be meant.
pub fn take_back(txn: &mut Txn<'_>, brick: BrickId) -> Do<Option<BrickRefusal>> {
    let Some(info) = txn.map.bricks.get(&brick) else { return Ok(Some(BrickRefusal::Unknown)) };
    if info.alive {
        return Ok(Some(BrickRefusal::Alive));
    }
    let store = info.store;
    let mut taken: TakenBack = txn.load(keys::TAKEN_BACK)?.unwrap_or_default();
    taken.insert(brick, store);
    txn.put(keys::TAKEN_BACK.to_vec(), &taken)?;
    Ok(None)
}

/// A brick was let in: what was said of its disk before is over.
pub fn let_in(txn: &mut Txn<'_>, brick: BrickId) -> Do<()> {
    let mut taken: TakenBack = txn.load(keys::TAKEN_BACK)?.unwrap_or_default();
    if taken.remove(&brick).is_some() {
        txn.put(keys::TAKEN_BACK.to_vec(), &taken)?;
        let mut known: Records = txn.load(keys::RECORDS)?.unwrap_or_default();
        known.remove(&brick);
        txn.put(keys::RECORDS.to_vec(), &known)?;
    }
    Ok(())
}

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
