//! Making copies of a chunk equal between members. The caller holds the chunk's gate here.
//!
//! 1. Only blocks that differ travel: digests of pieces of 64 KiB say where to look, those of
//!    their blocks what to send (`resync_ships_only_what_differs`).
//! 2. What was copied was checked against the digest of its source before it is believed.

use bytes::Bytes;
use tokio::time::Instant;
use wire::brick::{BrickReply, BrickRequest, ChunkSummary, Extent, Lineage, LostBlock};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_IO_BYTES};
use wire::id::{BootId, BrickId, ChunkVersion, Ino};
use wire::net::CallError;
use wire::status::Status;

use crate::brick::{Brick, Place, lock};
use crate::chain::pieces::{self, Digest};
use crate::chain::runs;
use crate::error::status_of;
use crate::ops::assembly::Assembly;
use crate::ops::{inspect, patch, repair};
use crate::store::{ChunkStore, Header, PIECE_BYTES, PieceDigest, ReadBytes, StoreError};

/// Blocks of a piece.
const BLOCKS_A_PIECE: u32 = PIECE_BYTES / BLOCK_BYTES;
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

/// What a member has of a chunk.
struct Theirs {
    chunk: Option<ChunkSummary>,
    digests: Vec<Digest>,
    lineage: Option<Lineage>,
}

/// Digests of a member's copy, and what it is then.
async fn their_pieces(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    member: BrickId,
    blocks_of: Vec<u32>,
) -> Result<Theirs, Status> {
    let request = BrickRequest::Pieces { chain: place.chain, key, blocks_of };
    match brick.ask(place, member, request, Bytes::new()).await {
        Ok((BrickReply::Pieces { chunk, digests, lineage }, _))
            if lineage.as_ref().is_none_or(|lineage| runs::are_in_order(&lineage.written)) =>
        {
            Ok(Theirs { chunk, digests, lineage })
        }
        Ok(_) => Err(Status::Busy),
        Err(CallError::Status(Status::Corrupt)) => Err(Status::Corrupt),
        Err(error) => Err(status_of_call(&error)),
    }
}

/// Digests of this copy; bad blocks are put right first.
///
/// # Errors
/// As a status.
pub async fn our_pieces(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
) -> Result<(Option<Header>, Vec<Digest>), Status> {
    let attempt = || brick.on_disk(move |store| store.pieces(key));
    let found = match attempt().await? {
        Err(StoreError::Corrupt { version, blocks, .. }) => {
            repair::blocks(brick, place, key, version, &blocks).await?;
            attempt().await?.map_err(|e| status_of(&e))?
        }
        other => other.map_err(|e| status_of(&e))?,
    };
    Ok((found.0, found.1.into_iter().map(|piece| piece.0).collect()))
}

/// Digests of the blocks of some pieces of this copy.
///
/// # Errors
/// As a status.
pub async fn our_blocks(
    brick: &Brick,
    key: ChunkKey,
    pieces: Vec<u32>,
) -> Result<(Option<Header>, Vec<Digest>), Status> {
    brick
        .disk(move |store| {
            let mut digests = Vec::with_capacity(pieces.len() * BLOCKS_A_PIECE as usize);
            for piece in pieces {
                let mut bytes = store.read(key, piece * PIECE_BYTES, PIECE_BYTES)?.data.to_vec();
                bytes.resize(PIECE_BYTES as usize, 0);
                digests.extend(bytes.chunks(BLOCK_BYTES as usize).map(|b| *blake3::hash(b).as_bytes()));
            }
            Ok((store.chunk(key)?, digests))
        })
        .await
}

