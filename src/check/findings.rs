//! What a check has found, and how it is told.

use std::collections::{BTreeMap, BTreeSet};

use wire::brick::ChainRef;
use wire::chunk::ChunkKey;
use wire::id::{BrickId, ChainEpoch, ChainId, Ino};

use crate::show::{self, counted};

/// Exit code: consistent now, after something was put right or mended.
pub(super) const REPAIRED: u8 = 3;
/// Problems told.
const MOST_TOLD: usize = 1000;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    /// What, in words.
    pub what: String,
    /// The file it is about, if it is about one.
    pub file: Option<Ino>,
}

/// Paths of files that something was found of.
pub(super) type Paths = BTreeMap<Ino, String>;

/// A line about a file, with its path if that is known.
fn with_path(line: &str, file: Option<Ino>, paths: &Paths) -> String {
    match file.and_then(|ino| paths.get(&ino)) {
        Some(path) => format!("{line}: {path}"),
        None => line.to_owned(),
    }
}

/// What was looked at and found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub inodes: u64,
    pub entries: u64,
    pub chunks: u64,
    pub problems: BTreeSet<Problem>,
    /// Not wrong, but worth knowing: copies that are missing because a brick is away.
    pub notes: BTreeSet<String>,
    /// Copies of chunks of files whose names were lost.
    pub lost: u64,
    /// Files that were written and of which there is nothing, with the bytes that were written.
    pub empty: BTreeMap<Ino, u64>,
    /// Chunks with so many bad blocks on a brick that are right again.
    pub repaired: BTreeMap<(ChunkKey, BrickId), u32>,
    /// Things that the namespace may mend.
    pub mendable: u64,
    /// The state of some member of the namespace is another one, or not known: nothing is mended then.
    pub differs: bool,
    /// Copies that are older than their head's.
    pub uneven: BTreeSet<Uneven>,
    /// What was mended, with its path.
    pub mended: Vec<String>,
}

/// A copy that is older than the head's, which is the one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Uneven {
    pub key: ChunkKey,
    pub chain: (ChainId, ChainEpoch),
    pub head: BrickId,
    pub member: BrickId,
}

impl Uneven {
    pub fn chain(&self) -> ChainRef {
        ChainRef { id: self.chain.0, epoch: self.chain.1 }
    }
}

impl Findings {
    pub fn wrong(&mut self, file: Ino, what: String) {
        self.problems.insert(Problem { what, file: Some(file) });
    }

    /// Files that something is told of.
    pub fn files(&self) -> Vec<Ino> {
        let wrong = self.problems.iter().take(MOST_TOLD).filter_map(|problem| problem.file);
        let repaired = self.repaired.keys().take(MOST_TOLD).map(|(key, _)| key.ino);
        let empty = self.empty.keys().take(MOST_TOLD).copied();
        wrong.chain(repaired).chain(empty).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub fn note_lines(&self, paths: &Paths) -> Vec<String> {
        let line = |(file, written): (&Ino, &u64)| {
            let line = format!(
                "nothing is left of file {file}, {} of which were written: its data is lost, unless it was cut to a hole since",
                show::bytes(*written)
            );
            with_path(&line, Some(*file), paths)
        };
        self.notes.iter().cloned().chain(self.empty.iter().take(MOST_TOLD).map(line)).collect()
    }

    pub fn problem_lines(&self, paths: &Paths) -> Vec<String> {
        let line = |problem: &Problem| with_path(&problem.what, problem.file, paths);
        self.problems.iter().take(MOST_TOLD).map(line).collect()
    }

    pub fn repaired_lines(&self, paths: &Paths) -> Vec<String> {
        let line = |((key, brick), blocks): (&(ChunkKey, BrickId), &u32)| {
            let bad = counted(*blocks, "bad block", "bad blocks");
            let line = format!("chunk {key} on brick {brick} had {bad}, put right from another copy");
            with_path(&line, Some(key.ino), paths)
        };
        self.mended.iter().cloned().chain(self.repaired.iter().take(MOST_TOLD).map(line)).collect()
    }

    /// Whether `--repair` would do something about it.
    pub fn can_repair(&self) -> bool {
        !self.problems.is_empty() && ((self.mendable > 0 && !self.differs) || !self.uneven.is_empty())
    }

    pub fn exit_code(&self) -> u8 {
        match (self.problems.is_empty(), self.repaired.is_empty() && self.mended.is_empty()) {
            (true, true) => 0,
            (true, false) => REPAIRED,
            (false, _) => 1,
        }
    }
}
