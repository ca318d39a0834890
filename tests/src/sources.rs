//! Trees that somebody else wrote: `/usr/include`, and C sources shipped inside crates.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::run::Run;

/// The issue of a real tree: at least so many files.
pub const MIN_FILES: usize = 5_000;

/// A tree of at least [`MIN_FILES`] files: `/usr/include`, else RocksDB's sources.
pub fn big_tree() -> Result<PathBuf> {
    let include = PathBuf::from("/usr/include");
    let count = count_files(&include);
    ensure!(
        count >= MIN_FILES,
        "/usr/include holds {count} files, this test needs {MIN_FILES}: apt-get install libboost-dev linux-libc-dev"
    );
    Ok(include)
}

/// How many regular files lie below.
pub fn count_files(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            Ok(kind) if kind.is_file() => 1,
            _ => 0,
        })
        .sum()
}

/// The sources of a package of this workspace's lock file, where Cargo unpacked them.
fn package_dir(name: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let run = Run::new("cargo").args(["metadata", "--format-version=1", "--locked", "--offline"]);
    let done = run.cwd(root).ok().context("`cargo metadata` must work offline: run `cargo fetch`")?;
    let metadata: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages in the metadata")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == name)
        .and_then(|package| package["manifest_path"].as_str())
        .with_context(|| format!("{name} is not among this workspace's packages"))?;
    let dir = Path::new(manifest).parent().context("a manifest without a directory")?;
    ensure!(dir.is_dir(), "{} is missing: run `cargo fetch`", dir.display());
    Ok(dir.to_path_buf())
}

/// RocksDB's C++ sources as shipped in its crate.
pub fn rocksdb() -> Result<PathBuf> {
    let dir = package_dir("librocksdb-sys")?.join("rocksdb");
    ensure!(dir.is_dir(), "{} is missing", dir.display());
    Ok(dir)
}

/// The LZ4 library in C, with its makefiles and tests, as shipped in its crate.
pub fn lz4() -> Result<PathBuf> {
    let dir = package_dir("lz4-sys")?.join("liblz4");
    ensure!(dir.join("lib/lz4.c").is_file(), "{} holds no LZ4", dir.display());
    Ok(dir)
}
