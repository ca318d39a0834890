//! Files through the library, nothing broken.

use std::sync::atomic::Ordering;
use std::time::Duration;

use brickyard_fs_client::{FallocateMode, OpenOptions};
use bytes::Bytes;
use wire::id::{DirCookie, Ino};
use wire::meta::{
    Access, AttrChanges, FileKind, FsRequest, Name, NewInode, RenameMode, SetTime, Timestamp, XattrMode,
};

use crate::cluster::{Cluster, Fault, pattern, read_write, until};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

const NEW: NewInode = NewInode { mode: 0o644, umask: 0, uid: 3, gid: 4 };

/// Names come and go as POSIX says, and listings are stable.
#[tokio::test(flavor = "multi_thread")]
async fn names_come_and_go() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let dir = client.mkdir(Ino::ROOT, name("dir"), NEW).await.unwrap();
    let made = client.create(dir.ino, name("a"), NEW, true, read_write()).await.unwrap();
    assert!(made.new);
    let again = client.create(dir.ino, name("a"), NEW, true, read_write()).await.unwrap_err();
    assert_eq!(again.errno(), rustix::io::Errno::EXIST);
    client.link(made.file.ino(), dir.ino, name("b")).await.unwrap();
    client.symlink(dir.ino, name("c"), Bytes::from_static(b"/dir/b"), NEW).await.unwrap();
    client.mknod(dir.ino, name("d"), NEW, FileKind::Fifo, 0).await.unwrap();
    assert_eq!(client.resolve(b"dir/c", true).await.unwrap().ino, made.file.ino());
    assert_eq!(client.resolve(b"/dir/../dir/c", false).await.unwrap().kind, FileKind::Symlink);
    let page = client.readdir(dir.ino, DirCookie(0), 2, true).await.unwrap();
    assert!(!page.end);
    let rest = client.readdir(dir.ino, page.entries[1].cookie, 10, false).await.unwrap();
    assert!(rest.end);
    let names: Vec<_> = page.entries.iter().chain(&rest.entries).map(|e| e.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let refused = client.rename(dir.ino, name("a"), dir.ino, name("d"), RenameMode::NoReplace).await;
    assert!(refused.is_err());
    client.rename(dir.ino, name("a"), dir.ino, name("d"), RenameMode::Exchange).await.unwrap();
    assert_eq!(client.lookup(dir.ino, name("a")).await.unwrap().kind, FileKind::Fifo);
    client
        .setxattr(dir.ino, Bytes::from_static(b"user.x"), Bytes::from_static(b"1"), XattrMode::Create)
        .await
        .unwrap();
    assert_eq!(client.listxattr(dir.ino).await.unwrap(), [Bytes::from_static(b"user.x")]);
    client.removexattr(dir.ino, Bytes::from_static(b"user.x")).await.unwrap();
    let none = client.getxattr(dir.ino, Bytes::from_static(b"user.x")).await.unwrap_err();
    assert_eq!(none.errno(), rustix::io::Errno::NODATA);
    for entry in ["a", "b", "c", "d"] {
        client.unlink(dir.ino, name(entry)).await.unwrap();
    }
    client.rmdir(Ino::ROOT, name("dir")).await.unwrap();
    assert!(client.lookup(Ino::ROOT, name("dir")).await.unwrap_err().is_gone());
    // The file lives while it is open.
    client.write_at(&made.file, 0, b"still here").await.unwrap();
    client.fsync(&made.file).await.unwrap();
    assert_eq!(&client.read_at(&made.file, 0, 100).await.unwrap()[..], b"still here");
    client.release(made.file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// The namespace hears of the first handle of each kind and of the last one's end.
#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_knows_what_is_open() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let first = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let ino = first.ino();
    let second = client.open(ino, read_write()).await.unwrap();
    let reader = client.open(ino, OpenOptions::read_only()).await.unwrap();
    assert!(cluster.namespace.is_open(ino, Access::Write) && cluster.namespace.is_open(ino, Access::Read));
    client.write_at(&first, 0, b"hello").await.unwrap();
    client.release(first).await.unwrap();
    assert!(cluster.namespace.is_open(ino, Access::Write));
    client.release(second).await.unwrap();
    assert!(!cluster.namespace.is_open(ino, Access::Write) && cluster.namespace.is_open(ino, Access::Read));
    assert_eq!(cluster.namespace.size_of(ino), 5);
    client.release(reader).await.unwrap();
    assert!(!cluster.namespace.is_open(ino, Access::Read));
    // Creating what exists opens it, too, also right after it was closed here.
    for _ in 0..20 {
        let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
        assert!(cluster.namespace.is_open(ino, Access::Write));
        client.release(file).await.unwrap();
    }
    // A namespace that forgot is told.
    let file = client.open(ino, read_write()).await.unwrap();
    cluster.namespace.tell_open.store(1, Ordering::SeqCst);
    until("open inodes to be told", || *cluster.namespace.told.lock().unwrap() == [(ino, Access::Write)])
        .await;
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Attributes show what was written and not reported yet; times set stay set.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_show_unreported_writes() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let before = client.getattr(file.ino()).await.unwrap();
    client.write_at(&file, 10, b"hello").await.unwrap();
    let attr = client.getattr(file.ino()).await.unwrap();
    assert_eq!(attr.size, 15);
    assert!(attr.mtime > before.mtime && attr.allocated_bytes > 0);
    let past = Timestamp { secs: 1000, nanos: 5 };
    let changes = AttrChanges { mtime: Some(SetTime::To(past)), ..AttrChanges::default() };
    assert_eq!(client.setattr(file.ino(), changes).await.unwrap().mtime, past);
    let ino = file.ino();
    client.release(file).await.unwrap();
    assert_eq!(client.getattr(ino).await.unwrap().mtime, past);
    assert_eq!(client.getattr(ino).await.unwrap().size, 15);
    client.shutdown().await.unwrap();
}

/// Bytes not sent yet count as the blocks they will fill: a file with some never looks empty.
#[tokio::test(flavor = "multi_thread")]
async fn unsent_bytes_count_in_whole_blocks() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    for (bytes, blocks) in [(1, 1), (4096, 1), (4097, 2)] {
        client.write_at(&file, 0, &vec![1; bytes]).await.unwrap();
        assert_eq!(cluster.world.changes.load(Ordering::Relaxed), 0, "it was sent already");
        let allocated = client.getattr(file.ino()).await.unwrap().allocated_bytes;
        assert_eq!(allocated, blocks * 4096, "{bytes} bytes");
    }
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// What `tar` does with each file: create, write, set times, owner and mode, close. Two calls that change
/// something are all the namespace hears of it, and what it is told last is what was seen here all along.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_a_written_file_are_told_with_its_writes() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let log = || cluster.namespace.log.lock().unwrap().clone();
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let ino = file.ino();
    client.write_at(&file, 0, b"hello").await.unwrap();
    let past = Timestamp { secs: 1000, nanos: 5 };
    let times =
        AttrChanges { mtime: Some(SetTime::To(past)), atime: Some(SetTime::Now), ..AttrChanges::default() };
    let owner = AttrChanges { uid: Some(11), gid: Some(12), ..AttrChanges::default() };
    let mode = AttrChanges { mode: Some(0o4755), ..AttrChanges::default() };
    let mut last = client.getattr(ino).await.unwrap();
    for changes in [times, owner, mode] {
        let attr = client.setattr_behind(ino, changes).await.unwrap();
        assert!(attr.ctime > last.ctime, "the change is not seen");
        assert_eq!(client.getattr(ino).await.unwrap(), attr);
        last = attr;
    }
    assert_eq!((last.mtime, last.uid, last.gid, last.mode, last.size), (past, 11, 12, 0o4755, 5));
    assert_eq!(log().len(), 1, "{:?}", log());
    client.release(file).await.unwrap();
    let told = log();
    assert!(
        matches!(
            told.as_slice(),
            [FsRequest::Create { .. }, FsRequest::ReportWrite { then: Some(_), closes: true, .. }]
        ),
        "{told:?}"
    );
    let attr = cluster.namespace.attr_of(ino);
    assert_eq!((attr.mtime, attr.atime, attr.ctime), (past, last.atime, last.ctime));
    assert_eq!((attr.uid, attr.gid, attr.mode, attr.size), (11, 12, 0o4755, 5));
    // Without writes to go with, each is told at once, and is durable when it returns.
    client.setattr_behind(ino, mode).await.unwrap();
    let file = client.open(ino, read_write()).await.unwrap();
    client.setattr_behind(ino, owner).await.unwrap();
    let told = log();
    assert!(
        matches!(told[2..], [FsRequest::SetAttr { .. }, FsRequest::Open { .. }, FsRequest::SetAttr { .. }]),
        "{told:?}"
    );
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Changes that wait go with whatever comes first: an fsync, a truncation, a change that must not wait, age, and they
/// survive calls that fail. A write after them counts for more than the time they set.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_wait_are_told_in_order() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config();
    config.flush_age = Duration::from_millis(300);
    let client = cluster.client_with(config).await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let ino = file.ino();
    let there = || cluster.namespace.attr_of(ino);
    let mode = |mode| AttrChanges { mode: Some(mode), ..AttrChanges::default() };
    let past = Timestamp { secs: 1000, nanos: 5 };
    let times = AttrChanges { mtime: Some(SetTime::To(past)), ..AttrChanges::default() };

    client.write_at(&file, 0, b"one").await.unwrap();
    client.setattr_behind(ino, mode(0o640)).await.unwrap();
    cluster.namespace.busy.store(3, Ordering::SeqCst);
    client.fsync(&file).await.unwrap();
    assert_eq!((there().mode, there().size), (0o640, 3));

    client.write_at(&file, 3, b"two").await.unwrap();
    client.setattr_behind(ino, times).await.unwrap();
    let cut = AttrChanges { size: Some(2), ..AttrChanges::default() };
    let attr = client.setattr_behind(ino, cut).await.unwrap();
    assert!(attr.mtime > past && attr.size == 2 && there().mtime == attr.mtime && there().size == 2);

    client.write_at(&file, 2, b"three").await.unwrap();
    client.setattr_behind(ino, mode(0o604)).await.unwrap();
    client.setattr(ino, mode(0o444)).await.unwrap();
    assert_eq!((there().mode, there().size), (0o444, 7));

    client.write_at(&file, 7, b"four").await.unwrap();
    client.setattr_behind(ino, times).await.unwrap();
    assert_eq!(client.getattr(ino).await.unwrap().mtime, past);
    client.write_at(&file, 11, b"five").await.unwrap();
    let written = client.getattr(ino).await.unwrap().mtime;
    assert!(written > past);
    client.fsync(&file).await.unwrap();
    assert!(there().mtime >= written && there().size == 15);

    client.write_at(&file, 15, b"six").await.unwrap();
    client.setattr_behind(ino, mode(0o606)).await.unwrap();
    until("what is old to be told", || there().mode == 0o606 && there().size == 18).await;

    client.write_at(&file, 18, b"seven").await.unwrap();
    client.setattr_behind(ino, mode(0o600)).await.unwrap();
    client.link(ino, Ino::ROOT, name("g")).await.unwrap();
    assert_eq!((there().mode, there().size), (0o600, 23), "a new name shows old attributes");
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// An answer that was given before a report and comes after it does not bring the old size back, even when nothing
/// else is kept of the file any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_answer_does_not_hide_a_report() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config();
    config.flush_age = Duration::from_millis(100);
    // The question is not to be asked again.
    config.attempt_timeout = Duration::from_secs(15);
    let client = cluster.client_with(config).await;
    for (nth, by_name) in [false, true].into_iter().enumerate() {
        let entry = format!("f{nth}");
        let file = client.create_path(entry.as_bytes(), 0o600, read_write()).await.unwrap();
        let ino = file.ino();
        client.write_at(&file, 0, b"hello").await.unwrap();
        let held = cluster.namespace.held_looks.write().await;
        let asking = {
            let client = client.clone();
            tokio::spawn(async move {
                if by_name { client.lookup(Ino::ROOT, name(&entry)).await } else { client.getattr(ino).await }
            })
        };
        until("the question", || cluster.namespace.looks_under_way.load(Ordering::SeqCst) == 1).await;
        client.fsync(&file).await.unwrap();
        client.release(file).await.unwrap();
        // Age has files looked after, and forgotten: these two show that it has come round.
        for other in ["x", "y"] {
            let other = name(&format!("{other}{nth}"));
            let other = client.create(Ino::ROOT, other, NEW, true, read_write()).await.unwrap().file;
            client.write_at(&other, 0, b"x").await.unwrap();
            until("age", || cluster.namespace.size_of(other.ino()) == 1).await;
            client.release(other).await.unwrap();
        }
        drop(held);
        let attr = asking.await.unwrap().unwrap();
        assert_eq!(attr.size, 5, "by name: {by_name}");
    }
    client.shutdown().await.unwrap();
}

