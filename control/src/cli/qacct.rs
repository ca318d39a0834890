//! `qacct`: what finished jobs used, from the accounting file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::select;
use super::{Failure, Output, find, local_time, run, value_of};
use crate::clock::now_ms;
use crate::layout::Layout;
use crate::plan::accounting::FIELDS;
use crate::plan::ids::plain_number;
use crate::plan::{JobId, TaskRange};

const HELP: &str = "\
usage: qacct [options]

Shows what finished jobs used. Without -j: totals.

  -j [JOB]        all about the runs of a job: number, name or pattern
  -t N[-M[:S]]    only these tasks
  -o [USER]       only this user's; without a name: totals for each user
  -q [QUEUE]      likewise for queues
  -h [HOST]       likewise for hosts
  -d DAYS         only jobs begun in the last DAYS days
  -f FILE         read FILE instead of the cluster's accounting file
  --help          this text
";

/// Runs `qacct` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    run("qacct", args, HELP, qacct)
}

/// One line of the accounting file.
struct Line(Vec<String>);

impl Line {
    fn parse(text: &str) -> Option<Line> {
        let fields: Vec<String> = text.split(':').map(str::to_owned).collect();
        (fields.len() >= FIELDS).then_some(Line(fields))
    }

    /// Field by its number in accounting(5), from 1.
    fn field(&self, n: usize) -> &str {
        self.0.get(n - 1).map_or("", String::as_str)
    }

    fn number(&self, n: usize) -> f64 {
        self.field(n).parse().unwrap_or(0.0)
    }

    fn time(&self, n: usize) -> String {
        match self.field(n).parse() {
            Ok(0) | Err(_) => "-/-".into(),
            Ok(seconds) => local_time::long(seconds),
        }
    }
}

#[derive(Default)]
struct Asked {
    job: Option<Option<String>>,
    tasks: Option<TaskRange>,
    owner: Option<Option<String>>,
    queue: Option<Option<String>>,
    host: Option<Option<String>>,
    since_s: Option<i64>,
    file: Option<PathBuf>,
}

fn parse(args: Vec<String>) -> Result<Asked, Failure> {
    let mut asked = Asked::default();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let mut optional = || args.next_if(|a| !a.starts_with('-'));
        match arg.as_str() {
            "-j" => asked.job = Some(optional()),
            "-o" => asked.owner = Some(optional()),
            "-q" => asked.queue = Some(optional()),
            "-h" => asked.host = Some(optional()),
            "-t" | "-d" | "-f" => {
                let value = value_of(&arg, &mut args)?;
                match arg.as_str() {
                    "-t" => asked.tasks = Some(super::options::tasks(&value).map_err(Failure::new)?),
                    "-d" => {
                        let days: u32 = value.parse().map_err(|_| {
                            Failure::new(format!("option -d takes a number of days, not {value:?}"))
                        })?;
                        asked.since_s = Some(now_ms() / 1000 - i64::from(days) * 86_400);
                    }
                    _ => asked.file = Some(PathBuf::from(value)),
                }
            }
            other => return Err(Failure::new(format!("unknown option {other:?} (qacct --help lists them)"))),
        }
    }
    Ok(asked)
}

impl Asked {
    fn wants(&self, line: &Line) -> bool {
        let is = |asked: &Option<Option<String>>, n: usize| {
            asked.as_ref().and_then(Option::as_ref).is_none_or(|p| select::matches(p, line.field(n)))
        };
        let job = self.job.as_ref().and_then(Option::as_ref).is_none_or(|job| match plain_number(job) {
            Some(_) => line.field(6) == job,
            None => select::matches(job, line.field(5)),
        });
        let task = |range: &TaskRange| {
            line.field(36).parse().is_ok_and(|t| range.index(crate::plan::TaskId(t)).is_some())
        };
        job && is(&self.owner, 4)
            && is(&self.queue, 1)
            && is(&self.host, 2)
            && self.tasks.as_ref().is_none_or(task)
            && self.since_s.is_none_or(|s| line.field(10).parse::<i64>().is_ok_and(|t| t >= s))
    }
}

/// Gives every line of a file to `take`. Lines that aren't whole are left out: the last one may be in the making.
fn each(path: &Path, mut take: impl FnMut(Line) -> Result<(), Failure>) -> Result<(), Failure> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(format!(
                "no accounting file {}: no job has finished yet",
                path.display()
            )));
        }
        Err(e) => return Err(Failure::new(format!("can't read {}: {e}", path.display()))),
    };
    for text in BufReader::new(file).split(b'\n') {
        let text = text.map_err(|e| Failure::new(format!("can't read {}: {e}", path.display())))?;
        let text = String::from_utf8_lossy(&text);
        if text.starts_with('#') {
            continue;
        }
        if let Some(line) = Line::parse(&text) {
            take(line)?;
        }
    }
    Ok(())
}

