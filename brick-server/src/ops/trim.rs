//! The namespace shortens or removes a file: what is beyond goes, durably.
//!
//! 1. What was answered is for good: a brick that has not compared its copies since it came up
//!    trims nothing yet, or a fellow that still has the chunk would give it back
//!    (`a_trim_waits_for_the_comparison`).
//! 2. A session that was blocked before the trim writes nothing after it
//!    (`a_trim_comes_with_its_map`).

use std::time::Duration;

use tokio::time::Instant;
use wire::brick::{BrickReply, ChainRef};
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

/// Leaves nothing of the file beyond `size` on this brick.
///
/// # Errors
/// As a status; repeating it does no harm. [`Status::Busy`] while the brick compares its copies,
/// [`Status::MapBehind`] if the caller's map can't be had.
pub async fn trim(
    brick: &Brick,
    map: MapEpoch,
    ino: Ino,
    chunk_bytes: u32,
    size: u64,
) -> Result<BrickReply, Status> {
    if !(MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&chunk_bytes) {
        return Err(Status::Malformed);
    }
    brick.need_map(map).await?;
    compared(brick).await?;
    // A call that its caller has given up must not come after a later one: in turn, by file.
    // No file has a chunk of this number.
    let _turn = brick.alone(ChunkKey { ino, index: u64::MAX }).await?;
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
