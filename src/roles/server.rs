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
//! 2. A directory that can't be served keeps no other one from it (`tests`:
//!    `a_directory_that_cannot_be_served_keeps_no_other_from_it`).
//! 3. A directory that is no brick becomes one only when asked to join: an empty mount point
//!    of a disk that is not there must not (`tests`: `a_replaced_empty_disk_is_not_taken_for_the_old_one`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
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

    /// What it is while there is no brick in it.
    pub fn missing(&self) -> Unfit {
        let why = anyhow!(
            "{} holds no brick: its disk may not be mounted, look at that first; if the disk was replaced, join again with --join, \
             --token and --replace BRICK; to make a new brick of it, join with --join and --token",
            self.dir.display()
        );
        Unfit::new(&self.dir, why)
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

    /// Refuses a directory that is to be made in one that is not there: what is to be mounted there may not be yet.
    ///
    /// # Errors
    /// With what to do.
    pub fn refuse_without_parent(&self) -> Result<()> {
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.exists()) {
            bail!(
                "{} does not exist, in which {} is to be made: mount the disk that belongs there, or make it yourself",
                parent.display(),
                self.dir.display()
            );
        }
        Ok(())
    }

    /// What [`Place::remember`], [`Place::remember_server`] and [`Place::store_to_be`] will make, for [`place::unmake`].
    pub fn to_be_made(&self) -> Vec<PathBuf> {
        let files = ["server.cred", "server.json", "store"].map(|name| node(&self.dir).join(name));
        let above = place::missing_above(&self.credential_file());
        files.into_iter().filter(|file| !file.exists()).chain(above).collect()
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

/// A directory that can't be served.
#[derive(Debug)]
pub struct Unfit {
    /// Which.
    pub dir: PathBuf,
    /// Why, and what to do.
    pub why: anyhow::Error,
    /// It can't become one that this server serves while it runs.
    pub lasts: bool,
}

impl Unfit {
    /// Whether it lasts is known by the error.
    pub fn new(dir: &Path, why: anyhow::Error) -> Unfit {
        let lasts = why.downcast_ref::<brick_server::Error>().is_some_and(brick_server::Error::lasts);
        Unfit { dir: dir.to_owned(), why, lasts }
    }

    /// One that has nothing to do with this server's cluster.
    fn foreign(dir: &Path, why: anyhow::Error) -> Unfit {
        Unfit { dir: dir.to_owned(), why, lasts: true }
    }
}

/// The words for directories none of which can be served.
pub fn refusal(unfit: Vec<Unfit>) -> anyhow::Error {
    let mut reasons: Vec<anyhow::Error> = unfit.into_iter().map(|unfit| unfit.why).collect();
    if reasons.len() > 1 {
        let texts: Vec<String> = reasons.iter().map(crate::refusal::one_line).collect();
        return anyhow!("{}", texts.join("; and "));
    }
    reasons.pop().unwrap_or_else(|| anyhow!("give at least one --dir"))
}

/// The directories of a server.
#[derive(Debug)]
pub struct Looked {
    /// Bricks of one cluster, and directories that may become some.
    pub places: Vec<Place>,
    /// The others.
    pub unfit: Vec<Unfit>,
}

/// Looks at all directories of a server. Its cluster is the one that most of its bricks are of; where that is undecided, the
/// first one's.
///
/// # Errors
/// If one is given twice or is inside of another.
pub fn look(dirs: &[PathBuf]) -> Result<Looked> {
    let mut seen = BTreeSet::new();
    for dir in dirs {
        ensure!(
            seen.insert(dir.canonicalize().unwrap_or_else(|_| dir.clone())),
            "--dir {} is given twice",
            dir.display()
        );
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
    let mut looked = Looked { places: Vec::new(), unfit: Vec::new() };
    for dir in dirs {
        match Place::look(dir) {
            Ok(place) => looked.places.push(place),
            Err(why) => looked.unfit.push(Unfit::new(dir, why)),
        }
    }
    let Some(home) = home(&looked.places).map(|place| (place.dir.clone(), place.brick)) else {
        return Ok(looked);
    };
    if let (dir, Some(brick)) = home {
        for place in std::mem::take(&mut looked.places) {
            match place.check_cluster(brick.cluster, &dir.display().to_string()) {
                Ok(()) => looked.places.push(place),
                Err(why) => looked.unfit.push(Unfit::foreign(&place.dir, why)),
            }
        }
    }
    Ok(looked)
}

/// The first brick of the cluster that most are of.
fn home(places: &[Place]) -> Option<&Place> {
    let cluster = |place: &Place| place.brick.map(|brick| brick.cluster);
    let fellows = |place: &Place| places.iter().filter(|other| cluster(other) == cluster(place)).count();
    // Of several that are the most, `max_by_key` takes the last.
    places.iter().rev().filter(|place| place.brick.is_some()).max_by_key(|place| fellows(place))
}

/// A directory whose brick is to be served, looked at anew.
///
/// # Errors
/// Why it can't be.
pub fn fit(dir: &Path, cluster: ClusterId, credential: &Credential) -> Result<Place, Unfit> {
    let place = Place::look(dir).map_err(|why| Unfit::new(dir, why))?;
    if place.brick.is_none() {
        return Err(place.missing());
    }
    place.check_cluster(cluster, "this server").map_err(|why| Unfit::foreign(dir, why))?;
    place.remember(credential).map_err(|why| Unfit::new(dir, why))?;
    Ok(place)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::BrickId;

    /// Whose server it is, is not decided by one directory that got among the others.
    #[test]
    fn most_bricks_decide_on_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let brick = |name: &str, cluster: u8, brick: u32| {
            let path = dir.path().join(name);
            brick_server::format(&path, ClusterId([cluster; 16]), BrickId(brick)).unwrap();
            path
        };
        let (a, b, c) = (brick("a", 7, 0), brick("b", 1, 0), brick("c", 1, 1));
        let names = |places: &[Place]| places.iter().map(|place| place.dir.clone()).collect::<Vec<_>>();
        let looked = look(&[a.clone(), b.clone(), c.clone()]).unwrap();
        assert_eq!(names(&looked.places), [b.clone(), c.clone()]);
        assert!(looked.unfit[0].lasts && looked.unfit[0].dir == a);
        let looked = look(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(names(&looked.places), std::slice::from_ref(&a));
        // What a disk holds that is not there now may be anything.
        std::fs::write(c.join("brick.json"), "{").unwrap();
        std::fs::write(c.join("brick.json.copy"), "").unwrap();
        let looked = look(&[b.clone(), c.clone(), dir.path().join("none")]).unwrap();
        assert_eq!(names(&looked.places), [b, dir.path().join("none")]);
        assert!(!looked.unfit[0].lasts && looked.unfit[0].dir == c);
        let said = refusal(looked.unfit).to_string();
        assert!(said.contains("brick.json is damaged") && said.contains("salvage"), "{said}");
        let said = refusal(looked.places.iter().map(Place::missing).collect()).to_string();
        assert!(said.contains("; and ") && said.lines().count() == 1, "{said}");
    }
}
