//! Names of files, for `salvage` only: a brick knows inodes and no names.
//!
//! ```text
//! DIR/hints   a line a name: crc32c of the rest as 8 hexadecimal digits | inode, decimal | path
//! ```
//! In a path, backslash and line feed are written `\\` and `\n`; other bytes are as they are. The last line of
//! an inode counts; a line whose checksum is wrong does not.
//!
//! 1. What is written anew beside the file (`hints.new`) takes its place when all of it is durable, with what was
//!    noted meanwhile (`names_noted_while_all_are_renewed_stay`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use wire::id::Ino;

use super::lease::lock;
use super::silence::Silence;

/// Name of the file.
pub const HINTS_FILE: &str = "hints";
/// What is to become it.
const NEW_FILE: &str = "hints.new";
/// Files that are remembered to have come; more are found when all names are noted anew.
const NAMELESS: usize = 65_536;

/// See [`super::ChunkStore::renew_names`].
#[derive(Debug, Clone, Copy)]
pub enum Renewal<'a> {
    /// Nothing is noted yet. What an earlier attempt left is dropped.
    Begin,
    /// These are.
    Add(&'a [(Ino, Bytes)]),
    /// That was all.
    End,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Hints {
    files: Option<Mutex<Files>>,
    dirty: AtomicBool,
    silence: Silence,
    nameless: Mutex<BTreeSet<Ino>>,
}

#[derive(Debug)]
struct Files {
    dir: PathBuf,
    now: File,
    /// Its last line may have been cut off by a crash.
    is_cut: bool,
    next: Option<File>,
}

fn line(ino: Ino, path: &[u8]) -> Vec<u8> {
    let mut rest = format!("{} ", ino.0).into_bytes();
    for byte in path {
        match byte {
            b'\\' => rest.extend(b"\\\\"),
            b'\n' => rest.extend(b"\\n"),
            other => rest.push(*other),
        }
    }
    let mut out = format!("{:08x} ", crc32c::crc32c(&rest)).into_bytes();
    out.append(&mut rest);
    out.push(b'\n');
    out
}

fn parse(line: &[u8]) -> Option<(Ino, Vec<u8>)> {
    let (crc, rest) = line.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?.trim_end(), 16).ok()?;
    if crc != crc32c::crc32c(rest) {
        return None;
    }
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let (ino, path) = (std::str::from_utf8(&rest[..space]).ok()?, &rest[space + 1..]);
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                other => *other,
            },
            other => *other,
        });
    }
    Some((Ino(ino.parse().ok()?), out))
}

/// All names in a file; none if there is no such file.
///
/// # Errors
/// What the operating system says.
pub fn read(path: &Path) -> io::Result<BTreeMap<Ino, Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e),
    };
    let mut out = BTreeMap::new();
    for bytes in BufReader::new(file).split(b'\n') {
        out.extend(parse(&bytes?));
    }
    Ok(out)
}

impl Hints {
    /// The names in a directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path, silence: Silence) -> io::Result<Hints> {
        let now = OpenOptions::new().append(true).create(true).open(dir.join(HINTS_FILE))?;
        let files = Files { dir: dir.to_owned(), now, is_cut: true, next: None };
        Ok(Hints { files: Some(Mutex::new(files)), silence, ..Hints::default() })
    }

    /// A file has got a chunk.
    pub fn came(&self, ino: Ino) {
        let mut nameless = lock(&self.nameless);
        if nameless.len() < NAMELESS {
            nameless.insert(ino);
        }
    }

    /// Takes files that have come.
    pub fn nameless(&self, max: usize) -> Vec<Ino> {
        let mut nameless = lock(&self.nameless);
        let rest = nameless.iter().nth(max).copied().map(|first| nameless.split_off(&first));
        std::mem::replace(&mut *nameless, rest.unwrap_or_default()).into_iter().collect()
    }

    /// Notes names; durable with the next commit.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn note(&self, names: &[(Ino, Bytes)]) -> io::Result<()> {
        let Some(files) = self.files.as_ref().filter(|_| !names.is_empty()) else { return Ok(()) };
        let text: Vec<u8> = names.iter().flat_map(|(ino, path)| line(*ino, path)).collect();
        let _asked = self.silence.write();
        let mut files = lock(files);
        self.dirty.store(true, Ordering::Release);
        if files.is_cut {
            // It ends here, so that nothing is lost of what follows.
            files.now.write_all(b"\n")?;
            files.is_cut = false;
        }
        append(&mut files.now, &text)?;
        files.next.as_mut().map_or(Ok(()), |next| append(next, &text))
    }

    /// A step of noting all names anew.
    ///
    /// # Errors
    /// What the operating system says; the names of before stay.
    pub fn renew(&self, step: Renewal<'_>) -> io::Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let mut files = lock(files);
        match step {
            Renewal::Begin => files.next = Some(File::create(files.dir.join(NEW_FILE))?),
            Renewal::Add(names) => {
                let text: Vec<u8> = names.iter().flat_map(|(ino, path)| line(*ino, path)).collect();
                if let Some(next) = &mut files.next {
                    append(next, &text)?;
                }
            }
            Renewal::End => {
                if let Some(next) = files.next.take() {
                    next.sync_all()?;
                    fs::rename(files.dir.join(NEW_FILE), files.dir.join(HINTS_FILE))?;
                    files.now = next;
                    files.is_cut = false;
                    File::open(&files.dir)?.sync_all()?;
                }
            }
        }
        Ok(())
    }

    /// Makes them durable.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sync(&self) -> io::Result<()> {
        match &self.files {
            Some(files) if self.dirty.swap(false, Ordering::AcqRel) => {
                let _asked = self.silence.write();
                lock(files).now.sync_data()
            }
            _ => Ok(()),
        }
    }
}

