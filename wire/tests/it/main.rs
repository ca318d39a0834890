//! The transports as the rooms use them: real sockets on loopback, real certificates.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// The other rooms know the crate by this name.
extern crate brickyard_wire as wire;

mod calls;
mod doors;
mod failures;
mod fuzz;
mod joining;
mod raw;
mod support;
mod typed;
