//! The queue, the questions it answers and the changes it takes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ids::{JobId, RunKey, TaskId};
use super::ranges::Ranges;
use super::record::{
    BAD_ENDS_MAX, Exit, Finished, Job, NewJob, Phase, Record, Run, TaskEnd, UNBEGUN_RUNS_MAX, Verdict, failed,
};
use crate::config::FINISHED_MAX;

/// What must be done outside because of a record. All are idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The submission moves from `incoming` to the spool.
    Accept(JobId),
    /// The host is to have this assignment.
    Assign(RunKey, String),
    /// The host is to end this run.
    Kill(RunKey, String),
    /// The run is over for the queue: assignment, kill request and reports go.
    Withdraw(RunKey, String),
    /// The job is over: its submission goes from the spool.
    Drop(JobId),
}

/// Why a command isn't carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such job (any more).
    NoSuchJob,
    /// It belongs to somebody else.
    NotOwner,
    /// There is nothing left to do it to: such tasks don't exist or are being deleted already.
    AlreadyDone,
}

/// What a host can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Runs at once.
    pub slots: u32,
    /// Whether it gets new runs.
    pub up: bool,
}

/// All jobs that aren't over, and what must be remembered of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Queue {
    /// Jobs by number.
    pub jobs: BTreeMap<JobId, Job>,
    /// Job numbers that are used up: accepted once, or abandoned.
    pub accepted: Ranges,
    /// The last [`FINISHED_MAX`] jobs that are over, oldest first.
    pub finished: VecDeque<Finished>,
    /// Derived: runs on each host.
    used: BTreeMap<String, u32>,
    /// Derived: jobs with something to dispatch, in the order they get slots.
    ready: BTreeSet<(Reverse<i32>, JobId)>,
    /// Not journaled: hosts as they report themselves.
    hosts: BTreeMap<String, Host>,
}

/// A record that can't follow from the queue it is applied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction(pub String);

impl Job {
    fn is_over(&self) -> bool {
        self.over == self.new.tasks().count()
    }

