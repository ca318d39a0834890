//! A change at the head of a chain.
//!
//! All that can fail here is done first or meanwhile (*prepared*), the members take the change
//! over, and only then does this copy show it. So whatever fails, the head is never ahead of
//! what it was told of, and a change that was refused by a full member leaves no trace:
//!
//! | the members | this copy | what follows |
//! |---|---|---|
//! | all have it | prepared | published, acknowledged |
//! | some are behind | prepared | published, they get the chunk whole, acknowledged |
//! | refused, none has it | - | dropped, the caller learns why |
//! | some have it | - | dropped and taken back from those, the caller learns why |
//! | unknown | - | dropped, the chunk is levelled in the background, the caller retries |
//! | all have it | may not show it: the session was blocked, the brick is fenced | dropped and taken back |
//! | all have it | failed | taken over whole from a member |

use std::ops::Range;

use bytes::Bytes;
use tokio::time::Instant;
use wire::brick::{Again, BrickReply, BrickRequest, ChainRef, Change, Extent, WriterId};
use wire::chunk::{BLOCK_BYTES, ChunkKey, MAX_CHUNK_BYTES, MAX_IO_BYTES};
use wire::id::{BootId, BrickId, CallSeq, ChunkVersion, MapEpoch};
use wire::map::MemberState;
use wire::net::{CallError, Delivery};
use wire::status::{FsError, Status};

use crate::brick::{Brick, Place, lock, version_of};
use crate::chain::lineages::InDoubt;
use crate::chain::rules::Wish;
use crate::chain::runs::{Changed, Part};
use crate::chain::writers::Answer;
use crate::error::status_of;
use crate::ops::{copy, repair};
use crate::store::{ChunkStore, Header, Prepared, StoreError};

/// What became of a change at one member.
enum Ack {
    /// It has it, in this life; what that did to the bytes allocated there.
    Done(BootId, i64),
    /// It needs the chunk whole; it is at this version.
    Behind(ChunkVersion),
    /// It certainly did nothing.
    Refused(Status),
    /// Nobody knows.
    Unknown,
}

impl Ack {
    fn is_taken(&self) -> bool {
        matches!(self, Ack::Done(..) | Ack::Behind(_))
    }
}

/// Whether a change is one that a chunk can have.
///
/// # Errors
/// [`Status::Malformed`].
pub fn check_range(change: &Change, payload: &Bytes) -> Result<(), Status> {
    let fits = match change {
        Change::Write { offset } => {
            !payload.is_empty()
                && payload.len() <= MAX_IO_BYTES as usize
                && u64::from(*offset) + payload.len() as u64 <= u64::from(MAX_CHUNK_BYTES)
        }
        Change::Punch { offset, len } => {
            payload.is_empty() && u64::from(*offset) + u64::from(*len) <= u64::from(MAX_CHUNK_BYTES)
        }
    };
    if fits { Ok(()) } else { Err(Status::Malformed) }
}

/// Prepares a change; repairs blocks it has to complete, and frees what waits for a commit if
/// there is no room.
///
/// # Errors
/// As a status.
pub async fn prepare_with_repair(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
    base: ChunkVersion,
    change: Change,
    payload: &Bytes,
) -> Result<Prepared, Status> {
    let attempt = || {
        let payload = payload.clone();
        brick.on_disk(move |store| store.prepare(key, base, change, &payload))
    };
    match attempt().await? {
        Err(StoreError::Corrupt { version, blocks, .. }) => {
            repair::blocks(brick, place, key, version, &blocks).await?;
        }
        Err(StoreError::NoSpace) => brick.commit().await?,
        other => return other.map_err(|e| status_of(&e)),
    }
    attempt().await?.map_err(|e| status_of(&e))
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The chain.
    pub chain: ChainRef,
    /// The chunk.
    pub key: ChunkKey,
    /// Who.
    pub writer: WriterId,
    /// Its session waits for nothing below.
    pub answered_below: CallSeq,
    /// What.
    pub change: Change,
}

