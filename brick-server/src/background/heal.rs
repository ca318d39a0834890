//! Levels chunks whose copies may differ: a change whose fate at a member is unknown, or a
//! trim that met a copy on its way.
//!
//! Period: half a second while there is something to do. Budget: one chunk at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wire::brick::ChainRef;
use wire::chunk::ChunkKey;
use wire::id::{ChainId, ChunkVersion};
use wire::map::MemberState;
use wire::status::Status;

use crate::brick::{Brick, Place, lock};
use crate::chain::rules::Wish;
use crate::config::PENDING_CHUNKS;
use crate::ops::{copy, trim};

/// A chunk is looked at no sooner than this after it was noted: mostly a retry or the other
/// member's own trim has settled it by then.
const AFTER: Duration = Duration::from_millis(1000);
/// Period of the loop.
const PERIOD: Duration = Duration::from_millis(500);

/// What is to be done about a chunk.
#[derive(Debug, Clone, Copy)]
struct Note {
    chain: ChainId,
    /// It was trimmed here, having had this version.
    trimmed: Option<ChunkVersion>,
    since: Instant,
}

/// Chunks to be levelled.
#[derive(Debug, Default)]
pub struct Pending {
    notes: Mutex<BTreeMap<ChunkKey, Note>>,
}

impl Pending {
    /// The copies of a chunk may differ.
    pub(crate) fn add(&self, brick: &Brick, key: ChunkKey, chain: ChainId) {
        self.note(brick, key, Note { chain, trimmed: None, since: Instant::now() });
    }

    /// A chunk was trimmed here after it was copied.
    pub(crate) fn add_trimmed(&self, brick: &Brick, key: ChunkKey, chain: ChainId, version: ChunkVersion) {
        self.note(brick, key, Note { chain, trimmed: Some(version), since: Instant::now() });
    }

    fn note(&self, brick: &Brick, key: ChunkKey, note: Note) {
        let mut notes = lock(&self.notes);
        if notes.len() < PENDING_CHUNKS {
            notes.insert(key, note);
            return;
        }
        // Too many to remember one by one: the whole chain is compared anew.
        notes.retain(|_, other| other.chain != note.chain);
        drop(notes);
        brick.set_unsure(note.chain);
    }

    fn due(&self) -> Vec<(ChunkKey, Note)> {
        let notes = lock(&self.notes);
        notes.iter().filter(|(_, n)| n.since.elapsed() >= AFTER).map(|(k, n)| (*k, *n)).collect()
    }

    fn done(&self, key: ChunkKey, note: &Note) {
        let mut notes = lock(&self.notes);
        // One that was noted again meanwhile stays.
        if notes.get(&key).is_some_and(|now| now.since == note.since) {
            notes.remove(&key);
        }
    }
}

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
        biased;
                    () = tokio::time::sleep(PERIOD) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
        for (key, note) in brick.pending.due() {
            if *stop.borrow() {
                return;
            }
            match settle(&brick, key, &note).await {
                Ok(()) => brick.pending.done(key, &note),
                Err(status) => tracing::debug!(brick = %brick.id, chunk = %key, %status, "not levelled yet"),
            }
        }
    }
}

async fn settle(brick: &Brick, key: ChunkKey, note: &Note) -> Result<(), Status> {
    let map = brick.map();
    let Some(chain) = map.chains.get(&note.chain) else { return Ok(()) };
    if chain.state_of(brick.id) != Some(MemberState::Serving) {
        // Whoever serves will compare the whole chain with this copy.
        return Ok(());
    }
    let here = ChainRef { id: chain.id, epoch: chain.epoch };
    let place = brick.admit_now(here, Wish::Read)?;
    if let Some(version) = note.trimmed {
        trim::tell(brick, &place, key, version).await?;
    }
    if chain.head() == Some(brick.id) { level_chunk(brick, &place, key).await } else { Ok(()) }
}

/// Makes all copies of a chunk equal: the highest version wins.
async fn level_chunk(brick: &Brick, place: &Place, key: ChunkKey) -> Result<(), Status> {
    let _gate = brick.alone(key).await?;
    brick.admit_now(place.chain, Wish::Change)?;
    let others = place.others(brick.id)?;
    let serving: Vec<_> = place.chain()?.serving().filter(|b| *b != brick.id).collect();
    for from in serving {
        let mine = copy::ours(brick, key).await?;
        let Some(other) = copy::theirs(brick, place, key, from).await? else { continue };
        // Where there is nothing here, it was trimmed here, or never acknowledged.
        if mine.is_some_and(|mine| other.version > mine.version) {
            copy::pull(brick, place, key, from).await?;
        }
    }
    for to in others {
        copy::level(brick, place, key, to).await?;
    }
    Ok(())
}
