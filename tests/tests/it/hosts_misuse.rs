//! Mistakes with tokens, directories and clocks on several machines: one clear line each, nothing damaged.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::disks;
use brickyard_tests::hosts::{BRICK_PORT, Process};
use brickyard_tests::netns::Host;
use brickyard_tests::{HostCluster, Run, Shape, seed, tree, wait};
use rustix::process::Signal;

use crate::bad_input::refused;

const LIMIT: Duration = Duration::from_secs(60);

/// `brickyard brick` on a host; it must end by itself.
pub fn brick(host: &Host, dir: &Path, more: Vec<OsString>) -> Result<Run> {
    Ok(host.run(binary()?).args(["brick", "--dir"]).arg(dir).args(more).limit(LIMIT))
}

/// Everything in a directory but who holds it.
fn content(dir: &Path) -> Result<std::collections::BTreeMap<std::path::PathBuf, tree::Entry>> {
    let mut list = tree::list(dir)?;
    list.retain(|path, entry| {
        entry.mtime_ns = 0;
        !path.ends_with("lock")
    });
    Ok(list)
}

/// Tokens that are garbage, damaged, for something else, used, expired, or another cluster's. None makes
/// a brick of the directory, none harms the cluster, and the right one still works.
#[test]
fn wrong_tokens_are_refused() -> Result<()> {
    let mut cluster = HostCluster::prepare_with_bricks(Shape { bricks: 2, replicas: 2 })?;
    let other = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    let host = cluster.new_host()?;
    let dir = cluster.workshop().path().join("new");
    let good = cluster.token("brick", &[])?;
    let damaged = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { "1" } else { "0" });
    let id = |cluster: &HostCluster| -> Result<String> {
        Ok(cluster.status()?["cluster"].as_str().context("no cluster id")?.to_owned())
    };
    let (ours, theirs) = (id(&cluster)?, id(&other)?);
    for (what, token, words) in [
        ("garbage", "letmein".to_owned(), vec!["token"]),
        ("a damaged token", damaged, vec!["damaged"]),
        ("a client's token", cluster.token("client", &[])?, vec!["role client"]),
        ("another cluster's token", other.token("brick", &[])?, vec![&ours, &theirs]),
    ] {
        let done = brick(&host, &dir, cluster.join_args(&host, &token))?.run()?;
        refused(what, &done, &words)?;
        ensure!(!done.error_text().contains(&token), "{what}: the token is in the log");
    }

    // Time passes the hour that a token lives; then the clock is set back.
    let old = cluster.token("brick", &["--ttl", "1h"])?;
    for offset in ["7200", "0"] {
        cluster.namespace.stop()?;
        cluster.namespace.set_env("BRICKYARD_TEST_CLOCK_OFFSET_S", offset);
        cluster.namespace.start()?;
        let done = brick(&host, &dir, cluster.join_args(&host, &old))?.run()?;
        refused("an expired token", &done, &["expired"])?;
    }
    ensure!(!dir.exists(), "a wrong token made a directory");

    // One that is fine, once; directories that can't be used don't use it up.
    let good = cluster.token("brick", &[])?;
    let full = cluster.workshop().dir("full")?;
    std::fs::write(full.join("thesis.tex"), "years of work")?;
    let done = brick(&host, &full, cluster.join_args(&host, &good))?.run()?;
    refused("a directory with something in it", &done, &["thesis.tex"])?;
    ensure!(std::fs::read_dir(&full)?.count() == 1, "something was made beside it");
    let unmounted = cluster.workshop().path().join("disk");
    let done = brick(&host, &unmounted.join("brick"), cluster.join_args(&host, &good))?.run()?;
    let words = [&format!("{} does not exist", unmounted.display()), "mount the disk that belongs there"];
    refused("a disk that is not mounted", &done, &words)?;
    ensure!(!unmounted.exists(), "something was made where a disk belongs");
    let mut args: Vec<OsString> = vec!["brick".into(), "--dir".into(), dir.clone().into()];
    args.extend(cluster.join_args(&host, &good));
    let mut third = Process::new("third", &host, &binary()?, args);
    third.start()?;
    let again = cluster.workshop().path().join("again");
    let host = cluster.new_host()?;
    refused(
        "a used token",
        &brick(&host, &again, cluster.join_args(&host, &good))?.run()?,
        &["used already"],
    )?;

    let names = cluster.status()?["bricks"].as_array().context("no bricks")?.len();
    ensure!(names == 3, "{names} bricks");
    third.stop()?;
    other.finish()?;
    cluster.finish()
}

