//! What chunks were at when this life of the brick began, as far as they were changed since.
//!
//! A client that finds that bricks have restarted sends again what they may have lost. It may be there all the same, made durable by
//! another client's commit, and that one may have written over it since: done twice, it would undo that. What it was acknowledged at
//! tells: a chunk that began this life at that version or a later one has the change, since versions are given in order.
//!
//! 1. A chunk's first version is the one before the first change in this life (`the_first_change_counts`).
//! 2. Clients find out within minutes. After [`REMEMBERED_FOR`], or beyond [`MOST`] chunks, nothing is known any more, and what is sent again
//!    is done (`in_the_end_nothing_is_known`).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::chunk::ChunkKey;
use wire::id::ChunkVersion;

/// How long after the beginning of a life clients may ask: longer than any of their deadlines.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Chunks remembered at most: some 50 MB.
const MOST: usize = 1 << 20;

/// See the module's head.
#[derive(Debug)]
pub struct Firsts {
    began: Instant,
    /// None once nothing is known any more.
    versions: Option<HashMap<ChunkKey, ChunkVersion>>,
}

impl Firsts {
    /// Of a life that begins.
    pub fn new(now: Instant) -> Firsts {
        Firsts { began: now, versions: Some(HashMap::new()) }
    }

    /// A chunk at version `base` is about to be changed.
    pub fn note(&mut self, key: ChunkKey, base: ChunkVersion, now: Instant) {
        let Some(versions) = &mut self.versions else { return };
        if now.saturating_duration_since(self.began) >= REMEMBERED_FOR || versions.len() >= MOST {
            self.versions = None;
            return;
        }
        versions.entry(key).or_insert(base);
    }

    /// Whether a change that made `version` in an earlier life is in a chunk that is at `now_at`.
    pub fn survived(&self, key: ChunkKey, version: ChunkVersion, now_at: ChunkVersion) -> bool {
        self.versions.as_ref().is_some_and(|versions| *versions.get(&key).unwrap_or(&now_at) >= version)
    }
}

#[cfg(test)]
mod tests {
    use wire::id::Ino;

    use super::*;

    const KEY: ChunkKey = ChunkKey { ino: Ino(1), index: 0 };

    #[test]
    fn the_first_change_counts() {
        let start = Instant::now();
        let mut firsts = Firsts::new(start);
        let at = |version| ChunkVersion(version);
        assert!(
            firsts.survived(KEY, at(7), at(7)) && firsts.survived(KEY, at(7), at(9)),
            "not changed since"
        );
        assert!(!firsts.survived(KEY, at(7), at(6)), "lost");
        firsts.note(KEY, at(6), start);
        firsts.note(KEY, at(7), start);
        assert!(!firsts.survived(KEY, at(7), at(8)), "others have come as far since");
        assert!(firsts.survived(KEY, at(6), at(8)));
    }

    #[test]
    fn in_the_end_nothing_is_known() {
        let start = Instant::now();
        let mut firsts = Firsts::new(start);
        firsts.note(KEY, ChunkVersion(6), start);
        firsts.note(KEY, ChunkVersion(8), start + REMEMBERED_FOR);
        assert!(
            !firsts.survived(KEY, ChunkVersion(6), ChunkVersion(9)),
            "done again, as it would be if it were lost"
        );
    }
}
