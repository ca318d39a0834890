//! Waiting for changes, at a service of one member and at one of three.

use std::collections::BTreeMap;
use std::time::Duration;

use namespace::store::db::Db;
use namespace::store::{Write, keys};
use tokio::time::{Instant, timeout};
use wire::id::{Ino, JournalIndex};
use wire::meta::*;
use wire::status::Status;

use crate::cluster::{Client, Cluster, LONG};
use crate::harness::{name, new};
use crate::members::{Caller, Load, Members};

fn ask(dir: Ino, after: Option<JournalIndex>, wait_ms: u32) -> FsRequest {
    FsRequest::Watch { dir, after, most: 1000, wait_ms }
}

async fn watch(client: &Client, dir: Ino, after: Option<JournalIndex>, wait_ms: u32) -> Changes {
    match client.fs(ask(dir, after, wait_ms)).await {
        Ok(FsReply::Changes(changes)) => changes,
        other => panic!("{other:?}"),
    }
}

fn mkdir(parent: Ino, text: &str) -> FsRequest {
    FsRequest::Mkdir { parent, name: name(text), new: new(0o755) }
}

/// Who waits is told of the first change in its directory and of none in others, at once; time that is over says where the
/// journal has come to; a removed directory ends the wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_at_once() {
    let mut cluster = Cluster::new(0, |_| {}).await;
    let (ours, theirs) = (cluster.client(1).await, cluster.client(2).await);
    let dir = ours.attr(mkdir(Ino::ROOT, "d")).await.unwrap().ino;
    let begin = watch(&ours, dir, None, 60_000).await;
    assert!(begin.changes.is_empty() && !begin.lost && !begin.gone);
    assert_eq!(watch(&ours, dir, Some(begin.until), 0).await, begin);
    let waits = watch(&ours, dir, Some(begin.until), 30_000);
    let changes = async {
        theirs.attr(mkdir(Ino::ROOT, "elsewhere")).await.unwrap();
        theirs.attr(mkdir(dir, "x")).await.unwrap();
        Instant::now()
    };
    let (told, changed) = tokio::join!(waits, changes);
    assert!(changed.elapsed() < Duration::from_secs(2));
    let names: Vec<_> = told.changes.iter().map(|(_, change)| change.name.clone()).collect();
    assert_eq!(names, [name("x")]);
    assert_eq!(told.until.0, begin.until.0 + 2);
    theirs.attr(mkdir(Ino::ROOT, "more")).await.unwrap();
    let nothing = watch(&ours, dir, Some(told.until), 50).await;
    assert_eq!((nothing.changes.len(), nothing.until.0), (0, told.until.0 + 1));
    theirs.fs(FsRequest::Rmdir { parent: dir, name: name("x") }).await.unwrap();
    let after = watch(&ours, dir, Some(nothing.until), 30_000).await.until;
    let waits = watch(&ours, dir, Some(after), 30_000);
    let removed = theirs.fs(FsRequest::Rmdir { parent: Ino::ROOT, name: name("d") });
    let (told, removed) = timeout(LONG, async { tokio::join!(waits, removed) }).await.unwrap();
    assert!(removed.is_ok() && told.gone && told.changes.is_empty());
    cluster.sound().await;
    cluster.stop().await;
}

