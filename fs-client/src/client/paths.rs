//! The same by path: for programs and tests that have no kernel in between.

use std::sync::Arc;

use bytes::Bytes;
use wire::id::Ino;
use wire::meta::{Attr, FileKind, Name, NameError, NewInode};
use wire::status::FsError;

use super::Client;
use super::open::{File, OpenOptions};
use crate::error::Error;

/// Symbolic links followed on one way.
const MOST_LINKS: usize = 40;

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Invalid => Error::Fs(FsError::Invalid),
            NameError::TooLong => Error::Fs(FsError::NameTooLong),
        }
    }
}

impl Client {
    /// The inode at a path from the root of the filesystem, symbolic links followed on the
    /// way and, if `follow`, at its end.
    ///
    /// # Errors
    /// What the first failing step says.
    pub async fn resolve(&self, path: &[u8], follow: bool) -> Result<Attr, Error> {
        let mut here = self.getattr(Ino::ROOT).await?;
        // Parts still to be walked, the next one last.
        let mut rest: Vec<Bytes> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if here.kind != FileKind::Directory {
                return Err(FsError::NotDirectory.into());
            }
            if &part[..] == b".." {
                here = self.lookup_parent(here.ino).await?;
                continue;
            }
            let found = self.lookup(here.ino, Name::new(part)?).await?;
            if found.kind != FileKind::Symlink || (rest.is_empty() && !follow) {
                here = found;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Error::Loop);
            }
            let target = self.readlink(found.ino).await?;
            if target.starts_with(b"/") {
                here = self.getattr(Ino::ROOT).await?;
            }
            rest.extend(parts(&target));
        }
        Ok(here)
    }

    /// The directory that a path's last part is in, and that part.
    ///
    /// # Errors
    /// What the first failing step says.
    pub async fn resolve_parent(&self, path: &[u8]) -> Result<(Ino, Name), Error> {
        let trimmed = path.strip_suffix(b"/").unwrap_or(path);
        let cut = trimmed.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let (parent, name) = trimmed.split_at(cut);
        let name = Name::new(name.to_vec())?;
        let parent = self.resolve(parent, true).await?;
        Ok((parent.ino, name))
    }

    /// Opens the file at a path.
    ///
    /// # Errors
    /// As [`Client::resolve`] and [`Client::open`].
    pub async fn open_path(&self, path: &[u8], options: OpenOptions) -> Result<Arc<File>, Error> {
        let attr = self.resolve(path, true).await?;
        match attr.kind {
            FileKind::Directory => Err(FsError::IsDirectory.into()),
            _ => self.open(attr.ino, options).await,
        }
    }

    /// Makes or opens the file at a path.
    ///
    /// # Errors
    /// As [`Client::resolve`] and [`Client::create`].
    pub async fn create_path(
        &self,
        path: &[u8],
        mode: u16,
        options: OpenOptions,
    ) -> Result<Arc<File>, Error> {
        let (parent, name) = self.resolve_parent(path).await?;
        let new = NewInode { mode, umask: 0, uid: 0, gid: 0 };
        Ok(self.create(parent, name, new, false, options).await?.file)
    }
}

/// The parts of a path, last first, without empty ones and `.`.
fn parts(path: &[u8]) -> Vec<Bytes> {
    path.split(|b| *b == b'/')
        .rev()
        .filter(|part| !part.is_empty() && *part != b".")
        .map(Bytes::copy_from_slice)
        .collect()
}
