//! What can be wrong and mended, as a survey ([`crate::verify`]) saw it.
//!
//! 1. The bytes of a flaw never change: they are in the log (`flaws_are_golden`). New ones go to the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::id::{BrickId, DirCookie, Ino, JournalIndex, SessionId};
use wire::meta::{Name, Timestamp};

/// A directory, and a name in it.
pub type Named = (Ino, Name);

/// Something wrong, as it was seen at one moment. It is looked at again before anything is done about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Flaw {
    /// Nothing: the directory that takes what has no place is to be there, on all members alike.
    LostFound,
    /// The number of this inode was given before its turn.
    NextIno(Ino),
    /// A directory is missing that has something in it, or that a name says is there.
    Dir(LostDir),
    /// A name: whether its inode exists, what kind it is, and its place in the listing.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// A place in a listing that no name says it has.
    Listed {
        /// The directory.
        parent: Ino,
        /// The place.
        cookie: DirCookie,
        /// The inode counted more names than it has when its `ctime` was this.
        short: Option<Timestamp>,
    },
    /// An inode without a name that does not exist.
    Orphan(Ino),
    /// Extended attributes of an inode that does not exist.
    Xattrs(Ino),
    /// What an inode counts of its extended attributes, and its times.
    Inode(Ino),
    /// One of several names of a directory.
    Extra {
        /// The directory that has them.
        ino: Ino,
        /// The one that is too many.
        name: Named,
        /// The one it keeps; of the root none.
        keep: Option<Named>,
    },
    /// Names and entries, and what the inode says of them.
    Names(Count),
    /// A directory that is in itself, by way of others.
    Loop {
        /// The directory.
        ino: Ino,
        /// Its name.
        name: Named,
    },
    /// Where the newest name of an inode is said to be.
    Place {
        /// The inode.
        ino: Ino,
        /// A name that it has.
        named: Option<Named>,
    },
    /// Whether a session knows that it holds locks on an inode.
    Holds {
        /// The session.
        session: SessionId,
        /// The inode.
        ino: Ino,
    },
    /// Locks of an inode that does not exist, or none.
    Locks(Ino),
    /// A lock on this inode has a generation that was not given.
    LockGeneration(Ino),
    /// Open files that are to give up locks which they do not hold.
    Recalled {
        /// The session.
        session: SessionId,
        /// The inode.
        ino: Ino,
    },
    /// A session is over and has something.
    Session(SessionId),
    /// Open for writing, and no file.
    Writer {
        /// The inode.
        ino: Ino,
        /// The session.
        session: SessionId,
    },
    /// A cut is kept of a file that nobody writes to.
    Cut(Ino),
    /// Chunks are to be cut, and nobody owes it.
    Trim(Ino),
    /// The change journal has gaps, or entries that it does not know of.
    Journal {
        /// From here on it has everything.
        first: JournalIndex,
        /// And it ends before this one.
        next: JournalIndex,
    },
    /// Entries of the change journal before its first one, some of them; the number tells one such order from another.
    OldChanges(u32),
    /// An entry of a directory that the change journal does not have.
    Change {
        /// The directory.
        dir: Ino,
        /// Its index.
        index: JournalIndex,
    },
    /// Numbers of things.
    Tally(Tally),
}

impl Flaw {
    /// Those of a lower phase are mended before: what the others are judged by follows from them.
    pub fn phase(&self) -> u8 {
        match self {
            Flaw::LostFound | Flaw::NextIno(_) => 0,
            Flaw::Dir(_) | Flaw::Entry { .. } | Flaw::Listed { .. } => 1,
            Flaw::Orphan(_) | Flaw::Xattrs(_) | Flaw::Inode(_) | Flaw::Extra { .. } => 2,
            Flaw::Names(_) => 3,
            Flaw::Loop { .. } => 4,
            Flaw::Place { .. } | Flaw::Holds { .. } | Flaw::Locks(_) | Flaw::LockGeneration(_) => 5,
            Flaw::Recalled { .. } | Flaw::Session(_) | Flaw::Writer { .. } => 6,
            Flaw::Cut(_) | Flaw::Trim(_) | Flaw::Journal { .. } => 7,
            Flaw::OldChanges(_) | Flaw::Change { .. } => 8,
            Flaw::Tally(_) => 9,
        }
    }

