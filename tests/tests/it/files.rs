//! One file at a time: durability, open handles, append, truncate, times, space.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use brickyard_tests::{Place, Run, seed};
use rustix::fs::{Timespec, Timestamps};

/// `dd conv=fsync`, sequential, with an odd block size and with O_DIRECT: read back cold, equal.
#[test]
fn dd_with_fsync_is_read_back_equal() -> Result<()> {
    let mut place = Place::new()?;
    let here = brickyard_tests::cluster::Workshop::new()?;
    let source = here.path().join("source");
    std::fs::write(&source, seed::bytes(1, 0, 48 * 1024 * 1024 + 12_345))?;
    for (name, options) in [
        ("plain", "bs=1M conv=fsync"),
        ("odd", "bs=77777 conv=fdatasync"),
        ("direct", "bs=1M oflag=direct conv=fsync"),
        ("dsync", "bs=8M oflag=dsync"),
    ] {
        let to = place.join(name);
        // O_DIRECT wants whole blocks: the odd tail of the source goes without it.
        let count = if name == "direct" { "count=48" } else { "" };
        let line = format!("dd if={} of={} {options} {count} status=none", source.display(), to.display());
        Run::sh(&line).ok()?;
        let size = std::fs::metadata(&to)?.len();
        ensure!(
            size == if name == "direct" { 48 << 20 } else { (48 << 20) + 12_345 },
            "{name} has {size} bytes"
        );
    }
    place.cool()?;
    for name in ["plain", "odd", "dsync"] {
        Run::new("cmp").arg(&source).arg(place.join(name)).ok()?;
    }
    Run::new("cmp").args(["-n", "50331648"]).arg(&source).arg(place.join("direct")).ok()?;
    let direct = place.join("direct");
    let line = format!(
        "dd if={} iflag=direct bs=1M status=none | cmp -n 50331648 - {}",
        direct.display(),
        source.display()
    );
    Run::bash(&line).ok()?;
    place.finish()
}

/// A file renamed over, and one unlinked, stay whole for whoever has them open; what is written
/// through such a handle is read through it.
#[test]
fn open_files_outlive_their_names() -> Result<()> {
    let place = Place::new()?;
    let (one, two) = (place.join("one"), place.join("two"));
    let big = seed::bytes(2, 0, 3 << 20);
    std::fs::write(&one, &big)?;
    std::fs::write(&two, "second")?;
    let mut first = File::options().read(true).write(true).open(&one)?;
    std::fs::rename(&two, &one)?;
    ensure!(std::fs::read(&one)? == b"second" && !two.exists());
    ensure!(first.metadata()?.nlink() == 0, "a replaced file still counts links");
    let mut back = Vec::new();
    first.read_to_end(&mut back)?;
    ensure!(back == big, "the replaced file changed under its reader");
    drop(first);
    let unlinked = File::options().read(true).write(true).open(&one)?;
    std::fs::remove_file(&one)?;
    ensure!(!one.exists());
    unlinked.write_all_at(&big, 1000)?;
    unlinked.sync_all()?;
    unlinked.set_len(2_000_000)?;
    let mut back = vec![0; 1_999_000];
    unlinked.read_exact_at(&mut back, 1000)?;
    ensure!(back == big[..1_999_000], "an unlinked file reads wrong");
    ensure!(unlinked.metadata()?.len() == 2_000_000);
    drop(unlinked);
    // A temporary file that never had a name.
    let mut nameless = File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::TMPFILE.bits() as i32)
        .open(place.path())
        .context("O_TMPFILE")?;
    ensure!(nameless.metadata()?.nlink() == 0, "a file without a name has links");
    nameless.write_all(&big)?;
    nameless.seek(SeekFrom::Start(0))?;
    let mut back = Vec::new();
    nameless.read_to_end(&mut back)?;
    ensure!(back == big);
    ensure!(std::fs::read_dir(place.path())?.count() == 0, "the directory is not empty again");
    // It gets a name when all of it is there: nobody sees half of it.
    let (by_number, named) = (format!("/proc/self/fd/{}", nameless.as_raw_fd()), place.join("named"));
    let cwd = rustix::fs::CWD;
    rustix::fs::linkat(cwd, &by_number, cwd, &named, rustix::fs::AtFlags::SYMLINK_FOLLOW)
        .context("naming it")?;
    ensure!(nameless.metadata()?.nlink() == 1);
    drop(nameless);
    ensure!(std::fs::read(&named)? == big, "what was given a name reads wrong");
    std::fs::remove_file(&named)?;
    place.finish()
}

