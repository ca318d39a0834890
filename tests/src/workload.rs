//! A worker that changes files in a directory of its own and remembers what it was promised.
//!
//! Operations are chosen from a seed. Each is noted in the model ([`crate::promise`]) when its call
//! returns; one that fails because everything died is noted as under way. After the crash
//! [`Worker::judge`] compares what is there with what may be there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};

use crate::promise::{Change, Content, NameChange, Names, Node};
use crate::seed::Rng;

/// No file grows beyond.
const MAX_SIZE: u64 = 4 << 20;
/// Handles kept open between operations.
const MAX_OPEN: usize = 4;

/// One file the worker made: its inode number tells it after the crash.
#[derive(Debug, Default)]
struct Tracked {
    inode: Option<u64>,
    content: Content,
}

/// What a call was when it failed.
#[derive(Debug)]
enum InFlight {
    Names(NameChange),
    Content(usize, Change),
    /// A call that changes nothing that is compared: open, read, fsync.
    Nothing,
}

/// The worker, its directory and all it knows.
#[derive(Debug)]
pub struct Worker {
    root: PathBuf,
    rng: Rng,
    number: u64,
    patterns: u64,
    files: BTreeMap<usize, Tracked>,
    next_file: usize,
    names: Names,
    in_flight: InFlight,
    open: Vec<(usize, File)>,
    last: String,
}

/// Why a worker stopped.
#[derive(Debug)]
pub struct Stopped {
    /// What it was doing.
    pub doing: String,
    /// How that failed.
    pub error: std::io::Error,
}

type Step = std::result::Result<(), std::io::Error>;

impl Worker {
    /// A worker with the empty directory `root`.
    pub fn new(root: PathBuf, seed: u64, number: u64) -> Self {
        Self {
            root,
            rng: Rng::new(seed ^ (number + 1).wrapping_mul(0xabcd_ef01_2345_6789)),
            number,
            patterns: 0,
            files: BTreeMap::new(),
            next_file: 0,
            names: Names::default(),
            in_flight: InFlight::Nothing,
            open: Vec::new(),
            last: String::new(),
        }
    }

