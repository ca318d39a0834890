//! Directories that are not what they should be are refused with one line, untouched.

use std::path::Path;

use wire::id::{BrickId, ClusterId};

use brick_server::store::dir::Held;
use brick_server::store::{ChunkStore, Limits};

use crate::support::{CLUSTER, key};

fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && name != "lock" {
            out.push((name, std::fs::read(entry.path()).unwrap()));
        }
    }
    out.sort();
    out
}

fn refusal(dir: &Path) -> String {
    let before = tree(dir);
    let refused = Held::take(dir, CLUSTER, Some(BrickId(3))).unwrap_err().to_string();
    assert_eq!(tree(dir), before, "the refused directory was changed");
    assert!(!refused.contains('\n'), "{refused}");
    refused.replace(&dir.display().to_string(), "DIR")
}

/// Another cluster's, another brick's, a newer or an incomplete directory.
#[test]
fn other_directories_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("brick");
    assert!(refusal_of_nothing(&dir).contains("holds no brick"));
    brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap();
    drop(Held::take(&dir, CLUSTER, Some(BrickId(3))).unwrap().open(Limits::default()).unwrap());
    let other = Held::take(&dir, ClusterId([8; 16]), Some(BrickId(3))).unwrap_err();
    let says = format!(
        "{} belongs to cluster {CLUSTER}, this is cluster {}; put",
        dir.display(),
        ClusterId([8; 16])
    );
    assert!(other.to_string().starts_with(&says), "{other}");
    let other = Held::take(&dir, CLUSTER, Some(BrickId(4))).unwrap_err().to_string();
    assert!(other.contains("is brick 3, not brick 4; put"), "{other}");
    let identity = dir.join("brick.json");
    let good = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, good.replace("\"format\": 2", "\"format\": 3, \"new\": []")).unwrap();
    assert_eq!(refusal(&dir), "DIR has format 3, this program knows 2; use a newer brickyard");
    std::fs::write(&identity, good.replace("\"format\": 2", "\"format\": 1")).unwrap();
    assert_eq!(
        refusal(&dir),
        "DIR has format 1, this program knows 2 and can't convert it; read it with the brickyard that \
         wrote it, or make the brick anew in an empty directory"
    );
    std::fs::write(&identity, &good).unwrap();
    for part in ["data.0", "journal.0", "journal.1", "owners.0", "index"] {
        let aside = root.path().join("aside");
        std::fs::rename(dir.join(part), &aside).unwrap();
        let refused = refusal(&dir);
        assert!(
            refused.starts_with(&format!("DIR is incomplete: {part} is missing; put it back")),
            "{refused}"
        );
        std::fs::rename(&aside, dir.join(part)).unwrap();
    }
    Held::take(&dir, CLUSTER, None).unwrap();
}

fn refusal_of_nothing(dir: &Path) -> String {
    Held::take(dir, CLUSTER, None).unwrap_err().to_string()
}

/// A data file that was cut short is found before anything is served.
#[test]
fn a_short_data_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("brick");
    brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap();
    let held = Held::take(&dir, CLUSTER, None).unwrap();
    let store = held.open(Limits::default()).unwrap();
    let change = wire::brick::Change::Write { offset: 0 };
    let prepared =
        store.prepare(key(1, 0), wire::id::ChunkVersion(0), change, &vec![1; 50_000].into()).unwrap();
    store.publish(prepared, wire::id::ChainId(1), None, wire::id::ChunkVersion(1)).unwrap();
    store.commit().unwrap();
    drop(store);
    std::fs::OpenOptions::new().write(true).open(dir.join("data.0")).unwrap().set_len(8192).unwrap();
    let refused = held.open(Limits::default()).unwrap_err();
    let refused_as = "beyond the end of the data files: make the brick anew from its copies";
    assert!(refused.to_string().contains(refused_as), "{refused}");
    // Who prints an error with its causes says nothing twice.
    assert!(std::error::Error::source(&refused).is_none());
}

