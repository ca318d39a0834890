//! Batch jobs: handed in, run, accounted for exactly once, whatever dies.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::run::NOBODY;
use brickyard_tests::{Cluster, Options, Run, sources, wait};

const JOB_LIMIT: Duration = Duration::from_secs(60);

/// A cluster with a scheduler, the commands under their own names where any user can run them,
/// and a directory on the mount that belongs to a user without rights.
struct Lab {
    cluster: Cluster,
    bin: PathBuf,
    work: PathBuf,
}

impl Lab {
    fn start(slots: u32) -> Result<Self> {
        Self::start_with(Options::with_scheduler(slots))
    }

    fn start_with(options: Options) -> Result<Self> {
        let cluster = Cluster::start(options)?;
        let bin = cluster.workshop().dir("bin")?;
        std::fs::copy(binary()?, bin.join("brickyard"))?;
        for name in ["qsub", "qstat", "qdel", "qhold", "qrls", "qmod", "qacct"] {
            std::os::unix::fs::symlink("brickyard", bin.join(name))?;
        }
        let work = cluster.dir("work")?;
        std::os::unix::fs::chown(&work, Some(NOBODY), Some(NOBODY))?;
        Ok(Self { cluster, bin, work })
    }

    /// A command of the scheduler, run by the user without rights in the work directory.
    fn q(&self, name: &str) -> Run {
        Run::as_user(NOBODY, self.bin.join(name))
            .env("BRICKYARD_ROOT", self.cluster.mount())
            .env("HOME", &self.work)
            .env("USER", "nobody")
            .env("LOGNAME", "nobody")
            .cwd(&self.work)
    }

    /// Hands in and gives the id.
    fn submit(&self, args: &[&str], script: &str) -> Result<String> {
        let done = self.q("qsub").args(["-terse", "-cwd"]).args(args).stdin(script).ok()?;
        let id = done.text();
        let id = id.split('.').next().unwrap_or_default().to_owned();
        ensure!(
            !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()),
            "`qsub -terse` printed {id:?}"
        );
        Ok(id)
    }

    /// The accounting records of a job: one map of fields each.
    fn accounts(&self, id: &str) -> Result<Vec<BTreeMap<String, String>>> {
        let done = self.q("qacct").args(["-j", id]).run()?;
        if !done.status.success() {
            ensure!(done.error_text().contains("not found"), "qacct -j {id}: {}", done.error_text());
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        for line in done.text().lines() {
            if line.starts_with("====") {
                records.push(BTreeMap::new());
            } else if let Some((key, value)) = line.split_once(char::is_whitespace)
                && let Some(record) = records.last_mut()
            {
                record.insert(key.to_owned(), value.trim().to_owned());
            }
        }
        Ok(records)
    }

    /// Waits until a job has so many accounting records, and gives them.
    fn wait_for(&self, id: &str, records: usize) -> Result<Vec<BTreeMap<String, String>>> {
        let found = wait::until(&format!("{records} accounting records of job {id}"), JOB_LIMIT, || {
            Ok(Some(self.accounts(id)?).filter(|found| found.len() >= records))
        })?;
        ensure!(found.len() == records, "job {id} is accounted {} times, not {records}", found.len());
        Ok(found)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.work.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn finish(self) -> Result<()> {
        self.cluster.check()?;
        self.cluster.finish()
    }
}

fn field<'a>(record: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    record.get(name).map_or("", String::as_str)
}

