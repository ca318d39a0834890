//! The client library and, on top of it, the FUSE mount.
//!
//! - [`Client`]: an async, POSIX-like interface by inode and by path. It keeps a session with
//!   the namespace, writes behind, reads ahead, and tries again through failures of others.
//! - [`Mount`]: what the kernel asks, translated to the library.
//! - [`watch_from`], [`watch_position`]: what is asked of an open `.brickyard.watch` beside reading
//! - [`Error`], and [`Error::errno`] in the one file that knows numbers of the system
//! - [`Metrics`], [`Stuck`]: what it does and why it hangs
//!
//! Not here: any decision about names (the namespace's) or about copies of data (the
//! bricks'). Permissions are the kernel's (`default_permissions`). Advisory locks are left to
//! the kernel, so they hold within one mount.

mod client;
mod config;
mod errno;
mod error;
mod metrics;
mod mount;
mod stuck;

pub use client::{Client, Created, DirPage, FallocateMode, File, Lock, LockList, OpenOptions, SyncMode};
pub use config::{ClientConfig, MountConfig, SessionClass, Sharing};
pub use error::{Error, MountProblem};
pub use metrics::{Metrics, Snapshot};
pub use mount::{Mount, watch_from, watch_position};
pub use stuck::Stuck;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose content stays whole even when a thread panicked with it: every
/// critical section of this crate either finishes or changes nothing.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
