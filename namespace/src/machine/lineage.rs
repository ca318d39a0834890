//! Whether the state comes after a map that somebody has seen, and what it adopts where it does not.
//!
//! 1. Of every map of late its mark is remembered: a state that was set back and went on has other maps of the same epochs, and who
//!    saw the lost ones is told apart from who saw its own (`a_state_that_was_set_back_and_went_on_knows_what_it_does_not`).
//! 2. What is adopted is above all that the lost states may have given: epochs, chains' epochs, numbers of inodes, sessions, locks and
//!    bricks; so what bricks remember of a lost number never meets a new thing of that number (`no_lost_number_is_given_again`).
//! 3. Chunks of inodes that only the lost states knew are kept until that is taken back (`what_lost_names_had_is_kept`).

use wire::id::{ChainEpoch, LockGeneration, MapEpoch, SessionId, StoreId};
use wire::map::ClusterMap;
use wire::mark::MapMark;
use wire::meta::MapMemory;
use wire::status::Status;

use std::collections::BTreeSet;

use crate::error::Error;
use crate::machine::command::Outcome;
use crate::machine::txn::{Do, Txn, load};
use crate::machine::{bricks, inodes, sessions, trims, wishes};
use crate::store::records::Session;
use crate::store::records::decode;
use crate::store::{Read, keys};

/// Marks that are remembered: of so many maps.
pub const MARKS: u64 = 1 << 14;
/// Epochs of the map, and of chains, that the lost states may have given beyond what any brick has seen. A map comes with every brick
/// or session that comes or goes: a thousand a second for a quarter of an hour, and what bricks see they see within a second.
pub const LOST_EPOCHS: u64 = 1 << 20;
/// Inodes they may have given: a million a second for half a year. There is room for a million such losses.
pub const LOST_INODES: u64 = 1 << 44;
/// Sessions they may have given, and locks: a thousand a second for seven weeks.
pub const LOST_SESSIONS: u64 = 1 << 32;
/// See [`LOST_SESSIONS`]; locks come as fast as files.
pub const LOST_LOCKS: u64 = 1 << 44;

/// Whether a state with this map comes after a map that somebody has seen. Of those that are older than the marks go back it does.
///
/// # Errors
/// If the state can't be read.
pub fn knows(state: &dyn Read, map: &ClusterMap, saw: MapMemory) -> Result<bool, Error> {
    if saw.epoch > map.epoch {
        return Ok(false);
    }
    if saw.epoch == map.epoch {
        return Ok(MapMark::of(map) == saw.mark);
    }
    let ours: Option<MapMark> = load(state, &keys::mark(saw.epoch))?;
    Ok(ours.is_none_or(|mark| mark == saw.mark))
}

/// Remembers the mark of the map, and forgets an old one.
///
/// # Errors
/// Never for a map; the encoder's signature allows it.
pub fn note(txn: &mut Txn<'_>) -> Result<(), Error> {
    let map = txn.map.clone();
    txn.set(keys::mark(map.epoch), Some(crate::store::records::encode(&MapMark::of(&map))?));
    if let Some(old) = map.epoch.0.checked_sub(MARKS) {
        txn.delete(keys::mark(MapEpoch(old)));
    }
    Ok(())
}

/// Goes on with a map that bricks have seen and this state does not know. One that it knows changes nothing.
pub fn adopt(txn: &mut Txn<'_>, newest: &ClusterMap) -> Do<Outcome> {
    let before = txn.map.clone();
    if newest.cluster != before.cluster || newest.verify().is_err() {
        return Err(Status::Malformed.into());
    }
    let saw = MapMemory { epoch: newest.epoch, mark: MapMark::of(newest) };
    if knows(txn, &before, saw)? {
        return Ok(Outcome::Done);
    }
    let far = |number: u64, lost: u64| number.checked_add(lost).ok_or(Status::Malformed);
    let mut map = newest.clone();
    map.epoch = MapEpoch(far(map.epoch.max(before.epoch).0, LOST_EPOCHS)?);
    for chain in map.chains.values_mut() {
        let known = before.chains.get(&chain.id).map_or(0, |known| known.epoch.0);
        chain.epoch = ChainEpoch(far(chain.epoch.0.max(known), LOST_EPOCHS)?);
    }
    let lost = (txn.counters.next_session, far(txn.counters.next_session, LOST_SESSIONS)?);
    map.blocked.extend(&before.blocked);
    map.blocked.insert_all(SessionId(lost.0), SessionId(lost.1 - 1), map.epoch);
    txn.counters.next_session = lost.1;
    let next = far(txn.counters.next_ino.max(newest.inodes_below), LOST_INODES)?;
    inodes::lose(txn, next)?;
    map.inodes_below = next + inodes::BLOCK;
    let locks: LockGeneration = txn.load(keys::LOCK_GENERATION)?.unwrap_or_default();
    txn.put(keys::LOCK_GENERATION.to_vec(), &LockGeneration(far(locks.0, LOST_LOCKS)?))?;
    // The marks are those of maps that were not seen by those who go on.
    for (key, _) in txn.all(keys::MARKS)? {
        txn.delete(key);
    }
    *txn.change_map() = map;
    keep_wishes(txn, &before)?;
    trims::renew(txn)?;
    end_sessions(txn)?;
    let alive: Vec<_> = txn.map.bricks.values().filter(|b| b.alive).map(|b| b.id).collect();
    for brick in alive {
        bricks::admit(txn, brick)?;
    }
    Ok(Outcome::Done)
}

/// What was wanted stays wanted of the bricks that are there, and disks that were replaced since do not come back.
fn keep_wishes(txn: &mut Txn<'_>, before: &ClusterMap) -> Do<()> {
    let map = txn.map.clone();
    let mut wishes = wishes::load(txn)?;
    let above = map.bricks.keys().next_back().map_or(0, |last| last.0.saturating_add(1));
    wishes.next_brick = wishes.next_brick.max(above);
    wishes.draining.retain(|brick| map.bricks.contains_key(brick));
    wishes::store(txn, &wishes)?;
    let mut former: BTreeSet<StoreId> = txn.load(keys::FORMER_STORES)?.unwrap_or_default();
    let replaced = before.bricks.values().filter(|was| {
        was.store != StoreId([0; 16]) && map.bricks.get(&was.id).is_some_and(|now| now.store != was.store)
    });
    former.extend(replaced.map(|was| was.store));
    // A disk that is in its place now was let in.
    former.retain(|store| map.bricks.values().all(|brick| brick.store != *store));
    txn.put(keys::FORMER_STORES.to_vec(), &former)?;
    txn.delete(keys::GIVEN_UP.to_vec());
    Ok(())
}

/// Sessions that have ended since are over here as well.
fn end_sessions(txn: &mut Txn<'_>) -> Do<()> {
    let map = txn.map.clone();
    for (key, value) in txn.all(b"S")? {
        decode::<Session>(&key, &value)?;
        if let Some(session) = keys::first(&key).map(SessionId)
            && map.blocked.contains_key(&session)
        {
            sessions::end(txn, session, false)?;
        }
    }
    Ok(())
}
