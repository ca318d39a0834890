//! Disks that lie and disks that vanish.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::{Cluster, Options, Run, seed, status, tree, wait};

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

/// Bytes of the big file that no journal has any more: a brick whose journal is damaged does not start.
fn not_in_journals(cluster: &Cluster) -> Result<Vec<u8>> {
    let mut journals = Vec::new();
    for brick in bricks(cluster)? {
        journals.extend([brick.join("journal.0"), brick.join("journal.1")]);
    }
    for at in (0..40).map(|at| at * 1_000_000 + 100_000) {
        let needle = seed::bytes(99, at, 64);
        let held = |journal: &PathBuf| find_all(journal, &needle).map(|found| !found.is_empty());
        let held = journals.iter().map(held).collect::<Result<Vec<_>>>()?;
        if !held.contains(&true) {
            return Ok(needle);
        }
    }
    bail!("all of the file is in journals")
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

/// A check that reads everything tells which blocks it had put right, and in the end what nobody can put right.
#[test]
fn a_check_tells_what_it_put_right() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    for words in ["corrupt", "checksum", "repair"] {
        cluster.allow_log(words);
    }
    let check = |cluster: &Cluster| {
        let run = cluster.command("check")?.arg("--data").arg(cluster.data()).arg("--data-too");
        run.limit(HEAL_LIMIT).run()
    };
    cluster.stop()?;
    let needle = not_in_journals(&cluster)?;
    let mut flipped = None;
    for brick in bricks(&cluster)? {
        if flip_in(&brick, &needle)? > 0 {
            flipped = Some(brick);
            break;
        }
    }
    let flipped = flipped.context("the file's bytes are on no brick's disk")?;
    let number = flipped.file_name().context("no name")?.to_string_lossy().into_owned();
    cluster.up()?;
    let said = check(&cluster)?.exited_with(&[3])?.text();
    ensure!(
        said.contains(&format!("on brick {number} had 1 bad block, put right"))
            && said.contains("consistent: "),
        "{said}"
    );
    let said = check(&cluster)?.exited_with(&[0])?.text();
    ensure!(!said.contains("repaired"), "{said}");
    verify(&dir)?;

    // A block on both copies: no copy is left to put it right from.
    cluster.stop()?;
    // Not the one before: its repair is in a journal.
    let needle = not_in_journals(&cluster)?;
    let mut copies = 0;
    for brick in bricks(&cluster)? {
        copies += usize::from(flip_in(&brick, &needle)? > 0);
    }
    ensure!(copies == 2, "the file's bytes are on {copies} bricks' disks");
    cluster.up()?;
    let said = check(&cluster)?.exited_with(&[1])?.text();
    ensure!(said.contains("problem: corrupt: chunk") && said.contains("NOT CONSISTENT"), "{said}");
    cluster.finish()
}

