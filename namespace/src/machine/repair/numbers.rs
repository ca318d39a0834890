//! Numbers given and counted, and the change journal.

use std::ops::ControlFlow;

use wire::id::{Ino, JournalIndex};
use wire::status::FsError;

use super::flaw::Tally;
use super::{Done, MOST_AHEAD, tell_of_none};
use crate::config::JOURNAL_ENTRIES_MOST;
use crate::machine::inodes;
use crate::machine::journal::{TRIM_MOST, has_begun};
use crate::machine::txn::{Do, Txn};
use crate::store::records::{Trim, decode};
use crate::store::{Read, keys};

/// The next inode gets a number beyond this one. What bricks have of the numbers in between is kept, as is what they have of those that
/// a lost state gave.
pub fn next_ino(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    let next = txn.counters.next_ino;
    if inodes::allow_given(txn) {
        tell_of_none(done, format!("the map allows inodes up to {next}, which were given"));
    }
    if ino.0 < next || ino.0 - next > MOST_AHEAD {
        return Ok(());
    }
    inodes::pass(txn, ino)?;
    tell_of_none(done, format!("numbers of inodes go on with {}, and not with {next}", ino.0 + 1));
    Ok(())
}

/// Chunks that are to be cut, and nobody owes it.
pub fn trim(txn: &mut Txn<'_>, ino: Ino, done: &mut Done) -> Do<()> {
    let key = keys::trim(ino);
    if txn.load::<Trim>(&key)?.is_some_and(|trim| trim.owed.is_empty()) {
        txn.delete(key);
        txn.counters.trims = txn.counters.trims.saturating_sub(1);
        tell_of_none(done, format!("a trim of inode {ino} that nobody owes is gone"));
    }
    Ok(())
}

/// The change journal begins where it has everything. Who wants to know of earlier changes is told that they are lost.
pub fn journal(txn: &mut Txn<'_>, first: JournalIndex, next: JournalIndex, done: &mut Done) -> Do<()> {
    let before = txn.journal;
    if !has_begun(&before) || next.0.saturating_sub(before.next.0) > JOURNAL_ENTRIES_MOST {
        return Ok(());
    }
    // What was noted since the survey has no gaps.
    txn.journal.next = before.next.max(next);
    txn.journal.first = before.first.max(first.min(txn.journal.next));
    if txn.journal != before {
        tell_of_none(
            done,
            format!(
                "the change journal begins at entry {} and goes on with {}: who watches looks at everything anew",
                txn.journal.first, txn.journal.next
            ),
        );
    }
    Ok(())
}

/// Drops entries from before the beginning of the change journal, a limited number.
pub fn old_changes(txn: &mut Txn<'_>, done: &mut Done) -> Do<()> {
    let mut old = Vec::new();
    txn.scan(&keys::journal(JournalIndex(0)), &keys::journal(txn.journal.first), &mut |key, value| {
        let index = JournalIndex(keys::first(key).unwrap_or_default());
        // One that can't be read names no directory; what that has of it is found there.
        old.push((index, decode::<Ino>(key, value).ok()));
        Ok(if old.len() < TRIM_MOST { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if !old.is_empty() {
        tell_of_none(done, format!("{} entries of before the change journal begins are gone", old.len()));
    }
    for (index, dir) in old {
        txn.delete(keys::journal(index));
        if let Some(dir) = dir {
            txn.delete(keys::change(dir, index));
        }
    }
    Ok(())
}

/// An entry of a directory that the change journal does not have.
pub fn change(txn: &mut Txn<'_>, dir: Ino, index: JournalIndex, done: &mut Done) -> Do<()> {
    let of: Option<Ino> = txn.load(&keys::journal(index))?;
    let is_kept = (txn.journal.first..txn.journal.next).contains(&index);
    let key = keys::change(dir, index);
    if (!is_kept || of != Some(dir)) && txn.get(&key)?.is_some() {
        txn.delete(key);
        tell_of_none(
            done,
            format!("entry {index} of directory {dir}, which the change journal does not have, is gone"),
        );
    }
    Ok(())
}

/// Counts right what was counted wrong, unless that was done since.
pub fn tally(txn: &mut Txn<'_>, tally: &Tally, done: &mut Done) -> Do<()> {
    let seen: u64 = txn.load(keys::TALLIES)?.unwrap_or_default();
    if seen != tally.seen {
        return Ok(());
    }
    let right = |counted: u64, by: i64| counted.checked_add_signed(by).ok_or(FsError::Invalid);
    let mut counters = txn.counters.clone();
    counters.inodes = right(counters.inodes, tally.inodes)?;
    counters.orphans = right(counters.orphans, tally.orphans)?;
    counters.trims = right(counters.trims, tally.trims)?;
    for (brick, by) in &tally.owed {
        let count = right(counters.owed.get(brick).copied().unwrap_or_default(), *by)?;
        counters.owed.insert(*brick, count);
    }
    counters.owed.retain(|_, count| *count > 0);
    if counters == txn.counters {
        return Ok(());
    }
    txn.put(keys::TALLIES.to_vec(), &(seen + 1))?;
    txn.counters = counters;
    tell_of_none(done, "inodes, those without a name, and trims are counted right".to_owned());
    Ok(())
}
