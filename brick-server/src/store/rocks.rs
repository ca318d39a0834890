//! The index in RocksDB, without a write-ahead log: the store's journal is that. A batch goes into
//! one memtable whole, and memtables are flushed in order, so that what a crash leaves is always
//! a prefix of the batches; the mark in it says which. On a full disk it is not asked to write (see
//! `room`).

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, LogLevel, Options, ReadOptions,
    WriteBatch, WriteOptions,
};
use wire::chunk::ChunkKey;

use super::index::{Index, IndexChange, IndexError};
use super::record::{
    Group, Header, MARK_KEY, RecordError, group_key, header_key, parse_group_key, parse_header_key,
};
use super::room::{Leave, Room};
use super::silence::Silence;

/// Cache of index blocks shared by all bricks of a process, in bytes.
const CACHE_BYTES: usize = 32 << 20;
/// One memtable, in bytes; there are at most two a brick. The store flushes it whenever it trims its
/// journal.
const WRITE_BUFFER_BYTES: usize = 8 << 20;
/// Open table files a brick.
const OPEN_FILES: i32 = 128;
/// Its option that says whether tables are merged.
const NO_COMPACTIONS: &str = "disable_auto_compactions";
/// Bytes in memory that a flush would write.
const MEMORY_PROPERTY: &str = "rocksdb.cur-size-all-mem-tables";
/// Bytes of its tables.
const TABLES_PROPERTY: &str = "rocksdb.live-sst-files-size";

/// See the module's head.
pub struct RocksIndex {
    db: DB,
    options: Options,
    no_log: WriteOptions,
    /// None where nothing is written.
    room: Option<Room>,
    /// Whether tables are merged now.
    tidies: AtomicBool,
    silence: Silence,
}

impl std::fmt::Debug for RocksIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksIndex").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

fn failed(error: &rocksdb::Error) -> IndexError {
    let text = error.to_string();
    // The binding hands on neither subcode nor errno, only the message.
    if text.contains("No space left") || text.contains("NoSpace") {
        IndexError::NoSpace(text)
    } else {
        IndexError::Failed(text)
    }
}

fn no_room(error: &std::io::Error) -> IndexError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            IndexError::NoSpace(error.to_string())
        }
        _ => IndexError::Failed(format!("its room: {error}")),
    }
}

fn unreadable(error: RecordError) -> IndexError {
    IndexError::Failed(error.to_string())
}

fn options() -> Options {
    static CACHE: OnceLock<Cache> = OnceLock::new();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(CACHE.get_or_init(|| Cache::new_lru_cache(CACHE_BYTES)));
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options
}

