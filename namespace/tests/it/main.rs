//! The metadata service from outside: its state machine against a model, its service over the net.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// The crate as its users call it.
extern crate brickyard_namespace as namespace;

mod behind;
mod bricks;
mod cluster;
mod fuzz;
mod harness;
mod journal;
mod listing;
mod locks;
mod members;
mod model;
mod moves;
mod posix;
mod raft_store;
mod random;
mod repair;
mod repair_cases;
mod repair_random;
mod service;
mod sessions;
mod store;
mod tokens;
mod watch;
