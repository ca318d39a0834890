//! Frees the chunks of chains that this brick is no member of any more: after a drain, a move of
//! the chain, or when it comes back and others have taken its place.
//!
//! Period: at the first map of a life, and when a map comes in which a chain has left the brick.
//! Budget: a page at a time, with a pause after each.
//!
//! 1. A chunk goes only by a map in which its chain exists and the brick is no member, and no
//!    newer map is taken while it goes: were the brick a member again, a chunk that it has
//!    listed as its copy would be missing later (`a_chain_that_left_is_freed`).
//! 2. That map is on the brick's disk before, and is no older than one it has seen in any life, see [`crate::memory`]: a namespace
//!    that was set back must not have it free what only it has (`tests`: `hosts_behind`).

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use wire::chunk::ChunkKey;
use wire::id::{ChainId, ChunkVersion, MapEpoch};
use wire::map::ClusterMap;
use wire::status::Status;

use crate::brick::Brick;
use crate::config::{RETRY_PAUSE, TRIM_PAGE};

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    let mut epochs = brick.maps.epochs();
    // Chains it is in; none is known before the first map.
    let mut mine: Option<BTreeSet<ChainId>> = None;
    loop {
        let map = brick.map();
        let now: BTreeSet<ChainId> = map.chains_of(brick.id).map(|c| c.id).collect();
        let left = mine.as_ref().is_none_or(|before| before.difference(&now).next().is_some());
        if left && map.epoch > MapEpoch(0) {
            let passed = tokio::select! {
                biased;
                passed = pass(&brick) => passed,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match passed {
                Ok(0) => mine = Some(now),
                Ok(freed) => {
                    tracing::info!(brick = %brick.id, chunks = freed, "freed chunks of chains it is not in any more");
                    mine = Some(now);
                }
                Err(status) => {
                    tracing::debug!(brick = %brick.id, %status, "could not free leftovers yet");
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(RETRY_PAUSE * 5) => continue,
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                }
            }
        } else {
            mine = Some(now).filter(|_| map.epoch > MapEpoch(0));
        }
        tokio::select! {
            biased;
            changed = epochs.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Looks at all chunks once. Returns how many were freed.
async fn pass(brick: &Arc<Brick>) -> Result<u64, Status> {
    let (mut after, mut freed) = (None, 0);
    loop {
        let (page, end) = brick.disk(move |store| store.list(None, after, TRIM_PAGE)).await?;
        after = page.last().map(|(key, _)| *key);
        let map = brick.map();
        if !brick.is_noted(map.epoch) {
            return Err(Status::Busy);
        }
        let mut some = false;
        for (key, header) in page {
            if is_left(&map, header.chain, brick) && one(brick, key).await? {
                freed += 1;
                some = true;
            }
        }
        if end || after.is_none() {
            return Ok(freed);
        }
        if some {
            brick.commit().await?;
            tokio::time::sleep(RETRY_PAUSE / 10).await;
        }
    }
}

/// Whether a chain of the map has others as members.
fn is_left(map: &ClusterMap, chain: ChainId, brick: &Brick) -> bool {
    map.chains.get(&chain).is_some_and(|c| c.state_of(brick.id).is_none())
}

/// Frees one chunk, if it is still of a chain that has left.
async fn one(brick: &Arc<Brick>, key: ChunkKey) -> Result<bool, Status> {
    let _gate = brick.alone(key).await?;
    let Some(header) = brick.chunk(key).await? else { return Ok(false) };
    let inner = brick.clone();
    let removed = brick
        .disk(move |store| {
            inner.maps.while_it_stands(|map| {
                if !inner.is_noted(map.epoch) {
                    Ok(Err(Status::Busy))
                } else if is_left(map, header.chain, &inner) {
                    store.remove(key, ChunkVersion(u64::MAX)).map(Ok)
                } else {
                    Ok(Ok(None))
                }
            })
        })
        .await??;
    let freed = removed.is_some();
    if freed {
        brick.metrics.dropped_chunks.add(1);
    }
    Ok(freed)
}
