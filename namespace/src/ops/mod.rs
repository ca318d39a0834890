//! One group of verbs a file: check who asks, read or propose, wait for what must have
//! happened before the answer, answer.

pub mod behind;
pub mod check;
pub mod cluster;
pub mod fs;
pub mod join;
mod locks;
pub mod members;
pub mod reads;
mod repair;
pub mod room;
pub mod session;
pub mod watch;
