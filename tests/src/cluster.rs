//! One cluster of one test: `brickyard up` in a directory of its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::logs::Log;
use crate::run::{Done, Run};
use crate::wait;

/// How long `up` may take until it says that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// How long a clean stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// What only says that the machine was too busy to run us in time: no fault of the product.
const BUSY_MACHINE: &str = "this process stood still";
/// What a start after kill -9 may say: the mount was dead, clients and bricks come again.
const AFTER_CRASH: [&str; 2] = ["taking away a mount whose process has died", "unclean"];
/// Directories of tests begin with this, followed by the process id of the test.
const PREFIX: &str = "brickyard-test-";

/// How the cluster is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--bricks`; the product's default if not given.
    pub bricks: Option<u32>,
    /// `--replicas`; the product's default if not given.
    pub replicas: Option<u32>,
    /// `--slots`; the product's default if not given.
    pub slots: Option<u32>,
    /// Whether the batch scheduler runs.
    pub scheduler: bool,
    /// Whether directories are given relative to the one it is started in.
    pub relative: bool,
    /// Further options, last on the line.
    pub more: Vec<OsString>,
}

impl Default for Options {
    /// The filesystem alone: six bricks, two replicas, no scheduler.
    fn default() -> Self {
        Self {
            bricks: None,
            replicas: None,
            slots: None,
            scheduler: false,
            relative: false,
            more: Vec::new(),
        }
    }
}

impl Options {
    /// With master and agent, and so many slots.
    pub fn with_scheduler(slots: u32) -> Self {
        Self { scheduler: true, slots: Some(slots), ..Self::default() }
    }
}

/// A directory tree of one test, removed with everything mounted in it when dropped.
#[derive(Debug)]
pub struct Workshop {
    root: PathBuf,
    keep: bool,
}

impl Workshop {
    /// Makes an empty directory that any user may traverse.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        sweep(&base);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755))?;
        Ok(Self { root, keep: false })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Makes a directory below.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// The test failed: the directory stays if that is wished for, with these logs in it.
    pub(crate) fn failed<'a>(&mut self, logs: impl IntoIterator<Item = (&'a str, &'a Log)>) {
        self.keep = std::env::var_os("BRICKYARD_TEST_KEEP").is_some();
        for (name, log) in logs.into_iter().filter(|_| self.keep) {
            let path = self.root.join(format!("{name}.log"));
            if let Err(error) = std::fs::write(&path, log.lines().join("\n")) {
                eprintln!("cannot write {}: {error}", path.display());
            }
        }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        unmount_below(&self.root);
        if self.keep {
            eprintln!("kept: {}", self.root.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

/// Removes what a test process that no longer lives left behind.
fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        let dead = owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead && std::env::var_os("BRICKYARD_TEST_KEEP").is_none() {
            unmount_below(&entry.path());
            // Another test may be sweeping the same directory: losing that race is fine.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Lazily unmounts every mount at or below `root`.
pub fn unmount_below(root: &Path) {
    // Twice as many rounds as mounts anyone stacks; a mount that won't go away must not hang us.
    for _ in 0..16 {
        let mounts = mounts_below(root);
        if mounts.is_empty() {
            return;
        }
        for mount in mounts.iter().rev() {
            if let Err(error) = rustix::mount::unmount(mount, UnmountFlags::DETACH) {
                eprintln!("cannot unmount {}: {error}", mount.display());
                return;
            }
        }
    }
}

/// The mount points at or below `root`, as the kernel lists them.
pub fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(root))
        .collect()
}

/// The binary under test: `BRICKYARD_BIN`, or `brickyard` beside the tests' own directory.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("BRICKYARD_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let me = std::env::current_exe()?;
            let dir = me.parent().and_then(Path::parent).context("the test program has no directory")?;
            dir.join("brickyard")
        }
    };
    ensure!(
        path.is_file(),
        "the program under test is not at {}: build it with `cargo build --bin brickyard`, or name it in BRICKYARD_BIN",
        path.display()
    );
    Ok(path)
}

/// A running (or stopped, or killed) cluster of this test.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    data: PathBuf,
    mount: PathBuf,
    process: Option<Child>,
    log: Log,
    allowed: Vec<String>,
    finished: bool,
    // Last: its drop removes the directories after the process is gone.
    workshop: Workshop,
}

