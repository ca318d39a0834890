//! The scrubber reads every block against its checksum and has bad ones put right from another
//! member.
//!
//! Period: [`Config::scrub_period`](crate::Config) for the whole brick, spread evenly over it;
//! a round that was asked for goes at full pace, and takes the place of one by the clock
//! (`a_scrub_that_is_asked_for_waits_for_no_slow_one`). Budget: at most
//! [`Config::scrub_bytes_per_second`](crate::Config), and it waits while others read and write,
//! though never longer than [`PATIENCE`] for one piece.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wire::brick::{BrickReply, ChainRef, Extent, ScrubReport};
use wire::chunk::{ChunkKey, MAX_IO_BYTES};
use wire::id::ChainId;
use wire::status::Status;

use crate::brick::{Brick, Place, lock};
use crate::chain::pace::Pace;
use crate::error::status_of;
use crate::ops::repair;
use crate::store::StoreError;

/// Longest wait for others before a piece is read all the same.
const PATIENCE: Duration = Duration::from_millis(500);
/// The brick is idle when nothing was asked of it for so long.
const IDLE: Duration = Duration::from_millis(20);
/// Chunks listed at a time.
const PAGE: usize = 64;
/// Wait before a round that could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// What others may know and want of the scrubber.
#[derive(Debug, Default)]
pub struct Scrubber {
    report: Mutex<ScrubReport>,
    /// A round that was asked for is due or under way.
    hurried: AtomicBool,
    wanted: Notify,
}

impl Scrubber {
    /// How far it is.
    pub fn report(&self) -> ScrubReport {
        *lock(&self.report)
    }
}

/// Tells how far the scrubber is, and has it begin if that is wanted.
pub fn asked(brick: &Brick, begin: bool) -> BrickReply {
    let mut report = lock(&brick.scrubber.report);
    if begin && !(report.running && brick.scrubber.hurried.load(Ordering::Relaxed)) {
        // Both under the report's lock. From here on it counts as running, so that whoever asks again sees this round.
        *report = ScrubReport { running: true, rounds: report.rounds, ..ScrubReport::default() };
        brick.scrubber.hurried.store(true, Ordering::Relaxed);
        brick.scrubber.wanted.notify_one();
    }
    BrickReply::Scrub(*report)
}

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    let mut next = Instant::now() + brick.config.scrub_period;
    loop {
        let asked = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = brick.scrubber.wanted.notified() => true,
            () = tokio::time::sleep_until(next) => false,
        };
        let hurried = brick.scrubber.hurried.load(Ordering::Relaxed);
        if asked && !hurried {
            // What was asked for has been done.
            continue;
        }
        let done = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            // Who asks wants all of it read now, and not what is left of a round of weeks.
            () = brick.scrubber.wanted.notified(), if !hurried => {
                brick.scrubber.wanted.notify_one();
                continue;
            }
            done = round(&brick, hurried) => done,
        };
        let pause = match done {
            // A round by the clock has taken most of the period already.
            Ok(()) if hurried => brick.config.scrub_period,
            Ok(()) => brick.config.scrub_period / 10,
            Err(status) => {
                tracing::warn!(brick = %brick.id, %status, "scrubbing was given up and will be begun again");
                lock(&brick.scrubber.report).running = false;
                AGAIN.min(brick.config.scrub_period)
            }
        };
        next = Instant::now() + pause;
    }
}