impl RocksIndex {
    /// Makes an empty index.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn create(path: &Path) -> Result<RocksIndex, IndexError> {
        let mut options = options();
        options.create_if_missing(true);
        RocksIndex::with(options, path)
    }

    /// Opens one that exists.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn open(path: &Path, silence: Silence) -> Result<RocksIndex, IndexError> {
        Ok(RocksIndex { silence, ..RocksIndex::with(options(), path)? })
    }

    /// Opens one for reading, changing nothing in it; what RocksDB has to tell goes to `log_dir`.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn open_read_only(path: &Path, log_dir: &Path) -> Result<RocksIndex, IndexError> {
        let mut options = options();
        options.set_db_log_dir(log_dir);
        let db = DB::open_for_read_only(&options, path, false).map_err(|e| failed(&e))?;
        let (no_log, tidies) = (WriteOptions::default(), AtomicBool::new(false));
        Ok(RocksIndex { db, options, no_log, room: None, tidies, silence: Silence::default() })
    }

    fn with(options: Options, path: &Path) -> Result<RocksIndex, IndexError> {
        let room = Room::beside(path.parent().unwrap_or(path));
        let db = DB::open(&options, path).map_err(|e| failed(&e))?;
        let mut no_log = WriteOptions::default();
        no_log.disable_wal(true);
        Ok(RocksIndex {
            db,
            options,
            no_log,
            room: Some(room),
            tidies: AtomicBool::new(true),
            silence: Silence::default(),
        })
    }

    /// Sets room aside for the time when the disk is full, if there is plenty now.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn set_room_aside(&self) -> Result<(), IndexError> {
        self.room.as_ref().map_or(Ok(false), Room::set_aside).map(drop).map_err(|e| no_room(&e))
    }

    /// Refuses where there would be no room for `more` bytes and what is in memory.
    fn find_room(&self, more: usize) -> Result<(), IndexError> {
        let Some(room) = &self.room else { return Ok(()) };
        let tell = |property| self.db.property_int_value(property).map_err(|e| failed(&e));
        let in_memory = tell(MEMORY_PROPERTY)?.unwrap_or(2 * WRITE_BUFFER_BYTES as u64) + more as u64;
        let in_tables = tell(TABLES_PROPERTY)?.unwrap_or(0);
        let leave = room.ask(in_memory, in_tables).map_err(|e| no_room(&e))?;
        self.tidy(leave == Leave::All)?;
        match leave {
            Leave::All | Leave::Flushes => Ok(()),
            Leave::Nothing => Err(IndexError::NoSpace(format!("{in_memory} bytes are to be written"))),
        }
    }

    /// Merges tables from now on, or not.
    fn tidy(&self, wanted: bool) -> Result<(), IndexError> {
        if self.tidies.swap(wanted, Ordering::Relaxed) == wanted {
            return Ok(());
        }
        tracing::info!(wanted, "merging tables of the index, by the room there is");
        let value = if wanted { "false" } else { "true" };
        self.db.set_options(&[(NO_COMPACTIONS, value)]).map_err(|e| failed(&e))?;
        if wanted { self.set_room_aside() } else { Ok(()) }
    }

    fn groups_from(
        &self,
        from: &[u8],
        beyond: &[u8],
        fill_cache: bool,
        see: &mut dyn FnMut(ChunkKey, u32, &Group) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(beyond);
        read.fill_cache(fill_cache);
        for entry in self.db.iterator_opt(IteratorMode::From(from, Direction::Forward), read) {
            let (key, value) = entry.map_err(|e| failed(&e))?;
            let malformed = || unreadable(RecordError::Malformed { what: "key of a group" });
            let (key, group) = parse_group_key(&key).ok_or_else(malformed)?;
            see(key, group, &Group::decode(&value).map_err(unreadable)?)?;
        }
        Ok(())
    }
}

/// The first key after all groups of a chunk.
fn beyond_groups(key: ChunkKey) -> Vec<u8> {
    let mut beyond = group_key(key, u32::MAX).to_vec();
    beyond.push(0);
    beyond
}

impl Index for RocksIndex {
    fn header(&self, key: ChunkKey) -> Result<Option<Header>, IndexError> {
        let _asked = self.silence.read();
        let found = self.db.get_pinned(header_key(key)).map_err(|e| failed(&e))?;
        found.map(|bytes| Header::decode(&bytes).map_err(unreadable)).transpose()
    }

    fn group(&self, key: ChunkKey, group: u32) -> Result<Option<Group>, IndexError> {
        let _asked = self.silence.read();
        let found = self.db.get_pinned(group_key(key, group)).map_err(|e| failed(&e))?;
        found.map(|bytes| Group::decode(&bytes).map_err(unreadable)).transpose()
    }

    fn groups(&self, key: ChunkKey) -> Result<Vec<(u32, Group)>, IndexError> {
        let _asked = self.silence.read();
        let mut out = Vec::new();
        self.groups_from(&group_key(key, 0), &beyond_groups(key), true, &mut |_, number, group| {
            out.push((number, *group));
            Ok(())
        })?;
        Ok(out)
    }

    fn headers(&self, after: Option<ChunkKey>, max: usize) -> Result<Vec<(ChunkKey, Header)>, IndexError> {
        let _asked = self.silence.read();
        let mut from = after.map_or_else(|| vec![b'h'], |key| header_key(key).to_vec());
        if after.is_some() {
            from.push(0);
        }
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(vec![b'h' + 1]);
        let mut out = Vec::with_capacity(max.min(4096));
        for entry in self.db.iterator_opt(IteratorMode::From(&from, Direction::Forward), read).take(max) {
            let (key, value) = entry.map_err(|e| failed(&e))?;
            let malformed = || unreadable(RecordError::Malformed { what: "key of a header" });
            let key = parse_header_key(&key).ok_or_else(malformed)?;
            out.push((key, Header::decode(&value).map_err(unreadable)?));
        }
        Ok(out)
    }

    fn each_group(&self, see: &mut dyn FnMut(ChunkKey, u32, &Group)) -> Result<(), IndexError> {
        self.groups_from(b"g", b"h", false, &mut |key, number, group| {
            see(key, number, group);
            Ok(())
        })
    }

