//! `qsub`: hands in a job.
//!
//! The answer "has been submitted" means durable: the submission, its name and the claim of its number are on stable storage, and
//! whatever happens then, the next master finds them. No master need be running.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::time::{ClockId, clock_gettime};

use super::options::{self, Options};
use super::{Failure, UNABLE, find, finish, hand_in, rows, text_args};
use crate::clock::now_ms;
use crate::config::{self, SUBMISSION_MAX, load_queue};
use crate::error::Error;
use crate::layout::{Layout, exists};
use crate::plan::record::failed;
use crate::plan::{Finished, Job, JobId, Ranges, TaskEnd, TaskId, Verdict};
use crate::stop::Stop;
use crate::store::disk::Disk;
use crate::store::message::{Command, JOB_PREFIX};
use crate::store::submission::{self, Origin, Spec};
use crate::store::{claims, recover};
use crate::users::{self, Person};
use crate::watch::{POLL, Watch};

/// A claimed number older than this is not used any more: the master gives it up after [`config::CLAIM_AGE_MAX_S`].
const CLAIM_USE_MAX_S: i64 = 600;
/// Job numbers tried when the machine stands still between claiming and handing in, or somebody sits on the name.
const CLAIMS_MAX: u32 = 100;

const HELP: &str = "\
usage: qsub [options] [script | command] [arguments]

