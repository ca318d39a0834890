//! Chunks that have to go: recorded with the change that makes them superfluous, done by the
//! bricks afterwards, for as long as it takes: those of files that are gone one by one, those of files that stay by all that live at once
//! (see [`crate::background::rounds`]).
//!
//! A brick that was dead when its chunks should have been cut owes that before it may be in
//! a chain again: a later cut would take data that were synced to it meanwhile. So
//! [`crate::machine::bricks`] lets it back in only when it owes nothing.

use std::collections::{BTreeMap, BTreeSet};

use wire::chunk::ChunkKey;
use wire::id::{BrickId, ChainId, Ino};
use wire::layout::FileLayout;
use wire::map::{Chain, ClusterMap, MemberState};
use wire::meta::FileKind;

use crate::error::Error;
use crate::machine::bricks;
use crate::machine::command::{CutAck, TrimAck};
use crate::machine::inodes;
use crate::machine::locks;
use crate::machine::txn::{Do, Txn, load};
use crate::store::records::{Inode, Trim};
use crate::store::{Read, keys};

/// Where superfluous chunks may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// Anywhere: somebody wrote without telling.
    AllBricks,
    /// Where the layout puts the bytes from here to there.
    Range(u64, u64),
}

/// The bricks meant by `targets`.
fn bricks_of(map: &ClusterMap, layout: &FileLayout, targets: Targets) -> BTreeSet<BrickId> {
    let Targets::Range(from, to) = targets else { return map.bricks.keys().copied().collect() };
    let chains = layout.chains_of(map, from..to).filter_map(|id| map.chains.get(&id));
    chains.flat_map(|chain| chain.members.iter().map(|member| member.brick)).collect()
}

/// Records that nothing of the file beyond `size` is to exist.
pub fn record(txn: &mut Txn<'_>, ino: Ino, inode: &Inode, size: u64, targets: Targets) -> Do<()> {
    if inode.kind != FileKind::File || !inode.written {
        return Ok(());
    }
    let bricks = bricks_of(&txn.map, &inode.layout, targets);
    owe(txn, ino, inode.layout.chunk_bytes, size, bricks)
}

/// Makes bricks owe it that nothing of the file beyond `size` is there.
fn owe(txn: &mut Txn<'_>, ino: Ino, chunk_bytes: u32, size: u64, bricks: BTreeSet<BrickId>) -> Do<()> {
    let before: Option<Trim> = txn.load(&keys::trim(ino))?;
    let mut owed = before.as_ref().map(|t| t.owed.clone()).unwrap_or_default();
    // What a brick owes already stays owed: all it has beyond the smaller size is older.
    for kept in owed.values_mut() {
        *kept = (*kept).min(size);
    }
    for brick in bricks {
        owed.entry(brick).or_insert(size);
    }
    store(txn, ino, before, Trim { chunk_bytes, owed })?;
    txn.effects.trims.push(ino);
    Ok(())
}

/// Whether living bricks owe cuts of a file.
///
/// # Errors
/// If the state cannot be read.
pub fn is_under_way(state: &dyn Read, map: &ClusterMap, ino: Ino) -> Result<bool, Error> {
    let Some(trim) = load::<Trim>(state, &keys::trim(ino))? else { return Ok(false) };
    Ok(trim.owed.keys().any(|brick| map.bricks.get(brick).is_some_and(|info| info.alive)))
}

/// Bricks have cut what they owed. An acknowledgement of more than the least that stays now
/// settles nothing.
pub fn done(txn: &mut Txn<'_>, acks: &[TrimAck]) -> Do<()> {
    let mut settled = BTreeSet::new();
    for ack in acks {
        let Some(before) = txn.load::<Trim>(&keys::trim(ack.ino))? else { continue };
        if before.owed.get(&ack.brick) != Some(&ack.size) {
            continue;
        }
        let mut after = before.clone();
        after.owed.remove(&ack.brick);
        store(txn, ack.ino, Some(before), after)?;
        settled.insert(ack.brick);
    }
    txn.effects.trimmed = true;
    for brick in settled {
        bricks::admit(txn, brick)?;
    }
    Ok(())
}

