//! Numbers of inodes: each is given once, also by states that were lost.
//!
//! The map says below which number inodes may be given, and is changed half a block before that is reached. Whoever begins to lead
//! goes on behind that block, somewhere in the 2^34 numbers that follow, by a map that no other reign has.
//!
//! ```text
//!                backup       lost            after the backup was put back
//!     numbers  ----|-----------|=======skipped=======|------------ ...
//!              next_ino    next_ino            inodes_below as of the backup: the next leader begins behind it
//!              of the      of what
//!              backup      was lost
//! ```
//!
//! 1. A state that was set back gives no number that the lost one gave (`a_state_set_back_beneath_one_map_gives_no_number_again`). If
//!    the lost one had come further than its map of the backup allowed, or another reign had begun, bricks have seen its next map, and
//!    tell ([`super::lineage`]; `a_state_that_gave_more_than_its_map_allowed_had_another_map`, `a_state_set_back_to_before_a_reign_is_told`).
//! 2. Numbers that were skipped are as those of lost states: what bricks have of them is kept. Nobody has anything of them where nothing
//!    was lost. Of the last [`MOST_SKIPS`] times this is remembered (`skips_are_remembered_for_long_and_not_for_ever`).

use wire::id::Ino;

use crate::error::Error;
use crate::machine::lineage::LOST_INODES;
use crate::machine::txn::{Do, Txn, load};
use crate::store::{Read, keys};

/// Numbers that a map allows: one change of the map for so many inodes.
pub const BLOCK: u64 = 1 << 18;
/// How far ahead of its end the next block is allowed: all bricks have seen the map long before so many inodes were made.
const AHEAD: u64 = BLOCK / 2;
/// A reign begins in one of so many blocks: not where a lost one began that came after the same map, before bricks can tell of it.
const FIRST_BLOCKS: u64 = 1 << 16;
/// How many times of those at which somebody began to lead the numbers skipped are remembered.
pub const MOST_SKIPS: usize = 1024;

/// First and last numbers of inodes that may have been given by lost states, in order.
pub type LostInodes = Vec<(Ino, Ino)>;

/// The number of a new inode.
pub fn give(txn: &mut Txn<'_>) -> Ino {
    let ino = Ino(txn.counters.next_ino);
    txn.counters.next_ino += 1;
    allow(txn);
    ino
}

/// Has the map allow what comes next.
fn allow(txn: &mut Txn<'_>) {
    let next = txn.counters.next_ino;
    if next.saturating_add(AHEAD) >= txn.map.inodes_below {
        txn.change_map().inodes_below = next.saturating_add(BLOCK);
    }
}

/// A reign begins: goes on behind all numbers that states of this map may have given, at a block that the number drawn says.
pub fn skip(txn: &mut Txn<'_>, reign: u64) -> Do<()> {
    let next = txn.counters.next_ino.max(txn.map.inodes_below) + reign % FIRST_BLOCKS * BLOCK;
    if next > txn.counters.next_ino {
        lose(txn, next)?;
    }
    allow(txn);
    Ok(())
}

/// The next number is this one; those before it may have been given by states that were lost.
pub fn lose(txn: &mut Txn<'_>, next: u64) -> Do<()> {
    let first = std::mem::replace(&mut txn.counters.next_ino, next);
    let mut lost = lost(txn)?;
    match lost.last_mut() {
        // Nothing was given in between.
        Some((_, last)) if last.0 + 1 == first => *last = Ino(next - 1),
        _ => lost.push((Ino(first), Ino(next - 1))),
    }
    // What was adopted is kept until somebody says otherwise.
    let is_skip = |(first, last): &(Ino, Ino)| last.0 - first.0 < LOST_INODES - 1;
    let too_many = lost.iter().filter(|range| is_skip(range)).count().saturating_sub(MOST_SKIPS);
    let oldest: Vec<_> = lost.iter().copied().filter(is_skip).take(too_many).collect();
    lost.retain(|range| !oldest.contains(range));
    txn.put(keys::LOST_INODES.to_vec(), &lost)
}

/// Goes on behind a number that was given before its turn.
pub fn pass(txn: &mut Txn<'_>, ino: Ino) -> Do<()> {
    let first = std::mem::replace(&mut txn.counters.next_ino, ino.0.saturating_add(1));
    keep(txn, Ino(first), ino)?;
    allow(txn);
    Ok(())
}

/// What bricks have of these, should they not be there, is kept until somebody says otherwise.
pub fn keep(txn: &mut Txn<'_>, first: Ino, last: Ino) -> Do<()> {
    let mut lost = lost(txn)?;
    let is_known = lost.iter().any(|(from, to)| *from <= first && last <= *to);
    let singles = lost.iter().filter(|(from, to)| from == to).count();
    // Half of what is remembered stays for what is skipped.
    if is_known || (first == last && singles >= MOST_SKIPS / 2) {
        return Ok(());
    }
    lost.push((first, last));
    lost.sort_unstable();
    txn.put(keys::LOST_INODES.to_vec(), &lost)
}

/// The map allows all numbers that were given. Whether it did not.
pub fn allow_given(txn: &mut Txn<'_>) -> bool {
    let is_behind = txn.map.inodes_below != 0 && txn.counters.next_ino > txn.map.inodes_below;
    if is_behind {
        allow(txn);
    }
    is_behind
}

/// Numbers of inodes that may have been given by lost states.
///
/// # Errors
/// If the state can't be read.
pub fn lost(state: &dyn Read) -> Result<LostInodes, Error> {
    Ok(load(state, keys::LOST_INODES)?.unwrap_or_default())
}

/// Whether a lost state may have given this number.
///
/// # Errors
/// If the state can't be read.
pub fn is_lost(state: &dyn Read, ino: Ino) -> Result<bool, Error> {
    Ok(lost(state)?.iter().any(|(first, last)| (*first..=*last).contains(&ino)))
}

/// What bricks have of lost inodes may go.
pub fn free_lost(txn: &mut Txn<'_>) {
    txn.delete(keys::LOST_INODES.to_vec());
}
