//! A member takes over a change from its head.

use bytes::Bytes;
use tokio::time::Instant;
use wire::brick::{BrickReply, ChainRef, Change, Floor, WriterId};
use wire::chunk::ChunkKey;
use wire::id::{ChunkVersion, MapEpoch};
use wire::map::MemberState;
use wire::status::Status;

use crate::brick::{Brick, lock, version_of};
use crate::chain::rules::Wish;
use crate::chain::writers::Answer;
use crate::ops::change::{changed_by, check_range, prepare_with_repair};
use crate::store::ChunkStore;

/// What the head passes on; see [`wire::brick::BrickRequest::Forward`].
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The chain.
    pub chain: ChainRef,
    /// The chunk.
    pub key: ChunkKey,
    /// Who.
    pub writer: WriterId,
    /// Version it builds on.
    pub base: ChunkVersion,
    /// Version it makes.
    pub to: ChunkVersion,
    /// What.
    pub change: Change,
    /// Of one that is sent again: the version that it made first.
    pub again: Option<ChunkVersion>,
    /// The head's floor.
    pub floor: Option<Floor>,
}

/// Applies the change if this copy is at `base`; a repeated one is known again.
///
/// # Errors
/// [`Status::Behind`] with the version held, or another status; nothing has changed then.
pub async fn forward(brick: &Brick, map: MapEpoch, call: Call, payload: Bytes) -> Result<BrickReply, Status> {
    let Call { chain, key, writer, base, to, change, again, floor } = call;
    check_range(&change, &payload)?;
    if to <= base {
        return Err(Status::Malformed);
    }
    brick.admit(map, chain, Wish::Follow).await?;
    brick.make_room().await?;
    let _gate = brick.alone(key).await?;
    let place = brick.admit_now(chain, Wish::Follow)?;
    brick.check_session(&place, writer.session)?;
    let header = brick.chunk(key).await?;
    let version = version_of(header.as_ref());
    let done = |version, delta_blocks: i32| BrickReply::Changed {
        version,
        allocated_delta_bytes: i64::from(delta_blocks) * i64::from(wire::chunk::BLOCK_BYTES),
        members: vec![(brick.id, brick.boot)],
    };
    if let Some(header) = header.filter(|h| h.version == to && h.writer == Some(writer)) {
        return Ok(done(header.version, header.delta_blocks));
    }
    let serving = place.chain()?.state_of(brick.id) == Some(MemberState::Serving);
    // A lineage that the head keeps and this brick does not comes with a copy.
    let knows = floor.is_none_or(|floor| lock(&brick.lineages).can_follow(key, base, floor, Instant::now()));
    if version != base || !knows {
        if serving {
            // Others may have more, or less.
            brick.mark(key, chain, to);
        }
        return Err(Status::Behind(version));
    }
    let prepared = prepare_with_repair(brick, &place, key, base, change, &payload).await?;
    // Preparing may have taken long.
    let place = brick.admit_now(chain, Wish::Follow)?;
    brick.check_session(&place, writer.session)?;
    if serving {
        brick.mark(key, chain, to);
    }
    let bytes = changed_by(&change, &payload, to, again);
    let lineages = brick.lineages.clone();
    let publish = move |store: &dyn ChunkStore| {
        let header = store.publish(prepared, chain.id, Some(writer), to)?;
        lock(&lineages).changed(key, &bytes, floor, Instant::now());
        Ok(header)
    };
    let header = brick.disk_in(chain, Some(writer.session), publish).await?;
    brick.metrics.forwards.add(1);
    // Of what is sent again this may be a part only.
    if again.is_none() {
        let answer = Answer {
            epoch: chain.epoch,
            version: header.version,
            allocated_delta_bytes: i64::from(header.delta_blocks) * i64::from(wire::chunk::BLOCK_BYTES),
            members: Vec::new(),
        };
        lock(&brick.writers).record(key, writer, answer);
    }
    Ok(done(header.version, header.delta_blocks))
}