/// See the module's head. `again`: it was acknowledged before.
///
/// # Errors
/// As a status.
pub async fn change(
    brick: &Brick,
    map: MapEpoch,
    call: Call,
    again: Option<Again>,
    payload: Bytes,
) -> Result<BrickReply, Status> {
    let Call { chain, key, writer, change, .. } = call;
    check_range(&change, &payload)?;
    brick.admit(map, chain, Wish::Change).await?;
    brick.make_room().await?;
    let _gate = brick.alone(key).await?;
    // Before the session is looked at, so that it is either refused or known to be on its way.
    let _flight = brick.flights.begin(chain.id, writer.session);
    let place = brick.admit_now(chain, Wish::Change)?;
    brick.check_session(&place, writer.session)?;
    let mut under_way = UnderWay { brick, call, over: false };
    let done = match again {
        Some(again) => do_again(brick, &place, call, &again, payload).await,
        None => carry_out(brick, &place, call, payload).await,
    };
    under_way.over = true;
    done
}

/// A change under way. Should its caller be gone before it is through, its chunk is noted.
struct UnderWay<'a> {
    brick: &'a Brick,
    call: Call,
    over: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.over {
            let Call { chain, key, writer, .. } = self.call;
            self.brick.pending.add(self.brick, key, chain.id, writer.session);
        }
    }
}

/// Refuses what comes so late that its caller has long had the answer of a repetition.
fn check_wanted(brick: &Brick, call: &Call) -> Result<(), Status> {
    let wanted = lock(&brick.writers).is_wanted(call.writer, call.answered_below);
    if wanted { Ok(()) } else { Err(Status::Malformed) }
}

/// One that was acknowledged before: does what of it is not there, where nothing later was written (see [`crate::chain::lineages`]). So
/// it may be repeated, as a whole or after some of it was done.
async fn do_again(
    brick: &Brick,
    place: &Place,
    call: Call,
    again: &Again,
    payload: Bytes,
) -> Result<BrickReply, Status> {
    let key = call.key;
    check_wanted(brick, &call)?;
    let whole = range_of(&call.change, &payload);
    let now_at = version_of(brick.chunk(key).await?.as_ref());
    let judged = lock(&brick.lineages).judge(key, again, whole.clone(), now_at, Instant::now());
    let parts = judged.map_err(|InDoubt| Status::Overtaken)?;
    let (mut there, mut members) = (Vec::with_capacity(parts.len()), None);
    for Part { range, there_at } in parts {
        let extent = Extent { offset: range.start, len: range.end - range.start };
        let version = match there_at {
            Some(version) => version,
            None => {
                let (change, payload) = part_of(&call.change, &payload, &whole, &range);
                match carry_out_part(brick, place, Call { change, ..call }, again.first, payload).await? {
                    Some(done) => {
                        members = Some(done.members);
                        done.version
                    }
                    None => now_at,
                }
            }
        };
        there.push((extent, version));
    }
    let members = match members {
        Some(members) => members,
        None => level_all(brick, place, key).await?,
    };
    brick.metrics.changes.add(1);
    Ok(BrickReply::ThereAgain { parts: there, members: with_me(brick, members) })
}

/// A part of a change of the bytes `whole`.
fn part_of(change: &Change, payload: &Bytes, whole: &Range<u32>, range: &Range<u32>) -> (Change, Bytes) {
    let Range { start, end } = *range;
    match change {
        Change::Write { .. } => {
            let of_payload = (start - whole.start) as usize..(end - whole.start) as usize;
            (Change::Write { offset: start }, payload.slice(of_payload))
        }
        Change::Punch { .. } => (Change::Punch { offset: start, len: end - start }, Bytes::new()),
    }
}

/// Does a part of what is sent again; nothing, if there is nothing to do.
async fn carry_out_part(
    brick: &Brick,
    place: &Place,
    call: Call,
    first: ChunkVersion,
    payload: Bytes,
) -> Result<Option<Done>, Status> {
    let header = brick.chunk(call.key).await?;
    if is_void(&call.change, header.as_ref()) {
        return Ok(None);
    }
    carry_out_at(brick, place, call, header, Some(first), payload).await.map(Some)
}

/// Whether a change would change nothing.
fn is_void(change: &Change, header: Option<&Header>) -> bool {
    matches!(*change, Change::Punch { offset, len } if len == 0 || header.is_none_or(|h| offset >= h.len))
}

/// The bytes that a change changes.
fn range_of(change: &Change, payload: &Bytes) -> Range<u32> {
    match *change {
        Change::Write { offset } => offset..offset + payload.len() as u32,
        Change::Punch { offset, len } => offset..offset + len,
    }
}

