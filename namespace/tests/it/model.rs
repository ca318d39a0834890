//! A filesystem as a child would build it, to compare with.

use std::collections::{BTreeMap, BTreeSet};

use wire::meta::{FileKind, RenameMode};
use wire::status::FsError;

#[derive(Debug, Clone)]
pub struct Node {
    pub kind: FileKind,
    pub mode: u16,
    pub gid: u32,
    pub size: u64,
    pub names: BTreeMap<String, u64>,
    pub target: String,
    pub xattrs: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct Model {
    pub nodes: BTreeMap<u64, Node>,
    pub next: u64,
}

type R<T> = Result<T, FsError>;

impl Model {
    pub fn new() -> Self {
        let root = Node {
            kind: FileKind::Directory,
            mode: 0o755,
            gid: 0,
            size: 0,
            names: BTreeMap::new(),
            target: String::new(),
            xattrs: BTreeMap::new(),
        };
        Self { nodes: BTreeMap::from([(1, root)]), next: 2 }
    }

    pub fn node(&self, ino: u64) -> R<&Node> {
        self.nodes.get(&ino).ok_or(FsError::Stale)
    }

    fn dir(&self, ino: u64) -> R<&Node> {
        let node = self.node(ino)?;
        if node.kind == FileKind::Directory { Ok(node) } else { Err(FsError::NotDirectory) }
    }

    /// How often the inode is named anywhere.
    pub fn names_of(&self, ino: u64) -> u32 {
        self.nodes.values().flat_map(|n| n.names.values()).filter(|i| **i == ino).count() as u32
    }

    pub fn is_removed(&self, ino: u64) -> bool {
        ino != 1 && self.names_of(ino) == 0
    }

    /// What stat must say.
    pub fn nlink(&self, ino: u64) -> u32 {
        let node = &self.nodes[&ino];
        if self.is_removed(ino) {
            return 0;
        }
        if node.kind != FileKind::Directory {
            return self.names_of(ino);
        }
        2 + node.names.values().filter(|i| self.nodes[i].kind == FileKind::Directory).count() as u32
    }

    pub fn parent(&self, ino: u64) -> u64 {
        if ino == 1 {
            return 1;
        }
        *self.nodes.iter().find(|(_, n)| n.names.values().any(|i| *i == ino)).unwrap().0
    }

    fn live_dir(&self, ino: u64) -> R<()> {
        self.dir(ino)?;
        if self.is_removed(ino) { Err(FsError::NotFound) } else { Ok(()) }
    }

    pub fn entry(&self, parent: u64, name: &str) -> R<Option<u64>> {
        Ok(self.dir(parent)?.names.get(name).copied())
    }

    pub fn make(&mut self, parent: u64, name: &str, kind: FileKind, mode: u16) -> R<u64> {
        self.live_dir(parent)?;
        if self.entry(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let dir = self.nodes.get_mut(&parent).unwrap();
        let inherits = dir.mode & 0o2000 != 0;
        let gid = if inherits { dir.gid } else { 20 };
        dir.names.insert(name.to_owned(), self.next);
        let sticky_group = if kind == FileKind::Directory && inherits { 0o2000 } else { 0 };
        let node = Node {
            kind,
            mode: mode | sticky_group,
            gid,
            size: 0,
            names: BTreeMap::new(),
            target: String::new(),
            xattrs: BTreeMap::new(),
        };
        self.nodes.insert(self.next, node);
        self.next += 1;
        Ok(self.next - 1)
    }

    pub fn link(&mut self, ino: u64, parent: u64, name: &str) -> R<()> {
        self.live_dir(parent)?;
        if self.entry(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        if self.node(ino)?.kind == FileKind::Directory {
            return Err(FsError::NotPermitted);
        }
        if self.is_removed(ino) {
            return Err(FsError::NotFound);
        }
        self.nodes.get_mut(&parent).unwrap().names.insert(name.to_owned(), ino);
        Ok(())
    }

    pub fn remove(&mut self, parent: u64, name: &str, dir: bool) -> R<()> {
        let ino = self.entry(parent, name)?.ok_or(FsError::NotFound)?;
        let node = &self.nodes[&ino];
        match (node.kind == FileKind::Directory, dir) {
            (true, false) => return Err(FsError::IsDirectory),
            (false, true) => return Err(FsError::NotDirectory),
            (true, true) if !node.names.is_empty() => return Err(FsError::NotEmpty),
            _ => {}
        }
        self.nodes.get_mut(&parent).unwrap().names.remove(name);
        Ok(())
    }

    fn below(&self, dir: u64) -> BTreeSet<u64> {
        let mut all = BTreeSet::from([dir]);
        let mut todo = vec![dir];
        while let Some(next) = todo.pop() {
            for child in self.nodes[&next].names.values() {
                if self.nodes[child].kind == FileKind::Directory && all.insert(*child) {
                    todo.push(*child);
                }
            }
        }
        all
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), mode: RenameMode) -> R<()> {
        self.dir(from.0)?;
        self.live_dir(to.0)?;
        let source = self.entry(from.0, from.1)?.ok_or(FsError::NotFound)?;
        let target = self.entry(to.0, to.1)?;
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(FsError::Exists);
        }
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(FsError::NotFound);
        }
        let is_dir = |ino: u64| self.nodes[&ino].kind == FileKind::Directory;
        if is_dir(source) && self.below(source).contains(&to.0) {
            return Err(FsError::Invalid);
        }
        if target == Some(source) {
            return Ok(());
        }
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                if is_dir(target) && self.below(target).contains(&from.0) {
                    return Err(FsError::Invalid);
                }
                self.nodes.get_mut(&from.0).unwrap().names.insert(from.1.to_owned(), target);
                self.nodes.get_mut(&to.0).unwrap().names.insert(to.1.to_owned(), source);
                return Ok(());
            }
            match (is_dir(source), is_dir(target)) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                (true, true) if !self.nodes[&target].names.is_empty() => return Err(FsError::NotEmpty),
                _ => {}
            }
        }
        self.nodes.get_mut(&from.0).unwrap().names.remove(from.1);
        self.nodes.get_mut(&to.0).unwrap().names.insert(to.1.to_owned(), source);
        Ok(())
    }
}