Hands in a job. Without a script, or with -, it is read from standard input.
Lines of the script that begin with #$ hold options too; those given here win.

  -N NAME         name of the job (default: the script's, or STDIN)
  -cwd            run in this directory (default: your home)
  -wd DIR         run in DIR
  -o PATH         standard output; a directory takes the default name (NAME.oID, NAME.oID.TASK)
  -e PATH         standard error, likewise (NAME.eID)
  -i PATH         standard input (default: /dev/null)
                  in these paths: $HOME $USER $JOB_ID $JOB_NAME $HOSTNAME $TASK_ID
  -j y|n          standard error goes into standard output
  -b y|n          y: a command instead of a script; nothing is copied or scanned
  -shell y|n      with -b y: n runs the command without a shell
  -S PATH         interpreter (default: the queue's)
  -t N[-M[:S]]    an array of tasks N, N+S, ... up to M
  -tc N           at most N tasks of the array at once
  -v NAME[=VALUE],...   put variables into the job's environment
  -V              put all variables of this environment into the job's
  -h              hold the job until qrls
  -p N            priority, -1023 to 1024 (users: up to 0)
  -r y|n          run again if the host is lost while it runs
  -A ACCOUNT      string for the accounting
  -q QUEUE        queue
  -sync y|n       wait for the end; the exit code is the job's. What gets into error
                  state is told, and waited for until qmod -cj or qdel
  -terse          print only the number
  -C PREFIX       begins lines with options, instead of #$
  -@ FILE         read options from FILE
  -clear          forget the options given so far
  -verify         print what would be handed in
  --help          this text

Exit codes of a job: 99 runs it again, 100 puts it into error state (qmod -cj clears it).
";

/// Runs `qsub` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    finish("qsub", qsub(args))
}

/// The cluster doesn't take the job as it is asked for; what can't even be asked is a plain [`Failure`].
fn unable(reason: impl std::fmt::Display) -> Failure {
    Failure::new(format!("{UNABLE}{reason}"))
}

/// Where the job's text comes from.
enum Source {
    Script { name: String, bytes: Vec<u8> },
    Command(String),
}

fn qsub(args: Vec<OsString>) -> Result<(), Failure> {
    let args = text_args(args)?;
    let command_line = options::parse(args).map_err(Failure::new)?;
    if command_line.help {
        std::io::stdout().write_all(HELP.as_bytes())?;
        return Ok(());
    }
    let layout = find::layout()?;
    let me = users::me()?;
    let here = find::working_directory()?;
    let mut options = files(&layout, &me, &here)?;
    let before = {
        let mut o = if command_line.clear { Options::default() } else { options.clone() };
        o.merge(command_line.options.clone());
        o
    };
    let binary = before.binary.unwrap_or(false);
    let mut rest = command_line.rest.into_iter();
    let source = read_source(rest.next(), binary)?;
    if let Source::Script { bytes, .. } = &source {
        let prefix = before.prefix.as_deref().unwrap_or("#$");
        let inside = options::from_script(bytes, prefix).map_err(Failure::new)?;
        if inside.clear {
            options = Options::default();
        }
        options.merge(inside.options);
    }
    if command_line.clear {
        options = Options::default();
    }
    options.merge(command_line.options);
    let queue = load_queue(&layout)?;
    if let Some(unknown) =
        options.queues.as_ref().and_then(|q| q.split(',').find(|q| !names_queue(q, &queue.name)))
    {
        return Err(unable(format!("Job was rejected because job requests unknown queue \"{unknown}\"")));
    }
    let (mut spec, script) = build(&options, source, rest.collect(), &me, &here)?;
    if let Some(fault) = spec.fault() {
        return Err(unable(fault));
    }
    if spec.priority > 0 && me.uid != 0 {
        return Err(unable("only root may raise a priority above 0"));
    }
    if options.verify {
        return verify(&spec);
    }
    let sync = options.sync.unwrap_or(false);
    // From here on ^C must not leave a job behind that nobody knows of.
    let signals = if sync { Some(interrupts()?) } else { None };
    hand_in_job(&layout, &mut spec, &script).map_err(|f| unable(f.text))?;
    announce(&spec, options.terse)?;
    match signals {
        Some(signals) => wait_for(&layout, &spec, &signals),
        None => Ok(()),
    }
}

/// Does an entry of `-q` mean this queue?
fn names_queue(asked: &str, queue: &str) -> bool {
    let name = asked.split('@').next().unwrap_or_default();
    name == "*" || name == queue
}

fn files(layout: &Layout, me: &Person, here: &str) -> Result<Options, Failure> {
    let mut all = Options::default();
    let home = Path::new(&me.home).join(".sge_request");
    let local = Path::new(here).join(".sge_request");
    let mut paths = vec![layout.config().join("sge_request"), home.clone()];
    if local != home {
        paths.push(local);
    }
    for path in paths {
        let parsed = options::from_file(&path).map_err(Failure::new)?;
        if parsed.clear {
            all = Options::default();
        }
        all.merge(parsed.options);
    }
    Ok(all)
}

fn read_source(word: Option<String>, binary: bool) -> Result<Source, Failure> {
    if binary {
        let command = word.ok_or_else(|| Failure::new("-b y needs a command"))?;
        return Ok(Source::Command(command));
    }
    let limit = SUBMISSION_MAX;
    match word.as_deref() {
        None | Some("-") => {
            if word.is_none() && std::io::stdin().is_terminal() {
                // As Grid Engine: the script is typed, ^D ends it.
                tracing::debug!("reading the script from the terminal");
            }
            let mut bytes = Vec::new();
            std::io::stdin()
                .take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Failure::new(format!("can't read the script from standard input: {e}")))?;
            if bytes.is_empty() {
                return Err(Failure::new("the script on standard input is empty"));
            }
            check_size(&bytes)?;
            Ok(Source::Script { name: "STDIN".into(), bytes })
        }
        Some(path) => {
            let cant = |e: &dyn std::fmt::Display| Failure::new(format!("can't read script {path}: {e}"));
            let meta = std::fs::metadata(path).map_err(|e| cant(&e))?;
            if meta.is_dir() {
                return Err(cant(&"it is a directory"));
            }
            let mut bytes = Vec::new();
            File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut bytes)).map_err(|e| cant(&e))?;
            check_size(&bytes)?;
            let name = Path::new(path)
                .file_name()
                .map_or_else(|| path.to_owned(), |n| n.to_string_lossy().into_owned());
            Ok(Source::Script { name, bytes })
        }
    }
}

fn check_size(bytes: &[u8]) -> Result<(), Failure> {
    if bytes.len() as u64 > SUBMISSION_MAX {
        return Err(Failure::new(format!("the script has more than {} MiB", SUBMISSION_MAX >> 20)));
    }
    Ok(())
}

