//! Real trees through programs that nobody here wrote: tar, diff, git, rsync, gcc.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::{Place, Run, run, sources, tree};

const LONG: Duration = Duration::from_secs(400);

/// tar | tar of at least 5,000 files: content and every attribute tar keeps are there at once, and
/// `diff -r` finds no difference after a restart of everything.
#[test]
fn a_tree_of_thousands_of_files_arrives_whole() -> Result<()> {
    run::need(&[("tar", "tar"), ("diff", "diffutils")])?;
    let mut place = Place::new()?;
    let source = sources::big_tree()?;
    let copy = place.make_dir("include")?;
    let line = format!("tar -C '{}' -cf - . | tar -C '{}' -xpf -", source.display(), copy.display());
    Run::bash(&line).limit(LONG).ok()?;
    ensure!(sources::count_files(&copy) >= sources::MIN_FILES);
    let attributes = |dir: &Path| -> Result<_> {
        let mut list = tree::list(dir)?;
        // Tar keeps whole seconds of the modification time unless told otherwise, and the directory
        // itself was made by us.
        for entry in list.values_mut() {
            entry.mtime_ns = entry.mtime_ns.div_euclid(1_000_000_000);
        }
        Ok(list)
    };
    tree::ensure_same(&attributes(&source)?, &attributes(&copy)?)?;
    place.cool()?;
    tree::diff(&source, &copy)?;
    Run::new("rm").arg("-rf").arg(&copy).limit(LONG).ok()?;
    ensure!(!copy.exists(), "rm -rf left something");
    place.finish()
}