/// What a change that makes version `made` means to what is sent again; `first`: the version that it made first, if it is so itself.
pub fn changed_by(
    change: &Change,
    payload: &Bytes,
    made: ChunkVersion,
    first: Option<ChunkVersion>,
) -> Changed {
    Changed { range: range_of(change, payload), made, first }
}

/// What was done.
struct Done {
    version: ChunkVersion,
    allocated_delta_bytes: i64,
    /// The other members that have it.
    members: Vec<(BrickId, BootId)>,
    /// For the count.
    bytes: usize,
}

async fn carry_out(brick: &Brick, place: &Place, call: Call, payload: Bytes) -> Result<BrickReply, Status> {
    let Call { chain, key, writer, change, .. } = call;
    check_wanted(brick, &call)?;
    let known = lock(&brick.writers).find(key, writer);
    if let Some(answer) = known {
        if answer.epoch == chain.epoch && !answer.members.is_empty() {
            return Ok(reply(answer));
        }
        // It was done in another epoch, or under another head, and perhaps not by all.
        let members = level_all(brick, place, key).await?;
        let Answer { version, allocated_delta_bytes, .. } = answer;
        return Ok(finish(brick, &call, Done { version, allocated_delta_bytes, members, bytes: 0 }));
    }
    let header = brick.chunk(key).await?;
    let base = version_of(header.as_ref());
    if let Some(header) = header.filter(|h| h.writer == Some(writer)) {
        // It was done before, but perhaps not by all.
        let members = level_all(brick, place, key).await?;
        return Ok(finish(brick, &call, Done::of(&header, members, 0)));
    }
    // Where something may have been sent and lost before it leaves a trace all the same.
    let is_void = is_void(&change, header.as_ref());
    if is_void && !lock(&brick.lineages).keeps_traces(key, Instant::now()) {
        let members = vec![(brick.id, brick.boot)];
        return Ok(BrickReply::Changed { version: base, allocated_delta_bytes: 0, members });
    }
    let done = carry_out_at(brick, place, call, header, None, payload).await?;
    Ok(finish(brick, &call, done))
}

/// Has a change made by all members on what this copy is. `again`: the version that it made first, of one that is sent again.
async fn carry_out_at(
    brick: &Brick,
    place: &Place,
    call: Call,
    header: Option<Header>,
    again: Option<ChunkVersion>,
    payload: Bytes,
) -> Result<Done, Status> {
    let Call { chain, key, writer, change, .. } = call;
    let base = version_of(header.as_ref());
    let (to, floor) = {
        let lineages = lock(&brick.lineages);
        (lineages.next(key, base, Instant::now()), lineages.floor(key, base, Instant::now()))
    };
    let forward = BrickRequest::Forward { chain: place.chain, key, writer, base, to, change, again, floor };
    let bytes = payload.len();
    let others = place.others(brick.id)?;
    let (prepared, acks) = if bytes >= brick.config.parallel_bytes && brick.store.has_room(4 * bytes as u64) {
        tokio::join!(
            prepare_with_repair(brick, place, key, base, change, &payload),
            forward_all(brick, place, &others, &forward, &payload),
        )
    } else {
        let prepared = prepare_with_repair(brick, place, key, base, change, &payload).await?;
        let acks = forward_all(brick, place, &others, &forward, &payload).await;
        (Ok(prepared), acks)
    };
    // A member that does not serve yet is not waited for: it will be brought up to date.
    let mut missed = Vec::new();
    let syncing: Vec<BrickId> = place.chain()?.syncing().collect();
    let acks: Vec<_> = acks
        .into_iter()
        .filter(|(member, ack)| {
            let may = !ack.is_taken() && syncing.contains(member);
            let missed_here = may.then(|| brick.syncs.miss(chain, *member)).flatten();
            let stays = missed_here.is_none();
            missed.extend(missed_here);
            stays
        })
        .collect();
    if !acks.iter().all(|(_, ack)| ack.is_taken()) {
        let status = refusal(&acks);
        return Err(undo(brick, place, &call, &acks, status).await);
    }
    // The members may have taken long: the map may have blocked the session meanwhile, or this
    // process may have stood still until others took over.
    if let Err(status) =
        brick.admit_now(chain, Wish::Change).and_then(|now| brick.check_session(&now, writer.session))
    {
        return Err(undo(brick, place, &call, &acks, status).await);
    }
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(status) => return take_over(brick, place, &call, to, &acks, status).await,
    };
    let changed = changed_by(&change, &payload, to, again);
    let lineages = brick.lineages.clone();
    let publish = move |store: &dyn ChunkStore| {
        let header = store.publish(prepared, chain.id, Some(writer), to)?;
        lock(&lineages).changed(key, &changed, floor, Instant::now());
        Ok(header)
    };
    let header = match brick.disk_in(chain, Some(writer.session), publish).await {
        Ok(header) => header,
        Err(status) => {
            brick.pending.add(brick, key, chain.id, writer.session);
            return Err(status);
        }
    };
    let (header, members) = complete(brick, place, &call, header, acks).await?;
    drop(missed);
    Ok(Done::of(&header, members, bytes))
}

