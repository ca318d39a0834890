//! The real master and the real agent, one step at a time, with a crash between any two acts on the disk.
//!
//! Supervisors are played here (a run is a counter), users and time by a seeded generator; everything else is the code that
//! serves. First anything may crash; then all is healed, and everything accepted must come to an end. A failure prints its seed;
//! `BRICKYARD_SEED=n` plays that one alone, `BRICKYARD_SEEDS=n` so many instead of forty.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::agent::spool::{self, Spool};
use crate::agent::{Agent, Launch};
use crate::clock::now_ms;
use crate::config::{AgentConfig, MasterConfig};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::master::Master;
use crate::plan::{Exit, JobId, RunKey, TaskId, TaskRange};
use crate::store::disk::{Disk, Faults, unique};
use crate::store::message::{COMMAND, COMMAND_PREFIX, Command, JOB_PREFIX};
use crate::store::{claims, recover, sealed, submission};

const SLOTS: u32 = 3;
const HOST: &str = "node1";

/// Deterministic and good enough: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Crashes at the n-th act from now on; a negative count never does. Before each act it looks at what an agent would see now.
struct Crasher {
    left: AtomicI64,
    salt: AtomicU64,
    layout: Layout,
}

impl Crasher {
    fn new(layout: &Layout) -> Arc<Crasher> {
        let layout = layout.clone();
        Arc::new(Crasher { left: AtomicI64::new(-1), salt: AtomicU64::new(0), layout })
    }

    /// An agent may look at any moment: what is assigned must be there to be run.
    fn judge_assignments(&self) {
        let Ok(names) = crate::store::disk::names(&self.layout.assign(HOST)) else { return };
        for key in names.iter().filter_map(|n| n.parse::<RunKey>().ok()) {
            let spooled = self.layout.spool().join(key.job.to_string());
            assert!(spooled.exists(), "{key} is assigned and job {} isn't in the spool", key.job);
        }
    }

    fn arm(&self, acts: Option<u64>, salt: u64) {
        self.left.store(acts.map_or(-1, |n| i64::try_from(n).unwrap()), Ordering::SeqCst);
        self.salt.store(salt, Ordering::SeqCst);
    }
}

