//! Locks between mounts on two machines.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brickyard_tests::kernel::{RangeLock, range_lock, try_range_lock};
use brickyard_tests::netns::Host;
use brickyard_tests::run::NOBODY;
use brickyard_tests::{HostCluster, Run, Shape, seed, wait};
use rustix::fs::{FlockOperation, XattrFlags, flock, getxattr, listxattr, setxattr};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::bad_input::refused;
use crate::locks::{Holder, PROBE, attempt, flock_excludes, ranges_exclude};

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster mounted on two machines, and both mount points.
fn two_mounts() -> Result<(HostCluster, PathBuf, PathBuf)> {
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    let there = cluster.add_mount()?;
    let here = cluster.mountpoint().to_owned();
    Ok((cluster, here, there))
}

/// Returns once the namespace knows that a process waits for a lock: who only sleeps in a request may not have got there yet.
fn waits_in_line(cluster: &HostCluster, process: &Child) -> Result<()> {
    wait::until_true("it waits for the lock", LIMIT, || {
        let told = cluster.admin(&["stuck"])?.arg("--json").ok()?;
        let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
        let waiters = told["lock_waiters"].as_array().context("no list")?;
        Ok(waiters.iter().any(|waiter| waiter["who"]["pid"] == process.id()))
    })
}

/// Locks exclude, wake, split, join and end between two machines as they do on one.
#[test]
fn locks_exclude_between_mounts() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    for (here, there) in [(&here, &there), (&there, &here), (&here, &here)] {
        flock_excludes(&here.join("flock"), &there.join("flock"))?;
        ranges_exclude(&here.join("ranges"), &there.join("ranges"))?;
    }
    // Of one file, each kind knows only its own.
    let file = File::open(here.join("flock"))?;
    let _range = Holder::start("range", &there.join("flock"), &["0", "0"])?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    drop((file, _range));
    cluster.finish()
}

/// When a holder is killed, whoever waits on another machine has its lock within a second; and who waits, and is killed,
/// ends at once.
#[test]
fn a_lock_of_a_killed_holder_is_handed_over() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    for (kind, more) in [("flock", &[][..]), ("range", &["0", "10"][..])] {
        std::fs::write(here.join(kind), "content")?;
        for _ in 0..5 {
            let holder = Holder::start(kind, &there.join(kind), more)?;
            let waiter = |path: PathBuf| {
                Command::new(PROBE).arg(kind).arg(path).arg("wait").args(more).stdout(Stdio::piped()).spawn()
            };
            let (mut killed, waits) = (waiter(here.join(kind))?, waiter(here.join(kind))?);
            waits_in_line(&cluster, &killed)?;
            waits_in_line(&cluster, &waits)?;
            killed.kill()?;
            let begun = Instant::now();
            ensure!(killed.wait()?.signal() == Some(9));
            ensure!(
                begun.elapsed() < Duration::from_secs(1),
                "a killed waiter ended after {:?}",
                begun.elapsed()
            );
            drop(holder);
            let begun = Instant::now();
            let done = waits.wait_with_output()?;
            ensure!(done.stdout == b"locked\n", "the waiter got {:?}", String::from_utf8_lossy(&done.stdout));
            ensure!(begun.elapsed() < Duration::from_secs(1), "handed over after {:?}", begun.elapsed());
            ensure!(
                attempt(kind, &here.join(kind), more)? == "locked",
                "something of the killed waiter is left"
            );
        }
    }
    cluster.finish()
}

