//! Answers to the kernel, and the numbers it gives back for handles.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use fuser::{
    Errno, FileHandle, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, ReplyXattr,
};
use wire::meta::{Attr, FileKind};

use super::convert::{self, errno};
use crate::config::Sharing;
use crate::error::Error;

/// How long the kernel may use what it is told without asking again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity(Duration);

impl Validity {
    /// Beside other mounts, not at all. Alone, names and directories change through this kernel
    /// only, which knows by itself what it changes.
    pub(super) fn new(sharing: Sharing) -> Self {
        Self(match sharing {
            Sharing::Sole => Duration::from_secs(3600),
            Sharing::Shared => Duration::ZERO,
        })
    }

    /// For names.
    fn of_names(self) -> Duration {
        self.0
    }

    /// For attributes. Those of files are asked for each time: the space of one written through a
    /// mapping changes without the kernel forgetting what it was told, and `tar --sparse` takes a
    /// file without blocks for empty.
    pub(super) fn of(self, kind: FileKind) -> Duration {
        match kind {
            FileKind::Directory => self.0,
            _ => Duration::ZERO,
        }
    }
}

/// Inode numbers are never used twice.
pub(super) const GENERATION: Generation = Generation(0);

/// What the kernel's handles stand for.
#[derive(Debug)]
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::default() }
    }
}

impl<T> Handles<T> {
    pub(super) fn insert(&self, value: Arc<T>) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, value);
        FileHandle(number)
    }

    pub(super) fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&handle.0).cloned()
    }

    pub(super) fn remove(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&handle.0)
    }
}

pub(super) fn reply_entry(valid: Validity, reply: ReplyEntry, result: Result<Attr, Error>) {
    match result {
        Ok(attr) => {
            reply.entry_with_ttls(&valid.of(attr.kind), &valid.of_names(), &convert::attr(&attr), GENERATION);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_attr(valid: Validity, reply: ReplyAttr, result: Result<Attr, Error>) {
    match result {
        Ok(attr) => reply.attr(&valid.of(attr.kind), &convert::attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Error>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_written(reply: ReplyWrite, bytes: usize, result: Result<(), Error>) {
    match result {
        // One request is far below 4 GiB.
        Ok(()) => reply.written(bytes as u32),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_data(reply: ReplyData, result: Result<Bytes, Error>) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

/// An extended attribute's value or a list of names, or how long it is.
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Bytes, Error>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}