fn build(
    options: &Options,
    source: Source,
    args: Vec<String>,
    me: &Person,
    here: &str,
) -> Result<(Spec, Vec<u8>), Failure> {
    let (default_name, command, script_file, script) = match source {
        Source::Script { name, bytes } => (name.clone(), None, name, bytes),
        Source::Command(command) => {
            let word = command.split_whitespace().next().unwrap_or_default();
            let name = word.rsplit('/').next().unwrap_or_default().to_owned();
            (name, Some(command.clone()), command, Vec::new())
        }
    };
    let cwd = match &options.directory {
        None => None,
        Some(None) => Some(here.to_owned()),
        Some(Some(dir)) if dir.starts_with('/') => Some(dir.clone()),
        Some(Some(dir)) => Some(format!("{}/{dir}", here.trim_end_matches('/'))),
    };
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let spec = Spec {
        id: JobId(0),
        name: options.name.clone().unwrap_or(default_name),
        submitted_ms: now_ms(),
        array: options.array,
        task_limit: options.task_limit.unwrap_or(0),
        priority: options.priority.unwrap_or(0),
        rerun: options.rerun,
        hold: options.hold,
        account: options.account.clone().unwrap_or_else(|| "sge".into()),
        command,
        no_shell: options.shell == Some(false),
        interpreter: options.interpreter.clone(),
        script_file,
        args,
        cwd,
        stdin: options.stdin.clone(),
        stdout: options.stdout.clone(),
        stderr: options.stderr.clone(),
        join: options.join.unwrap_or(false),
        environment: environment(options),
        origin: Origin {
            home: me.home.clone(),
            host: config::hostname(),
            log_name: me.name.clone(),
            mail: var("MAIL"),
            path: var("PATH"),
            shell: me.shell.clone(),
            tz: var("TZ"),
            term: var("TERM"),
            workdir: here.to_owned(),
        },
    };
    Ok((spec, script))
}

/// Variables exported to the job. Those that aren't text can't be: Grid Engine's formats have no place for them either.
fn environment(options: &Options) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if options.all_variables {
        out.extend(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        );
    }
    for (name, value) in &options.variables {
        if let Some(value) = value.clone().or_else(|| std::env::var(name).ok()) {
            out.insert(name.clone(), value);
        }
    }
    out
}

/// Seconds that pass even while the machine sleeps.
fn boot_seconds() -> i64 {
    clock_gettime(ClockId::Boottime).tv_sec
}

/// Is the name taken by another user's file, or by a directory?
fn sat_upon(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{DirectoryNotEmpty, IsADirectory, NotADirectory, PermissionDenied};
    matches!(error.kind(), PermissionDenied | IsADirectory | NotADirectory | DirectoryNotEmpty)
}

fn hand_in_job(layout: &Layout, spec: &mut Spec, script: &[u8]) -> Result<(), Failure> {
    let disk = Disk::default();
    let incoming = layout.incoming();
    for _ in 0..CLAIMS_MAX {
        let begin = boot_seconds();
        spec.id = claims::claim(layout)?;
        let bytes = submission::encode(spec, script)?;
        if bytes.len() as u64 > SUBMISSION_MAX {
            return Err(Failure::new(format!(
                "script, arguments and environment have more than {} MiB",
                SUBMISSION_MAX >> 20
            )));
        }
        let name = format!("{JOB_PREFIX}{}", spec.id);
        if boot_seconds() - begin > CLAIM_USE_MAX_S {
            continue;
        }
        // The claim must be durable before the submission can be seen; both are made so at the same time.
        let sync = |file: &File| {
            std::thread::scope(|scope| {
                let claim = scope.spawn(|| File::open(layout.ids())?.sync_all());
                file.sync_all()?;
                claim.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        };
        match disk.publish_with(&incoming, &name, &bytes, 0o600, sync) {
            // Somebody sits on the name: it isn't worth a number, there are others.
            Err(Error::Io { act: "rename", why, .. }) if sat_upon(&why) => continue,
            other => other?,
        }
        disk.sync_dir(&incoming)?;
        if boot_seconds() - begin > CLAIM_USE_MAX_S {
            return Err(Failure::new(format!(
                "the machine stood still while job {} was handed in; look with qstat whether it was accepted",
                spec.id
            )));
        }
        return Ok(());
    }
    Err(Failure::new(format!(
        "no job number out of {CLAIMS_MAX} could be used: the machine stands still, or {} is full of others' files",
        incoming.display()
    )))
}

fn announce(spec: &Spec, terse: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match (&spec.array, terse) {
        (None, true) => writeln!(out, "{}", spec.id)?,
        (Some(array), true) => writeln!(out, "{}.{array}", spec.id)?,
        (None, false) => writeln!(out, "Your job {} (\"{}\") has been submitted", spec.id, spec.name)?,
        (Some(array), false) => {
            writeln!(out, "Your job-array {}.{array} (\"{}\") has been submitted", spec.id, spec.name)?;
        }
    }
    out.flush()?;
    Ok(())
}

fn verify(spec: &Spec) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    super::qstat::describe_spec(&mut out, spec)?;
    Ok(())
}

fn interrupts() -> Result<SignalFd, Failure> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let watched = set
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
    watched.map_err(|e| Failure::new(format!("can't watch for signals: {e}")))
}

