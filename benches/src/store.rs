//! The chunk store alone, beside the disk it lies on: no network, no mount.
//!
//! Both sides do the same in turns, in one run: 1 MiB at a time one after the other, and 4 KiB at
//! random by several threads. The disk's side is `pwrite` and `pread` with O_DIRECT on a file of the
//! same size that was written before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use brick_server::store::dir::{FileStore, Held};
use brick_server::store::{ChunkStore, Limits, Pressure, StoreCounters, StoreError};
use bytes::Bytes;
use rustix::fs::OFlags;
use wire::brick::Change;
use wire::chunk::{ChunkKey, DEFAULT_CHUNK_BYTES};
use wire::id::{BrickId, ChainId, ChunkVersion, ClusterId, Ino};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
const CLUSTER: ClusterId = ClusterId([0xbe; 16]);
/// A brick commits by itself at least this often.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Bytes of the data set, in MiB; a multiple of 4.
    pub mib: usize,
    /// Threads of the random part.
    pub threads: usize,
    /// Length of a round of the random part.
    pub round: Duration,
    /// Rounds of everything.
    pub rounds: usize,
}

/// One figure: the store's median and the disk's.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured, with its unit.
    pub name: &'static str,
    /// Of the store.
    pub store: f64,
    /// Of the disk.
    pub disk: f64,
}

/// Everything measured.
#[derive(Debug)]
pub struct Outcome {
    /// The figures.
    pub rows: Vec<Row>,
    /// What the store counted during the random overwrites.
    pub random: StoreCounters,
    /// During random overwrites each of which is committed.
    pub synced: StoreCounters,
    /// MiB/s of reading everything in order after it was overwritten at random.
    pub reread: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Numbers from a seed: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(n).collect()
    }
}

/// Memory that O_DIRECT takes.
struct Buffer {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Buffer {
    fn new(bytes: &[u8]) -> Buffer {
        let mut memory = vec![0; bytes.len() + BLOCK];
        let from = memory.as_ptr().align_offset(BLOCK);
        memory[from..from + bytes.len()].copy_from_slice(bytes);
        Buffer { memory, from, len: bytes.len() }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }
}

/// Both sides.
struct Sides {
    store: FileStore,
    disk: File,
    size: Size,
    dir: PathBuf,
}

impl Sides {
    fn chunk(&self, at: usize) -> (ChunkKey, u32) {
        let chunk = DEFAULT_CHUNK_BYTES as usize;
        (ChunkKey { ino: Ino(1), index: (at / chunk) as u64 }, (at % chunk) as u32)
    }

    fn change(&self, at: usize, data: &Bytes) -> Result<()> {
        let (key, offset) = self.chunk(at);
        let base = self.store.chunk(key)?.map_or(ChunkVersion(0), |header| header.version);
        let prepared = self.store.prepare(key, base, Change::Write { offset }, data)?;
        self.store.publish(prepared, ChainId(1), None, ChunkVersion(base.0 + 1))?;
        Ok(())
    }

    fn per_second(&self, amount: f64, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let begun = Instant::now();
        work()?;
        Ok(amount / begun.elapsed().as_secs_f64())
    }

    fn write_store(&self) -> Result<f64> {
        let data = Bytes::from(Random(1).bytes(MIB));
        self.per_second(self.size.mib as f64, || {
            for n in 0..self.size.mib {
                self.change(n * MIB, &data)?;
                if self.store.pressure() >= Pressure::Much {
                    self.store.commit()?;
                }
            }
            Ok(self.store.commit()?)
        })
    }

    fn write_disk(&self) -> Result<f64> {
        let mut data = Buffer::new(&Random(1).bytes(MIB));
        self.per_second(self.size.mib as f64, || {
            for n in 0..self.size.mib {
                self.disk.write_all_at(data.get(), (n * MIB) as u64)?;
            }
            Ok(self.disk.sync_data()?)
        })
    }

    fn read_store(&self) -> Result<f64> {
        self.per_second(self.size.mib as f64, || {
            for n in 0..self.size.mib {
                let (key, offset) = self.chunk(n * MIB);
                ensure!(self.store.read(key, offset, MIB as u32)?.data.len() == MIB, "a short read");
            }
            Ok(())
        })
    }

    fn read_disk(&self) -> Result<f64> {
        let mut data = Buffer::new(&vec![0; MIB]);
        self.per_second(self.size.mib as f64, || {
            for n in 0..self.size.mib {
                self.disk.read_exact_at(data.get(), (n * MIB) as u64)?;
            }
            Ok(())
        })
    }