    /// Something to dispatch now?
    fn is_ready(&self) -> bool {
        let limit = self.new.task_limit;
        !self.new.hold
            && !self.waiting.is_empty()
            && (limit == 0 || self.runs.len() < usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn end_task(&mut self, task: TaskId, end: TaskEnd) {
        self.over += 1;
        self.attempts.remove(&task);
        let good = end.exit_status == 0 && end.failed == 0 && end.verdict == Verdict::Done;
        if !good && self.bad_ends.len() < BAD_ENDS_MAX {
            self.bad_ends.insert(task, end);
        }
    }

    /// Which of its tasks that aren't over a command means.
    fn selected(&self, task: TaskId, tasks: Option<&Ranges>) -> bool {
        tasks.is_none_or(|t| t.contains(task.0))
    }
}

impl Queue {
    /// A queue with these contents, as read from a snapshot.
    #[must_use]
    pub fn restore(jobs: BTreeMap<JobId, Job>, accepted: Ranges, finished: VecDeque<Finished>) -> Queue {
        let mut queue = Queue { jobs, accepted, finished, ..Queue::default() };
        let ids: Vec<JobId> = queue.jobs.keys().copied().collect();
        for job in queue.jobs.values() {
            for run in job.runs.values() {
                *queue.used.entry(run.host.clone()).or_default() += 1;
            }
        }
        for id in ids {
            queue.reindex(id);
        }
        queue
    }

    /// Runs on a host that aren't over.
    #[must_use]
    pub fn used(&self, host: &str) -> u32 {
        self.used.get(host).copied().unwrap_or(0)
    }

    /// The hosts as last set.
    #[must_use]
    pub fn hosts(&self) -> &BTreeMap<String, Host> {
        &self.hosts
    }

    /// A host reported itself, or fell silent.
    pub fn set_host(&mut self, name: &str, host: Host) {
        self.hosts.insert(name.to_owned(), host);
    }

    /// The live run of this name.
    #[must_use]
    pub fn live(&self, key: RunKey) -> Option<(&Job, &Run)> {
        let job = self.jobs.get(&key.job)?;
        let run = job.runs.get(&key.task)?;
        (run.run == key.run).then_some((job, run))
    }

    /// All live runs.
    pub fn runs(&self) -> impl Iterator<Item = (RunKey, &Run)> {
        self.jobs.values().flat_map(|job| {
            job.runs.iter().map(|(task, run)| (RunKey { job: job.new.id, task: *task, run: run.run }, run))
        })
    }

    // ---- Questions: what does this event mean? ----

    /// A submission was found. `None`: its number is used up already.
    #[must_use]
    pub fn submit(&self, new: NewJob) -> Option<Record> {
        (!self.accepted.contains(new.id.0)).then_some(Record::Submitted(new))
    }

    /// A claimed number got too old. `None`: it is used up already.
    #[must_use]
    pub fn abandon(&self, job: JobId) -> Option<Record> {
        (!self.accepted.contains(job.0)).then_some(Record::Abandoned { job })
    }

    /// A host says that a run began. `None`: known already, or over.
    #[must_use]
    pub fn report_started(&self, key: RunKey, at_ms: i64) -> Option<Record> {
        let (_, run) = self.live(key)?;
        (run.phase == Phase::Transferring).then_some(Record::Started { key, at_ms })
    }

    /// A host says that a run is over. `None`: known already. The accounting line is the caller's to add.
    #[must_use]
    pub fn report_ended(&self, key: RunKey, mut exit: Exit) -> Option<Record> {
        let (job, run) = self.live(key)?;
        let verdict = if run.deleting {
            if exit.started_ms.is_some() && exit.failed == 0 && exit.exit_status > 128 {
                exit.failed = failed::SIGNALLED;
            }
            Verdict::Deleted
        } else if exit.lost {
            exit.failed = failed::NO_STATUS;
            if job.new.rerun { Verdict::Requeued } else { Verdict::Lost }
        } else if exit.unbegun && key.run < UNBEGUN_RUNS_MAX {
            Verdict::Requeued
        } else if exit.failed != 0 && exit.failed != failed::SIGNALLED {
            Verdict::Error(exit.reason.clone())
        } else if exit.exit_status == 99 {
            exit.failed = failed::RESCHEDULE;
            Verdict::Requeued
        } else if exit.exit_status == 100 {
            exit.failed = failed::APPLICATION;
            Verdict::Error("the job ended with exit status 100".into())
        } else {
            Verdict::Done
        };
        Some(Record::Ended { key, exit, verdict, ledger: None })
    }

    /// Somebody (`uid`, named `by`) wants a job or tasks of it gone.
    ///
    /// # Errors
    /// Why not.
    pub fn delete(
        &self,
        (uid, by): (u32, &str),
        job: JobId,
        tasks: Option<Ranges>,
        force: bool,
        at_ms: i64,
    ) -> Result<Record, Refusal> {
        let found = self.may(uid, job)?;
        let selected = |task: TaskId| found.selected(task, tasks.as_ref());
        let range = found.new.tasks();
        let something = found.waiting.iter().any(|i| selected(range.task(i)))
            || found.errors.keys().any(|t| selected(*t))
            || found.runs.iter().any(|(t, run)| selected(*t) && (force || !run.deleting));
        if !something {
            return Err(Refusal::AlreadyDone);
        }
        Ok(Record::Deleted { job, tasks, by: by.to_owned(), force, at_ms })
    }

    /// Somebody wants the user hold of a job set or taken away.
    ///
    /// # Errors
    /// Why not.
    pub fn hold(&self, uid: u32, job: JobId, hold: bool) -> Result<Record, Refusal> {
        let found = self.may(uid, job)?;
        if found.new.hold == hold { Err(Refusal::AlreadyDone) } else { Ok(Record::Held { job, hold }) }
    }

    /// Somebody wants the error state of a job's tasks cleared.
    ///
    /// # Errors
    /// Why not.
    pub fn clear(&self, uid: u32, job: JobId, tasks: Option<Ranges>) -> Result<Record, Refusal> {
        let found = self.may(uid, job)?;
        if found.errors.keys().any(|t| found.selected(*t, tasks.as_ref())) {
            Ok(Record::Cleared { job, tasks })
        } else {
            Err(Refusal::AlreadyDone)
        }
    }

    fn may(&self, uid: u32, job: JobId) -> Result<&Job, Refusal> {
        let found = self.jobs.get(&job).ok_or(Refusal::NoSuchJob)?;
        if uid == 0 || uid == found.new.uid { Ok(found) } else { Err(Refusal::NotOwner) }
    }

    /// The next task that gets a slot, if there is a free slot and a task for it: jobs by priority, then by number, tasks by
    /// number; the host with most free slots.
    #[must_use]
    pub fn next_dispatch(&self, at_ms: i64) -> Option<Record> {
        let (host, _) = self
            .hosts
            .iter()
            .filter(|(_, host)| host.up)
            .map(|(name, host)| (name, host.slots.saturating_sub(self.used(name))))
            .filter(|(_, free)| *free > 0)
            // Of equals the first by name.
            .max_by_key(|(name, free)| (*free, Reverse(*name)))?;
        let (_, id) = self.ready.first()?;
        let job = self.jobs.get(id)?;
        let task = job.new.tasks().task(job.waiting.first()?);
        let run = job.attempts.get(&task).copied().unwrap_or(0) + 1;
        Some(Record::Dispatched { key: RunKey { job: *id, task, run }, host: host.clone(), at_ms })
    }

    /// Everything that must hold outside for the queue as it is: carried out after a crash.
    #[must_use]
    pub fn outstanding(&self) -> Vec<Effect> {
        let mut out = Vec::new();
        for (key, run) in self.runs() {
            out.push(Effect::Assign(key, run.host.clone()));
            if run.deleting {
                out.push(Effect::Kill(key, run.host.clone()));
            }
        }
        out
    }

    // ---- Changes ----

    /// Applies a journaled record.
    ///
    /// # Errors
    /// When the record can't follow from this queue: journal and law disagree, and going on would make it worse.
    pub fn apply(&mut self, record: &Record) -> Result<Vec<Effect>, Contradiction> {
        let mut effects = Vec::new();
        match record {
            Record::Submitted(new) => {
                if !self.accepted.insert(new.id.0) {
                    return Err(Contradiction(format!("job number {} is used up", new.id)));
                }
                let mut waiting = Ranges::default();
                waiting.insert_range(0, new.tasks().count() - 1);
                let job = Job {
                    new: new.clone(),
                    waiting,
                    runs: BTreeMap::new(),
                    errors: BTreeMap::new(),
                    attempts: BTreeMap::new(),
                    over: 0,
                    bad_ends: BTreeMap::new(),
                };
                self.jobs.insert(new.id, job);
                self.reindex(new.id);
                effects.push(Effect::Accept(new.id));
            }
            Record::Abandoned { job } => {
                if !self.accepted.insert(job.0) {
                    return Err(Contradiction(format!("job number {job} is used up")));
                }
            }
            Record::Dispatched { key, host, at_ms } => {
                let job = self.job_mut(key.job)?;
                let index = job
                    .new
                    .tasks()
                    .index(key.task)
                    .ok_or_else(|| Contradiction(format!("job {} has no task {}", key.job, key.task)))?;
                let before = job.attempts.get(&key.task).copied().unwrap_or(0);
                if key.run != before + 1 {
                    return Err(Contradiction(format!("run {key} doesn't follow run {before}")));
                }
                if !job.waiting.remove(index) {
                    return Err(Contradiction(format!("task {}.{} doesn't wait", key.job, key.task)));
                }
                let run = Run {
                    run: key.run,
                    host: host.clone(),
                    phase: Phase::Transferring,
                    since_ms: *at_ms,
                    deleting: false,
                };
                job.runs.insert(key.task, run);
                *self.used.entry(host.clone()).or_default() += 1;
                self.reindex(key.job);
                effects.push(Effect::Assign(*key, host.clone()));
            }
            Record::Started { key, at_ms } => {
                let run = self.run_mut(*key)?;
                run.phase = Phase::Running;
                run.since_ms = *at_ms;
            }
            Record::Ended { key, exit, verdict, .. } => {
                self.run_mut(*key)?;
                let host = self.take_run(*key);
                effects.push(Effect::Withdraw(*key, host));
                let job = self.job_mut(key.job)?;
                match verdict {
                    Verdict::Done | Verdict::Deleted | Verdict::Lost => {
                        let end = TaskEnd {
                            exit_status: exit.exit_status,
                            failed: exit.failed,
                            verdict: verdict.clone(),
                        };
                        job.end_task(key.task, end);
                    }
                    Verdict::Requeued => {
                        job.attempts.insert(key.task, key.run);
                        if let Some(index) = job.new.tasks().index(key.task) {
                            job.waiting.insert(index);
                        }
                    }
                    Verdict::Error(reason) => {
                        job.attempts.insert(key.task, key.run);
                        job.errors.insert(key.task, reason.clone());
                    }
                }
                self.finish_or_reindex(key.job, exit.ended_ms, &mut effects);
            }
            Record::Deleted { job: id, tasks, force, at_ms, .. } => {
                let job = self.job_mut(*id)?;
                let range = job.new.tasks();
                let end = TaskEnd { exit_status: 0, failed: 0, verdict: Verdict::Deleted };
                let waiting: Vec<u64> =
                    job.waiting.iter().filter(|i| job.selected(range.task(*i), tasks.as_ref())).collect();
                for index in waiting {
                    job.waiting.remove(index);
                    job.end_task(range.task(index), end.clone());
                }
                let errors: Vec<TaskId> =
                    job.errors.keys().copied().filter(|t| job.selected(*t, tasks.as_ref())).collect();
                for task in errors {
                    job.errors.remove(&task);
                    job.end_task(task, end.clone());
                }
                let runs: Vec<RunKey> = job
                    .runs
                    .iter()
                    .filter(|(t, _)| job.selected(**t, tasks.as_ref()))
                    .map(|(t, run)| RunKey { job: *id, task: *t, run: run.run })
                    .collect();
                for key in runs {
                    if *force {
                        let host = self.take_run(key);
                        self.job_mut(*id)?.end_task(key.task, end.clone());
                        effects.push(Effect::Withdraw(key, host));
                    } else {
                        let run = self.run_mut(key)?;
                        run.deleting = true;
                        effects.push(Effect::Kill(key, run.host.clone()));
                    }
                }
                self.finish_or_reindex(*id, *at_ms, &mut effects);
            }
            Record::Held { job: id, hold } => {
                self.job_mut(*id)?.new.hold = *hold;
                self.reindex(*id);
            }
            Record::Cleared { job: id, tasks } => {
                let job = self.job_mut(*id)?;
                let range = job.new.tasks();
                let cleared: Vec<TaskId> =
                    job.errors.keys().copied().filter(|t| job.selected(*t, tasks.as_ref())).collect();
                for task in cleared {
                    job.errors.remove(&task);
                    if let Some(index) = range.index(task) {
                        job.waiting.insert(index);
                    }
                }
                self.reindex(*id);
            }
        }
        Ok(effects)
    }

    fn job_mut(&mut self, id: JobId) -> Result<&mut Job, Contradiction> {
        self.jobs.get_mut(&id).ok_or_else(|| Contradiction(format!("there is no job {id}")))
    }

    fn run_mut(&mut self, key: RunKey) -> Result<&mut Run, Contradiction> {
        self.jobs
            .get_mut(&key.job)
            .and_then(|job| job.runs.get_mut(&key.task))
            .filter(|run| run.run == key.run)
            .ok_or_else(|| Contradiction(format!("run {key} isn't live")))
    }

    /// Removes a run the caller knows to be live; its host.
    fn take_run(&mut self, key: RunKey) -> String {
        let run = self.jobs.get_mut(&key.job).and_then(|job| job.runs.remove(&key.task));
        let host = run.map(|run| run.host).unwrap_or_default();
        if let Some(used) = self.used.get_mut(&host) {
            *used -= 1;
            if *used == 0 {
                self.used.remove(&host);
            }
        }
        host
    }

    fn finish_or_reindex(&mut self, id: JobId, at_ms: i64, effects: &mut Vec<Effect>) {
        if !self.jobs.get(&id).is_some_and(Job::is_over) {
            self.reindex(id);
            return;
        }
        if let Some(job) = self.jobs.remove(&id) {
            self.ready.remove(&(Reverse(job.new.priority), id));
            self.finished.push_back(Finished { new: job.new, ended_ms: at_ms, bad_ends: job.bad_ends });
            while self.finished.len() > FINISHED_MAX {
                self.finished.pop_front();
            }
        }
        effects.push(Effect::Drop(id));
    }

    fn reindex(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let place = (Reverse(job.new.priority), id);
        if job.is_ready() {
            self.ready.insert(place);
        } else {
            self.ready.remove(&place);
        }
    }
}
