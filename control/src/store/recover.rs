//! The queue as the files say it is: snapshot, then the journal's records behind it. For a new master, and for every
//! `q` command, so that they work without a master.

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::plan::{Ledger, Queue, Record};
use crate::store::disk::Disk;
use crate::store::journal;
use crate::store::snapshot;

/// How often a reader starts over when the master published a new snapshot under its hands.
const ATTEMPTS_MAX: u32 = 20;

/// What the files say.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub queue: Queue,
    /// Number of the last record.
    pub seq: u64,
    /// The latest term any file speaks of.
    pub term: u64,
    /// Records behind the snapshot.
    pub tail: u64,
    /// Accounting lines of runs that ended behind the snapshot: perhaps not yet in the accounting file.
    pub ledgers: Vec<Ledger>,
}

/// Reads the queue. Safe beside a working master.
pub(crate) fn view(layout: &Layout) -> Result<Recovered> {
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        match recover(layout) {
            // A part went, or the parts begin later than the snapshot we read: a newer snapshot is there.
            Err(e @ Error::Law { .. }) => last = Some(e),
            Err(e) if e.is_not_found() && layout.journal().exists() => last = Some(e),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| Error::Config("the queue changes too fast to be read".into())))
}

/// Reads the queue when nobody else writes, and makes what it read durable: a record that was seen must not vanish
/// in a power failure after records that build on it.
pub(crate) fn take_over(disk: &Disk, layout: &Layout) -> Result<Recovered> {
    for part in journal::parts(&layout.journal())? {
        journal::make_durable(disk, &layout.journal(), part)?;
    }
    recover(layout)
}

fn recover(layout: &Layout) -> Result<Recovered> {
    let dir = layout.journal();
    let snapshot = snapshot::load(layout)?;
    let mut queue = snapshot.queue;
    let mut seq = snapshot.seq;
    let mut ledgers = Vec::new();
    let parts = journal::parts(&dir)?;
    for part in &parts {
        journal::read(&dir, *part, |n, record| {
            if n <= seq {
                return Ok(());
            }
            if n != seq + 1 {
                return Err(Error::Law {
                    seq: n,
                    reason: format!("the record before it is {seq}: a journal part is missing"),
                });
            }
            queue.apply(&record).map_err(|c| Error::Law { seq: n, reason: c.0 })?;
            seq = n;
            if let Record::Ended { ledger: Some(ledger), .. } = record {
                ledgers.push(ledger);
            }
            Ok(())
        })?;
    }
    let term = parts.last().map_or(0, |p| p.term).max(snapshot.term);
    Ok(Recovered { queue, seq, term, tail: seq - snapshot.seq, ledgers })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layout::tests::cluster;
    use crate::plan::JobId;
    use crate::store::journal::{Journal, Part};

    fn abandoned(n: u64) -> Record {
        Record::Abandoned { job: JobId(n) }
    }

    #[test]
    fn terms_and_parts_follow_each_other_and_a_torn_end_of_a_term_is_no_gap() {
        let (_dir, layout) = cluster();
        let disk = Disk::default();
        let dir = layout.journal();
        let mut one = Journal::create(&disk, &dir, Part { term: 1, part: 1 }, 1).unwrap();
        one.append(&[abandoned(1), abandoned(2)]).unwrap();
        let path = dir.join("0000000001.000001");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"0badc0de {\"seq\":3,\"rec");
        std::fs::write(&path, bytes).unwrap();
        let mut two = Journal::create(&disk, &dir, Part { term: 2, part: 1 }, 3).unwrap();
        two.append(&[abandoned(7)]).unwrap();
        let mut three = two.next_part().unwrap();
        three.append(&[abandoned(8)]).unwrap();
        let found = view(&layout).unwrap();
        assert_eq!((found.seq, found.term, found.tail), (4, 2, 4));
        assert_eq!(found.queue.accepted.iter().collect::<Vec<_>>(), [1, 2, 7, 8]);
        snapshot::publish(&disk, &layout, 2, found.seq, &found.queue).unwrap();
        journal::remove_before(&disk, &dir, three.part()).unwrap();
        let again = take_over(&disk, &layout).unwrap();
        assert_eq!((again.seq, again.tail, again.queue), (4, 0, found.queue));
    }

    #[test]
    fn a_missing_part_is_noticed() {
        let (_dir, layout) = cluster();
        let disk = Disk::default();
        let mut one = Journal::create(&disk, &layout.journal(), Part { term: 1, part: 1 }, 1).unwrap();
        one.append(&[abandoned(1)]).unwrap();
        let mut two = one.next_part().unwrap();
        two.append(&[abandoned(2)]).unwrap();
        std::fs::remove_file(layout.journal().join("0000000001.000001")).unwrap();
        assert!(matches!(view(&layout).unwrap_err(), Error::Law { seq: 2, .. }));
    }
}
