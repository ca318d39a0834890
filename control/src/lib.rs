//! Control: the batch scheduler of Brickyard. Programs that keep their state in files under one directory, `.cluster` on the
//! mount, and coordinate by nothing but what POSIX gives: locks, atomic renames, fsync.
//!
//! The map:
//! - [`cli`]: the commands users type, one a file. They work without a master: handing in is a rename, asking is reading.
//! - [`master`]: takes in, decides by the law, journals, carries out. One at a time, made by a lock.
//! - [`agent`]: runs on each compute node what the master assigns; [`shepherd`] is the process that stays with each job.
//! - `plan`: the law of the queue. Pure: no file, no clock.
//! - `store`: what lies on the disk, formats and all.
//! - [`layout`]: where it lies. [`config`]: every knob. `watch`: waiting for a change.
//!
//! Not here: anything that knows how the filesystem works. This crate takes a directory; its tests run in a temporary one.
//!
//! What it promises, and where that is tried:
//! 1. A job accepted by `qsub` (exit 0) runs to an accounted end exactly once, whatever is killed whenever; run again only if it
//!    asked to be. (`master::simulation`, `tests/it`)
//! 2. Who submitted a job is the owner of its file and nothing else. (`tests/it`)
//! 3. Nothing a user puts into the directories he may write to stops the master or passes for something else. (`tests/it`)

pub mod agent;
pub mod cli;
mod clock;
pub mod config;
mod error;
pub mod layout;
pub mod master;
pub mod plan;
pub mod shepherd;
mod stop;
mod store;
mod users;
mod watch;

pub use config::{AgentConfig, MasterConfig};
pub use error::{Error, Result};
pub use stop::Stop;
