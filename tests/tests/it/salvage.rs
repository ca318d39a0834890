//! Files off the bricks of a cluster that runs no more.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::wait::until_true;
use brickyard_tests::{Cluster, HostCluster, Options, Run, Shape, seed, tree};

/// `brickyard salvage` of every brick, one after the other into one directory, gives back every file
/// under its name and byte for byte, also the smallest: after a clean stop, and after a kill with the index of one brick lost as well.
#[test]
fn bricks_alone_give_the_files_back() -> Result<()> {
    for killed in [false, true] {
        let mut cluster = Cluster::start(Options::default())?;
        let root = cluster.dir("files")?;
        let mut wanted = BTreeMap::new();
        for (n, len) in
            [1, 100, 4_096, 5_000, 70_000, 1 << 20, 9 << 20, 4 << 20, 123_457].into_iter().enumerate()
        {
            let bytes = seed::bytes(n as u64, 0, len);
            let path = root.join(format!("file-{n}"));
            std::fs::write(&path, &bytes)?;
            std::fs::File::open(&path)?.sync_all()?;
            wanted.insert(format!("files/file-{n}"), bytes);
        }
        // Bricks ask for the names of new files every ten seconds.
        let hints = |brick| std::fs::read_to_string(cluster.data().join(format!("bricks/{brick}/hints")));
        until_true("the bricks know all names", Duration::from_secs(60), || {
            let known = (0..6).map(hints).collect::<std::io::Result<String>>()?;
            Ok(wanted.keys().all(|name| known.matches(&format!(" /{name}\n")).count() >= 2))
        })?;
        if killed {
            cluster.kill9()?;
            let index = cluster.data().join("bricks/2/index");
            std::fs::remove_dir_all(&index)?;
            std::fs::create_dir(&index)?;
        } else {
            cluster.stop()?;
        }
        let out = cluster.workshop().dir("salvaged")?;
        for brick in 0..6 {
            let dir = cluster.data().join(format!("bricks/{brick}"));
            let done = Run::new(binary()?).arg("salvage").arg(&dir).arg("--out").arg(&out).run()?;
            let code = if killed && brick == 2 { 1 } else { 0 };
            ensure!(done.status.code() == Some(code), "brick {brick}: {}{}", done.text(), done.error_text());
            ensure!(done.text().contains("; 0 blocks lost"), "brick {brick}: {}", done.text());
        }
        for (name, bytes) in &wanted {
            let found = std::fs::read(out.join(name)).with_context(|| format!("{name} was not salvaged"))?;
            ensure!(found == *bytes, "{name} is another one when salvaged");
        }
    }
    Ok(())
}

/// `brickyard salvage` of these bricks into one new directory, in this order; what the last one said, and its exit code.
fn into_one(out: &Path, bricks: &[PathBuf]) -> Result<(String, Option<i32>)> {
    let mut last = (String::new(), None);
    for brick in bricks {
        let done = Run::new(binary()?).arg("salvage").arg(brick).arg("--out").arg(out).run()?;
        last = (format!("{}{}", done.text(), done.error_text()), done.status.code());
    }
    Ok(last)
}