/// Directories: of another cluster, in use, of a newer format, of a lost disk. Each is refused and left as
/// it was; a lost disk's place is taken by a new one when that is said.
#[test]
fn wrong_directories_are_refused() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    let file = cluster.mountpoint().join("file");
    let bytes = seed::bytes(21, 0, 20_000_000);
    std::fs::write(&file, &bytes)?;
    std::fs::File::open(&file)?.sync_all()?;

    let mut other = HostCluster::prepare_with_bricks(Shape { bricks: 1, replicas: 1 })?;
    other.bricks[0].stop()?;
    let foreign = cluster.workshop().path().join("foreign");
    Run::new("cp").arg("-a").arg(other.brick_dir(0)).arg(&foreign).ok()?;
    let before = content(&foreign)?;
    let host = cluster.new_host()?;
    let token = cluster.token("brick", &[])?;
    let done = brick(&host, &foreign, cluster.join_args(&host, &token))?.run()?;
    refused("a brick of another cluster", &done, &["belongs to cluster"])?;
    // Also where it is simply started, and asks the namespace of the wrong cluster.
    let done = brick(&host, &foreign, Vec::new())?.run()?;
    refused("a brick of another cluster", &done, &["another cluster"])?;
    tree::ensure_same(&before, &content(&foreign)?)?;
    other.finish()?;

    let done = brick(&host, &cluster.brick_dir(0), Vec::new())?.run()?;
    refused("a directory in use", &done, &[&cluster.bricks[0].pid()?.to_string()])?;
    let done =
        host.run(binary()?).args(["namespace", "--dir"]).arg(cluster.workshop().path().join("namespace"));
    let pid = cluster.namespace.pid()?.to_string();
    refused("a namespace in use", &done.limit(LIMIT).run()?, &[&pid])?;

    // A format from the future.
    cluster.bricks[1].stop()?;
    let identity = cluster.brick_dir(1).join("brick.json");
    let text = std::fs::read_to_string(&identity)?;
    let mut newer: serde_json::Value = serde_json::from_str(&text)?;
    newer["format"] = 4711.into();
    std::fs::write(&identity, newer.to_string())?;
    let before = content(&cluster.brick_dir(1))?;
    refused("a newer format", &brick(&host, &cluster.brick_dir(1), Vec::new())?.run()?, &["4711"])?;
    tree::ensure_same(&before, &content(&cluster.brick_dir(1))?)?;
    std::fs::write(&identity, text)?;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    cluster.finish()?;
    Ok(())
}

