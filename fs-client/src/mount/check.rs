//! Where a filesystem is mounted, and whether it may be.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::{SharedPath, c_path};
use crate::error::{Error, MountProblem};

/// The type in the list of mounts.
const FS_TYPE: &str = "fuse.brickyard";

/// A mount of ours.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) path: SharedPath,
    /// `major:minor`, as the kernel's directories name it.
    device: String,
}

/// A line of the list of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    path: PathBuf,
    device: String,
    fs_type: String,
}

/// Undoes the escapes of the list of mounts: a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = (*byte == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                out.push(code);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

fn parse(line: &str) -> Option<Listed> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let device = fields.nth(2)?.to_owned();
    let path = unescape(fields.nth(1)?);
    Some(Listed { path, device, fs_type: kind.split(' ').next()?.to_owned() })
}

/// What is mounted at a path; the topmost one.
fn mounted_at(path: &Path) -> Option<Listed> {
    let list = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    list.lines().filter_map(parse).rfind(|listed| listed.path == path)
}

/// The absolute path, found without asking the last part, which may not answer.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

/// Where a filesystem of ours is mounted that is to be changed.
///
/// # Errors
/// [`MountProblem::NotMounted`], among others.
pub(crate) fn find(wanted: &Path) -> Result<PathBuf, Error> {
    let failed = |problem| Error::MountPoint { path: wanted.to_owned(), problem };
    let path = absolute(wanted).map_err(|error| failed(MountProblem::System(error.to_string())))?;
    match mounted_at(&path) {
        Some(listed) if listed.fs_type == FS_TYPE => Ok(path),
        _ => Err(failed(MountProblem::NotMounted)),
    }
}

/// Checks a mount point and takes away what a crash left there; returns its absolute path.
pub(crate) fn prepare(wanted: &Path, allow_non_empty: bool) -> Result<PathBuf, Error> {
    let failed = |problem| Error::MountPoint { path: wanted.to_owned(), problem };
    if !Path::new("/dev/fuse").exists() {
        return Err(failed(MountProblem::NoFuse));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(failed(MountProblem::NotRoot));
    }
    let system = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => failed(MountProblem::Missing),
        io::ErrorKind::NotADirectory => failed(MountProblem::NotDirectory),
        _ => failed(MountProblem::System(error.to_string())),
    };
    let path = absolute(wanted).map_err(system)?;
    // A crash of a crash may have left several on top of each other.
    for _ in 0..16 {
        let Some(listed) = mounted_at(&path).filter(|listed| listed.fs_type == FS_TYPE) else { break };
        // The one question the kernel never answers from what it remembers. Of a process that is
        // just dying the answer comes when the kernel has cut the connection.
        match rustix::fs::statfs(&path) {
            Ok(_) => return Err(failed(MountProblem::AlreadyMounted)),
            Err(Errno::NOTCONN | Errno::CONNABORTED) => {
                tracing::warn!(mountpoint = %path.display(), device = listed.device,
                    "taking away a mount whose process has died");
                unmount(&path, UnmountFlags::DETACH).map_err(system)?;
            }
            Err(error) => return Err(failed(MountProblem::DeadForeign(error.to_string()))),
        }
    }
    // A symbolic link at the end is followed now that it can't be a dead mount.
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            return Err(failed(MountProblem::DeadForeign(error.to_string())));
        }
        Err(error) => return Err(system(error)),
    };
    if mounted_at(&path).is_some_and(|listed| listed.fs_type == FS_TYPE) {
        return Err(failed(MountProblem::AlreadyMounted));
    }
    if !path.metadata().map_err(system)?.is_dir() {
        return Err(failed(MountProblem::NotDirectory));
    }
    let empty = path.read_dir().map_err(system)?.next().is_none();
    if !empty && !allow_non_empty {
        return Err(failed(MountProblem::NotEmpty));
    }
    Ok(path)
}

fn unmount(path: &Path, flags: UnmountFlags) -> io::Result<()> {
    Ok(rustix::mount::unmount(c_path(path)?.as_c_str(), flags | UnmountFlags::NOFOLLOW)?)
}

impl Place {
    /// The mount of ours at a path.
    pub(crate) fn of_mount(path: &Path) -> Option<Self> {
        let listed = mounted_at(path).filter(|listed| listed.fs_type == FS_TYPE)?;
        Some(Self { path: SharedPath::new(path.to_owned()), device: listed.device })
    }

    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Unmounts, unless somebody else's mount is there by now.
    pub(crate) fn unmount(&self, flags: UnmountFlags) -> io::Result<()> {
        match mounted_at(&self.path) {
            Some(listed) if listed.device == self.device => unmount(&self.path, flags),
            _ => Ok(()),
        }
    }

    /// Makes the kernel drop the connection, whoever uses the mount. Its control files are
    /// reached through a mount of our own that nobody sees: they need not be mounted already.
    pub(crate) fn abort(&self) -> io::Result<()> {
        use rustix::fs::{Mode, OFlags};
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
        let minor = self.device.rsplit(':').next().unwrap_or_default();
        let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let control = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let abort = rustix::fs::openat(&control, format!("{minor}/abort"), flags, Mode::empty())?;
        rustix::io::write(&abort, b"1")?;
        Ok(())
    }

    /// Asks the kernel to read ahead so far; it does well enough without.
    pub(crate) fn set_readahead(&self, kib: u32) {
        let file = format!("/sys/class/bdi/{}/read_ahead_kb", self.device);
        if let Err(error) = std::fs::write(&file, kib.to_string()) {
            tracing::debug!(file, %error, "could not set the kernel's read-ahead");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Lines of the kernel's list are understood, blanks in paths and optional fields too.
    #[test]
    fn lines_of_the_list_of_mounts() {
        let line = "36 35 0:45 / /mnt/a\\040b rw,noatime master:1 shared:2 - fuse.brickyard brickyard rw";
        assert_eq!(
            parse(line).unwrap(),
            Listed {
                path: "/mnt/a b".into(),
                device: "0:45".to_owned(),
                fs_type: "fuse.brickyard".to_owned()
            }
        );
        assert_eq!(unescape("a\\134b\\0"), PathBuf::from("a\\b\\0"));
        assert!(parse("nonsense").is_none());
    }

    /// Each unusable mount point has its own words.
    #[test]
    fn unusable_mount_points_are_told_apart() {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let problem = |path: &Path| match prepare(path, false) {
            Err(Error::MountPoint { problem, .. }) => Some(problem),
            _ => None,
        };
        assert_eq!(problem(&dir.path().join("missing")), Some(MountProblem::Missing));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(problem(&file), Some(MountProblem::NotDirectory));
        assert_eq!(problem(dir.path()), Some(MountProblem::NotEmpty));
        assert!(prepare(dir.path(), true).is_ok());
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert_eq!(problem(&empty), None);
    }
}
