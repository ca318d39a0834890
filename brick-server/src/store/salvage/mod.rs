//! Plain files off one brick directory, with no cluster and no other brick.
//!
//! What is known of chunks comes from the index and the journal, and where the index can't be read,
//! from the table of owners and the journal. Nothing in the brick's directory is changed, so it can be
//! on a disk that is mounted read-only.
//!
//! 1. What lands in a file was checked against its checksum (`damage_is_told_and_left_out`).
//! 2. The source is not written to (`a_pulled_disk_gives_its_files`).
//! 3. Without the index the files are the same, but for what only the index knew: clones, holes and
//!    deletions (`without_the_index_owners_tell`).

mod found;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use wire::id::Ino;

use super::dir::{self, DATA_NAME, DirError, IDENTITY_FILE, INDEX_DIR, JOURNAL_FILES, OWNERS_NAME};
use super::file_disk::{FileDisk, file_name};
use super::hints::{self, HINTS_FILE};
use super::index::Index;
use super::rocks::RocksIndex;
use found::{Chunk, Journal, Owned};
use write::Files;

/// Where RocksDB tells what it did; removed in the end.
const LOG_DIR: &str = ".salvage-log";

/// Why nothing can be salvaged.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The operating system says no.
    #[error("{path}: {why}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it says.
        why: io::Error,
    },
    /// There is nothing of a brick there.
    #[error(
        "{dir} is no brick (no {IDENTITY_FILE}, no {}): give the directory of one, as `brickyard brick --dir` was given, or \
         bricks/N in that of `brickyard up`; look whether its disk is mounted",
        file_name(0), dir = dir.display()
    )]
    NoBrick {
        /// The directory.
        dir: PathBuf,
    },
    /// A chunk is longer than chunks were said to be.
    #[error(
        "file {ino} has a chunk of {len} bytes, more than the chunk size of {chunk_bytes}: say the one it was made with"
    )]
    ChunkSize {
        /// The file.
        ino: Ino,
        /// Length of its chunk.
        len: u32,
        /// What was said.
        chunk_bytes: u32,
    },
    /// The output is inside of the source.
    #[error("{path} is in the directory that is salvaged", path = .0.display())]
    Inside(PathBuf),
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Chunks written.
    pub chunks: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A file that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partial {
    /// Blocks of 4 KiB whose bytes are lost; they are zeros in the file. Offsets, in bytes.
    pub bad_blocks: Vec<u64>,
    /// Chunks that are not on this brick: they are on others, or are holes.
    pub absent_chunks: u64,
}

/// What was salvaged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Files written.
    pub files: u64,
    /// Chunks and bytes of them.
    pub done: Progress,
    /// Whether the index told where everything is.
    pub by_index: bool,
    /// Files that are not whole, by path below the output.
    pub partial: BTreeMap<PathBuf, Partial>,
    /// What else went wrong, in words.
    pub notes: Vec<String>,
}

