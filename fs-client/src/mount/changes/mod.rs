//! `.brickyard.watch`, which is in every directory and in no listing: reading it waits for changes of the directory.
//!
//! It is no inode of the filesystem: the mount answers for it, and asks the namespace for the journal.
//!
//! 1. Whoever may read the directory may read it; nobody can write, change, link, rename or remove it
//!    (`the_watch_is_in_no_bodys_way`).
//! 2. A reader waits without keeping any other request waiting; a signal ends it (`a_blocked_reader_ends_at_a_signal`), and so
//!    does the end of the mount (`a_mount_ends_in_spite_of_watchers`).
//! 3. Of a directory in which a file of that name was made before there was this one, the file is shown
//!    (`the_name_of_the_watch_is_not_made` makes sure that there are no new ones).

mod handle;
mod text;

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::time::timeout;
use wire::id::{Ino, JournalIndex};
use wire::meta::{ACL_ACCESS, Attr, FileKind, Name, WATCH_NAME};
use wire::status::FsError;

use super::convert::errno;
use super::fs::Adapter;
use super::kernel::{self, Operation, Reply, Waker};
use crate::client::Client;
use crate::error::Error;

use handle::Polled;
pub(super) use handle::WatchHandle;
pub(super) use text::add_text;

/// What the kernel calls the watch of a directory: its number and this bit, which no inode has.
const NODE: u64 = 1 << 63;
/// How long the namespace is asked to wait at a time.
const WAIT: Duration = Duration::from_secs(2);
/// Pause when it does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a look may take that is no wait: the namespace may be away.
const LOOK: Duration = Duration::from_secs(1);

/// The directory whose watch the kernel means, if it means one.
pub(super) fn watched(node: u64) -> Option<Ino> {
    (node & NODE != 0).then_some(Ino(node & !NODE))
}

/// Whether a name is that of the watch.
pub(super) fn is_watch(name: &[u8]) -> bool {
    name == WATCH_NAME
}

/// What `stat` says of the watch of a directory: who may read the directory may read it.
fn attr_of(dir: &Attr) -> Attr {
    Attr {
        ino: Ino(dir.ino.0 | NODE),
        kind: FileKind::File,
        mode: dir.mode & 0o444,
        nlink: 1,
        size: 0,
        allocated_bytes: 0,
        xattrs: 0,
        ..*dir
    }
}

/// What the name stands for in a directory: a file of before, or the watch.
pub(super) async fn lookup(client: &Client, dir: Ino, name: Name) -> Result<Attr, Error> {
    match client.lookup(dir, name).await {
        Err(Error::Fs(FsError::NotFound)) => Ok(attr_of(&client.getattr(dir).await?)),
        found => found,
    }
}

/// What becomes of a change of the name: it can't be removed or renamed where there is no file of before.
pub(super) fn refused(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Fs(FsError::NotFound)) => Err(Error::Fs(FsError::NotPermitted)),
        other => other,
    }
}

