//! Inodes and their names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use wire::id::{DirCookie, Ino};
use wire::meta::{FileKind, Name, Timestamp};

use super::{Report, each, record};
use crate::error::Error;
use crate::machine::FIRST_COOKIE;
use crate::machine::repair::Flaw;
use crate::machine::repair::flaw::{Count, LostDir, Named};
use crate::machine::txn::load;
use crate::store::records::{Entry, Inode, Listed, Place, decode};
use crate::store::{Read, keys};

/// What is kept of an inode while names are counted.
pub(super) struct Node {
    pub kind: FileKind,
    pub orphan: bool,
    nlink: u32,
    size: u64,
    ctime: Timestamp,
    parent: Ino,
    next_cookie: u64,
    xattrs: u32,
    xattr_list_bytes: u32,
    names: u32,
    entries: u64,
    subdirs: u32,
    named_in: Ino,
}

impl Node {
    fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Names it may have, of directories.
    fn most_names(&self, ino: Ino) -> u32 {
        u32::from(ino != Ino::ROOT)
    }
}

/// All inodes, and what is not known of them.
#[derive(Default)]
pub(super) struct Nodes {
    /// Those that can be read.
    pub all: BTreeMap<Ino, Node>,
    /// Those that can't.
    unreadable: BTreeSet<Ino>,
    /// Directories that are not there, and that something speaks of.
    missing: BTreeMap<Ino, LostDir>,
    /// The highest number that a name has.
    pub highest_named: Ino,
    /// Names could not be read: how many an inode has is not known.
    blind: bool,
}

impl Nodes {
    /// Whether there is an inode, if only one that can't be read.
    pub fn exists(&self, ino: Ino) -> bool {
        self.all.contains_key(&ino) || self.unreadable.contains(&ino)
    }

    pub fn read(state: &dyn Read, report: &mut Report) -> Result<Nodes, Error> {
        let mut nodes = Nodes::default();
        each(state, b"I", |key, value| {
            report.inodes += 1;
            let ino = Ino(keys::first(key).unwrap_or_default());
            let Some(inode) = record::<Inode>(report, key, value) else {
                nodes.unreadable.insert(ino);
                return Ok(());
            };
            report.should(inode.mtime_set.is_some() || inode.mtime <= inode.ctime, || {
                (format!("inode {ino}: mtime is beyond ctime"), Flaw::Inode(ino))
            });
            let begins = inode.kind != FileKind::Directory || inode.next_cookie >= FIRST_COOKIE;
            report.should(begins, || {
                let next = inode.next_cookie;
                (
                    format!("directory {ino}: its listing goes on with {next}, which is none of its"),
                    Flaw::Inode(ino),
                )
            });
            let node = Node {
                kind: inode.kind,
                orphan: false,
                nlink: inode.nlink,
                size: inode.size,
                ctime: inode.ctime,
                parent: inode.parent,
                next_cookie: inode.next_cookie.0,
                xattrs: inode.xattrs,
                xattr_list_bytes: inode.xattr_list_bytes,
                names: 0,
                entries: 0,
                subdirs: 0,
                named_in: Ino(0),
            };
            nodes.all.insert(ino, node);
            Ok(())
        })?;
        let is_dir = nodes.all.get(&Ino::ROOT).is_some_and(Node::is_dir);
        report.must(is_dir || nodes.unreadable.contains(&Ino::ROOT), || {
            "there is no root directory".to_owned()
        });
        if !nodes.exists(Ino::ROOT) {
            nodes.miss(Ino::ROOT);
        }
        Ok(nodes)
    }

    /// A directory is missing.
    fn miss(&mut self, ino: Ino) -> &mut LostDir {
        let none = || LostDir { ino, next_cookie: FIRST_COOKIE, ..LostDir::default() };
        self.missing.entry(ino).or_insert_with(none)
    }
}

/// The name in a key of an entry.
fn name_of(key: &[u8]) -> Option<Name> {
    Name::new(Bytes::copy_from_slice(keys::rest(key))).ok()
}

