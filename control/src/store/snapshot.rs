//! The snapshot of the queue, `jobs/state`: sealed text, one JSON value a line.
//!
//! First line: up to which journal record it goes, and the used-up numbers. Then one line for each job that isn't over, then one
//! for each that is and is still remembered.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::config::STATE_MAX;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::plan::{Finished, Job, JobId, Queue, Ranges};
use crate::store::disk::{self, Disk};
use crate::store::sealed::{self, Kind};

const KIND: Kind = Kind { name: "state", version: 1 };
const NAME: &str = "state";

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    term: u64,
    seq: u64,
    accepted: Ranges,
    jobs: usize,
    finished: usize,
}

/// A queue as it was after a journal record.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Term of the master that wrote it.
    pub term: u64,
    /// The last journal record in it; 0 for none.
    pub seq: u64,
    /// The queue.
    pub queue: Queue,
}

/// Publishes a snapshot, durably.
pub(crate) fn publish(disk: &Disk, layout: &Layout, term: u64, seq: u64, queue: &Queue) -> Result<()> {
    let mut out = Vec::with_capacity(1024 + queue.jobs.len() * 384);
    let head = Head {
        term,
        seq,
        accepted: queue.accepted.clone(),
        jobs: queue.jobs.len(),
        finished: queue.finished.len(),
    };
    push(&mut out, &head)?;
    for job in queue.jobs.values() {
        push(&mut out, job)?;
    }
    for finished in &queue.finished {
        push(&mut out, finished)?;
    }
    disk.publish(&layout.jobs(), NAME, &sealed::seal(KIND, &out), 0o644)?;
    disk.sync_dir(&layout.jobs())
}

fn push<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(&mut *out, value)
        .map_err(|e| Error::Config(format!("the state can't be written as JSON: {e}")))?;
    out.push(b'\n');
    Ok(())
}

/// Reads the snapshot; an empty queue when there is none yet.
pub(crate) fn load(layout: &Layout) -> Result<Snapshot> {
    let path = layout.jobs().join(NAME);
    let found = match disk::read_bounded(&path, STATE_MAX) {
        Err(e) if e.is_not_found() => return Ok(Snapshot::default()),
        other => other?,
    };
    let wrong = |reason: String| Error::Format { path: path.clone(), reason };
    let content = sealed::open(KIND, &found.bytes, &path)?;
    let mut lines = content.split(|b| *b == b'\n');
    let mut next = || lines.next().filter(|l| !l.is_empty()).ok_or_else(|| wrong("it ends too early".into()));
    let bad = |e: serde_json::Error| wrong(e.to_string());
    let head: Head = serde_json::from_slice(next()?).map_err(bad)?;
    let mut jobs: BTreeMap<JobId, Job> = BTreeMap::new();
    for _ in 0..head.jobs {
        let job: Job = serde_json::from_slice(next()?).map_err(bad)?;
        jobs.insert(job.new.id, job);
    }
    let mut finished: VecDeque<Finished> = VecDeque::new();
    for _ in 0..head.finished {
        finished.push_back(serde_json::from_slice(next()?).map_err(bad)?);
    }
    Ok(Snapshot { term: head.term, seq: head.seq, queue: Queue::restore(jobs, head.accepted, finished) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::law::Host;
    use crate::plan::laws::new_job;
    use crate::plan::{Exit, Record, TaskRange};

    #[test]
    fn what_is_loaded_is_what_was_published() {
        let dir = tempfile::tempdir().unwrap();
        crate::layout::init(dir.path()).unwrap();
        let layout = Layout::new(dir.path());
        assert_eq!(load(&layout).unwrap().queue, Queue::default());
        let mut queue = Queue::default();
        queue.set_host("h", Host { slots: 2, up: true });
        for new in [new_job(1, None), new_job(2, TaskRange::new(1, 9, 2))] {
            queue.apply(&queue.submit(new).unwrap()).unwrap();
        }
        for status in [0, 100, 99] {
            let record = queue.next_dispatch(5).unwrap();
            let Record::Dispatched { key, .. } = record else { panic!() };
            queue.apply(&record).unwrap();
            let exit = Exit { started_ms: Some(1), exit_status: status, ..Exit::default() };
            queue.apply(&queue.report_ended(key, exit).unwrap()).unwrap();
        }
        queue.apply(&queue.next_dispatch(6).unwrap()).unwrap();
        publish(&Disk::default(), &layout, 4, 17, &queue).unwrap();
        let mut loaded = load(&layout).unwrap();
        assert_eq!((loaded.term, loaded.seq), (4, 17));
        loaded.queue.set_host("h", Host { slots: 2, up: true });
        assert_eq!(loaded.queue, queue);
    }

    #[test]
    fn a_damaged_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        crate::layout::init(dir.path()).unwrap();
        let layout = Layout::new(dir.path());
        publish(&Disk::default(), &layout, 1, 1, &Queue::default()).unwrap();
        let path = layout.jobs().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&layout).is_err());
    }
}
