//! Mistakes of people: one clear line each, an exit code, nothing damaged.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::{Workshop, binary, mounts_below};
use brickyard_tests::run::{Done, NOBODY};
use brickyard_tests::{Cluster, Options, Run, tree};

const LIMIT: Duration = Duration::from_secs(60);

fn up(data: &Path, mount: &Path) -> Result<Run> {
    Ok(Run::new(binary()?).arg("up").arg("--data").arg(data).arg("--mount").arg(mount).limit(LIMIT))
}

/// What a refusal must be: a failure, said in one line by `brickyard:` that has all these words.
pub fn refused(what: &str, done: &Done, words: &[&str]) -> Result<()> {
    let text = done.error_text();
    ensure!(!done.status.success(), "{what}: was accepted");
    ensure!(done.status.code().is_some_and(|code| code < 126), "{what}: ended by {}", done.status);
    ensure!(!done.text().contains("ready:"), "{what}: said it was ready");
    // Log lines may come before; the message is one line.
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("brickyard: ")).collect();
    ensure!(lines.len() == 1, "{what}: not one line of a message:\n{text}");
    for word in words {
        ensure!(lines[0].contains(word), "{what}: {word:?} is not in {:?}", lines[0]);
    }
    ensure!(!text.contains("panicked") && !text.contains("stack backtrace"), "{what}:\n{text}");
    Ok(())
}

/// Wrong options and values, for every command.
#[test]
fn wrong_options_are_refused() -> Result<()> {
    let workshop = Workshop::new()?;
    let (data, mount) = (workshop.path().join("data"), workshop.dir("mnt")?);
    for more in [
        &["--nonsense"][..],
        &["--bricks", "0"],
        &["--bricks", "many"],
        &["--replicas", "9"],
        &["--listen", "nowhere"],
        &["--bricks", "1", "--replicas", "2"],
        &["surplus"],
    ] {
        let done = up(&data, &mount)?.args(more).run()?;
        refused(&format!("{more:?}"), &done, &[more.last().copied().unwrap_or_default()])?;
        ensure!(
            done.error_text().lines().count() == 1,
            "{more:?}: more than one line:\n{}",
            done.error_text()
        );
        // Nothing was made by a command that was not understood.
        ensure!(!data.exists(), "{more:?} left {}", data.display());
    }
    for (args, word) in [
        (&["frobnicate"][..], "see \"brickyard --help\""),
        (&["status"], "see \"brickyard status --help\""),
        (&["check", "--data"], "see \"brickyard check --help\""),
        (&["up"], "see \"brickyard up --help\""),
        (&["brick", "drain"], "see \"brickyard brick drain --help\""),
        (&["mount", "--nonsense"], "see \"mount.brickyard --help\""),
        (&["mount", "10.0.0.1:/"], "see \"mount.brickyard --help\""),
        (&["brick", "settings", "--cred", "c", "--repair-after", "0s"], "3s or more"),
        (&["up", "--data", "/d", "--mount", "/m", "--listen", "10.0.0.1"], "10.0.0.1:7000"),
        (&["up", "--data", "/d", "--mount", "/m", "--listen", "10.0.0.1:99999"], "up to 65535"),
    ] {
        let done = Run::new(binary()?).args(args).run()?;
        refused(&format!("{args:?}"), &done, &[word])?;
        ensure!(
            done.error_text().lines().count() == 1,
            "{args:?}: more than one line:\n{}",
            done.error_text()
        );
        ensure!(
            done.status.code() == Some(if args[0] == "mount" { 32 } else { 2 }),
            "{args:?}: {}",
            done.status
        );
    }
    let not_utf8 = std::ffi::OsStr::from_bytes(b"/m\xff");
    let done = Run::new(binary()?).args(["mount", "10.0.0.1:/"]).arg(not_utf8).run()?;
    refused("a mount point that is no UTF-8", &done, &["\\xFF", "UTF-8"])?;
    let done = up(&data, &mount)?.args(["--log", "info,=nonsense="]).run()?;
    refused("a log filter", &done, &["info,=nonsense=", "error, warn, info, debug, trace"])?;
    ensure!(done.error_text().matches("=nonsense=").count() == 1, "said twice: {}", done.error_text());
    let nothing = workshop.dir("nothing")?;
    for verb in ["status", "check"] {
        let done = Run::new(binary()?).arg(verb).arg("--data").arg(&nothing).run()?;
        ensure!(
            !done.status.success() && done.error_text().starts_with("brickyard: "),
            "{verb}: {}",
            done.error_text()
        );
    }
    Ok(())
}

