//! Frees inodes without a name that nobody has open: when one was unlinked, and every
//! `sweep`. After a start it waits until all sessions have said what they have open, or are given up
//! (`removed_files_do_not_wait_for_the_silent`).

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tracing::warn;

use wire::id::Ino;

use crate::background::{Stop, stopped};
use crate::config::{RECLAIM_INODES, RECLAIM_PASS};
use crate::error::Error;
use crate::machine::command::Op;
use crate::namespace::{Namespace, lock};
use crate::store::{Read, keys};

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = namespace.watchers.orphans.notified() => {}
            () = sleep(namespace.config.sweep) => {}
        }
        if namespace.is_behind() {
            continue;
        }
        match waits_for_sessions(&namespace) {
            Ok(false) => {}
            Ok(true) => continue,
            Err(error) => {
                namespace.failed(&error);
                continue;
            }
        }
        if let Err(error) = pass(&namespace).await {
            namespace.failed(&error);
        }
    }
}

/// Whether some have not said yet what they have open. Those that are not heard are in the way of what is to be freed.
fn waits_for_sessions(namespace: &Namespace) -> Result<bool, Error> {
    if lock(&namespace.watchers.sessions).all_told() {
        return Ok(false);
    }
    if namespace.counters()?.orphans > 0 {
        let until = Instant::now() + namespace.config.sweep * 2;
        lock(&namespace.watchers.sessions).need_untold(until);
    }
    Ok(true)
}

/// Looks at all orphans once.
async fn pass(namespace: &Namespace) -> Result<(), Error> {
    let mut from = keys::orphan(Ino(0));
    loop {
        let orphans = page(namespace, &from)?;
        let Some(last) = orphans.last() else { return Ok(()) };
        from = keys::orphan(Ino(last.0.saturating_add(1)));
        let full = orphans.len() == RECLAIM_PASS;
        let mut unwritten = Vec::with_capacity(orphans.len());
        for ino in orphans {
            if !namespace.db.any(&keys::writers(ino))? {
                unwritten.push(ino);
            }
        }
        let free = lock(&namespace.watchers.opens).free(&unwritten);
        for some in free.chunks(RECLAIM_INODES) {
            let freed = namespace.propose(Op::Reclaim(some.to_vec())).await;
            lock(&namespace.watchers.opens).freed(some);
            match freed {
                Ok(_) => namespace.metrics.reclaim(some.len() as u64),
                Err(status) => warn!(%status, "could not free removed files; trying again"),
            }
        }
        if !full {
            return Ok(());
        }
    }
}

fn page(namespace: &Namespace, from: &[u8]) -> Result<Vec<Ino>, Error> {
    let mut orphans = Vec::new();
    namespace.db.scan(from, &keys::after(b"O"), &mut |key, _| {
        orphans.extend(keys::first(key).map(Ino));
        Ok(if orphans.len() < RECLAIM_PASS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(orphans)
}
