//! Records in files, in order, with one flush for all that arrived meanwhile.
//!
//! ```text
//! DIR/<segment, 20 digits>.log   header, records, then zeros (written ahead, so that a flush need
//!                                not write the file's size too)
//! header: magic "BRYDRLOG" | format u32 | cluster [16] | member u64 | segment u64 | crc32c u32
//! record: length u32 | crc32c u32 | number u64 | durable u64 | kind u8 | body
//! ```
//! All numbers little-endian; the sum covers everything after it. `number` grows by one from record
//! to record across files; `durable` is the number of the last record that was known durable when
//! this one was made.
//!
//! | format | since | why |
//! |---|---|---|
//! | 1 | 0.1.0 | the first |
//!
//! 1. What was said to be durable is found again, or the journal is refused: a bad record ends it
//!    only if no later one knows it as durable (`a_torn_end_is_cut`, `damage_in_the_middle_is_refused`).
//!    A bad *last* record cannot be told from one that was torn.
//! 2. A journal of another cluster, member or format is refused and left as it is
//!    (`foreign_journals_are_refused`).
//! 3. After an error of the disk nothing is written any more: nobody knows what is on it
//!    (`after_an_error_nothing_is_durable`).
//!
//! This module does not know what its records mean.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use wire::id::ClusterId;

use super::disk::Disk;
use crate::store::hold::Hold;

const MAGIC: &[u8; 8] = b"BRYDRLOG";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 48;
const HEAD_BYTES: usize = 25;
/// A file that has reached this size is followed by another one, in bytes.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// So much is zeroed ahead of what is written, in bytes.
const AHEAD_BYTES: u64 = 1 << 20;
/// Longest body of a record, in bytes.
pub const RECORD_BYTES: usize = 64 << 20;
/// Pieces of work that wait for the thread before callers do.
const QUEUE: usize = 4096;

/// Whose journal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: u64,
}

