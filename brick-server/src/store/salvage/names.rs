//! The end of a brick's salvage: files get their names and lengths, what could not be told is put beside them,
//! and everything of it is said.
//!
//! All of it follows from what is kept, so the order of the bricks does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use super::copies::{Place, Source};
use super::kept::{KEPT_DIR, Kept};
use super::write::Files;
use super::{Partial, Report, SalvageError, at};

/// A path below the output.
pub fn path_of(out: &Path, place: &[u8]) -> PathBuf {
    out.join(OsStr::from_bytes(place))
}

/// A name from a brick as a path that stays below the output.
fn below(name: &[u8]) -> Option<PathBuf> {
    let parts = Path::new(OsStr::from_bytes(name)).components().filter_map(|part| match part {
        Component::Normal(part) => Some(part),
        _ => None,
    });
    let path: PathBuf = parts.collect();
    let first = path.components().next()?;
    (first.as_os_str() != KEPT_DIR && !name.contains(&0)).then_some(path)
}

/// `path` with something behind its name.
fn with(path: &Path, more: &str) -> PathBuf {
    let mut out = path.as_os_str().to_owned();
    out.push(more);
    out.into()
}

/// Names a file may get, the best first: that of the bricks whose copy of its beginning counts, of several the first.
fn wishes(kept: &Kept, ino: u64) -> Vec<PathBuf> {
    let plain = PathBuf::from(format!("ino-{ino}"));
    let Some(names) = kept.names.get(&ino) else { return vec![plain] };
    let first = kept.chunks.range((ino, 0)..=(ino, u64::MAX)).next();
    let counts =
        first.into_iter().flat_map(|(_, classes)| classes).filter(|class| class.place == Place::Main);
    let sources: BTreeSet<Source> = counts.flat_map(|class| &class.copies).map(|copy| copy.source).collect();
    let best = names.iter().filter(|(source, _)| sources.contains(source)).map(|(_, name)| name).min();
    let Some(name) = best.or(names.values().min()).and_then(|name| below(name)) else { return vec![plain] };
    let beside = with(&name, &format!(".ino-{ino}"));
    vec![name, beside, plain]
}

