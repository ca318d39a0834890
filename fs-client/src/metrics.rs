//! What the client has done: plain numbers that anyone may read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the client was made. All only grow but those that end in `_now`.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Metrics {
            /// All numbers, each as it is when it is read.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Snapshot {
            /// Names and values, for exporters.
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

metrics! {
    /// Calls to the namespace.
    meta_calls,
    /// Calls to bricks.
    brick_calls,
    /// Calls repeated after a failure.
    retries,
    /// Operations given up at their deadline.
    deadlines,
    /// Reads answered.
    reads,
    /// Bytes of them.
    read_bytes,
    /// Bytes of them that had been read ahead or were not yet written out.
    read_memory_bytes,
    /// Writes taken.
    writes,
    /// Bytes of them.
    write_bytes,
    /// Pieces sent to bricks.
    flights,
    /// Bytes of them.
    flight_bytes,
    /// Pieces on their way at this moment.
    flights_now,
    /// Pieces sent again since a brick that held them restarted before they were durable.
    resends,
    /// Pieces that could not be written; their data is lost and programs were told.
    lost_pieces,
    /// Their bytes.
    lost_bytes,
    /// fsync calls.
    fsyncs,
    /// Bytes acknowledged and not yet durable at this moment.
    uncommitted_bytes_now,
    /// Pieces read ahead.
    readahead_pieces,
    /// Sessions opened.
    sessions,
    /// Copies found damaged or unreadable while reading; another one was asked.
    bad_copies,
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, amount: u64) {
    counter.fetch_sub(amount, Ordering::Relaxed);
}
