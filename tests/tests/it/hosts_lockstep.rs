//! One file on two machines, in lock step: whoever opens it after the other one has closed it sees all that was done.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use brickyard_tests::kernel::Mapping;
use brickyard_tests::place::setting;
use brickyard_tests::seed::{self, Rng};
use brickyard_tests::{HostCluster, Shape};
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

/// Longest file: its bytes are in three chunks.
const LONGEST: u64 = 9 << 20;
/// Most bytes of one operation.
const MOST: u64 = 200_000;
/// So often all of the file is read on both machines.
const LOOK_EVERY: u64 = 50;

/// The file, and what is to be in it.
struct Lockstep {
    mounts: [PathBuf; 2],
    model: Vec<u8>,
    rng: Rng,
    step: u64,
}

impl Lockstep {
    fn path(&self, mount: usize) -> PathBuf {
        self.mounts[mount].join("file")
    }

    /// A range that begins in the file, or a little behind its end.
    fn range(&mut self) -> (u64, usize) {
        let at = self.rng.below((self.model.len() as u64 + MOST).min(LONGEST - MOST));
        (at, self.rng.between(1, MOST) as usize)
    }

    /// One that is in the file; none if it is empty.
    fn inner_range(&mut self) -> Option<(u64, usize)> {
        let size = self.model.len() as u64;
        let at = self.rng.below(size);
        (size > 0).then(|| (at, self.rng.between(1, MOST.min(size - at) + 1) as usize))
    }

    fn note(&mut self, at: u64, bytes: &[u8]) {
        let (at, end) = (at as usize, at as usize + bytes.len());
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[at..end].copy_from_slice(bytes);
    }

    /// Does something on one of the mounts; what.
    fn step(&mut self) -> Result<String> {
        self.step += 1;
        let mount = self.rng.below(2) as usize;
        let mut open = OpenOptions::new();
        let path = self.path(mount);
        let file = open.read(true).write(true).open(&path)?;
        let done = match self.rng.below(20) {
            0..6 => {
                let (at, length) = self.range();
                let bytes = seed::bytes(self.step, at, length);
                file.write_all_at(&bytes, at)?;
                self.note(at, &bytes);
                format!("write {length} at {at}")
            }
            6..9 => {
                let length = self.rng.between(1, 5000) as usize;
                let at = self.model.len() as u64;
                let bytes = seed::bytes(self.step, at, length);
                OpenOptions::new().append(true).open(&path)?.write_all(&bytes)?;
                self.note(at, &bytes);
                format!("append {length} at {at}")
            }
            9..11 => {
                let size = self.rng.below(LONGEST);
                file.set_len(size)?;
                self.model.resize(size as usize, 0);
                format!("truncate to {size}")
            }
            11..13 => {
                let (at, length) = self.range();
                fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length as u64)?;
                let end = (at as usize + length).min(self.model.len());
                if let Some(hole) = self.model.get_mut(at as usize..end) {
                    hole.fill(0);
                }
                format!("hole of {length} at {at}")
            }
            13 => {
                let (at, length) = self.range();
                fallocate(&file, FallocateFlags::ZERO_RANGE, at, length as u64)?;
                self.note(at, &vec![0; length]);
                format!("zeros for {length} at {at}")
            }
            14..16 => match self.inner_range() {
                None => "nothing: it is empty".to_owned(),
                Some((at, length)) => {
                    let mut mapping = Mapping::shared(&file, self.model.len())?;
                    let bytes = seed::bytes(self.step, at, length);
                    mapping.write(at as usize, &bytes);
                    mapping.sync()?;
                    self.note(at, &bytes);
                    format!("mapping written, {length} at {at}")
                }
            },
            16 => match self.inner_range() {
                None => "nothing: it is empty".to_owned(),
                Some((at, length)) => {
                    // Not onto itself: that is refused.
                    let to = self.model.len() as u64;
                    let (mut from, mut target) = (at, to);
                    let copied = copy_file_range(&file, Some(&mut from), &file, Some(&mut target), length)?;
                    let bytes = self.model[at as usize..at as usize + copied].to_vec();
                    self.note(to, &bytes);
                    format!("copy {copied} of {length} from {at} to {to}")
                }
            },
            17 => {
                // The other one goes on with the name that this one gave it.
                let other = self.mounts[mount].join("other");
                std::fs::rename(&path, &other)?;
                std::fs::rename(self.mounts[1 - mount].join("other"), self.path(1 - mount))?;
                "rename, and back on the other mount".to_owned()
            }
            _ => match self.inner_range() {
                None => "nothing: it is empty".to_owned(),
                Some((at, length)) => {
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, at)?;
                    ensure!(
                        bytes == self.model[at as usize..at as usize + length],
                        "{length} at {at} read wrong"
                    );
                    format!("read {length} at {at}")
                }
            },
        };
        if self.rng.chance(30) {
            file.sync_all()?;
        }
        drop(file);
        Ok(format!("mount {mount}: {done}"))
    }

    /// Its size is right on both machines, and every so often each byte.
    fn look(&mut self) -> Result<()> {
        for mount in [0, 1] {
            let path = self.path(mount);
            let mut file = File::open(&path)?;
            let size = file.seek(SeekFrom::End(0))?;
            ensure!(size == self.model.len() as u64, "mount {mount}: {size} bytes, not {}", self.model.len());
            if self.step.is_multiple_of(LOOK_EVERY) {
                let read = std::fs::read(&path)?;
                if let Some(at) = (0..read.len()).find(|at| read[*at] != self.model[*at]) {
                    anyhow::bail!("mount {mount}: byte {at} is {}, not {}", read[at], self.model[at]);
                }
            }
        }
        Ok(())
    }
}

fn run(mounts: [&Path; 2], steps: u64, seed: u64) -> Result<()> {
    let mounts = mounts.map(Path::to_owned);
    let mut both = Lockstep { mounts, model: Vec::new(), rng: Rng::new(seed), step: 0 };
    File::create(both.path(0))?;
    let mut done: Vec<String> = Vec::new();
    while both.step < steps {
        let step = both.step();
        let last = step.and_then(|step| both.look().map(|()| step));
        let tail = || {
            format!(
                "step {}, seed {seed}; before it:\n{}",
                both.step,
                done[done.len().saturating_sub(10)..].join("\n")
            )
        };
        let last = last.with_context(tail)?;
        done.push(last);
    }
    Ok(())
}

/// Random operations, each on one of two machines, against a model; `./dev lockstep` asks for a million.
#[test]
fn two_machines_see_one_file() -> Result<()> {
    let (steps, seed) = (setting("BRICKYARD_LOCKSTEP_OPS", 600)?, setting("BRICKYARD_SEED", 42)?);
    let mut cluster = HostCluster::start(Shape { bricks: 3, replicas: 2 })?;
    let there = cluster.add_mount()?;
    let here = cluster.mountpoint().to_owned();
    run([&here, &there], steps, seed)?;
    cluster.check(true)?;
    cluster.finish()
}