impl Files {
    /// See the module's head.
    pub fn finish(mut self, report: &mut Report) -> Result<(), SalvageError> {
        self.close();
        for path in std::mem::take(&mut self.kept.asides) {
            let path = path_of(&self.out, &path);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(&path)(error)),
                _ => {}
            }
        }
        self.shorten()?;
        self.close();
        self.name()?;
        self.cut()?;
        self.put_beside(report)?;
        self.tell(report);
        self.kept.busy = false;
        self.kept.save(&self.out)
    }

    /// Takes out of a file what another brick, that has a part of the same file, had as well and has no more: it was
    /// shortened there. Nobody knows whether it got longer again since: it is kept beside.
    fn shorten(&mut self) -> Result<(), SalvageError> {
        let keys: Vec<(u64, u64)> = self.kept.gone.keys().copied().collect();
        for key in keys {
            let has_other = |source: Source| {
                let chunks = self.kept.chunks.range((key.0, 0)..=(key.0, u64::MAX));
                chunks
                    .flat_map(|(_, classes)| classes)
                    .any(|c| c.copies.iter().any(|copy| copy.source == source))
            };
            let removed = self.kept.removed(key).into_iter().filter(|(source, _)| has_other(*source));
            let Some(version) = removed.map(|(_, version)| version).max() else { continue };
            let Some(mut classes) = self.kept.chunks.remove(&key) else { continue };
            let goes =
                |class: &super::copies::Class| class.place == Place::Main && class.version() <= version;
            if classes.iter().any(goes) {
                let wanted =
                    |class: &super::copies::Class| if goes(class) { Place::Side } else { class.place };
                let wanted: Vec<Place> = classes.iter().map(wanted).collect();
                self.put(key, &mut classes, &wanted, None)?;
            }
            self.kept.chunks.insert(key, classes);
        }
        Ok(())
    }

    /// Gives every file the name that it is to have; of two with one name the later inode gets its number behind it.
    fn name(&mut self) -> Result<(), SalvageError> {
        let mut taken = BTreeSet::new();
        let mut moved = Vec::new();
        let inos: Vec<u64> = self.kept.paths.keys().copied().collect();
        for ino in inos {
            let wishes = wishes(&self.kept, ino);
            let Some(now) = self.kept.paths.get_mut(&ino) else { continue };
            let wish = wishes.iter().find(|wish| !taken.contains(*wish));
            let is_there = wish.is_some_and(|wish| wish.as_os_str().as_bytes() == now.as_slice());
            taken.extend(wish.cloned());
            if !is_there {
                // Out of the way first: names may be changed round.
                let path = path_of(&self.out, now);
                *now = format!("{KEPT_DIR}/new-{ino}").into_bytes();
                let aside = path_of(&self.out, now);
                fs::rename(&path, &aside).map_err(at(&path))?;
                moved.push((ino, wishes));
            }
        }
        for (ino, wishes) in moved {
            let from = self.out.join(KEPT_DIR).join(format!("new-{ino}"));
            let mut refused = None;
            for wish in wishes {
                let to = self.out.join(&wish);
                if fs::symlink_metadata(&to).is_ok() {
                    refused = Some((to, std::io::ErrorKind::AlreadyExists.into()));
                    continue;
                }
                let made = to.parent().map_or(Ok(()), fs::create_dir_all);
                match made.and_then(|()| fs::rename(&from, &to)) {
                    Ok(()) => {
                        self.kept.paths.insert(ino, wish.into_os_string().into_vec());
                        refused = None;
                        break;
                    }
                    // Too long, or a directory of another file is called so: a plainer name will do.
                    Err(error) => refused = Some((to, error)),
                }
            }
            if let Some((path, error)) = refused {
                return Err(at(&path)(error));
            }
        }
        Ok(())
    }

    /// How long a file is, with these contents in place of those in it.
    fn len_of(&self, ino: u64, instead: &BTreeMap<u64, u32>) -> u64 {
        let chunks = self.kept.chunks.range((ino, 0)..=(ino, u64::MAX));
        let ends = chunks.filter_map(|(key, classes)| {
            let main = classes.iter().find(|class| class.place == Place::Main).map(|class| class.len);
            let len = instead.get(&key.1).copied().or(main)?;
            Some(key.1 * u64::from(self.kept.chunk_bytes) + u64::from(len))
        });
        ends.max().unwrap_or(0)
    }

    /// Gives every file its length.
    fn cut(&self) -> Result<(), SalvageError> {
        for (ino, place) in &self.kept.paths {
            let path = path_of(&self.out, place);
            let len = self.len_of(*ino, &BTreeMap::new());
            if fs::metadata(&path).map_err(at(&path))?.len() != len {
                let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
                file.set_len(len).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// Makes the files with what could not be told: as each of the bricks has them.
    fn put_beside(&mut self, report: &mut Report) -> Result<(), SalvageError> {
        let mut beside: BTreeMap<(u64, Source), BTreeMap<u64, (u32, PathBuf)>> = BTreeMap::new();
        for (key, classes) in &self.kept.chunks {
            for class in classes.iter().filter(|class| class.place == Place::Side) {
                let Some(source) = class.copies.iter().map(|copy| copy.source).min() else { continue };
                let bytes = (class.len, self.kept.side(&self.out, *key, class));
                beside.entry((key.0, source)).or_default().insert(key.1, bytes);
            }
        }
        for ((ino, source), chunks) in beside {
            let Some(place) = self.kept.paths.get(&ino) else { continue };
            let main = path_of(Path::new(""), place);
            let label = self.kept.label(source);
            let wishes = [
                with(&main, &format!(".from-{label}")),
                with(&main, &format!(".ino-{ino}.from-{label}")),
                PathBuf::from(format!("ino-{ino}.from-{label}")),
            ];
            let (mut made, mut refused) = (None, std::io::ErrorKind::AlreadyExists.into());
            for wish in wishes {
                let path = self.out.join(&wish);
                match OpenOptions::new().write(true).create_new(true).open(&path) {
                    Ok(file) => {
                        made = Some((wish, path, file));
                        break;
                    }
                    // Too long, or another file is called so.
                    Err(error) => refused = error,
                }
            }
            let Some((wish, path, file)) = made else { return Err(at(&self.out.join(main))(refused)) };
            let from = self.out.join(&main);
            fs::copy(&from, &path).map_err(at(&path))?;
            let lens = chunks.iter().map(|(index, (len, _))| (*index, *len)).collect();
            file.set_len(self.len_of(ino, &lens)).map_err(at(&path))?;
            for (index, (len, side)) in &chunks {
                let bytes = fs::read(side).map_err(at(side))?;
                let start = index * u64::from(self.kept.chunk_bytes);
                file.write_all_at(&bytes, start).map_err(at(&path))?;
                self.clear_behind(&file, (ino, *index), *len).map_err(at(&path))?;
            }
            self.kept.asides.insert(wish.as_os_str().as_bytes().to_vec());
            report.partial.entry(main).or_default().kept.push(wish);
        }
        Ok(())
    }

    /// Nothing of a longer chunk stays behind a shorter one that takes its place.
    fn clear_behind(&self, file: &File, key: (u64, u64), len: u32) -> std::io::Result<()> {
        let classes = self.kept.chunks.get(&key).into_iter().flatten();
        let main =
            classes.filter(|class| class.place == Place::Main).map(|class| class.len).max().unwrap_or(0);
        let end = file.metadata()?.len();
        let start = key.1 * u64::from(self.kept.chunk_bytes);
        let (from, to) = (start + u64::from(len), end.min(start + u64::from(main)));
        if from < to { file.write_all_at(&vec![0; (to - from) as usize], from) } else { Ok(()) }
    }

    /// Says what is not whole.
    fn tell(&self, report: &mut Report) {
        let chunk_bytes = u64::from(self.kept.chunk_bytes);
        let mut ours = BTreeSet::new();
        for (ino, place) in &self.kept.paths {
            let path = path_of(Path::new(""), place);
            let mut partial = report.partial.remove(&path).unwrap_or_default();
            let (mut seen, mut last) = (0, None);
            for (key, classes) in self.kept.chunks.range((*ino, 0)..=(*ino, u64::MAX)) {
                partial.older |= classes.iter().any(|class| class.copies.iter().any(|copy| copy.older));
                let here = self.seen.contains(key);
                seen += u64::from(here);
                last = if here { Some(key.1) } else { last };
                let mine = classes.iter().filter(|class| class.place != Place::None && here);
                let mine = mine.filter(|class| class.copies.iter().any(|copy| copy.source == self.source));
                let bad = mine.flat_map(|class| &class.bad);
                partial.bad_blocks.extend(bad.map(|block| key.1 * chunk_bytes + u64::from(*block) * 4096));
                if !classes.is_empty() {
                    let removed = self.kept.removed(*key).into_iter();
                    partial.removed_on.extend(removed.map(|(source, _)| self.kept.label(source)));
                }
            }
            if let Some(last) = last {
                ours.insert(path.clone());
                partial.absent_chunks = last + 1 - seen;
            }
            if partial != Partial::default() {
                report.partial.insert(path, partial);
            }
        }
        report.bricks = self.kept.sources.len() as u64;
        report.files = ours.len() as u64;
        report.whole = ours.iter().filter(|path| !report.partial.contains_key(*path)).count() as u64;
    }
}