/// The disk of a brick was replaced: the empty directory is not taken for the old brick, nor made a new
/// one unasked; told to take the old one's place, it is filled from the copies.
#[test]
fn a_replaced_empty_disk_is_not_taken_for_the_old_one() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    let file = cluster.mountpoint().join("file");
    let bytes = seed::bytes(22, 0, 30_000_000);
    std::fs::write(&file, &bytes)?;
    std::fs::File::open(&file)?.sync_all()?;
    let host = cluster.bricks[1].host().clone();
    let number = cluster.status()?["bricks"][1]["id"].to_string();
    let token = cluster.token("brick", &[])?;
    let mut join = cluster.join_args(&host, &token);
    join.extend(["--replace".into(), number.clone().into()]);
    // While the old one lives, nobody takes its place, and its own directory is none for a new disk.
    let dir = cluster.brick_dir(1);
    let mut prepare = join.clone();
    prepare.push("--prepare".into());
    let words = [&format!("{} is brick {number} already", dir.display()), "give an empty or new one"];
    refused("a living brick's directory", &brick(&host, &dir, prepare)?.run()?, &words)?;
    let spare = cluster.workshop().path().join("spare");
    let words = ["alive", "the token is used up, and ", "server.cred does instead of it"];
    refused("a living brick's place", &brick(&host, &spare, join.clone())?.run()?, &words)?;
    let left: Vec<_> = std::fs::read_dir(spare.join("node"))?.collect::<std::io::Result<_>>()?;
    ensure!(
        left.len() == 1 && std::fs::read_dir(&spare)?.count() == 1,
        "more than the credential is left: {left:?}"
    );
    let unknown = join.iter().map(|arg| if *arg == *number { "77".into() } else { arg.clone() }).collect();
    refused("an unknown brick's place", &brick(&host, &spare, unknown)?.run()?, &["no brick 77"])?;
    std::fs::remove_dir_all(&spare)?;

    cluster.bricks[1].stop()?;
    std::fs::rename(&dir, cluster.workshop().path().join("old"))?;
    std::fs::create_dir(&dir)?;
    let done = brick(&host, &dir, Vec::new())?.run()?;
    refused("an empty disk", &done, &["holds no brick: its disk may not be mounted", "--replace"])?;
    ensure!(std::fs::read_dir(&dir)?.count() == 0, "something was made in it");
    ensure!(std::fs::read(&file)? == bytes, "not readable from the copies");

    let token = cluster.token("brick", &[])?;
    let mut args: Vec<OsString> = vec!["brick".into(), "--dir".into(), dir.into()];
    args.extend(cluster.join_args(&host, &token));
    args.extend(["--replace".into(), number.into()]);
    cluster.bricks[1].set_args(args);
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&file)? == bytes, "reads wrong after the disk was replaced");

    // The old disk is no brick any more, wherever it is put, also while the new one is away.
    cluster.allow_log("not let in");
    let old = cluster.workshop().path().join("old");
    replaced_disk_ends(&mut cluster, &old)?;
    status_tells(&cluster, 1, &["a disk at ", "another one has taken its place", "start the right one"])?;
    ensure!(std::fs::read(&file)? == bytes, "reads wrong beside the old disk");
    cluster.wait_whole(LIMIT)?;
    cluster.bricks[1].stop()?;
    let plain = vec!["brick".into(), "--dir".into(), cluster.brick_dir(1).into()];
    cluster.bricks[1].set_args(plain);
    replaced_disk_ends(&mut cluster, &old)?;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&file)? == bytes, "reads wrong after the old disk was there");
    cluster.check(true)?;
    cluster.finish()
}

/// The service of a disk that another one has taken the place of: it says so, and ends for good.
fn replaced_disk_ends(cluster: &mut HostCluster, dir: &Path) -> Result<()> {
    let host = cluster.new_host()?;
    let listen = std::net::SocketAddr::new(host.address(), BRICK_PORT);
    let done = brick(&host, dir, vec!["--listen".into(), listen.to_string().into()])?.run()?;
    let words = ["is not brick 1 any more", "another disk has taken its place", "salvage", "join anew"];
    refused("a replaced disk", &done, &words)?;
    ensure!(done.status.code() == Some(78), "{}", done.status);
    Ok(())
}

/// A disk that is too full for a new brick: nothing is made, no token used up and no number given for it; with room the same
/// command makes the brick.
#[test]
fn a_full_disk_gets_no_brick() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    disks::give(&cluster, 0, 100)?;
    let filler = cluster.brick_dir(0).join("filler");
    Run::new("fallocate").args(["-l", "70M"]).arg(&filler).ok()?;
    let host = cluster.new_host()?;
    let dir = cluster.brick_dir(0).join("brick");
    let mut args = cluster.join_args(&host, &cluster.token("brick", &[])?);
    args.push("--prepare".into());
    let words = ["too little room for a brick", "MiB are free", "40 MiB", "make room"];
    refused("a full disk", &brick(&host, &dir, args.clone())?.run()?, &words)?;
    ensure!(!dir.exists(), "something was made");
    ensure!(cluster.status()?["bricks"].as_array().is_some_and(Vec::is_empty), "a number was given");
    std::fs::remove_file(&filler)?;
    let done = brick(&host, &dir, args)?.ok()?;
    ensure!(done.text().contains("brick 0 is in"), "{}", done.text());
    cluster.finish()
}