/// Writes whole lines; where that fails half-way, what comes next is a line of its own.
fn append(file: &mut File, text: &[u8]) -> io::Result<()> {
    file.write_all(text).inspect_err(|_| {
        // If there is no room for this either, the next line is lost with the one that was cut.
        let _ = file.write_all(b"\n");
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn named(names: &[(u64, &[u8])]) -> Vec<(Ino, Bytes)> {
        names.iter().map(|(ino, path)| (Ino(*ino), Bytes::copy_from_slice(path))).collect()
    }

    /// The last name of a file is found again, whatever is in it; damaged lines are skipped.
    #[test]
    fn names_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let hints = Hints::open(dir.path(), Silence::default()).unwrap();
        let odd = b"/a b/c\\n\nd \xfc\xff";
        hints.note(&named(&[(7, b"old")])).unwrap();
        hints.note(&named(&[(7, odd), (8, b"rotten")])).unwrap();
        hints.sync().unwrap();
        let path = dir.path().join(HINTS_FILE);
        let mut text = fs::read(&path).unwrap();
        assert!(text.starts_with(format!("\n{:08x} 7 old\n", crc32c::crc32c(b"7 old")).as_bytes()));
        let at = text.windows(6).position(|bytes| bytes == b"rotten").unwrap();
        text[at + 1] = b'0';
        // A line that a crash has cut, and one that was written after it.
        text.extend(b"12345678 9 /cut");
        fs::write(&path, text).unwrap();
        Hints::open(dir.path(), Silence::default()).unwrap().note(&named(&[(9, b"/whole")])).unwrap();
        assert_eq!(
            read(&path).unwrap(),
            BTreeMap::from([(Ino(7), odd.to_vec()), (Ino(9), b"/whole".to_vec())])
        );
        assert_eq!(read(&dir.path().join("none")).unwrap(), BTreeMap::new());
    }

    /// All names anew: those of before are gone in the end and not earlier, those that came meanwhile stay.
    #[test]
    fn names_noted_while_all_are_renewed_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HINTS_FILE);
        let known = || read(&path).unwrap().keys().map(|ino| ino.0).collect::<Vec<_>>();
        let hints = Hints::open(dir.path(), Silence::default()).unwrap();
        hints.note(&named(&[(1, b"/1"), (2, b"/2")])).unwrap();
        hints.renew(Renewal::Begin).unwrap();
        hints.renew(Renewal::Add(&named(&[(9, b"/9")]))).unwrap();
        hints.renew(Renewal::Begin).unwrap();
        hints.renew(Renewal::Add(&named(&[(2, b"/2")]))).unwrap();
        hints.note(&named(&[(3, b"/3")])).unwrap();
        assert_eq!(known(), [1, 2, 3]);
        hints.renew(Renewal::End).unwrap();
        assert_eq!(known(), [2, 3]);
        hints.note(&named(&[(4, b"/4")])).unwrap();
        assert_eq!(known(), [2, 3, 4]);
        drop(hints);
        Hints::open(dir.path(), Silence::default()).unwrap().note(&named(&[(5, b"/5")])).unwrap();
        assert_eq!(known(), [2, 3, 4, 5]);
    }

    /// Files that come are told once, the lowest first.
    #[test]
    fn who_came_is_told_once() {
        let hints = Hints::default();
        for ino in [3, 1, 2, 3] {
            hints.came(Ino(ino));
        }
        assert_eq!(hints.nameless(2), [Ino(1), Ino(2)]);
        assert_eq!(hints.nameless(2), [Ino(3)]);
        assert_eq!(hints.nameless(2), []);
    }
}
