//! States that are damaged on purpose, and mended while they are in use.

use namespace::machine::command::{Op, Outcome};
use namespace::machine::repair::flaw::{Count, LostDir};
use namespace::machine::repair::{Flaw, lost_found};
use namespace::machine::txn::load;
use namespace::store::db::Db;
use namespace::store::records::{Entry, Inode, encode};
use namespace::store::{Read, Write, keys};
use namespace::verify::verify;
use wire::id::*;
use wire::meta::*;
use wire::net::Role;
use wire::status::Status;

use crate::cluster::{Cluster, call};
use crate::harness::{ROOT, World, name};
use crate::repair_cases::{HELD, INODES, NAMES, NUMBERS};

/// Surveys that are made at most until nothing is left to mend.
const MOST_SURVEYS: usize = 400;

impl World {
    pub fn store(&self) -> &crate::store::MemStore {
        self.machine.store()
    }

    pub fn mend(&mut self, flaw: Flaw) -> Vec<String> {
        match self.op(Op::Repair(flaw)) {
            Ok(Outcome::Mended(mended)) => mended.into_iter().map(|mended| mended.what).collect(),
            Ok(other) => panic!("{other:?}"),
            Err(_) => Vec::new(),
        }
    }

    /// What the service does when the administrator asks for it. Gives what was done.
    pub fn repair(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..MOST_SURVEYS {
            let report = verify(self.store()).unwrap();
            let mut done = Vec::new();
            for flaws in report.flaws.into_values() {
                if flaws.iter().any(Flaw::needs_lost_found) && lost_found(self.store()).unwrap().is_none() {
                    done.extend(self.mend(Flaw::LostFound));
                }
                for flaw in flaws {
                    done.extend(self.mend(flaw));
                }
                if !done.is_empty() {
                    break;
                }
            }
            if done.is_empty() {
                return all;
            }
            all.extend(done);
        }
        panic!("there is no end of what is mended: {:?}", &all[all.len() - 20..]);
    }

    pub fn spoil<T: serde::Serialize>(&self, key: Vec<u8>, record: &T) {
        self.store().spoil(&key, Some(encode(record).unwrap()));
    }

    pub fn remove(&self, key: Vec<u8>) {
        assert!(self.store().get(&key).unwrap().is_some(), "{}", key.escape_ascii());
        self.store().spoil(&key, None);
    }

    pub fn entry(&self, parent: Ino, text: &str) -> Entry {
        load(self.store(), &keys::entry(parent, &name(text))).unwrap().unwrap()
    }

    pub fn inode(&self, ino: Ino) -> Inode {
        load(self.store(), &keys::inode(ino)).unwrap().unwrap()
    }

    pub fn spoil_inode(&self, ino: Ino, spoil: impl FnOnce(&mut Inode)) {
        let mut inode = self.inode(ino);
        spoil(&mut inode);
        self.spoil(keys::inode(ino), &inode);
    }

    /// Removes a name, its place in the listing and what is known of where it is.
    pub fn forget(&self, parent: Ino, text: &str) {
        let entry = self.entry(parent, text);
        self.remove(keys::entry(parent, &name(text)));
        self.remove(keys::listed(parent, entry.cookie));
        self.store().spoil(&keys::place(entry.ino), None);
    }

    pub fn lock_of(&mut self, ino: Ino) {
        let (kind, mode, range) = (LockKind::Flock, LockMode::Exclusive, LockRange::ALL);
        let wish = LockWish { ino, handle: LockHandle(1), owner: LockOwner(2), kind, mode, range, pid: 3 };
        assert!(matches!(self.fs(FsRequest::Lock(wish)), Ok(FsReply::Locked { .. })));
    }
}

/// Numbers of what [`tree`] makes.
pub struct Tree {
    pub dir: Ino,
    pub sub: Ino,
    pub file: Ino,
    pub deep: Ino,
    pub written: Ino,
}

