//! What is remembered in memory only, and told again after a restart: who was heard when, what
//! sessions have open for reading. Pure: the present is an argument.

pub mod apart;
pub mod behind;
pub mod bricks;
pub mod clock;
pub mod doubts;
pub mod lock_waits;
pub mod opens;
pub mod reached;
pub mod refusals;
pub mod sessions;
pub mod watches;
