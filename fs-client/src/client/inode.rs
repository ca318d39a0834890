//! What is kept of an inode that is open here or has data that is not durable yet.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;
use wire::brick::AGAIN_WITHIN;
use wire::chunk::BLOCK_BYTES;
use wire::id::{Ino, SessionId};
use wire::layout::FileLayout;
use wire::meta::{Access, Attr, AttrChanges, FileKind, SetTime, Timestamp, WriteReport};

use super::gather::Gather;
use super::held::{Content, Held, HeldMap};
use crate::error::Error;

/// A change on its way to the bricks.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) content: Content,
    pub(crate) generation: u64,
    /// Bytes of the window it occupies.
    pub(crate) window: usize,
    /// It was acknowledged before, by bricks that may have lost it.
    pub(crate) again: Option<Again>,
}

/// What was acknowledged before.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    /// What bricks are told of that; nothing if it was too long ago for them to know.
    pub(crate) said: Option<wire::brick::Again>,
    /// The namespace was told of it.
    pub(crate) told: bool,
}

impl Again {
    /// Of what is held, with what the namespace was told of last.
    pub(crate) fn of(held: &Held, reported: u64) -> Again {
        let took = || held.holders.members.iter().map(|holder| (holder.brick, holder.boot)).collect();
        let recent = held.since.elapsed() < AGAIN_WITHIN;
        let said =
            recent.then(|| wire::brick::Again { version: held.version, first: held.first, took: took() });
        Again { said, told: held.is_told(reported) }
    }
}

/// An error of writing behind, until every handle knows it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Some handle was told.
    pub(crate) told: bool,
}

/// Somebody has cut a file while it was written here: what is held behind that and was not reported has to be written again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BeenCut {
    /// What lies behind this may be gone.
    pub(crate) size: u64,
    /// What was acknowledged later was written later.
    pub(crate) stamp: u64,
    /// It may have been cut since the session ended in which it was written: the cut may still be under way.
    pub(crate) session_over: bool,
}

/// Attributes changed here and not told yet: they go with the report of the writes before them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Late {
    pub(crate) changes: AttrChanges,
    /// When the last of them was made.
    pub(crate) at: Timestamp,
    /// Grows with each.
    pub(crate) number: u64,
}

/// Two changes of attributes, one after the other, as one.
pub(crate) fn joined(older: &AttrChanges, newer: &AttrChanges) -> AttrChanges {
    AttrChanges {
        mode: newer.mode.or(older.mode),
        uid: newer.uid.or(older.uid),
        gid: newer.gid.or(older.gid),
        size: newer.size.or(older.size),
        atime: newer.atime.or(older.atime),
        // Another size is another content: the time set before it is past.
        mtime: newer.mtime.or(older.mtime.filter(|_| newer.size.is_none())),
    }
}

/// What changes under the lock.
#[derive(Debug)]
pub(crate) struct State {
    /// As the namespace last said.
    pub(crate) attr: Attr,
    pub(crate) gather: Gather,
    /// By offset; never two over the same bytes.
    pub(crate) flights: BTreeMap<u64, Flight>,
    /// Bytes of the window that `flights` occupy.
    pub(crate) flying_bytes: u64,
    pub(crate) held: HeldMap,
    /// Generation new writes belong to; a flush begins the next.
    pub(crate) generation: u64,
    /// End of the furthest write the namespace may not know of yet.
    pub(crate) pending_end: Option<u64>,
    /// Time of the last write the namespace may not know of yet.
    pub(crate) pending_mtime: Option<Timestamp>,
    /// Grows with each write.
    pub(crate) writes: u64,
    /// A cut asked for here failed without a clear answer: it may come yet, and nothing written meanwhile counts as knowing of it.
    pub(crate) cut_in_doubt: bool,
    /// Somebody has cut the file while it was written here.
    pub(crate) been_cut: Option<BeenCut>,
    /// Everything acknowledged up to this stamp was reported.
    pub(crate) reported: u64,
    /// `mtime` as the namespace said when it was told last what was written here.
    pub(crate) own_mtime: Option<Timestamp>,
    /// What was acknowledged and not reported.
    pub(crate) unreported: Option<WriteReport>,
    pub(crate) unreported_since: Option<Instant>,
    /// The namespace is being told: that counts as untold until it answers.
    pub(crate) telling: bool,
    pub(crate) late: Option<Late>,
    /// Grows when something is sent again: what bricks said meanwhile of the file may be without it.
    pub(crate) resends: u64,
    /// Grows when bytes read earlier may be outdated.
    pub(crate) version: u64,
    pub(crate) readers: usize,
    pub(crate) writers: usize,
    /// It is in the list of dirty inodes, or about to be put there.
    pub(crate) listed: bool,
    /// How many errors there were, and the last.
    pub(crate) failures: u64,
    pub(crate) failure: Option<Failure>,
}

/// What the namespace was told of this client's handles.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Told {
    pub(crate) fn of(&mut self, access: Access) -> &mut bool {
        match access {
            Access::Read => &mut self.read,
            Access::Write => &mut self.write,
        }
    }
}

