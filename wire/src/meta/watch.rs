//! Changes of directories, as the journal of the namespace has them.
//!
//! 1. The bytes never change (`the_layout_is_golden`): they are on disk, too.

use serde::{Deserialize, Serialize};

use crate::id::{Ino, JournalIndex};
use crate::meta::{FileKind, Name, Timestamp};

/// The name in every directory of a mount that tells what changes there: no other thing can be called so.
pub const WATCH_NAME: &[u8] = b".brickyard.watch";

/// What happened to a name of a directory, or to what it stands for. New ones go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A regular file was made.
    Create,
    /// A directory was made.
    Mkdir,
    /// A pipe, socket or device was made.
    Mknod,
    /// A symbolic link was made.
    Symlink,
    /// One more name for an inode that has others, or never had one.
    Link,
    /// The name was removed.
    Unlink,
    /// The name was removed, and was a directory's.
    Rmdir,
    /// The name is gone: what it stood for has this one now.
    RenameFrom {
        /// The directory it went to; it may be the same one.
        dir: Ino,
        /// Its name there.
        name: Name,
    },
    /// The name stands for what had this one before; what it stood for until then has lost it.
    RenameTo {
        /// The directory it came from; it may be the same one.
        dir: Ino,
        /// Its name there.
        name: Name,
    },
    /// Owner, mode or times were set.
    SetAttr,
    /// The size was set.
    Truncate,
    /// An extended attribute or an access control list was set or removed.
    SetXattr,
    /// It was written to, and the namespace was told: by `fsync`, `close`, or some seconds later.
    Write,
}

/// An entry of the change journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, by the clock of the member that led. A later entry may have an earlier time.
    pub at: Timestamp,
    /// The name in the directory.
    pub name: Name,
    /// What it stands for, or stood for until then.
    pub ino: Ino,
    /// What that is.
    pub kind: FileKind,
    /// What happened.
    pub what: What,
}

/// Entries of one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// In order. Empty if time was over, or `lost`.
    pub changes: Vec<(JournalIndex, Change)>,
    /// Everything in the directory up to here was told: what comes next is after it.
    pub until: JournalIndex,
    /// Entries after the one asked from are not kept any more, or it was never given: what changed in
    /// between nobody knows, and `until` is where the journal ends now.
    pub lost: bool,
    /// The directory was removed: nothing follows after these.
    pub gone: bool,
}

/// What the change journal holds, and what it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The oldest entry that is kept, if there is any.
    pub first: JournalIndex,
    /// What the next entry gets.
    pub next: JournalIndex,
    /// Entries beyond this number are dropped, the oldest first.
    pub most_entries: u64,
    /// Entries older than this are dropped, in seconds.
    pub most_age_s: u64,
}

impl Journal {
    /// The newest entry, or 0 where none was ever made.
    pub fn newest(&self) -> JournalIndex {
        JournalIndex(self.next.0.saturating_sub(1))
    }

    /// Whether all entries after this one are kept.
    pub fn reaches(&self, after: JournalIndex) -> bool {
        after.0.saturating_add(1) >= self.first.0 && after < self.next
    }
}

/// Limits of the change journal that change; `None` leaves as is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JournalChange {
    /// See [`Journal::most_entries`].
    pub most_entries: Option<u64>,
    /// See [`Journal::most_age_s`].
    pub most_age_s: Option<u64>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::{ClusterReply, ClusterRequest, FsReply, FsRequest};
    use serde::de::DeserializeOwned;

    fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, expected: &[u8]) {
        let bytes = postcard::to_stdvec(value).unwrap();
        assert_eq!(bytes, expected, "{value:?}");
        assert_eq!(&postcard::from_bytes::<T>(&bytes).unwrap(), value);
        for cut in 0..bytes.len() {
            assert!(postcard::from_bytes::<T>(&bytes[..cut]).is_err());
        }
    }

    fn change(what: What) -> Change {
        let name = Name::new(&b"ab"[..]).unwrap();
        Change { at: Timestamp { secs: 1, nanos: 5 }, name, ino: Ino(300), kind: FileKind::File, what }
    }

    /// The bytes of entries, of what asks for them and of what answers.
    #[test]
    fn the_layout_is_golden() {
        let name = Name::new(&b"c"[..]).unwrap();
        let kinds = [
            What::Create,
            What::Mkdir,
            What::Mknod,
            What::Symlink,
            What::Link,
            What::Unlink,
            What::Rmdir,
            What::RenameFrom { dir: Ino(9), name: name.clone() },
            What::RenameTo { dir: Ino(9), name },
            What::SetAttr,
            What::Truncate,
            What::SetXattr,
            What::Write,
        ];
        for (number, what) in kinds.into_iter().enumerate() {
            let mut bytes = vec![2, 5, 2, b'a', b'b', 0xac, 2, 0, number as u8];
            if matches!(what, What::RenameFrom { .. } | What::RenameTo { .. }) {
                bytes.extend([9, 1, b'c']);
            }
            golden(&change(what), &bytes);
        }
        let (first, next) = (JournalIndex(1), JournalIndex(300));
        golden(&Journal { first, next, most_entries: 2, most_age_s: 3 }, &[1, 0xac, 2, 2, 3]);
        let asked = FsRequest::Watch { dir: Ino(9), after: Some(JournalIndex(7)), most: 2, wait_ms: 300 };
        golden(&asked, &[29, 9, 1, 7, 2, 0xac, 2]);
        let changes = vec![(JournalIndex(8), change(What::Unlink))];
        let told = Changes { changes, until: JournalIndex(9), lost: false, gone: true };
        golden(&FsReply::Changes(told), &[11, 1, 8, 2, 5, 2, b'a', b'b', 0xac, 2, 0, 5, 9, 0, 1]);
        let limits = JournalChange { most_entries: Some(2), most_age_s: None };
        golden(&ClusterRequest::Journal(limits), &[26, 1, 2, 0]);
        let journal = Journal { first, next, most_entries: 2, most_age_s: 3 };
        golden(&ClusterReply::Journal(journal), &[13, 1, 0xac, 2, 2, 3]);
    }

    /// From which index on everything is kept: also when nothing is, and never beyond the end.
    #[test]
    fn a_journal_reaches_from_its_first_entry_on() {
        let journal = |first, next| Journal {
            first: JournalIndex(first),
            next: JournalIndex(next),
            most_entries: 1,
            most_age_s: 1,
        };
        let reached = |first, next| {
            (0..7).filter(|after| journal(first, next).reaches(JournalIndex(*after))).collect::<Vec<_>>()
        };
        assert_eq!(reached(1, 1), [0]);
        assert_eq!(reached(1, 4), [0, 1, 2, 3]);
        assert_eq!(reached(3, 5), [2, 3, 4]);
        assert_eq!(reached(5, 5), [4]);
        assert_eq!(journal(2, 2).newest(), JournalIndex(1));
        assert!(!journal(1, u64::MAX).reaches(JournalIndex(u64::MAX)));
    }
}
