//! Disks that another one has taken the place of, or that are to take one's place.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::disks::{self, Frozen};
use brickyard_tests::hosts::{BRICK_PORT, Process};
use brickyard_tests::{HostCluster, Shape, wait};

use crate::bad_input::refused;
use crate::hosts_misuse::{brick, not_let_in, status_tells};

const LIMIT: Duration = Duration::from_secs(60);

/// One server of two bricks: when one of them is removed or replaced, that is said, and the other one is served on; when both
/// are, the server ends.
#[test]
fn a_brick_that_is_over_leaves_the_others_of_its_server() -> Result<()> {
    let mut cluster = HostCluster::prepare_with_bricks(Shape { bricks: 2, replicas: 2 })?;
    for words in ["other bricks go on", "not let in"] {
        cluster.allow_log(words);
    }
    let host = cluster.new_host()?;
    let at = |name: &str| cluster.workshop().path().join(name);
    let (first, second, third) = (at("first"), at("second"), at("third"));
    let two = |more: Vec<OsString>| -> Vec<OsString> {
        let dirs =
            ["brick".into(), "--dir".into(), first.clone().into(), "--dir".into(), second.clone().into()];
        dirs.into_iter().chain(more).collect()
    };
    let join = cluster.join_args(&host, &cluster.token("brick", &[])?);
    let mut server = Process::new("server", &host, &binary()?, two(join));
    ensure!(server.start()?.contains("bricks 2, 3 at"), "other numbers");
    server.set_args(two(Vec::new()));
    cluster.admin(&["brick", "drain", "2", "--wait"])?.ok()?;
    cluster.admin(&["brick", "remove", "2"])?.ok()?;
    let said = "removed from the cluster: brick 2. The other bricks have what it held";
    wait::until_true("it says that brick 2 is over", LIMIT, || {
        Ok(server.log().tail(20).contains(said) && server.log().tail(20).contains("other bricks go on"))
    })?;
    let is_alive = |cluster: &HostCluster| -> Result<bool> {
        let status = cluster.status()?;
        let bricks = status["bricks"].as_array().context("no bricks")?;
        Ok(bricks.iter().any(|b| b["id"] == 3 && b["state"] == "alive"))
    };
    ensure!(is_alive(&cluster)?, "the other one is not served any more");
    server.stop()?;
    // The same after a restart: it is ready with what is left.
    ensure!(server.start()?.contains("brick 3 at"), "it does not say what it serves");
    ensure!(is_alive(&cluster)?, "the other one is not served any more");
    server.stop()?;

    let host3 = cluster.new_host()?;
    let mut args: Vec<OsString> = vec!["brick".into(), "--dir".into(), third.into()];
    args.extend(cluster.join_args(&host3, &cluster.token("brick", &[])?));
    args.extend(["--replace".into(), "3".into()]);
    let mut other = Process::new("other", &host3, &binary()?, args);
    other.start()?;
    let done = brick(&host, &first, vec!["--dir".into(), second.into()])?.run()?;
    let words = ["removed from the cluster: brick 2", "is not brick 3 any more", "join anew"];
    refused("a server without bricks", &done, &words)?;
    ensure!(done.status.code() == Some(78), "{}", done.status);
    cluster.wait_whole(LIMIT)?;
    other.stop()?;
    cluster.finish()
}

