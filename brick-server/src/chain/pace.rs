//! The pace of copying between bricks: what is sent in the background leaves room for others.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::brick::lock;

/// Lets so many bytes a second pass; short bursts of a tenth of a second are free.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When the bytes let through so far have had their time.
    paid: Mutex<Option<Instant>>,
}

/// What may be borrowed.
const BURST: Duration = Duration::from_millis(100);

impl Pace {
    /// At least one byte a second.
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second: bytes_per_second.max(1), paid: Mutex::new(None) }
    }

    /// Returns when the bytes that passed are paid for.
    pub async fn passed(&self, bytes: u64) {
        let until = {
            let mut paid = lock(&self.paid);
            let cost = Duration::from_nanos(
                (bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second)) as u64,
            );
            let now = Instant::now();
            let next = paid.unwrap_or(now).max(now) + cost;
            *paid = Some(next);
            next
        };
        if until > Instant::now() + BURST {
            sleep_until(until - BURST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes take their time, however many send them.
    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let pace = Pace::new(1_000_000);
        let begun = Instant::now();
        for _ in 0..50 {
            tokio::join!(pace.passed(50_000), pace.passed(50_000));
        }
        let took = begun.elapsed().as_millis();
        assert!((4_800..=5_010).contains(&took), "{took} ms");
    }
}