    fn write(&self, changes: &mut dyn Iterator<Item = IndexChange>, applied: u64) -> Result<(), IndexError> {
        let mut batch = WriteBatch::default();
        for change in changes {
            match change {
                // One by one: tombstones of ranges slow down every later read near them.
                IndexChange::Wipe(key) => {
                    let (from, beyond) = (group_key(key, 0), beyond_groups(key));
                    self.groups_from(&from, &beyond, false, &mut |key, number, _| {
                        batch.delete(group_key(key, number));
                        Ok(())
                    })?;
                }
                IndexChange::Header(key, Some(header)) => batch.put(header_key(key), header.encode()),
                IndexChange::Header(key, None) => batch.delete(header_key(key)),
                IndexChange::Group(key, number, group) if group.is_empty() => {
                    batch.delete(group_key(key, number));
                }
                IndexChange::Group(key, number, group) => {
                    batch.put(group_key(key, number), group.encode());
                }
            }
        }
        batch.put(MARK_KEY, applied.to_le_bytes());
        let _asked = self.silence.write();
        self.find_room(batch.size_in_bytes())?;
        self.db.write_opt(batch, &self.no_log).map_err(|e| failed(&e))
    }

    fn applied(&self) -> Result<u64, IndexError> {
        let Some(bytes) = self.db.get_pinned(MARK_KEY).map_err(|e| failed(&e))? else { return Ok(0) };
        let bytes: [u8; 8] =
            bytes.as_ref().try_into().map_err(|_| unreadable(RecordError::Malformed { what: "mark" }))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn flush(&self) -> Result<(), IndexError> {
        let _asked = self.silence.write();
        self.find_room(0)?;
        self.db.flush().map_err(|e| failed(&e))
    }

    fn written_bytes(&self) -> u64 {
        self.options.get_ticker_count(Ticker::FlushWriteBytes)
            + self.options.get_ticker_count(Ticker::CompactWriteBytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, File};

    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    use wire::id::{ChainId, ChunkVersion, Ino};

    use super::*;

    /// A small filesystem, gone when dropped.
    struct Small(tempfile::TempDir);

    impl Small {
        /// None where mounting is not allowed.
        fn new() -> Option<Small> {
            let dir = tempfile::tempdir().unwrap();
            match mount("none", dir.path(), "tmpfs", MountFlags::empty(), Some(c"size=64m")) {
                Ok(()) => Some(Small(dir)),
                Err(Errno::PERM | Errno::ACCESS) => None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = unmount(self.0.path(), UnmountFlags::DETACH);
        }
    }

    fn fill(path: &Path) {
        let file = File::create(path).unwrap();
        let (mut at, mut step) = (0, 32 << 20);
        while step >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(_) => step /= 2,
            }
        }
    }

    fn header() -> Header {
        Header {
            chain: ChainId(1),
            version: ChunkVersion(1),
            len: 1,
            blocks: 1,
            digest: 1,
            delta_blocks: 0,
            writer: None,
        }
    }

    /// On a full disk the index goes on in the room set aside for it; when that is used up it refuses, and
    /// with room again it goes on at once.
    #[test]
    fn an_index_goes_on_when_there_is_room_again() {
        let Some(small) = Small::new() else { return };
        let index = RocksIndex::create(&small.0.path().join("index")).unwrap();
        let mut number = 0;
        let mut write = || {
            number += 1;
            let key = ChunkKey { ino: Ino(number), index: 0 };
            index.write(&mut std::iter::once(IndexChange::Header(key, Some(header()))), number)
        };
        for round in 0..3 {
            index.set_room_aside().unwrap();
            let fillers = [0, 1].map(|n| small.0.path().join(format!("filler{n}")));
            write().unwrap();
            index.flush().unwrap();
            fill(&fillers[0]);
            for _ in 0..20 {
                write().unwrap();
                index.flush().unwrap_or_else(|error| panic!("round {round}, in the room set aside: {error}"));
            }
            fill(&fillers[1]);
            assert!(matches!(write(), Err(IndexError::NoSpace(_))), "round {round}");
            assert!(matches!(index.flush(), Err(IndexError::NoSpace(_))), "round {round}");
            fillers.iter().for_each(|filler| fs::remove_file(filler).unwrap());
            write().unwrap();
            index.flush().unwrap();
            assert!(index.tidies.load(Ordering::Relaxed), "round {round}");
        }
    }
}
