//! Calls to bricks: which member is asked, and what is done when it does not serve.
//!
//! 1. A change keeps its number through every retry, so that bricks know it again.
//! 2. A read tries every serving member before it waits (`reads_survive_a_dead_member`); a
//!    chunk is damaged only if every one of them says so (`a_damaged_copy_is_read_elsewhere`).
//! 3. Nobody waits for a brick that the map has given up
//!    (`tests`: `a_silent_cut_stalls_no_longer_than_four_seconds`).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::brick::{
    Again, BrickCall, BrickProtocol, BrickReply, BrickRequest, ChainRef, Change, ChunkSummary, Extent,
    WriterId,
};
use wire::chunk::ChunkKey;
use wire::durability::Holders;
use wire::id::{BootId, BrickId, CallSeq, ChunkVersion, Ino, SessionId};
use wire::layout::{FileLayout, Piece};
use wire::map::{Chain, ClusterMap, MemberState};
use wire::net::typed::CallError;
use wire::net::{Delivery, NetError};
use wire::status::{Advice, Status};

use super::Shared;
use super::detours::Contact;
use super::held::Content;
use super::inode::OpenInode;
use super::retry::Retry;
use crate::error::Error;
use crate::locked;
use crate::metrics::add;

/// A brick that did not answer is asked last for so long.
const SHUNNED_FOR: Duration = Duration::from_secs(2);
/// Rounds through all members before a chunk counts as damaged.
const DAMAGED_ROUNDS: u32 = 3;

/// What is known of one brick's load.
#[derive(Debug, Default)]
struct Load {
    in_flight: AtomicUsize,
    shunned_until: Mutex<Option<Instant>>,
    contact: Mutex<Contact>,
}

/// What is known of all bricks' loads.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    bricks: Mutex<HashMap<BrickId, Arc<Load>>>,
    turn: AtomicUsize,
    /// A brick is out of reach that was not before.
    pub(super) lost_touch: Notify,
    numbers: Mutex<Numbers>,
}

/// Numbers of changes: the last one given, and those not answered yet.
#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    waiting: BTreeSet<u64>,
}

/// The number of a change, until it is answered or given up.
struct Number<'a> {
    loads: &'a Loads,
    seq: u64,
}

impl Number<'_> {
    /// Below this one, nothing is waited for.
    fn answered_below(&self) -> CallSeq {
        CallSeq(locked(&self.loads.numbers).waiting.first().copied().unwrap_or(self.seq))
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        locked(&self.loads.numbers).waiting.remove(&self.seq);
    }
}

impl Loads {
    fn of(&self, brick: BrickId) -> Arc<Load> {
        locked(&self.bricks).entry(brick).or_default().clone()
    }

    fn number(&self) -> Number<'_> {
        let mut numbers = locked(&self.numbers);
        numbers.last += 1;
        let seq = numbers.last;
        numbers.waiting.insert(seq);
        Number { loads: self, seq }
    }

    /// Bricks that were ever asked something.
    pub(super) fn all(&self) -> Vec<BrickId> {
        locked(&self.bricks).keys().copied().collect()
    }

    /// Looks at, or changes, what was heard of a brick.
    pub(super) fn contact<T>(&self, brick: BrickId, look: impl FnOnce(&mut Contact) -> T) -> T {
        look(&mut locked(&self.of(brick).contact))
    }

    /// A brick has said something.
    pub(super) fn heard(&self, brick: BrickId, now: Instant) {
        let load = self.of(brick);
        let still_asked = load.in_flight.load(Ordering::Relaxed) > 0;
        if locked(&load.contact).heard(now, still_asked) {
            tracing::info!(%brick, "can be reached from here again");
        }
    }

    /// Asks this brick last for a while. Whether it was not shunned yet.
    fn shun(&self, brick: BrickId) -> bool {
        let now = Instant::now();
        let load = self.of(brick);
        let before = locked(&load.shunned_until).replace(now + SHUNNED_FOR);
        before.is_none_or(|until| until <= now)
    }

    /// Members in the order to be asked: those that answer first, then by load, in turn.
    pub(super) fn rank(&self, mut members: Vec<BrickId>) -> Vec<BrickId> {
        let now = Instant::now();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if !members.is_empty() {
            let by = turn % members.len();
            members.rotate_left(by);
        }
        members.sort_by_cached_key(|brick| {
            let load = self.of(*brick);
            let shunned = locked(&load.shunned_until).is_some_and(|until| until > now);
            (shunned, load.in_flight.load(Ordering::Relaxed))
        });
        members
    }
}

