//! Plain files off one brick directory, with no cluster and no other brick.
//!
//! What is known of chunks comes from the index and the journal, and where the index can't be read,
//! from the table of owners and the journal. Nothing in the brick's directory is changed, so it can be
//! on a disk that is mounted read-only.
//!
//! 1. What lands in a file was checked against its checksum (`damage_is_told_and_left_out`).
//! 2. The source is not written to (`a_pulled_disk_gives_its_files`).
//! 3. Content that is older than what was acknowledged, because a part of the journal is lost, is named
//!    (`a_damaged_journal_never_hides_what_is_older`).
//! 4. What is in the output does not depend on the order of the bricks: the newest of each chunk, and where that can't be
//!    told, both (`the_order_of_bricks_does_not_matter`, `a_stale_brick_changes_nothing`).
//! 5. Without the index the files are the same, but for what only the index knew: clones, holes and
//!    deletions (`without_the_index_owners_tell`).

mod copies;
mod found;
mod kept;
mod names;
mod scan;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use wire::chunk::ChunkKey;
use wire::id::Ino;

use super::dir::{self, DATA_NAME, DirError, IDENTITY_FILE, INDEX_DIR, JOURNAL_FILES, OWNERS_NAME};
use super::file_disk::{FileDisk, file_name};
use super::hints::{self, HINTS_FILE};
use super::index::Index;
use super::owners::{self, Owner};
use super::rocks::RocksIndex;
use found::{Chunk, Journal, Owned};
use kept::{KEPT_DIR, Kept};
use write::Files;

/// Where RocksDB tells what it did, beside what is kept; removed in the end.
const LOG_DIR: &str = "index-log";

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
    /// What is in the output is not from here.
    #[error(
        "{out} is not empty, and salvage has not filled it ({KEPT_DIR} is not there): give an empty directory, and salvage \
         every brick into it", out = .0.display()
    )]
    Strange(PathBuf),
    /// What is in the output is not whole.
    #[error(
        "a brick was being salvaged into {out}, and that did not end: what is there can't be relied on; give an empty \
         directory, and salvage every brick into it", out = .0.display()
    )]
    Interrupted(PathBuf),
    /// What is kept in the output can't be used.
    #[error("{file}: {why}; give an empty directory, and salvage every brick into it", file = file.display())]
    State {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another chunk size was said for other bricks.
    #[error(
        "the bricks before were salvaged into {out} with chunks of {found} MiB, and now {said} MiB are said: say the same \
         (--chunk-mib), or give an empty directory", out = out.display()
    )]
    OtherChunks {
        /// The output.
        out: PathBuf,
        /// In MiB.
        found: u32,
        /// In MiB.
        said: u32,
    },
    /// The output is of another cluster.
    #[error("{out} holds files of cluster {found}, and this brick is of cluster {ours}: give another directory", out = out.display())]
    OtherCluster {
        /// The output.
        out: PathBuf,
        /// Its cluster.
        found: String,
        /// The brick's.
        ours: String,
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
    /// A part of the journal is lost that may have told of something newer.
    pub older: bool,
    /// Files beside it, below the output, with what other bricks have in its place: nobody can tell which is newer.
    pub kept: Vec<PathBuf>,
    /// Bricks that had a part of it and have it no more: the file was removed or shortened, or it was before it was
    /// written anew.
    pub removed_on: BTreeSet<String>,
}

/// What was salvaged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Bricks in the output, with this one.
    pub bricks: u64,
    /// Files of this brick.
    pub files: u64,
    /// Those of them of which nothing is to be said.
    pub whole: u64,
    /// Chunks and bytes of them.
    pub done: Progress,
    /// Whether the index told where everything is.
    pub by_index: bool,
    /// Files of which something is to be said, by path below the output; also of bricks before.
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
/// made with. Several bricks are salvaged into one output, one after the other, in any order; `out` is empty
/// before the first one.
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
    let (source, cluster) = match dir::identify(dir) {
        Ok(found) => ((found.brick.0, dir::store_number(found.store)), Some(found.cluster.to_string())),
        Err(_) => ((u32::MAX, crc32c::crc32c(dir.as_os_str().as_encoded_bytes()).into()), None),
    };
    let mut kept = Kept::open(out, cluster, chunk_bytes)?;
    kept.busy = true;
    kept.sources.insert(source);
    kept.save(out)?;
    let mut report = Report::default();
    let names = hints::read(&dir.join(HINTS_FILE)).unwrap_or_else(|error| {
        report.notes.push(format!("no names of files: {error}"));
        BTreeMap::new()
    });
    let journal = read_journal(dir);
    let mut files = Files::new(out.to_owned(), kept, source, data);
    let log_dir = out.join(KEPT_DIR).join(LOG_DIR);
    std::fs::create_dir_all(&log_dir).map_err(at(&log_dir))?;
    let index = RocksIndex::open_read_only(&dir.join(INDEX_DIR), &log_dir);
    report.by_index = match index {
        Ok(index) => write_by_index(&index, &journal, &mut files, &mut report, progress)?,
        Err(error) => {
            report.notes.push(format!("the index can't be read: {error}"));
            false
        }
    };
    let table = FileDisk::open_read_only(dir, OWNERS_NAME, false)
        .inspect_err(|error| report.notes.push(format!("the table of owners can't be read: {error}")));
    if report.by_index {
        note_gone(&mut files, &journal, table.ok().as_ref(), &mut report);
    } else {
        let mut owned = Owned::default();
        if let Ok(table) = table {
            owned.read(&table, &mut report.notes);
        }
        owned.add(journal.described(journal.before()));
        let ages = Ages::of(&journal, journal.before(), &mut report);
        for (key, mut chunk) in owned.chunks(&journal) {
            // What the index told before it was found to be damaged is as good as it gets.
            if !files.seen.contains(&(key.ino.0, key.index)) {
                chunk.older |= ages.may_be_older(key);
                write_one(&mut files, key, &chunk, &journal, &mut report, progress)?;
            }
        }
    }
    for ino in files.seen.iter().map(|(ino, _)| *ino).collect::<BTreeSet<u64>>() {
        if let Some(name) = names.get(&Ino(ino)) {
            files.kept.names.entry(ino).or_default().insert(source, name.clone());
        }
    }
    std::fs::remove_dir_all(&log_dir).map_err(at(&log_dir))?;
    files.finish(&mut report)?;
    Ok(report)
}

