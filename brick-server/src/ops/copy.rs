//! Copying a chunk whole between members. The caller holds the chunk's gate here.
//!
//! What was copied was checked against the digest of its source before it is believed.

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest, ChunkSummary, Extent};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_IO_BYTES};
use wire::id::{BootId, BrickId, ChunkVersion, Ino};
use wire::net::CallError;
use wire::status::Status;

use crate::brick::{Brick, Place, lock};
use crate::error::status_of;
use crate::ops::{inspect, repair};
use crate::store::{Header, ReadBytes, Staged, StoreError};

/// How often a member that changes meanwhile is tried again.
const ATTEMPTS: usize = 3;

/// What a failed call to another member means here.
pub fn status_of_call(error: &CallError) -> Status {
    match error {
        CallError::Status(Status::Fs(fs)) => Status::Fs(*fs),
        _ => Status::Busy,
    }
}

/// The key before this one, in order.
pub fn before(key: ChunkKey) -> Option<ChunkKey> {
    match (key.ino.0, key.index) {
        (0, 0) => None,
        (ino, 0) => Some(ChunkKey { ino: Ino(ino - 1), index: u64::MAX }),
        (_, index) => Some(ChunkKey { ino: key.ino, index: index - 1 }),
    }
}

/// What another member has of a chunk.
///
/// # Errors
/// [`Status::Busy`] if it can't be asked.
pub async fn theirs(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    member: BrickId,
) -> Result<Option<ChunkSummary>, Status> {
    let request = BrickRequest::List { chain: None, after: before(key), max: 1 };
    match brick.ask(place, member, request, Bytes::new()).await {
        Ok((BrickReply::Chunks { chunks, .. }, _)) => Ok(chunks.into_iter().find(|c| c.key == key)),
        Ok(_) => Err(Status::Busy),
        Err(error) => Err(status_of_call(&error)),
    }
}

/// Whether two copies are the same.
pub fn equal(mine: Option<&Header>, theirs: Option<&ChunkSummary>) -> bool {
    match (mine, theirs) {
        (None, None) => true,
        (Some(mine), Some(theirs)) => {
            mine.version == theirs.version && mine.len == theirs.len && mine.digest == theirs.digest
        }
        _ => false,
    }
}

/// Pieces of at most one call's size.
fn pieces(extents: &[Extent]) -> impl Iterator<Item = Extent> + '_ {
    extents.iter().flat_map(|extent| {
        let end = extent.offset + extent.len;
        (extent.offset..end)
            .step_by(MAX_IO_BYTES as usize)
            .map(move |offset| Extent { offset, len: MAX_IO_BYTES.min(end - offset) })
    })
}

/// Takes a member's copy, or its absence. Returns what this copy is now.
///
/// # Errors
/// As a status; this copy is as it was then.
pub async fn pull(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    from: BrickId,
) -> Result<Option<Header>, Status> {
    for _ in 0..ATTEMPTS {
        let Some(summary) = theirs(brick, place, key, from).await? else {
            brick.disk(move |store| store.remove(key, ChunkVersion(u64::MAX))).await?;
            brick.metrics.dropped_chunks.add(1);
            return Ok(None);
        };
        if let Some(header) = pull_version(brick, place, key, from, &summary).await? {
            brick.metrics.pulled_chunks.add(1);
            return Ok(Some(header));
        }
    }
    Err(Status::Busy)
}

/// `None`: it changed meanwhile.
async fn pull_version(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    from: BrickId,
    summary: &ChunkSummary,
) -> Result<Option<Header>, Status> {
    lock(&brick.copied).mark(key);
    brick.make_room().await?;
    let request = BrickRequest::Extents { chain: place.chain, key };
    let extents = match brick.ask(place, from, request, Bytes::new()).await {
        Ok((BrickReply::Extents { len, extents }, _)) if len == summary.len => extents,
        Ok(_) => return Ok(None),
        Err(error) => return Err(status_of_call(&error)),
    };
    let mut staged = Staged::new();
    for piece in pieces(&extents) {
        let request =
            BrickRequest::ReadCopy { chain: place.chain, key, offset: piece.offset, len: piece.len };
        let data = match brick.ask(place, from, request, Bytes::new()).await {
            Ok((BrickReply::Read { version }, data)) if version == summary.version => data,
            Ok(_) => return Ok(None),
            Err(error) => return Err(status_of_call(&error)),
        };
        let stage = move |store: &dyn crate::store::ChunkStore| {
            store.stage(&mut staged, piece.offset, &data).map(|()| staged)
        };
        staged = brick.disk(stage).await?;
    }
    let (version, len, digest) = (summary.version, summary.len, summary.digest);
    if staged.digest() != digest {
        return Ok(None);
    }
    let chain = place.chain.id;
    brick.disk(move |store| store.switch(key, chain, version, len, staged)).await?;
    brick.chunk(key).await
}

