//! Why the metadata service cannot do its work, and what of it a caller hears.

use std::path::PathBuf;

use wire::id::ClusterId;
use wire::net::NetError;
use wire::status::Status;

/// A failure of the service itself; what a rule of the filesystem forbids is a [`Status`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory belongs to another cluster.
    #[error("{} holds the namespace of cluster {found}, not of cluster {expected}", dir.display())]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The cluster of this program's credential.
        expected: ClusterId,
    },
    /// The directory was written by a later program.
    #[error("{} is of format {found}, and this program knows formats up to {known}; use a newer one", dir.display())]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The latest format known here.
        known: u32,
    },
    /// The directory is something else.
    #[error("{} is not a namespace directory: {detail}", dir.display())]
    NotNamespace {
        /// The directory.
        dir: PathBuf,
        /// Why.
        detail: String,
    },
    /// Another process has the directory.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("database: {0}")]
    Db(#[from] rocksdb::Error),
    /// A record is not what it must be.
    #[error("record {key}: {detail}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// A record could not be encoded.
    #[error("encoding a record: {detail}")]
    Encode {
        /// Why.
        detail: String,
    },
    /// The thread that applies commands could not be started.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
    /// The directory is that of one of several members.
    #[error("{} is that of a member of several: its state is not whole without the others", dir.display())]
    NeedsMembers {
        /// The directory.
        dir: PathBuf,
    },
    /// The log of several members could not be started.
    #[error("the namespace's log: {0}")]
    Log(String),
    /// The log on this disk cannot be used.
    #[error("the namespace's log: {0}")]
    Journal(#[from] crate::log::raft::journal::JournalError),
    /// The service cannot listen.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl From<&Error> for Status {
    /// What a caller hears: it is this disk that failed, and the caller can't mend it.
    fn from(_: &Error) -> Status {
        Status::DiskFailed
    }
}
