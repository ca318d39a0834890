//! Names of jobs, tasks and runs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A job's number, as users see it. Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub u64);

/// A task's number within its job; 1 for a job that isn't an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u64);

/// One run of one task: the unit that is assigned, reported and accounted. Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// The job.
    pub job: JobId,
    /// The task.
    pub task: TaskId,
    /// 1 for the first run of the task, then counted up.
    pub run: u32,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.job, self.task, self.run)
    }
}

/// A positive number written without sign or leading zero, so that every number has one name.
pub(crate) fn plain_number(text: &str) -> Option<u64> {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

impl FromStr for RunKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut next = || parts.next().and_then(plain_number).ok_or(());
        let (job, task, run) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(());
        }
        Ok(RunKey { job: JobId(job), task: TaskId(task), run: u32::try_from(run).map_err(|_| ())? })
    }
}

/// The tasks of an array job: `first`, `first + step`, ... up to `last`, which is one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRange {
    /// Smallest task number, at least 1.
    pub first: u64,
    /// Largest task number.
    pub last: u64,
    /// Distance, at least 1.
    pub step: u64,
}

impl TaskRange {
    /// What a job that isn't an array has.
    pub const SINGLE: TaskRange = TaskRange { first: 1, last: 1, step: 1 };

    /// Normalised, so that `last` is a task: `1-20:2` becomes `1-19:2`. `None` for an impossible range.
    #[must_use]
    pub fn new(first: u64, last: u64, step: u64) -> Option<TaskRange> {
        if first == 0 || step == 0 || last < first {
            return None;
        }
        Some(TaskRange { first, last: last - (last - first) % step, step })
    }

    /// How many tasks.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.last - self.first) / self.step + 1
    }

    /// The `index`th task, counted from 0.
    #[must_use]
    pub fn task(&self, index: u64) -> TaskId {
        TaskId(self.first + index * self.step)
    }

    /// Which one, counted from 0, a task is.
    #[must_use]
    pub fn index(&self, task: TaskId) -> Option<u64> {
        let offset = task.0.checked_sub(self.first)?;
        (task.0 <= self.last && offset % self.step == 0).then_some(offset / self.step)
    }
}

impl fmt::Display for TaskRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}:{}", self.first, self.last, self.step)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_exactly_one_name() {
        let key: RunKey = "7.3.12".parse().unwrap();
        assert_eq!(key, RunKey { job: JobId(7), task: TaskId(3), run: 12 });
        assert_eq!(key.to_string(), "7.3.12");
        for bad in [
            "",
            "7",
            "7.3",
            "7.3.12.1",
            "07.3.1",
            "7.3.0",
            "+7.3.1",
            "7.-3.1",
            "7.3.99999999999",
            "7..1",
            "a.b.c",
        ] {
            assert!(bad.parse::<RunKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_are_normalised_as_grid_engine_shows_them() {
        assert_eq!(TaskRange::new(1, 20, 2).unwrap().to_string(), "1-19:2");
        let range = TaskRange::new(2, 10, 2).unwrap();
        assert_eq!((range.count(), range.task(4)), (5, TaskId(10)));
        assert_eq!(range.index(TaskId(6)), Some(2));
        assert_eq!(range.index(TaskId(5)), None);
        assert_eq!(range.index(TaskId(12)), None);
        assert_eq!(range.index(TaskId(1)), None);
        assert!(
            TaskRange::new(0, 1, 1).is_none()
                && TaskRange::new(3, 2, 1).is_none()
                && TaskRange::new(1, 2, 0).is_none()
        );
    }
}
