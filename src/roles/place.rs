//! A directory with an identity file, held by one process at a time.
//!
//! 1. An identity of another kind or a newer format is refused, and nothing is changed
//!    (`other_identities_are_refused`).
//! 2. A second process is refused by the number of the first (`a_second_holder_is_refused_by_name`).
//! 3. A file is published whole or not at all, durably.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::net::CredentialError;

/// What an identity file begins with, in JSON: `magic` and `format`.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Value of `magic`.
    pub magic: &'static str,
    /// Value of `format`; newer ones are refused.
    pub format: u32,
    /// What to do when the file is damaged.
    pub mend: &'static str,
}

/// Makes a directory, for its owner only, where there is none.
///
/// # Errors
/// If it can't be made or is something else.
pub fn make(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Err(no_directory(dir, &meta)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the directory {}", dir.display())),
        Err(error) => Err(error).with_context(|| format!("cannot use the directory {}", dir.display())),
    }
}

/// Directories above a path that are not there, the innermost first: what [`make`] and the like will make for it.
pub fn missing_above(path: &Path) -> Vec<PathBuf> {
    path.ancestors().skip(1).take_while(|dir| !dir.exists()).map(Path::to_owned).collect()
}

/// Takes away what was made in vain: files, and directories behind what is in them, unless something else is in them by now.
pub fn unmake(made: &[PathBuf]) {
    for path in made {
        let gone = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        if gone.is_err_and(|error| error.kind() != ErrorKind::NotFound) {
            break;
        }
    }
}

/// The words for what is no directory where one is wanted.
fn no_directory(dir: &Path, meta: &Metadata) -> anyhow::Error {
    let (what, instead) = match () {
        () if meta.is_file() => ("a file and not a directory", "give a directory, or the name of a new one"),
        () if meta.file_type().is_block_device() => (
            "a disk and not a directory",
            "make a filesystem on it, mount that, and give the directory it is mounted on",
        ),
        () => ("not a directory", "give a directory, or the name of a new one"),
    };
    anyhow::anyhow!("{} is {what}: {instead}", dir.display())
}

/// Refuses what exists and is no directory, before anything in it is looked for.
///
/// # Errors
/// If it is something else.
pub fn refuse_file(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Err(no_directory(dir, &meta)),
        // What else is wrong with it finds its words when it is used.
        _ => Ok(()),
    }
}

/// The first thing in a directory that is not among `ours`; a directory that does not exist is empty.
///
/// # Errors
/// If it can't be read.
pub fn stranger(dir: &Path, ours: &[&str]) -> Result<Option<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", dir.display()))?.file_name();
        if name != "lost+found" && !ours.iter().any(|own| name == *own) {
            return Ok(Some(name.display().to_string()));
        }
    }
    Ok(None)
}

/// Locks a file for as long as the result lives, with this process' number in it.
///
/// # Errors
/// If another process has it, by that one's number; if it can't be written.
pub fn lock(path: &Path) -> Result<File> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let failed = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(dir, path, &mut file)?),
        Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
    // Always as long, and never cut: no room is needed for it on a full disk.
    writeln!(file, "{:<10}", std::process::id()).with_context(failed)?;
    Ok(file)
}

/// Refuses a directory whose lock file another process has, and touches nothing.
///
/// # Errors
/// By the number of who has it.
pub fn refuse_if_held(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    match File::open(path) {
        Ok(mut file) => match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => Err(in_use(dir, path, &mut file)?),
            // What else is wrong with it finds its words when it is taken.
            _ => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

/// The words for a directory that another process has.
fn in_use(dir: &Path, path: &Path, lock: &mut File) -> Result<anyhow::Error> {
    let mut holder = String::new();
    lock.read_to_string(&mut holder).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(anyhow::anyhow!("{} is in use by process {}: stop that one first", dir.display(), holder.trim()))
}

/// Reads an identity file; `None` if there is none.
///
/// # Errors
/// If it is of another kind, of a newer format, or damaged.
pub fn read<T: DeserializeOwned>(path: &Path, kind: Kind) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let damaged = || format!("{} is damaged: {}", path.display(), kind.mend);
    // Magic and format first, so that another format is named as such and not as a syntax error.
    let loose: serde_json::Value = serde_json::from_str(&text).with_context(damaged)?;
    if loose.get("magic").and_then(serde_json::Value::as_str) != Some(kind.magic) {
        bail!("{} is not that of a {}: {}", path.display(), kind.magic, kind.mend);
    }
    match loose.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(kind.format) => {}
        Some(format) => bail!(
            "{} has format {format}, this program knows {}: run the version that wrote it, or a newer one",
            path.display(),
            kind.format
        ),
        None => bail!("{} (it has no format number)", damaged()),
    }
    serde_json::from_value(loose).with_context(damaged).map(Some)
}

