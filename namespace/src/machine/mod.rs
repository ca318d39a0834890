//! The law of the namespace: commands in, changes of the state and answers out.
//!
//! Deterministic: no clock, no randomness, no I/O but the store it is given. Two machines that
//! apply the same log to the same store are equal byte for byte. Invariants:
//!
//! 1. A command is done wholly or not at all (`random_verbs_match_the_model`).
//! 2. A batch and its place in the log are written as one; what was answered survives a crash
//!    (`random_verbs_match_the_model`, which reopens between batches).
//! 3. A call is carried out once, however often it arrives: until the session says that it
//!    has the answer, the answer is kept, and after that the number is refused
//!    (`random_verbs_match_the_model`, `a_forgotten_call_is_refused`).
//! 4. Names, listings, link counts and sizes of directories agree at all times: after every
//!    history of the tests, [`crate::verify`] finds nothing.
//! 5. An inode number is given once (`inode_numbers_are_never_reused`).
//!
//! Not here: who may call, waiting for bricks, what sessions have open for reading.

pub mod acl;
pub mod bricks;
pub mod command;
pub mod dirs;
pub mod files;
pub mod inodes;
pub mod journal;
pub mod lineage;
pub mod locks;
pub mod looks;
pub mod reached;
pub mod rename;
pub mod repair;
pub mod sessions;
pub mod tokens;
pub mod trims;
pub mod txn;
pub mod wishes;
pub mod xattrs;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use wire::id::{CallSeq, ClusterId, DirCookie, Ino, SessionId};
use wire::layout::FileLayout;
use wire::map::ClusterMap;
use wire::meta::{BrickRefusal, FileKind, FsReply, FsRequest, Journal, SessionClass, Timestamp, Wishes};
use wire::status::Status;

use crate::config::ANSWERS_A_SESSION;
use crate::error::Error;
use crate::store::maps::{decode_map, encode_map};
use crate::store::records::{Counters, Inode, decode, encode};
use crate::store::{Pair, Read, Write, keys};

use command::{Answer, Applied, Caller, Command, LogIndex, NewSession, Op, Outcome};
use txn::{Do, Fail, Txn, load};

/// First cookie of a directory; those below are the readers' (for `.` and `..`).
pub const FIRST_COOKIE: DirCookie = DirCookie(16);

/// What a new filesystem begins with.
#[derive(Debug, Clone, Copy)]
pub struct Birth {
    /// Copies of everything.
    pub replicas: u8,
    /// See [`Wishes::birth_bricks`].
    pub bricks: u32,
}

impl From<u8> for Birth {
    /// As soon as there are enough bricks for so many copies.
    fn from(replicas: u8) -> Self {
        Self { replicas, bricks: 0 }
    }
}

/// Answers kept for one session.
#[derive(Debug, Default)]
struct Window {
    below: CallSeq,
    answers: BTreeMap<CallSeq, Answer>,
}

/// The state machine, with the parts of the state that every command needs in memory.
pub struct Machine<S> {
    store: Arc<S>,
    applied: LogIndex,
    counters: Counters,
    journal: Journal,
    map: Arc<ClusterMap>,
    windows: HashMap<SessionId, Window>,
}

impl<S: Write> Machine<S> {
    /// Takes up the state where the store has it; an empty store becomes a new filesystem.
    ///
    /// # Errors
    /// If the store fails or holds what is not understood or another cluster's map.
    pub fn open(
        store: Arc<S>,
        cluster: ClusterId,
        birth: impl Into<Birth>,
        at: Timestamp,
    ) -> Result<Self, Error> {
        if store.get(keys::APPLIED)?.is_none() {
            create(&*store, cluster, birth.into(), at)?;
        }
        let missing =
            |key: &[u8]| Error::Corrupt { key: key.escape_ascii().to_string(), detail: "missing".to_owned() };
        let applied = load(&*store, keys::APPLIED)?.ok_or_else(|| missing(keys::APPLIED))?;
        let counters = load(&*store, keys::COUNTERS)?.ok_or_else(|| missing(keys::COUNTERS))?;
        let journal = journal::read(&*store)?;
        let map = store.get(keys::MAP)?.ok_or_else(|| missing(keys::MAP))?;
        let map = decode_map(keys::MAP, &map)?;
        if map.cluster != cluster {
            return Err(Error::Corrupt {
                key: keys::MAP.escape_ascii().to_string(),
                detail: format!("the map is of cluster {}", map.cluster),
            });
        }
        let mut windows: HashMap<SessionId, Window> = HashMap::new();
        for (key, value) in store.all(b"A")? {
            let session = keys::first(&key).map(SessionId).ok_or_else(|| missing(&key))?;
            windows.entry(session).or_default().below = decode(&key, &value)?;
        }
        for (key, value) in store.all(b"U")? {
            let (Some(session), Some(seq)) = (keys::first(&key), keys::second(&key)) else {
                return Err(missing(&key));
            };
            let answer = decode(&key, &value)?;
            windows.entry(SessionId(session)).or_default().answers.insert(CallSeq(seq), answer);
        }
        Ok(Self { store, applied, counters, journal, map: Arc::new(map), windows })
    }

