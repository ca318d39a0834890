//! Everything that can go wrong here. What number a program sees is decided in
//! [`crate::errno`].

use std::path::PathBuf;

use wire::chunk::ChunkKey;
use wire::net::typed::CallError;
use wire::status::{FsError, Status};

/// What went wrong. Cheap to clone: an error of writing behind is told to every handle.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A rule of the filesystem said no.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A service refused for good.
    #[error("{who} refused: {status}")]
    Refused {
        /// Who.
        who: String,
        /// What it said.
        status: Status,
    },
    /// The net can't carry it, and trying again is no use.
    #[error(transparent)]
    Net(CallError),
    /// Tried until the deadline.
    #[error("gave up after {waited_ms} ms waiting for {what}: {last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// For how long, in milliseconds.
        waited_ms: u64,
        /// The last failure.
        last: String,
    },
    /// The client ended before everything was written.
    #[error("{bytes} bytes of {files} file(s) are not written: {why}")]
    Unwritten {
        /// Bytes that are not known to be durable.
        bytes: u64,
        /// Files they belong to.
        files: usize,
        /// What was waited for last.
        why: String,
    },
    /// Every copy of a chunk fails its checksum.
    #[error("every copy of chunk {key} is damaged")]
    Corrupt {
        /// The chunk.
        key: ChunkKey,
    },
    /// An answer that makes no sense.
    #[error("{who} answered what makes no sense: {detail}")]
    Protocol {
        /// Who.
        who: String,
        /// Why not.
        detail: String,
    },
    /// The handle is not open for this.
    #[error("the handle is not open for {0}")]
    BadHandle(&'static str),
    /// There is no data (or hole) at or after the offset.
    #[error("no data from this offset on")]
    NoData,
    /// Somebody else has a lock that is in the way, and it is not waited for.
    #[error("another one holds a lock that is in the way")]
    Locked,
    /// The handle held a lock that was lost with its session: others may have it, so nothing goes through the handle
    /// any more.
    #[error("a lock was lost while the namespace could not be reached; open the file and take it again")]
    LockLost,
    /// The session in which something was to be told is over: it is looked at anew in the next one.
    #[error("the session with the namespace is over")]
    SessionOver,
    /// Too many symbolic links on the way.
    #[error("too many levels of symbolic links")]
    Loop,
    /// The client is shutting down.
    #[error("the client is shutting down")]
    Stopping,
    /// The mount point can't be used.
    #[error("{}: {problem}", path.display())]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: MountProblem,
    },
}

/// Why a directory can't be mounted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountProblem {
    /// It does not exist.
    #[error("the mount point does not exist; create it with mkdir")]
    Missing,
    /// It is something else.
    #[error("the mount point is not a directory; give an empty one")]
    NotDirectory,
    /// It has entries.
    #[error("the mount point is not empty; choose an empty directory")]
    NotEmpty,
    /// A live mount is there.
    #[error("Brickyard is already mounted here; unmount it first with umount")]
    AlreadyMounted,
    /// Nothing of ours is mounted there.
    #[error("no Brickyard is mounted here that could be mounted anew; leave 'remount' out to mount it")]
    NotMounted,
    /// Files there are open for writing.
    #[error("files are open for writing here; close them, and try again")]
    Busy,
    /// Something is mounted there that does not answer.
    #[error("what is mounted here does not answer ({0}); unmount it first with umount -l")]
    DeadForeign(String),
    /// The directory of the filesystem that was to be mounted does not exist.
    #[error("there is no such directory in the filesystem; make it on a mount of the whole, or mount that")]
    RootMissing,
    /// It is something else.
    #[error("this is no directory of the filesystem; mount the one it is in")]
    RootNotDirectory,
    /// There is no FUSE.
    #[error(
        "/dev/fuse is missing; load it with modprobe fuse, or start the container with --device /dev/fuse --cap-add \
         SYS_ADMIN"
    )]
    NoFuse,
    /// Mounting is root's.
    #[error("mounting needs root; run it with sudo")]
    NotRoot,
    /// The system said no.
    #[error("can't mount: {0}")]
    System(String),
}

impl Error {
    /// Whether the inode (or name) is simply not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Fs(FsError::NotFound | FsError::Stale))
    }

    /// The final error of a call that nobody should repeat.
    pub(crate) fn of_call(who: impl Into<String>, error: CallError) -> Error {
        match error {
            CallError::Status(Status::Fs(rule)) => Error::Fs(rule),
            CallError::Status(status) => Error::Refused { who: who.into(), status },
            error => Error::Net(error),
        }
    }

    /// An answer of another kind than the question asks for.
    pub(crate) fn unexpected(who: impl Into<String>, wanted: &str) -> Error {
        Error::Protocol { who: who.into(), detail: format!("another answer than {wanted}") }
    }
}
