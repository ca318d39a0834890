//! What a job finds in its environment: the documented variables and what was exported at submission, nothing of the agent's.

use std::collections::BTreeMap;

use crate::agent::host::ARCH;
use crate::agent::spool::Work;

/// Where programs are found when the job doesn't say otherwise.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Names the run's directory in the agent's spool; by it the processes of a run are known.
pub(crate) const SPOOL_DIR: &str = "SGE_JOB_SPOOL_DIR";

/// Paths that are known only when the job is about to begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    pub cwd: String,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub script: String,
    pub spool: String,
    pub tmpdir: String,
}

/// The whole environment.
pub(crate) fn build(work: &Work, places: &Places) -> BTreeMap<String, String> {
    let spec = &work.spec;
    // What the user exported comes first, so that it can't pretend to be another job.
    let mut env = spec.environment.clone();
    env.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    for own in ["PE", "PE_HOSTFILE"] {
        env.remove(own);
    }
    let mut set = |key: &str, value: &str| env.insert(key.to_owned(), value.to_owned());
    let person = &work.person;
    set("HOME", &person.home);
    set("SHELL", &person.shell);
    set("USER", &person.name);
    set("LOGNAME", &person.name);
    set("PWD", &places.cwd);
    set("TMPDIR", &places.tmpdir);
    set("TMP", &places.tmpdir);
    let id = work.key.job.to_string();
    set("JOB_ID", &id);
    set("JOB_NAME", &spec.name);
    set("REQUEST", &spec.name);
    set("REQNAME", &spec.name);
    set("JOB_SCRIPT", &places.script);
    set("ENVIRONMENT", "BATCH");
    set("QUEUE", &work.queue.name);
    set("HOSTNAME", &work.host);
    set("SGE_ACCOUNT", &spec.account);
    set("RESTARTED", if work.key.run > 1 { "1" } else { "0" });
    set("NSLOTS", "1");
    set("NHOSTS", "1");
    set("NQUEUES", "1");
    set("SGE_BINDING", "");
    match &spec.array {
        Some(array) => {
            set("SGE_TASK_ID", &work.key.task.to_string());
            set("SGE_TASK_FIRST", &array.first.to_string());
            set("SGE_TASK_LAST", &array.last.to_string());
            set("SGE_TASK_STEPSIZE", &array.step.to_string());
        }
        None => {
            for key in ["SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"] {
                set(key, "undefined");
            }
        }
    }
    set("SGE_CWD_PATH", &places.cwd);
    set("SGE_STDIN_PATH", &places.stdin);
    set("SGE_STDOUT_PATH", &places.stdout);
    set("SGE_STDERR_PATH", &places.stderr);
    set(SPOOL_DIR, &places.spool);
    let origin = &spec.origin;
    for (key, value) in [
        ("SGE_O_HOME", &origin.home),
        ("SGE_O_HOST", &origin.host),
        ("SGE_O_LOGNAME", &origin.log_name),
        ("SGE_O_MAIL", &origin.mail),
        ("SGE_O_PATH", &origin.path),
        ("SGE_O_SHELL", &origin.shell),
        ("SGE_O_TZ", &origin.tz),
        ("SGE_O_TERM", &origin.term),
        ("SGE_O_WORKDIR", &origin.workdir),
    ] {
        if !value.is_empty() {
            set(key, value);
        }
    }
    set("SGE_ROOT", &work.root);
    set("SGE_CELL", "default");
    set("SGE_ARCH", ARCH);
    set("ARC", ARCH);
    let binaries =
        std::env::current_exe().ok().and_then(|p| p.parent().map(|d| d.to_string_lossy().into_owned()));
    set("SGE_BINARY_PATH", binaries.as_deref().unwrap_or("/usr/bin"));
    env
}

/// Replaces `$HOME $USER $JOB_ID $JOB_NAME $HOSTNAME $TASK_ID` and a leading `~` in a path.
pub(crate) fn expand(path: &str, work: &Work) -> String {
    let task = if work.spec.array.is_some() { work.key.task.0 } else { 0 };
    let (id, task) = (work.key.job.to_string(), task.to_string());
    let known = [
        ("HOME", work.person.home.as_str()),
        ("USER", &work.person.name),
        ("JOB_ID", &id),
        ("JOB_NAME", &work.spec.name),
        ("HOSTNAME", &work.host),
        ("TASK_ID", &task),
    ];
    let mut out = String::new();
    let mut rest = path;
    if let Some(after) = path.strip_prefix('~')
        && (after.is_empty() || after.starts_with('/'))
    {
        out.push_str(&work.person.home);
        rest = after;
    }
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let braced = tail.starts_with('{');
        let name_start = &tail[usize::from(braced)..];
        let len =
            name_start.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name_start.len());
        let name = &name_start[..len];
        let closed = !braced || name_start[len..].starts_with('}');
        match known.iter().find(|(k, _)| *k == name).filter(|_| closed) {
            Some((_, value)) => {
                out.push_str(value);
                rest = &name_start[len + usize::from(braced)..];
            }
            None => {
                out.push('$');
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::agent::spool::User;
    use crate::config::ShellStartMode;
    use crate::plan::{JobId, RunKey, TaskId, TaskRange};
    use crate::store::message::QueueView;

    pub(crate) fn work() -> Work {
        Work {
            key: RunKey { job: JobId(7), task: TaskId(1), run: 1 },
            person: User {
                name: "ann".into(),
                uid: 1000,
                gid: 100,
                home: "/home/ann".into(),
                shell: "/bin/bash".into(),
            },
            queue: QueueView {
                name: "all.q".into(),
                shell: "/bin/sh".into(),
                shell_start_mode: ShellStartMode::PosixCompliant,
                tmpdir: "/tmp".into(),
            },
            host: "node1".into(),
            root: "/mnt/.cluster".into(),
            cluster: "0123456789abcdef0123456789abcdef".into(),
            spec: crate::store::submission::tests::spec(7),
        }
    }

    #[test]
    fn placeholders_are_grid_engines() {
        let mut work = work();
        for (path, want) in [
            ("$HOME/x", "/home/ann/x"),
            ("~/x", "/home/ann/x"),
            ("~other/x", "~other/x"),
            ("$JOB_NAME.$JOB_ID.$TASK_ID.$HOSTNAME.log", "job.sh.7.0.node1.log"),
            ("${USER}s", "anns"),
            ("$USERS", "$USERS"),
            ("a$", "a$"),
            ("${USER", "${USER"),
            ("", ""),
        ] {
            assert_eq!(expand(path, &work), want);
        }
        work.spec.array = TaskRange::new(1, 9, 1);
        work.key.task = TaskId(4);
        assert_eq!(expand("$TASK_ID", &work), "4");
    }

    #[test]
    fn a_job_sees_the_documented_variables_and_none_of_the_agents() {
        let mut work = work();
        work.spec.environment =
            BTreeMap::from([("MINE".into(), "1".into()), ("JOB_ID".into(), "999".into())]);
        let env = build(
            &work,
            &Places { cwd: "/home/ann".into(), tmpdir: "/tmp/7.1.all.q".into(), ..Places::default() },
        );
        for (key, value) in [
            ("JOB_ID", "7"),
            ("MINE", "1"),
            ("SGE_TASK_ID", "undefined"),
            ("ENVIRONMENT", "BATCH"),
            ("RESTARTED", "0"),
            ("TMP", "/tmp/7.1.all.q"),
            ("QUEUE", "all.q"),
            ("HOME", "/home/ann"),
            ("NSLOTS", "1"),
        ] {
            assert_eq!(env.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(!env.contains_key("CARGO"), "the environment of this process leaks");
    }
}