/// A hole costs a few calls however long it is; what lies behind it is found, and punching the rest of the file
/// touches what exists only.
#[tokio::test(flavor = "multi_thread")]
async fn long_holes_cost_a_few_calls() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let largest = wire::chunk::MAX_FILE_BYTES;
    for (path, size) in [(b"terabyte", 1 << 40), (b"greatest", largest)] {
        let file = client.create_path(path, 0o600, read_write()).await.unwrap();
        client.write_at(&file, 5000, b"in front").await.unwrap();
        client.write_at(&file, size - 10_000, b"far away").await.unwrap();
        let longer = AttrChanges { size: Some(size), ..AttrChanges::default() };
        client.setattr(file.ino(), longer).await.unwrap();
        let calls = client.metrics().brick_calls;
        assert_eq!(client.seek_data(&file, 0).await.unwrap(), 4096);
        assert_eq!(client.seek_hole(&file, 4096).await.unwrap(), 5008);
        let far = (size - 10_000) / 4096 * 4096;
        assert_eq!(client.seek_data(&file, 8192).await.unwrap(), far);
        assert_eq!(client.seek_data(&file, size / 2 + 77).await.unwrap(), far);
        assert_eq!(client.seek_hole(&file, size / 2 + 77).await.unwrap(), size / 2 + 77);
        assert!(client.seek_hole(&file, far).await.unwrap() <= size);
        assert!(client.seek_data(&file, size - 1000).await.is_err());
        client.fallocate(&file, FallocateMode::PunchHole, 100_000, size - 100_000).await.unwrap();
        assert!(client.seek_data(&file, 8192).await.is_err());
        assert_eq!(client.seek_hole(&file, 8192).await.unwrap(), 8192);
        assert_eq!(client.seek_data(&file, 0).await.unwrap(), 4096);
        let calls = client.metrics().brick_calls - calls;
        assert!(calls < 100, "{calls} calls");
        client.release(file).await.unwrap();
    }
    client.shutdown().await.unwrap();
}

