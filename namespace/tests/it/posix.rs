//! Verbs to the letter, one story each.

use bytes::Bytes;
use namespace::machine::command::Op;
use wire::chunk::MAX_FILE_BYTES;
use wire::id::Ino;
use wire::meta::*;
use wire::status::{FsError, Status};

use crate::harness::{ROOT, World, name, new};

fn changes() -> AttrChanges {
    AttrChanges::default()
}

/// Making and removing moves the times of the directory and the links of inodes as POSIX says.
#[test]
fn times_and_links_move_together() {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "dir");
    let before = world.attr(dir);
    let file = world.file(dir, "f");
    let after = world.attr(dir);
    assert!(after.mtime > before.mtime && after.ctime == after.mtime && after.nlink == 2);
    let made = world.attr(file);
    world.fs(FsRequest::Link { ino: file, parent: dir, name: name("g") }).unwrap();
    let linked = world.attr(file);
    assert_eq!((linked.nlink, linked.mtime), (2, made.mtime));
    assert!(linked.ctime > made.ctime);
    world.unlink(dir, "f").unwrap();
    assert!(world.attr(file).ctime > linked.ctime);
    world.mkdir(dir, "sub");
    assert_eq!(world.attr(dir).nlink, 3);
    let old = world.attr(file);
    world.rename((dir, "g"), (dir, "h"), RenameMode::Replace).unwrap();
    let moved = world.attr(file);
    assert!(moved.ctime > old.ctime && moved.mtime == old.mtime);
    world.sound();
}

/// A path follows its file through renames of it and of what it is in. Removed names lead nowhere.
#[test]
fn paths_lead_to_their_inodes() {
    let mut world = World::new();
    let (a, b) = (world.mkdir(ROOT, "a"), world.mkdir(ROOT, "b"));
    let sub = world.mkdir(a, "sub");
    let (one, two) = (world.file(sub, "one"), world.file(b, "two"));
    assert_eq!(world.paths(&[one, two, sub, ROOT]), ["/a/sub/one", "/b/two", "/a/sub", ""]);
    world.rename((a, "sub"), (b, "moved"), RenameMode::Replace).unwrap();
    assert_eq!(world.paths(&[one, sub]), ["/b/moved/one", "/b/moved"]);
    world.rename((b, "two"), (sub, "one"), RenameMode::Exchange).unwrap();
    assert_eq!(world.paths(&[one, two]), ["/b/two", "/b/moved/one"]);
    world.rename((b, "two"), (sub, "one"), RenameMode::Replace).unwrap();
    assert_eq!(world.paths(&[one, two]), ["/b/moved/one", "?"]);
    world.rename((sub, "one"), (sub, "other"), RenameMode::Replace).unwrap();
    assert_eq!(world.paths(&[one]), ["/b/moved/other"]);
    world.fs(FsRequest::Link { ino: one, parent: a, name: name("link") }).unwrap();
    assert_eq!(world.paths(&[one]), ["/a/link"]);
    world.unlink(sub, "other").unwrap();
    assert_eq!(world.paths(&[one]), ["/a/link"]);
    world.sound();
    world.unlink(a, "link").unwrap();
    assert_eq!(world.paths(&[one, Ino(1 << 40)]), ["?", "?"]);
    world.sound();
}

