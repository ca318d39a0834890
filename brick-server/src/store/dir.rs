//! A brick's directory: whose it is, and that one process has it.
//!
//! 1. A directory of another cluster, brick or a newer format, or with parts missing, is
//!    refused with one line, and nothing in it is changed (`other_directories_are_refused`).
//! 2. Two processes never serve one directory (`a_second_holder_is_refused_by_name`).
//! 3. Formatting never touches data that is there (`formatting_spares_what_is_there`).
//! 4. Whose it is, is written twice, so that one damaged file does not make data nobody's
//!    (`a_damaged_identity_is_mended_from_its_copy`).

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use wire::id::{BootId, BrickId, ClusterId, StoreId};
use wire::map::ClusterMap;

use super::StoreError;
use super::engine::{Engine, Io, Limits};
use super::file_disk::{FileDisk, Means, file_name};
use super::hints::{HINTS_FILE, Hints};
use super::index::IndexError;
use super::lease::lock;
use super::lives::{self, LIVES_FILE, Lives};
use super::log;
use super::open::Medium;
use super::reserve::{RESERVE_FILE, Reserve, Space};
use super::rocks::RocksIndex;
use super::seen::{self, MAP_FILE};

/// Version of the directory's format.
///
/// | version | since | why |
/// |---|---|---|
/// | 1 | 0.1.0 | the first: index with a log of its own; no directory of it is in use anywhere, so it is refused, not converted |
/// | 2 | 0.2.0 | one journal, the index is its cache; a table of owners; names of files |
pub const FORMAT_VERSION: u32 = 2;
/// The file that says what the directory is.
pub const IDENTITY_FILE: &str = "brick.json";
/// The same again.
const IDENTITY_COPY: &str = "brick.json.copy";
/// What the server of the brick keeps beside it; not this module's.
pub const NODE_DIR: &str = "node";
const LOCK_FILE: &str = "lock";
/// The directory of the index.
pub const INDEX_DIR: &str = "index";
/// The two segments of the journal.
pub const JOURNAL_FILES: [&str; 2] = ["journal.0", "journal.1"];
/// First part of the names of the data files.
pub const DATA_NAME: &str = "data";
/// First part of the names of the files of the table of owners.
pub const OWNERS_NAME: &str = "owners";
const OWNERS_FILE: &str = "owners.0";
/// Bytes of a segment of the journal.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Decides how input and output are done, before [`Limits::io`].
const IO_VARIABLE: &str = "BRICKYARD_DISK_IO";
const MAGIC: &str = "brickyard brick";
/// Bytes that a new brick takes at once: its journal, and an empty index with some room to breathe.
const NEW_BYTES: u64 = 2 * SEGMENT_BYTES + (8 << 20);

/// Why a directory is not served, or not formatted. One line each.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// There is no brick in it.
    #[error(
        "{dir} holds no brick (no {IDENTITY_FILE}): look whether its disk is mounted; only a new or replaced disk is to be \
         formatted", dir = dir.display()
    )]
    NoBrick {
        /// The directory.
        dir: PathBuf,
    },
    /// What `brick.json` says makes no sense.
    #[error(
        "{file} is damaged, and there is no good copy of it: {detail}; put its backup back, or get the files off the \
         directory with `brickyard salvage`", file = file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Written by a newer version.
    #[error("{dir} has format {found}, this program knows {FORMAT_VERSION}; use a newer brickyard", dir = dir.display())]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Written by an older version.
    #[error("{dir} has format {found}, this program knows {FORMAT_VERSION} and can't convert it; read it with the brickyard that wrote it, or make the brick anew in an empty directory", dir = dir.display())]
    OlderFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It belongs to another cluster.
    #[error(
        "{dir} belongs to cluster {found}, this is cluster {ours}; put this cluster's brick there, or an empty directory, \
         which is filled from the copies",
        dir = dir.display()
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The one it was to be used for.
        ours: ClusterId,
    },
    /// It is another brick.
    #[error("{dir} is brick {found}, not brick {wanted}; put each brick into its own place", dir = dir.display())]
    OtherBrick {
        /// The directory.
        dir: PathBuf,
        /// What it is.
        found: BrickId,
        /// What it was taken for.
        wanted: BrickId,
    },
    /// A part of it is gone.
    #[error(
        "{dir} is incomplete: {part} is missing; put it back, make the brick anew from its copies (`brickyard brick \
         --replace` in an empty directory), or get the files off with `brickyard salvage`",
        dir = dir.display()
    )]
    Missing {
        /// The directory.
        dir: PathBuf,
        /// Which part.
        part: String,
    },
    /// Another process serves it.
    #[error("{dir} is in use by process {holder}; stop that one first", dir = dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process' number, as it wrote it.
        holder: String,
    },
    /// Its disk is too full for a new brick; nothing was made.
    #[error(
        "there is too little room for a brick in {dir}: {} MiB are free, and a new one takes {} MiB at once; make room, or \
         give another disk, and do the same again", free >> 20, NEW_BYTES >> 20, dir = dir.display()
    )]
    NoRoom {
        /// The directory.
        dir: PathBuf,
        /// Bytes that are free.
        free: u64,
    },
    /// There is something in it already.
    #[error("{dir} can't be formatted: it holds {what}", dir = dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        what: String,
    },
    /// The operating system says no.
    #[error("{path}: {why}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it says.
        why: io::Error,
    },
    /// The index can't be opened.
    #[error("{dir}: {why}; {}", advice(why), dir = dir.display())]
    Index {
        /// The directory.
        dir: PathBuf,
        /// What it says.
        why: IndexError,
    },
    /// The store can't be opened.
    #[error("{dir}: {why}", dir = dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// What it says.
        why: StoreError,
    },
}

