//! Values: one byte of format version, then postcard.
//!
//! | format | since | why |
//! |---|---|---|
//! | 1 | 0.1.0 | the first |
//!
//! 1. The bytes of a format never change (`records_are_golden`); a new shape is a new format
//!    beside the old one.
//! 2. A format this program does not know is an error, never a guess (`unknown_formats_are_refused`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use wire::handshake::Role;
use wire::id::{BrickId, DirCookie, Ino, NodeId, SessionId};
use wire::layout::FileLayout;
use wire::meta::{Attr, FileKind, Name, Timestamp};

use crate::error::Error;

/// The format this program writes.
pub const FORMAT: u8 = 1;

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u16,
    /// Names; of a directory 2 and one for each subdirectory; 0 when it has no name.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Bytes; of a directory entries; of a link the length of its target.
    pub size: u64,
    /// Bytes allocated for one copy.
    pub allocated_bytes: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// When `mtime` was last set by hand, if it was not changed since: writes before that
    /// moment, reported late, do not change it.
    pub mtime_set: Option<Timestamp>,
    /// Where the bytes are; of a directory what its new files get.
    pub layout: FileLayout,
    /// Number of extended attributes.
    pub xattrs: u32,
    /// Length of the list of their names.
    pub xattr_list_bytes: u32,
    /// It was open for writing once, so chunks may exist.
    pub written: bool,
    /// A writer died: chunks beyond the size may exist when the last writer closes.
    pub dirty_tail: bool,
    /// Where it is, of directories.
    pub parent: Ino,
    /// Cookie of the next entry, of directories.
    pub next_cookie: DirCookie,
    /// Where it points, of symbolic links.
    pub target: Bytes,
}

impl Inode {
    /// What `stat` tells.
    pub fn attr(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            allocated_bytes: self.allocated_bytes,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            layout: self.layout,
            xattrs: self.xattrs,
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Its place in the listing.
    pub cookie: DirCookie,
}

/// An entry by its place in the listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The name.
    pub name: Name,
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
}

/// Where an inode's name is: the newest one, of those that have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: Ino,
    /// The place in its listing.
    pub cookie: DirCookie,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Who.
    pub client: NodeId,
    /// The machine.
    pub host: String,
    /// Where it is mounted there.
    pub mount: String,
    /// Since when.
    pub since: Timestamp,
}

/// Chunks to be cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    /// Chunk size of the file, in bytes.
    pub chunk_bytes: u32,
    /// Bricks that have not done it, each with the bytes that stay there.
    pub owed: BTreeMap<BrickId, u64>,
}

/// A file was cut while it was open for writing: what was written meanwhile may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The least size it was cut to.
    pub size: u64,
    /// Who cut it last. It writes on when it was told that the cut is over.
    pub by: SessionId,
    /// And knows this `ctime` then.
    pub at: Timestamp,
    /// Any other who knows this `ctime` began to write when all was over.
    pub over: Option<Timestamp>,
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// What its users become.
    pub role: Role,
    /// When it ends.
    pub expires: Timestamp,
    /// How often it may still be used.
    pub uses_left: u32,
    /// Who has used it.
    pub redeemed: Vec<NodeId>,
}

/// Numbers given out, and numbers of things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Next inode number.
    pub next_ino: u64,
    /// Next session number.
    pub next_session: u64,
    /// Inodes that exist, those without a name too.
    pub inodes: u64,
    /// Inodes without a name.
    pub orphans: u64,
    /// Files with chunks to be cut.
    pub trims: u64,
    /// Trims each brick owes.
    pub owed: BTreeMap<BrickId, u64>,
}

/// The bytes of a record.
///
/// # Errors
/// Never for the records of this module; the encoder's signature allows it.
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, Error> {
    postcard::to_extend(record, vec![FORMAT]).map_err(|error| Error::Encode { detail: error.to_string() })
}