/// A file without a name: it is freed when it is closed, unless it was given one by who has it open.
#[test]
fn a_file_is_made_without_a_name() {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "dir");
    let make = |world: &mut World| world.attr_of(FsRequest::CreateUnnamed { parent: dir, new: new(0o644) });
    let (kept, lost) = (make(&mut world), make(&mut world));
    assert_eq!((kept.nlink, kept.mode, kept.uid, kept.kind), (0, 0o644, 10, FileKind::File));
    assert_eq!(world.attr(dir).size, 0);
    world.sound();
    let reclaim = |world: &mut World| {
        world.op(Op::Reclaim(vec![kept.ino, lost.ino])).unwrap();
    };
    reclaim(&mut world);
    let link = |ino| FsRequest::Link { ino, parent: dir, name: name("named") };
    // Somebody else cannot name what it does not have open.
    let (session, other) = (world.session, world.open_session(2));
    world.session = other;
    assert_eq!(world.err(link(kept.ino)), FsError::NotFound);
    world.session = session;
    assert_eq!(world.attr_of(link(kept.ino)).nlink, 1);
    assert_eq!(world.lookup(dir, "named").unwrap().ino, kept.ino);
    assert_eq!(world.paths(&[kept.ino, lost.ino]), ["/dir/named", "?"]);
    for ino in [kept.ino, lost.ino] {
        world.fs(FsRequest::Close { ino, access: Access::Write }).unwrap();
    }
    let late = FsRequest::Link { ino: lost.ino, parent: dir, name: name("late") };
    assert_eq!(world.err(late), FsError::NotFound);
    reclaim(&mut world);
    assert_eq!(world.attr(kept.ino).nlink, 1);
    assert_eq!(world.err(FsRequest::GetAttr { ino: lost.ino }), FsError::Stale);
    world.sound();
    world.unlink(dir, "named").unwrap();
    reclaim(&mut world);
    assert_eq!(world.err(FsRequest::GetAttr { ino: kept.ino }), FsError::Stale);
    world.sound();
    world.fs(FsRequest::Rmdir { parent: ROOT, name: name("dir") }).unwrap();
    assert_eq!(world.err(FsRequest::CreateUnnamed { parent: dir, new: new(0o644) }), FsError::NotFound);
}

/// A rename that leaves a whiteout, over a name and to a new one; one onto its own twin leaves none.
#[test]
fn a_rename_may_leave_a_whiteout() {
    let mut world = World::new();
    let (file, other) = (world.file(ROOT, "f"), world.file(ROOT, "other"));
    for to in ["new", "other"] {
        world.rename((ROOT, "f"), (ROOT, to), RenameMode::Whiteout).unwrap();
        assert_eq!(world.lookup(ROOT, to).unwrap().ino, file);
        let left = world.lookup(ROOT, "f").unwrap();
        assert_eq!((left.kind, left.rdev, left.mode, left.nlink), (FileKind::CharDevice, 0, 0, 1));
        world.sound();
        world.rename((ROOT, to), (ROOT, "f"), RenameMode::Replace).unwrap();
    }
    assert_eq!(world.attr(other).nlink, 0);
    world.fs(FsRequest::Link { ino: file, parent: ROOT, name: name("twin") }).unwrap();
    world.rename((ROOT, "f"), (ROOT, "twin"), RenameMode::Whiteout).unwrap();
    assert_eq!(world.lookup(ROOT, "f").unwrap().ino, file);
    world.sound();
}

/// Times of one inode grow strictly even when the clock goes back, but for `mtime` set by hand.
#[test]
fn times_grow_strictly() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let mut last = world.attr(file);
    for _ in 0..5 {
        world.now -= 50;
        let now = world.set_size(file, 0);
        assert!(now.ctime > last.ctime && now.mtime > last.mtime);
        last = now;
    }
    let old = Timestamp { secs: -5, nanos: 1 };
    let set = world.attr_of(FsRequest::SetAttr {
        ino: file,
        changes: AttrChanges { mtime: Some(SetTime::To(old)), atime: Some(SetTime::To(old)), ..changes() },
    });
    assert_eq!((set.mtime, set.atime), (old, old));
    assert!(set.ctime > last.ctime);
    let bad = Timestamp { secs: 0, nanos: 1_000_000_000 };
    let changes = AttrChanges { mtime: Some(SetTime::To(bad)), ..changes() };
    assert_eq!(world.err(FsRequest::SetAttr { ino: file, changes }), FsError::Invalid);
}

