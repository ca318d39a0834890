//! Requests that take a while, and those among them whose process was sent a signal.
//!
//! Signals that a program handles disturb no call on files, as on a local filesystem: programs do not expect
//! `EINTR` there, and some are sent signals all the time. A process that is killed must not wait, whatever for. The kernel
//! tells of the first signal only, so who had one is looked at again and again until it is answered.
//!
//! 1. A killed process has its answer at once; what it had asked for goes on, and nobody hears of it
//!    (`a_killed_process_ends_during_an_outage`).
//! 2. An interruption may come before its request is known here (`an_interruption_may_come_first`).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::Notify;

use super::reply::Asked;
use crate::locked;

/// Wait between two looks at processes that were sent a signal.
const PAUSE: Duration = Duration::from_millis(50);
/// Interruptions of requests that are not known yet. Most are of such as have been answered.
const MOST_EARLY: usize = 256;
/// The bit of SIGKILL in a set of signals.
const KILLED: u64 = 1 << 8;

/// See the module's head.
#[derive(Debug, Default)]
pub(in crate::mount) struct Interrupts {
    state: Mutex<State>,
    some: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Waiting>,
    early: VecDeque<u64>,
}

#[derive(Debug)]
struct Waiting {
    /// The thread that waits.
    pid: u32,
    asked: Arc<Asked>,
    signalled: bool,
    /// What it does ends at any signal, and it answers then.
    cancel: Option<Arc<Notify>>,
}

impl Waiting {
    fn signal(&mut self) {
        self.signalled = true;
        if let Some(cancel) = &self.cancel {
            cancel.notify_one();
        }
    }
}

impl Interrupts {
    /// A request is not answered at once. `cancel` is notified at any signal: what programs expect to be interrupted
    /// is given up.
    pub(super) fn waits(&self, unique: u64, pid: u32, asked: Arc<Asked>, cancel: Option<Arc<Notify>>) {
        let mut state = locked(&self.state);
        let early = state.early.iter().position(|other| *other == unique);
        let signalled = early.and_then(|at| state.early.remove(at)).is_some();
        let waiting = state.waiting.entry(unique).or_insert(Waiting { pid, asked, signalled: false, cancel });
        if signalled {
            waiting.signal();
            self.some.notify_one();
        }
    }

    /// It is answered.
    pub(super) fn over(&self, unique: u64) {
        locked(&self.state).waiting.remove(&unique);
    }

    /// The process that waits for a request was sent a signal.
    pub(super) fn signalled(&self, unique: u64) {
        let mut state = locked(&self.state);
        match state.waiting.get_mut(&unique) {
            Some(waiting) => waiting.signal(),
            None => {
                state.early.push_back(unique);
                if state.early.len() > MOST_EARLY {
                    state.early.pop_front();
                }
                return;
            }
        }
        self.some.notify_one();
    }

    /// Answers those who are killed. Runs until it is dropped.
    pub(in crate::mount) async fn watch(self: Arc<Self>) {
        loop {
            self.some.notified().await;
            while self.answer_the_dying() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// One look; whether some who were sent a signal still wait.
    fn answer_the_dying(&self) -> bool {
        let signalled: Vec<(u32, Arc<Asked>)> = {
            let state = locked(&self.state);
            let signalled = state.waiting.values().filter(|waiting| waiting.signalled);
            signalled.map(|waiting| (waiting.pid, waiting.asked.clone())).collect()
        };
        let mut left = false;
        for (pid, asked) in signalled {
            if is_dying(pid) {
                asked.error(Errno::INTR);
            } else {
                left = true;
            }
        }
        left
    }
}

/// Whether a thread is about to end, whatever it does.
fn is_dying(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let signals = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    ["SigPnd:", "ShdPnd:"].into_iter().filter_map(signals).any(|set| set & KILLED != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::reply::tests::asked;
    use super::*;

    /// Whether somebody who waits for it would go on at once.
    fn futures_are_ready(cancel: &Notify) -> bool {
        let mut notified = std::pin::pin!(cancel.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        notified.as_mut().poll(&mut context).is_ready()
    }

    /// This process is not dying, and a number that nobody has isn't either.
    #[test]
    fn the_living_are_not_dying() {
        assert!(!is_dying(std::process::id()));
        assert!(!is_dying(0) && !is_dying(u32::MAX));
    }

    /// A signal that is told of before its request is remembered, the newest ones.
    #[test]
    fn an_interruption_may_come_first() {
        let interrupts = Interrupts::default();
        for unique in 0..=MOST_EARLY as u64 {
            interrupts.signalled(unique * 2);
        }
        let (asked, _other) = asked();
        for (unique, signalled) in [(0, false), (2, true), (2 * MOST_EARLY as u64, true), (1000, false)] {
            let cancel = Arc::new(Notify::new());
            interrupts.waits(unique, std::process::id(), asked.clone(), Some(cancel.clone()));
            assert_eq!(futures_are_ready(&cancel), signalled, "{unique}");
            assert_eq!(locked(&interrupts.state).waiting[&unique].signalled, signalled, "{unique}");
        }
        assert!(interrupts.answer_the_dying());
        for unique in [0, 2, 2 * MOST_EARLY as u64, 1000] {
            interrupts.over(unique);
        }
        assert!(!interrupts.answer_the_dying());
        assert!(locked(&interrupts.state).waiting.is_empty());
    }
}
