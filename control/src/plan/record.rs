//! What is written down about a job, and the records by which the queue changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{JobId, RunKey, TaskId, TaskRange};
use super::ranges::Ranges;

/// What the queue knows of a job from its submission on. Script, arguments and environment stay in the submission
/// file; this is what is read to list ten thousand of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewJob {
    /// Number.
    pub id: JobId,
    /// Name.
    pub name: String,
    /// The submission file's owner.
    pub owner: String,
    /// His uid; the authority on who may do what with the job.
    pub uid: u32,
    /// His primary group.
    pub group: String,
    /// When it was submitted, ms since 1970 by the submitter's clock.
    pub submitted_ms: i64,
    /// Tasks; `None` for a job that isn't an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<TaskRange>,
    /// Most tasks at once; 0 = no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub task_limit: u32,
    /// -1023..=1024, the higher the sooner.
    #[serde(default)]
    pub priority: i32,
    /// Whether it is run again when a run of it was lost.
    #[serde(default)]
    pub rerun: bool,
    /// Submitted in user hold.
    #[serde(default)]
    pub hold: bool,
    /// Accounting string.
    pub account: String,
    /// BLAKE3 of the submission file, hex: what is run is what was accepted.
    pub digest: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature serde wants.
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl NewJob {
    /// The tasks, also of a job that isn't an array.
    #[must_use]
    pub fn tasks(&self) -> TaskRange {
        self.array.unwrap_or(TaskRange::SINGLE)
    }
}

/// What the kernel counted for a run. Names and units are those of the accounting file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// User CPU time in seconds.
    pub utime_s: f64,
    /// System CPU time in seconds.
    pub stime_s: f64,
    /// Largest resident set of any one process, in KiB.
    pub maxrss_kib: i64,
    /// Page faults without I/O.
    pub minflt: i64,
    /// Page faults with I/O.
    pub majflt: i64,
    /// Blocks read.
    pub inblock: i64,
    /// Blocks written.
    pub oublock: i64,
    /// Voluntary context switches.
    pub nvcsw: i64,
    /// Involuntary context switches.
    pub nivcsw: i64,
}

/// How a run ended, as its supervisor saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// When the job's process was started, ms since 1970; `None`: it never was.
    pub started_ms: Option<i64>,
    /// When it was over, ms since 1970.
    pub ended_ms: i64,
    /// Grid Engine's code for what went wrong around the job, 0 for nothing (see `failed`).
    pub failed: u32,
    /// Exit status, or 128 + signal.
    pub exit_status: i32,
    /// Why, in words, when `failed` isn't 0.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The supervisor vanished without a word: nobody knows how the job ended.
    #[serde(default)]
    pub lost: bool,
    /// Nothing of the job was executed, and not for a fault of its own: the mount was away when it was about to begin. It is to
    /// run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbegun: bool,
    /// What it used.
    #[serde(default)]
    pub usage: Usage,
}

/// From this run of a task on, one more that found the mount away puts it in error: then something else is wrong, and trying
/// for ever would hide it.
pub const UNBEGUN_RUNS_MAX: u32 = 100;

/// Values of [`Exit::failed`] and of the accounting's `failed` field.
pub mod failed {
    /// The agent couldn't begin.
    pub const BEFORE_JOB: u32 = 1;
    /// The supervisor ended without an exit status.
    pub const NO_STATUS: u32 = 19;
    /// Exit status 99: run again.
    pub const RESCHEDULE: u32 = 25;
    /// An output or input file can't be opened.
    pub const OUTPUT: u32 = 26;
    /// The interpreter or program can't be executed.
    pub const SHELL: u32 = 27;
    /// The working directory can't be entered.
    pub const CHDIR: u32 = 28;
    /// Exit status 100: the job asks for its error state.
    pub const APPLICATION: u32 = 30;
    /// Killed by a signal after it had begun.
    pub const SIGNALLED: u32 = 100;
}

/// What follows from the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The task is done.
    Done,
    /// The task was deleted.
    Deleted,
    /// The task runs again.
    Requeued,
    /// The task waits in error state until somebody clears it.
    Error(String),
    /// Nobody knows how it ended, and it must not run twice: the task is over.
    Lost,
}

/// The accounting line of a run and its place, so that writing it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Inode of the accounting file.
    pub ino: u64,
    /// Offset of the line in it.
    pub offset: u64,
    /// The line with its newline.
    pub line: String,
}

/// One change of the queue, as journaled. Applied in the same order to the same queue it gives the same queue, on
/// every machine and in every release that reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A submission was accepted.
    Submitted(NewJob),
    /// A job number is given up: its claimer never submitted.
    Abandoned {
        /// The number.
        job: JobId,
    },
    /// A run was given to a host.
    Dispatched {
        /// The run.
        key: RunKey,
        /// The host.
        host: String,
        /// When, ms since 1970.
        at_ms: i64,
    },
    /// The host says that the run began.
    Started {
        /// The run.
        key: RunKey,
        /// When, ms since 1970 by the host's clock.
        at_ms: i64,
    },
    /// The run is over.
    Ended {
        /// The run.
        key: RunKey,
        /// How.
        exit: Exit,
        /// What follows.
        verdict: Verdict,
        /// Its accounting line; `None` for a run that never began.
        ledger: Option<Ledger>,
    },
    /// Somebody who may deleted a job or some of its tasks.
    Deleted {
        /// The job.
        job: JobId,
        /// Task numbers; `None` for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tasks: Option<Ranges>,
        /// Who.
        by: String,
        /// Drop running tasks at once without waiting for the host.
        force: bool,
        /// When, ms since 1970.
        at_ms: i64,
    },
    /// The user hold was set or taken away.
    Held {
        /// The job.
        job: JobId,
        /// Set?
        hold: bool,
    },
    /// The error state of tasks was cleared.
    Cleared {
        /// The job.
        job: JobId,
        /// Task numbers; `None` for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tasks: Option<Ranges>,
    },
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Given to the host, not begun as far as we know.
    Transferring,
    /// Begun.
    Running,
}

/// A run that isn't over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// 1 for the first run of this task.
    pub run: u32,
    /// Where.
    pub host: String,
    /// How far.
    pub phase: Phase,
    /// When it got there, ms since 1970.
    pub since_ms: i64,
    /// Somebody wants it to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

/// How a task ended, for those that didn't end well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// Exit status, or 128 + signal.
    pub exit_status: i32,
    /// Grid Engine's `failed` code.
    pub failed: u32,
    /// What followed.
    pub verdict: Verdict,
}

/// A job that isn't over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What was submitted; `hold` is the current one.
    pub new: NewJob,
    /// Tasks that wait, by their place in the array counted from 0.
    pub waiting: Ranges,
    /// Tasks that run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub runs: BTreeMap<TaskId, Run>,
    /// Tasks in error state and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<TaskId, String>,
    /// For tasks that have run and may run again: number of their last run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attempts: BTreeMap<TaskId, u32>,
    /// Tasks over, whatever the end.
    #[serde(default)]
    pub over: u64,
    /// The first [`BAD_ENDS_MAX`] tasks that didn't end with status 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bad_ends: BTreeMap<TaskId, TaskEnd>,
}

/// How many bad ends of one job are remembered.
pub const BAD_ENDS_MAX: usize = 1_000;

/// A job that is over, remembered for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// What was submitted.
    pub new: NewJob,
    /// When the last task was over, ms since 1970.
    pub ended_ms: i64,
    /// Tasks that didn't end with status 0 (the first [`BAD_ENDS_MAX`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bad_ends: BTreeMap<TaskId, TaskEnd>,
}
