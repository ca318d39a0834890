//! Files off the bricks of a cluster that runs no more.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::wait::until_true;
use brickyard_tests::{Cluster, Options, Run, seed};

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
