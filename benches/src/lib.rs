//! Benchmarks through a mount and beside the local disk
