//! Holes: made, found, kept by `cp`, punched and zeroed.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use brickyard_tests::{Place, Run, seed};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

const MIB: u64 = 1 << 20;

/// The extents of data as SEEK_DATA and SEEK_HOLE tell them.
fn extents(file: &File) -> Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(found),
            Err(error) => return Err(error.into()),
        };
        let hole = seek(file, SeekFrom::Hole(data))?;
        ensure!(hole > data, "data at {data} ends at {hole}");
        found.push((data, hole));
        at = hole;
    }
}

/// Whether `at` lies in one of the extents.
fn covered(extents: &[(u64, u64)], at: u64) -> bool {
    extents.iter().any(|(start, end)| (*start..*end).contains(&at))
}

/// A file of islands: 64 KiB of data at each of these MiB, and a size of 64 MiB.
const ISLANDS: [u64; 4] = [0, 5, 20, 40];

fn make_islands(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    for at in ISLANDS {
        file.write_all_at(&seed::bytes(5, at * MIB, 65_536), at * MIB)?;
    }
    file.set_len(64 * MIB)?;
    file.sync_all()?;
    Ok(file)
}

fn check_islands(file: &File) -> Result<()> {
    ensure!(file.metadata()?.len() == 64 * MIB);
    let mut buffer = vec![0; MIB as usize];
    for at in 0..64 {
        file.read_exact_at(&mut buffer, at * MIB)?;
        let data = if ISLANDS.contains(&at) { 65_536 } else { 0 };
        ensure!(buffer[..data] == seed::bytes(5, at * MIB, data), "data at {at} MiB is wrong");
        ensure!(buffer[data..].iter().all(|byte| *byte == 0), "the hole behind {at} MiB is not empty");
    }
    Ok(())
}

/// Holes take no space and are found by SEEK_HOLE and SEEK_DATA; `cp --sparse=auto` and
/// `--sparse=always` keep them, onto the mount and within it; nothing else changes.
#[test]
fn holes_survive_cp() -> Result<()> {
    let mut place = Place::new()?;
    let here = brickyard_tests::cluster::Workshop::new()?;
    make_islands(&here.path().join("local"))?;
    make_islands(&place.join("made"))?;
    for how in ["auto", "always"] {
        for (from, to) in [
            (here.path().join("local"), place.join(format!("in-{how}"))),
            (place.join("made"), place.join(format!("within-{how}"))),
            (place.join("made"), here.path().join(format!("out-{how}"))),
        ] {
            Run::new("cp").arg(format!("--sparse={how}")).arg(from).arg(to).ok()?;
        }
    }
    // A copy that keeps no holes shall still be equal.
    Run::new("cp")
        .args(["--sparse=never", "--reflink=never"])
        .arg(place.join("made"))
        .arg(place.join("dense"))
        .ok()?;
    for cold in [false, true] {
        if cold {
            place.cool()?;
        }
        check_islands(&File::open(place.join("dense"))?)?;
        for path in ["made", "in-auto", "in-always", "within-auto", "within-always"]
            .map(|name| place.join(name))
            .into_iter()
            .chain(["out-auto", "out-always"].map(|name| here.path().join(name)))
        {
            let file = File::open(&path)?;
            check_islands(&file)?;
            let extents = extents(&file)?;
            for at in ISLANDS {
                ensure!(covered(&extents, at * MIB), "{}: no data at {at} MiB: {extents:?}", path.display());
            }
            for hole in [10, 30, 60] {
                ensure!(
                    !covered(&extents, hole * MIB),
                    "{}: no hole at {hole} MiB: {extents:?}",
                    path.display()
                );
            }
            let used = file.metadata()?.blocks() * 512;
            ensure!(used <= 16 * MIB, "{}: 256 KiB of data occupy {used} bytes", path.display());
            ensure!(used >= 4 * 65_536, "{}: 256 KiB of data occupy only {used} bytes", path.display());
        }
    }
    place.finish()
}

