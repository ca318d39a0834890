//! Faults of single machines in a cluster of several, and how long programs have to wait.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brickyard_tests::disks::{self, Filler, Frozen};
use brickyard_tests::hosts::BRICK_PORT;
use brickyard_tests::place::setting;
use brickyard_tests::stall::Steady;
use brickyard_tests::{HostCluster, Shape, seed, status, thrash, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// The end of a steady writer and reader: neither waited for longer than that.
fn ended_within(steady: Steady, most: Duration) -> Result<()> {
    let stalls = steady.finish()?;
    eprintln!("{stalls:?}");
    ensure!(stalls.write <= most && stalls.read <= most, "{stalls:?}, {most:?} at most");
    Ok(())
}

/// A cluster under a steady writer and reader, while `fault` happens to a brick that both use: neither waits for longer than `most`.
fn under_load(most: Duration, fault: impl FnOnce(&mut HostCluster) -> Result<()>) -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(100, LIMIT)?;
    fault(&mut cluster)?;
    steady.advance(300, LIMIT)?;
    ended_within(steady, most)?;
    cluster.check(false)?;
    cluster.allow_log("");
    cluster.finish()
}

/// A cable is pulled: silence. Nobody waits longer than 4 s.
#[test]
fn a_silent_cut_stalls_no_longer_than_four_seconds() -> Result<()> {
    under_load(Duration::from_secs(4), |cluster| cluster.bricks[1].host().cut())
}

/// Two bricks can't reach each other, though everybody else reaches both: in the chains they share one of them goes on, nobody
/// waits longer than for a brick that is cut off, `status` says what is wrong, and all is whole again when they can.
#[test]
fn bricks_that_cannot_reach_each_other_stop_nobody() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(100, LIMIT)?;
    let [one, two] = [1, 2].map(|at: usize| cluster.bricks[at].host().clone());
    one.part_from(&two)?;
    let said = |status: &Value| status["apart"].as_array().is_some_and(|pairs| !pairs.is_empty());
    wait::until_true("status says who can't reach whom", LIMIT, || Ok(said(&cluster.status()?)))?;
    let text = cluster.admin(&["status"])?.ok()?.text();
    ensure!(text.contains("can't reach each other") && !text.contains("healthy"), "{text}");
    steady.advance(600, LIMIT)?;
    one.meet(&two)?;
    cluster.wait_whole(LIMIT)?;
    steady.advance(100, LIMIT)?;
    ended_within(steady, Duration::from_secs(4))?;
    wait::until_true("status says no more of it", LIMIT, || Ok(!said(&cluster.status()?)))?;
    cluster.check(true)?;
    cluster.allow_log("reach");
    cluster.finish()
}

/// A machine with a mount can't reach one brick, though everybody else does: what it reads and writes there goes through others, nothing is
/// lost, and it is told.
#[test]
fn a_brick_out_of_reach_is_written_through_another() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(100, LIMIT)?;
    let (client, one) = (cluster.client().clone(), cluster.bricks[1].host().clone());
    client.part_from(&one)?;
    steady.advance(600, LIMIT)?;
    ensure!(cluster.status()?["health"] == "healthy", "the others reach it");
    ensure!(cluster.mount.log().warned("can't be reached from here"), "nobody is told");
    client.meet(&one)?;
    wait::until_true("it is reached again", LIMIT, || {
        steady.advance(10, LIMIT)?;
        Ok(cluster.mount.log().tail(50).contains("can be reached from here again"))
    })?;
    steady.advance(100, LIMIT)?;
    // A second until it is looked at, three until others are asked, and what calls under way take.
    ended_within(steady, Duration::from_secs(8))?;
    cluster.check(true)?;
    cluster.allow_log("reach");
    cluster.finish()
}

