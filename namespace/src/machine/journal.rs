//! The change journal: what happened to the names of every directory, written with the change itself.
//!
//! 1. An entry is written in the batch of its change or not at all; its index is the next one, on every member
//!    (`the_journal_gives_every_listing`, and `Machine`'s own laws).
//! 2. Whoever has a directory's listing of an index gets the later ones by the entries after it
//!    (`the_journal_gives_every_listing`).
//! 3. The journal keeps no more entries than its limits say and a few hundred, and what it dropped it does not
//!    pretend to have (`a_journal_is_cut_to_its_limits`, `what_is_not_kept_is_lost`).
//! 4. It says nothing of a change that was refused (`the_journal_gives_every_listing`).
//!
//! 5. A state of before there was a journal gets one by a command: members that came to this program at different
//!    entries of the log would not have the same one (`a_state_without_a_journal_gets_one`).
//!
//! An index is the journal's own and not the place of a command in the log: the log of a cluster begins anew when
//! `recover` makes it of one member that is left, and indexes must not go back.

use std::ops::ControlFlow;

use wire::id::{Ino, JournalIndex};
use wire::meta::{Change, Changes, FileKind, Journal, JournalChange, Name, WATCH_NAME, What};
use wire::status::{FsError, Status};

use crate::config::{JOURNAL_AGE_S, JOURNAL_ENTRIES, JOURNAL_ENTRIES_MOST};
use crate::error::Error;
use crate::machine::txn::{Do, Txn, load};
use crate::store::records::{Inode, Listed, Place, decode};
use crate::store::{Read, keys};

/// Entries between two looks at what is to be dropped.
pub const TRIM_EVERY: u64 = 256;
/// Most entries dropped at a look: more than come between two, so that smaller limits are reached.
pub const TRIM_MOST: usize = 1024;

/// A journal in which nothing has happened.
pub fn empty() -> Journal {
    Journal {
        first: JournalIndex(1),
        next: JournalIndex(1),
        most_entries: JOURNAL_ENTRIES,
        most_age_s: JOURNAL_AGE_S,
    }
}

/// What the first entry gets in a state in which things have happened that the journal does not have: entry 1 is one that is
/// not kept.
const AFTER_UNKNOWN: JournalIndex = JournalIndex(2);

/// What the journal holds. In a state of before there was one it has not begun.
///
/// # Errors
/// If the state cannot be read.
pub fn read(state: &dyn Read) -> Result<Journal, Error> {
    let none = || Journal { first: JournalIndex(0), next: JournalIndex(0), ..empty() };
    Ok(load(state, keys::JOURNAL)?.unwrap_or_else(none))
}

/// Whether changes are noted: not before the journal has begun.
pub fn has_begun(journal: &Journal) -> bool {
    journal.next != JournalIndex(0)
}

/// Refuses the one name that is not to be made.
pub fn check_name(name: &Name) -> Result<(), FsError> {
    if name.as_bytes() == WATCH_NAME { Err(FsError::NotPermitted) } else { Ok(()) }
}

/// Notes what happened to a name of a directory.
pub fn note(txn: &mut Txn<'_>, dir: Ino, name: &Name, (ino, kind): (Ino, FileKind), what: What) -> Do<()> {
    if !has_begun(&txn.journal) {
        return Ok(());
    }
    let index = txn.journal.next;
    txn.journal.next = JournalIndex(index.0 + 1);
    let change = Change { at: txn.at, name: name.clone(), ino, kind, what };
    txn.put(keys::change(dir, index), &change)?;
    txn.put(keys::journal(index), &dir)?;
    txn.effects.changed.push(dir);
    if index.0.is_multiple_of(TRIM_EVERY) { trim(txn) } else { Ok(()) }
}

