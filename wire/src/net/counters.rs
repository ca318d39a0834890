//! What a [`Net`](crate::net::Net) has done so far, for whoever exports metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only its owner changes and anyone reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters since the [`Net`](crate::net::Net) was made. All but `serving_now` and
/// `connections_now` only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls made, whatever became of them.
    pub calls_made: Counter,
    /// Calls made that ended without a reply.
    pub calls_failed: Counter,
    /// Calls taken by services here.
    pub calls_served: Counter,
    /// Calls being served at this moment.
    pub serving_now: Counter,
    /// Calls turned away because their service was stopping.
    pub calls_declined: Counter,
    /// Bytes of headers and payloads sent, requests and replies.
    pub bytes_sent: Counter,
    /// Bytes of headers and payloads received, requests and replies.
    pub bytes_received: Counter,
    /// Connections made to services elsewhere.
    pub connections_made: Counter,
    /// Attempts to connect that failed or were refused.
    pub connections_failed: Counter,
    /// Connections taken by services here, after their handshake.
    pub connections_taken: Counter,
    /// Connections open to services here at this moment.
    pub connections_now: Counter,
    /// Callers turned away by certificate or handshake.
    pub callers_refused: Counter,
}
