//! The journal and what it has to do with the rest.

use super::super::log::{self, Appended, Log};
use super::super::owners;
use super::*;

/// Records in the middle that can't be read, with later ones behind them: refused.
#[test]
fn a_hole_is_refused() {
    let machine = machine();
    let store = open(&machine);
    for n in 0..5 {
        write(&store, key(n), 0, b"committed").unwrap();
        store.commit().unwrap();
    }
    drop(store);
    let journal = &machine.journal[0];
    let good = journal.peek(8192, 20_000);
    let second = (1..).find(|i| &good[i * 512..i * 512 + 4] == b"BYJR").unwrap() * 512;
    for (at, what) in
        [(second, "record 2 is gone, record 3 is there"), (0, "record 1 is gone, record 2 is there")]
    {
        let at = at as u64 + 8192;
        let before = journal.peek(at, 512);
        journal.poke(at, &[0; 512]);
        let refused = try_open(&machine, LIMITS).unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
        journal.poke(at, &before);
    }
    // Either of the two heads is enough; without both the journal is refused.
    journal.poke(0, &[0; 512]);
    open(&machine);
    journal.poke(4096, &[0; 512]);
    let refused = try_open(&machine, LIMITS).unwrap_err().to_string();
    assert!(refused.contains("neither of its files begins as it should"), "{refused}");
}

/// A record that was cut off is no record; the next one takes its place.
#[test]
fn a_torn_tail_is_no_record() {
    let machine = machine();
    let store = open(&machine);
    write(&store, key(0), 0, b"first").unwrap();
    store.commit().unwrap();
    write(&store, key(0), 0, b"second").unwrap();
    store.commit().unwrap();
    drop(store);
    let bytes = machine.journal[0].peek(8192, 20_000);
    let second = (1..).find(|i| &bytes[i * 512..i * 512 + 4] == b"BYJR").unwrap() * 512;
    machine.journal[0].poke(8192 + second as u64 + 600, b"torn");
    let machine = machine.with_empty_index();
    let store = open(&machine);
    assert_eq!(content(&store, key(0)).unwrap().unwrap(), (1, b"first".to_vec()));
    write(&store, key(0), 0, b"other").unwrap();
    store.commit().unwrap();
    let store = open(&machine.crash(&mut Random(2)));
    assert_eq!(content(&store, key(0)).unwrap().unwrap(), (2, b"other".to_vec()));
}

/// An index that is newer than the journal, or older than where it begins, and a journal of
/// another brick are refused.
#[test]
fn an_index_that_does_not_fit_is_refused() {
    let machine = machine();
    let store = open(&machine);
    for _ in 0..3 {
        write(&store, key(0), 0, b"x").unwrap();
        store.commit().unwrap();
    }
    drop(store);
    let fresh = Machine::new(1 << 30, SEGMENT);
    let older = Machine { journal: fresh.journal.clone(), ..machine.clone() };
    let refused = try_open(&older, LIMITS).unwrap_err().to_string();
    assert!(refused.contains("it ends with record 0, and the index has record 3"), "{refused}");
    let other = machine.journal.clone();
    assert!(log::format(&other, 99, SEGMENT).is_ok());
    let refused = try_open(&machine, LIMITS).unwrap_err().to_string();
    assert!(refused.contains("it belongs to another brick"), "{refused}");
    // A journal that was trimmed, and an index from before that.
    let machine = Machine::new(1 << 30, 64 << 10);
    let store = open(&machine);
    while store.counters().checkpoints == 0 {
        write(&store, key(0), 0, &[1; 5000]).unwrap();
        store.commit().unwrap();
    }
    drop(store);
    let lost = Machine { index: MemIndex::default(), ..machine };
    let refused = try_open(&lost, LIMITS).unwrap_err().to_string();
    assert!(refused.contains("and the index ends with record 0"), "{refused}");
}

/// The segments take turns; what is in neither is trimmed.
#[test]
fn segments_take_turns() {
    let disks = [FaultyDisk::new(64 << 10), FaultyDisk::new(64 << 10)];
    log::format(&disks, 7, 64 << 10).unwrap();
    let mut log = Log::open(disks.clone(), 7, 0, &mut |_, _| panic!("nothing there yet")).unwrap();
    let mut switched = 0;
    for n in 1..200u64 {
        let body = vec![n as u8; 3000];
        let seq = match log.append(&body).unwrap() {
            Appended::Done { seq, .. } => seq,
            Appended::Full => {
                log.switch().unwrap();
                switched += 1;
                let Appended::Done { seq, .. } = log.append(&body).unwrap() else { panic!("still full") };
                seq
            }
        };
        assert_eq!(seq, n);
        if n % 20 == 0 {
            let mut last = 0;
            log = Log::open(disks.clone(), 7, n - 1, &mut |seq, body| {
                assert!(body.iter().all(|byte| *byte == seq as u8));
                assert!(last == 0 || seq == last + 1);
                last = seq;
                Ok(())
            })
            .unwrap();
            assert_eq!((last, log.last()), (n, n));
        }
    }
    assert!(switched > 5);
}

/// After the journal was trimmed, the table of owners tells of every block whose it is.
#[test]
fn owners_are_there_after_a_trim() {
    let machine = Machine::new(1 << 30, 64 << 10);
    let store = open(&machine);
    let mut random = Random(4);
    let mut model = Model::new();
    while store.counters().checkpoints < 4 {
        step(&store, &mut model, &mut random, 60_000).unwrap();
        store.commit().unwrap();
    }
    // One more, which empties it.
    let before = store.counters().checkpoints;
    let mut known = BTreeMap::new();
    while store.counters().checkpoints == before {
        known = machine.index.where_everything_is();
        write(&store, key(9), 0, &[1; 5000]).unwrap();
        store.commit().unwrap();
    }
    let mut table = BTreeMap::new();
    owners::each(&machine.owners, &mut |position, owner| {
        table.insert(position, owner);
    })
    .unwrap();
    assert!(known.len() > 5);
    for ((key, block), slot) in known {
        let owner = table.get(&slot.position).unwrap_or_else(|| panic!("nobody owns block {block} of {key}"));
        assert_eq!(owner.crc, slot.crc, "block {block} of {key}");
    }
}
