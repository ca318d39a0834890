//! The namespace shortens or removes a file: what is beyond goes, durably.
//!
//! 1. What was answered is for good: a brick that has not compared its copies since it came up
//!    trims nothing yet, or a fellow that still has the chunk would give it back
//!    (`a_trim_waits_for_the_comparison`).
//! 2. A session that was blocked before the trim writes nothing after it
//!    (`a_trim_comes_with_its_map`).
//! 3. A trim that its caller has given up does nothing once a later one of the same file has come: when that is answered the file may be
//!    written again (`an_older_trim_takes_nothing`).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::brick::{BrickReply, ChainRef, TrimOrder};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES};
use wire::id::{ChunkVersion, Ino, MapEpoch};
use wire::status::Status;

use crate::brick::{Brick, Place, lock};
use crate::config::TRIM_PAGE;
use crate::error::status_of;
use crate::ops::{copy, repair};
use crate::store::{Shrunk, StoreError};

/// Longest wait for a comparison under way; the namespace asks again later.
const COMPARED_WAIT: Duration = Duration::from_secs(2);
/// Pause between two looks whether it is through.
const COMPARED_PAUSE: Duration = Duration::from_millis(25);
/// So long it is remembered which order came last: longer than any can be on its way.
const ORDERS_KEPT: Duration = Duration::from_secs(120);
/// Fewer are not looked through for what may be forgotten.
const FEW_ORDERS: usize = 1024;

/// The last order to trim each file.
#[derive(Debug, Default)]
pub struct Orders {
    last: BTreeMap<Ino, (TrimOrder, Instant)>,
    look_at: usize,
}

impl Orders {
    /// An order has come. Whether no later one had.
    fn came(&mut self, ino: Ino, order: TrimOrder, now: Instant) -> bool {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < ORDERS_KEPT;
        if self.last.len() >= self.look_at.max(FEW_ORDERS) {
            self.last.retain(|_, (_, at)| is_fresh(*at));
            self.look_at = 2 * self.last.len();
        }
        if self.last.get(&ino).is_some_and(|(last, at)| *last > order && is_fresh(*at)) {
            return false;
        }
        self.last.insert(ino, (order, now));
        true
    }

    fn is_last(&self, ino: Ino, order: TrimOrder) -> bool {
        self.last.get(&ino).is_none_or(|(last, _)| *last <= order)
    }
}

/// Leaves nothing of the file beyond `size` on this brick.
///
/// # Errors
/// As a status; repeating it does no harm. [`Status::Busy`] while the brick compares its copies, or if a later order has come;
/// [`Status::MapBehind`] if the caller's map can't be had.
pub async fn trim(
    brick: &Brick,
    map: MapEpoch,
    order: TrimOrder,
    ino: Ino,
    chunk_bytes: u32,
    size: u64,
) -> Result<BrickReply, Status> {
    if !(MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&chunk_bytes) {
        return Err(Status::Malformed);
    }
    if !lock(&brick.trims).came(ino, order, Instant::now()) {
        return Err(Status::Busy);
    }
    brick.need_map(map).await?;
    compared(brick).await?;
    // One after the other, by file. No file has a chunk of this number.
    let _turn = brick.alone(ChunkKey { ino, index: u64::MAX }).await?;
    if !lock(&brick.trims).is_last(ino, order) {
        return Err(Status::Busy);
    }
    let first = ChunkKey { ino, index: size / u64::from(chunk_bytes) };
    let inside = (size % u64::from(chunk_bytes)) as u32;
    let mut after = copy::before(first);
    let (mut freed_bytes, mut cut_chunks) = (0, 0);
    loop {
        let (page, end) = brick.disk(move |store| store.list(None, after, TRIM_PAGE)).await?;
        for (key, _) in &page {
            if key.ino != ino {
                break;
            }
            let cut = (*key == first && inside > 0).then_some(inside);
            if let Some(freed) = one(brick, *key, cut).await? {
                freed_bytes += freed;
                cut_chunks += 1;
            }
        }
        after = page.last().map(|(key, _)| *key);
        if end || after.is_none_or(|key| key.ino != ino) {
            break;
        }
    }
    brick.commit().await?;
    Ok(BrickReply::Trimmed { freed_bytes, cut_chunks })
}