/// One inode.
#[derive(Debug)]
pub(crate) struct OpenInode {
    pub(crate) ino: Ino,
    pub(crate) state: Mutex<State>,
    /// Something acknowledged, failed or reported.
    pub(crate) changed: Notify,
    /// Writes share it; what needs all writes done and none begun takes it alone.
    pub(crate) order: tokio::sync::RwLock<()>,
    /// One open, close or report at a time.
    pub(crate) gate: tokio::sync::Mutex<Told>,
    /// The namespace thinks it is open here.
    pub(crate) told_any: AtomicBool,
    /// Handles and operations that use it; changed under the table's lock.
    pub(crate) users: AtomicUsize,
    /// Number of a session: changes begun in an earlier one are given up.
    pub(crate) forsaken_before: AtomicU64,
}

fn blank_attr(ino: Ino) -> Attr {
    Attr {
        ino,
        kind: FileKind::File,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated_bytes: 0,
        atime: Timestamp { secs: i64::MIN, nanos: 0 },
        mtime: Timestamp { secs: i64::MIN, nanos: 0 },
        ctime: Timestamp { secs: i64::MIN, nanos: 0 },
        btime: Timestamp { secs: i64::MIN, nanos: 0 },
        layout: FileLayout::default(),
        xattrs: u32::MAX,
    }
}

impl OpenInode {
    /// An inode of which nothing is known yet.
    pub(crate) fn new(ino: Ino) -> Self {
        Self {
            ino,
            state: Mutex::new(State {
                attr: blank_attr(ino),
                gather: Gather::default(),
                flights: BTreeMap::new(),
                flying_bytes: 0,
                held: HeldMap::default(),
                generation: 1,
                pending_end: None,
                pending_mtime: None,
                writes: 0,
                cut_in_doubt: false,
                been_cut: None,
                reported: 0,
                own_mtime: None,
                unreported: None,
                unreported_since: None,
                telling: false,
                late: None,
                resends: 0,
                version: 0,
                readers: 0,
                writers: 0,
                listed: false,
                failures: 0,
                failure: None,
            }),
            changed: Notify::new(),
            order: tokio::sync::RwLock::default(),
            gate: tokio::sync::Mutex::default(),
            told_any: AtomicBool::new(false),
            users: AtomicUsize::new(0),
            forsaken_before: AtomicU64::new(0),
        }
    }

    /// What a change is known by that begins now, in this session; with `state` locked.
    pub(crate) fn era(&self, session: SessionId) -> SessionId {
        session.max(SessionId(self.forsaken_before.load(Ordering::Acquire)))
    }

    /// Refuses a change that was begun in a session whose locks on the file are lost.
    pub(crate) fn not_forsaken(&self, begun: SessionId) -> Result<(), Error> {
        if begun.0 < self.forsaken_before.load(Ordering::Acquire) { Err(Error::LockLost) } else { Ok(()) }
    }
}

impl State {
    /// Takes what the namespace says, unless it is older than what is known.
    pub(crate) fn absorb(&mut self, attr: &Attr) {
        if attr.ctime < self.attr.ctime {
            return;
        }
        if attr.mtime != self.attr.mtime || attr.size != self.attr.size {
            self.version += 1;
        }
        if attr.mtime != self.attr.mtime
            && let Some(pending) = self.pending_mtime
        {
            // Others have written, too. The kernel drops what it remembers by a time that is another one than before.
            self.pending_mtime = Some(pending.max(attr.mtime).next());
        }
        self.attr = attr.clone();
    }

    /// The same for the answer to what was written here.
    pub(crate) fn absorb_own(&mut self, attr: &Attr) {
        let pending = self.pending_mtime;
        self.absorb(attr);
        self.pending_mtime = pending;
    }

    /// The size as programs here are to see it.
    pub(crate) fn size(&self) -> u64 {
        self.attr.size.max(self.pending_end.unwrap_or(0))
    }

    /// Attributes as programs here are to see them.
    pub(crate) fn view(&self) -> Attr {
        let mut attr = self.attr.clone();
        attr.size = self.size();
        if let Some(mtime) = self.pending_mtime {
            attr.mtime = mtime;
            attr.ctime = attr.ctime.max(mtime);
        }
        if let Some(late) = &self.late {
            let set = |time: Option<SetTime>, old| match time {
                None => old,
                Some(SetTime::Now) => late.at,
                Some(SetTime::To(time)) => time,
            };
            attr.mode = late.changes.mode.unwrap_or(attr.mode);
            attr.uid = late.changes.uid.unwrap_or(attr.uid);
            attr.gid = late.changes.gid.unwrap_or(attr.gid);
            attr.atime = set(late.changes.atime, attr.atime);
            attr.mtime = set(late.changes.mtime, attr.mtime);
            attr.ctime = attr.ctime.max(late.at);
        }
        let unreported = self.unreported.map_or(0, |report| report.allocated_delta_bytes);
        // In whole blocks: programs take a file without any for one great hole.
        let dirty = self.dirty_bytes().next_multiple_of(u64::from(BLOCK_BYTES));
        attr.allocated_bytes = attr.allocated_bytes.saturating_add_signed(unreported).saturating_add(dirty);
        attr
    }