/// `/dir/file`, which is `/hard`, too, `/dir/sub/deep`, and `/written`, which is open, locked and was cut.
fn tree() -> (World, Tree) {
    let mut world = World::new();
    let dir = world.mkdir(ROOT, "dir");
    let sub = world.mkdir(dir, "sub");
    let file = world.written_file(dir, "file", 5000);
    world.fs(FsRequest::Link { ino: file, parent: ROOT, name: name("hard") }).unwrap();
    let deep = world.written_file(sub, "deep", 300);
    world.set_xattr(deep, "user.a", b"1").unwrap();
    let written = world.written_file(ROOT, "written", 9000);
    world.fs(FsRequest::Open { ino: written, access: Access::Write }).unwrap();
    world.lock_of(written);
    (world, Tree { dir, sub, file, deep, written })
}

/// Invariants 1 and 2: every kind of damage is seen and mended, and a sound state has nothing to mend.
#[test]
fn each_flaw_is_mended() {
    for (title, damage, problem, repair, then) in [NAMES, INODES, HELD, NUMBERS].into_iter().flatten() {
        let (mut world, tree) = tree();
        world.sound();
        assert_eq!(world.repair(), Vec::<String>::new(), "{title}");
        damage(&mut world, &tree);
        world.reopen();
        let report = verify(world.store()).unwrap();
        let problems = &report.problems;
        assert!(problems.iter().any(|told| told.contains(problem)), "{title}: {problems:?}");
        assert!(report.mendable() > 0, "{title}");
        let done = world.repair();
        assert!(done.iter().any(|told| told.contains(repair)), "{title}: {done:?}");
        let left = verify(world.store()).unwrap().problems;
        assert_eq!(left, Vec::<String>::new(), "{title}: {done:?}");
        then(&mut world, &tree);
        world.reopen();
        world.sound();
        // And it goes on.
        world.session = world.open_session(9);
        world.mkdir(ROOT, "later");
        world.sound();
    }
}

/// Invariants 1 and 5: a count that was overtaken is not written.
#[test]
fn a_flaw_of_the_past_changes_nothing() {
    let (mut world, tree) = tree();
    let seen = world.inode(tree.file);
    let count = Count { ino: tree.file, ctime: seen.ctime, names: 2, entries: 0, subdirs: 0, parent: ROOT };
    world.unlink(ROOT, "hard").unwrap();
    assert_eq!(world.mend(Flaw::Names(count)), Vec::<String>::new());
    assert_eq!(world.attr(tree.file).nlink, 1);
    // Everything else is looked at where it is.
    let dir = Flaw::Dir(LostDir { ino: tree.dir, ..Default::default() });
    for flaw in [
        dir,
        Flaw::NextIno(tree.file),
        Flaw::Entry { parent: tree.dir, name: name("file") },
        Flaw::Entry { parent: tree.dir, name: name("none") },
        Flaw::Listed { parent: tree.dir, cookie: DirCookie(16), short: None },
        Flaw::Orphan(tree.file),
        Flaw::Xattrs(tree.deep),
        Flaw::Inode(tree.deep),
        Flaw::Extra { ino: tree.dir, name: (ROOT, name("dir")), keep: None },
        Flaw::Extra { ino: tree.dir, name: (ROOT, name("dir")), keep: Some((ROOT, name("dir"))) },
        Flaw::Loop { ino: tree.sub, name: (tree.dir, name("sub")) },
        Flaw::Place { ino: tree.deep, named: None },
        Flaw::Holds { session: world.session, ino: tree.written },
        Flaw::Locks(tree.written),
        Flaw::LockGeneration(tree.written),
        Flaw::Recalled { session: world.session, ino: tree.written },
        Flaw::Session(world.session),
        Flaw::Session(SessionId(1 << 40)),
        Flaw::Writer { ino: tree.written, session: world.session },
        Flaw::Cut(tree.written),
        Flaw::Trim(tree.written),
        Flaw::Journal { first: JournalIndex(1), next: JournalIndex(2) },
        Flaw::OldChanges(0),
        Flaw::Change { dir: ROOT, index: JournalIndex(1) },
        Flaw::Tally(Default::default()),
    ] {
        let before = world.store().dump();
        assert_eq!(world.mend(flaw.clone()), Vec::<String>::new(), "{flaw:?}");
        let mut after = world.store().dump();
        after.insert(keys::APPLIED.to_vec(), before[keys::APPLIED].clone());
        assert_eq!(after, before, "{flaw:?}");
    }
}

