//! The master: takes in what users submitted and agents reported, lets the law decide, writes it down, carries it out.
//!
//! One round ([`Master::step`]) is: look, decide, journal with one fsync, write accounting lines, carry out effects. Everything
//! outside follows from the journal; a crash between any two acts is mended by the next master's start.
//!
//! 1. Nothing is carried out that isn't on stable storage in the journal. `every_job_ends_once_whatever_crashes_where`
//! 2. A file in `incoming` is judged by its owner, its claim and its content; whatever it is, the master goes on.
//!    `hostile_incoming_files_are_moved_aside`
//! 3. EIO means that somebody else is the master: no further write. (Every write of this room maps EIO to
//!    [`Error::Fenced`], and `run` ends on it.)

mod effects;
mod hosts;
mod intake;
mod reports;

#[cfg(test)]
mod simulation;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::config::{DISPATCH_MAX, MasterConfig, QueueConfig, SNAPSHOT_EVERY, load_queue};
use crate::error::{At, Error, Result};
use crate::layout::Layout;
use crate::plan::{Effect, Queue, Record};
use crate::stop::Stop;
use crate::store::disk::Disk;
use crate::store::journal::{self, Journal, Part};
use crate::store::ledger::LedgerFile;
use crate::store::message::{Active, MASTER};
use crate::store::{recover, sealed, snapshot};
use crate::watch::{POLL, Wake, Watch};
use hosts::HostSeen;

/// Pause before another try after a failure that may pass, as a full disk.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often `master/active` is renewed and the hosts are looked at without being asked.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often numbers and unfinished files are tidied up.
const TIDY: Duration = Duration::from_secs(1);

/// What a round looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// `jobs/incoming`.
    Incoming,
    /// `hosts`, or a host's status.
    Hosts,
    /// One host's `report`.
    Reports(String),
}

