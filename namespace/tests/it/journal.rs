//! The change journal, as the state machine writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use namespace::machine::Machine;
use namespace::machine::command::{Command, LogIndex, Op, Outcome};
use namespace::machine::journal::{TRIM_EVERY, changes};
use namespace::machine::txn::{Fail, load};
use namespace::store::{Read, keys};
use proptest::prelude::*;
use wire::id::{DirCookie, Ino, JournalIndex};
use wire::meta::*;
use wire::status::{FsError, Status};

use crate::harness::{CLUSTER, ROOT, World, name, new};
use crate::store::MemStore;

type Listing = BTreeMap<Name, Ino>;

fn journal(world: &World) -> Journal {
    load(&**world.machine.store(), keys::JOURNAL).unwrap().unwrap()
}

fn told(world: &World, dir: Ino, after: Option<u64>, most: usize) -> Changes {
    match changes(&**world.machine.store(), dir, after.map(JournalIndex), most) {
        Ok(told) => told,
        Err(Fail::Status(status)) => panic!("{status}"),
        Err(Fail::Store(error)) => panic!("{error}"),
    }
}

fn listing(world: &mut World, dir: Ino) -> Listing {
    world.page(dir, DirCookie(0), 1000).0.into_iter().map(|entry| (entry.name, entry.ino)).collect()
}

