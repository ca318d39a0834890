//! A member is given what its copy of a chunk lacks, or told to drop the chunk.
//!
//! 1. The copy changes at once and whole, and only from what the head found it to be: parts
//!    that come late, after the copy has changed, change nothing (`late_parts_change_nothing`).
//! 2. It has the digest the head named before it is shown.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::time::Instant;
use wire::brick::{BrickReply, ChainRef, ChunkSummary, Extent, Lineage, LostBlock};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_CHUNK_BYTES, MAX_IO_BYTES};
use wire::id::{ChunkVersion, MapEpoch};
use wire::map::MemberState;
use wire::status::Status;

use crate::brick::{Brick, lock, version_of};
use crate::chain::rules::Wish;
use crate::chain::runs;
use crate::config::{STAGED_CHUNKS, STAGED_FOR};
use crate::ops::assembly::Assembly;
use crate::store::{ChunkStore, Shrunk};

/// Copies of which not all parts have come.
#[derive(Debug, Default)]
pub struct Staging {
    copies: Mutex<BTreeMap<ChunkKey, Copy>>,
}

#[derive(Debug)]
struct Copy {
    base: (ChunkVersion, u64),
    since: Instant,
    assembly: Assembly,
}

impl Staging {
    /// What has come of a copy.
    fn take(&self, part: &Part) -> Option<Copy> {
        let copy = lock(&self.copies).remove(&part.to.key)?;
        (*copy.assembly.to() == part.to && copy.base == part.base).then_some(copy)
    }

    /// Keeps it until the next part; the oldest give way.
    fn put(&self, copy: Copy) {
        let mut copies = lock(&self.copies);
        copies.retain(|_, copy| copy.since.elapsed() < STAGED_FOR);
        if copies.len() >= STAGED_CHUNKS {
            let oldest = copies.iter().min_by_key(|(_, copy)| copy.since).map(|(key, _)| *key);
            oldest.and_then(|key| copies.remove(&key));
        }
        copies.insert(copy.assembly.to().key, copy);
    }
}

/// One part of what differs.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// What the chunk is to be.
    pub to: ChunkSummary,
    /// What it is now: version and digest.
    pub base: (ChunkVersion, u64),
    /// Where the part begins, in bytes.
    pub offset: u32,
    /// What it replaces, in bytes.
    pub covers: u32,
    /// Forget earlier parts.
    pub first: bool,
    /// Switch over.
    pub last: bool,
}

/// Takes a part; with the last one the chunk is the new one.
///
/// # Errors
/// [`Status::Busy`] if earlier parts are gone or the copy is another one by now: it is begun
/// anew then. [`Status::Corrupt`] if what is to stay can't be read.
pub async fn patch(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    part: Part,
    (lost, lineage): (Vec<LostBlock>, Option<Lineage>),
    payload: Bytes,
) -> Result<BrickReply, Status> {
    let end = u64::from(part.offset) + u64::from(part.covers);
    let fits = payload.len() <= MAX_IO_BYTES as usize
        && payload.len() as u64 <= u64::from(part.covers)
        && part.offset.is_multiple_of(BLOCK_BYTES)
        && end <= u64::from(MAX_CHUNK_BYTES)
        && part.to.len <= MAX_CHUNK_BYTES
        && are_in_order(&lost, part.offset, payload.len())
        && lineage.as_ref().is_none_or(|lineage| runs::are_in_order(&lineage.written));
    if !fits {
        return Err(Status::Malformed);
    }
    brick.admit(map, chain, Wish::Follow).await?;
    brick.make_room().await?;
    let key = part.to.key;
    let _gate = brick.alone(key).await?;
    let place = brick.admit_now(chain, Wish::Follow)?;
    let (now, len) =
        brick.chunk(key).await?.map_or(((ChunkVersion(0), 0), 0), |h| ((h.version, h.digest), h.len));
    let before = brick.staging.take(&part);
    if now != part.base {
        return Err(Status::Busy);
    }
    brick.given(lineage.as_ref()).await?;
    if part.first && part.last && part.covers == 0 && now.1 == part.to.digest && len == part.to.len {
        // Only the number differs: that takes no space, which a full brick does not have.
        let version = part.to.version;
        let lineages = brick.lineages.clone();
        let number = move |store: &dyn ChunkStore| {
            store.set_version(key, chain.id, version)?;
            lock(&lineages).taken(key, lineage, version, Instant::now());
            Ok(())
        };
        brick.disk_in(chain, None, number).await?;
        lock(&brick.writers).forget(key);
        return Ok(BrickReply::Done);
    }
    let begun = Copy { base: part.base, since: Instant::now(), assembly: Assembly::new(part.to) };
    let copy = match before {
        _ if part.first => begun,
        Some(copy) if copy.assembly.next() <= part.offset => copy,
        _ => return Err(Status::Busy),
    };
    lock(&brick.copied).mark(key);
    let last = part.last;
    let copy = brick
        .disk(move |store| {
            let mut copy = copy;
            copy.assembly.keep(store, part.offset)?;
            let range = Extent { offset: part.offset, len: part.covers };
            copy.assembly.take(store, range, &payload, &lost)?;
            if last {
                copy.assembly.keep(store, part.to.len)?;
            }
            Ok(copy)
        })
        .await?;
    if !last {
        brick.staging.put(copy);
        return Ok(BrickReply::Done);
    }
    if !copy.assembly.is_right() {
        tracing::warn!(brick = %brick.id, chunk = %key, "a copy did not become what it was to be");
        return Err(Status::Corrupt);
    }
    lock(&brick.writers).forget(key);
    if place.chain()?.state_of(brick.id) == Some(MemberState::Serving) {
        brick.mark(key, chain, part.to.version);
    }
    let (to, staged) = copy.assembly.done();
    let lineages = brick.lineages.clone();
    let switch = move |store: &dyn ChunkStore| {
        store.switch(key, chain.id, to.version, to.len, staged)?;
        lock(&lineages).taken(key, lineage, to.version, Instant::now());
        Ok(())
    };
    brick.disk_in(chain, None, switch).await?;
    Ok(BrickReply::Done)
}

/// Whether these are blocks of the part, one after the other.
pub fn are_in_order(lost: &[LostBlock], offset: u32, len: usize) -> bool {
    let first = offset / BLOCK_BYTES;
    let end = u64::from(first) + len.div_ceil(BLOCK_BYTES as usize) as u64;
    lost.iter().all(|lost| lost.block >= first && u64::from(lost.block) < end)
        && lost.windows(2).all(|two| two[0].block < two[1].block)
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
    lock(&brick.writers).forget(key);
    let lineages = brick.lineages.clone();
    let remove = move |store: &dyn ChunkStore| {
        let removed = store.remove(key, version)?;
        if let Some(Shrunk { before, .. }) = removed {
            let mut lineages = lock(&lineages);
            lineages.removed(before.version);
            lineages.taken(key, Some(Lineage::default()), ChunkVersion(0), Instant::now());
        }
        Ok(removed)
    };
    if brick.disk_in(chain, None, remove).await?.is_some() {
        brick.metrics.dropped_chunks.add(1);
    }
    Ok(BrickReply::Done)
}

/// What a member holds, as the base of a patch.
pub fn base_of(summary: Option<&ChunkSummary>) -> (ChunkVersion, u64) {
    summary.map_or((version_of(None), 0), |s| (s.version, s.digest))
}
