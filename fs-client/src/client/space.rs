//! Space of files: holes made, found and kept when copying.

use std::sync::Arc;

use wire::brick::Extent;
use wire::chunk::MAX_FILE_BYTES;
use wire::meta::{FsReply, FsRequest, Timestamp, WriteReport};
use wire::status::FsError;

use super::held::Content;
use super::inode::{Flight, OpenInode};
use super::open::File;
use super::read::Knowledge;
use super::survey::{Fill, Survey};
use super::{Client, Shared};
use crate::error::Error;
use crate::locked;

/// Chunks changed at the same time.
const BATCH: usize = 32;
/// A hole of at most so many chunks is made also in those that do not exist: bricks may have lost one that somebody sends again, beneath the hole.
const FEW_CHUNKS: u64 = 64;
/// Bytes read at once when copying; with what writing behind keeps, all the memory it takes.
const COPY_BYTES: u64 = 4 << 20;

/// What `fallocate` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallocateMode {
    /// The file is at least that long afterwards (unless `keep_size`). Nothing is set aside on
    /// the bricks: it only fails if there is not room enough now.
    Allocate {
        /// The size stays.
        keep_size: bool,
    },
    /// The range becomes a hole; the size stays.
    PunchHole,
    /// The range reads as zeros.
    ZeroRange {
        /// The size stays.
        keep_size: bool,
    },
}

/// What [`Client::seek_data`] and [`Client::seek_hole`] look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sought {
    Data,
    Hole,
}

impl Client {
    /// Changes what is allocated for a range.
    ///
    /// # Errors
    /// [`FsError::NoSpace`] if there is not room enough, among others.
    pub async fn fallocate(
        &self,
        file: &Arc<File>,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    ) -> Result<(), Error> {
        let work = self.shared.fallocate(file, mode, offset, len);
        self.shared.operations.run("fallocate", file.ino(), work).await
    }

    /// Where data begins, from `offset` on.
    ///
    /// # Errors
    /// [`Error::NoData`] if there is none, or `offset` is at or beyond the end.
    pub async fn seek_data(&self, file: &Arc<File>, offset: u64) -> Result<u64, Error> {
        self.shared.operations.run("seek", file.ino(), self.shared.seek(file, offset, Sought::Data)).await
    }

    /// Where a hole begins, from `offset` on; the end of the file is one.
    ///
    /// # Errors
    /// [`Error::NoData`] if `offset` is at or beyond the end.
    pub async fn seek_hole(&self, file: &Arc<File>, offset: u64) -> Result<u64, Error> {
        self.shared.operations.run("seek", file.ino(), self.shared.seek(file, offset, Sought::Hole)).await
    }

    /// Copies a range, holes as holes; returns how many bytes, fewer only at the source's end.
    ///
    /// # Errors
    /// [`FsError::Invalid`] if the ranges overlap within one file, among others.
    pub async fn copy_range(
        &self,
        from: &Arc<File>,
        from_offset: u64,
        to: &Arc<File>,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, Error> {
        let work = self.shared.copy_range(from, from_offset, to, to_offset, len);
        self.shared.operations.run("copy", from.ino(), work).await
    }
}

/// The first place at or after `at` in a chunk that begins at `start` which is what is sought;
/// `None`: look in the next chunk.
fn find(sought: Sought, at: u64, start: u64, chunk_bytes: u64, extents: &[Extent]) -> Option<u64> {
    let ranges = extents.iter().map(|e| {
        let from = start + u64::from(e.offset);
        (from, from + u64::from(e.len))
    });
    match sought {
        Sought::Data => ranges.filter(|(_, to)| *to > at).map(|(from, _)| from.max(at)).next(),
        Sought::Hole => {
            let mut here = at;
            for (from, to) in ranges {
                if here < from {
                    break;
                }
                here = here.max(to);
            }
            (here < start + chunk_bytes).then_some(here)
        }
    }
}

impl Shared {
    async fn fallocate(
        self: &Arc<Self>,
        file: &Arc<File>,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    ) -> Result<(), Error> {
        if !file.options.write {
            return Err(Error::BadHandle("writing"));
        }
        if len == 0 {
            return Err(FsError::Invalid.into());
        }
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE_BYTES).ok_or(FsError::TooLarge)?;
        self.until_trusted(file).await?;
        file.not_lost()?;
        self.tell_writer(file)?;
        let grows = match mode {
            FallocateMode::Allocate { keep_size } => {
                match self.fs(FsRequest::StatFs).await? {
                    FsReply::StatFs(space) if space.free_bytes < len => return Err(FsError::NoSpace.into()),
                    FsReply::StatFs(_) => {}
                    _ => return Err(Error::unexpected("the namespace", "space")),
                }
                !keep_size
            }
            FallocateMode::PunchHole => {
                self.punch(file, offset, end).await?;
                false
            }
            FallocateMode::ZeroRange { keep_size } => {
                self.punch(file, offset, end).await?;
                !keep_size
            }
        };
        if grows { self.grow(&file.inode, end).await } else { Ok(()) }
    }

