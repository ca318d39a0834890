//! Snapshots: directories that a checkpoint of the database made, sent file by file.
//!
//! 1. What is installed is what was sent, byte for byte: each file is compared with the sum that its
//!    sender told first (`a_snapshot_cut_short_is_refused`).
//! 2. A directory lives as long as somebody sends it, and no longer than it is the newest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::store::hold::Hold;

/// Files of a snapshot at most.
const MOST_FILES: usize = 100_000;

/// A directory that is removed when nobody uses it any more.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    _hold: Hold,
}

impl Dir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove an old snapshot");
        }
    }
}

/// Where snapshots are made and received: emptied at each start.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    next: AtomicU64,
    hold: Hold,
}

impl Place {
    /// Empties the place.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(dir: PathBuf, hold: Hold) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, next: AtomicU64::new(0), hold })
    }

    /// Takes charge of a new directory, which is not made.
    pub fn dir(&self) -> Arc<Dir> {
        let path = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        Arc::new(Dir { path, _hold: self.hold.clone() })
    }
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its name in the directory.
    pub name: String,
    /// In bytes.
    pub bytes: u64,
    /// BLAKE3 of it.
    pub sum: [u8; 32],
}

fn sum(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, *hasher.finalize().as_bytes()));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// All files of a snapshot.
///
/// # Errors
/// If the disk fails.
pub fn list(dir: &Path) -> io::Result<Vec<FileInfo>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|_| io::Error::other("a file name is no text"))?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let (bytes, sum) = sum(&entry.path())?;
        files.push(FileInfo { name, bytes, sum });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A part of a file.
///
/// # Errors
/// If the disk fails.
pub fn part(dir: &Path, file: &FileInfo, offset: u64, most: usize) -> io::Result<Vec<u8>> {
    let left = usize::try_from(file.bytes.saturating_sub(offset)).unwrap_or(most);
    let mut bytes = vec![0; left.min(most)];
    File::open(dir.join(&file.name))?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// A snapshot on its way in.
#[derive(Debug)]
pub struct Incoming {
    dir: Arc<Dir>,
    files: Vec<FileInfo>,
}

impl Incoming {
    /// Makes room for one.
    ///
    /// # Errors
    /// If its list makes no sense, or the disk fails.
    pub fn begin(place: &Place, files: Vec<FileInfo>) -> io::Result<Self> {
        let plain = |name: &str| {
            !name.is_empty() && name.len() < 200 && !name.contains(['/', '\0']) && name != "." && name != ".."
        };
        if files.len() > MOST_FILES || !files.iter().all(|file| plain(&file.name)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the list of a snapshot makes no sense"));
        }
        let dir = place.dir();
        fs::create_dir(dir.path())?;
        for file in &files {
            File::create_new(dir.path().join(&file.name))?.set_len(file.bytes)?;
        }
        Ok(Self { dir, files })
    }

    /// Takes a part.
    ///
    /// # Errors
    /// If it belongs nowhere, or the disk fails.
    pub fn part(&self, file: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.files.get(file as usize).ok_or_else(|| io::Error::other("there is no such file"))?;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > file.bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a part does not fit its file"));
        }
        let out = File::options().write(true).open(self.dir.path().join(&file.name))?;
        out.write_all_at(bytes, offset)
    }

    /// Compares all files with their sums and makes them durable.
    ///
    /// # Errors
    /// If one differs, or the disk fails.
    pub fn finish(&self) -> io::Result<Arc<Dir>> {
        for file in &self.files {
            let path = self.dir.path().join(&file.name);
            if sum(&path)? != (file.bytes, file.sum) {
                let what = format!("file {} of a snapshot is not what was sent", file.name);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            File::open(&path)?.sync_all()?;
        }
        File::open(self.dir.path())?.sync_all()?;
        Ok(self.dir.clone())
    }
}