/// `cp -p`: the time set by hand outlives reports of writes before it, and not those after.
#[test]
fn late_reports_keep_the_time_set_by_hand() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    world.fs(FsRequest::Open { ino: file, access: Access::Write }).unwrap();
    let written = Timestamp { secs: world.now, nanos: 500 };
    let by_hand = Timestamp { secs: 17, nanos: 0 };
    let changes = AttrChanges { mtime: Some(SetTime::To(by_hand)), ..changes() };
    world.attr_of(FsRequest::SetAttr { ino: file, changes });
    let report = WriteReport { end: 10, mtime: written, allocated_delta_bytes: 4096, ..WriteReport::NOTHING };
    let attr = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: false });
    assert_eq!((attr.mtime, attr.size, attr.allocated_bytes), (by_hand, 10, 4096));
    world.now += 10;
    let later = Timestamp { secs: world.now, nanos: 500 };
    let report = WriteReport { end: 5, mtime: later, allocated_delta_bytes: 0, ..WriteReport::NOTHING };
    let attr = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: false });
    assert_eq!((attr.mtime, attr.size), (later, 10));
    // More of the same moment: time moves as little as can be, so that others look again.
    let again = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: false });
    assert_eq!((again.mtime, again.size), (attr.mtime.next(), 10));
    // And of a moment before it: somebody else's write was told first.
    let report = WriteReport { mtime: written, ..report };
    let earlier = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: false });
    assert_eq!(earlier.mtime, again.mtime.next());
    let report = WriteReport::NOTHING;
    let nothing = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: true });
    assert_eq!(nothing, earlier);
    world.sound();
}

/// A file is cut while another session writes to it that does not know: what that one reports counts as gone, until it has written
/// knowing of the cut. Whoever writes alone never hears of it.
#[test]
fn who_wrote_during_a_cut_writes_again() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let (one, two) = (world.session, world.open_session(2));
    for session in [one, two] {
        world.session = session;
        world.fs(FsRequest::Open { ino: file, access: Access::Write }).unwrap();
    }
    let mtime = Timestamp { secs: world.now, nanos: 500 };
    let told = |end, knew: &Attr| {
        let report = WriteReport { end, mtime, allocated_delta_bytes: 0, knew: knew.ctime };
        FsRequest::ReportWrite { ino: file, report, then: None, closes: false }
    };
    let new = world.attr(file);
    let before = world.attr_of(told(9000, &new));
    world.session = one;
    let size = AttrChanges { size: Some(4096), ..AttrChanges::default() };
    let cut = world.attr_of(FsRequest::SetAttr { ino: file, changes: size });
    world.session = two;
    assert_eq!(world.attr_of(told(4096, &before)).size, 4096, "what lies before it is untouched");
    for knew in [&before, &cut] {
        // It was over at the earliest when this was first asked.
        let answer = world.fs(told(9000, knew)).unwrap();
        assert!(matches!(&answer, FsReply::BeenCut { attr, size: 4096 } if attr.size == 4096), "{answer:?}");
    }
    let FsReply::BeenCut { attr: known, .. } = world.fs(told(9000, &before)).unwrap() else {
        panic!("told as new")
    };
    assert_eq!(world.attr_of(told(9000, &known)).size, 9000);
    // Both close: who opens it next knows.
    for session in [one, two] {
        world.session = session;
        world.fs(FsRequest::Close { ino: file, access: Access::Write }).unwrap();
    }
    world.session = one;
    world.fs(FsRequest::Open { ino: file, access: Access::Write }).unwrap();
    assert_eq!(world.attr_of(told(9001, &before)).size, 9001);
    // It has cut it itself: what it writes knowing that is taken at once, what it wrote not knowing is not.
    let size = AttrChanges { size: Some(10), ..AttrChanges::default() };
    let own = world.attr_of(FsRequest::SetAttr { ino: file, changes: size });
    assert_eq!(world.attr_of(told(20, &own)).size, 20);
    assert!(matches!(world.fs(told(30, &known)), Ok(FsReply::BeenCut { .. })));
    world.sound();
}

