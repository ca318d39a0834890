//! Three mounts claim the same names while members of the namespace, the leader most of all, are killed, stopped and cut off.
//!
//! Each name goes through a history of its own, and every answer is held against it:
//!
//! ```text
//!            mkdir by each of the three           rename by the one that made it
//!    absent ----------------------------> claimed -------------------------------> owned
//!             one hears yes, two hear               it hears yes
//!             that it exists
//! ```
//!
//! 1. Of the three one hears yes. None would be an answer that was given twice, and differently; two would be a lost change.
//! 2. Whoever looks after an answer sees at least that state, on whatever mount.
//! 3. With each name comes a file that is written beside it, closed, and renamed: whoever sees the one sees the other, with all its bytes.
//! 4. In the end all names are where they were acknowledged to be, and nothing else is there.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use brickyard_tests::place::setting;
use brickyard_tests::seed::{self, Rng};
use brickyard_tests::{HostCluster, Shape, wait};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(60);
const MOUNTS: usize = 3;
/// Of the file that comes with a name.
const FILE_BYTES: usize = 32_000;
/// Nobody waits longer.
const LONGEST_STALL: Duration = Duration::from_secs(3);
/// How long a member is stopped or cut off.
const AWAY: Duration = Duration::from_secs(6);
/// From one fault to the next.
const PERIOD: Duration = Duration::from_secs(5);

/// What is known of a name: only what was acknowledged, or is about to be asked for.
#[derive(Debug, Default, Clone)]
struct Claim {
    tried: usize,
    winner: Option<usize>,
    leaving: bool,
    owned: bool,
}

#[derive(Debug, Default)]
struct Board {
    claims: Mutex<Vec<Claim>>,
    /// The longest call since it was asked for.
    longest: Mutex<Duration>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waited(&self, for_long: Duration) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = for_long.max(*longest);
    }

    fn longest(&self) -> Duration {
        std::mem::take(&mut *self.longest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, number: usize, change: impl FnOnce(&mut Claim) -> T) -> T {
        let mut claims = self.lock();
        if claims.len() <= number {
            claims.resize(number + 1, Claim::default());
        }
        change(&mut claims[number])
    }
}

fn claim(dir: &Path, number: usize) -> PathBuf {
    dir.join("shared").join(number.to_string())
}

fn own(dir: &Path, winner: usize, number: usize) -> PathBuf {
    dir.join(format!("own-{winner}")).join(number.to_string())
}

/// Until when names are claimed: all three try the same ones.
#[derive(Debug, Default)]
struct Goal(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// What each tries.
    at: [usize; MOUNTS],
    /// The first one that nobody tries any more.
    end: Option<usize>,
}

impl Goal {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this mount is to try this name.
    fn wants(&self, mount: usize, number: usize) -> bool {
        let mut progress = self.lock();
        progress.at[mount] = number;
        progress.end.is_none_or(|end| number < end)
    }

    fn end(&self) {
        let mut progress = self.lock();
        progress.end = progress.at.iter().max().map(|last| last + 1);
    }
}

/// One mount's part.
struct Worker {
    me: usize,
    dir: PathBuf,
    board: Arc<Board>,
    rng: Rng,
    won: VecDeque<usize>,
}

impl Worker {
    fn timed<T>(&self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let outcome = call();
        self.board.waited(begun.elapsed());
        outcome
    }

    fn try_claim(&mut self, number: usize) -> Result<()> {
        let path = claim(&self.dir, number);
        let won = match self.timed(|| fs::create_dir(&path)) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).with_context(|| format!("claiming {number}")),
        };
        let me = self.me;
        self.board.change(number, |claim| {
            claim.tried += 1;
            if won {
                ensure!(claim.winner.is_none(), "{number} was made twice: {claim:?}, and by {me}");
                claim.winner = Some(me);
            }
            ensure!(claim.tried < MOUNTS || claim.winner.is_some(), "{number} was made, and nobody heard so");
            Ok(())
        })?;
        if won {
            self.won.push_back(number);
        }
        Ok(())
    }

    /// Takes names that all have tried to its own directory.
    fn take_home(&mut self) -> Result<()> {
        while let Some(number) = self.won.front().copied() {
            let all_tried = self.board.change(number, |claim| {
                claim.leaving = claim.tried == MOUNTS;
                claim.leaving
            });
            if !all_tried {
                break;
            }
            let (from, to) = (claim(&self.dir, number), own(&self.dir, self.me, number));
            let (new, file) = (from.join("new"), from.join("file"));
            let bytes = seed::bytes(number as u64, 0, FILE_BYTES);
            self.timed(|| fs::write(&new, bytes)).with_context(|| format!("writing for {number}"))?;
            self.timed(|| fs::rename(&new, &file))
                .with_context(|| format!("renaming the file of {number}"))?;
            self.timed(|| fs::rename(&from, &to)).with_context(|| format!("renaming {number}"))?;
            self.board.change(number, |claim| claim.owned = true);
            self.won.pop_front();
        }
        Ok(())
    }

    /// Looks at a name of before.
    fn look(&mut self, below: usize) -> Result<()> {
        let number = self.rng.below(below as u64) as usize;
        let before = self.board.change(number, |claim| claim.clone());
        let Some(winner) = before.winner else { return Ok(()) };
        let exists = |path: PathBuf| match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        };
        let (shared, owned) = (claim(&self.dir, number), own(&self.dir, winner, number));
        let (at_first, then) = (self.timed(|| exists(shared))?, self.timed(|| exists(owned))?);
        let after = self.board.change(number, |claim| claim.clone());
        let me = self.me;
        if before.owned && (at_first || !then) {
            bail!("mount {me} saw {number} as it was before: {at_first} {then}, {before:?}");
        }
        if before.owned {
            let file = own(&self.dir, winner, number).join("file");
            let read = self.timed(|| fs::read(&file)).with_context(|| format!("the file of {number}"))?;
            ensure!(
                read == seed::bytes(number as u64, 0, FILE_BYTES),
                "mount {me} reads {} bytes of {number}, and not those that were written",
                read.len()
            );
        }
        if !after.leaving && (!at_first || then) {
            bail!("mount {me} does not see {number}: {at_first} {then}, {before:?}, {after:?}");
        }
        Ok(())
    }

    fn run(mut self, goal: &Goal) -> Result<()> {
        let mut number = 0;
        while goal.wants(self.me, number) {
            self.try_claim(number)?;
            number += 1;
            self.take_home()?;
            self.look(number)?;
        }
        // Who is slower may still be trying.
        wait::until_true("all have tried", LIMIT, || {
            self.take_home()?;
            Ok(self.won.is_empty())
        })?;
        Ok(())
    }
}