/// The blocks in which pieces that differ do; the pieces whole if the other copy is another
/// one by now, which is found out when it is sent.
async fn blocks_of(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    to: BrickId,
    parts: Vec<Extent>,
    len: u32,
) -> Result<Vec<Extent>, Status> {
    let numbers: Vec<u32> =
        parts.iter().flat_map(|p| p.offset / PIECE_BYTES..(p.offset + p.len).div_ceil(PIECE_BYTES)).collect();
    let theirs = match their_pieces(brick, place, key, to, numbers.clone()).await {
        Ok(found) => found.digests,
        Err(Status::Corrupt) => return Ok(parts),
        Err(status) => return Err(status),
    };
    let (_, ours) = our_blocks(brick, key, numbers.clone()).await?;
    if theirs.len() != ours.len() {
        return Err(Status::Busy);
    }
    // Both lists in their places, equal in between.
    let blocks = (len.div_ceil(PIECE_BYTES) * BLOCKS_A_PIECE) as usize;
    let (mut at_home, mut there) = (vec![[0; 32]; blocks], vec![[0; 32]; blocks]);
    for (at, number) in numbers.iter().enumerate() {
        let from = at * BLOCKS_A_PIECE as usize;
        let to = (number * BLOCKS_A_PIECE) as usize;
        let piece = BLOCKS_A_PIECE as usize;
        at_home[to..to + piece].copy_from_slice(&ours[from..from + piece]);
        there[to..to + piece].copy_from_slice(&theirs[from..from + piece]);
    }
    Ok(pieces::differing(&at_home, &there, [0; 32], BLOCK_BYTES, len, MAX_IO_BYTES))
}

/// What has to travel so that a chunk of `len` bytes with these digests is had by who has those.
fn differing(from: &[Digest], to: &[Digest], len: u32) -> Vec<Extent> {
    pieces::differing(from, to, PieceDigest::zeros().0, PIECE_BYTES, len, MAX_IO_BYTES)
}

/// All of a chunk of `len` bytes.
fn everything(len: u32) -> Vec<Extent> {
    differing(&all_unlike(len), &[], len)
}

/// Digests of a chunk of `len` bytes that nobody has.
fn all_unlike(len: u32) -> Vec<Digest> {
    unlike(&vec![PieceDigest::zeros().0; len.div_ceil(PIECE_BYTES) as usize])
}

/// Digests that no piece has: everything differs.
fn unlike(digests: &[Digest]) -> Vec<Digest> {
    digests.iter().map(|digest| digest.map(|byte| !byte)).collect()
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
        let (summary, digests, lineage) = match their_pieces(brick, place, key, from, Vec::new()).await {
            // Something in that copy is beyond repair: all that is left of it is taken. What it lacks is sent again.
            Err(Status::Corrupt) => (theirs(brick, place, key, from).await?, None, Some(Lineage::default())),
            found => found.map(|found| (found.chunk, Some(found.digests), found.lineage))?,
        };
        lock(&brick.writers).forget(key);
        brick.given(lineage.as_ref()).await?;
        let lineages = brick.lineages.clone();
        let version = summary.map_or(ChunkVersion(0), |summary| summary.version);
        let note = move || lock(&lineages).taken(key, lineage, version, Instant::now());
        let Some(summary) = summary else {
            let remove = move |store: &dyn ChunkStore| {
                store.remove(key, ChunkVersion(u64::MAX))?;
                note();
                Ok(())
            };
            brick.disk_in(place.chain, None, remove).await?;
            brick.metrics.dropped_chunks.add(1);
            return Ok(None);
        };
        if let Some(header) = pull_version(brick, place, from, &summary, digests.as_deref(), note).await? {
            brick.metrics.pulled_chunks.add(1);
            return Ok(Some(header));
        }
    }
    Err(Status::Busy)
}

/// A part of a member's copy, and what of it nobody can read; `None`: it is another version by now.
async fn fetch(
    brick: &Brick,
    place: &Place,
    from: BrickId,
    summary: &ChunkSummary,
    part: Extent,
    in_doubt: bool,
) -> Result<Option<(Bytes, Vec<LostBlock>)>, Status> {
    let (chain, key, Extent { offset, len }) = (place.chain, summary.key, part);
    let request = match in_doubt {
        true => BrickRequest::ReadLeft { chain, key, offset, len },
        false => BrickRequest::ReadCopy { chain, key, offset, len },
    };
    match brick.ask(place, from, request, Bytes::new()).await {
        Ok((BrickReply::Read { version }, data)) if version == summary.version => {
            Ok(Some((data, Vec::new())))
        }
        Ok((BrickReply::Left { version, lost }, data))
            if version == summary.version && patch::are_in_order(&lost, offset, data.len()) =>
        {
            Ok(Some((data, lost)))
        }
        Ok(_) => Ok(None),
        Err(error) => Err(status_of_call(&error)),
    }
}