/// A brick's firewall lets nobody in any more, while its heartbeats go out: others go on with its chains, `status` says what is wrong, and
/// it is back when the firewall is mended.
#[test]
fn a_brick_that_nobody_can_reach_is_left_and_taken_back() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(100, LIMIT)?;
    let one = cluster.bricks[1].host().clone();
    one.close(BRICK_PORT)?;
    let note = |status: &Value| status["bricks"][1]["note"].as_str().unwrap_or_default().to_owned();
    wait::until_true("status says why it is kept out", LIMIT, || {
        Ok(note(&cluster.status()?).contains("the namespace can't reach it"))
    })?;
    steady.advance(300, LIMIT)?;
    let status = cluster.status()?;
    ensure!(status["health"] == "degraded", "{status}");
    one.open(BRICK_PORT)?;
    cluster.wait_whole(LIMIT)?;
    steady.advance(100, LIMIT)?;
    // Two seconds until somebody says that it does not answer, two until it is believed, and what it takes the brick to know it.
    ended_within(steady, Duration::from_secs(8))?;
    cluster.check(true)?;
    cluster.allow_log("reach");
    cluster.finish()
}

/// The same of one that has the only copy of something: it stays, `status` says that data can't be had, and who waits goes on when it can be
/// reached.
#[test]
fn a_brick_that_nobody_can_reach_stays_where_it_is_needed() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 1 })?;
    let one = cluster.bricks[1].host().clone();
    // So long that both bricks have a part of it.
    let (path, data) = (cluster.mountpoint().join("file"), seed::bytes(1, 0, 40 << 20));
    std::fs::write(&path, &data)?;
    one.close(BRICK_PORT)?;
    let waiting = std::thread::spawn({
        let (path, data) = (path.clone(), seed::bytes(2, 0, 40 << 20));
        move || std::fs::write(&path, data).and_then(|()| File::open(&path)?.sync_all())
    });
    wait::until_true("status says that data can't be had", LIMIT, || {
        let status = cluster.status()?;
        let note = status["bricks"][1]["note"].as_str().unwrap_or_default();
        ensure!(status["bricks"][1]["state"] == "alive", "{status}");
        Ok(status["health"] == "unavailable" && note.contains("though it is heard: check its firewall"))
    })?;
    one.open(BRICK_PORT)?;
    waiting.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&path)? == seed::bytes(2, 0, 40 << 20), "what was written reads wrong");
    cluster.check(true)?;
    cluster.allow_log("could not commit in the background");
    cluster.allow_log("reach");
    cluster.finish()
}

/// A brick hears nothing of the namespace alone, to which its heartbeats go: a file is cut all the same, and what is written behind the cut
/// stays.
#[test]
fn a_brick_that_the_namespace_cannot_reach_holds_up_no_cut() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let there = cluster.add_mount()?;
    let (brick, namespace) = (cluster.bricks[1].host().clone(), cluster.namespace.host().clone());
    let file =
        File::options().read(true).write(true).create_new(true).open(cluster.mountpoint().join("file"))?;
    file.write_all_at(&seed::bytes(1, 0, 24 << 20), 0)?;
    file.sync_all()?;
    brick.close_to(BRICK_PORT, &namespace)?;
    let begun = Instant::now();
    file.set_len(4096)?;
    let took = begun.elapsed();
    eprintln!("cut in {took:?}");
    ensure!(took < Duration::from_secs(15), "cut in {took:?}");
    let mut model = vec![0; 24 << 20];
    model[..4096].copy_from_slice(&seed::bytes(1, 0, 4096));
    for at in (1..24).map(|mib: usize| mib << 20) {
        let piece = seed::bytes(2, at as u64, 65536);
        file.write_all_at(&piece, at as u64)?;
        model[at..at + 65536].copy_from_slice(&piece);
    }
    model.truncate((23 << 20) + 65536);
    file.sync_all()?;
    let right = || -> Result<()> {
        for path in [cluster.mountpoint().join("file"), there.join("file")] {
            ensure!(std::fs::read(&path)? == model, "{} reads wrong", path.display());
        }
        Ok(())
    };
    right()?;
    brick.open(BRICK_PORT)?;
    cluster.wait_whole(LIMIT)?;
    right()?;
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}

