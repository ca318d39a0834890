//! Has bricks cut what nobody needs any more: at once what was recorded just now, and every
//! `sweep` what is still owed. A dead brick is asked when it lives again.
//!
//! Of a file that is gone each brick is asked by itself: what another one gives it back is of no use to anybody, and collected some day. A
//! file that stays is cut in rounds, see [`super::rounds`].
//!
//! The same cut is never under way twice on one brick, and never more than
//! [`TRIMS_A_BRICK`] at a time; of files that stay never more than [`CUT_FILES`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest};
use wire::id::{BrickId, Ino};
use wire::map::ClusterMap;

use crate::background::rounds::{self, Rounds};
use crate::background::{Stop, stopped};
use crate::config::{CUT_FILES, TRIM_ACKS, TRIM_QUEUE, TRIMS_A_BRICK};
use crate::error::Error;
use crate::machine::command::{CutAck, Op, TrimAck};
use crate::machine::txn::load;
use crate::namespace::Namespace;
use crate::store::records::{Inode, Trim, decode};
use crate::store::{Read, keys};

/// One cut, as a brick is asked for it.
#[derive(Debug, Clone, Copy)]
struct Job {
    ack: TrimAck,
    chunk_bytes: u32,
}

/// A cut that was asked for, and whether it was done.
struct Tried {
    ack: TrimAck,
    done: bool,
}

struct Trimmer {
    namespace: Arc<Namespace>,
    waiting: BTreeMap<BrickId, VecDeque<Job>>,
    /// Waiting or under way.
    known: HashSet<(Ino, BrickId)>,
    running: BTreeMap<BrickId, usize>,
    calls: JoinSet<Tried>,
    /// Files that stay: those to be cut, in turn, and those at work, or to be looked at again when they are through.
    files: VecDeque<Ino>,
    at_work: HashMap<Ino, Again>,
    cutting: JoinSet<FileCut>,
}

/// A file, and what became of its cuts.
type FileCut = (Ino, Result<Rounds, Error>);

/// Whether a file is to be looked at again when it is through: its cuts were recorded anew meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    No,
    Yes,
}

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, queue: &mut mpsc::Receiver<Ino>, mut stop: Stop) {
    let mut sweeps = interval(namespace.config.sweep);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut map = namespace.watchers.map.subscribe();
    let mut alive = BTreeSet::new();
    let mut trimmer = Trimmer {
        namespace,
        waiting: BTreeMap::new(),
        known: HashSet::new(),
        running: BTreeMap::new(),
        calls: JoinSet::new(),
        files: VecDeque::new(),
        at_work: HashMap::new(),
        cutting: JoinSet::new(),
    };
    loop {
        let outcome = tokio::select! {
            () = stopped(&mut stop) => return,
            Some(ino) = queue.recv() => trimmer.look(ino),
            Some(tried) = trimmer.calls.join_next() => {
                let mut all = vec![tried];
                while all.len() < TRIM_ACKS {
                    match trimmer.calls.try_join_next() {
                        Some(tried) => all.push(tried),
                        None => break,
                    }
                }
                trimmer.settle(all).await
            }
            Some(cut) = trimmer.cutting.join_next() => {
                let mut all = vec![cut];
                while all.len() < TRIM_ACKS {
                    match trimmer.cutting.try_join_next() {
                        Some(cut) => all.push(cut),
                        None => break,
                    }
                }
                trimmer.settle_files(all).await
            }
            _ = sweeps.tick() => trimmer.sweep(),
            Ok(()) = map.changed() => {
                // A brick that came back is waited for by its chains.
                let before = std::mem::replace(&mut alive, living(&map.borrow_and_update()));
                if alive.difference(&before).next().is_some() { trimmer.sweep() } else { Ok(()) }
            }
        };
        if let Err(error) = outcome {
            trimmer.namespace.failed(&error);
        }
        trimmer.start();
    }
}

fn living(map: &ClusterMap) -> BTreeSet<BrickId> {
    map.bricks.values().filter(|b| b.alive).map(|b| b.id).collect()
}

impl Trimmer {
    /// Queues what is owed of one file.
    fn look(&mut self, ino: Ino) -> Result<(), Error> {
        if let Some(trim) = load::<Trim>(&*self.namespace.db, &keys::trim(ino))? {
            let map = self.namespace.map();
            self.queue(&map, ino, &trim)?;
        }
        Ok(())
    }

    fn queue(&mut self, map: &ClusterMap, ino: Ino, trim: &Trim) -> Result<(), Error> {
        let alive = |brick: &BrickId| map.bricks.get(brick).is_some_and(|b| b.alive);
        if !trim.owed.keys().any(alive) {
            return Ok(());
        }
        if load::<Inode>(&*self.namespace.db, &keys::inode(ino))?.is_some() {
            if let Some(again) = self.at_work.get_mut(&ino) {
                *again = Again::Yes;
            } else if self.at_work.len() < TRIM_QUEUE {
                self.at_work.insert(ino, Again::No);
                self.files.push_back(ino);
            }
            return Ok(());
        }
        for (brick, size) in &trim.owed {
            if alive(brick) && self.known.len() < TRIM_QUEUE && self.known.insert((ino, *brick)) {
                let ack = TrimAck { ino, brick: *brick, size: *size };
                let job = Job { ack, chunk_bytes: trim.chunk_bytes };
                self.waiting.entry(*brick).or_default().push_back(job);
            }
        }
        Ok(())
    }

