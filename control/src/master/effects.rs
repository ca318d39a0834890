//! Carrying out what the law says must hold outside. Every act here may be done again after a crash.

use std::collections::BTreeSet;
use std::path::Path;

use super::Master;
use crate::config::MESSAGE_MAX;
use crate::error::Result;
use crate::layout::exists;
use crate::plan::{Effect, JobId, RunKey};
use crate::store::message::{
    ASSIGNMENT, Assignment, ENDED_SUFFIX, JOB_PREFIX, KILL_SUFFIX, QueueView, STARTED_SUFFIX,
};
use crate::store::{disk, sealed};

impl Master {
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) -> Result<()> {
        for effect in effects {
            match effect {
                Effect::Accept(job) => self.accept(job)?,
                Effect::Assign(key, host) => self.assign(key, &host)?,
                Effect::Kill(key, host) => self.kill(key, &host)?,
                Effect::Withdraw(key, host) => self.withdraw(key, &host)?,
                Effect::Drop(job) => self.disk.remove(&self.layout.spool().join(job.to_string()))?,
            }
        }
        Ok(())
    }

    fn accept(&self, job: JobId) -> Result<()> {
        let from = self.layout.incoming().join(format!("{JOB_PREFIX}{job}"));
        let to = self.layout.spool().join(job.to_string());
        match self.disk.rename(&from, &to) {
            // The owner took it away again after we read it: his agent will say that it is gone.
            Err(e) if e.is_not_found() => {
                tracing::warn!(%job, "the submission vanished between reading and accepting it");
                Ok(())
            }
            other => other,
        }
    }

    fn assign(&self, key: RunKey, host: &str) -> Result<()> {
        // A run that ended or was forced out in the same round needs no assignment any more.
        let Some((job, _)) = self.queue.live(key) else { return Ok(()) };
        let dir = self.layout.assign(host);
        let name = key.to_string();
        let assignment = Assignment {
            key,
            uid: job.new.uid,
            digest: job.new.digest.clone(),
            queue: QueueView::from(&self.queue_config),
        };
        let bytes = sealed::seal_json(ASSIGNMENT, &assignment)?;
        // After a crash it may be there, whole or not: it isn't synced when it is written. (The agent syncs the directory before it
        // acts on a name in it, and then keeps its own copy.)
        let there = disk::read_bounded(&dir.join(&name), MESSAGE_MAX).is_ok_and(|found| found.bytes == bytes);
        if there { Ok(()) } else { self.publish_if_dir(&dir, &name, &bytes) }
    }

    fn kill(&self, key: RunKey, host: &str) -> Result<()> {
        if self.queue.live(key).is_none() {
            return Ok(());
        }
        let name = format!("{key}{KILL_SUFFIX}");
        self.publish_if_dir(&self.layout.assign(host), &name, b"")
    }

    /// A host's directories may have been removed by the administrator, as he does with a dead machine.
    fn publish_if_dir(&self, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        match self.disk.publish_unsynced(dir, name, bytes, 0o644) {
            Err(e) if e.is_not_found() => {
                tracing::warn!(dir = %dir.display(), name, "the host's directory is gone: not sent");
                Ok(())
            }
            other => other,
        }
    }

    /// The assignment goes first: as long as it is there, the agent keeps what it knows of the run.
    pub(super) fn withdraw(&self, key: RunKey, host: &str) -> Result<()> {
        let assign = self.layout.assign(host);
        let report = self.layout.report(host);
        self.disk.remove(&assign.join(key.to_string()))?;
        self.disk.remove(&assign.join(format!("{key}{KILL_SUFFIX}")))?;
        self.disk.remove(&report.join(format!("{key}{STARTED_SUFFIX}")))?;
        self.disk.remove(&report.join(format!("{key}{ENDED_SUFFIX}")))
    }

    /// Removes what a crash kept from being removed: a master before us decided it and could not carry it out.
    pub(super) fn tidy_after_crash(&mut self) -> Result<()> {
        for dir in [self.layout.jobs(), self.layout.master()] {
            disk::sweep_unfinished(&self.disk, &dir)?;
        }
        for host in disk::names(&self.layout.hosts())? {
            let dir = self.layout.assign(&host);
            if !exists(&dir)? {
                continue;
            }
            disk::sweep_unfinished(&self.disk, &dir)?;
            for name in disk::names(&dir)? {
                let key = name.strip_suffix(KILL_SUFFIX).unwrap_or(&name).parse::<RunKey>().ok();
                let live = key.and_then(|k| self.queue.live(k)).is_some_and(|(_, run)| run.host == host);
                if !live {
                    self.disk.remove(&dir.join(name))?;
                }
            }
        }
        self.tidy_spool()
    }

    /// The spool has what is accepted and nothing else, before anything is assigned anew: an agent reads a submission as soon as it
    /// sees an assignment. `every_job_ends_once_whatever_crashes_where`
    fn tidy_spool(&mut self) -> Result<()> {
        let mut spooled = BTreeSet::new();
        for name in disk::names(&self.layout.spool())? {
            match name.parse().map(JobId) {
                Ok(job) if self.queue.jobs.contains_key(&job) => _ = spooled.insert(job),
                _ => self.disk.remove(&self.layout.spool().join(name))?,
            }
        }
        let waiting: Vec<JobId> =
            self.queue.jobs.keys().filter(|job| !spooled.contains(job)).copied().collect();
        for job in waiting {
            let name = format!("{JOB_PREFIX}{job}");
            if exists(&self.layout.incoming().join(&name))? {
                self.taken_before(job, &name)?;
            }
        }
        Ok(())
    }
}