/// A brick is cut off from the namespace alone, while files are cut and grow again: it serves on for a while and has what the others have
/// cut, and could give it back to them. What was cut reads as zeros, on every machine, for good.
#[test]
fn what_was_cut_does_not_come_back() -> Result<()> {
    const WHOLE: usize = 12 << 20;
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let stop = AtomicBool::new(false);
    let work = |number: u64| -> Result<u64> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(cluster.mountpoint().join(format!("cut{number}")))?;
        let mut model = vec![0; WHOLE];
        file.set_len(WHOLE as u64)?;
        let (mut rounds, mut random) = (0, seed::Rng::new(number));
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..10 {
                let at = random.below((WHOLE - 65536) as u64) as usize;
                let bytes = seed::bytes(rounds, at as u64, 65536);
                file.write_all_at(&bytes, at as u64)?;
                model[at..at + 65536].copy_from_slice(&bytes);
            }
            file.sync_all()?;
            let cut = random.below(WHOLE as u64);
            file.set_len(cut)?;
            file.set_len(WHOLE as u64)?;
            model[cut as usize..].fill(0);
            file.sync_all()?;
            let mut read = vec![1; WHOLE];
            file.read_exact_at(&mut read, 0)?;
            let wrong = read.iter().zip(&model).position(|(read, written)| read != written);
            ensure!(wrong.is_none(), "file {number}, round {rounds}, cut at {cut}: byte {wrong:?} is wrong");
            rounds += 1;
        }
        Ok(rounds)
    };
    let namespace = cluster.namespace.host().clone();
    let rounds: Vec<u64> = std::thread::scope(|scope| -> Result<_> {
        let workers: Vec<_> = (0..4).map(|number| scope.spawn(move || work(number))).collect();
        let faults = || -> Result<()> {
            for brick in 0..4 {
                let host = cluster.bricks[brick].host();
                host.part_from(&namespace)?;
                wait::until_true("the brick is given up", LIMIT, || {
                    Ok(cluster.status()?["bricks"][brick]["state"] == "dead")
                })?;
                host.meet(&namespace)?;
                cluster.wait_whole(LIMIT)?;
            }
            Ok(())
        };
        let done = faults();
        stop.store(true, Ordering::Relaxed);
        let joined =
            workers.into_iter().map(|w| w.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?);
        let rounds = joined.collect::<Result<Vec<_>>>()?;
        done.map(|()| rounds)
    })?;
    ensure!(rounds.iter().all(|rounds| *rounds > 5), "{rounds:?}");
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}

/// A process is killed. Nobody waits longer than a second.
#[test]
fn a_killed_brick_stalls_no_longer_than_a_second() -> Result<()> {
    under_load(Duration::from_secs(1), |cluster| cluster.bricks[1].kill9())
}

/// Somebody takes every byte of one brick's disk, as fast as the brick finds any: others take over before
/// anybody waits for longer than 4 s, and the brick is back when there is room.
#[test]
fn a_full_disk_stops_nothing_but_new_space_there() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 4, replicas: 2 })?;
    for number in 0..4 {
        disks::give(&cluster, number, 1024)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let steady = Steady::start(cluster.mountpoint())?;
    // From its second time through the file on, the writer needs no new space.
    steady.advance(Steady::STEPS + 10, LIMIT)?;
    let mut filler = Filler::fill(&cluster.brick_dir(1))?;
    // On a full disk it starts in the room it has set aside.
    cluster.bricks[1].kill9()?;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    wait::until_true("the full brick leaves its chains to others", LIMIT, || {
        filler.take_the_rest()?;
        steady.advance(5, LIMIT)?;
        Ok(cluster.bricks[1].log().warned("the disk is full: there is no room to commit"))
    })?;
    steady.advance(300, LIMIT)?;
    filler.remove()?;
    cluster.wait_whole(LIMIT)?;
    steady.advance(100, LIMIT)?;
    ended_within(steady, Duration::from_secs(4))?;
    cluster.check(true)?;
    for words in ["full", "process has ended"] {
        cluster.allow_log(words);
    }
    cluster.finish()
}