/// Two that wait for each other, on two machines: one of them is told.
#[test]
fn waiting_in_a_circle_is_refused() -> Result<()> {
    let (cluster, here, there) = two_mounts()?;
    std::fs::write(here.join("file"), "0123456789")?;
    let open = |path: PathBuf| File::options().read(true).write(true).open(path);
    let ours = open(here.join("file"))?;
    // A process that holds the second half and waits for all.
    ensure!(try_range_lock(&ours, RangeLock::Write, 0, 5)?);
    let script = "import fcntl,sys\nf=open(sys.argv[1],'r+b')\nfcntl.lockf(f,fcntl.LOCK_EX,5,5)\nprint('holds',flush=True)\nfcntl.lockf(f,fcntl.LOCK_EX,5,0)\nprint('has all',flush=True)";
    let mut other = Command::new("python3")
        .args(["-c", script])
        .arg(there.join("file"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(other.stdout.take().context("no output")?));
    ensure!(lines.next().context("it ended")?? == "holds");
    waits_in_line(&cluster, &other)?;
    let refused = range_lock(&ours, RangeLock::Write, 5, 5);
    ensure!(
        refused.as_ref().is_err_and(|e| e.raw_os_error() == Some(Errno::DEADLK.raw_os_error())),
        "{refused:?}"
    );
    // What it held it holds still; when it gives it up the other one goes on.
    ensure!(try_range_lock(&ours, RangeLock::Unlock, 0, 5)?);
    ensure!(lines.next().context("it ended")?? == "has all");
    ensure!(other.wait()?.success());
    drop(ours);
    cluster.finish()
}

/// The machine of a holder is cut off: others have its lock within 13 s, and when it is back, nothing that it writes through
/// the file with the lost lock gets anywhere; new openings do.
#[test]
fn a_holder_that_was_cut_off_is_fenced() -> Result<()> {
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("");
    let data = |n: u64| seed::bytes(n, 0, 300_000);
    let host = cluster.mounts[0].host().clone();
    let healer = host.healer()?;
    std::fs::write(here.join("file"), data(1))?;
    let held = File::options().read(true).write(true).open(there.join("file"))?;
    let free = File::create(there.join("free"))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    held.write_all_at(&data(2), 0)?;
    held.sync_all()?;
    host.cut()?;
    // Written under the lock, and on its way for ever.
    held.write_all_at(&data(3), 100_000)?;
    (&free).write_all(&data(4))?;
    let ours = File::options().read(true).write(true).open(here.join("file"))?;
    let begun = Instant::now();
    flock(&ours, FlockOperation::LockExclusive)?;
    let took = begun.elapsed();
    eprintln!("handed over {took:?} after the cut");
    ensure!(took < Duration::from_secs(13), "handed over {took:?} after the cut");
    let mut seen = vec![0; 300_000];
    ours.read_exact_at(&mut seen, 0)?;
    ensure!(seen == data(2), "what was synced under the lock is not there");
    ours.write_all_at(&data(5), 0)?;
    ours.sync_all()?;
    healer.go()?;
    // Its mount knows how long it was away: nothing is taken in from the first write on.
    for _ in 0..3 {
        ensure!(is_eio(held.write_all_at(&data(6), 0)) && is_eio(held.sync_all()) && is_eio(held.set_len(5)));
    }
    // What needs no lock goes on where it was.
    free.sync_all()?;
    ensure!(std::fs::read(here.join("free"))? == data(4));
    ours.read_exact_at(&mut seen, 0)?;
    ensure!(seen == data(5), "the old holder has written over the new one's data");
    let again = File::options().read(true).write(true).open(there.join("file"))?;
    ensure!(flock(&again, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK));
    drop(ours);
    flock(&again, FlockOperation::LockExclusive)?;
    again.write_all_at(b"mine", 0)?;
    again.sync_all()?;
    drop((again, held, free));
    let now = std::fs::read(here.join("file"))?;
    ensure!(now[..4] == *b"mine" && now[4..] == data(5)[4..] && now.len() == 300_000);
    cluster.check(true)?;
    cluster.finish()
}

const LOCK: &str = "user.brickyard.lock";
const TOKEN: &str = "user.brickyard.lock.token";
const BREAK: &str = "user.brickyard.lock.break";

fn attribute(path: &Path, name: &str) -> Result<String> {
    let mut value = vec![0; 65536];
    let length =
        getxattr(path, name, &mut value[..]).with_context(|| format!("{name} of {}", path.display()))?;
    value.truncate(length);
    Ok(String::from_utf8(value)?)
}

/// The generation of the first lock on a file.
fn generation(path: &Path) -> Result<u64> {
    let locks = attribute(path, LOCK)?;
    let first: serde_json::Value = serde_json::from_str(locks.lines().next().context("no lock")?)?;
    first["generation"].as_u64().context("no generation")
}

fn is_eio(result: std::io::Result<()>) -> bool {
    result.is_err_and(|e| e.raw_os_error() == Some(Errno::IO.raw_os_error()))
}

/// Every machine sees who holds a lock, and its number; who waits for it is shown; its owner or root breaks it, and then nothing more
/// comes through the file of who held it, while what he wrote before is there.
#[test]
fn locks_are_shown_and_broken_by_attributes() -> Result<()> {
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("a lock is lost");
    let (mine, theirs) = (here.join("file"), there.join("file"));
    std::fs::write(&mine, "content")?;
    Run::new("chmod").arg("666").arg(&mine).ok()?;
    ensure!(attribute(&mine, LOCK)?.is_empty(), "somebody holds a lock");
    ensure!(getxattr(&mine, TOKEN, &mut [0; 100][..]) == Err(Errno::NODATA));
    let held = File::options().read(true).write(true).open(&theirs)?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    let told: serde_json::Value = serde_json::from_str(&attribute(&mine, LOCK)?)?;
    ensure!(told["host"] == "mount1" && told["pid"] == std::process::id() && told["end"].is_null(), "{told}");
    ensure!(told["kind"] == "flock" && told["mode"] == "exclusive", "{told}");
    let number = generation(&mine)?;
    ensure!(attribute(&theirs, TOKEN)? == number.to_string());
    // Also a child knows it, as scripts ask; and not somebody on another machine.
    let script = "import os,sys; print(os.getxattr(sys.argv[1], 'user.brickyard.lock.token').decode())";
    let told = Run::new("python3").args(["-c", script]).arg(&theirs).ok()?.text();
    ensure!(told == number.to_string(), "{told}");
    ensure!(getxattr(&mine, TOKEN, &mut [0; 100][..]) == Err(Errno::NODATA));
    // Nobody copies them, and there are no others.
    let mut names = vec![0; 1000];
    let length = listxattr(&mine, &mut names[..])?;
    ensure!(length == 0, "listed: {:?}", String::from_utf8_lossy(&names[..length]));
    ensure!(setxattr(&mine, "user.brickyard.other", b"x", XattrFlags::empty()) == Err(Errno::PERM));
    ensure!(getxattr(&mine, "user.brickyard.other", &mut [0; 100][..]) == Err(Errno::NODATA));
    // Who waits is shown to the administrator.
    let mut waits = Command::new(PROBE).arg("flock").arg(&mine).arg("wait").stdout(Stdio::piped()).spawn()?;
    wait::until_true("it is shown that somebody waits", LIMIT, || {
        let told = cluster.admin(&["stuck"])?.arg("--json").ok()?;
        let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
        let Some(waiter) = told["lock_waiters"].get(0) else { return Ok(false) };
        let by = &waiter["by"];
        ensure!(waiter["path"] == "/file" && waiter["who"]["pid"] == waits.id(), "{told}");
        ensure!(by["generation"] == number && by["who"]["host"] == "mount1", "{told}");
        Ok(waiter["waits_ms"].as_u64().is_some_and(|ms| ms > 2500))
    })?;
    ensure!(cluster.admin(&["stuck"])?.ok()?.text().contains("exclusive flock"));
    // By whom, and which.
    let script = "import os,sys; os.setxattr(sys.argv[1], 'user.brickyard.lock.break', sys.argv[2].encode())";
    let by_nobody =
        Run::as_user(NOBODY, "python3").args(["-c", script]).arg(&mine).arg(number.to_string()).run()?;
    ensure!(by_nobody.success().is_err(), "somebody else's lock was broken by nobody");
    let order = |path: &Path, what: &str| setxattr(path, BREAK, what.as_bytes(), XattrFlags::empty());
    ensure!(order(&mine, &(number + 1).to_string()) == Err(Errno::NODATA));
    ensure!(order(&mine, "all") == Err(Errno::INVAL));
    held.write_all_at(b"before", 0)?;
    let begun = Instant::now();
    order(&mine, &number.to_string())?;
    let took = begun.elapsed();
    eprintln!("broken in {took:?}");
    ensure!(took < Duration::from_secs(2), "broken in {took:?}");
    let mut line = String::new();
    std::io::Read::read_to_string(&mut waits.stdout.take().context("no output")?, &mut line)?;
    ensure!(waits.wait()?.success() && line == "locked\n", "{line:?}");
    ensure!(is_eio(held.write_all_at(b"late", 0)) && is_eio(held.set_len(1)) && is_eio(held.sync_all()));
    ensure!(getxattr(&theirs, TOKEN, &mut [0; 100][..]) == Err(Errno::IO), "a number for who lost his lock");
    ensure!(std::fs::read(&mine)? == b"beforet");
    drop(held);
    let again = File::options().read(true).write(true).open(&theirs)?;
    flock(&again, FlockOperation::NonBlockingLockExclusive)?;
    ensure!(generation(&mine)? > number);
    again.write_all_at(b"again", 0)?;
    again.sync_all()?;
    drop(again);
    ensure!(std::fs::read(&mine)? == b"againet");
    cluster.check(true)?;
    cluster.finish()
}

/// A broken lock of a mount that does not answer is given up all the same, soon, and what that mount had under way gets nowhere.
#[test]
fn a_lock_of_a_mount_that_stands_still_is_broken() -> Result<()> {
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("");
    std::fs::write(here.join("file"), "content")?;
    let held = File::options().read(true).write(true).open(there.join("file"))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    held.write_all_at(b"gathered", 0)?;
    cluster.mounts[0].signal(Signal::STOP)?;
    let number = generation(&here.join("file"))?;
    let begun = Instant::now();
    setxattr(here.join("file"), BREAK, number.to_string().as_bytes(), XattrFlags::empty())?;
    let took = begun.elapsed();
    eprintln!("broken in {took:?}");
    ensure!(took < Duration::from_secs(5), "broken in {took:?}");
    let ours = File::options().read(true).write(true).open(here.join("file"))?;
    flock(&ours, FlockOperation::NonBlockingLockExclusive)?;
    ours.write_all_at(b"ours", 0)?;
    ours.sync_all()?;
    cluster.mounts[0].signal(Signal::CONT)?;
    wait::until_true("the old holder learns of its loss", LIMIT, || {
        Ok(is_eio(held.write_all_at(b"late", 0)))
    })?;
    ensure!(is_eio(held.sync_all()) && is_eio(held.set_len(1)));
    let mut seen = [0; 7];
    ours.read_exact_at(&mut seen, 0)?;
    // What was gathered may have arrived before: then, and only then, it is below ours.
    ensure!(seen == *b"oursent" || seen == *b"oursere", "{:?}", String::from_utf8_lossy(&seen));
    drop((held, ours));
    cluster.check(true)?;
    cluster.finish()
}

/// A machine that holds a lock, and within which time others have it when the machine is cut off.
struct Machine {
    host: Host,
    mountpoint: PathBuf,
    limit: Duration,
}

/// How often the next test does what it does; `./dev locks` asks for a hundred times.
fn rounds() -> Result<u64> {
    std::env::var("BRICKYARD_LOCK_ROUNDS").map_or(Ok(2), |text| text.parse().context("BRICKYARD_LOCK_ROUNDS"))
}

/// Round after round holders die and machines are cut off: whoever waits has the lock in time, and what the old holder writes when it is
/// back fails, and is not found in the file.
#[test]
fn locks_are_handed_over_round_after_round() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    cluster.allow_log("");
    let here = cluster.mountpoint().to_owned();
    let mut machines = Vec::new();
    for (options, seconds) in [("", 13), (",class=ha", 7)] {
        let mountpoint = cluster.add_mount_with(options)?;
        let host = cluster.mounts.last().context("no mount")?.host().clone();
        machines.push(Machine { host, mountpoint, limit: Duration::from_secs(seconds) });
    }
    let rounds = rounds()?;
    let mut longest = [Duration::ZERO; 3];
    for round in 0..rounds {
        let took =
            round_of_locks(&cluster, &here, &machines, round).with_context(|| format!("round {round}"))?;
        eprintln!("round {round}: killed {:?}, cut off {:?}, class ha {:?}", took[0], took[1], took[2]);
        longest.iter_mut().zip(took).for_each(|(longest, took)| *longest = took.max(*longest));
    }
    let [killed, cut, ha] = longest;
    eprintln!("{rounds} rounds; longest: killed {killed:?}, cut off {cut:?}, class ha {ha:?}");
    cluster.check(true)?;
    cluster.finish()
}

