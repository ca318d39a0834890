//! Watching a directory that others change: two mounts, a namespace of three members.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use brickyard_tests::{HostCluster, Shape, wait};
use rustix::process::Signal;
use serde_json::Value;

use crate::watch::Watch;

const LIMIT: Duration = Duration::from_secs(120);

/// The listing that lines give.
fn replay(lines: &[Value]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in lines {
        let name = line["name"].as_str().unwrap_or("?").to_owned();
        match line["what"].as_str().unwrap_or("?") {
            "create" | "mkdir" | "rename_to" => {
                names.insert(name);
            }
            "unlink" | "rmdir" | "rename_from" => {
                names.remove(&name);
            }
            _ => {}
        }
    }
    names
}

/// One mount watches what another one changes, while each leader is killed: every change is told once, in order, and soon;
/// the lines give the listing. Who begins again from any line is told the rest.
#[test]
fn changes_of_other_mounts_are_told_over_leaders() -> Result<()> {
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
    fs::create_dir(here.join("d"))?;
    let watch = Watch::start(&here.join("d"), &["--since", "0"])?;
    // What is acknowledged on one machine is told on the other at once.
    let mut all = Vec::new();
    for number in 0..20 {
        fs::create_dir(there.join(format!("d/now-{number}")))?;
        let begun = Instant::now();
        let line = watch.next()?;
        ensure!(line["name"] == format!("now-{number}"), "{line}");
        ensure!(begun.elapsed() < Duration::from_secs(1), "told after {:?}", begun.elapsed());
        all.push(line);
    }
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = {
        let (stop, count, dir) = (stop.clone(), count.clone(), there.join("d"));
        std::thread::spawn(move || -> Result<u64> {
            while !stop.load(Ordering::SeqCst) {
                let number = count.load(Ordering::SeqCst);
                fs::create_dir(dir.join(format!("new-{number}")))?;
                fs::rename(dir.join(format!("new-{number}")), dir.join(format!("old-{number}")))?;
                if number % 3 == 0 {
                    fs::remove_dir(dir.join(format!("old-{number}")))?;
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(count.load(Ordering::SeqCst))
        })
    };
    let advance = || {
        let goal = count.load(Ordering::SeqCst) + 20;
        wait::until_true("names are made", LIMIT, || {
            ensure!(!load.is_finished(), "the load has ended");
            Ok(count.load(Ordering::SeqCst) >= goal)
        })
    };
    for _ in 0..3 {
        advance()?;
        let killed = cluster.leader()?.name().to_owned();
        cluster.leader()?.kill9()?;
        advance()?;
        for process in cluster.all().into_iter().filter(|process| process.name() == killed) {
            process.start()?;
        }
    }
    advance()?;
    stop.store(true, Ordering::SeqCst);
    let made = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    fs::create_dir(there.join("d/the-last"))?;
    while all.last().is_none_or(|line| line["name"] != "the-last") {
        all.push(watch.next()?);
    }
    ensure!(watch.end(Signal::TERM)?.is_empty(), "something was told after the last change");
    let indexes: Vec<u64> = all.iter().filter_map(|line| line["index"].as_u64()).collect();
    ensure!(indexes.len() == all.len() && indexes.is_sorted_by(|a, b| a < b), "{indexes:?}");
    // mkdir, two of a rename, and a third of rmdir: nothing is missing, nothing doubled.
    let expected = 20 + made * 3 + made.div_ceil(3) + 1;
    ensure!(all.len() as u64 == expected, "{} lines of {expected}", all.len());
    let listed = fs::read_dir(here.join("d"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<BTreeSet<String>>>()?;
    ensure!(replay(&all) == listed, "the lines do not give the listing");
    for at in [0, 1, all.len() / 2, all.len() - 2] {
        let again = Watch::start(&there.join("d"), &["--since", &indexes[at].to_string()])?;
        for line in &all[at + 1..] {
            ensure!(again.next()? == *line, "told differently the second time");
        }
        ensure!(again.end(Signal::INT)?.is_empty());
    }
    cluster.check(false)?;
    cluster.allow_log("");
    cluster.finish()
}

/// Nobody leads for a while: readers wait on, one that is killed ends at once, and who still waits is told
/// what happens afterwards.
#[test]
fn readers_outlast_the_namespace() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    let there = cluster.add_mount()?;
    let here = cluster.mountpoint().to_owned();
    fs::create_dir(here.join("d"))?;
    let (stays, ends) = (Watch::start(&here.join("d"), &[])?, Watch::start(&here.join("d"), &[])?);
    let begins = |watch: &Watch| -> Result<()> {
        wait::until_true("it watches", LIMIT, || {
            let made = there.join("d/made");
            fs::create_dir(&made)?;
            fs::remove_dir(&made)?;
            watch.try_next()
        })
    };
    begins(&stays)?;
    begins(&ends)?;
    cluster.namespace.kill9()?;
    ends.end(Signal::TERM)?;
    cluster.namespace.start()?;
    wait::until_true("the mount goes on", LIMIT, || Ok(fs::create_dir(there.join("d/after")).is_ok()))?;
    let told = wait::until("what happened afterwards", LIMIT, || {
        let line = stays.next()?;
        Ok((line["name"] == "after").then_some(line))
    })?;
    ensure!(told["what"] == "mkdir");
    cluster.allow_log("");
    cluster.finish()
}
