//! A disk made of files in the brick's directory: `data.0`, `data.1`, ..., or just one.
//!
//! The files are opened with O_DIRECT where the filesystem has it, so that what was written is on
//! the disk's doorstep and the kernel keeps no second copy. Space is reserved with `fallocate`, and
//! the new length flushed at once; what is written into reserved space is there after a crash only
//! when it was flushed, like everything else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate, statvfs, statx};

use super::aligned::{Aligned, is_aligned};
use super::disk::{Disk, ReadPart, Space, WritePart};
use super::engine::Io;
use super::record::BLOCK;
use super::silence::{Asked, Silence};
use super::uring::{Part, Rings};

/// Most bytes of one file: far below the limit of ext4 (16 TiB), and small enough that one
/// file's extent tree stays shallow.
const FILE_BYTES: u64 = 1 << 40;
/// Threads that carry out many parts where there is no io_uring.
const THREADS: usize = 4;

/// How files are read and written.
#[derive(Debug, Clone)]
pub struct Means {
    rings: Option<Arc<Rings>>,
    direct: bool,
    silence: Silence,
}

impl Means {
    /// What is wished for and can be had.
    pub fn choose(wish: Io) -> Means {
        let rings = match wish {
            Io::Buffered | Io::Threads => None,
            Io::Auto => Rings::new()
                .inspect_err(|error| tracing::info!(%error, "no io_uring here: threads do the work"))
                .ok(),
        };
        Means { rings: rings.map(Arc::new), direct: wish != Io::Buffered, silence: Silence::default() }
    }

    /// The kernel's page cache, one call after the other.
    pub fn buffered() -> Means {
        Means { rings: None, direct: false, silence: Silence::default() }
    }

    /// The same disk through the page cache.
    pub fn through_cache(&self) -> Means {
        Means { rings: None, direct: false, silence: self.silence.clone() }
    }

    /// Whether the disk answers.
    pub fn silence(&self) -> &Silence {
        &self.silence
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct FileDisk {
    dir: PathBuf,
    name: String,
    single: bool,
    file_bytes: u64,
    means: Means,
    access: Access,
    files: RwLock<Vec<Piece>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

#[derive(Debug)]
struct Piece {
    file: File,
    len: u64,
    /// 0: not opened with O_DIRECT.
    align: usize,
}

/// Name of the data file with this number.
pub fn file_name(number: usize) -> String {
    format!("data.{number}")
}

/// What O_DIRECT wants offsets of a file to be multiples of; `None`: it can't be had.
fn direct_align(file: &File) -> Option<usize> {
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(found) if found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            match found.stx_dio_offset_align.max(found.stx_dio_mem_align) {
                0 => None,
                1..=512 => Some(512),
                513..=4096 => Some(BLOCK),
                _ => None,
            }
        }
        // An older kernel does not say; the filesystem took the flag.
        _ => Some(BLOCK),
    }
}

fn open(path: &Path, access: Access, direct: bool) -> io::Result<Piece> {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite);
    if direct {
        match options.clone().custom_flags(OFlags::DIRECT.bits() as i32).open(path) {
            Ok(file) => {
                if let Some(align) = direct_align(&file) {
                    let len = file.metadata()?.len();
                    return Ok(Piece { file, len, align });
                }
            }
            // tmpfs and some network filesystems have no O_DIRECT.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
        tracing::info!(file = %path.display(), "no O_DIRECT here: through the page cache");
    }
    let file = options.open(path)?;
    let len = file.metadata()?.len();
    Ok(Piece { file, len, align: 0 })
}

impl FileDisk {
    /// Opens the files `NAME.0`, `NAME.1`, ... of a brick. The first must exist.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path, name: &str, means: &Means) -> io::Result<FileDisk> {
        FileDisk::open_all(dir, name, false, FILE_BYTES, means, Access::ReadWrite)
    }

