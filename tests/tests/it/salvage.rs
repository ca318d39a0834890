//! Files off the bricks of a cluster that runs no more.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::{Cluster, Options, Run, seed};

/// `brickyard salvage` of every brick, one after the other into one directory, gives back every file
/// byte for byte, also the smallest: after a clean stop, and after a kill with the index of one brick lost as well.
#[test]
fn bricks_alone_give_the_files_back() -> Result<()> {
    for killed in [false, true] {
        let mut cluster = Cluster::start(Options::default())?;
        let root = cluster.dir("files")?;
        let mut wanted = BTreeSet::new();
        for (n, len) in
            [1, 100, 4_096, 5_000, 70_000, 1 << 20, 9 << 20, 4 << 20, 123_457].into_iter().enumerate()
        {
            let bytes = seed::bytes(n as u64, 0, len);
            let path = root.join(format!("file-{n}"));
            std::fs::write(&path, &bytes)?;
            std::fs::File::open(&path)?.sync_all()?;
            wanted.insert(bytes);
        }
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
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&out)? {
            let entry = entry?;
            ensure!(entry.file_name().to_string_lossy().starts_with("ino-"), "{:?}", entry.file_name());
            found.insert(std::fs::read(entry.path())?);
        }
        let lost = wanted.iter().filter(|bytes| !found.contains(*bytes)).count();
        ensure!(lost == 0, "{lost} of {} files are not among the {} salvaged", wanted.len(), found.len());
    }
    Ok(())
}
