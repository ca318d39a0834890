//! The agent's local spool: what it accepted and how it ended. Not on the mount.
//!
//! ```text
//! cluster              id of the cluster it belongs to
//! lock                 flock'ed by the agent
//! events/RUN.WHAT      touched by supervisors, to wake the agent
//! runs/RUN/work        what to run: everything, sealed
//! runs/RUN/lock        flock'ed by the supervisor for as long as it lives
//! runs/RUN/kill        the run is to end
//! runs/RUN/started     durable before the job is started
//! runs/RUN/exit        how it ended, durable before anybody is told
//! runs/RUN/log         what the supervisor had to say
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{MESSAGE_MAX, SUBMISSION_MAX};
use crate::error::{At, Error, Result};
use crate::layout::Layout;
use crate::plan::{Exit, RunKey};
use crate::store::disk::{self, Disk};
use crate::store::message::QueueView;
use crate::store::sealed::{self, Kind};
use crate::store::submission::Spec;
use crate::users::Person;

const WORK: Kind = Kind { name: "work", version: 1 };
const STARTED: Kind = Kind { name: "started", version: 1 };
const EXIT: Kind = Kind { name: "exit", version: 1 };

/// Whom a run runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

impl From<Person> for User {
    fn from(p: Person) -> Self {
        User { name: p.name, uid: p.uid, gid: p.gid, home: p.home, shell: p.shell }
    }
}

/// All a supervisor needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub key: RunKey,
    pub person: User,
    pub queue: QueueView,
    pub host: String,
    pub root: String,
    /// The cluster's id, by which its places on this host are told from another cluster's. Empty in
    /// what releases before it was there have written.
    #[serde(default)]
    pub cluster: String,
    pub spec: Spec,
}

/// The spool, held by one agent.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    path: PathBuf,
    _lock: Arc<File>,
}

/// Takes a lock or says who has it.
pub(crate) fn lock_or_held(file: &File, path: &Path, holder: &str) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Error::Held { path: path.to_path_buf(), holder: holder.to_owned() })
        }
        Err(TryLockError::Error(e)) => Err(e).at("lock", path),
    }
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .at("open", path)
}

/// Does a supervisor hold the run's directory?
pub(crate) fn is_locked(dir: &Path) -> Result<bool> {
    let path = dir.join("lock");
    let file = open_lock(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(e).at("lock", &path),
    }
}

impl Spool {
    /// Opens the spool, making it if need be, and takes its lock.
    pub fn open(disk: &Disk, path: &Path) -> Result<Spool> {
        std::fs::create_dir_all(path).at("make directory", path)?;
        for name in ["events", "runs"] {
            disk.make_dir(&path.join(name), 0o711)?;
        }
        let lock = path.join("lock");
        let file = open_lock(&lock)?;
        lock_or_held(&file, &lock, " (an agent is running on this spool)")?;
        disk::sweep_unfinished(disk, &path.join("runs"))?;
        disk.sync_dir(path)?;
        Ok(Spool { path: path.to_path_buf(), _lock: Arc::new(file) })
    }

    /// The cluster it is tied to, from this disk: the mount need not be there.
    pub fn cluster(&self) -> Result<String> {
        let found = disk::read_bounded(&self.path.join("cluster"), 64)?;
        Ok(String::from_utf8_lossy(&found.bytes).trim().to_owned())
    }

    /// Ties the spool to its cluster the first time; refuses another one later.
    pub fn bind(&self, disk: &Disk, layout: &Layout) -> Result<()> {
        let ours = layout.cluster_id()?;
        match disk::read_bounded(&self.path.join("cluster"), 64) {
            Ok(found) => {
                let theirs = String::from_utf8_lossy(&found.bytes).trim().to_owned();
                if theirs == ours {
                    return Ok(());
                }
                Err(Error::OtherCluster {
                    spool: self.path.clone(),
                    theirs,
                    root: layout.root().to_path_buf(),
                    ours,
                })
            }
            Err(e) if e.is_not_found() => {
                disk.publish(&self.path, "cluster", format!("{ours}\n").as_bytes(), 0o644)?;
                disk.sync_dir(&self.path)
            }
            Err(e) => Err(e),
        }
    }

    /// Where supervisors leave word.
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// A run's directory.
    pub fn dir(&self, key: RunKey) -> PathBuf {
        self.path.join("runs").join(key.to_string())
    }

    /// All runs in the spool.
    pub fn runs(&self) -> Result<Vec<RunKey>> {
        Ok(disk::names(&self.path.join("runs"))?.iter().filter_map(|n| n.parse().ok()).collect())
    }

