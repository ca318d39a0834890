//! The table of inodes in use, the list of those with something to be done, and creations
//! under way.
//!
//! 1. An inode stays in the table while anything of it is not durable or an error is untold.
//! 2. Locks are taken in the order table, state, list; the list's is never held while another
//!    one is taken.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use wire::id::Ino;
use wire::meta::Access;

use super::Shared;
use super::inode::{OpenInode, State};
use crate::locked;

/// Inodes without a handle that are kept since nobody heard of their error yet.
const MOST_UNTOLD: usize = 1024;

/// The inodes in use.
#[derive(Debug, Default)]
pub(crate) struct Table {
    inodes: Mutex<HashMap<Ino, Arc<OpenInode>>>,
    dirty: Mutex<HashMap<Ino, Arc<OpenInode>>>,
    creating: Mutex<Creating>,
    reports: AtomicU64,
}

/// Creations under way, and what was closed meanwhile: a creation that turns out to have opened
/// an inode closed behind its back has to open it again.
#[derive(Debug, Default)]
struct Creating {
    under_way: usize,
    closed: HashSet<Ino>,
}

impl Shared {
    /// Takes an inode into use.
    pub(crate) fn enter(&self, ino: Ino) -> Arc<OpenInode> {
        let mut inodes = locked(&self.table.inodes);
        let inode = inodes.entry(ino).or_insert_with(|| Arc::new(OpenInode::new(ino)));
        inode.users.fetch_add(1, Ordering::Relaxed);
        inode.clone()
    }

    /// Gives it back.
    pub(crate) fn leave(&self, inode: &Arc<OpenInode>) {
        let mut inodes = locked(&self.table.inodes);
        inode.users.fetch_sub(1, Ordering::Relaxed);
        forget_if_idle(&mut inodes, inode);
    }

    /// An inode in use, if it is.
    pub(crate) fn in_use(&self, ino: Ino) -> Option<Arc<OpenInode>> {
        locked(&self.table.inodes).get(&ino).cloned()
    }

    /// What the namespace is to think is open here.
    pub(crate) fn open_inodes(&self) -> Vec<(Ino, Access)> {
        let inodes: Vec<_> = locked(&self.table.inodes).values().cloned().collect();
        let mut open = Vec::new();
        for inode in inodes {
            let state = locked(&inode.state);
            if state.readers > 0 {
                open.push((inode.ino, Access::Read));
            }
            if state.writers > 0 {
                open.push((inode.ino, Access::Write));
            }
        }
        open
    }

    /// Remembers that there is something to be done for an inode.
    pub(crate) fn note_dirty(&self, inode: &Arc<OpenInode>) {
        locked(&self.table.dirty).entry(inode.ino).or_insert_with(|| inode.clone());
    }

    /// Inodes for which there may be something to be done.
    pub(crate) fn dirty_inodes(&self) -> Vec<Arc<OpenInode>> {
        locked(&self.table.dirty).values().cloned().collect()
    }

    /// Forgets inodes for which nothing is left to be done.
    pub(crate) fn sweep(&self) {
        let busy = |inode: &OpenInode, state: &State| {
            let unclosed = inode.told_any.load(Ordering::Relaxed) && state.readers + state.writers == 0;
            !state.is_clean() || unclosed
        };
        for inode in self.dirty_inodes() {
            {
                let mut state = locked(&inode.state);
                if busy(&inode, &state) {
                    continue;
                }
                state.listed = false;
            }
            locked(&self.table.dirty).remove(&inode.ino);
            // A write since then saw it in the list: it belongs there again.
            if locked(&inode.state).listed {
                self.note_dirty(&inode);
                continue;
            }
            forget_if_idle(&mut locked(&self.table.inodes), &inode);
        }
    }
}

fn forget_if_idle(inodes: &mut HashMap<Ino, Arc<OpenInode>>, inode: &Arc<OpenInode>) {
    if inode.users.load(Ordering::Relaxed) > 0 || inode.told_any.load(Ordering::Relaxed) {
        return;
    }
    let state = locked(&inode.state);
    let untold = state.failure.as_ref().is_some_and(|failure| !failure.told);
    // One that is still in the list of dirty inodes goes when it is swept from there.
    if state.is_clean() && !state.listed && (!untold || inodes.len() > MOST_UNTOLD) {
        inodes.remove(&inode.ino);
    }
}

/// Something uses an inode until this is dropped, or for good if kept.
pub(super) struct User<'a> {
    shared: &'a Shared,
    pub(super) inode: Arc<OpenInode>,
    kept: bool,
}

impl<'a> User<'a> {
    pub(super) fn enter(shared: &'a Shared, ino: Ino) -> Self {
        Self { shared, inode: shared.enter(ino), kept: false }
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.shared.leave(&self.inode);
        }
    }
}

impl Table {
    /// How often the namespace was told something of an inode.
    pub(super) fn reports(&self) -> u64 {
        self.reports.load(Ordering::SeqCst)
    }

    pub(super) fn note_report(&self) {
        self.reports.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn note_close(&self, ino: Ino) {
        let mut creating = locked(&self.creating);
        if creating.under_way > 0 {
            creating.closed.insert(ino);
        }
    }
}

/// A creation under way.
pub(super) struct Creation<'a>(&'a Table);

impl<'a> Creation<'a> {
    pub(super) fn begin(table: &'a Table) -> Self {
        locked(&table.creating).under_way += 1;
        Self(table)
    }

    /// Whether this client may have closed the inode since the creation began.
    pub(super) fn end(self, ino: Ino) -> bool {
        locked(&self.0.creating).closed.contains(&ino)
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        let mut creating = locked(&self.0.creating);
        creating.under_way -= 1;
        if creating.under_way == 0 {
            creating.closed.clear();
        }
    }
}