/// The old disk comes back after the new one was prepared, and is then the only one with everything: the new one does not take
/// its place, the old one goes on, and with the data given up the new one does.
#[test]
fn a_replacement_is_judged_again_when_it_comes_up() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    cluster.allow_log("");
    let file = cluster.mountpoint().join("file");
    let write = |version: u8| -> Result<()> {
        std::fs::write(&file, vec![version; 3_000_000])?;
        Ok(std::fs::File::open(&file)?.sync_all()?)
    };
    write(1)?;
    cluster.bricks[0].stop()?;
    let host = cluster.new_host()?;
    let dir = cluster.workshop().path().join("new");
    let mut args = cluster.join_args(&host, &cluster.token("brick", &["--uses", "2"])?);
    args.extend(["--prepare".into(), "--replace".into(), "0".into()]);
    brick(&host, &dir, args.clone())?.ok()?;

    // The old disk is not lost after all, and what is written then is on it alone.
    cluster.bricks[0].start()?;
    cluster.wait_whole(LIMIT)?;
    cluster.bricks[1].stop()?;
    write(2)?;
    cluster.bricks[0].stop()?;
    let mut new = not_let_in(
        &mut cluster,
        "new",
        &dir,
        "nobody but the disk that this one is to replace has all data",
    )?;
    status_tells(&cluster, 0, &["the new disk at ", "bring that one back", "--replace 0 --lose-data"])?;
    new.kill9()?;
    cluster.bricks[0].start()?;
    cluster.bricks[1].start()?;
    cluster.wait_whole(LIMIT)?;
    ensure!(std::fs::read(&file)? == vec![2; 3_000_000], "what the old disk had is lost");

    cluster.bricks[1].stop()?;
    write(3)?;
    cluster.bricks[0].stop()?;
    std::fs::remove_dir_all(&dir)?;
    refused(
        "the last disk's place",
        &brick(&host, &dir, args.clone())?.run()?,
        &["nobody else has", "--lose-data"],
    )?;
    args.push("--lose-data".into());
    brick(&host, &dir, args)?.ok()?;
    let mut new = Process::new("new", &host, &binary()?, vec!["brick".into(), "--dir".into(), dir.into()]);
    cluster.bricks[1].start()?;
    new.start()?;
    cluster.wait_whole(LIMIT)?;
    // What the other one lacked is gone; reading ends, and what is written from now on stays.
    std::fs::read(&file)?;
    write(4)?;
    ensure!(std::fs::read(&file)? == vec![4; 3_000_000], "what was written since reads wrong");
    new.stop()?;
    cluster.finish()
}

/// One server of six bricks. Directories that can't be read, are not there or are in use are told of and served as soon as they
/// can be; of a newer format one is told once. The others are served meanwhile, and where nothing can be, the server ends.
#[test]
fn a_directory_that_cannot_be_served_keeps_no_other_from_it() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    let host = cluster.new_host()?;
    let dirs: Vec<PathBuf> = (0..6).map(|number| cluster.brick_dir(number)).collect();
    let args = |more: Vec<OsString>| -> Vec<OsString> {
        let each = dirs.iter().flat_map(|dir| ["--dir".into(), dir.clone().into()]);
        [OsString::from("brick")].into_iter().chain(each).chain(more).collect()
    };
    let join = cluster.join_args(&host, &cluster.token("brick", &[])?);
    let mut server = Process::new("server", &host, &binary()?, args(join));
    ensure!(server.start()?.contains("bricks 0, 1, 2, 3, 4, 5 at"), "other numbers");
    server.set_args(args(Vec::new()));
    server.stop()?;

    let identity = |number: usize, name: &str| dirs[number].join(name);
    let good = std::fs::read(identity(1, "brick.json"))?;
    for name in ["brick.json", "brick.json.copy"] {
        std::fs::write(identity(1, name), "{")?;
    }
    let away = cluster.workshop().path().join("away");
    std::fs::rename(&dirs[2], &away)?;
    std::fs::create_dir(&dirs[2])?;
    let newer = String::from_utf8(std::fs::read(identity(3, "brick.json"))?)?;
    let newer = newer.replace("\"format\": 2", "\"format\": 4711");
    std::fs::write(identity(3, "brick.json"), newer)?;
    let part = cluster.workshop().path().join("part");
    std::fs::rename(identity(5, "data.0"), &part)?;
    let own = ["brick".into(), "--dir".into(), dirs[4].clone().into(), "--listen".into()];
    let other = cluster.new_host()?;
    let listen = std::net::SocketAddr::new(other.address(), BRICK_PORT).to_string();
    let mut holder =
        Process::new("holder", &other, &binary()?, own.into_iter().chain([listen.into()]).collect());
    holder.start()?;

    let ready = server.start()?;
    ensure!(ready.contains("brick 0 at") && ready.contains("not served, the log says why: "), "{ready}");
    for words in [
        "brick.json is damaged",
        "holds no brick: its disk may not be mounted",
        "has format 4711",
        &format!("is in use by process {}", holder.pid()?),
        "this server's other bricks go on, and it is not tried again",
        "this server's other bricks go on, and it is tried again",
    ] {
        ensure!(server.log().tail(20).contains(words), "{words:?} is not told:\n{}", server.log().tail(20));
    }
    ensure!(std::fs::read_dir(&dirs[2])?.count() == 0, "something was made where no disk is mounted");
    wait::until_true("status says why", LIMIT, || {
        let status = cluster.status()?;
        let bricks = status["bricks"].as_array().context("no bricks")?;
        let note = |id: u32| bricks.iter().find(|b| b["id"] == id).and_then(|b| b["note"].as_str());
        ensure!(!note(4).is_some_and(|note| note.contains("in use")), "it is served elsewhere: {status}");
        Ok(note(5).is_some_and(|note| note.contains("data.0 is missing")))
    })?;

    std::fs::write(identity(1, "brick.json"), good)?;
    std::fs::remove_dir(&dirs[2])?;
    std::fs::rename(&away, &dirs[2])?;
    std::fs::rename(&part, identity(5, "data.0"))?;
    holder.stop()?;
    wait::until_true("the server has its bricks again", LIMIT, || {
        let status = cluster.status()?;
        let bricks = status["bricks"].as_array().context("no bricks")?;
        Ok([0, 1, 2, 4, 5]
            .iter()
            .all(|brick| bricks.iter().any(|b| b["id"] == *brick && b["state"] == "alive")))
    })?;
    let said = server.log().tail(40);
    ensure!(said.matches("holds no brick").count() == 1, "it is told again and again:\n{said}");
    server.stop()?;

    // Nothing is left to serve.
    std::fs::write(identity(0, "brick.json"), std::fs::read(identity(3, "brick.json"))?)?;
    let done = brick(&host, &dirs[0], vec!["--dir".into(), dirs[3].clone().into()])?.run()?;
    let words =
        [&format!("{} has format 4711", dirs[0].display()), "; and ", &format!("{} has", dirs[3].display())];
    refused("directories none of which is any good", &done, &words)?;
    cluster.finish()
}