/// A brick whose index is damaged: what is said to help does. Its files come off it without the index, and it is made
/// anew from the copies.
#[test]
fn a_damaged_index_is_told_with_what_helps() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    let file = cluster.mountpoint().join("file");
    let bytes = seed::bytes(23, 0, 20_000_000);
    std::fs::write(&file, &bytes)?;
    std::fs::File::open(&file)?.sync_all()?;
    let hints = cluster.brick_dir(1).join("hints");
    wait::until_true("the brick knows the name", LIMIT, || {
        Ok(std::fs::read_to_string(&hints)?.contains("/file"))
    })?;
    let number = cluster.status()?["bricks"][1]["id"].to_string();
    cluster.bricks[1].stop()?;
    let host = cluster.bricks[1].host().clone();
    let dir = cluster.brick_dir(1);
    std::fs::write(dir.join("index/CURRENT"), "nonsense")?;
    let words = ["index", "--replace` in an empty directory", "brickyard salvage"];
    refused("a damaged index", &brick(&host, &dir, Vec::new())?.run()?, &words)?;

    let out = cluster.workshop().path().join("salvaged");
    let done = Run::new(binary()?).arg("salvage").arg(&dir).arg("--out").arg(&out).run()?;
    ensure!(
        std::fs::read(out.join("file"))? == bytes,
        "salvaged wrong: {}{}",
        done.text(),
        done.error_text()
    );
    let anew = cluster.workshop().path().join("anew");
    let mut args: Vec<OsString> = vec!["brick".into(), "--dir".into(), anew.into()];
    args.extend(cluster.join_args(&host, &cluster.token("brick", &[])?));
    args.extend(["--replace".into(), number.into()]);
    cluster.bricks[1].set_args(args);
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    cluster.check(true)?;
    cluster.finish()
}

/// A brick's directory, started on another host; returns when it says why it is not let in.
pub fn not_let_in(cluster: &mut HostCluster, name: &str, dir: &Path, why: &str) -> Result<Process> {
    let host = cluster.new_host()?;
    let listen = std::net::SocketAddr::new(host.address(), BRICK_PORT);
    let args = ["brick", "--listen", &listen.to_string(), "--dir"].map(OsString::from);
    let args = args.into_iter().chain([dir.into()]).collect();
    let mut stray = Process::new(name, &host, &binary()?, args);
    let ready = stray.spawn()?;
    wait::until_true("it is not let in", LIMIT, || {
        ensure!(stray.runs(), "it has ended:\n{}", stray.log().tail(5));
        Ok(stray.log().tail(20).contains(why))
    })?;
    ensure!(ready.try_recv().is_err(), "it says that it is ready");
    Ok(stray)
}

/// Waits until `status` says in the note of a brick that somebody is not let in, with all of these words; or, without
/// words, until it does so no more.
pub fn status_tells(cluster: &HostCluster, brick: usize, words: &[&str]) -> Result<()> {
    let mut note = String::new();
    wait::until_true("status tells who is not let in", LIMIT, || {
        let status = cluster.status()?;
        note = status["bricks"][brick]["note"].as_str().context("no note")?.to_owned();
        let refused = status["bricks"][brick]["refused"].as_array().context("no list of refusals")?.len();
        ensure!((refused > 0) == note.contains("is not let in"), "{refused} refused, and: {note}");
        Ok(words.iter().all(|word| note.contains(word)) && (refused > 0) != words.is_empty())
    })
    .with_context(|| format!("{words:?}: {note}"))
}

/// A brick that others can't reach, since a firewall of its machine lets nobody in, gets no chains: it is told, and let in when
/// it can be reached.
#[test]
fn a_brick_that_nobody_reaches_is_not_let_in() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    cluster.allow_log("reach");
    cluster.bricks[0].stop()?;
    let host = cluster.bricks[0].host().clone();
    host.close(BRICK_PORT)?;
    let ready = cluster.bricks[0].spawn()?;
    status_tells(&cluster, 0, &["the namespace can't reach it there", "firewalls"])?;
    ensure!(cluster.bricks[0].log().tail(20).contains("check --listen"), "its log does not say so");
    // Everything goes on meanwhile.
    std::fs::write(cluster.mountpoint().join("file"), [7; 100_000])?;
    ensure!(ready.try_recv().is_err(), "it says that it is ready");
    host.open(BRICK_PORT)?;
    status_tells(&cluster, 0, &[])?;
    cluster.wait_whole(LIMIT)?;
    cluster.finish()
}

