//! kill -9 of everything, at any moment.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, DEADLINE, eventually};
use crate::jobs::sleepers;

pub const TESTS: &[(&str, fn())] = &[
    ("crash::jobs_are_accepted_without_a_master", jobs_are_accepted_without_a_master),
    ("crash::a_running_job_outlives_master_and_agent", a_running_job_outlives_master_and_agent),
    (
        "crash::killing_master_and_agent_loses_and_doubles_nothing",
        killing_master_and_agent_loses_and_doubles_nothing,
    ),
    ("crash::a_vanished_supervisor_means_lost", a_vanished_supervisor_means_lost),
    ("crash::a_lost_run_leaves_nothing_behind", a_lost_run_leaves_nothing_behind),
    ("crash::a_job_that_finds_the_mount_away_runs_later", a_job_that_finds_the_mount_away_runs_later),
    ("crash::there_is_one_master_and_the_next_takes_over", there_is_one_master_and_the_next_takes_over),
    ("crash::numbers_are_never_given_out_again", numbers_are_never_given_out_again),
    ("crash::a_spool_of_another_cluster_is_refused", a_spool_of_another_cluster_is_refused),
    ("crash::a_job_starts_soon_after_its_submission", a_job_starts_soon_after_its_submission),
];

fn jobs_are_accepted_without_a_master() {
    let mut c = Cluster::new(1);
    let id = c.submit(&["-o", "out"], "echo ran\n");
    assert_eq!(c.states(id), ["qw"], "shown before any master saw it");
    let gone = c.submit(&["-o", "gone"], "echo ran\n");
    assert_eq!(c.say(&["qdel", &gone.to_string()]).code, 0, "deleted before any master saw it");
    assert!(c.say(&["qstat", "-j", &id.to_string()]).out.contains("not yet taken in"));
    c.start_master();
    c.start_agent();
    c.wait_text("out", "ran\n");
    c.wait_accounted(id, 1);
    eventually("nothing is left", || c.say(&["qstat"]).out.is_empty().then_some(()));
    assert!(c.text("gone").is_none() && c.accounting(gone).is_empty());
}

fn a_running_job_outlives_master_and_agent() {
    let mut c = Cluster::running(1);
    let id =
        c.submit(&["-o", "out"], "echo begin\nwhile [ ! -e go ]; do sleep 0.02; done\necho end\nexit 5\n");
    c.wait_text("out", "begin\n");
    c.kill_agent();
    c.kill_master();
    c.script("go", "");
    // It ends while nobody looks.
    c.wait_text("out", "begin\nend\n");
    eventually("its exit is on record", || {
        c.spool().join(format!("runs/{id}.1.1/exit")).exists().then_some(())
    });
    c.start_master();
    c.start_agent();
    let lines = c.wait_accounted(id, 1);
    assert_eq!(lines[0][12], "5");
    // And one that runs on under the next agent, and can be deleted by it.
    let id = c.submit(&[], "sleep 300\n");
    c.wait_state(id, "r");
    c.kill_agent();
    c.start_agent();
    assert_eq!(c.say(&["qdel", &id.to_string()]).code, 0);
    assert_eq!(c.wait_accounted(id, 1)[0][12], "137");
}

fn killing_master_and_agent_loses_and_doubles_nothing() {
    let mut c = Cluster::running(2);
    // Not random at all, so that a failure is the same next time: pauses of 1 to 40 ms.
    let mut state = 11u64;
    let mut pause = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(1 + (state >> 33) % 40));
    };
    let mut ids = Vec::new();
    for round in 0..24 {
        ids.push(c.submit(&[], "echo $JOB_ID >> ran\n"));
        if round % 4 == 0 {
            ids.push(c.submit(&["-t", "1-3"], "echo $JOB_ID >> ran\n"));
        }
        pause();
        if round % 2 == 0 {
            c.kill_master();
        }
        if round % 3 == 0 {
            c.kill_agent();
        }
        pause();
        if c.master.is_none() {
            c.start_master();
        }
        if c.agent.is_none() {
            c.start_agent();
        }
    }
    let tasks = |i: usize, ids: &[u64]| {
        // Arrays were submitted right after every fourth job.
        let _ = ids;
        if i % 5 == 1 { 3 } else { 1 }
    };
    for (i, id) in ids.iter().enumerate() {
        c.wait_accounted(*id, tasks(i, &ids));
    }
    eventually("nothing is left", || c.say(&["qstat"]).out.is_empty().then_some(()));
    let ran = c.text("ran").unwrap();
    for (i, id) in ids.iter().enumerate() {
        let want = tasks(i, &ids);
        let times = ran.lines().filter(|l| **l == id.to_string()).count();
        assert_eq!(
            (times, c.accounting(*id).len()),
            (want, want),
            "job {id}: runs and accounting lines\n{}",
            c.logs()
        );
        assert!(c.accounting(*id).iter().all(|l| l[11] == "0" && l[12] == "0"), "job {id}");
    }
}

