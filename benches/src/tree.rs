//! A tree like a source package: stored, looked through, read back, removed.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::cold::drop_caches;
use crate::measure::{Scale, Unit, Workload};
use crate::sequential::fill;

/// Files a directory, as source trees have them.
const FILES_A_DIRECTORY: usize = 20;
/// No file of the tree is larger.
const MAX_BYTES: usize = 256 * 1024;

/// A tree of many files, stored as tar stores it, which syncs nothing (and a FUSE filesystem is not told of
/// `syncfs`); files of 100 bytes to 256 KiB, most of them small.
#[derive(Debug)]
pub struct Tree;

/// The size of a file: exponentially spread, so that half are below 5 KiB.
fn size_of(number: usize) -> usize {
    let mut eight = [0; 8];
    fill(number as u64 + 1, &mut eight);
    let part = u64::from_le_bytes(eight) as f64 / u64::MAX as f64;
    (100.0 * (MAX_BYTES as f64 / 100.0).powf(part)) as usize
}

fn content(number: usize) -> Vec<u8> {
    let mut bytes = vec![0; size_of(number).next_multiple_of(8)];
    fill(number as u64, &mut bytes);
    bytes.truncate(size_of(number));
    bytes
}

impl Workload for Tree {
    fn rows(&self) -> Vec<(String, Unit)> {
        ["tree: store, as tar does", "tree: find + stat, cold", "tree: read + compare, cold", "tree: remove"]
            .map(|name| (name.to_owned(), Unit::Seconds))
            .into()
    }

    fn run(&self, dir: &Path, scale: &Scale) -> Result<Vec<f64>> {
        let root = dir.join("tree");
        let contents: Vec<Vec<u8>> = (0..scale.tree_files).map(content).collect();
        let path = |number: usize| root.join(format!("dir-{}/file-{number}", number / FILES_A_DIRECTORY));
        let mut figures = Vec::new();
        let start = Instant::now();
        std::fs::create_dir(&root)?;
        for (number, bytes) in contents.iter().enumerate() {
            if number % FILES_A_DIRECTORY == 0 {
                std::fs::create_dir(root.join(format!("dir-{}", number / FILES_A_DIRECTORY)))?;
            }
            File::create_new(path(number))?.write_all(bytes)?;
        }
        figures.push(start.elapsed().as_secs_f64());
        drop_caches()?;
        let start = Instant::now();
        let found = count(&root)?;
        ensure!(found == scale.tree_files, "the tree has {found} files, not {}", scale.tree_files);
        figures.push(start.elapsed().as_secs_f64());
        drop_caches()?;
        let start = Instant::now();
        for (number, bytes) in contents.iter().enumerate() {
            ensure!(std::fs::read(path(number))? == *bytes, "wrong bytes in file {number}");
        }
        figures.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        std::fs::remove_dir_all(&root)?;
        figures.push(start.elapsed().as_secs_f64());
        Ok(figures)
    }
}

/// Looks at every name below; how many are files.
fn count(dir: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        files += if meta.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes are those of a source tree: most small, some large, none too large.
    #[test]
    fn most_files_are_small() {
        let mut sizes: Vec<usize> = (0..1000).map(size_of).collect();
        sizes.sort_unstable();
        assert!(sizes[0] >= 100 && sizes[999] <= MAX_BYTES);
        assert!((2_000..10_000).contains(&sizes[500]), "median {}", sizes[500]);
    }
}
