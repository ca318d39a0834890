//! What users of Grid Engine know, tried with real jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use crate::cluster::{Cluster, NOBODY, eventually, is_root};

pub const TESTS: &[(&str, fn())] = &[
    ("jobs::a_script_runs_and_is_accounted_for", a_script_runs_and_is_accounted_for),
    ("jobs::the_environment_is_the_documented_one", the_environment_is_the_documented_one),
    ("jobs::options_in_scripts_and_from_stdin_count", options_in_scripts_and_from_stdin_count),
    ("jobs::binary_jobs_keep_their_words", binary_jobs_keep_their_words),
    ("jobs::outputs_go_where_they_are_asked_to", outputs_go_where_they_are_asked_to),
    ("jobs::an_array_runs_each_task_once", an_array_runs_each_task_once),
    ("jobs::sync_gives_the_exit_code", sync_gives_the_exit_code),
    ("jobs::sync_tells_of_an_error_state", sync_tells_of_an_error_state),
    ("jobs::held_jobs_wait_for_release", held_jobs_wait_for_release),
    ("jobs::waiting_jobs_are_deleted_at_once", waiting_jobs_are_deleted_at_once),
    ("jobs::deleting_a_running_job_kills_all_its_processes", deleting_a_running_job_kills_all_its_processes),
    ("jobs::what_a_job_leaves_behind_is_killed", what_a_job_leaves_behind_is_killed),
    ("jobs::exit_99_runs_again_and_100_is_an_error", exit_99_runs_again_and_100_is_an_error),
    ("jobs::what_cannot_begin_is_in_error_with_a_reason", what_cannot_begin_is_in_error_with_a_reason),
    ("jobs::slots_bound_what_runs", slots_bound_what_runs),
    ("jobs::jobs_run_as_their_owner", jobs_run_as_their_owner),
    ("jobs::listings_have_grid_engines_columns", listings_have_grid_engines_columns),
    ("jobs::accounting_is_shown_as_grid_engine_does", accounting_is_shown_as_grid_engine_does),
    ("jobs::the_memory_accounted_for_is_the_jobs", the_memory_accounted_for_is_the_jobs),
    ("jobs::wrong_input_is_refused_in_one_clear_line", wrong_input_is_refused_in_one_clear_line),
    ("jobs::answers_about_single_jobs_are_grid_engines", answers_about_single_jobs_are_grid_engines),
    ("jobs::the_users_page_is_true", the_users_page_is_true),
    ("jobs::every_command_has_help", every_command_has_help),
];

fn a_script_runs_and_is_accounted_for() {
    let c = Cluster::running(2);
    let script = c.script("hello.sh", "echo hello from $JOB_ID; echo oops >&2\n");
    let said = c.say(&["qsub", "-cwd", &script]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "Your job 1 (\"hello.sh\") has been submitted\n"),
        "{said:?}"
    );
    c.wait_text("hello.sh.o1", "hello from 1\n");
    c.wait_text("hello.sh.e1", "oops\n");
    let lines = c.wait_accounted(1, 1);
    assert_eq!((lines.len(), lines[0].len(), lines[0][12].as_str()), (1, 45, "0"));
    eventually("qstat is empty", || c.say(&["qstat"]).out.is_empty().then_some(()));
    eventually("the spools are empty", || {
        let empty = |p| std::fs::read_dir(p).unwrap().next().is_none();
        (empty(c.root().join("jobs/spool")) && empty(c.spool().join("runs")) && empty(c.tmp())).then_some(())
    });
}

fn the_environment_is_the_documented_one() {
    let c = Cluster::running(1);
    let script = c.script("env.sh", "touch $TMPDIR/mine && ls $TMPDIR; env -0 > env.out; mv env.out env\n");
    let said = c
        .command(&["qsub", "-cwd", "-v", "A=1,B", "-N", "look", &script])
        .env("B", "two words")
        .output()
        .unwrap();
    assert!(said.status.success());
    let text = eventually("the job ends", || c.text("env"));
    c.wait_text("look.o1", "mine\n");
    let env: BTreeMap<&str, &str> = text.split('\0').filter_map(|l| l.split_once('=')).collect();
    let cwd = c.work().to_string_lossy().into_owned();
    let tmp = c.tmpdir_of("1.1.all.q").to_string_lossy().into_owned();
    let out = c.file("look.o1").to_string_lossy().into_owned();
    for (key, value) in [
        ("A", "1"),
        ("B", "two words"),
        ("JOB_ID", "1"),
        ("JOB_NAME", "look"),
        ("REQUEST", "look"),
        ("ENVIRONMENT", "BATCH"),
        ("QUEUE", "all.q"),
        ("HOSTNAME", "node1"),
        ("SGE_TASK_ID", "undefined"),
        ("SGE_TASK_LAST", "undefined"),
        ("RESTARTED", "0"),
        ("NSLOTS", "1"),
        ("SGE_ACCOUNT", "sge"),
        ("PWD", &cwd),
        ("SGE_CWD_PATH", &cwd),
        ("SGE_O_WORKDIR", &cwd),
        ("SGE_STDOUT_PATH", &out),
        ("TMPDIR", &tmp),
        ("TMP", &tmp),
    ] {
        assert_eq!(env.get(key).copied(), Some(value), "{key}");
    }
    for key in [
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PATH",
        "SGE_ROOT",
        "SGE_CELL",
        "SGE_ARCH",
        "SGE_O_HOST",
        "JOB_SCRIPT",
    ] {
        assert!(env.get(key).is_some_and(|v| !v.is_empty()), "{key}");
    }
    assert!(!env.contains_key("SECRET_OF_THE_AGENT"), "the agent's environment leaks");
    c.wait_accounted(1, 1);
    eventually("TMPDIR is gone", || (!c.tmpdir_of("1.1.all.q").exists()).then_some(()));
    let script = c.script("all.sh", "echo $ONLY_HERE > all\n");
    assert!(c.command(&["qsub", "-cwd", "-V", &script]).env("ONLY_HERE", "yes").status().unwrap().success());
    c.wait_text("all", "yes\n");
}