    /// Opens the one file of this name, which must exist.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open_single(dir: &Path, name: &str, means: &Means) -> io::Result<FileDisk> {
        FileDisk::open_all(dir, name, true, FILE_BYTES, means, Access::ReadWrite)
    }

    /// As the others, for reading only.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open_read_only(dir: &Path, name: &str, single: bool) -> io::Result<FileDisk> {
        FileDisk::open_all(dir, name, single, FILE_BYTES, &Means::buffered(), Access::ReadOnly)
    }

    fn open_all(
        dir: &Path,
        name: &str,
        single: bool,
        file_bytes: u64,
        means: &Means,
        access: Access,
    ) -> io::Result<FileDisk> {
        let disk = FileDisk {
            dir: dir.to_owned(),
            name: name.to_owned(),
            single,
            file_bytes,
            means: means.clone(),
            access,
            files: RwLock::default(),
        };
        let mut files: Vec<Piece> = Vec::new();
        loop {
            let piece = match open(&disk.path(files.len()), access, means.direct) {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !files.is_empty() => break,
                Err(error) => return Err(error),
            };
            let more = piece.len >= file_bytes && !single;
            files.push(piece);
            if !more {
                break;
            }
        }
        *disk.files.write().unwrap_or_else(PoisonError::into_inner) = files;
        Ok(disk)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.dir.join(if self.single { self.name.clone() } else { format!("{}.{number}", self.name) })
    }

    /// Cuts a range at borders of files: file, offset in it, range of the caller's buffer.
    fn cut<'f>(
        &self,
        files: &'f [Piece],
        offset: u64,
        len: usize,
    ) -> io::Result<Vec<(&'f Piece, u64, std::ops::Range<usize>)>> {
        let mut out = Vec::with_capacity(1);
        let mut at = 0;
        while at < len {
            let position = offset + at as u64;
            let number = (position / self.file_bytes) as usize;
            let inside = position % self.file_bytes;
            let piece = files.get(number).ok_or(io::ErrorKind::UnexpectedEof)?;
            let take = (self.file_bytes - inside).min((len - at) as u64) as usize;
            out.push((piece, inside, at..at + take));
            at += take;
        }
        Ok(out)
    }

    fn run(&self, asked: &Asked<'_>, pieces: Vec<(&Piece, u64)>, mut parts: Vec<Part<'_>>) -> io::Result<()> {
        if let Some(rings) = self.means.rings.as_ref().filter(|_| parts.len() > 1)
            && let Some(done) = rings.run(&mut parts, &|| asked.gets_on())
        {
            // A part that was done only partly is done again, whole: that happens at the end of
            // a file or on a signal, and not in a loop that counts.
            return done?.into_iter().try_for_each(|(part, _)| one(asked, pieces[part].0, &mut parts[part]));
        }
        match parts.len() {
            many if self.means.direct && many > THREADS => {
                let share = parts.len().div_ceil(THREADS);
                std::thread::scope(|scope| {
                    let threads: Vec<_> = pieces
                        .chunks(share)
                        .zip(parts.chunks_mut(share))
                        .map(|(pieces, parts)| {
                            scope.spawn(move || {
                                pieces
                                    .iter()
                                    .zip(parts)
                                    .try_for_each(|((piece, _), part)| one(asked, piece, part))
                            })
                        })
                        .collect();
                    threads.into_iter().try_for_each(|thread| {
                        thread
                            .join()
                            .unwrap_or_else(|_| Err(io::Error::other("a thread of the disk panicked")))
                    })
                })
            }
            _ => pieces.iter().zip(&mut parts).try_for_each(|((piece, _), part)| one(asked, piece, part)),
        }
    }
}

fn one(asked: &Asked<'_>, piece: &Piece, part: &mut Part<'_>) -> io::Result<()> {
    match part {
        Part::Read(_, at, bytes) => piece.file.read_exact_at(bytes, *at)?,
        Part::Write(_, at, bytes) => piece.file.write_all_at(bytes, *at)?,
    }
    asked.gets_on();
    Ok(())
}

