//! Operations under way, so that a hanging one can be asked why.
//!
//! Each operation of the library runs inside [`Operations::run`]. What it waits for is noted by
//! the retry loops through [`waiting_for`]; operations that never wait pay for one entry in
//! a map.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wire::id::Ino;

use crate::locked;

tokio::task_local! {
    static CURRENT: Arc<Operation>;
}

/// An operation that has run for long.
#[derive(Debug, Clone)]
pub struct Stuck {
    /// Which call.
    pub what: &'static str,
    /// On which inode.
    pub ino: Ino,
    /// For how long, in milliseconds.
    pub since_ms: u64,
    /// What it waits for; empty if for an answer it has no reason to worry about yet.
    pub waiting_for: String,
}

#[derive(Debug)]
struct Operation {
    what: &'static str,
    ino: Ino,
    since: Instant,
    waiting_for: Mutex<String>,
    logged: AtomicBool,
}

/// The operations under way.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    next: AtomicU64,
    running: Mutex<BTreeMap<u64, Arc<Operation>>>,
}

struct Entry<'a>(&'a Operations, u64);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        locked(&self.0.running).remove(&self.1);
    }
}

impl Operations {
    /// Runs an operation under a name.
    pub(crate) async fn run<T>(&self, what: &'static str, ino: Ino, work: impl Future<Output = T>) -> T {
        let operation = Arc::new(Operation {
            what,
            ino,
            since: Instant::now(),
            waiting_for: Mutex::default(),
            logged: AtomicBool::new(false),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.running).insert(id, operation.clone());
        let _entry = Entry(self, id);
        CURRENT.scope(operation, work).await
    }

    /// Operations that have run longer than `least`, oldest first.
    pub(crate) fn stuck(&self, least: Duration) -> Vec<Stuck> {
        locked(&self.running)
            .values()
            .take_while(|o| o.since.elapsed() >= least)
            .map(|o| Stuck {
                what: o.what,
                ino: o.ino,
                since_ms: o.since.elapsed().as_millis() as u64,
                waiting_for: locked(&o.waiting_for).clone(),
            })
            .collect()
    }

    /// Logs each operation that hangs, once.
    pub(crate) fn log_hanging(&self, least: Duration) {
        let hanging: Vec<_> = locked(&self.running)
            .values()
            .take_while(|o| o.since.elapsed() >= least)
            .filter(|o| !o.logged.swap(true, Ordering::Relaxed))
            .cloned()
            .collect();
        for operation in hanging {
            let waiting_for = locked(&operation.waiting_for).clone();
            tracing::warn!(
                operation = operation.what,
                inode = %operation.ino,
                waiting_for,
                "an operation hangs"
            );
        }
    }
}

/// Work for a task of its own that is a part of the operation which runs now: what it waits for, that one does.
pub(crate) fn part_of_operation<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let current = CURRENT.try_with(Arc::clone).ok();
    async move {
        match current {
            Some(operation) => CURRENT.scope(operation, work).await,
            None => work.await,
        }
    }
}

/// Notes what the operation that runs now waits for.
pub(crate) fn waiting_for(what: impl FnOnce() -> String) {
    // Work outside any operation (renewing the session) has nobody to tell.
    let _ = CURRENT.try_with(|operation| *locked(&operation.waiting_for) = what());
}
