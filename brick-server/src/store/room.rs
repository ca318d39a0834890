//! Room for the index on a disk that somebody else fills.
//!
//! A database that was once refused room goes on seconds later, or never. So it is not asked to write what
//! there is no room for:
//!
//! | free | |
//! |---|---|
//! | enough for a flush and for tidying up | as always |
//! | enough for a flush | no tidying up, which takes room before it gives some back |
//! | less | the room set aside is given up; if that is not enough, nothing is written to the index |
//!
//! 1. The index is never asked to write what there was no room for when it was asked
//!    (`rocks`: `an_index_goes_on_when_there_is_room_again`).
//! 2. It may flush wherever it may tidy up (`more_room_never_allows_less`).

use std::io;
use std::path::Path;

use super::reserve::Reserve;

/// Bytes a flush may take beyond what is flushed: a new table's index, and the files that name it.
const SLACK_BYTES: u64 = 2 << 20;
/// Tidying up takes at most about so many bytes at a time.
const TIDYING_BYTES: u64 = 128 << 20;

/// What an index may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Everything.
    All,
    /// Flushes, no tidying up.
    Flushes,
    /// Nothing that writes.
    Nothing,
}

/// See the module's head.
#[derive(Debug)]
pub struct Room {
    reserve: Reserve,
}

impl Room {
    /// For the brick in this directory.
    pub fn beside(dir: &Path) -> Room {
        Room { reserve: Reserve::in_dir(dir) }
    }

    /// What may be done with `in_memory` bytes to be flushed and `in_tables` on the disk.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn ask(&self, in_memory: u64, in_tables: u64) -> io::Result<Leave> {
        let needed = in_memory + SLACK_BYTES;
        let space = self.reserve.space()?;
        let given_up = self.reserve.give_up_below(space, needed)?;
        let space = if given_up { self.reserve.space()? } else { space };
        if given_up {
            tracing::warn!(
                free_bytes = space.free,
                "the disk is full: the room set aside is given up; make room"
            );
        }
        Ok(judge(space.free, needed, in_tables))
    }

    /// Sets room aside if there is plenty.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn set_aside(&self) -> io::Result<bool> {
        self.reserve.set_aside()
    }
}

fn judge(free: u64, needed: u64, in_tables: u64) -> Leave {
    match free {
        free if free < needed => Leave::Nothing,
        free if free < needed + in_tables.min(TIDYING_BYTES) => Leave::Flushes,
        _ => Leave::All,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn more_room_never_allows_less(
            free in 0u64..1 << 30, more in 0u64..1 << 30, needed in 0u64..1 << 26, in_tables in 0u64..1 << 34,
        ) {
            let rank = |free| match judge(free, needed, in_tables) {
                Leave::Nothing => 0,
                Leave::Flushes => 1,
                Leave::All => 2,
            };
            prop_assert!(rank(free) <= rank(free + more));
            prop_assert_eq!(rank(free) == 0, free < needed);
            prop_assert_eq!(rank(needed + TIDYING_BYTES), 2);
        }
    }
}
