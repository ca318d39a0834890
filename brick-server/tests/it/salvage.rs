//! Files off a brick directory without a cluster, whatever is left of it.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use brick_server::store::dir::{FileStore, Held};
use brick_server::store::salvage::{Report, salvage};
use brick_server::store::{ChunkStore, Limits};
use bytes::Bytes;
use wire::brick::{Change, WriterId};
use wire::chunk::ChunkKey;
use wire::id::{BrickId, CallSeq, ChainId, ChunkVersion, Ino, SessionId};

use crate::support::{CLUSTER, flip, key};

const CHUNK: u32 = 1 << 20;

fn write(store: &FileStore, key: ChunkKey, offset: u32, data: Vec<u8>) {
    let base = store.chunk(key).unwrap().map_or(ChunkVersion(0), |h| h.version);
    let prepared = store.prepare(key, base, Change::Write { offset }, &Bytes::from(data)).unwrap();
    store.publish(prepared, ChainId(1), None, ChunkVersion(base.0 + 1)).unwrap();
}

/// The same on several stores, as a chain does it: call number `call` of session `session`.
fn write_on(stores: &[&FileStore], key: ChunkKey, offset: u32, data: &[u8], session: u64, call: u64) {
    for store in stores {
        let base = store.chunk(key).unwrap().map_or(ChunkVersion(0), |h| h.version);
        let prepared =
            store.prepare(key, base, Change::Write { offset }, &Bytes::copy_from_slice(data)).unwrap();
        let writer = WriterId { session: SessionId(session), seq: CallSeq(call) };
        store.publish(prepared, ChainId(1), Some(writer), ChunkVersion(base.0 + 1)).unwrap();
        store.commit().unwrap();
    }
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
                // What salvage keeps for itself.
                dirs.extend(Some(path).filter(|path| !path.ends_with(".brickyard-salvage")));
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
    let refused = salvage(&dir, &root.path().join("other"), CHUNK / 2, &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("more than the chunk size"), "{refused}");
    let inside = salvage(&dir, &dir.join("out"), CHUNK, &mut |_| {}).unwrap_err().to_string();
    assert!(inside.contains("is in the directory that is salvaged"), "{inside}");
}

/// Numbers that look drawn by lot, the same every time.
struct Lots(u64);

impl Lots {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// A brick that was killed, and what was acknowledged of its files. The journal was begun anew `laps` times.
fn killed(root: &Path, seed: u64, laps: u64) -> (PathBuf, BTreeMap<PathBuf, Vec<u8>>) {
    let (alive, dir) = (root.join("alive"), root.join("brick"));
    brick_server::format(&alive, CLUSTER, BrickId(3)).unwrap();
    let held = Held::take(&alive, CLUSTER, None).unwrap();
    let store = held.open(Limits { deferred_bytes: 256 << 10, ..Limits::default() }).unwrap();
    let mut lots = Lots(seed);
    let mut files: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let before = store.counters().checkpoints;
    let mut rest = 40;
    while rest > 0 {
        if store.counters().checkpoints >= before + laps {
            rest -= 1;
        }
        let ino = 10 + lots.below(12);
        let mut bytes = files.remove(&ino).unwrap_or_default();
        match lots.below(12) {
            0 if !bytes.is_empty() => {
                store.remove(key(ino, 0), ChunkVersion(u64::MAX)).unwrap();
                bytes.clear();
            }
            1 if bytes.len() > 1 => {
                bytes.truncate(1 + lots.below(bytes.len() as u64 - 1) as usize);
                store.cut(key(ino, 0), bytes.len() as u32).unwrap();
            }
            large => {
                let len = 1 + lots.below(if large < 4 { 150_000 } else { 40_000 }) as usize;
                let at = lots.below(200_000) as usize;
                let data = noise(lots.below(256) as u8, len);
                write(&store, key(ino, 0), at as u32, data.clone());
                bytes.resize(bytes.len().max(at + len), 0);
                bytes[at..at + len].copy_from_slice(&data);
            }
        }
        if !bytes.is_empty() {
            files.insert(ino, bytes);
        }
        store.commit().unwrap();
    }
    copy_tree(&alive, &dir);
    drop(store);
    (dir, files.into_iter().map(|(ino, bytes)| (PathBuf::from(format!("ino-{ino}")), bytes)).collect())
}

/// Where records begin in the journal: file, offset, number; the last one last.
fn records(dir: &Path) -> Vec<(PathBuf, u64, u64)> {
    let mut out = Vec::new();
    for name in ["journal.0", "journal.1"] {
        let bytes = std::fs::read(dir.join(name)).unwrap();
        for at in (8192..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"BYJR")) {
            let seq = u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap());
            out.push((dir.join(name), at as u64, seq));
        }
    }
    out.sort_by_key(|(_, _, seq)| *seq);
    out
}

