//! Everything against everything: names and inodes, listings, places, link counts, sizes of directories,
//! orphans, attributes, writers, counters, the map. Reads one moment of the state.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use wire::id::{BrickId, Ino, JournalIndex, LockGeneration, LockHandle, SessionId};
use wire::meta::{Change, FileKind, LockHeld};

use crate::config::CHECK_PROBLEMS;
use crate::error::Error;
use crate::machine::FIRST_COOKIE;
use crate::machine::journal;
use crate::machine::locks::all_held;
use crate::store::maps::decode_map;
use crate::store::records::{Counters, Entry, Inode, Listed, Place, Trim, decode};
use crate::store::{Read, keys};

/// What a check found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inodes looked at.
    pub inodes: u64,
    /// Entries looked at.
    pub entries: u64,
    /// What is wrong, at most [`CHECK_PROBLEMS`].
    pub problems: Vec<String>,
}

impl Report {
    fn wrong(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < CHECK_PROBLEMS {
            self.problems.push(problem());
        }
    }

    fn must(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.wrong(problem);
        }
    }
}

/// What is kept of an inode while names are counted.
struct Node {
    kind: FileKind,
    nlink: u32,
    size: u64,
    parent: Ino,
    next_cookie: u64,
    xattrs: u32,
    xattr_list_bytes: u32,
    names: u32,
    entries: u64,
    subdirs: u32,
    named_in: Ino,
    orphan: bool,
}

fn each(
    from: &dyn Read,
    tag: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    from.scan(tag, &keys::after(tag), &mut |key, value| {
        visit(key, value)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// Checks it all.
///
/// # Errors
/// If the disk fails; a record that cannot be read is a problem, not an error.
pub fn verify(state: &dyn Read) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut nodes = read_inodes(state, &mut report)?;
    read_names(state, &mut report, &mut nodes)?;
    read_listings(state, &mut report, &nodes)?;
    read_places(state, &mut report, &nodes)?;
    read_xattrs(state, &mut report, &nodes)?;
    each(state, b"O", |key, _| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        match nodes.get_mut(&ino) {
            Some(node) => node.orphan = true,
            None => report.wrong(|| format!("orphan {ino} does not exist")),
        }
        Ok(())
    })?;
    links(&mut report, &nodes);
    reachable(&mut report, &nodes);
    sessions(state, &mut report, &nodes)?;
    locks(state, &mut report, &nodes)?;
    counters(state, &mut report, &nodes)?;
    changes(state, &mut report)?;
    Ok(report)
}

fn record<T: serde::de::DeserializeOwned>(report: &mut Report, key: &[u8], value: &[u8]) -> Option<T> {
    match decode(key, value) {
        Ok(record) => Some(record),
        Err(error) => {
            report.wrong(|| error.to_string());
            None
        }
    }
}

fn read_inodes(state: &dyn Read, report: &mut Report) -> Result<HashMap<Ino, Node>, Error> {
    let mut nodes = HashMap::new();
    each(state, b"I", |key, value| {
        report.inodes += 1;
        let ino = Ino(keys::first(key).unwrap_or_default());
        let Some(inode) = record::<Inode>(report, key, value) else { return Ok(()) };
        report.must(inode.mtime_set.is_some() || inode.mtime <= inode.ctime, || {
            format!("inode {ino}: mtime is beyond ctime")
        });
        let node = Node {
            kind: inode.kind,
            nlink: inode.nlink,
            size: inode.size,
            parent: inode.parent,
            next_cookie: inode.next_cookie.0,
            xattrs: inode.xattrs,
            xattr_list_bytes: inode.xattr_list_bytes,
            names: 0,
            entries: 0,
            subdirs: 0,
            named_in: Ino(0),
            orphan: false,
        };
        nodes.insert(ino, node);
        Ok(())
    })?;
    report.must(nodes.get(&Ino::ROOT).is_some_and(|n| n.kind == FileKind::Directory), || {
        "there is no root directory".to_owned()
    });
    Ok(nodes)
}

fn read_names(state: &dyn Read, report: &mut Report, nodes: &mut HashMap<Ino, Node>) -> Result<(), Error> {
    each(state, b"D", |key, value| {
        report.entries += 1;
        let parent = Ino(keys::first(key).unwrap_or_default());
        let shown = || keys::rest(key).escape_ascii().to_string();
        let Some(entry) = record::<Entry>(report, key, value) else { return Ok(()) };
        match nodes.get_mut(&entry.ino) {
            None => report.wrong(|| format!("{parent}/{}: inode {} does not exist", shown(), entry.ino)),
            Some(node) => {
                node.names += 1;
                node.named_in = parent;
                report.must(node.kind == entry.kind, || {
                    format!("{parent}/{}: is {:?} by name and {:?} by inode", shown(), entry.kind, node.kind)
                });
            }
        }
        match nodes.get_mut(&parent) {
            Some(dir) if dir.kind == FileKind::Directory => {
                dir.entries += 1;
                dir.subdirs += u32::from(entry.kind == FileKind::Directory);
                report.must((FIRST_COOKIE.0..dir.next_cookie).contains(&entry.cookie.0), || {
                    format!("{parent}/{}: cookie {} was never given", shown(), entry.cookie)
                });
            }
            _ => report.wrong(|| format!("{parent}/{}: {parent} is no directory", shown())),
        }
        let listed = state.get(&keys::listed(parent, entry.cookie))?;
        let agrees = listed.and_then(|v| record::<Listed>(report, key, &v)).is_some_and(|l| {
            l.ino == entry.ino && l.kind == entry.kind && l.name.as_bytes() == keys::rest(key)
        });
        report.must(agrees, || format!("{parent}/{}: the listing does not have it", shown()));
        Ok(())
    })
}

fn read_listings(state: &dyn Read, report: &mut Report, nodes: &HashMap<Ino, Node>) -> Result<(), Error> {
    let mut listed: HashMap<Ino, u64> = HashMap::new();
    each(state, b"R", |key, _| {
        *listed.entry(Ino(keys::first(key).unwrap_or_default())).or_default() += 1;
        Ok(())
    })?;
    // Every entry is listed, so equal numbers mean that nothing else is.
    for (dir, count) in &listed {
        let entries = nodes.get(dir).map_or(0, |n| n.entries);
        report.must(*count == entries, || format!("directory {dir}: lists {count}, has {entries} entries"));
    }
    Ok(())
}

fn read_places(state: &dyn Read, report: &mut Report, nodes: &HashMap<Ino, Node>) -> Result<(), Error> {
    each(state, b"P", |key, value| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let Some(place) = record::<Place>(report, key, value) else { return Ok(()) };
        let listed = state.get(&keys::listed(place.parent, place.cookie))?;
        let is_there = listed.and_then(|v| record::<Listed>(report, key, &v)).is_some_and(|l| l.ino == ino);
        report.must(is_there && nodes.contains_key(&ino), || {
            format!("inode {ino}: has no name at place {} of directory {}", place.cookie, place.parent)
        });
        Ok(())
    })
}

