//! Has bricks cut a file that stays: in rounds, until one of them finds nothing to cut, or a few were made.
//!
//! Every member of a chain is asked by itself, and one that was not asked yet has what another has cut. It may give it back: a head
//! levels the copies of the others by its own, a new head takes what only another one has. So it does not count that all have cut,
//! each at some time. It counts when, after all have, all are asked again and nobody has anything any more: what is given back from now on
//! would have to come from somebody who had it then.
//!
//! What is found in every round is being written just now, by a machine that does not know of the cut yet. A few rounds are enough, then: more would
//! only take what it writes from it.
//!
//! 1. A cut is settled by rounds of all living bricks that owe it, by one map from the beginning of the last to its end
//!    (`what_was_given_back_is_cut_again`). Who becomes a member meanwhile owes it, too (see [`crate::machine::trims`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;
use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest};
use wire::id::{BrickId, Ino};
use wire::map::ClusterMap;

use crate::error::Error;
use crate::machine::command::CutAck;
use crate::machine::txn::load;
use crate::namespace::Namespace;
use crate::store::keys;
use crate::store::records::Trim;

/// Rounds of one file at most: the second one finds what was given back during the first, the third what was during the second.
const MOST_ROUNDS: u32 = 4;

/// A brick that has not answered for so long may be one that this service can't reach: it is asked for a sign of life.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);

/// What became of a file's cuts.
#[derive(Debug)]
pub enum Rounds {
    /// Nobody alive owes any, or has anything left.
    Settled(Option<CutAck>),
    /// Somebody did not answer: later again.
    Later,
}

/// Has a file cut wherever living bricks owe it.
///
/// # Errors
/// If the state can't be read.
pub async fn cut(namespace: &Arc<Namespace>, ino: Ino) -> Result<Rounds, Error> {
    let mut maps = namespace.watchers.map.subscribe();
    let mut rounds = 0;
    loop {
        let map = maps.borrow_and_update().clone();
        let Some(trim) = load::<Trim>(&*namespace.db, &keys::trim(ino))? else {
            return Ok(Rounds::Settled(None));
        };
        let alive = |brick: &BrickId| map.bricks.get(brick).is_some_and(|info| info.alive);
        let owed: BTreeMap<BrickId, u64> = trim.owed.into_iter().filter(|(brick, _)| alive(brick)).collect();
        if owed.is_empty() {
            return Ok(Rounds::Settled(None));
        }
        let found = tokio::select! {
            found = round(namespace, &map, ino, trim.chunk_bytes, &owed) => found,
            // Some may have been declared dead, or be members that were not.
            Ok(()) = maps.changed() => {
                rounds = 0;
                continue;
            }
        };
        match found {
            Some(found) => {
                rounds += 1;
                if found > 0 && rounds < MOST_ROUNDS {
                    continue;
                }
                if found > 0 {
                    debug!(%ino, found, "somebody writes behind the end that a file was cut at");
                }
                let bricks = owed.into_iter().collect();
                return Ok(Rounds::Settled(Some(CutAck { ino, map: map.epoch, bricks })));
            }
            None => return Ok(Rounds::Later),
        }
    }
}

/// Asks all of them at once. How many chunks were cut; none if somebody did not answer.
async fn round(
    namespace: &Arc<Namespace>,
    map: &ClusterMap,
    ino: Ino,
    chunk_bytes: u32,
    owed: &BTreeMap<BrickId, u64>,
) -> Option<u64> {
    let deadline = Instant::now() + namespace.config.trim_timeout;
    let order = namespace.next_trim();
    let mut calls = JoinSet::new();
    for (brick, size) in owed {
        let info = map.bricks.get(brick)?;
        let (to, life) = (info.endpoint, (info.id, info.boot));
        let request = BrickRequest::Trim { ino, chunk_bytes, size: *size, order };
        let (call, namespace) = (BrickCall { brick: *brick, map: map.epoch, request }, namespace.clone());
        calls.spawn(async move {
            let answer = namespace.net.request::<BrickProtocol>(&to, &call, Bytes::new(), deadline);
            let mut answer = std::pin::pin!(answer);
            let answer = tokio::select! {
                biased;
                answer = &mut answer => answer,
                () = sleep(DOUBTED_AFTER) => {
                    // A program waits for it, as it does for a brick that it can't reach itself.
                    namespace.doubt(life);
                    answer.await
                }
            };
            match answer {
                Ok((BrickReply::Trimmed { cut_chunks, .. }, _)) => Some(cut_chunks),
                Ok(_) => None,
                Err(error) => {
                    debug!(%ino, brick = %call.brick, %error, "a brick could not cut a file yet");
                    None
                }
            }
        });
    }
    let mut cut = Some(0);
    while let Some(answer) = calls.join_next().await {
        // All are heard out: nobody is to be asked while it is still at it.
        cut = cut.zip(answer.ok().flatten()).map(|(sum, more)| sum + more);
    }
    cut
}
