//! Brick directories as a server of bricks sees them: which are bricks, whose, and what is to be made.
//!
//! ```text
//! DIR/brick.json, ...    the brick itself (`brick_server::store::dir`)
//! DIR/node/server.cred   the credential of the server that serves it
//! DIR/node/server.json   where it listens, in which machine
//! DIR/node/store         store id of a brick that is being made: asking again adds no second one
//! ```
//!
//! 1. Nothing is made where something else is, and all directories are looked at before a token is
//!    used (`tests`: `hosts_misuse`).
//! 2. A directory that is no brick becomes one only when asked to join: an empty mount point
//!    of a disk that is not there must not (`tests`: `a_replaced_empty_disk_is_not_taken_for_the_old_one`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use brick_server::store::dir::{DirError, Identity};
use serde::{Deserialize, Serialize};
use wire::id::{ClusterId, StoreId};
use wire::net::Credential;
use wire::net::pki::random_id;

use super::place::{self, Kind};

const KIND: Kind = Kind {
    magic: "brickyard brick server",
    format: 1,
    mend: "remove it, and say --listen ADDR:PORT (and --host, if it was given) once more",
};

/// What is remembered of the server beside a brick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The machine, as it was called.
    pub host: String,
}

/// One directory.
#[derive(Debug)]
pub struct Place {
    /// Which.
    pub dir: PathBuf,
    /// The brick in it, if there is one.
    pub brick: Option<Identity>,
}

fn node(dir: &Path) -> PathBuf {
    dir.join(brick_server::store::dir::NODE_DIR)
}

impl Place {
    /// Looks at a directory, without changing it.
    ///
    /// # Errors
    /// If it is neither a brick nor empty, or can't be read.
    pub fn look(dir: &Path) -> Result<Place> {
        place::refuse_file(dir).context("--dir")?;
        let brick = match brick_server::identify(dir) {
            Ok(identity) => Some(identity),
            Err(brick_server::Error::Dir(DirError::NoBrick { .. })) => {
                let stranger = if dir.exists() { brick_server::store::dir::stranger(dir)? } else { None };
                if let Some(what) = stranger {
                    bail!(
                        "{} holds no brick, and {what} is in it: give an empty or new directory",
                        dir.display()
                    );
                }
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Place { dir: dir.to_owned(), brick })
    }

    /// File of the server's credential.
    pub fn credential_file(&self) -> PathBuf {
        node(&self.dir).join("server.cred")
    }

    /// The server's credential, if there is one; it must be of the brick's cluster.
    ///
    /// # Errors
    /// If it can't be read or is another cluster's.
    pub fn credential(&self) -> Result<Option<Credential>> {
        let file = self.credential_file();
        if !file.exists() {
            return Ok(None);
        }
        let mend = "put its backup back, or remove it and join again with --join and --token";
        let credential = place::loaded(Credential::load(&file), mend)?;
        self.check_cluster(credential.identity().cluster, &file.display().to_string())?;
        Ok(Some(credential))
    }

    /// Refuses a brick of another cluster than `theirs`.
    ///
    /// # Errors
    /// If it is one.
    pub fn check_cluster(&self, theirs: ClusterId, what: &str) -> Result<()> {
        if let Some(brick) = self.brick.filter(|brick| brick.cluster != theirs) {
            bail!(
                "{} belongs to cluster {}, and {what} to cluster {theirs}: give a brick of this cluster, or an empty \
                 directory",
                self.dir.display(),
                brick.cluster
            );
        }
        Ok(())
    }

    /// What is remembered of the server.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn server(&self) -> Result<Option<Server>> {
        place::read(&node(&self.dir).join("server.json"), KIND)
    }

    /// Makes room for what is remembered.
    ///
    /// # Errors
    /// If the directory can't be written.
    pub fn prepare(&self) -> Result<()> {
        place::make(&self.dir)?;
        place::make(&node(&self.dir))
    }

    /// Remembers the credential.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remember(&self, credential: &Credential) -> Result<()> {
        self.prepare()?;
        if !self.credential_file().exists() {
            credential.save(&self.credential_file())?;
        }
        Ok(())
    }

    /// Remembers the server. Of a directory that somebody may be serving only by who holds it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remember_server(&self, server: &Server) -> Result<()> {
        if self.server()?.as_ref() != Some(server) {
            place::write(&node(&self.dir).join("server.json"), KIND, server)?;
        }
        Ok(())
    }

    /// The store id that a new brick here is to have: the same one until the brick is made.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn store_to_be(&self) -> Result<StoreId> {
        let file = node(&self.dir).join("store");
        match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().with_context(|| format!("{} is damaged", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let store = StoreId(random_id()?);
                place::publish(&file, format!("{store}\n").as_bytes())?;
                Ok(store)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }
}

/// Looks at all directories of a server.
///
/// # Errors
/// If one is given twice or can't be used, or bricks of different clusters are among them.
pub fn look(dirs: &[PathBuf]) -> Result<Vec<Place>> {
    let mut seen = std::collections::BTreeSet::new();
    let mut places = Vec::new();
    for dir in dirs {
        ensure!(
            seen.insert(dir.canonicalize().unwrap_or_else(|_| dir.clone())),
            "--dir {} is given twice",
            dir.display()
        );
        places.push(Place::look(dir)?);
    }
    for dir in &seen {
        let inside = seen.iter().find(|other| *other != dir && other.starts_with(dir));
        if let Some(inside) = inside {
            bail!(
                "{} is inside of {}: give each brick a directory of its own",
                inside.display(),
                dir.display()
            );
        }
    }
    let first = places.iter().find_map(|place| place.brick.map(|brick| (&place.dir, brick.cluster)));
    if let Some((dir, cluster)) = first {
        for place in &places {
            place.check_cluster(cluster, &dir.display().to_string())?;
        }
    }
    Ok(places)
}