/// O_APPEND: many writers in several threads and handles lose nothing and tear nothing.
#[test]
fn appends_are_atomic() -> Result<()> {
    const WRITERS: usize = 4;
    const LINES: usize = 500;
    let mut place = Place::new()?;
    let path = place.join("log");
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let path = &path;
                scope.spawn(move || -> Result<()> {
                    let mut file = File::options().append(true).create(true).open(path)?;
                    for line in 0..LINES {
                        // Lines of different lengths, so that a torn or overlapping write shows.
                        let text =
                            format!("{writer} {line} {}\n", "x".repeat((writer * 131 + line * 7) % 900));
                        file.write_all(text.as_bytes())?;
                    }
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(())
    })?;
    for cold in [false, true] {
        if cold {
            place.cool()?;
        }
        let mut next = [0; WRITERS];
        for line in std::fs::read_to_string(&path)?.lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            ensure!(parts.len() == 3, "a torn line: {line:?}");
            let (writer, number): (usize, usize) = (parts[0].parse()?, parts[1].parse()?);
            ensure!(number == next[writer], "writer {writer}: line {number} where {} was due", next[writer]);
            ensure!(parts[2].len() == (writer * 131 + number * 7) % 900, "a torn line: {line:?}");
            next[writer] += 1;
        }
        ensure!(next == [LINES; WRITERS], "lines lost: {next:?}");
    }
    place.finish()
}

/// A file cut and grown again holds zeros beyond the cut, never its old bytes.
#[test]
fn truncate_forgets_what_it_cut() -> Result<()> {
    let mut place = Place::new()?;
    let sizes: &[u64] =
        &[0, 1, 4095, 4096, 4097, 65_536, 1_048_575, 1_048_577, 3_000_000, 4_194_304, 5_000_000];
    let full = seed::bytes(3, 0, 6_000_000);
    for &size in sizes {
        let path = place.join(format!("cut-{size}"));
        std::fs::write(&path, &full)?;
        let file = File::options().write(true).open(&path)?;
        file.set_len(size)?;
        file.set_len(6_000_000)?;
        ensure!(file.metadata()?.len() == 6_000_000);
    }
    for cold in [false, true] {
        if cold {
            place.cool()?;
        }
        for &size in sizes {
            let content = std::fs::read(place.join(format!("cut-{size}")))?;
            let (kept, new) = content.split_at(size as usize);
            ensure!(kept == &full[..size as usize], "cut at {size}: what was kept changed");
            ensure!(new.iter().all(|byte| *byte == 0), "cut at {size}: old bytes came back");
        }
    }
    place.finish()
}

/// Times: set and read in nanoseconds, kept over a restart, moved by what must move them only.
#[test]
fn times_are_exact_to_the_nanosecond() -> Result<()> {
    let mut place = Place::new()?;
    let path = place.join("file");
    std::fs::write(&path, "x")?;
    for (seconds, nanos) in [(1_234_567_890, 123_456_789), (-1, 1), (4_102_444_800, 999_999_999), (0, 0)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())?;
        let meta = std::fs::metadata(&path)?;
        ensure!((meta.mtime(), meta.mtime_nsec()) == (seconds, nanos), "mtime became {meta:?}");
        ensure!((meta.atime(), meta.atime_nsec()) == (seconds, nanos), "atime became {meta:?}");
    }
    let time = Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())?;
    place.cool()?;
    let meta = std::fs::metadata(&path)?;
    ensure!((meta.mtime(), meta.mtime_nsec()) == (1_234_567_890, 123_456_789), "mtime lost by a restart");
    let changed = meta.ctime_nsec() + meta.ctime() * 1_000_000_000;
    let before = SystemTime::now() - Duration::from_secs(1);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    let meta = std::fs::metadata(&path)?;
    ensure!(meta.ctime_nsec() + meta.ctime() * 1_000_000_000 > changed, "chmod did not move ctime");
    ensure!(meta.mtime() == 1_234_567_890, "chmod moved mtime");
    std::fs::write(&path, "yy")?;
    let meta = std::fs::metadata(&path)?;
    ensure!(meta.modified()? >= before, "a write did not move mtime");
    let old = std::fs::metadata(place.path())?.modified()?;
    std::fs::write(place.join("another"), "")?;
    ensure!(
        std::fs::metadata(place.path())?.modified()? > old,
        "a new name did not move its directory's mtime"
    );
    place.finish()
}