fn options_in_scripts_and_from_stdin_count() {
    let c = Cluster::running(1);
    let script = c.script(
        "s.sh",
        "#!/bin/false\n#$ -N inside -j y\n#$ -o joined\n  #$ -N no\necho out; echo err >&2\n",
    );
    let said = c.say(&["qsub", "-cwd", &script]);
    assert!(said.out.contains("(\"inside\")"), "{said:?}");
    c.wait_text("joined", "out\nerr\n");
    let said = c.say(&["qsub", "-cwd", "-N", "outside", "-C", "", "-o", "o2", &script]);
    assert!(said.out.contains("(\"outside\")"), "{said:?}");
    c.wait_text("o2", "out\n");
    let mut child =
        c.command(&["qsub", "-cwd"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"#$ -o stdin.out\necho from $JOB_NAME $1\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "Your job 3 (\"STDIN\") has been submitted\n");
    c.wait_text("stdin.out", "from STDIN\n");
    // Later edits change nothing, arguments are passed, options after the script are the script's.
    let script = c.script("args.sh", "echo \"$#:$1:$2\"\n");
    let said = c.say(&["qsub", "-cwd", "-h", "-o", "args.out", &script, "a b", "-N"]);
    assert_eq!(said.code, 0, "{said:?}");
    c.script("args.sh", "echo changed\n");
    assert_eq!(c.say(&["qrls", "4"]).code, 0);
    c.wait_text("args.out", "2:a b:-N\n");
    // Options of a directory, weaker than all others.
    c.script(".sge_request", "-N fromfile\n-cwd -j y\n");
    let said = c.say(&["qsub", "-b", "y", "true"]);
    assert!(said.out.contains("(\"fromfile\")"), "{said:?}");
    assert!(c.say(&["qsub", "-clear", "-cwd", "-b", "y", "true"]).out.contains("(\"true\")"));
}

fn binary_jobs_keep_their_words() {
    let c = Cluster::running(1);
    for (words, want) in [
        (&["printf", "%s|", "a b", "c"][..], "a b|c|"),
        (&["echo $JOB_NAME; exit 3"], "x\n"),
        (&["-shell", "n", "/bin/echo", "$HOME"], "$HOME\n"),
        (&["-S", "/bin/bash", "echo ${BASH_VERSION:+bash}"], "bash\n"),
    ] {
        let mut all = vec!["qsub", "-sync", "y", "-cwd", "-N", "x", "-o", "out", "-b", "y"];
        all.extend_from_slice(words);
        let said = c.say(&all);
        let want_code = if words.len() == 1 { 3 } else { 0 };
        assert_eq!(said.code, want_code, "{said:?}");
        assert_eq!(c.text("out").unwrap(), want, "{words:?}");
        std::fs::remove_file(c.file("out")).unwrap();
    }
}

fn outputs_go_where_they_are_asked_to() {
    let c = Cluster::running(1);
    std::fs::create_dir(c.file("logs")).unwrap();
    c.submit(&["-N", "a", "-o", "logs", "-e", "$JOB_NAME.$JOB_ID.$TASK_ID.err"], "echo o; echo e >&2\n");
    c.wait_text("logs/a.o1", "o\n");
    c.wait_text("a.1.0.err", "e\n");
    let dir = c.file("logs").to_string_lossy().into_owned();
    let said = c.say(&["qsub", "-wd", &dir, "-N", "b", "-b", "y", "pwd"]);
    assert_eq!(said.code, 0, "{said:?}");
    c.wait_text("logs/b.o2", &format!("{dir}\n"));
    c.script("in", "input\n");
    c.submit(&["-i", "in", "-o", "copied", "-j", "y"], "cat; echo more >&2\n");
    c.wait_text("copied", "input\nmore\n");
    // Appended, never truncated.
    c.submit(&["-i", "in", "-o", "copied", "-j", "y"], "cat\n");
    c.wait_text("copied", "input\nmore\ninput\n");
}

fn an_array_runs_each_task_once() {
    let c = Cluster::running(3);
    let said = c.say(&[
        "qsub",
        "-cwd",
        "-N",
        "arr",
        "-t",
        "1-20:2",
        "-b",
        "y",
        "echo $SGE_TASK_ID.$SGE_TASK_FIRST.$SGE_TASK_LAST.$SGE_TASK_STEPSIZE",
    ]);
    assert_eq!(said.out, "Your job-array 1.1-19:2 (\"arr\") has been submitted\n", "{said:?}");
    let lines = c.wait_accounted(1, 10);
    let tasks: BTreeSet<u64> = lines.iter().map(|l| l[35].parse().unwrap()).collect();
    assert_eq!(tasks, (1..20).step_by(2).collect());
    for task in tasks {
        assert_eq!(c.text(&format!("arr.o1.{task}")).unwrap(), format!("{task}.1.19.2\n"));
    }
    assert_eq!(c.say(&["qsub", "-terse", "-cwd", "-t", "1-3", "-b", "y", "true"]).out, "2.1-3:1\n");
    assert_eq!(c.wait_accounted(2, 3).len(), 3);
    // At most one at a time.
    let id = c.submit(&["-t", "1-4", "-tc", "1"], "mkdir only || echo two >> two; sleep 0.05; rmdir only\n");
    c.wait_accounted(id, 4);
    assert!(c.text("two").is_none(), "two tasks at once");
    // One task of an array.
    let id = c.submit(&["-h", "-t", "1-5"], "true\n");
    assert!(c.say(&["qdel", &format!("{id}.2-4:2")]).out.contains("has deleted job-array tasks"));
    eventually("the master took it", || {
        let out = c.say(&["qstat"]).out;
        out.contains(" 1,3,5").then_some(())
    });
    assert_eq!(c.say(&["qrls", &id.to_string()]).code, 0);
    c.wait_accounted(id, 3);
    eventually("over", || c.states(id).is_empty().then_some(()));
    assert_eq!(c.accounting(id).len(), 3);
}

/// Who waits for a job in error state learns it at once, with what to do, and still gets the end.
fn sync_tells_of_an_error_state() {
    let c = Cluster::running(1);
    let waiting = |command: &str, name: &str| {
        let err = std::fs::File::create(c.file(name)).unwrap();
        c.command(&["qsub", "-cwd", "-sync", "y", "-b", "y", command]).stderr(err).spawn().unwrap()
    };
    // Cleared, it runs again, and its exit code is given.
    let mut child = waiting("[ -e cleared ] && exit 3 || exit 100", "first");
    let told = "qsub: job 1 is in error state (Eqw): the job ended with exit status 100; \"qmod -cj 1\" lets it run \
                again, \"qdel 1\" deletes it; still waiting\n";
    c.wait_text("first", told);
    assert!(child.try_wait().unwrap().is_none(), "it does not wait any more");
    c.script("cleared", "");
    assert_eq!(c.say(&["qmod", "-cj", "1"]).code, 0);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    c.wait_text("first", &format!("{told}Job 1 exited with exit code 3.\n"));
    // Deleted, it is over.
    let mut child = waiting("exit 100", "second");
    let told = told.replace("job 1", "job 2").replace("-cj 1", "-cj 2").replace("qdel 1", "qdel 2");
    c.wait_text("second", &told);
    assert_eq!(c.say(&["qdel", "2"]).code, 0);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    c.wait_text("second", &format!("{told}Job 2 was deleted.\n"));
}

fn sync_gives_the_exit_code() {
    let c = Cluster::running(2);
    let said = c.say(&["qsub", "-cwd", "-sync", "y", "-b", "y", "exit 7"]);
    assert_eq!((said.code, said.err.as_str()), (7, "Job 1 exited with exit code 7.\n"), "{said:?}");
    let said = c.say(&["qsub", "-cwd", "-sync", "y", "-b", "y", "true"]);
    assert_eq!((said.code, said.err.as_str()), (0, "Job 2 exited with exit code 0.\n"), "{said:?}");
    let said = c.say(&["qsub", "-cwd", "-sync", "y", "-t", "1-3", "-b", "y", "exit $((SGE_TASK_ID - 1))"]);
    assert_eq!(said.code, 1, "the first that isn't zero: {said:?}");
    assert!(
        said.err.contains("Job 3.2 exited with exit code 1.")
            && said.err.contains("Job 3.3 exited with exit code 2.")
    );
    let child = c
        .command(&["qsub", "-cwd", "-sync", "y", "-b", "y", "sleep 300"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    c.wait_state(4, "r");
    assert_eq!(c.say(&["qdel", "4"]).code, 0);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(String::from_utf8(out.stderr).unwrap(), "Job 4 was deleted.\n");
    // A job that dies of a signal; it gets signals at all, whatever its supervisors block or ignore.
    let said = c.say(&["qsub", "-cwd", "-sync", "y", "-b", "y", "kill -INT $$; kill -TERM $$; sleep 300"]);
    assert_eq!((said.code, said.err.as_str()), (1, "Job 5 exited because of signal 2.\n"), "{said:?}");
    assert_eq!((c.accounting(5)[0][11].as_str(), c.accounting(5)[0][12].as_str()), ("100", "130"));
    let said = c.say(&[
        "qsub",
        "-cwd",
        "-sync",
        "y",
        "-o",
        "sig",
        "-b",
        "y",
        "grep -E '^Sig(Blk|Ign)' /proc/self/status",
    ]);
    assert_eq!(said.code, 0);
    // The two above 31 are the C library's own; nobody can change them.
    let masks: Vec<u64> = c
        .text("sig")
        .unwrap()
        .lines()
        .map(|l| u64::from_str_radix(l.split_whitespace().nth(1).unwrap(), 16).unwrap() & 0x7fff_ffff)
        .collect();
    assert_eq!(masks, [0, 0]);
    // ^C takes the job along.
    let mut child = c
        .command(&["qsub", "-cwd", "-sync", "y", "-b", "y", "sleep 300"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    c.wait_state(7, "r");
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    eventually("the job is gone", || c.states(7).is_empty().then_some(()));
}

fn held_jobs_wait_for_release() {
    let c = Cluster::running(1);
    let id = c.submit(&["-h", "-o", "out"], "echo ran\n");
    c.wait_state(id, "hqw");
    let next = c.submit(&[], "true\n");
    c.wait_accounted(next, 1);
    assert_eq!(c.states(id), ["hqw"], "a held job ran or vanished");
    assert_eq!(c.say(&["qrls", "1"]).out, "modified hold of job 1\n");
    c.wait_text("out", "ran\n");
    // Held while another job has the slot.
    let busy = c.submit(&[], "sleep 300\n");
    c.wait_state(busy, "r");
    let id = c.submit(&[], "true\n");
    c.wait_state(id, "qw");
    assert_eq!(c.say(&["qhold", &id.to_string()]).code, 0);
    c.wait_state(id, "hqw");
    assert_eq!(c.say(&["qdel", &busy.to_string()]).code, 0);
    c.wait_accounted(busy, 1);
    assert_eq!(c.states(id), ["hqw"]);
}

fn user() -> String {
    String::from_utf8(std::process::Command::new("id").arg("-un").output().unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

fn waiting_jobs_are_deleted_at_once() {
    let c = Cluster::running(1);
    let me = user();
    for name in ["aa", "ab", "bb"] {
        c.submit(&["-h", "-N", name], "echo ran > ran\n");
    }
    assert_eq!(c.say(&["qdel", "1"]).out, format!("{me} has deleted job 1\n"));
    eventually("1 is gone", || c.states(1).is_empty().then_some(()));
    let said = c.say(&["qdel", "1"]);
    assert_eq!((said.code, said.out.as_str()), (1, "denied: job \"1\" does not exist\n"));
    assert_eq!(c.say(&["qdel", "a*"]).out, format!("{me} has deleted job 2\n"));
    assert_eq!(c.say(&["qdel", "-u", &me]).out.lines().last().unwrap(), format!("{me} has deleted job 3"));
    eventually("all are gone", || c.say(&["qstat", "-u", "*"]).out.is_empty().then_some(()));
    assert!(
        !c.root().join("accounting").exists() || c.accounting(1).is_empty(),
        "a waiting job leaves no line"
    );
    assert!(c.text("ran").is_none());
}

fn deleting_a_running_job_kills_all_its_processes() {
    let c = Cluster::running(1);
    // Children in the background, in another session, orphaned, and one that ignores polite signals.
    let id = c.submit(
        &[],
        "trap '' TERM INT HUP\nsetsid sleep 301.7 &\n(setsid sh -c 'sleep 302.7 & sleep 303.7' &)\necho up > up\nsleep 304.7\nsleep 305.7\n",
    );
    c.wait_text("up", "up\n");
    eventually("the children are up", || (sleepers("30").len() >= 4).then_some(()));
    assert_eq!(
        c.say(&["qdel", &id.to_string()]).out,
        format!("{} has registered the job {id} for deletion\n", user())
    );
    let said = c.say(&["qdel", &id.to_string()]);
    assert!(said.out.contains("is already in deletion") || said.out.contains("does not exist"), "{said:?}");
    let lines = c.wait_accounted(id, 1);
    assert_eq!((lines[0][11].as_str(), lines[0][12].as_str()), ("100", "137"));
    assert_eq!(sleepers("30"), [0u32; 0], "processes of the deleted job live on");
    // Forced by root, the slot is free at once and the processes go too.
    if is_root() {
        let id = c.submit(&[], "sleep 306.7\n");
        c.wait_state(id, "r");
        assert!(c.say(&["qdel", "-f", &id.to_string()]).out.contains("has forced the deletion"));
        eventually("gone from the queue", || c.states(id).is_empty().then_some(()));
        eventually("gone from the machine", || sleepers("306").is_empty().then_some(()));
    }
}

/// Processes `sleep N.7` of these tests whose number begins with `start`.
pub fn sleepers(start: &str) -> Vec<u32> {
    let ours = |word: &String| word.starts_with(start) && word.ends_with(".7");
    processes(|words| words[0].ends_with("sleep") && words.get(1).is_some_and(ours))
}

/// Processes by the words of their command lines.
fn processes(wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command);
        let words: Vec<String> = text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        if wanted(&words) {
            found.push(pid);
        }
    }
    found
}

fn what_a_job_leaves_behind_is_killed() {
    let c = Cluster::running(1);
    let id = c.submit(&[], "(setsid sleep 311.7 >/dev/null 2>&1 &)\nsleep 312.7 &\nexit 0\n");
    let lines = c.wait_accounted(id, 1);
    assert_eq!(lines[0][12], "0");
    assert_eq!(sleepers("31"), [0u32; 0]);
}

fn exit_99_runs_again_and_100_is_an_error() {
    let c = Cluster::running(1);
    let id = c.submit(&["-o", "out"], "echo $RESTARTED\n[ $RESTARTED = 1 ] || exit 99\n");
    let lines = c.wait_accounted(id, 2);
    let got: Vec<(&str, &str)> = lines.iter().map(|l| (l[11].as_str(), l[12].as_str())).collect();
    assert_eq!(got, [("25", "99"), ("0", "0")]);
    c.wait_text("out", "0\n1\n");
    let id = c.submit(&["-o", "err"], "echo run\n[ -e cleared ] || exit 100\n");
    c.wait_state(id, "Eqw");
    assert_eq!(c.wait_accounted(id, 1)[0][11], "30");
    let said = c.say(&["qstat", "-j", &id.to_string()]);
    assert!(said.out.contains("error reason"), "{said:?}");
    c.script("cleared", "");
    let said = c.say(&["qmod", "-cj", &id.to_string()]);
    assert!(said.out.contains(&format!("cleared error state of job {id}")), "{said:?}");
    c.wait_accounted(id, 2);
    c.wait_text("err", "run\nrun\n");
}

fn what_cannot_begin_is_in_error_with_a_reason() {
    let c = Cluster::running(1);
    for (options, reason) in [
        (&["-o", "/no/such/dir/out"][..], "can't open /no/such/dir/out"),
        (&["-wd", "/no/such/dir"], "can't change to directory /no/such/dir"),
        (&["-S", "/no/such/shell"], "can't execute /no/such/shell"),
    ] {
        let id = c.submit(options, "true\n");
        c.wait_state(id, "Eqw");
        let said = c.say(&["qstat", "-j", &id.to_string()]);
        assert!(said.out.contains(reason), "{said:?}");
        assert_eq!(c.say(&["qdel", &id.to_string()]).code, 0);
    }
}

fn slots_bound_what_runs() {
    let c = Cluster::running(2);
    let ids: Vec<u64> = (0..6)
        .map(|_| c.submit(&[], "mkdir a 2>/dev/null && d=a || mkdir b && d=${d:-b} || echo three >> three\nsleep 0.05\nrmdir $d\n"))
        .collect();
    for id in ids {
        c.wait_accounted(id, 1);
    }
    assert!(c.text("three").is_none(), "three jobs on two slots");
}

fn jobs_run_as_their_owner() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let c = Cluster::running(1);
    // The spool's parents may be closed to users.
    eventually("the agent made its spool", || c.root().join("hosts/node1/status").exists().then_some(()));
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(c.spool(), closed).unwrap();
    let script = c.script(
        "who.sh",
        "id -u; id -g; id -G; touch $TMPDIR/x && echo tmp; cat /proc/self/status | grep ^Cap.*f:\n",
    );
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let said = c.say_as_nobody(&["qsub", "-cwd", "-sync", "y", "-o", "who.out", &script]);
    assert_eq!(said.code, 0, "{said:?}\n{}\n{}", c.logs(), c.say(&["qstat", "-j", "1"]).out);
    let text = c.text("who.out").unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..4], ["65534", "65534", "65534", "tmp"], "{text}");
    assert!(lines[4].ends_with("0000000000000000"), "rights are left: {text}");
    let meta = std::fs::metadata(c.file("who.out")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (NOBODY, NOBODY, 0o644));
    assert_eq!(c.wait_accounted(1, 1)[0][3], "nobody");
    // Others' files are closed to him, and others' jobs.
    std::fs::write(c.file("roots"), "").unwrap();
    std::fs::set_permissions(c.file("roots"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(c.say_as_nobody(&["qsub", "-terse", "-cwd", "-o", "roots", "-b", "y", "id"]).code, 0);
    c.wait_state(2, "Eqw");
    let roots = c.submit(&["-h"], "true\n");
    c.wait_state(roots, "hqw");
    let said = c.say_as_nobody(&["qdel", &roots.to_string()]);
    assert_eq!(said.code, 1);
    assert!(said.out.contains("nobody - you do not have the necessary privileges"), "{said:?}");
    assert_eq!(c.say_as_nobody(&["qrls", &roots.to_string()]).code, 1);
    assert_eq!(c.states(roots), ["hqw"]);
    assert_eq!(
        c.say_as_nobody(&["qsub", "-cwd", "-p", "5", "-b", "y", "id"]).code,
        1,
        "a user raises his priority"
    );
    assert_eq!(c.say_as_nobody(&["qstat"]).out.lines().count(), 3, "his own jobs only");
    assert_eq!(c.say(&["qdel", "2"]).code, 0, "root may");
}

fn listings_have_grid_engines_columns() {
    let c = Cluster::running(1);
    let me = user();
    assert_eq!(c.say(&["qstat"]).out, "", "nothing at all without jobs");
    let run = c.submit(&["-N", "running"], "sleep 300\n");
    c.wait_state(run, "r");
    c.submit(&["-N", "a_long_name_indeed", "-t", "1-9:2"], "true\n");
    c.submit(&["-N", "held", "-h"], "true\n");
    c.wait_state(3, "hqw");
    let out = c.say(&["qstat"]).out;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "job-ID  prior   name       user         state submit/start at     queue                          slots ja-task-ID "
    );
    assert_eq!(lines[1], "-".repeat(113));
    let masked: Vec<String> = lines[2..].iter().map(|l| format!("{}{}{}", &l[..46], "D", &l[65..])).collect();
    assert_eq!(
        masked,
        [
            format!("      1 0.50000 running    {me:<12} r     D {:<30}     1        ", "all.q@node1"),
            format!("      2 0.50000 a_long_nam {me:<12} qw    D {:<30}     1 1-9:2  ", ""),
            format!("      3 0.00000 held       {me:<12} hqw   D {:<30}     1        ", ""),
        ]
    );
    assert_eq!(c.say(&["qstat", "-s", "r"]).out.lines().count(), 3);
    assert_eq!(c.say(&["qstat", "-s", "p"]).out.lines().count(), 4);
    assert_eq!(c.say(&["qstat", "-s", "h"]).out.lines().count(), 3);
    assert_eq!(c.say(&["qstat", "-g", "d"]).out.lines().count(), 2 + 1 + 5 + 1);
    assert_eq!(c.say(&["qstat", "-u", "no_such"]).out, "");
    let full = c.say(&["qstat", "-f"]).out;
    let lines: Vec<&str> = full.lines().collect();
    assert_eq!(lines[0], "queuename                      qtype resv/used/tot. load_avg arch          states");
    assert!(lines[2].starts_with("all.q@node1                    BIP   0/1/1          "), "{full}");
    assert!(
        full.contains("\n - PENDING JOBS - PENDING JOBS - PENDING JOBS - PENDING JOBS - PENDING JOBS\n"),
        "{full}"
    );
    let clusters = c.say(&["qstat", "-g", "c"]).out;
    let cells: Vec<&str> = clusters.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!((cells[0], &cells[2..]), ("all.q", &["1", "0", "0", "1", "0", "0"][..]), "{clusters}");
    let detail = c.say(&["qstat", "-j", "2"]).out;
    for want in [
        "job_number:                 2\n",
        "job_name:                   a_long_name_indeed\n",
        "job-array tasks:            1-9:2\n",
        "owner: ",
    ] {
        assert!(detail.contains(want), "{want:?} in {detail}");
    }
    let said = c.say(&["qstat", "-j", "99"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("do not exist: 99"), "{said:?}");
    assert_eq!(c.say(&["qdel", "-u", "*"]).code, 0);
    eventually("finished", || c.say(&["qstat", "-s", "z"]).out.contains("running").then_some(()));
}

fn accounting_is_shown_as_grid_engine_does() {
    let c = Cluster::running(1);
    let said = c.say(&["qacct", "-j", "1"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("error: job id 1 not found"), "{said:?}");
    let id =
        c.submit(&["-N", "work", "-A", "acme"], "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 4\n");
    c.wait_accounted(id, 1);
    let out = c.say(&["qacct", "-j", &id.to_string()]).out;
    let fields: Vec<(&str, &str)> =
        out.lines().skip(1).map(|l| l.split_once(' ').map(|(k, v)| (k, v.trim())).unwrap()).collect();
    let keys: Vec<&str> = fields.iter().map(|(k, _)| *k).collect();
    assert_eq!(
        keys[..9],
        ["qname", "hostname", "group", "owner", "project", "department", "jobname", "jobnumber", "taskid"]
    );
    let get = |key: &str| fields.iter().find(|(k, _)| *k == key).unwrap().1;
    assert_eq!(
        (get("jobname"), get("account"), get("exit_status"), get("failed")),
        ("work", "acme", "4", "0")
    );
    assert_eq!(
        (get("owner"), get("hostname"), get("taskid"), get("slots")),
        (user().as_str(), "node1", "undefined", "1")
    );
    assert!(get("cpu").trim_end_matches('s').parse::<f64>().unwrap() > 0.0, "{out}");
    assert!(c.say(&["qacct"]).out.contains("WALLCLOCK"));
    assert!(c.say(&["qacct", "-o"]).out.lines().nth(2).unwrap().starts_with(&user()));
    assert_eq!(c.say(&["qacct", "-j", "no_such_name"]).code, 1);
}

fn wrong_input_is_refused_in_one_clear_line() {
    let c = Cluster::new(1);
    let script = c.script("s.sh", "true\n");
    let bad = c.script("bad.sh", "#$ -bogus\n");
    let digit = c.script("7up.sh", "true\n");
    for (words, want) in [
        (&["qsub", "-zz", &script][..], "unknown option \"-zz\""),
        (&["qsub", "/no/such/script"], "can't read script /no/such/script"),
        (&["qsub", "/tmp"], "it is a directory"),
        (&["qsub", &bad], "line 1 of the script: unknown option \"-bogus\""),
        (&["qsub", &digit], "cannot start with a digit"),
        (&["qsub", "-t", "0-3", &script], "not a valid range"),
        (&["qsub", "-t", "3-1", &script], "not a valid range"),
        (&["qsub", "-t", "x", &script], "not a valid range"),
        (&["qsub", "-t", "1-100000", &script], "at most 75000"),
        (&["qsub", "-sync", "perhaps", &script], "y or n"),
        (&["qsub", "-N", "a/b", &script], "not allowed in the job name"),
        (&["qsub", "-q", "nosuch", &script], "requests unknown queue \"nosuch\""),
        (&["qsub", "-pe", "mpi", "4", &script], "isn't supported by this release"),
        (&["qsub", "-b", "y"], "needs a command"),
        (&["qsub", "-N"], "needs a value"),
        (&["qsub"], "standard input is empty"),
        (&["qstat", "-zz"], "unknown option"),
        (&["qstat", "-s", "x"], "letters of prshza"),
        (&["qstat", "-g", "x"], "c or d"),
        (&["qstat", "-j", "7x"], "neither a job number nor a job name"),
        (&["qdel"], "which job?"),
        (&["qdel", "-zz"], "unknown option"),
        (&["qdel", "0"], "neither a job number"),
        (&["qdel", "-t", "x", "1"], "not a valid range"),
        (&["qacct", "-d", "x"], "number of days"),
        (&["qacct", "-f", "/no/such/file"], "/no/such/file"),
        (&["qmod", "1"], "qmod -cj"),
        (&["qmod", "-zz"], "unknown option"),
        (&["qmod", "-cj"], "which job?"),
        (&["qhold"], "which job?"),
        (&["qhold", "-zz"], "unknown option"),
        (&["qrls", "-h", "s", "1"], "user hold"),
        (&["qstat", "-j", "99"], "do not exist: 99"),
        (&["qacct", "-zz"], "unknown option"),
        (&["qacct", "-j", "99"], "job id 99 not found"),
    ] {
        let said = c.say(words);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{words:?}: {said:?}");
        let lines: Vec<&str> = said.err.lines().collect();
        assert!(lines[0].contains(want), "{words:?}: {said:?}");
        // A job that isn't taken as it is asked for is told in Grid Engine's two lines, all else in one.
        let not_taken = ["-q", "7up.sh"].iter().any(|w| words[1..].iter().any(|word| word.ends_with(w)))
            || words.contains(&"a/b");
        if not_taken {
            assert!(lines.len() == 2 && lines[0].starts_with("Unable to run job: "), "{words:?}: {said:?}");
            assert_eq!(lines[1], "Exiting.", "{words:?}: {said:?}");
        } else {
            assert_eq!(lines.len(), 1, "{words:?}: {said:?}");
            assert!(lines[0].starts_with(&format!("{}: ", words[0])), "{words:?}: {said:?}");
        }
    }
    for dir in ["jobs/incoming", "jobs/ids", "jobs/spool"] {
        assert_eq!(std::fs::read_dir(c.root().join(dir)).unwrap().count(), 0, "{dir} changed");
    }
    let elsewhere = c.command(&["qstat"]).env("BRICKYARD_ROOT", "/tmp/no/such/mount").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(String::from_utf8(elsewhere.stderr).unwrap().contains("mount it or set the variable right"));
}

/// `ru_maxrss` is of the job's largest process, not of its supervisor, of which it was forked.
fn the_memory_accounted_for_is_the_jobs() {
    let c = Cluster::running(1);
    let kib = |id: u64| c.wait_accounted(id, 1)[0][16].parse::<f64>().unwrap();
    let said = c.say(&["qsub", "-terse", "-cwd", "-b", "y", "-shell", "n", "sleep", "0.7"]);
    assert_eq!(said.code, 0, "{said:?}");
    let sleeper = eventually("it sleeps", || sleepers("0.7").first().copied());
    let supervisor = ["shepherd", &c.spool().join("runs/1.1.1").to_string_lossy()].map(str::to_owned);
    let supervisor = processes(|words| words.ends_with(&supervisor))[0];
    let peak = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    let (mut its, supervisors) = (0.0, peak(supervisor).unwrap());
    eventually("it ends", || match peak(sleeper) {
        Some(kib) => {
            its = kib;
            None
        }
        None => Some(()),
    });
    assert!(its < supervisors, "the supervisor is so small ({supervisors} KiB) that nothing is tried here");
    assert!((0.8 * its..1.2 * its).contains(&kib(1)), "{} KiB for a sleep with {its}", kib(1));
    // A large one that is gone between two looks, and not the first process of the job.
    let id = c.submit(&[], "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; sleep 0.01\n");
    assert!((65_536.0..75_000.0).contains(&kib(id)), "{} KiB for a block of 64 MiB", kib(id));
    // One that didn't begin.
    let id = c.submit(&["-S", "/no/such/shell"], "true\n");
    c.wait_state(id, "Eqw");
    assert_eq!(kib(id), 0.0);
}

/// What scripts read: exit code 1, and Grid Engine's words on standard output.
fn answers_about_single_jobs_are_grid_engines() {
    let c = Cluster::running(1);
    let me = user();
    let id = c.submit(&["-h"], "true\n").to_string();
    c.wait_state(1, "hqw");
    for words in [&["qdel", "99"][..], &["qhold", "99"], &["qrls", "99"], &["qmod", "-cj", "99"]] {
        let said = c.say(words);
        let told = (said.code, said.out.as_str(), said.err.as_str());
        assert_eq!(told, (1, "denied: job \"99\" does not exist\n", ""), "{words:?}");
    }
    let said = c.say(&["qmod", "-cj", &id]);
    assert_eq!((said.code, said.out.as_str()), (1, "job 1 is not in error state\n"), "{said:?}");
    let said = c.say(&["qdel", "-u", "nix"]);
    assert_eq!((said.code, said.out.as_str()), (1, "There are no jobs of user \"nix\"\n"), "{said:?}");
    // What can be done is done all the same.
    let said = c.say(&["qdel", "99", &id]);
    assert_eq!(said.code, 1);
    assert_eq!(said.out, format!("denied: job \"99\" does not exist\n{me} has deleted job 1\n"));
    eventually("it is gone", || c.states(1).is_empty().then_some(()));
}

/// What `docs/user.md` and `qsub --help` promise and nothing above tries.
fn the_users_page_is_true() {
    let mut c = Cluster::new(1);
    let dir = c.work().to_string_lossy().into_owned();
    // A number is given without a master; -verify gives none and hands nothing in.
    let said = c.say(&["qsub", "-verify", "-N", "looked_at", "-b", "y", "true"]);
    assert!(said.code == 0 && said.out.contains("looked_at"), "{said:?}");
    assert_eq!(std::fs::read_dir(c.root().join("jobs/incoming")).unwrap().count(), 0);
    // Without -cwd in the home directory; outputs by absolute paths, one directory for both.
    let said = c.say(&["qsub", "-terse", "-N", "home", "-o", &dir, "-e", &dir, "-b", "y", "pwd; echo $HOME"]);
    assert_eq!((said.code, said.out.as_str()), (0, "1\n"), "{said:?}");
    // Higher priorities first, whatever came first; options also from a file, and a queue by name.
    c.script("options", "# of a project\n-p -10 -cwd\n");
    let order = "echo $JOB_NAME >> order\n";
    let script = c.script("order.sh", order);
    assert_eq!(c.say(&["qsub", "-@", "options", "-N", "low", &script]).code, 0);
    c.submit(&["-N", "middle", "-q", "all.q"], order);
    // Deleted while it waits: one task of two, by its number.
    let id = c.submit(&["-N", "two", "-t", "7-8", "-p", "-20"], order);
    let said = c.say(&["qdel", &format!("{id}.7")]);
    assert!(
        said.code == 0 && said.out.ends_with(&format!("has deleted job-array task {id}.7\n")),
        "{said:?}"
    );
    // Held and released by name, before any master saw it.
    c.submit(&["-N", "held", "-p", "-5"], order);
    assert_eq!(c.say(&["qhold", "held"]).code, 0);
    c.start_master();
    eventually("the master has taken all in", || {
        std::fs::read_dir(c.root().join("jobs/incoming")).unwrap().next().is_none().then_some(())
    });
    c.start_agent();
    c.wait_accounted(id, 1);
    c.wait_text("order", "middle\nlow\ntwo\n");
    assert_eq!(c.accounting(id)[0][35], "8", "the task that was left");
    assert_eq!(c.say(&["qrls", "held"]).code, 0);
    c.wait_text("order", "middle\nlow\ntwo\nheld\n");
    let home = c.text("home.o1").unwrap();
    let lines: Vec<&str> = home.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{home:?}");
    // An array by the short form of its outputs, and a clean environment.
    let mut clean = c.command(&[
        "qsub",
        "-sync",
        "y",
        "-cwd",
        "-N",
        "clean",
        "-t",
        "2",
        "-b",
        "y",
        "echo ${ONLY_HERE:-unset}",
    ]);
    assert!(
        clean.env("ONLY_HERE", "x").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    );
    assert_eq!(c.text(&format!("clean.o{}.2", id + 2)).unwrap(), "unset\n");
    // An error state can be looked at, cleared, and deleted.
    let id = c.submit(&["-N", "bad"], "exit 100\n");
    c.wait_state(id, "Eqw");
    let said = c.say(&["qstat", "-j", "bad"]);
    assert!(said.code == 0 && said.out.contains("exit status 100"), "{said:?}");
    let said = c.say(&["qmod", "-cj", "bad"]);
    assert_eq!(said.code, 0, "{said:?}");
    c.wait_accounted(id, 2);
    c.wait_state(id, "Eqw");
    assert_eq!(c.say(&["qdel", "bad"]).code, 0);
    eventually("it is gone", || c.states(id).is_empty().then_some(()));
}

fn every_command_has_help() {
    let c = Cluster::new(1);
    for name in ["qsub", "qstat", "qdel", "qacct", "qhold", "qrls", "qmod"] {
        for flag in ["--help", "-help"] {
            let said = c.say(&[name, flag]);
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{name} {flag}");
            assert!(said.out.starts_with(&format!("usage: {name}")), "{said:?}");
        }
    }
}
