//! The life of `brickyard up`: start, stop, continue, refuse, replace.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::{Workshop, binary, mounts_below};
use brickyard_tests::{Cluster, Options, Run, seed, status, wait};
use rustix::process::Signal;

/// Ctrl-C and SIGTERM end it cleanly; started again it continues with all data.
#[test]
fn a_restart_continues_with_all_data() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let id = cluster.status_json()?["cluster"].clone();
    let path = cluster.mount().join("file");
    let content = seed::bytes(11, 0, 9_000_001);
    std::fs::write(&path, &content)?;
    std::fs::write(cluster.mount().join("small"), "small")?;
    for signal in [Signal::INT, Signal::TERM] {
        // Not synced: a clean stop loses nothing.
        cluster.stop_by(signal)?;
        ensure!(!path.exists(), "the mount point still shows the file");
        cluster.up()?;
        ensure!(
            std::fs::read(&path)? == content && std::fs::read(cluster.mount().join("small"))? == b"small"
        );
        ensure!(cluster.status_json()?["cluster"] == id, "another cluster after a restart");
    }
    ensure!(status::all_whole(&cluster.status_json()?)?, "a chain is not whole");
    cluster.check()?;
    cluster.finish()
}

/// A stop while somebody has a file open ends in time and cleanly all the same; what was written is kept.
#[test]
fn a_stop_does_not_wait_for_users() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.allow_log("mount.*still in use");
    cluster.allow_log("has not let go of the mount");
    cluster.allow_log("unmounting takes too long");
    let path = cluster.mount().join("file");
    let mut file = std::fs::File::create(&path)?;
    std::io::Write::write_all(&mut file, b"written, not synced")?;
    cluster.stop()?;
    ensure!(file.metadata().is_err(), "a handle outlived the mount");
    cluster.up()?;
    ensure!(std::fs::read(&path)? == b"written, not synced");
    drop(file);
    cluster.finish()
}

/// A second `up` on the same directory is refused by name of the holder and disturbs nothing.
#[test]
fn a_second_up_is_refused_by_name_of_the_holder() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    std::fs::write(cluster.mount().join("file"), "content")?;
    let other = cluster.workshop().dir("other")?;
    let run = Run::new(binary()?).arg("up").arg("--data").arg(cluster.data()).arg("--mount").arg(&other);
    let done = run.run()?;
    let text = done.error_text();
    ensure!(!done.status.success(), "a second `up` started");
    ensure!(text.contains(&cluster.pid()?.to_string()), "the holder {} is not named: {text}", cluster.pid()?);
    ensure!(mounts_below(&other).is_empty());
    ensure!(std::fs::read(cluster.mount().join("file"))? == b"content");
    cluster.check()?;
    cluster.finish()
}

/// The dead mount that a kill -9 leaves is found and replaced, with a reader still in it.
#[test]
fn a_mount_left_by_a_crash_is_replaced() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let path = cluster.mount().join("file");
    std::fs::write(&path, "content")?;
    let file = std::fs::File::open(&path)?;
    file.sync_all()?;
    cluster.kill9()?;
    ensure!(!mounts_below(cluster.mount()).is_empty(), "the kernel keeps the dead mount");
    let error = std::fs::read(&path).err().context("a dead mount was read")?;
    ensure!(error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()), "{error}");
    cluster.up()?;
    ensure!(std::fs::read(&path)? == b"content");
    ensure!(mounts_below(cluster.mount()).len() == 1, "mounts are stacked");
    ensure!(file.metadata().is_err(), "a handle of the dead mount came to life");
    drop(file);
    cluster.finish()
}

/// Other numbers of bricks and copies work: one brick without a copy, three copies of five.
#[test]
fn other_shapes_work() -> Result<()> {
    for (bricks, replicas) in [(1, 1), (5, 3)] {
        let options = Options { bricks: Some(bricks), replicas: Some(replicas), ..Options::default() };
        let mut cluster = Cluster::start(options)?;
        let content = seed::bytes(12, 0, 20_000_000);
        let path = cluster.mount().join("file");
        std::fs::write(&path, &content)?;
        cluster.restart()?;
        ensure!(std::fs::read(&path)? == content);
        let status = cluster.status_json()?;
        ensure!(status["bricks"].as_array().map(Vec::len) == Some(bricks as usize), "{status}");
        cluster.check()?;
        cluster.finish()?;
    }
    Ok(())
}

/// The guard of the harness: a cluster dropped in the middle, as by a panic, leaves no process,
/// no mount and no directory.
#[test]
fn a_dropped_cluster_leaves_nothing() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let (pid, root) = (cluster.pid()?, cluster.workshop().path().to_path_buf());
    let busy = std::fs::File::create(cluster.mount().join("busy"))?;
    drop(cluster);
    ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} lives on");
    ensure!(mounts_below(&root).is_empty(), "still mounted");
    ensure!(!root.exists(), "{} is still there", root.display());
    drop(busy);
    // And the next one starts as if nothing had been.
    let workshop = Workshop::new()?;
    ensure!(workshop.path().is_dir());
    Ok(())
}

/// The namespace's directory is put back from an older copy, and a brick is lost with it: the start waits, says for whom and what
/// to do, and goes on by the administrator's word.
#[test]
fn a_start_with_a_namespace_that_was_set_back_waits_for_a_word() -> Result<()> {
    let mut cluster = Cluster::start(Options { bricks: Some(3), ..Options::default() })?;
    cluster.allow_log("");
    let (first, second) = (cluster.mount().join("first"), cluster.mount().join("second"));
    std::fs::write(&first, seed::bytes(1, 0, 5_000_000))?;
    cluster.stop()?;
    let (names, backup) = (cluster.data().join("namespace"), cluster.workshop().path().join("backup"));
    Run::new("cp").arg("-a").arg(&names).arg(&backup).ok()?;
    cluster.up()?;
    std::fs::write(&second, seed::bytes(2, 0, 5_000_000))?;
    cluster.stop()?;
    std::fs::remove_dir_all(&names)?;
    Run::new("cp").arg("-a").arg(&backup).arg(&names).ok()?;
    std::fs::remove_dir_all(cluster.data().join("bricks/2"))?;

    let data = cluster.data().to_owned();
    let command = move |words: &[&str]| -> Result<_> {
        Run::new(binary()?).args(words).arg("--data").arg(&data).limit(Duration::from_secs(60)).run()
    };
    std::thread::scope(|scope| -> Result<()> {
        let word = scope.spawn(move || -> Result<()> {
            wait::until_true("status says who is waited for", Duration::from_secs(60), || {
                let said = command(&["status"])?.text();
                Ok(said.contains("SET BACK") && said.contains("adopt --without 2"))
            })?;
            command(&["namespace", "adopt", "--without", "2"])?.success().map(drop)
        });
        let ready = cluster.up();
        word.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ready
    })?;
    let said = cluster.log().tail(200);
    ensure!(said.contains("SET BACK") && said.contains("This start waits for that"), "{said}");
    ensure!(std::fs::read(&first)? == seed::bytes(1, 0, 5_000_000), "reads wrong");
    cluster.finish()
}
