//! Every knob of this room: meaning, unit, default, range.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::store::disk;

/// Largest submission file: script, arguments and exported environment together.
pub const SUBMISSION_MAX: u64 = 16 << 20;
/// Largest command, report or assignment file.
pub const MESSAGE_MAX: u64 = 1 << 20;
/// Most tasks of one array job, as Grid Engine's `max_aj_tasks`.
pub const ARRAY_TASKS_MAX: u64 = 75_000;
/// How far beyond the used-up numbers a job number may be.
pub const ID_WINDOW: u64 = 1_000_000;
/// Files the master takes from `incoming` in one round, so that a flood can't keep it from scheduling.
pub const INTAKE_MAX: usize = 1_000;
/// Runs the master dispatches in one round.
pub const DISPATCH_MAX: usize = 500;
/// Refused files kept for the administrator; more are removed.
pub const REJECTED_MAX: usize = 200;
/// Finished jobs the queue remembers, for `qstat -s z` and `qsub -sync y`.
pub const FINISHED_MAX: usize = 1_000;
/// Journal records after which a new snapshot is published (or a quarter of the queue, if that is more).
pub const SNAPSHOT_EVERY: u64 = 1_000;
/// Largest journal part read.
pub const JOURNAL_PART_MAX: u64 = 4 << 30;
/// Largest snapshot read.
pub const STATE_MAX: u64 = 4 << 30;
/// A claimed number without a submission is given up after this, in seconds.
pub const CLAIM_AGE_MAX_S: i64 = 3_600;
/// An unfinished file of a user in `incoming` is removed after this, in seconds.
pub const UNFINISHED_AGE_MAX_S: i64 = 86_400;

/// Name of the file of queues in `config/`.
pub(crate) const QUEUES_FILE: &str = "queues.toml";

/// What a new cluster's `config/queues.toml` says.
pub(crate) const DEFAULT_QUEUES: &str = "\
# Queues of this cluster. Changes count from the next start of the master on.

[[queue]]
name = \"all.q\"
# Slots on each host; 0 = one per core.
slots = 0
# Interpreter of job scripts that don't ask for another one by `qsub -S`.
shell = \"/bin/sh\"
# posix_compliant: always that interpreter. unix_behavior: the script's own `#!` line, if it has one.
shell_start_mode = \"posix_compliant\"
# Where each job gets its TMPDIR.
tmpdir = \"/tmp\"
";

/// How the interpreter of a script is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ShellStartMode {
    /// `-S`, or else the queue's shell; the `#!` line counts for nothing.
    #[default]
    PosixCompliant,
    /// `-S`, or else the `#!` line, or else the queue's shell.
    UnixBehavior,
}

/// One cluster queue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// Its name: letters, digits, `.`, `_`, `-`; at most 64.
    pub name: String,
    /// Slots on each host; 0 (default) means one per core.
    #[serde(default)]
    pub slots: u32,
    /// Interpreter of scripts without `-S`; default `/bin/sh`.
    #[serde(default = "default_shell")]
    pub shell: String,
    /// How the interpreter is found.
    #[serde(default)]
    pub shell_start_mode: ShellStartMode,
    /// Parent of the jobs' TMPDIR on the execution host; default `/tmp`.
    #[serde(default = "default_tmpdir")]
    pub tmpdir: String,
    /// Whether jobs that don't say `-r` are run again after their host was lost; default false.
    #[serde(default)]
    pub rerun: bool,
}

fn default_shell() -> String {
    "/bin/sh".into()
}

