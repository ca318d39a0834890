//! Gates: changes of one chunk go through one at a time; reads at the head wait for the one
//! that is under way, so that nobody sees a change here and then not at another member.
//!
//! A gate exists while somebody is at it. Whoever holds one may call other bricks, but no
//! call that needs a gate there is made from a member to its head: so there are no circles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use wire::chunk::ChunkKey;

const SHARDS: usize = 64;

type Shard = Mutex<HashMap<ChunkKey, Arc<RwLock<()>>>>;

/// See the module's head.
#[derive(Debug, Clone)]
pub struct Gates {
    shards: Arc<Vec<Shard>>,
}

/// A gate held; others wait until it is dropped.
#[derive(Debug)]
pub struct Passage {
    hold: Option<Hold>,
    gates: Gates,
    key: ChunkKey,
}

#[derive(Debug)]
enum Hold {
    Shared(#[allow(dead_code)] OwnedRwLockReadGuard<()>),
    Alone(#[allow(dead_code)] OwnedRwLockWriteGuard<()>),
}

impl Default for Gates {
    fn default() -> Self {
        Gates { shards: Arc::new((0..SHARDS).map(|_| Shard::default()).collect()) }
    }
}

impl Gates {
    fn shard(&self, key: ChunkKey) -> MutexGuard<'_, HashMap<ChunkKey, Arc<RwLock<()>>>> {
        let hash = key.ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(key.index);
        self.shards[(hash >> 7) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change the chunk.
    pub async fn alone(&self, key: ChunkKey) -> Passage {
        // Made first, so that a caller that gives up in between leaves no gate behind.
        let mut passage = Passage { hold: None, gates: self.clone(), key };
        let gate = self.shard(key).entry(key).or_default().clone();
        passage.hold = Some(Hold::Alone(gate.write_owned().await));
        passage
    }

    /// To read it.
    pub async fn shared(&self, key: ChunkKey) -> Passage {
        let mut passage = Passage { hold: None, gates: self.clone(), key };
        let gate = self.shard(key).entry(key).or_default().clone();
        passage.hold = Some(Hold::Shared(gate.read_owned().await));
        passage
    }

    /// To read it, unless somebody changes it.
    pub fn try_shared(&self, key: ChunkKey) -> Option<Passage> {
        let mut passage = Passage { hold: None, gates: self.clone(), key };
        let gate = self.shard(key).entry(key).or_default().clone();
        passage.hold = Some(Hold::Shared(gate.try_read_owned().ok()?));
        Some(passage)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.hold = None;
        let mut shard = self.gates.shard(self.key);
        // Nobody else can get at it while the shard is locked.
        if shard.get(&self.key).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            shard.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use wire::id::Ino;

    use super::*;

    /// One changes, others wait; who gives up waiting leaves nothing behind.
    #[tokio::test(start_paused = true)]
    async fn gates_come_and_go() {
        let gates = Gates::default();
        let key = ChunkKey { ino: Ino(1), index: 0 };
        let wait = Duration::from_secs(1);
        let first = gates.shared(key).await;
        let second = gates.shared(key).await;
        assert!(timeout(wait, gates.alone(key)).await.is_err());
        drop(first);
        assert!(timeout(wait, gates.alone(key)).await.is_err());
        drop(second);
        let alone = gates.alone(key).await;
        assert!(timeout(wait, gates.shared(key)).await.is_err());
        assert_eq!(gates.len(), 1);
        drop(alone);
        assert_eq!(gates.len(), 0);
    }
}