/// What a file with a credential or an authority holds; of one that can't be used it is said how to mend that. Who only may
/// not read it finds that in the error.
///
/// # Errors
/// If it can't be used.
pub fn loaded<T>(loaded: Result<T, CredentialError>, mend: &str) -> Result<T> {
    loaded.map_err(|error| match &error {
        CredentialError::Io { why, .. } if why.kind() == ErrorKind::PermissionDenied => error.into(),
        _ => anyhow::anyhow!("{error}; {mend}"),
    })
}

/// Writes an identity file, with magic and format added to what `value` has.
///
/// # Errors
/// If it can't be written.
pub fn write<T: Serialize>(path: &Path, kind: Kind, value: &T) -> Result<()> {
    let mut object = serde_json::to_value(value)?;
    if let Some(fields) = object.as_object_mut() {
        fields.insert("magic".to_owned(), kind.magic.into());
        fields.insert("format".to_owned(), kind.format.into());
    }
    publish(path, format!("{object:#}\n").as_bytes())
}

/// Publishes a file by rename, durably, readable by its owner only.
///
/// # Errors
/// If it can't be written.
pub fn publish(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const KIND: Kind = Kind { magic: "brickyard test", format: 1, mend: "mend it" };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Content {
        name: String,
    }

    /// Invariant 1.
    #[test]
    fn other_identities_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("identity.json");
        assert_eq!(read::<Content>(&file, KIND).unwrap(), None);
        let content = Content { name: "x".into() };
        write(&file, KIND, &content).unwrap();
        assert_eq!(read::<Content>(&file, KIND).unwrap(), Some(content));
        let text = fs::read_to_string(&file).unwrap();
        for (from, to, word) in [
            ("\"format\": 1", "\"format\": 4711", "4711"),
            ("brickyard test", "something else", "brickyard test"),
            ("brickyard test", "something else", "mend it"),
            ("{", "", "is damaged: mend it"),
            ("name", "surname", "is damaged: mend it"),
            ("\"format\": 1,", "", "is damaged: mend it"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            fs::write(&file, &changed).unwrap();
            let error = format!("{:#}", read::<Content>(&file, KIND).unwrap_err());
            assert!(error.contains(word), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), changed);
        }
    }

    /// Invariant 2.
    #[test]
    fn a_second_holder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock");
        let first = lock(&file).unwrap();
        let error = lock(&file).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        assert!(lock(&file).is_ok());
    }

    /// What was made in vain goes, up to what was there before or is in use.
    #[test]
    fn directories_made_in_vain_go() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b/file");
        let made = missing_above(&file);
        assert_eq!(made, [dir.path().join("a/b"), dir.path().join("a")]);
        make(&dir.path().join("a/b")).unwrap();
        assert!(missing_above(&file).is_empty());
        fs::write(dir.path().join("a/other"), "x").unwrap();
        fs::write(&file, "y").unwrap();
        unmake(&[vec![file.clone(), dir.path().join("a/b/never")], made].concat());
        assert_eq!(stranger(dir.path(), &[]).unwrap().unwrap(), "a");
        assert_eq!(stranger(&dir.path().join("a"), &[]).unwrap().unwrap(), "other");
    }

    /// Strangers are named; what is ours, and what a filesystem puts there, is none.
    #[test]
    fn strangers_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stranger(&dir.path().join("absent"), &[]).unwrap(), None);
        for name in ["lost+found", "lock"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(stranger(dir.path(), &["lock"]).unwrap(), None);
        assert_eq!(stranger(dir.path(), &[]).unwrap(), Some("lock".to_owned()));
    }
}
