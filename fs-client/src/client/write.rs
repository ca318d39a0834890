//! Writing behind: data is gathered, cut into pieces and sent to the heads of the chains.
//!
//! 1. At most [`ClientConfig::window_bytes`](crate::ClientConfig) are gathered and in flight;
//!    writers wait beyond (`the_window_is_never_exceeded`).
//! 2. Never two changes in flight over the same bytes (`overlapping_writes_keep_their_order`).
//! 3. An error of writing behind is told to every handle of the inode by its next fsync, whatever
//!    else was told of it before; and without an fsync by its next write and by its next close
//!    (`an_error_is_told_to_each_handle`). Neither of these counts for the other or for fsync: the
//!    kernel sends one write in several parts where it begins inside a page, and of an error at a
//!    later part the program learns nothing but that the write was short; and a child that a program
//!    forks closes the handle, too, and hears what nobody asks it for.
//! 4. Whoever waits for data waits for what was written before, not for what other writers
//!    add meanwhile: writes carry generations.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};
use wire::chunk::MAX_FILE_BYTES;
use wire::id::SessionId;
use wire::meta::{Timestamp, WriteReport};
use wire::status::FsError;

use super::gather::{PIECE_BYTES, Taken};
use super::held::{Content, Held};
use super::inode::{BeenCut, Flight, OpenInode, State};
use super::open::{File, SyncMode};
use super::{Client, Shared};
use crate::error::Error;
use crate::locked;
use crate::metrics::{add, subtract};
use crate::stuck::waiting_for;

/// Gathered bytes of one file beyond which they are sent though no piece is whole.
const GATHER_BYTES: u64 = 8 << 20;

impl Client {
    /// Writes `data` at `offset` (an appending handle: at the end, wherever that is). Returns
    /// when the data is taken, not when it is safe: see [`Client::fsync`]. Through a direct
    /// handle it returns when the bricks have it, through a synchronous one when it is durable.
    ///
    /// # Errors
    /// Besides those of this write: an earlier one's that was not told yet through this handle.
    pub async fn write_at(&self, file: &File, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.shared.operations.run("write", file.ino(), self.shared.write(file, offset, data)).await
    }

    /// As [`Client::write_at`], if that needs no waiting; `None` if it does.
    pub fn try_write_at(&self, file: &File, offset: u64, data: &[u8]) -> Option<Result<(), Error>> {
        self.shared.try_write(file, offset, data)
    }
}

impl Shared {
    fn check_write(&self, file: &File, offset: u64, len: usize) -> Result<(), Error> {
        if !file.options.write {
            return Err(Error::BadHandle("writing"));
        }
        file.not_lost()?;
        if offset.checked_add(len as u64).is_none_or(|end| end > MAX_FILE_BYTES) {
            return Err(FsError::TooLarge.into());
        }
        self.tell_writer(file)
    }

    fn try_write(self: &Arc<Self>, file: &File, offset: u64, data: &[u8]) -> Option<Result<(), Error>> {
        if file.options.direct || file.options.sync != SyncMode::None || data.len() as u64 > PIECE_BYTES {
            return None;
        }
        if let Err(error) = self.check_write(file, offset, data.len()) {
            return Some(Err(error));
        }
        if data.is_empty() {
            return Some(Ok(()));
        }
        if self.is_stopping() || self.uncommitted_full() || self.is_untrusted(file) {
            return None;
        }
        let _order = file.inode.order.try_read().ok()?;
        if locked(&file.inode.state).dirty_bytes() + data.len() as u64
            > self.outside.config.file_window_bytes as u64
        {
            return None;
        }
        let room = self.window.try_acquire_many(data.len() as u32).ok()?;
        Some(self.put(file, offset, data, room).map(|_| ()))
    }

