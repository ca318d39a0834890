//! Whether what a member holds is what all members hold.
//!
//! A member that took over a change marks its chunk (see [`crate::chain::marks`]) and asks the
//! head before it shows it: the head publishes when all have the change, and keeps a note of
//! what it could not bring everywhere.

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest, ChainRef};
use wire::chunk::ChunkKey;
use wire::id::{BrickId, ChunkVersion, MapEpoch, SessionId};
use wire::status::Status;

use crate::brick::{Brick, Place, lock, version_of};
use crate::chain::marks::Mark;
use crate::chain::rules::Wish;
use crate::config::MARKS_A_CALL;
use crate::ops::copy;

/// The head's answer: which versions it stands by.
///
/// # Errors
/// As a status.
pub async fn settled(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    keys: Vec<ChunkKey>,
    wait: bool,
) -> Result<BrickReply, Status> {
    if keys.len() > MARKS_A_CALL {
        return Err(Status::Malformed);
    }
    let place = brick.admit(map, chain, Wish::Change).await?;
    let over = |session: &SessionId| place.map.blocked.contains_key(session);
    // A change of a blocked session may be on one member and not on another: until that is put
    // right only this copy shows the chain.
    if brick.flights.has_of(chain.id, over) || brick.pending.has_in(chain.id, over) {
        return Err(Status::Busy);
    }
    let mut versions = Vec::with_capacity(keys.len());
    for key in keys {
        let gate = if wait { Some(brick.shared(key).await?) } else { brick.gates.try_shared(key) };
        if gate.is_none() || brick.pending.has(key) {
            versions.push(None);
            continue;
        }
        versions.push(Some(version_of(brick.chunk(key).await?.as_ref())));
    }
    // Had the chain changed meanwhile, somebody else would speak for it.
    brick.admit_now(chain, Wish::Change)?;
    Ok(BrickReply::Settled { versions })
}

/// Makes sure that nothing of the sessions that are blocked by now is left on some members only:
/// who looks for it here and does not find it must not find it elsewhere later.
///
/// # Errors
/// [`Status::Busy`] if there is: the head is to be asked then.
pub async fn clear_blocked(brick: &Brick, place: &Place) -> Result<(), Status> {
    let (chain, now) = (place.chain.id, place.map.epoch);
    let known = lock(&brick.cleared).get(&chain).copied().unwrap_or(MapEpoch(0));
    if known >= now {
        return Ok(());
    }
    if place.map.blocked.newest().is_some_and(|newest| newest >= known) {
        // Of no chunk, so whatever gate is held here is in nobody's way.
        resolve(brick, place, &[], true).await?;
    }
    let mut cleared = lock(&brick.cleared);
    let known = cleared.entry(chain).or_insert(now);
    *known = (*known).max(now);
    Ok(())
}

/// The head makes a member's copy equal to its own.
///
/// # Errors
/// As a status.
pub async fn level(
    brick: &Brick,
    map: MapEpoch,
    chain: ChainRef,
    key: ChunkKey,
    member: BrickId,
) -> Result<BrickReply, Status> {
    brick.admit(map, chain, Wish::Change).await?;
    let _gate = brick.alone(key).await?;
    let place = brick.admit_now(chain, Wish::Change)?;
    if !place.others(brick.id)?.contains(&member) {
        return Err(Status::WrongMember);
    }
    copy::equalise(brick, &place, key, member).await?;
    Ok(BrickReply::Done)
}

/// Asks the head to make this copy equal to its own. No gate may be held here.
///
/// # Errors
/// As a status.
pub async fn ask_to_level(brick: &Brick, place: &Place, key: ChunkKey) -> Result<(), Status> {
    let head = place.chain()?.head().ok_or(Status::Busy)?;
    let request = BrickRequest::Level { chain: place.chain, key, member: brick.id };
    match brick.ask(place, head, request, Bytes::new()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(copy::status_of_call(&error)),
    }
}

/// Asks the head about marked chunks and clears the marks of those that are as the head has
/// them; those that are not are levelled. No gate may be held here. Returns how many stay
/// marked.
///
/// # Errors
/// As a status.
pub async fn resolve(
    brick: &Brick,
    place: &Place,
    marks: &[(ChunkKey, Mark)],
    wait: bool,
) -> Result<usize, Status> {
    let head = place.chain()?.head().ok_or(Status::Busy)?;
    let keys = marks.iter().map(|(key, _)| *key).collect();
    let request = BrickRequest::Settled { chain: place.chain, keys, wait };
    let versions = match brick.ask(place, head, request, Bytes::new()).await {
        Ok((BrickReply::Settled { versions }, _)) if versions.len() == marks.len() => versions,
        Ok(_) => return Err(Status::Busy),
        Err(error) => return Err(copy::status_of_call(&error)),
    };
    let mut left = 0;
    for ((key, mark), settled) in marks.iter().zip(versions) {
        let Some(settled) = settled else {
            left += 1;
            continue;
        };
        let mine: ChunkVersion = version_of(brick.chunk(*key).await?.as_ref());
        if mine == settled {
            // One that was set anew meanwhile stays.
            lock(&brick.marks).clear(*key, *mark);
        } else {
            left += 1;
            if lock(&brick.marks).find(*key) == Some(*mark) {
                ask_to_level(brick, place, *key).await?;
            }
        }
    }
    Ok(left)
}