/// A block that is bad on the only copy left: the other brick is refilled all the same, and what cannot be read is
/// named, fails at once and on both copies, and is healed by being written again. Everything else is right.
#[test]
fn a_bad_block_on_the_last_copy_stops_nothing_else() -> Result<()> {
    let mut cluster = Cluster::start(Options { bricks: Some(2), ..Options::default() })?;
    for words in
        ["corrupt", "brick's directory is gone", "chain", "not heard in time", "reading from another copy"]
    {
        cluster.allow_log(words);
    }
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    cluster.stop()?;
    let needle = not_in_journals(&cluster)?;
    let at = (0..40_u64).map(|at| at * 1_000_000 + 100_000).find(|at| seed::bytes(99, *at, 64) == needle);
    let at = at.context("the needle is nowhere")?;
    let all = bricks(&cluster)?;
    let [left, lost] = all.as_slice() else { bail!("{all:?} are not two bricks") };
    ensure!(flip_in(left, &needle)? > 0, "the file's bytes are not on {}", left.display());
    std::fs::remove_dir_all(lost)?;
    cluster.up()?;
    wait_until_whole(&cluster)?;

    // All but that block reads right, past the kernel's memory; the block does not, and says so soon.
    let path = dir.join("big");
    let file = File::options().read(true).write(true).open(&path)?;
    let block = at / 4096 * 4096;
    let begun = std::time::Instant::now();
    let mut bytes = vec![0; 4096];
    let failed = file.read_exact_at(&mut bytes, block).err().and_then(|error| error.raw_os_error());
    ensure!(failed == Some(rustix::io::Errno::IO.raw_os_error()), "reading the bad block: {failed:?}");
    ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?} to say so", begun.elapsed());
    for offset in (0..40_000_000_u64).step_by(4096).filter(|offset| *offset != block) {
        let len = 4096.min(40_000_000 - offset) as usize;
        file.read_exact_at(&mut bytes[..len], offset).with_context(|| format!("block at {offset}"))?;
        ensure!(bytes[..len] == seed::bytes(99, offset, len), "the block at {offset} reads wrong");
    }
    let status = cluster.status_json()?;
    ensure!(status::brick_sum(&status, "lost_blocks")? == 2, "the lost block is not counted: {status}");
    let check = |cluster: &Cluster| {
        let run = cluster.command("check")?.arg("--data").arg(cluster.data()).arg("--data-too");
        run.limit(HEAL_LIMIT).run()
    };
    let said = check(&cluster)?.exited_with(&[1])?.text();
    ensure!(said.matches("problem: corrupt: chunk").count() == 2, "{said}");
    let told = |cluster: &Cluster| {
        let lines = cluster.log().lines();
        lines.iter().filter(|line| line.contains("a block is corrupt, and no member")).count()
    };
    ensure!(told(&cluster) == 2, "the lost block is told {} times, not once a brick", told(&cluster));

    // Written again, it is as any other.
    file.write_all_at(&seed::bytes(99, block, 4096), block)?;
    file.sync_all()?;
    drop(file);
    verify(&dir)?;
    check(&cluster)?.success()?;
    wait::until_true("nothing is lost any more", HEAL_LIMIT, || {
        Ok(status::brick_sum(&cluster.status_json()?, "lost_blocks")? == 0)
    })?;
    cluster.finish()
}

/// A directory with the last copy of something is not made anew unasked: its disk may only not be mounted. The other
/// chains are served meanwhile.
#[test]
fn the_last_copy_is_not_made_anew_unasked() -> Result<()> {
    let mut cluster = Cluster::start(Options { bricks: Some(3), ..Options::default() })?;
    cluster.allow_log("");
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    cluster.stop()?;
    let all = bricks(&cluster)?;
    let holders = holders(&cluster)?;
    let aside = |brick: &PathBuf| brick.with_extension("aside");
    for brick in &all[..2] {
        std::fs::rename(brick, aside(brick))?;
    }
    cluster.up()?;
    ensure!(cluster.log().warned("directory is gone, and nobody else has all data"), "it was not said");
    ensure!(all[..2].iter().all(|brick| !brick.exists()), "a directory was made anew");
    for number in 0..60_u64 {
        let path = dir.join(format!("file-{number}"));
        let ino = std::fs::metadata(&path)?.ino();
        if holders.get(&ino).is_some_and(|bricks| bricks.contains(&all[2])) {
            ensure!(
                std::fs::read(&path)? == seed::bytes(100 + number, 0, 300_000),
                "file-{number} reads wrong"
            );
        }
    }
    cluster.stop()?;
    for brick in &all[..2] {
        std::fs::rename(aside(brick), brick)?;
    }
    cluster.up()?;
    verify(&dir)?;
    wait_until_whole(&cluster)?;
    cluster.check()?;
    cluster.finish()
}

/// Which bricks have content of which file, as their stopped disks tell it: bricks by inode.
fn holders(cluster: &Cluster) -> Result<BTreeMap<u64, Vec<PathBuf>>> {
    let mut holders: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for brick in bricks(cluster)? {
        let out = cluster.workshop().dir("salvaged")?;
        Run::new(binary()?).arg("salvage").arg(&brick).arg("--out").arg(&out).ok()?;
        for entry in std::fs::read_dir(&out)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name == ".brickyard-salvage" {
                continue;
            }
            let digits: String =
                name.trim_start_matches("ino-").chars().take_while(char::is_ascii_digit).collect();
            let ino = digits.parse().with_context(|| format!("no inode in the name {name}"))?;
            let bricks = holders.entry(ino).or_default();
            if bricks.last() != Some(&brick) {
                bricks.push(brick.clone());
            }
        }
        std::fs::remove_dir_all(&out)?;
    }
    Ok(holders)
}

