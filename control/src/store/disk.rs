//! The few acts on the disk by which master and agent change anything, and a switch that makes any of
//! them the last one before a crash.
//!
//! 1. A published file is complete before its name appears, and on stable storage unless its writer makes it again after
//!    a crash anyway. `publishing_replaces_in_one_step_and_leaves_nothing_else`
//! 2. Reading a file somebody else may have put there never follows a symbolic link, never blocks on a fifo and
//!    never takes more than the named maximum into memory. `hostile_files_are_refused`

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::error::{At, Error, Result};

/// Start of every name that isn't finished; nobody but its maker looks at such a file.
pub(crate) const UNFINISHED: &str = ".tmp.";

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// A name no other process or thread chooses: time, process, count.
pub(crate) fn unique() -> String {
    let ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{ns:x}.{}.{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// Decides before each act whether the process "crashes" there. Tests only.
pub(crate) trait Faults: Send + Sync {
    /// How many of the bytes about to be written still get out: `None` means all and go on.
    fn crash(&self, act: &'static str, len: usize) -> Option<usize>;
}

/// The disk as master and agent change it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    faults: Option<Arc<dyn Faults>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// A disk that crashes where `faults` says.
    #[cfg(test)]
    pub fn faulty(faults: Arc<dyn Faults>) -> Self {
        Disk { faults: Some(faults) }
    }

    fn before(&self, act: &'static str) -> Result<()> {
        match self.faults.as_ref().and_then(|f| f.crash(act, 0)) {
            Some(_) => Err(Error::Crashed),
            None => Ok(()),
        }
    }

    /// Makes `bytes` appear under `dir/name` in one step, replacing what was there: temporary name in the same
    /// directory, fsync, rename. The name itself is durable after the next [`Disk::sync_dir`].
    pub fn publish(&self, dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.publish_with(dir, name, bytes, mode, File::sync_all)
    }

    /// As [`Disk::publish`] without the fsync: for what its writer makes again after a crash, and whose reader can tell damage.
    pub fn publish_unsynced(&self, dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.publish_with(dir, name, bytes, mode, |_| Ok(()))
    }

    /// As [`Disk::publish`]; `sync` is what must be durable before the name appears.
    pub fn publish_with(
        &self,
        dir: &Path,
        name: &str,
        bytes: &[u8],
        mode: u32,
        sync: impl Fn(&File) -> std::io::Result<()>,
    ) -> Result<()> {
        let tmp = dir.join(format!("{UNFINISHED}{name}.{}", unique()));
        self.before("create")?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&tmp)
            .at("create", &tmp)?;
        if let Some(out) = self.faults.as_ref().and_then(|f| f.crash("write", bytes.len())) {
            file.write_all(bytes.get(..out).unwrap_or(bytes)).at("write", &tmp)?;
            return Err(Error::Crashed);
        }
        let written = file.write_all(bytes).and_then(|()| sync(&file));
        if let Err(source) = written {
            // The half-written file is of no use to anybody; that it can't be removed adds nothing to the error.
            let _the_first_error_counts = std::fs::remove_file(&tmp);
            return Err(fenced_or(source, "write", &tmp));
        }
        drop(file);
        let renamed = self.rename(&tmp, &dir.join(name));
        if matches!(renamed, Err(Error::Io { .. })) {
            let _the_first_error_counts = std::fs::remove_file(&tmp);
        }
        renamed
    }

    /// Renames; the target is replaced.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.before("rename")?;
        std::fs::rename(from, to).map_err(|e| fenced_or(e, "rename", from))
    }

    /// Makes the names in `dir` durable as they are now.
    pub fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.before("sync_dir")?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| fenced_or(e, "sync", dir))
    }

    /// Removes a file; that it is gone already is fine.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.before("remove")?;
        match std::fs::remove_file(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| fenced_or(e, "remove", path)),
        }
    }

    /// Removes a directory and all in it, never following links; that it is gone already is fine.
    pub fn remove_tree(&self, path: &Path) -> Result<()> {
        self.before("remove_tree")?;
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.at("remove", path),
        }
    }

    /// Makes a directory; false when it was there.
    pub fn make_dir(&self, path: &Path, mode: u32) -> Result<bool> {
        self.before("mkdir")?;
        match std::fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e).at("make directory", path),
        }
    }

    /// Writes all bytes at an offset of an open file.
    pub fn write_at(&self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(out) = self.faults.as_ref().and_then(|f| f.crash("write_at", bytes.len())) {
            file.write_all_at(bytes.get(..out).unwrap_or(bytes), offset).at("write", path)?;
            return Err(Error::Crashed);
        }
        file.write_all_at(bytes, offset).map_err(|e| fenced_or(e, "write", path))
    }

    /// Puts the data of an open file on stable storage.
    pub fn sync_data(&self, file: &File, path: &Path) -> Result<()> {
        self.before("sync_data")?;
        file.sync_data().map_err(|e| fenced_or(e, "sync", path))
    }
}

