//! Mending what a survey finds: see [`crate::machine::repair`].
//!
//! 1. Every flaw is a command of its own, judged again when it is applied; what is done is told as that command found it.
//! 2. Flaws of a phase are mended before the next phase is looked at, by a new survey: what is counted follows from what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use wire::meta::{CheckReply, MAX_REPAIRS, Repair};
use wire::status::Status;

use crate::config::REPAIRS_AT_ONCE;
use crate::error::Error;
use crate::machine::command::{Op, Outcome};
use crate::machine::looks;
use crate::machine::repair::{Flaw, Mended, lost_found};
use crate::namespace::Namespace;
use crate::store::{Read, keys};

impl Namespace {
    /// Mends flaws of the first phase in which there is something to mend.
    pub(super) async fn repair(self: &Arc<Self>) -> Result<CheckReply, Status> {
        let report = self.survey().await?;
        let mut mended = Vec::new();
        for flaws in report.flaws.into_values() {
            self.mend(flaws, &mut mended).await?;
            if !mended.is_empty() {
                break;
            }
        }
        for Mended { what, .. } in &mended {
            tracing::info!(what, "the namespace was repaired, as the administrator ordered");
        }
        let sole = self.db.get(keys::SOLE).map_err(|error| self.failed(&error))?.is_some();
        let more = !mended.is_empty();
        let untold = mended.len().saturating_sub(MAX_REPAIRS) as u64;
        mended.truncate(MAX_REPAIRS);
        let repairs = self.read_aside(move |this| this.db.at_moment(|moment| told(moment, mended))).await?;
        Ok(CheckReply::Repaired { repairs, untold, more, sole })
    }

    /// Has flaws of one phase mended.
    async fn mend(&self, flaws: BTreeSet<Flaw>, mended: &mut Vec<Mended>) -> Result<(), Status> {
        if flaws.iter().any(Flaw::needs_lost_found)
            && lost_found(&*self.db).map_err(|error| self.failed(&error))?.is_none()
        {
            mended.extend(self.mend_one(Flaw::LostFound).await?);
        }
        let mut under_way = stream::iter(flaws).map(|flaw| self.mend_one(flaw)).buffered(REPAIRS_AT_ONCE);
        while let Some(some) = under_way.next().await {
            mended.extend(some?);
        }
        Ok(())
    }

    /// Proposes one; what was done.
    async fn mend_one(&self, flaw: Flaw) -> Result<Vec<Mended>, Status> {
        match self.propose(Op::Repair(flaw.clone())).await {
            Ok(Outcome::Mended(mended)) => Ok(mended),
            Ok(_) => Ok(Vec::new()),
            // It was left alone; others may be mended.
            Err(status @ (Status::Fs(_) | Status::Malformed)) => {
                tracing::warn!(?flaw, %status, "something that is wrong could not be mended");
                Ok(Vec::new())
            }
            Err(status) => Err(status),
        }
    }
}

/// With paths, as they are now.
fn told(state: &dyn Read, mended: Vec<Mended>) -> Result<Vec<Repair>, Error> {
    let mut dirs = BTreeMap::new();
    let mut repairs = Vec::with_capacity(mended.len());
    for Mended { what, at } in mended {
        let path = match at {
            // One with a record that can't be read has none.
            Some(ino) => looks::path(state, ino, &mut dirs).ok().flatten(),
            None => None,
        };
        repairs.push(Repair { what, path: path.map(Bytes::from) });
    }
    Ok(repairs)
}
