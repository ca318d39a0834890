//! The room's error, and what callers are told.

use std::path::PathBuf;

use wire::id::BrickId;
use wire::net::NetError;
use wire::status::{FsError, Status};

use crate::config::SILENT_FOR;
use crate::store::StoreError;
use crate::store::dir::DirError;

/// Why a brick could not be started or stopped cleanly. One line each, for people.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its directory is not what it should be.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// It could not listen.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Its threads could not be started.
    #[error("can't start a thread: {0}")]
    Thread(std::io::Error),
    /// No brick was named, or bricks that can't share a server.
    #[error("bricks of one server must be of one cluster and listen at one endpoint")]
    Config,
    /// Another directory of the same server is this brick.
    #[error(
        "{dir} is brick {brick}, which this server has in another directory: one of them is a copy, leave its --dir away",
        dir = dir.display()
    )]
    Twice {
        /// The brick.
        brick: BrickId,
        /// The directory that is not served.
        dir: PathBuf,
    },
    /// It takes long to open it.
    #[error(
        "{dir} is not open after {} s: its disk is slow or does not answer, look at it and at its cable; it is waited for",
        SILENT_FOR.as_secs(), dir = dir.display()
    )]
    Slow {
        /// Its directory.
        dir: PathBuf,
    },
    /// What was acknowledged could not be made durable when stopping.
    #[error("the last commit failed: {0}")]
    Commit(StoreError),
    /// A call that was given up still runs; the directory is free when it ends.
    #[error("brick {0} is still held by a call that does not end")]
    Lingering(BrickId),
}

impl Error {
    /// Whether nothing that may happen to a disk or to another process makes the directory one that this process can serve.
    pub fn lasts(&self) -> bool {
        use DirError as D;
        let dir = |error: &D| {
            matches!(
                error,
                D::NewerFormat { .. } | D::OlderFormat { .. } | D::OtherCluster { .. } | D::OtherBrick { .. }
            )
        };
        match self {
            Error::Dir(error) => dir(error),
            Error::Twice { .. } | Error::Config => true,
            Error::Net(_)
            | Error::Slow { .. }
            | Error::Thread(_)
            | Error::Commit(_)
            | Error::Lingering(_) => false,
        }
    }
}

/// What a caller is told of a failure of the store.
pub fn status_of(error: &StoreError) -> Status {
    match error {
        StoreError::NoSpace => Status::Fs(FsError::NoSpace),
        StoreError::Corrupt { .. } => Status::Corrupt,
        StoreError::Version(version) => Status::Behind(*version),
        StoreError::Range => Status::Malformed,
        StoreError::Failed(_) => Status::DiskFailed,
    }
}