/// A report is no change of its own: what it tells of was seen when it was written, and `ctime` says so. A file
/// that was only closed does not look changed.
#[test]
fn a_report_tells_when_it_was_written() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    world.fs(FsRequest::Open { ino: file, access: Access::Write }).unwrap();
    world.now += 100;
    let written = Timestamp { secs: world.now - 40, nanos: 7 };
    let report = WriteReport { end: 10, mtime: written, allocated_delta_bytes: 4096, ..WriteReport::NOTHING };
    let attr = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: true });
    assert_eq!((attr.mtime, attr.ctime), (written, written));
    // Told after a change that came later, it is noticed, and moves time as little as can be.
    let changes = AttrChanges { mode: Some(0o600), ..changes() };
    let before = world.attr_of(FsRequest::SetAttr { ino: file, changes });
    let report = WriteReport { end: 20, ..report };
    let after = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: false });
    assert_eq!(after.ctime, before.ctime.next());
    world.sound();
}

/// Writes and the `setattr` after them, told in one call: the same as one after the other, at the time at which
/// they were made.
#[test]
fn a_report_may_bring_the_setattr_after_it() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    world.fs(FsRequest::Open { ino: file, access: Access::Write }).unwrap();
    world.now += 100;
    let written = Timestamp { secs: world.now - 40, nanos: 7 };
    let at = Timestamp { secs: world.now - 30, nanos: 8 };
    let by_hand = Timestamp { secs: 17, nanos: 0 };
    let report = WriteReport { end: 10, mtime: written, allocated_delta_bytes: 4096, ..WriteReport::NOTHING };
    let changes = AttrChanges {
        mode: Some(0o4711),
        uid: Some(5),
        mtime: Some(SetTime::To(by_hand)),
        atime: Some(SetTime::Now),
        ..changes()
    };
    let then = Some(LateChanges { changes, at });
    let attr = world.attr_of(FsRequest::ReportWrite { ino: file, report, then, closes: true });
    assert_eq!((attr.mode, attr.uid, attr.size, attr.allocated_bytes), (0o4711, 5, 10, 4096));
    assert_eq!((attr.mtime, attr.atime, attr.ctime), (by_hand, at, at));
    // It was a close, too, and a late report of the same writes does not undo the time set by hand.
    let again = world.attr_of(FsRequest::ReportWrite { ino: file, report, then: None, closes: false });
    assert_eq!(again.mtime, by_hand);
    // A cut among them takes what was written before it.
    let size = AttrChanges { size: Some(3), ..AttrChanges::default() };
    let report = WriteReport { end: 5000, ..report };
    let then = Some(LateChanges { changes: size, at: Timestamp { secs: world.now, nanos: 0 } });
    let attr = world.attr_of(FsRequest::ReportWrite { ino: file, report, then, closes: false });
    assert_eq!((attr.size, attr.mtime), (3, attr.ctime));
    // Nothing written, only attributes: they are a change of their own.
    let then = Some(LateChanges { changes: AttrChanges { mode: Some(0o600), ..AttrChanges::default() }, at });
    let report = WriteReport::NOTHING;
    let last = world.attr_of(FsRequest::ReportWrite { ino: file, report, then, closes: false });
    assert_eq!((last.mode, last.mtime, last.ctime), (0o600, attr.mtime, attr.ctime.next()));
    // What makes no sense is refused whole.
    let bad = Timestamp { secs: 0, nanos: 1_000_000_000 };
    let changes = AttrChanges { mtime: Some(SetTime::To(bad)), ..AttrChanges::default() };
    let request = FsRequest::ReportWrite {
        ino: file,
        report: WriteReport { end: 77, mtime: at, allocated_delta_bytes: 0, ..WriteReport::NOTHING },
        then: Some(LateChanges { changes, at }),
        closes: false,
    };
    assert_eq!(world.err(request), FsError::Invalid);
    assert_eq!(world.attr(file), last);
    world.sound();
}