/// Tells of tasks that wait in error state for somebody to look into them, once each time one gets there.
#[derive(Debug, Default)]
struct ErrorNews {
    /// Tasks in error state by the number of the run that failed.
    told: BTreeSet<(TaskId, u32)>,
}

impl ErrorNews {
    /// One line for each reason that is new.
    fn lines(&mut self, job: &Job) -> Vec<String> {
        let run_of = |task: TaskId| job.attempts.get(&task).copied().unwrap_or(0);
        let now: BTreeSet<(TaskId, u32)> = job.errors.keys().map(|t| (*t, run_of(*t))).collect();
        let mut new: BTreeMap<&str, Vec<TaskId>> = BTreeMap::new();
        for (task, reason) in &job.errors {
            if !self.told.contains(&(*task, run_of(*task))) {
                new.entry(reason).or_default().push(*task);
            }
        }
        let (id, range) = (job.new.id, job.new.tasks());
        let lines = new.into_iter().map(|(reason, tasks)| {
            let (what, target) = match (job.new.array, tasks.as_slice()) {
                (None, _) => (format!("job {id} is"), id.to_string()),
                (Some(_), [task]) => (format!("task {task} of job {id} is"), format!("{id}.{task}")),
                (Some(_), _) => {
                    let mut places = Ranges::default();
                    for place in tasks.iter().filter_map(|t| range.index(*t)) {
                        places.insert(place);
                    }
                    let list = rows::task_list(&range, places.intervals());
                    (format!("tasks {list} of job {id} are"), format!("{id}.TASK"))
                }
            };
            format!(
                "{what} in error state (Eqw): {}; \"qmod -cj {target}\" lets it run again, \"qdel {target}\" \
                 deletes it; still waiting",
                reason.replace('\n', " ")
            )
        });
        let lines = lines.collect();
        self.told = now;
        lines
    }
}

/// Waits for the job's end and makes its exit code ours.
fn wait_for(layout: &Layout, spec: &Spec, signals: &SignalFd) -> Result<(), Failure> {
    let mut watch = Watch::new(Stop::new());
    watch.add_appends(&layout.journal(), ());
    let mut vanished = 0;
    let mut news = ErrorNews::default();
    loop {
        if let Ok(Some(_)) = signals.read_signal() {
            hand_in(layout, &Command::Delete { job: spec.id, tasks: None, force: false })?;
            return Err(Failure::new(format!("interrupted: job {} is deleted", spec.id)));
        }
        // The mount may be away for a moment; the job isn't.
        if let Ok(found) = recover::view(layout) {
            if let Some(finished) = found.queue.finished.iter().find(|f| f.new.id == spec.id) {
                return report_end(finished);
            }
            if let Some(job) = found.queue.jobs.get(&spec.id) {
                for line in news.lines(job) {
                    // Whoever closed it wants no news; the waiting is for the exit code.
                    let _told = writeln!(std::io::stderr(), "qsub: {line}");
                }
            }
            let pending = found.queue.jobs.contains_key(&spec.id)
                || exists(&layout.incoming().join(format!("{JOB_PREFIX}{}", spec.id)))?;
            if !pending {
                vanished += 1;
            }
            // Two looks: between reading the queue and looking into incoming the master may have taken it in.
            if vanished > 2 {
                return from_accounting(layout, spec);
            }
        }
        watch.wait(POLL, &[signals.as_fd()]);
    }
}

