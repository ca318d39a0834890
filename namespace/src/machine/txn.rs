//! A batch in the making: changes over the state, each command all or nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use wire::id::Ino;
use wire::map::ClusterMap;
use wire::meta::{FileKind, Journal, Name, Timestamp};
use wire::status::{FsError, Status};

use crate::error::Error;
use crate::machine::command::Effects;
use crate::store::records::{Counters, Entry, Inode, decode, encode};
use crate::store::{Read, Visit, keys};

/// Why a command stopped.
#[derive(Debug)]
pub enum Fail {
    /// A rule said no; that is its answer.
    Status(Status),
    /// The state could not be read; no command can be applied any more.
    Store(Error),
}

impl From<FsError> for Fail {
    fn from(error: FsError) -> Self {
        Fail::Status(Status::Fs(error))
    }
}

impl From<Status> for Fail {
    fn from(status: Status) -> Self {
        Fail::Status(status)
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Fail::Store(error)
    }
}

/// Result of a step of a command.
pub type Do<T> = Result<T, Fail>;

/// Changes by key; none deletes.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A record of the state, if it is there.
///
/// # Errors
/// If the disk fails or the record is not one.
pub fn load<T: DeserializeOwned>(from: &(impl Read + ?Sized), key: &[u8]) -> Result<Option<T>, Error> {
    from.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// What a key had in a batch: nothing, or a value or a deletion.
type Before = Option<Option<Vec<u8>>>;

/// A batch in the making over `base`.
pub struct Txn<'a> {
    base: &'a dyn Read,
    changes: Changes,
    /// What to put back if the command at work fails: a key and what was in `changes`.
    undo: Vec<(Vec<u8>, Before)>,
    /// The present of the command at work.
    pub at: Timestamp,
    /// Numbers given out, and numbers of things.
    pub counters: Counters,
    /// What the change journal holds.
    pub journal: Journal,
    /// The map as changed so far.
    pub map: Arc<ClusterMap>,
    /// The command at work changed the map.
    map_changed: bool,
    /// What others should look at.
    pub effects: Effects,
}

/// A point in a batch to go back to.
pub struct Mark {
    counters: Counters,
    journal: Journal,
    map: Arc<ClusterMap>,
    effects: Effects,
}

impl<'a> Txn<'a> {
    /// An empty batch.
    pub fn new(base: &'a dyn Read, counters: Counters, journal: Journal, map: Arc<ClusterMap>) -> Self {
        Self {
            base,
            changes: Changes::new(),
            undo: Vec::new(),
            at: Timestamp::default(),
            counters,
            journal,
            map,
            map_changed: false,
            effects: Effects::default(),
        }
    }

    /// Begins a command.
    pub fn begin(&mut self, at: Timestamp) -> Mark {
        self.at = at;
        self.undo.clear();
        self.map_changed = false;
        Mark {
            counters: self.counters.clone(),
            journal: self.journal,
            map: self.map.clone(),
            effects: std::mem::take(&mut self.effects),
        }
    }

    /// Ends a command that was carried out.
    pub fn keep(&mut self, mark: Mark) {
        self.undo.clear();
        let new = std::mem::replace(&mut self.effects, mark.effects);
        self.effects.trims.extend(new.trims);
        self.effects.trimmed |= new.trimmed;
        self.effects.orphans |= new.orphans;
        if self.map_changed {
            self.effects.map = Some(self.map.clone());
        }
        self.effects.begun.extend(new.begun);
        self.effects.ended.extend(new.ended);
        self.effects.unlocked.extend(new.unlocked);
        self.effects.recalled.extend(new.recalled);
        self.effects.changed.extend(new.changed);
        self.effects.lost.extend(new.lost);
    }

    /// Takes back all that the command at work did.
    pub fn revert(&mut self, mark: Mark) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(before) => self.changes.insert(key, before),
                None => self.changes.remove(&key),
            };
        }
        self.counters = mark.counters;
        self.journal = mark.journal;
        self.map = mark.map;
        self.effects = mark.effects;
    }

    /// The changes of all commands kept.
    pub fn into_changes(self) -> (Changes, Effects) {
        (self.changes, self.effects)
    }

    /// Sets or deletes a key.
    pub fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let before = self.changes.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// Writes a record.
    pub fn put<T: Serialize>(&mut self, key: Vec<u8>, record: &T) -> Do<()> {
        let value = encode(record)?;
        self.set(key, Some(value));
        Ok(())
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.set(key, None);
    }

    /// A record, if it is there.
    pub fn load<T: DeserializeOwned>(&self, key: &[u8]) -> Do<Option<T>> {
        Ok(load(self, key)?)
    }

    /// An inode; an old number is stale.
    pub fn inode(&self, ino: Ino) -> Do<Inode> {
        self.load(&keys::inode(ino))?.ok_or_else(|| FsError::Stale.into())
    }

    /// A directory, with or without a name.
    pub fn dir(&self, ino: Ino) -> Do<Inode> {
        let inode = self.inode(ino)?;
        match inode.kind {
            FileKind::Directory => Ok(inode),
            _ => Err(FsError::NotDirectory.into()),
        }
    }

    /// A directory that can get entries: a removed one, still open somewhere, can not.
    pub fn live_dir(&self, ino: Ino) -> Do<Inode> {
        let inode = self.dir(ino)?;
        if inode.nlink == 0 { Err(FsError::NotFound.into()) } else { Ok(inode) }
    }

    /// Writes an inode.
    pub fn put_inode(&mut self, ino: Ino, inode: &Inode) -> Do<()> {
        self.put(keys::inode(ino), inode)
    }

    /// What a name stands for, if anything.
    pub fn entry(&self, parent: Ino, name: &Name) -> Do<Option<Entry>> {
        self.load(&keys::entry(parent, name))
    }

    /// The map, to be changed: its epoch grows, once a command.
    pub fn change_map(&mut self) -> &mut ClusterMap {
        let map = Arc::make_mut(&mut self.map);
        if !self.map_changed {
            self.map_changed = true;
            map.epoch.0 += 1;
        }
        map
    }
}

impl Read for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut ours = self.changes.range(from.to_vec()..to.to_vec()).peekable();
        let mut stopped = false;
        self.base.scan(from, to, &mut |key, value| {
            while let Some((our_key, our_value)) = ours.next_if(|(k, _)| k.as_slice() < key) {
                if let Some(our_value) = our_value
                    && visit(our_key, our_value)?.is_break()
                {
                    stopped = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let flow = match ours.next_if(|(k, _)| k.as_slice() == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(our_value))) => visit(key, our_value)?,
                None => visit(key, value)?,
            };
            stopped = flow.is_break();
            Ok(flow)
        })?;
        if stopped {
            return Ok(());
        }
        for (key, value) in ours {
            if let Some(value) = value
                && visit(key, value)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }
}
