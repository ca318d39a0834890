//! What a crash may leave: a model of promises, without any I/O.
//!
//! Rules for the content of one file, given what was promised by the last `fsync` (or by a rename,
//! which never becomes visible after a crash before the data it publishes) and the operations since
//! then, all unpromised:
//! 1. Without unpromised operations the content is exactly the promised one.
//! 2. A byte below the promised size has its promised value, or one that an unpromised operation
//!    gave it: the bytes of a write, zero by a punched hole or a truncation.
//! 3. A byte beyond the promised size has the value of an unpromised write, or is zero.
//! 4. The size is the promised one, or one an unpromised operation makes: that of a truncation, or the end of
//!    any beginning of a write. It is below the promised one only if a truncation is unpromised.
//!
//! Rules for names: a metadata call that returned is durable. The one that was under way happened
//! or did not; nothing in between.
//!
//! Guarded by the tests of this module; used by the crash stories.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, bail, ensure};

use crate::seed;

/// A change of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bytes of a pattern (see [`seed::fill`]) at their own position.
    Write {
        /// First byte.
        at: u64,
        /// How many.
        length: u64,
        /// Which pattern.
        pattern: u64,
    },
    /// A new size.
    Truncate {
        /// The size.
        size: u64,
    },
    /// A hole punched, size kept.
    Punch {
        /// First byte.
        at: u64,
        /// How many.
        length: u64,
    },
}

/// One file: what was promised, what was done since, what it holds if nothing gets lost.
#[derive(Clone, Debug, Default)]
pub struct Content {
    promised: Vec<u8>,
    unpromised: Vec<Change>,
    latest: Vec<u8>,
}

impl Content {
    /// What a read must give while nothing crashes.
    pub fn latest(&self) -> &[u8] {
        &self.latest
    }

    /// The size now.
    pub fn size(&self) -> u64 {
        self.latest.len() as u64
    }

    /// A change whose call returned.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Write { at, length, pattern } => {
                let end = (at + length) as usize;
                if self.latest.len() < end {
                    self.latest.resize(end, 0);
                }
                seed::fill(pattern, at, &mut self.latest[at as usize..end]);
            }
            Change::Truncate { size } => self.latest.resize(size as usize, 0),
            Change::Punch { at, length } => {
                let end = (at + length).min(self.size()) as usize;
                if let Some(range) = self.latest.get_mut(at as usize..end) {
                    range.fill(0);
                }
            }
        }
        self.unpromised.push(change);
    }

    /// A change whose call was under way when everything died.
    pub fn change_in_flight(&mut self, change: Change) {
        self.unpromised.push(change);
    }

    /// An fsync returned, or a rename published the file.
    pub fn promise(&mut self) {
        if !self.unpromised.is_empty() {
            self.promised.clone_from(&self.latest);
            self.unpromised.clear();
        }
    }

    /// What was read after the crash is the truth from now on.
    pub fn adopt(&mut self, actual: Vec<u8>) {
        self.promised.clone_from(&actual);
        self.latest = actual;
        self.unpromised.clear();
    }

    /// Fails unless `actual` is what a crash may leave.
    pub fn judge(&self, actual: &[u8]) -> Result<()> {
        if actual == self.latest {
            return Ok(());
        }
        self.judge_size(actual.len() as u64)?;
        let mut at = 0;
        while at < actual.len() {
            if !self.may_hold(at as u64, actual[at]) {
                bail!("{}", self.describe(actual, at));
            }
            at += 1;
        }
        Ok(())
    }

    fn judge_size(&self, size: u64) -> Result<()> {
        let promised = self.promised.len() as u64;
        let shrinkable = self.unpromised.iter().any(|change| matches!(change, Change::Truncate { .. }));
        let fits = size == promised
            || self.unpromised.iter().any(|change| match *change {
                Change::Write { at, length, .. } => (at + 1..=at + length).contains(&size),
                Change::Truncate { size: cut } => size == cut,
                Change::Punch { .. } => false,
            });
        ensure!(
            fits && (shrinkable || size >= promised),
            "size {size}, promised {promised}, after unpromised {:?}",
            self.unpromised
        );
        Ok(())
    }

    fn may_hold(&self, at: u64, byte: u8) -> bool {
        let promised = self.promised.get(at as usize).copied();
        promised.unwrap_or(0) == byte
            || self.unpromised.iter().any(|change| match *change {
                Change::Write { at: start, length, pattern } => {
                    (start..start + length).contains(&at) && seed::byte(pattern, at) == byte
                }
                Change::Truncate { size } => at >= size && byte == 0,
                Change::Punch { at: start, length } => (start..start + length).contains(&at) && byte == 0,
            })
    }

    fn describe(&self, actual: &[u8], at: usize) -> String {
        let wrong = (at..actual.len()).take_while(|i| !self.may_hold(*i as u64, actual[*i])).count();
        let show = |bytes: &[u8]| format!("{:02x?}", bytes.get(at..bytes.len().min(at + 16)).unwrap_or(&[]));
        let mut text = format!("{wrong} bytes from {at} of {} are what nobody wrote there: ", actual.len());
        let _ = write!(
            text,
            "{}, promised (size {}) {}, latest (size {}) {}, unpromised {:?}",
            show(actual),
            self.promised.len(),
            show(&self.promised),
            self.latest.len(),
            show(&self.latest),
            self.unpromised
        );
        text
    }
}

