//! The chunks that are written, each to the file of its inode or, where it can't be told which of several
//! is the newest, beside it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use wire::chunk::ChunkKey;

use super::super::aligned::Aligned;
use super::super::disk::Disk;
use super::super::file_disk::FileDisk;
use super::super::record::{BLOCK, Slot, digest_of};
use super::copies::{Class, Copy, Known, Place, Source, places};
use super::found::{Chunk, Journal};
use super::kept::{KEPT_DIR, Kept};
use super::names::path_of;
use super::{SalvageError, at};

/// See the module's head.
pub struct Files {
    pub out: PathBuf,
    pub kept: Kept,
    pub source: Source,
    /// Chunks that this brick has.
    pub seen: BTreeSet<(u64, u64)>,
    data: FileDisk,
    open: Option<(u64, File, PathBuf)>,
}

/// The bytes of a chunk, as far as they could be read.
#[derive(Default)]
pub struct Content {
    len: u32,
    blocks: Vec<(u32, Vec<u8>)>,
    bad: Vec<u32>,
    /// Of its blocks, also of those that are bad.
    digest: u64,
    /// A block is an earlier one, since the latest is not where it should be.
    older: bool,
}

impl Content {
    /// Writes what there is, of a chunk that begins at `start`. `over`: so many bytes of another one are there.
    fn write(&self, file: &File, start: u64, over: u32) -> std::io::Result<()> {
        if over > 0 {
            file.write_all_at(&vec![0; over as usize], start)?;
        }
        if file.metadata()?.len() < start + u64::from(self.len) {
            file.set_len(start + u64::from(self.len))?;
        }
        self.blocks
            .iter()
            .try_for_each(|(block, bytes)| file.write_all_at(bytes, start + u64::from(*block) * BLOCK as u64))
    }
}

impl Files {
    pub fn new(out: PathBuf, kept: Kept, source: Source, data: FileDisk) -> Files {
        Files { out, kept, source, seen: BTreeSet::new(), data, open: None }
    }

    /// Takes in this brick's copy of a chunk.
    pub fn write(&mut self, key: ChunkKey, chunk: &Chunk, journal: &Journal) -> Result<(), SalvageError> {
        let chunk_bytes = self.kept.chunk_bytes;
        if chunk.len > chunk_bytes {
            return Err(SalvageError::ChunkSize { ino: key.ino, len: chunk.len, chunk_bytes });
        }
        let key = (key.ino.0, key.index);
        self.seen.insert(key);
        let content = self.content(chunk, journal);
        let known = chunk.header.map(|header| Known {
            chain: header.chain.0,
            version: header.version.0,
            writer: header.writer.map(|writer| (writer.session.0, writer.seq.0)),
        });
        self.kept.chains.extend(known.map(|known| (self.source, known.chain)));
        let copy = Copy { source: self.source, known, older: chunk.older || content.older };
        let mut classes = self.kept.chunks.remove(&key).unwrap_or_default();
        // It may have been salvaged before.
        classes.iter_mut().for_each(|class| class.copies.retain(|copy| copy.source != self.source));
        let digest = content.digest;
        let mine = match classes.iter().position(|class| (class.digest, class.len) == (digest, chunk.len)) {
            Some(mine) => mine,
            None => {
                let copies = Vec::new();
                classes.push(Class { len: chunk.len, digest, copies, bad: Vec::new(), place: Place::None });
                classes.len() - 1
            }
        };
        classes[mine].copies.push(copy);
        let wanted = places(&classes);
        self.put(key, &mut classes, &wanted, Some((mine, &content)))?;
        classes.retain(|class| !class.copies.is_empty());
        self.kept.chunks.insert(key, classes);
        Ok(())
    }