/// What to do about an index that can't be opened. The journal is that of the last changes only: the rest of what the
/// index knew can't be made anew from it.
fn advice(why: &IndexError) -> &'static str {
    match why {
        IndexError::NoSpace(_) => "make room on its disk",
        IndexError::Failed(_) => {
            "if it is damaged, nothing here replaces it: make the brick anew from its copies (`brickyard brick --replace` in \
             an empty directory), or get the files off with `brickyard salvage`, which needs no index"
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DirError + '_ {
    move |why| DirError::Io { path: path.to_owned(), why }
}

/// What `brick.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IdentityFile {
    magic: String,
    format: u32,
    cluster: String,
    brick: u32,
    store: String,
}

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The brick.
    pub brick: BrickId,
    /// Drawn when it was formatted.
    pub store: StoreId,
}

/// Random bytes from the operating system.
///
/// # Errors
/// If it has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], DirError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(at(path))?;
    Ok(bytes)
}

/// The first thing in a directory without a brick that is not from an interrupted formatting.
///
/// # Errors
/// If it can't be read.
pub fn stranger(dir: &Path) -> Result<Option<String>, DirError> {
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name();
        let metadata = entry.metadata().map_err(at(&entry.path()))?;
        let ours = match name.to_str() {
            Some(LOCK_FILE | INDEX_DIR | NODE_DIR | "lost+found" | "brick.json.new") => true,
            // Until there is an identity nothing was ever written.
            Some(name) if JOURNAL_FILES.contains(&name) => is_ours_or_blank(&entry.path(), log::is_segment)?,
            Some(LIVES_FILE) => is_ours_or_blank(&entry.path(), lives::is_slot)?,
            Some(name) => (name == file_name(0) || name == OWNERS_FILE) && metadata.len() == 0,
            None => false,
        };
        if !ours {
            return Ok(Some(name.display().to_string()));
        }
    }
    Ok(None)
}

/// Refuses a disk on which there is too little room for a new brick. The directory need not exist yet; what an
/// interrupted formatting has taken in it counts as free.
///
/// # Errors
/// [`DirError::NoRoom`]; [`DirError::Io`] if it can't be told.
pub fn ensure_room(dir: &Path) -> Result<(), DirError> {
    let there = std::path::absolute(dir).map_err(at(dir))?;
    let there = there.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = Space::of(there).map_err(at(there))?.free;
    let taken = |name| fs::metadata(dir.join(name)).map_or(0, |found| found.blocks() * 512);
    let taken: u64 = JOURNAL_FILES.into_iter().map(taken).sum();
    if free + taken < NEW_BYTES { Err(DirError::NoRoom { dir: dir.to_owned(), free }) } else { Ok(()) }
}

