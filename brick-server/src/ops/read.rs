//! Reading, for clients and for other members.

use bytes::Bytes;
use wire::brick::{BrickReply, ChainRef};
use wire::chunk::{ChunkKey, MAX_IO_BYTES};
use wire::id::MapEpoch;
use wire::status::Status;

use crate::brick::Brick;
use crate::chain::rules::Wish;
use crate::error::status_of;
use crate::ops::repair;
use crate::store::StoreError;

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
    let _gate = brick.shared(key).await?;
    // Waiting for the gate may have taken long.
    let place = brick.admit_now(chain, Wish::Read)?;
    let found = match brick.on_disk(move |store| store.read(key, offset, len)).await? {
        Err(StoreError::Corrupt { version, blocks, .. }) => {
            repair::blocks(brick, &place, key, version, &blocks).await?;
            brick.disk(move |store| store.read(key, offset, len)).await?
        }
        other => other.map_err(|e| status_of(&e))?,
    };
    brick.metrics.reads.add(1);
    brick.metrics.read_bytes.add(found.data.len() as u64);
    Ok((BrickReply::Read { version: found.version }, found.data))
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
