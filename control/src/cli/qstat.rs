//! `qstat`: shows jobs, queues and hosts as the files say they are. Works without a master.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use super::rows::{self, Kind, Row};
use super::select::{self, Target};
use super::{Failure, Output, find, local_time, run, value_of};
use crate::config::{MESSAGE_MAX, SUBMISSION_MAX, load_queue};
use crate::layout::Layout;
use crate::plan::{Job, JobId, Queue};
use crate::store::message::{HOST, HostStatus};
use crate::store::submission::Spec;
use crate::store::{disk, recover, sealed, submission};
use crate::users;

/// A host that said nothing for this long, in seconds, is shown as unreachable.
const SILENCE_MAX_S: i64 = 30;

const HELP: &str = "\
usage: qstat [options]

Shows jobs: yours, or those of the users given.

  -u USER,...     jobs of these users; '*' for all
  -s p|r|s|h|z|a  only pending, running, suspended, held, finished jobs; a: all that aren't finished
  -f              by queue and host
  -g c            cluster queues with their slots
  -g d            one line for each task of an array
  -j [JOB,...]    all about jobs
  --help          this text

States: qw waits, hqw held, Eqw error (qstat -j says why), t on its way, r runs, Rr runs again, dr is being deleted,
z finished, lost: its host vanished while it ran.
";

/// Runs `qstat` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    run("qstat", args, HELP, qstat)
}

#[derive(Debug, Default)]
struct Asked {
    users: Option<Vec<String>>,
    states: Option<String>,
    full: bool,
    clusters: bool,
    tasks: bool,
    jobs: Option<Vec<Target>>,
}

fn parse(args: Vec<String>) -> Result<Asked, Failure> {
    let mut asked = Asked::default();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let mut value = || value_of(&arg, &mut args);
        match arg.as_str() {
            "-u" => asked.users.get_or_insert_default().extend(value()?.split(',').map(str::to_owned)),
            "-s" => {
                let states = value()?;
                if states.is_empty() || states.chars().any(|c| !"prshza".contains(c)) {
                    return Err(Failure::new(format!("option -s takes letters of prshza, not {states:?}")));
                }
                asked.states = Some(states);
            }
            "-f" => asked.full = true,
            "-g" => match value()?.as_str() {
                "c" => asked.clusters = true,
                "d" => asked.tasks = true,
                other => return Err(Failure::new(format!("option -g takes c or d, not {other:?}"))),
            },
            "-j" => {
                let list = args.next_if(|a| !a.starts_with('-'));
                asked.jobs = Some(select::parse_list(&list.into_iter().collect::<Vec<_>>())?);
            }
            other => return Err(Failure::new(format!("unknown option {other:?} (qstat --help lists them)"))),
        }
    }
    Ok(asked)
}

fn qstat(args: Vec<String>, out: &mut Output) -> Result<(), Failure> {
    let asked = parse(args)?;
    let layout = find::layout()?;
    // Incoming first: a submission the master takes between the two looks is then seen in one of them.
    let incoming = rows::incoming(&layout);
    let queue = recover::view(&layout)?.queue;
    if let Some(targets) = &asked.jobs {
        return jobs(out, &layout, &queue, targets);
    }
    let queue_name = load_queue(&layout)?.name;
    let rows = rows::all(&queue, &incoming, &queue_name);
    if asked.clusters {
        clusters(out, &layout, &queue, &queue_name)
    } else {
        list(out, &layout, &queue, &queue_name, rows, &asked)
    }
}

fn wanted(row: &Row, states: Option<&str>) -> bool {
    let states = states.unwrap_or("a");
    match row.kind {
        Kind::Finished => states.contains('z'),
        Kind::Running => states.contains(['r', 'a']),
        Kind::Pending => states.contains(['p', 'a']) || (states.contains('h') && row.hold),
    }
}

const RULE: &str = "-----------------------------------------------------------------------------------------------------------------";

