//! The seam between what is asked and the state machine: commands are put in order, made
//! durable and applied. [`Solo`] does it alone; a log with several members can stand here
//! without anybody noticing.

mod solo;

use wire::net::BoxFuture;
use wire::status::Status;

use crate::machine::command::{Answer, Command};

pub use solo::Solo;

/// Puts commands in order.
pub trait Log: Send + Sync + 'static {
    /// Proposes a command and gives its answer once its effects are durable and visible to
    /// reads. A dropped future does not take the command back.
    fn propose(&self, command: Command) -> BoxFuture<'_, Answer>;

    /// Returns when reads see everything that was answered before the call.
    fn read_barrier(&self) -> BoxFuture<'_, Result<(), Status>>;
}
