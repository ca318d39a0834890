//! Calls of a client that can't reach a brick, handed on by one that it can reach.
//!
//! 1. Nothing is handed on that a client may not ask, and nothing twice: a relay to a relay is none.
//! 2. The answer is the other brick's own, or [`Status::Busy`] if there is none.

use bytes::Bytes;
use tokio::time::Instant;
use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest};
use wire::id::{BrickId, MapEpoch};
use wire::net::{CallError, Role};
use wire::status::Status;

use crate::brick::Brick;
use crate::config::PEER_DEADLINE;
use crate::server::permitted;

/// Whether a call may be handed on.
fn is_relayed(request: &BrickRequest) -> bool {
    use BrickRequest as R;
    matches!(
        request,
        R::Read { .. } | R::Change { .. } | R::Commit | R::Extents { .. } | R::ListFile { .. } | R::Ping
    )
}

/// Hands a call on.
///
/// # Errors
/// What the other brick says; [`Status::Busy`] if it can't be reached from here either; [`Status::Malformed`], [`Status::Forbidden`].
pub async fn relay(
    brick: &Brick,
    role: Role,
    map: MapEpoch,
    to: BrickId,
    request: &[u8],
    payload: Bytes,
) -> Result<(BrickReply, Bytes), Status> {
    let request: BrickRequest = postcard::from_bytes(request).map_err(|_| Status::Malformed)?;
    if !is_relayed(&request) || !permitted(role, &request) {
        return Err(Status::Forbidden);
    }
    brick.need_map(map).await?;
    let known = brick.map();
    let Some(endpoint) = known.endpoint_of(to) else { return Err(Status::OldMap(known.epoch)) };
    brick.metrics.relayed.add(1);
    let call = BrickCall { brick: to, map, request };
    let deadline = Instant::now() + PEER_DEADLINE;
    match brick.net.request::<BrickProtocol>(endpoint, &call, payload, deadline).await {
        Ok(answer) => Ok(answer),
        Err(CallError::Status(status)) => Err(status),
        Err(error) => {
            tracing::debug!(brick = %brick.id, %to, %error, "could not hand a call on");
            Err(Status::Busy)
        }
    }
}