    /// Works until a call fails, counting operations; or fails itself when a read gives wrong bytes.
    pub fn work(&mut self, operations: &AtomicU64, most: u64) -> Result<Option<Stopped>> {
        while operations.fetch_add(1, Ordering::Relaxed) < most {
            self.in_flight = InFlight::Nothing;
            if let Err(error) = self.step() {
                if error.kind() == std::io::ErrorKind::InvalidData {
                    bail!("worker {}: {}: {error}", self.number, self.last);
                }
                self.open.clear();
                return Ok(Some(Stopped { doing: self.last.clone(), error }));
            }
            self.forget_unreachable();
        }
        Ok(None)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Notes what is done, for messages.
    fn say(&mut self, what: String) {
        self.last = what;
    }

    fn step(&mut self) -> Step {
        match self.rng.below(100) {
            0..12 => self.create(),
            12..37 => self.write(),
            37..46 => self.append(),
            46..52 => self.truncate(),
            52..56 => self.punch(),
            56..72 => self.sync(),
            72..79 => self.publish(),
            79..84 => self.rename(),
            84..86 => self.exchange(),
            86..88 => self.link(),
            88..93 => self.unlink(),
            93..96 => self.directories(),
            96..97 => self.symlink(),
            _ => self.read(),
        }
    }

    /// A call that changes names: noted as under way, then as done.
    fn name_call(&mut self, change: NameChange, call: impl FnOnce(&Self) -> Step) -> Step {
        self.say(format!("{change:?}"));
        self.in_flight = InFlight::Names(change);
        call(self)?;
        if let InFlight::Names(change) = std::mem::replace(&mut self.in_flight, InFlight::Nothing) {
            self.names.change(&change);
        }
        Ok(())
    }

    /// A call that changes content: noted as under way, then as done.
    fn content_call(&mut self, file: usize, change: Change, call: impl FnOnce(&File) -> Step) -> Step {
        let handle = self.handle(file)?;
        self.say(format!("{change:?} of file {file}"));
        self.in_flight = InFlight::Content(file, change);
        call(&handle)?;
        self.in_flight = InFlight::Nothing;
        self.files.entry(file).or_default().content.change(change);
        Ok(())
    }

    fn create(&mut self) -> Step {
        let Some(path) = self.free_path() else { return self.unlink() };
        let file = self.next_file;
        self.create_at(&path, file)?;
        self.write_to(file)
    }

    fn write(&mut self) -> Step {
        match self.pick_file() {
            Some(file) => self.write_to(file),
            None => self.create(),
        }
    }

    fn write_to(&mut self, file: usize) -> Step {
        let size = self.files.get(&file).map_or(0, |f| f.content.size());
        let reach = if self.rng.chance(10) { size + 100_000 } else { size + 1 };
        let at = self.rng.below(reach.min(MAX_SIZE));
        let length = self.length().min(MAX_SIZE - at);
        let pattern = self.pattern();
        self.content_call(file, Change::Write { at, length, pattern }, |handle| {
            handle.write_all_at(&crate::seed::bytes(pattern, at, length as usize), at)
        })
    }

    fn append(&mut self) -> Step {
        let Some((name, file)) = self.pick_name() else { return self.create() };
        let at = self.files.get(&file).map_or(0, |f| f.content.size());
        let length = self.length().min(MAX_SIZE.saturating_sub(at));
        if length == 0 {
            return self.truncate();
        }
        let pattern = self.pattern();
        self.say(format!("open of {name} to append"));
        let mut appender = File::options().append(true).open(self.path(&name))?;
        self.content_call(file, Change::Write { at, length, pattern }, |_| {
            appender.write_all(&crate::seed::bytes(pattern, at, length as usize))
        })
    }

    fn truncate(&mut self) -> Step {
        let Some(file) = self.pick_file() else { return self.create() };
        let size = self.files.get(&file).map_or(0, |f| f.content.size());
        let size = if self.rng.chance(30) { 0 } else { self.rng.below((size + size / 4 + 2).min(MAX_SIZE)) };
        self.content_call(file, Change::Truncate { size }, |handle| handle.set_len(size))
    }

    fn punch(&mut self) -> Step {
        let Some(file) = self.pick_file() else { return self.create() };
        let size = self.files.get(&file).map_or(0, |f| f.content.size());
        let at = self.rng.below(size + 1);
        let length = self.length();
        self.content_call(file, Change::Punch { at, length }, |handle| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(handle, flags, at, length)?)
        })
    }

    fn sync(&mut self) -> Step {
        let Some(file) = self.pick_file() else { return self.create() };
        let handle = self.handle(file)?;
        self.say(format!("fsync of file {file}"));
        if self.rng.chance(25) {
            handle.sync_data()?
        } else {
            handle.sync_all()?
        }
        if let Some(tracked) = self.files.get_mut(&file) {
            tracked.content.promise();
        }
        Ok(())
    }

    /// The classic: a new file is written whole, synced, and renamed over the old.
    fn publish(&mut self) -> Step {
        let Some((target, _)) = self.pick_name() else { return self.create() };
        let Some(path) = self.free_path() else { return self.unlink() };
        let file = self.next_file;
        self.create_at(&path, file)?;
        self.write_to(file)?;
        if self.rng.chance(70) {
            let handle = self.handle(file)?;
            self.say(format!("fsync of file {file} to publish it"));
            handle.sync_all()?;
            if let Some(tracked) = self.files.get_mut(&file) {
                tracked.content.promise();
            }
        }
        self.rename_file(path, target, file)
    }

    fn create_at(&mut self, path: &str, file: usize) -> Step {
        self.next_file = file + 1;
        self.files.insert(file, Tracked::default());
        let mut made = None;
        self.name_call(NameChange::Add(path.to_owned(), Node::File(file)), |me| {
            made = Some(File::options().read(true).write(true).create_new(true).open(me.path(path))?);
            Ok(())
        })?;
        if let Some(handle) = made {
            self.say(format!("fstat of new file {file}"));
            let inode = handle.metadata()?.ino();
            self.files.entry(file).or_default().inode = Some(inode);
            self.keep_open(file, handle);
        }
        Ok(())
    }

    fn rename_file(&mut self, from: String, to: String, file: usize) -> Step {
        self.name_call(NameChange::Rename(from.clone(), to.clone()), |me| {
            std::fs::rename(me.path(&from), me.path(&to))
        })?;
        // A rename is never durable before the data it publishes.
        if let Some(tracked) = self.files.get_mut(&file) {
            tracked.content.promise();
        }
        Ok(())
    }

    fn rename(&mut self) -> Step {
        let Some((from, file)) = self.pick_name() else { return self.create() };
        let over =
            if self.rng.chance(50) { self.pick_name().map(|(name, _)| name) } else { self.free_path() };
        match over {
            // Two names of one file: POSIX demands that nothing happens; the model has no such rule.
            Some(to) if self.names.0.get(&to) != Some(&Node::File(file)) => self.rename_file(from, to, file),
            _ => Ok(()),
        }
    }

    fn exchange(&mut self) -> Step {
        let (Some((one, first)), Some((two, second))) = (self.pick_name(), self.pick_name()) else {
            return self.create();
        };
        // Two names of one file: nothing happens, so nothing is published either.
        if first == second {
            return Ok(());
        }
        self.name_call(NameChange::Exchange(one.clone(), two.clone()), |me| {
            Ok(renameat_with(CWD, me.path(&one), CWD, me.path(&two), RenameFlags::EXCHANGE)?)
        })?;
        for file in [first, second] {
            if let Some(tracked) = self.files.get_mut(&file) {
                tracked.content.promise();
            }
        }
        Ok(())
    }

    fn link(&mut self) -> Step {
        let (Some((from, file)), Some(to)) = (self.pick_name(), self.free_path()) else {
            return self.create();
        };
        self.name_call(NameChange::Add(to.clone(), Node::File(file)), |me| {
            std::fs::hard_link(me.path(&from), me.path(&to))
        })
    }

    fn unlink(&mut self) -> Step {
        let removable: Vec<String> = self
            .names
            .0
            .iter()
            .filter(|(_, node)| **node != Node::Dir)
            .map(|(path, _)| path.clone())
            .collect();
        let Some(path) = self.rng.pick(&removable).cloned() else { return Ok(()) };
        self.name_call(NameChange::Remove(path.clone()), |me| std::fs::remove_file(me.path(&path)))
    }

    fn directories(&mut self) -> Step {
        let path = format!("d{}", self.rng.below(3));
        if !self.names.0.contains_key(&path) {
            return self.name_call(NameChange::Add(path.clone(), Node::Dir), |me| {
                std::fs::create_dir(me.path(&path))
            });
        }
        let below = format!("{path}/");
        if !self.names.0.keys().any(|name| name.starts_with(&below)) {
            return self
                .name_call(NameChange::Remove(path.clone()), |me| std::fs::remove_dir(me.path(&path)));
        }
        let to = format!("d{}", self.rng.below(3));
        if self.names.0.contains_key(&to) {
            return Ok(());
        }
        self.name_call(NameChange::Rename(path.clone(), to.clone()), |me| {
            std::fs::rename(me.path(&path), me.path(&to))
        })
    }

    fn symlink(&mut self) -> Step {
        let Some(path) = self.free_path() else { return self.unlink() };
        let target = format!("target-{}", self.rng.bits());
        self.name_call(NameChange::Add(path.clone(), Node::Symlink(target.clone())), |me| {
            std::os::unix::fs::symlink(&target, me.path(&path))
        })
    }

    fn read(&mut self) -> Step {
        let Some((name, file)) = self.pick_name() else { return self.create() };
        self.say(format!("read of {name}"));
        let actual = std::fs::read(self.path(&name))?;
        if self.files.get(&file).is_some_and(|tracked| tracked.content.latest() != actual) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("file {file} reads wrong while everything lives ({} bytes)", actual.len()),
            ));
        }
        Ok(())
    }

    fn length(&mut self) -> u64 {
        match self.rng.below(10) {
            0..4 => self.rng.between(1, 6_000),
            4..8 => self.rng.between(1, 200_000),
            _ => self.rng.between(1, 1_500_000),
        }
    }

    fn pattern(&mut self) -> u64 {
        self.patterns += 1;
        (self.number << 48) | self.patterns
    }

    /// A name that is free and whose directory exists.
    fn free_path(&mut self) -> Option<String> {
        let mut paths: Vec<String> = (0..12).map(|number| format!("f{number}")).collect();
        for dir in ["d0", "d1", "d2"].into_iter().filter(|dir| self.names.0.contains_key(*dir)) {
            paths.extend((0..4).map(|number| format!("{dir}/f{number}")));
        }
        paths.retain(|path| !self.names.0.contains_key(path));
        self.rng.pick(&paths).cloned()
    }

    /// A name of a file.
    fn pick_name(&mut self) -> Option<(String, usize)> {
        let names: Vec<(String, usize)> = self
            .names
            .0
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File(file) => Some((path.clone(), *file)),
                _ => None,
            })
            .collect();
        self.rng.pick(&names).cloned()
    }

    /// A file with a name or, now and then, an open handle only.
    fn pick_file(&mut self) -> Option<usize> {
        if self.rng.chance(30)
            && let Some((file, _)) = self.rng.pick(&self.open)
        {
            return Some(*file);
        }
        self.pick_name().map(|(_, file)| file)
    }

    fn handle(&mut self, file: usize) -> std::result::Result<File, std::io::Error> {
        if let Some((_, handle)) = self.open.iter().find(|(number, _)| *number == file) {
            return handle.try_clone();
        }
        let name =
            self.names.0.iter().find(|(_, node)| **node == Node::File(file)).map(|(path, _)| path.clone());
        let name =
            name.ok_or_else(|| std::io::Error::other(format!("file {file} has neither name nor handle")))?;
        self.say(format!("open of {name}"));
        let handle = File::options().read(true).write(true).open(self.path(&name))?;
        self.keep_open(file, handle.try_clone()?);
        Ok(handle)
    }

    fn keep_open(&mut self, file: usize, handle: File) {
        if self.open.len() == MAX_OPEN {
            self.open.remove(0);
        }
        self.open.push((file, handle));
    }

    /// Files without name and handle are gone; so is what we remember of them.
    fn forget_unreachable(&mut self) {
        let (names, open) = (&self.names, &self.open);
        self.files.retain(|file, _| names.links(*file) > 0 || open.iter().any(|(number, _)| number == file));
    }

    /// After the crash: fails unless the directory holds what it may; then takes it as the truth.
    pub fn judge(&mut self) -> Result<()> {
        self.open.clear();
        let happened = self.judge_names().with_context(|| {
            format!("worker {} in {}, last call: {}", self.number, self.root.display(), self.last)
        })?;
        if let InFlight::Content(file, change) = self.in_flight
            && let Some(tracked) = self.files.get_mut(&file)
        {
            tracked.content.change_in_flight(change);
        }
        if happened && let InFlight::Names(change) = &self.in_flight {
            // What a rename under way has published is whole.
            let published: &[&String] = match change {
                NameChange::Rename(_, to) => &[to],
                NameChange::Exchange(one, two) => &[one, two],
                _ => &[],
            };
            for name in published {
                if let Some(Node::File(file)) = self.names.0.get(*name)
                    && let Some(tracked) = self.files.get_mut(file)
                {
                    tracked.content.promise();
                }
            }
        }
        self.in_flight = InFlight::Nothing;
        self.forget_unreachable();
        let names: Vec<(String, Node)> = self.names.0.clone().into_iter().collect();
        for (path, node) in names {
            let Node::File(file) = node else { continue };
            let actual = std::fs::read(self.path(&path)).with_context(|| format!("cannot read {path}"))?;
            let links = std::fs::metadata(self.path(&path))?.nlink();
            ensure!(links as usize == self.names.links(file), "{path} counts {links} links");
            let tracked = self.files.entry(file).or_default();
            tracked.content.judge(&actual).with_context(|| {
                format!(
                    "worker {}: {path} (file {file}, inode {:?}), last call: {}",
                    self.number, tracked.inode, self.last
                )
            })?;
            tracked.content.adopt(actual);
        }
        Ok(())
    }

    /// Compares the names; true if the change under way has happened.
    fn judge_names(&mut self) -> Result<bool> {
        let mut candidates = vec![(false, self.names.clone())];
        if let InFlight::Names(change) = &self.in_flight {
            let mut after = self.names.clone();
            after.change(change);
            candidates.push((true, after));
        }
        let inodes: BTreeMap<u64, usize> =
            self.files.iter().filter_map(|(file, tracked)| Some((tracked.inode?, *file))).collect();
        // At most one file's inode number is unknown: whose creation, or first look, was under way.
        let unknown = self.files.iter().find(|(_, tracked)| tracked.inode.is_none()).map(|(file, _)| *file);
        let mut found = Names::default();
        let mut new = None;
        list(&self.root, "", &mut |path, node, inode| {
            let node = match node {
                Node::File(_) => match inodes.get(&inode).copied().or(unknown) {
                    Some(file) => {
                        if unknown == Some(file) {
                            new = Some(inode);
                        }
                        Node::File(file)
                    }
                    None => bail!("{path} is a file nobody made (inode {inode})"),
                },
                other => other,
            };
            found.0.insert(path, node);
            Ok(())
        })?;
        for (happened, names) in &candidates {
            if *names == found {
                self.names = found;
                if let (Some(file), Some(inode)) = (unknown, new) {
                    self.files.entry(file).or_default().inode = Some(inode);
                }
                return Ok(*happened);
            }
        }
        bail!(
            "names are neither those before nor after the last call:\n{}",
            candidates.last().map(|(_, names)| names.differences(&found).join("\n")).unwrap_or_default()
        )
    }
}