fn read_xattrs(state: &dyn Read, report: &mut Report, nodes: &HashMap<Ino, Node>) -> Result<(), Error> {
    let mut found: HashMap<Ino, (u32, u32)> = HashMap::new();
    each(state, b"X", |key, _| {
        let sums = found.entry(Ino(keys::first(key).unwrap_or_default())).or_default();
        sums.0 += 1;
        sums.1 += keys::rest(key).len() as u32 + 1;
        Ok(())
    })?;
    for (ino, node) in nodes {
        let sums = found.remove(ino).unwrap_or_default();
        report.must(sums == (node.xattrs, node.xattr_list_bytes), || {
            format!("inode {ino}: counts {} extended attributes, has {}", node.xattrs, sums.0)
        });
    }
    for ino in found.keys() {
        report.wrong(|| format!("extended attributes of inode {ino}, which does not exist"));
    }
    Ok(())
}

fn links(report: &mut Report, nodes: &HashMap<Ino, Node>) {
    for (ino, node) in nodes {
        let root = *ino == Ino::ROOT;
        report.must(node.orphan == (node.nlink == 0), || {
            format!("inode {ino}: link count {} and orphan: {}", node.nlink, node.orphan)
        });
        if node.kind != FileKind::Directory {
            report.must(node.nlink == node.names, || {
                format!("inode {ino}: link count {}, {} names", node.nlink, node.names)
            });
            continue;
        }
        report.must(node.size == node.entries, || {
            format!("directory {ino}: size {}, {} entries", node.size, node.entries)
        });
        report.must(node.orphan || node.nlink == 2 + node.subdirs, || {
            format!("directory {ino}: link count {}, {} subdirectories", node.nlink, node.subdirs)
        });
        report.must(!node.orphan || node.entries == 0, || format!("directory {ino}: removed with entries"));
        let names = u32::from(!root && !node.orphan);
        report.must(node.names == names, || format!("directory {ino}: {} names", node.names));
        report.must(root || node.orphan || node.parent == node.named_in, || {
            format!("directory {ino}: is in {}, says {}", node.named_in, node.parent)
        });
    }
}

