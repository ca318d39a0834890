//! Who a directory is: written before anything else is, read before anything else is touched.
//!
//! A directory of another cluster or of a later format is refused and left as it is
//! (`foreign_directories_are_refused_untouched`).

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use wire::id::ClusterId;

use crate::error::Error;

/// The file's name.
pub const FILE: &str = "namespace.json";
/// The format of the directory this program writes.
pub const FORMAT: u32 = 1;
const MAGIC: &str = "brickyard-namespace";
/// Directory of the database.
pub const DB: &str = "db";

#[derive(Serialize, Deserialize)]
struct Identity {
    magic: String,
    format: u32,
    cluster: String,
}

/// Checks that `dir` is the namespace of `cluster`; an empty or missing directory becomes it.
///
/// # Errors
/// If it is anything else, or can't be read or written.
pub fn claim(dir: &Path, cluster: ClusterId) -> Result<(), Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let file = dir.join(FILE);
    match fs::read(&file) {
        Ok(bytes) => return check(dir, &bytes, cluster),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io(&file)(error)),
    }
    if dir.join(DB).exists() {
        return Err(Error::NotNamespace {
            dir: dir.to_owned(),
            detail: format!("it has a database and no {FILE}"),
        });
    }
    fs::create_dir_all(dir).map_err(io(dir))?;
    let identity = Identity { magic: MAGIC.to_owned(), format: FORMAT, cluster: cluster.to_string() };
    let text =
        serde_json::to_vec_pretty(&identity).map_err(|error| Error::Encode { detail: error.to_string() })?;
    let draft = dir.join("namespace.json.new");
    let mut out = File::create(&draft).map_err(io(&draft))?;
    out.write_all(&text).and_then(|()| out.sync_all()).map_err(io(&draft))?;
    fs::rename(&draft, &file).map_err(io(&file))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}

fn check(dir: &Path, bytes: &[u8], cluster: ClusterId) -> Result<(), Error> {
    /// What every format has.
    #[derive(Deserialize)]
    struct Head {
        magic: String,
        format: u32,
    }
    let foreign = |detail: String| Error::NotNamespace { dir: dir.to_owned(), detail };
    let head: Head = serde_json::from_slice(bytes).map_err(|error| foreign(format!("{FILE}: {error}")))?;
    if head.magic != MAGIC {
        return Err(foreign(format!("{FILE} says it is {:?}", head.magic)));
    }
    if head.format > FORMAT {
        return Err(Error::NewerFormat { dir: dir.to_owned(), found: head.format, known: FORMAT });
    }
    let identity: Identity =
        serde_json::from_slice(bytes).map_err(|error| foreign(format!("{FILE}: {error}")))?;
    let found: ClusterId = identity.cluster.parse().map_err(|error| foreign(format!("{FILE}: {error}")))?;
    if found != cluster {
        return Err(Error::OtherCluster { dir: dir.to_owned(), found, expected: cluster });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What is not ours is refused by name, and not a byte of it changes.
    #[test]
    fn foreign_directories_are_refused_untouched() {
        let ours = ClusterId([1; 16]);
        let cases: [(&str, &str); 4] = [
            (
                r#"{"magic":"brickyard-namespace","format":1,"cluster":"02020202020202020202020202020202"}"#,
                "cluster 0202",
            ),
            (r#"{"magic":"brickyard-namespace","format":2,"shape":"unknown"}"#, "format 2"),
            (r#"{"magic":"something","format":1}"#, "something"),
            ("not json", "namespace.json"),
        ];
        for (text, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = claim(dir.path(), ours).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    /// The first claim makes the directory ours, and the second finds it so.
    #[test]
    fn a_directory_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        claim(&path, ClusterId([1; 16])).unwrap();
        claim(&path, ClusterId([1; 16])).unwrap();
        assert!(claim(&path, ClusterId([2; 16])).is_err());
    }
}
