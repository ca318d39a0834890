//! Trying again: until when, and how long to wait in between.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::metrics::{Metrics, add};
use crate::stuck;

const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// One operation's patience.
pub(crate) struct Retry<'a> {
    metrics: &'a Metrics,
    begun: Instant,
    deadline: Instant,
    wait: Duration,
}

impl<'a> Retry<'a> {
    /// Patience until `deadline`.
    pub(crate) fn until(metrics: &'a Metrics, deadline: Instant) -> Self {
        Self { metrics, begun: Instant::now(), deadline, wait: FIRST_WAIT }
    }

    /// When an attempt that begins now has to end.
    pub(crate) fn attempt(&self, timeout: Duration) -> Instant {
        self.deadline.min(Instant::now() + timeout)
    }

    /// The error of an operation that waits no longer.
    pub(crate) fn give_up(&self, what: impl Display, last: impl Display) -> Error {
        add(&self.metrics.deadlines, 1);
        Error::Deadline {
            what: what.to_string(),
            waited_ms: self.begun.elapsed().as_millis() as u64,
            last: last.to_string(),
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// [`Error::Deadline`] if that would be too late.
    pub(crate) async fn pause(&mut self, what: impl Display, last: impl Display) -> Result<(), Error> {
        // Waits differ from caller to caller, so that they do not come back all at once.
        let spread = self.metrics.retries.fetch_add(1, Ordering::Relaxed) % 8;
        let wake = Instant::now() + self.wait + self.wait * spread as u32 / 16;
        if wake >= self.deadline {
            return Err(self.give_up(what, last));
        }
        stuck::waiting_for(|| format!("{what}: {last}"));
        sleep_until(wake).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}