/// Salvages; nothing that differs from what was acknowledged may be there without being named. Gives back how many
/// files are right and not named, and the report.
fn check_honest(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>, what: &str) -> (usize, Report) {
    let out = tempfile::tempdir().unwrap();
    let report = salvage(dir, out.path(), CHUNK, &mut |_| {}).unwrap();
    let found = tree(out.path());
    let named = |path: &PathBuf| report.partial.contains_key(path);
    for (path, bytes) in files {
        match found.get(path) {
            Some(there) if there == bytes => {}
            Some(_) => {
                assert!(named(path) && !report.notes.is_empty(), "{what}: {path:?} differs: {report:?}")
            }
            None => assert!(!report.notes.is_empty(), "{what}: {path:?} is missing: {report:?}"),
        }
    }
    for path in found.keys().filter(|path| !files.contains_key(*path)) {
        assert!(named(path), "{what}: {path:?} had been removed: {report:?}");
    }
    assert!(report.notes.iter().all(|note| !note.contains("`brickyard salvage`")), "{:?}", report.notes);
    let right = files.iter().filter(|(path, bytes)| found.get(*path) == Some(bytes) && !named(path)).count();
    (right, report)
}

/// Changed bytes, lost sectors and lost files of the journal at every kind of place: nothing older than what was
/// acknowledged is there without being named, and what comes behind the damage counts.
#[test]
fn a_damaged_journal_never_hides_what_is_older() {
    for (seed, laps) in [(1, 0), (2, 1), (3, 3)] {
        let root = tempfile::tempdir().unwrap();
        let (dir, files) = killed(root.path(), seed, laps);
        let (right, whole) = check_honest(&dir, &files, "undamaged");
        assert_eq!((right, whole.notes.len()), (files.len(), 0), "{whole:?}");
        let records = records(&dir);
        let last = records.last().unwrap().clone();
        let mut lots = Lots(seed);
        let (mut behind, mut told) = (0, 0);
        for round in 0..60 {
            // Mostly the newest ones, which the index does not have yet.
            let near = if round % 3 == 0 { records.len() as u64 } else { 45.min(records.len() as u64) };
            let (path, at, seq) = &records[records.len() - 1 - lots.below(near) as usize];
            let (at, len) = match round % 6 {
                0 => (*at + lots.below(40), 1),
                1 => (*at + 40 + lots.below(400), 1),
                2 => (*at + 512 * lots.below(8) + lots.below(512), 1),
                3 => (512 * lots.below(2) * 8, 16),
                4 if *seq < last.2 => (*at, 512),
                4 => (*at + 512, 512),
                _ => (*at / 4096 * 4096 + 4096, 4096),
            };
            // Of a last record that leaves no trace nobody can know.
            if *path == last.0 && at <= last.1 && at + len as u64 >= last.1 + 512 {
                continue;
            }
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut old = vec![0; len];
            file.read_exact_at(&mut old, at).unwrap();
            let new: Vec<u8> =
                if len > 16 { vec![0; len] } else { old.iter().map(|byte| byte ^ 0x10).collect() };
            file.write_all_at(&new, at).unwrap();
            let what = format!("seed {seed}, round {round}: {len} bytes at {at} of {path:?}, record {seq}");
            let (right, report) = check_honest(&dir, &files, &what);
            told += usize::from(!report.notes.is_empty());
            behind += if report.notes.is_empty() { 0 } else { right };
            file.write_all_at(&old, at).unwrap();
        }
        // Both beginnings at once, and both files.
        for len in [8192, 0] {
            let saved = ["journal.0", "journal.1"].map(|name| std::fs::read(dir.join(name)).unwrap());
            for (name, bytes) in ["journal.0", "journal.1"].iter().zip(&saved) {
                let bytes =
                    if len == 0 { Vec::new() } else { [vec![1; len], bytes[len..].to_vec()].concat() };
                std::fs::write(dir.join(name), bytes).unwrap();
            }
            let (_, report) = check_honest(&dir, &files, "both files");
            if len == 0 {
                assert!(report.by_index && report.notes[0].contains("journal"), "{report:?}");
                assert!(laps == 0 || report.files > 0, "what the index knows is there: {report:?}");
            }
            for (name, bytes) in ["journal.0", "journal.1"].iter().zip(&saved) {
                std::fs::write(dir.join(name), bytes).unwrap();
            }
        }
        // The index as well.
        std::fs::remove_dir_all(dir.join("index")).unwrap();
        std::fs::create_dir(dir.join("index")).unwrap();
        assert!(told > 10 && behind > 0, "seed {seed}: {told} {behind}");
        // What was cut or removed before the journal was begun anew only the index knew.
        let rounds = if laps == 0 { 10 } else { 0 };
        for _ in 0..rounds {
            let (path, at, seq) = &records[records.len() - 1 - lots.below(20) as usize];
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut old = [0];
            let at = at + lots.below(600);
            file.read_exact_at(&mut old, at).unwrap();
            file.write_all_at(&[old[0] ^ 4], at).unwrap();
            check_honest(
                &dir,
                &files,
                &format!("no index, seed {seed}: byte {at} of {path:?}, record {seq}"),
            );
            file.write_all_at(&old, at).unwrap();
        }
    }
}

