//! What lies on the disk: formats and how they are written and read. No decision is made here.
//!
//! | file | format | written by |
//! |---|---|---|
//! | `jobs/incoming/job.ID` | [`submission`] | `qsub` |
//! | `jobs/ids/N`, `jobs/first-id` | [`claims`] | `qsub`; master |
//! | `jobs/journal/TERM.PART` | [`journal`] | master |
//! | `jobs/state` | [`snapshot`] | master |
//! | `accounting` | [`ledger`] | master |
//! | assignments, reports, commands, host status | [`message`] | master, agent, `q` commands |
//!
//! Everything but the accounting is sealed ([`sealed`]) or, in the journal, has a checksum a line.

pub(crate) mod claims;
pub(crate) mod disk;
pub(crate) mod journal;
pub(crate) mod ledger;
pub(crate) mod message;
pub(crate) mod recover;
pub(crate) mod sealed;
pub(crate) mod snapshot;
pub(crate) mod submission;