fn list(
    out: &mut impl Write,
    layout: &Layout,
    queue: &Queue,
    queue_name: &str,
    rows: Vec<Row>,
    asked: &Asked,
) -> Result<(), Failure> {
    // `qstat -f` shows everybody's jobs unless told otherwise, `qstat` the caller's.
    let users = match &asked.users {
        Some(users) => users.clone(),
        None if asked.full => vec!["*".into()],
        None => vec![users::me()?.name],
    };
    let mut rows: Vec<Row> = rows
        .into_iter()
        .filter(|r| wanted(r, asked.states.as_deref()) && users.iter().any(|u| select::matches(u, &r.owner)))
        .collect();
    if asked.tasks {
        rows = rows.into_iter().flat_map(one_a_task).collect();
    }
    if asked.full {
        return by_queue(out, layout, queue, queue_name, &rows);
    }
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "job-ID  prior   name       user         state submit/start at     queue                          slots ja-task-ID "
    )?;
    writeln!(out, "{RULE}")?;
    for row in &rows {
        writeln!(
            out,
            "{:>7} {:7.5} {:<10} {:<12} {:<5} {} {:<30} {:>5} {:<7}",
            row.id.0,
            row.prior,
            cut(&row.name, 10),
            cut(&row.owner, 12),
            cut(&row.state, 5),
            local_time::short(row.at_ms),
            row.place,
            1,
            row.tasks
        )?;
    }
    Ok(())
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// A row for each task a row speaks of.
fn one_a_task(row: Row) -> Vec<Row> {
    if row.tasks.is_empty() {
        return vec![row];
    }
    let mut out = Vec::new();
    for range in row.tasks.split(',').filter_map(|t| super::options::tasks(t).ok()) {
        out.extend((0..range.count()).map(|i| Row { tasks: range.task(i).to_string(), ..row.clone() }));
    }
    out
}

/// A host's status and whether it is stale.
fn hosts(layout: &Layout) -> Result<Vec<(HostStatus, bool)>, Failure> {
    let mut found = Vec::new();
    for name in disk::names(&layout.hosts())? {
        let path = layout.host(&name).join("status");
        let Ok(file) = disk::read_bounded(&path, MESSAGE_MAX) else { continue };
        let Ok(status) = sealed::open_json::<HostStatus>(HOST, &file.bytes, &path) else { continue };
        let silent_s = crate::clock::now_ms() / 1000 - file.mtime_s;
        found.push((status, silent_s > SILENCE_MAX_S));
    }
    Ok(found)
}

fn slots(layout: &Layout, status: &HostStatus) -> Result<u32, Failure> {
    let fixed = load_queue(layout)?.slots;
    Ok(if fixed == 0 { status.slots } else { fixed })
}

fn job_line(out: &mut impl Write, row: &Row) -> Result<(), Failure> {
    writeln!(
        out,
        "{:>7} {:7.5} {:<10} {:<12} {:<5} {} {:>5} {:<7}",
        row.id.0,
        row.prior,
        cut(&row.name, 10),
        cut(&row.owner, 12),
        cut(&row.state, 5),
        local_time::short(row.at_ms),
        1,
        row.tasks
    )?;
    Ok(())
}

