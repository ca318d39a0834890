//! What a brick is asked, one verb a file: check, decide, do, reply.

pub mod change;
pub mod copy;
pub mod forward;
pub mod inspect;
pub mod read;
pub mod repair;
pub mod replace;
pub mod trim;
