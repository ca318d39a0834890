//! Namespaces that are damaged on purpose while they are stopped, and mended while they are in use.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::run::Done;
use brickyard_tests::{Cluster, Options, seed};
use namespace::machine::txn::load;
use namespace::store::db::Db;
use namespace::store::records::{Entry, Inode, encode};
use namespace::store::{Read, Write, keys};
use wire::id::Ino;
use wire::meta::{FileKind, Name};

/// Longest time that a check, or a repair with its checks, may take.
const CHECK_LIMIT: Duration = Duration::from_secs(120);

fn check(cluster: &Cluster, options: &[&str]) -> Result<Done> {
    let run = cluster.command("check")?.arg("--data").arg(cluster.data());
    options.iter().fold(run, |run, option| run.arg(option)).limit(CHECK_LIMIT).run()
}

/// Changes of records, by key.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn name(text: &str) -> Result<Name> {
    Ok(Name::new(text.as_bytes().to_vec())?)
}

fn entry(db: &Db, parent: Ino, text: &str) -> Result<Entry> {
    load(db, &keys::entry(parent, &name(text)?))?.with_context(|| format!("there is no {text}"))
}

/// Damages a namespace that is stopped.
fn damage(cluster: &Cluster, how: impl FnOnce(&Db, &mut Changes) -> Result<()>) -> Result<()> {
    let db = Db::open(&cluster.data().join("namespace"))?;
    let mut changes = Changes::new();
    how(&db, &mut changes)?;
    db.write(&changes)?;
    Ok(db.flush()?)
}

fn content(number: u64) -> Vec<u8> {
    seed::bytes(number, 0, 70_000)
}

fn write(path: &Path, number: u64) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&content(number))?;
    Ok(file.sync_all()?)
}

fn read(path: &Path, number: u64) -> Result<()> {
    let found = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(found == content(number), "{} has other bytes", path.display());
    Ok(())
}

/// A name, a directory, a link count and a whole directory's name are lost: all is there again, in its place or in
/// `lost+found`, with every byte, while others write; and what was done is told.
#[test]
fn a_damaged_namespace_is_mended_while_it_is_in_use() -> Result<()> {
    let mut cluster = Cluster::start(Options { more: vec!["--shared".into()], ..Options::default() })?;
    let root = cluster.dir("tree")?;
    // Others write in a directory of their own: one that changes all the time keeps a wrong count until it rests.
    for dir in ["unlisted", "unrecorded", "unnamed", "busy"] {
        std::fs::create_dir(root.join(dir))?;
    }
    for (number, path) in
        ["unlisted/a", "unrecorded/b", "unnamed/c", "counted", "unmoored"].iter().enumerate()
    {
        write(&root.join(path), number as u64)?;
    }
    std::fs::hard_link(root.join("counted"), root.join("again"))?;
    let unmoored = std::fs::metadata(root.join("unmoored"))?.ino();
    let unnamed = std::fs::metadata(root.join("unnamed"))?.ino();
    check(&cluster, &[])?.exited_with(&[0])?;
    cluster.stop()?;
    damage(&cluster, |db, changes| {
        let tree = entry(db, Ino::ROOT, "tree")?.ino;
        let unlisted = entry(db, tree, "unlisted")?.ino;
        changes.insert(keys::entry(unlisted, &name("a")?), None);
        let unrecorded = entry(db, tree, "unrecorded")?;
        ensure!(unrecorded.kind == FileKind::Directory);
        changes.insert(keys::inode(unrecorded.ino), None);
        let counted = entry(db, tree, "counted")?.ino;
        let mut inode: Inode = load(db, &keys::inode(counted))?.context("no inode")?;
        inode.nlink = 9;
        changes.insert(keys::inode(counted), Some(encode(&inode)?));
        for lost in ["unmoored", "unnamed"] {
            let entry = entry(db, tree, lost)?;
            changes.insert(keys::entry(tree, &name(lost)?), None);
            changes.insert(keys::listed(tree, entry.cookie), None);
            ensure!(db.get(&keys::place(entry.ino))?.is_some(), "no place of {lost}");
            changes.insert(keys::place(entry.ino), None);
        }
        Ok(())
    })?;
    cluster.up()?;
    let said = check(&cluster, &[])?.exited_with(&[1])?.text();
    ensure!(said.contains("NOT CONSISTENT") && said.contains("`brickyard check --repair` mends"), "{said}");
    let is_over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| -> Result<String> {
        let others = scope.spawn(|| -> Result<u64> {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                let (new, kept) = (root.join("busy/new"), root.join(format!("busy/kept-{}", number % 7)));
                write(&new, number)?;
                std::fs::rename(&new, &kept)?;
                read(&kept, number)?;
                number += 1;
            }
            Ok(number)
        });
        let repaired = check(&cluster, &["--repair"]);
        is_over.store(true, Ordering::Relaxed);
        let done = others.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        ensure!(done > 0, "nothing was written meanwhile");
        Ok(repaired?.exited_with(&[3])?.text())
    })?;
    let lost = cluster.mount().join("lost+found");
    let kept = lost.join(format!("#{unnamed}"));
    for told in [
        "has the name".to_owned(),
        "was made anew".to_owned(),
        "is 2, and was 9: /tree/again".to_owned(),
        format!("lost+found: /lost+found/#{unmoored}"),
        format!("lost+found: /lost+found/#{unnamed}"),
        "consistent: ".to_owned(),
    ] {
        ensure!(said.contains(&told), "{told} is missing: {said}");
    }
    check(&cluster, &["--repair", "--data-too"])?.exited_with(&[0])?;
    let whole = |cluster: &Cluster| -> Result<()> {
        read(&root.join("unlisted/a"), 0)?;
        read(&root.join("unrecorded/b"), 1)?;
        read(&kept.join("c"), 2)?;
        read(&root.join("counted"), 3)?;
        read(&root.join("again"), 3)?;
        read(&lost.join(format!("#{unmoored}")), 4)?;
        ensure!(std::fs::metadata(root.join("again"))?.nlink() == 2);
        ensure!(std::fs::metadata(&lost)?.mode() & 0o7777 == 0o700, "others may look into lost+found");
        cluster.check().map(|_| ())
    };
    whole(&cluster)?;
    // What was kept is moved where it belongs, as any file.
    std::fs::rename(&kept, root.join("unnamed"))?;
    std::fs::rename(root.join("unnamed"), &kept)?;
    cluster.restart()?;
    whole(&cluster)?;
    cluster.finish()
}