impl Report {
    /// Blocks that are lost.
    pub fn bad_blocks(&self) -> u64 {
        self.partial.values().map(|partial| partial.bad_blocks.len() as u64).sum()
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SalvageError + '_ {
    move |why| SalvageError::Io { path: path.to_owned(), why }
}

/// Writes the files of the brick in `dir` to `out`. `chunk_bytes` is the size of chunks the files were
/// made with. What is in `out` already stays, so that several bricks can be salvaged into it, one after
/// the other.
///
/// # Errors
/// See [`SalvageError`]. Damage of the brick is no error; the report tells of it.
pub fn salvage(
    dir: &Path,
    out: &Path,
    chunk_bytes: u32,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, SalvageError> {
    let dir = &dir.canonicalize().map_err(at(dir))?;
    // Before anything is made: where would it be?
    let absolute = std::path::absolute(out).map_err(at(out))?;
    let above = absolute.ancestors().find_map(|path| path.canonicalize().ok());
    if above.is_some_and(|above| above.starts_with(dir)) {
        return Err(SalvageError::Inside(out.to_owned()));
    }
    let data_file = dir.join(file_name(0));
    // Who it is may be lost; without data there is nothing to salvage.
    if matches!(dir::identify(dir), Err(DirError::NoBrick { .. })) && !data_file.exists() {
        return Err(SalvageError::NoBrick { dir: dir.to_owned() });
    }
    let data = FileDisk::open_read_only(dir, DATA_NAME, false).map_err(at(&data_file))?;
    std::fs::create_dir_all(out).map_err(at(out))?;
    let mut report = Report::default();
    let names = hints::read(&dir.join(HINTS_FILE)).unwrap_or_else(|error| {
        report.notes.push(format!("no names of files: {error}"));
        BTreeMap::new()
    });
    let journal = read_journal(dir, &mut report);
    let mut files = Files::new(out, chunk_bytes, data, names);
    let log_dir = out.join(LOG_DIR);
    std::fs::create_dir_all(&log_dir).map_err(at(&log_dir))?;
    let index = RocksIndex::open_read_only(&dir.join(INDEX_DIR), &log_dir);
    let by_index = match index {
        Ok(index) => write_by_index(&index, &journal, &mut files, &mut report, progress)?,
        Err(error) => {
            report.notes.push(format!("the index can't be read: {error}"));
            false
        }
    };
    if !by_index {
        let mut owned = Owned::default();
        match FileDisk::open_read_only(dir, OWNERS_NAME, false) {
            Ok(table) => owned.read(&table, &mut report.notes),
            Err(error) => report.notes.push(format!("the table of owners can't be read: {error}")),
        }
        owned.add(journal.described());
        for (key, chunk) in owned.chunks(&journal) {
            write_one(&mut files, key, &chunk, &journal, &mut report, progress)?;
        }
    }
    report.by_index = by_index;
    std::fs::remove_dir_all(&log_dir).map_err(at(&log_dir))?;
    files.finish(&mut report)?;
    Ok(report)
}

fn read_journal(dir: &Path, report: &mut Report) -> Journal {
    let store = dir::identify(dir).map(|identity| dir::store_number(identity.store));
    let open = |name| FileDisk::open_read_only(dir, name, true);
    let segments = open(JOURNAL_FILES[0]).and_then(|a| Ok([a, open(JOURNAL_FILES[1])?]));
    match (store, segments) {
        (Ok(store), Ok(segments)) => Journal::read(&segments, store, &mut report.notes),
        (Err(error), _) => {
            report.notes.push(format!("the journal is not used: {error}"));
            Journal::default()
        }
        (_, Err(error)) => {
            report.notes.push(format!("the journal can't be read: {error}"));
            Journal::default()
        }
    }
}

/// Writes everything the index knows of. `false`: it is damaged somewhere.
fn write_by_index(
    index: &RocksIndex,
    journal: &Journal,
    files: &mut Files,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) -> Result<bool, SalvageError> {
    let newer = match index.applied() {
        Ok(applied) => journal.after(applied),
        Err(error) => {
            report.notes.push(format!("the index is damaged: {error}"));
            return Ok(false);
        }
    };
    let mut after = None;
    loop {
        let page = match index.headers(after, 1024) {
            Ok(page) => page,
            Err(error) => {
                report.notes.push(format!("the index is damaged: {error}"));
                return Ok(false);
            }
        };
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (key, header) in page {
            let groups = match index.groups(key) {
                Ok(groups) => groups,
                Err(error) => {
                    report.notes.push(format!("the index is damaged: {error}"));
                    return Ok(false);
                }
            };
            if let Some(chunk) = found::over(newer.get(key), Some((header, groups))) {
                write_one(files, key, &chunk, journal, report, progress)?;
            }
        }
    }
    for (key, _) in newer.after(None) {
        let known = index.header(key);
        if matches!(known, Ok(None))
            && let Some(chunk) = found::over(newer.get(key), None)
        {
            write_one(files, key, &chunk, journal, report, progress)?;
        }
    }
    Ok(true)
}

fn write_one(
    files: &mut Files,
    key: wire::chunk::ChunkKey,
    chunk: &Chunk,
    journal: &Journal,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), SalvageError> {
    files.write(key, chunk, journal)?;
    report.done.chunks += 1;
    report.done.bytes += u64::from(chunk.len);
    progress(report.done);
    Ok(())
}