/// Invariant 4: neither is it written over, nor does what it may speak of go.
#[test]
fn what_cannot_be_read_is_left_alone() {
    for key in [
        |tree: &Tree| keys::inode(tree.dir),
        |tree: &Tree| keys::inode(tree.deep),
        |tree: &Tree| keys::entry(tree.sub, &name("deep")),
        |_: &Tree| keys::entry(ROOT, &name("dir")),
    ] {
        let (mut world, tree) = tree();
        let key = key(&tree);
        let mut record = world.store().get(&key).unwrap().unwrap();
        record[0] = 9;
        world.store().spoil(&key, Some(record));
        let inodes = |world: &World| world.store().all(b"I").unwrap();
        let (names, before) = (world.store().all(b"D").unwrap(), inodes(&world));
        world.repair();
        assert_eq!((world.store().all(b"D").unwrap(), inodes(&world)), (names, before));
        assert!(verify(world.store()).unwrap().problems.iter().any(|told| told.contains("format 9")));
    }
}

/// The administrator orders it of the service, is told what was done and where, and nobody else may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_administrator_orders_a_repair() {
    let mut cluster = Cluster::new(0, |_| {}).await;
    let client = cluster.client(1).await;
    let (kept, lost) = (client.file("kept", 5).await, client.file("lost", 7).await);
    cluster.stop().await;
    {
        let db = Db::open(&cluster.config.dir).unwrap();
        let entry: Entry = load(&db, &keys::entry(ROOT, &name("lost"))).unwrap().unwrap();
        let mut inode: Inode = load(&db, &keys::inode(kept)).unwrap().unwrap();
        inode.nlink = 3;
        let gone = [keys::entry(ROOT, &name("lost")), keys::listed(ROOT, entry.cookie), keys::place(lost)];
        let mut changes: std::collections::BTreeMap<_, _> = gone.into_iter().map(|key| (key, None)).collect();
        changes.insert(keys::inode(kept), Some(encode(&inode).unwrap()));
        db.write(&changes).unwrap();
    }
    cluster.restart_stopped().await;
    let to = cluster.endpoint();
    let ask = |request| MetaRequest::Check(request);
    for role in [Role::Client, Role::Brick, Role::Namespace] {
        for request in [CheckRequest::Repair, CheckRequest::Survey, CheckRequest::OwnSurvey] {
            let net = cluster.net(role, 7);
            assert_eq!(call(&net, to, None, 0, ask(request)).await, Err(Status::Forbidden));
        }
    }
    for request in [CheckRequest::Survey, CheckRequest::OwnSurvey] {
        let survey = call(&cluster.admin, to, None, 0, ask(request)).await;
        let Ok(MetaReply::Check(CheckReply::Surveyed { problems, mendable, .. })) = survey else {
            panic!("{survey:?}")
        };
        assert!(problems.len() >= 2 && mendable >= 2, "{problems:?}");
    }
    let mut told = Vec::new();
    loop {
        let repaired = call(&cluster.admin, to, None, 0, ask(CheckRequest::Repair)).await;
        let Ok(MetaReply::Check(CheckReply::Repaired { repairs, untold, more, sole })) = repaired else {
            panic!("{repaired:?}")
        };
        assert_eq!((untold, sole, more), (0, false, !repairs.is_empty()));
        if !more {
            break;
        }
        let path = |path: bytes::Bytes| String::from_utf8(path.to_vec()).unwrap();
        told.extend(repairs.into_iter().filter_map(|repair| Some((repair.what, path(repair.path?)))));
    }
    let is_told = |what: &str, path: &str| told.iter().any(|(w, p)| w.contains(what) && p == path);
    assert!(is_told("is 1, and was 3", "/kept"), "{told:?}");
    assert!(is_told("had no name any more", &format!("/lost+found/#{lost}")), "{told:?}");
    cluster.sound().await;
    // Who had it open goes on with it.
    let again = client.attr(FsRequest::GetAttr { ino: lost }).await.unwrap();
    assert_eq!((again.size, again.nlink), (7, 1));
}
