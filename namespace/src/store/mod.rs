//! What lies on disk.
//!
//! ```text
//! DIR/namespace.json   who this is: magic, format, cluster (see [`identity`])
//! DIR/CURRENT-DB       name of the database's directory, where it came as a snapshot
//! DIR/db/, DIR/db-N/   RocksDB, one column family, keys of one tag byte and big-endian numbers:
//!
//!   I ino             -> Inode        attributes, parent and next cookie of a directory, target of a link
//!   D parent name     -> Entry        what a name stands for, and its cookie
//!   R parent cookie   -> Listed       the same by cookie: the order of a listing
//!   X ino name        -> value        extended attribute
//!   O ino             -> ()           inode without a name, to be freed when nobody has it open
//!   S session         -> Session      who it is
//!   V session         -> SessionClass how soon it may lose what it has, unless as usual
//!   A session         -> CallSeq      answers below this number were received
//!   U session seq     -> Answer       answer of a call, for its retry
//!   W ino session     -> ()           open for writing
//!   L ino kind        -> [LockHeld]   locks of a kind on a file
//!   H session ino     -> ()           the session holds locks on it
//!   B session ino     -> [handle]     open files of which a lock was broken, and that hold it still
//!   J index           -> Ino          the change journal: the directory of each entry
//!   E dir index       -> Change       the entry, with those of its directory
//!   T ino             -> Trim         bricks that still have to cut chunks of it
//!   K hash            -> TokenRecord  join token: role, end, uses
//!   C "clock"         -> Timestamp    latest time that tokens were judged by
//!   C "map"           -> ClusterMap   C "counters" -> Counters   C "applied" -> log index
//!   C "wishes"        -> Wishes       what is wanted of the bricks; missing in old directories
//!   C "journal"       -> Journal      what the change journal holds; missing in old directories
//!   C "tallies"       -> u64          how often numbers of things were counted right; missing where they never were wrong
//!   C "raft"          -> (LogId, members)   last entry of the log; missing where there is one member
//! ```
//!
//! Every value begins with the version of its own format; [`records`] holds them, and its
//! golden tests hold them still. This module knows no rule of a filesystem.

pub mod db;
pub mod hold;
pub mod identity;
pub mod keys;
pub mod maps;
pub mod records;

use std::ops::ControlFlow;

use crate::error::Error;

/// Key and value of one record.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Is shown keys with their values, and says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error> + 'a;

/// State that can be read: the database, a moment of it, or a batch in the making over it.
pub trait Read {
    /// The value of a key.
    ///
    /// # Errors
    /// If the disk fails.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Visits keys from `from` to before `to` in order, until told to stop.
    ///
    /// # Errors
    /// If the disk fails, or what `visit` stops with.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;

    /// All records whose key begins with `prefix`. Only for what is known to be few.
    ///
    /// # Errors
    /// If the disk fails.
    fn all(&self, prefix: &[u8]) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        self.scan(prefix, &keys::after(prefix), &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(pairs)
    }

    /// Whether any key begins with `prefix`.
    ///
    /// # Errors
    /// If the disk fails.
    fn any(&self, prefix: &[u8]) -> Result<bool, Error> {
        let mut found = false;
        self.scan(prefix, &keys::after(prefix), &mut |_, _| {
            found = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }
}

/// State that a batch of changes can be written to, all or nothing and durable when it returns.
pub trait Write: Read {
    /// Writes values and deletes the keys that come with none.
    ///
    /// # Errors
    /// If the disk fails; then nothing is known of what is on it.
    fn write(&self, changes: &std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), Error>;
}
