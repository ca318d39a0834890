//! Reading, for clients and for other members.

use bytes::Bytes;
use wire::brick::{BrickReply, ChainRef, Extent};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_IO_BYTES};
use wire::id::MapEpoch;
use wire::status::Status;

use crate::brick::{Brick, Place, lock};
use crate::chain::gates::Passage;
use crate::chain::rules::Wish;
use crate::error::status_of;
use crate::ops::{copy, repair, settle};
use crate::store::StoreError;

/// How often a chunk that changes all the time is looked at.
const ATTEMPTS: usize = 4;

type Answer = Result<(BrickReply, Bytes), Status>;

/// For a client: verified, repaired from another member if need be.
///
/// # Errors
/// As a status.
pub async fn read(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    key: ChunkKey,
    offset: u32,
    len: u32,
) -> Answer {
    if len > MAX_IO_BYTES {
        return Err(Status::Malformed);
    }
    brick.admit(map, chain, Wish::Read).await?;
    let (_gate, place) = clean(brick, chain, key).await?;
    let found = match brick.on_disk(move |store| store.read(key, offset, len)).await? {
        Err(StoreError::Corrupt { version, blocks, .. }) => {
            repair::blocks(brick, &place, key, version, &blocks).await?;
            brick.disk(move |store| store.read(key, offset, len)).await?
        }
        other => other.map_err(|e| status_of(&e))?,
    };
    // The disk may have taken long, and so may a process that was stopped in between.
    brick.admit_now(chain, Wish::Read)?;
    brick.metrics.reads.add(1);
    brick.metrics.read_bytes.add(found.data.len() as u64);
    Ok((BrickReply::Read { version: found.version }, found.data))
}

/// The gate of a chunk that shows nothing which other members may not show, too. A member asks
/// the head about a change that it does not know to be everywhere.
///
/// # Errors
/// [`Status::Busy`] if that is not known now: the head is to be asked then.
pub async fn clean(brick: &Brick, chain: ChainRef, key: ChunkKey) -> Result<(Passage, Place), Status> {
    for _ in 0..ATTEMPTS {
        let gate = brick.shared(key).await?;
        // Waiting for the gate may have taken long.
        let place = brick.admit_now(chain, Wish::Read)?;
        if place.chain()?.head() == Some(brick.id) {
            // What a blocked session left behind is put out of the way before anybody looks.
            if brick.pending.has_of(key, |session| place.map.blocked.contains_key(session)) {
                return Err(Status::Busy);
            }
            return Ok((gate, place));
        }
        let Some(mark) = lock(&brick.marks).find(key) else {
            settle::clear_blocked(brick, &place).await?;
            return Ok((gate, place));
        };
        // The head may want to change the chunk here before it answers.
        drop(gate);
        if settle::resolve(brick, &place, &[(key, mark)], true).await? > 0 {
            brick.metrics.unsettled_reads.add(1);
        }
    }
    Err(Status::Busy)
}

/// For another member: this copy as it is.
///
/// # Errors
/// As a status.
pub async fn read_copy(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    key: ChunkKey,
    offset: u32,
    len: u32,
) -> Answer {
    if len > MAX_IO_BYTES {
        return Err(Status::Malformed);
    }
    brick.admit(map, chain, Wish::Look).await?;
    let found = brick.disk(move |store| store.read(key, offset, len)).await?;
    Ok((BrickReply::Read { version: found.version }, found.data))
}

/// For another member: what is left of this copy, where not all of it can be read.
///
/// # Errors
/// As a status.
pub async fn read_left(brick: &Brick, map: MapEpoch, chain: ChainRef, key: ChunkKey, part: Extent) -> Answer {
    if part.len > MAX_IO_BYTES || !part.offset.is_multiple_of(BLOCK_BYTES) {
        return Err(Status::Malformed);
    }
    let place = brick.admit(map, chain, Wish::Look).await?;
    let (found, lost) = copy::read_for_copy(brick, &place, key, part).await?;
    Ok((BrickReply::Left { version: found.version, lost }, found.data))
}