/// The record of bytes found under `key`.
///
/// # Errors
/// If the format is unknown or the bytes are none of it.
pub fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, Error> {
    let corrupt = |detail: String| Error::Corrupt { key: key.escape_ascii().to_string(), detail };
    match bytes.split_first() {
        Some((&FORMAT, body)) => {
            let (record, rest) =
                postcard::take_from_bytes(body).map_err(|error| corrupt(error.to_string()))?;
            if !rest.is_empty() {
                return Err(corrupt(format!("{} bytes too many", rest.len())));
            }
            Ok(record)
        }
        Some((format, _)) => Err(corrupt(format!("record format {format} is not known"))),
        None => Err(corrupt("empty".to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use wire::id::JournalIndex;
    use wire::layout::TableVersion;
    use wire::meta::{Change, Journal, SessionClass, What, Wishes};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(record: T, expected: &str) {
        let bytes = encode(&record).unwrap();
        assert_eq!(hex(&bytes), expected, "{record:?}");
        assert_eq!(decode::<T>(b"key", &bytes).unwrap(), record);
        assert!(decode::<T>(b"key", &bytes[..bytes.len() - 1]).is_err());
    }

    fn time(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 5 }
    }

    /// The bytes of every record, for good.
    #[test]
    fn records_are_golden() {
        golden(SessionClass::Ha, "0101");
        golden(
            Inode {
                kind: FileKind::Directory,
                mode: 0o755,
                nlink: 2,
                uid: 1,
                gid: 2,
                rdev: 3,
                size: 4,
                allocated_bytes: 4096,
                atime: time(1),
                mtime: time(2),
                ctime: time(3),
                btime: time(4),
                mtime_set: Some(time(5)),
                layout: FileLayout { table: TableVersion(1), seed: 9, stripe: 2, chunk_bytes: 1 << 22 },
                xattrs: 1,
                xattr_list_bytes: 7,
                written: true,
                dirty_tail: false,
                parent: Ino(1),
                next_cookie: DirCookie(16),
                target: Bytes::from_static(b"ab"),
            },
            "0101ed030201020304802002050405060508050\
             10a0501090280808002010701000110026162"
                .replace(' ', "")
                .as_str(),
        );
        golden(Entry { ino: Ino(300), kind: FileKind::File, cookie: DirCookie(17) }, "01ac020011");
        golden(
            Listed { name: Name::new(&b"ab"[..]).unwrap(), ino: Ino(7), kind: FileKind::Symlink },
            "010261620702",
        );
        golden(Place { parent: Ino(300), cookie: DirCookie(17) }, "01ac0211");
        golden(SessionClass::Ha, "0101");
        golden(
            Session { client: NodeId([7; 16]), host: "h".into(), mount: "/m".into(), since: time(1) },
            "01070707070707070707070707070707070168022f6d0205",
        );
        golden(Trim { chunk_bytes: 1 << 20, owed: BTreeMap::from([(BrickId(3), 9)]) }, "01808040010309");
        golden(Cut { size: 9, by: SessionId(6), at: time(1), over: Some(time(2)) }, "0109060205010405");
        let redeemed = vec![NodeId([7; 16])];
        golden(
            TokenRecord { role: Role::Client, expires: time(1), uses_left: 2, redeemed },
            "01030205020107070707070707070707070707070707",
        );
        golden(
            Counters {
                next_ino: 2,
                next_session: 3,
                inodes: 4,
                orphans: 5,
                trims: 6,
                owed: BTreeMap::from([(BrickId(1), 2)]),
            },
            "010203040506010102",
        );
        let (first, next) = (JournalIndex(1), JournalIndex(300));
        golden(Journal { first, next, most_entries: 2, most_age_s: 3 }, "0101ac020203");
        golden(Ino(300), "01ac02");
        let name = Name::new(&b"ab"[..]).unwrap();
        let what = What::RenameTo { dir: Ino(9), name: name.clone() };
        let change = Change { at: time(1), name, ino: Ino(300), kind: FileKind::File, what };
        golden(change, "010205026162ac02000809026162");
        golden(
            Wishes {
                birth_bricks: 6,
                next_brick: 300,
                draining: BTreeSet::from([BrickId(2)]),
                rebalancing: true,
                repair_after_ms: 1000,
                syncs_a_brick: 2,
            },
            "0106ac02010201e80702",
        );
    }

    /// A record of a later format is not guessed at.
    #[test]
    fn unknown_formats_are_refused() {
        let mut bytes = encode(&Entry { ino: Ino(1), kind: FileKind::File, cookie: DirCookie(1) }).unwrap();
        bytes[0] = 2;
        let error = decode::<Entry>(b"D", &bytes).unwrap_err().to_string();
        assert!(error.contains("format 2"), "{error}");
        assert!(decode::<Entry>(b"D", b"").is_err());
    }
}