/// Gives this copy to a member.
///
/// # Errors
/// As a status; the member has the whole copy or what it had.
pub async fn push(brick: &Brick, place: &Place, key: ChunkKey, to: BrickId) -> Result<(), Status> {
    lock(&brick.copied).mark(key);
    let (header, extents) = brick.disk(move |store| store.extents(key)).await?;
    let Some(header) = header else {
        return drop_there(brick, place, key, to, ChunkVersion(u64::MAX)).await;
    };
    let mut parts: Vec<Extent> = pieces(&extents).collect();
    if parts.is_empty() {
        parts.push(Extent { offset: 0, len: 0 });
    }
    let last = parts.len() - 1;
    for (at, part) in parts.into_iter().enumerate() {
        let data = read_for_copy(brick, place, key, part).await?;
        if data.version != header.version {
            return Err(Status::Busy);
        }
        let request = BrickRequest::Replace {
            chain: place.chain,
            key,
            version: header.version,
            len: header.len,
            offset: part.offset,
            first: at == 0,
            last: at == last,
        };
        let sent = brick.ask(place, to, request, data.data).await;
        if let Err(error) = sent {
            tracing::debug!(brick = %brick.id, chunk = %key, %to, %error, "a copy was not taken");
            return Err(status_of_call(&error));
        }
    }
    brick.metrics.pushed_chunks.add(1);
    Ok(())
}

async fn read_for_copy(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    part: Extent,
) -> Result<ReadBytes, Status> {
    let attempt = || brick.on_disk(move |store| store.read(key, part.offset, part.len));
    match attempt().await? {
        Err(StoreError::Corrupt { version, blocks, .. }) => {
            repair::blocks(brick, place, key, version, &blocks).await?;
            attempt().await?.map_err(|e| status_of(&e))
        }
        other => other.map_err(|e| status_of(&e)),
    }
}

/// Removes a member's copy, unless it is newer.
///
/// # Errors
/// As a status.
pub async fn drop_there(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    to: BrickId,
    version: ChunkVersion,
) -> Result<(), Status> {
    let request = BrickRequest::Drop { chain: place.chain, key, version };
    match brick.ask(place, to, request, Bytes::new()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(status_of_call(&error)),
    }
}

/// Makes a member hold exactly what this copy holds, durably, and says in which life it does.
/// Where the member is at the same version or a later one with other bytes, this copy's
/// version is raised above it first.
///
/// # Errors
/// As a status.
pub async fn level(brick: &Brick, place: &Place, key: ChunkKey, to: BrickId) -> Result<BootId, Status> {
    for _ in 0..ATTEMPTS {
        let mine = brick.chunk(key).await?;
        let other = theirs(brick, place, key, to).await?;
        if !equal(mine.as_ref(), other.as_ref()) {
            match (mine, other) {
                (None, Some(other)) => drop_there(brick, place, key, to, other.version).await?,
                (Some(mine), Some(other)) if other.version >= mine.version => {
                    let (chain, next) = (place.chain.id, ChunkVersion(other.version.0 + 1));
                    brick.disk(move |store| store.set_version(key, chain, next)).await?;
                    push(brick, place, key, to).await?;
                }
                _ => push(brick, place, key, to).await?,
            }
        }
        let boot = match brick.ask(place, to, BrickRequest::Commit, Bytes::new()).await {
            Ok((BrickReply::Committed { boot }, _)) => boot,
            Ok(_) => return Err(Status::Busy),
            Err(error) => return Err(status_of_call(&error)),
        };
        // Had it restarted before the commit, it would have lost what it was given.
        let mine = brick.chunk(key).await?;
        let other = theirs(brick, place, key, to).await?;
        if equal(mine.as_ref(), other.as_ref()) {
            return Ok(boot);
        }
    }
    Err(Status::Busy)
}

/// What this copy looks like to others.
///
/// # Errors
/// As a status.
pub async fn ours(brick: &Brick, key: ChunkKey) -> Result<Option<ChunkSummary>, Status> {
    Ok(brick.chunk(key).await?.map(|header| inspect::summary(key, &header)))
}

/// Blocks of a piece always begin at a block: extents do.
const _: () = assert!(MAX_IO_BYTES.is_multiple_of(BLOCK_BYTES));
