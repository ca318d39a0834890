//! The verbs of a POSIX filesystem.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{DirCookie, Ino, JournalIndex, LockGeneration, LockHandle, LockOwner, MapEpoch};
use crate::meta::{
    Attr, Changes, FileKind, LockHeld, LockKind, LockPlace, LockRange, LockWish, Name, SetTime, Timestamp,
};

/// What a handle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// Reading: keeps the inode alive while it is open.
    Read,
    /// Writing too: the namespace remembers that bytes beyond the recorded size may exist.
    Write,
}

/// How `rename` treats an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail with [`crate::status::FsError::Exists`].
    NoReplace,
    /// Swap the two.
    Exchange,
    /// Replace it, and leave a whiteout in the old place: a character device of number 0, which an overlay takes for "removed".
    Whiteout,
}

/// How `setxattr` treats an existing attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// Fail if it exists.
    Create,
    /// Fail if it does not.
    Replace,
}

/// What a new inode starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInode {
    /// Permission bits asked for.
    pub mode: u16,
    /// Permission bits that are taken away, unless the directory has a default access control list.
    pub umask: u16,
    /// Owner.
    pub uid: u32,
    /// Group the creator acts with; a set-group-id parent overrides it.
    pub gid: u32,
}

/// What `setattr` changes; `None` leaves as is. `ctime` always becomes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttrChanges {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes of a file. Shrinking frees the rest on the bricks before the call returns.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
}

/// What a writer has done to a file since it last said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteReport {
    /// End of the furthest byte written; the size becomes the larger of this and itself.
    pub end: u64,
    /// Time of the last write.
    pub mtime: Timestamp,
    /// Change of the bytes allocated, for one copy.
    pub allocated_delta_bytes: i64,
    /// The file's `ctime` as it was known where it was written, when the first of these writes went to the bricks.
    pub knew: Timestamp,
}

impl WriteReport {
    /// Nothing was written.
    pub const NOTHING: WriteReport = WriteReport {
        end: 0,
        mtime: Timestamp { secs: i64::MIN, nanos: 0 },
        allocated_delta_bytes: 0,
        knew: Timestamp { secs: i64::MAX, nanos: 0 },
    };

    /// These writes and others.
    #[must_use]
    pub fn and(self, other: WriteReport) -> WriteReport {
        WriteReport {
            end: self.end.max(other.end),
            mtime: self.mtime.max(other.mtime),
            allocated_delta_bytes: self.allocated_delta_bytes.saturating_add(other.allocated_delta_bytes),
            knew: self.knew.min(other.knew),
        }
    }
}

/// A `setattr` that is told together with the writes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateChanges {
    /// What it changes.
    pub changes: AttrChanges,
    /// When it was made: `ctime` becomes this.
    pub at: Timestamp,
}

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// The name.
    pub name: Name,
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Listing goes on after this.
    pub cookie: DirCookie,
    /// Attributes, if they were asked for.
    pub attr: Option<Attr>,
}

/// Space and inodes of the whole filesystem; space of one copy (raw space by replicas). Bricks of one process that share a disk
/// count it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatFs {
    /// Size of the filesystem in bytes.
    pub total_bytes: u64,
    /// Bytes left where data can go.
    pub free_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// Calls on names and inodes. Owners and modes are taken as given: whether the caller may do