/// Every directory with a name leads up to the root; files follow from their names.
fn reachable(report: &mut Report, nodes: &HashMap<Ino, Node>) {
    let mut known: HashSet<Ino> = HashSet::from([Ino::ROOT]);
    for (ino, node) in nodes {
        if node.kind != FileKind::Directory || node.orphan {
            continue;
        }
        let mut path = Vec::new();
        let mut at = *ino;
        while !known.contains(&at) && path.len() <= nodes.len() {
            path.push(at);
            match nodes.get(&at) {
                Some(node) => at = node.named_in,
                None => break,
            }
        }
        if known.contains(&at) {
            known.extend(path);
        } else {
            report.wrong(|| format!("directory {ino} cannot be reached from the root"));
        }
    }
}

fn sessions(state: &dyn Read, report: &mut Report, nodes: &HashMap<Ino, Node>) -> Result<(), Error> {
    let mut known = HashSet::new();
    each(state, b"S", |key, _| {
        known.insert(SessionId(keys::first(key).unwrap_or_default()));
        Ok(())
    })?;
    each(state, b"W", |key, _| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let session = SessionId(keys::second(key).unwrap_or_default());
        report.must(known.contains(&session), || {
            format!("inode {ino} is open for writing in session {session}, which is over")
        });
        report.must(nodes.get(&ino).is_some_and(|n| n.kind == FileKind::File), || {
            format!("inode {ino} is open for writing and no file")
        });
        Ok(())
    })?;
    each(state, b"Q", |key, _| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let is_written = state.any(&keys::writers(ino))?;
        report
            .must(is_written, || format!("a cut of inode {ino} is kept, and nobody has it open for writing"));
        Ok(())
    })?;
    for tag in [b"A", b"U"] {
        each(state, tag, |key, _| {
            let session = SessionId(keys::first(key).unwrap_or_default());
            report.must(known.contains(&session), || format!("answers of session {session}, which is over"));
            Ok(())
        })?;
    }
    Ok(())
}

/// The journal has every entry from its first to its last one, and every directory its own.
fn changes(state: &dyn Read, report: &mut Report) -> Result<(), Error> {
    let journal = journal::read(state)?;
    let mut next = journal.first;
    each(state, b"J", |key, value| {
        let index = JournalIndex(keys::first(key).unwrap_or_default());
        report.must(index == next, || format!("change journal: entry {index} comes where {next} should"));
        next = JournalIndex(index.0.saturating_add(1));
        let Some(dir) = record::<Ino>(report, key, value) else { return Ok(()) };
        let change = state.get(&keys::change(dir, index))?;
        let is_there = change.is_some_and(|value| record::<Change>(report, key, &value).is_some());
        report.must(is_there, || format!("change journal: directory {dir} does not have entry {index}"));
        Ok(())
    })?;
    report.must(next == journal.next, || {
        format!("change journal: it ends before {next}, and is said to before {}", journal.next)
    });
    let mut of_dirs = 0;
    each(state, b"E", |_, _| {
        of_dirs += 1;
        Ok(())
    })?;
    let entries = journal.next.0.saturating_sub(journal.first.0);
    report.must(of_dirs == entries, || {
        format!("change journal: {entries} entries, {of_dirs} in the directories")
    });
    Ok(())
}

