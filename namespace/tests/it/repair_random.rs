//! Random damage of random trees.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use namespace::machine::txn::load;
use namespace::store::records::{Counters, Entry, Inode, Place, decode, encode};
use namespace::store::{Read, keys};
use namespace::verify::verify;
use proptest::prelude::*;
use wire::id::*;
use wire::meta::*;

use crate::harness::{ROOT, World, name};

/// Raw material of one step or damage.
type Raw = (u8, u16, u16, u32);

const TEXTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A tree of what happens to be made.
fn grown(steps: &[Raw]) -> World {
    let mut world = World::new();
    let mut dirs = vec![ROOT];
    let mut files = Vec::new();
    for (verb, a, b, n) in steps {
        let dir = dirs[usize::from(*a) % dirs.len()];
        let text = TEXTS[*n as usize % TEXTS.len()];
        let file: Option<Ino> = files.get(usize::from(*b) % files.len().max(1)).copied();
        let is_free = world.lookup(dir, text).is_err();
        match (verb % 6, file) {
            (0 | 1, _) if is_free => dirs.push(world.mkdir(dir, text)),
            (2, Some(ino)) if is_free => {
                world.fs(FsRequest::Link { ino, parent: dir, name: name(text) }).unwrap();
            }
            (3, Some(ino)) => world.set_xattr(ino, &format!("user.{text}"), b"x").unwrap(),
            (4, _) => {
                let other = dirs[usize::from(*b) % dirs.len()];
                let _ = world.rename((dir, text), (other, TEXTS[*b as usize % 6]), RenameMode::NoReplace);
            }
            _ if is_free => files.push(world.written_file(dir, text, u64::from(*n % 9000))),
            _ => {}
        }
    }
    world
}

/// Damages a record of what there is.
fn damage(world: &World, (verb, a, b, n): Raw) {
    let store = world.store();
    let pick = |tag: &[u8], by: u16| {
        let pairs = store.all(tag).unwrap();
        (!pairs.is_empty()).then(|| pairs[usize::from(by) % pairs.len()].clone())
    };
    let any_ino = |by: u16| pick(b"I", by).and_then(|(key, _)| keys::first(&key)).map_or(Ino(9), Ino);
    let ino = any_ino(a);
    match verb % 17 {
        0 => pick(b"D", a).into_iter().for_each(|(key, _)| store.spoil(&key, None)),
        1 => pick(b"R", a).into_iter().for_each(|(key, _)| store.spoil(&key, None)),
        2 => pick(b"P", a).into_iter().for_each(|(key, _)| store.spoil(&key, None)),
        3 => store.spoil(&keys::inode(ino), None),
        4 if store.get(&keys::inode(ino)).unwrap().is_some() => {
            world.spoil_inode(ino, |inode| inode.nlink = n % 5);
        }
        5 if store.get(&keys::inode(ino)).unwrap().is_some() => world.spoil_inode(ino, |inode| {
            if inode.kind == FileKind::Directory {
                (inode.size, inode.parent) = (u64::from(n % 7), any_ino(b));
            }
        }),
        6 => world.spoil(keys::orphan(any_ino(a)), &()),
        7 => world.spoil(keys::orphan(Ino(u64::from(n % 90))), &()),
        8 | 9 => {
            let Some((key, value)) = pick(b"D", a) else { return };
            let mut entry: Entry = decode(&key, &value).unwrap();
            match n % 4 {
                0 => entry.ino = any_ino(b),
                1 => entry.ino = Ino(u64::from(n % 90)),
                2 => entry.cookie = DirCookie(u64::from(n % 40)),
                _ => {
                    entry.kind = [FileKind::File, FileKind::Directory, FileKind::Symlink][n as usize % 3];
                }
            }
            store.spoil(&key, Some(encode(&entry).unwrap()));
        }
        10 => {
            let Some((key, value)) = pick(b"R", a) else { return };
            let dir = if n % 2 == 0 { Ino(keys::first(&key).unwrap()) } else { any_ino(b) };
            store.spoil(&keys::listed(dir, DirCookie(u64::from(n % 50))), Some(value));
        }
        11 if store.get(&keys::inode(ino)).unwrap().is_some() => {
            world.spoil_inode(ino, |inode| inode.next_cookie = DirCookie(u64::from(n % 20)));
        }
        12 => {
            world.spoil(keys::place(ino), &Place { parent: any_ino(b), cookie: DirCookie(u64::from(n % 40)) })
        }
        13 => {
            let mut counters: Counters = load(store, keys::COUNTERS).unwrap().unwrap();
            (counters.inodes, counters.orphans) = (u64::from(n % 50), u64::from(a % 5));
            world.spoil(keys::COUNTERS.to_vec(), &counters);
        }
        14 if store.get(&keys::inode(ino)).unwrap().is_some() => {
            world.spoil_inode(ino, |inode| inode.xattrs = n % 3);
        }
        15 => world.spoil(keys::xattr(Ino(u64::from(n % 90)), b"user.z"), &Bytes::new()),
        16 => pick(b"J", a).into_iter().for_each(|(key, _)| store.spoil(&key, None)),
        _ => {}
    }
}

fn raw(most: usize) -> impl Strategy<Value = Vec<Raw>> {
    prop::collection::vec((any::<u8>(), any::<u16>(), any::<u16>(), any::<u32>()), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Invariant 3: what is left is sound, and every file whose inode is there is there, and has a name.
    #[test]
    fn random_damage_is_mended_and_loses_no_file(steps in raw(60), damages in raw(12)) {
        let mut world = grown(&steps);
        world.sound();
        for raw in &damages {
            damage(&world, *raw);
        }
        world.reopen();
        let before: BTreeMap<Ino, Inode> = world
            .store()
            .all(b"I")
            .unwrap()
            .into_iter()
            .map(|(key, value)| {
                let inode = decode(&key, &value).unwrap();
                (Ino(keys::first(&key).unwrap()), inode)
            })
            .collect();
        let done = world.repair();
        let left = verify(world.store()).unwrap().problems;
        prop_assert_eq!(left, Vec::<String>::new(), "{:?}", done);
        let mut named = BTreeSet::new();
        for (key, value) in world.store().all(b"D").unwrap() {
            let entry: Entry = decode(&key, &value).unwrap();
            named.insert(entry.ino);
        }
        for (ino, was) in before {
            let is = world.inode(ino);
            prop_assert_eq!((is.kind, is.mode, is.uid, is.gid), (was.kind, was.mode, was.uid, was.gid));
            if is.kind != FileKind::Directory {
                let content = |inode: &Inode| {
                    (inode.size, inode.layout, inode.allocated_bytes, inode.written, inode.mtime, inode.target.clone())
                };
                prop_assert_eq!(content(&is), content(&was));
            }
            let is_removed = world.store().get(&keys::orphan(ino)).unwrap().is_some();
            prop_assert!(named.contains(&ino) || ino == ROOT || (is_removed && was.nlink == 0), "inode {}", ino);
        }
        world.reopen();
        world.mkdir(ROOT, "later");
        world.sound();
    }
}