/// Runs the master until `stop` is set. While another master holds the lock, it stands by.
///
/// # Errors
/// [`Error::Fenced`] when the storage says that somebody else is the master now; damage of the files; wrong settings. What may pass
/// by itself, as a full disk, is tried again.
pub fn run(config: &MasterConfig, stop: &Stop) -> Result<()> {
    let layout = Layout::new(&config.root);
    layout.cluster_id()?;
    loop {
        match stand_and_serve(config, &layout, stop) {
            Ok(()) => return Ok(()),
            Err(error @ Error::Io { .. }) => {
                tracing::error!(%error, "the master begins anew in a second");
                if stop.wait(RETRY_PAUSE) {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// One try: wait for the lock, serve. The lock is taken anew each time, as the mount may be another one by then.
fn stand_and_serve(config: &MasterConfig, layout: &Layout, stop: &Stop) -> Result<()> {
    let Some(_lock) = lock(layout, stop)? else { return Ok(()) };
    let mut watch = Watch::new(stop.clone());
    term(config, layout, stop, &mut watch)
}

/// Waits for the lock that makes a master; `None` when stopped meanwhile.
fn lock(layout: &Layout, stop: &Stop) -> Result<Option<File>> {
    let path = layout.master().join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .at("open", &path)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    tracing::info!(path = %path.display(), "another master is active: standing by");
                    told = true;
                }
            }
            Err(TryLockError::Error(e)) => return Err(e).at("lock", &path),
        }
        if stop.wait(Duration::from_millis(100)) {
            return Ok(None);
        }
    }
}

fn term(config: &MasterConfig, layout: &Layout, stop: &Stop, watch: &mut Watch<Look>) -> Result<()> {
    watch.add(&layout.incoming(), Look::Incoming);
    watch.add(&layout.hosts(), Look::Hosts);
    let mut master = Master::open(config.clone(), Disk::default())?;
    let mut everything = true;
    let mut looks = Vec::new();
    while !stop.is_set() {
        let more = if everything { master.step(None)? } else { master.step(Some(&looks))? };
        everything = false;
        looks.clear();
        // What happened in a directory before it was watched isn't told: look once more before waiting.
        if master.watch_hosts(watch) || more {
            everything = true;
            continue;
        }
        match watch.wait(POLL, &[]) {
            Wake::Stopped => break,
            Wake::LookEverywhere => everything = true,
            Wake::Changed(tags) => looks.extend(tags),
        }
    }
    master.close()
}

/// A master in its term.
#[derive(Debug)]
pub(crate) struct Master {
    config: MasterConfig,
    layout: Layout,
    disk: Disk,
    queue_config: QueueConfig,
    queue: Queue,
    seq: u64,
    /// Records behind the last snapshot.
    tail: u64,
    journal: Journal,
    ledger: LedgerFile,
    hosts: BTreeMap<String, HostSeen>,
    since_ms: i64,
    /// Decided in this round, not yet journaled.
    batch: Vec<Record>,
    effects: Vec<Effect>,
    /// Files to remove once the round's decisions are durable, in this order.
    handled: Vec<PathBuf>,
    /// Files in `incoming` that can't even be moved away; looked over.
    ignored: Vec<String>,
    next_heartbeat: Instant,
    next_tidy: Instant,
    first_id: u64,
}

impl Master {
    /// Begins a term: the caller holds the lock.
    pub fn open(config: MasterConfig, disk: Disk) -> Result<Master> {
        let layout = Layout::new(&config.root);
        let queue_config = load_queue(&layout)?;
        let recovered = recover::take_over(&disk, &layout)?;
        let mut ledger = LedgerFile::open(&disk, &layout)?;
        ledger.redo(&layout, &recovered.ledgers)?;
        let part = Part { term: recovered.term + 1, part: 1 };
        let journal = Journal::create(&disk, &layout.journal(), part, recovered.seq + 1)?;
        let first_id = crate::store::claims::first_id(&layout)?;
        let now = Instant::now();
        let mut master = Master {
            layout,
            disk,
            queue_config,
            queue: recovered.queue,
            seq: recovered.seq,
            tail: recovered.tail,
            journal,
            ledger,
            hosts: BTreeMap::new(),
            since_ms: now_ms(),
            batch: Vec::new(),
            effects: Vec::new(),
            handled: Vec::new(),
            ignored: Vec::new(),
            next_heartbeat: now,
            next_tidy: now,
            first_id,
            config,
        };
        master.heartbeat()?;
        master.tidy_after_crash()?;
        master.look_at_hosts()?;
        let outstanding = master.queue.outstanding();
        master.carry_out(outstanding)?;
        tracing::info!(
            term = part.term,
            jobs = master.queue.jobs.len(),
            runs = master.queue.runs().count(),
            "master active"
        );
        Ok(master)
    }

    /// One round. `looks` says where something changed; `None`: look everywhere. True when there is more to do at once.
    pub fn step(&mut self, looks: Option<&[Look]>) -> Result<bool> {
        let wants = |look: &Look| looks.is_none_or(|l| l.contains(look));
        let now = Instant::now();
        if now >= self.next_heartbeat {
            self.heartbeat()?;
            self.next_heartbeat = now + HEARTBEAT;
        }
        if wants(&Look::Hosts) {
            self.look_at_hosts()?;
        }
        let mut more = false;
        if wants(&Look::Incoming) {
            more |= self.take_in()?;
        }
        let names: Vec<String> = self.hosts.keys().cloned().collect();
        for host in names {
            if wants(&Look::Reports(host.clone())) {
                more |= self.take_reports(&host)?;
            }
        }
        more |= self.dispatch()?;
        self.commit()?;
        if now >= self.next_tidy {
            self.tidy()?;
            self.next_tidy = now + TIDY;
        }
        let due = SNAPSHOT_EVERY.max(self.queue.jobs.len() as u64 / 4);
        if self.tail >= due {
            self.snapshot()?;
        }
        Ok(more)
    }

    /// Ends the term in good order: the next one has nothing to replay.
    pub fn close(mut self) -> Result<()> {
        self.commit()?;
        if self.tail > 0 {
            self.snapshot()?;
        }
        self.ledger.sync()
    }

    fn dispatch(&mut self) -> Result<bool> {
        for _ in 0..DISPATCH_MAX {
            let Some(record) = self.queue.next_dispatch(now_ms()) else { return Ok(false) };
            self.decide(record)?;
        }
        Ok(true)
    }

    /// Takes a record into the queue; it is journaled with the round's others.
    fn decide(&mut self, record: Record) -> Result<()> {
        self.seq += 1;
        let effects = self.queue.apply(&record).map_err(|c| Error::Law { seq: self.seq, reason: c.0 })?;
        self.effects.extend(effects);
        self.batch.push(record);
        Ok(())
    }

    /// Makes the round's decisions durable, then carries them out.
    fn commit(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.journal.append(&batch)?;
        self.tail += batch.len() as u64;
        self.ledger.write(batch.iter().filter_map(|r| match r {
            Record::Ended { ledger, .. } => ledger.as_ref(),
            _ => None,
        }))?;
        let effects = std::mem::take(&mut self.effects);
        self.carry_out(effects)?;
        for path in std::mem::take(&mut self.handled) {
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    /// Publishes a snapshot and begins a new journal part; older parts go.
    fn snapshot(&mut self) -> Result<()> {
        self.ledger.sync()?;
        let next = self.journal.next_part()?;
        snapshot::publish(&self.disk, &self.layout, next.part().term, self.seq, &self.queue)?;
        journal::remove_before(&self.disk, &self.layout.journal(), next.part())?;
        self.journal = next;
        self.tail = 0;
        Ok(())
    }

    fn heartbeat(&mut self) -> Result<()> {
        let active = Active {
            host: self.config.hostname.clone(),
            pid: std::process::id(),
            term: self.journal.part().term,
            since_ms: self.since_ms,
        };
        self.disk.publish_unsynced(
            &self.layout.master(),
            "active",
            &sealed::seal_json(MASTER, &active)?,
            0o644,
        )
    }
}