/// Visits every name below `root/prefix`.
fn list(root: &Path, prefix: &str, visit: &mut impl FnMut(String, Node, u64) -> Result<()>) -> Result<()> {
    let dir = root.join(prefix);
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let meta = entry.path().symlink_metadata().with_context(|| format!("cannot stat {path}"))?;
        let node = if meta.is_dir() {
            Node::Dir
        } else if meta.is_symlink() {
            Node::Symlink(std::fs::read_link(entry.path())?.to_string_lossy().into_owned())
        } else {
            Node::File(0)
        };
        let is_dir = node == Node::Dir;
        visit(path.clone(), node, meta.ino())?;
        if is_dir {
            list(root, &path, visit)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Workshop;

    /// The model follows a real filesystem: thousands of operations, judged without any crash.
    #[test]
    fn the_model_follows_a_real_filesystem() -> Result<()> {
        let workshop = Workshop::new()?;
        for seed in 0..4 {
            let mut worker = Worker::new(workshop.dir(&format!("w{seed}"))?, seed, seed);
            let operations = AtomicU64::new(0);
            let stopped = worker.work(&operations, 600)?;
            ensure!(stopped.is_none(), "seed {seed}: {stopped:?}");
            worker.judge()?;
            ensure!(worker.names.0.len() > 5, "a worker that makes next to nothing");
        }
        Ok(())
    }
}