/// A copy of a brick's directory is not let in while the brick lives, and disturbs it in nothing.
#[test]
fn a_copy_of_a_brick_is_not_let_in() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    cluster.allow_log("not let in");
    let file = cluster.mountpoint().join("file");
    let write = |n: u64| -> Result<Vec<u8>> {
        let bytes = seed::bytes(n, 0, 3_000_000);
        std::fs::write(&file, &bytes)?;
        std::fs::File::open(&file)?.sync_all()?;
        Ok(bytes)
    };
    write(1)?;
    cluster.bricks[1].stop()?;
    let copy = cluster.workshop().path().join("copy");
    Run::new("cp").args(["-a"]).arg(cluster.brick_dir(1)).arg(&copy).ok()?;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    let bytes = write(2)?;
    let epochs = cluster.status()?["map_epoch"].clone();
    let stray = not_let_in(&mut cluster, "copy", &copy, "another process is heard as this brick")?;
    let until = std::time::Instant::now() + Duration::from_secs(4);
    while std::time::Instant::now() < until {
        ensure!(std::fs::read(&file)? == bytes, "reads wrong beside a copy");
    }
    ensure!(cluster.status()?["map_epoch"] == epochs, "the copy changed something");
    let place = format!("a second process at tls://{}:7100 on ", stray.host().address());
    status_tells(&cluster, 1, &[&place, "the first one is heard; stop it", "is a copy, remove that"])?;
    drop(stray);
    status_tells(&cluster, 1, &[])?;
    cluster.check(true)?;
    cluster.finish()
}

/// A brick's disk is set back to what it was a life ago, when it is the only one that has everything: it is not let in, also by
/// a namespace that has restarted, and serves nothing old; its real disk goes on, and nothing is lost.
#[test]
fn a_disk_that_was_set_back_is_not_let_in() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    let file = cluster.mountpoint().join("results");
    let write = |version: u8| -> Result<()> {
        std::fs::write(&file, vec![version; 100_000])?;
        Ok(std::fs::File::open(&file)?.sync_all()?)
    };
    write(1)?;
    let (dir, old, real) =
        (cluster.brick_dir(0), cluster.workshop().path().join("old"), cluster.workshop().path().join("real"));
    cluster.bricks[0].stop()?;
    Run::new("cp").arg("-a").arg(&dir).arg(&old).ok()?;
    cluster.bricks[0].start()?;
    cluster.wait_whole(LIMIT)?;
    // From here on what is written is on brick 0 alone.
    cluster.bricks[1].stop()?;
    write(2)?;
    cluster.bricks[0].stop()?;
    std::fs::rename(&dir, &real)?;
    std::fs::rename(&old, &dir)?;
    let set_back = "this disk was set back to an earlier state";
    let mut brick = not_let_in(&mut cluster, "set back", &dir, set_back)?;
    brick.kill9()?;
    cluster.namespace.stop()?;
    cluster.namespace.start()?;
    let mut brick = not_let_in(&mut cluster, "set back again", &dir, set_back)?;
    let place = format!("the disk at tls://{}:7100 on ", brick.host().address());
    let words = [&place, "it was set back to an earlier state; put the right disk back", "--replace 0"];
    status_tells(&cluster, 0, &words)?;
    brick.kill9()?;
    std::fs::remove_dir_all(&dir)?;
    std::fs::rename(&real, &dir)?;
    cluster.bricks[0].start()?;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    status_tells(&cluster, 0, &[])?;
    ensure!(std::fs::read(&file)? == vec![2; 100_000], "the file is not what it was");
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}

