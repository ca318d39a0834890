//! The room's error, and what callers are told.

use wire::id::BrickId;
use wire::net::NetError;
use wire::status::{FsError, Status};

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
    /// What was acknowledged could not be made durable when stopping.
    #[error("the last commit failed: {0}")]
    Commit(StoreError),
    /// A call that was given up still runs; the directory is free when it ends.
    #[error("brick {0} is still held by a call that does not end")]
    Lingering(BrickId),
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
