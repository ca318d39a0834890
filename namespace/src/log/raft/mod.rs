//! A log on several members, by [`openraft`]: it decides, the rest is here.
//!
//! - [`member`]: the log as the service sees it; `peers`: calls between members
//! - [`store`]: entries and votes, in a [`journal`] on a [`disk`]
//! - [`replica`]: what entries are applied to; [`snapshot`]: directories that hold all of it
//!
//! ```text
//! DIR/log/         the journal
//! DIR/snapshots/   snapshots made or on their way in; emptied at each start
//! ```

pub mod disk;
pub mod journal;
pub mod member;
mod peers;
pub mod replica;
pub mod snapshot;
pub mod store;
pub mod types;

pub use member::{MemberError, RaftLog, Timing};
pub use types::MemberId;

/// Directory of the journal, in a namespace directory.
pub const LOG_DIR: &str = "log";
/// Directory of snapshots, in a namespace directory.
pub const SNAPSHOTS_DIR: &str = "snapshots";