/// Data and holes of a file of every kind of chunk: whole, in part, punched empty, missing.
#[tokio::test(flavor = "multi_thread")]
async fn data_and_holes_alternate_as_written() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let mib = 1u64 << 20;
    // Runs of data in units of a block; chunks are of 1 MiB.
    let runs = [(0, 3 * mib), (4 * mib + 8192, 4 * mib + 12288), (7 * mib, 9 * mib), (40 * mib, 70 * mib)];
    for (from, to) in runs {
        client.write_at(&file, from, &vec![1; (to - from) as usize]).await.unwrap();
    }
    client.write_at(&file, 5 * mib, &vec![1; mib as usize]).await.unwrap();
    client.fallocate(&file, FallocateMode::PunchHole, 5 * mib, mib).await.unwrap();
    let longer = AttrChanges { size: Some(99 * mib), ..AttrChanges::default() };
    client.setattr(file.ino(), longer).await.unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(data) = client.seek_data(&file, at).await {
        let hole = client.seek_hole(&file, data).await.unwrap();
        found.push((data, hole));
        at = hole;
    }
    assert_eq!(found, runs);
    assert_eq!(client.seek_hole(&file, 60 * mib).await.unwrap(), 70 * mib);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Data idles in memory for a second or so, then bricks have it; some seconds later it is