async fn round(brick: &Brick, hurried: bool) -> Result<(), Status> {
    let total_bytes = brick.store.usage().used_bytes;
    {
        let mut report = lock(&brick.scrubber.report);
        *report = ScrubReport { running: true, total_bytes, rounds: report.rounds, ..ScrubReport::default() };
    }
    let most = brick.config.scrub_bytes_per_second.max(1);
    let evenly = total_bytes / brick.config.scrub_period.as_secs().max(1);
    let pace = Pace::new(if hurried { most } else { evenly.clamp(most.min(1 << 20), most) });
    let mut after = None;
    loop {
        let (page, end) = brick.disk(move |store| store.list(None, after, PAGE)).await?;
        for (key, header) in &page {
            chunk(brick, *key, header.chain, &pace).await?;
        }
        after = page.last().map(|(key, _)| *key).or(after);
        if end {
            break;
        }
    }
    let mut report = lock(&brick.scrubber.report);
    if !hurried && brick.scrubber.hurried.load(Ordering::Relaxed) {
        // Another one was asked for just now, and what is told is that one's.
        return Ok(());
    }
    // Both at once: who sees the round ended does not see it run.
    report.rounds += 1;
    report.running = false;
    brick.scrubber.hurried.store(false, Ordering::Relaxed);
    let ScrubReport { done_bytes, bad_chunks, lost_blocks, .. } = *report;
    drop(report);
    tracing::info!(brick = %brick.id, done_bytes, bad_chunks, lost_blocks, "scrubbed");
    Ok(())
}

/// Reads a chunk in which somebody found bad blocks, now.
///
/// # Errors
/// As a status.
pub async fn put_right(brick: &Brick, key: ChunkKey, chain: ChainId) -> Result<(), Status> {
    chunk(brick, key, chain, &Pace::new(brick.config.scrub_bytes_per_second.max(1))).await
}

async fn chunk(brick: &Brick, key: ChunkKey, chain: ChainId, pace: &Pace) -> Result<(), Status> {
    let (_, extents) = brick.disk(move |store| store.extents(key)).await?;
    let (mut bad, mut lost) = (0, 0);
    for Extent { offset, len } in extents {
        for offset in (offset..offset + len).step_by(MAX_IO_BYTES as usize) {
            let piece = MAX_IO_BYTES.min(len);
            wait_for_others(brick).await;
            let gate = brick.shared(key).await?;
            let found = brick.on_disk(move |store| store.read(key, offset, piece)).await?;
            match found {
                Ok(_) => {}
                Err(StoreError::Corrupt { version, blocks, .. }) => {
                    bad += blocks.len() as u64;
                    let repaired = match place(brick, chain) {
                        Some(place) => repair::blocks(brick, &place, key, version, &blocks).await,
                        None => Err(Status::Corrupt),
                    };
                    match repaired {
                        Ok(()) => {}
                        Err(Status::Corrupt) => lost += left(brick, key, offset, piece).await?,
                        Err(status) => {
                            tracing::warn!(brick = %brick.id, chunk = %key, ?blocks, %status,
                                "bad blocks could not be put right now");
                            lost += blocks.len() as u64;
                        }
                    }
                }
                Err(error) => return Err(status_of(&error)),
            }
            drop(gate);
            brick.metrics.scrubbed_bytes.add(piece.into());
            lock(&brick.scrubber.report).done_bytes += u64::from(piece);
            pace.passed(piece.into()).await;
        }
    }
    if bad > 0 {
        let mut report = lock(&brick.scrubber.report);
        report.bad_chunks += 1;
        report.lost_blocks += lost;
    }
    Ok(())
}

/// Bad blocks that are left of a piece.
async fn left(brick: &Brick, key: ChunkKey, offset: u32, len: u32) -> Result<u64, Status> {
    let (_, lost) = brick.disk(move |store| store.read_what_is_left(key, offset, len)).await?;
    Ok(lost.len() as u64)
}

/// The chain of a chunk as it is now.
fn place(brick: &Brick, chain: ChainId) -> Option<Place> {
    let map = brick.map();
    let epoch = map.chains.get(&chain)?.epoch;
    Some(Place { map, chain: ChainRef { id: chain, epoch } })
}

/// Returns when nobody asked anything of the brick for a moment, or patience is at its end.
async fn wait_for_others(brick: &Brick) {
    let asked = || {
        let metrics = &brick.metrics;
        metrics.reads.get() + metrics.changes.get() + metrics.forwards.get()
    };
    let begun = Instant::now();
    let mut before = asked();
    while begun.elapsed() < PATIENCE {
        tokio::time::sleep(IDLE).await;
        let now = asked();
        if now == before {
            return;
        }
        before = now;
    }
}
