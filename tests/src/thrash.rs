//! Thrashing a cluster: six bricks on six hosts under real programs while everything goes wrong that may.
//!
//! Programs: fsx, fio with verification, tar and diff, SQLite, and a writer that remembers every file whose
//! fsync returned. Faults, one at a time and from a seed: kill -9, SIGSTOP for 3 s and 30 s, a cable pulled, a slow
//! link, a full disk, flipped blocks, the leader of three members of the namespace killed, and a brick drained while
//! another one and the leader are killed. Afterwards everything is healed, and then it must hold that
//!
//! 1. no program has ever seen a wrong byte, or an error but "no space left" while a disk was full;
//! 2. everything that was acknowledged by fsync, and every committed transaction, is there;
//! 3. every chain gets all its copies back, and `brickyard check --data-too` finds them identical.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::disks::{self, Filler};
use crate::run::{Run, need};
use crate::seed::{self, Rng};
use crate::{HostCluster, Shape, suites, wait};

const BRICKS: usize = 6;
/// Of the namespace, beside the first one.
const MORE_MEMBERS: usize = 2;
/// Bytes of one brick's disk.
const DISK_MIB: u64 = 2048;
/// How long the cluster may take to have all copies again after a fault.
const HEAL_LIMIT: Duration = Duration::from_secs(180);
/// Files the writer remembers; older ones are removed again.
const PROMISES: usize = 200;
/// Longest file of the writer.
const PROMISE_BYTES: u64 = 3_000_000;
/// More files than there are chains.
const TOUCHES: u32 = 64;
/// Bytes flipped at a time.
const FLIPS: u64 = 12;

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Rounds of each program.
    pub rounds: BTreeMap<&'static str, u64>,
    /// Rounds that ended because a disk was full.
    pub out_of_space: u64,
    /// Files compared at the end.
    pub promises_kept: u64,
    /// Longest time from a fault's end until every chain had all copies.
    pub longest_heal: Duration,
}

/// What all threads share.
#[derive(Debug)]
struct Scene {
    dir: PathBuf,
    stop: AtomicBool,
    /// A disk is full, or was a moment ago.
    tight: AtomicBool,
    /// How often that came about: a round that saw one may end after it.
    times_tight: AtomicU64,
    out_of_space: AtomicU64,
}

