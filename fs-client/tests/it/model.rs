//! Random operations on one file, compared with a plain buffer.

use std::sync::atomic::Ordering;

use brickyard_fs_client::{Error, FallocateMode};
use proptest::prelude::*;
use wire::id::BrickId;
use wire::meta::AttrChanges;

use crate::cluster::{Cluster, pattern, read_write};

const SPACE: u64 = 5 << 20;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize),
    Append(usize),
    Read(u64, usize),
    Truncate(u64),
    Punch(u64, u64),
    Zero(u64, u64, bool),
    Allocate(u64, u64, bool),
    Copy(u64, u64, u64),
    Seek(u64),
    Fsync,
    Flush,
    Restart(u32),
    Stat,
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..200, 3000usize..9000, 100_000usize..2_500_000]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SPACE, len()).prop_map(|(o, l)| Step::Write(o, l)),
        2 => len().prop_map(Step::Append),
        6 => (0..SPACE, len()).prop_map(|(o, l)| Step::Read(o, l)),
        2 => (0..SPACE).prop_map(Step::Truncate),
        2 => (0..SPACE, 1..SPACE / 2).prop_map(|(o, l)| Step::Punch(o, l)),
        1 => (0..SPACE, 1..SPACE / 2, any::<bool>()).prop_map(|(o, l, k)| Step::Zero(o, l, k)),
        1 => (0..SPACE, 1..SPACE / 2, any::<bool>()).prop_map(|(o, l, k)| Step::Allocate(o, l, k)),
        1 => (0..SPACE, 0..SPACE, 1..SPACE / 2).prop_map(|(a, b, l)| Step::Copy(a, b, l)),
        1 => (0..SPACE).prop_map(Step::Seek),
        2 => Just(Step::Fsync),
        1 => Just(Step::Flush),
        1 => (0u32..3).prop_map(Step::Restart),
        1 => Just(Step::Stat),
    ]
}

async fn run(steps: Vec<Step>) {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.create_path(b"file", 0o644, read_write()).await.unwrap();
    let mut append = read_write();
    append.append = true;
    let appender = client.open(file.ino(), append).await.unwrap();
    let mut model: Vec<u8> = Vec::new();
    let mut synced = true;
    for (nth, step) in steps.into_iter().enumerate() {
        match step {
            Step::Write(offset, len) => {
                let data = pattern(nth as u64, len);
                client.write_at(&file, offset, &data).await.unwrap();
                let end = offset as usize + len;
                model.resize(model.len().max(end), 0);
                model[offset as usize..end].copy_from_slice(&data);
                synced = false;
            }
            Step::Append(len) => {
                let data = pattern(nth as u64, len);
                client.write_at(&appender, 0, &data).await.unwrap();
                model.extend(data);
                synced = false;
            }
            Step::Read(offset, len) => {
                let data = client.read_at(&file, offset, len).await.unwrap();
                let from = (offset as usize).min(model.len());
                let to = (from + len).min(model.len());
                assert!(data == model[from..to], "step {nth}: read {offset}+{len} differs");
            }
            Step::Truncate(size) => {
                let changes = AttrChanges { size: Some(size), ..AttrChanges::default() };
                assert_eq!(client.setattr(file.ino(), changes).await.unwrap().size, size);
                model.resize(size as usize, 0);
            }
            Step::Punch(offset, len) => {
                client.fallocate(&file, FallocateMode::PunchHole, offset, len).await.unwrap();
                let from = (offset as usize).min(model.len());
                let to = ((offset + len) as usize).min(model.len());
                model[from..to].fill(0);
                synced = false;
            }
            Step::Zero(offset, len, keep_size) => {
                client.fallocate(&file, FallocateMode::ZeroRange { keep_size }, offset, len).await.unwrap();
                let end = (offset + len) as usize;
                if !keep_size {
                    model.resize(model.len().max(end), 0);
                }
                let (from, to) = ((offset as usize).min(model.len()), end.min(model.len()));
                model[from..to].fill(0);
                synced = false;
            }
            Step::Allocate(offset, len, keep_size) => {
                client.fallocate(&file, FallocateMode::Allocate { keep_size }, offset, len).await.unwrap();
                if !keep_size {
                    model.resize(model.len().max((offset + len) as usize), 0);
                }
            }
            Step::Copy(from, to, len) => {
                let copied = client.copy_range(&file, from, &file, to, len).await;
                let end = (from + len).min(model.len() as u64);
                let real = end.saturating_sub(from);
                if real > 0 && from < to + real && to < end {
                    assert_eq!(copied.unwrap_err().errno().raw_os_error(), 22);
                    continue;
                }
                assert_eq!(copied.unwrap(), real);
                if real > 0 {
                    let data = model[from as usize..end as usize].to_vec();
                    model.resize(model.len().max((to + real) as usize), 0);
                    model[to as usize..(to + real) as usize].copy_from_slice(&data);
                    synced = false;
                }
            }
            Step::Seek(offset) => {
                let data = client.seek_data(&file, offset).await;
                let rest = model.get(offset as usize..).unwrap_or_default();
                match data {
                    Ok(found) => assert!(rest[..(found - offset) as usize].iter().all(|b| *b == 0)),
                    Err(Error::NoData) => assert!(rest.iter().all(|b| *b == 0)),
                    Err(other) => panic!("{other}"),
                }
                match client.seek_hole(&file, offset).await {
                    Ok(found) => assert!(found >= offset && found <= model.len() as u64),
                    Err(Error::NoData) => assert!(offset >= model.len() as u64),
                    Err(other) => panic!("{other}"),
                }
            }
            Step::Fsync => {
                client.fsync(&file).await.unwrap();
                synced = true;
            }
            Step::Flush => {
                client.flush(&file).await.unwrap();
                assert_eq!(cluster.namespace.size_of(file.ino()), model.len() as u64);
            }
            // What it lost is sent again.
            Step::Restart(brick) => {
                client.flush(&file).await.unwrap();
                cluster.world.restart(BrickId(brick));
                client.fsync(&file).await.unwrap();
                synced = true;
            }
            Step::Stat => {
                assert_eq!(client.getattr(file.ino()).await.unwrap().size, model.len() as u64);
            }
        }
        if synced {
            let attr = cluster.namespace.attr_of(file.ino());
            assert_eq!(attr.size, model.len() as u64, "step {nth}: size after fsync");
            let durable = cluster.world.durable_file(file.ino(), &attr.layout, attr.size);
            assert!(durable == model, "step {nth}: what is durable differs");
        }
    }
    let all = client.read_at(&file, 0, 16 << 20).await.unwrap();
    assert!(all == model, "the whole differs at the end");
    assert_eq!(cluster.world.overlaps.load(Ordering::Relaxed), 0);
    client.release(file).await.unwrap();
    client.release(appender).await.unwrap();
    client.shutdown().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 60, ..ProptestConfig::default() })]
    /// Whatever is done to a file, it reads as a plain buffer would, and what fsync returned
    /// for is durable on every member.
    #[test]
    fn random_operations_equal_a_plain_buffer(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
