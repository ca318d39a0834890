//! The journal on its two segments, of which one is in use.
//!
//! A record is written and flushed before the next one begins. When a segment is full, everything
//! in it is brought to where it belongs (see `checkpoint`), and the other one is begun; so only
//! the newest segment ever counts.
//!
//! 1. What ends the journal is a record that was cut off by a crash, or nothing. If a later record
//!    is found behind it, a part was lost and the journal is refused
//!    (`a_hole_is_refused`, `crashes_keep_what_was_committed`).
//! 2. The index and the journal fit together or are refused (`an_index_that_does_not_fit_is_refused`).

use std::io;

use bytes::Bytes;

use super::aligned::Aligned;
use super::disk::Disk;
use super::journal::{
    FIRST_RECORD, HEAD_BYTES, JournalError, RecordHead, SECTOR, SEGMENT_MAGIC, SegmentHead,
};
use super::record::BLOCK;

/// In its first lap a segment is filled with zeros this far ahead, in bytes: ext4 commits its own
/// journal for each flush after a write into space that was only reserved.
const ZEROS_AHEAD: u64 = 1 << 20;
/// How much is read at a time when a segment is searched.
const SEARCH_BYTES: usize = 1 << 20;

/// Why a journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk says no.
    #[error("the journal: {0}")]
    Io(#[from] io::Error),
    /// Its bytes say no.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A part of it is gone or wrong: going on would lose what was committed.
    #[error(
        "the journal is damaged: {0}; make the brick anew from its copies (`brickyard brick --replace` in an empty \
         directory), or get the files off with `brickyard salvage`"
    )]
    Damaged(String),
}

/// See the module's head.
#[derive(Debug)]
pub struct Log<D> {
    segments: [D; 2],
    store: u64,
    active: usize,
    at: u64,
    next: u64,
    lap: u16,
    zeroed: u64,
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The record is durable.
    Done {
        /// Its sequence number.
        seq: u64,
        /// What was written, in bytes.
        bytes: u64,
    },
    /// The segment has no room for it: everything must be trimmed first.
    Full,
}

/// Makes two empty segments of `bytes` each a journal.
///
/// # Errors
/// What the disk says.
pub fn format<D: Disk>(segments: &[D; 2], store: u64, bytes: u64) -> io::Result<()> {
    for segment in segments {
        segment.allocate(bytes)?;
    }
    write_head(&segments[0], SegmentHead { lap: 0, store, first: 1 })
}

/// Whether a file that begins so is a segment.
pub fn is_segment(head: &[u8]) -> bool {
    head.starts_with(SEGMENT_MAGIC)
}

fn write_head<D: Disk>(segment: &D, head: SegmentHead) -> io::Result<()> {
    let mut bytes = head.encode();
    bytes.extend_from_within(..);
    segment.write(&[(0, &Aligned::of(&bytes))])?;
    segment.sync()
}

fn read_head<D: Disk>(segment: &D) -> Result<Option<SegmentHead>, LogError> {
    if segment.len() < FIRST_RECORD {
        return Ok(None);
    }
    let mut bytes = Aligned::zeros(FIRST_RECORD as usize);
    segment.read(&mut [(0, &mut bytes)])?;
    Ok(match SegmentHead::decode(&bytes)? {
        Some(head) => Some(head),
        None => SegmentHead::decode(&bytes[BLOCK..])?,
    })
}

/// The record at `at`, if it is whole.
fn read_record<D: Disk>(segment: &D, store: u64, at: u64) -> Result<Option<(RecordHead, Bytes)>, LogError> {
    let align = segment.align().max(SECTOR);
    if at + align as u64 > segment.len() {
        return Ok(None);
    }
    let mut bytes = Aligned::zeros(align);
    segment.read(&mut [(at, &mut bytes)])?;
    let Some(head) = RecordHead::decode(&bytes)?.filter(|head| head.store == store) else { return Ok(None) };
    let stride = (head.stride_bytes as usize).next_multiple_of(align);
    if at + stride as u64 > segment.len() {
        return Ok(None);
    }
    let mut bytes = Aligned::zeros(stride);
    segment.read(&mut [(at, &mut bytes)])?;
    let body = Bytes::from_owner(bytes).slice(HEAD_BYTES..HEAD_BYTES + head.body_bytes as usize);
    Ok((crc32c::crc32c(&body) == head.body_crc).then_some((head, body)))
}

/// The first record with a number of at least `from` that begins behind `after`.
fn search<D: Disk>(segment: &D, store: u64, after: u64, from: u64) -> Result<Option<u64>, LogError> {
    let align = segment.align() as u64;
    let mut at = after / align * align;
    while at < segment.len() {
        let mut bytes = Aligned::zeros((segment.len() - at).min(SEARCH_BYTES as u64) as usize);
        segment.read(&mut [(at, &mut bytes)])?;
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            let here = at + (i * SECTOR) as u64;
            let head = RecordHead::decode(sector)?.filter(|h| h.store == store && h.seq >= from);
            if let Some(head) = head.filter(|_| here > after) {
                return Ok(Some(head.seq));
            }
        }
        at += bytes.len() as u64;
    }
    Ok(None)
}

