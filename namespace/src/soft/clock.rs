//! A clock that never goes back: what join tokens expire by.
//!
//! 1. It is never behind what the state has seen, and goes on with time whatever happens to the
//!    machine's clock (`it_never_goes_back_and_never_stops`).

use std::time::Instant;

use wire::meta::Timestamp;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    base: Timestamp,
    at: Instant,
}

fn plus(time: Timestamp, elapsed: std::time::Duration) -> Timestamp {
    let nanos = u64::from(time.nanos) + u64::from(elapsed.subsec_nanos());
    // Below two billion, so both parts fit.
    let secs =
        time.secs.saturating_add(elapsed.as_secs() as i64).saturating_add((nanos / 1_000_000_000) as i64);
    Timestamp { secs, nanos: (nanos % 1_000_000_000) as u32 }
}

impl SteadyClock {
    /// Begins at the latest time that was seen.
    pub fn new(seen: Timestamp, at: Instant) -> Self {
        Self { base: seen, at }
    }

    /// The present, where the machine's clock says `wall` and its monotonic one `at`.
    pub fn now(&mut self, wall: Timestamp, at: Instant) -> Timestamp {
        let passed = plus(self.base, at.saturating_duration_since(self.at));
        let now = passed.max(wall);
        *self = Self { base: now, at };
        now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Invariant 1.
    #[test]
    fn it_never_goes_back_and_never_stops() {
        let time = |secs, nanos| Timestamp { secs, nanos };
        let start = Instant::now();
        let mut clock = SteadyClock::new(time(1000, 900_000_000), start);
        // The machine's clock was set back before the start: time goes on from what was seen.
        assert_eq!(clock.now(time(10, 0), start), time(1000, 900_000_000));
        assert_eq!(clock.now(time(10, 0), start + Duration::from_millis(200)), time(1001, 100_000_000));
        // It catches up, is set far ahead and back again.
        assert_eq!(clock.now(time(2000, 0), start + Duration::from_secs(1)), time(2000, 0));
        assert_eq!(clock.now(time(9000, 0), start + Duration::from_secs(2)), time(9000, 0));
        assert_eq!(clock.now(time(2002, 0), start + Duration::from_secs(3)), time(9001, 0));
    }
}