fn round_of_locks(
    cluster: &HostCluster,
    here: &Path,
    machines: &[Machine],
    round: u64,
) -> Result<[Duration; 3]> {
    const BYTES: usize = 200_000;
    let data = |n: u64| seed::bytes(round * 100 + n, 0, BYTES);
    let name = |n: usize| format!("round-{round}-{n}");
    // A process that dies.
    let path = name(9);
    std::fs::write(here.join(&path), "content")?;
    let holder = Holder::start("flock", &machines[0].mountpoint.join(&path), &[])?;
    let waits =
        Command::new(PROBE).arg("flock").arg(here.join(&path)).arg("wait").stdout(Stdio::piped()).spawn()?;
    waits_in_line(cluster, &waits)?;
    let begun = Instant::now();
    drop(holder);
    let done = waits.wait_with_output()?;
    let killed = begun.elapsed();
    ensure!(done.stdout == b"locked\n", "the waiter got {:?}", String::from_utf8_lossy(&done.stdout));
    ensure!(killed < Duration::from_secs(1), "handed over {killed:?} after the holder was killed");
    // Machines that are cut off, at the same time.
    let (mut holders, mut cutters) = (Vec::new(), Vec::new());
    for (n, machine) in machines.iter().enumerate() {
        std::fs::write(here.join(name(n)), data(1))?;
        let held = File::options().read(true).write(true).open(machine.mountpoint.join(name(n)))?;
        flock(&held, FlockOperation::NonBlockingLockExclusive)?;
        held.write_all_at(&data(2), 0)?;
        held.sync_all()?;
        holders.push((held, machine.host.healer()?));
        cutters.push(machine.host.cutter()?);
    }
    let waiters: Vec<_> = (0..machines.len())
        .map(|n| {
            let (path, new) = (here.join(name(n)), data(4));
            let waiter = std::thread::spawn(move || -> Result<(Instant, File, bool)> {
                let ours = File::options().read(true).write(true).open(path)?;
                flock(&ours, FlockOperation::LockExclusive)?;
                let has = Instant::now();
                let mut seen = vec![0; BYTES];
                ours.read_exact_at(&mut seen, 0)?;
                ours.write_all_at(&new, 0)?;
                ours.sync_all()?;
                Ok((has, ours, seen == seed::bytes(round * 100 + 2, 0, BYTES)))
            });
            (n, waiter)
        })
        .collect();
    let mut cuts = Vec::new();
    for ((held, _), cutter) in holders.iter().zip(cutters) {
        cutter.go()?;
        cuts.push(Instant::now());
        // Written under the lock, and on its way for ever.
        held.write_all_at(&data(3), BYTES as u64 / 2)?;
    }
    let mut took = [killed, Duration::ZERO, Duration::ZERO];
    let mut ours = Vec::new();
    for (n, waiter) in waiters {
        let (has, file, sound) = waiter.join().map_err(|_| anyhow::anyhow!("a waiter panicked"))??;
        took[n + 1] = has.saturating_duration_since(cuts[n]);
        ensure!(sound, "machine {n}: what was synced under the lock is not there, or more than that");
        ensure!(took[n + 1] < machines[n].limit, "machine {n}: handed over {:?} after the cut", took[n + 1]);
        ours.push(file);
    }
    for (n, ((held, healer), ours)) in holders.into_iter().zip(ours).enumerate() {
        healer.go()?;
        // Its mount knows how long it was away: nothing is taken in from the first write on.
        ensure!(is_eio(held.write_all_at(&data(5), 0)), "machine {n}: a write of the old holder is taken in");
        ensure!(is_eio(held.sync_all()) && is_eio(held.set_len(5)), "machine {n}");
        let mut seen = vec![0; BYTES];
        ours.read_exact_at(&mut seen, 0)?;
        ensure!(seen == data(4), "machine {n}: the old holder has written over the new one's data");
        ensure!(ours.metadata()?.len() == BYTES as u64, "machine {n}: the old holder has changed the size");
        drop((ours, held));
        // It is there again, without a new mount.
        let again = File::options().read(true).write(true).open(machines[n].mountpoint.join(name(n)))?;
        flock(&again, FlockOperation::LockExclusive)?;
        drop(again);
    }
    Ok(took)
}