/// A script with options inside runs as who handed it in, in the directory asked for, with the
/// documented environment; output files are the user's; the exit code is the job's.
#[test]
fn a_job_runs_as_its_submitter() -> Result<()> {
    let lab = Lab::start(2)?;
    let script =
        "#!/bin/sh\n#$ -N hello\n#$ -v GREETING=hi\nid -u; pwd; env | sort\necho problems >&2\nexit 7\n";
    std::fs::write(lab.work.join("job.sh"), script)?;
    let done = lab.q("qsub").args(["-cwd", "-sync", "y", "job.sh", "an argument"]).run()?;
    ensure!(done.status.code() == Some(7), "{:?}: {}", done.status, done.error_text());
    let said = done.text();
    let id = said.split_whitespace().nth(2).context("no id")?.to_owned();
    ensure!(said.contains(&format!("Your job {id} (\"hello\") has been submitted")), "qsub said {said:?}");
    let (out, err) = (format!("hello.o{id}"), format!("hello.e{id}"));
    ensure!(lab.read(&err)? == "problems\n");
    let text = lab.read(&out)?;
    let mut lines = text.lines();
    ensure!(lines.next() == Some("65534"), "the job ran as another user: {text}");
    ensure!(lines.next() == lab.work.to_str(), "the job ran elsewhere: {text}");
    let variables: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once('=')).collect();
    let variable = |name: &str| variables.get(name).copied().unwrap_or("(not set)");
    for (name, value) in [
        ("JOB_ID", id.as_str()),
        ("JOB_NAME", "hello"),
        ("GREETING", "hi"),
        ("ENVIRONMENT", "BATCH"),
        ("SGE_TASK_ID", "undefined"),
        ("NSLOTS", "1"),
        ("RESTARTED", "0"),
        ("USER", "nobody"),
        ("SGE_O_LOGNAME", "nobody"),
        ("SGE_O_WORKDIR", lab.work.to_str().unwrap_or_default()),
    ] {
        ensure!(variable(name) == value, "{name} is {}, not {value}", variable(name));
    }
    for name in ["QUEUE", "HOSTNAME", "TMPDIR", "PATH", "HOME", "SHELL"] {
        ensure!(variables.contains_key(name), "{name} is not set");
    }
    for name in [&out, &err] {
        let meta = std::fs::metadata(lab.work.join(name))?;
        ensure!((meta.uid(), meta.gid()) == (NOBODY, NOBODY), "{name} belongs to {}", meta.uid());
    }
    let records = lab.wait_for(&id, 1)?;
    for (name, value) in [("exit_status", "7"), ("owner", "nobody"), ("jobname", "hello"), ("failed", "0")] {
        ensure!(field(&records[0], name) == value, "{name} is {:?}", field(&records[0], name));
    }
    lab.finish()
}

/// Standard input, binary jobs, output options, `-V`, arrays with a step, `-terse`.
#[test]
fn options_do_what_users_know() -> Result<()> {
    let lab = Lab::start(2)?;
    let id = lab.submit(&["-N", "input", "-j", "y", "-o", "joined"], "echo out; echo err >&2\n")?;
    lab.wait_for(&id, 1)?;
    ensure!(lab.read("joined")? == "out\nerr\n");
    let done = lab
        .q("qsub")
        .args(["-cwd", "-sync", "y", "-b", "y", "-o", "bin.out", "printf", "%s|", "a b", "c"])
        .run()?;
    ensure!(done.status.success(), "{}", done.error_text());
    ensure!(lab.read("bin.out")? == "a b|c|", "arguments were torn: {:?}", lab.read("bin.out")?);
    let everything =
        lab.q("qsub").env("SPECIAL", "x y\nz").args(["-cwd", "-sync", "y", "-V", "-o", "env.out", "-b", "y"]);
    everything.args(["printenv", "SPECIAL"]).ok()?;
    ensure!(lab.read("env.out")? == "x y\nz\n");
    let done = lab
        .q("qsub")
        .args(["-terse", "-cwd", "-N", "arr", "-t", "1-6:2"])
        .stdin("echo $SGE_TASK_ID of $SGE_TASK_LAST\n")
        .ok()?;
    let id = done.text().split('.').next().unwrap_or_default().to_owned();
    ensure!(done.text().starts_with(&format!("{id}.1-")), "{:?}", done.text());
    let records = lab.wait_for(&id, 3)?;
    let tasks: BTreeSet<&str> = records.iter().map(|record| field(record, "taskid")).collect();
    ensure!(tasks == BTreeSet::from(["1", "3", "5"]), "tasks {tasks:?}");
    for task in ["1", "3", "5"] {
        let text = lab.read(&format!("arr.o{id}.{task}"))?;
        ensure!(text.starts_with(&format!("{task} of ")), "{text:?}");
    }
    for (args, script) in
        [(&["-t", "0-3"][..], "true"), (&["-nonsense"], "true"), (&["-wd", "/no/where/-"], "")]
    {
        let done = lab
            .q("qsub")
            .args(args)
            .args(if script.is_empty() { &["/no/such/script"][..] } else { &[] })
            .stdin(script)
            .run()?;
        ensure!(
            !done.status.success() && !done.error_text().is_empty(),
            "{args:?} was accepted: {}",
            done.text()
        );
    }
    lab.finish()
}