pub(super) fn read_names(state: &dyn Read, report: &mut Report, nodes: &mut Nodes) -> Result<(), Error> {
    each(state, b"D", |key, value| {
        report.entries += 1;
        let parent = Ino(keys::first(key).unwrap_or_default());
        let shown = || keys::rest(key).escape_ascii().to_string();
        let Some(entry) = record::<Entry>(report, key, value) else {
            nodes.blind = true;
            return Ok(());
        };
        let Some(name) = name_of(key) else {
            report.wrong(format!("{parent}/{}: is no name", shown()));
            nodes.blind = true;
            return Ok(());
        };
        let flaw = || Flaw::Entry { parent, name: name.clone() };
        nodes.highest_named = nodes.highest_named.max(entry.ino);
        let is_dir = entry.kind == FileKind::Directory;
        if let Some(node) = nodes.all.get_mut(&entry.ino) {
            node.names += 1;
            node.named_in = parent;
            let kind = node.kind;
            report.should(kind == entry.kind, || {
                (format!("{parent}/{}: is {:?} by name and {kind:?} by inode", shown(), entry.kind), flaw())
            });
        } else if !nodes.unreadable.contains(&entry.ino) {
            report.wrong(format!("{parent}/{}: inode {} does not exist", shown(), entry.ino));
            if is_dir {
                nodes.miss(entry.ino).named.get_or_insert_with(|| (parent, name.clone()));
            } else {
                report.flaw(flaw());
            }
        }
        match nodes.all.get_mut(&parent) {
            Some(dir) if dir.is_dir() => {
                dir.entries += 1;
                dir.subdirs += u32::from(is_dir);
                let was_given = (FIRST_COOKIE.0..dir.next_cookie).contains(&entry.cookie.0);
                report.should(was_given, || {
                    (format!("{parent}/{}: cookie {} was never given", shown(), entry.cookie), flaw())
                });
            }
            None if nodes.unreadable.contains(&parent) => {}
            none => {
                if none.is_none() {
                    let missing = nodes.miss(parent);
                    missing.entries += 1;
                    missing.subdirs += u32::from(is_dir);
                    let beyond = DirCookie(entry.cookie.0.saturating_add(1));
                    missing.next_cookie = missing.next_cookie.max(beyond);
                }
                report.wrong(format!("{parent}/{}: {parent} is no directory", shown()));
            }
        }
        let listed = state.get(&keys::listed(parent, entry.cookie))?;
        let agrees = listed
            .and_then(|v| record::<Listed>(report, key, &v))
            .is_some_and(|l| l.ino == entry.ino && l.kind == entry.kind && l.name == name);
        report.should(agrees, || (format!("{parent}/{}: the listing does not have it", shown()), flaw()));
        Ok(())
    })
}

/// What is to be made anew.
pub(super) fn missing_dirs(report: &mut Report, nodes: &Nodes) {
    for missing in nodes.missing.values() {
        report.flaw(Flaw::Dir(missing.clone()));
    }
}