/// Makes a brick directory. One whose formatting was interrupted is begun anew.
///
/// # Errors
/// [`DirError::NotEmpty`] if there is anything in it that is not from formatting, [`DirError::NoRoom`].
pub fn format(dir: &Path, cluster: ClusterId, brick: BrickId) -> Result<StoreId, DirError> {
    let store = StoreId(random()?);
    format_as(dir, cluster, brick, store)?;
    Ok(store)
}

/// The same with a store id that was drawn before.
///
/// # Errors
/// See [`format()`].
pub fn format_as(dir: &Path, cluster: ClusterId, brick: BrickId, store: StoreId) -> Result<(), DirError> {
    ensure_room(dir)?;
    fs::create_dir_all(dir).map_err(at(dir))?;
    close_to_others(dir).map_err(at(dir))?;
    let _held = hold(dir)?;
    if let Some(what) = stranger(dir)? {
        return Err(DirError::NotEmpty { dir: dir.to_owned(), what });
    }
    let index = dir.join(INDEX_DIR);
    if index.exists() {
        fs::remove_dir_all(&index).map_err(at(&index))?;
    }
    drop(RocksIndex::create(&index).map_err(|why| DirError::Index { dir: dir.to_owned(), why })?);
    for name in [file_name(0).as_str(), OWNERS_FILE, JOURNAL_FILES[0], JOURNAL_FILES[1]] {
        let path = dir.join(name);
        File::create(&path).and_then(|file| file.sync_all()).map_err(at(&path))?;
    }
    let segments = open_journal(dir, &Means::buffered())?;
    log::format(&segments, store_number(store), SEGMENT_BYTES).map_err(at(&dir.join(JOURNAL_FILES[0])))?;
    Lives::create(dir).map_err(at(&dir.join(LIVES_FILE)))?;
    let identity = IdentityFile {
        magic: MAGIC.to_owned(),
        format: FORMAT_VERSION,
        cluster: cluster.to_string(),
        brick: brick.0,
        store: store.to_string(),
    };
    let file = dir.join(IDENTITY_FILE);
    let mut text = serde_json::to_string_pretty(&identity)
        .map_err(|e| DirError::Damaged { file: file.clone(), detail: e.to_string() })?;
    text.push('\n');
    write_identity(dir, IDENTITY_COPY, &text)?;
    write_identity(dir, IDENTITY_FILE, &text)?;
    // The directory itself, in the one above it.
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(at(parent)),
        None => Ok(()),
    }
}