/// `qstat` shows what waits and what runs in Grid Engine's columns; `qdel` ends both.
#[test]
fn jobs_are_listed_and_deleted() -> Result<()> {
    let lab = Lab::start(1)?;
    ensure!(lab.q("qstat").ok()?.text().is_empty(), "jobs in an empty cluster");
    let first = lab.submit(&["-N", "first"], "sleep 300\n")?;
    wait::until_true("the first job runs", JOB_LIMIT, || Ok(state(&lab, &first)? == Some("r".into())))?;
    let second = lab.submit(&["-N", "a-long-name-indeed"], "true\n")?;
    let listed = lab.q("qstat").ok()?.text();
    let lines: Vec<&str> = listed.lines().collect();
    ensure!(
        lines.len() == 4 && lines[0].starts_with("job-ID  prior   name       user         state"),
        "{listed}"
    );
    ensure!(lines[1].bytes().all(|byte| byte == b'-'), "{listed}");
    ensure!(state(&lab, &second)? == Some("qw".into()), "one slot, and yet: {listed}");
    let line = lines.iter().find(|line| line.trim_start().starts_with(&second)).context("the second job")?;
    ensure!(line.contains(" a-long-nam nobody "), "{line:?}");
    lab.q("qdel").arg(&second).ok()?;
    lab.q("qdel").arg(&first).ok()?;
    let records = lab.wait_for(&first, 1)?;
    ensure!(field(&records[0], "failed").starts_with("100"), "{:?}", records[0]);
    ensure!(field(&records[0], "exit_status") == "137", "{:?}", records[0]);
    wait::until_true("nothing is listed", JOB_LIMIT, || Ok(lab.q("qstat").ok()?.text().is_empty()))?;
    // Another user's job is not to be deleted by who has no right to.
    let run = Run::new(lab.bin.join("qsub")).args(["-terse", "-cwd", "-b", "y", "sleep", "300"]);
    let root_work = lab.cluster.dir("root-work")?;
    let roots = run.env("BRICKYARD_ROOT", lab.cluster.mount()).cwd(&root_work).ok()?.text();
    let refused = lab.q("qdel").arg(&roots).run()?;
    let message = format!("{} {}", refused.text(), refused.error_text());
    wait::until_true("root's job runs", JOB_LIMIT, || Ok(state_of_any(&lab, &roots)? == Some("r".into())))?;
    ensure!(!refused.status.success() || !message.trim().is_empty(), "qdel of another's job said nothing");
    Run::new(lab.bin.join("qdel")).arg(&roots).env("BRICKYARD_ROOT", lab.cluster.mount()).ok()?;
    lab.wait_for(&roots, 1)?;
    lab.finish()
}

/// The state letters of a job, if `qstat` lists it.
fn state(lab: &Lab, id: &str) -> Result<Option<String>> {
    Ok(find_state(&lab.q("qstat").ok()?.text(), id))
}

fn state_of_any(lab: &Lab, id: &str) -> Result<Option<String>> {
    Ok(find_state(&lab.q("qstat").args(["-u", "*"]).ok()?.text(), id))
}

fn find_state(listed: &str, id: &str) -> Option<String> {
    let line = listed.lines().find(|line| line.split_whitespace().next() == Some(id))?;
    line.split_whitespace().nth(4).map(str::to_owned)
}

