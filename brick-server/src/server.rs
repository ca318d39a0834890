//! Takes calls for the bricks of a process and hands them to their verbs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest, Extent};
use wire::id::BrickId;
use wire::meta::BrickReport;
use wire::net::{BoxFuture, Peer, Role, TypedHandler};
use wire::status::Status;

use crate::background::scrub;
use crate::brick::Brick;
use crate::ops::{change, forward, inspect, patch, read, relay, settle, trim};

/// How a brick of this process is.
#[derive(Clone)]
pub enum Seat {
    /// Not open yet, or stopping: callers are to come again.
    Away,
    /// It answers.
    Open(Arc<Brick>),
    /// Its disk failed, and it was closed; the last it said of itself.
    Failed(BrickReport),
}

/// The bricks that answer at one endpoint.
pub struct Server {
    seats: RwLock<BTreeMap<BrickId, Seat>>,
}

impl Server {
    /// A server of these bricks, with nobody there yet.
    pub fn new(bricks: impl IntoIterator<Item = BrickId>) -> Server {
        Server { seats: RwLock::new(bricks.into_iter().map(|brick| (brick, Seat::Away)).collect()) }
    }

    /// Calls to a brick are answered by this from now on.
    pub fn seat(&self, brick: BrickId, seat: Seat) {
        self.seats.write().unwrap_or_else(PoisonError::into_inner).insert(brick, seat);
    }

    /// Calls to a brick are answered as those to one that was never here.
    pub fn leave(&self, brick: BrickId) {
        self.seats.write().unwrap_or_else(PoisonError::into_inner).remove(&brick);
    }

    /// How each is.
    pub fn seats(&self) -> Vec<(BrickId, Seat)> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        seats.iter().map(|(brick, seat)| (*brick, seat.clone())).collect()
    }

    /// Those that are open.
    pub fn open(&self) -> Vec<Arc<Brick>> {
        let open = |(_, seat)| if let Seat::Open(brick) = seat { Some(brick) } else { None };
        self.seats().into_iter().filter_map(open).collect()
    }
}

/// Whether a holder of this role may ask for this.
pub(crate) fn permitted(role: Role, request: &BrickRequest) -> bool {
    use BrickRequest as R;
    let anybody = matches!(role, Role::Client | Role::Admin | Role::Brick | Role::Namespace);
    match request {
        R::Read { .. } | R::Commit | R::Extents { .. } | R::List { .. } | R::ListFile { .. } | R::Ping => {
            anybody
        }
        // From a brick: one that hands on what a client asked, who was looked at there.
        R::Change { .. } => matches!(role, Role::Client | Role::Admin | Role::Brick),
        // What is handed on is looked at when it has been understood.
        R::Relay { .. } => matches!(role, Role::Client | Role::Admin),
        R::Forward { .. }
        | R::Patch { .. }
        | R::Drop { .. }
        | R::ReadCopy { .. }
        | R::ReadLeft { .. }
        | R::Pieces { .. }
        | R::Settled { .. } => role == Role::Brick,
        // From the administrator: whose copy counts is the head's to say all the same.
        R::Level { .. } => matches!(role, Role::Brick | Role::Admin),
        R::Trim { .. } => matches!(role, Role::Namespace | Role::Admin),
        R::Scrub { .. } | R::Verify { .. } => matches!(role, Role::Admin | Role::Brick | Role::Namespace),
    }
}

impl TypedHandler<BrickProtocol> for Server {
    fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        call: BrickCall,
        payload: Bytes,
    ) -> BoxFuture<'static, (Result<BrickReply, Status>, Bytes)> {
        let seat = self.seats.read().unwrap_or_else(PoisonError::into_inner).get(&call.brick).cloned();
        Box::pin(async move {
            let brick = match seat {
                Some(Seat::Open(brick)) => brick,
                Some(Seat::Away) => return (Err(Status::Busy), Bytes::new()),
                Some(Seat::Failed(_)) => return (Err(Status::DiskFailed), Bytes::new()),
                None => return (Err(Status::WrongMember), Bytes::new()),
            };
            let role = peer.identity.role;
            if !permitted(role, &call.request) {
                tracing::info!(brick = %brick.id, %role, from = peer.address, "refused a call of this role");
                return (Err(Status::Forbidden), Bytes::new());
            }
            match dispatch(&brick, role, call, payload).await {
                Ok((reply, payload)) => (Ok(reply), payload),
                Err(status) => {
                    if status == Status::Busy {
                        brick.metrics.busy.add(1);
                    }
                    (Err(status), Bytes::new())
                }
            }
        })
    }
}

async fn dispatch(
    brick: &Brick,
    role: Role,
    call: BrickCall,
    payload: Bytes,
) -> Result<(BrickReply, Bytes), Status> {
    use BrickRequest as R;
    let map = call.map;
    let reply = match call.request {
        R::Read { chain, key, offset, len } => return read::read(brick, map, chain, key, offset, len).await,
        R::ReadCopy { chain, key, offset, len } => {
            return read::read_copy(brick, map, chain, key, offset, len).await;
        }
        R::ReadLeft { chain, key, offset, len } => {
            return read::read_left(brick, map, chain, key, Extent { offset, len }).await;
        }
        R::Change { chain, key, writer, answered_below, change, again } => {
            let call = change::Call { chain, key, writer, answered_below, change };
            change::change(brick, map, call, again, payload).await
        }
        R::Commit => {
            brick.metrics.commits.add(1);
            brick.commit().await.map(|()| BrickReply::Committed { boot: brick.boot })
        }
        R::Extents { chain, key } => inspect::extents(brick, map, chain, key).await,
        R::Forward { chain, key, writer, base, to, change, again, floor } => {
            let call = forward::Call { chain, key, writer, base, to, change, again, floor };
            forward::forward(brick, map, call, payload).await
        }
        R::Patch { chain, to, base, offset, covers, first, last, lost, lineage } => {
            let part = patch::Part { to, base, offset, covers, first, last };
            patch::patch(brick, map, chain, part, (lost, lineage), payload).await
        }
        R::Settled { chain, keys, wait } => settle::settled(brick, map, chain, keys, wait).await,
        R::Level { chain, key, member } => settle::level(brick, map, chain, key, member).await,
        R::Pieces { chain, key, blocks_of } => inspect::pieces(brick, map, chain, key, blocks_of).await,
        R::Drop { chain, key, version } => patch::drop_chunk(brick, map, chain, key, version).await,
        R::Trim { ino, chunk_bytes, size, order } => {
            trim::trim(brick, map, order, ino, chunk_bytes, size).await
        }
        R::List { chain, after, max } => {
            // What another member counts on must not be freed by an older map.
            if role == Role::Brick {
                brick.need_map(map).await?;
            }
            inspect::list(brick, chain, after, max).await
        }
        R::ListFile { chain, ino, from, max } => inspect::list_file(brick, map, chain, ino, from, max).await,
        R::Scrub { begin } => Ok(scrub::asked(brick, begin)),
        R::Ping => Ok(BrickReply::Done),
        R::Verify { key } => inspect::verify(brick, key).await,
        R::Relay { to, request } => return relay::relay(brick, role, map, to, &request, payload).await,
    };
    reply.map(|reply| (reply, Bytes::new()))
}