    /// Makes the file at least so long.
    async fn grow(self: &Arc<Self>, inode: &Arc<OpenInode>, end: u64) -> Result<(), Error> {
        // The size elsewhere counts, not what was heard of it last.
        self.get_attr(inode.ino).await?;
        {
            let mut state = locked(&inode.state);
            if state.size() >= end {
                return Ok(());
            }
            let now = Timestamp::now();
            state.pending_end = Some(end);
            state.pending_mtime = Some(now);
            state.outdate_late_mtime();
            state.writes += 1;
            let knew = state.known();
            state.add_report(WriteReport { end, mtime: now, allocated_delta_bytes: 0, knew });
            state.listed = true;
        }
        self.note_dirty(inode);
        self.report(inode).await.map(drop)
    }

    /// Makes a hole, as far as the file goes: in the chunks that exist, however long the range is.
    async fn punch(self: &Arc<Self>, file: &Arc<File>, start: u64, end: u64) -> Result<(), Error> {
        let inode = &file.inode;
        let _alone = inode.order.write().await;
        file.not_lost()?;
        self.flush_inode(inode).await;
        let size = self.get_attr(inode.ino).await?.size;
        let end = end.min(size);
        if start >= end {
            return Ok(());
        }
        let layout = locked(&inode.state).attr.layout;
        let chunk_bytes = u64::from(layout.chunk_bytes.max(1));
        let until = end.div_ceil(chunk_bytes);
        // The first chunk that was not looked at.
        let mut next = start / chunk_bytes;
        let mut survey = match until - next {
            ..=FEW_CHUNKS => None,
            _ => Some(Survey::begin(self, inode.ino, layout, next, until).await?),
        };
        {
            // A hole where there was none before is a change all the same.
            let mut state = locked(&inode.state);
            let now = Timestamp::now();
            state.pending_mtime = Some(now);
            state.outdate_late_mtime();
            state.writes += 1;
            state.version += 1;
            state.add_report(WriteReport { mtime: now, ..WriteReport::NOTHING });
            state.listed = true;
        }
        self.note_dirty(inode);
        // What restarted bricks have lost is in no chunk that exists, and is not to be sent again. Where one exists, what is held is
        // replaced when the zeros are with the bricks.
        let forget = |from: u64, to: u64| {
            let mut state = locked(&inode.state);
            let kept = state.held.cost();
            state.held.cut(from.max(start), to.min(end));
            self.account_held(kept, state.held.cost());
        };
        loop {
            let mut chunks = Vec::new();
            while chunks.len() < BATCH
                && let Some(index) = match &mut survey {
                    Some(survey) => survey.next().await?.map(|chunk| chunk.index),
                    None => Some(next).filter(|index| *index < until),
                }
            {
                forget(next * chunk_bytes, index * chunk_bytes);
                next = index + 1;
                chunks.push(index);
            }
            if chunks.is_empty() {
                forget(next.saturating_mul(chunk_bytes), end);
                return Ok(());
            }
            let generation = {
                let mut state = locked(&inode.state);
                state.version += 1;
                let generation = state.generation;
                for index in chunks {
                    let from = start.max(index * chunk_bytes);
                    let to = end.min((index + 1).saturating_mul(chunk_bytes));
                    let content = Content::Zeros(to - from);
                    let flight = Flight { content, generation, window: 0, again: None };
                    self.launch(inode, &mut state, from, flight);
                }
                state.generation += 1;
                generation
            };
            self.wait_acknowledged(inode, generation).await;
            self.tell_writer(file)?;
        }
    }