/// Where a record's body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the file.
    pub segment: u64,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is somebody else's, or damaged. It is left as it is.
    #[error("{}: {detail}", path.display())]
    Refused {
        /// File.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// Is told when everything before it is durable, or why it is not.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

enum Work {
    Write { segment: u64, offset: u64, bytes: Vec<u8>, last: u64 },
    Sync(Done),
}

#[derive(Debug, Clone, Copy)]
struct Tail {
    segment: u64,
    offset: u64,
    number: u64,
}

/// An open journal. Dropping it waits for what is queued.
pub struct Journal {
    dir: PathBuf,
    tail: Mutex<Tail>,
    queue: Option<mpsc::SyncSender<Work>>,
    durable: Arc<AtomicU64>,
    readers: Mutex<HashMap<u64, Arc<File>>>,
    thread: Option<JoinHandle<()>>,
    _hold: Hold,
}

fn file_name(segment: u64) -> String {
    format!("{segment:020}.log")
}

fn header(owner: Owner, segment: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..28].copy_from_slice(&owner.cluster.0);
    bytes[28..36].copy_from_slice(&owner.member.to_le_bytes());
    bytes[36..44].copy_from_slice(&segment.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..44]);
    bytes[44..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One record found at an offset.
struct Raw {
    number: u64,
    durable: u64,
    kind: u8,
    body: std::ops::Range<usize>,
}

fn record_at(bytes: &[u8], at: usize) -> Option<Raw> {
    let length = u32_at(bytes, at) as usize;
    let end = at.checked_add(HEAD_BYTES)?.checked_add(length)?;
    if length > RECORD_BYTES || at + HEAD_BYTES > bytes.len() || end > bytes.len() {
        return None;
    }
    let number = u64_at(bytes, at + 8);
    // Zeros are no record: numbers begin at 1.
    if number == 0 || crc32c::crc32c(&bytes[at + 8..end]) != u32_at(bytes, at + 4) {
        return None;
    }
    Some(Raw { number, durable: u64_at(bytes, at + 16), kind: bytes[at + 24], body: at + HEAD_BYTES..end })
}

/// Whether a later record of this file knows `number` as durable.
fn known_durable(bytes: &[u8], from: usize, number: u64) -> bool {
    (from..bytes.len().saturating_sub(HEAD_BYTES)).any(|at| {
        let later = u64_at(bytes, at + 8);
        later > number
            && later - number < 1 << 20
            && record_at(bytes, at).is_some_and(|raw| raw.durable >= number)
    })
}

impl Journal {
    /// Opens the journal in `dir`, makes it if there is none, and shows all records in order.
    ///
    /// # Errors
    /// If it is somebody else's or damaged, the disk fails, or `visit` says what it is given
    /// makes no sense.
    pub fn open(
        dir: &Path,
        owner: Owner,
        disk: Arc<dyn Disk>,
        hold: Hold,
        mut visit: impl FnMut(Place, u8, &[u8]) -> Result<(), String>,
    ) -> Result<Self, JournalError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let name = entry.map_err(failed(dir))?.file_name();
            let number =
                name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse::<u64>().ok());
            segments.extend(number);
        }
        segments.sort_unstable();
        let mut tail = Tail { segment: 0, offset: 0, number: 1 };
        let mut next = None;
        let count = segments.len();
        for (at, segment) in segments.into_iter().enumerate() {
            let path = dir.join(file_name(segment));
            let refused = |detail: String| JournalError::Refused { path: path.clone(), detail };
            let bytes = fs::read(&path).map_err(failed(&path))?;
            let last = at + 1 == count;
            if at > 0 && segment != tail.segment + 1 {
                return Err(refused(format!("file {} of the log is missing before it", segment - 1)));
            }
            if last && bytes.iter().all(|b| *b == 0) {
                // Made, and never written: the one before is the last.
                fs::remove_file(&path).map_err(failed(&path))?;
                break;
            }
            check_header(&bytes, owner, segment).map_err(refused)?;
            let mut offset = HEADER_BYTES;
            while let Some(raw) = record_at(&bytes, offset) {
                if next.is_some_and(|next| raw.number != next) {
                    return Err(refused(format!("record {} stands where another one must", raw.number)));
                }
                let place = Place { segment, offset: raw.body.start as u64, length: raw.body.len() as u32 };
                visit(place, raw.kind, &bytes[raw.body.clone()]).map_err(refused)?;
                next = Some(raw.number + 1);
                offset = raw.body.end;
            }
            let number = next.unwrap_or(1);
            if bytes[offset..].iter().any(|b| *b != 0) {
                if !last || known_durable(&bytes, offset + 1, number) {
                    return Err(refused(format!(
                        "it is damaged at byte {offset}: a record that was durable cannot be read"
                    )));
                }
                tracing::warn!(path = %path.display(), offset, "cut the end of the log that a crash left half written");
                let file = OpenOptions::new().write(true).open(&path).map_err(failed(&path))?;
                file.set_len(offset as u64).and_then(|()| file.sync_all()).map_err(failed(&path))?;
            }
            if last {
                // What a killed process wrote may not be durable yet; from here on it is said to be.
                File::open(&path).and_then(|file| file.sync_all()).map_err(failed(&path))?;
            }
            tail = Tail { segment, offset: offset as u64, number };
        }
        let durable = Arc::new(AtomicU64::new(tail.number - 1));
        let (queue, work) = mpsc::sync_channel(QUEUE);
        let writer = Writer {
            dir: dir.to_owned(),
            owner,
            disk,
            durable: durable.clone(),
            open: None,
            zeroed: 0,
            failed: None,
        };
        let thread = std::thread::Builder::new()
            .name("namespace-log".to_owned())
            .spawn(move || writer.run(&work))
            .map_err(failed(dir))?;
        if tail.offset == 0 {
            tail = Tail { segment: tail.segment + 1, offset: HEADER_BYTES as u64, number: tail.number };
        }
        Ok(Self {
            dir: dir.to_owned(),
            tail: Mutex::new(tail),
            queue: Some(queue),
            durable,
            readers: Mutex::default(),
            thread: Some(thread),
            _hold: hold,
        })
    }

    /// Whether the next record should begin a new file.
    pub fn is_full(&self) -> bool {
        lock(&self.tail).offset >= SEGMENT_BYTES
    }

    /// Begins a new file; the next record is its first.
    pub fn rotate(&self) {
        let mut tail = lock(&self.tail);
        tail.segment += 1;
        tail.offset = HEADER_BYTES as u64;
    }

    /// The file written to.
    pub fn segment(&self) -> u64 {
        lock(&self.tail).segment
    }

    /// Writes a record after all earlier ones; it is durable when a later [`Journal::sync`] says so.
    ///
    /// # Errors
    /// If it is too long, or the thread is gone.
    pub fn push(&self, kind: u8, body: &[u8]) -> io::Result<Place> {
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= RECORD_BYTES);
        let length = length.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "a record is too long"))?;
        let mut tail = lock(&self.tail);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&tail.number.to_le_bytes());
        bytes.extend_from_slice(&self.durable.load(Ordering::Acquire).to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(body);
        let sum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        let place = Place { segment: tail.segment, offset: tail.offset + HEAD_BYTES as u64, length };
        let written = bytes.len() as u64;
        // Under the lock, so that the thread gets them in order.
        self.send(Work::Write { segment: tail.segment, offset: tail.offset, bytes, last: tail.number })?;
        tail.offset += written;
        tail.number += 1;
        Ok(place)
    }

    /// Calls `done` when everything pushed before is durable.
    pub fn sync(&self, done: Done) {
        let _in_order = lock(&self.tail);
        if let Some(queue) = &self.queue
            && let Err(mpsc::SendError(Work::Sync(done))) = queue.send(Work::Sync(done))
        {
            done(Err(gone()));
        }
    }

    fn send(&self, work: Work) -> io::Result<()> {
        match &self.queue {
            Some(queue) => queue.send(work).map_err(|_| gone()),
            None => Err(gone()),
        }
    }

    /// A record's body. It must have been written: see [`Journal::sync`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read(&self, place: Place) -> io::Result<Vec<u8>> {
        let file = {
            let mut readers = lock(&self.readers);
            match readers.get(&place.segment) {
                Some(file) => file.clone(),
                None => {
                    let file = Arc::new(File::open(self.dir.join(file_name(place.segment)))?);
                    readers.insert(place.segment, file.clone());
                    file
                }
            }
        };
        let mut body = vec![0; place.length as usize];
        file.read_exact_at(&mut body, place.offset)?;
        Ok(body)
    }

    /// Deletes files before `segment`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn delete_before(&self, segment: u64) -> io::Result<()> {
        lock(&self.readers).retain(|known, _| *known >= segment);
        let mut old = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number =
                name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse::<u64>().ok());
            old.extend(number.filter(|n| *n < segment));
        }
        // Oldest first: a crash in between must not leave a gap.
        old.sort_unstable();
        for number in old {
            fs::remove_file(self.dir.join(file_name(number)))?;
        }
        File::open(&self.dir)?.sync_all()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the log did not end well");
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the log takes no more")
}