fn by_queue(
    out: &mut impl Write,
    layout: &Layout,
    queue: &Queue,
    queue_name: &str,
    rows: &[Row],
) -> Result<(), Failure> {
    writeln!(out, "queuename                      qtype resv/used/tot. load_avg arch          states")?;
    for (status, silent) in hosts(layout)? {
        let place = format!("{queue_name}@{}", status.host);
        writeln!(out, "{}", &RULE[..81])?;
        let used = format!("0/{}/{}", queue.used(&status.host), slots(layout, &status)?);
        let load = if silent { "-NA-".to_owned() } else { format!("{:.2}", status.load_avg) };
        let state = if silent || !status.accepting { "u" } else { "" };
        writeln!(out, "{place:<30} {:<5} {used:<14} {load:<8} {:<13} {state}", "BIP", status.arch)?;
        for row in rows.iter().filter(|r| r.kind == Kind::Running && r.place == place) {
            job_line(out, row)?;
        }
    }
    for (kind, title) in [(Kind::Pending, " - PENDING JOBS"), (Kind::Finished, " - FINISHED JOBS")] {
        let mut waiting = rows.iter().filter(|r| r.kind == kind).peekable();
        if waiting.peek().is_some() {
            let hashes = "#".repeat(76);
            writeln!(out, "\n{hashes}\n{}\n{hashes}", title.repeat(5).chars().take(75).collect::<String>())?;
        }
        for row in waiting {
            job_line(out, row)?;
        }
    }
    Ok(())
}

fn clusters(out: &mut impl Write, layout: &Layout, queue: &Queue, queue_name: &str) -> Result<(), Failure> {
    let (mut used, mut total, mut away, mut load, mut cores) = (0, 0, 0, 0.0, 0);
    for (status, silent) in hosts(layout)? {
        let slots = slots(layout, &status)?;
        total += slots;
        used += queue.used(&status.host);
        if silent || !status.accepting {
            away += slots;
        } else {
            load += status.load_avg;
            cores += status.slots.max(1);
        }
    }
    let average = if cores == 0 { "-NA-".to_owned() } else { format!("{:.2}", load / f64::from(cores)) };
    let free = total.saturating_sub(used).saturating_sub(away);
    writeln!(out, "CLUSTER QUEUE                   CQLOAD   USED    RES  AVAIL  TOTAL aoACDS  cdsuE  ")?;
    writeln!(out, "{}", &RULE[..80])?;
    writeln!(
        out,
        "{:<30} {average:>7} {used:>6} {:>6} {free:>6} {total:>6} {:>6} {away:>6} ",
        cut(queue_name, 30),
        0,
        0
    )?;
    Ok(())
}