/// Notes which chunks the brick had and has no more: another one may be out of date and have them still. What is
/// lost of the brick says nothing.
fn note_gone(files: &mut Files, journal: &Journal, table: Option<&FileDisk>, report: &mut Report) {
    for key in &files.seen {
        if let Some(gone) = files.kept.gone.get_mut(key) {
            gone.remove(&files.source);
        }
    }
    let Some(table) = table.filter(|_| report.notes.is_empty()) else { return };
    let mut had: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut see = |owner: Owner| {
        let key = (owner.key.ino.0, owner.key.index);
        if !files.seen.contains(&key) {
            let version = had.entry(key).or_default();
            *version = (*version).max(owner.version);
        }
    };
    journal.described(0).into_values().for_each(&mut see);
    if let Err(error) = owners::each(table, &mut |_, owner| see(owner)) {
        report.notes.push(format!("the table of owners: {error}"));
    }
    for (key, version) in had {
        files.kept.gone.entry(key).or_default().insert(files.source, version);
    }
}

fn read_journal(dir: &Path) -> Journal {
    let store = dir::identify(dir).map(|identity| dir::store_number(identity.store));
    let open = |name| FileDisk::open_read_only(dir, name, true);
    let segments = open(JOURNAL_FILES[0]).and_then(|a| Ok([a, open(JOURNAL_FILES[1])?]));
    match (store, segments) {
        (Ok(store), Ok(segments)) => Journal::read(&segments, store),
        (Err(error), _) => Journal::none(error.to_string()),
        (_, Err(error)) => Journal::none(format!("it can't be read: {error}")),
    }
}

/// Which chunks may be older than what was acknowledged.
struct Ages {
    upto: u64,
    touched: BTreeMap<ChunkKey, u64>,
}

impl Ages {
    /// `known`: the last record that is known otherwise.
    fn of(journal: &Journal, known: u64, report: &mut Report) -> Ages {
        let Some(lost) = journal.lost(known) else { return Ages { upto: 0, touched: BTreeMap::new() } };
        let note = format!(
            "a part of the journal is lost: {}; the last changes of this brick may be missing: files they may concern are \
             named as possibly older, files that were new are not there",
            lost.what
        );
        if !report.notes.contains(&note) {
            report.notes.push(note);
        }
        Ages { upto: lost.upto, touched: journal.touched(known) }
    }

    fn may_be_older(&self, key: ChunkKey) -> bool {
        self.upto > self.touched.get(&key).copied().unwrap_or(0)
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
    let applied = match index.applied() {
        Ok(applied) => applied,
        Err(error) => {
            report.notes.push(format!("the index is damaged: {error}"));
            return Ok(false);
        }
    };
    let newer = journal.after(applied);
    let ages = Ages::of(journal, applied, report);
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
            if let Some(mut chunk) = found::over(newer.get(key), Some((header, groups))) {
                chunk.older |= ages.may_be_older(key);
                write_one(files, key, &chunk, journal, report, progress)?;
            }
        }
    }
    for (key, _) in newer.after(None) {
        let known = index.header(key);
        if matches!(known, Ok(None))
            && let Some(mut chunk) = found::over(newer.get(key), None)
        {
            chunk.older |= ages.may_be_older(key);
            write_one(files, key, &chunk, journal, report, progress)?;
        }
    }
    Ok(true)
}

fn write_one(
    files: &mut Files,
    key: ChunkKey,
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