/// EIO is how the storage tells a deposed owner; everything else is itself.
fn fenced_or(why: std::io::Error, act: &'static str, path: &Path) -> Error {
    if why.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
        return Error::Fenced { path: path.to_path_buf() };
    }
    Error::Io { act, path: path.to_path_buf(), why }
}

/// A file somebody else may have put there: its bytes and whose it is.
#[derive(Debug)]
pub(crate) struct Found {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Owner's uid.
    pub uid: u32,
    /// Last change of the data, seconds since 1970 by the filesystem's clock.
    pub mtime_s: i64,
}

/// Reads a regular file of at most `max` bytes without following a link or waiting for a fifo's writer.
///
/// # Errors
/// [`Error::Format`] for anything but a regular file and for too long a one; [`Error::Io`] otherwise.
pub(crate) fn read_bounded(path: &Path, max: u64) -> Result<Found> {
    let refuse = |reason: String| Error::Format { path: path.to_path_buf(), reason };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path);
    let file = match opened {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(refuse("it is a symbolic link".into()));
        }
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Err(refuse("it is a socket or device".into()));
        }
        other => other.at("open", path)?,
    };
    let meta = file.metadata().at("stat", path)?;
    if !meta.is_file() {
        return Err(refuse("it isn't a regular file".into()));
    }
    if meta.len() > max {
        return Err(refuse(format!("its {} bytes are more than {max}", meta.len())));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    // The owner may lengthen it while it is read.
    file.take(max + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > max {
        return Err(refuse(format!("it has more than {max} bytes")));
    }
    Ok(Found { bytes, uid: meta.uid(), mtime_s: meta.mtime() })
}

/// The finished names in a directory, sorted. Names that aren't UTF-8 are none of ours and left out.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).at("list", dir)? {
        let name = entry.at("list", dir)?.file_name();
        if let Some(name) = name.to_str().filter(|n| !n.starts_with(UNFINISHED)) {
            out.push(name.to_owned());
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// Removes what a crashed process left unfinished in a directory only this process writes to.
pub(crate) fn sweep_unfinished(disk: &Disk, dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let path = entry.path();
            if entry.file_type().at("stat", &path)?.is_dir() {
                disk.remove_tree(&path)?;
            } else {
                disk.remove(&path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hostile_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        std::fs::write(at("good"), b"12345").unwrap();
        assert_eq!(read_bounded(&at("good"), 5).unwrap().bytes, b"12345");
        assert!(read_bounded(&at("good"), 4).unwrap_err().to_string().contains("more than 4"));
        std::os::unix::fs::symlink("good", at("link")).unwrap();
        assert!(read_bounded(&at("link"), 9).unwrap_err().to_string().contains("symbolic link"));
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert!(read_bounded(&at("fifo"), 9).unwrap_err().to_string().contains("regular"));
        assert!(read_bounded(dir.path(), 9).unwrap_err().to_string().contains("regular"));
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(read_bounded(&at("socket"), 9).unwrap_err().to_string().contains("socket"));
        assert!(read_bounded(&at("none"), 9).unwrap_err().is_not_found());
    }

    #[test]
    fn publishing_replaces_in_one_step_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        disk.publish(dir.path(), "a", b"1", 0o644).unwrap();
        disk.publish(dir.path(), "a", b"2", 0o644).unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["a"]);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"2");
    }
}
