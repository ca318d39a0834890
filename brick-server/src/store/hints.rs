//! Names of files, for `salvage` only: a brick knows inodes and no names.
//!
//! ```text
//! DIR/hints   a line a name: crc32c of the rest as 8 hexadecimal digits | inode, decimal | path
//! ```
//! In a path, backslash and line feed are written `\\` and `\n`. The last line of an inode counts; a
//! line whose checksum is wrong does not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use wire::id::Ino;

use super::lease::lock;

/// Name of the file.
pub const HINTS_FILE: &str = "hints";
/// The file is written anew at start when it is longer than this and half of it is outdated.
const REWRITE_BYTES: u64 = 4 << 20;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Hints {
    file: Option<Mutex<File>>,
    dirty: AtomicBool,
}

fn line(ino: Ino, path: &str) -> String {
    let path = path.replace('\\', "\\\\").replace('\n', "\\n");
    let rest = format!("{} {path}", ino.0);
    let mut out = format!("{:08x} {rest}", crc32c::crc32c(rest.as_bytes()));
    out.push('\n');
    out
}

fn parse(line: &str) -> Option<(Ino, String)> {
    let (crc, rest) = line.split_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(rest.as_bytes()) {
        return None;
    }
    let (ino, path) = rest.split_once(' ')?;
    let mut out = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                other => other,
            },
            c => c,
        });
    }
    Some((Ino(ino.parse().ok()?), out))
}

/// All names in a file; none if there is no such file.
///
/// # Errors
/// What the operating system says.
pub fn read(path: &Path) -> io::Result<BTreeMap<Ino, String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e),
    };
    let mut out = BTreeMap::new();
    for bytes in BufReader::new(file).split(b'\n') {
        let bytes = bytes?;
        out.extend(std::str::from_utf8(&bytes).ok().and_then(parse));
    }
    Ok(out)
}

impl Hints {
    /// The names in a directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path) -> io::Result<Hints> {
        let path = dir.join(HINTS_FILE);
        if path.metadata().is_ok_and(|metadata| metadata.len() > REWRITE_BYTES) {
            let text = read(&path)?.iter().fold(String::new(), |mut text, (ino, name)| {
                // Writing to a string can't fail.
                let _ = text.write_str(&line(*ino, name));
                text
            });
            if (text.len() as u64) < path.metadata()?.len() / 2 {
                let new = dir.join("hints.new");
                let mut file = File::create(&new)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&new, &path)?;
                File::open(dir)?.sync_all()?;
            }
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Hints { file: Some(Mutex::new(file)), dirty: AtomicBool::new(false) })
    }

    /// Notes the name of a file; durable with the next commit.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn set(&self, ino: Ino, path: &str) -> io::Result<()> {
        if let Some(file) = &self.file {
            lock(file).write_all(line(ino, path).as_bytes())?;
            self.dirty.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Makes them durable.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sync(&self) -> io::Result<()> {
        match &self.file {
            Some(file) if self.dirty.swap(false, Ordering::AcqRel) => lock(file).sync_data(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The last name of a file is found again, whatever is in it; damaged lines are skipped.
    #[test]
    fn names_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let hints = Hints::open(dir.path()).unwrap();
        hints.set(Ino(7), "old").unwrap();
        hints.set(Ino(7), "/a b/c\\n\nd ü").unwrap();
        hints.set(Ino(8), "rotten").unwrap();
        hints.sync().unwrap();
        let path = dir.path().join(HINTS_FILE);
        let text = std::fs::read_to_string(&path).unwrap().replace("rotten", "r0tten");
        assert!(text.starts_with(&format!("{:08x} 7 old\n", crc32c::crc32c(b"7 old"))), "{text}");
        std::fs::write(&path, text).unwrap();
        assert_eq!(read(&path).unwrap(), BTreeMap::from([(Ino(7), "/a b/c\\n\nd ü".to_owned())]));
        assert_eq!(read(&dir.path().join("none")).unwrap(), BTreeMap::new());
    }
}