/// Waits until the brick is sure of its copies wherever it serves. Where it does not serve,
/// those of the head count anyway.
async fn compared(brick: &Brick) -> Result<(), Status> {
    let begun = Instant::now();
    while !brick.is_sure() {
        if begun.elapsed() >= COMPARED_WAIT {
            return Err(Status::Busy);
        }
        tokio::time::sleep(COMPARED_PAUSE).await;
    }
    Ok(())
}

/// Cuts or removes one chunk. Returns the bytes that became free, if there was anything to cut.
async fn one(brick: &Brick, key: ChunkKey, cut: Option<u32>) -> Result<Option<u64>, Status> {
    let _gate = brick.alone(key).await?;
    let shrunk = match cut {
        Some(len) => shorten(brick, key, len).await?,
        None => brick.disk(move |store| store.remove(key, ChunkVersion(u64::MAX))).await?,
    };
    let Some(Shrunk { before, freed_blocks }) = shrunk else { return Ok(None) };
    lock(&brick.lineages).cut(key, cut.unwrap_or(0), before.version, Instant::now());
    brick.metrics.trimmed_chunks.add(1);
    if lock(&brick.copied).take(key) || cut.is_some() {
        // Another member may have got a copy after it was trimmed there.
        brick.pending.add_trimmed(brick, key, before.chain, before.version);
    }
    Ok(Some(u64::from(freed_blocks) * u64::from(BLOCK_BYTES)))
}

async fn shorten(brick: &Brick, key: ChunkKey, len: u32) -> Result<Option<Shrunk>, Status> {
    let attempt = || brick.on_disk(move |store| store.cut(key, len));
    match attempt().await? {
        Err(StoreError::Corrupt { version, blocks, .. }) => {
            let Some(header) = brick.chunk(key).await? else { return Ok(None) };
            let map = brick.map();
            let Some(chain) = map.chains.get(&header.chain) else { return Err(Status::Corrupt) };
            let place = Place { chain: ChainRef { id: chain.id, epoch: chain.epoch }, map: map.clone() };
            repair::blocks(brick, &place, key, version, &blocks).await?;
        }
        Err(StoreError::NoSpace) => brick.commit().await?,
        other => return other.map_err(|e| status_of(&e)),
    }
    attempt().await?.map_err(|e| status_of(&e))
}

/// Tells another member that a chunk which was trimmed here is gone, or what is left of it.
///
/// # Errors
/// As a status.
pub async fn tell(brick: &Brick, place: &Place, key: ChunkKey, version: ChunkVersion) -> Result<(), Status> {
    let _gate = brick.alone(key).await?;
    if brick.chunk(key).await?.is_some() {
        return Ok(());
    }
    for to in place.others(brick.id)? {
        copy::drop_there(brick, place, key, to, version).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule 3; and what was long ago is forgotten, so that a clock that was set back keeps nothing from being trimmed for long.
    #[test]
    fn the_last_order_counts() {
        let (mut orders, start) = (Orders::default(), Instant::now());
        let order = |term, number| TrimOrder { term, number };
        let (one, other) = (Ino(1), Ino(2));
        assert!(orders.came(one, order(1, 5), start));
        assert!(orders.came(one, order(1, 5), start), "the same one again");
        assert!(!orders.came(one, order(1, 4), start) && orders.came(other, order(1, 4), start));
        assert!(orders.came(one, order(2, 1), start), "of another leader");
        assert!(!orders.is_last(one, order(1, 5)) && orders.is_last(one, order(2, 1)));
        assert!(!orders.came(one, order(1, 9), start + ORDERS_KEPT / 2));
        assert!(orders.came(one, order(1, 9), start + ORDERS_KEPT));
        for ino in 0..3 * FEW_ORDERS as u64 {
            assert!(orders.came(Ino(100 + ino), order(1, 1), start));
        }
        assert!(orders.came(one, order(1, 10), start + 3 * ORDERS_KEPT));
        assert!(orders.last.len() <= 3 * FEW_ORDERS + 3);
    }
}