/// A file where a directory is wanted, and a directory that is no brick where files are to be salvaged from one: told as
/// that, and nothing is made or changed.
#[test]
fn what_is_no_directory_and_no_brick_is_told() -> Result<()> {
    let workshop = Workshop::new()?;
    let file = workshop.path().join("file");
    std::fs::write(&file, "a file")?;
    let other = workshop.dir("other")?;
    std::fs::write(other.join("thesis.tex"), "years of work")?;
    let (out, empty) = (workshop.path().join("out"), workshop.dir("empty")?);
    let is_file = "is a file and not a directory";
    for (args, word) in [
        (&["brick", "--dir", "FILE"][..], is_file),
        (
            &["brick", "--dir", "FILE", "--listen", "127.0.0.1:1", "--join", "127.0.0.1:2", "--token", "x"],
            is_file,
        ),
        (&["brick", "--dir", "/dev/null"], "is not a directory"),
        (&["namespace", "--dir", "FILE"], is_file),
        (&["namespace", "--dir", "FILE", "--listen", "127.0.0.1:1", "--join", "127.0.0.1:2"], is_file),
        (&["namespace", "recover", "--dir", "FILE", "--others-are-lost"], is_file),
        (&["init", "--dir", "FILE", "--listen", "127.0.0.1:1"], is_file),
        (&["up", "--data", "FILE", "--mount", "EMPTY"], is_file),
        (&["salvage", "FILE", "--out", "OUT"], is_file),
        (&["salvage", "OTHER", "--out", "OUT"], "is no brick"),
        (&["salvage", "OTHER", "--out", "FILE"], is_file),
    ] {
        let place = |arg: &&str| match *arg {
            "FILE" => file.clone(),
            "OTHER" => other.clone(),
            "EMPTY" => empty.clone(),
            "OUT" => out.clone(),
            arg => arg.into(),
        };
        let done = Run::new(binary()?).args(args.iter().map(place)).limit(LIMIT).run()?;
        refused(&format!("{args:?}"), &done, &[word])?;
        ensure!(std::fs::read(&file)? == b"a file" && !out.exists(), "{args:?} changed something");
        ensure!(std::fs::read_dir(&other)?.count() == 1, "{args:?} changed something");
    }
    Ok(())
}

/// Mount points that are none.
#[test]
fn bad_mount_points_are_refused() -> Result<()> {
    let workshop = Workshop::new()?;
    let data = workshop.path().join("data");
    let file = workshop.path().join("file");
    std::fs::write(&file, "a file")?;
    let full = workshop.dir("full")?;
    std::fs::write(full.join("precious"), "data")?;
    let missing = workshop.path().join("missing");
    refused("a missing mount point", &up(&data, &missing)?.run()?, &["missing"])?;
    refused("a file as mount point", &up(&data, &file)?.run()?, &["file", "director"])?;
    refused("a mount point with files", &up(&data, &full)?.run()?, &["full", "empty"])?;
    let inside = data.join("inside");
    refused("a mount point in the data", &up(&data, &inside)?.run()?, &["inside"])?;
    ensure!(std::fs::read(full.join("precious"))? == b"data" && std::fs::read(&file)? == b"a file");
    ensure!(mounts_below(workshop.path()).is_empty());
    Ok(())
}