impl Scene {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Lets pass what a full disk excuses.
    fn judge(&self, what: &str, excused: bool, done: Result<()>) -> Result<bool> {
        match done {
            Ok(()) => Ok(true),
            Err(error) => {
                let text = format!("{error:#}").to_lowercase();
                // The last is what SQLite makes of it when it comes out of fsync.
                let full = [
                    "no space left",
                    "os error 28",
                    "enospc",
                    "storagefull",
                    "disk is full",
                    "disk i/o error",
                ];
                if excused && full.iter().any(|word| text.contains(word)) {
                    self.out_of_space.fetch_add(1, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(error.context(what.to_owned()))
            }
        }
    }
}

/// A file of which every byte is promised.
#[derive(Debug, Clone)]
struct Promise {
    path: PathBuf,
    pattern: u64,
    length: usize,
}

impl Promise {
    /// Writes it, in pieces of many sizes, and has it made durable.
    fn make(&self, rng: &mut Rng) -> Result<()> {
        let file = File::create(&self.path)?;
        let content = seed::bytes(self.pattern, 0, self.length);
        let mut at = 0;
        while at < content.len() {
            let step = (rng.between(1, 300_000) as usize).min(content.len() - at);
            file.write_all_at(&content[at..at + step], at as u64)?;
            at += step;
        }
        Ok(file.sync_all()?)
    }

    fn check(&self) -> Result<()> {
        let actual = read_from_bricks(&self.path)?;
        ensure!(
            actual.len() == self.length,
            "{} has {} bytes, not {}",
            self.path.display(),
            actual.len(),
            self.length
        );
        let expected = seed::bytes(self.pattern, 0, self.length);
        if let Some(at) = actual.iter().zip(&expected).position(|(a, b)| a != b) {
            let wrong: Vec<usize> = (at..self.length).filter(|at| actual[*at] != expected[*at]).collect();
            let zeros = wrong.iter().filter(|at| actual[**at] == 0).count();
            // Another member may be asked then.
            let again: Vec<bool> =
                (0..4).map(|_| read_from_bricks(&self.path).is_ok_and(|now| now == expected)).collect();
            bail!(
                "{} (inode {}, {} bytes) is wrong at byte {at}: {} bytes up to byte {}, {zeros} of them zeros; \
                 right when read again: {again:?}",
                self.path.display(),
                std::fs::metadata(&self.path)?.ino(),
                self.length,
                wrong.len(),
                wrong.last().unwrap_or(&at)
            );
        }
        Ok(())
    }
}

/// A file's content past the kernel's memory.
fn read_from_bricks(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let opened = File::options().read(true).custom_flags(direct).open(path);
    opened
        .and_then(|mut file| file.read_to_end(&mut content))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(content)
}

type Promises = Arc<Mutex<Vec<Promise>>>;

fn promised(promises: &Promises) -> std::sync::MutexGuard<'_, Vec<Promise>> {
    promises.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Thrashes for so long, with every kind of fault but those `without`.
pub fn run(duration: Duration, seed: u64, without: &[String]) -> Result<Report> {
    if let Some(unknown) = without.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        bail!("there is no fault '{unknown}'; there are: {}", KINDS.join(", "));
    }
    need(&[
        ("fio", "fio"),
        ("sqlite3", "sqlite3"),
        ("mkfs.ext4", "e2fsprogs"),
        ("tar", "tar"),
        ("diff", "diffutils"),
    ])?;
    eprintln!("thrash: seed {seed}, {} s", duration.as_secs());
    let mut cluster = HostCluster::prepare(Shape { bricks: BRICKS, replicas: 2 })?;
    for number in 0..MORE_MEMBERS {
        cluster.add_member(number)?;
    }
    for number in 0..BRICKS {
        disks::give(&cluster, number, DISK_MIB)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let dir = cluster.mountpoint().join("thrash");
    std::fs::create_dir(&dir)?;
    let scene = Arc::new(Scene {
        dir,
        stop: AtomicBool::new(false),
        tight: AtomicBool::new(false),
        times_tight: AtomicU64::new(0),
        out_of_space: AtomicU64::new(0),
    });
    let promises = Promises::default();
    let programs = start_programs(&scene, &promises, seed);
    let mut report = Report::default();
    let fought = fight(&mut cluster, &scene, &programs, &mut report, (duration, seed), without);
    scene.stop.store(true, Ordering::Relaxed);
    let ended = end_programs(programs, &mut report);
    // Why a program ended says more than that it did.
    if let Err(error) = ended.and(fought) {
        // What the copies look like says where to search.
        let checked = cluster.check_and_repair().map_or_else(|bad| format!("{bad:#}"), |done| done.text());
        return Err(error.context(format!("thrash with seed {seed}; the check says: {checked}")));
    }
    report.out_of_space = scene.out_of_space.load(Ordering::Relaxed);
    aftermath(&mut cluster, &promises, &mut report)
        .with_context(|| format!("after thrash with seed {seed}"))?;
    for process in cluster.all() {
        let panics: Vec<String> =
            process.log().lines().into_iter().filter(|line| line.contains("panicked at")).collect();
        ensure!(panics.is_empty(), "{} panicked: {panics:?}", process.name());
    }
    // What went wrong was announced by us; anything may be in the logs but a panic.
    cluster.allow_log("");
    cluster.finish()?;
    Ok(report)
}

// --- programs -----------------------------------------------------------------------------------

struct Program {
    name: &'static str,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

fn start_programs(scene: &Arc<Scene>, promises: &Promises, seed: u64) -> Vec<Program> {
    let program = |name, round: Box<dyn FnMut(u64) -> Result<()> + Send>| {
        let rounds = Arc::new(AtomicU64::new(0));
        let (scene, count) = (scene.clone(), rounds.clone());
        let thread = std::thread::spawn(move || go_round(name, &scene, &count, round));
        Program { name, rounds, thread }
    };
    let dir = |name: &str| scene.dir.join(name);
    let (fsx, fio, tree, sqlite) = (dir("fsx"), dir("fio"), dir("tree"), dir("sqlite"));
    let promise_dir = dir("promises");
    let promises = promises.clone();
    let mut rng = Rng::new(seed ^ 0x0070_726f_6d69_7365);
    vec![
        program("fsx", Box::new(move |round| fsx_round(&fsx, seed.wrapping_add(round)))),
        program("fio", Box::new(move |round| fio_round(&fio, seed.wrapping_add(round)))),
        program("tar and diff", Box::new(move |_| tree_round(&tree))),
        program("sqlite", Box::new(move |round| sqlite_round(&sqlite, round))),
        program("promises", Box::new(move |round| promise_round(&promise_dir, &promises, &mut rng, round))),
    ]
}

fn go_round(
    name: &'static str,
    scene: &Scene,
    count: &AtomicU64,
    mut round: Box<dyn FnMut(u64) -> Result<()> + Send>,
) -> Result<()> {
    let mut number = 0;
    while scene.goes_on() {
        let (tight, times) = (scene.tight.load(Ordering::Relaxed), scene.times_tight.load(Ordering::Relaxed));
        let done = round(number);
        let excused = tight || scene.times_tight.load(Ordering::Relaxed) > times;
        if scene.judge(name, excused, done)? {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            // Whoever meets a full disk does not hammer at it.
            std::thread::sleep(Duration::from_millis(200));
        }
        number += 1;
    }
    Ok(())
}

fn end_programs(programs: Vec<Program>, report: &mut Report) -> Result<()> {
    let mut outcome = Ok(());
    for program in programs {
        let ended = program.thread.join().map_err(|_| anyhow::anyhow!("{} panicked", program.name)).flatten();
        report.rounds.insert(program.name, program.rounds.load(Ordering::Relaxed));
        outcome = outcome.and(ended);
    }
    outcome
}

fn fsx_round(dir: &Path, seed: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    suites::fsx(dir, 1_000, seed)
}

fn fio_round(dir: &Path, seed: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let run = Run::new("fio").args([
        "--name=verify",
        "--rw=randwrite",
        "--bsrange=4k-128k",
        "--size=24m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--fsync=16",
        "--ioengine=psync",
        "--minimal",
        "--verify_state_save=0",
    ]);
    let run = run.arg(format!("--directory={}", dir.display())).arg(format!("--randseed={seed}"));
    run.limit(Duration::from_secs(300)).ok().map(drop)
}

fn tree_round(dir: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    let script = "tar -C \"$1\" -cf - . | tar -C \"$2\" -xf - && sync -f \"$2\" && diff -r \"$1\" \"$2\"";
    let run = Run::bash(script).arg("thrash").arg(source).arg(dir);
    run.limit(Duration::from_secs(300)).ok().map(drop)
}

/// One committed transaction, and a look at all before it.
fn sqlite_round(dir: &Path, round: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let database = dir.join("db");
    let sql = |text: String| {
        Run::new("sqlite3").arg("-bail").arg(&database).arg(text).limit(Duration::from_secs(200))
    };
    sql("create table if not exists t (n integer primary key, b blob, h text)".to_owned()).ok()?;
    let before: u64 = sql("select count(*) from t".to_owned()).ok()?.text().parse()?;
    let insert = "pragma synchronous=full; begin; \
                  insert into t (b) select randomblob(900) from generate_series(1, 20); \
                  update t set h = hex(substr(b, 1, 8)) where h is null; commit;";
    sql(insert.to_owned()).ok()?;
    let after =
        sql("select count(*) from t; select count(*) from t where h <> hex(substr(b, 1, 8))".to_owned())
            .ok()?;
    ensure!(after.text() == format!("{}\n0", before + 20), "{} after {before}", after.text());
    if round % 8 == 7 {
        sqlite_is_whole(dir)?;
    }
    if before > 5_000 {
        std::fs::remove_file(&database)?;
    }
    Ok(())
}

fn sqlite_is_whole(dir: &Path) -> Result<()> {
    let database = dir.join("db");
    let said = Run::new("sqlite3").arg(&database).arg("pragma integrity_check").ok()?.text();
    ensure!(said == "ok", "SQLite finds: {said}");
    Ok(())
}

fn promise_round(dir: &Path, promises: &Promises, rng: &mut Rng, round: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let promise = Promise {
        path: dir.join(format!("file-{round}")),
        pattern: rng.bits(),
        length: rng.between(1, PROMISE_BYTES) as usize,
    };
    if let Err(error) = promise.make(rng) {
        // What was not acknowledged is of no use to anybody, and takes room.
        let removed = std::fs::remove_file(&promise.path);
        return Err(error.context(format!("cannot write {} ({removed:?})", promise.path.display())));
    }
    promised(promises).push(promise);
    let oldest = {
        let mut all = promised(promises);
        if all.len() > PROMISES { Some(all.remove(0)) } else { None }
    };
    if let Some(oldest) = oldest {
        oldest.check()?;
        std::fs::remove_file(&oldest.path)?;
    }
    // And one of the others, whatever is going on.
    let some = rng.pick(&promised(promises)).cloned();
    some.map_or(Ok(()), |promise| promise.check())
}

// --- faults ---------------------------------------------------------------------------------------

const KINDS: [&str; 10] = [
    "kill -9",
    "stopped 3 s",
    "stopped 30 s",
    "cut off",
    "parted",
    "slow link",
    "full disk",
    "flipped blocks",
    "leader killed",
    "drained",
];

fn fight(
    cluster: &mut HostCluster,
    scene: &Scene,
    programs: &[Program],
    report: &mut Report,
    (duration, seed): (Duration, u64),
    without: &[String],
) -> Result<()> {
    let mut rng = Rng::new(seed);
    // Faults that hit nothing show nothing.
    wait::until_true("every program has come round once", HEAL_LIMIT, || {
        let done =
            |program: &Program| program.rounds.load(Ordering::Relaxed) > 0 || program.thread.is_finished();
        Ok(programs.iter().all(done))
    })?;
    let begun = Instant::now();
    // Blocks are flipped on one brick only: the same block on both copies would be lost rightly.
    let rotten = rng.below(BRICKS as u64) as usize;
    let mut order: Vec<&'static str> = Vec::new();
    while begun.elapsed() < duration {
        if let Some(ended) = programs.iter().find(|program| program.thread.is_finished()) {
            bail!("{} ended early", ended.name);
        }
        if order.is_empty() {
            order = KINDS.to_vec();
            order.retain(|kind| !without.iter().any(|other| other == kind));
            // In a short run the long stop would be all there is.
            order.retain(|kind| *kind != "stopped 30 s" || duration >= Duration::from_secs(150));
        }
        let kind = order.remove(rng.below(order.len() as u64) as usize);
        let brick = if kind == "flipped blocks" { rotten } else { rng.below(BRICKS as u64) as usize };
        eprintln!("thrash: {:>4} s: {kind}: brick {brick}", begun.elapsed().as_secs());
        inflict(cluster, scene, kind, brick, &mut rng).with_context(|| format!("{kind}, brick {brick}"))?;
        *report.faults.entry(kind).or_default() += 1;
        let healing = Instant::now();
        cluster.wait_whole(HEAL_LIMIT).with_context(|| format!("after {kind}, brick {brick}"))?;
        report.longest_heal = report.longest_heal.max(healing.elapsed());
        scene.tight.store(false, Ordering::Relaxed);
    }
    Ok(())
}

/// Time that a fault lasts: the one thing that is simply waited for.
fn last(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn inflict(cluster: &mut HostCluster, scene: &Scene, kind: &str, brick: usize, rng: &mut Rng) -> Result<()> {
    let dir = cluster.brick_dir(brick);
    let process = &mut cluster.bricks[brick];
    match kind {
        "kill -9" => {
            process.kill9()?;
            last(rng.between(100, 6_000));
            process.start()?;
        }
        "stopped 3 s" | "stopped 30 s" => {
            process.signal(Signal::STOP)?;
            last(if kind == "stopped 3 s" { 3_000 } else { 30_000 });
            process.signal(Signal::CONT)?;
        }
        "cut off" => {
            process.host().cut()?;
            last(rng.between(1_000, 12_000));
            process.host().heal()?;
        }
        "parted" => {
            let other = (brick + 1 + rng.below(BRICKS as u64 - 1) as usize) % BRICKS;
            let (one, two) = (process.host().clone(), cluster.bricks[other].host());
            one.part_from(two)?;
            last(rng.between(2_000, 10_000));
            one.meet(two)?;
        }
        "slow link" => {
            process.host().limit(rng.between(20, 200) as u32)?;
            last(rng.between(2_000, 8_000));
            process.host().unlimit()?;
        }
        "full disk" => {
            scene.tight.store(true, Ordering::Relaxed);
            scene.times_tight.fetch_add(1, Ordering::Relaxed);
            let mut filler = Filler::fill(&dir)?;
            last(rng.between(1_000, 3_000));
            // What the brick had set aside, too.
            filler.take_the_rest()?;
            last(rng.between(1_000, 3_000));
            filler.remove()?;
            touch_all_chains(&scene.dir.join("touch"))?;
        }
        "leader killed" => kill_leader(cluster)?,
        "drained" => {
            let number = brick.to_string();
            cluster.admin(&["brick", "drain", &number])?.ok()?;
            last(rng.between(500, 3_000));
            let other = (brick + 1 + rng.below(BRICKS as u64 - 1) as usize) % BRICKS;
            cluster.bricks[other].kill9()?;
            kill_leader(cluster)?;
            cluster.bricks[other].start()?;
            last(rng.between(500, 5_000));
            cluster.admin(&["brick", "drain", &number, "--undo"])?.ok()?;
        }
        _ => flip(&dir, rng)?,
    }
    Ok(())
}

fn kill_leader(cluster: &mut HostCluster) -> Result<()> {
    let leads = cluster.leader()?;
    leads.kill9()?;
    leads.start().map(drop)
}

/// Has every brick that serves make something durable: one whose disk was full has noticed then that there is room
/// again, or has left its chains and says so.
fn touch_all_chains(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    // Files begin on one chain after the other.
    for number in 0..TOUCHES {
        let path = dir.join(number.to_string());
        let file = File::create(&path)?;
        wait::until_true("there is room again", HEAL_LIMIT, || {
            file.write_all_at(&number.to_le_bytes(), 0)?;
            match file.sync_all() {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// Turns bits over in the data of a brick, where there is some.
fn flip(dir: &Path, rng: &mut Rng) -> Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("data.") && entry.metadata()?.len() > 0 {
            files.push(entry.path());
        }
    }
    files.sort();
    let path = rng.pick(&files).context("the brick has no data files")?;
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    for _ in 0..FLIPS {
        let start = rng.below(length);
        let at = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(start)) {
            Ok(at) => at,
            Err(rustix::io::Errno::NXIO) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << rng.below(8))], at)?;
    }
    Ok(file.sync_all()?)
}

// --- afterwards -----------------------------------------------------------------------------------

fn aftermath(cluster: &mut HostCluster, promises: &Promises, report: &mut Report) -> Result<()> {
    cluster.wait_whole(HEAL_LIMIT)?;
    let promises = promised(promises).clone();
    let verify = || promises.iter().try_for_each(Promise::check);
    verify()?;
    report.promises_kept = promises.len() as u64;
    sqlite_is_whole(&cluster.mountpoint().join("thrash/sqlite"))?;
    // What programs have compared themselves is no more needed.
    for name in ["fsx", "fio", "tree"] {
        let dir = cluster.mountpoint().join("thrash").join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
    }
    // From the disks, not from anybody's memory.
    cluster.stop()?;
    for process in cluster.all() {
        if process.name() != "mount" {
            process.start()?;
        }
    }
    cluster.start_mount()?;
    cluster.wait_whole(HEAL_LIMIT)?;
    // A flipped block is put right when it is read: what is not read by the programs, the check reads.
    verify()?;
    let checked = cluster.check_and_repair()?;
    eprintln!("thrash: {}", checked.text());
    Ok(())
}