fn report_end(finished: &Finished) -> Result<(), Failure> {
    let id = finished.new.id;
    let mut err = std::io::stderr().lock();
    let mut code = 0u8;
    let mut tell = |what: String, end: Option<&TaskEnd>| -> std::io::Result<()> {
        match end {
            None => writeln!(err, "{what} exited with exit code 0.")?,
            Some(end) => {
                let this = match end.verdict {
                    Verdict::Done if end.failed == 0 => {
                        writeln!(err, "{what} exited with exit code {}.", end.exit_status)?;
                        u8::try_from(end.exit_status).unwrap_or(1)
                    }
                    Verdict::Done if end.failed == failed::SIGNALLED => {
                        writeln!(err, "{what} exited because of signal {}.", end.exit_status - 128)?;
                        1
                    }
                    Verdict::Deleted => {
                        writeln!(err, "{what} was deleted.")?;
                        1
                    }
                    _ => {
                        writeln!(err, "{what} was lost: nobody knows how it ended.")?;
                        1
                    }
                };
                if code == 0 {
                    code = this;
                }
            }
        }
        Ok(())
    };
    match finished.new.array {
        None => tell(format!("Job {id}"), finished.bad_ends.values().next())?,
        Some(array) => {
            let bad: Vec<_> = finished.bad_ends.iter().collect();
            for (task, end) in &bad {
                tell(format!("Job {id}.{task}"), Some(*end))?;
            }
            if bad.is_empty() {
                tell(format!("Job {id}.{array}"), None)?;
            }
        }
    }
    if code == 0 { Ok(()) } else { Err(Failure::silent(code)) }
}

/// The job is over for so long that the queue forgot it, or it was refused.
fn from_accounting(layout: &Layout, spec: &Spec) -> Result<(), Failure> {
    let statuses = super::qacct::exit_statuses(layout, spec.id)?;
    if statuses.is_empty() {
        return Err(Failure::new(format!(
            "job {} was refused by the master or deleted before it began",
            spec.id
        )));
    }
    match statuses.into_iter().find(|s| *s != 0) {
        None => Ok(()),
        Some(status) => {
            let mut err = std::io::stderr().lock();
            writeln!(err, "Job {} exited with exit code {status}.", spec.id)?;
            Err(Failure::silent(u8::try_from(status).unwrap_or(1)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::law::Host;
    use crate::plan::laws::new_job;
    use crate::plan::{Exit, Queue, Record, RunKey, TaskRange};

    /// Runs the next task of a queue and ends it with this status.
    fn run_one(queue: &mut Queue, exit_status: i32) -> RunKey {
        let record = queue.next_dispatch(0).unwrap();
        let Record::Dispatched { key, .. } = record.clone() else { panic!("{record:?}") };
        queue.apply(&record).unwrap();
        queue.apply(&queue.report_started(key, 1).unwrap()).unwrap();
        let exit = Exit { started_ms: Some(1), exit_status, ..Exit::default() };
        queue.apply(&queue.report_ended(key, exit).unwrap()).unwrap();
        key
    }

    /// Each time a task gets into error state it is told once, with the commands that end that.
    #[test]
    fn an_error_state_is_told_once_each_time() {
        let mut queue = Queue::default();
        queue.set_host("n", Host { slots: 1, up: true });
        queue.apply(&queue.submit(new_job(7, TaskRange::new(1, 5, 1))).unwrap()).unwrap();
        let mut news = ErrorNews::default();
        assert!(news.lines(&queue.jobs[&JobId(7)]).is_empty());
        run_one(&mut queue, 100);
        let said = news.lines(&queue.jobs[&JobId(7)]);
        assert_eq!(
            said,
            [
                "task 1 of job 7 is in error state (Eqw): the job ended with exit status 100; \"qmod -cj 7.1\" lets it run \
              again, \"qdel 7.1\" deletes it; still waiting"
            ]
        );
        assert!(news.lines(&queue.jobs[&JobId(7)]).is_empty(), "told twice");
        run_one(&mut queue, 100);
        run_one(&mut queue, 100);
        let said = news.lines(&queue.jobs[&JobId(7)]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("tasks 2-3:1 of job 7 are in error state"), "{said:?}");
        // Cleared and failed again, though nobody looked in between.
        queue.apply(&queue.clear(0, JobId(7), None).unwrap()).unwrap();
        assert_eq!(run_one(&mut queue, 100).run, 2);
        let said = news.lines(&queue.jobs[&JobId(7)]);
        assert!(said.len() == 1 && said[0].starts_with("task 1 of job 7 is"), "{said:?}");
    }
}
