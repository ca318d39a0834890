//! Files off a brick directory without a cluster, whatever is left of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use brick_server::store::dir::{FileStore, Held};
use brick_server::store::salvage::{Report, salvage};
use brick_server::store::{ChunkStore, Limits};
use bytes::Bytes;
use wire::brick::Change;
use wire::chunk::ChunkKey;
use wire::id::{BrickId, ChainId, ChunkVersion, Ino};

use crate::support::{CLUSTER, flip, key};

const CHUNK: u32 = 1 << 20;

fn write(store: &FileStore, key: ChunkKey, offset: u32, data: Vec<u8>) {
    let base = store.chunk(key).unwrap().map_or(ChunkVersion(0), |h| h.version);
    let prepared = store.prepare(key, base, Change::Write { offset }, &Bytes::from(data)).unwrap();
    store.publish(prepared, ChainId(1), None).unwrap();
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ (i % 251) as u8 ^ seed).collect()
}

/// A brick with three files, one of them over two chunks with a piece changed later, and what they hold.
/// `trimmed`: the journal was begun anew since, several times.
fn brick(dir: &Path, trimmed: bool) -> BTreeMap<PathBuf, Vec<u8>> {
    brick_server::format(dir, CLUSTER, BrickId(3)).unwrap();
    let held = Held::take(dir, CLUSTER, None).unwrap();
    let store = held.open(Limits::default()).unwrap();
    let mut large = noise(1, CHUNK as usize + 300_000);
    write(&store, key(7, 0), 0, large[..CHUNK as usize].to_vec());
    write(&store, key(7, 1), 0, large[CHUNK as usize..].to_vec());
    store.commit().unwrap();
    write(&store, key(7, 1), 5000, b"changed".to_vec());
    large[CHUNK as usize + 5000..][..7].copy_from_slice(b"changed");
    write(&store, key(8, 0), 0, b"short".to_vec());
    write(&store, key(9, 0), 0, noise(9, 70_000));
    let names = [(7, "/home/anna/large file"), (9, "../../../home/anna/../nine")];
    store.note_names(&names.map(|(ino, path)| (Ino(ino), Bytes::from(path)))).unwrap();
    store.commit().unwrap();
    let before = store.counters().checkpoints;
    let mut n = 0;
    while trimmed && store.counters().checkpoints < before + 2 {
        n += 1;
        write(&store, key(100, 0), 0, noise(n as u8, 500_000));
        write(&store, key(100, 0), 3, vec![n as u8; 60_000]);
        store.commit().unwrap();
        store.pieces(key(100, 0)).unwrap();
        for at in 0..100 {
            write(&store, key(100, 0), at * 5000, vec![n as u8; 4096]);
        }
        store.commit().unwrap();
    }
    if trimmed {
        store.remove(key(100, 0), ChunkVersion(u64::MAX)).unwrap();
        store.commit().unwrap();
    }
    let mut files = BTreeMap::from([
        (PathBuf::from("home/anna/large file"), large),
        (PathBuf::from("ino-8"), b"short".to_vec()),
        (PathBuf::from("home/anna/nine"), noise(9, 70_000)),
    ]);
    files.retain(|_, bytes| !bytes.is_empty());
    files
}

fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                out.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

fn run(dir: &Path, out: &Path) -> Report {
    let before = tree(dir);
    let mut seen = 0;
    let report = salvage(dir, out, CHUNK, &mut |progress| seen = progress.chunks).unwrap();
    assert!(tree(dir) == before, "the source was changed");
    assert_eq!(seen, report.done.chunks);
    report
}

/// All files come back under their names, those without one under their numbers; nothing in the
/// brick's directory changes.
#[test]
fn a_pulled_disk_gives_its_files() {
    for trimmed in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (dir, out) = (root.path().join("brick"), root.path().join("out"));
        let files = brick(&dir, trimmed);
        let report = run(&dir, &out);
        assert!(tree(&out) == files, "{:?}", tree(&out).keys());
        assert_eq!((report.files, report.by_index, report.bad_blocks()), (3, true, 0));
        assert!(report.partial.is_empty() && report.notes.is_empty(), "{report:?}");
    }
}

/// The index is gone, wholly or in part: the table of owners and the journal tell the same.
#[test]
fn without_the_index_owners_tell() {
    for trimmed in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (dir, out) = (root.path().join("brick"), root.path().join("out"));
        let files = brick(&dir, trimmed);
        std::fs::remove_dir_all(dir.join("index")).unwrap();
        std::fs::create_dir(dir.join("index")).unwrap();
        let report = run(&dir, &out);
        let found = tree(&out);
        for (path, bytes) in &files {
            assert!(found.get(path) == Some(bytes), "{} differs", path.display());
        }
        assert!(!report.by_index && report.notes.len() == 1, "{:?}", report.notes);
    }
}

/// Blocks that rotted are left out and told, everything else is there.
#[test]
fn damage_is_told_and_left_out() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("brick"), root.path().join("out"));
    let mut files = brick(&dir, true);
    let name = PathBuf::from("home/anna/large file");
    let large = files.get_mut(&name).unwrap();
    assert_eq!(flip(&dir, &large[8192..8292]), 1);
    large[8192..12_288].fill(0);
    let report = run(&dir, &out);
    assert!(tree(&out) == files);
    assert_eq!(report.bad_blocks(), 1);
    assert_eq!(report.partial[&name].bad_blocks, [8192]);
    // Chunks as large as that are not possible with what is said.
    let refused = salvage(&dir, &out, CHUNK / 2, &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("more than the chunk size"), "{refused}");
    let inside = salvage(&dir, &dir.join("out"), CHUNK, &mut |_| {}).unwrap_err().to_string();
    assert!(inside.contains("is in the directory that is salvaged"), "{inside}");
}
