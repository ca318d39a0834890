//! What `qsub` hands in: one sealed file `job.ID` with everything the job needs, so that later edits of the script change nothing.
//!
//! Content: one line of JSON ([`Spec`]), then the bytes of the script (none for `-b y`). The file never says who submits: that is its
//! owner.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::ARRAY_TASKS_MAX;
use crate::error::{Error, Result};
use crate::plan::{JobId, TaskRange};
use crate::store::sealed::{self, Kind};

const KIND: Kind = Kind { name: "submission", version: 1 };

/// Where the job was submitted; becomes the `SGE_O_*` variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub home: String,
    pub host: String,
    pub log_name: String,
    pub mail: String,
    pub path: String,
    pub shell: String,
    pub tz: String,
    pub term: String,
    pub workdir: String,
}

/// Everything about a job but its script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub id: JobId,
    pub name: String,
    pub submitted_ms: i64,
    pub array: Option<TaskRange>,
    pub task_limit: u32,
    pub priority: i32,
    /// `-r`; `None`: as the queue says.
    pub rerun: Option<bool>,
    pub hold: bool,
    pub account: String,
    /// `-b y`: this command instead of a script.
    pub command: Option<String>,
    /// `-shell n`: the command directly, without a shell.
    pub no_shell: bool,
    /// `-S`.
    pub interpreter: Option<String>,
    /// The script's file name, for `qstat -j`.
    pub script_file: String,
    pub args: Vec<String>,
    /// `-cwd`, `-wd`; `None`: home.
    pub cwd: Option<String>,
    pub stdin: Option<String>,
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    pub join: bool,
    pub environment: BTreeMap<String, String>,
    pub origin: Origin,
}

/// Why a job can't have this name; `None` if it can.
pub(crate) fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > 255 {
        return Some("a job name must have 1 to 255 bytes".into());
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return Some(format!("\"{name}\" is not a valid object name (cannot start with a digit)"));
    }
    let bad = name.chars().find(|c| c.is_control() || "/:@\\*?'\"".contains(*c));
    bad.map(|c| format!("denied: \"{c}\" is not allowed in the job name \"{}\"", name.escape_debug()))
}

impl Spec {
    /// The tasks, also of a job that isn't an array.
    pub fn tasks(&self) -> TaskRange {
        self.array.unwrap_or(TaskRange::SINGLE)
    }

    /// What is wrong with it, whoever wrote it.
    pub fn fault(&self) -> Option<String> {
        if let Some(fault) = name_fault(&self.name) {
            return Some(fault);
        }
        if let Some(array) = &self.array {
            if TaskRange::new(array.first, array.last, array.step).as_ref() != Some(array) {
                return Some(format!("{array} isn't a range of tasks"));
            }
            if array.count() > ARRAY_TASKS_MAX || array.last > i32::MAX.cast_unsigned().into() {
                return Some(format!("an array job may have {ARRAY_TASKS_MAX} tasks"));
            }
        }
        if !(-1023..=1024).contains(&self.priority) {
            return Some("the priority must be from -1023 to 1024".into());
        }
        if self.account.is_empty()
            || self.account.len() > 255
            || self.account.chars().any(|c| c == ':' || c.is_control())
        {
            return Some("the account must have 1 to 255 bytes and no colon".into());
        }
        if self.command.as_ref().is_some_and(String::is_empty) {
            return Some("the command is empty".into());
        }
        let texts = [&self.command, &self.interpreter, &self.cwd, &self.stdin, &self.stdout, &self.stderr];
        let nul = texts
            .into_iter()
            .flatten()
            .chain(&self.args)
            .chain(self.environment.values())
            .any(|t| t.contains('\0'));
        if nul || self.environment.keys().any(|k| k.is_empty() || k.contains(['\0', '='])) {
            return Some("there is a NUL in it".into());
        }
        None
    }
}

/// The file's bytes.
pub(crate) fn encode(spec: &Spec, script: &[u8]) -> Result<Vec<u8>> {
    let mut content = serde_json::to_vec(spec)
        .map_err(|e| Error::Config(format!("the job can't be written as JSON: {e}")))?;
    content.push(b'\n');
    content.extend_from_slice(script);
    Ok(sealed::seal(KIND, &content))
}

/// Reads a file's bytes and checks all they say.
pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<(Spec, Vec<u8>)> {
    let refuse = |reason: String| Error::Format { path: path.to_path_buf(), reason };
    let content = sealed::open(KIND, bytes, path)?;
    let end =
        content.iter().position(|b| *b == b'\n').ok_or_else(|| refuse("it has no script part".into()))?;
    let spec: Spec = serde_json::from_slice(&content[..end]).map_err(|e| refuse(e.to_string()))?;
    match spec.fault() {
        Some(fault) => Err(refuse(fault)),
        None => Ok((spec, content[end + 1..].to_vec())),
    }
}

/// What the queue remembers to know the file again.
pub(crate) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec(id: u64) -> Spec {
        Spec {
            id: JobId(id),
            name: "job.sh".into(),
            submitted_ms: 5,
            array: None,
            task_limit: 0,
            priority: 0,
            rerun: None,
            hold: false,
            account: "sge".into(),
            command: None,
            no_shell: false,
            interpreter: None,
            script_file: "job.sh".into(),
            args: vec![],
            cwd: None,
            stdin: None,
            stdout: None,
            stderr: None,
            join: false,
            environment: BTreeMap::new(),
            origin: Origin::default(),
        }
    }

    #[test]
    fn the_format_keeps_its_bytes() {
        let bytes = encode(&spec(7), b"#!/bin/sh\n\xff\n").unwrap();
        let golden: &[u8] = b"brickyard submission 1 cd20cfc3 410\n{\"id\":7,\"name\":\"job.sh\",\"submitted_ms\":5,\"array\":null,\"task_limit\":0,\
            \"priority\":0,\"rerun\":null,\"hold\":false,\"account\":\"sge\",\"command\":null,\"no_shell\":false,\"interpreter\":null,\
            \"script_file\":\"job.sh\",\"args\":[],\"cwd\":null,\"stdin\":null,\"stdout\":null,\"stderr\":null,\"join\":false,\
            \"environment\":{},\"origin\":{\"home\":\"\",\"host\":\"\",\"log_name\":\"\",\"mail\":\"\",\"path\":\"\",\"shell\":\"\",\"tz\":\"\",\
            \"term\":\"\",\"workdir\":\"\"}}\n#!/bin/sh\n\xff\n";
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(golden));
        let (again, script) = decode(golden, Path::new("f")).unwrap();
        assert_eq!((again, script.as_slice()), (spec(7), b"#!/bin/sh\n\xff\n".as_slice()));
    }

    #[test]
    fn impossible_jobs_are_refused_whoever_wrote_them() {
        let changes: [fn(&mut Spec); 8] = [
            |s| s.name = "../x".into(),
            |s| s.name = "7x".into(),
            |s| s.name = "a\nb".into(),
            |s| s.array = Some(TaskRange { first: 1, last: 0, step: 1 }),
            |s| s.array = Some(TaskRange { first: 1, last: 100_000, step: 1 }),
            |s| s.priority = 5000,
            |s| s.account = "a:b".into(),
            |s| s.command = Some(String::new()),
        ];
        for change in changes {
            let mut bad = spec(1);
            change(&mut bad);
            assert!(decode(&encode(&bad, b"").unwrap(), Path::new("f")).is_err(), "{bad:?}");
        }
    }
}
