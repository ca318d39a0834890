//! Trees of files: counted, compared, fingerprinted.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::run::Run;

/// What a name in a tree is, as far as two copies must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// File type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Bytes; 0 for directories, whose size means something else on each filesystem.
    pub size: u64,
    /// Modification time in nanoseconds.
    pub mtime_ns: i128,
    /// Target of a symbolic link, or device number.
    pub target: String,
    /// FNV-1a of the content of a regular file.
    pub content: u64,
}

/// Every name below `root` with what it is. Names that are not UTF-8 are shown with replacements.
pub fn list(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    walk(root, root, &mut entries)?;
    Ok(entries)
}

fn walk(root: &Path, dir: &Path, entries: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    for item in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = item?.path();
        let meta = path.symlink_metadata().with_context(|| format!("cannot stat {}", path.display()))?;
        let kind = meta.file_type();
        let target = if kind.is_symlink() {
            std::fs::read_link(&path)?.to_string_lossy().into_owned()
        } else if kind.is_block_device() || kind.is_char_device() {
            meta.rdev().to_string()
        } else {
            String::new()
        };
        let content = if kind.is_file() { hash_file(&path)? } else { 0 };
        entries.insert(
            path.strip_prefix(root)?.to_path_buf(),
            Entry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                size: if kind.is_dir() { 0 } else { meta.size() },
                mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
                target,
                content,
            },
        );
        if kind.is_dir() {
            walk(root, &path, entries)?;
        }
    }
    Ok(())
}

/// FNV-1a over a file's content.
pub fn hash_file(path: &Path) -> Result<u64> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(hash);
        }
        for byte in &buffer[..count] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Fails with the first differences unless both trees agree in everything an [`Entry`] holds.
pub fn same(left: &Path, right: &Path) -> Result<()> {
    ensure_same(&list(left)?, &list(right)?)
}

/// Fails with the first differences unless both listings agree.
pub fn ensure_same(left: &BTreeMap<PathBuf, Entry>, right: &BTreeMap<PathBuf, Entry>) -> Result<()> {
    let mut differences = Vec::new();
    for (path, entry) in left {
        match right.get(path) {
            None => differences.push(format!("{} is missing", path.display())),
            Some(other) if other != entry => {
                differences.push(format!("{}: {entry:?} became {other:?}", path.display()));
            }
            Some(_) => {}
        }
    }
    for path in right.keys().filter(|path| !left.contains_key(*path)) {
        differences.push(format!("{} came from nowhere", path.display()));
    }
    let shown = &differences[..differences.len().min(20)];
    ensure!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
    Ok(())
}

/// `diff -r` of two trees, the judgement of a program nobody here wrote.
pub fn diff(left: &Path, right: &Path) -> Result<()> {
    let run = Run::new("diff").args(["-r", "--no-dereference"]).arg(left).arg(right);
    run.limit(std::time::Duration::from_secs(300)).ok().context("the trees differ")?;
    Ok(())
}
