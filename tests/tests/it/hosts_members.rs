//! A namespace of three members, each on a host of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::hosts::Process;
use brickyard_tests::{HostCluster, Shape, wait};

const LIMIT: Duration = Duration::from_secs(120);

/// Makes and renames directories; knows what was acknowledged and the longest wait.
struct Names {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration>>,
}

impl Names {
    fn start(dir: &Path) -> Names {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (dir, stop_too, count_too) = (dir.to_owned(), stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stop_too.load(Ordering::SeqCst) {
                let number = count_too.load(Ordering::SeqCst);
                let begun = Instant::now();
                fs::create_dir(dir.join(format!("new-{number}")))
                    .with_context(|| format!("directory {number}"))?;
                fs::rename(dir.join(format!("new-{number}")), dir.join(format!("d-{number}")))
                    .with_context(|| format!("renaming {number}"))?;
                fs::write(dir.join("file"), number.to_string()).context("the file")?;
                ensure!(fs::read_to_string(dir.join("file"))? == number.to_string());
                longest = longest.max(begun.elapsed());
                count_too.fetch_add(1, Ordering::SeqCst);
            }
            Ok(longest)
        });
        Names { stop, count, thread }
    }

    fn advance(&self, steps: u64) -> Result<()> {
        let goal = self.count.load(Ordering::SeqCst) + steps;
        wait::until_true("names are made", LIMIT, || {
            ensure!(!self.thread.is_finished(), "the load has ended");
            Ok(self.count.load(Ordering::SeqCst) >= goal)
        })
    }

    /// How many were made, and the longest time for one.
    fn finish(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::SeqCst);
        let longest = self.thread.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        Ok((self.count.load(Ordering::SeqCst), longest))
    }
}

/// One member grows to three while it serves. Each that leads is killed under a load from a mount: nothing
/// that was acknowledged is lost, and nobody waits longer than 3 s.
#[test]
fn a_killed_leader_stalls_no_longer_than_three_seconds() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    for number in 0..2 {
        cluster.add_member(number)?;
    }
    for number in 0..2 {
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let dir = cluster.mountpoint().join("names");
    fs::create_dir(&dir)?;
    let names = Names::start(&dir);
    names.advance(20)?;
    for _ in 0..3 {
        let killed = cluster.leader()?.name().to_owned();
        cluster.leader()?.kill9()?;
        names.advance(20)?;
        let mut all = cluster.all();
        all.iter_mut().find(|process| process.name() == killed).context("it is gone")?.start()?;
        names.advance(20)?;
    }
    let (made, longest) = names.finish()?;
    eprintln!("{made} names, the longest took {longest:?}");
    ensure!(longest <= Duration::from_secs(3), "somebody waited for {longest:?}");
    for number in 0..made {
        ensure!(dir.join(format!("d-{number}")).is_dir(), "directory {number} is lost");
    }
    ensure!(fs::read_dir(&dir)?.count() as u64 == made + 1, "there is more than was made");
    ensure!(cluster.member_list()?.len() == 3);
    cluster.check(false)?;
    cluster.allow_log("");
    cluster.finish()
}

/// The administrator's page on members, step by step under a load: another one leads, one is lost and replaced by
/// a new one, and of two of three lost, the one that is left becomes a cluster of one with everything in it.
#[test]
fn members_are_replaced_and_the_last_one_goes_on() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    for number in 0..2 {
        cluster.add_member(number)?;
    }
    for number in 0..2 {
        cluster.add_brick(number)?;
    }
    cluster.start_mount()?;
    let dir = cluster.mountpoint().join("names");
    fs::create_dir(&dir)?;
    let names = Names::start(&dir);
    names.advance(20)?;
    let first = address(&cluster.namespace);
    let lost = address(&cluster.members[1]);
    cluster.admin(&["namespace", "lead", &first])?.ok()?;
    ensure!(address(cluster.leader()?) == first, "another one leads");
    let refused = cluster.admin(&["namespace", "remove", &first])?.run()?;
    ensure!(!refused.status.success() && refused.error_text().contains("it leads"), "{refused:?}");
    names.advance(20)?;
    cluster.members[1].kill9()?;
    names.advance(20)?;
    cluster.admin(&["namespace", "remove", &lost])?.ok()?;
    cluster.members.pop();
    cluster.add_member(2)?;
    names.advance(20)?;
    let now = cluster.member_list()?;
    ensure!(now.len() == 3 && now.iter().all(|member| member["votes"] == true), "{now:?}");
    let (made, _) = names.finish()?;

    cluster.members.iter_mut().try_for_each(Process::kill9)?;
    let told = wait::until("the last one knows that it is alone", LIMIT, || {
        let told = cluster.admin(&["namespace", "list"])?.ok()?.text();
        Ok(told.contains("no member leads").then_some(told))
    })?;
    ensure!(told.contains("nothing can be read or changed"), "{told}");
    let refused = cluster.admin(&["status"])?.run()?;
    ensure!(!refused.status.success(), "{refused:?}");
    ensure!(refused.error_text().contains("most members of the namespace cannot be reached"), "{refused:?}");
    cluster.namespace.stop()?;
    let place = cluster.workshop().path().join("namespace");
    let recover =
        || cluster.client().run(binary()?).args(["namespace", "recover", "--dir"]).arg(&place).run();
    ensure!(!recover()?.status.success(), "it does not ask whether the others are lost");
    let run = cluster.client().run(binary()?).args(["namespace", "recover", "--dir"]).arg(&place);
    run.arg("--others-are-lost").ok()?;
    cluster.namespace.start()?;
    cluster.members.clear();
    wait::until_true("the mount goes on", LIMIT, || Ok(fs::create_dir(dir.join("after")).is_ok()))?;
    for number in 0..made {
        ensure!(dir.join(format!("d-{number}")).is_dir(), "directory {number} is lost");
    }
    ensure!(cluster.member_list()?.len() == 1);
    cluster.wait_whole(LIMIT)?;
    cluster.check(false)?;
    cluster.allow_log("");
    cluster.finish()
}

/// Where a member answers.
fn address(process: &Process) -> String {
    format!("{}:7000", process.host().address())
}