    /// Random writes by all threads; each has chunks of its own. `each(thread, random block)`.
    fn random(&self, each: impl Fn(usize, usize, &mut Random) -> Result<()> + Sync) -> Result<f64> {
        let chunks = self.size.mib * MIB / DEFAULT_CHUNK_BYTES as usize;
        let (done, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let begun = Instant::now();
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = (0..self.size.threads)
                .map(|thread| {
                    let (each, done, failed) = (&each, &done, &failed);
                    scope.spawn(move || -> Result<()> {
                        let mut random = Random(begun.elapsed().as_nanos() as u64 ^ (thread as u64) << 32);
                        while begun.elapsed() < self.size.round && !failed.load(Ordering::Relaxed) {
                            let mine = chunks / self.size.threads;
                            let chunk = thread * mine + random.next() as usize % mine;
                            let block = random.next() as usize % (DEFAULT_CHUNK_BYTES as usize / BLOCK);
                            let at = chunk * DEFAULT_CHUNK_BYTES as usize + block * BLOCK;
                            if let Err(error) = each(thread, at, &mut random) {
                                failed.store(true, Ordering::Relaxed);
                                return Err(error);
                            }
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            for thread in threads {
                match thread.join() {
                    Ok(done) => done?,
                    Err(_) => bail!("a thread panicked"),
                }
            }
            Ok(())
        })?;
        Ok(done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
    }

    /// As a brick does it: a thread commits when much waits or a second has passed, and writers wait
    /// when too much does.
    fn random_store(&self) -> Result<f64> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let committer = scope.spawn(|| -> Result<(), StoreError> {
                let mut last = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    if self.store.pressure() >= Pressure::Much || last.elapsed() > COMMIT_INTERVAL {
                        self.store.commit()?;
                        last = Instant::now();
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.store.commit()
            });
            let done = self.random(|_, at, random| {
                while self.store.pressure() >= Pressure::TooMuch {
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.change(at, &Bytes::from(random.bytes(BLOCK)))
            });
            stop.store(true, Ordering::Relaxed);
            match committer.join() {
                Ok(committed) => committed?,
                Err(_) => bail!("the committer panicked"),
            }
            done
        })
    }

    fn random_disk(&self, sync: bool) -> Result<f64> {
        self.random(|_, at, random| {
            let mut data = Buffer::new(&random.bytes(BLOCK));
            self.disk.write_all_at(data.get(), at as u64)?;
            if sync {
                self.disk.sync_data()?;
            }
            Ok(())
        })
    }

    fn synced_store(&self) -> Result<f64> {
        self.random(|_, at, random| {
            self.change(at, &Bytes::from(random.bytes(BLOCK)))?;
            Ok(self.store.commit()?)
        })
    }
}

fn less(a: StoreCounters, b: StoreCounters) -> StoreCounters {
    StoreCounters {
        payload_bytes: a.payload_bytes - b.payload_bytes,
        journal_bytes: a.journal_bytes - b.journal_bytes,
        data_bytes: a.data_bytes - b.data_bytes,
        owner_bytes: a.owner_bytes - b.owner_bytes,
        index_bytes: a.index_bytes - b.index_bytes,
        read_bytes: a.read_bytes - b.read_bytes,
        commits: a.commits - b.commits,
        flushes: a.flushes - b.flushes,
        checkpoints: a.checkpoints - b.checkpoints,
    }
}

/// Measures in a new directory below `dir`, which is removed afterwards.
///
/// # Errors
/// What the disk or the store says.
pub fn measure(dir: &Path, size: Size) -> Result<Outcome> {
    let dir = dir.join(format!("store-{}", std::process::id()));
    let outcome = measure_in(&dir, size);
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    outcome
}

fn measure_in(dir: &Path, size: Size) -> Result<Outcome> {
    brick_server::format(dir, CLUSTER, BrickId(1))?;
    let held = Held::take(dir, CLUSTER, None)?;
    let raw = dir.join("raw");
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(&raw)
        .with_context(|| format!("{}: O_DIRECT is needed", raw.display()))?;
    let sides = Sides { store: held.open(Limits::default())?, disk, size, dir: dir.to_owned() };
    // Space that was never written is slower on both sides: once without looking.
    sides.write_store()?;
    sides.write_disk()?;
    let mut all: Vec<[Vec<f64>; 2]> = vec![Default::default(); 4];
    let mut note = |row: usize, store: f64, disk: f64| {
        all[row][0].push(store);
        all[row][1].push(disk);
    };
    for _ in 0..size.rounds {
        note(0, sides.write_store()?, sides.write_disk()?);
        note(1, sides.read_store()?, sides.read_disk()?);
    }
    let before = sides.store.counters();
    for _ in 0..size.rounds {
        note(2, sides.random_store()?, sides.random_disk(false)?);
    }
    let random = less(sides.store.counters(), before);
    let before = sides.store.counters();
    for _ in 0..size.rounds {
        note(3, sides.synced_store()?, sides.random_disk(true)?);
    }
    let synced = less(sides.store.counters(), before);
    let reread = sides.read_store()?;
    let names = [
        "sequential write, MiB/s",
        "sequential read, MiB/s",
        "random 4 KiB overwrites, 1/s",
        "the same, each synced, 1/s",
    ];
    let rows = names.into_iter().zip(all).map(|(name, [store, disk])| Row {
        name,
        store: median(store),
        disk: median(disk),
    });
    drop(sides.dir);
    Ok(Outcome { rows: rows.collect(), random, synced, reread })
}

/// As people read it.
pub fn table(outcome: &Outcome, size: &Size) -> String {
    let mut out = format!(
        "{} MiB, {} threads, medians of {} rounds, both sides in turns\n\n{:<32}{:>12}{:>12}{:>8}\n",
        size.mib, size.threads, size.rounds, "", "store", "O_DIRECT", "ratio"
    );
    for row in &outcome.rows {
        out +=
            &format!("{:<32}{:>12.0}{:>12.0}{:>8.2}\n", row.name, row.store, row.disk, row.store / row.disk);
    }
    out += &format!("{:<32}{:>12.0}\n\n", "sequential read afterwards, MiB/s", outcome.reread);
    for (name, c) in [("random overwrites", &outcome.random), ("each synced", &outcome.synced)] {
        let payload = c.payload_bytes.max(1) as f64;
        let per = |bytes: u64| bytes as f64 / payload;
        out += &format!(
            "{name}: {:.2} bytes written a byte (journal {:.2}, data {:.2}, owners {:.2}, index {:.2}); {} MiB in {} commits, {} checkpoints\n",
            per(c.written_bytes()),
            per(c.journal_bytes),
            per(c.data_bytes),
            per(c.owner_bytes),
            per(c.index_bytes),
            c.payload_bytes >> 20,
            c.commits,
            c.checkpoints,
        );
    }
    out
}