/// `qstat -j`.
fn jobs(out: &mut impl Write, layout: &Layout, queue: &Queue, targets: &[Target]) -> Result<(), Failure> {
    let mut missing = Vec::new();
    let mut ids = Vec::new();
    if targets.is_empty() {
        ids.extend(queue.jobs.keys().copied());
    }
    for target in targets {
        match target {
            Target::Job(id, _) => ids.push(*id),
            Target::Name(name) => {
                let found = select::of_name(queue, name);
                if found.is_empty() {
                    missing.push(name.clone());
                }
                ids.extend(found);
            }
        }
    }
    for id in ids {
        if !describe(out, layout, queue, id)? {
            missing.push(id.to_string());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    out.flush()?;
    Err(Failure::new(format!("Following jobs do not exist: {}", missing.join(", "))))
}

fn line(out: &mut impl Write, key: &str, value: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(out, "{:<28}{value}", format!("{key}:"))?;
    Ok(())
}

/// Everything about one job; false when there is none of this number.
fn describe(out: &mut impl Write, layout: &Layout, queue: &Queue, id: JobId) -> Result<bool, Failure> {
    let places = [
        layout.spool().join(id.to_string()),
        layout.incoming().join(format!("{}{id}", crate::store::message::JOB_PREFIX)),
    ];
    let job = queue.jobs.get(&id);
    let mut file = None;
    for place in &places {
        if let Ok(found) = disk::read_bounded(place, SUBMISSION_MAX)
            && let Ok((spec, _)) = submission::decode(&found.bytes, place)
        {
            file = Some((spec, found.uid));
            break;
        }
    }
    if job.is_none() && (file.is_none() || queue.accepted.contains(id.0)) {
        return Ok(false);
    }
    writeln!(out, "{}", "=".repeat(62))?;
    line(out, "job_number", id)?;
    if let Some(job) = job {
        line(out, "exec_file", format!("job_scripts/{id}"))?;
        line(out, "submission_time", local_time::long(job.new.submitted_ms / 1000))?;
        line(out, "owner", &job.new.owner)?;
        line(out, "uid", job.new.uid)?;
        line(out, "group", &job.new.group)?;
    }
    match &file {
        Some((spec, uid)) => {
            if job.is_none() {
                line(out, "uid", uid)?;
            }
            describe_spec(out, spec)?;
        }
        None => {
            if let Some(job) = job {
                line(out, "account", &job.new.account)?;
                line(out, "job_name", &job.new.name)?;
                line(out, "priority", job.new.priority)?;
                if let Some(array) = &job.new.array {
                    line(out, "job-array tasks", array)?;
                }
            }
        }
    }
    if let Some(job) = job {
        describe_state(out, job, queue)?;
    } else {
        line(out, "scheduling info", "handed in, not yet taken in by a master")?;
    }
    Ok(true)
}

fn describe_state(out: &mut impl Write, job: &Job, queue: &Queue) -> Result<(), Failure> {
    for (task, run) in &job.runs {
        let text = format!("run {} on {} since {}", run.run, run.host, local_time::short(run.since_ms));
        line(out, &format!("usage {task:>4}"), text)?;
    }
    for (task, reason) in &job.errors {
        line(out, &format!("error reason {task:>4}"), reason)?;
    }
    if !job.waiting.is_empty() {
        let reason = if job.new.hold {
            "held by the user (qrls releases it)".to_owned()
        } else if job.new.task_limit > 0
            && job.runs.len() >= usize::try_from(job.new.task_limit).unwrap_or(usize::MAX)
        {
            format!("not more than {} tasks at once (-tc)", job.new.task_limit)
        } else {
            format!("waits for a free slot ({} runs in the cluster)", queue.runs().count())
        };
        line(out, "scheduling info", reason)?;
    }
    Ok(())
}

/// What the submission says.
pub(super) fn describe_spec(out: &mut impl Write, spec: &Spec) -> Result<(), Failure> {
    for (key, value) in [
        ("sge_o_home", &spec.origin.home),
        ("sge_o_log_name", &spec.origin.log_name),
        ("sge_o_path", &spec.origin.path),
        ("sge_o_shell", &spec.origin.shell),
        ("sge_o_workdir", &spec.origin.workdir),
        ("sge_o_host", &spec.origin.host),
        ("account", &spec.account),
    ] {
        line(out, key, value)?;
    }
    if let Some(cwd) = &spec.cwd {
        line(out, "cwd", cwd)?;
    }
    if spec.join {
        line(out, "merge", "y")?;
    }
    line(out, "notify", "FALSE")?;
    line(out, "job_name", &spec.name)?;
    for (key, value) in [
        ("stdin_path_list", &spec.stdin),
        ("stdout_path_list", &spec.stdout),
        ("stderr_path_list", &spec.stderr),
    ] {
        if let Some(value) = value {
            line(out, key, format!("NONE:NONE:{value}"))?;
        }
    }
    line(out, "jobshare", 0)?;
    if spec.priority != 0 {
        line(out, "priority", spec.priority)?;
    }
    let env: Vec<String> = spec.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    line(out, "env_list", env.join(","))?;
    if let Some(shell) = &spec.interpreter {
        line(out, "shell_list", format!("NONE:{shell}"))?;
    }
    if !spec.args.is_empty() {
        line(out, "job_args", spec.args.join(","))?;
    }
    line(out, "script_file", &spec.script_file)?;
    if let Some(array) = &spec.array {
        line(out, "job-array tasks", array)?;
        if spec.task_limit > 0 {
            line(out, "task_concurrency", spec.task_limit)?;
        }
    }
    if spec.command.is_some() {
        line(out, "job_type", "binary")?;
    }
    Ok(())
}