impl Done {
    fn of(header: &Header, members: Vec<(BrickId, BootId)>, bytes: usize) -> Done {
        let allocated_delta_bytes = i64::from(header.delta_blocks) * i64::from(BLOCK_BYTES);
        Done { version: header.version, allocated_delta_bytes, members, bytes }
    }
}

fn reply(answer: Answer) -> BrickReply {
    BrickReply::Changed {
        version: answer.version,
        allocated_delta_bytes: answer.allocated_delta_bytes,
        members: answer.members,
    }
}

/// The members that have a change, this one first.
fn with_me(brick: &Brick, others: Vec<(BrickId, BootId)>) -> Vec<(BrickId, BootId)> {
    [(brick.id, brick.boot)].into_iter().chain(others).collect()
}

fn finish(brick: &Brick, call: &Call, done: Done) -> BrickReply {
    let Done { version, allocated_delta_bytes, members, bytes } = done;
    let members = with_me(brick, members);
    let answer = Answer { epoch: call.chain.epoch, version, allocated_delta_bytes, members };
    lock(&brick.writers).record(call.key, call.writer, answer.clone());
    brick.metrics.changes.add(1);
    brick.metrics.change_bytes.add(bytes as u64);
    reply(answer)
}

/// Sends the change to all other members at once.
async fn forward_all(
    brick: &Brick,
    place: &Place,
    others: &[BrickId],
    forward: &BrickRequest,
    payload: &Bytes,
) -> Vec<(BrickId, Ack)> {
    let one = |to: BrickId| async move {
        (to, judge(brick, place, to, brick.ask(place, to, forward.clone(), payload.clone()).await))
    };
    // Chains have two or three members: at most two others.
    let mut acks = Vec::with_capacity(others.len());
    for pair in others.chunks(2) {
        match *pair {
            [a, b] => {
                let (a, b) = tokio::join!(one(a), one(b));
                acks.extend([a, b]);
            }
            [a] => acks.push(one(a).await),
            _ => {}
        }
    }
    acks
}

fn judge(brick: &Brick, place: &Place, from: BrickId, answer: Result<(BrickReply, Bytes), CallError>) -> Ack {
    match answer {
        Ok((BrickReply::Changed { members, allocated_delta_bytes, .. }, _)) => match members.first() {
            Some((_, boot)) => Ack::Done(*boot, allocated_delta_bytes),
            None => Ack::Unknown,
        },
        Ok(_) => Ack::Unknown,
        Err(CallError::Status(Status::Behind(version))) => Ack::Behind(version),
        // A bad block there which it could not repair: it gets the chunk whole.
        Err(CallError::Status(Status::Corrupt)) => Ack::Behind(ChunkVersion(0)),
        Err(CallError::Status(status)) => {
            tracing::debug!(brick = %brick.id, %from, chain = %place.chain.id, %status, "a member refused");
            // Busy also stands for a chain that changed while we waited.
            if status == Status::Busy { Ack::Unknown } else { Ack::Refused(status) }
        }
        Err(error) => {
            tracing::debug!(brick = %brick.id, %from, chain = %place.chain.id, %error, "a member is away");
            match error.delivery() {
                Delivery::NotSent => Ack::Refused(Status::Busy),
                Delivery::Sent => Ack::Unknown,
            }
        }
    }
}

/// What the caller is told when not all members took a change.
fn refusal(acks: &[(BrickId, Ack)]) -> Status {
    let refusals = acks.iter().filter_map(|(_, ack)| match ack {
        Ack::Refused(status) => Some(*status),
        _ => None,
    });
    for status in refusals {
        match status {
            // The member's word is the chain's word.
            Status::Fs(FsError::NoSpace) | Status::SessionGone | Status::Malformed => return status,
            _ => {}
        }
    }
    // A member that knows more than this brick, or can't be reached: the next heartbeat brings
    // the map that settles it.
    Status::Busy
}

