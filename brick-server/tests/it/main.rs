//! Bricks on real directories over the transport in memory, with a namespace that does what
//! the test says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

extern crate brickyard_brick_server as brick_server;

mod again;
mod chains;
mod failures;
mod leftovers;
mod naming;
mod races;
mod refusals;
mod resync;
mod salvage;
mod support;