/// Files that stay were cut, by the map of the acknowledgement. By another one there may be members that have what was cut, and may give
/// it back: nothing is settled then.
pub fn cuts_done(txn: &mut Txn<'_>, acks: &[CutAck]) -> Do<()> {
    let epoch = txn.map.epoch;
    let mut settled = BTreeSet::new();
    for ack in acks.iter().filter(|ack| ack.map == epoch) {
        let Some(before) = txn.load::<Trim>(&keys::trim(ack.ino))? else { continue };
        let mut after = before.clone();
        for (brick, size) in &ack.bricks {
            if after.owed.get(brick) == Some(size) {
                after.owed.remove(brick);
                settled.insert(*brick);
            }
        }
        store(txn, ack.ino, Some(before), after)?;
    }
    txn.effects.trimmed = true;
    for brick in settled {
        bricks::admit(txn, brick)?;
    }
    Ok(())
}

/// Who takes part in a chain, and is given what its head has.
fn takes_part(chain: &Chain) -> BTreeSet<BrickId> {
    let is_up = |state| matches!(state, MemberState::Serving | MemberState::Syncing | MemberState::Leaving);
    chain.members.iter().filter(|member| is_up(member.state)).map(|member| member.brick).collect()
}

/// Chains have changed since `before`: who takes part in one from now on owes the cuts that those owe who did already, since it is given
/// copies by them. Nobody was told yet that these are done, so nothing was written in their place.
pub fn follow(txn: &mut Txn<'_>, before: &ClusterMap) -> Do<()> {
    if txn.map.epoch == before.epoch || txn.counters.owed.is_empty() {
        return Ok(());
    }
    let mut joined: Vec<(ChainId, BTreeSet<BrickId>, BTreeSet<BrickId>)> = Vec::new();
    for chain in txn.map.chains.values() {
        let Some(old) = before.chains.get(&chain.id).filter(|old| old.epoch != chain.epoch) else { continue };
        let were = takes_part(old);
        let new: BTreeSet<BrickId> = takes_part(chain).difference(&were).copied().collect();
        let owing: BTreeSet<BrickId> =
            were.into_iter().filter(|brick| txn.counters.owed.contains_key(brick)).collect();
        if !new.is_empty() && !owing.is_empty() {
            joined.push((chain.id, owing, new));
        }
    }
    if joined.is_empty() {
        return Ok(());
    }
    for (key, value) in txn.all(b"T")? {
        let trim: Trim = crate::store::records::decode(&key, &value)?;
        let Some(ino) = keys::first(&key).map(Ino) else { continue };
        // Of one that is gone nothing can come back.
        let Some(inode) = txn.load::<Inode>(&keys::inode(ino))? else { continue };
        let Some(table) = txn.map.tables.get(&inode.layout.table).cloned() else { continue };
        for (_, owing, new) in joined.iter().filter(|(chain, ..)| table.contains(chain)) {
            let least = owing.iter().filter_map(|brick| trim.owed.get(brick)).min();
            if let Some(size) = least {
                owe(txn, ino, trim.chunk_bytes, *size, new.clone())?;
            }
        }
    }
    Ok(())
}

/// The brick's disk was replaced: it has nothing to cut.
pub fn forget_brick(txn: &mut Txn<'_>, brick: BrickId) -> Do<()> {
    for (key, value) in txn.all(b"T")? {
        let before: Trim = crate::store::records::decode(&key, &value)?;
        if let Some(ino) = keys::first(&key)
            && before.owed.contains_key(&brick)
        {
            let mut after = before.clone();
            after.owed.remove(&brick);
            store(txn, Ino(ino), Some(before), after)?;
        }
    }
    txn.effects.trimmed = true;
    Ok(())
}

/// By a map with other bricks and chains than cuts were recorded by: of a file that ends where they cut, all bricks owe it anew,
/// since what lies behind that is of no use wherever it is. Of one that has grown again only those owed it that were not in its
/// chains; they have been brought up to date since, or will be.
pub fn renew(txn: &mut Txn<'_>) -> Do<()> {
    let all: BTreeSet<BrickId> = txn.map.bricks.keys().copied().collect();
    for (key, value) in txn.all(b"T")? {
        let before: Trim = crate::store::records::decode(&key, &value)?;
        let Some(ino) = keys::first(&key).map(Ino) else { continue };
        let least = before.owed.values().min().copied().unwrap_or_default();
        let chunk_bytes = before.chunk_bytes;
        store(txn, ino, Some(before), Trim { chunk_bytes, owed: BTreeMap::new() })?;
        let size = match txn.load::<Inode>(&keys::inode(ino))? {
            None => 0,
            Some(inode) if inode.dirty_tail || inode.size > least || txn.any(&keys::writers(ino))? => {
                continue;
            }
            Some(inode) => inode.size,
        };
        if !all.is_empty() {
            owe(txn, ino, chunk_bytes, size, all.clone())?;
        }
    }
    txn.effects.trimmed = true;
    Ok(())
}

