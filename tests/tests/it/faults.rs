//! Disks that lie and disks that vanish.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use brickyard_tests::{Cluster, Options, seed, status, tree, wait};

const HEAL_LIMIT: Duration = Duration::from_secs(120);

/// Files enough that every chain holds some of them: small ones, and one over many chunks.
fn fill(dir: &Path) -> Result<()> {
    for number in 0..60 {
        std::fs::write(dir.join(format!("file-{number}")), seed::bytes(100 + number, 0, 300_000))?;
    }
    std::fs::write(dir.join("big"), seed::bytes(99, 0, 40_000_000))?;
    File::open(dir.join("big"))?.sync_all()?;
    Ok(())
}

fn verify(dir: &Path) -> Result<()> {
    for number in 0..60 {
        let path = dir.join(format!("file-{number}"));
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(content == seed::bytes(100 + number, 0, 300_000), "{} reads wrong", path.display());
    }
    ensure!(std::fs::read(dir.join("big"))? == seed::bytes(99, 0, 40_000_000), "the big file reads wrong");
    Ok(())
}

/// The directories of the bricks.
fn bricks(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let dir = cluster.data().join("bricks");
    let mut bricks = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        bricks.push(entry?.path());
    }
    bricks.sort();
    Ok(bricks)
}

/// Where `needle` occurs in a file.
fn find_all(path: &Path, needle: &[u8]) -> Result<Vec<u64>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata()?.len();
    let mut buffer = vec![0; 4 << 20];
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        // Holes of sparse data files are skipped.
        at = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let count = file.read_at(&mut buffer, at)?;
        let hits = buffer[..count].windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
        found.extend(hits.map(|(offset, _)| at + offset as u64));
        // Overlap, so that no occurrence hides on the seam; it is too short to hold one twice.
        at += count.saturating_sub(needle.len() - 1).max(1) as u64;
    }
    Ok(found)
}

/// Flips one bit of every occurrence of `needle` in a brick's data; how many there were. More
/// than one is possible: a block that was replaced keeps its old bytes until it is used again.
fn flip_in(brick: &Path, needle: &[u8]) -> Result<usize> {
    let mut flipped = 0;
    for entry in std::fs::read_dir(brick)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let file = File::options().read(true).write(true).open(&path)?;
        for at in find_all(&path, needle)? {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at + 3)?;
            file.write_all_at(&[byte[0] ^ 0x10], at + 3)?;
            flipped += 1;
        }
        file.sync_all()?;
    }
    Ok(flipped)
}

/// One bit of one copy, and another bit of the other copy, are flipped on the disks: reads stay
/// right, the damage is logged and repaired, and the repair is counted.
#[test]
fn a_flipped_byte_is_repaired() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    for words in ["corrupt", "checksum", "repair"] {
        cluster.allow_log(words);
    }
    cluster.stop()?;
    // Pieces of one file, in different blocks: whichever copy is read, it is damaged somewhere.
    let mut needles = [50_000, 250_000].map(|at| seed::bytes(107, at, 64)).into_iter();
    for brick in bricks(&cluster)? {
        let Some(needle) = needles.as_slice().first() else { break };
        if flip_in(&brick, needle)? > 0 {
            needles.next();
        }
    }
    ensure!(needles.next().is_none(), "the file's bytes are not on two bricks' disks");
    cluster.up()?;
    wait::until_true("the repair is counted", HEAL_LIMIT, || {
        verify(&dir)?;
        let file = File::open(dir.join("file-7"))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(status::brick_sum(&cluster.status_json()?, "repaired_blocks")? >= 1)
    })?;
    ensure!(
        ["corrupt", "checksum", "repair"].iter().any(|word| cluster.log().warned(word)),
        "nothing was logged about the damage"
    );
    ensure!(status::brick_sum(&cluster.status_json()?, "corrupt_blocks")? >= 1, "the damage is not counted");
    verify(&dir)?;
    cluster.check()?;
    cluster.finish()
}

fn allow_loss_of_a_brick(cluster: &mut Cluster) {
    for words in ["brick", "chain", "resync", "unreachable", "lease"] {
        cluster.allow_log(words);
    }
}

fn wait_until_whole(cluster: &Cluster) -> Result<()> {
    wait::until_true("every chain has all its copies", HEAL_LIMIT, || {
        status::all_whole(&cluster.status_json()?)
    })
}

/// A brick's directory is gone at the next start: everything is readable and writable, and the brick is
/// filled again from the others, so that then another one can vanish.
#[test]
fn a_brick_that_vanished_while_stopped_is_filled_again() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    allow_loss_of_a_brick(&mut cluster);
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    for (round, lost) in [2, 3].into_iter().enumerate() {
        cluster.stop()?;
        let brick = bricks(&cluster)?.get(lost).context("no such brick")?.clone();
        std::fs::remove_dir_all(&brick)?;
        cluster.up()?;
        verify(&dir)?;
        let more = dir.join(format!("written-{round}"));
        std::fs::write(&more, seed::bytes(55, 0, 9_000_000))?;
        File::open(&more)?.sync_all()?;
        wait_until_whole(&cluster)?;
        ensure!(brick.join("brick.json").is_file(), "{} was not made again", brick.display());
        verify(&dir)?;
        ensure!(std::fs::read(&more)? == seed::bytes(55, 0, 9_000_000));
        cluster.check()?;
    }
    // Everything is on other disks now, and still the same for who reads it cold.
    let seen = tree::list(&dir)?;
    cluster.restart()?;
    tree::ensure_same(&seen, &tree::list(&dir)?)?;
    verify(&dir)?;
    cluster.finish()
}

/// A brick's directory vanishes under the running brick: reads and writes go on; after a restart
/// it is filled again.
#[test]
fn a_brick_that_vanishes_while_running_disturbs_nobody() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    allow_loss_of_a_brick(&mut cluster);
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    let brick = bricks(&cluster)?.get(4).context("no such brick")?.clone();
    // The brick may be making files in there: try until it is gone.
    wait::until_true("the directory is gone", Duration::from_secs(10), || {
        match std::fs::remove_dir_all(&brick) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => bail!("cannot remove {}: {error}", brick.display()),
        }
    })?;
    verify(&dir)?;
    let more = dir.join("written");
    std::fs::write(&more, seed::bytes(56, 0, 30_000_000))?;
    File::open(&more)?.sync_all()?;
    verify(&dir)?;
    ensure!(std::fs::read(&more)? == seed::bytes(56, 0, 30_000_000));
    cluster.restart()?;
    verify(&dir)?;
    ensure!(std::fs::read(&more)? == seed::bytes(56, 0, 30_000_000));
    wait_until_whole(&cluster)?;
    verify(&dir)?;
    cluster.check()?;
    cluster.finish()
}
