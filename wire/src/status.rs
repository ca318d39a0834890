//! What a service answers when it did not do what was asked.
//!
//! A status is a number that tells the caller what to *do*; texts for people are made
//! where people are. Adding one: only at the end, since the numbers travel.

use serde::{Deserialize, Serialize};

use crate::id::{ChainEpoch, ChunkVersion, MapEpoch};
use crate::net::Endpoint;

/// What the caller should do about a [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Nothing was done; the same call may succeed in a moment.
    Retry,
    /// The caller's map is old: fetch the map named here or a later one, then call again.
    RefreshMap,
    /// The caller's session is gone: open a new one.
    NewSession,
    /// The answer is final: tell the user.
    GiveUp,
    /// This copy of the data is bad: ask another member.
    TryOtherCopy,
}

/// Why a call was not carried out. Variants are what a caller does differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Status {
    /// A rule of the filesystem said no.
    #[error("{0}")]
    Fs(FsError),
    /// The service cannot serve right now (starting, recovering, overloaded).
    #[error("busy")]
    Busy,
    /// The caller used an older chain or map than this service knows.
    #[error("the caller's map is older than epoch {0}")]
    OldMap(MapEpoch),
    /// This brick knows an older map than the caller does and has asked for a newer one.
    #[error("the brick's map is older than the caller's")]
    MapBehind,
    /// The chain changed since the caller looked; its epoch is this now.
    #[error("the chain is at epoch {0}")]
    ChainChanged(ChainEpoch),
    /// This brick is not the member the call is for (not head, not serving).
    #[error("wrong member of the chain")]
    WrongMember,
    /// The session is unknown, expired or blocked.
    #[error("the session is gone")]
    SessionGone,
    /// The bytes on this copy fail their checksum and could not be repaired from another.
    #[error("checksum mismatch")]
    Corrupt,
    /// The receiver of a forwarded change does not hold the version it builds on.
    #[error("the copy is at version {0}")]
    Behind(ChunkVersion),
    /// The brick's disk failed (read or write error, read-only, directory gone).
    #[error("disk failure")]
    DiskFailed,
    /// The request could not be understood.
    #[error("malformed request")]
    Malformed,
    /// The caller's role may not do this.
    #[error("not permitted for this role")]
    Forbidden,
    /// A mount that has the cluster for itself is there, or is asked for where others are.
    #[error(
        "a mount that has the cluster for itself goes with no other one; unmount the others, or start \
         'brickyard up' with --shared"
    )]
    NotAlone,
    /// This member of the namespace does not lead; nothing was done. The one that does is here, as
    /// far as this one knows.
    #[error("this member of the namespace does not lead")]
    NotLeader(Option<Endpoint>),
    /// This member of the namespace led and hears no majority of the others: nothing can be read
    /// or changed until most of them are back.
    #[error("most members of the namespace cannot be reached: nothing can be changed until they are back")]
    NoMajority,
    /// Another process is heard as this brick, at another address: this directory may be a copy of its.
    #[error(
        "another process is heard as this brick: stop that one, or remove this directory if it is a copy of its"
    )]
    Rival,
    /// This disk is not the one that the cluster knows by the brick's number: another one has taken its place, or it is
    /// another brick's.
    #[error(
        "the cluster knows another disk by this number: this one was replaced, or is another brick's; `brickyard salvage` gets \
         files off it, and emptied it can join anew"
    )]
    OtherDisk,
    /// The disk of a brick does not know the brick's last life.
    #[error(
        "this disk was set back to an earlier state, by a snapshot, an image or an old copy: it lacks what was acknowledged since. \
         'brickyard salvage' gets files off it; to be a brick again, empty the directory and prepare it with --replace, so that it is \
         brought up to date"
    )]
    SetBack,
    /// This disk would take the place of the only one with all data of some chain, which was not given up.
    #[error(
        "nobody but the disk that this one is to replace has all data of some chains now: bring that disk back; or, to give that data \
         up, empty this directory and prepare it again with --replace and --lose-data ('brickyard up': start it with --replace)"
    )]
    OnlyDisk,
    /// The state of the namespace is older than what bricks have seen of it: nothing is done by it before all that was done since
    /// is known again.
    #[error(
        "the namespace's state is older than what bricks have seen: it was set back, and waits to hear what the bricks know; \
         `brickyard status` says of which ones, and what to do"
    )]
    NamespaceBehind,
    /// The namespace can't reach a brick at the address that it gives: nobody else would, perhaps.
    #[error(
        "the namespace can't reach it at the address that it gives: check --listen, and firewalls in between; it is let in as soon as \
         it can be reached"
    )]
    Unreached,
    /// What is sent again may have been lost by bricks that have started several times since, or not, and somebody has written to that part of the
    /// file in between: doing it could undo that.
    #[error(
        "bricks have started more than once since this was written, and others have written there meanwhile: it may be lost, and is not written \
         again over what came later; compare the file with what you have"
    )]
    Overtaken,
}

impl Status {
    /// What to do about it.
    pub fn advice(self) -> Advice {
        match self {
            Status::Busy
            | Status::MapBehind
            | Status::Behind(_)
            | Status::NotLeader(_)
            | Status::NoMajority
            | Status::Rival
            | Status::OnlyDisk
            | Status::Unreached
            | Status::NamespaceBehind => Advice::Retry,
            Status::OldMap(_) | Status::ChainChanged(_) | Status::WrongMember => Advice::RefreshMap,
            Status::SessionGone => Advice::NewSession,
            Status::Corrupt | Status::DiskFailed => Advice::TryOtherCopy,
            Status::Fs(_)
            | Status::Malformed
            | Status::Forbidden
            | Status::NotAlone
            | Status::OtherDisk
            | Status::SetBack
            | Status::Overtaken => Advice::GiveUp,
        }
    }
}

/// Rules of a POSIX filesystem, as the namespace and the bricks know them. The client turns
/// them into numbers of its operating system; nobody else knows those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FsError {
    /// No such entry.
    #[error("no such entry")]
    NotFound,
    /// The entry exists.
    #[error("entry exists")]
    Exists,
    /// A directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory is not allowed here.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The inode is gone for good (an old number).
    #[error("stale inode")]
    Stale,
    /// An argument makes no sense (renaming into itself, bad mode).
    #[error("invalid argument")]
    Invalid,
    /// A name is longer than 255 bytes.
    #[error("name too long")]
    NameTooLong,
    /// Too many hard links.
    #[error("too many links")]
    TooManyLinks,
    /// No room left on the bricks of the chain.
    #[error("no space left")]
    NoSpace,
    /// The file would be larger than a file can be.
    #[error("file too large")]
    TooLarge,
    /// The operation is not permitted (link of a directory, immutable).
    #[error("not permitted")]
    NotPermitted,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The extended attribute's value or the list of names is too large.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// Not supported by this filesystem.
    #[error("not supported")]
    NotSupported,
    /// The file system is read-only now.
    #[error("read-only")]
    ReadOnly,
    /// There are as many locks on the file as there may be.
    #[error("too many locks")]
    NoLocks,
    /// The holder of the lock waits for who asks for it.
    #[error("waiting would never end")]
    Deadlock,
}

impl From<FsError> for Status {
    fn from(error: FsError) -> Self {
        Status::Fs(error)
    }
}
