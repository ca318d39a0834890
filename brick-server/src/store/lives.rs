//! Which lives a brick has had, on its disk: a disk that was set back as a whole, to a snapshot or from an image, does not know
//! the last one, and the namespace, which does, refuses it.
//!
//! Two slots of a block each, written in turn and in place: a full disk has room for that, and a torn write leaves the other
//! one. Each holds a number, the lives with the oldest first, and a checksum.
//!
//! 1. A life is on stable storage before anybody hears of it (`a_life_is_known_after_a_crash`).
//! 2. Of many lives the last [`KEPT`] stay, and before them as many of those that the namespace took note of
//!    (`lives_that_counted_are_kept_longer`).
//! 3. A life that was given copies by others which may have lost something says so before it has them
//!    (`a_doubtful_life_vouches_for_nothing`, [`crate::chain::lineages`]).
//! 4. What can't be read says nothing, and nothing is refused for it (`a_damaged_file_says_nothing`).
//! 5. A new brick has a list with no life in it, so that a disk set back to before its first start does not know the last one
//!    either (`a_new_list_knows_of_no_life`). One made before there were lists says nothing until its second start.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use wire::id::BootId;

/// The file in a brick's directory.
pub const LIVES_FILE: &str = "lives";
const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"BYLIVES1";
const HEAD_BYTES: usize = 20;
const SUM_BYTES: usize = 4;
/// See 2 in the module's head.
pub const KEPT: usize = 220;

/// One life of a brick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    boot: BootId,
    /// The namespace knows it.
    counted: bool,
    /// It was given copies by others that may have lost something.
    doubtful: bool,
}

/// Flags of a life in the file.
const COUNTED: u8 = 1;
const DOUBTFUL: u8 = 2;

/// See the module's head.
#[derive(Debug)]
pub struct Lives {
    file: File,
    number: u64,
    lives: Vec<Life>,
    /// There was a list, and it could be read.
    is_whole: bool,
}

fn encode(number: u64, lives: &[Life]) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&number.to_le_bytes());
    slot.extend_from_slice(&(lives.len() as u32).to_le_bytes());
    for life in lives {
        slot.extend_from_slice(&life.boot.0.to_le_bytes());
        slot.push(if life.counted { COUNTED } else { 0 } | if life.doubtful { DOUBTFUL } else { 0 });
    }
    slot.resize(SLOT_BYTES - SUM_BYTES, 0);
    let sum = crc32c::crc32c(&slot);
    slot.extend_from_slice(&sum.to_le_bytes());
    slot
}

/// Whether a file that begins so is a list of lives.
pub fn is_slot(head: &[u8]) -> bool {
    MAGIC.starts_with(head)
}

fn decode(slot: &[u8]) -> Option<(u64, Vec<Life>)> {
    let (body, sum) = slot.split_at_checked(SLOT_BYTES - SUM_BYTES)?;
    if crc32c::crc32c(body).to_le_bytes() != *sum || !body.starts_with(MAGIC) {
        return None;
    }
    let number = u64::from_le_bytes(body.get(8..16)?.try_into().ok()?);
    let count = u32::from_le_bytes(body.get(16..HEAD_BYTES)?.try_into().ok()?) as usize;
    let list = body.get(HEAD_BYTES..HEAD_BYTES + count.checked_mul(9)?)?;
    let life = |entry: &[u8]| {
        let boot = BootId(u64::from_le_bytes(entry.get(..8)?.try_into().ok()?));
        let flags = *entry.get(8)?;
        Some(Life { boot, counted: flags & COUNTED != 0, doubtful: flags & DOUBTFUL != 0 })
    };
    let lives: Option<Vec<Life>> = list.chunks(9).map(life).collect();
    Some((number, lives?))
}

