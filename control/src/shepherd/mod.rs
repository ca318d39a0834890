//! The supervisor of one run: `brickyard shepherd DIR`.
//!
//! A small process of its own, in its own session, that needs neither agent nor master nor mount: all it reads and writes lies in the
//! run's directory of the agent's local spool. It starts the job through a second short-lived stage ([`starter`]), which becomes the
//! user and then the job.
//!
//! 1. It holds the lock of the directory for as long as it lives; of two for the same run one ends at once.
//! 2. `started` is durable before the job exists; a directory that has it (or `exit`) is never started again.
//! 3. `exit` is durable before anybody is told.
//! 4. A job that couldn't begin because the mount was away is reported as not begun, so that it runs again; any other reason is the
//!    job's error. `a_job_that_finds_the_mount_away_runs_later`, `what_cannot_begin_is_in_error_with_a_reason`
//! 5. When the job's first process is over, what it left behind is killed: the slot is free for the next one.
//!
//! All are tried by the integration tests (`tests/it`), which kill agent, master and supervisors in the middle.

pub(crate) mod environment;
pub(crate) mod family;
mod inherited;
mod memory;
mod mount;
pub(crate) mod scratch;
pub(crate) mod starter;

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, WaitOptions};

use crate::agent::spool::{self, User, Work};
use crate::clock::now_ms;
use crate::error::{At, Result};
use crate::plan::record::failed;
use crate::plan::{Exit, Usage};
use crate::stop::Stop;
use crate::store::disk::Disk;
use crate::watch::{POLL, Watch};
use starter::Refusal;

/// Longest wait for the lock while the agent is just looking at it.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Longest time leftovers of a job may take to die before the end is reported anyway.
const LEFTOVERS_MAX: Duration = Duration::from_secs(10);
/// Pause between two rounds of killing.
const KILL_PAUSE: Duration = Duration::from_millis(20);
/// The argument that makes the second stage.
const STAGE: &str = "--start";

/// Runs the supervisor. `args` are those after `shepherd`: the run's directory.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    match (args.next(), args.next(), args.next()) {
        (Some(stage), Some(dir), None) if stage == STAGE => starter::main(Path::new(&dir)),
        (Some(dir), None, None) => match supervise(Path::new(&dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Goes to the run's log.
                eprintln!("shepherd: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("shepherd: this is started by the agent, with the directory of a run as its argument");
            ExitCode::FAILURE
        }
    }
}

fn supervise(dir: &Path) -> Result<()> {
    inherited::close();
    // Fails only for the leader of a group, which then has what it needs: nobody's terminal reaches it.
    if let Err(error) = rustix::process::setsid() {
        eprintln!("shepherd: no session of its own: {error}");
    }
    rustix::process::umask(0o022.into());
    let Some(_lock) = lock(dir)? else { return Ok(()) };
    if spool::read_exit(dir)?.is_some() || spool::read_started(dir)?.is_some() {
        return Ok(());
    }
    let disk = Disk::default();
    let (work, script) = spool::read_work(dir)?;
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().at("block signals for", dir)?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .at("watch signals for", dir)?;
    rustix::process::set_child_subreaper(Pid::from_raw(1)).at("become the reaper for", dir)?;
    let mut watch = Watch::new(Stop::new());
    watch.add(dir, ());
    let exit = if dir.join("kill").exists() {
        Exit { ended_ms: now_ms(), reason: "deleted before it began".into(), ..Exit::default() }
    } else {
        let at_ms = now_ms();
        spool::write_started(&disk, dir, at_ms)?;
        let exit = run(dir, &work, &script, &signals, &mut watch, at_ms);
        if let Err(error) = scratch::remove(&work) {
            eprintln!("shepherd: {error}");
        }
        exit
    };
    spool::write_exit(&disk, dir, &exit)?;
    tell(dir, "exit");
    Ok(())
}

/// The lock of the run; `None` when another supervisor has it.
fn lock(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .at("open", &path)?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if begin.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e).at("lock", &path),
        }
    }
}

/// Wakes the agent. It looks once a second anyway, so a failure only costs that second.
fn tell(dir: &Path, what: &str) {
    let (Some(runs), Some(name)) = (dir.parent(), dir.file_name()) else { return };
    let events = runs.with_file_name("events");
    let path = events.join(format!("{}.{what}", name.to_string_lossy()));
    if let Err(error) = File::create(&path) {
        eprintln!("shepherd: can't create {}: {error}", path.display());
    }
}

fn over(started_ms: i64, failed: u32, reason: String) -> Exit {
    Exit {
        started_ms: Some(started_ms),
        ended_ms: now_ms(),
        failed,
        exit_status: 1,
        reason,
        ..Exit::default()
    }
}

