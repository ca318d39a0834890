//! The data directory of `brickyard up`.
//!
//! ```text
//! DIR/cluster.json     identity: cluster id, replicas, bricks, the mount's own id
//! DIR/lock             held (flock) by the process that runs the cluster; its pid inside
//! DIR/ca.pem           the cluster's authority
//! DIR/admin.cred       certificate and key for `status`, `check`
//! DIR/namespace/       the namespace member
//! DIR/bricks/N/        one brick each
//! DIR/reserve          room for a start on a full disk
//! DIR/agent/           the scheduler agent's own spool, not on the mount
//! DIR/run/up.pid       pid of the running process
//! DIR/run/endpoints    where the running cluster answers
//! ```
//!
//! Invariants:
//! 1. A directory that is not empty and has no `cluster.json` is refused, untouched
//!    (`tests`: `a_foreign_directory_is_refused_untouched`).
//! 2. `cluster.json` is written before anything else, with state `creating`; whoever finds that
//!    state goes on creating what is missing. Only in state `ready` is a missing brick a loss
//!    (`tests`: `identity_survives_and_newer_is_refused`).
//! 3. One process at a time has the directory (`tests`: `a_second_holder_is_refused_by_name`).

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use brick_server::store::reserve::Reserve;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::roles::place::{self, Kind};
use crate::show::counted;

/// Bricks of a new cluster, if nothing else is said.
pub const DEFAULT_BRICKS: u32 = 6;
/// Copies of everything in a new cluster, likewise.
const DEFAULT_REPLICAS: u8 = 2;

/// Of `cluster.json`, and with it of the directory's layout. History: 1 first.
const KIND: Kind = Kind {
    magic: "brickyard cluster",
    format: 1,
    mend: "put its backup back (without one, 'brickyard salvage --help' tells what the bricks give back)",
};
/// All that an interrupted first start leaves, and where disks for bricks may be mounted before.
const FRESH: [&str; 3] = ["lock", "cluster.json.new", "bricks"];

/// How far a cluster's creation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Parts may still be missing: they are made.
    Creating,
    /// Everything was there once: what is missing is lost.
    Ready,
}

/// Who the cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// See [`State`].
    pub state: State,
    /// 32 hexadecimal digits.
    pub cluster: String,
    /// Copies of everything.
    pub replicas: u8,
    /// Numbers of its bricks: 0 to this, without.
    pub bricks: u32,
    /// The mount's own name, 32 hexadecimal digits: its session of an earlier life is ended by it.
    pub mount_client: String,
}

/// A data directory, held by this process.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    /// Who it is.
    pub identity: Identity,
    _lock: File,
}

/// What a new cluster is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Bricks, if said.
    pub bricks: Option<u32>,
    /// Replicas, if said.
    pub replicas: Option<u8>,
}

impl Wanted {
    /// Refuses a new cluster that cannot be.
    fn check(self) -> Result<()> {
        let (bricks, replicas) =
            (self.bricks.unwrap_or(DEFAULT_BRICKS), self.replicas.unwrap_or(DEFAULT_REPLICAS));
        if bricks < u32::from(replicas) {
            bail!(
                "{} cannot hold {}: give --bricks {replicas} or more",
                counted(bricks, "brick", "bricks"),
                counted(replicas, "copy", "copies")
            );
        }
        Ok(())
    }
}

impl Home {
    /// Takes the directory for this process, and makes it a cluster's if it is empty or missing.
    ///
    /// # Errors
    /// In one line each: another process has it (with its pid), it holds something else, it
    /// is of a newer version, it is not what was asked for, it cannot be written.
    pub fn take(dir: &Path, wanted: Wanted) -> Result<Home> {
        let cluster_file = dir.join("cluster.json");
        if !cluster_file.exists() {
            wanted.check()?;
        }
        place::make(dir).context("give --data another directory, or make it yourself")?;
        if !cluster_file.exists() && place::stranger(dir, &FRESH)?.is_some() {
            bail!(
                "{} is not empty and holds no cluster (no cluster.json): give --data an empty or new directory",
                dir.display()
            );
        }
        let lock = place::lock(&dir.join("lock"))?;
        give_up_reserve(dir)?;
        let identity = match read_identity(&cluster_file)? {
            Some(identity) => {
                compare(&identity, wanted, dir)?;
                identity
            }
            None => {
                let identity = Identity {
                    state: State::Creating,
                    cluster: random_id()?,
                    replicas: wanted.replicas.unwrap_or(DEFAULT_REPLICAS),
                    bricks: wanted.bricks.unwrap_or(DEFAULT_BRICKS),
                    mount_client: random_id()?,
                };
                place::write(&cluster_file, KIND, &identity)?;
                identity
            }
        };
        fs::create_dir_all(dir.join("run")).context("cannot make DIR/run")?;
        place::publish(&dir.join("run/up.pid"), format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Home { dir: dir.to_owned(), identity, _lock: lock })
    }

    /// The words for an identity that makes no sense.
    pub fn damaged(&self) -> String {
        format!("{} is damaged: {}", self.dir.join("cluster.json").display(), KIND.mend)
    }