    /// Brings contents to the places where they are wanted. `new`: one that was just read.
    pub fn put(
        &mut self,
        key: (u64, u64),
        classes: &mut [Class],
        wanted: &[Place],
        new: Option<(usize, &Content)>,
    ) -> Result<(), SalvageError> {
        let start = key.1 * u64::from(self.kept.chunk_bytes);
        let (file, path) = self.file_of(key.0)?;
        let main = classes.iter().position(|class| class.place == Place::Main);
        let over = main.map_or(0, |main| classes[main].len);
        let moves = main.filter(|main| wanted[*main] != Place::Main);
        if let Some(main) = moves.filter(|main| wanted[*main] == Place::Side) {
            let mut bytes = vec![0; over as usize];
            file.read_exact_at(&mut bytes, start).map_err(at(&path))?;
            let side = self.kept.side(&self.out, key, &classes[main]);
            fs::write(&side, bytes).map_err(at(&side))?;
        }
        let first = wanted.iter().position(|place| *place == Place::Main);
        if moves.is_some() && first.is_none() {
            file.write_all_at(&vec![0; over as usize], start).map_err(at(&path))?;
        }
        for (n, class) in classes.iter_mut().enumerate() {
            let side = self.kept.side(&self.out, key, class);
            let fresh = new.filter(|(mine, _)| *mine == n).map(|(_, content)| content);
            let was = std::mem::replace(&mut class.place, wanted[n]);
            match (was, wanted[n], fresh) {
                (Place::None, Place::None, _) | (Place::Main, Place::None | Place::Side, _) => {}
                // What could not be read elsewhere may be here.
                (was, now, Some(content)) if was == now => {
                    let beside = if now == Place::Main { None } else { Some(open(&side)?) };
                    let (to, start) = beside.as_ref().map_or((&file, start), |beside| (beside, 0));
                    let blocks = content.blocks.iter().filter(|(block, _)| class.bad.contains(block));
                    for (block, bytes) in blocks {
                        to.write_all_at(bytes, start + u64::from(*block) * BLOCK as u64)
                            .map_err(at(&side))?;
                    }
                    class.bad.retain(|block| content.bad.contains(block));
                }
                (_, _, None) if was == wanted[n] => {}
                (Place::Side, Place::None, _) => fs::remove_file(&side).map_err(at(&side))?,
                (Place::None, now, Some(content)) => {
                    class.bad.clone_from(&content.bad);
                    let done = match now {
                        Place::Main => content.write(&file, start, over).map_err(at(&path)),
                        _ => content.write(&open(&side)?, 0, 0).map_err(at(&side)),
                    };
                    done?;
                }
                (Place::Side, _, _) => {
                    let bytes = fs::read(&side).map_err(at(&side))?;
                    let whole = Content { len: class.len, blocks: vec![(0, bytes)], ..Content::default() };
                    whole.write(&file, start, over).map_err(at(&path))?;
                    fs::remove_file(&side).map_err(at(&side))?;
                }
                // Nothing is left of it: a content that comes back comes with its bytes.
                (Place::None, _, None) => class.place = Place::None,
                (Place::Main, Place::Main, _) => {}
            }
        }
        Ok(())
    }

    fn content(&self, chunk: &Chunk, journal: &Journal) -> Content {
        let mut content = Content { len: chunk.len, ..Content::default() };
        for (block, slots) in &chunk.blocks {
            let offset = u64::from(*block) * BLOCK as u64;
            let Some(len) = u64::from(chunk.len).checked_sub(offset).filter(|len| *len > 0) else { continue };
            let found = slots.iter().find_map(|slot| Some((slot, self.bytes(slot, journal)?)));
            let slot = found.as_ref().map(|(slot, _)| *slot).or(slots.first());
            content.older |= slot != slots.first();
            content.digest = content.digest.wrapping_add(slot.map_or(0, |slot| digest_of(*block, slot.crc)));
            match found {
                Some((_, mut bytes)) => {
                    bytes.truncate(len.min(BLOCK as u64) as usize);
                    content.blocks.push((*block, bytes));
                }
                None => content.bad.push(*block),
            }
        }
        content
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

    /// The file of an inode; a new one has no name yet.
    fn file_of(&mut self, ino: u64) -> Result<(File, PathBuf), SalvageError> {
        if self.open.as_ref().is_none_or(|(open, ..)| *open != ino) {
            let place =
                self.kept.paths.entry(ino).or_insert_with(|| format!("{KEPT_DIR}/new-{ino}").into_bytes());
            let path = path_of(&self.out, place);
            let file = open(&path)?;
            self.open = Some((ino, file, path));
        }
        let Some((_, file, path)) = &self.open else {
            return Err(at(&self.out)(std::io::ErrorKind::NotFound.into()));
        };
        Ok((file.try_clone().map_err(at(path))?, path.clone()))
    }

    /// The files are about to be moved.
    pub fn close(&mut self) {
        self.open = None;
    }
}

fn open(path: &std::path::Path) -> Result<File, SalvageError> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(at(path))
}