/// Runs the job to its end, whatever that is.
fn run(
    dir: &Path,
    work: &Work,
    script: &[u8],
    signals: &SignalFd,
    watch: &mut Watch<()>,
    started_ms: i64,
) -> Exit {
    let prepared = put_script(dir, work, script).and_then(|()| scratch::make(work));
    if let Err(error) = prepared {
        return over(started_ms, failed::BEFORE_JOB, error.to_string());
    }
    let (reader, writer) = match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        Ok(pair) => pair,
        Err(error) => return over(started_ms, failed::BEFORE_JOB, format!("no pipe: {error}")),
    };
    // How we were called ourselves, with the stage put in: the same program, even if its file was replaced meanwhile.
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    args.insert(args.len().saturating_sub(1), STAGE.into());
    let child = Command::new("/proc/self/exe")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(writer))
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) => {
            return over(
                started_ms,
                failed::BEFORE_JOB,
                format!("can't start the job's first stage: {error}"),
            );
        }
    };
    let words = match memory::Words::new(reader) {
        Ok(words) => words,
        Err(error) => {
            return over(started_ms, failed::BEFORE_JOB, format!("can't read from a pipe: {error}"));
        }
    };
    tell(dir, "started");
    let Some(job) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return over(started_ms, failed::BEFORE_JOB, "the job has no process number".into());
    };
    let (exit_status, code, words, looks) = attend(dir, job, words, signals, watch);
    let refusal = Refusal::parse(&words.refusal());
    let begin = Instant::now();
    loop {
        family::kill_all();
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => continue,
            Ok(None) if begin.elapsed() < LEFTOVERS_MAX => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => {
                eprintln!("shepherd: processes of the job are left and can't be killed");
                break;
            }
            // No child is left.
            Err(_) => break,
        }
    }
    let mut usage = usage();
    // Of a job that didn't begin, nothing had any memory.
    usage.maxrss_kib = if refusal.is_some() { 0 } else { looks.verdict(usage.maxrss_kib, &words) };
    match refusal {
        Some(refusal) if refusal.away => Exit {
            ended_ms: now_ms(),
            failed: refusal.failed,
            exit_status: 1,
            reason: refusal.reason,
            unbegun: true,
            usage,
            ..Exit::default()
        },
        Some(refusal) => Exit { usage, ..over(started_ms, refusal.failed, refusal.reason) },
        None => Exit {
            started_ms: Some(started_ms),
            ended_ms: now_ms(),
            failed: code,
            exit_status,
            usage,
            ..Exit::default()
        },
    }
}

/// Stays with the job until its first process is over, and kills all of it when that is asked for. Status, `failed` code, what the
/// first stage said, and what memory was seen.
fn attend(
    dir: &Path,
    job: Pid,
    mut words: memory::Words,
    signals: &SignalFd,
    watch: &mut Watch<()>,
) -> (i32, u32, memory::Words, memory::Looks) {
    let mut looks = memory::Looks::new();
    let mut killed = false;
    loop {
        // Before, the processes are ours and not the job's.
        let begun = words.ended();
        if begun {
            looks.look();
        }
        if let Some((exit_status, code)) = reap(job) {
            words.ended();
            return (exit_status, code, words, looks);
        }
        if !killed && dir.join("kill").exists() {
            killed = true;
        }
        if killed {
            family::kill_all();
        }
        let pause = if killed { KILL_PAUSE } else { POLL };
        let pause = if begun { pause.min(looks.wait()) } else { pause };
        let fds: Vec<_> = [Some(signals.as_fd()), words.pending()].into_iter().flatten().collect();
        watch.wait(pause, &fds);
        // Drained only: what a signal means is found by looking (reap), and requests to end come by file.
        while let Ok(Some(_)) = signals.read_signal() {}
    }
}

/// Waits for all who are over; status and `failed` code of the job's first process if it is among them.
fn reap(job: Pid) -> Option<(i32, u32)> {
    let mut found = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == job {
            found = Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => (code, 0),
                (None, Some(signal)) => (128 + signal, failed::SIGNALLED),
                (None, None) => (255, failed::NO_STATUS),
            });
        }
    }
    found
}

fn usage() -> Usage {
    let Ok(u) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Usage::default() };
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Usage {
        utime_s: seconds(u.user_time()),
        stime_s: seconds(u.system_time()),
        maxrss_kib: u.max_rss(),
        minflt: u.minor_page_faults(),
        majflt: u.major_page_faults(),
        inblock: u.block_reads(),
        oublock: u.block_writes(),
        nvcsw: u.voluntary_context_switches(),
        nivcsw: u.involuntary_context_switches(),
    }
}

/// Where the script lies for the interpreter.
pub(crate) fn script_path(dir: &Path) -> PathBuf {
    dir.join("job_script")
}

fn put_script(dir: &Path, work: &Work, script: &[u8]) -> Result<()> {
    if work.spec.command.is_some() {
        return Ok(());
    }
    let path = script_path(dir);
    std::fs::write(&path, script).at("write", &path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o500)).at("set the mode of", &path)?;
    own(&path, &work.person)
}

/// Gives a file to the job's user, if we may.
fn own(path: &Path, person: &User) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(person.uid), Some(person.gid))
            .at("change the owner of", path)?;
    }
    Ok(())
}