    /// Accepts a run: durable when this returns.
    pub fn add(&self, disk: &Disk, key: RunKey, work: &Work, script: &[u8]) -> Result<()> {
        let mut content = serde_json::to_vec(work)
            .map_err(|e| Error::Config(format!("a run can't be written as JSON: {e}")))?;
        content.push(b'\n');
        content.extend_from_slice(script);
        self.add_dir(disk, key, "work", &sealed::seal(WORK, &content))
    }

    /// Accepts a run that is over before it began.
    pub fn add_ended(&self, disk: &Disk, key: RunKey, exit: &Exit) -> Result<()> {
        self.add_dir(disk, key, "exit", &sealed::seal_json(EXIT, exit)?)
    }

    fn add_dir(&self, disk: &Disk, key: RunKey, name: &str, bytes: &[u8]) -> Result<()> {
        let runs = self.path.join("runs");
        let tmp = runs.join(format!("{}{key}.{}", disk::UNFINISHED, disk::unique()));
        disk.make_dir(&tmp, 0o711)?;
        disk.publish(&tmp, name, bytes, 0o600)?;
        disk.sync_dir(&tmp)?;
        disk.rename(&tmp, &runs.join(key.to_string()))?;
        disk.sync_dir(&runs)
    }

    /// Asks the supervisor to end the run.
    pub fn ask_to_end(&self, disk: &Disk, key: RunKey) -> Result<()> {
        disk.publish(&self.dir(key), "kill", b"", 0o600)
    }

    /// When the run was started, if it was.
    pub fn started(&self, key: RunKey) -> Result<Option<i64>> {
        read_started(&self.dir(key))
    }

    /// How the run ended, if it did.
    pub fn exit(&self, key: RunKey) -> Result<Option<Exit>> {
        read_exit(&self.dir(key))
    }

    /// Writes the end of a run in the place of its supervisor.
    pub fn set_exit(&self, disk: &Disk, key: RunKey, exit: &Exit) -> Result<()> {
        write_exit(disk, &self.dir(key), exit)
    }

    /// Removes all about a run.
    pub fn forget(&self, disk: &Disk, key: RunKey) -> Result<()> {
        for what in ["started", "exit"] {
            disk.remove(&self.events().join(format!("{key}.{what}")))?;
        }
        // Renamed first, so that a half-removed directory is never taken for a run.
        let dir = self.dir(key);
        let gone = self.path.join("runs").join(format!("{}{key}.{}", disk::UNFINISHED, disk::unique()));
        disk.rename(&dir, &gone)?;
        disk.remove_tree(&gone)
    }
}

/// Reads what to run.
pub(crate) fn read_work(dir: &Path) -> Result<(Work, Vec<u8>)> {
    let path = dir.join("work");
    let found = disk::read_bounded(&path, SUBMISSION_MAX + MESSAGE_MAX)?;
    let content = sealed::open(WORK, &found.bytes, &path)?;
    let refuse = |reason: String| Error::Format { path: path.clone(), reason };
    let end =
        content.iter().position(|b| *b == b'\n').ok_or_else(|| refuse("it has no script part".into()))?;
    let work = serde_json::from_slice(&content[..end]).map_err(|e| refuse(e.to_string()))?;
    Ok((work, content[end + 1..].to_vec()))
}

/// When the run in `dir` was started, if it was.
pub(crate) fn read_started(dir: &Path) -> Result<Option<i64>> {
    let path = dir.join("started");
    match disk::read_bounded(&path, MESSAGE_MAX) {
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
        Ok(found) => Ok(Some(sealed::open_json(STARTED, &found.bytes, &path)?)),
    }
}

/// Notes durably that the run in `dir` is started now.
pub(crate) fn write_started(disk: &Disk, dir: &Path, at_ms: i64) -> Result<()> {
    disk.publish(dir, "started", &sealed::seal_json(STARTED, &at_ms)?, 0o600)?;
    disk.sync_dir(dir)
}

/// How the run in `dir` ended, if it did.
pub(crate) fn read_exit(dir: &Path) -> Result<Option<Exit>> {
    let path = dir.join("exit");
    match disk::read_bounded(&path, MESSAGE_MAX) {
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
        Ok(found) => Ok(Some(sealed::open_json(EXIT, &found.bytes, &path)?)),
    }
}

/// Notes durably how the run in `dir` ended.
pub(crate) fn write_exit(disk: &Disk, dir: &Path, exit: &Exit) -> Result<()> {
    disk.publish(dir, "exit", &sealed::seal_json(EXIT, exit)?, 0o600)?;
    disk.sync_dir(dir)
}