/// The same of a disk that is set back within one life, of which it knows: what was committed since is known, also to a namespace
/// that has restarted.
#[test]
fn a_disk_that_was_set_back_within_a_life_is_not_let_in() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 1, replicas: 1 })?;
    let mountpoint = cluster.mountpoint().to_owned();
    let file = |number: u8| mountpoint.join(format!("file-{number}"));
    let write = |number: u8| -> Result<()> {
        std::fs::write(file(number), vec![number; 100_000])?;
        Ok(std::fs::File::open(file(number))?.sync_all()?)
    };
    write(1)?;
    // All of it at one moment, as a snapshot has it.
    let old = cluster.workshop().path().join("old");
    cluster.bricks[0].signal(Signal::STOP)?;
    Run::new("cp").arg("-a").arg(cluster.brick_dir(0)).arg(&old).ok()?;
    cluster.bricks[0].signal(Signal::CONT)?;
    write(2)?;
    write(3)?;
    // Who tells of the last file tells that the one before was committed.
    wait::until_true("the namespace has heard of it", LIMIT, || {
        Ok(cluster.status()?["bricks"][0]["chunks"] == 3)
    })?;
    cluster.bricks[0].stop()?;
    let set_back = "this disk was set back to an earlier state";
    let mut brick = not_let_in(&mut cluster, "set back", &old, set_back)?;
    brick.kill9()?;
    cluster.namespace.stop()?;
    cluster.namespace.start()?;
    let mut brick = not_let_in(&mut cluster, "set back again", &old, set_back)?;
    brick.kill9()?;
    cluster.bricks[0].start()?;
    cluster.wait_whole(LIMIT)?;
    for number in 1..=3 {
        ensure!(std::fs::read(file(number))? == vec![number; 100_000], "file {number} is not what it was");
    }
    cluster.check(true)?;
    // The right disk is lost. What the old one has is better than nothing: somebody says so.
    let alive = cluster.admin(&["brick", "take-back", "0"])?.run()?;
    refused("one that is alive", &alive, &["brick 0 is alive: nothing keeps it out"])?;
    cluster.bricks[0].stop()?;
    let mut brick = not_let_in(&mut cluster, "the last one", &old, set_back)?;
    status_tells(&cluster, 0, &["brick take-back 0"])?;
    cluster.admin(&["brick", "take-back", "0"])?.ok()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(file(1))? == vec![1; 100_000], "file 1 is not what it was");
    write(4)?;
    brick.stop()?;
    // It is the right disk now.
    brick.start()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(file(4))? == vec![4; 100_000], "file 4 is not what it was");
    brick.stop()?;
    cluster.allow_log("");
    cluster.finish()
}

/// A disk that is set back to what it was before the brick's first start, empty, is not let in either.
#[test]
fn a_disk_that_was_set_back_to_its_beginning_is_not_let_in() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    let host = cluster.new_host()?;
    let (dir, old, real) =
        (cluster.brick_dir(0), cluster.workshop().path().join("old"), cluster.workshop().path().join("real"));
    let mut args = cluster.join_args(&host, &cluster.token("brick", &[])?);
    args.push("--prepare".into());
    brick(&host, &dir, args)?.ok()?;
    Run::new("cp").arg("-a").arg(&dir).arg(&old).ok()?;
    let args = vec!["brick".into(), "--dir".into(), dir.clone().into()];
    cluster.bricks.push(Process::new("brick0", &host, &binary()?, args));
    cluster.bricks[0].start()?;
    cluster.start_mount()?;
    let file = cluster.mountpoint().join("results");
    let bytes = seed::bytes(24, 0, 100_000);
    std::fs::write(&file, &bytes)?;
    std::fs::File::open(&file)?.sync_all()?;
    cluster.bricks[0].stop()?;
    std::fs::rename(&dir, &real)?;
    std::fs::rename(&old, &dir)?;
    let mut empty = not_let_in(&mut cluster, "empty", &dir, "this disk was set back to an earlier state")?;
    empty.kill9()?;
    std::fs::remove_dir_all(&dir)?;
    std::fs::rename(&real, &dir)?;
    cluster.bricks[0].start()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&file)? == bytes, "the file is not what it was");
    cluster.check(true)?;
    cluster.allow_log("");
    cluster.finish()
}

/// The names are gone: that is said, and no empty filesystem is made in their place.
#[test]
fn a_member_that_lost_its_state_does_not_start() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    cluster.namespace.stop()?;
    let dir = cluster.workshop().path().join("namespace");
    let aside = cluster.workshop().path().join("aside");
    for part in ["state", "state/db"] {
        std::fs::rename(dir.join(part), &aside)?;
        let host = cluster.namespace.host();
        let done = host.run(binary()?).args(["namespace", "--dir"]).arg(&dir).limit(LIMIT).run()?;
        refused("a lost state", &done, &["state", "backup"])?;
        ensure!(!dir.join(part).exists(), "{part} was made anew");
        std::fs::rename(&aside, dir.join(part))?;
    }
    // All of it: an empty place where the disk should be, and none at all.
    let start =
        || cluster.namespace.host().run(binary()?).args(["namespace", "--dir"]).arg(&dir).limit(LIMIT).run();
    std::fs::rename(&dir, &aside)?;
    refused("a lost directory", &start()?, &["holds no namespace member", "backup", "right disk"])?;
    ensure!(!dir.exists(), "the directory was made anew");
    std::fs::create_dir(&dir)?;
    refused("an empty directory", &start()?, &["holds no namespace member", "backup", "right disk"])?;
    std::fs::remove_dir(&dir)?;
    std::fs::rename(&aside, &dir)?;
    // Who it is can't be read any more.
    let identity = dir.join("member.json");
    let text = std::fs::read_to_string(&identity)?;
    std::fs::write(&identity, &text[..text.len() / 2])?;
    refused("a damaged identity", &start()?, &["member.json is damaged", "backup", "--join"])?;
    std::fs::write(&identity, text)?;
    cluster.namespace.start()?;
    cluster.finish()
}

