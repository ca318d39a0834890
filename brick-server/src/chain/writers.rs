//! Who changed what lately, so that a retry gets its first answer and a call that comes late
//! changes nothing any more.
//!
//! Members remember, too: the next head may be asked again. What they remember of a chunk goes
//! when they are given it whole, since then nobody knows whether the change is in it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use wire::brick::WriterId;
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, CallSeq, ChainEpoch, ChunkVersion, SessionId};

use crate::config::{WRITER_CHUNKS, WRITER_SESSIONS, WRITERS_A_CHUNK};

/// What was answered, or would have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The chain's epoch then.
    pub epoch: ChainEpoch,
    /// The version the change made.
    pub version: ChunkVersion,
    /// What it did to the bytes allocated.
    pub allocated_delta_bytes: i64,
    /// Who has it; nobody where a member remembers what its head asked for.
    pub members: Vec<(BrickId, BootId)>,
}

/// Answers lately given, the oldest chunks forgotten first.
#[derive(Debug, Default)]
pub struct Writers {
    chunks: HashMap<ChunkKey, VecDeque<(WriterId, Answer)>>,
    order: VecDeque<ChunkKey>,
    /// Below these numbers every call of the session was answered.
    floors: BTreeMap<SessionId, CallSeq>,
}

impl Writers {
    /// The answer a writer was given.
    pub fn find(&self, key: ChunkKey, writer: WriterId) -> Option<Answer> {
        self.chunks.get(&key)?.iter().find(|(w, _)| *w == writer).map(|(_, answer)| answer.clone())
    }

    /// Notes that a session waits for no call below `answered_below` any more. Says whether
    /// `writer` is one that somebody may still wait for.
    pub fn is_wanted(&mut self, writer: WriterId, answered_below: CallSeq) -> bool {
        if self.floors.len() >= WRITER_SESSIONS && !self.floors.contains_key(&writer.session) {
            // Sessions are numbered as they come: the oldest one is the likeliest to be gone.
            self.floors.pop_first();
        }
        let floor = self.floors.entry(writer.session).or_insert(CallSeq(0));
        *floor = (*floor).max(answered_below);
        writer.seq >= *floor
    }

    /// Remembers an answer.
    pub fn record(&mut self, key: ChunkKey, writer: WriterId, answer: Answer) {
        if !self.chunks.contains_key(&key) {
            while self.order.len() >= WRITER_CHUNKS
                && let Some(oldest) = self.order.pop_front()
            {
                self.chunks.remove(&oldest);
            }
            self.order.push_back(key);
        }
        let floors = &self.floors;
        let answers = self.chunks.entry(key).or_default();
        answers.retain(|(w, _)| *w != writer);
        if answers.len() >= WRITERS_A_CHUNK {
            // Those nobody waits for first.
            answers.retain(|(w, _)| floors.get(&w.session).is_none_or(|floor| w.seq >= *floor));
            if answers.len() >= WRITERS_A_CHUNK {
                answers.pop_front();
            }
        }
        answers.push_back((writer, answer));
    }

    /// The chunk was replaced: what was changed before may not be in it.
    pub fn forget(&mut self, key: ChunkKey) {
        if self.chunks.remove(&key).is_some() {
            self.order.retain(|other| *other != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::id::Ino;

    use super::*;

    fn writer(seq: u64) -> WriterId {
        WriterId { session: SessionId(1), seq: CallSeq(seq) }
    }

    fn answer(version: u64) -> Answer {
        Answer {
            epoch: ChainEpoch(1),
            version: ChunkVersion(version),
            allocated_delta_bytes: 0,
            members: vec![],
        }
    }

    /// The latest are known, the memory is bounded.
    #[test]
    fn the_latest_are_known() {
        let mut writers = Writers::default();
        for ino in 0..2 * WRITER_CHUNKS as u64 {
            let key = ChunkKey { ino: Ino(ino), index: 0 };
            for seq in 0..2 * WRITERS_A_CHUNK as u64 {
                writers.record(key, writer(seq), answer(seq + 1));
            }
            let last = 2 * WRITERS_A_CHUNK as u64 - 1;
            assert_eq!(writers.find(key, writer(last)), Some(answer(last + 1)));
            assert_eq!(writers.find(key, writer(0)), None);
            assert!(writers.chunks[&key].len() <= WRITERS_A_CHUNK);
        }
        assert_eq!(writers.chunks.len(), WRITER_CHUNKS);
        let key = ChunkKey { ino: Ino(2 * WRITER_CHUNKS as u64 - 1), index: 0 };
        writers.forget(key);
        assert_eq!(writers.find(key, writer(5)), None);
        assert_eq!(writers.order.len(), WRITER_CHUNKS - 1);
    }

    /// What was answered is not wanted again, in this session alone.
    #[test]
    fn late_calls_are_not_wanted() {
        let mut writers = Writers::default();
        assert!(writers.is_wanted(writer(5), CallSeq(3)));
        assert!(!writers.is_wanted(writer(2), CallSeq(0)));
        assert!(writers.is_wanted(writer(3), CallSeq(0)));
        let other = WriterId { session: SessionId(2), seq: CallSeq(1) };
        assert!(writers.is_wanted(other, CallSeq(0)));
        for session in 0..2 * WRITER_SESSIONS as u64 {
            writers.is_wanted(WriterId { session: SessionId(session), seq: CallSeq(1) }, CallSeq(1));
        }
        assert!(writers.floors.len() <= WRITER_SESSIONS);
    }
}