impl Faults for Crasher {
    fn crash(&self, _act: &'static str, len: usize) -> Option<usize> {
        self.judge_assignments();
        if self.left.load(Ordering::SeqCst) < 0 {
            return None;
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return None;
        }
        // Stays crashed until armed anew.
        self.left.store(0, Ordering::SeqCst);
        Some(usize::try_from(self.salt.load(Ordering::SeqCst)).unwrap() % (len + 1))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Life {
    Fresh,
    Running,
}

/// Supervisors and their jobs, and what an omniscient onlooker notes of them.
#[derive(Default)]
struct Shepherds {
    live: BTreeMap<RunKey, (Life, PathBuf)>,
    started: BTreeMap<RunKey, u32>,
    /// Tasks that came to an end with status 0 or 1, or lost without a right to be run again.
    done: BTreeSet<(JobId, TaskId)>,
    healed: bool,
}

impl Launch for Shepherds {
    fn launch(&mut self, key: RunKey, dir: &Path) -> std::io::Result<()> {
        // The second supervisor of a run finds the lock taken and ends.
        self.live.entry(key).or_insert((Life::Fresh, dir.to_path_buf()));
        Ok(())
    }

    fn lives(&mut self, key: RunKey, _dir: &Path) -> Result<bool> {
        Ok(self.live.contains_key(&key))
    }
}

impl Shepherds {
    fn progress(&mut self, dice: &mut Dice, rerun: &BTreeSet<JobId>) {
        let keys: Vec<RunKey> = self.live.keys().copied().collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[usize::try_from(dice.below(keys.len() as u64)).unwrap()];
        let (life, dir) = self.live[&key].clone();
        let disk = Disk::default();
        let killed = dir.join("kill").exists();
        let task = (key.job, key.task);
        match life {
            Life::Fresh => {
                if spool::read_exit(&dir).unwrap().is_some() || spool::read_started(&dir).unwrap().is_some() {
                    self.live.remove(&key);
                } else if killed {
                    spool::write_exit(&disk, &dir, &Exit { ended_ms: now_ms(), ..Exit::default() }).unwrap();
                    self.live.remove(&key);
                } else if !self.healed && dice.one_in(12) {
                    self.live.remove(&key);
                } else {
                    spool::write_started(&disk, &dir, now_ms()).unwrap();
                    let times = self.started.entry(key).or_default();
                    *times += 1;
                    assert_eq!(*times, 1, "{key} was started twice");
                    assert!(!self.done.contains(&task), "{key} was started after its task was over");
                    self.live.insert(key, (Life::Running, dir));
                    let running = self.live.iter().filter(|(_, (l, _))| *l == Life::Running);
                    let running: Vec<_> = running.map(|(k, _)| *k).collect();
                    assert!(
                        running.len() <= usize::try_from(SLOTS).unwrap(),
                        "more jobs than slots: {running:?}"
                    );
                    let tasks: BTreeSet<_> = running.iter().map(|k| (k.job, k.task)).collect();
                    assert_eq!(tasks.len(), running.len(), "a task runs twice at a time: {running:?}");
                }
            }
            Life::Running => {
                self.live.remove(&key);
                if !self.healed && dice.one_in(15) {
                    // The machine's power failed: no word is left.
                    if !rerun.contains(&key.job) {
                        self.done.insert(task);
                    }
                    return;
                }
                let statuses: &[i32] =
                    if self.healed || key.run > 3 { &[0] } else { &[0, 0, 0, 0, 1, 99, 100] };
                let status = if killed {
                    137
                } else {
                    statuses[usize::try_from(dice.below(statuses.len() as u64)).unwrap()]
                };
                let exit = Exit {
                    started_ms: Some(now_ms()),
                    ended_ms: now_ms(),
                    exit_status: status,
                    ..Exit::default()
                };
                spool::write_exit(&disk, &dir, &exit).unwrap();
                if status != 99 && status != 100 {
                    self.done.insert(task);
                }
            }
        }
    }
}

struct World {
    dice: Dice,
    dir: tempfile::TempDir,
    layout: Layout,
    master: Option<Master>,
    agent: Option<Agent>,
    master_crash: Arc<Crasher>,
    agent_crash: Arc<Crasher>,
    shepherds: Shepherds,
    accepted: BTreeMap<JobId, TaskRange>,
    rerun: BTreeSet<JobId>,
    deleted: BTreeSet<JobId>,
    crashes: u32,
}

/// A crash is expected; anything else is a finding.
fn crashed<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Crashed) => None,
        Err(error) => panic!("{error}"),
    }
}

impl World {
    fn new(seed: u64) -> World {
        // In memory where there is such a place: the crashes here are of processes, not of power.
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let root = dir.path().join("root");
        layout::init(&root).unwrap();
        let layout = Layout::new(&root);
        World {
            dice: Dice(seed),
            dir,
            master: None,
            agent: None,
            master_crash: Crasher::new(&layout),
            agent_crash: Crasher::new(&layout),
            layout,
            shepherds: Shepherds::default(),
            accepted: BTreeMap::new(),
            rerun: BTreeSet::new(),
            deleted: BTreeSet::new(),
            crashes: 0,
        }
    }

    fn arm(&mut self, crasher: &Arc<Crasher>) {
        let (acts, salt) = (self.dice.below(60), self.dice.next() >> 8);
        let acts = (!self.shepherds.healed && !self.dice.one_in(4)).then_some(acts);
        crasher.arm(acts, salt);
    }

    fn master_step(&mut self) {
        if self.master.is_none() {
            let crasher = self.master_crash.clone();
            self.arm(&crasher);
            let mut config = MasterConfig::new(self.layout.root());
            config.host_silence_max_ms = 3_600_000;
            self.master = crashed(Master::open(config, Disk::faulty(crasher)));
        }
        let (snapshot, tidy) = (self.dice.one_in(12), self.dice.one_in(6));
        let Some(master) = &mut self.master else {
            self.crashes += 1;
            return;
        };
        let mut result = master.step(None).map(|_| ());
        if result.is_ok() && tidy {
            result = master.tidy();
        }
        if result.is_ok() && snapshot {
            result = master.snapshot();
        }
        if crashed(result).is_none() {
            self.master = None;
            self.crashes += 1;
        }
    }