/// Two or more bricks of one chain, each with what it had noted of names.
fn bricks(root: &Path, count: u32) -> Vec<(PathBuf, Held, FileStore)> {
    let one = |n: u32| {
        let dir = root.join(format!("brick-{n}"));
        brick_server::format(&dir, CLUSTER, BrickId(n)).unwrap();
        let held = Held::take(&dir, CLUSTER, None).unwrap();
        let store = held.open(Limits::default()).unwrap();
        (dir, held, store)
    };
    (0..count).map(one).collect()
}

/// Salvages in this order; what is there in the end, and the last report.
fn in_order(dirs: &[PathBuf], order: &[usize]) -> (BTreeMap<PathBuf, Vec<u8>>, Report) {
    let out = tempfile::tempdir().unwrap();
    let mut last = None;
    for n in order {
        last = Some(salvage(&dirs[*n], out.path(), CHUNK, &mut |_| {}).unwrap());
    }
    (tree(out.path()), last.unwrap())
}

/// A brick that was away changes nothing that was overwritten or cut since, whether it comes first or last; what it has of
/// files that were shortened, removed or made anew is kept beside and named.
#[test]
fn a_stale_brick_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let all = bricks(root.path(), 2);
    let (both, one) = ([&all[0].2, &all[1].2], [&all[0].2]);
    let old: Vec<Vec<u8>> = (0..8).map(|n| noise(n, 50_000)).collect();
    for ino in 0..8_u64 {
        write_on(&both, key(10 + ino, 0), 0, &old[ino as usize], 1, ino + 1);
    }
    write_on(&both, key(12, 1), 0, &old[2], 1, 20);
    write_on(&both, key(12, 2), 0, &old[2], 1, 21);
    // From here on the second one is away.
    let new = noise(99, 60_000);
    write_on(&one, key(10, 0), 0, &new, 1, 30);
    all[0].2.cut(key(11, 0), 1000).unwrap();
    for index in [1, 2] {
        all[0].2.remove(key(12, index), ChunkVersion(u64::MAX)).unwrap();
    }
    all[0].2.remove(key(13, 0), ChunkVersion(u64::MAX)).unwrap();
    // Cut to nothing and written anew, by the same session and by another one.
    for ino in [14, 15] {
        write_on(&both, key(ino, 0), 0, &old[0][..100], 1, 25);
        all[0].2.remove(key(ino, 0), ChunkVersion(u64::MAX)).unwrap();
    }
    write_on(&one, key(14, 0), 0, b"anew", 1, 31);
    write_on(&one, key(15, 0), 0, b"anew", 2, 1);
    // Overwritten by another session.
    write_on(&one, key(16, 0), 0, &new, 2, 2);
    write_on(&one, key(18, 0), 0, &new, 2, 3);
    all[0].2.commit().unwrap();
    let dirs: Vec<PathBuf> = all.iter().map(|(dir, ..)| dir.clone()).collect();
    drop(all);
    let (found, report) = in_order(&dirs, &[0, 1]);
    let (again, other) = in_order(&dirs, &[1, 0]);
    assert!(found == again, "{:?} {:?}", found.keys(), again.keys());
    let at = |name: &str| found.get(Path::new(name)).map(Vec::as_slice);
    let was = |report: &Report, name: &str| report.partial.get(Path::new(name)).cloned().unwrap_or_default();
    assert!(at("ino-10") == Some(&new) && at("ino-10.from-brick-1").is_none());
    assert!(at("ino-11") == Some(&old[1][..1000]) && at("ino-11.from-brick-1").is_none());
    assert!(
        at("ino-12") == Some(&old[2])
            && at("ino-12.from-brick-1").unwrap().len() == 2 * CHUNK as usize + 50_000
    );
    assert!(at("ino-13") == Some(&old[3]));
    assert!(at("ino-17") == Some(&old[7]) && at("ino-18") == Some(&new));
    let mut as_it_was = old[0][..100].to_vec();
    as_it_was.extend(&old[4][100..]);
    assert!(at("ino-14") == Some(b"anew") && at("ino-14.from-brick-1") == Some(&as_it_was));
    // Here nobody can tell, and both are there.
    let both = [at("ino-15"), at("ino-15.from-brick-0").or(at("ino-15.from-brick-1"))];
    assert!(both.contains(&Some(b"anew")) && both.iter().flatten().any(|bytes| bytes.len() == 50_000));
    assert!(at("ino-16") == Some(&new) && at("ino-16.from-brick-1") == Some(&old[6]));
    for report in [&report, &other] {
        for name in ["ino-12", "ino-14", "ino-15", "ino-16"] {
            assert_eq!(was(report, name).kept.len(), 1, "{name}: {report:?}");
        }
        for name in ["ino-12", "ino-13"] {
            assert!(was(report, name).removed_on.contains("brick-0"), "{name}: {report:?}");
        }
        for name in ["ino-10", "ino-11", "ino-17", "ino-18"] {
            assert!(
                was(report, name).kept.is_empty() && was(report, name).removed_on.is_empty(),
                "{name}: {report:?}"
            );
        }
    }
}

