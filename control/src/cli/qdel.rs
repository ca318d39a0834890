//! `qdel`: deletes jobs, waiting or running.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use super::select::{self, Target};
use super::{Failure, Output, find, hand_in, options, run, value_of};
use crate::clock::now_ms;
use crate::layout::Layout;
use crate::plan::{JobId, Queue, Ranges, Refusal, TaskRange};
use crate::store::message::Command;
use crate::users::{self, Person};

const HELP: &str = "\
usage: qdel [options] [JOB,...]...

Deletes jobs: by number, ID.TASK, name or pattern.

  -u USER,...     all jobs of these users; '*' for all
  -t N[-M[:S]]    only these tasks of the array jobs given
  -f              root: forget running jobs at once, even if their host is dead
  --help          this text
";

/// Runs `qdel` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    run("qdel", args, HELP, qdel)
}

fn qdel(args: Vec<String>, out: &mut Output) -> Result<(), Failure> {
    let (mut words, mut of, mut only, mut force) = (Vec::new(), Vec::<String>::new(), None, false);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-u" => of.extend(value_of(&arg, &mut args)?.split(',').map(str::to_owned)),
            "-t" => only = Some(options::tasks(&value_of(&arg, &mut args)?).map_err(Failure::new)?),
            "-f" => force = true,
            other if other.starts_with('-') => {
                return Err(Failure::new(format!("unknown option {other:?} (qdel --help lists them)")));
            }
            _ => words.push(arg),
        }
    }
    let targets = select::parse_list(&words)?;
    if targets.is_empty() && of.is_empty() {
        return Err(Failure::new("which job? Give its number or name, or -u USER (qdel --help)"));
    }
    let layout = find::layout()?;
    let me = users::me()?;
    let mut queue = select::all_jobs(&layout)?;
    let mut doomed: Vec<(JobId, Option<TaskRange>)> = Vec::new();
    let mut failed = false;
    for user in &of {
        let found = select::of_users(&queue, std::slice::from_ref(user));
        if found.is_empty() {
            failed = true;
            writeln!(out, "There are no jobs of user {user:?}")?;
        }
        doomed.extend(found.into_iter().map(|id| (id, only)));
    }
    for target in &targets {
        match target {
            Target::Job(id, tasks) => doomed.push((*id, tasks.or(only))),
            Target::Name(name) => {
                let found: Vec<JobId> = select::of_name(&queue, name)
                    .into_iter()
                    .filter(|id| me.uid == 0 || queue.jobs.get(id).is_some_and(|j| j.new.uid == me.uid))
                    .collect();
                if found.is_empty() {
                    failed = true;
                    select::no_such_job(out, name)?;
                }
                doomed.extend(found.into_iter().map(|id| (id, only)));
            }
        }
    }
    let force = force && me.uid == 0;
    for (id, tasks) in doomed {
        failed |= !delete(out, &layout, &mut queue, &me, id, tasks, force)?;
    }
    if failed { Err(Failure::silent(1)) } else { Ok(()) }
}

/// Deletes one job or tasks of it; false when that isn't to be.
fn delete(
    out: &mut Output,
    layout: &Layout,
    queue: &mut Queue,
    me: &Person,
    id: JobId,
    tasks: Option<TaskRange>,
    force: bool,
) -> Result<bool, Failure> {
    let user = &me.name;
    let numbers: Option<Ranges> = tasks.as_ref().map(select::numbers);
    let record = match queue.delete((me.uid, user), id, numbers.clone(), force, now_ms()) {
        Ok(record) => record,
        Err(Refusal::NoSuchJob) => {
            select::no_such_job(out, id)?;
            return Ok(false);
        }
        Err(Refusal::NotOwner) => {
            select::not_yours(out, user, "delete", id)?;
            return Ok(false);
        }
        Err(Refusal::AlreadyDone) => {
            match &tasks {
                Some(tasks) => {
                    writeln!(out, "denied: job-array tasks {id}.{tasks} do not exist or are in deletion")?
                }
                None => writeln!(out, "job {id} is already in deletion")?,
            }
            return Ok(false);
        }
    };
    // What will be waited for: tasks that run on a host, unless forced.
    let running = queue
        .jobs
        .get(&id)
        .is_some_and(|j| j.runs.keys().any(|t| numbers.as_ref().is_none_or(|n| n.contains(t.0))));
    hand_in(layout, &Command::Delete { job: id, tasks: numbers, force })?;
    // A second mention of the job in the same command sees what the first did.
    queue.apply(&record).map_err(|c| Failure::new(c.0))?;
    let what = match &tasks {
        None => format!("job {id}"),
        Some(t) if t.count() == 1 => format!("job-array task {id}.{}", t.first),
        Some(t) => format!("job-array tasks {id}.{t}"),
    };
    if running && force {
        writeln!(out, "{user} has forced the deletion of {what}")?;
    } else if running {
        writeln!(out, "{user} has registered the {what} for deletion")?;
    } else {
        writeln!(out, "{user} has deleted {what}")?;
    }
    Ok(true)
}