/// Takes a change back that this copy does not show: from the members that have it, now or in
/// the background. Returns what the caller is told: a refusal for good only if no member can
/// show the change any more, now or as the next head.
async fn undo(brick: &Brick, place: &Place, call: &Call, acks: &[(BrickId, Ack)], status: Status) -> Status {
    let untouched = |ack: &Ack| matches!(ack, Ack::Refused(_));
    if acks.iter().all(|(_, ack)| untouched(ack)) {
        return status;
    }
    let in_doubt = acks.iter().any(|(_, ack)| matches!(ack, Ack::Unknown));
    // Noted first: the caller of this may be gone before it is through.
    brick.pending.add(brick, call.key, place.chain.id, call.writer.session);
    if !in_doubt && level_all(brick, place, call.key).await.is_ok() {
        return status;
    }
    match status {
        Status::Fs(_) | Status::Malformed => Status::Busy,
        status => status,
    }
}

/// The members have the change and this copy could not take it: it takes theirs.
async fn take_over(
    brick: &Brick,
    place: &Place,
    call: &Call,
    to: ChunkVersion,
    acks: &[(BrickId, Ack)],
    failure: Status,
) -> Result<Done, Status> {
    let all: Vec<_> = acks
        .iter()
        .filter_map(|(member, ack)| match ack {
            Ack::Done(boot, _) => Some((*member, *boot)),
            _ => None,
        })
        .collect();
    let taken = match all.first() {
        Some((from, _)) if all.len() == acks.len() => copy::pull(brick, place, call.key, *from).await.ok(),
        _ => None,
    };
    match taken.flatten().filter(|header| header.version == to) {
        Some(header) => {
            // What it did to a copy that took it as it came: zeros may be holes here.
            let delta = acks.iter().find_map(|(_, ack)| match ack {
                Ack::Done(_, delta) => Some(*delta),
                _ => None,
            });
            let allocated_delta_bytes = delta.unwrap_or(0);
            Ok(Done { version: header.version, allocated_delta_bytes, members: all, bytes: 0 })
        }
        None => Err(undo(brick, place, call, acks, failure).await),
    }
}

/// Gives the published chunk whole to members that were behind. Returns what it is then, and
/// the members' lives.
async fn complete(
    brick: &Brick,
    place: &Place,
    call: &Call,
    header: Header,
    acks: Vec<(BrickId, Ack)>,
) -> Result<(Header, Vec<(BrickId, BootId)>), Status> {
    let ahead = acks.iter().any(|(_, ack)| matches!(ack, Ack::Behind(version) if *version >= header.version));
    let behind = acks.iter().any(|(_, ack)| matches!(ack, Ack::Behind(_)));
    if !behind {
        let done = acks.into_iter().filter_map(|(member, ack)| match ack {
            Ack::Done(boot, _) => Some((member, boot)),
            _ => None,
        });
        return Ok((header, done.collect()));
    }
    if ahead {
        tracing::info!(brick = %brick.id, chunk = %call.key, version = %header.version, "a member held a change nobody acknowledged");
    }
    let levelled = level_all(brick, place, call.key).await;
    let note = || brick.pending.add(brick, call.key, place.chain.id, call.writer.session);
    let members = levelled.inspect_err(|_| note())?;
    // Levelling may have raised the version.
    let version = brick.chunk(call.key).await?.map_or(header.version, |now| now.version);
    Ok((Header { version, ..header }, members))
}

/// Makes all other members hold what this copy holds. Returns their lives. Those that do not
/// serve yet may miss it.
///
/// # Errors
/// As a status, none of which is a refusal for good: the chunk may be as its caller wants it.
pub async fn level_all(
    brick: &Brick,
    place: &Place,
    key: ChunkKey,
) -> Result<Vec<(BrickId, BootId)>, Status> {
    let mut members = Vec::new();
    for to in place.others(brick.id)? {
        match copy::level(brick, place, key, to).await {
            Ok(boot) => members.push((to, boot)),
            Err(status) => {
                let syncing = place.chain()?.state_of(to) == Some(MemberState::Syncing);
                // What it misses is published already.
                if !syncing || brick.syncs.miss(place.chain, to).is_none() {
                    return Err(if let Status::Fs(_) = status { Status::Busy } else { status });
                }
            }
        }
    }
    Ok(members)
}