impl Cluster {
    /// Starts a new, empty cluster and waits until it is usable.
    pub fn start(options: Options) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        cluster.up()?;
        Ok(cluster)
    }

    /// A cluster that was never started: directories only.
    pub fn prepare(options: Options) -> Result<Self> {
        let workshop = Workshop::new()?;
        let data = workshop.path().join("data");
        let mount = workshop.dir("mnt")?;
        Ok(Self {
            options,
            data,
            mount,
            process: None,
            log: Log::default(),
            allowed: vec![BUSY_MACHINE.to_owned()],
            finished: false,
            workshop,
        })
    }

    /// Has its data elsewhere; before the first start.
    pub fn move_data(&mut self, data: &Path) {
        self.data = data.to_owned();
    }

    /// Where it is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// A directory on the mount, made if missing.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.mount.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of this test on the local disk, for what must survive the cluster.
    pub fn workshop(&self) -> &Workshop {
        &self.workshop
    }

    /// All it logged so far, over all restarts.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Announces WARN and ERROR lines that fit: parts in this order, separated by `.*`.
    pub fn allow_log(&mut self, pattern: &str) {
        self.allowed.push(pattern.to_owned());
    }

    /// The process id of `up`.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the cluster is not running")?.id())
    }

    /// The command line of `up`, without the program.
    pub fn up_args(&self) -> Vec<OsString> {
        let place = |path: &Path| -> OsString {
            let below = path.strip_prefix(self.workshop.path()).ok();
            below.filter(|_| self.options.relative).unwrap_or(path).into()
        };
        let mut args: Vec<OsString> = vec!["up".into(), "--data".into(), place(&self.data)];
        args.extend(["--mount".into(), place(&self.mount)]);
        for (name, value) in [
            ("--bricks", self.options.bricks),
            ("--replicas", self.options.replicas),
            ("--slots", self.options.slots),
        ] {
            if let Some(value) = value {
                args.extend([name.into(), value.to_string().into()]);
            }
        }
        if !self.options.scheduler {
            args.push("--no-scheduler".into());
        }
        args.extend(self.options.more.iter().cloned());
        args
    }

    /// Starts the process (again) on the same data and waits until it is usable.
    pub fn up(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the cluster runs already");
        // The cluster must not outlive a test that is killed: the kernel sees to that.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?).args(self.up_args());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.current_dir(self.workshop.path());
        let mut child = command.spawn().context("cannot start `setpriv brickyard up`")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        self.process = Some(child);
        self.log.collect(stderr);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver is gone once the cluster is ready: read on, so that it never blocks.
                let _ = sender.send(line);
            }
        });
        self.await_ready(&lines)
    }

    fn await_ready(&mut self, lines: &Receiver<String>) -> Result<()> {
        let wanted = format!("ready: {}", self.mount.display());
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line == wanted => return Ok(()),
                Ok(_) => {}
                Err(reason) => {
                    let end = match reason {
                        RecvTimeoutError::Timeout => format!("was not ready in {} s", READY_LIMIT.as_secs()),
                        RecvTimeoutError::Disconnected => format!("ended: {}", self.wait_end(STOP_LIMIT)?),
                    };
                    bail!("`brickyard up` {end}; its log:\n{}", self.log.tail(60));
                }
            }
        }
    }

    fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let process = self.process.as_mut().context("the cluster is not running")?;
        let status = wait::until("the end of `brickyard up`", limit, || Ok(process.try_wait()?))?;
        self.process = None;
        Ok(status)
    }

    /// Sends a signal to `up`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()? as i32).context("no process id")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// kill -9: no goodbye; the mount stays, dead. What the next start says about that is expected.
    pub fn kill9(&mut self) -> Result<()> {
        self.allowed.extend(AFTER_CRASH.map(str::to_owned));
        self.signal(Signal::KILL)?;
        let status = self.wait_end(STOP_LIMIT)?;
        ensure!(status.signal() == Some(9), "`brickyard up` was gone before the kill: {status}");
        Ok(())
    }

    /// A clean stop by SIGTERM: exit 0 and nothing mounted any more.
    pub fn stop(&mut self) -> Result<()> {
        self.stop_by(Signal::TERM)
    }

    /// A clean stop by this signal.
    pub fn stop_by(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let status = self.wait_end(STOP_LIMIT)?;
        ensure!(
            status.success(),
            "`brickyard up` ended with {status} after {signal:?}:\n{}",
            self.log.tail(40)
        );
        let left = mounts_below(&self.mount);
        ensure!(left.is_empty(), "still mounted after a clean stop: {left:?}");
        Ok(())
    }

    /// SIGTERM where a clean stop can't be: how it ended.
    pub fn stop_somehow(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_end(limit)
    }

    /// Clean stop and start on the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.up()
    }

    /// The end of every test: a clean stop if it still runs, and a log without unannounced trouble.
    pub fn finish(mut self) -> Result<()> {
        if self.process.is_some() {
            self.stop()?;
        }
        self.judge_log()?;
        self.finished = true;
        Ok(())
    }

    /// Fails if the log holds WARN, ERROR or panic lines that were not announced.
    pub fn judge_log(&self) -> Result<()> {
        let faults = self.log.faults(&self.allowed);
        ensure!(
            faults.is_empty(),
            "{} unannounced warnings or errors in the log, first:\n{}",
            faults.len(),
            faults[..faults.len().min(20)].join("\n")
        );
        Ok(())
    }

    /// The product's command line, with this cluster's root for the `q` commands.
    pub fn command(&self, verb: &str) -> Result<Run> {
        Ok(Run::new(binary()?).arg(verb).env("BRICKYARD_ROOT", &self.mount))
    }

    /// `brickyard status --json`, parsed.
    pub fn status_json(&self) -> Result<serde_json::Value> {
        let done = self.command("status")?.arg("--data").arg(&self.data).arg("--json").ok()?;
        serde_json::from_slice(&done.stdout).with_context(|| format!("status is no JSON: {}", done.text()))
    }

    /// `brickyard check`: an error with the list unless the cluster is consistent.
    pub fn check(&self) -> Result<Done> {
        self.command("check")?.arg("--data").arg(&self.data).ok().context("brickyard check")
    }

    /// Resident memory of `up` and the processes it started, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        resident_kib(self.pid()?)
    }
}

/// Resident memory of a process and its children in KiB: the sum of VmRSS, so that what they share
/// counts for each.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let own: u64 =
        line.split_whitespace().next().context("empty VmRSS")?.parse().context("VmRSS is no number")?;
    Ok(own + children(pid).into_iter().filter_map(|child| resident_kib(child).ok()).sum::<u64>())
}

/// The processes that threads of this one have started; none if it has ended.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.finished {
            self.workshop.failed([("up", &self.log)]);
            eprintln!("-- the cluster's log, last lines:\n{}", self.log.tail(60));
        }
        // Detach first: whoever hangs in the mount is freed when the daemon dies.
        unmount_below(&self.mount);
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