/// The kernel turns a brick's disk read-only: others take over before anybody waits for longer than 4 s, and `status` says why. The
/// brick lets go of the disk, so that it can be unmounted and checked, and is back when it is mounted again, without a restart.
#[test]
fn a_disk_that_turned_read_only_is_left_and_taken_back() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 4, replicas: 2 })?;
    for number in 0..4 {
        disks::give(&cluster, number, 1024)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(100, LIMIT)?;
    disks::turn_read_only(&cluster, 1)?;
    let says = |words: &str| -> Result<bool> {
        let status = cluster.status()?;
        let failed = |brick: &Value| brick["state"] == "failed" && brick["note"].to_string().contains(words);
        Ok(status["bricks"].as_array().context("no bricks")?.iter().any(failed))
    };
    wait::until_true("status says why", LIMIT, || says("Read-only file system"))?;
    // Whatever is still open on it is about to be closed.
    wait::until_true("the brick tried to open it again", LIMIT, || says("not opened again"))?;
    steady.advance(300, LIMIT)?;
    disks::mend(&cluster, 1)?;
    cluster.wait_whole(LIMIT)?;
    steady.advance(100, LIMIT)?;
    ended_within(steady, Duration::from_secs(4))?;
    cluster.check(true)?;
    // Whoever calls the brick meanwhile has something to say, too.
    cluster.allow_log("");
    cluster.finish()
}

/// What the bricks have sent each other to make copies equal, in bytes.
/// The disk of one of two hangs and says nothing: after some seconds the other one goes on alone, `status` says why, and when the
/// disk answers again it is taken back by itself. Where nobody else is left, it is waited for, and nothing is lost either.
#[test]
fn a_disk_that_hangs_is_left_and_taken_back() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    for number in 0..2 {
        disks::give(&cluster, number, 512)?;
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let note = |cluster: &HostCluster| -> Result<String> {
        Ok(cluster.status()?["bricks"][0]["note"].as_str().unwrap_or_default().to_owned())
    };
    let steady = Steady::start(cluster.mountpoint())?;
    steady.advance(20, LIMIT)?;
    let frozen = Frozen::freeze(&cluster, 0)?;
    // Well below the minute after which programs are told of an error.
    steady.advance(1, Duration::from_secs(20))?;
    wait::until_true("the status says why", LIMIT, || {
        Ok(note(&cluster)?.contains("its disk has not answered for"))
    })?;
    steady.advance(100, LIMIT)?;
    drop(frozen);
    cluster.wait_whole(LIMIT)?;
    steady.advance(20, LIMIT)?;
    ended_within(steady, Duration::from_secs(20))?;
    cluster.check(true)?;

    cluster.bricks[1].stop()?;
    let path = cluster.mountpoint().join("alone");
    std::fs::write(&path, vec![1; 300_000])?;
    File::open(&path)?.sync_all()?;
    let frozen = Frozen::freeze(&cluster, 0)?;
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || std::fs::write(&path, vec![2; 300_000]).and_then(|()| File::open(&path)?.sync_all())
    });
    wait::until_true("the status says what is waited for", LIMIT, || {
        let note = note(&cluster)?;
        Ok(note.contains("its disk has not answered for") || note.contains("nobody else has all data"))
    })?;
    drop(frozen);
    waiting.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&path)? == vec![2; 300_000], "what was written while the disk hung reads wrong");
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}

fn resynced(cluster: &HostCluster) -> Result<u64> {
    let mut sum = 0;
    for brick in &cluster.bricks {
        let page = format!(
            "exec 3<>/dev/tcp/{}/9100; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3",
            brick.host().address()
        );
        let text = cluster.client().run("bash").args(["-c", &page]).ok()?.text();
        let line = text.lines().find(|line| line.starts_with("brickyard_brick_resync_bytes"));
        let value = line.and_then(|line| line.split_whitespace().last()).with_context(|| text.clone())?;
        sum += value.parse::<u64>()?;
    }
    Ok(sum)
}