/// `None`: it changed meanwhile. Without digests the whole of it is taken, as far as it can be read.
async fn pull_version(
    brick: &Brick,
    place: &Place,
    from: BrickId,
    summary: &ChunkSummary,
    digests: Option<&[Digest]>,
    note: impl FnOnce() + Send + 'static,
) -> Result<Option<Header>, Status> {
    let key = summary.key;
    lock(&brick.copied).mark(key);
    brick.make_room().await?;
    let parts = match digests {
        Some(digests) => {
            // Of a copy here with blocks beyond repair nothing is kept.
            let ours = match brick.on_disk(move |store| store.pieces(key)).await? {
                Ok((_, digests)) => digests.into_iter().map(|digest| digest.0).collect(),
                Err(_) => unlike(digests),
            };
            differing(digests, &ours, summary.len)
        }
        None => everything(summary.len),
    };
    let mut assembly = Assembly::new(*summary);
    for part in parts {
        let Some((data, lost)) = fetch(brick, place, from, summary, part, digests.is_none()).await? else {
            return Ok(None);
        };
        brick.metrics.resync_bytes.add(data.len() as u64);
        assembly = brick
            .disk(move |store| {
                assembly.keep(store, part.offset)?;
                assembly.take(store, part, &data, &lost)?;
                Ok(assembly)
            })
            .await?;
    }
    let len = summary.len;
    let assembly = brick
        .disk(move |store| {
            assembly.keep(store, len)?;
            Ok(assembly)
        })
        .await?;
    if !assembly.is_right() {
        return Ok(None);
    }
    let (to, staged) = assembly.done();
    let chain = place.chain.id;
    let switch = move |store: &dyn ChunkStore| {
        store.switch(key, chain, to.version, to.len, staged)?;
        note();
        Ok(())
    };
    brick.disk_in(place.chain, None, switch).await?;
    brick.chunk(key).await
}

/// Gives a member what its copy lacks of this one. Returns the bytes that travelled.
///
/// # Errors
/// As a status; the member has the whole copy or what it had.
async fn push(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    to: BrickId,
    theirs: Option<ChunkSummary>,
) -> Result<u64, Status> {
    lock(&brick.copied).mark(key);
    let mut in_doubt = false;
    let (header, digests) = match our_pieces(brick, place, key).await {
        // Something in this copy is beyond repair: the member gets all that is left of it.
        Err(Status::Corrupt) => {
            in_doubt = true;
            let header = brick.chunk(key).await?;
            (header, all_unlike(header.map_or(0, |header| header.len)))
        }
        found => found?,
    };
    let Some(header) = header else { return Err(Status::Busy) };
    let mine = inspect::summary(key, &header);
    let held = match theirs {
        // It is all sent anyway.
        None => Vec::new(),
        Some(_) if in_doubt => Vec::new(),
        Some(known) if mine.len <= PIECE_BYTES || known.digest == mine.digest => Vec::new(),
        Some(known) => match their_pieces(brick, place, key, to, Vec::new()).await {
            Ok(Theirs { chunk: Some(now), digests, .. })
                if (now.version, now.digest) == (known.version, known.digest) =>
            {
                digests
            }
            Ok(_) => return Err(Status::Busy),
            // Something in its copy is beyond repair: it gets all of this one.
            Err(Status::Corrupt) => {
                in_doubt = true;
                unlike(&digests)
            }
            Err(status) => return Err(status),
        },
    };
    let mut parts = differing(&digests, &held, mine.len);
    if theirs.is_some_and(|theirs| (theirs.digest, theirs.len) == (mine.digest, mine.len)) {
        parts.clear();
    } else if theirs.is_some() && mine.len <= PIECE_BYTES {
        // It may be zeros here and something else there.
        parts = vec![Extent { offset: 0, len: mine.len }];
    }
    if !parts.is_empty() && theirs.is_some() && !in_doubt {
        parts = blocks_of(brick, place, key, to, parts, mine.len).await?;
    }
    if parts.is_empty() {
        parts.push(Extent { offset: 0, len: 0 });
    }
    let last = parts.len() - 1;
    let lineage = lock(&brick.lineages).of(key, header.version, Instant::now());
    let mut bytes = 0;
    for (at, part) in parts.into_iter().enumerate() {
        let (data, lost) = read_for_copy(brick, place, key, part).await?;
        if data.version != header.version {
            return Err(Status::Busy);
        }
        let request = BrickRequest::Patch {
            chain: place.chain,
            to: mine,
            base: patch::base_of(theirs.as_ref()),
            offset: part.offset,
            covers: part.len,
            first: at == 0,
            last: at == last,
            lost,
            lineage: lineage.clone().filter(|_| at == last),
        };
        bytes += data.data.len() as u64;
        if let Err(error) = brick.ask(place, to, request, data.data).await {
            tracing::debug!(brick = %brick.id, chunk = %key, %to, %error, "a copy was not taken");
            return Err(status_of_call(&error));
        }
    }
    brick.metrics.pushed_chunks.add(1);
    brick.metrics.resync_bytes.add(bytes);
    Ok(bytes)
}