/// Nobody loses a lock, or the wait for one, when the namespace's leader dies; and nobody has it twice.
#[test]
fn locks_outlast_leaders() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    for number in 0..2 {
        cluster.add_member(number)?;
    }
    for number in 0..2 {
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let there = cluster.add_mount()?;
    let here = cluster.mountpoint().to_owned();
    for (kind, more) in [("flock", &[][..]), ("range", &["0", "10"][..])] {
        let (mine, theirs) = (here.join(kind), there.join(kind));
        std::fs::write(&mine, "content")?;
        let holder = Holder::start(kind, &theirs, more)?;
        let number = generation(&mine)?;
        let waits =
            Command::new(PROBE).arg(kind).arg(&mine).arg("wait").args(more).stdout(Stdio::piped()).spawn()?;
        waits_in_line(&cluster, &waits)?;
        let killed = cluster.leader()?.name().to_owned();
        cluster.leader()?.kill9()?;
        // The new leader knows who holds it, and soon who waits.
        wait::until_true("it is shown that somebody waits", LIMIT, || {
            let told = cluster.admin(&["stuck"])?.arg("--json").ok()?;
            let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
            let waiters = told["lock_waiters"].as_array().context("no list")?;
            Ok(waiters.iter().any(|waiter| waiter["by"]["generation"] == number))
        })?;
        ensure!(generation(&mine)? == number, "another lock than before");
        ensure!(attempt(kind, &mine, more)? == "busy", "two hold one lock");
        let begun = Instant::now();
        drop(holder);
        let done = waits.wait_with_output()?;
        let took = begun.elapsed();
        ensure!(done.stdout == b"locked\n", "the waiter got {:?}", String::from_utf8_lossy(&done.stdout));
        eprintln!("{kind}: handed over {took:?} after the holder was killed, under another leader");
        ensure!(took < Duration::from_secs(1), "handed over after {took:?}");
        for process in cluster.all().into_iter().filter(|process| process.name() == killed) {
            process.start()?;
        }
    }
    cluster.check(false)?;
    cluster.allow_log("");
    cluster.finish()
}

