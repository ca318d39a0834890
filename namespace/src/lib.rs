//! The metadata service: names, inodes, sessions, who is alive, the cluster map.
//!
//! - [`server`]: accepts calls, hands them to [`ops`], stops
//! - [`ops`]: one group of verbs a file; `background`: one loop a file
//! - [`log`]: puts commands in order and makes them durable; [`machine`]: the law, commands
//!   in and changes out; [`chain`]: the law of replica chains; [`soft`]: what is in memory only
//! - [`mod@recover`]: of the one member that is left, a cluster of one
//! - [`store`]: what lies on disk; [`verify`]: whether it is consistent
//!
//! Invariants, beside those of the rooms:
//!
//! 1. An answer to a call that changes something means: flushed (`answers_survive_a_crash`).
//! 2. A file without a name lives while any session has it open, and its space comes back
//!    when none has (`unlinked_files_live_while_open`).
//! 3. Bytes cut off a file are never seen again: the cut is answered when no living brick has
//!    them, and a dead one gives them up before it is in a chain again
//!    (`a_dead_brick_cuts_before_it_is_back`).
//!
//! Not here: file data, permissions (the kernel that asks decides them), caching. This room
//! never reads or writes a chunk; it only has bricks cut them.

pub mod background;
pub mod chain;
pub mod config;
pub mod error;
pub mod log;
pub mod machine;
pub mod metrics;
pub mod namespace;
pub mod ops;
pub mod recover;
pub mod server;
pub mod soft;
pub mod store;
pub mod verify;

pub use config::Config;
pub use error::Error;
pub use recover::recover;
pub use server::{Running, start};
