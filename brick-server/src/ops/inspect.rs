//! Questions about chunks: where data is, which there are, whether they are good.

use tokio::time::Instant;
use wire::brick::{BrickReply, ChainRef, ChunkSummary};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_CHUNK_BYTES};
use wire::id::{ChainId, Ino, MapEpoch};
use wire::status::Status;

use crate::background::scrub;
use crate::brick::{Brick, lock, version_of};
use crate::chain::rules::Wish;
use crate::config::{LIST_MAX, MARKS_A_CALL};
use crate::ops::{copy, read, settle};
use crate::store::{ChunkStore, Header, PIECE_BYTES, StoreError};

/// Chunks taken from the store at a time when those of one file are listed: behind its last one
/// begin other files, which are read for nothing.
const FILE_PAGE: usize = 256;

/// A chunk as others compare it.
pub fn summary(key: ChunkKey, header: &Header) -> ChunkSummary {
    ChunkSummary {
        key,
        chain: header.chain,
        version: header.version,
        len: header.len,
        allocated_bytes: header.blocks * BLOCK_BYTES,
        digest: header.digest,
        writer: header.writer,
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
) -> Result<BrickReply, Status> {
    brick.admit(map, chain, Wish::Read).await?;
    let _clean = read::clean(brick, chain, key).await?;
    let (header, extents) = brick.disk(move |store| store.extents(key)).await?;
    brick.admit_now(chain, Wish::Read)?;
    Ok(BrickReply::Extents { len: header.map_or(0, |h| h.len), extents })
}

/// Digests of a chunk's pieces, for another member that makes copies equal.
///
/// # Errors
/// As a status.
pub async fn pieces(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    key: ChunkKey,
    blocks_of: Vec<u32>,
) -> Result<BrickReply, Status> {
    let most = MAX_CHUNK_BYTES / PIECE_BYTES;
    if blocks_of.iter().any(|piece| *piece >= most) || blocks_of.len() > most as usize {
        return Err(Status::Malformed);
    }
    let place = brick.admit(map, chain, Wish::Look).await?;
    lock(&brick.copied).mark(key);
    if !blocks_of.is_empty() {
        let (header, digests) = copy::our_blocks(brick, key, blocks_of).await?;
        let chunk = header.map(|header| summary(key, &header));
        return Ok(BrickReply::Pieces { chunk, digests, lineage: None });
    }
    let (header, digests) = copy::our_pieces(brick, &place, key).await?;
    let version = version_of(header.as_ref());
    let lineage = lock(&brick.lineages).of(key, version, Instant::now());
    // What is published is noted in the same breath.
    if version_of(brick.chunk(key).await?.as_ref()) != version {
        return Err(Status::Busy);
    }
    Ok(BrickReply::Pieces { chunk: header.map(|header| summary(key, &header)), digests, lineage })
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

/// Chunks of one file that exist in a chain, in order of index.
///
/// # Errors
/// As a status.
pub async fn list_file(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    ino: Ino,
    from: u64,
    max: u32,
) -> Result<BrickReply, Status> {
    let place = brick.admit(map, chain, Wish::Read).await?;
    if place.chain()?.head() != Some(brick.id) {
        // A chunk that others have, or do not have, must not be told of here alone.
        let marks = lock(&brick.marks).of_file(chain.id, ino, MARKS_A_CALL);
        if !marks.is_empty() && settle::resolve(brick, &place, &marks, true).await? > 0 {
            return Err(Status::Busy);
        }
    }
    let max = max.clamp(1, LIST_MAX) as usize;
    let (found, end) = brick.disk(move |store| file_page(store, chain.id, ino, from, max)).await?;
    // Read while it was in sync: whatever was acknowledged before the call is in it.
    brick.admit_now(chain, Wish::Read)?;
    Ok(BrickReply::Chunks { chunks: found.iter().map(|(key, header)| summary(*key, header)).collect(), end })
}

/// The first `max` chunks of a file in a chain from an index on; whether none comes after.
fn file_page(
    store: &dyn ChunkStore,
    chain: ChainId,
    ino: Ino,
    from: u64,
    max: usize,
) -> Result<(Vec<(ChunkKey, Header)>, bool), StoreError> {
    let mut after = match (from.checked_sub(1), ino.0.checked_sub(1)) {
        (Some(index), _) => Some(ChunkKey { ino, index }),
        (None, Some(before)) => Some(ChunkKey { ino: Ino(before), index: u64::MAX }),
        (None, None) => None,
    };
    let mut found = Vec::new();
    loop {
        let (page, end) = store.list(None, after, FILE_PAGE)?;
        for (key, header) in page {
            if key.ino != ino {
                return Ok((found, true));
            }
            after = Some(key);
            if header.chain != chain {
                continue;
            }
            if found.len() == max {
                return Ok((found, false));
            }
            found.push((key, header));
        }
        if end {
            return Ok((found, true));
        }
    }
}

/// Reads a chunk whole against its checksums, and has what is found put right from another member.
///
/// # Errors
/// As a status.
pub async fn verify(brick: &Brick, key: ChunkKey) -> Result<BrickReply, Status> {
    let (hash, corrupt_blocks) = brick.disk(move |store| store.verify(key)).await?;
    if corrupt_blocks > 0
        && let Some(header) = brick.chunk(key).await?
    {
        scrub::put_right(brick, key, header.chain).await?;
    }
    Ok(BrickReply::Verified { hash, corrupt_blocks })
}
