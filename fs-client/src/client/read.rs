//! Reading: what is not yet written out comes from memory, the rest from the bricks, pieces in
//! parallel.
//!
//! 1. A read sees every write that returned before it began
//!    (`random_operations_equal_a_plain_buffer`): what is gathered and in flight is noted before
//!    the bricks are asked, and laid over their answer. What bricks have lost by a restart is sent again first
//!    (`what_restarted_bricks_have_lost_is_read`).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::layout::{FileLayout, Piece};

use super::gather::PIECE_BYTES;
use super::held::Content;
use super::inode::State;
use super::open::File;
use super::readahead::{Outcome, Slot};
use super::{Client, Shared};
use crate::error::Error;
use crate::locked;
use crate::metrics::add;
use crate::stuck::part_of_operation;

/// Longest read, in bytes.
const MOST_BYTES: u64 = 16 << 20;
/// How long data read ahead may be used when nobody looks at the attributes in between.
const UNWATCHED_AGE: Duration = Duration::from_secs(1);
/// And when the caller looks at them before each read.
const WATCHED_AGE: Duration = Duration::from_secs(30);

/// How much the caller knows of changes made elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// It has asked for the attributes just now.
    Fresh,
    /// It relies on this read to find out.
    None,
}

/// How a read is to be answered.
struct Plan {
    start: u64,
    end: u64,
    layout: FileLayout,
    version: u64,
    /// Nothing is gathered or in flight: what the bricks have is all there is.
    clean: bool,
    /// Something in it is being sent again, and lies beneath what others may have written since: only the bricks know, when that is done.
    in_doubt: bool,
    /// From memory, in the order to be laid over.
    overlay: Vec<(u64, Bytes)>,
    /// What memory does not have.
    gaps: Vec<Range<u64>>,
}

fn plan(state: &State, offset: u64, len: u64) -> Plan {
    let start = offset.min(state.size());
    let end = offset.saturating_add(len.min(MOST_BYTES)).min(state.size()).max(start);
    let (mut overlay, mut in_doubt) = (Vec::new(), false);
    if start < end {
        // The first flight that can reach into the range begins at most a chunk before it.
        let before = state.flights.range(..start).next_back().map(|(at, _)| *at).unwrap_or(start);
        for (at, flight) in state.flights.range(before..end) {
            let from = start.max(*at);
            let to = end.min(at + flight.content.len());
            if from < to && flight.again.is_some() {
                in_doubt = true;
            } else if from < to {
                let bytes = match flight.content.part(from - at, to - at) {
                    Content::Data(bytes) => bytes,
                    Content::Zeros(len) => Bytes::from(vec![0; len as usize]),
                };
                overlay.push((from, bytes));
            }
        }
        overlay.extend(state.gather.overlapping(start, end));
    }
    Plan {
        start,
        end,
        layout: state.attr.layout,
        version: state.version,
        clean: state.is_written(),
        in_doubt,
        gaps: gaps(start, end, &overlay),
        overlay,
    }
}

/// What of a range no part covers.
fn gaps(start: u64, end: u64, parts: &[(u64, Bytes)]) -> Vec<Range<u64>> {
    let mut covered: Vec<(u64, u64)> = parts.iter().map(|(at, b)| (*at, at + b.len() as u64)).collect();
    covered.sort_unstable();
    let mut gaps = Vec::new();
    let mut at = start;
    for (from, to) in covered {
        if from > at {
            gaps.push(at..from);
        }
        at = at.max(to);
    }
    if at < end {
        gaps.push(at..end);
    }
    gaps
}

impl Plan {
    /// Puts everything together.
    fn assemble(&self, pieces: &[(u64, Bytes)]) -> Bytes {
        let len = (self.end - self.start) as usize;
        if let ([(at, bytes)], []) | ([], [(at, bytes)]) = (pieces, self.overlay.as_slice())
            && *at == self.start
            && bytes.len() == len
        {
            return bytes.clone();
        }
        let mut out = BytesMut::zeroed(len);
        for (at, bytes) in pieces.iter().chain(&self.overlay) {
            let inside = (at - self.start) as usize;
            out[inside..inside + bytes.len()].copy_from_slice(bytes);
        }
        out.freeze()
    }

