//! Benchmarks through a mount and beside the local disk, in one run.
//!
//! This crate measures; it knows nothing of the product but a directory. Figures of two machines, or of two
//! runs, do not compare: what counts is the mount beside the local disk, alternating, in one run.
//!
//! Invariants:
//! 1. Both sides do the same work, from the same inputs, in turns (`measure::tests::sides_take_turns`).
//! 2. What is read "cold" is read after the kernel's caches were dropped ([`cold`]).
//! 3. Writes of large files count as done when they are on the disk: they end with fsync. Names and trees
//!    are timed as programs make them, without.
//! 4. Nothing is left in either directory, also by an error ([`side::Side`]).

pub mod cold;
pub mod fio;
pub mod measure;
pub mod metadata;
pub mod report;
pub mod sequential;
pub mod side;
pub mod store;
pub mod tree;