    /// Queues all that is owed, as far as there is room.
    fn sweep(&mut self) -> Result<(), Error> {
        let namespace = self.namespace.clone();
        if namespace.counters()?.trims == 0 {
            return Ok(());
        }
        let map = namespace.map();
        namespace.db.scan(b"T", &keys::after(b"T"), &mut |key, value| {
            if let Some(ino) = keys::first(key) {
                self.queue(&map, Ino(ino), &decode(key, value)?)?;
            }
            let room = self.known.len() < TRIM_QUEUE;
            Ok(if room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
    }

    /// Asks bricks, as many at a time as they may be asked.
    fn start(&mut self) {
        if self.namespace.is_behind() {
            // It may all be done, and by other bricks: asked anew by the map that is adopted.
            for ino in self.files.drain(..) {
                self.at_work.remove(&ino);
            }
            for (brick, jobs) in &mut self.waiting {
                for job in jobs.drain(..) {
                    self.known.remove(&(job.ack.ino, *brick));
                }
            }
            return;
        }
        while self.cutting.len() < CUT_FILES
            && let Some(ino) = self.files.pop_front()
        {
            let namespace = self.namespace.clone();
            // What was recorded before it begins is seen to.
            self.at_work.insert(ino, Again::No);
            self.cutting.spawn(async move { (ino, rounds::cut(&namespace, ino).await) });
        }
        let map = self.namespace.map();
        for (brick, jobs) in &mut self.waiting {
            let running = self.running.entry(*brick).or_default();
            let Some(info) = map.bricks.get(brick).filter(|b| b.alive) else {
                // Asked again when it lives.
                for job in jobs.drain(..) {
                    self.known.remove(&(job.ack.ino, *brick));
                }
                continue;
            };
            while *running < TRIMS_A_BRICK
                && let Some(job) = jobs.pop_front()
            {
                *running += 1;
                let net = self.namespace.net.clone();
                let to = info.endpoint;
                let deadline = Instant::now() + self.namespace.config.trim_timeout;
                let Job { ack, chunk_bytes } = job;
                let order = self.namespace.next_trim();
                let request = BrickRequest::Trim { ino: ack.ino, chunk_bytes, size: ack.size, order };
                let call = BrickCall { brick: *brick, map: map.epoch, request };
                self.calls.spawn(async move {
                    let reply = net.request::<BrickProtocol>(&to, &call, Bytes::new(), deadline).await;
                    let done = matches!(reply, Ok((BrickReply::Trimmed { .. }, _)));
                    if let Err(error) = reply {
                        debug!(ino = %ack.ino, brick = %ack.brick, %error, "a brick could not cut a file yet");
                    }
                    Tried { ack, done }
                });
            }
        }
    }

    /// Records that files were cut; what could not be done waits for the next sweep.
    async fn settle_files(&mut self, all: Vec<Result<FileCut, tokio::task::JoinError>>) -> Result<(), Error> {
        let mut acks: Vec<CutAck> = Vec::new();
        let mut again = Vec::new();
        for cut in all {
            let (ino, rounds) = match cut {
                Ok(cut) => cut,
                Err(error) => {
                    // Which file it was is not known: all are looked at again.
                    warn!(%error, "cuts of a file did not end");
                    self.at_work.retain(|ino, _| self.files.contains(ino));
                    continue;
                }
            };
            if self.at_work.remove(&ino) == Some(Again::Yes) {
                again.push(ino);
            }
            match rounds {
                Ok(Rounds::Settled(ack)) => acks.extend(ack),
                Ok(Rounds::Later) => self.namespace.metrics.trim_failed(),
                // The others are through all the same; this one waits for the next sweep.
                Err(error) => {
                    self.namespace.failed(&error);
                }
            }
        }
        if !acks.is_empty() {
            let cuts = acks.iter().map(|ack| ack.bricks.len() as u64).sum();
            again.extend(acks.iter().map(|ack| ack.ino));
            match self.namespace.propose(Op::CutsDone(acks)).await {
                Ok(_) => self.namespace.metrics.trimmed(cuts),
                Err(status) => warn!(%status, "could not record cuts that were made; they are made again"),
            }
        }
        // A smaller size may have been recorded, or the map have changed.
        again.into_iter().try_for_each(|ino| self.look(ino))
    }

    /// Records what was done; what failed waits for the next sweep.
    async fn settle(&mut self, all: Vec<Result<Tried, tokio::task::JoinError>>) -> Result<(), Error> {
        let mut acks = Vec::with_capacity(all.len());
        for tried in all {
            let tried = match tried {
                Ok(tried) => tried,
                Err(error) => {
                    warn!(%error, "a cut did not end");
                    continue;
                }
            };
            if let Some(running) = self.running.get_mut(&tried.ack.brick) {
                *running = running.saturating_sub(1);
            }
            if tried.done {
                acks.push(tried.ack);
            } else {
                self.known.remove(&(tried.ack.ino, tried.ack.brick));
                self.namespace.metrics.trim_failed();
            }
        }
        if acks.is_empty() {
            return Ok(());
        }
        match self.namespace.propose(Op::TrimsDone(acks.clone())).await {
            Ok(_) => self.namespace.metrics.trimmed(acks.len() as u64),
            Err(status) => warn!(%status, "could not record cuts that were made; they are made again"),
        }
        for ack in &acks {
            self.known.remove(&(ack.ino, ack.brick));
        }
        // A smaller size may have been recorded meanwhile.
        for ack in acks {
            self.look(ack.ino)?;
        }
        Ok(())
    }
}