/// A credential or the authority is gone, or is something else: the file is named, once, and what to do, which for a brick
/// is done here: it joins again and is the same brick.
#[test]
fn lost_credentials_are_told_with_what_to_do() -> Result<()> {
    let mut cluster = HostCluster::prepare_with_bricks(Shape { bricks: 1, replicas: 1 })?;
    cluster.namespace.stop()?;
    cluster.bricks[0].stop()?;
    let (names, dir) = (cluster.workshop().path().join("namespace"), cluster.brick_dir(0));
    let aside = cluster.workshop().path().join("aside");
    let credential = dir.join("node/server.cred");
    for (role, dir, file, words) in [
        ("namespace", &names, names.join("ca.pem"), ["put its backup back", "--join"]),
        ("namespace", &names, names.join("server.cred"), ["put its backup back", "--join"]),
        ("brick", &dir, credential.clone(), ["put its backup back", "--token"]),
    ] {
        std::fs::rename(&file, &aside)?;
        for content in [None, Some(""), Some("garbage"), Some("a directory")] {
            match content {
                None => {}
                Some("a directory") => std::fs::create_dir(&file)?,
                Some(text) => std::fs::write(&file, text)?,
            }
            let run = cluster.client().run(binary()?).args([role, "--dir"]).arg(dir).limit(LIMIT);
            let (what, done) = (format!("{} with {content:?}", file.display()), run.run()?);
            refused(&what, &done, &words)?;
            refused(&what, &done, &[&file.display().to_string()])?;
            for echo in ["(os error", "first line"] {
                ensure!(done.error_text().matches(echo).count() < 2, "{what}: {}", done.error_text());
            }
            match content {
                None => {}
                Some("a directory") => std::fs::remove_dir(&file)?,
                Some(_) => std::fs::remove_file(&file)?,
            }
        }
        std::fs::rename(&aside, &file)?;
    }
    cluster.namespace.start()?;
    std::fs::remove_file(&credential)?;
    let mut args: Vec<OsString> = vec!["brick".into(), "--dir".into(), dir.into()];
    let host = cluster.bricks[0].host().clone();
    args.extend(cluster.join_args(&host, &cluster.token("brick", &[])?));
    cluster.bricks[0].set_args(args);
    ensure!(cluster.bricks[0].start()?.contains("brick 0 "), "another brick");
    cluster.wait_whole(LIMIT)?;
    cluster.finish()
}

/// A brick that was removed from the cluster is not waited for: its server says so and ends, with an exit code of its own.
#[test]
fn the_server_of_a_removed_brick_ends() -> Result<()> {
    let mut cluster = HostCluster::prepare_with_bricks(Shape { bricks: 1, replicas: 1 })?;
    cluster.wait_whole(LIMIT)?;
    let host = cluster.new_host()?;
    let dir = cluster.workshop().path().join("spare");
    let mut args = cluster.join_args(&host, &cluster.token("brick", &[])?);
    args.push("--prepare".into());
    brick(&host, &dir, args)?.ok()?;
    cluster.admin(&["brick", "remove", "1"])?.ok()?;
    let done = brick(&host, &dir, Vec::new())?.run()?;
    refused(
        "a removed brick",
        &done,
        &["removed from the cluster: brick 1", "other bricks have what it held", "join anew"],
    )?;
    ensure!(!done.error_text().contains("salvage"), "there is nothing to salvage: {}", done.error_text());
    ensure!(done.status.code() == Some(78), "{}", done.status);
    cluster.wait_whole(LIMIT)?;
    cluster.finish()
}