/// Notes what happened to an inode, where its newest name is; nothing if it has none.
pub fn note_inode(txn: &mut Txn<'_>, ino: Ino, kind: FileKind, what: What) -> Do<()> {
    let Some(place) = txn.load::<Place>(&keys::place(ino))? else { return Ok(()) };
    let listed: Option<Listed> = txn.load(&keys::listed(place.parent, place.cookie))?;
    match listed {
        Some(listed) => note(txn, place.parent, &listed.name, (ino, kind), what),
        None => Ok(()),
    }
}

/// Drops what is beyond the limits, the oldest first.
fn trim(txn: &mut Txn<'_>) -> Do<()> {
    let Journal { first, next, most_entries, most_age_s } = txn.journal;
    let kept_from = next.0.saturating_sub(most_entries);
    let age_s = i64::try_from(most_age_s).unwrap_or(i64::MAX);
    let oldest_s = txn.at.secs.saturating_sub(age_s);
    let mut dropped = Vec::new();
    let state: &Txn<'_> = txn;
    state.scan(&keys::journal(first), &keys::journal(next), &mut |key, value| {
        let index = JournalIndex(keys::first(key).unwrap_or_default());
        let dir: Ino = decode(key, value)?;
        if index.0 >= kept_from {
            let change: Option<Change> = load(state, &keys::change(dir, index))?;
            if change.is_some_and(|change| change.at.secs >= oldest_s) {
                return Ok(ControlFlow::Break(()));
            }
        }
        dropped.push((index, dir));
        let more = dropped.len() < TRIM_MOST;
        Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    for (index, dir) in dropped {
        txn.delete(keys::journal(index));
        txn.delete(keys::change(dir, index));
        txn.journal.first = JournalIndex(index.0 + 1);
    }
    Ok(())
}

/// Changes the limits. A journal that has not begun begins here.
pub fn configure(txn: &mut Txn<'_>, change: &JournalChange) -> Do<Journal> {
    let journal = &mut txn.journal;
    if !has_begun(journal) {
        (journal.first, journal.next) = (AFTER_UNKNOWN, AFTER_UNKNOWN);
    }
    journal.most_entries = change.most_entries.unwrap_or(journal.most_entries);
    journal.most_age_s = change.most_age_s.unwrap_or(journal.most_age_s);
    if !(TRIM_EVERY..=JOURNAL_ENTRIES_MOST).contains(&journal.most_entries) || journal.most_age_s == 0 {
        return Err(Status::Malformed.into());
    }
    trim(txn)?;
    Ok(txn.journal)
}

/// What changed in a directory after an index, at most so many entries. `state` must be one moment's.
///
/// # Errors
/// If it is no directory, or the state cannot be read; "busy" while the journal has not begun.
pub fn changes(state: &dyn Read, dir: Ino, after: Option<JournalIndex>, most: usize) -> Do<Changes> {
    let journal = read(state)?;
    if !has_begun(&journal) {
        return Err(Status::Busy.into());
    }
    let newest = journal.newest();
    let gone = match load::<Inode>(state, &keys::inode(dir))? {
        Some(inode) if inode.kind != FileKind::Directory => return Err(FsError::NotDirectory.into()),
        Some(inode) => inode.nlink == 0,
        None if after.is_none() => return Err(FsError::Stale.into()),
        // It was freed; what happened in it is still there.
        None => true,
    };
    let mut told = Changes { changes: Vec::new(), until: newest, lost: false, gone };
    let Some(after) = after else { return Ok(told) };
    if !journal.reaches(after) {
        told.lost = true;
        return Ok(told);
    }
    let from = keys::change(dir, JournalIndex(after.0 + 1));
    state.scan(&from, &keys::after(&keys::changes(dir)), &mut |key, value| {
        if told.changes.len() == most {
            told.gone = false;
            return Ok(ControlFlow::Break(()));
        }
        let index = JournalIndex(keys::second(key).unwrap_or_default());
        told.changes.push((index, decode(key, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    if told.changes.len() == most
        && let Some((last, _)) = told.changes.last()
    {
        told.until = *last;
    }
    Ok(told)
}