    pub(crate) async fn write(self: &Arc<Self>, file: &File, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.until_trusted(file).await?;
        self.check_write(file, offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        if self.is_stopping() {
            return Err(Error::Stopping);
        }
        if file.options.append && data.len() as u64 > PIECE_BYTES {
            // One run, though it is taken in parts: nobody else may append in between.
            let _order = file.inode.order.write().await;
            self.write_parts(file, offset, data, false).await?;
        } else {
            self.write_parts(file, offset, data, true).await?;
        }
        if file.options.direct || file.options.sync != SyncMode::None {
            self.flush_inode(&file.inode).await;
            if file.options.sync != SyncMode::None {
                self.sync_inode(&file.inode).await?;
            }
            self.tell_writer(file)?;
        }
        Ok(())
    }

    async fn write_parts(
        self: &Arc<Self>,
        file: &File,
        offset: u64,
        data: &[u8],
        ordered: bool,
    ) -> Result<(), Error> {
        let mut at = offset;
        for part in data.chunks(PIECE_BYTES as usize) {
            let room = self.reserve(&file.inode, part.len()).await?;
            let _order = if ordered { Some(file.inode.order.read().await) } else { None };
            at = self.put(file, at, part, room)?;
        }
        Ok(())
    }

    /// Waits for room in every window, and takes it in the mount's.
    async fn reserve(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        len: usize,
    ) -> Result<SemaphorePermit<'_>, Error> {
        let begun = Instant::now();
        let deadline = begun + self.outside.config.deadline * 2;
        let late = |what: &str| {
            add(&self.outside.metrics.deadlines, 1);
            Error::Deadline {
                what: what.to_owned(),
                waited_ms: begun.elapsed().as_millis() as u64,
                last: "earlier writes are not acknowledged".to_owned(),
            }
        };
        loop {
            let changed = inode.changed.notified();
            {
                let mut state = locked(&inode.state);
                let dirty = state.dirty_bytes();
                if dirty == 0 || dirty + len as u64 <= self.outside.config.file_window_bytes as u64 {
                    break;
                }
                state.gather.all_due();
                self.pump(inode, &mut state);
            }
            timeout_at(deadline, changed).await.map_err(|_| late("room in the file's window"))?;
        }
        while self.uncommitted_full() {
            let committed = self.committed.notified();
            self.commit_wanted.notify_one();
            if !self.uncommitted_full() {
                break;
            }
            timeout_at(deadline, committed).await.map_err(|_| late("the bricks to commit"))?;
        }
        if let Ok(room) = self.window.try_acquire_many(len as u32) {
            return Ok(room);
        }
        self.send_everything();
        match timeout_at(deadline, self.window.acquire_many(len as u32)).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(late("room in the mount's window")),
        }
    }

    /// Takes data in for which the window has room; returns where it ends.
    fn put(
        self: &Arc<Self>,
        file: &File,
        offset: u64,
        data: &[u8],
        room: SemaphorePermit<'_>,
    ) -> Result<u64, Error> {
        let inode = &file.inode;
        let len = data.len() as u64;
        let tight = self.window.available_permits() < self.outside.config.window_bytes / 4;
        let mut state = locked(&inode.state);
        // Under the lock: what is taken in now is not among what was dropped with the lock of the file.
        file.not_lost()?;
        let offset = if file.options.append { state.size() } else { offset };
        let end = offset.saturating_add(len);
        if end > MAX_FILE_BYTES {
            return Err(FsError::TooLarge.into());
        }
        let generation = state.generation;
        let grown = state.gather.insert(offset, data, generation, Instant::now());
        // Given back when the bricks have it; what replaced gathered bytes takes no room.
        room.forget();
        self.window.add_permits((len - grown) as usize);
        state.pending_end = Some(state.pending_end.map_or(end, |known| known.max(end)));
        state.pending_mtime = Some(Timestamp::now());
        state.outdate_late_mtime();
        state.writes += 1;
        state.version += 1;
        if tight || state.gather.total() > GATHER_BYTES {
            state.gather.all_due();
        } else {
            state.gather.whole_due(offset, len);
        }
        self.pump(inode, &mut state);
        let list = !std::mem::replace(&mut state.listed, true);
        drop(state);
        if list {
            self.note_dirty(inode);
        }
        add(&self.outside.metrics.writes, 1);
        add(&self.outside.metrics.write_bytes, len);
        Ok(end)
    }

    /// Sends what is due and free to go.
    pub(crate) fn pump(self: &Arc<Self>, inode: &Arc<OpenInode>, state: &mut State) {
        if !state.gather.has_due() {
            return;
        }
        let State { gather, flights, .. } = state;
        let taken = gather.take_due(|start, end| {
            flights.range(..end).next_back().is_some_and(|(at, f)| at + f.content.len() > start)
        });
        for Taken { offset, bytes, generation } in taken {
            let window = bytes.len();
            self.launch(
                inode,
                state,
                offset,
                Flight { content: Content::Data(bytes), generation, window, again: None },
            );
        }
    }

    /// Sends one change; nothing in flight may overlap it.
    pub(crate) fn launch(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        state: &mut State,
        offset: u64,
        flight: Flight,
    ) {
        debug_assert!(!state.in_flight(offset, offset + flight.content.len()));
        let content = flight.content.clone();
        let again = flight.again.as_ref().and_then(|again| again.said.clone());
        state.flying_bytes += flight.window as u64;
        state.flights.insert(offset, flight);
        let (shared, inode, layout) = (self.clone(), inode.clone(), state.attr.layout);
        let (begun, knew) = (inode.era(self.session.id()), state.known());
        self.runtime.spawn(async move {
            let work = async {
                let metrics = &shared.outside.metrics;
                let deadline = Instant::now() + shared.outside.config.deadline;
                add(&metrics.flights, 1);
                add(&metrics.flight_bytes, content.len());
                // Without a slot before the deadline the change fails there at once.
                let _slot = timeout_at(deadline, shared.flight_slots.acquire()).await;
                add(&metrics.flights_now, 1);
                let result =
                    shared.change((&inode, begun), &layout, offset, (&content, again), deadline).await;
                subtract(&metrics.flights_now, 1);
                shared.landed(&inode, offset, (begun, knew), result);
            };
            shared.operations.run("write-behind", inode.ino, work).await;
        });
    }

    /// A change came back.
    fn landed(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        offset: u64,
        (begun, knew): (SessionId, Timestamp),
        result: Result<super::bricks::Changed, Error>,
    ) {
        let mut state = locked(&inode.state);
        let Some(Flight { content, generation, window, again }) = state.flights.remove(&offset) else {
            // Only its own task takes a flight out.
            return;
        };
        state.flying_bytes -= window as u64;
        state.version += 1;
        let kept = state.held.cost();
        match result {
            Ok(changed) => {
                let end = match &content {
                    Content::Data(bytes) => offset + bytes.len() as u64,
                    // It makes no file longer, but what it replaces may have, and was not reported.
                    Content::Zeros(len) => (offset + len).min(state.pending_end.unwrap_or(0)),
                };
                let report = if again.is_some() {
                    // It was reported when it was acknowledged first. Who has read it since it was lost is to read it anew.
                    WriteReport { mtime: state.attr.mtime, ..WriteReport::NOTHING }
                } else {
                    let mtime = state.pending_mtime.unwrap_or_else(Timestamp::now);
                    WriteReport { end, mtime, allocated_delta_bytes: changed.allocated_delta_bytes, knew }
                };
                state.add_report(report);
                let stamp = self.stamps.fetch_add(1, Ordering::SeqCst) + 1;
                let since = Instant::now();
                let said = again.as_ref().and_then(|again| again.said.as_ref());
                let mut at = 0;
                for (len, version) in changed.parts {
                    let held = Held {
                        content: content.part(at, at + len),
                        generation,
                        stamp,
                        version,
                        first: said.map_or(version, |said| said.first),
                        holders: changed.holders.clone(),
                        since,
                        told: again.as_ref().is_some_and(|again| again.told),
                        durable: false,
                    };
                    state.held.insert(offset + at, held);
                    at += len;
                }
                if begun < self.session.id() {
                    // The namespace may have had it cut when it gave up that session.
                    state.been_cut = Some(BeenCut { size: 0, stamp, session_over: true });
                }
            }
            Err(error) => {
                tracing::error!(inode = %inode.ino, offset, bytes = content.len(), %error,
                    "written data is lost; its writers will be told");
                add(&self.outside.metrics.lost_pieces, 1);
                add(&self.outside.metrics.lost_bytes, content.len());
                state.fail(error);
            }
        }
        self.account_held(kept, state.held.cost());
        self.pump(inode, &mut state);
        let list = !std::mem::replace(&mut state.listed, true);
        drop(state);
        if list {
            self.note_dirty(inode);
        }
        self.window.add_permits(window);
        inode.changed.notify_waiters();
    }

    /// Sends all that is gathered, of every file.
    pub(crate) fn send_everything(self: &Arc<Self>) {
        for inode in self.dirty_inodes() {
            let mut state = locked(&inode.state);
            state.gather.all_due();
            self.pump(&inode, &mut state);
        }
    }

    /// Sends what was written before, and waits until the bricks have it or it failed.
    /// Returns the generation that is through.
    pub(crate) async fn flush_inode(self: &Arc<Self>, inode: &Arc<OpenInode>) -> u64 {
        let generation = {
            let mut state = locked(&inode.state);
            let generation = state.generation;
            state.generation += 1;
            state.gather.all_due();
            self.pump(inode, &mut state);
            generation
        };
        self.wait_acknowledged(inode, generation).await;
        generation
    }

    /// Waits until the bricks have everything up to a generation, or it failed: each flight
    /// has its own deadline.
    pub(crate) async fn wait_acknowledged(&self, inode: &OpenInode, generation: u64) {
        loop {
            let changed = inode.changed.notified();
            if !locked(&inode.state).unacknowledged(generation) {
                return;
            }
            waiting_for(|| {
                "what was written to the file before to reach the bricks; its write-behind says why"
                    .to_owned()
            });
            changed.await;
        }
    }

    /// The error that no write of this handle was told yet, nor fsync or close, if any.
    pub(crate) fn tell_writer(&self, file: &File) -> Result<(), Error> {
        let state = locked(&file.inode.state);
        let known = file.failures_at_write.swap(state.failures, Ordering::Relaxed);
        match &state.failure {
            Some(failure) if known != state.failures => Err(failure.error.clone()),
            _ => Ok(()),
        }
    }

    /// The error that no close of this handle was told yet, nor its fsync, if any.
    pub(crate) fn tell_closer(&self, file: &File) -> Result<(), Error> {
        let mut state = locked(&file.inode.state);
        let known = file.failures_at_close.swap(state.failures, Ordering::Relaxed);
        if known == state.failures { Ok(()) } else { state.told() }
    }

    /// The error that no fsync of this handle was told yet, if any.
    pub(crate) fn take_failure(&self, file: &File) -> Result<(), Error> {
        let mut state = locked(&file.inode.state);
        let known = file.known_failures.swap(state.failures, Ordering::Relaxed);
        file.failures_at_write.store(state.failures, Ordering::Relaxed);
        file.failures_at_close.store(state.failures, Ordering::Relaxed);
        if known == state.failures { Ok(()) } else { state.told() }
    }
}