/// A set-group-id directory gives its group to all, and the bit to directories.
#[test]
fn set_group_id_directories_pass_it_on() {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "dir");
    let changes = AttrChanges { mode: Some(0o2775), gid: Some(77), ..changes() };
    world.attr_of(FsRequest::SetAttr { ino: dir, changes });
    let sub = world.mkdir(dir, "sub");
    let sub = world.attr(sub);
    assert_eq!((sub.gid, sub.mode, sub.uid), (77, 0o2755, 10));
    let file = world.file(dir, "f");
    let file = world.attr(file);
    assert_eq!((file.gid, file.mode), (77, 0o644));
    let deeper = world.file(sub.ino, "g");
    assert_eq!(world.attr(deeper).gid, 77);
}

/// What can't be: each refusal with its reason.
#[test]
fn refusals_have_their_reason() {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "dir");
    let file = world.file(ROOT, "file");
    let n = || name("x");
    let (parent, gone) = (file, Ino(999));
    assert_eq!(world.err(FsRequest::Mkdir { parent, name: n(), new: new(0) }), FsError::NotDirectory);
    assert_eq!(world.err(FsRequest::Mkdir { parent: gone, name: n(), new: new(0) }), FsError::Stale);
    assert_eq!(world.err(FsRequest::Lookup { parent, name: n() }), FsError::NotDirectory);
    assert_eq!(world.err(FsRequest::Lookup { parent: gone, name: n() }), FsError::Stale);
    assert_eq!(world.err(FsRequest::Lookup { parent: ROOT, name: n() }), FsError::NotFound);
    assert_eq!(world.err(FsRequest::GetAttr { ino: gone }), FsError::Stale);
    assert_eq!(world.err(FsRequest::Readlink { ino: file }), FsError::Invalid);
    assert_eq!(world.err(FsRequest::Link { ino: dir, parent: ROOT, name: n() }), FsError::NotPermitted);
    assert_eq!(world.err(FsRequest::Unlink { parent: ROOT, name: name("dir") }), FsError::IsDirectory);
    assert_eq!(world.err(FsRequest::Rmdir { parent: ROOT, name: name("file") }), FsError::NotDirectory);
    world.file(dir, "in");
    assert_eq!(world.err(FsRequest::Rmdir { parent: ROOT, name: name("dir") }), FsError::NotEmpty);
    assert_eq!(
        world.err(FsRequest::Mknod {
            parent: ROOT,
            name: n(),
            new: new(0),
            kind: FileKind::Directory,
            rdev: 0
        }),
        FsError::Invalid
    );
    let size = |size| AttrChanges { size: Some(size), ..AttrChanges::default() };
    assert_eq!(world.err(FsRequest::SetAttr { ino: dir, changes: size(0) }), FsError::IsDirectory);
    assert_eq!(
        world.err(FsRequest::SetAttr { ino: file, changes: size(MAX_FILE_BYTES + 1) }),
        FsError::TooLarge
    );
    let long = Bytes::from(vec![b'x'; MAX_SYMLINK_BYTES + 1]);
    assert_eq!(
        world.err(FsRequest::Symlink { parent: ROOT, name: n(), target: long, new: new(0) }),
        FsError::NameTooLong
    );
    world.sound();
}

/// A removed directory that is still open somewhere is empty and takes nothing.
#[test]
fn a_removed_directory_takes_nothing() {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "dir");
    world.fs(FsRequest::Rmdir { parent: ROOT, name: name("dir") }).unwrap();
    assert_eq!(world.attr(dir).nlink, 0);
    assert_eq!(world.err(FsRequest::Mkdir { parent: dir, name: name("x"), new: new(0) }), FsError::NotFound);
    let file = world.file(ROOT, "f");
    assert_eq!(world.err(FsRequest::Link { ino: file, parent: dir, name: name("x") }), FsError::NotFound);
    let moved = world.rename((ROOT, "f"), (dir, "f"), RenameMode::Replace);
    assert_eq!(moved, Err(Status::Fs(FsError::NotFound)));
    assert_eq!(world.page(dir, wire::id::DirCookie(0), 10), (Vec::new(), true));
    world.unlink(ROOT, "f").unwrap();
    assert_eq!(world.err(FsRequest::Link { ino: file, parent: ROOT, name: name("y") }), FsError::NotFound);
    world.sound();
}

