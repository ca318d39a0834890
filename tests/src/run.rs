//! Commands with a deadline.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wait;

/// Deadline of a command that names none.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// The user tests borrow when they need one without rights: `nobody`.
pub const NOBODY: u32 = 65534;

/// A command to run to its end, with a deadline and captured output.
#[derive(Debug)]
pub struct Run {
    command: Command,
    limit: Duration,
    stdin: Vec<u8>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    /// The command line, for messages.
    pub line: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// All it wrote to standard output.
    pub stdout: Vec<u8>,
    /// All it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub took: Duration,
}

impl Done {
    /// Standard output as text without the last line end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text without the last line end.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// Fails, with the output in the message, unless the command exited with 0.
    pub fn success(self) -> Result<Self> {
        self.exited_with(&[0])
    }

    /// Fails, with the output in the message, unless the command exited with one of these codes.
    pub fn exited_with(self, codes: &[i32]) -> Result<Self> {
        if !self.status.code().is_some_and(|code| codes.contains(&code)) {
            bail!(
                "{}: {}\n-- stdout:\n{}\n-- stderr:\n{}",
                self.line,
                self.status,
                last_lines(&self.text(), 60),
                last_lines(&self.error_text(), 60)
            );
        }
        Ok(self)
    }
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

impl Run {
    /// A program found on the search path, or by its path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), limit: DEFAULT_LIMIT, stdin: Vec::new() }
    }

    /// A line for `sh`, with `set -e` and, where a pipe is used, the status of its last command.
    pub fn sh(script: &str) -> Self {
        Self::new("sh").arg("-ec").arg(script)
    }

    /// A line for `bash` with `pipefail`, so that no end of a pipe fails unseen.
    pub fn bash(script: &str) -> Self {
        Self::new("bash").arg("-eo").arg("pipefail").arg("-c").arg(script)
    }

    /// Runs the program under another user and group, without further groups.
    pub fn as_user(uid: u32, program: impl AsRef<OsStr>) -> Self {
        Self::new("setpriv")
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={uid}"))
            .arg("--clear-groups")
            .arg("--")
            .arg(program)
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Runs in this directory.
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets one variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Text for standard input (empty otherwise).
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = text.into();
        self
    }

    /// Sets the deadline.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it; an error if it cannot start or passes its deadline (it is killed then).
    pub fn run(mut self) -> Result<Done> {
        let line = format!("{:?}", self.command);
        // Output goes to files, not pipes: a grandchild that outlives its parent cannot hold us.
        let mut input = scratch_file()?;
        input.write_all(&self.stdin)?;
        input.rewind()?;
        let mut out = scratch_file()?;
        let mut err = scratch_file()?;
        self.command.stdin(input).stdout(out.try_clone()?).stderr(err.try_clone()?).process_group(0);
        let start = Instant::now();
        let mut group = Group(self.command.spawn().with_context(|| format!("cannot start {line}"))?);
        let ended = wait::until(&line, self.limit, || Ok(group.0.try_wait()?));
        let took = start.elapsed();
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        out.rewind()?;
        err.rewind()?;
        out.read_to_end(&mut stdout)?;
        err.read_to_end(&mut stderr)?;
        let status = ended.with_context(|| {
            format!(
                "output so far:\n{}\n{}",
                last_lines(&String::from_utf8_lossy(&stdout), 30),
                last_lines(&String::from_utf8_lossy(&stderr), 30)
            )
        })?;
        Ok(Done { line, status, stdout, stderr, took })
    }

    /// Runs it and demands exit code 0.
    pub fn ok(self) -> Result<Done> {
        self.run()?.success()
    }

    /// Starts it in the background with its standard streams closed; dropped means killed.
    pub fn start(mut self) -> Result<Group> {
        let line = format!("{:?}", self.command);
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Ok(Group(self.command.spawn().with_context(|| format!("cannot start {line}"))?))
    }
}

/// A child that leads a process group, killed whole when dropped before its end.
#[derive(Debug)]
pub struct Group(pub Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
            let _ = self.0.wait();
        }
    }
}

/// An unnamed file in the temporary directory.
fn scratch_file() -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::TMPFILE.bits() as i32;
    let dir = std::env::temp_dir();
    File::options()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(&dir)
        .with_context(|| format!("no temporary file in {}", dir.display()))
}

/// Fails with the package to install unless every program named is on the search path.
pub fn need(programs: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (program, package) in programs {
        if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            bail!("{program} is not installed: apt-get install {package}");
        }
    }
    Ok(())
}