    async fn seek(self: &Arc<Self>, file: &Arc<File>, offset: u64, sought: Sought) -> Result<u64, Error> {
        loop {
            let resends = locked(&file.inode.state).resends;
            let found = self.seek_once(file, offset, sought).await;
            if !self.send_lost_again(&file.inode, &(offset..u64::MAX), resends).await {
                return found;
            }
        }
    }

    /// By what memory and the bricks have.
    async fn seek_once(
        self: &Arc<Self>,
        file: &Arc<File>,
        offset: u64,
        sought: Sought,
    ) -> Result<u64, Error> {
        let inode = &file.inode;
        self.flush_inode(inode).await;
        let size = self.get_attr(inode.ino).await?.size;
        if offset >= size {
            return Err(Error::NoData);
        }
        let layout = locked(&inode.state).attr.layout;
        let chunk_bytes = u64::from(layout.chunk_bytes.max(1));
        let found = |at: u64| match sought {
            Sought::Data if at >= size => Err(Error::NoData),
            Sought::Data | Sought::Hole => Ok(at.min(size)),
        };
        // Most questions are answered by the chunk they begin in.
        let first = offset / chunk_bytes;
        let extents = self.extents(inode.ino, &layout, first).await?;
        if let Some(at) = find(sought, offset, first * chunk_bytes, chunk_bytes, &extents) {
            return found(at);
        }
        let until = size.div_ceil(chunk_bytes);
        let mut survey = Survey::begin(self, inode.ino, layout, first + 1, until).await?;
        // The first chunk that was not looked at.
        let mut next = first + 1;
        while let Some(chunk) = survey.next().await? {
            let start = chunk.index * chunk_bytes;
            let at = match (sought, chunk.fill) {
                (Sought::Hole, _) if chunk.index > next => Some(next * chunk_bytes),
                (Sought::Hole, Fill::Empty) | (Sought::Data, Fill::Whole) => Some(start),
                (Sought::Hole, Fill::Whole) | (Sought::Data, Fill::Empty) => None,
                (_, Fill::Part) => {
                    let extents = self.extents(inode.ino, &layout, chunk.index).await?;
                    find(sought, start, start, chunk_bytes, &extents)
                }
            };
            if let Some(at) = at {
                return found(at);
            }
            next = chunk.index + 1;
        }
        match sought {
            Sought::Data => Err(Error::NoData),
            Sought::Hole => found(next.saturating_mul(chunk_bytes)),
        }
    }

    async fn copy_range(
        self: &Arc<Self>,
        from: &Arc<File>,
        from_offset: u64,
        to: &Arc<File>,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, Error> {
        if !from.options.read {
            return Err(Error::BadHandle("reading"));
        }
        if !to.options.write {
            return Err(Error::BadHandle("writing"));
        }
        if to_offset.checked_add(len).is_none_or(|end| end > MAX_FILE_BYTES) {
            return Err(FsError::TooLarge.into());
        }
        let size = self.get_attr(from.ino()).await?.size;
        let end = size.min(from_offset.saturating_add(len));
        if from_offset >= end {
            return Ok(0);
        }
        let len = end - from_offset;
        if from.ino() == to.ino() && from_offset < to_offset + len && to_offset < end {
            return Err(FsError::Invalid.into());
        }
        let there = |at: u64| to_offset + (at - from_offset);
        let mut at = from_offset;
        while at < end {
            let data = match self.seek(from, at, Sought::Data).await {
                Ok(data) => data.min(end),
                Err(Error::NoData) => end,
                Err(error) => return Err(error),
            };
            if data > at {
                self.punch(to, there(at), there(data)).await?;
            }
            if data == end {
                break;
            }
            let hole = match self.seek(from, data, Sought::Hole).await {
                Ok(hole) => hole.min(end),
                // The source became shorter meanwhile.
                Err(Error::NoData) => return Ok(data - from_offset),
                Err(error) => return Err(error),
            };
            at = data;
            while at < hole {
                let bytes = self.read(from, at, COPY_BYTES.min(hole - at), Knowledge::Fresh).await?;
                if bytes.is_empty() {
                    return Ok(at - from_offset);
                }
                self.write(to, there(at), &bytes).await?;
                at += bytes.len() as u64;
            }
        }
        self.grow(&to.inode, there(end)).await?;
        Ok(len)
    }
}