/// Waits for more; at an error of the namespace for it to be back.
async fn fetch(client: &Client, watch: &WatchHandle) -> Result<(), Error> {
    let after = watch.after();
    match client.watch(watch.dir, Some(after), WAIT).await {
        Ok(told) => {
            watch.absorb(after, &told);
            Ok(())
        }
        // Nothing is lost by waiting for whoever leads next.
        Err(Error::Deadline { .. } | Error::Net(_)) => {
            tokio::time::sleep(AGAIN).await;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Looks at what there is now, as far as that is known at once.
async fn look(client: &Client, watch: &WatchHandle) -> Result<(), Error> {
    let after = watch.after();
    if let Ok(told) = timeout(LOOK, client.watch(watch.dir, Some(after), Duration::ZERO)).await {
        watch.absorb(after, &told?);
    }
    Ok(())
}

/// Wakes who polled when there is something.
async fn look_out(client: Client, watch: Arc<WatchHandle>, waker: Waker) {
    loop {
        if let Some(polled) = watch.lookout() {
            waker.wake(polled);
            return;
        }
        let fetched = tokio::select! {
            biased;
            () = watch.closed.notified() => return,
            fetched = fetch(&client, &watch) => fetched,
        };
        if let Err(error) = fetched {
            // Whoever reads is told.
            tracing::debug!(directory = %watch.dir, %error, "could not look out for changes");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

impl Adapter {
    /// A request about the watch of a directory.
    pub(super) fn watch(&self, dir: Ino, operation: &Operation<'_>, reply: Reply) {
        use Operation as O;
        match *operation {
            O::Lookup { name: b"." } => {
                self.spawn_entry(reply, |client| async move { Ok(attr_of(&client.getattr(dir).await?)) });
            }
            O::Lookup { name: b".." } => {
                self.spawn_entry(reply, |client| async move { client.getattr(dir).await });
            }
            O::Lookup { .. } => reply.error(Errno::NOTDIR),
            O::GetAttr => self.stat_watch(dir, false, reply),
            O::StatX => self.stat_watch(dir, true, reply),
            O::Open { flags } => self.open_watch(dir, flags, reply),
            O::Read { handle, size, flags, .. } => self.read_watch(handle, size as usize, flags, reply),
            O::Poll { handle, waits } => self.poll_watch(handle, waits, reply),
            O::IoCtl { handle, command, data } => self.order_watch(handle, command, data, reply),
            O::Release { handle } => {
                if let Some(watch) = self.watches.remove(handle) {
                    watch.closed.notify_one();
                }
                reply.ok();
            }
            O::Flush { .. } | O::Fsync { .. } => reply.ok(),
            O::StatFs => self.statfs(reply),
            // The kernel judges by the directory's list, too.
            O::GetXattr { name, size } if name == ACL_ACCESS => self.getxattr((dir, 0), name, size, reply),
            O::GetXattr { .. } => reply.error(Errno::NODATA),
            O::ListXattr { size: 0 } => reply.count(0),
            O::ListXattr { .. } => reply.data(&[]),
            O::GetLock(_) | O::SetLock { .. } => reply.error(Errno::NOLCK),
            O::SetAttr(_) | O::SetXattr { .. } | O::RemoveXattr { .. } => reply.error(Errno::PERM),
            _ => reply.error(Errno::OPNOTSUPP),
        }
    }

    fn stat_watch(&self, dir: Ino, extended: bool, reply: Reply) {
        self.spawn(reply, |client, reply| async move {
            match client.getattr(dir).await.map(|dir| attr_of(&dir)) {
                Ok(attr) if extended => reply.statx(Duration::ZERO, &attr),
                Ok(attr) => reply.attr(Duration::ZERO, &attr),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn open_watch(&self, dir: Ino, flags: u32, reply: Reply) {
        let flags = OFlags::from_bits_retain(flags);
        if flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC) {
            return reply.error(Errno::PERM);
        }
        let watches = self.watches.clone();
        self.spawn(reply, |client, reply| async move {
            match client.watch(dir, None, Duration::ZERO).await {
                Ok(now) => {
                    let handle = watches.insert(Arc::new(WatchHandle::new(dir, now.until)));
                    let flags = kernel::OPEN_DIRECT | kernel::OPEN_STREAM | kernel::OPEN_NO_FLUSH;
                    if !reply.opened(handle, flags) {
                        watches.remove(handle);
                    }
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read_watch(&self, handle: u64, room: usize, flags: u32, reply: Reply) {
        let Some(watch) = self.watches.get(handle) else { return reply.error(Errno::BADF) };
        let waits = !OFlags::from_bits_retain(flags).contains(OFlags::NONBLOCK);
        let (reply, cancel) = reply.later_unless_interrupted(self.interrupts());
        let (client, mut ending) = (self.client.clone(), self.ending.subscribe());
        self.client.runtime().spawn(async move {
            let mut looked = false;
            loop {
                if watch.give(room, |bytes| reply.try_data(bytes)) {
                    return;
                }
                if looked && !waits {
                    return reply.error(Errno::AGAIN);
                }
                looked = true;
                let more =
                    async { if waits { fetch(&client, &watch).await } else { look(&client, &watch).await } };
                tokio::select! {
                    biased;
                    () = cancel.notified() => return reply.error(Errno::INTR),
                    // As everybody is told who is still there when it has ended.
                    _ = ending.wait_for(|ending| *ending) => return reply.error(Errno::NOTCONN),
                    fetched = more => if let Err(error) = fetched {
                        return reply.error(errno(&error));
                    },
                }
            }
        });
    }

    fn poll_watch(&self, handle: u64, waits: Option<u64>, reply: Reply) {
        let Some(watch) = self.watches.get(handle) else { return reply.error(Errno::BADF) };
        if let Polled::Ready { ended } = watch.poll(None) {
            return reply.readable(ended);
        }
        self.spawn(reply, |client, reply| async move {
            if let Err(error) = look(&client, &watch).await {
                // It is readable: reading tells what is wrong.
                tracing::debug!(directory = %watch.dir, %error, "could not look for changes");
                return reply.readable(true);
            }
            match watch.poll(waits) {
                Polled::Ready { ended } => reply.readable(ended),
                Polled::Nothing { look_out: begins } => {
                    let waker = reply.waker();
                    reply.not_readable();
                    if begins {
                        client.runtime().clone().spawn(look_out(client, watch, waker));
                    }
                }
            }
        });
    }

    fn order_watch(&self, handle: u64, command: u32, data: &[u8], reply: Reply) {
        let Some(watch) = self.watches.get(handle) else { return reply.error(Errno::BADF) };
        match (command, <[u8; 8]>::try_from(data)) {
            (kernel::WATCH_FROM, Ok(after)) => {
                watch.begin_after(JournalIndex(u64::from_ne_bytes(after)));
                reply.ordered(&[]);
            }
            (kernel::WATCH_POSITION, _) => reply.ordered(&watch.after().0.to_ne_bytes()),
            _ => reply.error(Errno::NOTTY),
        }
    }
}