impl Lives {
    /// Makes the list of a new brick in `dir`: no life yet. It is on stable storage when the directory is.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(dir: &Path) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(dir.join(LIVES_FILE))?;
        let mut this = Lives { file, number: 0, lives: Vec::new(), is_whole: true };
        this.write_both()?;
        this.file.sync_all()
    }

    /// Begins a life of the brick in `dir`: it is on stable storage when this returns.
    ///
    /// # Errors
    /// What the disk says; the lives before are as they were.
    pub fn begin(dir: &Path, boot: BootId) -> io::Result<Lives> {
        let path = dir.join(LIVES_FILE);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let is_new = file.metadata()?.len() < 2 * SLOT_BYTES as u64;
        let read = |slot: u64| {
            let mut bytes = vec![0; SLOT_BYTES];
            file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).map(|()| decode(&bytes)).ok().flatten()
        };
        let found = [read(0), read(1)].into_iter().flatten().max_by_key(|(number, _)| *number);
        if found.is_none() && !is_new {
            tracing::warn!(file = %path.display(), "can't be read: whether this disk was set back is not known this time");
        }
        let is_whole = found.is_some();
        let (number, lives) = found.unwrap_or_default();
        let mut this = Lives { file, number, lives, is_whole };
        this.lives.push(Life { boot, counted: false, doubtful: false });
        this.forget();
        if is_new {
            this.write_both()?;
        } else {
            this.write()?;
        }
        this.file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(this)
    }

    fn forget(&mut self) {
        let recent = self.lives.len().saturating_sub(KEPT);
        let (old, new) = self.lives.split_at(recent);
        let counted: Vec<Life> = old.iter().filter(|life| life.counted).copied().collect();
        let from = counted.len().saturating_sub(KEPT);
        self.lives = counted[from..].iter().chain(new).copied().collect();
    }

    fn write(&mut self) -> io::Result<()> {
        let number = self.number + 1;
        self.file.write_all_at(&encode(number, &self.lives), number % 2 * SLOT_BYTES as u64)?;
        self.number = number;
        Ok(())
    }

    /// Writes both slots, so that neither needs room later.
    fn write_both(&mut self) -> io::Result<()> {
        self.write()?;
        self.write()
    }

    /// The namespace knows the present life. Need not be durable: it is kept for long anyhow.
    ///
    /// # Errors
    /// What the disk says.
    pub fn counts(&mut self) -> io::Result<()> {
        match self.lives.last_mut() {
            Some(last) if !last.counted => {
                last.counted = true;
                self.write()
            }
            _ => Ok(()),
        }
    }

    /// Whether the present life vouches for its changes: it is given a copy by one that may have lost something, or that is long ago. On stable
    /// storage when this returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn vouch(&mut self, vouches: bool) -> io::Result<()> {
        match self.lives.last_mut() {
            Some(last) if last.doubtful == vouches => {
                last.doubtful = !vouches;
                self.write()?;
                self.file.sync_data()
            }
            _ => Ok(()),
        }
    }

    /// The life before the present one, if it is known, and was given nothing by one that may have lost something: what it took over and
    /// the disk has is on the disk for good.
    pub fn before(&self) -> Option<BootId> {
        let before = self.lives.iter().rev().nth(1).filter(|life| self.is_whole && !life.doubtful);
        before.map(|life| life.boot)
    }

    /// The lives it is known to have had, the present one last; none where the list could not be read.
    pub fn known(&self) -> Vec<BootId> {
        if self.is_whole { self.lives.iter().map(|life| life.boot).collect() } else { Vec::new() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn boots(lives: &Lives) -> Vec<u64> {
        lives.known().iter().map(|boot| boot.0).collect()
    }

    #[test]
    fn a_doubtful_life_vouches_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        Lives::create(dir.path()).unwrap();
        let mut first = Lives::begin(dir.path(), BootId(1)).unwrap();
        assert_eq!(first.before(), None);
        first.counts().unwrap();
        let mut second = Lives::begin(dir.path(), BootId(2)).unwrap();
        assert_eq!(second.before(), Some(BootId(1)));
        second.vouch(false).unwrap();
        second.vouch(false).unwrap();
        let third = Lives::begin(dir.path(), BootId(3)).unwrap();
        assert_eq!((third.before(), boots(&third)), (None, vec![1, 2, 3]));
        let mut fourth = Lives::begin(dir.path(), BootId(4)).unwrap();
        assert_eq!(fourth.before(), Some(BootId(3)));
        fourth.vouch(false).unwrap();
        fourth.vouch(true).unwrap();
        assert_eq!(Lives::begin(dir.path(), BootId(5)).unwrap().before(), Some(BootId(4)));
    }

    #[test]
    fn a_life_is_known_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            boots(&Lives::begin(dir.path(), BootId(1)).unwrap()),
            [0; 0],
            "nothing is known of a brick of before"
        );
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(2)).unwrap()), [1, 2]);
        let before = std::fs::read(dir.path().join(LIVES_FILE)).unwrap();
        assert_eq!(before.len(), 2 * SLOT_BYTES);
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(3)).unwrap()), [1, 2, 3]);
        // The last write was torn: the one before it counts.
        let after = std::fs::read(dir.path().join(LIVES_FILE)).unwrap();
        let at = after.iter().zip(&before).position(|(a, b)| a != b).unwrap();
        let torn = [&after[..at + 7], &before[at + 7..]].concat();
        std::fs::write(dir.path().join(LIVES_FILE), torn).unwrap();
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(4)).unwrap()), [1, 2, 4]);
        // Set back as a whole.
        std::fs::write(dir.path().join(LIVES_FILE), before).unwrap();
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(5)).unwrap()), [1, 2, 5]);
    }

    #[test]
    fn a_new_list_knows_of_no_life() {
        let dir = tempfile::tempdir().unwrap();
        Lives::create(dir.path()).unwrap();
        let new = std::fs::read(dir.path().join(LIVES_FILE)).unwrap();
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(1)).unwrap()), [1]);
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(2)).unwrap()), [1, 2]);
        std::fs::write(dir.path().join(LIVES_FILE), new).unwrap();
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(3)).unwrap()), [3], "it was set back");
    }

    #[test]
    fn lives_that_counted_are_kept_longer() {
        let dir = tempfile::tempdir().unwrap();
        for boot in 1..=10 {
            Lives::begin(dir.path(), BootId(boot)).unwrap().counts().unwrap();
        }
        for boot in 11..=1000 {
            Lives::begin(dir.path(), BootId(boot)).unwrap();
        }
        let known = boots(&Lives::begin(dir.path(), BootId(1001)).unwrap());
        let recent = 1002 - KEPT as u64..=1001;
        assert_eq!(known, (1..=10).chain(recent).collect::<Vec<_>>());
        for boot in 2000..3000 {
            Lives::begin(dir.path(), BootId(boot)).unwrap().counts().unwrap();
        }
        let known = boots(&Lives::begin(dir.path(), BootId(3000)).unwrap());
        assert_eq!(known, (3001 - 2 * KEPT as u64..=3000).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_file_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for boot in 1..4 {
            Lives::begin(dir.path(), BootId(boot)).unwrap();
        }
        std::fs::write(dir.path().join(LIVES_FILE), vec![7; 2 * SLOT_BYTES]).unwrap();
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(4)).unwrap()), [0; 0]);
        assert_eq!(boots(&Lives::begin(dir.path(), BootId(5)).unwrap()), [4, 5]);
    }

    /// Bytes on disk.
    #[test]
    fn a_slot_is_what_it_always_was() {
        let lives = [
            Life { boot: BootId(0x0102_0304_0506_0708), counted: true, doubtful: false },
            Life { boot: BootId(9), counted: false, doubtful: false },
        ];
        let slot = encode(3, &lives);
        assert_eq!(slot.len(), SLOT_BYTES);
        let head =
            b"BYLIVES1\x03\0\0\0\0\0\0\0\x02\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\x01\x09\0\0\0\0\0\0\0\0";
        assert_eq!(&slot[..head.len()], head);
        assert_eq!(decode(&slot), Some((3, lives.to_vec())));
        let mut flipped = slot;
        flipped[30] ^= 1;
        assert_eq!(decode(&flipped), None);
    }
}
