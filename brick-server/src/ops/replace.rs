//! A member is given a chunk whole, or told to drop it.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::time::Instant;
use wire::brick::{BrickReply, ChainRef};
use wire::chunk::{ChunkKey, MAX_IO_BYTES};
use wire::id::{ChunkVersion, MapEpoch};
use wire::status::Status;

use crate::brick::{Brick, lock};
use crate::chain::rules::Wish;
use crate::config::{STAGED_CHUNKS, STAGED_FOR};
use crate::store::{ChunkStore, Staged};

/// Copies of which not all parts have come.
#[derive(Debug, Default)]
pub struct Staging {
    copies: Mutex<HashMap<ChunkKey, Copy>>,
}

#[derive(Debug)]
struct Copy {
    version: ChunkVersion,
    since: Instant,
    staged: Staged,
}

impl Staging {
    /// What has come of a copy of this version.
    fn take(&self, key: ChunkKey, version: ChunkVersion) -> Option<Staged> {
        let copy = lock(&self.copies).remove(&key)?;
        (copy.version == version).then_some(copy.staged)
    }

    /// Keeps it until the next part; the oldest give way.
    fn put(&self, key: ChunkKey, version: ChunkVersion, staged: Staged) {
        let mut copies = lock(&self.copies);
        copies.retain(|_, copy| copy.since.elapsed() < STAGED_FOR);
        if copies.len() >= STAGED_CHUNKS {
            let oldest = copies.iter().min_by_key(|(_, copy)| copy.since).map(|(key, _)| *key);
            oldest.and_then(|key| copies.remove(&key));
        }
        copies.insert(key, Copy { version, since: Instant::now(), staged });
    }
}

/// One part of a chunk's whole content.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The chunk.
    pub key: ChunkKey,
    /// Its version then.
    pub version: ChunkVersion,
    /// Its length then, in bytes.
    pub len: u32,
    /// Where the payload goes, in bytes.
    pub offset: u32,
    /// Forget earlier parts.
    pub first: bool,
    /// Switch over.
    pub last: bool,
}

/// Takes a part; with the last one the chunk is the new one.
///
/// # Errors
/// [`Status::Busy`] if earlier parts are gone: the copy is begun anew then.
pub async fn replace(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    part: Part,
    payload: Bytes,
) -> Result<BrickReply, Status> {
    if payload.len() > MAX_IO_BYTES as usize {
        return Err(Status::Malformed);
    }
    brick.admit(map, chain, Wish::Follow).await?;
    brick.make_room().await?;
    let Part { key, version, len, offset, first, last } = part;
    let _gate = brick.alone(key).await?;
    brick.admit_now(chain, Wish::Follow)?;
    let before = brick.staging.take(key, version);
    let mut staged = match before {
        _ if first => Staged::new(),
        Some(staged) => staged,
        None => return Err(Status::Busy),
    };
    lock(&brick.copied).mark(key);
    let stage = move |store: &dyn ChunkStore| store.stage(&mut staged, offset, &payload).map(|()| staged);
    let staged = brick.disk(stage).await?;
    if !last {
        brick.staging.put(key, version, staged);
        return Ok(BrickReply::Done);
    }
    brick.disk(move |store| store.switch(key, chain.id, version, len, staged)).await?;
    Ok(BrickReply::Done)
}

/// Removes a chunk that the head does not have, unless it is newer.
///
/// # Errors
/// As a status.
pub async fn drop_chunk(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    key: ChunkKey,
    version: ChunkVersion,
) -> Result<BrickReply, Status> {
    brick.admit(map, chain, Wish::Look).await?;
    let _gate = brick.alone(key).await?;
    brick.admit_now(chain, Wish::Look)?;
    if brick.disk(move |store| store.remove(key, version)).await?.is_some() {
        brick.metrics.dropped_chunks.add(1);
    }
    Ok(BrickReply::Done)
}
