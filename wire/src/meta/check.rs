//! Reading the whole namespace to verify it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::Ino;
use crate::layout::FileLayout;
use crate::meta::FileKind;

/// What a check across namespace and bricks needs of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeSummary {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Bytes of it that were written, as far as its record tells: less where a writer died, more where it was cut to a hole.
    pub allocated_bytes: u64,
    /// Where they are.
    pub layout: FileLayout,
    /// Somebody has it open for writing: chunks beyond `size` are no mistake.
    pub open_for_write: bool,
    /// Chunks of it are being freed or cut: leftovers are no mistake.
    pub trimming: bool,
}

/// Calls of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckRequest {
    /// Verifies the namespace's own records against each other (names and inodes, link
    /// counts, listings, orphans), from one moment's state. -> `Problems`
    Namespace,
    /// Inodes after this one in order of number, files only, those being freed too. -> `Inodes`
    Files {
        /// The last one seen.
        after: Ino,
        /// Most wanted.
        max: u32,
    },
    /// As `Namespace`, and tells how much may be mended. -> `Surveyed`
    Survey,
    /// The same of the state of the member that is asked, whoever leads. -> `Surveyed`
    OwnSurvey,
    /// Mends what may be mended of what is found now, the first things first. -> `Repaired`
    Repair,
}

/// Answers to [`CheckRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckReply {
    /// What is wrong, in words; empty when all is right. At most 1,000 are told.
    Problems {
        /// Inodes looked at.
        inodes: u64,
        /// Directory entries looked at.
        entries: u64,
        /// What is wrong.
        problems: Vec<String>,
    },
    /// Files.
    Inodes {
        /// In order of number.
        inodes: Vec<InodeSummary>,
        /// None comes after.
        end: bool,
    },
    /// As `Problems`.
    Surveyed {
        /// Inodes looked at.
        inodes: u64,
        /// Directory entries looked at.
        entries: u64,
        /// What is wrong, at most 1,000.
        problems: Vec<String>,
        /// Things that [`CheckRequest::Repair`] may mend.
        mendable: u64,
    },
    /// What was mended.
    Repaired {
        /// In order, at most [`MAX_REPAIRS`].
        repairs: Vec<Repair>,
        /// How many are not told.
        untold: u64,
        /// There may be more: ask again.
        more: bool,
        /// A mount has the cluster for itself: its kernel may go on showing what it knows.
        sole: bool,
    },
}

/// Repairs told in one answer.
pub const MAX_REPAIRS: usize = 1024;

/// Something that was mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// What, in words.
    pub what: String,
    /// Where, from the root of the filesystem on, where that is known.
    pub path: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of a check and their answers, byte for byte.
    #[test]
    fn checks_are_golden() {
        let requests = [
            (CheckRequest::Namespace, "00"),
            (CheckRequest::Files { after: Ino(300), max: 7 }, "01ac0207"),
            (CheckRequest::Survey, "02"),
            (CheckRequest::OwnSurvey, "03"),
            (CheckRequest::Repair, "04"),
        ];
        for (request, hex) in requests {
            let bytes = postcard::to_allocvec(&request).unwrap_or_default();
            assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), hex, "{request:?}");
            assert_eq!(postcard::from_bytes(&bytes), Ok(request));
        }
        let problems = vec!["ab".to_owned()];
        let repair = Repair { what: "ab".to_owned(), path: Some(Bytes::from_static(b"/a")) };
        let replies = [
            (CheckReply::Problems { inodes: 1, entries: 2, problems: problems.clone() }, "0001020102 6162"),
            (CheckReply::Inodes { inodes: Vec::new(), end: true }, "010001"),
            (CheckReply::Surveyed { inodes: 1, entries: 2, problems, mendable: 300 }, "02010201026162ac02"),
            (
                CheckReply::Repaired { repairs: vec![repair], untold: 3, more: true, sole: false },
                "0301026162 01022f61 030100",
            ),
        ];
        for (reply, hex) in replies {
            let bytes = postcard::to_allocvec(&reply).unwrap_or_default();
            let found: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(found, hex.replace(' ', ""), "{reply:?}");
            assert_eq!(postcard::from_bytes(&bytes), Ok(reply));
        }
    }
}