/// The mount would hide the data it stands on, or be a part of it: refused before a cluster is made, and an
/// existing one is not touched.
#[test]
fn data_and_mount_must_not_contain_each_other() -> Result<()> {
    let workshop = Workshop::new()?;
    let place = workshop.dir("place")?;
    let inner = workshop.dir("place/inner")?;
    let link = workshop.path().join("link");
    std::os::unix::fs::symlink(&place, &link)?;
    for (what, data, mount) in [
        ("one directory for both", &inner, &inner),
        ("a mount point in the data", &place, &inner),
        ("a mount point in the data by a link", &link, &inner),
        ("data in the mount point", &inner, &place),
        ("data that would be made in the mount point", &inner.join("new"), &inner),
    ] {
        let done = up(data, mount)?.run()?;
        refused(what, &done, &["mount", "data"])?;
        ensure!(done.error_text().lines().count() == 1, "{what}: more than one line:\n{}", done.error_text());
        let left: Vec<_> = std::fs::read_dir(&inner)?.collect();
        ensure!(left.is_empty() && mounts_below(workshop.path()).is_empty(), "{what}: left {left:?}");
    }
    Ok(())
}

/// Data directories that are not this cluster's: something else, a newer format, bricks of another
/// cluster, read-only. Each is refused and left exactly as it was.
#[test]
fn foreign_data_is_refused_and_left_alone() -> Result<()> {
    let mut first = Cluster::start(Options::default())?;
    let mut second = Cluster::start(Options::default())?;
    for cluster in [&mut first, &mut second] {
        std::fs::write(cluster.mount().join("file"), vec![1; 5_000_000])?;
        cluster.stop()?;
    }
    let workshop = Workshop::new()?;
    let mount = workshop.dir("mnt")?;
    let somebody = workshop.dir("somebody")?;
    std::fs::write(somebody.join("thesis.tex"), "years of work")?;
    untouched("a directory with other files", &somebody, &mount, &["empty"])?;
    let file = workshop.path().join("file");
    std::fs::write(&file, "a file")?;
    refused(
        "a file as data directory",
        &up(&file, &mount)?.run()?,
        &["--data", "not a directory", "give a directory"],
    )?;
    let status = Run::new(binary()?).args(["status", "--data"]).arg(&file).run()?;
    refused(
        "a file as data directory of status",
        &status,
        &["--data", "not a directory", "give a directory"],
    )?;

    // A brick of the second cluster in the place of one of the first's.
    let (ours, theirs) = (first.data().join("bricks/3"), second.data().join("bricks/3"));
    let aside = workshop.path().join("aside");
    std::fs::rename(&ours, &aside)?;
    Run::new("cp").arg("-a").arg(&theirs).arg(&ours).ok()?;
    untouched(
        "a brick of another cluster",
        first.data(),
        &mount,
        &["belongs to cluster", "an empty directory"],
    )?;
    std::fs::remove_dir_all(&ours)?;
    std::fs::rename(&aside, &ours)?;

    // A format from the future, in the cluster's identity and in a brick's.
    for name in ["cluster.json", "bricks/2/brick.json"] {
        let path = first.data().join(name);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut identity: serde_json::Value = serde_json::from_str(&text)?;
        let format = identity.get_mut("format").with_context(|| format!("no format in {name}: {text}"))?;
        *format = 4711.into();
        std::fs::write(&path, identity.to_string())?;
        untouched("a newer format", first.data(), &mount, &["4711"])?;
        std::fs::write(&path, text)?;
    }
    // And one that was cut short.
    let identity = first.data().join("cluster.json");
    let text = std::fs::read_to_string(&identity)?;
    std::fs::write(&identity, &text[..text.len() / 2])?;
    untouched(
        "a damaged identity",
        first.data(),
        &mount,
        &["cluster.json is damaged", "put its backup back"],
    )?;
    std::fs::write(&identity, text)?;

    // And all of this has harmed nobody.
    for mut cluster in [first, second] {
        cluster.up()?;
        ensure!(std::fs::read(cluster.mount().join("file"))? == vec![1; 5_000_000]);
        cluster.check()?;
        cluster.finish()?;
    }
    Ok(())
}

/// `up` refuses this directory with these words and changes nothing below it.
fn untouched(what: &str, data: &Path, mount: &Path, words: &[&str]) -> Result<()> {
    let before = without_times(data)?;
    refused(what, &up(data, mount)?.run()?, words)?;
    ensure!(mounts_below(mount).is_empty(), "{what}: something is mounted");
    tree::ensure_same(&before, &without_times(data)?)
        .with_context(|| format!("{what}: the directory was changed"))
}

