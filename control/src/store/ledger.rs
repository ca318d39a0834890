//! The accounting file: one line a finished run, exactly once.
//!
//! A run's end is journaled together with its line and the line's offset in the file; only then the line is written, there.
//! After a crash the lines of the journal's tail are written again: at the same place the same bytes, which changes
//! nothing when they are there. Lines before the snapshot need no second look, as the file is synced before each snapshot.
//!
//! The administrator may move the file away to rotate it. The next batch then begins a new one. Only if the master crashed
//! between journal and file at the same moment, the lines in question are looked for in the moved files (`accounting.*`) too.
//!
//! 1. Writing a line again never doubles it, wherever the first try stopped. `a_line_is_there_once_wherever_the_first_try_stopped`

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::OFlags;

use crate::error::{At, Result};
use crate::layout::Layout;
use crate::plan::Ledger;
use crate::store::disk::{self, Disk};

/// Largest accounting file searched for a line whose place is gone.
const SEARCH_MAX: u64 = 1 << 30;

/// The accounting file, open for its only writer.
#[derive(Debug)]
pub(crate) struct LedgerFile {
    disk: Disk,
    path: PathBuf,
    file: File,
    ino: u64,
    end: u64,
    /// Places were given that aren't written yet.
    placed: bool,
    dirty: bool,
}

impl LedgerFile {
    /// Opens it, making it if need be.
    pub fn open(disk: &Disk, layout: &Layout) -> Result<LedgerFile> {
        let path = layout.accounting();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .at("open", &path)?;
        let meta = file.metadata().at("stat", &path)?;
        Ok(LedgerFile {
            disk: disk.clone(),
            path,
            file,
            ino: meta.ino(),
            end: meta.len(),
            placed: false,
            dirty: false,
        })
    }

    /// Looks whether the file was moved away or cut since the last batch; does nothing within a batch.
    pub fn refresh(&mut self, layout: &Layout) -> Result<()> {
        if self.placed {
            return Ok(());
        }
        let same =
            std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.ino && m.len() == self.end);
        if !same {
            self.sync()?;
            *self = LedgerFile::open(&self.disk, layout)?;
        }
        Ok(())
    }

    /// Gives the next line its place.
    pub fn place(&mut self, line: String) -> Ledger {
        let ledger = Ledger { ino: self.ino, offset: self.end, line };
        self.end += ledger.line.len() as u64;
        self.placed = true;
        ledger
    }

    /// Writes lines whose places were journaled.
    pub fn write<'a>(&mut self, ledgers: impl Iterator<Item = &'a Ledger>) -> Result<()> {
        // Lines of one batch follow each other: one write for all.
        self.placed = false;
        let mut run: Option<(u64, Vec<u8>)> = None;
        for ledger in ledgers {
            match &mut run {
                Some((start, bytes)) if *start + bytes.len() as u64 == ledger.offset => {
                    bytes.extend_from_slice(ledger.line.as_bytes());
                }
                _ => {
                    self.flush(run.take())?;
                    run = Some((ledger.offset, ledger.line.clone().into_bytes()));
                }
            }
        }
        self.flush(run)
    }

    fn flush(&mut self, run: Option<(u64, Vec<u8>)>) -> Result<()> {
        let Some((offset, bytes)) = run else { return Ok(()) };
        self.dirty = true;
        self.disk.write_at(&self.file, &self.path, offset, &bytes)
    }

    /// Puts what was written on stable storage.
    pub fn sync(&mut self) -> Result<()> {
        if self.dirty {
            self.disk.sync_data(&self.file, &self.path)?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Makes sure that the lines of journaled ends are there, after a crash.
    pub fn redo(&mut self, layout: &Layout, ledgers: &[Ledger]) -> Result<()> {
        for ledger in ledgers {
            self.redo_one(layout, ledger)?;
        }
        self.sync()
    }

    fn redo_one(&mut self, layout: &Layout, ledger: &Ledger) -> Result<()> {
        let line = ledger.line.as_bytes();
        if ledger.ino == self.ino && ledger.offset <= self.end {
            let there = usize::try_from((self.end - ledger.offset).min(line.len() as u64)).unwrap_or(0);
            let mut found = vec![0; there];
            self.file.read_exact_at(&mut found, ledger.offset).at("read", &self.path)?;
            // Nothing, a beginning of it, or zeros where a crash lost the data but not the length: (re)write it.
            let blank = found.iter().zip(line).all(|(f, l)| f == l || *f == 0);
            if blank {
                if found != line {
                    self.disk.write_at(&self.file, &self.path, ledger.offset, line)?;
                    self.end = self.end.max(ledger.offset + line.len() as u64);
                }
                // It may be in memory only, from the master before us.
                self.dirty = true;
                return Ok(());
            }
        }
        // The file was moved away or edited: is the line anywhere?
        for name in disk::names(layout.root())? {
            if name == "accounting" || name.starts_with("accounting.") {
                let path = layout.root().join(name);
                let Ok(found) = disk::read_bounded(&path, SEARCH_MAX) else { continue };
                if found.bytes.split_inclusive(|b| *b == b'\n').any(|l| l == line) {
                    return Ok(());
                }
            }
        }
        tracing::info!(line = ledger.line.trim_end(), "accounting line put at the end: its place is gone");
        self.disk.write_at(&self.file, &self.path, self.end, line)?;
        self.end += line.len() as u64;
        self.dirty = true;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layout::tests::cluster;

    #[test]
    fn a_line_is_there_once_wherever_the_first_try_stopped() {
        let lines = ["first line\n", "second, longer line\n", "third\n"];
        let whole = lines.concat();
        for cut in 0..=whole.len() {
            let (_dir, layout) = cluster();
            let mut file = LedgerFile::open(&Disk::default(), &layout).unwrap();
            let ledgers: Vec<Ledger> = lines.iter().map(|l| file.place((*l).to_owned())).collect();
            std::fs::write(layout.accounting(), &whole.as_bytes()[..cut]).unwrap();
            for _ in 0..2 {
                let mut file = LedgerFile::open(&Disk::default(), &layout).unwrap();
                file.redo(&layout, &ledgers).unwrap();
            }
            assert_eq!(std::fs::read_to_string(layout.accounting()).unwrap(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_moved_file_is_followed_by_a_new_one_and_no_line_is_doubled() {
        let (_dir, layout) = cluster();
        let mut file = LedgerFile::open(&Disk::default(), &layout).unwrap();
        let one = file.place("one\n".into());
        file.write([&one].into_iter()).unwrap();
        let moved = layout.root().join("accounting.1");
        std::fs::rename(layout.accounting(), &moved).unwrap();
        file.refresh(&layout).unwrap();
        let two = file.place("two\n".into());
        file.write([&two].into_iter()).unwrap();
        let mut file = LedgerFile::open(&Disk::default(), &layout).unwrap();
        file.redo(&layout, &[one, two]).unwrap();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(layout.accounting()).unwrap(), "two\n");
    }
}
