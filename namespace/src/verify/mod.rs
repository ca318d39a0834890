//! Everything against everything: names and inodes, listings, places, link counts, sizes of directories,
//! orphans, attributes, writers, counters, the map. Reads one moment of the state.
//!
//! 1. What is wrong is told in words, and as a [`Flaw`] where [`crate::machine::repair`] may mend it. There is no flaw without a problem
//!    (`each_flaw_is_mended`).
//! 2. A record that can't be read is a problem of its own. What depends on it is neither told nor mended
//!    (`what_cannot_be_read_is_left_alone`).
//! 3. Two members of the same state report the same, in the same order.

mod held;
mod names;
mod numbers;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::config::{CHECK_FLAWS, CHECK_PROBLEMS};
use crate::error::Error;
use crate::machine::repair::Flaw;
use crate::store::records::decode;
use crate::store::{Read, keys};

use names::Nodes;

/// What a check found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inodes looked at.
    pub inodes: u64,
    /// Entries looked at.
    pub entries: u64,
    /// What is wrong, at most [`CHECK_PROBLEMS`].
    pub problems: Vec<String>,
    /// What of it may be mended, by phase (see [`Flaw::phase`]), at most [`CHECK_FLAWS`] of each.
    pub flaws: BTreeMap<u8, BTreeSet<Flaw>>,
}

impl Report {
    /// Something is wrong.
    fn wrong(&mut self, problem: String) {
        if self.problems.len() < CHECK_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Something may be mended.
    fn flaw(&mut self, flaw: Flaw) {
        let flaws = self.flaws.entry(flaw.phase()).or_default();
        if flaws.len() < CHECK_FLAWS {
            flaws.insert(flaw);
        }
    }

    /// Something is wrong that can't be mended, unless it holds.
    fn must(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.wrong(problem());
        }
    }

    /// Something is wrong and may be mended, unless it holds.
    fn should(&mut self, holds: bool, problem: impl FnOnce() -> (String, Flaw)) {
        if !holds {
            let (problem, flaw) = problem();
            self.wrong(problem);
            self.flaw(flaw);
        }
    }

    /// How much may be mended.
    pub fn mendable(&self) -> u64 {
        self.flaws.values().map(|flaws| flaws.len() as u64).sum()
    }
}

fn each(
    from: &dyn Read,
    tag: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    from.scan(tag, &keys::after(tag), &mut |key, value| {
        visit(key, value)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// Checks it all.
///
/// # Errors
/// If the disk fails; a record that cannot be read is a problem, not an error.
pub fn verify(state: &dyn Read) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut nodes = Nodes::read(state, &mut report)?;
    names::read_names(state, &mut report, &mut nodes)?;
    names::missing_dirs(&mut report, &nodes);
    names::read_listings(state, &mut report, &nodes)?;
    names::read_xattrs(state, &mut report, &nodes)?;
    names::read_orphans(state, &mut report, &mut nodes)?;
    names::links(&mut report, &nodes);
    names::name_by_name(state, &mut report, &nodes)?;
    held::sessions(state, &mut report, &nodes)?;
    held::locks(state, &mut report, &nodes)?;
    let next_ino = numbers::counters(state, &mut report, &nodes)?;
    numbers::map(state, &mut report, next_ino)?;
    numbers::changes(state, &mut report)?;
    Ok(report)
}

fn record<T: serde::de::DeserializeOwned>(report: &mut Report, key: &[u8], value: &[u8]) -> Option<T> {
    match decode(key, value) {
        Ok(record) => Some(record),
        Err(error) => {
            report.wrong(error.to_string());
            None
        }
    }
}