/// Which of two segments is the newest, and their heads.
fn newest<D: Disk>(segments: &[D; 2], store: u64) -> Result<(usize, SegmentHead), LogError> {
    let heads = [read_head(&segments[0])?, read_head(&segments[1])?];
    if heads.iter().flatten().any(|head| head.store != store) {
        return Err(LogError::Damaged("it belongs to another brick".to_owned()));
    }
    match heads {
        [None, None] => Err(LogError::Damaged("neither of its files begins as it should".to_owned())),
        [Some(head), None] => Ok((0, head)),
        [None, Some(head)] => Ok((1, head)),
        [Some(a), Some(b)] if a.first >= b.first => Ok((0, a)),
        [Some(_), Some(b)] => Ok((1, b)),
    }
}

/// Shows every whole record of the newest segment. Returns which segment it is, its head, where
/// the records end and the number of the next one.
///
/// # Errors
/// [`LogError`]; it has shown all that can be read then.
pub fn replay<D: Disk>(
    segments: &[D; 2],
    store: u64,
    see: &mut dyn FnMut(u64, Bytes) -> Result<(), LogError>,
) -> Result<(usize, SegmentHead, u64, u64), LogError> {
    let (active, head) = newest(segments, store)?;
    let (mut at, mut next) = (FIRST_RECORD, head.first);
    while let Some((record, body)) = read_record(&segments[active], store, at)?.filter(|(r, _)| r.seq == next)
    {
        see(next, body)?;
        at += u64::from(record.stride_bytes);
        next += 1;
    }
    if let Some(later) = search(&segments[active], store, at, next)? {
        return Err(LogError::Damaged(format!("record {next} is gone, record {later} is there")));
    }
    let other = &segments[1 - active];
    if read_head(other)?.is_none()
        && let Some(later) = search(other, store, 0, next)?
    {
        return Err(LogError::Damaged(format!("the beginning of the file with record {later} is gone")));
    }
    Ok((active, head, at, next))
}

impl<D: Disk> Log<D> {
    /// Opens it and shows every record. `applied` is the last one that is in the index.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn open(
        segments: [D; 2],
        store: u64,
        applied: u64,
        see: &mut dyn FnMut(u64, Bytes) -> Result<(), LogError>,
    ) -> Result<Log<D>, LogError> {
        let (_, head) = newest(&segments, store)?;
        if applied + 1 < head.first {
            return Err(LogError::Damaged(format!(
                "it begins with record {}, and the index ends with record {applied}",
                head.first
            )));
        }
        let (active, head, at, next) = replay(&segments, store, see)?;
        if applied >= next {
            return Err(LogError::Damaged(format!(
                "it ends with record {}, and the index has record {applied}",
                next - 1
            )));
        }
        Ok(Log { segments, store, active, at, next, lap: head.lap, zeroed: at })
    }

    /// Number of the last record; 0: none.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Most bytes a body can have.
    pub fn most_bytes(&self) -> usize {
        (self.segments[self.active].len() - FIRST_RECORD) as usize - HEAD_BYTES - BLOCK
    }

    /// Writes a record and flushes it.
    ///
    /// # Errors
    /// What the disk says; nobody knows what is in the journal then.
    pub fn append(&mut self, body: &[u8]) -> io::Result<Appended> {
        let segment = &self.segments[self.active];
        let head = RecordHead::of(self.store, self.next, body, segment.align());
        let end = self.at + u64::from(head.stride_bytes);
        if end > segment.len() {
            return Ok(Appended::Full);
        }
        let mut ahead = end;
        if self.lap == 0 && end > self.zeroed {
            ahead = (end + ZEROS_AHEAD).min(segment.len()) / BLOCK as u64 * BLOCK as u64;
            ahead = ahead.max(end);
            self.zeroed = ahead;
        }
        let mut bytes = Aligned::zeros((ahead - self.at) as usize);
        bytes[..HEAD_BYTES].copy_from_slice(&head.encode());
        bytes[HEAD_BYTES..HEAD_BYTES + body.len()].copy_from_slice(body);
        segment.write(&[(self.at, &bytes)])?;
        segment.sync()?;
        let seq = self.next;
        self.at = end;
        self.next += 1;
        Ok(Appended::Done { seq, bytes: bytes.len() as u64 })
    }

    /// Begins the other segment. Nothing in this one is needed any more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn switch(&mut self) -> io::Result<()> {
        let other = 1 - self.active;
        let lap = match read_head(&self.segments[other]) {
            Ok(head) => head.map_or(0, |head| head.lap.saturating_add(1)),
            Err(LogError::Io(error)) => return Err(error),
            Err(_) => 0,
        };
        write_head(&self.segments[other], SegmentHead { lap, store: self.store, first: self.next })?;
        (self.active, self.at, self.lap, self.zeroed) = (other, FIRST_RECORD, lap, FIRST_RECORD);
        Ok(())
    }
}