/// A job compiles the LZ4 library, C sources in a tree on the mount, with gcc, and its tests pass.
#[test]
fn a_job_builds_a_c_library_on_the_mount() -> Result<()> {
    let lab = Lab::start(2)?;
    Run::new("cp").arg("-r").arg(sources::lz4()?).arg(lab.work.join("lz4")).ok()?;
    Run::new("chown").args(["-R", "65534:65534"]).arg(lab.work.join("lz4")).ok()?;
    let script = "#$ -N build -cwd -j y -o build.log\nset -e\nmake -j2 -C lz4 lib lz4 CFLAGS=-O1\n\
                  make -C lz4/tests fuzzer CFLAGS=-O1\ncd lz4/tests\n./fuzzer -i100 -s3\n";
    std::fs::write(lab.work.join("build.sh"), script)?;
    let done = lab.q("qsub").args(["-sync", "y", "build.sh"]).limit(Duration::from_secs(300)).run()?;
    let log = lab.read("build.log").unwrap_or_default();
    ensure!(done.status.success(), "{}: {}\n{log}", done.status, done.error_text());
    ensure!(lab.work.join("lz4/lib/liblz4.a").is_file(), "no library: {log}");
    ensure!(std::fs::metadata(lab.work.join("lz4/lib/liblz4.a"))?.uid() == NOBODY);
    lab.finish()
}

/// kill -9 with jobs running and waiting: after the restart every accepted job comes to one accounted
/// end, none runs twice.
#[test]
fn no_accepted_job_is_lost_or_run_twice() -> Result<()> {
    const JOBS: usize = 12;
    let mut lab = Lab::start(2)?;
    lab.cluster.allow_log("lost");
    // Starts are noted on the local disk, which lives on.
    let notes = lab.cluster.workshop().dir("notes")?;
    std::fs::set_permissions(&notes, PermissionsExt::from_mode(0o1777))?;
    let mut ids = Vec::new();
    for number in 0..JOBS {
        let script = format!(
            "echo start >>{0}/{number}; sleep 0.{1}; echo end >>{0}/{number}\n",
            notes.display(),
            number % 10
        );
        ids.push((number, lab.submit(&["-N", &format!("j{number}")], &script)?));
        if number == 7 {
            // In the middle: some are done, some run, some wait.
            wait::until_true("two jobs have begun", JOB_LIMIT, || Ok(count_files(&notes)? >= 2))?;
            lab.cluster.kill9()?;
            lab.cluster.up()?;
        }
    }
    wait::until_true("two more jobs have begun", JOB_LIMIT, || Ok(count_files(&notes)? >= 9))?;
    lab.cluster.kill9()?;
    lab.cluster.up()?;
    let (mut ended, mut lost) = (0, 0);
    for (number, id) in &ids {
        let records = lab.wait_for(id, 1)?;
        let text = std::fs::read_to_string(notes.join(number.to_string())).unwrap_or_default();
        let starts = text.matches("start").count();
        ensure!(starts <= 1, "job {id} was run {starts} times");
        if field(&records[0], "failed").starts_with('0') {
            ended += 1;
            ensure!(text == "start\nend\n", "job {id} is accounted as run: {text:?}, {:?}", records[0]);
        } else {
            lost += 1;
        }
    }
    eprintln!("{JOBS} jobs over two crashes: {ended} ran, {lost} are accounted as lost");
    // Two slots, two crashes: no more than four can have been running.
    ensure!(lost <= 4, "{lost} jobs were lost");
    wait::until_true("nothing is listed", JOB_LIMIT, || Ok(lab.q("qstat").ok()?.text().is_empty()))?;
    for (_, id) in &ids {
        ensure!(lab.accounts(id)?.len() == 1, "job {id} is accounted again");
    }
    lab.finish()
}

fn count_files(dir: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(dir)?.count())
}

/// The scheduler's processes work in other directories than the one the cluster was started in.
#[test]
fn jobs_run_where_the_cluster_was_given_relative_paths() -> Result<()> {
    let lab = Lab::start_with(Options { relative: true, ..Options::with_scheduler(1) })?;
    lab.q("qsub").args(["-sync", "y", "-cwd", "-b", "y", "true"]).limit(JOB_LIMIT).ok()?;
    lab.cluster.finish()
}
