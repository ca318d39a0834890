//! A disk made of files `data.0`, `data.1`, ... in the brick's directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::disk::{Disk, Space};

/// Most bytes of one file: far below the limit of ext4 (16 TiB), and small enough that one
/// file's extent tree stays shallow.
const FILE_BYTES: u64 = 1 << 40;

/// See the module's head.
#[derive(Debug)]
pub struct FileDisk {
    dir: PathBuf,
    file_bytes: u64,
    files: RwLock<Vec<Piece>>,
}

#[derive(Debug)]
struct Piece {
    file: File,
    len: u64,
}

/// Name of the file with this number.
pub fn file_name(number: usize) -> String {
    format!("data.{number}")
}

fn open_rw(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

impl FileDisk {
    /// Opens the files of a brick. The first must exist.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path) -> io::Result<FileDisk> {
        FileDisk::open_with(dir, FILE_BYTES)
    }

    fn open_with(dir: &Path, file_bytes: u64) -> io::Result<FileDisk> {
        let mut files = Vec::new();
        loop {
            let file = match open_rw(&dir.join(file_name(files.len()))) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !files.is_empty() => break,
                Err(error) => return Err(error),
            };
            let len = file.metadata()?.len();
            files.push(Piece { file, len });
            if len < file_bytes {
                break;
            }
        }
        Ok(FileDisk { dir: dir.to_owned(), file_bytes, files: RwLock::new(files) })
    }

    /// Calls `each(file, offset in it, range of the caller's buffer)` for the parts of a range.
    fn parts(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(&File, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        while at < len {
            let position = offset + at as u64;
            let number = (position / self.file_bytes) as usize;
            let inside = position % self.file_bytes;
            let piece = files.get(number).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let take = (self.file_bytes - inside).min((len - at) as u64) as usize;
            each(&piece.file, inside, at..at + take)?;
            at += take;
        }
        Ok(())
    }
}

impl Disk for FileDisk {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let len = into.len();
        self.parts(offset, len, |file, at, range| file.read_exact_at(&mut into[range], at))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.parts(offset, data.len(), |file, at, range| file.write_all_at(&data[range], at))
    }

    fn sync(&self) -> io::Result<()> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.iter().try_for_each(|piece| piece.file.sync_data())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            let have: u64 = files.iter().map(|piece| piece.len).sum();
            if have >= len {
                return Ok(());
            }
            let full = files.last().is_none_or(|piece| piece.len == self.file_bytes);
            if full {
                let path = self.dir.join(file_name(files.len()));
                let file =
                    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
                File::open(&self.dir)?.sync_all()?;
                let len = file.metadata()?.len();
                files.push(Piece { file, len });
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
            last.len += grow;
        }
    }

    fn len(&self) -> u64 {
        self.files.read().unwrap_or_else(PoisonError::into_inner).iter().map(|piece| piece.len).sum()
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

    /// A range that crosses from one file into the next is written and read whole, also after
    /// the files were opened again.
    #[test]
    fn ranges_cross_files() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join(file_name(0))).unwrap();
        let disk = FileDisk::open_with(dir.path(), 1 << 20).unwrap();
        assert!(disk.is_empty());
        disk.allocate(5 << 19).unwrap();
        assert_eq!(disk.len(), 5 << 19);
        let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 7) as u8).collect();
        disk.write_at(1 << 19, &data).unwrap();
        disk.sync().unwrap();
        drop(disk);
        let disk = FileDisk::open_with(dir.path(), 1 << 20).unwrap();
        assert_eq!(disk.len(), 5 << 19);
        let mut read = vec![0; data.len()];
        disk.read_at(1 << 19, &mut read).unwrap();
        assert_eq!(read, data);
        assert!(disk.read_at(5 << 19, &mut [0]).is_err());
        assert!(disk.space().unwrap().available_bytes > 0);
    }
}