/// What is held excludes nobody who holds something, is of files and sessions that exist, and every session
/// knows where it holds something.
fn locks(state: &dyn Read, report: &mut Report, nodes: &HashMap<Ino, Node>) -> Result<(), Error> {
    let mut holds: HashSet<(SessionId, Ino)> = HashSet::new();
    let mut last: LockGeneration = LockGeneration(0);
    each(state, b"L", |key, value| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let Some(held) = record::<Vec<LockHeld>>(report, key, value) else { return Ok(()) };
        report.must(nodes.contains_key(&ino), || format!("locks on inode {ino}, which does not exist"));
        report.must(!held.is_empty(), || format!("no locks on inode {ino}, and a record of them"));
        for (at, lock) in held.iter().enumerate() {
            holds.insert((lock.session, ino));
            last = last.max(lock.generation);
            let clash = held[at + 1..].iter().any(|other| {
                let same = (other.session, other.owner) == (lock.session, lock.owner);
                lock.range.overlaps(other.range) && (same || lock.mode.excludes(other.mode))
            });
            report.must(!clash, || format!("inode {ino}: locks that exclude each other"));
        }
        Ok(())
    })?;
    each(state, b"H", |key, _| {
        let session = SessionId(keys::first(key).unwrap_or_default());
        let ino = Ino(keys::second(key).unwrap_or_default());
        report.must(holds.remove(&(session, ino)), || {
            format!("session {session} is said to hold locks on inode {ino}, and holds none")
        });
        report.must(state.get(&keys::session(session))?.is_some(), || {
            format!("session {session}, which is over, holds locks on inode {ino}")
        });
        Ok(())
    })?;
    each(state, b"B", |key, value| {
        let session = SessionId(keys::first(key).unwrap_or_default());
        let ino = Ino(keys::second(key).unwrap_or_default());
        let Some(recalled) = record::<Vec<LockHandle>>(report, key, value) else { return Ok(()) };
        let held = all_held(state, ino)?;
        let holds = |handle| held.iter().any(|(_, lock)| (lock.session, lock.handle) == (session, handle));
        report.must(!recalled.is_empty() && recalled.iter().all(|handle| holds(*handle)), || {
            format!("session {session} is to give up locks on inode {ino} that it does not hold")
        });
        Ok(())
    })?;
    for (session, ino) in holds {
        report.wrong(|| format!("session {session} holds locks on inode {ino} and does not know"));
    }
    let given: LockGeneration = match state.get(keys::LOCK_GENERATION)? {
        Some(value) => record(report, keys::LOCK_GENERATION, &value).unwrap_or_default(),
        None => LockGeneration::default(),
    };
    report.must(last <= given, || format!("lock generation {last} was given before its turn"));
    Ok(())
}

fn counters(state: &dyn Read, report: &mut Report, nodes: &HashMap<Ino, Node>) -> Result<(), Error> {
    let mut owed: BTreeMap<BrickId, u64> = BTreeMap::new();
    let mut trims = 0;
    each(state, b"T", |key, value| {
        trims += 1;
        let Some(trim) = record::<Trim>(report, key, value) else { return Ok(()) };
        for brick in trim.owed.keys() {
            *owed.entry(*brick).or_default() += 1;
        }
        report.must(!trim.owed.is_empty(), || format!("trim {}: nobody owes it", key.escape_ascii()));
        Ok(())
    })?;
    let counters = state.get(keys::COUNTERS)?.and_then(|v| record::<Counters>(report, keys::COUNTERS, &v));
    match &counters {
        None => report.wrong(|| "the counters are missing".to_owned()),
        Some(counters) => {
            let orphans = nodes.values().filter(|n| n.orphan).count() as u64;
            let counted = (counters.inodes, counters.orphans, counters.trims);
            let found = (nodes.len() as u64, orphans, trims);
            report.must(counted == found, || {
                format!("counted inodes, orphans and trims {counted:?}, found {found:?}")
            });
            report.must(counters.owed == owed, || {
                format!("counted trims owed {:?}, found {owed:?}", counters.owed)
            });
            let highest = nodes.keys().max().copied().unwrap_or_default();
            report
                .must(highest.0 < counters.next_ino, || format!("inode {highest} was given before its turn"));
        }
    }
    match state.get(keys::MAP)?.map(|bytes| decode_map(keys::MAP, &bytes)) {
        None => report.wrong(|| "the cluster map is missing".to_owned()),
        Some(Err(error)) => report.wrong(|| error.to_string()),
        Some(Ok(map)) => {
            let given = counters.map_or(0, |counters| counters.next_ino);
            report.must(map.inodes_below == 0 || given <= map.inodes_below, || {
                format!("inodes are given up to {given}, the map allows them below {}", map.inodes_below)
            });
            if let Err(problem) = map.verify() {
                report.wrong(|| format!("cluster map: {problem}"));
            }
        }
    }
    Ok(())
}