/// What a mount made for itself, its log and the place of its credential with the directories above, goes when it is refused;
/// what was there before stays.
#[test]
fn a_refused_mount_leaves_nothing() -> Result<()> {
    let cluster = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    let (place, token) = (cluster.workshop().dir("place")?, cluster.token("brick", &[])?);
    let mount = |log: &str| -> Result<_> {
        let at = place.display();
        let options = format!("log={at}/{log},cred={at}/new/deep/client.cred,wait=5,token={token}");
        let run =
            cluster.client().run(binary()?).arg("mount").arg(format!("{}:/", cluster.namespace_address()));
        run.arg(cluster.mountpoint()).args(["-o", &options]).limit(LIMIT).run()
    };
    refused("a brick's token", &mount("none/x/mount.log")?, &["role brick"])?;
    ensure!(std::fs::read_dir(&place)?.count() == 0, "something is left");
    std::fs::write(place.join("mount.log"), "of yesterday\n")?;
    refused("a brick's token", &mount("mount.log")?, &["role brick"])?;
    ensure!(std::fs::read_dir(&place)?.count() == 1, "something is left");
    ensure!(
        std::fs::read_to_string(place.join("mount.log"))?.starts_with("of yesterday\n"),
        "the log is another one"
    );
    cluster.finish()
}

/// Commands that make no sense, each for its own reason.
#[test]
fn wrong_commands_are_refused() -> Result<()> {
    let cluster = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    let host = cluster.client();
    let namespace = cluster.workshop().path().join("namespace");
    let empty = cluster.workshop().dir("empty")?;
    let run =
        |line: String| -> Result<_> { host.run(binary()?).args(line.split_whitespace()).limit(LIMIT).run() };
    let (namespace, empty) = (namespace.display().to_string(), empty.display().to_string());
    let address = cluster.namespace_address();
    for (line, words) in [
        (format!("init --dir {namespace} --listen 10.77.0.9:7000"), vec!["already"]),
        (format!("init --dir {empty} --listen 0.0.0.0:7000"), vec!["0.0.0.0"]),
        (format!("init --dir {empty} --listen 10.77.0.9:0"), vec!["--listen"]),
        (format!("init --dir {empty} --listen 10.77.0.9:1 --replicas 3 --bricks 2"), vec!["--bricks 3"]),
        (format!("namespace --dir {empty}"), vec!["init"]),
        (format!("namespace --dir {empty} --join {address}"), vec!["--listen"]),
        (format!("namespace --dir {empty} --listen 10.77.0.9:1 --join {address}"), vec!["--token"]),
        (format!("namespace --dir {namespace} --listen 10.77.0.9:7000"), vec!["10.77.0.1:7000"]),
        (format!("brick --dir {empty}"), vec!["holds no brick"]),
        (format!("brick --dir {empty} --listen 10.77.0.9:1 --join {address}"), vec!["--token"]),
        (format!("token --cred {namespace}/admin.cred admin"), vec!["administrators"]),
        (
            format!("token --cred {namespace}/server.cred brick"),
            vec!["role namespace", "not permitted for this role"],
        ),
        (format!("token --cred {namespace}/nothing brick"), vec!["nothing"]),
        (format!("brick scrub 99 --cred {namespace}/admin.cred"), vec!["there is no brick 99", "brick list"]),
        (
            format!("brick settings --repair-after 5 --cred {namespace}/admin.cred"),
            vec!["--repair-after", "s, m, h or d", "2h or 1d"],
        ),
        (format!("mount {address}:/ {empty} -f -o frobnicate"), vec!["frobnicate"]),
        (format!("mount {address}:/ {empty}/none -f -o cred=/none"), vec!["does not exist"]),
        (format!("mount {address}:/ {empty} -f -o cred=/nonsense/file"), vec!["/nonsense/file"]),
        (format!("mount {address}:/ {empty} -f -o cred={namespace}/server.cred"), vec!["role namespace"]),
    ] {
        let done = run(line.clone())?;
        refused(&line, &done, &words)?;
        ensure!(done.error_text().matches("not permitted").count() < 2, "{line}: {}", done.error_text());
    }
    ensure!(std::fs::read_dir(&empty)?.count() == 0, "a refused command left something behind");
    cluster.finish()
}
