//! Names: created, looked at, listed, renamed and removed, by one thread and by four.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cold::drop_caches;
use crate::measure::{Scale, Unit, Workload, rate};

/// Each thread in a directory of its own, all phases together.
#[derive(Debug)]
pub struct Metadata {
    /// How many threads.
    pub threads: usize,
}

/// What is done to each name, in this order; the directory is full from the first to the last.
const PHASES: [(&str, Phase); 7] = [
    ("create empty file", Phase::Create),
    ("stat, cold", Phase::Stat),
    ("readdir, cold", Phase::List),
    ("rename", Phase::Rename),
    ("unlink", Phase::Unlink),
    ("mkdir", Phase::MakeDir),
    ("rmdir", Phase::RemoveDir),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Create,
    Stat,
    List,
    Rename,
    Unlink,
    MakeDir,
    RemoveDir,
}

impl Phase {
    fn work(self, dir: &Path, names: usize) -> Result<()> {
        let file = |number: usize| dir.join(format!("file-{number}"));
        let renamed = |number: usize| dir.join(format!("renamed-{number}"));
        if self == Self::List {
            let mut count = 0;
            for entry in std::fs::read_dir(dir)? {
                entry?;
                count += 1;
            }
            ensure!(count == names, "{} lists {count} names, not {names}", dir.display());
            return Ok(());
        }
        for number in 0..names {
            match self {
                Self::Create => drop(File::create_new(file(number))?),
                Self::Stat => ensure!(std::fs::symlink_metadata(file(number))?.is_file(), "not a file"),
                Self::Rename => std::fs::rename(file(number), renamed(number))?,
                Self::Unlink => std::fs::remove_file(renamed(number))?,
                Self::MakeDir => std::fs::create_dir(file(number))?,
                Self::RemoveDir => std::fs::remove_dir(file(number))?,
                Self::List => {}
            }
        }
        Ok(())
    }

    fn is_cold(self) -> bool {
        matches!(self, Self::Stat | Self::List)
    }
}

impl Workload for Metadata {
    fn rows(&self) -> Vec<(String, Unit)> {
        let who = if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        PHASES.iter().map(|(name, _)| (format!("{name}, {who}"), Unit::PerSecond)).collect()
    }

    fn run(&self, dir: &Path, scale: &Scale) -> Result<Vec<f64>> {
        let dirs: Vec<PathBuf> =
            (0..self.threads).map(|thread| dir.join(format!("thread-{thread}"))).collect();
        for dir in &dirs {
            std::fs::create_dir(dir)?;
        }
        let mut figures = Vec::new();
        for (name, phase) in PHASES {
            if phase.is_cold() {
                drop_caches()?;
            }
            figures.push(together(&dirs, phase, scale.names).with_context(|| name)?);
        }
        Ok(figures)
    }
}

/// All threads begin at one moment; the rate is that of all until the last ends.
fn together(dirs: &[PathBuf], phase: Phase, names: usize) -> Result<f64> {
    let barrier = Barrier::new(dirs.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = dirs
            .iter()
            .map(|dir| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    phase.work(dir, names)
                })
            })
            .collect();
        // Before the barrier: threads may be done before this one runs again.
        let start = Instant::now();
        barrier.wait();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(rate(names * dirs.len(), start))
    })
}
