//! Who changed what lately, so that a retry gets its first answer.

use std::collections::{HashMap, VecDeque};

use wire::brick::WriterId;
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, ChunkVersion};

use crate::config::{WRITER_CHUNKS, WRITERS_A_CHUNK};

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The version the change made.
    pub version: ChunkVersion,
    /// What it did to the bytes allocated.
    pub allocated_delta_bytes: i64,
    /// Who has it.
    pub members: Vec<(BrickId, BootId)>,
}

/// Answers lately given by a head, the oldest chunks forgotten first.
#[derive(Debug, Default)]
pub struct Writers {
    chunks: HashMap<ChunkKey, VecDeque<(WriterId, Answer)>>,
    order: VecDeque<ChunkKey>,
}

impl Writers {
    /// The answer a writer was given.
    pub fn find(&self, key: ChunkKey, writer: WriterId) -> Option<Answer> {
        self.chunks.get(&key)?.iter().find(|(w, _)| *w == writer).map(|(_, answer)| answer.clone())
    }

    /// Remembers an answer.
    pub fn record(&mut self, key: ChunkKey, writer: WriterId, answer: Answer) {
        if !self.chunks.contains_key(&key) {
            if self.order.len() == WRITER_CHUNKS
                && let Some(oldest) = self.order.pop_front()
            {
                self.chunks.remove(&oldest);
            }
            self.order.push_back(key);
        }
        let answers = self.chunks.entry(key).or_default();
        if answers.len() == WRITERS_A_CHUNK {
            answers.pop_front();
        }
        answers.push_back((writer, answer));
    }
}

#[cfg(test)]
mod tests {
    use wire::id::{CallSeq, Ino, SessionId};

    use super::*;

    /// The latest are known, the memory is bounded.
    #[test]
    fn the_latest_are_known() {
        let mut writers = Writers::default();
        let writer = |seq| WriterId { session: SessionId(1), seq: CallSeq(seq) };
        let answer = |v| Answer { version: ChunkVersion(v), allocated_delta_bytes: 0, members: vec![] };
        for ino in 0..2 * WRITER_CHUNKS as u64 {
            let key = ChunkKey { ino: Ino(ino), index: 0 };
            for seq in 0..2 * WRITERS_A_CHUNK as u64 {
                writers.record(key, writer(seq), answer(seq + 1));
            }
            assert_eq!(
                writers.find(key, writer(WRITERS_A_CHUNK as u64)),
                Some(answer(WRITERS_A_CHUNK as u64 + 1))
            );
            assert_eq!(writers.find(key, writer(0)), None);
        }
        assert_eq!(writers.chunks.len(), WRITER_CHUNKS);
        assert_eq!(writers.order.len(), WRITER_CHUNKS);
    }
}
