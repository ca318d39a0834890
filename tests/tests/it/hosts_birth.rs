//! A cluster of several machines: born, used, restarted, as an administrator does it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::{binary, mounts_below};
use brickyard_tests::netns::World;
use brickyard_tests::{HostCluster, Run, Shape, seed, tree, wait};

use crate::bad_input::refused;

const LIMIT: Duration = Duration::from_secs(60);

/// Hosts reach each other, a cut is silence, limits limit, and nothing is left.
#[test]
fn a_world_leaves_nothing() -> Result<()> {
    let mut world = World::new()?;
    let (one, two) = (world.host()?, world.host()?);
    let ping = |wait: &str| {
        one.run("sh").arg("-c").arg(format!(
            "exec 3<>/dev/null; timeout {wait} bash -c 'exec 4<>/dev/tcp/{}/9' 2>&1",
            two.address()
        ))
    };
    // Nobody listens: a refusal comes back at once, which proves the way there and back.
    let done = ping("5").run()?;
    ensure!(done.text().contains("refused"), "{}", done.text());
    two.cut()?;
    let done = ping("1").run()?;
    ensure!(done.status.code() == Some(124), "a cut is not silent: {} {}", done.status, done.text());
    two.heal()?;
    wait::until_true("the way is there again", LIMIT, || Ok(ping("2").run()?.text().contains("refused")))?;
    two.limit(100)?;
    two.unlimit()?;
    drop(world);
    let left = Run::new("ip").args(["netns", "list"]).ok()?.text();
    ensure!(!left.contains(&format!("-{}-", std::process::id())), "{left}");
    Ok(())
}

/// Init, tokens, bricks, mount; a tree goes in and comes back; every process is restarted; nothing
/// is lost, and all copies are equal.
#[test]
fn a_cluster_is_born_and_lives_on() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 4, replicas: 2 })?;
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let stored = cluster.mountpoint().join("tree");
    std::fs::create_dir(&stored)?;
    for part in ["wire", "namespace", "tests", "docs"] {
        Run::new("cp").arg("-a").arg(source.join(part)).arg(&stored).ok()?;
    }
    let big = cluster.mountpoint().join("big");
    let content = seed::bytes(3, 0, 30_000_000);
    std::fs::write(&big, &content)?;
    let id = cluster.status()?["cluster"].clone();

    // One after the other, under the mount.
    for at in 0..cluster.bricks.len() {
        cluster.bricks[at].stop()?;
        cluster.bricks[at].start()?;
        cluster.wait_whole(LIMIT)?;
    }
    cluster.namespace.stop()?;
    cluster.namespace.start()?;
    ensure!(std::fs::read(&big)? == content, "read wrong after restarts");
    cluster.mount.stop()?;
    ensure!(mounts_below(cluster.mountpoint()).is_empty(), "still mounted after SIGTERM");
    cluster.start_mount()?;
    verify(&cluster, &source, &stored, &content)?;

    // And all at once.
    cluster.stop()?;
    for process in cluster.all() {
        if process.name() != "mount" {
            process.start()?;
        }
    }
    cluster.start_mount()?;
    verify(&cluster, &source, &stored, &content)?;
    cluster.wait_whole(LIMIT)?;
    ensure!(cluster.status()?["cluster"] == id, "another cluster after a restart");
    ensure!(cluster.status()?["bricks"].as_array().context("no bricks")?.len() == 4);
    cluster.check(true)?;
    // Bricks were stopped under written data that nobody had asked to make durable yet.
    cluster.allow_log("could not renew the session");
    cluster.finish()
}

fn verify(
    cluster: &HostCluster,
    source: &std::path::Path,
    stored: &std::path::Path,
    big: &[u8],
) -> Result<()> {
    for part in ["wire", "namespace", "tests", "docs"] {
        tree::diff(&source.join(part), &stored.join(part))?;
    }
    ensure!(std::fs::read(cluster.mountpoint().join("big"))? == big, "the big file reads wrong");
    Ok(())
}

