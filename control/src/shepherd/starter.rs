//! The second stage: a fresh process with one thread that becomes the user and then the job.
//!
//! It is a stage of its own because becoming another user is safe only where no other thread runs, and because output files must
//! be opened, directories entered and programs looked up with the user's rights, not the agent's.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{Gid, Uid};
use rustix::io::FdFlags;

use super::environment::{self, Places, expand};
use super::mount::Seen;
use crate::agent::spool::{self, Work};
use crate::config::ShellStartMode;
use crate::plan::record::failed;

/// First word of a refusal's text.
const REFUSED: &str = "refused";
/// The same where the mount was away.
const AWAY: &str = "away";

/// Why a job couldn't be begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Grid Engine's code.
    pub failed: u32,
    /// In words.
    pub reason: String,
    /// The mount was away: it isn't the job's fault.
    pub away: bool,
}

impl Refusal {
    fn new(failed: u32, reason: String) -> Refusal {
        Refusal { failed, reason, away: false }
    }

    fn text(&self) -> String {
        let word = if self.away { AWAY } else { REFUSED };
        format!("{word} {} {}\n", self.failed, self.reason.replace('\n', " "))
    }

    /// Reads what [`main`] wrote; `None` if that isn't one.
    pub fn parse(text: &str) -> Option<Refusal> {
        let (word, rest) = text.trim_end().split_once(' ')?;
        let away = match word {
            AWAY => true,
            REFUSED => false,
            _ => return None,
        };
        let (code, reason) = rest.split_once(' ')?;
        Some(Refusal { failed: code.parse().ok()?, reason: reason.to_owned(), away })
    }
}

/// Becomes the job of the run in `dir`; returns only when that fails, after saying why on stderr.
pub(super) fn main(dir: &Path) -> ExitCode {
    // Kept aside, as stderr itself becomes the job's.
    let complain = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3);
    let supervisor = complain.map(File::from);
    let Err(refusal) = become_job(dir, supervisor.as_ref().ok());
    let text = refusal.text();
    let told = supervisor.map_err(std::io::Error::from).and_then(|mut pipe| pipe.write_all(text.as_bytes()));
    if told.is_ok() { ExitCode::FAILURE } else { ExitCode::from(2) }
}

fn become_job(dir: &Path, supervisor: Option<&File>) -> Result<std::convert::Infallible, Refusal> {
    let before = |reason: String| Refusal::new(failed::BEFORE_JOB, reason);
    let (work, _) = spool::read_work(dir).map_err(|e| before(e.to_string()))?;
    let script = work.spec.command.is_none().then(|| super::script_path(dir));
    // Opened while we still may: the spool's parents needn't be open to the user.
    let script_file = match &script {
        Some(path) => {
            Some(File::open(path).map_err(|e| before(format!("can't open {}: {e}", path.display())))?)
        }
        None => None,
    };
    rustix::process::setsid().map_err(|e| before(format!("no session of its own: {e}")))?;
    super::inherited::reset_signals().map_err(|e| before(format!("can't reset signals: {e}")))?;
    become_user(&work).map_err(before)?;
    // Should the supervisor be killed, nobody would count this job's slot any more: it ends too. (Becoming a user clears this, so
    // it comes after.)
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| before(format!("can't be tied to the supervisor: {e}")))?;

    let mount = Seen::now(Path::new(&work.root));
    begin(dir, &work, script.as_deref(), script_file, supervisor).map_err(|refusal| {
        let away = mount.went_away();
        Refusal { away, ..refusal }
    })
}