/// Writes a trim, or deletes it when nobody owes anything, and keeps count.
fn store(txn: &mut Txn<'_>, ino: Ino, before: Option<Trim>, after: Trim) -> Do<()> {
    let empty = BTreeMap::new();
    let old = before.as_ref().map_or(&empty, |t| &t.owed);
    for brick in old.keys().filter(|b| !after.owed.contains_key(b)) {
        if let Some(count) = txn.counters.owed.get_mut(brick) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                txn.counters.owed.remove(brick);
            }
        }
    }
    for brick in after.owed.keys().filter(|b| !old.contains_key(b)) {
        *txn.counters.owed.entry(*brick).or_default() += 1;
    }
    match (before.is_some(), after.owed.is_empty()) {
        (false, false) => txn.counters.trims += 1,
        (true, true) => txn.counters.trims = txn.counters.trims.saturating_sub(1),
        _ => {}
    }
    let key = keys::trim(ino);
    if after.owed.is_empty() {
        if before.is_some() {
            txn.delete(key);
        }
        Ok(())
    } else {
        txn.put(key, &after)
    }
}

/// How a file with a chunk that is of no use is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Useless {
    /// Chunk size of the file, in bytes.
    pub chunk_bytes: u32,
    /// Bytes that stay.
    pub size: u64,
}

/// Whether a chunk that a brick has is of no use: its file is gone, or ends before it and
/// nobody writes to it. Nothing, if it may be of use or is about to be cut anyway.
///
/// Inode numbers are given once and before the first chunk is written, so a number that was
/// given and has no inode is of a file that is gone for good. A number that was never given is
/// of a later state than this one, which must not cut what it does not know; and so is one that
/// a lost state may have given, see [`crate::machine::inodes`].
///
/// # Errors
/// If the state cannot be read.
pub fn useless(state: &dyn Read, next_ino: u64, chunk: ChunkKey) -> Result<Option<Useless>, Error> {
    let ino = chunk.ino;
    if ino.0 >= next_ino || state.get(&keys::trim(ino))?.is_some() || state.any(&keys::writers(ino))? {
        return Ok(None);
    }
    let Some(inode) = load::<Inode>(state, &keys::inode(ino))? else {
        if inodes::is_lost(state, ino)? {
            return Ok(None);
        }
        return Ok(Some(Useless { chunk_bytes: FileLayout::default().chunk_bytes, size: 0 }));
    };
    let chunk_bytes = inode.layout.chunk_bytes;
    let start = chunk.index.saturating_mul(u64::from(chunk_bytes));
    let beyond = inode.kind == FileKind::File && !inode.dirty_tail && start >= inode.size;
    Ok(beyond.then_some(Useless { chunk_bytes, size: inode.size }))
}

/// Has all bricks cut the files of those `chunks` that are of no use now. Returns how many.
pub fn collect(txn: &mut Txn<'_>, chunks: &[ChunkKey]) -> Do<u64> {
    let mut files = 0;
    for chunk in chunks {
        let Some(found) = useless(txn, txn.counters.next_ino, *chunk)? else { continue };
        let all: BTreeSet<BrickId> = txn.map.bricks.keys().copied().collect();
        if !all.is_empty() {
            owe(txn, chunk.ino, found.chunk_bytes, found.size, all)?;
            files += 1;
        }
    }
    Ok(files)
}

/// Frees an inode without a name, unless a session writes to it. Others that have it open
/// are known to the proposer only, who does not propose it then.
pub fn reclaim(txn: &mut Txn<'_>, ino: Ino) -> Do<()> {
    if txn.get(&keys::orphan(ino))?.is_none() || txn.any(&keys::writers(ino))? {
        return Ok(());
    }
    txn.delete(keys::orphan(ino));
    txn.counters.orphans = txn.counters.orphans.saturating_sub(1);
    let Some(inode) = txn.load::<Inode>(&keys::inode(ino))? else { return Ok(()) };
    if inode.xattrs > 0 {
        for (key, _) in txn.all(&keys::xattr(ino, &[]))? {
            txn.delete(key);
        }
    }
    locks::drop_inode(txn, ino)?;
    txn.delete(keys::inode(ino));
    txn.delete(keys::cut(ino));
    txn.counters.inodes = txn.counters.inodes.saturating_sub(1);
    record(txn, ino, &inode, 0, Targets::Range(0, inode.size))
}
