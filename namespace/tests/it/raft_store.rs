//! The log and the state beneath it, as the library that decides wants them.

use std::path::Path;
use std::sync::Arc;

use namespace::log::raft::disk::RealDisk;
use namespace::log::raft::journal::Owner;
use namespace::log::raft::replica::{Beginning, Replica};
use namespace::log::raft::snapshot::{self, Incoming, Place};
use namespace::log::raft::store::Store;
use namespace::log::raft::types::{Entry, LogId, Types, Vote};
use namespace::machine::command::{Command, Op};
use namespace::machine::{Birth, Machine};
use namespace::metrics::Metrics;
use namespace::store::db::{Db, Durability};
use namespace::store::hold::Hold;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::testing::log_id;
use openraft::type_config::TypeConfigExt;
use wire::id::Ino;
use wire::meta::Timestamp;

use crate::harness::CLUSTER;

const OWNER: Owner = Owner { cluster: CLUSTER, member: 3 };

fn open_store(dir: &Path) -> Store {
    Store::open(&dir.join("log"), OWNER, Arc::new(RealDisk), Hold::default()).unwrap()
}

fn open_replica(dir: &Path, founder: bool) -> Replica {
    let db = Arc::new(Db::open_with(dir, Durability::Log, Hold::default()).unwrap());
    let machine = Machine::open(db, CLUSTER, Birth::from(2), Timestamp::default()).unwrap();
    Replica::open(Beginning {
        machine,
        cluster: CLUSTER,
        founder,
        snapshots: Arc::new(Place::open(dir.join("snapshots"), Hold::default()).unwrap()),
        metrics: Arc::new(Metrics::default()),
        observe: Box::new(|_| {}),
    })
    .unwrap()
}

struct Builder;

impl StoreBuilder<Types, Store, Replica, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Store, Replica), openraft::StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let (store, replica) = (open_store(dir.path()), open_replica(dir.path(), true));
        Ok((dir, store, replica))
    }
}

/// The library's own tests of what it builds on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_and_the_state_are_what_raft_needs() {
    Suite::test_all(Builder).await.unwrap();
}

fn entry(term: u64, index: u64, inos: usize) -> Entry {
    let op = Op::Reclaim(vec![Ino(u64::MAX - index); inos]);
    Entry::new_normal(log_id::<Types>(term, 3, index), Command { at: Timestamp::default(), who: None, op })
}

async fn log_of(store: &mut Store) -> (Vec<LogId>, Option<Vote>, Option<LogId>) {
    let entries = store.try_get_log_entries(..).await.unwrap();
    let ids = entries.into_iter().map(|entry| entry.log_id).collect();
    (ids, store.read_vote().await.unwrap(), store.read_committed().await.unwrap())
}

/// Entries, votes, cuts and marks are the same after the log was closed and opened again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    store.blocking_append((0..10).map(|index| entry(1, index, 1))).await.unwrap();
    store.save_vote(&Vote::new(2, 3)).await.unwrap();
    store.truncate_after(Some(log_id::<Types>(1, 3, 6))).await.unwrap();
    store.blocking_append((7..9).map(|index| entry(2, index, 1))).await.unwrap();
    store.save_committed(Some(log_id::<Types>(1, 3, 5))).await.unwrap();
    store.purge(log_id::<Types>(1, 3, 2)).await.unwrap();
    let before = log_of(&mut store).await;
    assert_eq!(before.0.iter().map(|id| id.index).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8]);
    assert_eq!((before.0[5], before.1), (log_id::<Types>(2, 3, 8), Some(Vote::new(2, 3))));
    drop(store);
    let mut store = open_store(dir.path());
    assert_eq!(log_of(&mut store).await, before);
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id::<Types>(1, 3, 2)));
    assert_eq!(state.last_log_id, Some(log_id::<Types>(2, 3, 8)));
}

/// Files go with the entries in them, and what is left is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purged_files_are_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    store.save_vote(&Vote::new(1, 3)).await.unwrap();
    let files = || std::fs::read_dir(dir.path().join("log")).unwrap().count();
    // Each entry has 9 MB: two fill a file, and more are in the log than in memory.
    for index in 0..9 {
        store.blocking_append([entry(1, index, 900_000)]).await.unwrap();
    }
    assert!(files() >= 4, "{}", files());
    assert_eq!(store.try_get_log_entries(0..9).await.unwrap().len(), 9, "old ones are read from the disk");
    assert_eq!(store.limited_get_log_entries(0, 9).await.unwrap().len(), 1, "one at least, not too many");
    store.purge(log_id::<Types>(1, 3, 6)).await.unwrap();
    assert!(files() <= 2, "{}", files());
    let before = log_of(&mut store).await;
    drop(store);
    let mut store = open_store(dir.path());
    assert_eq!(log_of(&mut store).await, before);
    assert_eq!(before.1, Some(Vote::new(1, 3)));
}