    /// The pieces to be had from bricks, with where in the file they begin.
    fn pieces(&self) -> Vec<(u64, Piece)> {
        self.gaps
            .iter()
            .flat_map(|gap| {
                let start = gap.start;
                self.layout
                    .pieces(start, gap.end - start, PIECE_BYTES as u32)
                    .map(move |piece| (start + piece.at, piece))
            })
            .collect()
    }
}

/// The part of a piece read ahead that a read wants; what is missing at its end is zeros.
fn part_of(whole: &Bytes, piece_start: u64, at: u64, len: u32) -> Bytes {
    let from = ((at - piece_start) as usize).min(whole.len());
    let to = (from + len as usize).min(whole.len());
    whole.slice(from..to)
}

impl Client {
    /// Up to `len` bytes (at most 16 MiB) from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// If the bytes can't be had.
    pub async fn read_at(&self, file: &Arc<File>, offset: u64, len: usize) -> Result<Bytes, Error> {
        let work = self.shared.read(file, offset, len as u64, Knowledge::None);
        self.shared.operations.run("read", file.ino(), work).await
    }

    /// The same for a caller that asks for the attributes before each read, as the kernel does.
    pub(crate) async fn read_fresh(&self, file: &Arc<File>, offset: u64, len: usize) -> Result<Bytes, Error> {
        let work = self.shared.read(file, offset, len as u64, Knowledge::Fresh);
        self.shared.operations.run("read", file.ino(), work).await
    }

    /// The same if memory has all of it.
    pub(crate) fn try_read_fresh(&self, file: &Arc<File>, offset: u64, len: usize) -> Option<Bytes> {
        self.shared.try_read(file, offset, len as u64)
    }
}

impl Shared {
    fn try_read(self: &Arc<Self>, file: &Arc<File>, offset: u64, len: u64) -> Option<Bytes> {
        if !file.options.read || file.options.direct {
            return None;
        }
        let plan = {
            let state = locked(&file.inode.state);
            let plan = plan(&state, offset, len);
            if plan.in_doubt || self.has_lost(&state, &(plan.start..plan.end)) {
                return None;
            }
            plan
        };
        let mut parts = Vec::new();
        for (at, piece) in plan.pieces() {
            let number = at / PIECE_BYTES;
            let needed = at % PIECE_BYTES + u64::from(piece.len);
            let outcome = locked(&file.readahead).find(number, plan.version, WATCHED_AGE, needed)?;
            let Some(Ok(whole)) = &*outcome.borrow() else { return None };
            parts.push((at, part_of(whole, number * PIECE_BYTES, at, piece.len)));
        }
        self.read_ahead(file, &plan);
        parts.iter().for_each(|(at, part)| locked(&file.readahead).took(at / PIECE_BYTES, part.len() as u64));
        let bytes = plan.assemble(&parts);
        add(&self.outside.metrics.read_memory_bytes, bytes.len() as u64);
        self.count_read(&bytes);
        Some(bytes)
    }

    fn count_read(&self, bytes: &Bytes) {
        add(&self.outside.metrics.reads, 1);
        add(&self.outside.metrics.read_bytes, bytes.len() as u64);
    }

    pub(crate) async fn read(
        self: &Arc<Self>,
        file: &Arc<File>,
        offset: u64,
        len: u64,
        knowledge: Knowledge,
    ) -> Result<Bytes, Error> {
        if !file.options.read {
            return Err(Error::BadHandle("reading"));
        }
        if knowledge == Knowledge::None && offset.saturating_add(len) > locked(&file.inode.state).size() {
            // It may have grown elsewhere.
            self.get_attr(file.ino()).await?;
        }
        loop {
            let resends = locked(&file.inode.state).resends;
            let bytes = self.read_once(file, offset, len, knowledge).await?;
            let range = offset..offset + bytes.len() as u64;
            if !self.send_lost_again(&file.inode, &range, resends).await {
                self.count_read(&bytes);
                return Ok(bytes);
            }
        }
    }

