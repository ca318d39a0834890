//! Random verbs, in batches, with crashes and retries in between, against the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use namespace::machine::command::{Answer, Command, Op, Outcome};
use namespace::machine::txn::load;
use namespace::store::db::Db;
use namespace::store::records::{Cut, Inode};
use namespace::store::{Write, keys};
use proptest::prelude::*;
use wire::id::{CallSeq, Ino, SessionId};
use wire::meta::*;
use wire::status::{FsError, Status};

use crate::harness::{World, name, new};
use crate::model::Model;

/// Raw material of one step; what it means depends on what there is then.
#[derive(Debug, Clone, Copy)]
struct Step {
    verb: u8,
    a: u16,
    b: u16,
    x: u8,
    y: u8,
    n: u32,
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..32, any::<u16>(), any::<u16>(), 0u8..5, 0u8..5, any::<u32>())
        .prop_map(|(verb, a, b, x, y, n)| Step { verb, a, b, x, y, n });
    prop::collection::vec(step, 1..most)
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Who writes to what, by session.
type Writers = BTreeSet<(u64, SessionId)>;

struct Run<S: Write> {
    world: World<S>,
    model: Model,
    writers: Writers,
    sessions: [SessionId; 2],
    batch: Vec<(Command, Result<(), FsError>)>,
    /// Calls answered, to be made again.
    past: Vec<(Command, Answer)>,
    freed: BTreeSet<u64>,
}

impl<S: Write> Run<S> {
    fn new(mut world: World<S>) -> Self {
        let second = world.open_session(2);
        let sessions = [world.session, second];
        Self {
            world,
            model: Model::new(),
            writers: Writers::new(),
            sessions,
            batch: Vec::new(),
            past: Vec::new(),
            freed: BTreeSet::new(),
        }
    }

    fn any_dir(&self, pick: u16) -> u64 {
        // Now and then something that is no directory, or is gone.
        if pick.is_multiple_of(13) {
            return 1 + u64::from(pick) % self.model.next;
        }
        let dirs: Vec<_> =
            self.model.nodes.iter().filter(|(_, n)| n.kind == FileKind::Directory).map(|(i, _)| *i).collect();
        dirs[usize::from(pick) % dirs.len()]
    }

    fn any_inode(&self, pick: u16) -> u64 {
        1 + u64::from(pick) % self.model.next
    }

    /// Queues a verb, with what the model says must come of it.
    fn push(&mut self, which: usize, request: FsRequest, expected: Result<(), FsError>) {
        self.world.session = self.sessions[which];
        let command = self.world.command(request);
        self.batch.push((command, expected));
    }

    fn step(&mut self, step: Step) {
        let (x, y) = (NAMES[usize::from(step.x)], NAMES[usize::from(step.y)]);
        let (parent, other) = (self.any_dir(step.a), self.any_dir(step.b));
        let ino = self.any_inode(step.b);
        let who = (step.n & 1) as usize;
        let mode = (step.n & 0o7777) as u16;
        match step.verb {
            0..=4 => {
                let expected = self.model.make(parent, x, FileKind::Directory, mode).map(|_| ());
                self.push(
                    who,
                    FsRequest::Mkdir { parent: Ino(parent), name: name(x), new: new(mode) },
                    expected,
                );
            }
            5..=7 => {
                let kind = [FileKind::File, FileKind::Fifo, FileKind::BlockDevice][step.n as usize % 3];
                let expected = self.model.make(parent, x, kind, mode).map(|_| ());
                let request =
                    FsRequest::Mknod { parent: Ino(parent), name: name(x), new: new(mode), kind, rdev: 7 };
                self.push(who, request, expected);
            }
            8..=10 => self.create(who, parent, x, step),
            11 => {
                let target = format!("to/{y}");
                let made = self.model.make(parent, x, FileKind::Symlink, 0o777);
                if let Ok(made) = made {
                    let node = self.model.nodes.get_mut(&made).unwrap();
                    node.target = target.clone();
                    node.size = target.len() as u64;
                }
                let request = FsRequest::Symlink {
                    parent: Ino(parent),
                    name: name(x),
                    target: target.into(),
                    new: new(0),
                };
                self.push(who, request, made.map(|_| ()));
            }
            12 | 13 => {
                let expected = self.model.link(ino, parent, x);
                self.push(
                    who,
                    FsRequest::Link { ino: Ino(ino), parent: Ino(parent), name: name(x) },
                    expected,
                );
            }
            14..=16 => {
                let expected = self.model.remove(parent, x, false);
                self.push(who, FsRequest::Unlink { parent: Ino(parent), name: name(x) }, expected);
            }
            17 => {
                let expected = self.model.remove(parent, x, true);
                self.push(who, FsRequest::Rmdir { parent: Ino(parent), name: name(x) }, expected);
            }
            18..=22 => {
                let mode =
                    [RenameMode::Replace, RenameMode::Exchange, RenameMode::NoReplace, RenameMode::Replace]
                        [step.n as usize % 4];
                let expected = self.model.rename((parent, x), (other, y), mode);
                let request = FsRequest::Rename {
                    parent: Ino(parent),
                    name: name(x),
                    new_parent: Ino(other),
                    new_name: name(y),
                    mode,
                };
                self.push(who, request, expected);
            }
            23 | 24 => self.xattr(who, ino, x, step),
            25 | 26 => self.set_attr(who, ino, step),
            27 => self.open(who, ino),
            28 => self.close(who, step),
            29 => self.finish_session(step),
            30 => self.reclaim(),
            _ => self.again(step),
        }
    }

