//! Reading everything to verify it, off the threads that answer calls.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use wire::id::Ino;
use wire::layout::FileLayout;
use wire::meta::{CheckReply, CheckRequest, ClusterReply, FileKind, InodeSummary, MAX_PATHS};
use wire::status::Status;

use crate::config::{CHECK_FILES, PATHS_BYTES};
use crate::error::Error;
use crate::machine::looks;
use crate::namespace::Namespace;
use crate::store::records::{Inode, Trim, decode};
use crate::store::{Read, keys};
use crate::verify::{Report, verify};

impl Namespace {
    /// A call of a check.
    pub async fn check(self: &Arc<Self>, request: CheckRequest) -> Result<CheckReply, Status> {
        self.log.read_barrier().await?;
        match request {
            CheckRequest::Namespace => {
                self.survey().await.map(|Report { inodes, entries, problems, .. }| CheckReply::Problems {
                    inodes,
                    entries,
                    problems,
                })
            }
            CheckRequest::Files { after, max } => {
                self.read_aside(move |this| this.db.at_moment(|moment| files(moment, after, max))).await
            }
            CheckRequest::Survey | CheckRequest::OwnSurvey => self.own_survey().await,
            CheckRequest::Repair => self.repair().await,
        }
    }

    /// What is wrong in the state that this member has.
    pub async fn own_survey(self: &Arc<Self>) -> Result<CheckReply, Status> {
        let report = self.survey().await?;
        let mendable = report.mendable();
        let Report { inodes, entries, problems, .. } = report;
        Ok(CheckReply::Surveyed { inodes, entries, problems, mendable })
    }

    /// Looks at everything.
    pub(super) async fn survey(self: &Arc<Self>) -> Result<Report, Status> {
        self.read_aside(|this| this.db.at_moment(|moment| verify(moment))).await
    }

    /// Paths of inodes.
    pub async fn paths(self: &Arc<Self>, mut inodes: Vec<Ino>) -> Result<ClusterReply, Status> {
        inodes.truncate(MAX_PATHS);
        self.read_aside(move |this| this.db.at_moment(|moment| paths(moment, &inodes))).await
    }

    /// Reads much, on a thread that nobody waits for.
    pub(super) async fn read_aside<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Namespace) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || read(&this)).await {
            Ok(reply) => reply.map_err(|error| self.failed(&error)),
            Err(error) => {
                tracing::error!(%error, "reading the namespace did not end");
                Err(Status::Busy)
            }
        }
    }
}

/// Paths of the first of these, as many as fit into an answer.
fn paths(state: &dyn Read, inodes: &[Ino]) -> Result<ClusterReply, Error> {
    let (mut paths, mut bytes) = (Vec::with_capacity(inodes.len()), 0);
    let mut dirs = BTreeMap::new();
    for ino in inodes {
        let path = looks::path(state, *ino, &mut dirs)?;
        bytes += path.as_ref().map_or(0, Vec::len);
        if bytes > PATHS_BYTES && !paths.is_empty() {
            break;
        }
        paths.push(path.map(Bytes::from));
    }
    Ok(ClusterReply::Paths(paths))
}

/// A page of files, with those that are gone and whose chunks are still being freed.
fn files(state: &dyn Read, after: Ino, max: u32) -> Result<CheckReply, Error> {
    let max = max.clamp(1, CHECK_FILES) as usize;
    let Some(first) = after.0.checked_add(1).map(Ino) else {
        return Ok(CheckReply::Inodes { inodes: Vec::new(), end: true });
    };
    let mut inodes = Vec::new();
    let mut last = None;
    state.scan(&keys::inode(first), &keys::after(b"I"), &mut |key, value| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        let inode: Inode = decode(key, value)?;
        if inode.kind != FileKind::File {
            return Ok(ControlFlow::Continue(()));
        }
        if inodes.len() == max {
            return Ok(ControlFlow::Break(()));
        }
        inodes.push(InodeSummary {
            ino,
            kind: inode.kind,
            size: inode.size,
            allocated_bytes: inode.allocated_bytes,
            layout: inode.layout,
            open_for_write: inode.dirty_tail || state.any(&keys::writers(ino))?,
            trimming: state.get(&keys::trim(ino))?.is_some(),
        });
        if inodes.len() == max {
            last = Some(ino);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    // A full page may be the last one; the next is empty then.
    let end = last.is_none();
    let until = last.map_or_else(|| keys::after(b"T"), |ino| keys::trim(Ino(ino.0.saturating_add(1))));
    let mut gone = Vec::new();
    state.scan(&keys::trim(first), &until, &mut |key, value| {
        let ino = Ino(keys::first(key).unwrap_or_default());
        if state.get(&keys::inode(ino))?.is_none() {
            let trim: Trim = decode(key, value)?;
            let layout = FileLayout { chunk_bytes: trim.chunk_bytes, ..FileLayout::default() };
            gone.push(InodeSummary {
                ino,
                kind: FileKind::File,
                size: 0,
                allocated_bytes: 0,
                layout,
                open_for_write: false,
                trimming: true,
            });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    inodes.extend(gone);
    inodes.sort_by_key(|i| i.ino);
    Ok(CheckReply::Inodes { inodes, end })
}
