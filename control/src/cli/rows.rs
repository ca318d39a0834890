//! What `qstat` shows of the queue: one row a running task, one a group of waiting tasks.

use crate::layout::Layout;
use crate::plan::{Job, JobId, NewJob, Phase, Queue, TaskRange, Verdict};
use crate::store::message::JOB_PREFIX;
use crate::store::{disk, submission};
use crate::users;

/// What kind of state a row shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Running,
    Pending,
    Finished,
}

/// One line of `qstat`.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub kind: Kind,
    pub id: JobId,
    pub prior: f64,
    pub name: String,
    pub owner: String,
    pub state: String,
    pub at_ms: i64,
    /// `queue@host` of a running task.
    pub place: String,
    pub tasks: String,
    pub hold: bool,
    pub order: (i32, u64),
}

/// The priority as a number from 0 to 1; 0.5 is a user's default.
pub(crate) fn prior(priority: i32) -> f64 {
    f64::from(priority + 1024) / 2048.0
}

fn row(kind: Kind, new: &NewJob, state: String, at_ms: i64, tasks: String) -> Row {
    let waits_for_nothing = kind != Kind::Pending || !(state.contains('h') || state.contains('E'));
    Row {
        kind,
        id: new.id,
        prior: if waits_for_nothing { prior(new.priority) } else { 0.0 },
        name: new.name.clone(),
        owner: new.owner.clone(),
        state,
        at_ms,
        place: String::new(),
        tasks,
        hold: new.hold,
        order: (-new.priority, new.id.0),
    }
}

/// Writes task numbers as `1-19:2,23`: as few ranges of the array's own step as possible.
pub(crate) fn task_list(range: &TaskRange, intervals: impl Iterator<Item = (u64, u64)>) -> String {
    let parts: Vec<String> = intervals
        .map(|(first, last)| {
            let (a, b) = (range.task(first), range.task(last));
            if first == last { a.to_string() } else { format!("{a}-{b}:{}", range.step) }
        })
        .collect();
    parts.join(",")
}

/// The rows of one job that isn't over.
fn of_job(job: &Job, queue: &str, out: &mut Vec<Row>) {
    let new = &job.new;
    let range = new.tasks();
    let array = new.array.is_some();
    let one = |task: crate::plan::TaskId| if array { task.to_string() } else { String::new() };
    for (task, run) in &job.runs {
        let mut state = String::new();
        if run.deleting {
            state.push('d');
        }
        if run.run > 1 {
            state.push('R');
        }
        state.push(if run.phase == Phase::Running { 'r' } else { 't' });
        let mut row = row(Kind::Running, new, state, run.since_ms, one(*task));
        row.place = format!("{queue}@{}", run.host);
        out.push(row);
    }
    // Tasks that ran before are shown on their own.
    let again: Vec<u64> =
        job.attempts.keys().filter_map(|t| range.index(*t)).filter(|i| job.waiting.contains(*i)).collect();
    let mut first_time = job.waiting.clone();
    for index in &again {
        first_time.remove(*index);
    }
    let h = if new.hold { "h" } else { "" };
    if !first_time.is_empty() {
        let tasks = if array { task_list(&range, first_time.intervals()) } else { String::new() };
        out.push(row(Kind::Pending, new, format!("{h}qw"), new.submitted_ms, tasks));
    }
    if !again.is_empty() {
        let tasks = if array { task_list(&range, again.iter().map(|i| (*i, *i))) } else { String::new() };
        let state = if new.hold { "hRwq" } else { "Rq" };
        out.push(row(Kind::Pending, new, state.into(), new.submitted_ms, tasks));
    }
    if !job.errors.is_empty() {
        let indexes = job.errors.keys().filter_map(|t| range.index(*t)).map(|i| (i, i));
        let tasks = if array { task_list(&range, indexes) } else { String::new() };
        out.push(row(Kind::Pending, new, format!("E{h}qw"), new.submitted_ms, tasks));
    }
}

/// All rows: running, then pending in the order they get slots, then finished.
pub(crate) fn all(queue: &Queue, incoming: &[NewJob], queue_name: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for job in queue.jobs.values() {
        of_job(job, queue_name, &mut rows);
    }
    for new in incoming.iter().filter(|n| !queue.accepted.contains(n.id.0)) {
        let tasks = new.array.map(|a| a.to_string()).unwrap_or_default();
        let state = if new.hold { "hqw" } else { "qw" };
        rows.push(row(Kind::Pending, new, state.into(), new.submitted_ms, tasks));
    }
    rows.sort_by_key(|r| (r.kind != Kind::Running, r.order));
    for finished in &queue.finished {
        let tasks = finished.new.array.map(|a| a.to_string()).unwrap_or_default();
        let lost = finished.bad_ends.values().any(|e| e.verdict == Verdict::Lost);
        let state = if lost { "lost" } else { "z" };
        rows.push(row(Kind::Finished, &finished.new, state.into(), finished.ended_ms, tasks));
    }
    rows
}

/// Submissions the master hasn't taken in yet, as far as we may read them.
pub(crate) fn incoming(layout: &Layout) -> Vec<NewJob> {
    let dir = layout.incoming();
    let mut out = Vec::new();
    for name in disk::names(&dir).unwrap_or_default() {
        if !name.starts_with(JOB_PREFIX) {
            continue;
        }
        let path = dir.join(&name);
        // Others' are theirs to read, and what isn't a submission is the master's to refuse.
        let Ok(found) = disk::read_bounded(&path, crate::config::SUBMISSION_MAX) else { continue };
        let Ok((spec, _)) = submission::decode(&found.bytes, &path) else { continue };
        let person = users::by_uid(found.uid).ok().flatten();
        out.push(NewJob {
            id: spec.id,
            name: spec.name,
            owner: person.as_ref().map_or_else(|| found.uid.to_string(), |p| p.name.clone()),
            uid: found.uid,
            group: person.map(|p| p.group).unwrap_or_default(),
            submitted_ms: spec.submitted_ms,
            array: spec.array,
            task_limit: spec.task_limit,
            priority: spec.priority,
            rerun: spec.rerun.unwrap_or(false),
            hold: spec.hold,
            account: spec.account,
            digest: String::new(),
        });
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::law::Host;
    use crate::plan::laws::new_job;
    use crate::plan::{Exit, Record};

    #[test]
    fn an_array_is_shown_by_state_with_grid_engines_ranges() {
        let mut queue = Queue::default();
        queue.set_host("n", Host { slots: 3, up: true });
        queue.apply(&queue.submit(new_job(7, TaskRange::new(1, 19, 2))).unwrap()).unwrap();
        let mut keys = Vec::new();
        for _ in 0..3 {
            let record = queue.next_dispatch(0).unwrap();
            if let Record::Dispatched { key, .. } = &record {
                keys.push(*key);
            }
            queue.apply(&record).unwrap();
        }
        queue.apply(&queue.report_started(keys[0], 1).unwrap()).unwrap();
        for (key, status) in [(keys[1], 99), (keys[2], 100)] {
            let exit = Exit { started_ms: Some(1), exit_status: status, ..Exit::default() };
            queue.apply(&queue.report_ended(key, exit).unwrap()).unwrap();
        }
        let shown: Vec<(String, String)> =
            all(&queue, &[], "all.q").into_iter().map(|r| (r.state, r.tasks)).collect();
        let want = [("r", "1"), ("qw", "7-19:2"), ("Rq", "3"), ("Eqw", "5")];
        assert_eq!(shown, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