fn check_header(bytes: &[u8], owner: Owner, segment: u64) -> Result<(), String> {
    if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
        return Err("it is no file of a namespace's log".to_owned());
    }
    let format = u32_at(bytes, 8);
    if format != FORMAT {
        return Err(format!("it is of format {format}, and this program knows format {FORMAT}"));
    }
    if crc32c::crc32c(&bytes[..44]) != u32_at(bytes, 44) {
        return Err("its header is damaged".to_owned());
    }
    if bytes[12..28] != owner.cluster.0 {
        return Err("it is the log of another cluster".to_owned());
    }
    let member = u64_at(bytes, 28);
    if member != owner.member {
        return Err(format!("it is the log of member {member:016x}, not of {:016x}", owner.member));
    }
    if u64_at(bytes, 36) != segment {
        return Err("its name is not the one it was written under".to_owned());
    }
    Ok(())
}

/// The thread's side.
struct Writer {
    dir: PathBuf,
    owner: Owner,
    disk: Arc<dyn Disk>,
    durable: Arc<AtomicU64>,
    open: Option<(u64, File)>,
    /// The open file is written up to here, be it with zeros.
    zeroed: u64,
    failed: Option<(ErrorKind, String)>,
}

impl Writer {
    fn run(mut self, work: &mpsc::Receiver<Work>) {
        while let Ok(first) = work.recv() {
            let mut waiting = Vec::new();
            let mut next = Some(first);
            let (mut buffer, mut at, mut last) = (Vec::new(), (0, 0), None);
            while let Some(item) = next {
                match item {
                    Work::Write { segment, offset, bytes, last: number } => {
                        let follows = at == (segment, offset);
                        if !follows {
                            self.flush_buffer(&mut buffer, at);
                        }
                        buffer.extend_from_slice(&bytes);
                        at = (segment, offset + bytes.len() as u64);
                        last = Some(number);
                    }
                    Work::Sync(done) => waiting.push(done),
                }
                next = if buffer.len() < 8 << 20 { work.try_recv().ok() } else { None };
            }
            self.flush_buffer(&mut buffer, at);
            if waiting.is_empty() {
                continue;
            }
            if self.failed.is_none()
                && let Some((_, file)) = &self.open
                && let Err(error) = self.disk.sync(file)
            {
                self.fail(&error);
            }
            if self.failed.is_none()
                && let Some(last) = last
            {
                self.durable.store(last, Ordering::Release);
            }
            for done in waiting {
                done(match &self.failed {
                    None => Ok(()),
                    Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
                });
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, dir = %self.dir.display(), "the disk of the namespace's log failed");
        self.failed = Some((error.kind(), error.to_string()));
    }

    /// Writes what was gathered; `end` is where it ends.
    fn flush_buffer(&mut self, buffer: &mut Vec<u8>, end: (u64, u64)) {
        if buffer.is_empty() {
            return;
        }
        if self.failed.is_none() {
            let offset = end.1 - buffer.len() as u64;
            if let Err(error) = self.write(end.0, offset, buffer) {
                self.fail(&error);
            }
        }
        buffer.clear();
    }

    fn write(&mut self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(number, _)| *number != segment) {
            if let Some((_, file)) = self.open.take() {
                self.disk.sync(&file)?;
            }
            let path = self.dir.join(file_name(segment));
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            self.zeroed = file.metadata()?.len();
            if offset == HEADER_BYTES as u64 {
                self.disk.write(&file, &header(self.owner, segment), 0)?;
                self.disk.sync(&file)?;
                File::open(&self.dir)?.sync_all()?;
            }
            self.open = Some((segment, file));
        }
        let Some((_, file)) = &self.open else { return Err(gone()) };
        let end = offset + bytes.len() as u64;
        if end > self.zeroed {
            let from = self.zeroed.max(offset);
            let zeros = vec![0; (end + AHEAD_BYTES - from) as usize];
            self.disk.write(file, &zeros, from)?;
            self.zeroed = end + AHEAD_BYTES;
        }
        self.disk.write(file, bytes, offset)
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