/// A machine was away while a file was written to here and there: of the file's chunks travel the parts that differ, at most twice the
/// bytes that changed, though the writer goes on meanwhile.
#[test]
fn a_member_that_was_away_gets_what_changed() -> Result<()> {
    const STEP: usize = 64 << 10;
    const STEPS: u64 = 2048;
    const AWAY: Duration = Duration::from_secs(60);
    let mut cluster = HostCluster::prepare_with_bricks(Shape { bricks: 2, replicas: 2 })?;
    for number in 0..2 {
        let dir = cluster.brick_dir(number);
        let brick = &mut cluster.bricks[number];
        brick.stop()?;
        let metrics = format!("{}:9100", brick.host().address());
        let args =
            ["brick".as_ref(), "--dir".as_ref(), dir.as_os_str(), "--metrics".as_ref(), metrics.as_ref()];
        brick.set_args(args.map(OsStr::to_owned).to_vec());
        brick.start()?;
    }
    cluster.start_mount()?;
    let path = cluster.mountpoint().join("file");
    let file = File::create(&path)?;
    let mut versions = vec![0; STEPS as usize];
    let write =
        |step: u64, version: u64| file.write_all_at(&seed::bytes(version, step, STEP), step * STEP as u64);
    for step in 0..STEPS {
        write(step, 0)?;
    }
    file.sync_all()?;
    cluster.wait_whole(LIMIT)?;
    let before = resynced(&cluster)?;
    // Scattered, some of them twice, each one durable.
    let mut turn = 0u64;
    let mut some = |versions: &mut Vec<u64>| -> Result<u64> {
        turn += 1;
        let step = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (STEPS / 4);
        versions[step as usize] = turn;
        write(step, turn)?;
        file.sync_data()?;
        Ok(step)
    };
    cluster.bricks[1].host().cut()?;
    let begun = Instant::now();
    let mut changed = BTreeSet::new();
    while begun.elapsed() < AWAY {
        changed.insert(some(&mut versions)?);
    }
    cluster.bricks[1].host().heal()?;
    wait::until_true("it is up to date again while the writer goes on", LIMIT, || {
        some(&mut versions)?;
        status::all_whole(&cluster.status()?)
    })?;
    let (moved, changed) = (resynced(&cluster)? - before, changed.len() as u64 * STEP as u64);
    eprintln!("{changed} bytes changed in {} s, {moved} bytes moved", AWAY.as_secs());
    ensure!(moved > 0 && moved <= 2 * changed, "{changed} bytes changed, {moved} bytes moved");
    drop(file);
    let content = std::fs::read(&path)?;
    for (step, version) in (0..STEPS).zip(versions) {
        let at = step as usize * STEP;
        ensure!(content[at..at + STEP] == seed::bytes(version, step, STEP), "wrong bytes in step {step}");
    }
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}

/// A short thrashing; `./dev thrash` does it for longer.
#[test]
fn a_short_thrashing_loses_nothing() -> Result<()> {
    let seconds = setting("BRICKYARD_THRASH_SECONDS", 60)?;
    let report = thrash::run(Duration::from_secs(seconds), seed::of_this_run()?, &[])?;
    eprintln!("{report:?}");
    ensure!(report.faults.values().sum::<u64>() >= 3, "hardly anything went wrong: {report:?}");
    ensure!(report.rounds.values().all(|rounds| *rounds > 0), "a program did nothing: {report:?}");
    ensure!(report.promises_kept > 0);
    Ok(())
}