/// A hole of a terabyte, and the longest there can be, is passed over at once: it took 17 s when each chunk was
/// asked for.
#[test]
fn long_holes_are_passed_over() -> Result<()> {
    const TIB: u64 = 1 << 40;
    let place = Place::new()?;
    // Where the test itself is proved, the local filesystem may not have such files.
    let greatest = if place.is_local() { 15 * TIB } else { i64::MAX as u64 };
    for size in [TIB, greatest] {
        let path = place.join(format!("{size}"));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.write_all_at(b"in front", 0)?;
        file.write_all_at(b"far away", size - 5000)?;
        file.set_len(size)?;
        let begun = Instant::now();
        let found = extents(&file)?;
        ensure!(found.len() == 2 && found[0].0 == 0, "{found:?}");
        ensure!(covered(&found, size - 5000) && !covered(&found, size / 2), "{found:?}");
        ensure!(seek(&file, SeekFrom::Data(size / 3))? == found[1].0, "data behind {}", size / 3);
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(3), "seeking took {took:?}");
        println!("seeking in {size} bytes took {took:?}");
        // And made empty, all but the first block, as fast.
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, punch, 4096, size - 4096)?;
        ensure!(extents(&file)?.len() == 1, "data behind what was punched");
        ensure!(begun.elapsed() < Duration::from_secs(6), "punching took {:?}", begun.elapsed());
        std::fs::remove_file(&path)?;
    }
    place.finish()
}

/// fallocate: punching and zeroing leave zeros exactly there; keep-size keeps the size; plain
/// allocation grows the file and changes no byte.
#[test]
fn fallocate_does_what_it_says() -> Result<()> {
    let mut place = Place::new()?;
    let full = seed::bytes(6, 0, 8 * MIB as usize);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE;
    let zero_keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let ranges: &[(u64, u64)] =
        &[(0, 1), (4095, 2), (4096, 4096), (100_000, 3 * MIB), (MIB, 2 * MIB), (8 * MIB - 10, 20)];
    let mut expected = Vec::new();
    for (number, &(start, length)) in ranges.iter().enumerate() {
        for (name, flags) in [("punch", punch), ("zero", zero), ("zerokeep", zero_keep)] {
            let path = place.join(format!("{name}-{number}"));
            std::fs::write(&path, &full)?;
            let file = File::options().read(true).write(true).open(&path)?;
            fallocate(&file, flags, start, length)?;
            let end = start + length;
            let size = if name == "zero" { end.max(8 * MIB) } else { 8 * MIB };
            let mut content = full.clone();
            content.resize(size as usize, 0);
            let stop = end.min(size) as usize;
            content[start as usize..stop].fill(0);
            ensure!(std::fs::read(&path)? == content, "{name} {start}+{length}: wrong at once");
            file.sync_all()?;
            expected.push((path, content));
        }
    }
    let path = place.join("allocate");
    std::fs::write(&path, &full[..5000])?;
    let file = File::options().read(true).write(true).open(&path)?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, MIB)?;
    ensure!(file.metadata()?.len() == 5000, "keep-size did not keep the size");
    fallocate(&file, FallocateFlags::empty(), 1000, MIB)?;
    ensure!(file.metadata()?.len() == 1000 + MIB, "allocation did not grow the file");
    drop(file);
    let mut content = full[..5000].to_vec();
    content.resize((1000 + MIB) as usize, 0);
    expected.push((path, content));
    place.cool()?;
    for (path, content) in expected {
        ensure!(std::fs::read(&path)? == content, "{}: wrong after a restart", path.display());
    }
    place.finish()
}

/// What `docs/posix.md` lists as refused is refused with the words programs fall back on, and changes nothing.
#[test]
fn what_is_not_there_is_refused() -> Result<()> {
    let place = Place::new()?;
    if place.is_local() {
        return place.finish();
    }
    let dir = place.path();
    let bytes = seed::bytes(31, 0, 3 << 20);
    std::fs::write(dir.join("from"), &bytes)?;
    let (from, to) =
        (File::options().read(true).write(true).open(dir.join("from"))?, File::create(dir.join("to"))?);
    ensure!(rustix::fs::ioctl_ficlone(&to, &from) == Err(Errno::OPNOTSUPP), "FICLONE");
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        ensure!(fallocate(&from, flags, MIB, MIB) == Err(Errno::OPNOTSUPP), "{flags:?}");
    }
    ensure!(std::fs::read(dir.join("from"))? == bytes && to.metadata()?.len() == 0, "something was changed");
    drop((from, to));
    place.finish()
}