/// The machine of a mount is gone for good: its session is ended by word, and what it had is given up at once; not that of one that lives,
/// unless that is meant, and then it goes on with a new one.
#[test]
fn a_session_is_ended_by_word() -> Result<()> {
    let (mut cluster, here, there) = two_mounts()?;
    cluster.allow_log("");
    std::fs::write(here.join("gone"), vec![1; 300_000])?;
    std::fs::write(here.join("locked"), "content")?;
    let holder = Holder::start("flock", &there.join("locked"), &[])?;
    let open = File::open(there.join("gone"))?;
    std::fs::remove_file(here.join("gone"))?;
    let kept = |cluster: &HostCluster| -> Result<_> { Ok(cluster.status()?["orphans"].as_u64()) };
    ensure!(kept(&cluster)? == Some(1), "a removed file that is open is not kept");
    let numbers = |cluster: &HostCluster| -> Result<Vec<(u64, String)>> {
        let told = cluster.admin(&["session", "list"])?.arg("--json").ok()?;
        let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
        let all = told["sessions"].as_array().context("no list")?.iter();
        all.map(|s| {
            Ok((s["id"].as_u64().context("no id")?, s["mount"].as_str().context("no mount")?.to_owned()))
        })
        .collect()
    };
    let of = |cluster: &HostCluster| -> Result<u64> {
        let there = there.display().to_string();
        numbers(cluster)?
            .into_iter()
            .find(|(_, mount)| *mount == there)
            .map(|(id, _)| id)
            .context("no session")
    };
    let session = of(&cluster)?.to_string();
    let lives = cluster.admin(&["session", "end", &session])?.run()?;
    refused("a mount that lives", &lives, &["was heard of", "--force"])?;
    let unknown = cluster.admin(&["session", "end", "4711"])?.run()?;
    refused("no session", &unknown, &["there is no session 4711"])?;
    ensure!(attempt("flock", &here.join("locked"), &[])? == "busy");
    let said = cluster.admin(&["session", "end", &session])?.arg("--force").ok()?.text();
    ensure!(said.contains("is ended") && said.contains(&there.display().to_string()), "{said}");
    ensure!(attempt("flock", &here.join("locked"), &[])? == "locked", "its lock is held still");
    wait::until_true("the removed file is freed", LIMIT, || Ok(kept(&cluster)? == Some(0)))?;
    // The mount is there, and goes on.
    drop((holder, open));
    wait::until_true("it has a new session", LIMIT, || {
        let is_taken = std::fs::write(there.join("new"), "new").is_ok();
        Ok(is_taken && of(&cluster).is_ok_and(|new| new.to_string() != session))
    })?;
    std::fs::write(there.join("new"), "newer")?;
    ensure!(std::fs::read(here.join("new"))? == b"newer");
    cluster.check(true)?;
    cluster.finish()
}