/// A journal that was emptied, or put there from another brick, is found before anything is served.
#[test]
fn a_foreign_journal_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (dir, other) = (root.path().join("brick"), root.path().join("other"));
    for dir in [&dir, &other] {
        brick_server::format(dir, CLUSTER, BrickId(3)).unwrap();
    }
    let held = Held::take(&dir, CLUSTER, None).unwrap();
    let good = std::fs::read(dir.join("journal.0")).unwrap();
    std::fs::copy(other.join("journal.0"), dir.join("journal.0")).unwrap();
    let refused = held.open(Limits::default()).unwrap_err().to_string();
    assert!(refused.contains("the journal is damaged: it belongs to another brick"), "{refused}");
    std::fs::write(dir.join("journal.0"), b"").unwrap();
    let refused = held.open(Limits::default()).unwrap_err().to_string();
    assert!(refused.contains("neither of its files begins as it should"), "{refused}");
    std::fs::write(dir.join("journal.0"), good).unwrap();
    held.open(Limits::default()).unwrap();
}

/// What says whose the directory is may be lost or damaged once: its copy counts, and both are whole again after the
/// next start. Of both, nothing is left to go by.
#[test]
fn a_damaged_identity_is_mended_from_its_copy() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("brick");
    let store = brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap();
    let files = [dir.join("brick.json"), dir.join("brick.json.copy")];
    let good = std::fs::read(&files[0]).unwrap();
    for file in &files {
        for damage in
            [None, Some(&b""[..]), Some(&good[..good.len() / 2]), Some(&b"{}"[..]), Some(&[0xff; 99][..])]
        {
            match damage {
                None => std::fs::remove_file(file).unwrap(),
                Some(bytes) => std::fs::write(file, bytes).unwrap(),
            }
            let held = Held::take(&dir, CLUSTER, Some(BrickId(3))).unwrap();
            assert_eq!(held.identity.store, store);
            assert!(held.is_there());
            drop(held);
            assert!(files.iter().all(|file| std::fs::read(file).unwrap() == good), "{damage:?}");
        }
    }
    for file in &files {
        std::fs::write(file, &good[..good.len() / 2]).unwrap();
    }
    let refused = refusal(&dir);
    for words in ["DIR/brick.json is damaged, and there is no good copy of it", "backup", "brickyard salvage"]
    {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    // A newer program's word stands, whatever an older copy says.
    let newer = String::from_utf8(good.clone()).unwrap().replace("\"format\": 2", "\"format\": 99");
    std::fs::write(&files[0], newer).unwrap();
    std::fs::write(&files[1], &good).unwrap();
    assert!(refusal(&dir).contains("has format 99"));
}

/// The second one learns who has it; afterwards it is free.
#[test]
fn a_second_holder_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("brick");
    brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap();
    let first = Held::take(&dir, CLUSTER, None).unwrap();
    assert_eq!(
        refusal(&dir),
        format!("DIR is in use by process {}; stop that one first", std::process::id())
    );
    drop(first);
    Held::take(&dir, CLUSTER, None).unwrap();
}

/// A brick, or a stranger's files, are never formatted over; a formatting that was
/// interrupted can be done again.
#[test]
fn formatting_spares_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("brick");
    let first = brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap();
    let again = brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap_err().to_string();
    assert!(again.contains("can't be formatted: it holds brick.json"), "{again}");
    let forget = || {
        std::fs::remove_file(dir.join("brick.json")).unwrap();
        std::fs::remove_file(dir.join("brick.json.copy")).unwrap();
    };
    forget();
    let second = brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap();
    assert_ne!(first, second);
    forget();
    std::fs::write(dir.join("data.0"), b"bytes of somebody").unwrap();
    let spared = brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap_err().to_string();
    assert!(spared.ends_with("can't be formatted: it holds data.0"), "{spared}");
    let mine = root.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::write(mine.join("thesis.tex"), b"...").unwrap();
    let spared = brick_server::format(&mine, CLUSTER, BrickId(3)).unwrap_err().to_string();
    assert!(spared.ends_with("can't be formatted: it holds thesis.tex"), "{spared}");
    assert_eq!(std::fs::read(mine.join("thesis.tex")).unwrap(), b"...");
}

/// Nobody but its owner looks into a brick's directory, also one that was there before with a mode for everybody.
#[test]
fn a_brick_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("brick");
    let mode = || std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
    let open_to_all = || std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(&dir).unwrap();
    open_to_all();
    brick_server::format(&dir, CLUSTER, BrickId(3)).unwrap();
    assert_eq!(mode(), 0o700);
    open_to_all();
    Held::take(&dir, ClusterId([8; 16]), None).unwrap_err();
    assert_eq!(mode(), 0o755, "a refused directory was changed");
    drop(Held::take(&dir, CLUSTER, None).unwrap());
    assert_eq!(mode(), 0o700);
}
