//! The mount: what the kernel asks, translated to the library.
//!
//! 1. Nothing here waits without a limit: stopping flushes for so long, detaches, waits for so
//!    long, and aborts the connection (`stopping_ends_though_a_file_is_open`).
//! 2. The kernel's threads never wait for the net: they answer from memory or hand the
//!    request to a task.
//! 3. `umount` by anybody ends it ([`Mount::wait`]; `umount_ends_the_mount`).

mod changes;
mod check;
mod convert;
mod dir;
mod fs;
mod handles;
mod kernel;
mod lock_attributes;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use wire::id::Ino;
use wire::meta::FileKind;
use wire::status::FsError;

use self::check::Place;
use self::kernel::Device;
pub use self::kernel::{watch_from, watch_position};
use crate::client::Client;
use crate::config::MountConfig;
use crate::error::{Error, MountProblem};

/// How long the kernel may take over the first steps of a mount.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// A mounted filesystem.
#[derive(Debug)]
pub struct Mount {
    client: Client,
    place: Place,
    stop_timeout: Duration,
    /// Is to become true before it ends.
    ending: watch::Sender<bool>,
    /// Becomes true when the kernel has let go.
    ended: watch::Receiver<bool>,
    _watcher: Watcher,
}

/// Looks after requests whose process was sent a signal, until it is dropped.
#[derive(Debug)]
struct Watcher(AbortHandle);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Mount {
    /// Mounts at `mountpoint`. What a crash left mounted there is taken away first.
    ///
    /// # Errors
    /// [`Error::MountPoint`] with what is wrong and what to do; what [`MountConfig::root`] names may not be there.
    pub async fn start(client: Client, mountpoint: &Path, config: MountConfig) -> Result<Mount, Error> {
        let root = root(&client, &config.root).await?;
        let wanted = mountpoint.to_owned();
        let allow_non_empty = config.allow_non_empty;
        let checked = blocking(mountpoint, move || check::prepare(&wanted, allow_non_empty)).await??;
        let (done, ended) = watch::channel(false);
        let adapter = fs::Adapter::new(client.clone(), root);
        let ending = adapter.ending.clone();
        let watcher = Watcher(client.runtime().spawn(adapter.interrupts().clone().watch()).abort_handle());
        let path = checked.clone();
        let (stop_timeout, readahead) = (config.stop_timeout, config.kernel_readahead_kib);
        let place = blocking(mountpoint, move || begin(adapter, &path, &config, done)).await??;
        place.set_readahead(readahead);
        tracing::info!(mountpoint = %place.path.display(), device = place.device(), "mounted");
        Ok(Mount { client, place, stop_timeout, ending, ended, _watcher: watcher })
    }

    /// Whether something could be mounted here: what [`Mount::start`] looks at first, for whoever
    /// has other things to do before. Takes away what a crash left mounted. Blocks.
    ///
    /// # Errors
    /// [`Error::MountPoint`] with what is wrong and what to do.
    pub fn check(mountpoint: &Path, config: &MountConfig) -> Result<(), Error> {
        check::prepare(mountpoint, config.allow_non_empty).map(drop)
    }

