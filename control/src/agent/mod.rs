//! The agent: runs on each compute node what the master assigns, under supervisors that outlive it.
//!
//! An assignment becomes a directory in the agent's local spool before anything is started; from then on the spool knows whether
//! the run was started and how it ended, whatever happens to agent, master and mount. The directory goes only when the
//! assignment's absence is durable: as long as the master could still send the run, the agent remembers it.
//!
//! 1. A run is started at most once. The supervisor locks the run's directory and writes `started` durably before it
//!    starts the job, and never starts one that has it. `every_job_ends_once_whatever_crashes_where`
//! 2. A run is accepted only after its assignment is durable, and forgotten only after its absence is.
//! 3. What is run is what was accepted: the submission's digest must agree. `a_changed_submission_is_not_run`
//! 4. A run that was started and has neither supervisor nor exit record is reported lost, never started again, after what is
//!    left of it is cleared away. `a_lost_run_leaves_nothing_behind`

pub(crate) mod host;
pub(crate) mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::config::{AgentConfig, MESSAGE_MAX, SUBMISSION_MAX, plain_name};
use crate::error::{At, Error, Result};
use crate::layout::{Layout, exists};
use crate::plan::record::failed;
use crate::plan::{Exit, RunKey};
use crate::shepherd::{family, scratch};
use crate::stop::Stop;
use crate::store::disk::{self, Disk};
use crate::store::message::{
    ASSIGNMENT, Assignment, ENDED_SUFFIX, HOST, HostStatus, KILL_SUFFIX, REPORT, Report, STARTED_SUFFIX,
};
use crate::store::{sealed, submission};
use crate::users;
use crate::watch::{POLL, Wake, Watch};
use spool::{Spool, Work};

