//! The files that are written.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use wire::chunk::ChunkKey;
use wire::id::Ino;

use super::super::aligned::Aligned;
use super::super::disk::Disk;
use super::super::file_disk::FileDisk;
use super::super::record::{BLOCK, Slot};
use super::found::{Chunk, Journal};
use super::{Partial, Report, SalvageError, at};

/// Where a file's bytes go, and what of it was seen.
#[derive(Debug)]
struct Target {
    path: PathBuf,
    chunks: BTreeSet<u64>,
    bad_blocks: Vec<u64>,
}

/// See the module's head.
pub struct Files {
    out: PathBuf,
    chunk_bytes: u32,
    data: FileDisk,
    names: BTreeMap<Ino, Vec<u8>>,
    targets: BTreeMap<Ino, Target>,
    taken: BTreeSet<PathBuf>,
    open: Option<(Ino, File)>,
}

/// A name from a brick as a path that stays below the output.
fn below(name: &[u8]) -> Option<PathBuf> {
    let parts = Path::new(OsStr::from_bytes(name)).components().filter_map(|part| match part {
        Component::Normal(part) => Some(part),
        _ => None,
    });
    let path: PathBuf = parts.collect();
    (path.components().next().is_some() && !name.contains(&0)).then_some(path)
}

impl Files {
    pub fn new(out: &Path, chunk_bytes: u32, data: FileDisk, names: BTreeMap<Ino, Vec<u8>>) -> Files {
        Files {
            out: out.to_owned(),
            chunk_bytes,
            data,
            names,
            targets: BTreeMap::new(),
            taken: BTreeSet::new(),
            open: None,
        }
    }

    /// Writes a chunk to its file.
    pub fn write(&mut self, key: ChunkKey, chunk: &Chunk, journal: &Journal) -> Result<(), SalvageError> {
        if chunk.len > self.chunk_bytes {
            let (len, chunk_bytes) = (chunk.len, self.chunk_bytes);
            return Err(SalvageError::ChunkSize { ino: key.ino, len, chunk_bytes });
        }
        let path = self.file_of(key.ino)?;
        let Some((_, file)) = &self.open else { return Ok(()) };
        let start = key.index * u64::from(self.chunk_bytes);
        let end = start + u64::from(chunk.len);
        if file.metadata().map_err(at(&path))?.len() < end {
            file.set_len(end).map_err(at(&path))?;
        }
        let mut bad = Vec::new();
        for (block, slots) in &chunk.blocks {
            let offset = u64::from(*block) * BLOCK as u64;
            let Some(len) = u64::from(chunk.len).checked_sub(offset).filter(|len| *len > 0) else { continue };
            let len = len.min(BLOCK as u64) as usize;
            match slots.iter().find_map(|slot| self.bytes(slot, journal)) {
                Some(bytes) => file.write_all_at(&bytes[..len], start + offset).map_err(at(&path))?,
                None => bad.push(start + offset),
            }
        }
        if let Some(target) = self.targets.get_mut(&key.ino) {
            target.chunks.insert(key.index);
            target.bad_blocks.extend(bad);
        }
        Ok(())
    }

    /// The bytes of a block, if they are what they should be.
    fn bytes(&self, slot: &Slot, journal: &Journal) -> Option<Vec<u8>> {
        if let Some(bytes) = journal.data(slot) {
            return Some(bytes.to_vec());
        }
        let mut bytes = Aligned::zeros(BLOCK);
        // A place that can't be read is a block that is lost.
        self.data.read(&mut [(slot.position * BLOCK as u64, &mut bytes)]).ok()?;
        (crc32c::crc32c(&bytes) == slot.crc).then(|| bytes.to_vec())
    }

    /// Opens the file of an inode, under its name where that can be had.
    fn file_of(&mut self, ino: Ino) -> Result<PathBuf, SalvageError> {
        if let Some(target) = self.targets.get(&ino) {
            let path = self.out.join(&target.path);
            if self.open.as_ref().is_none_or(|(open, _)| *open != ino) {
                let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
                self.open = Some((ino, file));
            }
            return Ok(path);
        }
        let plain = PathBuf::from(format!("ino-{}", ino.0));
        let mut wishes = Vec::new();
        if let Some(name) = self.names.get(&ino).and_then(|name| below(name)) {
            let mut beside = name.clone().into_os_string();
            beside.push(format!(".ino-{}", ino.0));
            // A name two files had in turn goes to the first one that is found.
            wishes.extend([name, PathBuf::from(beside)]);
        }
        wishes.push(plain);
        let mut refused = None;
        for wish in wishes.into_iter().filter(|wish| !self.taken.contains(wish)) {
            let path = self.out.join(&wish);
            let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let opened =
                made.and_then(|()| OpenOptions::new().write(true).create(true).truncate(false).open(&path));
            match opened {
                Ok(file) => {
                    self.open = Some((ino, file));
                    self.taken.insert(wish.clone());
                    let target = Target { path: wish, chunks: BTreeSet::new(), bad_blocks: Vec::new() };
                    self.targets.insert(ino, target);
                    return Ok(path);
                }
                // Too long, or a directory of another file is called so: a plainer name will do.
                Err(error) => refused = Some((path, error)),
            }
        }
        let (path, error) =
            refused.unwrap_or_else(|| (self.out.clone(), std::io::ErrorKind::AlreadyExists.into()));
        Err(at(&path)(error))
    }

    /// Says what is not whole.
    pub fn finish(self, report: &mut Report) -> Result<(), SalvageError> {
        report.files = self.targets.len() as u64;
        for target in self.targets.into_values() {
            let all = target.chunks.last().map_or(0, |last| last + 1);
            let absent_chunks = all - target.chunks.len() as u64;
            if absent_chunks > 0 || !target.bad_blocks.is_empty() {
                let mut bad_blocks = target.bad_blocks;
                bad_blocks.sort_unstable();
                bad_blocks.dedup();
                report.partial.insert(target.path, Partial { bad_blocks, absent_chunks });
            }
        }
        Ok(())
    }
}
