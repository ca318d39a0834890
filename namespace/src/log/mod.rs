//! The seam between what is asked and the state machine: commands are put in order, made
//! durable and applied. [`Solo`] does it alone, [`raft`] with several members; nobody else
//! knows which.

pub mod raft;
mod solo;

use tokio::sync::watch;
use wire::net::{BoxFuture, Endpoint};
use wire::status::Status;

use crate::machine::command::{Answer, Command, LogIndex};

pub use solo::Solo;

/// A command that was carried out, or refused by a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its place in the log. What was answered before it was proposed has a smaller one.
    pub index: LogIndex,
    /// What it gave.
    pub answer: Answer,
}

/// Who puts commands in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// This member, in this term: no other member leads in it.
    Leading {
        /// Grows from leader to leader.
        term: u64,
    },
    /// Another one, or nobody knows.
    Following {
        /// Where the leader is.
        leader: Option<Endpoint>,
    },
}

/// Puts commands in order.
pub trait Log: Send + Sync + 'static {
    /// Proposes a command and gives its answer once its effects are durable and visible to
    /// reads. A dropped future does not take the command back.
    ///
    /// # Errors
    /// If it is not known to have been carried out: it may be, later. A call of a session can be
    /// proposed again, to whoever leads, and has its one answer then.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Placed, Status>>;

    /// Returns when reads see everything that was answered before the call, by whichever member.
    ///
    /// # Errors
    /// If this member does not lead.
    fn read_barrier(&self) -> BoxFuture<'_, Result<(), Status>>;

    /// Who leads, as this member knows.
    fn leadership(&self) -> watch::Receiver<Leadership>;
}
