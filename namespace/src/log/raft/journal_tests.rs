#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicBool;

use super::super::disk::RealDisk;
use super::*;

const OURS: Owner = Owner { cluster: ClusterId([7; 16]), member: 3 };

type Found = Vec<(u8, Vec<u8>)>;

fn open(dir: &Path, owner: Owner) -> Result<(Journal, Found), JournalError> {
    let mut found = Vec::new();
    let journal = Journal::open(dir, owner, Arc::new(RealDisk), Hold::default(), |_, kind, body| {
        found.push((kind, body.to_vec()));
        Ok(())
    })?;
    Ok((journal, found))
}

fn wait(journal: &Journal) -> io::Result<()> {
    let (done, heard) = mpsc::channel();
    journal.sync(Box::new(move |result| done.send(result).unwrap()));
    heard.recv().unwrap()
}

/// Records with a flush after each, so that each knows those before it as durable.
fn written(dir: &Path, count: u8) -> Vec<Place> {
    let (journal, _) = open(dir, OURS).unwrap();
    let mut places = Vec::new();
    for n in 0..count {
        places.push(journal.push(1, &[n; 100]).unwrap());
        wait(&journal).unwrap();
    }
    places
}

fn patch(dir: &Path, segment: u64, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(dir.join(file_name(segment))).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// What was pushed is found again, in order, over several files, and read back by its place.
#[test]
fn records_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), OURS).unwrap();
    let mut places = Vec::new();
    for n in 0..30u8 {
        if n % 10 == 9 {
            journal.rotate();
        }
        places.push(journal.push(n, &[n; 50]).unwrap());
    }
    wait(&journal).unwrap();
    assert_eq!(journal.read(places[17]).unwrap(), [17; 50]);
    journal.delete_before(places[9].segment).unwrap();
    drop(journal);
    let (journal, found) = open(dir.path(), OURS).unwrap();
    assert_eq!(found, (9..30u8).map(|n| (n, vec![n; 50])).collect::<Vec<_>>());
    journal.push(99, b"more").unwrap();
    wait(&journal).unwrap();
    drop(journal);
    assert_eq!(open(dir.path(), OURS).unwrap().1.len(), 22);
}

/// Invariant 1: what a crash left half written at the end is cut, and the journal goes on there.
#[test]
fn a_torn_end_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let places = written(dir.path(), 5);
    patch(dir.path(), 1, places[4].offset + 50, &[9; 10]);
    let (journal, found) = open(dir.path(), OURS).unwrap();
    assert_eq!(found.len(), 4);
    journal.push(2, b"again").unwrap();
    wait(&journal).unwrap();
    drop(journal);
    let found = open(dir.path(), OURS).unwrap().1;
    assert_eq!((found.len(), found[4].1.as_slice()), (5, b"again".as_slice()));
}

/// Writes of one flush may come to the disk in any order: a whole record behind a torn one does
/// not make a journal damaged, if nobody was told that either was durable.
#[test]
fn a_flush_torn_in_the_middle_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), OURS).unwrap();
    let places: Vec<_> = (0..5u8).map(|n| journal.push(1, &[n; 100]).unwrap()).collect();
    wait(&journal).unwrap();
    drop(journal);
    patch(dir.path(), 1, places[2].offset + 50, &[9; 10]);
    assert_eq!(open(dir.path(), OURS).unwrap().1.len(), 2);
}

/// Invariant 1: damage before a record that knows what is damaged as durable is never cut.
#[test]
fn damage_in_the_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let places = written(dir.path(), 5);
    patch(dir.path(), 1, places[1].offset + 50, &[9; 10]);
    let before = fs::read(dir.path().join(file_name(1))).unwrap();
    let refused = open(dir.path(), OURS).err().unwrap().to_string();
    assert!(refused.contains("damaged at byte"), "{refused}");
    assert_eq!(fs::read(dir.path().join(file_name(1))).unwrap(), before);
}

/// A file that is missing in the middle is noticed.
#[test]
fn a_missing_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), OURS).unwrap();
    for n in 0..3u8 {
        journal.push(n, b"x").unwrap();
        journal.rotate();
    }
    journal.push(3, b"x").unwrap();
    wait(&journal).unwrap();
    drop(journal);
    fs::remove_file(dir.path().join(file_name(2))).unwrap();
    let refused = open(dir.path(), OURS).err().unwrap().to_string();
    assert!(refused.contains("file 2 of the log is missing"), "{refused}");
}

/// Invariant 2.
#[test]
fn foreign_journals_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 2);
    let other = Owner { cluster: ClusterId([8; 16]), ..OURS };
    assert!(open(dir.path(), other).err().unwrap().to_string().contains("another cluster"));
    let other = Owner { member: 4, ..OURS };
    assert!(open(dir.path(), other).err().unwrap().to_string().contains("member 0000000000000003"));
    patch(dir.path(), 1, 8, &9u32.to_le_bytes());
    assert!(open(dir.path(), OURS).err().unwrap().to_string().contains("format 9"));
    patch(dir.path(), 1, 0, b"SOMETHING");
    assert!(open(dir.path(), OURS).err().unwrap().to_string().contains("no file of a namespace's log"));
}

struct Failing(AtomicBool);

impl Disk for Failing {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        RealDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.0.swap(false, Ordering::SeqCst) { Err(io::Error::other("EIO")) } else { RealDisk.sync(file) }
    }
}

/// Invariant 3: a flush that failed once is not believed when it works the next time.
#[test]
fn after_an_error_nothing_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Failing(AtomicBool::new(false)));
    let journal = Journal::open(dir.path(), OURS, disk.clone(), Hold::default(), |_, _, _| Ok(())).unwrap();
    journal.push(1, b"a").unwrap();
    wait(&journal).unwrap();
    disk.0.store(true, Ordering::SeqCst);
    journal.push(1, b"b").unwrap();
    assert!(wait(&journal).is_err());
    journal.push(1, b"c").unwrap();
    assert!(wait(&journal).is_err());
    drop(journal);
    assert_eq!(open(dir.path(), OURS).unwrap().1[0].1, b"a");
}

/// Format 1, byte for byte.
#[test]
fn the_layout_is_golden() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), OURS).unwrap();
    journal.push(5, b"hi").unwrap();
    wait(&journal).unwrap();
    drop(journal);
    let bytes = fs::read(dir.path().join("00000000000000000001.log")).unwrap();
    let mut expected = b"BRYDRLOG\x01\0\0\0".to_vec();
    expected.extend([7; 16]);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let sum = crc32c::crc32c(&expected);
    expected.extend(sum.to_le_bytes());
    let record = [[1, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat();
    let body = [record.as_slice(), &[5], b"hi"].concat();
    expected.extend(2u32.to_le_bytes());
    expected.extend(crc32c::crc32c(&body).to_le_bytes());
    expected.extend(body);
    assert_eq!(bytes[..expected.len()], expected);
    assert!(bytes[expected.len()..].iter().all(|b| *b == 0));
}