/// Directories move with their `..`, never into themselves, and exchange across parents.
#[test]
fn directories_move_whole() {
    let mut world = World::new();
    let (a, b) = (world.mkdir(ROOT, "a"), world.mkdir(ROOT, "b"));
    let sub = world.mkdir(a, "sub");
    let deep = world.mkdir(sub, "deep");
    for to in [sub, deep] {
        let moved = world.rename((a, "sub"), (to, "x"), RenameMode::Replace);
        assert_eq!(moved, Err(Status::Fs(FsError::Invalid)));
    }
    // Over an ancestor: that one is never empty.
    let moved = world.rename((sub, "deep"), (ROOT, "a"), RenameMode::Replace);
    assert_eq!(moved, Err(Status::Fs(FsError::NotEmpty)));
    let moved = world.rename((sub, "deep"), (ROOT, "a"), RenameMode::Exchange);
    assert_eq!(moved, Err(Status::Fs(FsError::Invalid)));
    world.rename((a, "sub"), (b, "sub"), RenameMode::Replace).unwrap();
    assert_eq!(world.attr_of(FsRequest::LookupParent { ino: sub }).ino, b);
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink), (2, 3));
    let file = world.file(a, "f");
    world.rename((a, "f"), (b, "sub"), RenameMode::Exchange).unwrap();
    assert_eq!(world.lookup(a, "f").unwrap().ino, sub);
    assert_eq!(world.lookup(b, "sub").unwrap().ino, file);
    assert_eq!(world.attr_of(FsRequest::LookupParent { ino: sub }).ino, a);
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink), (3, 2));
    world.sound();
}

/// Two names of one file: renaming one over the other does nothing.
#[test]
fn renaming_a_name_over_its_twin_does_nothing() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    world.fs(FsRequest::Link { ino: file, parent: ROOT, name: name("g") }).unwrap();
    let before = world.attr(file);
    world.rename((ROOT, "f"), (ROOT, "g"), RenameMode::Replace).unwrap();
    assert_eq!(world.attr(file), before);
    assert!(world.lookup(ROOT, "f").is_ok() && world.lookup(ROOT, "g").is_ok());
    let moved = world.rename((ROOT, "f"), (ROOT, "g"), RenameMode::NoReplace);
    assert_eq!(moved, Err(Status::Fs(FsError::Exists)));
}

/// Links end at their limit.
#[test]
fn links_are_limited() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let mut commands = Vec::new();
    for i in 1..MAX_LINKS {
        let link = FsRequest::Link { ino: file, parent: ROOT, name: name(&format!("l{i}")) };
        let mut command = world.command(link);
        let who = command.who.as_mut().unwrap();
        who.answered_below = who.seq;
        commands.push(command);
    }
    for some in commands.chunks(1000) {
        assert!(world.batch(some.to_vec()).answers.iter().all(Result::is_ok));
    }
    assert_eq!(world.attr(file).nlink, MAX_LINKS);
    let mut one_more = world.command(FsRequest::Link { ino: file, parent: ROOT, name: name("x") });
    one_more.who.as_mut().unwrap().answered_below = one_more.who.unwrap().seq;
    assert_eq!(world.batch(vec![one_more]).answers, [Err(FsError::TooManyLinks.into())]);
}

