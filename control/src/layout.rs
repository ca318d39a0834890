//! Where everything lies below the control directory (`.cluster` on the mount).
//!
//! ```text
//! id                       which cluster this is: 32 hex digits, made once
//! master/lock              flock'ed by the active master for as long as it lives
//! master/active            who that is; replaced by rename, its time is the heartbeat
//! config/queues.toml       queues
//! hosts/HOST/status        what the host has and how it is; replaced by rename, its time is the heartbeat
//! hosts/HOST/lock          flock'ed by the host's agent
//! hosts/HOST/assign/       RUN: run this; RUN.kill: end it      (from the master)
//! hosts/HOST/report/       RUN.started, RUN.ended               (to the master)
//! jobs/ids/                1777: one empty file a claimed job number, owned by who claimed it
//! jobs/first-id            numbers below this are used up
//! jobs/incoming/           1777: job.ID submissions and cmd.UNIQUE commands, renamed in by users
//! jobs/rejected/           what the master found in incoming and won't have
//! jobs/journal/TERM.PART   append-only log of the active master
//! jobs/state               snapshot of the queue, replaced by rename
//! jobs/spool/ID            the submission of an accepted job, until it is accounted for
//! accounting               one line per finished run
//! ```
//!
//! A RUN is `JOB.TASK.N`: the Nth time that task of that job runs. No RUN is ever given out twice, so its name is what
//! makes assignments and reports idempotent.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config;
use crate::error::{At, Error, Result};
use crate::store::disk::{self, Disk};

/// Mode of directories every user may put files into and nobody may take others' out of.
const DROP_BOX: u32 = 0o1777;
/// Mode of the directories only master and agents write.
const OURS: u32 = 0o755;

/// Paths below one control directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`; looks at nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Layout { root: root.to_path_buf() }
    }

    /// The control directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn id(&self) -> PathBuf {
        self.root.join("id")
    }
    pub(crate) fn master(&self) -> PathBuf {
        self.root.join("master")
    }
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config")
    }
    pub(crate) fn hosts(&self) -> PathBuf {
        self.root.join("hosts")
    }
    pub(crate) fn host(&self, host: &str) -> PathBuf {
        self.hosts().join(host)
    }
    pub(crate) fn assign(&self, host: &str) -> PathBuf {
        self.host(host).join("assign")
    }
    pub(crate) fn report(&self, host: &str) -> PathBuf {
        self.host(host).join("report")
    }
    pub(crate) fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }
    pub(crate) fn ids(&self) -> PathBuf {
        self.jobs().join("ids")
    }
    pub(crate) fn incoming(&self) -> PathBuf {
        self.jobs().join("incoming")
    }
    pub(crate) fn rejected(&self) -> PathBuf {
        self.jobs().join("rejected")
    }
    pub(crate) fn journal(&self) -> PathBuf {
        self.jobs().join("journal")
    }
    pub(crate) fn spool(&self) -> PathBuf {
        self.jobs().join("spool")
    }
    pub(crate) fn accounting(&self) -> PathBuf {
        self.root.join("accounting")
    }

    /// The cluster's id.
    ///
    /// # Errors
    /// When the directory isn't a control directory or can't be read; the text says how to make one.
    pub fn cluster_id(&self) -> Result<String> {
        let path = self.id();
        let found = disk::read_bounded(&path, 64).map_err(|e| {
            if e.is_not_found() {
                Error::Config(format!(
                    "{} isn't a control directory (it has no file \"id\"): is the filesystem mounted?",
                    self.root.display()
                ))
            } else {
                e
            }
        })?;
        let text = String::from_utf8_lossy(&found.bytes).trim().to_owned();
        if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(text);
        }
        Err(Error::Format { path, reason: "it isn't a cluster id of 32 hex digits".into() })
    }
}

/// Makes the control directory `root` with everything a master, an agent and the `q` commands expect. What is
/// there already stays, so it may be called at every start; the modes of the two directories users write to are
/// set right again.
///
/// # Errors
/// When a directory or file can't be made.
pub fn init(root: &Path) -> Result<()> {
    let layout = Layout::new(root);
    let disk = Disk::default();
    match std::fs::create_dir_all(root) {
        Ok(()) => {}
        Err(e) => return Err(e).at("make directory", root),
    }
    for dir in [
        layout.master(),
        layout.config(),
        layout.hosts(),
        layout.jobs(),
        layout.rejected(),
        layout.journal(),
        layout.spool(),
    ] {
        make(&disk, &dir, OURS, false)?;
    }
    for dir in [layout.ids(), layout.incoming()] {
        make(&disk, &dir, DROP_BOX, true)?;
    }
    let queues = layout.config().join(config::QUEUES_FILE);
    if !exists(&queues)? {
        disk.publish(&layout.config(), config::QUEUES_FILE, config::DEFAULT_QUEUES.as_bytes(), 0o644)?;
        disk.sync_dir(&layout.config())?;
    }
    if !exists(&layout.id())? {
        let mut random = [0u8; 16];
        let source = Path::new("/dev/urandom");
        std::fs::File::open(source).and_then(|mut f| f.read_exact(&mut random)).at("read", source)?;
        let id: String = random.iter().map(|b| format!("{b:02x}")).collect();
        disk.publish(root, "id", format!("{id}\n").as_bytes(), 0o644)?;
    }
    disk.sync_dir(&layout.jobs())?;
    disk.sync_dir(root)
}

fn make(disk: &Disk, dir: &Path, mode: u32, mend: bool) -> Result<()> {
    if disk.make_dir(dir, mode)? || mend {
        // The umask may have taken bits away; a directory of another owner that is right already needs no change.
        let now = std::fs::symlink_metadata(dir).at("stat", dir)?;
        if !now.is_dir() {
            return Err(Error::Format { path: dir.to_path_buf(), reason: "it isn't a directory".into() });
        }
        if now.permissions().mode() & 0o7777 != mode {
            std::fs::set_permissions(dir, Permissions::from_mode(mode)).at("set the mode of", dir)?;
        }
    }
    Ok(())
}

pub(crate) fn exists(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).at("stat", path),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// A new control directory, for tests of what lies in one.
    pub(crate) fn cluster() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path()).unwrap();
        let layout = Layout::new(dir.path());
        (dir, layout)
    }

    #[test]
    fn a_second_init_changes_nothing_but_wrong_modes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join(".cluster");
        init(&root).unwrap();
        let layout = Layout::new(&root);
        let id = layout.cluster_id().unwrap();
        let mode = |p: PathBuf| std::fs::metadata(p).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(layout.incoming()), 0o1777);
        assert_eq!(mode(layout.ids()), 0o1777);
        assert_eq!(mode(layout.spool()), 0o755);
        std::fs::write(layout.config().join(config::QUEUES_FILE), "# mine\n").unwrap();
        std::fs::set_permissions(layout.incoming(), Permissions::from_mode(0o700)).unwrap();
        init(&root).unwrap();
        assert_eq!(layout.cluster_id().unwrap(), id);
        assert_eq!(mode(layout.incoming()), 0o1777);
        assert_eq!(std::fs::read(layout.config().join(config::QUEUES_FILE)).unwrap(), b"# mine\n");
    }

    #[test]
    fn a_directory_without_an_id_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Layout::new(dir.path()).cluster_id().unwrap_err().to_string();
        assert!(error.contains("is the filesystem mounted?"), "{error}");
    }
}