/// The marks at the head of a file say what was purged when it was begun. Entries that were purged later went with
/// files before it, and are not missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_may_begin_with_an_older_mark() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    for index in 0..9 {
        store.blocking_append([entry(1, index, 900_000)]).await.unwrap();
    }
    store.purge(log_id::<Types>(1, 3, 1)).await.unwrap();
    for upto in [5, 8, 12] {
        for index in upto + 4..upto + 7 {
            let next = store.get_log_state().await.unwrap().last_log_id.map_or(0, |id| id.index + 1);
            if index >= next {
                store.blocking_append((next..=index).map(|index| entry(1, index, 900_000))).await.unwrap();
            }
        }
        store.purge(log_id::<Types>(1, 3, upto)).await.unwrap();
        let before = log_of(&mut store).await;
        drop(store);
        store = open_store(dir.path());
        assert_eq!(log_of(&mut store).await, before, "purged up to {upto}");
    }
}

/// Many appends before the first flush is done share flushes: none waits for the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    let mut heard = Vec::new();
    for index in 0..200 {
        let (done, one) = Types::oneshot();
        store.append([entry(1, index, 1)], IOFlushed::signal(done)).await.unwrap();
        heard.push(one);
        assert_eq!(store.try_get_log_entries(index..=index).await.unwrap().len(), 1, "readable at once");
    }
    for one in heard {
        one.await.unwrap().unwrap();
    }
}

/// The state that the log of a cluster goes on from is nowhere but at its founder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_beginning_applies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut replica = open_replica(dir.path(), false);
    let entries = futures_util::stream::iter([Ok((entry(1, 0, 1), None))]);
    let refused = replica.apply(entries).await.unwrap_err().to_string();
    assert!(refused.contains("needs a snapshot"), "{refused}");
    assert_eq!(replica.applied_state().await.unwrap().0, None);
}

/// A snapshot takes the place of the state, also of the next start; a damaged one changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_state_takes_the_place() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = open_replica(there.path(), true);
    let entries = (0..5).map(|index| Ok((entry(1, index, 1), None)));
    leader.apply(futures_util::stream::iter(entries)).await.unwrap();
    let mut builder = leader.get_snapshot_builder().await;
    let made = openraft::storage::RaftSnapshotBuilder::build_snapshot(&mut builder).await.unwrap();
    let files = snapshot::list(made.snapshot.path()).unwrap();
    let place = Place::open(here.path().join("incoming"), Hold::default()).unwrap();
    let receive = |spoil: bool| {
        let incoming = Incoming::begin(&place, files.clone()).unwrap();
        for (number, file) in (0u32..).zip(&files) {
            let mut bytes = snapshot::part(made.snapshot.path(), file, 0, usize::MAX).unwrap();
            if spoil && number == 1 {
                bytes.truncate(bytes.len() / 2);
            }
            incoming.part(number, 0, &bytes).unwrap();
        }
        assert!(incoming.part(0, files[0].bytes, b"x").is_err());
        incoming.finish()
    };
    assert!(receive(true).unwrap_err().to_string().contains("is not what was sent"));
    let mut replica = open_replica(here.path(), false);
    let mut wrong = made.meta.clone();
    wrong.last_log_id = Some(log_id::<Types>(1, 3, 9));
    assert!(replica.install_snapshot(&wrong, receive(false).unwrap()).await.is_err());
    assert_eq!(replica.applied_state().await.unwrap().0, None);
    replica.install_snapshot(&made.meta, receive(false).unwrap()).await.unwrap();
    assert_eq!(replica.applied_state().await.unwrap(), leader.applied_state().await.unwrap());
    drop(replica);
    let mut replica = open_replica(here.path(), false);
    assert_eq!(replica.applied_state().await.unwrap(), leader.applied_state().await.unwrap());
    let databases = std::fs::read_dir(here.path()).unwrap().flatten();
    let databases = databases.filter(|entry| entry.file_name().to_string_lossy().starts_with("db"));
    assert_eq!(databases.count(), 1, "the old state is gone");
}