    /// Has the kernel treat what is mounted at `mountpoint`, by whatever process, as `config` says: what it is read-only and
    /// whether there are devices, for example. What concerns the process that serves it stays. Blocks.
    ///
    /// # Errors
    /// [`Error::MountPoint`]: nothing of ours is mounted there, or the system says no, as to `read_only` while a file
    /// is open for writing.
    pub fn change(mountpoint: &Path, config: &MountConfig) -> Result<(), Error> {
        let path = check::find(mountpoint)?;
        rustix::mount::mount_remount(&path, options(config).flags, c"").map_err(|error| {
            let problem = match error {
                rustix::io::Errno::BUSY => MountProblem::Busy,
                error => MountProblem::System(error.to_string()),
            };
            Error::MountPoint { path, problem }
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Waits until it is unmounted, by whomever.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        // The sender is gone only with the thread that serves the mount.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Flushes and unmounts: gently if nobody uses it; else it is detached, and cut off if it
    /// does not end in time. The client goes on.
    ///
    /// # Errors
    /// If written data could not be made durable in time; it is unmounted even so.
    pub async fn stop(&self) -> Result<(), Error> {
        let synced = self.sync().await;
        self.ending.send_replace(true);
        if !*self.ended.borrow() {
            self.unmount().await;
        }
        // What the kernel still had to write came while it was unmounted.
        synced.and(self.sync().await)
    }

    async fn sync(&self) -> Result<(), Error> {
        match timeout(self.stop_timeout, self.client.sync_all()).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline {
                what: "written data to become durable".to_owned(),
                waited_ms: self.stop_timeout.as_millis() as u64,
                last: "the bricks do not answer".to_owned(),
            }),
        }
    }

    async fn unmount(&self) {
        for flags in [UnmountFlags::empty(), UnmountFlags::DETACH] {
            let place = self.place.clone();
            let work = tokio::task::spawn_blocking(move || place.unmount(flags));
            match timeout(self.stop_timeout, work).await {
                Ok(Ok(Ok(()))) => break,
                Ok(Ok(Err(error))) => tracing::debug!(?flags, %error, "could not unmount"),
                Ok(Err(_)) | Err(_) => tracing::warn!(?flags, "unmounting takes too long"),
            }
        }
        if timeout(self.stop_timeout, self.wait()).await.is_ok() {
            return;
        }
        // Somebody still has a file open, or another mount namespace holds a copy.
        match self.place.abort() {
            Ok(()) => tracing::warn!("cut off a mount that was still in use"),
            Err(error) => tracing::warn!(%error, "could not cut off a mount that is still in use"),
        }
        if timeout(Duration::from_secs(2), self.wait()).await.is_err() {
            tracing::warn!("the kernel has not let go of the mount; it ends with this process");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !*self.ended.borrow()
            && let Err(error) = self.place.unmount(UnmountFlags::DETACH)
        {
            tracing::debug!(%error, "could not detach a mount that was dropped");
        }
    }
}

/// The directory that becomes the mount's root.
async fn root(client: &Client, path: &Path) -> Result<Ino, Error> {
    let problem = match client.resolve(path.as_os_str().as_bytes(), true).await {
        Ok(attr) if attr.kind == FileKind::Directory => return Ok(attr.ino),
        Ok(_) | Err(Error::Fs(FsError::NotDirectory)) => MountProblem::RootNotDirectory,
        Err(Error::Fs(FsError::NotFound)) => MountProblem::RootMissing,
        Err(error) => return Err(error),
    };
    Err(Error::MountPoint { path: path.to_owned(), problem })
}

/// Runs what may block on a filesystem that does not answer.
async fn blocking<T: Send + 'static>(
    mountpoint: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    match timeout(HANDSHAKE, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) | Err(_) => Err(Error::MountPoint {
            path: mountpoint.to_owned(),
            problem: MountProblem::DeadForeign(format!("nothing for {} s", HANDSHAKE.as_secs())),
        }),
    }
}

fn options(config: &MountConfig) -> kernel::Options<'_> {
    let root = rustix::process::geteuid().is_root();
    let flags = [
        (!root || config.no_dev, MountFlags::NODEV),
        (!root || config.no_suid, MountFlags::NOSUID),
        (config.no_exec, MountFlags::NOEXEC),
        (config.no_atime, MountFlags::NOATIME),
        (config.no_dir_atime, MountFlags::NODIRATIME),
        (config.read_only, MountFlags::RDONLY),
    ];
    let flags =
        flags.into_iter().filter(|(is, _)| *is).fold(MountFlags::empty(), |all, (_, flag)| all | flag);
    kernel::Options { source: &config.source, flags, allow_other: config.allow_other && root }
}

/// Mounts and begins to serve; `done` becomes true when serving ends.
fn begin(
    adapter: fs::Adapter,
    path: &Path,
    config: &MountConfig,
    done: watch::Sender<bool>,
) -> Result<Place, Error> {
    let failed =
        |detail: String| Error::MountPoint { path: path.to_owned(), problem: MountProblem::System(detail) };
    let device = Device::mount(path, options(config)).map_err(|e| failed(refusal(&e)))?;
    let place = Place::of_mount(path).ok_or_else(|| failed("it is not in the list of mounts".to_owned()))?;
    let (wanted, interrupts) =
        (adapter.wanted(config.threads, config.max_background), adapter.interrupts().clone());
    let done = move || {
        done.send_replace(true);
    };
    kernel::serve(device, wanted, Arc::new(adapter), &interrupts, done).map_err(|error| {
        if let Err(error) = place.unmount(UnmountFlags::DETACH) {
            tracing::warn!(%error, "what could not be served could not be unmounted either");
        }
        failed(error.to_string())
    })?;
    Ok(place)
}

/// Why the system does not mount. This is root, so what it has no right to was withheld from its container.
fn refusal(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => format!(
            "{error}; in a container it takes --device /dev/fuse --cap-add SYS_ADMIN, and nothing that forbids mount(2)"
        ),
        _ => error.to_string(),
    }
}

/// A path for system calls that want it so; one with a NUL inside names nothing.
fn c_path(path: &Path) -> std::io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(std::io::Error::other)
}

/// Paths are shared between the mount and its blocking helpers.
type SharedPath = Arc<PathBuf>;
