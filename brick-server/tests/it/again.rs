//! What is sent again after bricks have restarted: nothing is lost by that, and nothing undone.

use proptest::test_runner::{Config, TestRunner};
use proptest::{prelude::*, sample::subsequence};
use wire::brick::{Again, Change};
use wire::chunk::ChunkKey;
use wire::map::MemberState::{Offline, Serving, Syncing};
use wire::net::CallError;
use wire::status::Status;

use crate::support::{CHAIN, Cluster, key};

const K: fn() -> ChunkKey = || key(1, 0);

/// A change that somebody made and has not made durable.
#[derive(Debug, Clone)]
struct Sent {
    change: Change,
    data: Vec<u8>,
    again: Again,
}

impl Sent {
    async fn first(cluster: &Cluster, change: Change, data: &[u8]) -> Sent {
        let (version, _, took) = cluster.change(K(), change, data).await;
        Sent { change, data: data.to_vec(), again: Again { version, first: version, took } }
    }

    async fn write(cluster: &Cluster, offset: u32, data: &[u8]) -> Sent {
        Sent::first(cluster, Change::Write { offset }, data).await
    }

    async fn again(&mut self, cluster: &Cluster) {
        let (version, _, took) =
            cluster.change_again(K(), self.change, &self.data, Some(self.again.clone())).await;
        self.again = Again { version, first: self.again.first, took };
    }
}

impl Cluster {
    /// Kills these and starts them again.
    async fn restart(&mut self, bricks: &[u32]) {
        for brick in bricks {
            self.crash(*brick).await;
        }
        for brick in bricks {
            self.up(*brick).await;
        }
        self.until_readable(&[0, 1]).await;
    }

    async fn commit_all(&self) {
        for brick in [0, 1] {
            self.commit(brick).await;
        }
    }

    async fn expect(&self, wanted: &[u8]) {
        for brick in [0, 1] {
            assert_eq!(self.read(brick, K(), 0, wanted.len() as u32).await, wanted, "at brick {brick}");
        }
        self.until_equal(0, 1).await;
    }
}

/// One of two has lost nothing, or what was lost is durable with what came later: the older bytes do not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_not_undone() {
    for restarted in [&[0][..], &[1], &[0, 1]] {
        let mut cluster = Cluster::pair().await;
        let mut older = Sent::write(&cluster, 0, b"older").await;
        cluster.write(K(), 0, b"newer").await;
        cluster.commit_all().await;
        cluster.restart(restarted).await;
        older.again(&cluster).await;
        cluster.expect(b"newer").await;
        cluster.write(K(), 0, b"newest").await;
        older.again(&cluster).await;
        cluster.expect(b"newest").await;
    }
}

/// The file was removed from the brick, and is written anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_does_not_come_back() {
    for restarted in [&[0][..], &[1], &[0, 1]] {
        let mut cluster = Cluster::pair().await;
        for _ in 0..3 {
            cluster.write(K(), 0, b"first").await;
        }
        let mut older = Sent::write(&cluster, 0, b"older bytes").await;
        for brick in [0, 1] {
            cluster.trim(brick, K().ino.0, 0).await;
        }
        cluster.write(K(), 0, b"new").await;
        cluster.commit_all().await;
        cluster.restart(restarted).await;
        older.again(&cluster).await;
        cluster.expect(b"new").await;
    }
}

/// What all have lost comes back, beneath what was written since, and in the order in which it was written first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_comes_back_beneath() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut cluster = Cluster::pair().await;
        cluster.write(K(), 0, b"----------").await;
        cluster.commit_all().await;
        let mut sent = [
            Sent::write(&cluster, 0, b"aaaaaa").await,
            Sent::write(&cluster, 4, b"bbbb").await,
            Sent::first(&cluster, Change::Punch { offset: 5, len: 2 }, b"").await,
        ];
        cluster.restart(&[0, 1]).await;
        cluster.expect(b"----------").await;
        cluster.write(K(), 2, b"NN").await;
        for one in order {
            sent[one].again(&cluster).await;
        }
        cluster.expect(b"aaNNb\0\0b--").await;
        for one in order {
            sent[one].again(&cluster).await;
        }
        cluster.expect(b"aaNNb\0\0b--").await;
    }
}

/// All have lost it, others brought the head as far again, a member was given that whole and took over: it has not what was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_does_not_have_what_its_giver_lost() {
    let mut cluster = Cluster::pair().await;
    cluster.write(K(), 0, b"----------").await;
    cluster.commit_all().await;
    let mut sent = Sent::write(&cluster, 0, b"lost").await;
    cluster.restart(&[0, 1]).await;
    // The member misses what the head is given next, and gets it as a copy.
    cluster.crash(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Offline)]);
    for byte in 6..9 {
        cluster.write(K(), byte, b"N").await;
    }
    cluster.up(1).await;
    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Syncing)]);
    cluster.until_equal(0, 1).await;
    cluster.until_readable(&[0, 1]).await;
    cluster.namespace.set_chain(CHAIN, &[(1, Serving), (0, Serving)]);
    cluster.until_readable(&[0, 1]).await;
    sent.again(&cluster).await;
    cluster.expect(b"lost--NNN-").await;
}

