//! The types that [`openraft`] is made with.

use std::fmt;

use serde::{Deserialize, Serialize};
use wire::net::Endpoint;

use crate::machine::command::{Answer, Command, LogIndex};

/// Names a member for good: a random number, made with its directory. One that lost its directory is
/// another member, since it may have promised things that it knows nothing of.
pub type MemberId = u64;

/// What the members know of each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it is reached, by the others and by callers.
    pub endpoint: Endpoint,
}

/// What applying an entry gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The entry's place.
    pub index: LogIndex,
    /// Of a command.
    pub answer: Option<Answer>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.who {
            Some(who) => write!(f, "call {} of session {}", who.seq.0, who.session),
            None => f.write_str("a command of the service"),
        }
    }
}

openraft::declare_raft_types!(
    /// The types.
    pub Types:
        D = Command,
        R = Reply,
        NodeId = MemberId,
        Node = Member,
);

/// An entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
/// Place and leader of an entry.
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
/// A promise to a candidate or leader.
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
/// Who the members are, since which entry.
pub type Membership = openraft::type_config::alias::StoredMembershipOf<Types>;
/// What a snapshot holds.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

impl Default for Member {
    /// Nowhere.
    fn default() -> Self {
        Self { endpoint: Endpoint::Memory(0) }
    }
}
