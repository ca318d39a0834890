//! How far something is that is measured in bytes: what is done, how fast, and for how long yet.

use std::time::Duration;

use tokio::time::Instant;

use crate::show::{bytes, time};

/// A rate is not said before so long.
const SETTLED: Duration = Duration::from_secs(1);

/// What was seen of something under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// All there is to do, in bytes.
    pub total: u64,
    /// What of it is done; never more than that.
    pub done: u64,
    /// For how long it has been going on.
    pub elapsed: Duration,
}

impl Progress {
    /// Bytes a second so far, once that can be told.
    pub fn rate(&self) -> Option<u64> {
        let ms = self.elapsed.as_millis();
        let rate = (u128::from(self.done) * 1000).checked_div(ms)?;
        (self.elapsed >= SETTLED && rate > 0).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// How long the rest takes at that rate.
    pub fn left(&self) -> Option<Duration> {
        self.rate()?;
        let rest = u128::from(self.total.saturating_sub(self.done));
        let ms = (self.elapsed.as_millis() * rest).checked_div(u128::from(self.done))?;
        Some(Duration::from_secs(u64::try_from(ms.div_ceil(1000)).unwrap_or(u64::MAX)))
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", bytes(self.done), bytes(self.total))?;
        if let Some((rate, left)) = self.rate().zip(self.left()) {
            write!(f, ", {}/s, {} left", bytes(rate), time(left))?;
        }
        Ok(())
    }
}

/// How far the emptying of a brick is. What was copied is counted from the reports of those who
/// copy, which begin anew now and then; and what has gone from the brick is done for certain.
#[derive(Debug, Default)]
pub struct Emptying {
    first_used: Option<u64>,
    /// What each brick said last that it has copied.
    said: std::collections::BTreeMap<u32, u64>,
    copied: u64,
    done: u64,
    /// How far it was, and since when.
    stands: Option<((usize, u64), Instant)>,
}

impl Emptying {
    /// Takes what the brick holds now, and what each brick says that it has copied. Gives all and
    /// what is done, neither of which ever shrinks.
    pub fn see(&mut self, used: u64, copied: impl IntoIterator<Item = (u32, u64)>) -> (u64, u64) {
        let first = self.first_used.is_none();
        let total = *self.first_used.get_or_insert(used);
        for (brick, now) in copied {
            let before = self.said.insert(brick, now).unwrap_or(0);
            // What was copied before this was watched does not count.
            if !first {
                self.copied += if now >= before { now - before } else { now };
            }
        }
        self.done = self.done.max(self.copied).max(total.saturating_sub(used)).min(total);
        (total, self.done)
    }

    /// For how long it has been as far as this.
    pub fn stands_for(&mut self, reached: (usize, u64), now: Instant) -> Duration {
        match self.stands {
            Some((before, since)) if before == reached => now.saturating_duration_since(since),
            _ => {
                self.stands = Some((reached, now));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The rate is that of all the time so far, and the rest takes as long at it.
    #[test]
    fn a_rate_gives_the_time_that_is_left() {
        let early = Progress { total: 3 << 30, done: 1 << 20, elapsed: Duration::from_millis(900) };
        assert_eq!(early.to_string(), "1.0 MiB of 3.0 GiB");
        let later = Progress { total: 3 << 30, done: 1 << 30, elapsed: Duration::from_secs(10) };
        assert_eq!(later.to_string(), "1.0 GiB of 3.0 GiB, 102.4 MiB/s, 20 s left");
        let idle = Progress { total: 5, done: 0, elapsed: Duration::from_secs(10) };
        assert_eq!((idle.rate(), idle.left()), (None, None));
        let done = Progress { total: 1 << 30, ..later };
        assert_eq!(done.left().unwrap(), Duration::ZERO);
    }

    /// Whatever gets on begins the time anew.
    #[test]
    fn it_stands_while_nothing_gets_on() {
        let (mut emptying, begun) = (Emptying::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(emptying.stands_for((3, 10), at(0)), Duration::ZERO);
        assert_eq!(emptying.stands_for((3, 10), at(5)), Duration::from_secs(5));
        assert_eq!(emptying.stands_for((3, 11), at(6)), Duration::ZERO);
        assert_eq!(emptying.stands_for((2, 11), at(9)), Duration::ZERO);
        assert_eq!(emptying.stands_for((2, 11), at(19)), Duration::from_secs(10));
    }

    /// Reports that begin anew, and bytes that went unreported, never make it go back.
    #[test]
    fn emptying_never_goes_back() {
        let mut emptying = Emptying::default();
        assert_eq!(emptying.see(1000, [(1, 70), (2, 0)]), (1000, 0), "somebody had copied before");
        assert_eq!(emptying.see(1000, [(1, 170), (2, 50)]), (1000, 150));
        assert_eq!(emptying.see(1000, [(1, 20), (2, 50)]), (1000, 170), "brick 1 began anew");
        assert_eq!(emptying.see(600, [(1, 20), (2, 50)]), (1000, 400), "so much is gone from it");
        assert_eq!(emptying.see(900, [(1, 20), (2, 0)]), (1000, 400));
        assert_eq!(emptying.see(0, [(1, 9_999)]), (1000, 1000));
    }
}
