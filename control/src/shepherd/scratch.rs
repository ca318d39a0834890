//! The job's own scratch directory, `TMPDIR`.
//!
//! 1. It is empty when the job begins, and gone before the run's end is on record: by its supervisor, or by the agent when the
//!    supervisor vanished. Until then no other run of the task can have begun, so it is never a living run's that is removed.
//!    `a_lost_run_leaves_nothing_behind`
//! 2. Nothing outside is touched, whatever the job put there or in its place: links are removed, not followed.

use std::path::{Path, PathBuf};

use super::own;
use crate::agent::spool::Work;
use crate::error::{Error, Result};
use crate::store::disk::Disk;

/// Digits of the cluster's id in the name of a scratch directory.
const CLUSTER_DIGITS: usize = 8;

/// Where it is: Grid Engine's `JOB.TASK.QUEUE` and the beginning of the cluster's id, since every cluster counts its jobs from 1
/// and two of them may run jobs on one host.
pub(crate) fn path(work: &Work) -> PathBuf {
    let key = work.key;
    let mut name = format!("{}.{}.{}", key.job, key.task, work.queue.name);
    if let Some(cluster) = work.cluster.get(..CLUSTER_DIGITS) {
        name.push('.');
        name.push_str(cluster);
    }
    Path::new(&work.queue.tmpdir).join(name)
}

/// Makes it, the job's user's own.
pub(super) fn make(work: &Work) -> Result<()> {
    let path = path(work);
    let disk = Disk::default();
    if !disk.make_dir(&path, 0o700)? {
        // Of a run that a crash ended, or somebody's who guessed the name: its contents are none of this job's.
        disk.remove(&path).or_else(|_| disk.remove_tree(&path))?;
        if !disk.make_dir(&path, 0o700)? {
            return Err(Error::Format { path, reason: "somebody else makes it again and again".into() });
        }
    }
    own(&path, &work.person)
}

/// Removes it with all that is in it; a link or file in its place is removed itself.
pub(crate) fn remove(work: &Work) -> Result<()> {
    let path = path(work);
    let disk = Disk::default();
    // `remove_tree` takes a link for what it is, but not a file.
    disk.remove_tree(&path).or_else(|error| disk.remove(&path).map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use super::super::environment;
    use super::*;

    /// The same job number of two clusters on one host: each has its own scratch directory.
    #[test]
    fn clusters_on_one_host_share_no_scratch_directory() {
        let ours = environment::tests::work();
        let mut theirs = ours.clone();
        theirs.cluster = "fedcba9876543210fedcba9876543210".into();
        assert_eq!(path(&ours), Path::new("/tmp/7.1.all.q.01234567"));
        assert_eq!(path(&theirs), Path::new("/tmp/7.1.all.q.fedcba98"));
        // A run taken over from a release that did not know: where that release made it.
        theirs.cluster.clear();
        assert_eq!(path(&theirs), Path::new("/tmp/7.1.all.q"));
    }
}