/// Writes one of the two files that say whose the directory is: whole, or not at all.
fn write_identity(dir: &Path, name: &str, text: &str) -> Result<(), DirError> {
    let (file, new) = (dir.join(name), dir.join("brick.json.new"));
    let write = || {
        let mut out = File::create(&new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(at(&file))
}

/// Writes the file or its copy anew from the other, where one is missing or damaged.
fn mend_identity(dir: &Path) -> Result<(), DirError> {
    let is_bad =
        |name| matches!(read_identity(dir, name), Err(DirError::NoBrick { .. } | DirError::Damaged { .. }));
    for (name, other) in [(IDENTITY_FILE, IDENTITY_COPY), (IDENTITY_COPY, IDENTITY_FILE)] {
        if is_bad(name) {
            let text = fs::read_to_string(dir.join(other)).map_err(at(&dir.join(other)))?;
            write_identity(dir, name, &text)?;
            if name == IDENTITY_FILE {
                tracing::warn!(file = %dir.join(name).display(), "was missing or damaged: written anew from its copy");
            }
        }
    }
    Ok(())
}

/// Whether a file that is called like one of ours begins like it, or holds nothing yet.
fn is_ours_or_blank(path: &Path, is_ours: fn(&[u8]) -> bool) -> Result<bool, DirError> {
    let mut head = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read(&mut head)).map_err(at(path))?;
    Ok(read == 0 || head == [0; 4] || is_ours(&head))
}

fn open_journal(dir: &Path, means: &Means) -> Result<[FileDisk; 2], DirError> {
    let open = |name| FileDisk::open_single(dir, name, means).map_err(at(&dir.join(name)));
    Ok([open(JOURNAL_FILES[0])?, open(JOURNAL_FILES[1])?])
}

/// The number by which journal records know their brick.
pub fn store_number(store: StoreId) -> u64 {
    store.0.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Whose directory it is.
///
/// # Errors
/// [`DirError::NoBrick`], [`DirError::Damaged`], [`DirError::NewerFormat`],
/// [`DirError::OlderFormat`], [`DirError::Io`].
pub fn identify(dir: &Path) -> Result<Identity, DirError> {
    match read_identity(dir, IDENTITY_FILE) {
        Err(error @ (DirError::NoBrick { .. } | DirError::Damaged { .. })) => {
            read_identity(dir, IDENTITY_COPY).map_err(|_| error)
        }
        found => found,
    }
}

fn read_identity(dir: &Path, name: &str) -> Result<Identity, DirError> {
    let file = dir.join(name);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(DirError::NoBrick { dir: dir.to_owned() });
        }
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            return Err(DirError::Damaged { file, detail: e.to_string() });
        }
        Err(e) => return Err(at(&file)(e)),
    };
    let damaged = |detail: String| DirError::Damaged { file: file.clone(), detail };
    // The format first: a newer one may say anything else in another way.
    let any: serde_json::Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    if any.get("magic").and_then(|m| m.as_str()) != Some(MAGIC) {
        return Err(damaged("it is no brick's identity".to_owned()));
    }
    match any.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(FORMAT_VERSION) => {
            return Err(DirError::NewerFormat {
                dir: dir.to_owned(),
                found: found.try_into().unwrap_or(u32::MAX),
            });
        }
        Some(found @ 1) => return Err(DirError::OlderFormat { dir: dir.to_owned(), found: found as u32 }),
        Some(found) if found == u64::from(FORMAT_VERSION) => {}
        _ => return Err(damaged("it has no format this program knows".to_owned())),
    }
    let parsed: IdentityFile = serde_json::from_value(any).map_err(|e| damaged(e.to_string()))?;
    Ok(Identity {
        cluster: parsed.cluster.parse().map_err(|e| damaged(format!("{e}")))?,
        brick: BrickId(parsed.brick),
        store: parsed.store.parse().map_err(|e| damaged(format!("{e}")))?,
    })
}

/// Locks a directory for this process.
fn hold(dir: &Path) -> Result<File, DirError> {
    let path = dir.join(LOCK_FILE);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Whatever the holder wrote is better than nothing.
            let _ = file.read_to_string(&mut holder);
            let holder = Some(holder.trim().to_owned()).filter(|h| !h.is_empty());
            return Err(DirError::InUse {
                dir: dir.to_owned(),
                holder: holder.unwrap_or_else(|| "unknown".to_owned()),
            });
        }
        Err(fs::TryLockError::Error(why)) => return Err(at(&path)(why)),
    }
    // Always as long, and never cut: no room is needed for it on a full disk.
    writeln!(file, "{:<10}", std::process::id()).map_err(at(&path))?;
    Ok(file)
}

/// Counts the open bricks of this process on each filesystem: they share what is left of it.
#[derive(Debug)]
struct Sharing {
    count: Arc<AtomicU64>,
}

impl Sharing {
    fn join(device: u64) -> Sharing {
        static BRICKS: Mutex<Option<HashMap<u64, Arc<AtomicU64>>>> = Mutex::new(None);
        let mut bricks = lock(&BRICKS);
        let count = bricks.get_or_insert_default().entry(device).or_default().clone();
        count.fetch_add(1, Ordering::Relaxed);
        Sharing { count }
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A brick directory that this process serves; it is free for others when dropped.
#[derive(Debug)]
pub struct Held {
    /// Whose it is.
    pub identity: Identity,
    dir: PathBuf,
    _lock: File,
    sharing: Sharing,
}

/// The engine over real files.
pub type FileStore = Engine<FileDisk, RocksIndex>;

/// Everybody's files are in there: nobody but the owner of the directory looks into it, whatever the modes of the files.
fn close_to_others(dir: &Path) -> io::Result<()> {
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o7700))?;
    }
    Ok(())
}

