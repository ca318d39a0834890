//! POSIX access control lists, beside a local filesystem that has them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::Workshop;
use brickyard_tests::run::{NOBODY, need};
use brickyard_tests::seed::{self, Rng};
use brickyard_tests::{Place, Run};

/// Lines of the random script.
const STEPS: usize = 150;

fn tools() -> Result<()> {
    need(&[("setfacl", "acl"), ("getfacl", "acl"), ("rsync", "rsync")])
}

/// What there is of directories, files, modes and lists, by the system's own tools.
fn picture(dir: &Path) -> Result<String> {
    let script = "find . -printf '%p %m\\n' | sort; getfacl -Rnp . 2>/dev/null | grep -v '^# file'";
    // getfacl goes through a directory in the order in which it is listed.
    let script = format!("{script} | sort");
    Ok(Run::bash(&script).cwd(dir).ok()?.text())
}

/// Random orders about lists, modes and names; not all of them succeed.
fn orders(rng: &mut Rng) -> String {
    let dirs = [".", "a", "a/b", "c"];
    let mut script = String::from("set +e\n");
    for step in 0..STEPS {
        let dir = dirs[rng.below(4) as usize];
        let path = format!("{dir}/{}", ["f", "g", "b", "."][rng.below(4) as usize]);
        let rights = ["rwx", "r-x", "rw-", "r--", "---", "-wx"][rng.below(6) as usize];
        let who = ["u:1001", "u:1002", "g:2001", "g:2002", "m:", "u:", "g:", "o:"][rng.below(8) as usize];
        let mode = rng.below(0o1000);
        let umask = [0o22, 0o77, 0o2, 0][rng.below(4) as usize];
        let order = match rng.below(10) {
            0 => format!("mkdir -p {dir}"),
            1 => format!("(umask {umask:03o}; mkdir {path})"),
            2 | 3 => format!("(umask {umask:03o}; echo {step} > {path})"),
            4 | 5 => format!("setfacl -m {who}:{rights} {path}"),
            6 => format!("setfacl -d -m {who}:{rights} {dir}"),
            7 => format!("chmod {mode:03o} {path}"),
            8 => format!("setfacl -{} {path}", if rng.chance(50) { "b" } else { "k" }),
            _ => format!("setfacl -n -x {} {path}", who.trim_end_matches(':')),
        };
        let _ = writeln!(script, "{order} 2>/dev/null; chmod u+rwx {dir} 2>/dev/null");
    }
    // The last order may be one that does not succeed.
    script.push_str("true\n");
    script
}

/// The same orders have the same outcome here and on the disk of this machine, list by list.
#[test]
fn lists_are_those_of_a_local_filesystem() -> Result<()> {
    tools()?;
    let mut place = Place::new()?;
    let local = Workshop::new()?;
    let seed = seed::of_this_run()?;
    let mut rng = Rng::new(seed);
    let mut all = String::new();
    for round in 0..6 {
        let script = orders(&mut rng);
        let (here, there) = (place.join(round.to_string()), local.path().join(round.to_string()));
        for dir in [&here, &there] {
            std::fs::create_dir(dir)?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
            Run::bash(&script).cwd(dir).ok()?;
        }
        if round % 2 == 1 {
            place.cool()?;
        }
        let (ours, theirs) = (picture(&here)?, picture(&there)?);
        ensure!(ours == theirs, "seed {seed}, round {round}:\n{script}\nhere:\n{ours}\nlocal:\n{theirs}");
        all.push_str(&ours);
    }
    ensure!(
        all.contains("default:user:100") && all.contains("mask::"),
        "seed {seed}: no lists were made: {all}"
    );
    place.finish()
}

/// Rights are given and taken by lists, for users without any of their own, and copies keep them.
#[test]
fn lists_decide_who_may_what() -> Result<()> {
    tools()?;
    let mut place = Place::new()?;
    let dir = place.join("shared");
    std::fs::create_dir(&dir)?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
    let may = |what: &str| -> Result<bool> {
        Ok(Run::as_user(NOBODY, "sh").args(["-c", what]).cwd("/").run()?.status.success())
    };
    let at = |name: &str| dir.join(name).display().to_string();
    std::fs::write(dir.join("report"), "numbers")?;
    std::fs::set_permissions(dir.join("report"), std::fs::Permissions::from_mode(0o640))?;
    ensure!(!may(&format!("cat {}", at("report")))?, "it was readable before");
    Run::new("setfacl").args(["-m", "u:65534:rwx", "-d", "-m", "u:65534:rw-"]).arg(&dir).ok()?;
    ensure!(!may(&format!("cat {}", at("report")))?, "the directory alone made it readable");
    Run::new("setfacl").args(["-m", "u:65534:r--"]).arg(dir.join("report")).ok()?;
    ensure!(may(&format!("cat {}", at("report")))?, "the list gives no right");
    ensure!(!may(&format!("echo x >> {}", at("report")))?, "it gives too many");
    // What is made there can be written by both, whatever the umask.
    Run::bash("umask 077; echo mine > \"$1\"").args(["sh", &at("draft")]).ok()?;
    ensure!(may(&format!("echo ours >> {}", at("draft")))?, "nothing was inherited");
    // The mask takes it away, and the bits show the mask.
    std::fs::set_permissions(dir.join("draft"), std::fs::Permissions::from_mode(0o600))?;
    ensure!(!may(&format!("cat {}", at("draft")))?, "the mask does not hold");
    place.cool()?;
    ensure!(may(&format!("cat {}", at("report")))? && !may(&format!("cat {}", at("draft")))?);
    // Copies keep the lists, here and back.
    let (workshop, copy) = (Workshop::new()?, place.join("copy"));
    let local = workshop.path().join("shared");
    for (from, to) in [(&dir, &local), (&local, &copy)] {
        Run::new("rsync")
            .arg("-aA")
            .arg(format!("{}/", from.display()))
            .arg(format!("{}/", to.display()))
            .ok()?;
    }
    let before = picture(&dir)?;
    ensure!(before == picture(&copy)?, "{before}\n{}", picture(&copy)?);
    let lists = Run::new("getfacl").arg("-n").arg(copy.join("report")).ok()?.text();
    ensure!(lists.contains("user:65534:r--"), "{lists}");
    std::fs::metadata(&copy).context("the copy")?;
    place.finish()
}
