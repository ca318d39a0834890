//! Where a POSIX test works: on a mount, or, to prove the test itself, in a local directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::cluster::{Cluster, Options};

/// A directory to test, and what stands behind it.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    cluster: Option<Cluster>,
}

impl Place {
    /// A directory on the mount of a new cluster, or below `BRICKYARD_TEST_DIR` if that is set.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Some(base) = std::env::var_os("BRICKYARD_TEST_DIR") {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = PathBuf::from(base).join(format!("place-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            return Ok(Self { dir, cluster: None });
        }
        let cluster = Cluster::start(Options::default())?;
        let dir = cluster.dir("place")?;
        Ok(Self { dir, cluster: Some(cluster) })
    }

    /// The directory: empty at first.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Whether it is a local directory, without the product.
    pub fn is_local(&self) -> bool {
        self.cluster.is_none()
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes a directory in it.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Forgets every cached page and attribute: the mount is stopped and started again, so that
    /// what is read next comes from the disks. In a local directory nothing happens.
    pub fn cool(&mut self) -> Result<()> {
        self.cluster.as_mut().map_or(Ok(()), Cluster::restart)
    }

    /// The cluster, where there is one.
    pub fn cluster(&mut self) -> Option<&mut Cluster> {
        self.cluster.as_mut()
    }

    /// The end of every test: `brickyard check`, a clean stop, a clean log.
    pub fn finish(self) -> Result<()> {
        match self.cluster {
            Some(cluster) => {
                cluster.check()?;
                cluster.finish()
            }
            None => std::fs::remove_dir_all(&self.dir)
                .with_context(|| format!("cannot remove {}", self.dir.display())),
        }
    }
}

/// Reads a number from the environment, or the default.
pub fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => match text.parse() {
            Ok(number) => Ok(number),
            Err(_) => bail!("{name}={text} is not a number"),
        },
        Err(_) => Ok(default),
    }
}