    fn agent_step(&mut self) {
        if self.agent.is_none() {
            let crasher = self.agent_crash.clone();
            self.arm(&crasher);
            let disk = Disk::faulty(crasher);
            let path = self.dir.path().join("spool");
            let mut config = AgentConfig::new(self.layout.root(), &path);
            config.hostname = HOST.into();
            config.slots = Some(SLOTS);
            let open = || {
                let spool = Spool::open(&disk, &path)?;
                spool.bind(&disk, &self.layout)?;
                let _lock = crate::agent::enroll(&disk, &self.layout, HOST)?;
                let mut agent = Agent::open(config, disk.clone(), spool)?;
                agent.beat(true)?;
                Ok(agent)
            };
            self.agent = crashed(open());
        }
        let Some(agent) = &mut self.agent else {
            self.crashes += 1;
            return;
        };
        if crashed(agent.step(&mut self.shepherds)).is_none() {
            self.agent = None;
            self.crashes += 1;
        }
    }

    /// As `qsub` does; it may die anywhere, then nothing was promised.
    fn submit(&mut self) {
        let id = claims::claim(&self.layout).unwrap();
        assert!(!self.accepted.contains_key(&id), "number {id} given out twice");
        let mut spec = submission::tests::spec(id.0);
        spec.array = if self.dice.one_in(3) { TaskRange::new(1, 1 + self.dice.below(5), 2) } else { None };
        spec.rerun = Some(self.dice.one_in(2));
        spec.hold = self.dice.one_in(8);
        let crasher = Crasher::new(&self.layout);
        let acts = self.dice.one_in(5).then(|| self.dice.below(4));
        crasher.arm(acts, self.dice.next() >> 8);
        let bytes = submission::encode(&spec, b"true\n").unwrap();
        let name = format!("{JOB_PREFIX}{id}");
        let incoming = self.layout.incoming();
        let disk = Disk::faulty(crasher);
        let done = disk.publish(&incoming, &name, &bytes, 0o600).and_then(|()| disk.sync_dir(&incoming));
        // Renamed and then dead before the answer: it may run, and it must run once if it does.
        if done.is_ok() || incoming.join(&name).exists() {
            self.accepted.insert(id, spec.array.unwrap_or(TaskRange::SINGLE));
            if spec.rerun == Some(true) {
                self.rerun.insert(id);
            }
        }
    }

    fn say(&self, command: &Command) {
        let bytes = sealed::seal_json(COMMAND, command).unwrap();
        let name = format!("{COMMAND_PREFIX}{}", unique());
        Disk::default().publish(&self.layout.incoming(), &name, &bytes, 0o600).unwrap();
    }

    fn command(&mut self) {
        let ids: Vec<JobId> = self.accepted.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let job = ids[usize::try_from(self.dice.below(ids.len() as u64)).unwrap()];
        let command = match self.dice.below(6) {
            0 | 1 => {
                self.deleted.insert(job);
                Command::Delete { job, tasks: None, force: false }
            }
            2 => Command::Hold { job, hold: true },
            3 => Command::Hold { job, hold: false },
            _ => Command::Clear { job, tasks: None },
        };
        self.say(&command);
    }