/// What must not change by a refusal: everything but the lock, the notes of who runs and ran, and the logs of
/// databases that were opened and closed again.
fn without_times(data: &Path) -> Result<std::collections::BTreeMap<std::path::PathBuf, tree::Entry>> {
    let mut list = tree::list(data)?;
    list.retain(|path, entry| {
        entry.mtime_ns = 0;
        let volatile = ["lock", "run", "index", "namespace", "lives"];
        !path.components().any(|part| volatile.iter().any(|name| part.as_os_str() == *name))
    });
    Ok(list)
}

/// A data directory that cannot be written: on a read-only filesystem.
#[test]
fn a_read_only_data_directory_is_refused() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    std::fs::write(cluster.mount().join("file"), "content")?;
    cluster.stop()?;
    let mount = cluster.workshop().dir("other")?;
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let run = Run::new("unshare").args(["-m", "sh", "-c", script, "sh"]).arg(cluster.data());
    let done = run.arg(binary()?).arg("up").arg("--data").arg(cluster.data()).arg("--mount").arg(&mount);
    refused("a read-only data directory", &done.limit(LIMIT).run()?, &["data"])?;
    cluster.up()?;
    ensure!(std::fs::read(cluster.mount().join("file"))? == b"content");
    cluster.finish()
}

/// Takes a port for both protocols, whichever a cluster tries first. Those behind it are free, and none is among those that outgoing
/// connections are given meanwhile.
fn take_port() -> Result<(TcpListener, UdpSocket, SocketAddr)> {
    let first = 20_000 + (std::process::id() % 1000) as u16 * 10;
    for port in (first..32_000).step_by(10) {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let is_free =
            |port| TcpListener::bind(address(port)).is_ok() && UdpSocket::bind(address(port)).is_ok();
        if (port + 1..port + 10).all(is_free)
            && let (Ok(stream), Ok(datagrams)) =
                (TcpListener::bind(address(port)), UdpSocket::bind(address(port)))
        {
            return Ok((stream, datagrams, address(port)));
        }
    }
    anyhow::bail!("no ten ports in a row are free")
}

/// A port that somebody else listens on.
#[test]
fn a_taken_port_is_named() -> Result<()> {
    let workshop = Workshop::new()?;
    let (data, mount) = (workshop.path().join("data"), workshop.dir("mnt")?);
    let (stream, datagrams, port) = take_port()?;
    let done = up(&data, &mount)?.args(["--listen", &port.to_string()]).run()?;
    refused("a taken port", &done, &[&port.port().to_string()])?;
    // Found before anything was begun: nothing else is said, nothing was made.
    ensure!(done.error_text().lines().count() == 1, "more than one line:\n{}", done.error_text());
    ensure!(mounts_below(&mount).is_empty() && !data.exists());
    let done = up(&data, &mount)?.args(["--listen", "192.0.2.1:0"]).run()?;
    refused("somebody else's address", &done, &["192.0.2.1", "`ip address` shows"])?;
    ensure!(done.error_text().lines().count() == 1 && !data.exists(), "{}", done.error_text());
    let done = up(&data, &mount)?.args(["--listen", "127.0.0.1:65533"]).run()?;
    refused("too few ports", &done, &["127.0.0.1:65533", "give a port up to 65529"])?;
    ensure!(done.error_text().lines().count() == 1 && !data.exists(), "{}", done.error_text());
    drop((stream, datagrams));
    // The same directory and port, once it is free.
    let options = Options { more: vec!["--listen".into(), port.to_string().into()], ..Options::default() };
    let cluster = Cluster::start(options)?;
    // A second one there learns whose the directory is, not that the port is taken.
    let done = up(cluster.data(), &mount)?.args(["--listen", &port.to_string()]).run()?;
    refused("a held directory on a taken port", &done, &["in use by process"])?;
    cluster.finish()
}

