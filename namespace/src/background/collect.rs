//! Looks on the bricks for chunks of no use, those of files that are gone or that end before
//! them, and has them cut. There should be none: removing and shortening files cuts chunks by
//! itself. This is for what slips through in crashes, so that nothing leaks space for good.
//!
//! Period: when all bricks have come up after a start, and again after `sweep`, twice that and
//! so on up to `collect`; a brick that comes up begins that anew. Budget: one brick, and
//! [`COLLECT_PAGE`] of its chunks, at a time.
//!
//! 1. A chunk counts only if a brick had it after the state said that it is of no use; and what
//!    is proposed is judged again when it is applied. So a file made, opened or being cut
//!    meanwhile is left alone (`collecting_leaves_what_is_of_use`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest};
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId};
use wire::map::ClusterMap;

use crate::background::{Stop, stopped};
use crate::config::{COLLECT_CHUNKS, COLLECT_PAGE};
use crate::error::Error;
use crate::machine::command::{Op, Outcome};
use crate::machine::trims::useless;
use crate::machine::txn::load;
use crate::namespace::{Namespace, lock};
use crate::store::keys;
use crate::store::records::Counters;

/// A brick's list, page by page.
struct Page {
    chunks: Vec<ChunkKey>,
    end: bool,
}

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    let mut map = namespace.watchers.map.subscribe();
    tokio::select! {
        () = stopped(&mut stop) => return,
        () = all_up(&namespace) => {}
    }
    let mut pause = namespace.config.sweep;
    let mut lives = lives(&map.borrow_and_update());
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = pass(&namespace) => {}
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = sleep(pause) => pause = (pause * 2).min(namespace.config.collect),
            () = comes_up(&mut map, &mut lives) => {
                pause = namespace.config.sweep;
                tokio::select! {
                    () = stopped(&mut stop) => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Returns when all bricks have come up, or had their time to.
async fn all_up(namespace: &Namespace) {
    let grace = Instant::now() + namespace.config.brick_grace;
    let mut heard = namespace.watchers.heard.subscribe();
    loop {
        heard.borrow_and_update();
        if lock(&namespace.watchers.bricks).all_heard(&namespace.map()) {
            return;
        }
        match timeout_at(grace, heard.changed()).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// Bricks that live, and in which life.
fn lives(map: &ClusterMap) -> BTreeSet<(BrickId, BootId)> {
    map.bricks.values().filter(|b| b.alive).map(|b| (b.id, b.boot)).collect()
}

/// Returns when a brick has begun a life that is not among those known.
async fn comes_up(map: &mut watch::Receiver<Arc<ClusterMap>>, known: &mut BTreeSet<(BrickId, BootId)>) {
    while map.changed().await.is_ok() {
        let before = std::mem::replace(known, lives(&map.borrow_and_update()));
        if known.difference(&before).next().is_some() {
            return;
        }
    }
}

/// Looks at all bricks once.
async fn pass(namespace: &Arc<Namespace>) {
    if namespace.is_behind() {
        return;
    }
    let mut files = 0;
    let map = namespace.map();
    for brick in map.bricks.values().filter(|b| b.alive) {
        match one(namespace, brick.id).await {
            Ok(some) => files += some,
            Err(error) => {
                namespace.failed(&error);
            }
        }
    }
    if files > 0 {
        namespace.metrics.collect(files);
        info!(files, "found chunks of no use on bricks; they are cut");
    }
}

/// Looks at all chunks of a brick. Returns how many files are cut for it.
async fn one(namespace: &Arc<Namespace>, brick: BrickId) -> Result<u64, Error> {
    let mut files = 0;
    let mut after = None;
    loop {
        let Some(page) = list(namespace, brick, after).await else { return Ok(files) };
        let last = page.chunks.last().copied();
        let mut found = judge(namespace, page.chunks).await?;
        if !found.is_empty() {
            let Some(again) = list(namespace, brick, after).await else { return Ok(files) };
            let still: BTreeSet<ChunkKey> = again.chunks.into_iter().collect();
            found.retain(|chunk| still.contains(chunk));
            files += propose(namespace, &found).await;
        }
        // A page that is neither full nor the last would make this loop for ever.
        if page.end || last <= after {
            return Ok(files);
        }
        after = last;
    }
}

/// A page of a brick's chunks; none if it can't be had now.
async fn list(namespace: &Namespace, brick: BrickId, after: Option<ChunkKey>) -> Option<Page> {
    let map = namespace.map();
    let to = map.bricks.get(&brick).filter(|b| b.alive)?.endpoint;
    let request = BrickRequest::List { chain: None, after, max: COLLECT_PAGE };
    let call = BrickCall { brick, map: map.epoch, request };
    let deadline = Instant::now() + namespace.config.list_timeout;
    match namespace.net.request::<BrickProtocol>(&to, &call, Bytes::new(), deadline).await {
        Ok((BrickReply::Chunks { chunks, end }, _)) => Some(Page {
            chunks: chunks.into_iter().map(|c| c.key).take(COLLECT_PAGE as usize).collect(),
            end,
        }),
        Ok(_) => None,
        Err(error) => {
            debug!(%brick, %error, "a brick did not list its chunks");
            None
        }
    }
}

/// Those chunks that are of no use by the state now; of every file one, which stands for all.
async fn judge(namespace: &Arc<Namespace>, chunks: Vec<ChunkKey>) -> Result<Vec<ChunkKey>, Error> {
    let namespace = namespace.clone();
    let judged = tokio::task::spawn_blocking(move || {
        namespace.db.at_moment(|state| {
            let Some(counters) = load::<Counters>(state, keys::COUNTERS)? else { return Ok(Vec::new()) };
            let mut found = BTreeMap::new();
            for chunk in chunks {
                if !found.contains_key(&chunk.ino) && useless(state, counters.next_ino, chunk)?.is_some() {
                    found.insert(chunk.ino, chunk);
                }
            }
            Ok(found.into_values().collect())
        })
    });
    judged.await.map_err(|error| Error::Thread(std::io::Error::other(error)))?
}

/// Has them cut, if they are still of no use.
async fn propose(namespace: &Namespace, found: &[ChunkKey]) -> u64 {
    let mut files = 0;
    for some in found.chunks(COLLECT_CHUNKS) {
        match namespace.propose(Op::Collect(some.to_vec())).await {
            Ok(Outcome::Collected(collected)) => files += collected,
            Ok(_) => {}
            Err(status) => warn!(%status, "could not have chunks of no use cut; trying again"),
        }
    }
    files
}