/// What is done to a member.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillLeader,
    KillOther,
    StopLeader,
    PartLeader,
}

fn strike(cluster: &mut HostCluster, fault: Fault, rng: &mut Rng) -> Result<()> {
    let leads = cluster.leader()?.name().to_owned();
    let mut members = cluster.namespace_processes();
    let at = members.iter().position(|member| member.name() == leads).context("it is gone")?;
    match fault {
        Fault::KillLeader => {
            members[at].kill9()?;
            members[at].start()?;
        }
        Fault::KillOther => {
            let other = (at + 1 + rng.below(2) as usize) % members.len();
            members[other].kill9()?;
            members[other].start()?;
        }
        Fault::StopLeader => {
            members[at].signal(Signal::STOP)?;
            std::thread::sleep(AWAY);
            members[at].signal(Signal::CONT)?;
        }
        Fault::PartLeader => {
            let host = members[at].host().clone();
            let others: Vec<_> = members
                .iter()
                .map(|member| member.host().clone())
                .filter(|other| other.label() != host.label())
                .collect();
            for other in &others {
                host.part_from(other)?;
            }
            std::thread::sleep(AWAY);
            for other in &others {
                host.meet(other)?;
            }
        }
    }
    Ok(())
}

/// `BRICKYARD_LEADER_SECONDS`: how long; `BRICKYARD_SEED`: which faults.
#[test]
fn three_mounts_claim_names_while_leaders_die() -> Result<()> {
    let seconds = setting("BRICKYARD_LEADER_SECONDS", 40)?;
    let seed = seed::of_this_run()?;
    let mut rng = Rng::new(seed);
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    for number in 0..2 {
        cluster.add_member(number)?;
    }
    for number in 0..2 {
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    cluster.allow_log("");
    let mut mounts = vec![cluster.mountpoint().to_owned()];
    for _ in 1..MOUNTS {
        mounts.push(cluster.add_mount()?);
    }
    fs::create_dir(mounts[0].join("shared"))?;
    for winner in 0..MOUNTS {
        fs::create_dir(mounts[0].join(format!("own-{winner}")))?;
    }
    let (board, goal) = (Arc::new(Board::default()), Arc::new(Goal::default()));
    let workers: Vec<JoinHandle<Result<()>>> = mounts
        .iter()
        .enumerate()
        .map(|(me, dir)| {
            let rng = Rng::new(seed + 1 + me as u64);
            let worker = Worker { me, dir: dir.clone(), board: board.clone(), rng, won: VecDeque::new() };
            let goal = goal.clone();
            std::thread::spawn(move || worker.run(&goal))
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut faults = Vec::new();
    board.longest();
    while Instant::now() < until && workers.iter().all(|worker| !worker.is_finished()) {
        let next = Instant::now() + PERIOD;
        let all =
            [Fault::KillLeader, Fault::KillOther, Fault::StopLeader, Fault::KillLeader, Fault::PartLeader];
        let fault = all[faults.len() % all.len()];
        strike(&mut cluster, fault, &mut rng).with_context(|| format!("{fault:?}"))?;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        faults.push((fault, board.longest()));
    }
    goal.end();
    for worker in workers {
        let ended = worker.join().map_err(|_| anyhow::anyhow!("a mount's part panicked"))?;
        ended.with_context(|| format!("seed {seed}, after {} faults", faults.len()))?;
    }
    let claims = board.lock().clone();
    let longest = faults.iter().max_by_key(|(_, longest)| *longest).context("no faults")?;
    eprintln!("{} names, {} faults, the longest wait: {longest:?}", claims.len(), faults.len());
    for (me, dir) in mounts.iter().enumerate() {
        let listed = |path: PathBuf| -> Result<BTreeSet<String>> {
            fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        ensure!(listed(dir.join("shared"))?.is_empty(), "mount {me}: names are left");
        for winner in 0..MOUNTS {
            let won: BTreeSet<String> = (0..claims.len())
                .filter(|number| claims[*number].winner == Some(winner))
                .map(|number| number.to_string())
                .collect();
            ensure!(
                listed(dir.join(format!("own-{winner}")))? == won,
                "mount {me}: other names than acknowledged"
            );
        }
    }
    ensure!(claims.len() > seconds as usize, "hardly anything was done: {} names", claims.len());
    ensure!(longest.1 <= LONGEST_STALL, "somebody waited: {faults:?}");
    cluster.check(false)?;
    cluster.finish()
}