/// No /dev/fuse, as in a container that was not given it.
#[test]
fn a_missing_fuse_device_is_named() -> Result<()> {
    let workshop = Workshop::new()?;
    let (data, mount) = (workshop.path().join("data"), workshop.dir("mnt")?);
    // An empty /dev, with only what every program needs.
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 \
                  && exec \"$@\"";
    let run = Run::new("unshare").args(["-m", "sh", "-c", script, "sh"]);
    let done = run
        .arg(binary()?)
        .arg("up")
        .arg("--data")
        .arg(&data)
        .arg("--mount")
        .arg(&mount)
        .limit(LIMIT)
        .run()?;
    refused("no /dev/fuse", &done, &["/dev/fuse", "modprobe", "--device /dev/fuse --cap-add SYS_ADMIN"])
}

/// A user without rights.
#[test]
fn without_rights_it_says_so() -> Result<()> {
    let workshop = Workshop::new()?;
    let (data, mount) = (workshop.dir("data")?, workshop.dir("mnt")?);
    for dir in [&data, &mount] {
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY))?;
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
    }
    // Where a user without rights can run it.
    let program = workshop.path().join("brickyard");
    std::fs::copy(binary()?, &program)?;
    let run = Run::as_user(NOBODY, &program).arg("up").arg("--data").arg(&data).arg("--mount").arg(&mount);
    refused("no rights", &run.limit(LIMIT).run()?, &["root"])?;
    ensure!(mounts_below(&mount).is_empty());
    // Asking for the state of somebody else's cluster: of one that runs, and of what is none of ours to see.
    let cluster = Cluster::start(Options::default())?;
    for verb in [&["status"][..], &["check"], &["brick", "list"]] {
        let run = Run::as_user(NOBODY, &program).args(verb).arg("--data").arg(cluster.data());
        refused("no rights to the data", &run.run()?, &["Permission denied", "as root", "--cred"])?;
    }
    let cred = cluster.data().join("admin.cred");
    let done = Run::as_user(NOBODY, &program).args(["status", "--cred"]).arg(&cred).run()?;
    refused("no rights to the credential", &done, &["admin.cred", "as root"])?;
    cluster.finish()
}

/// A lost namespace is no new cluster: nothing is made in its place, and its backup goes on.
#[test]
fn a_lost_namespace_is_not_replaced_by_an_empty_one() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    std::fs::write(cluster.mount().join("file"), "kept")?;
    cluster.stop()?;
    let names = cluster.data().join("namespace");
    let backup = cluster.workshop().path().join("backup");
    std::fs::rename(&names, &backup)?;
    let done = up(cluster.data(), cluster.mount())?.run()?;
    refused("a cluster without its namespace", &done, &["namespace is missing", "backup"])?;
    ensure!(!names.exists(), "another namespace was made in its place");
    std::fs::rename(&backup, &names)?;
    cluster.up()?;
    ensure!(std::fs::read_to_string(cluster.mount().join("file"))? == "kept", "the file changed");
    cluster.finish()
}

/// A lost authority is not replaced unasked: whoever has a credential of it would be shut out. Its backup goes on; and
/// who removes the administrator's credential, too, gets both anew and keeps all files.
#[test]
fn a_lost_authority_is_not_replaced_unasked() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    std::fs::write(cluster.mount().join("file"), "kept")?;
    cluster.stop()?;
    let (authority, admin) = (cluster.data().join("ca.pem"), cluster.data().join("admin.cred"));
    let backup = cluster.workshop().path().join("backup");
    std::fs::rename(&authority, &backup)?;
    let done = up(cluster.data(), cluster.mount())?.run()?;
    refused("a cluster without its authority", &done, &["ca.pem is missing", "backup", "admin.cred"])?;
    ensure!(!authority.exists(), "another authority was made in its place");
    std::fs::rename(&backup, &authority)?;
    cluster.up()?;
    ensure!(std::fs::read_to_string(cluster.mount().join("file"))? == "kept", "the file changed");
    cluster.stop()?;
    std::fs::remove_file(&authority)?;
    std::fs::remove_file(&admin)?;
    cluster.allow_log("authority and the administrator's credential are gone");
    cluster.up()?;
    ensure!(std::fs::read_to_string(cluster.mount().join("file"))? == "kept", "the file changed");
    cluster.check()?;
    cluster.finish()
}
