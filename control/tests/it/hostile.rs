//! What users may put into the directories they may write to.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::cluster::{Cluster, NOBODY, eventually, is_root};

pub const TESTS: &[(&str, fn())] = &[
    ("hostile::hostile_incoming_files_are_moved_aside", hostile_incoming_files_are_moved_aside),
    ("hostile::nobody_submits_for_somebody_else", nobody_submits_for_somebody_else),
    ("hostile::a_changed_submission_is_not_run", a_changed_submission_is_not_run),
];

fn hostile_incoming_files_are_moved_aside() {
    let mut c = Cluster::new(1);
    let incoming = c.root().join("jobs/incoming");
    std::fs::write(incoming.join("garbage"), "x").unwrap();
    std::fs::write(incoming.join("job.5"), "brickyard submission 1 00000000 3\nxyz").unwrap();
    std::fs::write(incoming.join("job.007"), "x").unwrap();
    std::fs::write(incoming.join("job.18446744073709551615"), "x").unwrap();
    std::fs::write(incoming.join("cmd.x"), "brickyard command 9 00000000 0\n").unwrap();
    std::fs::write(incoming.join("name with\nnewline"), "x").unwrap();
    std::fs::create_dir(incoming.join("job.6")).unwrap();
    std::fs::write(incoming.join("job.6/inside"), "x").unwrap();
    symlink("/etc/passwd", incoming.join("job.8")).unwrap();
    symlink(&incoming, incoming.join("cmd.loop")).unwrap();
    for name in ["job.9", "cmd.fifo"] {
        assert!(Command::new("mkfifo").arg(incoming.join(name)).status().unwrap().success());
    }
    let huge = std::fs::File::create(incoming.join("job.10")).unwrap();
    huge.set_len(1 << 40).unwrap();
    std::fs::write(c.root().join("jobs/ids/not-a-number"), "x").unwrap();
    std::fs::create_dir(c.root().join("jobs/ids/3")).unwrap();
    c.start_master();
    c.start_agent();
    let id = c.submit(&["-o", "out"], "echo fine\n");
    c.wait_text("out", "fine\n");
    c.wait_accounted(id, 1);
    eventually("incoming is empty", || std::fs::read_dir(&incoming).unwrap().next().is_none().then_some(()));
    let rejected = std::fs::read_dir(c.root().join("jobs/rejected")).unwrap().count();
    assert_eq!(rejected, 12, "{}", c.logs());
    assert_eq!(c.say(&["qstat", "-u", "*"]).out, "");
    assert!(c.logs().is_empty() || !c.logs().contains("panicked"));
}

fn nobody_submits_for_somebody_else() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut c = Cluster::new(1);
    let incoming = c.root().join("jobs/incoming");
    // A real submission of root's, as a template.
    let id = c.submit(&["-o", "out"], "id -u >> ran\n");
    let bytes = std::fs::read(incoming.join(format!("job.{id}"))).unwrap();
    let nobodys = |name: &str, bytes: &[u8]| {
        let path = incoming.join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(bytes).unwrap();
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    };
    // The same bytes under a number he didn't claim, and under one he did: they say another number.
    nobodys("job.12", &bytes);
    nobodys("job.13", &bytes);
    let claim = c.root().join("jobs/ids/13");
    std::fs::write(&claim, "").unwrap();
    std::os::unix::fs::chown(&claim, Some(NOBODY), Some(NOBODY)).unwrap();
    // A hard link to root's file under another name.
    std::fs::hard_link(incoming.join("job.1"), incoming.join("job.14")).unwrap();
    // A uid that is nobody's.
    let said = c.say(&["qsub", "-terse", "-h", "-cwd", "-b", "y", "true"]);
    let strange = said.out.trim().to_owned();
    for path in [incoming.join(format!("job.{strange}")), c.root().join("jobs/ids").join(&strange)] {
        std::os::unix::fs::chown(path, Some(4_000_000_001), None).unwrap();
    }
    // Somebody sits on the name the next number would take: the next submitter takes another number.
    nobodys("job.3", b"squatter");
    let said = c.say_as_nobody(&["qsub", "-terse", "-cwd", "-b", "y", "true"]);
    assert_eq!(said.out, "3\n", "it was his own");
    std::fs::write(incoming.join("job.4"), "squatter").unwrap();
    let said = c.say_as_nobody(&["qsub", "-terse", "-cwd", "-b", "y", "true"]);
    assert_eq!((said.code, said.out.as_str()), (0, "5\n"), "{said:?}");
    c.start_master();
    c.start_agent();
    c.wait_text("ran", "0\n");
    c.wait_accounted(id, 1);
    eventually("incoming is empty", || std::fs::read_dir(&incoming).unwrap().next().is_none().then_some(()));
    assert_eq!(std::fs::read_dir(c.root().join("jobs/rejected")).unwrap().count(), 5, "{}", c.logs());
    // The directories themselves keep users from each other's files.
    let mode = std::fs::metadata(&incoming).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
}

fn a_changed_submission_is_not_run() {
    let mut c = Cluster::new(1);
    c.start_master();
    let id = c.submit(&[], "echo right > ran\n");
    let spooled = c.root().join("jobs/spool").join(id.to_string());
    eventually("accepted", || spooled.exists().then_some(()));
    // The owner may write to his file still: what he makes of it isn't what was accepted.
    let text = String::from_utf8(std::fs::read(&spooled).unwrap()).unwrap();
    std::fs::write(&spooled, text.replace("right", "wrong")).unwrap();
    c.start_agent();
    c.wait_state(id, "Eqw");
    assert!(c.text("ran").is_none());
    let said = c.say(&["qstat", "-j", &id.to_string()]);
    assert!(said.out.contains("it isn't the submission that was accepted"), "{said:?}");
}
