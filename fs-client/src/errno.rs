//! The one place where an errno is born.

use rustix::io::Errno;
use wire::status::FsError;

use crate::error::{Error, MountProblem};

impl Error {
    /// The number a program sees.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Fs(rule) => of_rule(*rule),
            Error::BadHandle(_) => Errno::BADF,
            Error::NoData => Errno::NXIO,
            Error::Loop => Errno::LOOP,
            Error::Locked => Errno::AGAIN,
            Error::MountPoint { problem, .. } => match problem {
                MountProblem::Missing | MountProblem::RootMissing => Errno::NOENT,
                MountProblem::NotDirectory | MountProblem::RootNotDirectory => Errno::NOTDIR,
                MountProblem::NotEmpty => Errno::NOTEMPTY,
                MountProblem::AlreadyMounted | MountProblem::Busy => Errno::BUSY,
                MountProblem::NotMounted => Errno::INVAL,
                MountProblem::NotRoot => Errno::PERM,
                MountProblem::NoFuse => Errno::NODEV,
                MountProblem::DeadForeign(_) | MountProblem::System(_) => Errno::IO,
            },
            Error::Refused { .. }
            | Error::Net(_)
            | Error::Deadline { .. }
            | Error::Unwritten { .. }
            | Error::Corrupt { .. }
            | Error::Protocol { .. }
            | Error::LockLost
            | Error::SessionOver
            | Error::Stopping => Errno::IO,
        }
    }
}

fn of_rule(rule: FsError) -> Errno {
    match rule {
        FsError::NotFound => Errno::NOENT,
        FsError::Exists => Errno::EXIST,
        FsError::NotDirectory => Errno::NOTDIR,
        FsError::IsDirectory => Errno::ISDIR,
        FsError::NotEmpty => Errno::NOTEMPTY,
        FsError::Stale => Errno::STALE,
        FsError::Invalid => Errno::INVAL,
        FsError::NameTooLong => Errno::NAMETOOLONG,
        FsError::TooManyLinks => Errno::MLINK,
        FsError::NoSpace => Errno::NOSPC,
        FsError::TooLarge => Errno::FBIG,
        FsError::NotPermitted => Errno::PERM,
        FsError::NoAttribute => Errno::NODATA,
        FsError::AttributeTooLarge => Errno::TOOBIG,
        FsError::NotSupported => Errno::OPNOTSUPP,
        FsError::ReadOnly => Errno::ROFS,
        FsError::NoLocks => Errno::NOLCK,
        FsError::Deadlock => Errno::DEADLK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk keeps its number, and what nobody can mend is an I/O error.
    #[test]
    fn numbers_programs_rely_on() {
        assert_eq!(Error::Fs(FsError::NoSpace).errno(), Errno::NOSPC);
        assert_eq!(Error::Fs(FsError::NotEmpty).errno(), Errno::NOTEMPTY);
        assert_eq!(Error::Fs(FsError::NoAttribute).errno(), Errno::NODATA);
        assert_eq!(Error::Stopping.errno(), Errno::IO);
        assert_eq!(Error::NoData.errno(), Errno::NXIO);
    }
}
