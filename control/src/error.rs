//! The room's one error type. A variant is something a caller does differently.

use std::io;
use std::path::{Path, PathBuf};

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed: the text says which act on which path.
    #[error("can't {act} {path}: {why}")]
    Io {
        /// What was being done, as a verb ("open", "write", "rename").
        act: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
        /// The cause. It is in the message, and so not told as a cause of its own.
        why: io::Error,
    },
    /// A file isn't what it should be: damaged, foreign or hostile.
    #[error("{path} is refused: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file was written by a later release.
    #[error("{path} has format {found}, this release knows up to {known}: use a newer brickyard")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format version found.
        found: u32,
        /// The latest one this release reads.
        known: u32,
    },
    /// Somebody else holds the lock that makes an owner.
    #[error("{path} is locked by another process{holder}")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who, as far as known, with a leading blank.
        holder: String,
    },
    /// The storage refused a write with EIO: this process isn't the owner any more and must end.
    #[error("fenced: writing {path} failed with EIO, somebody else is the master now")]
    Fenced {
        /// The file that couldn't be written.
        path: PathBuf,
    },
    /// The agent's spool belongs to another cluster than the one mounted here.
    #[error(
        "{spool} belongs to cluster {theirs}, but {root} is cluster {ours}: give another spool directory or mount the right cluster"
    )]
    OtherCluster {
        /// The agent's local spool.
        spool: PathBuf,
        /// Cluster id in the spool.
        theirs: String,
        /// The control directory.
        root: PathBuf,
        /// Cluster id of the control directory.
        ours: String,
    },
    /// The journal and the queue disagree: a record can't follow from the state before it.
    #[error("journal record {seq} doesn't follow from the queue before it: {reason}")]
    Law {
        /// Sequence number of the record, 0 when it wasn't journaled yet.
        seq: u64,
        /// What contradicts.
        reason: String,
    },
    /// A setting is wrong; the text says which and what to write.
    #[error("{0}")]
    Config(String),
    /// A crash made by a test at a chosen step.
    #[error("simulated crash")]
    Crashed,
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// True when the cause is a system call that found nothing under the name.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { why, .. } if why.kind() == io::ErrorKind::NotFound)
    }
}

/// Adds act and path to the error of a system call.
pub(crate) trait At<T> {
    /// Names the act and its path.
    fn at(self, act: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, act: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::Io { act, path: path.to_path_buf(), why: e.into() })
    }
}
