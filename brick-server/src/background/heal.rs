//! Levels chunks whose copies may differ: a change whose fate at a member is unknown, or a
//! trim that met a copy on its way.
//!
//! Period: half a second while there is something to do. Budget: one chunk at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wire::brick::ChainRef;
use wire::chunk::ChunkKey;
use wire::id::{ChainId, ChunkVersion, SessionId};
use wire::map::MemberState;
use wire::status::Status;

use crate::brick::{Brick, Place, lock};
use crate::chain::rules::Wish;
use crate::config::PENDING_CHUNKS;
use crate::ops::{change, trim};

/// A chunk is looked at no sooner than this after it was noted: mostly a retry or the other
/// member's own trim has settled it by then.
const AFTER: Duration = Duration::from_millis(1000);
/// Period of the loop.
const PERIOD: Duration = Duration::from_millis(500);

/// What is to be done about a chunk.
#[derive(Debug, Clone)]
struct Note {
    chain: ChainId,
    /// It was trimmed here, having had this version.
    trimmed: Option<ChunkVersion>,
    /// Whose changes may be on some copies: of all that were noted until it is settled.
    sessions: BTreeSet<SessionId>,
    since: Instant,
}

/// Chunks to be levelled.
#[derive(Debug, Default)]
pub struct Pending {
    notes: Mutex<BTreeMap<ChunkKey, Note>>,
}

impl Pending {
    /// The copies of a chunk may differ: a change that was not acknowledged may be on some.
    pub(crate) fn add(&self, brick: &Brick, key: ChunkKey, chain: ChainId, session: SessionId) {
        let note = Note { chain, trimmed: None, sessions: BTreeSet::from([session]), since: Instant::now() };
        self.note(brick, key, note);
    }

    /// The copies of a chunk that are equal may have different numbers.
    pub(crate) fn add_uneven(&self, brick: &Brick, key: ChunkKey, chain: ChainId) {
        let note = Note { chain, trimmed: None, sessions: BTreeSet::new(), since: Instant::now() };
        self.note(brick, key, note);
    }

    /// Whether the copies of a chunk may differ.
    pub(crate) fn has(&self, key: ChunkKey) -> bool {
        lock(&self.notes).contains_key(&key)
    }

    /// Whether a change of one of these sessions may be on some copies of a chunk.
    pub(crate) fn has_of(&self, key: ChunkKey, blocked: impl Fn(&SessionId) -> bool) -> bool {
        lock(&self.notes).get(&key).is_some_and(|note| note.sessions.iter().any(blocked))
    }

    /// Whether a change of one of these sessions may be on some copies in a chain.
    pub(crate) fn has_in(&self, chain: ChainId, blocked: impl Fn(&SessionId) -> bool) -> bool {
        let notes = lock(&self.notes);
        notes.values().any(|note| note.chain == chain && note.sessions.iter().any(&blocked))
    }

    /// A chunk was trimmed here after it was copied.
    pub(crate) fn add_trimmed(&self, brick: &Brick, key: ChunkKey, chain: ChainId, version: ChunkVersion) {
        self.note(
            brick,
            key,
            Note { chain, trimmed: Some(version), sessions: BTreeSet::new(), since: Instant::now() },
        );
    }

    fn note(&self, brick: &Brick, key: ChunkKey, note: Note) {
        let mut notes = lock(&self.notes);
        if notes.len() < PENDING_CHUNKS {
            let mut note = note;
            if let Some(before) = notes.remove(&key) {
                note.sessions.extend(before.sessions);
                note.trimmed = note.trimmed.or(before.trimmed);
            }
            notes.insert(key, note);
            return;
        }
        // Too many to remember one by one: the whole chain is compared anew.
        notes.retain(|_, other| other.chain != note.chain);
        drop(notes);
        brick.maps.set_unsure(note.chain);
    }

    fn due(&self) -> Vec<(ChunkKey, Note)> {
        let notes = lock(&self.notes);
        notes.iter().filter(|(_, n)| n.since.elapsed() >= AFTER).map(|(k, n)| (*k, n.clone())).collect()
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

/// Makes all copies of a chunk equal to this one. Nobody was told of a change that is not here.
async fn level_chunk(brick: &Brick, place: &Place, key: ChunkKey) -> Result<(), Status> {
    let _gate = brick.alone(key).await?;
    brick.admit_now(place.chain, Wish::Change)?;
    change::level_all(brick, place, key).await.map(drop)
}