/// durable, without anybody asking.
#[tokio::test(flavor = "multi_thread")]
async fn old_data_is_sent_reported_and_committed() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config();
    config.flush_age = Duration::from_millis(300);
    config.commit_age = Duration::from_millis(600);
    let client = cluster.client_with(config).await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    client.write_at(&file, 0, b"hello").await.unwrap();
    assert_eq!(cluster.world.changes.load(Ordering::Relaxed), 0);
    until("the bricks to have it", || cluster.world.changes.load(Ordering::Relaxed) == 1).await;
    until("the size to be told", || cluster.namespace.size_of(file.ino()) == 5).await;
    until("a commit", || cluster.world.commits.load(Ordering::Relaxed) >= 2).await;
    until("nothing to be kept", || client.metrics().uncommitted_bytes_now == 0).await;
    let layout = cluster.namespace.attr_of(file.ino()).layout;
    assert_eq!(cluster.world.durable_file(file.ino(), &layout, 5), b"hello");
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Small writes in a row go out as one piece.
#[tokio::test(flavor = "multi_thread")]
async fn small_writes_are_gathered() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let data = pattern(1, 3 << 20);
    for (nth, part) in data.chunks(4096).enumerate() {
        client.write_at(&file, nth as u64 * 4096, part).await.unwrap();
    }
    client.fsync(&file).await.unwrap();
    assert_eq!(cluster.world.changes.load(Ordering::Relaxed), 3);
    assert!(client.read_at(&file, 0, 4 << 20).await.unwrap() == data);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// Never more than the window is on its way, and writers get through all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_never_exceeded() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config();
    config.window_bytes = 4 << 20;
    config.uncommitted_bytes = 4 << 20;
    let client = cluster.client_with(config).await;
    cluster.world.fault(|_, _| Some(Fault::Slow(Duration::from_millis(3))));
    let mut writers = tokio::task::JoinSet::new();
    for nth in 0..4u64 {
        let client = client.clone();
        writers.spawn(async move {
            let path = format!("f{nth}");
            let file = client.create_path(path.as_bytes(), 0o600, read_write()).await.unwrap();
            let data = pattern(nth, 8 << 20);
            for (at, part) in data.chunks(300_000).enumerate() {
                client.write_at(&file, at as u64 * 300_000, part).await.unwrap();
                // Twice the limit, and what may be on its way at that moment.
                assert!(client.metrics().uncommitted_bytes_now <= (8 << 20) + (5 << 20));
            }
            client.fsync(&file).await.unwrap();
            assert!(client.read_at(&file, 0, 16 << 20).await.unwrap() == data);
            client.release(file).await.unwrap();
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let most = cluster.world.most_changing_bytes.load(Ordering::SeqCst);
    assert!(most <= 4 << 20, "{most} bytes were on their way");
    assert!(most > 1 << 20, "writes did not overlap");
    client.shutdown().await.unwrap();
}

/// Writes over the same bytes arrive in their order, however slow the bricks are.
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_writes_keep_their_order() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let turn = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    cluster.world.fault(move |_, _| {
        // Every other call overtakes the one before it.
        let slow = turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        Some(Fault::Slow(Duration::from_millis(if slow { 30 } else { 1 })))
    });
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let mut model = vec![0; 1 << 20];
    for nth in 0..30u64 {
        let data = pattern(nth, 600_000);
        let offset = (nth * 50_000 % 400_000) as usize;
        client.write_at(&file, offset as u64, &data).await.unwrap();
        model[offset..offset + data.len()].copy_from_slice(&data);
        if nth % 3 == 0 {
            // Sends what is there, without waiting.
            let flush = client.flush(&file);
            let _ = tokio::time::timeout(Duration::from_millis(2), flush).await;
        }
    }
    client.fsync(&file).await.unwrap();
    assert_eq!(cluster.world.overlaps.load(Ordering::Relaxed), 0);
    cluster.world.heal();
    let ino = file.ino();
    let size = client.getattr(ino).await.unwrap().size as usize;
    let layout = cluster.namespace.attr_of(ino).layout;
    assert!(cluster.world.durable_file(ino, &layout, size as u64) == model[..size]);
    client.release(file).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A sequential reader is read ahead for, and never sees bytes that were overwritten since.
#[tokio::test(flavor = "multi_thread")]
async fn reads_ahead_never_show_old_bytes() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"f", 0o600, read_write()).await.unwrap();
    let mut model = pattern(7, 8 << 20);
    client.write_at(&file, 0, &model).await.unwrap();
    client.fsync(&file).await.unwrap();
    let reader = client.open(file.ino(), OpenOptions::read_only()).await.unwrap();
    const STEP: usize = 128 << 10;
    for (nth, at) in (0..model.len()).step_by(STEP).enumerate() {
        let data = client.read_at(&reader, at as u64, STEP).await.unwrap();
        assert!(data == model[at..at + STEP], "at {at}");
        if nth % 5 == 4 {
            // Well within what has been read ahead by now.
            let place = (at + 2 * STEP + 1000).min(model.len() - 5000);
            let new = pattern(nth as u64 + 100, 5000);
            client.write_at(&file, place as u64, &new).await.unwrap();
            model[place..place + 5000].copy_from_slice(&new);
            if nth % 2 == 0 {
                client.flush(&file).await.unwrap();
            }
        }
    }
    let metrics = client.metrics();
    assert!(metrics.readahead_pieces > 0, "nothing was read ahead");
    assert!(metrics.read_memory_bytes > 0);
    client.release(file).await.unwrap();
    client.release(reader).await.unwrap();
    client.shutdown().await.unwrap();
}

