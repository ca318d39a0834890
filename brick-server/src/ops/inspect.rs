//! Questions about chunks: where data is, which there are, whether they are good.

use wire::brick::{BrickReply, ChainRef, ChunkSummary};
use wire::chunk::{BLOCK_BYTES, ChunkKey};
use wire::id::{ChainId, MapEpoch};
use wire::net::Role;
use wire::status::Status;

use crate::brick::Brick;
use crate::chain::rules::Wish;
use crate::config::LIST_MAX;
use crate::store::Header;

/// A chunk as others compare it.
pub fn summary(key: ChunkKey, header: &Header) -> ChunkSummary {
    ChunkSummary {
        key,
        chain: header.chain,
        version: header.version,
        len: header.len,
        allocated_bytes: header.blocks * BLOCK_BYTES,
        digest: header.digest,
    }
}

/// Where a chunk holds data.
///
/// # Errors
/// As a status.
pub async fn extents(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    key: ChunkKey,
    role: Role,
) -> Result<BrickReply, Status> {
    if role == Role::Brick {
        // Another member that makes a whole copy of it.
        brick.admit(map, chain, Wish::Look).await?;
        crate::brick::lock(&brick.copied).mark(key);
        let (header, extents) = brick.disk(move |store| store.extents(key)).await?;
        return Ok(BrickReply::Extents { len: header.map_or(0, |h| h.len), extents });
    }
    brick.admit(map, chain, Wish::Read).await?;
    let _gate = brick.shared(key).await?;
    brick.admit_now(chain, Wish::Read)?;
    let (header, extents) = brick.disk(move |store| store.extents(key)).await?;
    Ok(BrickReply::Extents { len: header.map_or(0, |h| h.len), extents })
}

/// Chunks in order of key.
///
/// # Errors
/// As a status.
pub async fn list(
    brick: &Brick,
    chain: Option<ChainId>,
    after: Option<ChunkKey>,
    max: u32,
) -> Result<BrickReply, Status> {
    let max = max.clamp(1, LIST_MAX) as usize;
    let (found, end) = brick.disk(move |store| store.list(chain, after, max)).await?;
    Ok(BrickReply::Chunks { chunks: found.iter().map(|(key, header)| summary(*key, header)).collect(), end })
}

/// Reads a chunk whole against its checksums.
///
/// # Errors
/// As a status.
pub async fn verify(brick: &Brick, key: ChunkKey) -> Result<BrickReply, Status> {
    let (hash, corrupt_blocks) = brick.disk(move |store| store.verify(key)).await?;
    Ok(BrickReply::Verified { hash, corrupt_blocks })
}
