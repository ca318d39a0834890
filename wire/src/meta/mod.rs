//! What can be asked of the namespace, and what it answers.
//!
//! Calls that change something carry their session and a growing number: a retry with the
//! same number returns the first result. New variants go to the end of their enum.

mod attr;
mod check;
mod cluster;
mod fs;
mod lock;
mod name;
mod watch;

use serde::{Deserialize, Serialize};

use crate::handshake::Service;
use crate::id::{CallSeq, SessionId};
use crate::net::Protocol;

pub use attr::{Attr, FileKind, SetTime, Timestamp};
pub use check::{CheckReply, CheckRequest, InodeSummary, MAX_REPAIRS, Repair};
pub use cluster::{
    AdoptRefusal, AuthorityText, Behind, BrickRefusal, BrickRegistration, BrickReport, ClusterReply,
    ClusterRequest, ClusterStatus, MAX_PATHS, MapMemory, MemberInfo, MemberRefusal, NewBrick, RefusedBrick,
    SessionClass, SessionGrant, SessionStatus, SettingsChange, Sharing, Stuck, Wishes, is_full,
};
pub use fs::{
    Access, AttrChanges, DirEntry, FsReply, FsRequest, LateChanges, NewInode, RenameMode, StatFs,
    WriteReport, XattrMode,
};
pub use lock::{LockHeld, LockKind, LockMode, LockPlace, LockRange, LockWaiter, LockWish, Recall};
pub use name::{MAX_NAME_BYTES, Name, NameError};
pub use watch::{Change, Changes, Journal, JournalChange, WATCH_NAME, What};

/// Longest target of a symbolic link, in bytes.
pub const MAX_SYMLINK_BYTES: usize = 4095;
/// Longest value of an extended attribute, in bytes (Linux's own limit).
pub const MAX_XATTR_VALUE_BYTES: usize = 65536;
/// Longest list of names of extended attributes of an inode, in bytes (Linux's own limit).
pub const MAX_XATTR_LIST_BYTES: usize = 65536;
/// The attribute that is an inode's access control list, in the kernel's format.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that is the list which a directory gives to what is made in it.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// What names of attributes begin with that are not stored with a file, but tell of it or are orders.
pub const OWN_XATTRS: &[u8] = b"user.brickyard.";
/// Most hard links to an inode.
pub const MAX_LINKS: u32 = 65000;
/// Most entries of one listing reply.
pub const MAX_DIR_ENTRIES: u32 = 1024;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaCall {
    /// Who asks; `None` before there is a session, and for calls that need none.
    pub session: Option<SessionId>,
    /// Number of the call in its session. Only looked at for calls that change something.
    pub seq: CallSeq,
    /// The caller has the answers of all its calls below this number, so the namespace
    /// may forget them.
    pub answered_below: CallSeq,
    /// What is asked.
    pub request: MetaRequest,
}

/// What can be asked, by subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaRequest {
    /// Names, attributes, files.
    Fs(FsRequest),
    /// Sessions, the map, bricks.
    Cluster(ClusterRequest),
    /// Reading everything, to verify it.
    Check(CheckRequest),
    /// From member to member of the namespace: what is asked is in the payload, and no matter of
    /// anybody else. -> `Peer`
    Peer,
}

/// The answers, by subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaReply {
    /// To [`MetaRequest::Fs`].
    Fs(FsReply),
    /// To [`MetaRequest::Cluster`].
    Cluster(ClusterReply),
    /// To [`MetaRequest::Check`].
    Check(CheckReply),
    /// To [`MetaRequest::Peer`]: in the payload.
    Peer,
}

/// The namespace's protocol.
#[derive(Debug, Clone, Copy)]
pub enum MetaProtocol {}

impl Protocol for MetaProtocol {
    const SERVICE: Service = Service::Namespace;
    type Request = MetaCall;
    type Reply = MetaReply;
}
