//! The master's log: append-only text, one record a line.
//!
//! ```text
//! jobs/journal/TERM.PART      ten and six digits
//! CRC32C {"journal":1,"term":3,"first":121}
//! CRC32C {"seq":121,"record":{...}}
//! ```
//!
//! The checksum (eight hex digits) covers the JSON behind it. Records are numbered through all terms and parts. A term's
//! master writes its own files only; a new part begins whenever a snapshot was published, and older parts go.
//!
//! 1. `append` returns after the records are on stable storage, all of a batch with one fsync.
//! 2. A line that isn't whole is tolerated only where nothing whole follows: that is a crash in the middle of a write. Anywhere
//!    else it is damage and refused. `a_torn_tail_is_cut_and_damage_before_it_is_refused`
//! 3. Numbers without a gap: a missing part is noticed. `a_missing_part_is_noticed`

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::JOURNAL_PART_MAX;
use crate::error::{At, Error, Result};
use crate::plan::Record;
use crate::store::disk::{self, Disk};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    journal: u32,
    term: u64,
    first: u64,
}

#[derive(Serialize)]
struct LineOut<'a> {
    seq: u64,
    record: &'a Record,
}

#[derive(Deserialize)]
struct LineIn {
    seq: u64,
    record: Record,
}

fn push_line<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    let json = serde_json::to_vec(value)
        .map_err(|e| Error::Config(format!("a journal record can't be written as JSON: {e}")))?;
    out.extend_from_slice(format!("{:08x} ", crc32c::crc32c(&json)).as_bytes());
    out.extend_from_slice(&json);
    out.push(b'\n');
    Ok(())
}

/// The JSON of a line whose checksum is right.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (crc, json) = line.split_at_checked(9)?;
    let crc = std::str::from_utf8(crc.strip_suffix(b" ")?).ok()?;
    let plain = crc.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (plain && u32::from_str_radix(crc, 16).ok()? == crc32c::crc32c(json)).then_some(json)
}

/// Is there a whole record anywhere in these bytes, also where the line before it lost its end?
fn whole_record_in(bytes: &[u8]) -> bool {
    const START: &[u8] = b"{\"seq\":";
    bytes.split(|b| *b == b'\n').any(|line| {
        let starts = line.windows(START.len()).enumerate().filter(|(_, w)| *w == START);
        starts.filter_map(|(at, _)| line.get(at.checked_sub(9)?..)).any(|record| checked(record).is_some())
    })
}

/// One part of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub term: u64,
    pub part: u64,
}

impl Part {
    fn name(self) -> String {
        format!("{:010}.{:06}", self.term, self.part)
    }

    fn parse(name: &str) -> Option<Part> {
        let (term, part) = name.split_once('.')?;
        let out = Part { term: term.parse().ok()?, part: part.parse().ok()? };
        (out.name() == name).then_some(out)
    }
}

/// All parts there are, oldest first.
pub(crate) fn parts(dir: &Path) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = disk::names(dir)?.iter().filter_map(|n| Part::parse(n)).collect();
    parts.sort_unstable();
    Ok(parts)
}

/// Removes the parts older than `keep`.
pub(crate) fn remove_before(disk: &Disk, dir: &Path, keep: Part) -> Result<()> {
    for part in parts(dir)?.into_iter().filter(|p| *p < keep) {
        disk.remove(&dir.join(part.name()))?;
    }
    Ok(())
}

/// Reads one part and gives each record with its number to `take`. Returns whether the part had a torn tail.
pub(crate) fn read(dir: &Path, part: Part, mut take: impl FnMut(u64, Record) -> Result<()>) -> Result<bool> {
    let path = dir.join(part.name());
    let refuse = |reason: String| Error::Format { path: path.clone(), reason };
    let bytes = disk::read_bounded(&path, JOURNAL_PART_MAX)?.bytes;
    let mut next = None;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let end = rest.iter().position(|b| *b == b'\n');
        let json = end.and_then(|end| checked(&rest[..end]));
        let (Some(end), Some(json)) = (end, json) else {
            if whole_record_in(&rest[1..]) {
                return Err(refuse(format!("it is damaged at byte {at}, with whole records behind")));
            }
            return Ok(true);
        };
        rest = &rest[end + 1..];
        let wrong = |e: serde_json::Error| refuse(format!("the line at byte {at}: {e}"));
        match next {
            None => {
                let header: Header = serde_json::from_slice(json).map_err(wrong)?;
                if header.journal > VERSION {
                    return Err(Error::Newer { path, found: header.journal, known: VERSION });
                }
                if header.term != part.term {
                    return Err(refuse(format!("it says it is of term {}", header.term)));
                }
                next = Some(header.first);
            }
            Some(seq) => {
                let line: LineIn = serde_json::from_slice(json).map_err(wrong)?;
                if line.seq != seq {
                    return Err(refuse(format!("record {} stands where {seq} is expected", line.seq)));
                }
                take(seq, line.record)?;
                next = Some(seq + 1);
            }
        }
    }
    Ok(false)
}

