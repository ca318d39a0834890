//! What a brick is asked, one verb a file: check, decide, do, reply.

pub mod assembly;
pub mod change;
pub mod copy;
pub mod forward;
pub mod inspect;
pub mod patch;
pub mod read;
pub mod relay;
pub mod repair;
pub mod settle;
pub mod trim;