/// `mount -t brickyard` comes back when the mount can be used, and `umount` ends the process; the
/// credential that the token gave is enough the next time.
#[test]
fn mount_goes_to_the_background_and_umount_ends_it() -> Result<()> {
    let cluster = HostCluster::prepare_with_bricks(Shape { bricks: 2, replicas: 2 })?;
    let dir = cluster.workshop().dir("bin")?;
    let helper = dir.join("mount.brickyard");
    std::os::unix::fs::symlink(binary()?, &helper)?;
    let (credential, log) = (dir.join("client.cred"), dir.join("mount.log"));
    let token = cluster.token("client", &[])?;
    for token in [format!(",token={token}"), String::new()] {
        let options = format!("noatime,_netdev,cred={},log={}{token}", credential.display(), log.display());
        let run = cluster.client().run(&helper).arg(format!("{}:/", cluster.namespace_address()));
        run.arg(cluster.mountpoint()).args(["-o", &options]).ok()?;
        ensure!(mounts_below(cluster.mountpoint()).len() == 1, "not mounted when the command came back");
        std::fs::write(cluster.mountpoint().join("file"), "content")?;
        let remount = |options: &str| {
            let run = cluster.client().run(&helper).arg(format!("{}:/", cluster.namespace_address()));
            run.arg(cluster.mountpoint()).args(["-o", &format!("remount,{options}")])
        };
        let write = || std::fs::write(cluster.mountpoint().join("file"), "content");
        {
            let _written = std::fs::File::options().append(true).open(cluster.mountpoint().join("file"))?;
            refused(
                "a file open for writing",
                &remount("ro").run()?,
                &["open for writing here; close them"],
            )?;
        }
        remount("ro,nodiratime").ok()?;
        let denied = write().err().context("a read-only mount was written to")?;
        ensure!(denied.kind() == std::io::ErrorKind::ReadOnlyFilesystem, "{denied}");
        remount("rw,noatime").ok()?;
        write()?;
        let sessions = cluster.status()?["sessions"].as_array().context("no sessions")?.len();
        ensure!(sessions == 1, "{sessions} sessions");
        Run::new("umount").arg(cluster.mountpoint()).ok()?;
        refused("nothing mounted", &remount("ro").run()?, &["no Brickyard is mounted here"])?;
        // The session ends with the process, cleanly.
        wait::until_true("the process in the background ends", LIMIT, || {
            Ok(cluster.status()?["sessions"].as_array().is_some_and(Vec::is_empty))
        })?;
    }
    let said = std::fs::read_to_string(&log)?;
    ensure!(said.contains("unmounted") && !said.contains("by1-"), "{said}");
    cluster.finish()
}

/// A mount waits as long as it is told, no longer and no shorter: for a namespace that answers, and for bricks; it says
/// what it waited for.
#[test]
fn a_mount_waits_for_its_cluster() -> Result<()> {
    let mut cluster = HostCluster::prepare(Shape { bricks: 2, replicas: 2 })?;
    let credential = cluster.workshop().path().join("client.cred");
    let token = cluster.token("client", &[])?;
    let mount = |cluster: &HostCluster, wait: u32| -> Result<_> {
        let log = cluster.workshop().path().join("mount.log");
        let options =
            format!("wait={wait},cred={},log={},token={token}", credential.display(), log.display());
        let run = cluster.client().run(binary()?).arg("mount");
        let run = run.arg(format!("{}:/", cluster.namespace_address())).arg(cluster.mountpoint());
        Ok(run.args(["-o", &options]).limit(LIMIT))
    };
    cluster.namespace.stop()?;
    let begun = std::time::Instant::now();
    refused("no namespace", &mount(&cluster, 2)?.run()?, &["cannot join the cluster"])?;
    ensure!(begun.elapsed() < Duration::from_secs(15), "waited for {:?}", begun.elapsed());
    cluster.namespace.start()?;
    let begun = std::time::Instant::now();
    let words =
        ["waits for bricks: 0 bricks on 0 machines are up", "at least 2 machines", "Waited for it for 2 s"];
    refused("no bricks", &mount(&cluster, 2)?.run()?, &words)?;
    ensure!(begun.elapsed() >= Duration::from_secs(2), "waited for {:?}", begun.elapsed());
    cluster.add_brick(0)?;
    refused("too few bricks", &mount(&cluster, 1)?.run()?, &["1 brick on 1 machine is up"])?;
    ensure!(mounts_below(cluster.mountpoint()).is_empty(), "mounted all the same");

    let waiting = mount(&cluster, 60)?;
    let waiting = std::thread::spawn(move || waiting.run());
    wait::until_true("it waits", LIMIT, || {
        // The logs of the refused ones are gone.
        let log = std::fs::read_to_string(cluster.workshop().path().join("mount.log")).unwrap_or_default();
        Ok(log.contains("waits for bricks: 1 brick on 1 machine is up"))
    })?;
    cluster.add_brick(1)?;
    waiting.join().map_err(|_| anyhow::anyhow!("the mount panicked"))??.success()?;
    std::fs::write(cluster.mountpoint().join("file"), "content")?;
    Run::new("umount").arg(cluster.mountpoint()).ok()?;
    cluster.finish()
}