/// Takes what the user asked for, as the user, and becomes the job.
fn begin(
    dir: &Path,
    work: &Work,
    script: Option<&Path>,
    script_file: Option<File>,
    supervisor: Option<&File>,
) -> Result<std::convert::Infallible, Refusal> {
    let spec = &work.spec;
    let cwd = spec.cwd.clone().unwrap_or_else(|| work.person.home.clone());
    std::env::set_current_dir(&cwd)
        .map_err(|e| Refusal::new(failed::CHDIR, format!("can't change to directory {cwd}: {e}")))?;
    let cwd_path = PathBuf::from(&cwd);
    let (stdin_path, stdin) = match &spec.stdin {
        Some(path) => {
            let path = cwd_path.join(expand(local_part(path, &work.host), work));
            let file = File::open(&path).map_err(|e| cant_open(&path, &e))?;
            (path, Stdio::from(file))
        }
        None => (PathBuf::from("/dev/null"), Stdio::null()),
    };
    let (stdout_path, stdout) = open_output(work, spec.stdout.as_deref(), 'o', &cwd_path)?;
    let (stderr_path, stderr) = if spec.join {
        let again = stdout.try_clone().map_err(|e| cant_open(&stdout_path, &e))?;
        (stdout_path.clone(), again)
    } else {
        open_output(work, spec.stderr.as_deref(), 'e', &cwd_path)?
    };
    let (program, args, script_name) = command_line(work, script, script_file)?;
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let places = Places {
        cwd,
        stdin: text(&stdin_path),
        stdout: text(&stdout_path),
        stderr: text(&stderr_path),
        script: script_name,
        spool: text(dir),
        tmpdir: text(&super::scratch::path(work)),
    };
    let mut command = Command::new(&program);
    command.args(args).env_clear().envs(environment::build(work, &places));
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    if let Some(supervisor) = supervisor {
        // It only makes the accounting of the job's memory exact.
        let _told = super::memory::tell_stage(supervisor);
    }
    let error = command.exec();
    Err(Refusal::new(failed::SHELL, format!("can't execute {program}: {error}")))
}

/// Takes the user's identity for good.
fn become_user(work: &Work) -> Result<(), String> {
    let person = &work.person;
    if !rustix::process::geteuid().is_root() {
        let me = rustix::process::geteuid().as_raw();
        return if me == person.uid { Ok(()) } else { Err(format!("uid {me} can't become {}", person.name)) };
    }
    let name =
        CString::new(person.name.as_str()).map_err(|_| "the user's name has a NUL in it".to_owned())?;
    let (uid, gid) = (Uid::from_raw(person.uid), Gid::from_raw(person.gid));
    nix::unistd::initgroups(&name, gid)
        .map_err(|e| format!("can't take the groups of {}: {e}", person.name))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| format!("can't become group {gid}: {e}"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| format!("can't become {}: {e}", person.name))?;
    // The one mistake that must never pass unnoticed.
    if !uid.is_root() && (nix::unistd::getuid().is_root() || nix::unistd::setuid(Uid::from_raw(0)).is_ok()) {
        return Err(format!("becoming {} left root's rights", person.name));
    }
    Ok(())
}

fn cant_open(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(failed::OUTPUT, format!("can't open {}: {error}", path.display()))
}

/// The path for this host in `[host:]path,[host:]path`.
fn local_part<'a>(list: &'a str, host: &str) -> &'a str {
    let entries = || list.split(',').map(|e| e.split_once(':').unwrap_or(("", e)));
    let ours = entries().find(|(h, _)| *h == host).or_else(|| entries().find(|(h, _)| h.is_empty()));
    ours.map_or(list, |(_, path)| path)
}

/// Opens an output file as the user, to append; `letter` is `o` or `e`.
fn open_output(
    work: &Work,
    asked: Option<&str>,
    letter: char,
    cwd: &Path,
) -> Result<(PathBuf, File), Refusal> {
    let spec = &work.spec;
    let mut default = format!("{}.{letter}{}", spec.name, work.key.job);
    if spec.array.is_some() {
        default = format!("{default}.{}", work.key.task);
    }
    let mut path = cwd.join(asked.map_or(default.clone(), |a| expand(local_part(a, &work.host), work)));
    if asked.is_some_and(|a| a.ends_with('/')) || path.is_dir() {
        path.push(default);
    }
    let open = OpenOptions::new().append(true).create(true).mode(0o666).open(&path);
    let file = open.map_err(|e| cant_open(&path, &e))?;
    Ok((path, file))
}

