//! Ways to damage a state, one at a time.

use std::collections::BTreeMap;

use bytes::Bytes;
use namespace::machine::inodes;
use namespace::machine::repair::lost_found;
use namespace::machine::txn::load;
use namespace::store::records::{Counters, Cut, Entry, Listed, Place, Trim};
use namespace::store::{Read, keys};
use wire::id::*;
use wire::meta::*;
use wire::status::FsError;

use crate::harness::{ROOT, World, name};
use crate::repair::Tree;

/// A way to damage a state, what the survey says of it, what is said to be done, and how it is then.
pub type Case = (&'static str, fn(&mut World, &Tree), &'static str, &'static str, fn(&mut World, &Tree));

fn nothing(_: &mut World, _: &Tree) {}

fn paths_are_as_before(world: &mut World, tree: &Tree) {
    let deep = world.lookup(tree.sub, "deep").unwrap();
    assert_eq!((deep.ino, deep.size), (tree.deep, 300));
    assert_eq!(world.lookup(tree.dir, "file").unwrap().ino, tree.file);
    assert_eq!(world.lookup(ROOT, "hard").unwrap().nlink, 2);
    assert_eq!(world.paths(&[tree.sub, tree.deep]), ["/dir/sub", "/dir/sub/deep"]);
}

pub const NAMES: &[Case] = &[
    (
        "a name that is only listed",
        |world, tree| world.remove(keys::entry(tree.dir, &name("file"))),
        "lists 2, has 1 entries",
        "has the name",
        paths_are_as_before,
    ),
    (
        "a name that is not listed",
        |world, tree| {
            let cookie = world.entry(tree.dir, "sub").cookie;
            world.remove(keys::listed(tree.dir, cookie));
        },
        "the listing does not have it",
        "is listed in its place again",
        paths_are_as_before,
    ),
    (
        "a place in a listing that is left over",
        |world, tree| {
            let listed = Listed { name: name("gone"), ino: Ino(77), kind: FileKind::File };
            world.spoil(keys::listed(tree.dir, DirCookie(17)), &listed);
            world.spoil(keys::listed(tree.dir, DirCookie(99)), &listed);
        },
        "lists 3, has 2 entries",
        "is not listed any more",
        paths_are_as_before,
    ),
    (
        "a place that was never given",
        |world, tree| {
            let entry = world.entry(tree.dir, "sub");
            world.remove(keys::listed(tree.dir, entry.cookie));
            let entry = Entry { cookie: DirCookie(1 << 63), ..entry };
            world.spoil(keys::entry(tree.dir, &name("sub")), &entry);
        },
        "was never given",
        "is listed in its place again",
        paths_are_as_before,
    ),
    (
        "a directory that begins anew with its places",
        |world, tree| world.spoil_inode(tree.dir, |dir| dir.next_cookie = DirCookie(16)),
        "was never given",
        "is listed in its place again",
        paths_are_as_before,
    ),
    (
        "a name of no inode",
        |world, tree| world.remove(keys::inode(tree.deep)),
        "does not exist",
        "was removed",
        |world, tree| {
            assert_eq!(world.lookup(tree.sub, "deep").unwrap_err(), FsError::NotFound.into());
            let lost = inodes::lost(world.store()).unwrap();
            assert_eq!(lost, [(tree.deep, tree.deep)], "what bricks have of it is kept");
        },
    ),
    (
        "a name of another kind",
        |world, tree| {
            let entry = Entry { kind: FileKind::Fifo, ..world.entry(tree.sub, "deep") };
            world.spoil(keys::entry(tree.sub, &name("deep")), &entry);
        },
        "is Fifo by name and File by inode",
        "is File by name",
        paths_are_as_before,
    ),
    (
        "a directory without its record",
        |world, tree| world.remove(keys::inode(tree.dir)),
        "is no directory",
        "was made anew",
        |world, tree| {
            paths_are_as_before(world, tree);
            assert_eq!(world.inode(tree.dir).parent, ROOT);
        },
    ),
    (
        "a directory without its record and its name",
        |world, tree| {
            world.forget(ROOT, "dir");
            world.remove(keys::inode(tree.dir));
        },
        "is no directory",
        "was made anew",
        |world, tree| {
            let path = format!("/lost+found/#{}/sub/deep", tree.dir);
            assert_eq!(world.paths(&[tree.deep]), [path]);
        },
    ),
    (
        "no root",
        |world, _| world.remove(keys::inode(ROOT)),
        "there is no root directory",
        "was made anew",
        paths_are_as_before,
    ),
    (
        "a root that counts as removed",
        |world, _| {
            world.spoil_inode(ROOT, |root| root.nlink = 0);
            world.spoil(keys::orphan(ROOT), &());
        },
        "the root directory counts as removed",
        "is not to be freed",
        paths_are_as_before,
    ),
    (
        "a file without a name",
        |world, tree| world.forget(tree.sub, "deep"),
        "link count 1, 0 names",
        "had no name any more",
        |world, tree| {
            let lost = lost_found(world.store()).unwrap().unwrap();
            let deep = world.lookup(lost, &format!("#{}", tree.deep)).unwrap();
            assert_eq!((deep.ino, deep.size, deep.nlink), (tree.deep, 300, 1));
        },
    ),
    (
        "a directory without a name",
        |world, _| world.forget(ROOT, "dir"),
        "cannot be reached from the root",
        "had no name any more",
        |world, tree| {
            assert_eq!(world.paths(&[tree.sub]), [format!("/lost+found/#{}/sub", tree.dir)]);
            assert_eq!(world.attr(ROOT).nlink, 3);
        },
    ),
    (
        "a place that is not the name's",
        |world, tree| world.spoil(keys::place(tree.sub), &Place { parent: ROOT, cookie: DirCookie(90) }),
        "has no name at place 90",
        "is known again",
        paths_are_as_before,
    ),
    (
        "a directory with two names",
        |world, tree| {
            let entry = Entry { cookie: DirCookie(40), ..world.entry(ROOT, "dir") };
            world.spoil(keys::entry(tree.sub, &name("again")), &entry);
            let listed = Listed { name: name("again"), ino: tree.dir, kind: FileKind::Directory };
            world.spoil(keys::listed(tree.sub, entry.cookie), &listed);
        },
        "2 names",
        "had several names, and lost",
        paths_are_as_before,
    ),
    (
        "a directory within itself",
        |world, tree| {
            world.forget(ROOT, "dir");
            let entry = Entry { ino: tree.dir, kind: FileKind::Directory, cookie: DirCookie(40) };
            world.spoil(keys::entry(tree.sub, &name("again")), &entry);
            let listed = Listed { name: name("again"), ino: tree.dir, kind: FileKind::Directory };
            world.spoil(keys::listed(tree.sub, entry.cookie), &listed);
        },
        "cannot be reached from the root",
        "was in itself",
        |world, tree| {
            assert_eq!(world.paths(&[tree.sub]), [format!("/lost+found/#{}/sub", tree.dir)]);
        },
    ),
];

pub const INODES: &[Case] = &[
    (
        "a wrong link count",
        |world, tree| world.spoil_inode(tree.file, |inode| inode.nlink = 7),
        "link count 7, 2 names",
        "is 2, and was 7",
        paths_are_as_before,
    ),
    (
        "a wrong size and link count of a directory",
        |world, tree| world.spoil_inode(tree.dir, |dir| (dir.size, dir.nlink) = (9, 9)),
        "size 9, 2 entries",
        "has 2 entries, and said 9",
        paths_are_as_before,
    ),
    (
        "a directory that says that it is elsewhere",
        |world, tree| world.spoil_inode(tree.sub, |dir| dir.parent = ROOT),
        "says 1",
        "is in",
        paths_are_as_before,
    ),
    (
        "a file with a name that is to be freed",
        |world, tree| world.spoil(keys::orphan(tree.deep), &()),
        "link count 1 and orphan: true",
        "is not to be freed",
        paths_are_as_before,
    ),
    (
        "a removed file that nobody waits for",
        |world, tree| {
            world.forget(tree.sub, "deep");
            world.spoil_inode(tree.deep, |inode| inode.nlink = 0);
        },
        "link count 0 and orphan: false",
        "had no name any more",
        nothing,
    ),
    (
        "a removed file that is not there",
        |world, _| world.spoil(keys::orphan(Ino(77)), &()),
        "orphan 77 does not exist",
        "is not waited for",
        paths_are_as_before,
    ),
    (
        "attributes of nothing",
        |world, _| world.spoil(keys::xattr(Ino(77), b"user.b"), &Bytes::new()),
        "extended attributes of inode 77",
        "are gone",
        paths_are_as_before,
    ),
    (
        "a wrong number of attributes",
        |world, tree| world.spoil_inode(tree.deep, |inode| inode.xattrs = 0),
        "counts 0 extended attributes, has 1",
        "has 1 extended attributes, and said 0",
        |world, tree| assert_eq!(world.attr(tree.deep).xattrs, 1),
    ),
    (
        "a file of the future",
        |world, tree| world.spoil_inode(tree.deep, |inode| inode.mtime.secs += 1 << 30),
        "mtime is beyond ctime",
        "counts as set",
        paths_are_as_before,
    ),
];

pub const HELD: &[Case] = &[
    (
        "a session that does not know what it holds",
        |world, tree| world.remove(keys::holds(world.session, tree.written)),
        "and does not know",
        "knows again",
        nothing,
    ),
    (
        "a session that holds nothing",
        |world, tree| world.spoil(keys::holds(world.session, tree.deep), &()),
        "and holds none",
        "is not said any more",
        nothing,
    ),
    (
        "an empty record of locks",
        |world, tree| world.spoil(keys::locks(tree.deep, LockKind::Range), &Vec::<LockHeld>::new()),
        "and a record of them",
        "an empty record",
        nothing,
    ),
    (
        "locks on nothing",
        |world, tree| {
            let locks = world.store().get(&keys::locks(tree.written, LockKind::Flock)).unwrap();
            world.store().spoil(&keys::locks(Ino(77), LockKind::Flock), locks);
            world.spoil(keys::holds(world.session, Ino(77)), &());
        },
        "locks on inode 77, which does not exist",
        "are gone",
        nothing,
    ),
    (
        "a lock of the future",
        |world, _| world.spoil(keys::LOCK_GENERATION.to_vec(), &LockGeneration(0)),
        "was given before its turn",
        "go on after",
        nothing,
    ),
    (
        "a lock to be given up that nobody holds",
        |world, tree| world.spoil(keys::recalled(world.session, tree.deep), &vec![LockHandle(5)]),
        "that it does not hold",
        "is not to give up",
        nothing,
    ),
    (
        "a session that is over and has things",
        |world, _| world.remove(keys::session(world.session)),
        "which is over",
        "it is blocked",
        |world, tree| {
            assert!(world.machine.map().blocked.contains_key(&world.session));
            assert!(!world.store().any(&keys::writers(tree.written)).unwrap());
            assert_eq!(world.attr(tree.written).size, 9000);
        },
    ),
    (
        "a directory that is open for writing",
        |world, tree| world.spoil(keys::writer(tree.dir, world.session), &()),
        "is open for writing and no file",
        "is not open for writing",
        paths_are_as_before,
    ),
    (
        "a cut that nobody waits for",
        |world, tree| {
            let at = Timestamp { secs: 1, nanos: 0 };
            world.spoil(keys::cut(tree.deep), &Cut { size: 1, by: world.session, at, over: None });
        },
        "a cut of inode",
        "is not kept any more",
        paths_are_as_before,
    ),
];

pub const NUMBERS: &[Case] = &[
    (
        "a trim that nobody owes",
        |world, _| world.spoil(keys::trim(Ino(5)), &Trim { chunk_bytes: 1, owed: BTreeMap::new() }),
        "nobody owes it",
        "a trim of inode 5",
        nothing,
    ),
    (
        "wrong numbers of things",
        |world, _| {
            let mut counters: Counters = load(world.store(), keys::COUNTERS).unwrap().unwrap();
            (counters.inodes, counters.orphans, counters.trims) = (1, 8, 9);
            counters.owed.insert(BrickId(3), 4);
            world.spoil(keys::COUNTERS.to_vec(), &counters);
        },
        "counted inodes, orphans and trims",
        "are counted right",
        nothing,
    ),
    (
        "a number that would be given again",
        |world, tree| {
            let mut counters: Counters = load(world.store(), keys::COUNTERS).unwrap().unwrap();
            counters.next_ino = tree.file.0;
            world.spoil(keys::COUNTERS.to_vec(), &counters);
        },
        "was given before its turn",
        "numbers of inodes go on",
        |world, tree| {
            let new = world.mkdir(ROOT, "new");
            assert!(new > tree.written, "{new}");
        },
    ),
    (
        "numbers that the map does not allow",
        |world, _| {
            let mut counters: Counters = load(world.store(), keys::COUNTERS).unwrap().unwrap();
            counters.next_ino += 10 * inodes::BLOCK;
            world.spoil(keys::COUNTERS.to_vec(), &counters);
        },
        "the map allows them below",
        "the map allows inodes up to",
        paths_are_as_before,
    ),
    (
        "a gap in the change journal",
        |world, _| world.remove(keys::journal(JournalIndex(3))),
        "change journal: entry 4 comes where 3 should",
        "the change journal begins at entry 4",
        nothing,
    ),
    (
        "an entry that a directory lacks",
        |world, tree| {
            let index = JournalIndex(2);
            let dir: Ino = load(world.store(), &keys::journal(index)).unwrap().unwrap();
            assert_eq!(dir, tree.dir);
            world.remove(keys::change(dir, index));
        },
        "does not have entry 2",
        "the change journal begins at entry 3",
        nothing,
    ),
    (
        "an entry that the change journal lacks",
        |world, tree| {
            let change = world.store().get(&keys::change(ROOT, JournalIndex(1))).unwrap();
            world.store().spoil(&keys::change(tree.deep, JournalIndex(1)), change);
        },
        "in the directories",
        "which the change journal does not have",
        nothing,
    ),
    (
        "a change journal that begins too late",
        |world, _| {
            let mut journal: Journal = load(world.store(), keys::JOURNAL).unwrap().unwrap();
            journal.first = JournalIndex(4);
            world.spoil(keys::JOURNAL.to_vec(), &journal);
        },
        "comes where 4 should",
        "are gone",
        nothing,
    ),
    (
        "a change journal that ends too early",
        |world, _| {
            let mut journal: Journal = load(world.store(), keys::JOURNAL).unwrap().unwrap();
            journal.next = JournalIndex(journal.next.0 - 1);
            world.spoil(keys::JOURNAL.to_vec(), &journal);
        },
        "is said to before",
        "the change journal begins",
        nothing,
    ),
];