/// Puts a part on stable storage that a master before us may not have.
pub(crate) fn make_durable(disk: &Disk, dir: &Path, part: Part) -> Result<()> {
    let path = dir.join(part.name());
    let file = File::open(&path).at("open", &path)?;
    disk.sync_data(&file, &path)
}

/// The part being written.
#[derive(Debug)]
pub(crate) struct Journal {
    disk: Disk,
    dir: PathBuf,
    path: PathBuf,
    file: File,
    len: u64,
    part: Part,
    next: u64,
}

impl Journal {
    /// Begins a part whose first record will be `first`.
    pub fn create(disk: &Disk, dir: &Path, part: Part, first: u64) -> Result<Journal> {
        let path = dir.join(part.name());
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path).at("create", &path)?;
        let mut header = Vec::new();
        push_line(&mut header, &Header { journal: VERSION, term: part.term, first })?;
        disk.write_at(&file, &path, 0, &header)?;
        disk.sync_data(&file, &path)?;
        disk.sync_dir(dir)?;
        let len = header.len() as u64;
        Ok(Journal { disk: disk.clone(), dir: dir.to_path_buf(), path, file, len, part, next: first })
    }

    /// Appends records; they are on stable storage when this returns. After an error this part must not be written again.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut out = Vec::with_capacity(records.len() * 256);
        for record in records {
            push_line(&mut out, &LineOut { seq: self.next, record })?;
            self.next += 1;
        }
        self.disk.write_at(&self.file, &self.path, self.len, &out)?;
        self.len += out.len() as u64;
        self.disk.sync_data(&self.file, &self.path)
    }

    /// Begins the next part of the same term.
    pub fn next_part(&self) -> Result<Journal> {
        let part = Part { term: self.part.term, part: self.part.part + 1 };
        Journal::create(&self.disk, &self.dir, part, self.next)
    }

    /// Which part this is.
    pub fn part(&self) -> Part {
        self.part
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::JobId;

    fn abandoned(n: u64) -> Record {
        Record::Abandoned { job: JobId(n) }
    }

    const FIRST: Part = Part { term: 3, part: 1 };

    fn all(dir: &Path) -> Result<(Vec<u64>, bool)> {
        let mut seen = Vec::new();
        let torn = read(dir, FIRST, |seq, record| {
            assert_eq!(record, abandoned(seq));
            seen.push(seq);
            Ok(())
        })?;
        Ok((seen, torn))
    }

    #[test]
    fn the_format_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&Disk::default(), dir.path(), FIRST, 121).unwrap();
        journal.append(&[abandoned(121), abandoned(122)]).unwrap();
        let text = std::fs::read_to_string(dir.path().join("0000000003.000001")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[0][9..], r#"{"journal":1,"term":3,"first":121}"#);
        assert_eq!(&lines[1][9..], r#"{"seq":121,"record":{"abandoned":{"job":121}}}"#);
        for line in lines {
            assert_eq!(line[..8], format!("{:08x}", crc32c::crc32c(&line.as_bytes()[9..])));
        }
    }

    #[test]
    fn a_torn_tail_is_cut_and_damage_before_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&Disk::default(), dir.path(), FIRST, 1).unwrap();
        let mut ends = vec![journal.len];
        for n in 1..=4 {
            journal.append(&[abandoned(n)]).unwrap();
            ends.push(journal.len);
        }
        let path = dir.path().join(FIRST.name());
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(all(dir.path()).unwrap(), (vec![1, 2, 3, 4], false));
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let kept = ends.iter().filter(|e| **e <= cut as u64).count().saturating_sub(1) as u64;
            let torn = cut > 0 && !ends.contains(&(cut as u64));
            assert_eq!(all(dir.path()).unwrap(), ((1..=kept).collect(), torn), "cut at {cut}");
        }
        let last_line = usize::try_from(ends[3]).unwrap();
        for i in 0..last_line {
            let mut bad = whole.clone();
            bad[i] ^= 0x04;
            std::fs::write(&path, &bad).unwrap();
            assert!(all(dir.path()).is_err(), "byte {i} changed before whole records");
        }
    }

    #[test]
    fn a_record_out_of_order_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&Disk::default(), dir.path(), FIRST, 1).unwrap();
        journal.append(&[abandoned(1)]).unwrap();
        journal.next = 3;
        journal.append(&[abandoned(3)]).unwrap();
        assert!(all(dir.path()).unwrap_err().to_string().contains("record 3 stands where 2"));
    }

    #[test]
    fn names_of_others_are_no_parts() {
        let dir = tempfile::tempdir().unwrap();
        Journal::create(&Disk::default(), dir.path(), FIRST, 1).unwrap();
        for other in ["README", "3.1", "0000000003.000001~", ".tmp.x"] {
            std::fs::write(dir.path().join(other), b"x").unwrap();
        }
        assert_eq!(parts(dir.path()).unwrap(), [FIRST]);
    }
}