/// What becomes of a listing by an entry, which must fit it.
fn replay(listing: &mut Listing, change: &Change) {
    let Change { name, ino, what, .. } = change;
    match what {
        What::Create | What::Mkdir | What::Mknod | What::Symlink | What::Link => {
            assert_eq!(listing.insert(name.clone(), *ino), None, "{change:?}");
        }
        What::Unlink | What::Rmdir | What::RenameFrom { .. } => {
            assert_eq!(listing.remove(name), Some(*ino), "{change:?}");
        }
        What::RenameTo { .. } => {
            listing.insert(name.clone(), *ino);
        }
        What::SetAttr | What::Truncate | What::SetXattr | What::Write => {
            assert_eq!(listing.get(name), Some(ino), "{change:?}");
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    verb: u8,
    dir: usize,
    other: usize,
    x: usize,
    y: usize,
    n: u8,
}

const NAMES: [&str; 4] = ["a", "b", "c", ".brickyard.watch"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..14u8, 0..6usize, 0..6usize, 0..4usize, 0..4usize, any::<u8>())
        .prop_map(|(verb, dir, other, x, y, n)| Step { verb, dir, other, x, y, n });
    prop::collection::vec(step, 1..120)
}

fn request(step: &Step, dirs: &[Ino], inodes: &[Ino]) -> FsRequest {
    let (parent, other) = (dirs[step.dir % dirs.len()], dirs[step.other % dirs.len()]);
    let (x, y) = (name(NAMES[step.x]), name(NAMES[step.y]));
    let ino = inodes[usize::from(step.n) % inodes.len()];
    let new = new(0o755);
    match step.verb {
        0 | 1 => FsRequest::Mkdir { parent, name: x, new },
        2 => FsRequest::Create { parent, name: x, new, exclusive: step.n & 1 == 0, access: Access::Write },
        3 => FsRequest::Mknod { parent, name: x, new, kind: FileKind::Fifo, rdev: 0 },
        4 => FsRequest::Symlink { parent, name: x, target: "to".into(), new },
        5 => FsRequest::Link { ino, parent, name: x },
        6 => FsRequest::Unlink { parent, name: x },
        7 => FsRequest::Rmdir { parent, name: x },
        8..=10 => {
            let modes =
                [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange, RenameMode::Whiteout];
            let mode = modes[usize::from(step.n) % modes.len()];
            FsRequest::Rename { parent, name: x, new_parent: other, new_name: y, mode }
        }
        11 => {
            let size = (step.n & 1 == 0).then_some(u64::from(step.n));
            FsRequest::SetAttr {
                ino,
                changes: AttrChanges { mode: Some(0o700), size, ..AttrChanges::default() },
            }
        }
        12 => {
            let name = "user.a".into();
            FsRequest::SetXattr { ino, name, value: "x".into(), mode: XattrMode::Any }
        }
        _ => {
            let report =
                WriteReport { end: u64::from(step.n), mtime: Timestamp::default(), ..WriteReport::NOTHING };
            FsRequest::ReportWrite { ino, report, then: None, closes: false }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens, the listing that a directory had at any moment and the entries after it give the one it has in
    /// the end, each entry once and in order; what is refused leaves none. The same commands in other batches
    /// make the same state.
    #[test]
    fn the_journal_gives_every_listing(steps in steps()) {
        let mut world = World::new();
        let mut dirs = vec![ROOT, world.mkdir(ROOT, "d"), world.mkdir(ROOT, "e")];
        let mut inodes = vec![world.file(ROOT, "f"), world.file(dirs[1], "g")];
        let begin = world.machine.store().dump();
        let mut commands: Vec<Command> = Vec::new();
        let mut moments: Vec<(u64, BTreeMap<Ino, Listing>)> = Vec::new();
        for step in &steps {
            let command = world.command(request(step, &dirs, &inodes));
            commands.push(command.clone());
            let before = journal(&world);
            let answer = world.batch(vec![command]).answers.remove(0);
            match answer {
                Ok(Outcome::Fs(FsReply::Attr(attr) | FsReply::Created { attr, .. })) => {
                    let known = if attr.kind == FileKind::Directory { &mut dirs } else { &mut inodes };
                    if !known.contains(&attr.ino) {
                        known.push(attr.ino);
                    }
                }
                Err(_) => prop_assert_eq!(journal(&world), before),
                Ok(_) => {}
            }
            let now = journal(&world).newest().0;
            let listings = dirs.iter().map(|dir| (*dir, listing(&mut world, *dir))).collect();
            moments.push((now, listings));
        }
        world.sound();
        let (_, last) = moments.last().unwrap().clone();
        let mut all = 0;
        for (index, listings) in &moments {
            for (dir, listed) in listings {
                let (mut listed, mut at, mut entries) = (listed.clone(), *index, Vec::new());
                // In pages, as a caller asks.
                loop {
                    let page = told(&world, *dir, Some(at), 3);
                    prop_assert!(!page.lost && page.until.0 >= at);
                    at = page.until.0;
                    let end = page.changes.len() < 3;
                    entries.extend(page.changes);
                    if end {
                        break;
                    }
                }
                prop_assert!(entries.is_sorted_by_key(|(index, _)| *index));
                entries.iter().for_each(|(_, change)| replay(&mut listed, change));
                prop_assert_eq!(&listed, &last[dir]);
                all += entries.len();
            }
        }
        prop_assert!(all > 0 || journal(&world).next <= JournalIndex(20));
        let again = Arc::new(MemStore::default());
        begin.into_iter().for_each(|(key, value)| again.spoil(&key, Some(value)));
        let at = Timestamp::default();
        let mut other = Machine::open(again.clone(), CLUSTER, 2, at).unwrap();
        for part in commands.chunks(7) {
            let first = other.applied().0 + 1;
            let entries: Vec<_> = (first..).map(LogIndex).zip(part.iter().cloned()).collect();
            other.apply(&entries).unwrap();
        }
        prop_assert_eq!(world.machine.store().dump(), again.dump());
    }
}

/// Both sides of a rename name each other; an exchange takes no name away, and a file in its own place is no change.
#[test]
fn renames_tell_both_sides() {
    let mut world = World::new();
    let (d, e) = (world.mkdir(ROOT, "d"), world.mkdir(ROOT, "e"));
    let (x, y) = (world.file(d, "x"), world.file(e, "y"));
    let from = journal(&world).newest().0;
    let whats = |world: &World, dir: Ino, after: u64| -> Vec<(Vec<u8>, Ino, What)> {
        let told = told(world, dir, Some(after), 99).changes.into_iter();
        told.map(|(_, change)| (change.name.as_bytes().to_vec(), change.ino, change.what)).collect()
    };
    world.rename((d, "x"), (e, "y"), RenameMode::Replace).unwrap();
    let gone = What::RenameFrom { dir: e, name: name("y") };
    assert_eq!(whats(&world, d, from), [(b"x".to_vec(), x, gone)]);
    assert_eq!(whats(&world, e, from), [(b"y".to_vec(), x, What::RenameTo { dir: d, name: name("x") })]);
    let from = journal(&world).newest().0;
    let z = world.file(d, "z");
    world.rename((d, "z"), (e, "y"), RenameMode::Exchange).unwrap();
    let came = What::RenameTo { dir: e, name: name("y") };
    assert_eq!(whats(&world, d, from + 1), [(b"z".to_vec(), x, came)]);
    assert_eq!(whats(&world, e, from), [(b"y".to_vec(), z, What::RenameTo { dir: d, name: name("z") })]);
    world.fs(FsRequest::Link { ino: z, parent: e, name: name("same") }).unwrap();
    let from = journal(&world).newest().0;
    world.rename((e, "y"), (e, "same"), RenameMode::Replace).unwrap();
    assert_eq!(journal(&world).newest().0, from);
    assert!(world.attr(y).nlink == 0);
}

/// Nothing can be called as what tells of changes, by whatever way; what is called so since before can go.
#[test]
fn the_name_of_the_watch_is_not_made() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let (parent, watch) = (ROOT, name(".brickyard.watch"));
    for request in [
        FsRequest::Mkdir { parent, name: watch.clone(), new: new(0o755) },
        FsRequest::Mknod { parent, name: watch.clone(), new: new(0), kind: FileKind::File, rdev: 0 },
        FsRequest::Symlink { parent, name: watch.clone(), target: "f".into(), new: new(0) },
        FsRequest::Link { ino: file, parent, name: watch.clone() },
        FsRequest::Create {
            parent,
            name: watch.clone(),
            new: new(0),
            exclusive: false,
            access: Access::Write,
        },
    ] {
        assert_eq!(world.err(request), FsError::NotPermitted);
    }
    let refused = world.rename((ROOT, "f"), (ROOT, ".brickyard.watch"), RenameMode::Replace);
    assert_eq!(refused, Err(Status::Fs(FsError::NotPermitted)));
    // As a state of before has it.
    let store = world.machine.store().clone();
    let entry = store.get(&keys::entry(ROOT, &name("f"))).unwrap();
    store.spoil(&keys::entry(ROOT, &watch), entry);
    store.spoil(&keys::entry(ROOT, &name("f")), None);
    world.rename((ROOT, ".brickyard.watch"), (ROOT, "g"), RenameMode::Replace).unwrap();
    assert_eq!(world.lookup(ROOT, "g").unwrap().ino, file);
}

/// Beyond its number or its age entries go, the oldest first and not all at once; changes of limits are taken, and
/// senseless ones refused.
#[test]
fn a_journal_is_cut_to_its_limits() {
    let mut world = World::new();
    let dirs = [ROOT, world.mkdir(ROOT, "d")];
    let configure = |world: &mut World, most_entries, most_age_s| {
        world.op(Op::Journal(JournalChange { most_entries, most_age_s }))
    };
    for (most_entries, most_age_s) in [(Some(TRIM_EVERY - 1), None), (Some(u64::MAX), None), (None, Some(0))]
    {
        assert_eq!(configure(&mut world, most_entries, most_age_s), Err(Status::Malformed));
    }
    let made = configure(&mut world, Some(1000), None);
    assert!(matches!(made, Ok(Outcome::Journal(Journal { most_entries: 1000, .. }))), "{made:?}");
    let mut most = 0;
    let mut make = |world: &mut World, number: usize| {
        world.file(dirs[number % 2], &number.to_string());
        let kept = journal(world);
        most = most.max(kept.next.0 - kept.first.0);
    };
    for number in 0..4000 {
        make(&mut world, number);
    }
    let kept = journal(&world);
    assert!(kept.next.0 - kept.first.0 >= 1000 - 1);
    world.sound();
    // A second a command.
    configure(&mut world, None, Some(300)).unwrap();
    for number in 4000..6000 {
        make(&mut world, number);
    }
    assert!(most <= 1000 + TRIM_EVERY, "{most}");
    let kept = journal(&world);
    assert!((300..=300 + TRIM_EVERY).contains(&(kept.next.0 - kept.first.0)), "{kept:?}");
    let store = world.machine.store();
    assert_eq!(store.all(b"J").unwrap().len() as u64, kept.next.0 - kept.first.0);
    world.sound();
    // It goes on where it was after a restart.
    world.reopen();
    world.file(ROOT, "last");
    assert_eq!(journal(&world).next.0, kept.next.0 + 1);
    world.sound();
}

/// Who asks from an index that is not kept, or was never given, is told so.
#[test]
fn what_is_not_kept_is_lost() {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "d");
    let all = told(&world, ROOT, Some(0), 99);
    assert!(!all.lost && all.changes.len() == 1);
    assert!(told(&world, ROOT, Some(2), 99).lost);
    world.op(Op::Journal(JournalChange { most_entries: Some(TRIM_EVERY), most_age_s: None })).unwrap();
    for number in 0..3 * TRIM_EVERY {
        world.file(dir, &number.to_string());
    }
    let kept = journal(&world);
    let lost = told(&world, dir, Some(kept.first.0 - 2), 99);
    assert_eq!((lost.lost, lost.until, lost.changes.len()), (true, kept.newest(), 0));
    let oldest = told(&world, dir, Some(kept.first.0 - 1), 99);
    assert_eq!((oldest.lost, oldest.changes[0].0, oldest.changes.len()), (false, kept.first, 99));
    assert_eq!(oldest.until.0, kept.first.0 + 98);
    let beyond = told(&world, dir, Some(kept.newest().0), 99);
    assert_eq!((beyond.lost, beyond.until), (false, kept.newest()));
    assert!(told(&world, dir, Some(kept.next.0), 99).lost);
    // What was not looked at is passed by: an idle directory is not lost.
    assert_eq!(told(&world, ROOT, Some(kept.newest().0), 99).until, kept.newest());
}

/// In a state of before there was a journal nothing is noted until a command has it begin; what happened before is lost to
/// who asks for it.
#[test]
fn a_state_without_a_journal_gets_one() {
    let mut old = World::new();
    let store = old.machine.store().clone();
    store.spoil(keys::JOURNAL, None);
    old.reopen();
    old.file(ROOT, "before");
    old.sound();
    assert!(store.all(b"J").unwrap().is_empty() && store.all(b"E").unwrap().is_empty());
    let not_yet = changes(&*store, ROOT, None, 9);
    assert!(matches!(not_yet, Err(Fail::Status(Status::Busy))));
    old.op(Op::Journal(JournalChange::default())).unwrap();
    assert!(told(&old, ROOT, Some(0), 99).lost);
    let now = told(&old, ROOT, None, 99).until;
    old.file(ROOT, "f");
    assert_eq!(told(&old, ROOT, Some(now.0), 99).changes.len(), 1);
    assert!(told(&old, ROOT, Some(0), 99).lost);
    old.sound();
}

/// A directory that was removed has its last entries, and says that none will follow; what is no directory has none.
#[test]
fn a_removed_directory_is_gone() {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "d");
    let before = journal(&world).newest().0;
    world.file(dir, "f");
    world.unlink(dir, "f").unwrap();
    world.fs(FsRequest::Rmdir { parent: ROOT, name: name("d") }).unwrap();
    for freed in [false, true] {
        if freed {
            world.op(Op::Reclaim(vec![dir])).unwrap();
        }
        let last = told(&world, dir, Some(before), 99);
        assert_eq!((last.gone, last.changes.len()), (true, 2));
        let part = told(&world, dir, Some(before), 1);
        assert_eq!((part.gone, part.changes.len()), (false, 1));
    }
    let store = world.machine.store().clone();
    assert!(matches!(changes(&*store, dir, None, 9), Err(Fail::Status(Status::Fs(FsError::Stale)))));
    let file = world.file(ROOT, "f");
    let refused = changes(&*store, file, None, 9);
    assert!(matches!(refused, Err(Fail::Status(Status::Fs(FsError::NotDirectory)))));
}
