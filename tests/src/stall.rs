//! A steady writer and a steady reader, and the longest time either of them had to wait.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::seed;

/// Bytes of one step.
const STEP: usize = 64 << 10;

/// What was found out.
#[derive(Debug, Clone, Copy)]
pub struct Stalls {
    /// Longest write with fdatasync.
    pub write: Duration,
    /// Longest open, read, close.
    pub read: Duration,
    /// Writes done.
    pub writes: u64,
    /// Reads done.
    pub reads: u64,
}

/// Both at work until told to stop.
pub struct Steady {
    stop: Arc<AtomicBool>,
    counts: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<Result<Duration>>>,
}

fn pace(stop: &AtomicBool, count: &AtomicU64, mut step: impl FnMut(u64) -> Result<()>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        step(count.load(Ordering::Relaxed))?;
        longest = longest.max(begun.elapsed());
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(longest)
}

impl Steady {
    /// Steps of the file they work on: 64 chunks' worth would be slow to make, so 32 MiB.
    pub const STEPS: u64 = 512;

    /// Makes the files, then starts both.
    pub fn start(dir: &Path) -> Result<Steady> {
        let source = dir.join("steady-read");
        let written = dir.join("steady-write");
        let file = File::create(&source).with_context(|| format!("cannot make {}", source.display()))?;
        for step in 0..Steady::STEPS {
            file.write_all_at(&seed::bytes(7, step * STEP as u64, STEP), step * STEP as u64)?;
        }
        file.sync_all()?;
        let stop = Arc::new(AtomicBool::new(false));
        let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let threads = vec![
            std::thread::spawn({
                let (stop, count) = (stop.clone(), counts[0].clone());
                move || writer(&written, &stop, &count).context("the steady writer")
            }),
            std::thread::spawn({
                let (stop, count) = (stop.clone(), counts[1].clone());
                move || reader(source, &stop, &count).context("the steady reader")
            }),
        ];
        Ok(Steady { stop, counts, threads })
    }

    /// Waits until each has done so many more steps.
    pub fn advance(&self, steps: u64, limit: Duration) -> Result<()> {
        let goals: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed) + steps).collect();
        crate::wait::until_true("writer and reader go on", limit, || {
            if let Some(ended) = self.threads.iter().find(|thread| thread.is_finished()) {
                anyhow::bail!("{:?} ended early", ended.thread().id());
            }
            Ok(self.counts.iter().zip(&goals).all(|(count, goal)| count.load(Ordering::Relaxed) >= *goal))
        })
    }

    /// Ends both; an error of either is the result.
    pub fn finish(self) -> Result<Stalls> {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Vec::new();
        for thread in self.threads {
            longest.push(thread.join().map_err(|_| anyhow::anyhow!("a steady thread panicked"))??);
        }
        let count = |at: usize| self.counts[at].load(Ordering::Relaxed);
        Ok(Stalls { write: longest[0], read: longest[1], writes: count(0), reads: count(1) })
    }
}

fn writer(path: &Path, stop: &AtomicBool, count: &AtomicU64) -> Result<Duration> {
    let file = File::create(path)?;
    pace(stop, count, |step| {
        let at = (step % Steady::STEPS) * STEP as u64;
        file.write_all_at(&seed::bytes(8 + step / Steady::STEPS, at, STEP), at)?;
        Ok(file.sync_data()?)
    })
}

fn reader(path: PathBuf, stop: &AtomicBool, count: &AtomicU64) -> Result<Duration> {
    let mut buffer = vec![0; STEP];
    pace(stop, count, |step| {
        // Past the kernel's memory, so that every step asks a brick.
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = File::options().read(true).custom_flags(direct).open(&path)?;
        let at = (step.wrapping_mul(0x9e37_79b9) % Steady::STEPS) * STEP as u64;
        file.read_exact_at(&mut buffer, at)?;
        ensure!(buffer == seed::bytes(7, at, STEP), "wrong bytes at {at}");
        Ok(())
    })
}