/// Extended attributes have their names, sizes and modes.
#[test]
fn extended_attributes_have_limits() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    for good in ["user.a", "trusted.b", "security.selinux", "system.c"] {
        world.set_xattr(file, good, b"v").unwrap();
    }
    assert_eq!(world.attr(file).xattrs, 4);
    let rule = |error: FsError| Err(Status::Fs(error));
    assert_eq!(world.set_xattr(file, "other.a", b"v"), rule(FsError::NotSupported));
    assert_eq!(world.set_xattr(file, "user.", b"v"), rule(FsError::Invalid));
    let large = vec![0; MAX_XATTR_VALUE_BYTES + 1];
    assert_eq!(world.set_xattr(file, "user.big", &large), rule(FsError::AttributeTooLarge));
    world.set_xattr(file, "user.big", &large[1..]).unwrap();
    let ino = file;
    let value = FsRequest::GetXattr { ino, name: Bytes::from_static(b"user.a") };
    assert_eq!(world.fs(value), Ok(FsReply::Value(Bytes::from_static(b"v"))));
    let missing = Bytes::from_static(b"user.none");
    assert_eq!(world.err(FsRequest::GetXattr { ino, name: missing.clone() }), FsError::NoAttribute);
    assert_eq!(world.err(FsRequest::RemoveXattr { ino, name: missing }), FsError::NoAttribute);
    let mut list = MAX_XATTR_LIST_BYTES;
    let mut i = 0;
    let refused = loop {
        let text = format!("user.{i:0>240}");
        i += 1;
        match world.set_xattr(file, &text, b"") {
            Ok(()) => list -= text.len() + 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, Status::Fs(FsError::AttributeTooLarge));
    assert!(list < 300);
    world.unlink(ROOT, "f").unwrap();
    world.op(namespace::machine::command::Op::Reclaim(vec![file])).unwrap();
    assert!(!world.machine.store().dump().keys().any(|k| k[0] == b'X'));
    world.sound();
}