/// A brick was away while files were overwritten, shortened and removed, and then nobody serves any more: whichever brick is
/// salvaged first, files are as they were acknowledged last, and those that the brick still has are named.
#[test]
fn a_brick_that_was_away_changes_nothing() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 2, replicas: 2 })?;
    cluster.allow_log("");
    let root = cluster.mountpoint().to_owned();
    let write = |name: &str, bytes: &[u8], at: u64| -> Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(root.join(name))?;
        file.write_all_at(bytes, at)?;
        Ok(file.sync_all()?)
    };
    // Enough of them for the bricks to have something of every chain.
    for n in 0..20 {
        write(&format!("other-{n}"), &seed::bytes(100 + n, 0, 9 << 20), 0)?;
    }
    let names = ["f", "short", "shorter", "deleted"];
    for (n, name) in names.into_iter().enumerate() {
        write(name, &seed::bytes(n as u64, 0, if name == "shorter" { 9 << 20 } else { 3 << 20 }), 0)?;
    }
    let hints = |brick| std::fs::read_to_string(cluster.brick_dir(brick).join("hints"));
    until_true("the bricks know all names", Duration::from_secs(60), || {
        let known = [hints(0)?, hints(1)?];
        Ok(names.iter().all(|name| known.iter().all(|known| known.contains(&format!(" /{name}\n")))))
    })?;
    cluster.bricks[1].kill9()?;
    let new = seed::bytes(9, 0, 3 << 20);
    write("f", &new, 0)?;
    for name in ["short", "shorter"] {
        let file = std::fs::OpenOptions::new().write(true).open(root.join(name))?;
        file.set_len(1 << 20)?;
        file.sync_all()?;
    }
    std::fs::remove_file(root.join("deleted"))?;
    // What is freed is freed in the background.
    until_true("what was removed is off the brick", Duration::from_secs(60), || {
        let out = cluster.workshop().path().join("probe");
        let code = into_one(&out, &[cluster.brick_dir(0)])?.1;
        let len = std::fs::metadata(out.join("shorter")).map(|found| found.len());
        let gone = !out.join("deleted").exists() && len.is_ok_and(|len| len == 1 << 20);
        if out.exists() {
            std::fs::remove_dir_all(&out)?;
        }
        Ok(gone && code == Some(0))
    })?;
    cluster.stop()?;
    let mut found = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let out = cluster.workshop().path().join(format!("salvaged-{}", order[0]));
        let (text, code) = into_one(&out, &order.map(|n| cluster.brick_dir(n)))?;
        ensure!(std::fs::read(out.join("f"))? == new, "f is not what was synced last: {text}");
        for (n, name) in [(1, "short"), (2, "shorter")] {
            let bytes = std::fs::read(out.join(name))?;
            ensure!(bytes == seed::bytes(n, 0, 1 << 20), "{name} is not what it was cut to: {text}");
        }
        ensure!(
            text.contains("\ndeleted: brick-0 had a part of it") || text.starts_with("deleted: brick-0"),
            "{text}"
        );
        let kept = std::fs::metadata(out.join("shorter.from-brick-1"))?.len();
        ensure!(text.contains("shorter: ") && kept == 9 << 20 && code == Some(1), "{kept} {code:?}: {text}");
        ensure!(!text.contains("f:") && !text.contains("short:"), "{text}");
        std::fs::remove_dir_all(out.join(".brickyard-salvage"))?;
        found.push(tree::list(&out)?);
    }
    for list in &mut found {
        list.values_mut().for_each(|entry| entry.mtime_ns = 0);
    }
    ensure!(found[0] == found[1], "the order of the bricks matters");
    cluster.finish()
}

/// One byte of the journal is another one: the brick says what to do, and salvage gives no older content without naming it.
#[test]
fn a_damaged_journal_is_told() -> Result<()> {
    let mut cluster = HostCluster::start(Shape { bricks: 1, replicas: 1 })?;
    cluster.allow_log("");
    let mut wanted = BTreeMap::new();
    for round in 0..4 {
        for n in 0..10_u64 {
            let path = cluster.mountpoint().join(format!("s{n}"));
            let bytes = seed::bytes(round * 10 + n, 0, 40_000);
            let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            wanted.insert(format!("s{n}"), bytes);
        }
    }
    let dir = cluster.brick_dir(0);
    until_true("the brick knows all names", Duration::from_secs(60), || {
        let known = std::fs::read_to_string(dir.join("hints"))?;
        Ok(wanted.keys().all(|name| known.contains(&format!(" /{name}\n"))))
    })?;
    cluster.bricks[0].kill9()?;
    let journal = std::fs::OpenOptions::new().read(true).write(true).open(dir.join("journal.0"))?;
    let bytes = std::fs::read(dir.join("journal.0"))?;
    let records: Vec<usize> =
        (8192..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"BYJR")).collect();
    ensure!(records.len() > 20, "{} records", records.len());
    for (round, share) in [0.2, 0.6, 0.9].into_iter().enumerate() {
        let at = records[(records.len() as f64 * share) as usize] + 100;
        journal.write_all_at(&[bytes[at] ^ 4], at as u64)?;
        let out = cluster.workshop().path().join(format!("salvaged-{round}"));
        let (text, code) = into_one(&out, std::slice::from_ref(&dir))?;
        ensure!(code == Some(1) && text.contains("a part of the journal is lost"), "{text}");
        ensure!(!text.contains("`brickyard salvage`"), "{text}");
        let mut right = 0;
        for (name, bytes) in &wanted {
            let named = text.lines().any(|line| line.starts_with(&format!("{name}:")));
            let same = std::fs::read(out.join(name)).is_ok_and(|found| found == *bytes);
            ensure!(same || named, "{name} is another one and not named: {text}");
            right += usize::from(same);
        }
        ensure!(right > 0, "nothing is right: {text}");
        if round == 0 {
            let refused =
                cluster.bricks[0].start().err().map(|error| format!("{error:#}")).unwrap_or_default();
            let log = cluster.bricks[0].log().tail(40);
            for words in ["the journal is damaged: ", "`brickyard brick --replace` in an empty directory"] {
                ensure!(refused.contains(words) || log.contains(words), "{words}: {refused} {log}");
            }
        }
        journal.write_all_at(&[bytes[at]], at as u64)?;
    }
    cluster.bricks[0].start()?;
    cluster.finish()
}
