//! Numbers given and counted, the map, the change journal.

use std::collections::BTreeMap;

use wire::id::{BrickId, Ino, JournalIndex};
use wire::meta::Change;

use super::names::Nodes;
use super::{Report, each, record};
use crate::config::JOURNAL_ENTRIES_MOST;
use crate::error::Error;
use crate::machine::journal::{self, TRIM_MOST, has_begun};
use crate::machine::repair::flaw::Tally;
use crate::machine::repair::{Flaw, MOST_AHEAD};
use crate::store::maps::decode_map;
use crate::store::records::{Counters, Trim, decode};
use crate::store::{Read, keys};

/// What is missing from what was counted.
fn by(found: u64, counted: u64) -> i64 {
    let difference = i128::from(found) - i128::from(counted);
    i64::try_from(difference).unwrap_or_default()
}

/// Gives the next number of an inode, where that is known.
pub(super) fn counters(state: &dyn Read, report: &mut Report, nodes: &Nodes) -> Result<Option<u64>, Error> {
    let mut owed: BTreeMap<BrickId, u64> = BTreeMap::new();
    let mut trims = 0;
    let mut is_known = true;
    each(state, b"T", |key, value| {
        trims += 1;
        let Some(trim) = record::<Trim>(report, key, value) else {
            is_known = false;
            return Ok(());
        };
        for brick in trim.owed.keys() {
            *owed.entry(*brick).or_default() += 1;
        }
        report.should(!trim.owed.is_empty(), || {
            let ino = Ino(keys::first(key).unwrap_or_default());
            (format!("trim {}: nobody owes it", key.escape_ascii()), Flaw::Trim(ino))
        });
        Ok(())
    })?;
    let counters = state.get(keys::COUNTERS)?;
    let Some(counters) = counters.and_then(|v| record::<Counters>(report, keys::COUNTERS, &v)) else {
        report.wrong("the counters are missing".to_owned());
        return Ok(None);
    };
    let orphans = nodes.all.values().filter(|n| n.orphan).count() as u64;
    let counted = (counters.inodes, counters.orphans, counters.trims);
    let found = (report.inodes, orphans, trims);
    let is_right = counted == found && counters.owed == owed;
    report
        .must(counted == found, || format!("counted inodes, orphans and trims {counted:?}, found {found:?}"));
    report.must(counters.owed == owed, || format!("counted trims owed {:?}, found {owed:?}", counters.owed));
    let seen = match state.get(keys::TALLIES)? {
        Some(value) => record::<u64>(report, keys::TALLIES, &value),
        None => Some(0),
    };
    if !is_right
        && is_known
        && let Some(seen) = seen
    {
        let bricks = owed.keys().chain(counters.owed.keys()).copied();
        let of = |map: &BTreeMap<BrickId, u64>, brick| map.get(&brick).copied().unwrap_or_default();
        let owed = bricks.map(|brick| (brick, by(of(&owed, brick), of(&counters.owed, brick))));
        report.flaw(Flaw::Tally(Tally {
            seen,
            inodes: by(found.0, counted.0),
            orphans: by(found.1, counted.1),
            trims: by(found.2, counted.2),
            owed: owed.filter(|(_, by)| *by != 0).collect(),
        }));
    }
    let highest = nodes.all.keys().next_back().copied().unwrap_or_default();
    report.must(highest.0 < counters.next_ino, || format!("inode {highest} was given before its turn"));
    let ahead = highest.max(nodes.highest_named);
    if ahead.0 >= counters.next_ino && ahead.0 - counters.next_ino <= MOST_AHEAD {
        report.flaw(Flaw::NextIno(ahead));
    } else if highest.0 >= counters.next_ino && highest.0 - counters.next_ino <= MOST_AHEAD {
        report.flaw(Flaw::NextIno(highest));
    }
    Ok(Some(counters.next_ino))
}

pub(super) fn map(state: &dyn Read, report: &mut Report, next_ino: Option<u64>) -> Result<(), Error> {
    match state.get(keys::MAP)?.map(|bytes| decode_map(keys::MAP, &bytes)) {
        None => report.wrong("the cluster map is missing".to_owned()),
        Some(Err(error)) => report.wrong(error.to_string()),
        Some(Ok(map)) => {
            let given = next_ino.unwrap_or_default();
            report.should(map.inodes_below == 0 || given <= map.inodes_below, || {
                (
                    format!("inodes are given up to {given}, the map allows them below {}", map.inodes_below),
                    Flaw::NextIno(Ino(given.saturating_sub(1))),
                )
            });
            if let Err(problem) = map.verify() {
                report.wrong(format!("cluster map: {problem}"));
            }
        }
    }
    Ok(())
}

/// The journal has every entry from its first to its last one, and every directory its own.
pub(super) fn changes(state: &dyn Read, report: &mut Report) -> Result<(), Error> {
    let journal = journal::read(state)?;
    // From here on everything is there.
    let mut whole = journal.first;
    let mut next = journal.first;
    let mut old = 0usize;
    each(state, b"J", |key, value| {
        let index = JournalIndex(keys::first(key).unwrap_or_default());
        old += usize::from(index < journal.first);
        report.must(index == next, || format!("change journal: entry {index} comes where {next} should"));
        if index != next {
            whole = whole.max(index);
        }
        next = JournalIndex(index.0.saturating_add(1));
        let Some(dir) = record::<Ino>(report, key, value) else {
            whole = whole.max(next);
            return Ok(());
        };
        let change = state.get(&keys::change(dir, index))?;
        let is_there = change.is_some_and(|value| record::<Change>(report, key, &value).is_some());
        report.must(is_there, || format!("change journal: directory {dir} does not have entry {index}"));
        if !is_there {
            whole = whole.max(next);
        }
        Ok(())
    })?;
    report.must(next == journal.next, || {
        format!("change journal: it ends before {next}, and is said to before {}", journal.next)
    });
    if next < journal.next {
        whole = journal.next;
    }
    let mut of_dirs = 0;
    let mut strays = Vec::new();
    each(state, b"E", |key, _| {
        of_dirs += 1;
        let dir = Ino(keys::first(key).unwrap_or_default());
        let index = JournalIndex(keys::second(key).unwrap_or_default());
        let of = state.get(&keys::journal(index))?.and_then(|value| decode::<Ino>(key, &value).ok());
        if of != Some(dir) {
            strays.push((dir, index));
        }
        Ok(())
    })?;
    let entries = journal.next.0.saturating_sub(journal.first.0);
    report.must(of_dirs == entries, || {
        format!("change journal: {entries} entries, {of_dirs} in the directories")
    });
    if !has_begun(&journal) {
        return Ok(());
    }
    let end = next.max(journal.next);
    if (whole > journal.first || end != journal.next) && end.0 - journal.next.0 <= JOURNAL_ENTRIES_MOST {
        report.flaw(Flaw::Journal { first: whole.min(end), next: end });
    }
    for order in 0..u32::try_from(old.div_ceil(TRIM_MOST)).unwrap_or(u32::MAX) {
        report.flaw(Flaw::OldChanges(order));
    }
    for (dir, index) in strays {
        report.flaw(Flaw::Change { dir, index });
    }
    Ok(())
}
