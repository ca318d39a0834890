//! Waiting for a change in a few directories: the one place that knows how.
//!
//! inotify sees what is done through the same mount. What another machine does is found by looking once
//! a second (`POLL`), which also covers a filesystem without inotify. A filesystem's own watch file can take the
//! place of both here without any caller noticing.
//!
//! 1. A change made before `wait` was called is never missed: the watch is added before the caller
//!    looks into the directory. `a_change_before_the_wait_is_seen`
//! 2. No wait is longer than `POLL`, whatever the kernel reports. `without_a_change_the_wait_ends_by_itself`

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::stop::Stop;

/// Longest time between two looks, for changes nobody reports.
pub(crate) const POLL: Duration = Duration::from_secs(1);

/// What ended a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wake<T: Ord> {
    /// The stop token is set.
    Stopped,
    /// Something changed in the directories with these tags.
    Changed(BTreeSet<T>),
    /// Time is over, or events were lost: look everywhere.
    LookEverywhere,
}

/// A set of watched directories; each has a tag, that of several may be the same.
#[derive(Debug)]
pub(crate) struct Watch<T: Ord> {
    fd: Option<OwnedFd>,
    tags: BTreeMap<i32, T>,
    stop: Stop,
}

impl<T: Ord + Clone> Watch<T> {
    /// A watch of nothing yet. When the kernel has no inotify left to give, waits just poll.
    pub fn new(stop: Stop) -> Self {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .inspect_err(|error| tracing::warn!(%error, "no inotify: looking once a second instead"))
            .ok();
        Watch { fd, tags: BTreeMap::new(), stop }
    }

    /// Also watches `dir` for names that appear by rename or vanish, and for new directories. Adding a directory
    /// twice replaces its tag. False for a directory that can't be watched (yet): it is covered by the polling.
    pub fn add(&mut self, dir: &Path, tag: T) -> bool {
        let what = WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::CREATE;
        self.add_for(dir, tag, what)
    }

    /// As [`Watch::add`], and wakes also when a file in `dir` is written to.
    pub fn add_appends(&mut self, dir: &Path, tag: T) -> bool {
        self.add_for(dir, tag, WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::MODIFY)
    }

    fn add_for(&mut self, dir: &Path, tag: T, what: WatchFlags) -> bool {
        let Some(fd) = &self.fd else { return true };
        let what = what | WatchFlags::ONLYDIR;
        match inotify::add_watch(fd, dir, what) {
            Ok(wd) => {
                self.tags.insert(wd, tag);
                true
            }
            Err(error) => {
                tracing::debug!(%error, dir = %dir.display(), "not watched: polling");
                false
            }
        }
    }

    /// Waits for a change, the stop token, or `timeout` (never more than [`POLL`]).
    pub fn wait(&mut self, timeout: Duration, also: &[BorrowedFd<'_>]) -> Wake<T> {
        let timeout = timeout.min(POLL);
        let Some(fd) = &self.fd else {
            self.stop.wait_with(also, timeout);
            return if self.stop.is_set() { Wake::Stopped } else { Wake::LookEverywhere };
        };
        let mut fds = vec![fd.as_fd()];
        fds.extend_from_slice(also);
        self.stop.wait_with(&fds, timeout);
        if self.stop.is_set() {
            return Wake::Stopped;
        }
        let mut changed = BTreeSet::new();
        let mut buf = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buf);
        loop {
            match reader.next() {
                Ok(event) => {
                    if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                        return Wake::LookEverywhere;
                    }
                    // Temporary names are somebody's unfinished work; their final name is announced on its own.
                    let unfinished = event.file_name().is_some_and(|n| n.to_bytes().starts_with(b".tmp."));
                    if let (false, Some(tag)) = (unfinished, self.tags.get(&event.wd())) {
                        changed.insert(tag.clone());
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => {
                    tracing::debug!(%error, "inotify failed: polling");
                    return Wake::LookEverywhere;
                }
            }
        }
        if changed.is_empty() { Wake::LookEverywhere } else { Wake::Changed(changed) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_change_before_the_wait_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Stop::new());
        watch.add(dir.path(), "here");
        std::fs::write(dir.path().join(".tmp.x"), b"x").unwrap();
        std::fs::rename(dir.path().join(".tmp.x"), dir.path().join("x")).unwrap();
        assert_eq!(watch.wait(POLL, &[]), Wake::Changed(BTreeSet::from(["here"])));
    }

    #[test]
    fn without_a_change_the_wait_ends_by_itself() {
        let mut watch: Watch<u8> = Watch::new(Stop::new());
        let begin = Instant::now();
        assert_eq!(watch.wait(Duration::from_millis(10), &[]), Wake::LookEverywhere);
        assert!(begin.elapsed() < POLL);
    }

    #[test]
    fn a_set_stop_token_ends_the_wait() {
        let stop = Stop::new();
        let mut watch: Watch<u8> = Watch::new(stop.clone());
        stop.set();
        assert_eq!(watch.wait(POLL, &[]), Wake::Stopped);
    }
}
