//! When a brick counts as dead, in one place for those who declare it and those who must have
//! stopped by then.
//!
//! 1. A brick stops serving by itself before the namespace gives it up: `fence_after`, counted
//!    from when the last answered heartbeat was *sent*, is less than `dead_after`, counted from
//!    when one was last *received* (`fencing_comes_before_death`). Both ends use clocks that only
//!    go forward. A namespace refuses the heartbeats of a brick that says another `fence_after`.
//! 2. A lost heartbeat or two kill nobody: `heartbeat` fits into `fence_after` three times.

use std::time::Duration;

/// How life and death of bricks are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrickTiming {
    /// A brick tells that it lives this often.
    pub heartbeat: Duration,
    /// It serves nothing when the last answered heartbeat was sent this long ago.
    pub fence_after: Duration,
    /// It is declared dead when none was received for this long.
    pub dead_after: Duration,
}

impl Default for BrickTiming {
    /// 0.5 s, 2.0 s, 2.5 s.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            fence_after: Duration::from_millis(2000),
            dead_after: Duration::from_millis(2500),
        }
    }
}

impl BrickTiming {
    /// Whether the relations of the module's head hold.
    ///
    /// # Errors
    /// The one that does not, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.fence_after >= self.dead_after {
            return Err(format!(
                "bricks would serve for {} ms after their last heartbeat and be declared dead after {} ms: \
                 the first must be less",
                self.fence_after.as_millis(),
                self.dead_after.as_millis()
            ));
        }
        if self.heartbeat * 3 > self.fence_after {
            return Err(format!(
                "heartbeats every {} ms do not fit three times into the {} ms after which bricks stop serving",
                self.heartbeat.as_millis(),
                self.fence_after.as_millis()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariants 1 and 2, and that breaking either is said.
    #[test]
    fn fencing_comes_before_death() {
        let good = BrickTiming::default();
        assert_eq!(good.check(), Ok(()));
        let late = BrickTiming { fence_after: good.dead_after, ..good };
        assert!(late.check().is_err_and(|why| why.contains("2500 ms")));
        let rare = BrickTiming { heartbeat: Duration::from_secs(1), ..good };
        assert!(rare.check().is_err_and(|why| why.contains("1000 ms")));
    }
}
