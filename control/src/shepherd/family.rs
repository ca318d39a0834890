//! All processes of a job. The supervisor is the reaper of its descendants, so whatever a job's processes do (double forks, new sessions), they stay
//! below it in the process tree.

use std::collections::BTreeMap;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::environment::SPOOL_DIR;

/// Parent of a process, from the text of `/proc/PID/stat`.
fn parent(stat: &str) -> Option<i32> {
    // The name in parentheses may hold anything, also blanks and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// All descendants of this process.
pub(crate) fn descendants() -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if let Some(up) = std::fs::read_to_string(entry.path().join("stat")).ok().and_then(|s| parent(&s)) {
            children.entry(up).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(pid) = open.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            open.push(child);
            found.extend(Pid::from_raw(child));
        }
    }
    found
}

/// All descendants at little cost, however many processes there are on the machine; one that is just being started may be missed.
pub(crate) fn descendants_seen() -> Vec<Pid> {
    let me = rustix::process::getpid();
    let (mut found, mut open) = (Vec::new(), vec![me]);
    while let Some(pid) = open.pop() {
        match children(pid) {
            Some(below) => {
                found.extend(&below);
                open.extend(below);
            }
            // A kernel without these lists.
            None if pid == me => return descendants(),
            None => {}
        }
    }
    found
}

/// Children of a process, whichever of its threads started them.
fn children(of: Pid) -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{}/task", of.as_raw_nonzero())).ok()?.flatten() {
        let list = std::fs::read_to_string(thread.path().join("children")).ok()?;
        found.extend(list.split_whitespace().filter_map(|n| n.parse().ok()).filter_map(Pid::from_raw));
    }
    Some(found)
}

/// Sends SIGKILL to all descendants.
pub(crate) fn kill_all() {
    for pid in descendants() {
        // Gone meanwhile, or (when not root) another user's: the caller looks again.
        let _looked_at_again = kill_process(pid, Signal::KILL);
    }
}

/// Kills what a run left behind whose supervisor is gone: processes of its user that have the run's own directory in
/// their environment. How many there were; zero says that none is left.
pub(crate) fn kill_orphans(dir: &Path, uid: u32) -> usize {
    let mark = format!("{SPOOL_DIR}={}", dir.display());
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let mut found = 0;
    for entry in entries.flatten() {
        let number = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        // Held before it is looked at, so that nobody else gets the signal should the number be given anew.
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let theirs = entry.metadata().is_ok_and(|meta| meta.uid() == uid)
            && environment.split(|b| *b == 0).any(|variable| variable == mark.as_bytes());
        if theirs {
            found += 1;
            // Gone meanwhile: the caller looks again.
            let _looked_at_again = pidfd_send_signal(held, Signal::KILL);
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_child_is_a_descendant() {
        let mut shell =
            std::process::Command::new("sh").args(["-c", "sleep 300; true"]).spawn().expect("a shell");
        let pid = i32::try_from(shell.id()).ok().and_then(Pid::from_raw).expect("a number");
        let begin = std::time::Instant::now();
        let sleeper = loop {
            if let Some(sleeper) = children(pid).and_then(|c| c.first().copied()) {
                break sleeper;
            }
            assert!(begin.elapsed().as_secs() < 10, "the shell starts nothing");
            std::thread::yield_now();
        };
        for found in [descendants(), descendants_seen()] {
            assert!(found.contains(&pid) && found.contains(&sleeper), "{found:?}");
        }
        shell.kill().and_then(|()| shell.wait()).expect("the shell ends");
        let _gone_is_fine = kill_process(sleeper, Signal::KILL);
    }

    #[test]
    fn a_hostile_process_name_hides_nothing() {
        assert_eq!(parent("12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a) S 1 (b) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12"), None);
    }
}
