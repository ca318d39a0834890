//! Names and directories.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use brickyard_tests::Place;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Names of 255 bytes and of any bytes but `/` and NUL are kept exactly; 256 bytes are refused.
#[test]
fn names_are_bytes() -> Result<()> {
    let mut place = Place::new()?;
    let long = "n".repeat(255);
    let mut all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    all.truncate(250);
    let names: Vec<&[u8]> = vec![
        long.as_bytes(),
        &all,
        b"\xff\xfe\x80",
        b" ",
        b"\n",
        b"...",
        "Ma\u{df}e \u{1f600}".as_bytes(),
        b"-rf",
        b"a\\b",
        b"\x01",
    ];
    for (number, name) in names.iter().enumerate() {
        std::fs::write(place.join(OsStr::from_bytes(name)), format!("{number}"))?;
    }
    for cold in [false, true] {
        if cold {
            place.cool()?;
        }
        let mut listed: Vec<Vec<u8>> = Vec::new();
        for entry in std::fs::read_dir(place.path())? {
            listed.push(entry?.file_name().as_bytes().to_vec());
        }
        let mut wanted: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
        listed.sort();
        wanted.sort();
        ensure!(listed == wanted, "the directory lists other names");
        for (number, name) in names.iter().enumerate() {
            ensure!(std::fs::read_to_string(place.join(OsStr::from_bytes(name)))? == format!("{number}"));
        }
    }
    let error = File::create(place.join("n".repeat(256))).err().context("a name of 256 bytes was taken")?;
    ensure!(error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()), "{error}");
    // A path of many components, near the kernel's limit of 4096 bytes.
    let mut deep = place.path().to_path_buf();
    while deep.as_os_str().len() < 3700 {
        deep.push("d".repeat(200));
        std::fs::create_dir(&deep)?;
    }
    std::fs::write(deep.join("bottom"), "deep")?;
    ensure!(std::fs::read(deep.join("bottom"))? == b"deep");
    place.finish()
}

/// A directory of 10,000 entries, listed while others come and go: whoever was there all the time
/// is listed exactly once, nobody twice.
#[test]
fn a_changing_directory_is_listed_right() -> Result<()> {
    const STABLE: usize = 10_000;
    let mut place = Place::new()?;
    let dir = place.make_dir("big")?;
    in_parallel(STABLE, |number| {
        File::create(dir.join(format!("stable-{number}")))?;
        Ok(())
    })?;
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| -> Result<usize> {
        let changer = scope.spawn(|| -> Result<usize> {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                for number in 0..20 {
                    File::create(dir.join(format!("passing-{round}-{number}")))?;
                }
                std::fs::rename(dir.join(format!("passing-{round}-0")), dir.join(format!("moved-{round}")))?;
                std::fs::remove_file(dir.join(format!("moved-{round}")))?;
                for number in 1..20 {
                    std::fs::remove_file(dir.join(format!("passing-{round}-{number}")))?;
                }
                round += 1;
            }
            Ok(round)
        });
        let listed = (0..5).try_for_each(|_| check_listing(&dir, STABLE));
        stop.store(true, Ordering::Relaxed);
        let rounds = changer.join().map_err(|_| anyhow::anyhow!("the changer panicked"))??;
        listed?;
        Ok(rounds)
    })?;
    ensure!(rounds > 0, "nothing changed while the directory was listed");
    place.cool()?;
    check_listing(&dir, STABLE)?;
    ensure!(std::fs::read_dir(&dir)?.count() == STABLE, "names that were removed are listed");
    // Most of it is removed by number, the rest while it is read, as `rm -r` does it.
    in_parallel(STABLE - 2_000, |number| Ok(std::fs::remove_file(dir.join(format!("stable-{number}")))?))?;
    for entry in std::fs::read_dir(&dir)? {
        std::fs::remove_file(entry?.path())?;
    }
    std::fs::remove_dir(&dir).context("the emptied directory")?;
    place.finish()
}

/// Does something for every number below `count`, in several threads: calls that wait for a disk share
/// its flushes.
fn in_parallel(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    const THREADS: usize = 8;
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || (first..count).step_by(THREADS).try_for_each(work)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })
}

fn check_listing(dir: &std::path::Path, stable: usize) -> Result<()> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        *seen.entry(entry?.file_name().to_string_lossy().into_owned()).or_default() += 1;
    }
    for number in 0..stable {
        let count = seen.get(&format!("stable-{number}")).copied().unwrap_or(0);
        ensure!(count == 1, "stable-{number} is listed {count} times");
    }
    let twice: Vec<&String> = seen.iter().filter(|(_, count)| **count > 1).map(|(name, _)| name).collect();
    ensure!(twice.is_empty(), "listed more than once: {twice:?}");
    Ok(())
}

/// rename: over files and empty directories, with no-replace and exchange, never into itself.
#[test]
fn rename_keeps_its_promises() -> Result<()> {
    let mut place = Place::new()?;
    let path = |name: &str| place.join(name);
    let (a, b) = (path("a"), path("b"));
    std::fs::write(&a, "a")?;
    std::fs::write(&b, "b")?;
    let refused = renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE);
    ensure!(refused == Err(Errno::EXIST), "no-replace replaced: {refused:?}");
    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE)?;
    ensure!(std::fs::read(&a)? == b"b" && std::fs::read(&b)? == b"a", "exchange did not exchange");
    renameat_with(CWD, &a, CWD, path("away"), RenameFlags::WHITEOUT)?;
    let left = std::fs::metadata(&a)?;
    ensure!(
        (left.mode() & 0o170_000, left.rdev()) == (0o020_000, 0),
        "a whiteout is {:o}, {}",
        left.mode(),
        left.rdev()
    );
    ensure!(std::fs::read(path("away"))? == b"b");
    std::fs::rename(path("away"), &a)?;
    std::fs::create_dir_all(path("d/e/f"))?;
    std::fs::create_dir(path("empty"))?;
    std::fs::write(path("d/e/f/file"), "inside")?;
    renameat_with(CWD, &a, CWD, path("d"), RenameFlags::EXCHANGE)?;
    ensure!(std::fs::read(path("a/e/f/file"))? == b"inside" && std::fs::read(path("d"))? == b"b");
    let into_itself = rustix::fs::rename(path("a"), path("a/e/f/g"));
    ensure!(into_itself == Err(Errno::INVAL), "a directory moved into itself: {into_itself:?}");
    ensure!(rustix::fs::rename(path("empty"), path("a")) == Err(Errno::NOTEMPTY));
    rustix::fs::rename(path("a/e"), path("empty"))?;
    ensure!(std::fs::read(path("empty/f/file"))? == b"inside");
    ensure!(
        std::fs::metadata(path("a"))?.nlink() == 2,
        "the link count of a directory without subdirectories"
    );
    // Both names of one file: POSIX says nothing happens.
    std::fs::hard_link(&b, path("b2"))?;
    std::fs::rename(&b, path("b2"))?;
    ensure!(b.exists() && path("b2").exists() && std::fs::metadata(&b)?.nlink() == 2);
    let listed = names(place.path())?;
    place.cool()?;
    ensure!(names(place.path())? == listed, "a restart changed the names");
    place.finish()
}

fn names(dir: &std::path::Path) -> Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name());
    }
    names.sort();
    Ok(names)
}