/// A disk is lost, and replaced only when others have long taken its brick's chains over: the procedure is the
/// same, the brick comes back empty and gets its share when that is asked for; files are whole all the time.
#[test]
fn a_disk_replaced_late_gets_its_share_when_asked() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    cluster.allow_log("");
    let file = cluster.mountpoint().join("file");
    let bytes = seed::bytes(23, 0, 60_000_000);
    std::fs::write(&file, &bytes)?;
    File::open(&file)?.sync_all()?;
    cluster.admin(&["brick", "settings"])?.args(["--repair-after", "3s"]).ok()?;
    let number = cluster.status()?["bricks"][1]["id"].as_u64().context("a brick without a number")?;
    let brick = |cluster: &HostCluster| -> Result<Value> {
        let status = cluster.status()?;
        let bricks = status["bricks"].as_array().context("no bricks")?;
        bricks.iter().find(|brick| brick["id"].as_u64() == Some(number)).cloned().context("the brick is gone")
    };
    let dir = cluster.brick_dir(1);
    cluster.bricks[1].kill9()?;
    std::fs::rename(&dir, cluster.workshop().path().join("lost"))?;
    std::fs::create_dir(&dir)?;
    wait::until_true("others have its chains", LIMIT, || Ok(brick(&cluster)?["chains"] == 0))?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&file)? == bytes, "reads wrong from the others");

    let host = cluster.bricks[1].host().clone();
    let token = cluster.token("brick", &[])?;
    let mut args: Vec<std::ffi::OsString> = vec!["brick".into(), "--dir".into(), dir.into()];
    args.extend(cluster.join_args(&host, &token));
    args.extend(["--replace".into(), number.to_string().into()]);
    cluster.bricks[1].set_args(args);
    cluster.bricks[1].start()?;
    wait::until_true("it is back", LIMIT, || Ok(brick(&cluster)?["state"] == "alive"))?;
    cluster.admin(&["brick", "rebalance"])?.arg("--wait").limit(LIMIT).ok()?;
    ensure!(brick(&cluster)?["chains"].as_u64() > Some(0), "it has got nothing: {}", brick(&cluster)?);
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&file)? == bytes, "reads wrong after its share came back");
    cluster.check(true)?;
    cluster.finish()
}

/// The only brick that had everything is lost for good and given up: what another one has is served again, and everything that is
/// written from then on is kept. Until then the check says that nobody serves it.
#[test]
fn what_was_given_up_is_served_from_what_is_left() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    cluster.allow_log("");
    let root = cluster.mountpoint().to_owned();
    let store = |name: &str, n: u64| -> Result<Vec<u8>> {
        let bytes = seed::bytes(n, 0, 5_000_000);
        std::fs::write(root.join(name), &bytes)?;
        File::open(root.join(name))?.sync_all()?;
        Ok(bytes)
    };
    let old = store("old", 1)?;
    cluster.bricks[0].kill9()?;
    store("new", 2)?;
    cluster.bricks[1].kill9()?;
    let number = cluster.status()?["bricks"][1]["id"].to_string();
    let dir = cluster.brick_dir(1);
    std::fs::rename(&dir, cluster.workshop().path().join("lost"))?;
    std::fs::create_dir(&dir)?;
    cluster.bricks[0].start()?;
    let checked = cluster.admin(&["check"])?.run()?;
    ensure!(
        checked.status.code() == Some(1) && checked.text().contains("nobody serves chain"),
        "{}",
        checked.text()
    );

    let host = cluster.bricks[1].host().clone();
    let token = cluster.token("brick", &[])?;
    let mut args: Vec<std::ffi::OsString> = vec!["brick".into(), "--dir".into(), dir.into()];
    args.extend(cluster.join_args(&host, &token));
    args.extend(["--replace".into(), number.into()]);
    let refused = host.run(brickyard_tests::cluster::binary()?).args(&args).limit(LIMIT).run()?;
    ensure!(refused.error_text().contains("--lose-data"), "{}", refused.error_text());
    args.push("--lose-data".into());
    cluster.bricks[1].set_args(args);
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(root.join("old"))? == old, "what the other one had reads wrong");
    // What only the lost one had is gone; reading it ends.
    std::fs::read(root.join("new"))?;
    let again = store("again", 3)?;
    ensure!(std::fs::read(root.join("again"))? == again);
    cluster.check(true)?;
    cluster.finish()
}