    fn create(&mut self, who: usize, parent: u64, x: &str, step: Step) {
        let exclusive = step.n & 2 != 0;
        let access = if step.n & 4 != 0 { Access::Write } else { Access::Read };
        let found = self.model.entry(parent, x);
        let expected = match found {
            Ok(Some(ino)) => match self.model.nodes[&ino].kind {
                _ if exclusive => Err(FsError::Exists),
                FileKind::File => Ok(ino),
                FileKind::Directory => Err(FsError::IsDirectory),
                _ => Err(FsError::Exists),
            },
            _ => self.model.make(parent, x, FileKind::File, 0o600),
        };
        if let (Ok(ino), Access::Write) = (expected, access) {
            self.writers.insert((ino, self.sessions[who]));
        }
        let request =
            FsRequest::Create { parent: Ino(parent), name: name(x), new: new(0o600), exclusive, access };
        self.push(who, request, expected.map(|_| ()));
    }

    fn xattr(&mut self, who: usize, ino: u64, x: &str, step: Step) {
        let key = format!("user.{x}");
        let key_bytes = Bytes::from(key.clone().into_bytes());
        let node = self.model.nodes.get_mut(&ino);
        if step.n & 8 == 0 {
            let mode = [XattrMode::Any, XattrMode::Create, XattrMode::Replace][step.n as usize % 3];
            let value = format!("{}", step.n);
            let expected = match node {
                None => Err(FsError::Stale),
                Some(node) => match (node.xattrs.contains_key(&key), mode) {
                    (true, XattrMode::Create) => Err(FsError::Exists),
                    (false, XattrMode::Replace) => Err(FsError::NoAttribute),
                    _ => {
                        node.xattrs.insert(key, value.clone());
                        Ok(())
                    }
                },
            };
            let request = FsRequest::SetXattr { ino: Ino(ino), name: key_bytes, value: value.into(), mode };
            self.push(who, request, expected);
        } else {
            let expected = match node {
                None => Err(FsError::Stale),
                Some(node) => node.xattrs.remove(&key).map(|_| ()).ok_or(FsError::NoAttribute),
            };
            self.push(who, FsRequest::RemoveXattr { ino: Ino(ino), name: key_bytes }, expected);
        }
    }

    fn set_attr(&mut self, who: usize, ino: u64, step: Step) {
        let size = (step.n & 1 != 0).then_some(u64::from(step.n >> 8));
        let mode = (step.n & 2 != 0).then_some((step.n >> 4) as u16 & 0o7777);
        let expected = match self.model.nodes.get_mut(&ino) {
            None => Err(FsError::Stale),
            Some(node) => match (size, node.kind) {
                (Some(_), FileKind::Directory) => Err(FsError::IsDirectory),
                (Some(_), kind) if kind != FileKind::File => Err(FsError::Invalid),
                _ => {
                    node.size = size.unwrap_or(node.size);
                    node.mode = mode.unwrap_or(node.mode);
                    Ok(())
                }
            },
        };
        let changes = AttrChanges { size, mode, ..AttrChanges::default() };
        self.push(who, FsRequest::SetAttr { ino: Ino(ino), changes }, expected);
    }