struct Counted(Arc<Load>);

impl Counted {
    fn new(load: Arc<Load>) -> Self {
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        locked(&load.contact).asked(Instant::now());
        Self(load)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            locked(&self.0.contact).rests();
        }
    }
}

/// What a change came to.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Its bytes, by number, in order, and the version that made them what they are, or what others have written over them since.
    pub(crate) parts: Vec<(u64, ChunkVersion)>,
    pub(crate) holders: Holders,
    pub(crate) allocated_delta_bytes: i64,
}

/// Whether these cover the bytes of a change, one after the other.
fn are_parts_of(parts: &[(Extent, ChunkVersion)], offset: u32, len: u64) -> bool {
    let mut at = u64::from(offset);
    let in_order = parts.iter().all(|(part, _)| {
        let follows = u64::from(part.offset) == at && part.len > 0;
        at += u64::from(part.len);
        follows
    });
    in_order && at == u64::from(offset) + len
}

fn chain_of<'a>(map: &'a ClusterMap, layout: &FileLayout, index: u64) -> Option<&'a Chain> {
    map.chains.get(&layout.chain(map, index)?)
}

impl Shared {
    /// One attempt of one call.
    async fn brick_once(
        &self,
        map: &ClusterMap,
        brick: BrickId,
        request: BrickRequest,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<(BrickReply, Bytes), CallError> {
        let through = self.detour(map, brick);
        let asked = through.unwrap_or(brick);
        let Some(endpoint) = map.endpoint_of(asked) else {
            // A chain names bricks of its map only; a later map mends what contradicts it.
            return Err(CallError::Status(Status::WrongMember));
        };
        add(&self.outside.metrics.brick_calls, 1);
        let _counted = Counted::new(self.loads.of(asked));
        let request = if through.is_some() { request.to_be_relayed(brick)? } else { request };
        let call = BrickCall { brick: asked, map: map.epoch, request };
        let life = |brick: BrickId| map.bricks.get(&brick).map(|info| info.boot);
        let ended = |brick: BrickId, detail: &str| {
            self.loads.shun(brick);
            let (to, delivery, detail) = (*endpoint, Delivery::Sent, detail.to_owned());
            Err(CallError::Net(NetError::Closed { to, delivery, detail }))
        };
        let request = self.outside.net.request::<BrickProtocol>(endpoint, &call, payload, deadline);
        let result = tokio::select! {
            biased;
            result = request => result,
            () = self.given_up(brick, life(brick)) => return ended(brick, "the cluster has given the brick up"),
            () = self.given_up(asked, life(asked)), if through.is_some() => return ended(asked, "the cluster has given the brick up"),
            () = self.out_of_reach(map, asked) => return ended(asked, "it can't be reached from here any more"),
        };
        match &result {
            Err(CallError::Net(error)) => {
                if self.loads.shun(asked) && !matches!(error, NetError::Deadline { .. }) {
                    // Its process may have ended: the namespace finds out at once when it is told.
                    self.suspect(asked, life(asked).unwrap_or(BootId(0))).await;
                }
            }
            Ok(_) | Err(CallError::Status(_) | CallError::Malformed { .. }) => {
                self.loads.heard(asked, Instant::now())
            }
        }
        result
    }

    /// Returns when the map says that this life of a brick is over: whoever waits for its answer
    /// waits in vain, and a silent connection is noticed later than that.
    async fn given_up(&self, brick: BrickId, life: Option<BootId>) {
        let mut maps = self.session.map_changes();
        let over = |map: &Arc<ClusterMap>| {
            map.bricks.get(&brick).is_none_or(|info| !info.alive || Some(info.boot) != life)
        };
        // The sender lives in `self`.
        let _ = maps.wait_for(over).await;
    }

    /// Asks the serving members of a chunk's chain until one gives an answer.
    async fn ask_members(
        &self,
        layout: &FileLayout,
        key: ChunkKey,
        request: impl Fn(ChainRef) -> BrickRequest,
    ) -> Result<(BrickReply, Bytes), Error> {
        let deadline = Instant::now() + self.outside.config.deadline;
        let mut retry = Retry::until(&self.outside.metrics, deadline);
        let mut damaged_rounds = 0;
        loop {
            let map = self.map();
            let mut last = format!("no member of the chain of chunk {key} serves");
            if let Some(chain) = chain_of(&map, layout, key.index) {
                let members = self.loads.rank(chain.serving().collect());
                let asked = members.len();
                let mut damaged = 0;
                for brick in members {
                    let chain = ChainRef { id: chain.id, epoch: chain.epoch };
                    let attempt = retry.attempt(self.outside.config.attempt_timeout);
                    let error =
                        match self.brick_once(&map, brick, request(chain), Bytes::new(), attempt).await {
                            Ok(answer) => return Ok(answer),
                            Err(error) => error,
                        };
                    last = format!("brick {brick}: {error}");
                    match (error.advice(), &error) {
                        (Advice::GiveUp, CallError::Status(_)) => {
                            return Err(Error::of_call(format!("brick {brick}"), error));
                        }
                        (Advice::TryOtherCopy, _) => {
                            tracing::warn!(chunk = %key, %brick, %error, "reading from another copy");
                            add(&self.outside.metrics.bad_copies, 1);
                            damaged += 1;
                        }
                        // Known in the whole cluster alike: other members would say the same.
                        (Advice::RefreshMap | Advice::NewSession, _) => break,
                        (Advice::GiveUp | Advice::Retry, _) => {}
                    }
                }
                // A member that is away may have it whole, and come back; one that is being brought up to date was asked
                // for it by those who serve.
                let away =
                    |state: MemberState| matches!(state, MemberState::Offline | MemberState::LastServing);
                if damaged > 0 && damaged == asked && !chain.members.iter().any(|m| away(m.state)) {
                    damaged_rounds += 1;
                    if damaged_rounds == DAMAGED_ROUNDS {
                        return Err(Error::Corrupt { key });
                    }
                }
            }
            self.refresh_map_or_pause(&mut retry, &map, &last).await?;
        }
    }

    /// Waits a little, and has a newer map afterwards if there is one.
    async fn refresh_map_or_pause(
        &self,
        retry: &mut Retry<'_>,
        map: &ClusterMap,
        last: &str,
    ) -> Result<(), Error> {
        retry.pause("the bricks", last).await?;
        self.refresh_map(map.epoch).await;
        Ok(())
    }

    /// The bytes of a piece; what is missing at the end is zeros.
    pub(crate) async fn read_piece(
        &self,
        ino: Ino,
        layout: &FileLayout,
        piece: Piece,
    ) -> Result<Bytes, Error> {
        let key = piece.key(ino);
        let (offset, len) = (piece.offset, piece.len);
        let read = |chain| BrickRequest::Read { chain, key, offset, len };
        match self.ask_members(layout, key, read).await? {
            (BrickReply::Read { .. }, payload) if payload.len() <= len as usize => Ok(payload),
            _ => Err(Error::unexpected("a brick", "the bytes asked for")),
        }
    }

    /// Where a chunk holds data.
    pub(crate) async fn extents(
        &self,
        ino: Ino,
        layout: &FileLayout,
        index: u64,
    ) -> Result<Vec<Extent>, Error> {
        let key = ChunkKey { ino, index };
        match self.ask_members(layout, key, |chain| BrickRequest::Extents { chain, key }).await? {
            (BrickReply::Extents { extents, .. }, _) => Ok(extents),
            _ => Err(Error::unexpected("a brick", "extents")),
        }
    }

    /// Chunks of a file that exist in the chain of chunk `lane`, in order from an index on, `max` at most; and
    /// whether none comes after.
    pub(crate) async fn file_chunks(
        &self,
        ino: Ino,
        layout: &FileLayout,
        lane: u64,
        from: u64,
        max: u32,
    ) -> Result<(Vec<ChunkSummary>, bool), Error> {
        let key = ChunkKey { ino, index: lane };
        let list = |chain| BrickRequest::ListFile { chain, ino, from, max };
        match self.ask_members(layout, key, list).await? {
            (BrickReply::Chunks { chunks, end }, _) => Ok((chunks, end)),
            _ => Err(Error::unexpected("a brick", "chunks")),
        }
    }

    /// Changes bytes of one chunk through the head of its chain; `begun`: in which session; `again`: when it was acknowledged
    /// before.
    pub(crate) async fn change(
        &self,
        (inode, begun): (&OpenInode, SessionId),
        layout: &FileLayout,
        offset: u64,
        (content, again): (&Content, Option<Again>),
        deadline: Instant,
    ) -> Result<Changed, Error> {
        let chunk_bytes = u64::from(layout.chunk_bytes.max(1));
        let key = ChunkKey { ino: inode.ino, index: offset / chunk_bytes };
        // Below the chunk size, which is a u32.
        let inside = (offset % chunk_bytes) as u32;
        let (change, payload) = match content {
            Content::Data(bytes) => (Change::Write { offset: inside }, bytes.clone()),
            Content::Zeros(len) => (Change::Punch { offset: inside, len: *len as u32 }, Bytes::new()),
        };
        let number = self.loads.number();
        let mut retry = Retry::until(&self.outside.metrics, deadline);
        let mut damaged = 0;
        loop {
            let map = self.map();
            let session = self.session.id();
            // After the number of the session was read: it is replaced after this was noted.
            inode.not_forsaken(begun)?;
            let mut last = format!("no member of the chain of chunk {key} serves");
            if let Some(chain) = chain_of(&map, layout, key.index)
                && let Some(head) = chain.head()
            {
                let request = BrickRequest::Change {
                    chain: ChainRef { id: chain.id, epoch: chain.epoch },
                    key,
                    writer: WriterId { session, seq: CallSeq(number.seq) },
                    answered_below: number.answered_below(),
                    change,
                    again: again.clone(),
                };
                let attempt = retry.attempt(self.outside.config.attempt_timeout);
                let error = match self.brick_once(&map, head, request, payload.clone(), attempt).await {
                    Ok((BrickReply::Changed { version, allocated_delta_bytes, members }, _))
                        if !members.is_empty() =>
                    {
                        let holders = Holders::of(chain, &members);
                        let parts = vec![(content.len(), version)];
                        return Ok(Changed { parts, holders, allocated_delta_bytes });
                    }
                    Ok((BrickReply::ThereAgain { parts, members }, _))
                        if !members.is_empty() && are_parts_of(&parts, inside, content.len()) =>
                    {
                        let holders = Holders::of(chain, &members);
                        let parts = parts.iter().map(|(part, version)| (part.len.into(), *version)).collect();
                        return Ok(Changed { parts, holders, allocated_delta_bytes: 0 });
                    }
                    Ok(_) => return Err(Error::unexpected(format!("brick {head}"), "who has the change")),
                    Err(error) => error,
                };
                last = format!("brick {head}: {error}");
                match (error.advice(), &error) {
                    (Advice::GiveUp, CallError::Status(_)) => {
                        return Err(Error::of_call(format!("brick {head}"), error));
                    }
                    (Advice::NewSession, _) => self.reopen_session(session, deadline).await?,
                    // A part of a block that nobody can read: more rounds than a repair takes make no difference.
                    (_, CallError::Status(Status::Corrupt)) => {
                        damaged += 1;
                        if damaged >= DAMAGED_ROUNDS {
                            return Err(Error::Corrupt { key });
                        }
                    }
                    _ => {}
                }
            }
            self.refresh_map_or_pause(&mut retry, &map, &last).await?;
        }
    }

    /// Makes durable what a brick has acknowledged; says in which life it was. One attempt.
    pub(crate) async fn commit_brick(&self, brick: BrickId, deadline: Instant) -> Result<BootId, Error> {
        let map = self.map();
        let attempt = deadline.min(Instant::now() + self.outside.config.attempt_timeout);
        match self.brick_once(&map, brick, BrickRequest::Commit, Bytes::new(), attempt).await {
            Ok((BrickReply::Committed { boot }, _)) => Ok(boot),
            Ok(_) => Err(Error::unexpected(format!("brick {brick}"), "committed")),
            Err(error) => Err(Error::of_call(format!("brick {brick}"), error)),
        }
    }
}
