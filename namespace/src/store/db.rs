//! RocksDB, set up for a small and busy store.

use std::collections::BTreeMap;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::config::{BLOCK_CACHE_BYTES, WRITE_BUFFER_BYTES};
use crate::error::Error;
use crate::store::{Read, Visit, Write, identity};

/// The database of a namespace directory.
pub struct Db {
    db: DB,
}

impl Db {
    /// Opens the database in a directory that was claimed.
    ///
    /// # Errors
    /// If another process has it, or the disk fails.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_write_buffer_number(3);
        options.set_max_background_jobs(2);
        options.set_max_open_files(512);
        options.set_max_total_wal_size(4 * WRITE_BUFFER_BYTES as u64);
        // Writing into a file that was written before keeps its size, so that a flush of the
        // log does not have to write the inode of the file too.
        options.set_recycle_log_file_num(2);
        options.set_keep_log_file_num(3);
        options.set_max_log_file_size(4 << 20);
        options.set_bytes_per_sync(1 << 20);
        options.set_paranoid_checks(true);
        options.set_level_compaction_dynamic_level_bytes(true);
        let path = dir.join(identity::DB);
        let db = DB::open(&options, &path).map_err(|error| {
            let text = error.to_string();
            if text.contains("lock") && text.contains("LOCK") {
                Error::InUse { dir: dir.to_owned() }
            } else {
                Error::Db(error)
            }
        })?;
        Ok(Self { db })
    }

    /// A moment of the database, for reads that belong together.
    pub fn moment(&self) -> Moment<'_> {
        Moment { db: &self.db, snapshot: self.db.snapshot() }
    }

    /// Writes everything out of memory, so that the next start has no log to read.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn flush(&self) -> Result<(), Error> {
        Ok(self.db.flush()?)
    }
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
        Ok(self.db.get(key)?)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        walk(&self.db, ReadOptions::default(), from, to, visit)
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
        options.set_sync(true);
        Ok(self.db.write_opt(batch, &options)?)
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