/// Program, arguments and what `JOB_SCRIPT` says.
fn command_line(
    work: &Work,
    script: Option<&Path>,
    script_file: Option<File>,
) -> Result<(String, Vec<String>, String), Refusal> {
    let spec = &work.spec;
    let asked = spec.interpreter.as_deref().map(|s| expand(local_part(s, &work.host), work));
    let shell = || asked.clone().unwrap_or_else(|| work.queue.shell.clone());
    let (Some(script), Some(file)) = (script, script_file) else {
        let command = spec.command.clone().unwrap_or_default();
        if spec.no_shell {
            return Ok((command.clone(), spec.args.clone(), command));
        }
        // The command is the shell's to read; the arguments stay the words they were at submission.
        let line = if spec.args.is_empty() { command.clone() } else { format!("{command} \"$@\"") };
        let mut args = vec!["-c".to_owned(), line, command.clone()];
        args.extend(spec.args.iter().cloned());
        return Ok((shell(), args, command));
    };
    let mut name = script.to_string_lossy().into_owned();
    if File::open(script).is_err() {
        // A directory above the spool is closed to the user: the open descriptor still leads there.
        name = pass_on(&file)
            .map_err(|e| Refusal::new(failed::BEFORE_JOB, format!("can't pass the script on: {e}")))?;
        // Lives on in the job.
        let _kept: i32 = std::os::fd::IntoRawFd::into_raw_fd(OwnedFd::from(file));
    }
    let (program, mut args) = match (asked.as_ref(), work.queue.shell_start_mode) {
        (None, ShellStartMode::UnixBehavior) => {
            first_line(&name).as_deref().and_then(interpreter_of).unwrap_or_else(|| (shell(), Vec::new()))
        }
        _ => (shell(), Vec::new()),
    };
    args.push(name.clone());
    args.extend(spec.args.iter().cloned());
    Ok((program, args, name))
}

fn pass_on(file: &File) -> rustix::io::Result<String> {
    rustix::io::fcntl_setfd(file.as_fd(), FdFlags::empty())?;
    Ok(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn first_line(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    let line = bytes.split(|b| *b == b'\n').next()?;
    String::from_utf8(line.to_vec()).ok()
}

/// Interpreter and its one optional argument of a `#!` line.
fn interpreter_of(line: &str) -> Option<(String, Vec<String>)> {
    let rest = line.strip_prefix("#!")?.trim();
    let (program, arg) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    let args = Some(arg.trim()).filter(|a| !a.is_empty()).map(str::to_owned);
    program.starts_with('/').then(|| (program.to_owned(), args.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_pipe() {
        let refusal = Refusal::new(26, "can't open /x: denied".into());
        assert_eq!(refusal.text(), "refused 26 can't open /x: denied\n");
        let away = Refusal { away: true, ..refusal.clone() };
        for refusal in [refusal, away] {
            assert_eq!(Refusal::parse(&refusal.text()), Some(refusal));
        }
        assert_eq!(Refusal::parse(""), None);
        assert_eq!(Refusal::parse("sh: something"), None);
    }

    #[test]
    fn output_paths_may_name_hosts() {
        assert_eq!(local_part("/a", "n1"), "/a");
        assert_eq!(local_part("n2:/b,n1:/a", "n1"), "/a");
        assert_eq!(local_part("n2:/b,/c", "n1"), "/c");
        assert_eq!(local_part(":/c", "n1"), "/c");
    }

    #[test]
    fn the_interpreter_line_is_split_as_the_kernel_does() {
        assert_eq!(interpreter_of("#!/bin/bash"), Some(("/bin/bash".into(), vec![])));
        assert_eq!(
            interpreter_of("#! /usr/bin/env python3 -u"),
            Some(("/usr/bin/env".into(), vec!["python3 -u".into()]))
        );
        assert_eq!(interpreter_of("echo"), None);
        assert_eq!(interpreter_of("#!bash"), None);
    }
}