impl Disk for FileDisk {
    fn read(&self, wanted: &mut [ReadPart<'_>]) -> io::Result<()> {
        let asked = self.means.silence.read();
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let (mut pieces, mut parts) = (Vec::new(), Vec::new());
        for (offset, bytes) in wanted {
            let mut rest = &mut bytes[..];
            for (piece, at, range) in self.cut(&files, *offset, rest.len())? {
                let (here, more) = std::mem::take(&mut rest).split_at_mut(range.len());
                rest = more;
                if piece.align > 0 && !is_aligned(here, piece.align) {
                    let mut bounce = Aligned::zeros(here.len().next_multiple_of(piece.align));
                    piece.file.read_exact_at(&mut bounce, at)?;
                    here.copy_from_slice(&bounce[..here.len()]);
                    continue;
                }
                pieces.push((piece, at));
                parts.push(Part::Read(piece.file.as_raw_fd(), at, here));
            }
        }
        self.run(&asked, pieces, parts)
    }

    fn write(&self, given: &[WritePart<'_>]) -> io::Result<()> {
        let asked = self.means.silence.write();
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let (mut pieces, mut parts) = (Vec::new(), Vec::new());
        for (offset, bytes) in given {
            for (piece, at, range) in self.cut(&files, *offset, bytes.len())? {
                let here = &bytes[range];
                if piece.align > 0 && !is_aligned(here, piece.align) {
                    piece.file.write_all_at(&Aligned::of(here), at)?;
                    continue;
                }
                pieces.push((piece, at));
                parts.push(Part::Write(piece.file.as_raw_fd(), at, here));
            }
        }
        self.run(&asked, pieces, parts)
    }

    fn sync(&self) -> io::Result<()> {
        let _asked = self.means.silence.write();
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.iter().try_for_each(|piece| piece.file.sync_data())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let _asked = self.means.silence.write();
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            let have: u64 = files.iter().map(|piece| piece.len).sum();
            if have >= len {
                return Ok(());
            }
            let full = files.last().is_none_or(|piece| piece.len == self.file_bytes);
            if full {
                let path = self.path(files.len());
                OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
                File::open(&self.dir)?.sync_all()?;
                files.push(open(&path, self.access, self.means.direct)?);
                continue;
            }
            let Some(last) = files.last_mut() else { continue };
            let grow = (len - have).min(self.file_bytes - last.len);
            match fallocate(&last.file, FallocateFlags::empty(), last.len, grow) {
                Ok(()) => {}
                // A filesystem that can't reserve: the brick then learns of a full disk from
                // the write itself.
                Err(rustix::io::Errno::OPNOTSUPP) => last.file.set_len(last.len + grow)?,
                Err(error) => {
                    // A failed attempt may have grown the file in part; what is beyond the
                    // length we know is never used.
                    return Err(error.into());
                }
            }
            // What points into the new space may be durable before this file is flushed again.
            last.file.sync_all()?;
            last.len += grow;
        }
    }

    fn len(&self) -> u64 {
        self.files.read().unwrap_or_else(PoisonError::into_inner).iter().map(|piece| piece.len).sum()
    }

    fn align(&self) -> usize {
        // Disks that take 512 bytes mostly have sectors of 4 KiB inside, and read before they write.
        BLOCK
    }

    fn silence(&self) -> Duration {
        self.means.silence.lasts()
    }

    fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.dir)?;
        Ok(Space {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A range that crosses from one file into the next, and many ranges at once, are written and
    /// read whole, also after the files were opened again, by every means and from any memory.
    #[test]
    fn ranges_cross_files() {
        for wish in [Io::Auto, Io::Threads, Io::Buffered] {
            let means = Means::choose(wish);
            let dir = tempfile::tempdir().unwrap();
            File::create(dir.path().join(file_name(0))).unwrap();
            let open =
                || FileDisk::open_all(dir.path(), "data", false, 1 << 20, &means, Access::ReadWrite).unwrap();
            let disk = open();
            assert!(disk.is_empty());
            disk.allocate(5 << 19).unwrap();
            assert_eq!(disk.len(), 5 << 19);
            let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 7) as u8).collect();
            disk.write(&[(1 << 19, &data)]).unwrap();
            let aligned = Aligned::of(&data);
            // Every other block, backwards, more than a ring takes.
            let blocks = (0..100u64).rev().map(|i| (i as usize * BLOCK, (2 << 20) + i % 50 * 8192));
            let parts: Vec<_> = blocks.clone().map(|(at, to)| (to, &aligned[at..at + BLOCK])).collect();
            disk.write(&parts[50..]).unwrap();
            disk.sync().unwrap();
            drop(disk);
            let disk = open();
            assert_eq!(disk.len(), 5 << 19);
            let mut read = vec![0; data.len()];
            disk.read(&mut [(1 << 19, &mut read)]).unwrap();
            assert_eq!(read, data);
            let mut memory = Aligned::zeros(50 * BLOCK);
            let places = (2u64 << 20..).step_by(8192);
            let mut parts: Vec<_> = places.zip(memory.chunks_exact_mut(BLOCK)).collect();
            disk.read(&mut parts).unwrap();
            assert_eq!(*memory, data[..50 * BLOCK]);
            assert!(disk.read(&mut [(5 << 19, &mut [0; 512])]).is_err());
            assert!(disk.space().unwrap().available_bytes > 0);
        }
    }
}
