//! What a brick counts. Names that outsiders see are made of these where they are exported.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one brick, since it came up.
        #[derive(Debug, Default)]
        pub struct Metrics { $($(#[$doc])* pub $name: Counter),* }

        /// All counters at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64),* }

        impl Metrics {
            /// All of them.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get()),* }
            }
        }

        impl Snapshot {
            /// Names and values, for exporters.
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Reads answered.
    reads,
    /// Bytes of them.
    read_bytes,
    /// Reads that met a change of which it was not known whether all members have it, after
    /// the head was asked.
    unsettled_reads,
    /// Changes acknowledged as head.
    changes,
    /// Payload bytes of them.
    change_bytes,
    /// Changes taken over from a head.
    forwards,
    /// Calls handed on for clients that can't reach another brick.
    relayed,
    /// Commits asked for by callers.
    commits,
    /// Commits carried out.
    group_commits,
    /// Blocks found to fail their checksum.
    corrupt_blocks,
    /// Blocks put right from another member.
    repaired_blocks,
    /// Chunks taken over from another member.
    pulled_chunks,
    /// Bytes of chunks that travelled between members to make copies equal, counted by who
    /// asked for it.
    resync_bytes,
    /// Chunks given to another member.
    pushed_chunks,
    /// Chunks removed because the rest of the chain does not have them.
    dropped_chunks,
    /// Chunks removed or shortened by the namespace.
    trimmed_chunks,
    /// Bytes read by the scrubber.
    scrubbed_bytes,
    /// Calls answered with "busy".
    busy,
}
