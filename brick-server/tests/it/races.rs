//! Many writers, kills and map changes from a seed; then everything must agree.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use wire::brick::Change;
use wire::id::BrickId;
use wire::map::MemberState::{Offline, Serving, Syncing};

use crate::support::{CHAIN, Cluster, key, until};

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Concurrent writers of one chunk, each in its own range: nothing is lost or mixed, and the
/// copies are equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_race_and_copies_agree() {
    let cluster = Arc::new(Cluster::pair().await);
    let mut writers = JoinSet::new();
    for writer in 0..8u32 {
        let cluster = cluster.clone();
        writers.spawn(async move {
            for round in 0..25u8 {
                // Ranges meet within blocks.
                cluster.write(key(1, 0), writer * 10_000, &vec![round + writer as u8; 10_000]).await;
                cluster.write(key(2, u64::from(round % 3)), writer * 200_000, &vec![round; 150_000]).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    for brick in [0, 1] {
        let read = cluster.read(brick, key(1, 0), 0, 80_000).await;
        for writer in 0..8 {
            assert!(read[writer * 10_000..(writer + 1) * 10_000].iter().all(|b| *b == 24 + writer as u8));
        }
    }
    assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
}

/// Kills, restarts and removals of members while writers go on, from a seed. What was last
/// acknowledged in each range and then committed is there, on both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_between_lose_nothing_committed() {
    let seeds = match std::env::var("BRICKYARD_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => vec![1u64, 2, 3, 4],
    };
    for seed in seeds {
        eprintln!("BRICKYARD_SEED={seed}");
        let mut state = seed;
        let mut cluster = Cluster::pair().await;
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..6 {
            for _ in 0..1 + random(&mut state) % 20 {
                let key = key(1 + random(&mut state) % 4, 0);
                let offset = (random(&mut state) % 100_000) as u32;
                let data = vec![random(&mut state) as u8; 1 + (random(&mut state) % 90_000) as usize];
                let bytes: &mut Vec<u8> = model.entry(key).or_default();
                let end = offset as usize + data.len();
                if random(&mut state).is_multiple_of(4) {
                    cluster.change(key, Change::Punch { offset, len: data.len() as u32 }, &[]).await;
                    let len = bytes.len();
                    bytes[(offset as usize).min(len)..end.min(len)].fill(0);
                } else {
                    cluster.write(key, offset, &data).await;
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[offset as usize..end].copy_from_slice(&data);
                }
            }
            // What fsync promises: durable on all members.
            for member in cluster.namespace.map().chains[&CHAIN].serving() {
                cluster.commit(member.0).await;
            }
            let victim = (random(&mut state) % 2) as u32;
            match random(&mut state) % 3 {
                0 => {
                    cluster.crash(victim).await;
                    cluster.up(victim).await;
                }
                1 => {
                    cluster.crash(0).await;
                    cluster.crash(1).await;
                    cluster.up(victim).await;
                    cluster.up(1 - victim).await;
                }
                _ => {
                    cluster.crash(victim).await;
                    cluster.namespace.set_chain(CHAIN, &[(1 - victim, Serving), (victim, Offline)]);
                    let lonely = key(1 + random(&mut state) % 4, 0);
                    cluster.write(lonely, 50, b"written while one was away").await;
                    let bytes = model.entry(lonely).or_default();
                    bytes.resize(bytes.len().max(76), 0);
                    bytes[50..76].copy_from_slice(b"written while one was away");
                    cluster.up(victim).await;
                    cluster.namespace.set_chain(CHAIN, &[(1 - victim, Serving), (victim, Syncing)]);
                    let namespace = cluster.namespace.clone();
                    until("the member serves again", || {
                        let map = namespace.map();
                        async move { map.chains[&CHAIN].state_of(BrickId(victim)) == Some(Serving) }
                    })
                    .await;
                }
            }
            cluster.until_readable(&[0, 1]).await;
            for (key, bytes) in &model {
                for brick in [0, 1] {
                    let read = cluster.read(brick, *key, 0, 1 << 20).await;
                    assert!(read == *bytes, "chunk {key} on brick {brick}, seed {seed}");
                }
            }
            assert_eq!(cluster.holds(0).await, cluster.holds(1).await);
        }
    }
}

/// Thousands of equal chunks are compared within a moment at start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_copies_are_compared_quickly() {
    let mut cluster = Cluster::pair().await;
    let shared = Arc::new(cluster);
    let mut writers = JoinSet::new();
    for writer in 0..16u64 {
        let cluster = shared.clone();
        writers.spawn(async move {
            for n in 0..250 {
                cluster.write(key(1 + n, writer), 0, b"small").await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    cluster = Arc::into_inner(shared).unwrap();
    cluster.down(0).await;
    cluster.up(0).await;
    let begun = std::time::Instant::now();
    cluster.until_readable(&[0]).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(cluster.metrics(0).pulled_chunks + cluster.metrics(0).pushed_chunks, 0);
}
