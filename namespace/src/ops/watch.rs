//! Waiting for changes of a directory. What happened is in the state, so whoever waits asks the next leader with the
//! same index when this one is gone, and is told nothing twice and misses nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use wire::id::{Ino, JournalIndex};
use wire::meta::{Changes, ClusterReply, FsReply, JournalChange};
use wire::status::Status;

use crate::config::{WATCH_ENTRIES, WATCH_LOOK_MS, WATCH_WAIT_MS};
use crate::machine::command::{Op, Outcome};
use crate::machine::journal;
use crate::namespace::{Namespace, lock};

/// Somebody who waits, until this is dropped.
struct Waiting<'a> {
    namespace: &'a Namespace,
    dir: Ino,
    /// `None`: there are too many who wait.
    place: Option<(u64, Arc<Notify>)>,
}

impl<'a> Waiting<'a> {
    fn begin(namespace: &'a Namespace, dir: Ino) -> Self {
        Self { namespace, dir, place: lock(&namespace.watchers.watches).begin(dir) }
    }

    /// Returns when it is time to look again, or at that moment.
    async fn look_again(&self, until: Instant) {
        match &self.place {
            // Late: whatever it is then.
            Some((_, changed)) => drop(timeout_at(until, changed.notified()).await),
            None => sleep_until(until.min(Instant::now() + Duration::from_millis(WATCH_LOOK_MS))).await,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some((number, _)) = self.place {
            lock(&self.namespace.watchers.watches).end(self.dir, number);
        }
    }
}

impl Namespace {
    fn changes(&self, dir: Ino, after: Option<JournalIndex>, most: usize) -> Result<Changes, Status> {
        self.told(self.db.at_moment(|moment| journal::changes(moment, dir, after, most)))
    }

    /// What changed in a directory, once something did or time is over.
    pub async fn watch(
        &self,
        dir: Ino,
        after: Option<JournalIndex>,
        most: u32,
        wait_ms: u32,
    ) -> Result<FsReply, Status> {
        self.log.read_barrier().await?;
        self.metrics.read();
        let most = most.clamp(1, WATCH_ENTRIES) as usize;
        let until = Instant::now() + Duration::from_millis(u64::from(wait_ms.min(WATCH_WAIT_MS)));
        // First in line, then a look: whatever changes after the look is heard of.
        let waiting = Waiting::begin(self, dir);
        loop {
            let found = self.changes(dir, after, most)?;
            let is_news = !found.changes.is_empty() || found.lost || found.gone || after.is_none();
            if is_news || Instant::now() >= until {
                self.metrics.told_changes(found.changes.len() as u64);
                return Ok(FsReply::Changes(found));
            }
            tokio::select! {
                () = waiting.look_again(until) => {}
                () = self.watchers.stopped() => return Err(Status::Busy),
            }
        }
    }

    /// What the change journal holds, after its limits were changed.
    pub async fn journal(&self, change: JournalChange) -> Result<ClusterReply, Status> {
        if change == JournalChange::default() {
            self.log.read_barrier().await?;
            let journal = journal::read(&*self.db).map_err(|error| self.failed(&error))?;
            return Ok(ClusterReply::Journal(journal));
        }
        match self.propose(Op::Journal(change)).await? {
            Outcome::Journal(journal) => {
                tracing::info!(?change, "the limits of the change journal are others");
                Ok(ClusterReply::Journal(journal))
            }
            _ => Err(Status::Malformed),
        }
    }
}