/// A server of two bricks starts while the disk of one of them hangs: the other one is served, it is told why this one is not, and it is
/// served when its disk answers. Alone, it is waited for.
#[test]
fn a_disk_that_hangs_at_the_start_keeps_no_other_from_it() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 1, replicas: 1 })?;
    let host = cluster.new_host()?;
    let dirs: Vec<PathBuf> = (0..2).map(|number| cluster.brick_dir(number)).collect();
    for number in 0..2 {
        disks::give(&cluster, number, 512)?;
    }
    let args = |dirs: &[PathBuf], more: Vec<OsString>| -> Vec<OsString> {
        let each = dirs.iter().flat_map(|dir| ["--dir".into(), dir.clone().into()]);
        [OsString::from("brick")].into_iter().chain(each).chain(more).collect()
    };
    let join = cluster.join_args(&host, &cluster.token("brick", &[])?);
    let mut server = Process::new("server", &host, &binary()?, args(&dirs, join));
    server.start()?;
    server.stop()?;
    let brick = |cluster: &HostCluster, id: u32| -> Result<serde_json::Value> {
        let status = cluster.status()?;
        let bricks = status["bricks"].as_array().context("no bricks")?;
        bricks.iter().find(|brick| brick["id"] == id).cloned().context("no such brick")
    };
    for dirs in [&dirs[..], &dirs[..1]] {
        server.set_args(args(dirs, Vec::new()));
        let frozen = Frozen::freeze(&cluster, 0)?;
        let ready = server.spawn()?;
        wait::until_true("it is told what is waited for", LIMIT, || {
            Ok(server.log().tail(20).contains("its disk is slow or does not answer"))
        })?;
        if dirs.len() == 2 {
            wait::until_true("the other one is served", LIMIT, || {
                Ok(brick(&cluster, 1)?["state"] == "alive")
            })?;
            wait::until_true("status says why", LIMIT, || {
                let note = brick(&cluster, 0)?["note"].as_str().unwrap_or_default().to_owned();
                Ok(note.contains("its disk is slow or does not answer"))
            })?;
        }
        drop(frozen);
        wait::until_true("it is served", LIMIT, || Ok(brick(&cluster, 0)?["state"] == "alive"))?;
        ready.recv_timeout(LIMIT).context("it does not say that it is ready")?;
        server.stop()?;
    }
    cluster.finish()
}
