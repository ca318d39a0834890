//! RocksDB, set up for a small and busy store.
//!
//! 1. The directory of the database is `db`, or what the file `CURRENT-DB` says: another database
//!    takes its place by one rename, whatever crash comes (`another_state_takes_the_place`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::config::{BLOCK_CACHE_BYTES, WRITE_BUFFER_BYTES};
use crate::error::Error;
use crate::store::hold::Hold;
use crate::store::{Read, Visit, Write, identity};

/// File that names the directory of the database, where it is not [`identity::DB`].
pub const POINTER: &str = "CURRENT-DB";

/// What makes a batch durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The database itself: each batch is flushed.
    Flush,
    /// A log that has every batch until [`Db::flush`] returned after it: batches are in memory only.
    Log,
}

/// The database of a namespace directory.
pub struct Db {
    dir: PathBuf,
    durability: Durability,
    cache: Cache,
    db: RwLock<Arc<DB>>,
    _hold: Hold,
}

/// The directory of the database in use in a namespace directory.
///
/// # Errors
/// If that cannot be read.
pub fn current_dir(dir: &Path) -> Result<PathBuf, Error> {
    let pointer = dir.join(POINTER);
    match fs::read_to_string(&pointer) {
        Ok(name) if is_db_name(name.trim()) => Ok(dir.join(name.trim())),
        Ok(name) => Err(Error::NotNamespace {
            dir: dir.to_owned(),
            detail: format!("{POINTER} says {:?}, which is no name of a database", name.trim()),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(dir.join(identity::DB)),
        Err(source) => Err(Error::Io { path: pointer, source }),
    }
}

fn is_db_name(name: &str) -> bool {
    name == identity::DB || name.strip_prefix("db-").is_some_and(|n| n.parse::<u64>().is_ok())
}

fn options(cache: &Cache, create: bool, durability: Durability) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(create);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(3);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_max_total_wal_size(4 * WRITE_BUFFER_BYTES as u64);
    if durability == Durability::Flush {
        // Writing into a file that was written before keeps its size, so that a flush of the
        // log does not have to write the inode of the file too.
        options.set_recycle_log_file_num(2);
    }
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(4 << 20);
    options.set_bytes_per_sync(1 << 20);
    options.set_paranoid_checks(true);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

fn open(dir: &Path, path: &Path, cache: &Cache, create: bool, durability: Durability) -> Result<DB, Error> {
    DB::open(&options(cache, create, durability), path).map_err(|error| {
        let text = error.to_string();
        if text.contains("lock") && text.contains("LOCK") {
            Error::InUse { dir: dir.to_owned() }
        } else {
            Error::Db(error)
        }
    })
}

impl Db {
    /// Opens the database in a directory that was claimed.
    ///
    /// # Errors
    /// If another process has it, or the disk fails.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_with(dir, Durability::Flush, Hold::default())
    }

    /// The same, where something else may make batches durable.
    ///
    /// # Errors
    /// See [`Db::open`].
    pub fn open_with(dir: &Path, durability: Durability, hold: Hold) -> Result<Self, Error> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let path = current_dir(dir)?;
        // Behind a pointer there must be something.
        let db = open(dir, &path, &cache, path == dir.join(identity::DB), durability)?;
        let this =
            Self { dir: dir.to_owned(), durability, cache, db: RwLock::new(Arc::new(db)), _hold: hold };
        this.remove_others(&path);
        Ok(this)
    }

    fn now(&self) -> Arc<DB> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows a moment of the database, for reads that belong together.
    pub fn at_moment<T>(&self, read: impl FnOnce(&Moment<'_>) -> T) -> T {
        let db = self.now();
        read(&Moment { db: &db, snapshot: db.snapshot() })
    }

    /// Writes everything out of memory, so that the next start has no log to read.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn flush(&self) -> Result<(), Error> {
        Ok(self.now().flush()?)
    }

    /// Makes a directory that holds the state of now and shares files with this database.
    ///
    /// # Errors
    /// If it exists, or the disk fails.
    pub fn checkpoint(&self, to: &Path) -> Result<(), Error> {
        let db = self.now();
        db.flush()?;
        Ok(Checkpoint::new(&db)?.create_checkpoint(to)?)
    }

    /// Takes the database in a directory beside this one in its place. Who is reading reads the
    /// old one to the end.
    ///
    /// # Errors
    /// If it cannot be opened or put in place; then nothing has changed.
    pub fn replace(&self, from: &Path) -> Result<(), Error> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        // Opened where it is, it is seen to be whole before anything depends on it.
        drop(open(&self.dir, from, &self.cache, false, self.durability)?);
        let mut number = 1u64;
        let name = loop {
            let name = format!("db-{number}");
            if !self.dir.join(&name).exists() {
                break name;
            }
            number += 1;
        };
        let path = self.dir.join(&name);
        fs::rename(from, &path).map_err(io(from))?;
        let sync_dir = || File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io(&self.dir));
        sync_dir()?;
        let db = open(&self.dir, &path, &self.cache, false, self.durability)?;
        let draft = self.dir.join("CURRENT-DB.new");
        let mut out = File::create(&draft).map_err(io(&draft))?;
        out.write_all(name.as_bytes()).and_then(|()| out.sync_all()).map_err(io(&draft))?;
        fs::rename(&draft, self.dir.join(POINTER)).map_err(io(&draft))?;
        sync_dir()?;
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(db);
        self.remove_others(&path);
        Ok(())
    }

    /// Removes databases that are not in use. One that somebody still reads keeps its open files.
    fn remove_others(&self, current: &Path) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path != current
                && entry.file_name().to_str().is_some_and(is_db_name)
                && let Err(error) = fs::remove_dir_all(&path)
            {
                tracing::warn!(path = %path.display(), %error, "could not remove an old state of the namespace");
            }
        }
    }
}

/// A record of a database that nobody has open.
///
/// # Errors
/// If there is none, or the disk fails.
pub fn peek(dir: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let cache = Cache::new_lru_cache(1 << 20);
    Ok(DB::open_for_read_only(&options(&cache, false, Durability::Log), dir, false)?.get(key)?)
}

fn walk(
    db: &DB,
    mut options: ReadOptions,
    from: &[u8],
    to: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), Error> {
    options.set_iterate_upper_bound(to.to_vec());
    for pair in db.iterator_opt(IteratorMode::From(from, Direction::Forward), options) {
        let (key, value) = pair?;
        if visit(&key, &value)?.is_break() {
            break;
        }
    }
    Ok(())
}

impl Read for Db {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.now().get(key)?)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        walk(&self.now(), ReadOptions::default(), from, to, visit)
    }
}

impl Write for Db {
    fn write(&self, changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        match self.durability {
            Durability::Flush => options.set_sync(true),
            Durability::Log => options.disable_wal(true),
        }
        Ok(self.now().write_opt(batch, &options)?)
    }
}

/// A moment of a [`Db`].
pub struct Moment<'a> {
    db: &'a DB,
    snapshot: rocksdb::Snapshot<'a>,
}

impl Read for Moment<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.snapshot.get(key)?)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        walk(self.db, options, from, to, visit)
    }
}
