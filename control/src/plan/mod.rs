//! The law of the queue: what follows from what. No file, no clock, no randomness here.
//!
//! The master asks the law what an event means (`submit`, `report_ended`, `delete`, `next_dispatch`, ...) and gets
//! [`record::Record`]s; it journals them and applies them; applying gives [`law::Effect`]s, which it then carries out. After a
//! crash it applies the journal again and carries out [`law::Queue::outstanding`]: effects may be carried out any number of times.
//!
//! 1. A job number is accepted once, even if its submission shows up again after the job is over. `laws_hold_in_any_order_of_events`
//! 2. A task has at most one live run; a run that is over never comes back; a task that was done, deleted or lost never runs
//!    again. `laws_hold_in_any_order_of_events`
//! 3. No host has more runs than slots. `laws_hold_in_any_order_of_events`
//! 4. Every task of an accepted job is at any time in exactly one place: waiting, running, in error, over.
//!    `laws_hold_in_any_order_of_events`
//! 5. The same records give the same queue. `replaying_the_records_gives_the_same_queue`

pub mod accounting;
pub mod ids;
pub mod law;
pub mod ranges;
pub mod record;

#[cfg(test)]
pub(crate) mod laws;

pub use ids::{JobId, RunKey, TaskId, TaskRange};
pub use law::{Effect, Queue, Refusal};
pub use ranges::Ranges;
pub use record::{Exit, Finished, Job, Ledger, NewJob, Phase, Record, Run, TaskEnd, Usage, Verdict};