/// A service that stops lets nobody wait; who asks again after a restart is told what happened meanwhile. Limits are
/// the administrator's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_goes_on_after_a_restart() {
    let mut cluster = Cluster::new(0, |_| {}).await;
    let client = cluster.client(1).await;
    client.attr(mkdir(Ino::ROOT, "a")).await.unwrap();
    let after = watch(&client, Ino::ROOT, None, 0).await.until;
    let waits = client.fs(ask(Ino::ROOT, Some(after), 30_000));
    let (refused, ()) = timeout(LONG, async { tokio::join!(waits, cluster.stop()) }).await.unwrap();
    // Who came a moment later is told that nobody leads here.
    assert!(matches!(refused, Err(Status::Busy | Status::NotLeader(None))), "{refused:?}");
    cluster.restart_stopped().await;
    let again = cluster.client(1).await;
    again.attr(mkdir(Ino::ROOT, "b")).await.unwrap();
    let told = watch(&again, Ino::ROOT, Some(after), 30_000).await;
    assert_eq!(told.changes.iter().map(|(index, _)| index.0).collect::<Vec<_>>(), [after.0 + 1]);
    let Ok(ClusterReply::Journal(shown)) =
        cluster.ask(ClusterRequest::Journal(JournalChange::default())).await
    else {
        panic!()
    };
    let change = JournalChange { most_entries: Some(500), most_age_s: Some(60) };
    let Ok(ClusterReply::Journal(set)) = cluster.ask(ClusterRequest::Journal(change)).await else { panic!() };
    assert_eq!(set, Journal { most_entries: 500, most_age_s: 60, ..shown });
    cluster.stop().await;
}

/// A directory of before there was a journal gets one when it is served, and its watchers know nothing of the past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_directory_gets_a_journal() {
    let mut cluster = Cluster::new(0, |_| {}).await;
    let client = cluster.client(1).await;
    cluster.stop().await;
    {
        let db = Db::open(&cluster.config.dir).unwrap();
        db.write(&BTreeMap::from([(keys::JOURNAL.to_vec(), None)])).unwrap();
    }
    cluster.restart_stopped().await;
    let begin = loop {
        match client.fs(ask(Ino::ROOT, None, 0)).await {
            Ok(FsReply::Changes(begin)) => break begin.until,
            // It has not begun yet.
            Err(Status::Busy) => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    };
    client.attr(mkdir(Ino::ROOT, "a")).await.unwrap();
    assert_eq!(watch(&client, Ino::ROOT, Some(begin), 0).await.changes.len(), 1);
    assert!(watch(&client, Ino::ROOT, Some(JournalIndex(0)), 0).await.lost);
    cluster.sound().await;
    cluster.stop().await;
}

/// Follows the root directory until a name comes.
async fn follow(caller: Caller, mut after: JournalIndex, last: &str) -> Vec<(JournalIndex, Change)> {
    let mut told = Vec::new();
    loop {
        let FsReply::Changes(changes) = caller.fs(ask(Ino::ROOT, Some(after), 1000)).await.unwrap() else {
            panic!()
        };
        assert!(!changes.lost && !changes.gone);
        after = changes.until;
        told.extend(changes.changes);
        if told.last().is_some_and(|(_, change)| change.name == name(last)) {
            return told;
        }
    }
}

/// The leader is killed again and again under a load: who watches is told every change that was acknowledged, once
/// and in order, by whoever leads; and members have the same journal to the byte, also one that was filled from a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_once_over_leaders() {
    let few = |timing: &mut namespace::log::raft::Timing| {
        timing.snapshot_every = 100;
        timing.keep_entries = 20;
    };
    let mut members = Members::new(3, few).await;
    let watcher = members.caller(200).await;
    let FsReply::Changes(begin) = watcher.fs(ask(Ino::ROOT, None, 0)).await.unwrap() else { panic!() };
    let told = tokio::spawn(follow(watcher, begin.until, "the-last"));
    let load = Load::begin(&members, 3).await;
    for _ in 0..3 {
        load.more(60).await;
        let leader = members.leader().await;
        members.kill(leader).await;
        load.more(60).await;
        members.start(leader).await;
    }
    load.more(30).await;
    let mut made = load.end().await;
    members.caller(201).await.mkdir("the-last").await.unwrap();
    made.insert("the-last".to_owned());
    let told = timeout(LONG, told).await.unwrap().unwrap();
    assert!(told.windows(2).all(|pair| pair[1].0.0 == pair[0].0.0 + 1), "an entry is missing or doubled");
    let names: std::collections::BTreeSet<_> =
        told.iter().map(|(_, change)| String::from_utf8(change.name.as_bytes().to_vec()).unwrap()).collect();
    assert_eq!(told.len(), made.len());
    assert_eq!(names, made);
    members.agree(&made).await;
}
