//! The token that ends the loops of this room.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Longest time a wait goes without looking at the token when the kernel gave no event descriptor.
const UNWATCHED_MAX: Duration = Duration::from_millis(200);

/// A stop token: any clone may set it, all clones see it, and every wait of the master and the agent
/// ends at once when it is set. It can't be taken back.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    set: AtomicBool,
    event: Option<OwnedFd>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// A token that isn't set.
    #[must_use]
    pub fn new() -> Self {
        // Without a descriptor (table full) the flag alone still works, looked at every UNWATCHED_MAX.
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        Stop(Arc::new(Inner { set: AtomicBool::new(false), event }))
    }

    /// Asks everybody who holds a clone to end.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        if let Some(event) = &self.0.event {
            // The counter is never read, so the descriptor stays readable for every waiter; a failed
            // write (counter full) means that it is readable already.
            let _already_readable = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// True once somebody asked to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// Waits until the token is set, at most `timeout`; true when it is set.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.wait_with(&[], timeout);
        self.is_set()
    }

    /// Waits until the token is set or one of `others` is readable, at most `timeout`.
    pub(crate) fn wait_with(&self, others: &[BorrowedFd<'_>], timeout: Duration) {
        if self.is_set() {
            return;
        }
        let timeout = if self.0.event.is_some() { timeout } else { timeout.min(UNWATCHED_MAX) };
        let mut fds: Vec<PollFd<'_>> =
            others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        if let Some(event) = &self.0.event {
            fds.push(PollFd::from_borrowed_fd(event.as_fd(), PollFlags::IN));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // An interrupted or failed poll only means an early look around, which is always allowed.
        let _early_is_fine = poll(&mut fds, Some(&timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_set_token_ends_a_long_wait_at_once_in_every_clone() {
        let stop = Stop::new();
        let other = stop.clone();
        let begin = Instant::now();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.set();
        assert!(waiter.join().is_ok_and(|set| set));
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(stop.wait(Duration::from_secs(60)), "it stays set");
    }
}