    /// Whether it may take [`super::LOST_FOUND`] to mend it.
    pub fn needs_lost_found(&self) -> bool {
        match self {
            Flaw::Dir(lost) => lost.named.is_none() && lost.ino != Ino::ROOT,
            Flaw::Names(count) => count.names == 0 && count.ino != Ino::ROOT,
            Flaw::Loop { .. } => true,
            _ => false,
        }
    }
}

/// A directory that does not exist. Without it nothing in it comes or goes, so what was counted stays right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct LostDir {
    /// Which.
    pub ino: Ino,
    /// A name that says it is there.
    pub named: Option<Named>,
    /// Entries it has.
    pub entries: u64,
    /// How many of them are directories.
    pub subdirs: u32,
    /// Beyond the places of all of them.
    pub next_cookie: DirCookie,
}

/// What was counted of an inode. Names and entries come and go with its `ctime`: while that is the same, so are they.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Count {
    /// Which.
    pub ino: Ino,
    /// Its `ctime` then.
    pub ctime: Timestamp,
    /// Names it has.
    pub names: u32,
    /// Entries it has.
    pub entries: u64,
    /// How many of them are directories.
    pub subdirs: u32,
    /// Where its name is, of directories.
    pub parent: Ino,
}

/// What is counted too little, or too much where negative. Commands change both, what is there and what is counted, alike, so
/// it stays right until it is mended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How often that was mended before.
    pub seen: u64,
    /// Inodes.
    pub inodes: i64,
    /// Inodes without a name.
    pub orphans: i64,
    /// Files with chunks to be cut.
    pub trims: i64,
    /// Trims that bricks owe.
    pub owed: BTreeMap<BrickId, i64>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The bytes of every flaw, for good.
    #[test]
    fn flaws_are_golden() {
        let name = Name::new(&b"ab"[..]).unwrap();
        let named = (Ino(1), name.clone());
        let ctime = Timestamp { secs: 1, nanos: 5 };
        let (ino, session, index) = (Ino(300), SessionId(7), JournalIndex(9));
        let lost =
            LostDir { ino, named: Some(named.clone()), entries: 2, subdirs: 1, next_cookie: DirCookie(18) };
        let count = Count { ino, ctime, names: 2, entries: 3, subdirs: 4, parent: Ino(5) };
        let owed = BTreeMap::from([(BrickId(3), -1)]);
        let golden = [
            (Flaw::LostFound, "00"),
            (Flaw::NextIno(ino), "01ac02"),
            (Flaw::Dir(lost), "02ac020101026162020112"),
            (Flaw::Entry { parent: ino, name }, "03ac02026162"),
            (Flaw::Listed { parent: ino, cookie: DirCookie(17), short: Some(ctime) }, "04ac0211010205"),
            (Flaw::Orphan(ino), "05ac02"),
            (Flaw::Xattrs(ino), "06ac02"),
            (Flaw::Inode(ino), "07ac02"),
            (Flaw::Extra { ino, name: named.clone(), keep: Some(named.clone()) }, "08ac02010261620101026162"),
            (Flaw::Names(count), "09ac02020502030405"),
            (Flaw::Loop { ino, name: named.clone() }, "0aac0201026162"),
            (Flaw::Place { ino, named: Some(named) }, "0bac020101026162"),
            (Flaw::Holds { session, ino }, "0c07ac02"),
            (Flaw::Locks(ino), "0dac02"),
            (Flaw::LockGeneration(ino), "0eac02"),
            (Flaw::Recalled { session, ino }, "0f07ac02"),
            (Flaw::Session(session), "1007"),
            (Flaw::Writer { ino, session }, "11ac0207"),
            (Flaw::Cut(ino), "12ac02"),
            (Flaw::Trim(ino), "13ac02"),
            (Flaw::Journal { first: index, next: JournalIndex(10) }, "14090a"),
            (Flaw::OldChanges(1), "1501"),
            (Flaw::Change { dir: ino, index }, "16ac0209"),
            (Flaw::Tally(Tally { seen: 1, inodes: -1, orphans: 1, trims: 0, owed }), "170101020001 0301"),
        ];
        for (flaw, hex) in golden {
            let bytes = postcard::to_allocvec(&flaw).unwrap();
            let found: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(found, hex.replace(' ', ""), "{flaw:?}");
            assert_eq!(postcard::from_bytes::<Flaw>(&bytes).unwrap(), flaw);
        }
    }
}
