//! Putting blocks right that fail their checksum: the same bytes are at another member, and
//! the checksum tells whether they are. What nobody can put right is told once
//! ([`crate::chain::lost`]).

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest};
use wire::chunk::{BLOCK_BYTES, ChunkKey};
use wire::id::{BrickId, ChunkVersion};
use wire::map::MemberState;
use wire::status::Status;

use crate::brick::{Brick, Place, lock};

/// Most blocks fetched in one call: 1 MiB.
const BLOCKS_A_CALL: u32 = 256;

/// Puts `blocks` right, which were found bad at `version`.
///
/// # Errors
/// [`Status::Corrupt`] if no other member has one of them; the others are right then.
pub async fn blocks(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    version: ChunkVersion,
    blocks: &[u32],
) -> Result<(), Status> {
    brick.metrics.corrupt_blocks.add(lock(&brick.lost).unknown(key, version, blocks).len() as u64);
    let (mut at, mut outcome) = (0, Ok(()));
    while at < blocks.len() {
        let first = blocks[at];
        let n = (first..first + BLOCKS_A_CALL).zip(&blocks[at..]).take_while(|(a, b)| a == *b).count();
        match run_of(brick, place, key, version, first, n as u32).await {
            // One block may be lost where the next is not.
            Err(Status::Corrupt) if n > 1 => {
                for block in first..first + n as u32 {
                    outcome = outcome.and(run_of(brick, place, key, version, block, 1).await);
                }
            }
            done => outcome = outcome.and(done),
        }
        at += n;
    }
    outcome
}

async fn run_of(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    version: ChunkVersion,
    first: u32,
    count: u32,
) -> Result<(), Status> {
    for (from, serves) in sources(place, brick.id)? {
        let request = BrickRequest::ReadCopy {
            chain: place.chain,
            key,
            offset: first * BLOCK_BYTES,
            len: count * BLOCK_BYTES,
        };
        let data = match brick.ask(place, from, request, Bytes::new()).await {
            // A member that is behind may not have changed this block since.
            Ok((BrickReply::Read { version: theirs }, data)) if theirs == version || !serves => data,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(brick = %brick.id, chunk = %key, %from, %error, "no copy for a repair");
                continue;
            }
        };
        let whole = brick
            .disk(move |store| {
                let mut whole = true;
                for (block, bytes) in (first..first + count).zip(parts(&data)) {
                    whole &= store.repair(key, version, block, bytes)?;
                }
                Ok(whole)
            })
            .await?;
        if whole {
            lock(&brick.lost).found(key, first..first + count);
            brick.metrics.repaired_blocks.add(u64::from(count));
            tracing::warn!(brick = %brick.id, chunk = %key, first, count, %from, "repaired blocks");
            return Ok(());
        }
    }
    if count == 1 && !lock(&brick.lost).unknown(key, version, &[first]).is_empty() {
        tracing::error!(brick = %brick.id, chunk = %key, block = first,
            "a block is corrupt, and no member has a copy that could put it right: reading it fails until it is \
             written again");
        lock(&brick.lost).note(key, version, [first]);
    }
    Err(Status::Corrupt)
}

/// Whom to ask, and whether they serve: those who do first. The others are asked too, since the head that
/// is to bring them up to date may be the only one to serve, and its bad block good there: it would wait for
/// them, and they for it, for good. Their bytes are believed if they have the checksum of the block, as
/// anybody's are.
fn sources(place: &Place, me: BrickId) -> Result<Vec<(BrickId, bool)>, Status> {
    let members = &place.chain()?.members;
    let alive = |state: MemberState| !matches!(state, MemberState::Offline | MemberState::LastServing);
    let others = members.iter().filter(|member| member.brick != me && alive(member.state));
    let mut sources: Vec<_> =
        others.map(|member| (member.brick, member.state == MemberState::Serving)).collect();
    sources.sort_by_key(|(_, serves)| !serves);
    Ok(sources)
}

/// The blocks of an answer; beyond its end all is zeros.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.chunks(BLOCK_BYTES as usize).chain(std::iter::repeat(&[][..]))
}