    /// Everything was made.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn set_ready(&mut self) -> Result<()> {
        if self.identity.state != State::Ready {
            self.identity.state = State::Ready;
            place::write(&self.dir.join("cluster.json"), KIND, &self.identity)?;
        }
        Ok(())
    }

    /// Directory of a brick.
    pub fn brick(&self, number: u32) -> PathBuf {
        self.dir.join("bricks").join(number.to_string())
    }

    /// A file or directory in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Sets room aside for a later start on a full disk, if there is room now.
    ///
    /// # Errors
    /// If that fails for another reason.
    pub fn set_room_aside(&self) -> Result<bool> {
        Reserve::in_dir(&self.dir)
            .set_aside()
            .with_context(|| format!("cannot set room aside in {}", self.dir.display()))
    }

    /// Says where the running cluster answers.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn publish_endpoints(&self, endpoints: &[String]) -> Result<()> {
        let mut text = endpoints.join("\n");
        text.push('\n');
        place::publish(&self.dir.join("run/endpoints"), text.as_bytes())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Leftovers do no harm: who looks at them asks for the lock as well.
        let _ = fs::remove_file(self.dir.join("run/endpoints"));
        let _ = fs::remove_file(self.dir.join("run/up.pid"));
    }
}

/// Where the cluster of this data directory answers now.
///
/// # Errors
/// If it is no cluster's directory or the cluster does not run.
pub fn running_endpoints(dir: &Path) -> Result<Vec<String>> {
    place::refuse_file(dir).context("--data")?;
    if read_identity(&dir.join("cluster.json"))?.is_none() {
        bail!(
            "{} holds no cluster (no cluster.json, no member.json): give --data what `brickyard up --data` or `brickyard \
             namespace --dir` was given, or --cred",
            dir.display()
        );
    }
    let not_running = || {
        format!("no cluster runs on {0}: start it with `brickyard up --data {0} --mount MNT`", dir.display())
    };
    let running = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow!(not_running()),
        _ => anyhow!(error).context(not_running()),
    };
    let text = fs::read_to_string(dir.join("run/endpoints")).map_err(running)?;
    let file = File::open(dir.join("lock")).map_err(running)?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        bail!(not_running());
    }
    Ok(text.lines().map(str::to_owned).collect())
}

/// How many bricks the cluster of this directory has, if there is one.
///
/// # Errors
/// If that cannot be read.
pub fn bricks_of(dir: &Path) -> Result<Option<u32>> {
    place::refuse_file(dir).context("--data")?;
    Ok(read_identity(&dir.join("cluster.json"))?.map(|identity| identity.bricks))
}

/// Refuses a directory that another process has, without touching it.
///
/// # Errors
/// With the pid of who has it.
pub fn refuse_if_held(dir: &Path) -> Result<()> {
    place::refuse_if_held(&dir.join("lock"))
}

fn give_up_reserve(dir: &Path) -> Result<()> {
    let given_up = Reserve::in_dir(dir)
        .give_up_if_full()
        .with_context(|| format!("cannot give up the room set aside for a full disk in {}", dir.display()))?;
    if given_up {
        tracing::warn!(
            dir = %dir.display(),
            "the disk is full: started with the room set aside for that. Make room on it, in the filesystem or \
             beside it"
        );
    }
    Ok(())
}

fn read_identity(path: &Path) -> Result<Option<Identity>> {
    place::read(path, KIND)
}

fn compare(identity: &Identity, wanted: Wanted, dir: &Path) -> Result<()> {
    if let Some(bricks) = wanted.bricks.filter(|b| *b != identity.bricks) {
        bail!(
            "{} has {}, not {bricks}: leave --bricks away to go on with it",
            dir.display(),
            counted(identity.bricks, "brick", "bricks")
        );
    }
    if let Some(replicas) = wanted.replicas.filter(|r| *r != identity.replicas) {
        bail!(
            "{} keeps {}, not {replicas}: leave --replicas away to go on with it",
            dir.display(),
            counted(identity.replicas, "copy", "copies")
        );
    }
    Ok(())
}

fn random_id() -> Result<String> {
    let mut id = [0u8; 16];
    File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut id)).context("cannot read /dev/urandom")?;
    Ok(id.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ANY: Wanted = Wanted { bricks: None, replicas: None };

    /// Somebody's files are not taken for an empty directory, and stay.
    #[test]
    fn a_foreign_directory_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = Home::take(dir.path(), ANY).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// What cannot be is refused before anything is made for it.
    #[test]
    fn a_cluster_that_cannot_be_leaves_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        let error = Home::take(&new, Wanted { bricks: Some(1), replicas: None }).unwrap_err().to_string();
        assert!(error.contains("1 brick cannot hold 2 copies: give --bricks 2 or more"), "{error}");
        assert!(!new.exists(), "a directory is left");
    }

    /// The second one learns the pid of the first.
    #[test]
    fn a_second_holder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::take(dir.path(), ANY).unwrap();
        let error = Home::take(dir.path(), ANY).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        assert!(Home::take(dir.path(), ANY).is_ok());
    }

    /// The cluster is the same after a restart; a newer format or other numbers are refused.
    #[test]
    fn identity_survives_and_newer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Home::take(dir.path(), Wanted { bricks: Some(4), replicas: Some(2) }).unwrap();
        assert_eq!(first.identity.state, State::Creating);
        first.set_ready().unwrap();
        let identity = first.identity.clone();
        drop(first);
        let again = Home::take(dir.path(), ANY).unwrap();
        assert_eq!(again.identity, identity);
        drop(again);
        let error =
            Home::take(dir.path(), Wanted { bricks: Some(6), replicas: None }).unwrap_err().to_string();
        assert!(error.contains("has 4 bricks, not 6"), "{error}");
        let file = dir.path().join("cluster.json");
        let newer = fs::read_to_string(&file).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(&file, &newer).unwrap();
        let error = Home::take(dir.path(), ANY).unwrap_err().to_string();
        assert!(error.contains("format 2"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), newer);
    }
}
