//! Putting blocks right that fail their checksum: the same bytes are at another member, and
//! the checksum tells whether they are.

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest};
use wire::chunk::{BLOCK_BYTES, ChunkKey};
use wire::id::{BrickId, ChunkVersion};
use wire::map::MemberState;
use wire::status::Status;

use crate::brick::{Brick, Place};

/// Most blocks fetched in one call: 1 MiB.
const BLOCKS_A_CALL: u32 = 256;

/// Puts `blocks` right, which were found bad at `version`.
///
/// # Errors
/// [`Status::Corrupt`] if no other member has them.
pub async fn blocks(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    version: ChunkVersion,
    blocks: &[u32],
) -> Result<(), Status> {
    brick.metrics.corrupt_blocks.add(blocks.len() as u64);
    let mut at = 0;
    while at < blocks.len() {
        let first = blocks[at];
        let n = (first..first + BLOCKS_A_CALL).zip(&blocks[at..]).take_while(|(a, b)| a == *b).count();
        run_of(brick, place, key, version, first, n as u32).await?;
        at += n;
    }
    Ok(())
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
                tracing::info!(brick = %brick.id, chunk = %key, %from, %error, "no copy for a repair");
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
            brick.metrics.repaired_blocks.add(u64::from(count));
            tracing::warn!(brick = %brick.id, chunk = %key, first, count, %from, "repaired blocks");
            return Ok(());
        }
    }
    tracing::warn!(brick = %brick.id, chunk = %key, first, count, "corrupt blocks can't be repaired");
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