    /// What memory and the bricks have.
    async fn read_once(
        self: &Arc<Self>,
        file: &Arc<File>,
        offset: u64,
        len: u64,
        knowledge: Knowledge,
    ) -> Result<Bytes, Error> {
        let plan = loop {
            let changed = file.inode.changed.notified();
            let plan = plan(&locked(&file.inode.state), offset, len);
            if !plan.in_doubt {
                break plan;
            }
            changed.await;
        };
        let age = match knowledge {
            Knowledge::Fresh => WATCHED_AGE,
            Knowledge::None => UNWATCHED_AGE,
        };
        self.read_ahead(file, &plan);
        let pieces = plan.pieces();
        let parts = match pieces.as_slice() {
            [] => Vec::new(),
            [(at, piece)] => vec![(*at, self.one_piece(file, &plan, *at, *piece, age).await?)],
            many => {
                let mut reads = JoinSet::new();
                let plan = Arc::new(PlanFacts { layout: plan.layout, version: plan.version });
                for (at, piece) in many.iter().copied() {
                    let (shared, file, plan) = (self.clone(), file.clone(), plan.clone());
                    reads.spawn(part_of_operation(async move {
                        (at, shared.one_piece_of(&file, &plan, at, piece, age).await)
                    }));
                }
                let mut parts = Vec::with_capacity(many.len());
                while let Some(done) = reads.join_next().await {
                    let (at, bytes) = done.map_err(|_| Error::Stopping)?;
                    parts.push((at, bytes?));
                }
                parts
            }
        };
        Ok(plan.assemble(&parts))
    }

    async fn one_piece(
        self: &Arc<Self>,
        file: &Arc<File>,
        plan: &Plan,
        at: u64,
        piece: Piece,
        age: Duration,
    ) -> Result<Bytes, Error> {
        let facts = PlanFacts { layout: plan.layout, version: plan.version };
        self.one_piece_of(file, &facts, at, piece, age).await
    }

    /// One piece, from what was read ahead or from the bricks.
    async fn one_piece_of(
        self: &Arc<Self>,
        file: &Arc<File>,
        facts: &PlanFacts,
        at: u64,
        piece: Piece,
        age: Duration,
    ) -> Result<Bytes, Error> {
        let number = at / PIECE_BYTES;
        let needed = at % PIECE_BYTES + u64::from(piece.len);
        let ahead = locked(&file.readahead).find(number, facts.version, age, needed);
        if let Some(mut outcome) = ahead
            && let Ok(done) = outcome.wait_for(Option::is_some).await
            && let Some(Ok(whole)) = &*done
        {
            let bytes = part_of(whole, number * PIECE_BYTES, at, piece.len);
            locked(&file.readahead).took(number, bytes.len() as u64);
            add(&self.outside.metrics.read_memory_bytes, bytes.len() as u64);
            return Ok(bytes);
        }
        // Nothing was read ahead, or that failed: this read finds out for itself.
        self.read_piece(file.ino(), &facts.layout, piece).await
    }

    /// Reads on ahead of a sequential reader, as far as the budgets go.
    fn read_ahead(self: &Arc<Self>, file: &Arc<File>, plan: &Plan) {
        if file.options.direct || plan.start == plan.end {
            return;
        }
        let size = locked(&file.inode.state).size();
        let mut ahead = locked(&file.readahead);
        let most = self.outside.config.readahead_handle_bytes;
        let pieces = ahead.note(plan.start, plan.end - plan.start, size, most);
        if !plan.clean {
            ahead.clear();
            return;
        }
        for number in pieces {
            let start = number * PIECE_BYTES;
            let len = PIECE_BYTES.min(size - start);
            if ahead.slots.get(&number).is_some_and(|slot| slot.version == plan.version && slot.len == len) {
                continue;
            }
            let Ok(permit) = self.readahead_window.clone().try_acquire_many_owned(PIECE_BYTES as u32) else {
                return;
            };
            let Some(piece) = plan.layout.pieces(start, len, PIECE_BYTES as u32).next() else { return };
            let (done, outcome) = watch::channel::<Outcome>(None);
            let slot = Slot {
                outcome,
                started: Instant::now(),
                version: plan.version,
                len,
                taken: 0,
                _permit: permit,
            };
            ahead.slots.insert(number, slot);
            add(&self.outside.metrics.readahead_pieces, 1);
            let (shared, ino, layout) = (self.clone(), file.ino(), plan.layout);
            self.runtime.spawn(async move {
                // The reader may have gone elsewhere: nobody is left to be told then.
                tokio::select! {
                    read = shared.read_piece(ino, &layout, piece) => { let _ = done.send(Some(read)); }
                    () = done.closed() => {}
                }
            });
        }
    }
}

/// What reading a piece needs to know of the plan.
struct PlanFacts {
    layout: FileLayout,
    version: u64,
}