/// How often a supervisor that ended before it began is started again.
const LAUNCHES_MAX: u32 = 3;
/// Longest time the processes of a lost run may take to die before it is accounted for anyway.
const ORPHANS_MAX: Duration = Duration::from_secs(1);
/// Pause between two rounds of killing them.
const ORPHANS_PAUSE: Duration = Duration::from_millis(5);
/// Pause before another try after a failure that may pass, as a mount that is away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Runs the agent until `stop` is set. Running jobs go on when it ends; the next agent on the same spool finds them.
/// While the control directory is away, it is tried again.
///
/// # Errors
/// When another agent has the spool or the host's name, when the spool belongs to another cluster, or when a setting is wrong.
pub fn run(config: &AgentConfig, stop: &Stop) -> Result<()> {
    if !plain_name(&config.hostname) {
        return Err(Error::Config(format!(
            "host name {:?} may only have letters, digits, \".\", \"_\" and \"-\"",
            config.hostname
        )));
    }
    let disk = Disk::default();
    let spool = Spool::open(&disk, &config.spool)?;
    let mut children = Processes { command: config.shepherd_command.clone(), children: BTreeMap::new() };
    let mut served = false;
    while !stop.is_set() {
        match serve(config, stop, &disk, &spool, &mut children, &mut served) {
            Ok(()) => return Ok(()),
            // Once it was there, a control directory that isn't is a mount that is away.
            Err(error @ Error::Config(_)) if !served => return Err(error),
            Err(error @ (Error::Io { .. } | Error::Fenced { .. } | Error::Config(_))) => {
                tracing::warn!(%error, "the agent tries again");
                stop.wait(RETRY_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn serve(
    config: &AgentConfig,
    stop: &Stop,
    disk: &Disk,
    spool: &Spool,
    children: &mut Processes,
    served: &mut bool,
) -> Result<()> {
    let layout = Layout::new(&config.root);
    spool.bind(disk, &layout)?;
    *served = true;
    let _lock = enroll(disk, &layout, &config.hostname)?;
    let mut watch = Watch::new(stop.clone());
    watch.add(&layout.assign(&config.hostname), ());
    watch.add(&spool.events(), ());
    let mut agent = Agent::open(config.clone(), disk.clone(), spool.clone())?;
    agent.beat(true)?;
    let heartbeat = Duration::from_millis(config.heartbeat_ms.max(100));
    let mut next_beat = Instant::now() + heartbeat;
    loop {
        agent.step(children)?;
        if Instant::now() >= next_beat {
            agent.beat(true)?;
            next_beat = Instant::now() + heartbeat;
        }
        let until_beat = next_beat.saturating_duration_since(Instant::now());
        if watch.wait(POLL.min(until_beat), &[]) == Wake::Stopped {
            // Best effort: without it the master notices by the silence.
            if let Err(error) = agent.beat(false) {
                tracing::debug!(%error, "the host's last word didn't get out");
            }
            return Ok(());
        }
    }
}

/// Makes the host's directories and takes its name.
pub(crate) fn enroll(disk: &Disk, layout: &Layout, host: &str) -> Result<File> {
    for dir in [layout.host(host), layout.assign(host), layout.report(host)] {
        disk.make_dir(&dir, 0o755)?;
    }
    let path = layout.host(host).join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .at("open", &path)?;
    spool::lock_or_held(&file, &path, " (an agent of the same host name is running)")?;
    disk::sweep_unfinished(disk, &layout.report(host))?;
    disk::sweep_unfinished(disk, &layout.host(host))?;
    disk.sync_dir(&layout.hosts())?;
    Ok(file)
}

/// Who starts supervisors and knows whether one lives.
pub(crate) trait Launch {
    /// Starts the supervisor of a run whose directory is `dir`.
    fn launch(&mut self, key: RunKey, dir: &Path) -> std::io::Result<()>;
    /// Does one live?
    fn lives(&mut self, key: RunKey, dir: &Path) -> Result<bool>;
}

/// Supervisors as processes.
struct Processes {
    command: Vec<std::ffi::OsString>,
    children: BTreeMap<RunKey, Child>,
}

impl Launch for Processes {
    fn launch(&mut self, key: RunKey, dir: &Path) -> std::io::Result<()> {
        let (program, args) = self.command.split_first().ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "the supervisor's command is empty")
        })?;
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join("log"))?;
        let child = Command::new(program)
            .args(args)
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.children.insert(key, child);
        Ok(())
    }

    fn lives(&mut self, key: RunKey, dir: &Path) -> Result<bool> {
        if let Some(child) = self.children.get_mut(&key) {
            match child.try_wait() {
                Ok(None) => return Ok(true),
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(%error, run = %key, "can't wait for the supervisor"),
            }
            self.children.remove(&key);
        }
        // An agent before us started it: its lock says whether it lives.
        spool::is_locked(dir)
    }
}

/// What the agent knows of a run in its spool.
#[derive(Debug, Default)]
struct Local {
    launches: u32,
    started_told: bool,
    kill_asked: bool,
    exit: Option<Exit>,
}

/// An agent at work.
#[derive(Debug)]
pub(crate) struct Agent {
    config: AgentConfig,
    layout: Layout,
    disk: Disk,
    spool: Spool,
    runs: BTreeMap<RunKey, Local>,
    beat: u64,
}

impl Agent {
    /// Takes up what the spool knows.
    pub fn open(config: AgentConfig, disk: Disk, spool: Spool) -> Result<Agent> {
        let runs: BTreeMap<RunKey, Local> =
            spool.runs()?.into_iter().map(|key| (key, Local::default())).collect();
        if !runs.is_empty() {
            tracing::info!(runs = runs.len(), "runs found in the spool");
        }
        Ok(Agent {
            layout: Layout::new(&config.root),
            config,
            disk,
            spool,
            runs,
            beat: now_ms().unsigned_abs(),
        })
    }

    /// One round: new assignments, kill requests, what supervisors wrote, what the master has taken note of.
    pub fn step(&mut self, launch: &mut dyn Launch) -> Result<()> {
        let dir = self.layout.assign(&self.config.hostname);
        let mut assigned = BTreeSet::new();
        let mut kills = BTreeSet::new();
        for name in disk::names(&dir)? {
            if let Some(key) = name.strip_suffix(KILL_SUFFIX).and_then(|k| k.parse::<RunKey>().ok()) {
                kills.insert(key);
            } else if let Ok(key) = name.parse::<RunKey>() {
                assigned.insert(key);
            }
        }
        let new: Vec<RunKey> = assigned.iter().filter(|k| !self.runs.contains_key(k)).copied().collect();
        if !new.is_empty() {
            // Only what can't vanish in a power failure is acted upon.
            self.disk.sync_dir(&dir)?;
            for key in new {
                self.accept(key, kills.contains(&key))?;
            }
        }
        let mut forget = Vec::new();
        for key in self.runs.keys().copied().collect::<Vec<_>>() {
            let withdrawn = !assigned.contains(&key);
            if kills.contains(&key) || withdrawn {
                self.ask_to_end(key)?;
            }
            self.look_after(key, launch)?;
            let over = self.runs.get(&key).is_some_and(|l| l.exit.is_some());
            if over && withdrawn {
                forget.push(key);
            }
        }
        if !forget.is_empty() {
            self.disk.sync_dir(&dir)?;
            for key in forget {
                self.spool.forget(&self.disk, key)?;
                self.runs.remove(&key);
            }
        }
        Ok(())
    }

    /// Puts an assignment into the spool; what can't be run is put there as ended.
    fn accept(&mut self, key: RunKey, killed: bool) -> Result<()> {
        let path = self.layout.assign(&self.config.hostname).join(key.to_string());
        let assignment: Assignment = match disk::read_bounded(&path, MESSAGE_MAX) {
            Ok(found) => match sealed::open_json(ASSIGNMENT, &found.bytes, &path) {
                Ok(assignment) => assignment,
                Err(error) => {
                    // Damaged by a crash, it is written again by the next master; of a newer release, it is not for us.
                    tracing::error!(%error, "assignment not understood: left alone");
                    return Ok(());
                }
            },
            // Withdrawn since it was listed.
            Err(e) if e.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        if assignment.key != key {
            tracing::error!(path = %path.display(), "assignment under another's name: left alone");
            return Ok(());
        }
        if killed {
            let reason = "deleted before it began".to_owned();
            self.spool.add_ended(&self.disk, key, &refused(0, reason))?;
        } else {
            match self.prepare(key, assignment) {
                Ok((work, script)) => self.spool.add(&self.disk, key, &work, &script)?,
                Err(error @ (Error::Format { .. } | Error::Newer { .. } | Error::Config(_))) => {
                    tracing::warn!(run = %key, %error, "can't be run here");
                    self.spool.add_ended(&self.disk, key, &refused(failed::BEFORE_JOB, error.to_string()))?;
                }
                Err(error) => return Err(error),
            }
        }
        self.runs.insert(key, Local::default());
        Ok(())
    }

    /// Gathers all a run needs, so that its supervisor needs nothing of the mount.
    fn prepare(&self, key: RunKey, assignment: Assignment) -> Result<(Work, Vec<u8>)> {
        let path = self.layout.spool().join(key.job.to_string());
        let refuse = |reason: &str| Error::Format { path: path.clone(), reason: reason.to_owned() };
        let found = disk::read_bounded(&path, SUBMISSION_MAX).map_err(|e| {
            if e.is_not_found() { refuse("the submission is gone from the spool") } else { e }
        })?;
        if found.uid != assignment.uid || submission::digest(&found.bytes) != assignment.digest {
            return Err(refuse("it isn't the submission that was accepted"));
        }
        let (spec, script) = submission::decode(&found.bytes, &path)?;
        if spec.tasks().index(key.task).is_none() {
            return Err(refuse("it has no such task"));
        }
        let person = users::by_uid(assignment.uid)?.ok_or_else(|| {
            Error::Config(format!("uid {} isn't a known user on {}", assignment.uid, self.config.hostname))
        })?;
        let me = rustix::process::geteuid().as_raw();
        if me != 0 && me != person.uid {
            return Err(Error::Config(format!(
                "the agent on {} isn't root, it can run jobs of uid {me} only",
                self.config.hostname
            )));
        }
        // The supervisor works elsewhere.
        let root = std::path::absolute(&self.config.root).at("find", &self.config.root)?;
        let work = Work {
            key,
            person: person.into(),
            queue: assignment.queue,
            host: self.config.hostname.clone(),
            root: root.to_string_lossy().into_owned(),
            cluster: self.spool.cluster()?,
            spec,
        };
        Ok((work, script))
    }

    fn ask_to_end(&mut self, key: RunKey) -> Result<()> {
        let Some(local) = self.runs.get_mut(&key) else { return Ok(()) };
        if !local.kill_asked && local.exit.is_none() {
            self.spool.ask_to_end(&self.disk, key)?;
            local.kill_asked = true;
        }
        Ok(())
    }

    fn look_after(&mut self, key: RunKey, launch: &mut dyn Launch) -> Result<()> {
        let Some(local) = self.runs.get_mut(&key) else { return Ok(()) };
        if local.exit.is_none() {
            local.exit = self.spool.exit(key)?;
        }
        if local.exit.is_none() && !launch.lives(key, &self.spool.dir(key))? {
            // It may have written its last word between our two looks.
            local.exit = self.spool.exit(key)?;
            if local.exit.is_none() {
                if let Some(started_ms) = self.spool.started(key)? {
                    tracing::warn!(run = %key, "its supervisor vanished: lost");
                    clear_away(&self.spool.dir(key));
                    let exit = Exit {
                        started_ms: Some(started_ms),
                        ended_ms: now_ms(),
                        failed: failed::NO_STATUS,
                        exit_status: 255,
                        reason: "the supervisor vanished without an exit record".into(),
                        lost: true,
                        ..Exit::default()
                    };
                    self.spool.set_exit(&self.disk, key, &exit)?;
                } else if local.launches >= LAUNCHES_MAX {
                    let reason = format!("the supervisor didn't begin in {LAUNCHES_MAX} tries");
                    self.spool.set_exit(&self.disk, key, &refused(failed::BEFORE_JOB, reason))?;
                } else {
                    local.launches += 1;
                    if let Err(error) = launch.launch(key, &self.spool.dir(key)) {
                        tracing::error!(%error, run = %key, "can't start the supervisor");
                    }
                }
                local.exit = self.spool.exit(key)?;
            }
        }
        let report = self.layout.report(&self.config.hostname);
        let assign = self.layout.assign(&self.config.hostname).join(key.to_string());
        if local.exit.is_none()
            && !local.started_told
            && let Some(at_ms) = self.spool.started(key)?
        {
            let bytes = sealed::seal_json(REPORT, &Report::Started { key, at_ms })?;
            self.disk.publish_unsynced(&report, &format!("{key}{STARTED_SUFFIX}"), &bytes, 0o644)?;
            local.started_told = true;
        }
        if let Some(exit) = &local.exit {
            let name = format!("{key}{ENDED_SUFFIX}");
            // Told until the assignment goes, as a report may be lost in a crash of the storage.
            if exists(&assign)? && !exists(&report.join(&name))? {
                let bytes = sealed::seal_json(REPORT, &Report::Ended { key, exit: exit.clone() })?;
                self.disk.publish_unsynced(&report, &name, &bytes, 0o644)?;
            }
        }
        Ok(())
    }

    /// Tells how the host is.
    pub fn beat(&mut self, accepting: bool) -> Result<()> {
        self.beat += 1;
        let facts = host::facts();
        let status = HostStatus {
            host: self.config.hostname.clone(),
            slots: self.config.slots.unwrap_or(facts.cores),
            arch: host::ARCH.to_owned(),
            load_avg: facts.load_avg,
            mem_total_bytes: facts.mem_total_bytes,
            mem_available_bytes: facts.mem_available_bytes,
            beat: self.beat,
            accepting,
        };
        let dir = self.layout.host(&self.config.hostname);
        self.disk.publish_unsynced(&dir, "status", &sealed::seal_json(HOST, &status)?, 0o644)
    }
}

/// What a supervisor does at the end, for one that vanished: ends the processes that are left, removes `TMPDIR`. Done before the end
/// is on record: until then no other run of the task can be here. What can't be done is told and left, since the
/// accounting must not wait for it.
fn clear_away(dir: &Path) {
    let work = match spool::read_work(dir) {
        Ok((work, _)) => work,
        Err(error) => {
            tracing::warn!(%error, "what the lost run left behind stays");
            return;
        }
    };
    let begin = Instant::now();
    while family::kill_orphans(dir, work.person.uid) > 0 {
        if begin.elapsed() > ORPHANS_MAX {
            tracing::warn!(run = %work.key, "processes of the lost run are left and can't be killed");
            break;
        }
        std::thread::sleep(ORPHANS_PAUSE);
    }
    if let Err(error) = scratch::remove(&work) {
        tracing::warn!(%error, run = %work.key, "its TMPDIR stays");
    }
}

/// The end of a run that never began.
fn refused(failed: u32, reason: String) -> Exit {
    Exit { ended_ms: now_ms(), failed, exit_status: i32::from(failed != 0), reason, ..Exit::default() }
}