    fn open(&mut self, who: usize, ino: u64) {
        let expected = match self.model.nodes.get(&ino).map(|n| n.kind) {
            None => Err(FsError::Stale),
            Some(FileKind::File) => Ok(()),
            Some(FileKind::Directory) => Err(FsError::IsDirectory),
            Some(_) => Err(FsError::Invalid),
        };
        if expected.is_ok() {
            self.writers.insert((ino, self.sessions[who]));
        }
        self.push(who, FsRequest::Open { ino: Ino(ino), access: Access::Write }, expected);
    }

    fn close(&mut self, who: usize, step: Step) {
        let mine: Vec<_> = self.writers.iter().filter(|(_, s)| *s == self.sessions[who]).copied().collect();
        if mine.is_empty() {
            return;
        }
        let (ino, session) = mine[usize::from(step.a) % mine.len()];
        let mtime = Timestamp { secs: self.world.now, nanos: 9 };
        let end = self.reported_end(
            who,
            ino,
            WriteReport { end: u64::from(step.n % 100_000), mtime, ..WriteReport::NOTHING },
        );
        self.writers.remove(&(ino, session));
        let node = self.model.nodes.get_mut(&ino).unwrap();
        node.size = node.size.max(end);
        let report = WriteReport { end, mtime, allocated_delta_bytes: 0, ..WriteReport::NOTHING };
        let then = (step.x == 0).then(|| {
            let changes = AttrChanges {
                mode: Some(step.b & 0o7777),
                size: (step.y == 0).then_some(u64::from(step.n % 50_000)),
                ..AttrChanges::default()
            };
            node.mode = step.b & 0o7777;
            node.size = changes.size.unwrap_or(node.size);
            LateChanges { changes, at: mtime }
        });
        self.push(who, FsRequest::ReportWrite { ino: Ino(ino), report, then, closes: true }, Ok(()));
    }

    /// How far it may be reported at once. Where the other session has cut the file meanwhile, the first report only says so; and it goes on
    /// saying so while bricks are at it.
    fn reported_end(&mut self, who: usize, ino: u64, report: WriteReport) -> u64 {
        self.flush();
        let cut = |random: &Self| {
            let store = &**random.world.machine.store();
            let cut = load::<Cut>(store, &keys::cut(Ino(ino))).unwrap()?;
            let is_own = cut.by == random.sessions[who];
            Some(cut).filter(|cut| report.end > cut.size && cut.over.is_none() && !is_own)
        };
        if cut(self).is_none() {
            return report.end;
        }
        let before = self.model.nodes[&ino].size;
        self.push(who, FsRequest::ReportWrite { ino: Ino(ino), report, then: None, closes: true }, Ok(()));
        self.flush();
        let answer = &self.past.last().unwrap().1;
        assert!(
            matches!(answer, Ok(Outcome::Fs(FsReply::BeenCut { attr, .. })) if attr.size == before),
            "{answer:?}"
        );
        cut(self).map_or(report.end, |cut| cut.size)
    }

    fn finish_session(&mut self, step: Step) {
        self.flush();
        let which = usize::from(step.a % 2);
        let session = self.sessions[which];
        self.world.op(Op::EndSession { session, clean: step.n & 1 == 0 }).unwrap();
        self.writers.retain(|(_, s)| *s != session);
        self.past.retain(|(c, _)| c.who.unwrap().session != session);
        self.sessions[which] = self.world.open_session(which as u8 + 1);
        assert!(self.sessions[which] > session);
    }

    fn reclaim(&mut self) {
        self.flush();
        let gone: Vec<u64> =
            self.model.nodes.keys().filter(|i| self.model.is_removed(**i)).copied().collect();
        self.world.op(Op::Reclaim(gone.iter().copied().map(Ino).collect())).unwrap();
        for ino in gone {
            if !self.writers.iter().any(|(i, _)| *i == ino) {
                self.model.nodes.remove(&ino);
                self.freed.insert(ino);
            }
        }
    }

    /// A retry of an earlier call, from another time, gives its first answer.
    fn again(&mut self, step: Step) {
        self.flush();
        if self.past.is_empty() {
            return;
        }
        let at = usize::from(step.a) % self.past.len();
        let (mut command, answer) = self.past[at].clone();
        command.at = self.world.at();
        let twice = self.world.batch(vec![command.clone(), command]);
        assert_eq!(twice.answers, [answer.clone(), answer]);
    }

