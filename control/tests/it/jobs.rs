//! What users of Grid Engine know, tried with real jobs.

use crate::cluster::{Cluster, eventually};

pub const TESTS: &[(&str, fn())] = &[
    ("jobs::a_script_runs_and_is_accounted_for", a_script_runs_and_is_accounted_for),
];

fn a_script_runs_and_is_accounted_for() {
    let c = Cluster::running(2);
    let script = c.script("hello.sh", "echo hello from $JOB_ID; echo oops >&2\n");
    let said = c.say(&["qsub", "-cwd", &script]);
    assert_eq!((said.code, said.out.as_str()), (0, "Your job 1 (\"hello.sh\") has been submitted\n"), "{said:?}");
    c.wait_text("hello.sh.o1", "hello from 1\n");
    c.wait_text("hello.sh.e1", "oops\n");
    let lines = c.wait_accounted(1, 1);
    assert_eq!((lines.len(), lines[0].len(), lines[0][12].as_str()), (1, 45, "0"));
    eventually("qstat is empty", || c.say(&["qstat"]).out.is_empty().then_some(()));
}