/// A file's new name is not given before its data is durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_rename_waits_for_its_data() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let dir = client.mkdir(Ino::ROOT, name("dir"), NEW).await.unwrap();
    for how in ["rename", "link", "directory"] {
        let made = client.create(dir.ino, name("new"), NEW, true, read_write()).await.unwrap();
        let data = pattern(3, 100_000);
        client.write_at(&made.file, 0, &data).await.unwrap();
        let ino = made.file.ino();
        client.release(made.file).await.unwrap();
        let layout = cluster.namespace.attr_of(ino).layout;
        assert!(
            cluster.world.durable_file(ino, &layout, 100_000) != data,
            "durable too early to prove anything"
        );
        match how {
            "rename" => {
                client.rename(dir.ino, name("new"), dir.ino, name("old"), RenameMode::Replace).await.unwrap()
            }
            "link" => drop(client.link(ino, dir.ino, name("other")).await.unwrap()),
            _ => client
                .rename(Ino::ROOT, name("dir"), Ino::ROOT, name("dir2"), RenameMode::Replace)
                .await
                .unwrap(),
        }
        assert!(cluster.world.durable_file(ino, &layout, 100_000) == data, "{how}");
        let _ = client.unlink(dir.ino, name("new")).await;
    }
    let log = cluster.namespace.log.lock().unwrap().clone();
    assert!(log.iter().any(|r| matches!(r, FsRequest::Rename { .. })));
    client.shutdown().await.unwrap();
}

/// Direct writes are with the bricks and synchronous ones durable when they return.
#[tokio::test(flavor = "multi_thread")]
async fn direct_and_synchronous_writes() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let mut options = read_write();
    options.direct = true;
    let direct = client.create_path(b"direct", 0o600, options).await.unwrap();
    client.write_at(&direct, 0, &[1; 4096]).await.unwrap();
    assert_eq!(cluster.world.changes.load(Ordering::Relaxed), 1);
    options.direct = false;
    options.sync = brickyard_fs_client::SyncMode::Each;
    let sync = client.create_path(b"sync", 0o600, options).await.unwrap();
    client.write_at(&sync, 0, &[2; 100]).await.unwrap();
    let attr = cluster.namespace.attr_of(sync.ino());
    assert_eq!(attr.size, 100);
    assert_eq!(cluster.world.durable_file(sync.ino(), &attr.layout, 100), [2; 100]);
    client.release(direct).await.unwrap();
    client.release(sync).await.unwrap();
    client.shutdown().await.unwrap();
}