/// A part of this copy, and the blocks of it that are beyond repair.
///
/// # Errors
/// As a status.
pub async fn read_for_copy(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    part: Extent,
) -> Result<(ReadBytes, Vec<LostBlock>), Status> {
    let attempt = || brick.disk(move |store| store.read_what_is_left(key, part.offset, part.len));
    let (found, lost) = attempt().await?;
    if lost.is_empty() {
        return Ok((found, lost));
    }
    let blocks: Vec<u32> = lost.iter().map(|lost| lost.block).collect();
    match repair::blocks(brick, place, key, found.version, &blocks).await {
        Ok(()) | Err(Status::Corrupt) => attempt().await,
        Err(status) => Err(status),
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

/// Makes a member hold exactly what this copy holds; the bytes that travelled. Where the member
/// is at the same version or a later one with other bytes, this copy's version is raised above
/// it first: a number must not stand for two contents.
///
/// # Errors
/// As a status.
pub async fn equalise(brick: &Brick, place: &Place, key: ChunkKey, to: BrickId) -> Result<u64, Status> {
    let mine = brick.chunk(key).await?;
    let other = theirs(brick, place, key, to).await?;
    if equal(mine.as_ref(), other.as_ref()) {
        return Ok(0);
    }
    tracing::debug!(brick = %brick.id, %to, chunk = %key, ?mine, ?other, "copies differ");
    match (mine, other) {
        (None, None) => Ok(0),
        (None, Some(other)) => drop_there(brick, place, key, to, other.version).await.map(|()| 0),
        (Some(mine), Some(other)) if other.version >= mine.version => {
            let chain = place.chain.id;
            let next = lock(&brick.lineages).next(key, other.version, Instant::now());
            let lineages = brick.lineages.clone();
            let raise = move |store: &dyn ChunkStore| {
                lock(&lineages).raised(key, mine.version, Instant::now());
                store.set_version(key, chain, next)
            };
            brick.disk_in(place.chain, None, raise).await?;
            // Members that were equal are behind by a number now.
            if place.others(brick.id)?.len() > 1 {
                brick.pending.add_uneven(brick, key, chain);
            }
            push(brick, place, key, to, Some(other)).await
        }
        (Some(_), other) => push(brick, place, key, to, other).await,
    }
}

/// Has a member make everything durable that it was given; says in which life.
///
/// # Errors
/// As a status.
pub async fn commit_there(brick: &Brick, place: &Place, member: BrickId) -> Result<BootId, Status> {
    match brick.ask(place, member, BrickRequest::Commit, Bytes::new()).await {
        Ok((BrickReply::Committed { boot }, _)) => Ok(boot),
        Ok(_) => Err(Status::Busy),
        Err(error) => Err(status_of_call(&error)),
    }
}

/// [`equalise`], durably; says in which life the member has it.
///
/// # Errors
/// As a status.
pub async fn level(brick: &Brick, place: &Place, key: ChunkKey, to: BrickId) -> Result<BootId, Status> {
    for _ in 0..ATTEMPTS {
        match equalise(brick, place, key, to).await {
            Ok(_) => {}
            Err(Status::Busy) => continue,
            Err(status) => return Err(status),
        }
        let boot = commit_there(brick, place, to).await?;
        // Had it restarted before the commit, it would have lost what it was given.
        let mine = brick.chunk(key).await?;
        let other = theirs(brick, place, key, to).await?;
        if equal(mine.as_ref(), other.as_ref()) {
            return Ok(boot);
        }
    }
    Err(Status::Busy)
}

/// Pieces always begin at a block.
const _: () = assert!(MAX_IO_BYTES.is_multiple_of(PIECE_BYTES) && PIECE_BYTES.is_multiple_of(BLOCK_BYTES));
