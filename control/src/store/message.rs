//! The small files by which master, agents and `q` commands talk. Each is a sealed JSON value.

use serde::{Deserialize, Serialize};

use crate::config::QueueConfig;
use crate::config::ShellStartMode;
use crate::plan::{Exit, JobId, Ranges, RunKey};
use crate::store::sealed::Kind;

/// Start of a submission's name in `incoming`, before its number.
pub(crate) const JOB_PREFIX: &str = "job.";
/// Start of a command's name in `incoming`.
pub(crate) const COMMAND_PREFIX: &str = "cmd.";
/// End of a kill request's name, after the run.
pub(crate) const KILL_SUFFIX: &str = ".kill";
/// End of the name of a report that a run began.
pub(crate) const STARTED_SUFFIX: &str = ".started";
/// End of the name of a report that a run is over.
pub(crate) const ENDED_SUFFIX: &str = ".ended";

pub(crate) const ASSIGNMENT: Kind = Kind { name: "assignment", version: 1 };
pub(crate) const REPORT: Kind = Kind { name: "report", version: 1 };
pub(crate) const COMMAND: Kind = Kind { name: "command", version: 1 };
pub(crate) const HOST: Kind = Kind { name: "host", version: 1 };
pub(crate) const MASTER: Kind = Kind { name: "master", version: 1 };

/// What an agent must know of the queue to run a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueueView {
    pub name: String,
    pub shell: String,
    pub shell_start_mode: ShellStartMode,
    pub tmpdir: String,
}

impl From<&QueueConfig> for QueueView {
    fn from(q: &QueueConfig) -> Self {
        QueueView {
            name: q.name.clone(),
            shell: q.shell.clone(),
            shell_start_mode: q.shell_start_mode,
            tmpdir: q.tmpdir.clone(),
        }
    }
}

/// Master to agent: run this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub key: RunKey,
    /// Who submitted it, by the submission file's owner.
    pub uid: u32,
    /// BLAKE3 of the submission file: nothing else may be run.
    pub digest: String,
    pub queue: QueueView,
}

/// Agent to master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Started { key: RunKey, at_ms: i64 },
    Ended { key: RunKey, exit: Exit },
}

/// User to master; who it is says the file's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    Delete { job: JobId, tasks: Option<Ranges>, force: bool },
    Hold { job: JobId, hold: bool },
    Clear { job: JobId, tasks: Option<Ranges> },
}

/// How a host is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HostStatus {
    pub host: String,
    pub slots: u32,
    pub arch: String,
    pub load_avg: f64,
    pub mem_total_bytes: u64,
    pub mem_available_bytes: u64,
    /// Differs at every writing, so that a repeated reading tells a live agent from a dead one's last word.
    pub beat: u64,
    /// False when the agent is about to leave.
    pub accepting: bool,
}

/// Who is the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Active {
    pub host: String,
    pub pid: u32,
    pub term: u64,
    pub since_ms: i64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::TaskId;
    use crate::store::sealed::seal_json;

    /// What other releases may read: these bytes stay.
    #[test]
    fn the_formats_keep_their_bytes() {
        let key = RunKey { job: JobId(7), task: TaskId(3), run: 2 };
        let text = |kind, bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once('\n').unwrap();
            assert!(head.starts_with(&format!("brickyard {kind} 1 ")), "{head}");
            body.to_owned()
        };
        let started = Report::Started { key, at_ms: 9 };
        assert_eq!(
            text("report", seal_json(REPORT, &started).unwrap()),
            r#"{"started":{"key":{"job":7,"task":3,"run":2},"at_ms":9}}"#
        );
        let delete = Command::Delete { job: JobId(7), tasks: Some(Ranges::from(vec![(1, 3)])), force: false };
        assert_eq!(
            text("command", seal_json(COMMAND, &delete).unwrap()),
            r#"{"delete":{"job":7,"tasks":[[1,3]],"force":false}}"#
        );
        let queue = QueueView {
            name: "all.q".into(),
            shell: "/bin/sh".into(),
            shell_start_mode: ShellStartMode::PosixCompliant,
            tmpdir: "/tmp".into(),
        };
        let assignment = Assignment { key, uid: 1000, digest: "ab".into(), queue };
        assert_eq!(
            text("assignment", seal_json(ASSIGNMENT, &assignment).unwrap()),
            r#"{"key":{"job":7,"task":3,"run":2},"uid":1000,"digest":"ab","queue":{"name":"all.q","shell":"/bin/sh","shell_start_mode":"posix_compliant","tmpdir":"/tmp"}}"#
        );
    }
}