/// Exit statuses of a job's runs, for `qsub -sync y` when the queue forgot the job.
pub(super) fn exit_statuses(layout: &Layout, id: JobId) -> Result<Vec<i32>, Failure> {
    let mut found = Vec::new();
    let path = layout.accounting();
    if path.exists() {
        each(&path, |line| {
            if line.field(6) == id.to_string() {
                found.extend(line.field(13).parse::<i32>());
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn qacct(args: Vec<String>, out: &mut Output) -> Result<(), Failure> {
    let asked = parse(args)?;
    let path = match &asked.file {
        Some(path) => path.clone(),
        None => find::layout()?.accounting(),
    };
    if let Some(job) = &asked.job {
        let mut found = false;
        let read = each(&path, |line| {
            if asked.wants(&line) {
                found = true;
                show(out, &line)?;
            }
            Ok(())
        });
        if path.exists() || asked.file.is_some() {
            read?;
        }
        return match job {
            Some(job) if !found && plain_number(job).is_some() => {
                Err(Failure::new(format!("error: job id {job} not found")))
            }
            Some(job) if !found => Err(Failure::new(format!("error: job name {job} not found"))),
            _ => Ok(()),
        };
    }
    totals(out, &path, &asked)
}

fn failed_text(code: &str) -> &'static str {
    match code {
        "0" => "",
        "1" => " : before job",
        "19" => " : before writing exit_status",
        "25" => " : rescheduling",
        "26" => " : opening input/output file",
        "27" => " : searching requested shell",
        "28" => " : changing into working directory",
        "30" => " : rescheduling on application error",
        "100" => " : assumedly after job",
        _ => " : unknown",
    }
}

fn kib(value: f64) -> String {
    match value {
        v if v >= 1024.0 * 1024.0 => format!("{:.3}GB", v / 1024.0 / 1024.0),
        v if v >= 1024.0 => format!("{:.3}MB", v / 1024.0),
        v => format!("{v:.3}KB"),
    }
}

fn show(out: &mut impl Write, line: &Line) -> Result<(), Failure> {
    writeln!(out, "{}", "=".repeat(62))?;
    let plain = |n: usize| line.field(n).to_owned();
    let seconds = |n: usize| format!("{:.3}s", line.number(n));
    let task = if line.field(36) == "0" { "undefined".to_owned() } else { plain(36) };
    let failed = format!("{:<4}{}", line.field(12), failed_text(line.field(12)));
    let fields: [(&str, String); 44] = [
        ("qname", plain(1)),
        ("hostname", plain(2)),
        ("group", plain(3)),
        ("owner", plain(4)),
        ("project", plain(32)),
        ("department", plain(33)),
        ("jobname", plain(5)),
        ("jobnumber", plain(6)),
        ("taskid", task),
        ("account", plain(7)),
        ("priority", plain(8)),
        ("qsub_time", line.time(9)),
        ("start_time", line.time(10)),
        ("end_time", line.time(11)),
        ("granted_pe", plain(34)),
        ("slots", plain(35)),
        ("failed", failed.trim_end().to_owned()),
        ("exit_status", plain(13)),
        ("ru_wallclock", format!("{}s", line.field(14))),
        ("ru_utime", seconds(15)),
        ("ru_stime", seconds(16)),
        ("ru_maxrss", kib(line.number(17))),
        ("ru_ixrss", kib(line.number(18))),
        ("ru_ismrss", kib(line.number(19))),
        ("ru_idrss", kib(line.number(20))),
        ("ru_isrss", kib(line.number(21))),
        ("ru_minflt", plain(22)),
        ("ru_majflt", plain(23)),
        ("ru_nswap", plain(24)),
        ("ru_inblock", format!("{:.0}", line.number(25))),
        ("ru_oublock", plain(26)),
        ("ru_msgsnd", plain(27)),
        ("ru_msgrcv", plain(28)),
        ("ru_nsignals", plain(29)),
        ("ru_nvcsw", plain(30)),
        ("ru_nivcsw", plain(31)),
        ("cpu", seconds(37)),
        ("mem", format!("{:.3}GBs", line.number(38))),
        ("io", format!("{:.3}GB", line.number(39))),
        ("iow", seconds(41)),
        ("maxvmem", format!("{:.3}B", line.number(43))),
        ("arid", if line.field(44) == "0" { "undefined".into() } else { plain(44) }),
        ("ar_sub_time", if line.field(45) == "0" { "undefined".into() } else { line.time(45) }),
        ("category", plain(40)),
    ];
    for (key, value) in &fields {
        writeln!(out, "{key:<12} {value:<20}")?;
    }
    Ok(())
}

/// Adds up by owner, queue or host, or all together.
fn totals(out: &mut impl Write, path: &Path, asked: &Asked) -> Result<(), Failure> {
    let keys: Vec<(&str, usize)> =
        [("OWNER", &asked.owner, 4), ("CLUSTER QUEUE", &asked.queue, 1), ("HOST", &asked.host, 2)]
            .into_iter()
            .filter(|(_, wanted, _)| wanted.is_some())
            .map(|(title, _, n)| (title, n))
            .collect();
    let mut sums: BTreeMap<Vec<String>, [f64; 7]> = BTreeMap::new();
    if keys.is_empty() {
        sums.insert(Vec::new(), [0.0; 7]);
    }
    each(path, |line| {
        if asked.wants(&line) {
            let key = keys.iter().map(|(_, n)| line.field(*n).to_owned()).collect();
            let sum = sums.entry(key).or_default();
            for (slot, n) in sum.iter_mut().zip([14, 15, 16, 37, 38, 39, 41]) {
                *slot += line.number(n);
            }
        }
        Ok(())
    })?;
    let mut head = String::new();
    for (title, _) in &keys {
        head.push_str(&format!("{title:<20} "));
    }
    head.push_str(&format!(
        "{:>13} {:>13} {:>13} {:>13} {:>18} {:>18} {:>18}",
        "WALLCLOCK", "UTIME", "STIME", "CPU", "MEMORY", "IO", "IOW"
    ));
    if keys.is_empty() {
        writeln!(out, "Total System Usage")?;
    }
    writeln!(out, "{head}")?;
    writeln!(out, "{}", "=".repeat(head.chars().count()))?;
    for (key, sum) in &sums {
        for part in key {
            write!(out, "{part:<20} ")?;
        }
        writeln!(
            out,
            "{:>13.0} {:>13.3} {:>13.3} {:>13.3} {:>18.3} {:>18.3} {:>18.3}",
            sum[0], sum[1], sum[2], sum[3], sum[4], sum[5], sum[6]
        )?;
    }
    Ok(())
}