    /// Place in the log of the last command applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The map now.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.map.clone()
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// Applies commands in order, as one batch that is durable when this returns.
    ///
    /// # Errors
    /// If the store fails. Nothing is known of the batch then, and the machine must not be
    /// used any more.
    pub fn apply(&mut self, entries: &[(LogIndex, Command)]) -> Result<Applied, Error> {
        self.apply_noting(entries, &[])
    }

    /// The same, and writes with it records of whoever orders the commands.
    ///
    /// # Errors
    /// See [`Machine::apply`].
    pub fn apply_noting(
        &mut self,
        entries: &[(LogIndex, Command)],
        notes: &[Pair],
    ) -> Result<Applied, Error> {
        let store = self.store.clone();
        let mut txn = Txn::new(&*store, self.counters.clone(), self.journal, self.map.clone());
        let mut answers = Vec::with_capacity(entries.len());
        for (index, command) in entries {
            self.applied = *index;
            answers.push(self.one(&mut txn, command)?);
        }
        let journal_before = std::mem::replace(&mut self.journal, txn.journal);
        self.counters = txn.counters.clone();
        self.map = txn.map.clone();
        let (mut changes, effects) = txn.into_changes();
        changes.insert(keys::COUNTERS.to_vec(), Some(encode(&self.counters)?));
        changes.insert(keys::APPLIED.to_vec(), Some(encode(&self.applied)?));
        if self.journal != journal_before {
            changes.insert(keys::JOURNAL.to_vec(), Some(encode(&self.journal)?));
        }
        if effects.map.is_some() {
            changes.insert(keys::MAP.to_vec(), Some(encode_map(&self.map)?));
        }
        changes.extend(notes.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        store.write(&changes)?;
        Ok(Applied { answers, effects })
    }

    /// One command, once.
    fn one(&mut self, txn: &mut Txn<'_>, command: &Command) -> Result<Answer, Error> {
        if let Some(who) = command.who {
            if txn.get(&keys::session(who.session))?.is_none() {
                return Ok(Err(Status::SessionGone));
            }
            let window = self.windows.entry(who.session).or_default();
            if who.answered_below > window.below {
                window.below = who.answered_below;
                let kept = window.answers.split_off(&who.answered_below);
                for seq in std::mem::replace(&mut window.answers, kept).into_keys() {
                    txn.delete(keys::answer(who.session, seq));
                }
                txn.set(keys::answered(who.session), Some(encode(&window.below)?));
            }
            if let Some(answer) = window.answers.get(&who.seq) {
                return Ok(answer.clone());
            }
            if who.seq < window.below {
                // A duplicate that the net held back: its caller has the answer and is gone.
                return Ok(Err(Status::Malformed));
            }
            if window.answers.len() >= ANSWERS_A_SESSION {
                return Ok(Err(Status::Busy));
            }
        }
        let mark = txn.begin(command.at);
        let before = txn.map.clone();
        let done = run(txn, command.who, &command.op)
            .and_then(|outcome| trims::follow(txn, &before).map(|()| outcome));
        let answer = match done {
            Ok(outcome) => {
                txn.keep(mark);
                if txn.map.epoch != before.epoch {
                    lineage::note(txn)?;
                }
                Ok(outcome)
            }
            Err(Fail::Status(status)) => {
                txn.revert(mark);
                Err(status)
            }
            Err(Fail::Store(error)) => return Err(error),
        };
        // "Busy" says that nothing was done and the same call may succeed later.
        if let Some(who) = command.who
            && answer != Err(Status::Busy)
        {
            txn.set(keys::answer(who.session, who.seq), Some(encode(&answer)?));
            self.windows.entry(who.session).or_default().answers.insert(who.seq, answer.clone());
        }
        self.forget_ended(txn);
        Ok(answer)
    }

    /// Answers of sessions that ended are of no use to anybody.
    fn forget_ended(&mut self, txn: &mut Txn<'_>) {
        for session in txn.effects.ended.clone() {
            let Some(window) = self.windows.remove(&session) else { continue };
            txn.delete(keys::answered(session));
            for seq in window.answers.into_keys() {
                txn.delete(keys::answer(session, seq));
            }
        }
    }
}

fn run(txn: &mut Txn<'_>, who: Option<Caller>, op: &Op) -> Do<Outcome> {
    match op {
        Op::Fs(request) => {
            let session = who.ok_or(Status::Malformed)?.session;
            verb(txn, session, request).map(Outcome::Fs)
        }
        Op::OpenSession { client, host, mount, sharing } => {
            let (client, host, mount, sharing) = (*client, host.clone(), mount.clone(), *sharing);
            let new = NewSession { client, host, mount, sharing, class: SessionClass::Standard };
            sessions::open(txn, &new).map(Outcome::Session)
        }
        Op::BeginSession(new) => sessions::open(txn, new).map(Outcome::Session),
        Op::EndSession { session, clean } => sessions::end(txn, *session, *clean).map(|()| Outcome::Done),
        Op::Reclaim(inos) => {
            for ino in inos {
                trims::reclaim(txn, *ino)?;
            }
            Ok(Outcome::Done)
        }
        Op::CutsDone(acks) => trims::cuts_done(txn, acks).map(|()| Outcome::Done),
        Op::TrimsDone(acks) => trims::done(txn, acks).map(|()| Outcome::Done),
        Op::AddBricks(bricks) => bricks::add(txn, bricks).map(|()| Outcome::Done),
        Op::RegisterBrick { brick, stayed } => bricks::register(txn, brick, stayed).map(|()| Outcome::Done),
        Op::BrickDead { brick, boot } => bricks::dead(txn, *brick, *boot).map(|()| Outcome::Done),
        Op::SyncDone { chain, epoch, brick } => {
            bricks::sync_done(txn, *chain, *epoch, *brick).map(|()| Outcome::Done)
        }
        Op::MakeToken { token, now } => tokens::make(txn, token, *now).map(|()| Outcome::Done),
        Op::RedeemToken { hash, role, node, now } => {
            tokens::redeem(txn, *hash, *role, *node, *now).map(Outcome::Joined)
        }
        Op::ForgetTokens { now } => tokens::forget(txn, *now).map(|()| Outcome::Done),
        Op::Collect(chunks) => trims::collect(txn, chunks).map(Outcome::Collected),
        Op::AddBrick(brick) => wishes::add(txn, brick).map(Outcome::Added),
        Op::DrainBrick { brick, drain } => wishes::drain(txn, *brick, *drain).map(told),
        Op::RemoveBrick { brick, force } => wishes::remove(txn, *brick, *force).map(told),
        Op::Rebalance { on } => wishes::rebalance(txn, *on).map(|()| Outcome::Done),
        Op::Configure(change) => wishes::configure(txn, change).map(|()| Outcome::Done),
        Op::Move(steps) => wishes::take_steps(txn, steps).map(Outcome::Moved),
        Op::ReplaceBrick { brick, store, lose_data } => {
            bricks::replace(txn, *brick, *store, *lose_data).map(told)
        }
        Op::Journal(change) => journal::configure(txn, change).map(Outcome::Journal),
        Op::CutOff(verdict) => {
            bricks::cut_off(txn, *verdict);
            Ok(Outcome::Done)
        }
        Op::StepBack(brick) => {
            bricks::step_back(txn, *brick);
            Ok(Outcome::Done)
        }
        Op::LayOut(chains) => {
            bricks::lay_out_by(txn, chains);
            Ok(Outcome::Done)
        }
        Op::TakeBack(brick) => reached::take_back(txn, *brick).map(told),
        Op::Adopt(map) => lineage::adopt(txn, map),
        Op::NoteRecords(told) => reached::note(txn, told).map(|()| Outcome::Done),
        Op::FreeLost => {
            inodes::free_lost(txn);
            Ok(Outcome::Done)
        }
        Op::BeginReign(reign) => {
            inodes::skip(txn, *reign)?;
            txn.change_map().reign = *reign;
            Ok(Outcome::Done)
        }
        Op::Repair(flaw) => repair::mend(txn, flaw),
    }
}

/// An order about bricks was carried out or refused.
fn told(refusal: Option<BrickRefusal>) -> Outcome {
    refusal.map_or(Outcome::Done, Outcome::Refused)
}

/// A verb that changes something.
fn verb(txn: &mut Txn<'_>, session: SessionId, request: &FsRequest) -> Do<FsReply> {
    use FsRequest as F;
    match request {
        F::SetAttr { ino, changes } => files::set_attr(txn, session, *ino, changes),
        F::Create { parent, name, new, exclusive, access } => {
            files::create(txn, session, *parent, name, new, *exclusive, *access)
        }
        F::CreateUnnamed { parent, new } => files::create_unnamed(txn, session, *parent, new),
        F::Mkdir { parent, name, new } => dirs::mkdir(txn, *parent, name, new),
        F::Mknod { parent, name, new, kind, rdev } => dirs::mknod(txn, *parent, name, new, *kind, *rdev),
        F::Symlink { parent, name, target, new } => dirs::symlink(txn, *parent, name, target, new),
        F::Link { ino, parent, name } => dirs::link(txn, session, *ino, *parent, name),
        F::Unlink { parent, name } => dirs::unlink(txn, *parent, name),
        F::Rmdir { parent, name } => dirs::rmdir(txn, *parent, name),
        F::Rename { parent, name, new_parent, new_name, mode } => {
            rename::rename(txn, (*parent, name), (*new_parent, new_name), *mode)
        }
        F::SetXattr { ino, name, value, mode } => xattrs::set(txn, *ino, name, value, *mode),
        F::RemoveXattr { ino, name } => xattrs::remove(txn, *ino, name),
        F::Open { ino, .. } => files::open_for_write(txn, session, *ino),
        F::Close { ino, .. } => files::close_for_write(txn, session, *ino),
        F::ReportWrite { ino, report, then, closes } => {
            files::report(txn, session, *ino, report, then.as_ref(), *closes)
        }
        F::Lock(wish) => locks::lock(txn, session, wish),
        F::Unlock { ino, kind, owner, range } => locks::unlock(txn, (session, *owner), *ino, *kind, *range),
        F::BreakLock { ino, generation } => locks::break_lock(txn, *ino, *generation),
        F::DropLocks { ino, handle } => locks::drop_handle(txn, session, *ino, *handle),
        F::TestLock(_)
        | F::AwaitLock { .. }
        | F::ListLocks { .. }
        | F::Watch { .. }
        | F::Lookup { .. }
        | F::LookupParent { .. }
        | F::GetAttr { .. }
        | F::Readlink { .. }
        | F::ReadDir { .. }
        | F::GetXattr { .. }
        | F::ListXattr { .. }
        | F::StatFs => Err(Status::Malformed.into()),
    }
}

/// A new filesystem: a root directory and a map without bricks.
fn create(store: &impl Write, cluster: ClusterId, birth: Birth, at: Timestamp) -> Result<(), Error> {
    let root = Inode {
        kind: FileKind::Directory,
        mode: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated_bytes: 0,
        atime: at,
        mtime: at,
        ctime: at,
        btime: at,
        mtime_set: None,
        layout: FileLayout::default(),
        xattrs: 0,
        xattr_list_bytes: 0,
        written: false,
        dirty_tail: false,
        parent: Ino::ROOT,
        next_cookie: FIRST_COOKIE,
        target: Bytes::new(),
    };
    let counters = Counters {
        next_ino: Ino::ROOT.0 + 1,
        next_session: 1,
        inodes: 1,
        orphans: 0,
        trims: 0,
        owed: BTreeMap::new(),
    };
    let map = ClusterMap {
        inodes_below: counters.next_ino + inodes::BLOCK,
        ..ClusterMap::new(cluster, birth.replicas)
    };
    store.write(&BTreeMap::from([
        (keys::inode(Ino::ROOT), Some(encode(&root)?)),
        (keys::COUNTERS.to_vec(), Some(encode(&counters)?)),
        (keys::MAP.to_vec(), Some(encode_map(&map)?)),
        (keys::JOURNAL.to_vec(), Some(encode(&journal::empty())?)),
        (keys::WISHES.to_vec(), Some(encode(&Wishes::new(birth.bricks))?)),
        (keys::APPLIED.to_vec(), Some(encode(&LogIndex(0))?)),
    ]))
}