/// What is made in a directory with a default list gets it, less what its maker did not ask for; the umask
/// counts elsewhere only. The access list follows the bits and the bits follow it.
#[test]
fn access_lists_are_inherited_and_follow_the_bits() {
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    // owner, user 7, group, mask, other.
    let list = |[owner, user, group, mask, other]: [u8; 5]| {
        let mut value = vec![2, 0, 0, 0];
        for (tag, rights, id) in [
            (1, owner, u32::MAX),
            (2, user, 7),
            (4, group, u32::MAX),
            (16, mask, u32::MAX),
            (32, other, u32::MAX),
        ] {
            value.extend_from_slice(&[tag, 0, rights, 0]);
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    };
    let mut world = World::new();
    let get = |world: &mut World, ino, name: &str| match world
        .fs(FsRequest::GetXattr { ino, name: Bytes::copy_from_slice(name.as_bytes()) })
    {
        Ok(FsReply::Value(value)) => Some(value.to_vec()),
        Err(Status::Fs(FsError::NoAttribute)) => None,
        other => panic!("{other:?}"),
    };
    let dir = world.mkdir(ROOT, "d");
    let make = |world: &mut World, parent, text: &str, mode, umask| {
        let new = NewInode { umask, ..new(mode) };
        world.attr_of(FsRequest::Mknod { parent, name: name(text), new, kind: FileKind::File, rdev: 0 })
    };
    assert_eq!(make(&mut world, dir, "plain", 0o666, 0o027).mode, 0o640);
    world.set_xattr(dir, DEFAULT, &list([7, 6, 5, 7, 1])).unwrap();
    assert_eq!(world.attr(dir).mode, 0o755);
    let file = make(&mut world, dir, "heir", 0o664, 0o077);
    assert_eq!(file.mode, 0o660);
    assert_eq!(get(&mut world, file.ino, ACCESS), Some(list([6, 6, 5, 6, 0])));
    assert_eq!(get(&mut world, file.ino, DEFAULT), None);
    let sub = world.mkdir(dir, "sub");
    assert_eq!(get(&mut world, sub, DEFAULT), Some(list([7, 6, 5, 7, 1])));
    assert_eq!(world.attr(sub).xattrs, 2);
    // chmod changes the mask, not the group; setting a list changes the bits.
    let changes = AttrChanges { mode: Some(0o4710), ..AttrChanges::default() };
    assert_eq!(world.attr_of(FsRequest::SetAttr { ino: file.ino, changes }).mode, 0o4710);
    assert_eq!(get(&mut world, file.ino, ACCESS), Some(list([7, 6, 5, 1, 0])));
    world.set_xattr(file.ino, ACCESS, &list([4, 7, 7, 2, 1])).unwrap();
    assert_eq!(world.attr(file.ino).mode, 0o4421);
    // A list that says no more than the bits is none.
    let bits = [
        &[2, 0, 0, 0][..],
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[4, 0, 4, 0, 0, 0, 0, 0],
        &[32, 0, 0, 0, 0, 0, 0, 0],
    ];
    world.set_xattr(file.ino, ACCESS, &bits.concat()).unwrap();
    assert_eq!((world.attr(file.ino).mode, world.attr(file.ino).xattrs), (0o4640, 0));
    // Removing one that is not there is no error; nonsense is, and a file has nothing to bequeath.
    let gone = FsRequest::RemoveXattr { ino: dir, name: Bytes::from_static(DEFAULT.as_bytes()) };
    for _ in 0..2 {
        world.fs(gone.clone()).unwrap();
    }
    assert_eq!(world.attr(dir).xattrs, 0);
    assert_eq!(world.set_xattr(dir, ACCESS, b"nonsense"), Err(FsError::NotSupported.into()));
    let refused = world.set_xattr(file.ino, DEFAULT, &list([7, 7, 7, 7, 7]));
    assert_eq!(refused, Err(FsError::NotPermitted.into()));
    world.sound();
}

/// A shrunk file counts no more space than it can have.
#[test]
fn shrinking_gives_space_back() {
    let mut world = World::new();
    let file = world.written_file(ROOT, "f", 100_000);
    assert_eq!(world.attr(file).allocated_bytes, 100_000);
    assert_eq!(world.set_size(file, 5000).allocated_bytes, 8192);
    assert_eq!(world.set_size(file, 1 << 40).allocated_bytes, 8192);
    assert_eq!(world.set_size(file, 0).allocated_bytes, 0);
}

/// Invariant 5 of the machine.
#[test]
fn inode_numbers_are_never_reused() {
    let mut world = World::new();
    let mut last = Ino::ROOT;
    for _ in 0..5 {
        let file = world.file(ROOT, "f");
        assert!(file > last);
        last = file;
        world.unlink(ROOT, "f").unwrap();
        world.op(namespace::machine::command::Op::Reclaim(vec![file])).unwrap();
        world.reopen();
    }
    world.sound();
}

/// The check finds what is wrong: a lost inode, listing, orphan record, a wrong count.
#[test]
fn the_check_finds_damage() {
    use namespace::store::keys;
    use namespace::verify::verify;
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "dir");
    let file = world.file(dir, "f");
    let removed = world.file(ROOT, "g");
    world.unlink(ROOT, "g").unwrap();
    world.sound();
    let whole = world.machine.store().dump();
    let damages = [
        keys::inode(file),
        keys::inode(dir),
        keys::entry(dir, &name("f")),
        keys::listed(dir, wire::id::DirCookie(16)),
        keys::orphan(removed),
        keys::session(world.session),
        keys::COUNTERS.to_vec(),
        keys::MAP.to_vec(),
    ];
    let store = world.machine.store().clone();
    for key in damages {
        store.spoil(&key, None);
        let missing = verify(&*store).unwrap();
        assert!(!missing.problems.is_empty(), "{}", key.escape_ascii());
        store.spoil(&key, Some(vec![1, 0xff]));
        let broken = verify(&*store).unwrap();
        let holds_nothing = matches!(key[0], b'O' | b'S');
        assert!(holds_nothing || !broken.problems.is_empty(), "{}", key.escape_ascii());
        store.spoil(&key, Some(whole[&key].clone()));
        world.sound();
    }
}