    /// Applies what is queued as one batch.
    fn flush(&mut self) {
        let (commands, expected): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batch).into_iter().unzip();
        if commands.is_empty() {
            return;
        }
        let applied = self.world.batch(commands.clone());
        for ((command, expected), answer) in commands.into_iter().zip(expected).zip(applied.answers) {
            let got = answer.clone().map(|_| ());
            assert_eq!(got, expected.map_err(Status::Fs), "{:?}", command.op);
            self.past.push((command, answer));
        }
    }

    /// Inode by inode what the model says.
    fn compare(&self) {
        let store = &**self.world.machine.store();
        let mut found = BTreeMap::new();
        for (ino, node) in &self.model.nodes {
            let inode: Inode = load(store, &keys::inode(Ino(*ino))).unwrap().unwrap();
            let size = match node.kind {
                FileKind::Directory => node.names.len() as u64,
                _ => node.size,
            };
            let says = (inode.kind, inode.mode, inode.gid, inode.nlink, inode.size, inode.xattrs);
            let must =
                (node.kind, node.mode, node.gid, self.model.nlink(*ino), size, node.xattrs.len() as u32);
            assert_eq!(says, must, "inode {ino}");
            assert_eq!(inode.target, node.target.as_bytes());
            if node.kind == FileKind::Directory && !self.model.is_removed(*ino) {
                assert_eq!(inode.parent.0, self.model.parent(*ino));
            }
            found.insert(*ino, inode);
        }
        for ino in &self.freed {
            assert!(load::<Inode>(store, &keys::inode(Ino(*ino))).unwrap().is_none());
        }
        self.world.sound();
    }
}

fn history<S: Write>(
    world: World<S>,
    steps: Vec<Step>,
    batch: usize,
    mut reopen: impl FnMut(World<S>) -> World<S>,
) {
    let mut run = Run::new(world);
    for (at, step) in steps.into_iter().enumerate() {
        run.step(step);
        if run.batch.len() >= batch {
            run.flush();
        }
        if at % 37 == 36 {
            run.flush();
            run.world = reopen(run.world);
        }
    }
    run.flush();
    run.compare();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Invariants 1 to 4 of the machine, over memory.
    #[test]
    fn random_verbs_match_the_model(steps in steps(250), batch in 1usize..9) {
        history(World::new(), steps, batch, |mut world| {
            world.reopen();
            world
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// The same over the real database, closed and opened between batches.
    #[test]
    fn random_verbs_match_the_model_on_disk(steps in steps(200), batch in 1usize..30) {
        let dir = tempfile::tempdir().unwrap();
        let world = World::over(Arc::new(Db::open(dir.path()).unwrap()));
        history(world, steps, batch, |world| {
            let (now, seq, session) = (world.now, world.seq, world.session);
            drop(world);
            let store = Arc::new(Db::open(dir.path()).unwrap());
            let at = Timestamp { secs: now, nanos: 0 };
            let machine = namespace::machine::Machine::open(store, crate::harness::CLUSTER, 2, at).unwrap();
            World { machine, now, seq, session }
        });
    }
}

/// Invariant 3 of the machine: what the session has the answer of is never done again.
#[test]
fn a_forgotten_call_is_refused() {
    let mut world = World::new();
    let parent = Ino::ROOT;
    let first = world.command(FsRequest::Mkdir { parent, name: name("a"), new: new(0o755) });
    let answer = world.batch(vec![first.clone()]).answers.remove(0);
    assert!(matches!(answer, Ok(Outcome::Fs(FsReply::Attr(_)))));
    world.fs(FsRequest::Rmdir { parent, name: name("a") }).unwrap();
    let mut later = world.command(FsRequest::Mkdir { parent, name: name("b"), new: new(0o755) });
    later.who.as_mut().unwrap().answered_below = CallSeq(later.who.unwrap().seq.0);
    world.batch(vec![later]).answers.remove(0).unwrap();
    world.reopen();
    assert_eq!(world.batch(vec![first]).answers, [Err(Status::Malformed)]);
    assert_eq!(world.lookup(parent, "a").unwrap_err(), FsError::NotFound.into());
    world.sound();
}

/// A session that is over changes nothing, and its answers are gone.
#[test]
fn a_dead_session_changes_nothing() {
    let mut world = World::new();
    let parent = Ino::ROOT;
    world.mkdir(parent, "a");
    let session = world.session;
    world.op(Op::EndSession { session, clean: false }).unwrap();
    let command = world.command(FsRequest::Mkdir { parent, name: name("b"), new: new(0o755) });
    assert_eq!(world.batch(vec![command]).answers, [Err(Status::SessionGone)]);
    assert!(world.machine.map().blocked.contains_key(&session));
    assert!(!world.machine.store().dump().keys().any(|k| k[0] == b'U' || k[0] == b'A'));
    world.sound();
}