    fn turmoil(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.dice.below(20) {
                0 | 1 => self.submit(),
                2 => self.command(),
                3..=8 => self.master_step(),
                9..=14 => self.agent_step(),
                15 => {
                    if self.dice.one_in(3) {
                        self.master = None;
                    } else if self.dice.one_in(3) {
                        self.agent = None;
                    }
                }
                _ => self.shepherds.progress(&mut self.dice, &self.rerun),
            }
            self.judge_errors();
        }
    }

    fn heal(&mut self) {
        self.shepherds.healed = true;
        self.master = None;
        self.agent = None;
        for round in 0..3000 {
            self.master_step();
            self.agent_step();
            self.shepherds.progress(&mut self.dice, &self.rerun);
            self.judge_errors();
            let queue = &self.master.as_ref().unwrap().queue;
            let stuck: Vec<Command> = queue
                .jobs
                .values()
                .flat_map(|j| {
                    let job = j.new.id;
                    let release = j.new.hold.then_some(Command::Hold { job, hold: false });
                    let clear = (!j.errors.is_empty()).then_some(Command::Clear { job, tasks: None });
                    release.into_iter().chain(clear)
                })
                .collect();
            let quiet = queue.jobs.is_empty()
                && self.shepherds.live.is_empty()
                && std::fs::read_dir(self.layout.incoming())
                    .unwrap()
                    .all(|e| e.unwrap().file_name().to_string_lossy().starts_with(".tmp."))
                && std::fs::read_dir(self.dir.path().join("spool/runs")).unwrap().next().is_none();
            if quiet && round > 3 {
                return;
            }
            for command in &stuck {
                self.say(command);
            }
        }
        panic!("something accepted never ends: {:?}", self.master.as_ref().unwrap().queue.jobs);
    }

    /// Nothing here can't be run: a task is in error only because its job said so, or its supervisors died.
    fn judge_errors(&self) {
        for job in self.master.iter().flat_map(|m| m.queue.jobs.values()) {
            for (task, reason) in &job.errors {
                let expected =
                    ["the job ended with exit status 100", "the supervisor didn't begin in 3 tries"];
                assert!(expected.contains(&reason.as_str()), "task {}.{task}: {reason}", job.new.id);
            }
        }
    }

    fn judge(&mut self) {
        let queue = &self.master.as_ref().unwrap().queue;
        for (id, range) in &self.accepted {
            assert!(queue.accepted.contains(id.0), "job {id} was accepted and is unknown");
            for index in 0..range.count() {
                let task = range.task(index);
                let over = self.shepherds.done.contains(&(*id, task));
                assert!(
                    over || self.deleted.contains(id),
                    "task {id}.{task} was accepted and never ran to an end"
                );
            }
        }
        let mut lines: BTreeMap<(u64, u64), u32> = BTreeMap::new();
        let text = std::fs::read_to_string(self.layout.accounting()).unwrap();
        for line in text.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            assert_eq!(fields.len(), 45, "{line:?}");
            *lines
                .entry((fields[5].parse().unwrap(), fields[35].parse::<u64>().unwrap().max(1)))
                .or_default() += 1;
        }
        let mut runs: BTreeMap<(u64, u64), u32> = BTreeMap::new();
        for key in self.shepherds.started.keys() {
            *runs.entry((key.job.0, key.task.0)).or_default() += 1;
        }
        assert_eq!(lines, runs, "accounting lines and runs disagree");
        let found = recover::view(&self.layout).unwrap().queue;
        let (a, b) = (&found, &self.master.as_ref().unwrap().queue);
        assert_eq!((&a.jobs, &a.accepted, &a.finished), (&b.jobs, &b.accepted, &b.finished));
        for dir in [self.layout.spool(), self.layout.assign(HOST), self.layout.report(HOST)] {
            let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert!(left.is_empty(), "left in {}: {left:?}", dir.display());
        }
    }
}

fn play(seed: u64) -> (usize, usize, u32) {
    let mut world = World::new(seed);
    world.turmoil(350);
    world.heal();
    world.judge();
    (world.accepted.len(), world.shepherds.started.len(), world.crashes)
}

#[test]
fn every_job_ends_once_whatever_crashes_where() {
    if let Some(seed) = std::env::var("BRICKYARD_SEED").ok().and_then(|s| s.parse().ok()) {
        println!("seed {seed}: {:?}", play(seed));
        return;
    }
    let begin: u64 = 20_261_122;
    let seeds: u64 = std::env::var("BRICKYARD_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(40);
    let (mut jobs, mut runs, mut crashes) = (0, 0, 0);
    for seed in begin..begin + seeds {
        let result = std::panic::catch_unwind(|| play(seed));
        let Ok((j, r, c)) = result else { panic!("failed with BRICKYARD_SEED={seed}") };
        jobs += j;
        runs += r;
        crashes += c;
    }
    println!("{jobs} jobs, {runs} runs, {crashes} crashes");
    assert!(
        jobs > 400 && runs > 400 && crashes > 400,
        "too tame: {jobs} jobs, {runs} runs, {crashes} crashes"
    );
}