/// git: a repository of real sources is made, committed to, cloned, packed, and `fsck` is content.
#[test]
fn git_works_on_the_mount() -> Result<()> {
    run::need(&[("git", "git")])?;
    let mut place = Place::new()?;
    let source = sources::rocksdb()?.join("util");
    ensure!(sources::count_files(&source) > 50, "too small a tree");
    let first = place.make_dir("first")?;
    let git = |dir: &Path, args: &[&str]| {
        Run::new("git")
            .arg("-C")
            .arg(dir)
            .args([
                "-c",
                "user.name=Test",
                "-c",
                "user.email=test@example.org",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .limit(LONG)
            .ok()
    };
    git(&first, &["init", "--quiet"])?;
    Run::new("cp").arg("-r").arg(&source).arg(first.join("util")).limit(LONG).ok()?;
    git(&first, &["add", "."])?;
    git(&first, &["commit", "--quiet", "-m", "as shipped"])?;
    let second = place.join("second");
    let from = first.to_string_lossy().into_owned();
    let to = second.to_string_lossy().into_owned();
    // Without hard links or shared objects, so that everything is packed and read again.
    git(place.path(), &["clone", "--quiet", "--no-local", &from, &to])?;
    std::fs::write(second.join("util/new.txt"), "a change\n")?;
    git(&second, &["add", "."])?;
    git(&second, &["commit", "--quiet", "-m", "a change"])?;
    git(&second, &["push", "--quiet", "origin", "HEAD:refs/heads/change"])?;
    git(&first, &["merge", "--quiet", "change"])?;
    git(&first, &["repack", "-a", "-d", "--quiet"])?;
    git(&first, &["gc", "--quiet", "--prune=now"])?;
    place.cool()?;
    for dir in [&first, &second] {
        git(dir, &["fsck", "--full", "--strict"])?;
        let status = git(dir, &["status", "--porcelain"])?;
        ensure!(status.text().is_empty(), "a clean tree has changes:\n{}", status.text());
    }
    tree::diff(&first.join("util"), &second.join("util"))?;
    place.finish()
}

/// The LZ4 library is compiled with its own makefile and gcc from a tree on the mount, and its own
/// tests, run there, pass.
#[test]
fn a_c_library_is_built_and_tested_on_the_mount() -> Result<()> {
    run::need(&[("gcc", "gcc"), ("make", "make")])?;
    let place = Place::new()?;
    let dir = place.join("lz4");
    Run::new("cp").arg("-r").arg(sources::lz4()?).arg(&dir).ok()?;
    let make = |args: &[&str]| Run::new("make").arg("-C").arg(&dir).args(args).limit(LONG).ok();
    make(&["-j2", "lib", "lz4", "CFLAGS=-O1"])?;
    make(&["-j2", "-C", "tests", "fuzzer", "frametest", "CFLAGS=-O1"])?;
    let tests = dir.join("tests");
    Run::new("./fuzzer").args(["-i200", "-s7"]).cwd(&tests).limit(LONG).ok()?;
    Run::new("./frametest").args(["-i200", "-s7"]).cwd(&tests).limit(LONG).ok()?;
    // The program it built packs and unpacks the sources it was built from.
    let script = "tar -cf src.tar lib programs && ./lz4 -q -9 src.tar src.tar.lz4 \
                  && ./lz4 -q -d src.tar.lz4 back.tar && cmp src.tar back.tar";
    Run::sh(script).cwd(&dir).ok()?;
    place.finish()
}

/// `rsync -aHAX` keeps hard links, symbolic links, owners, times, modes, extended attributes, fifos,
/// sockets and devices; a second run finds nothing to do.
#[test]
fn rsync_keeps_everything() -> Result<()> {
    run::need(&[("rsync", "rsync"), ("setfattr", "attr")])?;
    let mut place = Place::new()?;
    let here = brickyard_tests::cluster::Workshop::new()?;
    let source = here.dir("source")?;
    make_zoo(&source)?;
    let copy = place.join("copy");
    let rsync = |more: &[&str]| {
        Run::new("rsync")
            .args(["-aHAX", "--specials", "--devices"])
            .args(more)
            .arg(format!("{}/", source.display()))
            .arg(format!("{}/", copy.display()))
            .ok()
    };
    rsync(&[])?;
    for cold in [false, true] {
        if cold {
            place.cool()?;
        }
        tree::same(&source, &copy)?;
        ensure!(same_inode(&copy.join("plain"), &copy.join("dir/hard"))?, "the hard link became a copy");
        let changes = rsync(&["--dry-run", "--checksum", "--itemize-changes"])?;
        ensure!(changes.text().is_empty(), "a second rsync finds changes:\n{}", changes.text());
        let attributes = |dir: &Path| -> Result<String> {
            let run = Run::new("getfattr").args(["-R", "-h", "-d", "-e", "hex", "-m", "^user\\."]).arg(".");
            Ok(run.cwd(dir).ok()?.text())
        };
        ensure!(attributes(&source)? == attributes(&copy)?, "extended attributes differ");
        ensure!(attributes(&copy)?.contains("user.long"), "no extended attributes at all");
    }
    ensure!(copy.join("fifo").symlink_metadata()?.file_type().is_fifo());
    ensure!(copy.join("socket").symlink_metadata()?.file_type().is_socket());
    ensure!(copy.join("block").symlink_metadata()?.file_type().is_block_device());
    ensure!(copy.join("char").symlink_metadata()?.rdev() == rustix::fs::makedev(1, 3));
    ensure!(copy.join("owned").metadata()?.uid() == run::NOBODY);
    place.finish()
}

fn same_inode(left: &Path, right: &Path) -> Result<bool> {
    let (left, right) = (left.metadata()?, right.metadata()?);
    Ok(left.ino() == right.ino() && left.nlink() == 2 && right.nlink() == 2)
}

/// One of everything.
fn make_zoo(dir: &Path) -> Result<()> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    std::fs::create_dir(dir.join("dir"))?;
    std::fs::write(dir.join("plain"), vec![7u8; 300_000])?;
    std::fs::hard_link(dir.join("plain"), dir.join("dir/hard"))?;
    std::fs::write(dir.join("empty"), "")?;
    std::fs::write(dir.join("owned"), "mine")?;
    std::os::unix::fs::chown(dir.join("owned"), Some(run::NOBODY), Some(run::NOBODY))?;
    std::os::unix::fs::symlink("dir/../plain", dir.join("link"))?;
    std::os::unix::fs::symlink("/no/where", dir.join("dangling"))?;
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).context("mkfifo")?;
    mknodat(CWD, dir.join("socket"), FileType::Socket, mode, 0).context("mknod of a socket")?;
    mknodat(CWD, dir.join("char"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))
        .context("mknod: this test must run as root")?;
    mknodat(CWD, dir.join("block"), FileType::BlockDevice, mode, rustix::fs::makedev(7, 1))
        .context("mknod of a block device")?;
    let long = "x".repeat(3000);
    for (name, value) in [("user.short", "1"), ("user.long", &long), ("user.empty", "")] {
        Run::new("setfattr").args(["-n", name, "-v", value]).arg(dir.join("plain")).ok()?;
        Run::new("setfattr").args(["-n", name, "-v", value]).arg(dir.join("dir")).ok()?;
    }
    for (name, mode) in [("sticky", 0o1777), ("setgid", 0o2755), ("closed", 0o000)] {
        let path = dir.join(name);
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    // Rsync takes times of the same second for equal: these must differ from those of the copying.
    let all = "find . -exec touch -h -d '2011-11-11 11:11:11.111111111' {} +";
    Run::sh(all).cwd(dir).ok()?;
    Run::new("touch").args(["-d", "2001-09-09 01:46:40.123456789"]).arg(dir.join("empty")).ok()?;
    Run::new("touch").args(["-h", "-d", "1969-12-31 23:59:59.5 UTC"]).arg(dir.join("link")).ok()?;
    Run::new("touch").args(["-d", "2100-01-01 00:00:00.000000001"]).arg(dir.join("dir")).ok()?;
    Ok(())
}