pub(super) fn read_listings(state: &dyn Read, report: &mut Report, nodes: &Nodes) -> Result<(), Error> {
    let mut listed: BTreeMap<Ino, u64> = BTreeMap::new();
    each(state, b"R", |key, _| {
        *listed.entry(Ino(keys::first(key).unwrap_or_default())).or_default() += 1;
        Ok(())
    })?;
    // Every entry is listed, so equal numbers mean that nothing else is.
    for (dir, count) in listed {
        let missing = || nodes.missing.get(&dir).map(|missing| missing.entries);
        let entries = nodes.all.get(&dir).map(|n| n.entries).or_else(missing).unwrap_or(0);
        if count == entries || nodes.unreadable.contains(&dir) {
            continue;
        }
        report.wrong(format!("directory {dir}: lists {count}, has {entries} entries"));
        each(state, &keys::listing(dir), |key, value| {
            let Some(listed) = record::<Listed>(report, key, value) else { return Ok(()) };
            let cookie = DirCookie(keys::second(key).unwrap_or_default());
            let entry = state.get(&keys::entry(dir, &listed.name))?;
            let is_name = match entry.map(|value| decode::<Entry>(key, &value)) {
                Some(Ok(entry)) => entry.cookie == cookie,
                // Told with the names.
                Some(Err(_)) => true,
                None => false,
            };
            if !is_name {
                let node = nodes.all.get(&listed.ino).filter(|_| !nodes.blind);
                let short =
                    node.filter(|node| !node.is_dir() && node.nlink > node.names).map(|node| node.ctime);
                report.flaw(Flaw::Listed { parent: dir, cookie, short });
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn read_xattrs(state: &dyn Read, report: &mut Report, nodes: &Nodes) -> Result<(), Error> {
    let mut found: BTreeMap<Ino, (u32, u32)> = BTreeMap::new();
    each(state, b"X", |key, _| {
        let sums = found.entry(Ino(keys::first(key).unwrap_or_default())).or_default();
        sums.0 = sums.0.saturating_add(1);
        sums.1 = sums.1.saturating_add(keys::rest(key).len() as u32 + 1);
        Ok(())
    })?;
    for (ino, node) in &nodes.all {
        let sums = found.remove(ino).unwrap_or_default();
        report.should(sums == (node.xattrs, node.xattr_list_bytes), || {
            (
                format!("inode {ino}: counts {} extended attributes, has {}", node.xattrs, sums.0),
                Flaw::Inode(*ino),
            )
        });
    }
    for ino in found.into_keys().filter(|ino| !nodes.exists(*ino)) {
        report.wrong(format!("extended attributes of inode {ino}, which does not exist"));
        report.flaw(Flaw::Xattrs(ino));
    }
    Ok(())
}

pub(super) fn read_orphans(state: &dyn Read, report: &mut Report, nodes: &mut Nodes) -> Result<(), Error> {
    each(state, b"O", |key, _| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        report.should(nodes.exists(ino), || (format!("orphan {ino} does not exist"), Flaw::Orphan(ino)));
        if let Some(node) = nodes.all.get_mut(&ino) {
            node.orphan = true;
        }
        Ok(())
    })
}

pub(super) fn links(report: &mut Report, nodes: &Nodes) {
    for (ino, node) in &nodes.all {
        let is_root = *ino == Ino::ROOT;
        let mut is_sound = true;
        let mut must = |holds: bool, problem: &dyn Fn() -> String| {
            if !holds {
                is_sound = false;
                report.wrong(problem());
            }
        };
        must(node.orphan == (node.nlink == 0), &|| {
            format!("inode {ino}: link count {} and orphan: {}", node.nlink, node.orphan)
        });
        if node.is_dir() {
            must(!is_root || !node.orphan, &|| "the root directory counts as removed".to_owned());
            must(node.size == node.entries, &|| {
                format!("directory {ino}: size {}, {} entries", node.size, node.entries)
            });
            must(node.orphan || node.nlink == node.subdirs.saturating_add(2), &|| {
                format!("directory {ino}: link count {}, {} subdirectories", node.nlink, node.subdirs)
            });
            must(!node.orphan || node.entries == 0, &|| format!("directory {ino}: removed with entries"));
            let names = if node.orphan { 0 } else { node.most_names(*ino) };
            must(node.names == names, &|| format!("directory {ino}: {} names", node.names));
            must(is_root || node.orphan || node.names == 0 || node.parent == node.named_in, &|| {
                format!("directory {ino}: is in {}, says {}", node.named_in, node.parent)
            });
        } else {
            must(node.nlink == node.names, &|| {
                format!("inode {ino}: link count {}, {} names", node.nlink, node.names)
            });
        }
        // Of several names of a directory one has to go first.
        let has_extra = node.is_dir() && node.names > node.most_names(*ino);
        if !is_sound && !nodes.blind && !has_extra {
            report.flaw(Flaw::Names(Count {
                ino: *ino,
                ctime: node.ctime,
                names: node.names,
                entries: node.entries,
                subdirs: node.subdirs,
                parent: node.named_in,
            }));
        }
    }
}

/// What takes names themselves to judge: those of directories with several, of directories that can't be reached, and
/// of inodes whose place is not where it is said to be.
pub(super) fn name_by_name(state: &dyn Read, report: &mut Report, nodes: &Nodes) -> Result<(), Error> {
    let extra = nodes.all.iter().filter(|(ino, node)| node.is_dir() && node.names > node.most_names(**ino));
    let extra: BTreeSet<Ino> = extra.map(|(ino, _)| *ino).collect();
    let rings = unreachable(report, nodes);
    let lost = lost_places(state, report, nodes)?;
    if extra.is_empty() && rings.is_empty() && lost.is_empty() {
        return Ok(());
    }
    let mut names: BTreeMap<Ino, Vec<Named>> = BTreeMap::new();
    each(state, b"D", |key, value| {
        let parent = Ino(keys::first(key).unwrap_or_default());
        let (Ok(entry), Some(name)) = (decode::<Entry>(key, value), name_of(key)) else { return Ok(()) };
        let ino = entry.ino;
        // Of files one name will do.
        if extra.contains(&ino) || rings.contains(&ino) || (lost.contains(&ino) && !names.contains_key(&ino))
        {
            names.entry(ino).or_default().push((parent, name));
        }
        Ok(())
    })?;
    for ino in lost {
        let named = names.get(&ino).and_then(|names| names.first()).cloned();
        report.flaw(Flaw::Place { ino, named });
    }
    if nodes.blind {
        return Ok(());
    }
    for ino in rings.into_iter().filter(|ino| !extra.contains(ino)) {
        if let Some(name) = names.get(&ino).and_then(|names| names.first()).cloned() {
            report.flaw(Flaw::Loop { ino, name });
        }
    }
    for ino in extra {
        let names = names.remove(&ino).unwrap_or_default();
        let keep = if ino == Ino::ROOT { None } else { best_name(state, nodes, ino, &names)? };
        for name in names.into_iter().filter(|name| Some(name) != keep.as_ref()) {
            report.flaw(Flaw::Extra { ino, name, keep: keep.clone() });
        }
    }
    Ok(())
}

/// Of several names of a directory the one by which it is reached, rather the newest one, or one where it says that it is.
fn best_name(state: &dyn Read, nodes: &Nodes, ino: Ino, names: &[Named]) -> Result<Option<Named>, Error> {
    let place: Option<Place> = state.get(&keys::place(ino))?.and_then(|value| decode(b"P", &value).ok());
    let mut best: Option<(bool, bool, bool, &Named)> = None;
    for named in names {
        let (parent, name) = named;
        let entry: Option<Entry> = load(state, &keys::entry(*parent, name))?;
        let is_newest = entry
            .zip(place)
            .is_some_and(|(entry, place)| place == Place { parent: *parent, cookie: entry.cookie });
        let says_so = nodes.all.get(&ino).is_some_and(|node| node.parent == *parent);
        let this = (leads_up(nodes, *parent, ino), is_newest, says_so, named);
        if best.is_none_or(|best| (this.0, this.1, this.2) > (best.0, best.1, best.2)) {
            best = Some(this);
        }
    }
    Ok(best.map(|best| best.3.clone()))
}

/// Whether a directory leads up to the root, and not through another one.
fn leads_up(nodes: &Nodes, mut at: Ino, without: Ino) -> bool {
    let mut seen = HashSet::new();
    while at != Ino::ROOT {
        if at == without || !seen.insert(at) {
            return false;
        }
        match nodes.all.get(&at) {
            Some(node) => at = node.named_in,
            None => return false,
        }
    }
    true
}

/// Every directory with a name leads up to the root; files follow from their names. Gives of each ring the first directory.
fn unreachable(report: &mut Report, nodes: &Nodes) -> BTreeSet<Ino> {
    let mut rings = BTreeSet::new();
    // Whether it is reached.
    let mut known: HashMap<Ino, bool> = HashMap::from([(Ino::ROOT, true)]);
    for (ino, node) in &nodes.all {
        if !node.is_dir() || node.orphan {
            continue;
        }
        let mut path = Vec::new();
        let mut on_path = HashSet::new();
        let mut at = *ino;
        let reached = loop {
            if let Some(known) = known.get(&at) {
                break *known;
            }
            if !on_path.insert(at) {
                let ring = path.iter().copied().skip_while(|ino| *ino != at);
                rings.extend(ring.min());
                break false;
            }
            path.push(at);
            match nodes.all.get(&at) {
                Some(node) => at = node.named_in,
                // What leads up there is not known.
                None if nodes.unreadable.contains(&at) => break true,
                None => break false,
            }
        };
        known.extend(path.into_iter().map(|at| (at, reached)));
        report.must(reached, || format!("directory {ino} cannot be reached from the root"));
    }
    rings
}

/// Inodes of which a place is kept that is none of theirs.
fn lost_places(state: &dyn Read, report: &mut Report, nodes: &Nodes) -> Result<BTreeSet<Ino>, Error> {
    let mut lost = BTreeSet::new();
    each(state, b"P", |key, value| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let Some(place) = record::<Place>(report, key, value) else { return Ok(()) };
        let listed = state.get(&keys::listed(place.parent, place.cookie))?;
        let is_there = match listed {
            None => false,
            Some(value) => match record::<Listed>(report, key, &value) {
                Some(listed) => listed.ino == ino,
                // What can't be read may say so.
                None => return Ok(()),
            },
        };
        if !is_there || !nodes.exists(ino) {
            report.wrong(format!(
                "inode {ino}: has no name at place {} of directory {}",
                place.cookie, place.parent
            ));
            lost.insert(ino);
        }
        Ok(())
    })?;
    Ok(lost)
}