/// The bricks with what the scheduler needs cannot be read: it cannot run, and is tried again; files on other
/// chains are served, a stop is a clean one, and with the bricks back everything goes on.
#[test]
fn a_lost_chain_keeps_nobody_from_the_rest() -> Result<()> {
    let mut cluster = Cluster::start(Options::with_scheduler(1))?;
    // Half of the cluster is in trouble, and says so.
    cluster.allow_log("");
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    let journal = std::fs::read_dir(cluster.mount().join(".cluster/jobs/journal"))?
        .next()
        .context("the master has no journal")??
        .metadata()?
        .ino();
    let inos = (0..60_u64)
        .map(|number| Ok((number, std::fs::metadata(dir.join(format!("file-{number}")))?.ino())))
        .collect::<Result<Vec<_>>>()?;
    cluster.stop()?;
    let holders = holders(&cluster)?;
    let lost = holders.get(&journal).context("the journal is on no brick")?;
    ensure!(lost.len() == 2, "the journal is on {lost:?}");
    let readable: Vec<u64> = inos
        .into_iter()
        .filter(|(_, ino)| holders.get(ino).is_some_and(|bricks| bricks != lost))
        .map(|(number, _)| number)
        .collect();
    ensure!(readable.len() > 10, "only {readable:?} are elsewhere");
    let aside = |brick: &PathBuf| (brick.join("journal.0"), brick.join("journal.0.aside"));
    for (journal, aside) in lost.iter().map(aside) {
        std::fs::rename(journal, aside)?;
    }
    cluster.up()?;
    for number in readable {
        let content = std::fs::read(dir.join(format!("file-{number}")))?;
        ensure!(content == seed::bytes(100 + number, 0, 300_000), "file-{number} reads wrong");
    }
    ensure!(cluster.log().warned("scheduler cannot be started"), "nothing is said about the scheduler");
    cluster.stop()?;
    for (journal, aside) in lost.iter().map(aside) {
        std::fs::rename(aside, journal)?;
    }
    cluster.up()?;
    verify(&dir)?;
    let job = cluster.command("qsub")?.args(["-sync", "y", "-b", "y", "-o", "/dev/null", "-j", "y", "true"]);
    job.limit(HEAL_LIMIT).ok()?;
    wait_until_whole(&cluster)?;
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

/// A chain lost both its disks, and data waits for it: SIGTERM gives that up in time for any service manager, says how much it was,
/// and has written all else. When the disks are back, what was synced is there.
#[test]
fn a_stop_waits_for_an_unavailable_chain_only_so_long() -> Result<()> {
    const STOP_MAX: Duration = Duration::from_secs(30);
    let mut cluster = Cluster::start(Options::default())?;
    for words in ["brick", "chain", "hangs", "unreachable", "lease", "lost", "commit", "still in use"] {
        cluster.allow_log(words);
    }
    let dir = cluster.dir("files")?;
    fill(&dir)?;
    for entry in std::fs::read_dir(&dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    let away: Vec<(PathBuf, PathBuf)> = bricks(&cluster)?
        .into_iter()
        .take(2)
        .map(|brick| (brick.clone(), brick.with_extension("away")))
        .collect();
    for (brick, aside) in &away {
        std::fs::rename(brick, aside)?;
    }
    wait::until_true("a chain is unavailable", Duration::from_secs(60), || {
        Ok(status::health(&cluster.status_json()?)? == "unavailable")
    })?;
    // A chunk and more for every chain; of the one that is away that is less than makes writers wait.
    // It stays open: closing would wait for it.
    let late = File::create(dir.join("late"))?;
    late.write_all_at(&seed::bytes(57, 0, 80_000_000), 0)?;
    let begun = Instant::now();
    let ended = cluster.stop_somehow(STOP_MAX)?;
    println!("stopped after {:?}", begun.elapsed());
    drop(late);
    ensure!(ended.code() == Some(1), "{ended}:\n{}", cluster.log().tail(40));
    let tail = cluster.log().tail(3);
    ensure!(tail.lines().any(|l| l.starts_with("brickyard: ") && l.contains("are not written")), "{tail}");
    for (brick, aside) in &away {
        std::fs::rename(aside, brick)?;
    }
    cluster.up()?;
    verify(&dir)?;
    wait_until_whole(&cluster)?;
    cluster.check()?;
    cluster.finish()
}