/// Ends the supervisor of a run: the process that has its directory as last argument.
fn kill_supervisor(c: &Cluster, run: &str) {
    let dir = c.spool().join("runs").join(run).to_string_lossy().into_owned();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        if words.iter().any(|w| *w == dir) && words.iter().any(|w| *w == "shepherd") {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

fn a_vanished_supervisor_means_lost() {
    let c = Cluster::running(2);
    let once = c.submit(&["-N", "once"], "echo run >> once\nsleep 300\n");
    let again = c.submit(&["-N", "again", "-r", "y"], "echo run >> again\n[ $RESTARTED = 1 ] || sleep 300\n");
    c.wait_state(once, "r");
    c.wait_state(again, "r");
    c.wait_text("once", "run\n");
    c.wait_text("again", "run\n");
    kill_supervisor(&c, &format!("{once}.1.1"));
    kill_supervisor(&c, &format!("{again}.1.1"));
    let lines = c.wait_accounted(once, 1);
    assert_eq!(lines[0][11], "19", "{lines:?}");
    let lines = c.wait_accounted(again, 2);
    assert_eq!((lines[0][11].as_str(), lines[1][11].as_str(), lines[1][12].as_str()), ("19", "0", "0"));
    c.wait_text("again", "run\nrun\n");
    c.wait_text("once", "run\n");
    eventually("only the finished are left", || c.say(&["qstat"]).out.is_empty().then_some(()));
    let finished = c.say(&["qstat", "-s", "z"]).out;
    assert!(finished.contains("lost"), "{finished}");
    let said = c.say(&["qacct", "-j", "once"]);
    assert!(said.out.contains("failed       19"), "{said:?}");
}

/// Its processes and its TMPDIR go when it is accounted as lost, by the agent that saw it or by the next one; what the links in
/// it lead to, and other runs' directories, stay.
fn a_lost_run_leaves_nothing_behind() {
    let mut c = Cluster::running(3);
    let kept = c.file("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("thesis"), "x").unwrap();
    let neighbour = c.submit(&[], "echo up > neighbour\nsleep 321.7\n");
    let full = c.submit(&[], "mkdir -p $TMPDIR/a/b && echo x > $TMPDIR/a/b/c && ln -s $PWD/kept $TMPDIR/link\n(setsid sleep 322.7 &)\necho up > full\nsleep 323.7\n");
    let replaced =
        c.submit(&[], "rmdir $TMPDIR && ln -s $PWD/kept $TMPDIR\necho up > replaced\nsleep 324.7\n");
    for name in ["neighbour", "full", "replaced"] {
        c.wait_text(name, "up\n");
    }
    let tmpdir = |id: u64| c.tmpdir_of(&format!("{id}.1.all.q"));
    let there = |id: u64| std::fs::symlink_metadata(tmpdir(id)).is_ok();
    assert!(there(full) && there(replaced) && there(neighbour));
    kill_supervisor(&c, &format!("{full}.1.1"));
    assert_eq!(c.wait_accounted(full, 1)[0][11], "19");
    assert!(!there(full), "TMPDIR is left\n{}", c.logs());
    assert!(sleepers("322").is_empty() && sleepers("323").is_empty(), "its processes live on");
    // The agent dies first; the next one finds the run lost.
    let spool = c.spool();
    let dir = tmpdir(replaced);
    c.kill_agent();
    kill_supervisor(&c, &format!("{replaced}.1.1"));
    c.start_agent();
    assert_eq!(c.wait_accounted(replaced, 1)[0][11], "19");
    assert!(std::fs::symlink_metadata(dir).is_err(), "the link is left\n{}", c.logs());
    assert_eq!(std::fs::read_to_string(kept.join("thesis")).unwrap(), "x", "a link was followed");
    // The neighbour never noticed.
    assert!(c.tmpdir_of(&format!("{neighbour}.1.all.q")).is_dir());
    assert_eq!(sleepers("321").len(), 1);
    assert!(!spool.join(format!("runs/{neighbour}.1.1/exit")).exists());
}

/// Writes to a fifo as soon as somebody reads it.
fn feed(fifo: &Path, text: &str) {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut open = File::options();
    open.write(true).custom_flags(nonblock);
    let mut file = eventually("somebody reads the fifo", || open.open(fifo).ok());
    file.write_all(text.as_bytes()).unwrap();
}

/// The supervisor outlives a mount that dies with the cluster's process; the job it was about to begin has done nothing wrong.
fn a_job_that_finds_the_mount_away_runs_later() {
    let mut c = Cluster::running(1);
    let dir = c.file("dir");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    // Opening a fifo waits for its writer: there the job's beginning is held until the directories are away.
    let fifo = c.file("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    let script = "echo ran $(cat) >> ran\n";
    let id = c.submit(&["-i", "fifo", "-o", "dir/out", "-e", "dir/err"], script);
    let begun = c.spool().join(format!("events/{id}.1.1.started"));
    eventually("the supervisor is about to begin it", || begun.exists().then_some(()));
    c.kill_agent();
    c.kill_master();
    let (root, root_away, dir_away) = (c.root(), c.file("root-away"), c.file("dir-away"));
    std::fs::rename(&root, &root_away).unwrap();
    std::fs::rename(&dir, &dir_away).unwrap();
    feed(&fifo, "");
    eventually("the supervisor is through", || {
        c.spool().join(format!("runs/{id}.1.1/exit")).exists().then_some(())
    });
    std::fs::rename(&root_away, &root).unwrap();
    std::fs::rename(&dir_away, &dir).unwrap();
    c.start_master();
    c.start_agent();
    let begun = c.spool().join(format!("events/{id}.1.2.started"));
    eventually("it is begun again", || begun.exists().then_some(()));
    feed(&fifo, "once\n");
    let lines = c.wait_accounted(id, 1);
    assert_eq!((lines[0][11].as_str(), lines[0][12].as_str()), ("0", "0"), "{}", c.logs());
    c.wait_text("ran", "ran once\n");
    eventually("nothing is left", || c.say(&["qstat"]).out.is_empty().then_some(()));
    assert_eq!(c.accounting(id).len(), 1, "only what ran is accounted for");
}

fn there_is_one_master_and_the_next_takes_over() {
    let mut c = Cluster::running(1);
    let id = c.submit(&[], "true\n");
    c.wait_accounted(id, 1);
    let first = c.master.take();
    c.start_master();
    let term = || std::fs::read_to_string(c.root().join("master/active")).unwrap();
    let before = term();
    let id = c.submit(&[], "true\n");
    c.wait_accounted(id, 1);
    assert_eq!(before.split("\"term\"").nth(1), term().split("\"term\"").nth(1), "the second one pushed in");
    let begin = Instant::now();
    crate::cluster::kill(first);
    let id = c.submit(&[], "true\n");
    c.wait_accounted(id, 1);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_ne!(before, term());
    // Two agents of one name: the second is refused with a clear line.
    let mut second = std::process::Command::new(crate::cluster::exe());
    let other = c.work().join("other-spool");
    let out = second.arg("agent").arg(c.root()).arg(other).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stderr).unwrap().contains("locked by another process"));
}

fn numbers_are_never_given_out_again() {
    let mut c = Cluster::running(2);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..6 {
        let id = c.submit(&[], "true\n");
        assert!(seen.insert(id), "{id} twice");
        if round % 2 == 0 {
            c.wait_accounted(id, 1);
            let first = c.root().join("jobs/first-id");
            eventually("the claim is tidied away", || {
                let first = std::fs::read_to_string(&first).ok()?.trim().parse::<u64>().ok()?;
                (first > id && !c.root().join(format!("jobs/ids/{id}")).exists()).then_some(())
            });
        }
        c.kill_master();
        let id = c.submit(&[], "true\n");
        assert!(seen.insert(id), "{id} twice");
        c.start_master();
    }
    for id in seen {
        assert_eq!(c.wait_accounted(id, 1).len(), 1);
    }
}

fn a_spool_of_another_cluster_is_refused() {
    let mut one = Cluster::running(1);
    let id = one.submit(&[], "true\n");
    one.wait_accounted(id, 1);
    one.kill_agent();
    let two = Cluster::new(1);
    let out = std::process::Command::new(crate::cluster::exe())
        .arg("agent")
        .args([two.root(), one.spool()])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(text.contains("belongs to cluster"), "{text}");
    let missing = two.work().join("nothing-here");
    let out = std::process::Command::new(crate::cluster::exe())
        .arg("agent")
        .args([missing, two.spool()])
        .output()
        .unwrap();
    assert!(String::from_utf8(out.stderr).unwrap().contains("is the filesystem mounted?"));
}

fn a_job_starts_soon_after_its_submission() {
    let c = Cluster::running(1);
    let mut best = DEADLINE;
    for n in 0..10 {
        let name = format!("started{n}");
        let script = c.script("job.sh", &format!("echo x > {name}\n"));
        let begin = Instant::now();
        let mut command = c.command(&["qsub", "-terse", "-cwd", &script]);
        assert!(command.stdout(std::process::Stdio::null()).status().unwrap().success());
        while File::open(c.file(&name)).is_err() {
            assert!(begin.elapsed() < DEADLINE);
            std::thread::sleep(Duration::from_micros(200));
        }
        best = best.min(begin.elapsed());
        c.wait_accounted(n + 1, 1);
    }
    println!("submission to first instruction, best of 10: {best:?}");
    // The bound is only there to notice that somebody polls: a second would show.
    assert!(best < Duration::from_millis(500), "{best:?}");
}