/// All have lost the whole chunk, and a hole is made where it was: the hole stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_what_is_lost_stays() {
    let mut cluster = Cluster::pair().await;
    let mut older = Sent::write(&cluster, 0, &[7; 20_000]).await;
    cluster.restart(&[0, 1]).await;
    assert!(cluster.holds(0).await.is_empty());
    cluster.change(K(), Change::Punch { offset: 100, len: 10_000 }, &[]).await;
    older.again(&cluster).await;
    let mut wanted = vec![7; 20_000];
    wanted[100..10_100].fill(0);
    cluster.expect(&wanted).await;
    // Also where nothing was sent again before bricks start once more.
    cluster.change(key(2, 0), Change::Punch { offset: 100, len: 10_000 }, &[]).await;
    cluster.commit_all().await;
    cluster.restart(&[0]).await;
    cluster.restart(&[0, 1]).await;
    cluster.until_equal(0, 1).await;
    assert!(cluster.read(1, key(2, 0), 0, 20_000).await.is_empty());
}

/// Bricks are killed twice before it is sent again. Who wrote alone loses nothing; where others have made something durable in between, that
/// stays, and the one who comes late is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_two_losses_undoes_nothing() {
    for others_wrote in [false, true] {
        let mut cluster = Cluster::pair().await;
        cluster.write(K(), 0, b"----------").await;
        cluster.commit_all().await;
        let mut older = Sent::write(&cluster, 2, b"older").await;
        cluster.restart(&[0, 1]).await;
        if others_wrote {
            cluster.write(K(), 0, b"newer").await;
        }
        cluster.commit_all().await;
        cluster.restart(&[0, 1]).await;
        if others_wrote {
            let (writer, again) = (cluster.writer(), Some(older.again.clone()));
            let late = cluster.try_change_again(K(), writer, older.change, &older.data, again).await;
            assert!(matches!(late, Err(CallError::Status(Status::Overtaken))), "{late:?}");
            cluster.expect(b"newer-----").await;
        } else {
            older.again(&cluster).await;
            cluster.expect(b"--older---").await;
        }
    }
}

/// Bricks are killed, it is found to be there, and they are killed again: that it was found does not make it younger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_stays_beneath_what_came_later() {
    let mut cluster = Cluster::pair().await;
    let mut older = Sent::write(&cluster, 0, b"older bytes").await;
    cluster.write(K(), 2, b"newer").await;
    cluster.commit_all().await;
    for round in 0..3 {
        cluster.restart(&[0, 1]).await;
        cluster.write(K(), 20 + round, b"not durable").await;
        older.again(&cluster).await;
        cluster.expect(b"olnewerytes").await;
    }
}

/// Some write, some bricks are killed, some write again, and all send again what may be lost, in any order, while the head may change:
/// in the end it is as if nobody had been killed.
#[test]
fn laws_of_what_is_sent_again() {
    let bytes = || (0u32..24, 1usize..12);
    let case = (
        proptest::collection::vec(bytes(), 1..6),
        prop::bool::ANY,
        subsequence(vec![0u32, 1], 1..=2),
        proptest::collection::vec(bytes(), 0..3),
        prop::bool::ANY,
        Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 24, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let done = runner.run(&case, |(before, durable, restarted, after, turned, order)| {
        runtime.block_on(async {
            let mut cluster = Cluster::pair().await;
            let mut model = vec![b'-'; 40];
            cluster.write(K(), 0, &model).await;
            cluster.commit_all().await;
            let mut sent = Vec::new();
            for (number, (offset, len)) in before.iter().enumerate() {
                let data = vec![b'a' + number as u8; *len];
                model[*offset as usize..][..*len].copy_from_slice(&data);
                sent.push(Sent::write(&cluster, *offset, &data).await);
                if durable && number == before.len() / 2 {
                    cluster.commit_all().await;
                }
            }
            cluster.restart(&restarted).await;
            if turned {
                cluster.namespace.set_chain(CHAIN, &[(1, Serving), (0, Serving)]);
                cluster.until_readable(&[0, 1]).await;
            }
            for (number, (offset, len)) in after.iter().enumerate() {
                let data = vec![b'A' + number as u8; *len];
                model[*offset as usize..][..*len].copy_from_slice(&data);
                cluster.write(K(), *offset, &data).await;
            }
            for (turn, one) in order.iter().filter(|one| **one < before.len()).enumerate() {
                sent[*one].again(&cluster).await;
                if turned && turn == 1 {
                    cluster.namespace.set_chain(CHAIN, &[(0, Serving), (1, Serving)]);
                    cluster.until_readable(&[0, 1]).await;
                }
            }
            cluster.expect(&model).await;
        });
        Ok(())
    });
    done.unwrap();
}