/// Three bricks that missed things at random, in all six orders: the same files under the same names.
#[test]
fn the_order_of_bricks_does_not_matter() {
    for seed in 0..4 {
        let root = tempfile::tempdir().unwrap();
        let all = bricks(root.path(), 3);
        let mut lots = Lots(seed);
        for call in 1..120 {
            let present: Vec<&FileStore> =
                all.iter().filter(|_| call < 30 || lots.below(3) > 0).map(|(_, _, store)| store).collect();
            let key = key(10 + lots.below(5), lots.below(3));
            match lots.below(8) {
                0 => {
                    for store in &present {
                        store.remove(key, ChunkVersion(u64::MAX)).unwrap();
                    }
                }
                1 => {
                    for store in &present {
                        store.cut(key, 3000).unwrap();
                    }
                }
                2 => {
                    let name = format!("/dir/{}", lots.below(6));
                    let names = [(key.ino, Bytes::from(name))];
                    present.iter().for_each(|store| store.note_names(&names).unwrap());
                }
                _ => {
                    let data = noise(lots.below(250) as u8, 1 + lots.below(30_000) as usize);
                    write_on(&present, key, lots.below(20_000) as u32, &data, 1 + lots.below(2), call);
                }
            }
            present.iter().for_each(|store| store.commit().unwrap());
        }
        let dirs: Vec<PathBuf> = all.iter().map(|(dir, ..)| dir.clone()).collect();
        drop(all);
        let (found, report) = in_order(&dirs, &[0, 1, 2]);
        assert!(
            found.len() >= 5 && report.partial.values().any(|partial| !partial.kept.is_empty()),
            "{report:?}"
        );
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (again, _) = in_order(&dirs, &order);
            let differ = |path: &&PathBuf| found.get(*path) != again.get(*path);
            let different: Vec<_> = found.keys().chain(again.keys()).filter(differ).collect();
            assert!(different.is_empty(), "seed {seed}, order {order:?}: {different:?}");
        }
        // Once more changes nothing.
        let (twice, _) = in_order(&dirs, &[0, 1, 2, 1, 0]);
        assert!(twice == found, "seed {seed}: {:?} {:?}", twice.keys(), found.keys());
    }
}

/// What salvage did not write is not written over, nor what it did not end, nor what it can't read any more.
#[test]
fn a_strange_output_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("brick"), root.path().join("out"));
    brick(&dir, false);
    std::fs::create_dir(&out).unwrap();
    let file = out.join("ino-8");
    std::fs::write(&file, "mine").unwrap();
    let refused = |chunk| salvage(&dir, &out, chunk, &mut |_| {}).unwrap_err().to_string();
    assert!(refused(CHUNK).contains("is not empty, and salvage has not filled it"));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    std::fs::remove_file(&file).unwrap();
    run(&dir, &out);
    assert!(refused(2 * CHUNK).contains("say the same (--chunk-mib)"));
    run(&dir, &out);
    let state = out.join(".brickyard-salvage/state");
    let mut bytes = std::fs::read(&state).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&state, bytes).unwrap();
    assert!(refused(CHUNK).contains("it is damaged"), "{}", refused(CHUNK));
    std::fs::remove_dir_all(&out).unwrap();
    // One that ends half-way: a chunk is larger than was said.
    assert!(refused(CHUNK / 2).contains("more than the chunk size"));
    assert!(refused(CHUNK / 2).contains("that did not end"));
}