impl Held {
    /// Takes a directory, if it is the one that is meant and all of it is there.
    ///
    /// # Errors
    /// See [`DirError`]; nothing was changed.
    pub fn take(dir: &Path, cluster: ClusterId, brick: Option<BrickId>) -> Result<Held, DirError> {
        let identity = identify(dir)?;
        if identity.cluster != cluster {
            return Err(DirError::OtherCluster {
                dir: dir.to_owned(),
                found: identity.cluster,
                ours: cluster,
            });
        }
        if let Some(wanted) = brick.filter(|wanted| *wanted != identity.brick) {
            return Err(DirError::OtherBrick { dir: dir.to_owned(), found: identity.brick, wanted });
        }
        let device = fs::metadata(dir).map_err(at(dir))?.dev();
        let current = format!("{INDEX_DIR}/CURRENT");
        let data = file_name(0);
        for part in [&data, JOURNAL_FILES[0], JOURNAL_FILES[1], OWNERS_FILE, INDEX_DIR, &current] {
            let part = part.to_owned();
            if !dir.join(&part).exists() {
                return Err(DirError::Missing { dir: dir.to_owned(), part });
            }
        }
        let lock = hold(dir)?;
        close_to_others(dir).map_err(at(dir))?;
        mend_identity(dir)?;
        Ok(Held { identity, dir: dir.to_owned(), _lock: lock, sharing: Sharing::join(device) })
    }

    /// Begins a life of the brick in it. Where that can't be noted the disk is said to have failed, unless it is one of before
    /// lives were noted and has no room: then nothing is known of it for now.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn begin_life(&self, boot: BootId) -> Result<Option<Lives>, DirError> {
        let file = self.dir.join(LIVES_FILE);
        let was_there = file.exists();
        match Lives::begin(&self.dir, boot) {
            Ok(lives) => Ok(Some(lives)),
            Err(error) if !was_there && error.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!(file = %file.display(), "no room to note the lives of this brick in: noted when there is");
                // Not worth keeping, if it could be made at all.
                let _ = fs::remove_file(&file);
                Ok(None)
            }
            Err(error) => Err(at(&file)(error)),
        }
    }

    /// The newest map that was noted in it.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn seen_map(&self) -> Result<Option<ClusterMap>, DirError> {
        let seen = seen::read(&self.dir).map_err(at(&self.dir.join(MAP_FILE)))?;
        Ok(seen.filter(|map| map.cluster == self.identity.cluster))
    }

    /// Notes a map in it, in place of the one before.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note_map(&self, map: &ClusterMap) -> io::Result<()> {
        seen::write(&self.dir, map)
    }

    /// Opens the store in it.
    ///
    /// # Errors
    /// [`DirError::Io`], [`DirError::Index`], [`DirError::Store`].
    pub fn open(&self, limits: Limits) -> Result<FileStore, DirError> {
        let dir = self.dir.clone();
        let wish = match std::env::var(IO_VARIABLE).as_deref() {
            Ok("threads") => Io::Threads,
            Ok("buffered") => Io::Buffered,
            _ => limits.io,
        };
        let means = Means::choose(wish);
        if Reserve::in_dir(&dir).give_up_if_full().map_err(at(&dir.join(RESERVE_FILE)))? {
            tracing::warn!(dir = %dir.display(), "the disk is full: opened in the room set aside for that; make room");
        }
        let index = RocksIndex::open(&dir.join(INDEX_DIR), means.silence().clone())
            .map_err(|why| DirError::Index { dir: dir.clone(), why })?;
        let medium = Medium {
            data: FileDisk::open(&dir, DATA_NAME, &means).map_err(at(&dir.join(file_name(0))))?,
            journal: open_journal(&dir, &means)?,
            // Changed a few bytes at a time, all over the place: what the page cache is for.
            owners: FileDisk::open(&dir, OWNERS_NAME, &means.through_cache())
                .map_err(at(&dir.join(OWNERS_FILE)))?,
            index,
            hints: Hints::open(&dir, means.silence().clone()).map_err(at(&dir.join(HINTS_FILE)))?,
            store: store_number(self.identity.store),
        };
        medium.index.set_room_aside().map_err(|why| DirError::Index { dir: dir.clone(), why })?;
        Engine::open(medium, limits, self.sharing.count.clone()).map_err(|why| DirError::Store { dir, why })
    }

    /// Whether the directory is still the one that was taken.
    pub fn is_there(&self) -> bool {
        identify(&self.dir).is_ok_and(|found| found == self.identity)
    }
}