/// What a name stands for. Files are told apart by a number of the model's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File(usize),
    /// A directory.
    Dir,
    /// A symbolic link with its target.
    Symlink(String),
}

/// A change of names. Paths are relative to the root of the tree, parts joined by `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChange {
    /// A new name: created, made, linked.
    Add(String, Node),
    /// A name removed.
    Remove(String),
    /// From, to; replaces what is there; takes what is below along.
    Rename(String, String),
    /// Both names swapped (files only).
    Exchange(String, String),
}

/// The names of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub BTreeMap<String, Node>);

impl Names {
    /// Applies a change that is known to be possible.
    pub fn change(&mut self, change: &NameChange) {
        match change {
            NameChange::Add(path, node) => {
                self.0.insert(path.clone(), node.clone());
            }
            NameChange::Remove(path) => {
                self.0.remove(path);
            }
            NameChange::Rename(from, to) => {
                let below = format!("{from}/");
                let moved: Vec<String> =
                    self.0.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
                for path in moved {
                    if let Some(node) = self.0.remove(&path) {
                        self.0.insert(format!("{to}{}", &path[from.len()..]), node);
                    }
                }
            }
            NameChange::Exchange(one, two) => {
                if let (Some(first), Some(second)) = (self.0.remove(one), self.0.remove(two)) {
                    self.0.insert(one.clone(), second);
                    self.0.insert(two.clone(), first);
                }
            }
        }
    }

    /// How many names a file has.
    pub fn links(&self, file: usize) -> usize {
        self.0.values().filter(|node| **node == Node::File(file)).count()
    }

    /// The first few names on which two trees differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let paths: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        paths
            .into_iter()
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .map(|path| format!("{path}: due {:?}, found {:?}", self.0.get(path), other.0.get(path)))
            .take(10)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Content {
        let mut content = Content::default();
        content.change(Change::Write { at: 0, length: 100, pattern: 1 });
        content.promise();
        content
    }

    /// Rule 1: after fsync nothing else will do.
    #[test]
    fn promised_content_is_exact() {
        let content = file();
        assert!(content.judge(&seed::bytes(1, 0, 100)).is_ok());
        assert!(content.judge(&seed::bytes(1, 0, 99)).is_err());
        assert!(content.judge(&[]).is_err());
        let mut wrong = seed::bytes(1, 0, 100);
        wrong[50] ^= 1;
        assert!(content.judge(&wrong).is_err());
        wrong[50] ^= 1;
        wrong.push(0);
        assert!(content.judge(&wrong).is_err());
    }

    /// Rules 2 to 4: an unpromised write may be there in part, growing the file or not.
    #[test]
    fn an_unpromised_write_may_be_there_in_part() {
        let mut content = file();
        content.change_in_flight(Change::Write { at: 80, length: 100, pattern: 2 });
        let old = seed::bytes(1, 0, 100);
        let new = seed::bytes(2, 80, 100);
        assert!(content.judge(&old).is_ok());
        assert!(content.judge(&[&old[..80], &new].concat()).is_ok());
        assert!(content.judge(&[&old[..90], &new[10..50]].concat()).is_ok());
        assert!(content.judge(&[&old[..90], &new[10..50], &[0; 10]].concat()).is_ok());
        assert!(content.judge(&old[..90]).is_err(), "nothing shrank it");
        assert!(content.judge(&[&old[..80], &new, &[0]].concat()).is_err(), "nothing grew it so far");
        assert!(content.judge(&[&old[..70], &[0; 10], &new].concat()).is_err(), "promised bytes lost");
    }

    /// A truncation may have happened or not, alone or before a write.
    #[test]
    fn an_unpromised_truncation_may_have_happened() {
        let mut content = file();
        content.change(Change::Truncate { size: 10 });
        content.change(Change::Write { at: 20, length: 10, pattern: 3 });
        let old = seed::bytes(1, 0, 100);
        let new = seed::bytes(3, 20, 10);
        assert!(content.judge(&old).is_ok());
        assert!(content.judge(&old[..10]).is_ok());
        assert!(content.judge(&[&old[..10], &[0; 10], &new].concat()).is_ok());
        assert!(content.judge(&[&old[..10], &[0; 20]].concat()).is_ok());
        assert!(content.judge(&old[..50]).is_err(), "no such size was ever asked for");
        content.promise();
        assert!(content.judge(&old).is_err());
        assert!(content.judge(&[&old[..10], &[0; 10], &new].concat()).is_ok());
    }

    /// A directory's rename takes what is below along; a file's replaces its target.
    #[test]
    fn renames_move_subtrees() {
        let mut names = Names::default();
        for (path, node) in
            [("d", Node::Dir), ("d/f", Node::File(1)), ("dx", Node::File(2)), ("g", Node::File(3))]
        {
            names.change(&NameChange::Add(path.into(), node));
        }
        names.change(&NameChange::Rename("d".into(), "e".into()));
        names.change(&NameChange::Rename("g".into(), "dx".into()));
        let paths: Vec<&str> = names.0.keys().map(String::as_str).collect();
        assert_eq!(paths, ["dx", "e", "e/f"]);
        assert_eq!((names.links(1), names.links(2), names.links(3)), (1, 0, 1));
    }
}