/// The times seen while a file is being written, and after its attributes were set, are those it keeps when it is
/// closed, when everything is told, and over a restart: `tar` and `make` find nothing changed behind their backs.
#[test]
fn times_do_not_move_after_close() -> Result<()> {
    let mut place = Place::new()?;
    let seen = |path: &std::path::Path| -> Result<_> {
        let meta = std::fs::metadata(path)?;
        let times = [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())];
        Ok((times, meta.mode(), meta.uid(), meta.len()))
    };
    let mut all = Vec::new();
    for (name, set) in [("written", false), ("set", true)] {
        let path = place.join(name);
        let mut file = File::create(&path)?;
        let before = seen(&path)?;
        file.write_all(b"content")?;
        if set {
            // As tar does it.
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123))?;
            std::os::unix::fs::fchown(&file, Some(12), Some(13))?;
            file.set_permissions(PermissionsExt::from_mode(0o640))?;
        }
        let written = seen(&path)?;
        ensure!(written.0[1] > before.0[1], "{name}: the change is not seen");
        drop(file);
        ensure!(seen(&path)? == written, "{name}: closing it changed something");
        File::open(&path)?.sync_all()?;
        ensure!(seen(&path)? == written, "{name}: telling of it changed something");
        all.push((path, written));
    }
    place.cool()?;
    for (path, written) in all {
        let now = seen(&path)?;
        ensure!(now == written, "{}: {written:?} before the restart, now {now:?}", path.display());
    }
    place.finish()
}

/// statfs gives sane numbers: sizes, free space that shrinks by what is written, names of 255 bytes.
#[test]
fn statfs_tells_the_space() -> Result<()> {
    const WRITTEN: u64 = 64 << 20;
    let mut place = Place::new()?;
    let before = rustix::fs::statvfs(place.path())?;
    ensure!(before.f_namemax == 255, "names of {} bytes", before.f_namemax);
    ensure!(before.f_frsize >= 512 && before.f_blocks >= before.f_bfree && before.f_bfree >= before.f_bavail);
    ensure!(before.f_bavail > 0, "no space at all");
    ensure!(before.f_files > 0 && before.f_ffree > 0, "no room for a single file");
    let file = File::create(place.join("file"))?;
    file.write_all_at(&seed::bytes(4, 0, WRITTEN as usize), 0)?;
    file.sync_all()?;
    ensure!(
        file.metadata()?.blocks() * 512 >= WRITTEN,
        "the file occupies {} blocks",
        file.metadata()?.blocks()
    );
    drop(file);
    if place.cluster().is_some() {
        // Bricks report their space with the heartbeat.
        brickyard_tests::wait::until_true("less free space after a write", Duration::from_secs(30), || {
            let after = rustix::fs::statvfs(place.path())?;
            Ok((before.f_bfree * before.f_frsize).saturating_sub(after.f_bfree * after.f_frsize)
                >= WRITTEN / 2)
        })?;
    }
    place.finish()
}

/// Permissions hold for users without rights, as the kernel checks them.
#[test]
fn permissions_hold() -> Result<()> {
    let place = Place::new()?;
    let path = place.join("secret");
    std::fs::write(&path, "secret")?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    let read = |path: &std::path::Path| Run::as_user(brickyard_tests::run::NOBODY, "cat").arg(path).run();
    ensure!(!read(&path)?.status.success(), "nobody reads a file of mode 600");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
    ensure!(read(&path)?.success()?.text() == "secret");
    let shared = place.make_dir("shared")?;
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o1777))?;
    std::fs::write(shared.join("root's"), "")?;
    let as_nobody = |script: &str| {
        Run::as_user(brickyard_tests::run::NOBODY, "sh").args(["-c", script]).cwd(&shared).run()
    };
    as_nobody("echo mine > mine && mv mine own && mkdir d && rmdir d")?.success()?;
    ensure!(std::fs::metadata(shared.join("own"))?.uid() == brickyard_tests::run::NOBODY);
    ensure!(!as_nobody("rm -f \"root's\"")?.status.success(), "the sticky bit does not hold");
    ensure!(!as_nobody("chown root own")?.status.success(), "nobody gives files away");
    ensure!(!as_nobody("chmod 777 \"root's\"")?.status.success(), "nobody changes others' modes");
    place.finish()
}
