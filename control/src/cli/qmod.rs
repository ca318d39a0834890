//! `qmod -cj`: clears the error state of jobs. Also what `qhold` and `qrls` are made of.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use super::select::{self, Target};
use super::{Failure, Output, find, hand_in, run, value_of};
use crate::config;
use crate::plan::{JobId, Ranges, Refusal, TaskRange};
use crate::store::message::Command;
use crate::users;

const HELP: &str = "\
usage: qmod -cj JOB,...

Clears the error state (Eqw) of jobs or tasks: they wait again. JOB: number, ID.TASK, name or pattern.
";

/// What is done to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Hold(bool),
    Clear,
}

/// Runs `qmod` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    run("qmod", args, HELP, |args, out| change(args, out, Change::Clear))
}

pub(super) fn change(args: Vec<String>, out: &mut Output, change: Change) -> Result<(), Failure> {
    let (mut words, mut of, mut clear) = (Vec::new(), Vec::<String>::new(), false);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match (arg.as_str(), change) {
            ("-cj", Change::Clear) => clear = true,
            ("-u", Change::Hold(_)) => of.extend(value_of(&arg, &mut args)?.split(',').map(str::to_owned)),
            ("-h", Change::Hold(_)) => {
                let kind = value_of(&arg, &mut args)?;
                if kind != "u" {
                    return Err(Failure::new(format!(
                        "option -h takes u (user hold) in this release, not {kind:?}"
                    )));
                }
            }
            (other, _) if other.starts_with('-') => {
                return Err(Failure::new(format!("unknown option {other:?} (--help lists them)")));
            }
            _ => words.push(arg),
        }
    }
    if change == Change::Clear && !clear {
        return Err(Failure::new("what is to be done? This release knows qmod -cj JOB,..."));
    }
    let targets = select::parse_list(&words)?;
    if targets.is_empty() && of.is_empty() {
        return Err(Failure::new("which job? Give its number or name"));
    }
    let layout = find::layout()?;
    let me = users::me()?;
    let mut queue = select::all_jobs(&layout)?;
    let mut meant: Vec<(JobId, Option<TaskRange>)> =
        select::of_users(&queue, &of).into_iter().map(|id| (id, None)).collect();
    let mut failed = false;
    for target in &targets {
        match target {
            Target::Job(id, tasks) => meant.push((*id, *tasks)),
            Target::Name(name) => {
                let found = select::of_name(&queue, name);
                if found.is_empty() {
                    failed = true;
                    select::no_such_job(out, name)?;
                }
                meant.extend(found.into_iter().map(|id| (id, None)));
            }
        }
    }
    for (id, tasks) in meant {
        let numbers: Option<Ranges> = tasks.as_ref().map(select::numbers);
        let decided = match change {
            Change::Hold(hold) => queue.hold(me.uid, id, hold),
            Change::Clear => queue.clear(me.uid, id, numbers.clone()),
        };
        match decided {
            Ok(record) => {
                let (command, text) = match change {
                    Change::Hold(hold) => {
                        (Command::Hold { job: id, hold }, format!("modified hold of job {id}"))
                    }
                    Change::Clear => (
                        Command::Clear { job: id, tasks: numbers },
                        format!("{}@{} cleared error state of job {id}", me.name, config::hostname()),
                    ),
                };
                hand_in(&layout, &command)?;
                queue.apply(&record).map_err(|c| Failure::new(c.0))?;
                writeln!(out, "{text}")?;
            }
            Err(Refusal::NoSuchJob) => {
                failed = true;
                select::no_such_job(out, id)?;
            }
            Err(Refusal::NotOwner) => {
                failed = true;
                select::not_yours(out, &me.name, "modify", id)?;
            }
            Err(Refusal::AlreadyDone) => match change {
                Change::Hold(_) => writeln!(out, "modified hold of job {id}")?,
                Change::Clear => {
                    failed = true;
                    writeln!(out, "job {id} is not in error state")?;
                }
            },
        }
    }
    if failed { Err(Failure::silent(1)) } else { Ok(()) }
}