fn default_tmpdir() -> String {
    "/tmp".into()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueuesFile {
    queue: Vec<QueueConfig>,
}

/// Reads and checks the queue of this cluster.
pub(crate) fn load_queue(layout: &Layout) -> Result<QueueConfig> {
    let path = layout.config().join(QUEUES_FILE);
    let found = disk::read_bounded(&path, MESSAGE_MAX)?;
    let text = String::from_utf8(found.bytes)
        .map_err(|_| Error::Format { path: path.clone(), reason: "it isn't text".into() })?;
    parse_queues(&text, &path)
}

fn parse_queues(text: &str, path: &Path) -> Result<QueueConfig> {
    let wrong = |reason: String| Error::Config(format!("{}: {reason}", path.display()));
    let file: QueuesFile =
        toml::from_str(text).map_err(|e| wrong(e.to_string().trim_end().replace('\n', " ")))?;
    let mut queues = file.queue.into_iter();
    let queue = queues.next().ok_or_else(|| wrong("there is no [[queue]]".into()))?;
    if queues.next().is_some() {
        return Err(wrong("this release serves one [[queue]]; remove the others".into()));
    }
    if !plain_name(&queue.name) {
        return Err(wrong(format!(
            "queue name {:?} may only have letters, digits, \".\", \"_\" and \"-\"",
            queue.name
        )));
    }
    for (key, value) in [("shell", &queue.shell), ("tmpdir", &queue.tmpdir)] {
        if !value.starts_with('/') {
            return Err(wrong(format!("{key} = {value:?} must be an absolute path")));
        }
    }
    if queue.slots > 100_000 {
        return Err(wrong(format!("slots = {} is more than 100000", queue.slots)));
    }
    Ok(queue)
}

/// True for a name that is safe as one component of a path and in the accounting file.
pub(crate) fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What a master needs to know.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    /// The control directory, `MNT/.cluster`.
    pub root: PathBuf,
    /// This machine's name, for `master/active`.
    pub hostname: String,
    /// How long a host may be silent before nothing more is sent to it, in milliseconds; default 30,000.
    pub host_silence_max_ms: u64,
}

impl MasterConfig {
    /// The defaults, on this machine.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        MasterConfig { root: root.to_path_buf(), hostname: hostname(), host_silence_max_ms: 30_000 }
    }
}

/// What an agent needs to know.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The control directory, `MNT/.cluster`.
    pub root: PathBuf,
    /// This machine's name in the cluster: letters, digits, `.`, `_`, `-`.
    pub hostname: String,
    /// Slots this host offers; `None` means one per core. The queue's own `slots` comes first.
    pub slots: Option<u32>,
    /// Local directory, not on the mount, for what must survive the agent: accepted runs and how they ended.
    pub spool: PathBuf,
    /// The command that becomes a run's supervisor; the run's directory is added as its last argument.
    pub shepherd_command: Vec<OsString>,
    /// How often the host tells how it is, in milliseconds; default 5,000.
    pub heartbeat_ms: u64,
}

impl AgentConfig {
    /// The defaults, on this machine: one slot per core, supervised by `shepherd` of this same program.
    #[must_use]
    pub fn new(root: &Path, spool: &Path) -> Self {
        AgentConfig {
            root: root.to_path_buf(),
            hostname: hostname(),
            slots: None,
            spool: spool.to_path_buf(),
            // The kernel's link works even after the program's file was replaced by a newer one.
            shepherd_command: vec!["/proc/self/exe".into(), "shepherd".into()],
            heartbeat_ms: 5_000,
        }
    }
}

/// This machine's name, reduced to what a path component may hold.
#[must_use]
pub fn hostname() -> String {
    let full = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    if plain_name(&full) { full } else { "localhost".into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_valid_and_says_what_the_code_assumes() {
        let queue = parse_queues(DEFAULT_QUEUES, Path::new("q")).unwrap();
        assert_eq!((queue.name.as_str(), queue.slots, queue.shell.as_str()), ("all.q", 0, "/bin/sh"));
        assert_eq!(queue.shell_start_mode, ShellStartMode::PosixCompliant);
        assert!(!queue.rerun);
    }

    #[test]
    fn wrong_settings_are_named_in_one_line() {
        for (text, word) in [
            ("queue = []", "no [[queue]]"),
            ("[[queue]]\nname = \"a/b\"", "queue name"),
            ("[[queue]]\nname = \"a\"\nslotz = 3", "slotz"),
            ("[[queue]]\nname = \"a\"\nshell = \"sh\"", "absolute"),
            ("[[queue]]\nname = \"a\"\n[[queue]]\nname = \"b\"", "one [[queue]]"),
        ] {
            let error = parse_queues(text, Path::new("q.toml")).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
    }
}