/// it is decided by the kernel that asks (`default_permissions`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsRequest {
    /// The inode of a name. -> `Attr`
    Lookup {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// The parent of a directory (`..`). -> `Attr`
    LookupParent {
        /// A directory.
        ino: Ino,
    },
    /// -> `Attr`
    GetAttr {
        /// The inode.
        ino: Ino,
    },
    /// -> `Attr` after the change
    SetAttr {
        /// The inode.
        ino: Ino,
        /// What to change.
        changes: AttrChanges,
    },
    /// Makes a regular file and opens it for `access` in this session. With
    /// `exclusive`, fails if the name exists; else an existing regular file is opened (and
    /// not changed). -> `Created`
    Create {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
        /// Attributes if it is new.
        new: NewInode,
        /// O_EXCL.
        exclusive: bool,
        /// What the handle is for.
        access: Access,
    },
    /// -> `Attr` of the new directory
    Mkdir {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
        /// Attributes.
        new: NewInode,
    },
    /// A regular file (not opened), pipe, socket or device. -> `Attr`
    Mknod {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
        /// Attributes.
        new: NewInode,
        /// Which; not a directory and not a link.
        kind: FileKind,
        /// Device number of devices.
        rdev: u32,
    },
    /// -> `Attr` of the link
    Symlink {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
        /// Where it points; bytes.
        target: Bytes,
        /// Attributes (mode is ignored: 0777).
        new: NewInode,
    },
    /// -> `Target`
    Readlink {
        /// A symbolic link.
        ino: Ino,
    },
    /// One more name for an inode. -> `Attr`
    Link {
        /// The inode; not a directory.
        ino: Ino,
        /// Directory of the new name.
        parent: Ino,
        /// New name.
        name: Name,
    },
    /// Removes a name that is not a directory's. An inode without names lives on
    /// while a session has it open. -> `Done`
    Unlink {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// Removes an empty directory. -> `Done`
    Rmdir {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// -> `Done`
    Rename {
        /// Directory the name is in.
        parent: Ino,
        /// The name.
        name: Name,
        /// Directory it goes to.
        new_parent: Ino,
        /// Name there.
        new_name: Name,
        /// What if that exists.
        mode: RenameMode,
    },
    /// Entries after `after` in stable order (cookie 0: from the start), without `.` and `..`,
    /// whose cookies are the reader's. -> `Entries`
    ReadDir {
        /// The directory.
        ino: Ino,
        /// Cookie of the last entry seen.
        after: DirCookie,
        /// Most entries wanted; at most [`crate::meta::MAX_DIR_ENTRIES`] are given.
        max: u32,
        /// Attributes of each too.
        with_attrs: bool,
    },
    /// -> `Value`
    GetXattr {
        /// The inode.
        ino: Ino,
        /// Full name with its prefix.
        name: Bytes,
    },
    /// -> `Done`
    SetXattr {
        /// The inode.
        ino: Ino,
        /// Full name with its prefix.
        name: Bytes,
        /// Value.
        value: Bytes,
        /// What if it exists or does not.
        mode: XattrMode,
    },
    /// -> `Names`
    ListXattr {
        /// The inode.
        ino: Ino,
    },
    /// -> `Done`
    RemoveXattr {
        /// The inode.
        ino: Ino,
        /// Full name with its prefix.
        name: Bytes,
    },
    /// -> `StatFs`
    StatFs,
    /// This session has the inode open for `access` from now on; said once an inode and
    /// access, however many handles there are. -> `Attr`
    Open {
        /// The inode.
        ino: Ino,
        /// What for.
        access: Access,
    },
    /// This session has it open for `access` no more. -> `Done`
    Close {
        /// The inode.
        ino: Ino,
        /// What for.
        access: Access,
    },
    /// What was written. The data it speaks of need not be durable yet. -> `Attr`, or `BeenCut`: nothing was done
    ReportWrite {
        /// The file.
        ino: Ino,
        /// What was done.
        report: WriteReport,
        /// Attributes changed after those writes.
        then: Option<LateChanges>,
        /// The last writing handle of the session is gone: also a `Close` for writing.
        closes: bool,
    },
    /// Takes a lock, if no other owner's is in the way; what the owner held there becomes this. Of `flock` what the owner
    /// held goes first, and is gone if another one's is in the way. -> `Locked` or `LockedBy`
    Lock(LockWish),
    /// Gives up what an owner holds of a range. -> `Done`
    Unlock {
        /// The file.
        ino: Ino,
        /// Which kind.
        kind: LockKind,
        /// Whose.
        owner: LockOwner,
        /// Which bytes.
        range: LockRange,
    },
    /// Gives up all locks that were taken through an open file. -> `Done`
    DropLocks {
        /// The file.
        ino: Ino,
        /// The open file.
        handle: LockHandle,
    },
    /// A lock that is in the way of this one. -> `LockedBy`
    TestLock(LockWish),
    /// Waits until a lock could be taken, or for so long: `Lock` may succeed then, unless others were faster. An owner
    /// that waits for another one that waits for it is told [`FsError::Deadlock`](crate::status::FsError::Deadlock).
    /// -> `LockedBy`
    AwaitLock {
        /// The lock.
        wish: LockWish,
        /// How long, in milliseconds; at most 30,000.
        wait_ms: u32,
    },
    /// All locks on a file. -> `Locks`
    ListLocks {
        /// The file.
        ino: Ino,
    },
    /// Makes a regular file without a name and opens it for writing in this session; `Link` gives it one. -> `Created`
    CreateUnnamed {
        /// The directory it is made as if in.
        parent: Ino,
        /// Attributes.
        new: NewInode,
    },
    /// What changed in a directory: entries of the journal after an index, once there are some or time is over.
    /// -> `Changes`
    Watch {
        /// The directory.
        dir: Ino,
        /// The last one that was told, in this or in any directory; `None`: only where the journal ends now is told, at once.
        after: Option<JournalIndex>,
        /// Most entries wanted; the namespace may give fewer.
        most: u32,
        /// How long to wait for the first one, in milliseconds; at most 30,000.
        wait_ms: u32,
    },
    /// Breaks a lock: the open file that it was taken through gives up all its locks on the file, whether its program wants to
    /// or not, and is lost to it; answered once it has. A mount that does not do so in time loses its session.
    /// [`FsError::NoAttribute`](crate::status::FsError::NoAttribute) if no lock has this generation. -> `Done`
    BreakLock {
        /// The file.
        ino: Ino,
        /// Which lock.
        generation: LockGeneration,
    },
}

/// Answers to [`FsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsReply {
    /// Nothing to tell.
    Done,
    /// Attributes.
    Attr(Attr),
    /// Attributes of a file made or found by `Create`.
    Created {
        /// Attributes.
        attr: Attr,
        /// It is new.
        new: bool,
    },
    /// Where a link points.
    Target(Bytes),
    /// A part of a listing.
    Entries {
        /// In order.
        entries: Vec<DirEntry>,
        /// Nothing comes after the last one.
        end: bool,
    },
    /// Value of an extended attribute.
    Value(Bytes),
    /// Names of extended attributes.
    Names(Vec<Bytes>),
    /// Space.
    StatFs(StatFs),
    /// A lock was taken.
    Locked {
        /// Its generation.
        generation: LockGeneration,
        /// By this map whoever lost it before is blocked: what is asked of bricks under the lock has to be asked by this one or
        /// a later one.
        map: MapEpoch,
    },
    /// One that is in the way, or none.
    LockedBy(Option<LockHeld>),
    /// All locks on a file.
    Locks {
        /// By kind and in order of their first bytes.
        locks: Vec<(LockKind, LockHeld)>,
        /// Those who hold them.
        places: Vec<LockPlace>,
    },
    /// What changed in a directory.
    Changes(Changes),
    /// While it was written another session had the file cut, and what was reported may be gone behind that: it has to be written
    /// again there, and to be reported then.
    BeenCut {
        /// Attributes.
        attr: Attr,
        /// What lies behind this may be gone.
        size: u64,
    },
}

impl FsRequest {
    /// Whether it changes the state (and so goes through the log and is done exactly once).
    /// Opening for reading is remembered in memory only and told again by the session.
    pub fn is_change(&self) -> bool {
        use FsRequest::*;
        match self {
            Lookup { .. }
            | LookupParent { .. }
            | GetAttr { .. }
            | Readlink { .. }
            | ReadDir { .. }
            | GetXattr { .. }
            | ListXattr { .. }
            | StatFs
            | TestLock(_)
            | AwaitLock { .. }
            | ListLocks { .. }
            | Watch { .. } => false,
            Open { access, .. } | Close { access, .. } => *access == Access::Write,
            SetAttr { .. }
            | Create { .. }
            | Mkdir { .. }
            | Mknod { .. }
            | Symlink { .. }
            | Link { .. }
            | Unlink { .. }
            | Rmdir { .. }
            | Rename { .. }
            | SetXattr { .. }
            | RemoveXattr { .. }
            | ReportWrite { .. }
            | Lock(_)
            | Unlock { .. }
            | DropLocks { .. }
            | BreakLock { .. }
            | CreateUnnamed { .. } => true,
        }
    }
}