    /// Bytes written and not acknowledged.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.gather.total() + self.flying_bytes
    }

    /// Whether data of this generation or an older one is not acknowledged yet.
    pub(crate) fn unacknowledged(&self, generation: u64) -> bool {
        self.flights.values().any(|f| f.generation <= generation) || self.gather.holds(generation)
    }

    /// Whether everything written is with the bricks.
    pub(crate) fn is_written(&self) -> bool {
        self.gather.total() == 0 && self.flights.is_empty()
    }

    /// Whether there is nothing to be done for it any more.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_written() && self.held.is_empty() && !self.is_untold()
    }

    /// Whether the namespace is to be told something.
    pub(crate) fn is_untold(&self) -> bool {
        self.unreported.is_some() || self.telling || self.been_cut.is_some() || self.late.is_some()
    }

    /// Whether a change of attributes may wait for the report of the writes before it: there are such writes, and
    /// the handle whose close reports them at the latest.
    pub(crate) fn may_be_late(&self) -> bool {
        self.writers > 0 && (self.is_untold() || !self.is_written())
    }

    /// Notes a change of attributes that is to be told with the writes before it.
    pub(crate) fn put_late(&mut self, changes: &AttrChanges) {
        // Seen to change, as everywhere.
        let at = Timestamp::now().max(self.view().ctime.next());
        let set = |time: Option<SetTime>| match time {
            Some(SetTime::Now) => Some(SetTime::To(at)),
            other => other,
        };
        let changes = AttrChanges { atime: set(changes.atime), mtime: set(changes.mtime), ..*changes };
        let older = self.late.unwrap_or(Late { changes: AttrChanges::default(), at, number: 0 });
        self.late = Some(Late { changes: joined(&older.changes, &changes), at, number: older.number + 1 });
        if changes.mtime.is_some() {
            self.pending_mtime = None;
        }
        self.unreported_since.get_or_insert_with(Instant::now);
    }

    /// A write comes after what was noted: it sets `mtime` anew.
    pub(crate) fn outdate_late_mtime(&mut self) {
        if let Some(late) = &mut self.late
            && late.changes.mtime.take().is_some()
        {
            late.number += 1;
        }
    }

    /// Whether something in flight touches a range.
    pub(crate) fn in_flight(&self, start: u64, end: u64) -> bool {
        self.flights.range(..end).next_back().is_some_and(|(at, f)| at + f.content.len() > start)
    }

    /// Forgets what is not on the bricks and what the namespace was not told; the bytes that were gathered.
    pub(crate) fn forsake(&mut self) -> u64 {
        let gathered = std::mem::take(&mut self.gather).total();
        self.held = HeldMap::default();
        self.pending_end = None;
        self.pending_mtime = None;
        self.unreported = None;
        self.late = None;
        self.version += 1;
        gathered
    }

    /// Notes an error every handle has to hear of.
    pub(crate) fn fail(&mut self, error: Error) {
        self.failures += 1;
        self.failure = Some(Failure { error, told: false });
    }

    /// The last error, of which somebody is told.
    pub(crate) fn told(&mut self) -> Result<(), Error> {
        match &mut self.failure {
            Some(failure) => {
                failure.told = true;
                Err(failure.error.clone())
            }
            None => Ok(()),
        }
    }

    /// Whether somebody else wrote to the file, not so long ago that it is durable by itself.
    pub(crate) fn others_wrote_lately(&self) -> bool {
        /// Clients commit what is some seconds old; clocks differ.
        const LATELY_S: i64 = 60;
        let age = Timestamp::now().secs.saturating_sub(self.attr.mtime.secs);
        self.own_mtime != Some(self.attr.mtime) && age < LATELY_S
    }

    /// The session is over in which things were written that the namespace was not told: it has cut them, perhaps. `stamp`: of the last
    /// acknowledgement.
    pub(crate) fn session_over(&mut self, stamp: u64) {
        let reported = self.reported;
        if self.unreported.is_some()
            || self.telling
            || self.held.iter().any(|(_, held)| !held.is_told(reported))
        {
            self.been_cut = Some(BeenCut { size: 0, stamp, session_over: true });
        }
    }

    /// The `ctime` that changes are made by which begin now.
    pub(crate) fn known(&self) -> Timestamp {
        if self.cut_in_doubt { Timestamp { secs: i64::MIN, nanos: 0 } } else { self.attr.ctime }
    }

    /// Adds to what is to be reported.
    pub(crate) fn add_report(&mut self, new: WriteReport) {
        self.unreported = Some(self.unreported.map_or(new, |old| old.and(new)));
        if self.unreported_since.is_none() {
            self.unreported_since = Some(Instant::now());
        }
    }

    /// Forgets what the namespace knows by now.
    pub(crate) fn settle_pending(&mut self, writes: u64) {
        if self.writes == writes && self.is_written() && self.unreported.is_none() {
            self.pending_end = None;
            self.pending_mtime = None;
        }
    }
}
