//! A brick that came up again, or became head, finds out whether its copies are those of the
//! chain before it serves them (see [`crate::chain::rules`], 3).
//!
//! The head compares with every other serving member, the higher version wins; then the other
//! members compare with the head, whose copies count. With several others it does so until nothing
//! differs any more, and what was levelled is durable before it is sure. Who is not sure yet answers
//! "busy", so nobody reads what may be old. A member that can't be reached is waited for, until it
//! can or the map says that it does not serve.
//!
//! Period: at every change of the map, and every 200 ms while something is to be done.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use wire::brick::{BrickRequest, ChainRef};
use wire::chunk::ChunkKey;
use wire::id::{BrickId, Ino};
use wire::status::Status;

use crate::background::compare::{Rule, compare};
use crate::brick::{Brick, Place};
use crate::chain::rules::Wish;
use crate::config::{COMPARISONS, RETRY_PAUSE};
use crate::ops::copy::{commit_there, status_of_call};

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    let limit = Arc::new(Semaphore::new(COMPARISONS));
    loop {
        let stirred = brick.maps.stir.notified();
        let unsure: Vec<ChainRef> = brick
            .standings()
            .iter()
            .filter(|(_, standing)| standing.serving && !standing.sure)
            .map(|(id, standing)| ChainRef { id: *id, epoch: standing.epoch })
            .collect();
        if unsure.is_empty() {
            tokio::select! {
            biased;
                            _ = stop.wait_for(|stop| *stop) => return,
                            () = stirred => continue,
                            // A notification may slip through between two looks.
                            () = tokio::time::sleep(RETRY_PAUSE * 5) => continue,
                        }
        }
        let mut chains = JoinSet::new();
        for chain in unsure {
            let (brick, limit) = (brick.clone(), limit.clone());
            chains.spawn(async move {
                let Ok(_permit) = limit.acquire().await else { return };
                if let Err(status) = one(&brick, chain).await {
                    tracing::debug!(brick = %brick.id, chain = %chain.id, %status, "not compared yet");
                }
            });
        }
        let all = async { while chains.join_next().await.is_some() {} };
        tokio::select! {
        biased;
                    () = all => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
        tokio::select! {
        biased;
                    () = tokio::time::sleep(RETRY_PAUSE) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
    }
}

async fn one(brick: &Brick, chain: ChainRef) -> Result<(), Status> {
    let place = brick.admit_now(chain, Wish::Look)?;
    let serving: Vec<BrickId> = place.chain()?.serving().collect();
    let head = *serving.first().ok_or(Status::WrongMember)?;
    let (others, rule) = if head == brick.id {
        (serving[1..].to_vec(), Rule::Higher)
    } else {
        ask_whether_sure(brick, &place, head).await?;
        (vec![head], Rule::Theirs)
    };
    // What is taken from a later one the earlier ones have to be given, too.
    let several = others.len() > 1;
    while pass(brick, &place, &others, rule).await? && several {}
    brick.maps.set_sure(chain);
    tracing::debug!(brick = %brick.id, chain = %chain.id, "copies are those of the chain");
    Ok(())
}

/// Compares with each of `others` once. Whether anything differed.
async fn pass(brick: &Brick, place: &Place, others: &[BrickId], rule: Rule) -> Result<bool, Status> {
    let mut differed = false;
    for &other in others {
        let done = compare(brick, place, other, rule, |_| {}).await?;
        if done.different > 0 {
            differed = true;
            if rule == Rule::Higher {
                // A copy that is newer and does not count may have given way (see `compare`): who
                // looked for it and did not find it must not see it when a member loses its memory.
                brick.commit().await?;
                commit_there(brick, place, other).await?;
            }
            tracing::info!(brick = %brick.id, chain = %place.chain.id, %other, chunks = done.chunks,
                different = done.different, "levelled copies");
        }
    }
    Ok(differed)
}

/// A head answers reads only when it is sure itself.
async fn ask_whether_sure(brick: &Brick, place: &Place, head: BrickId) -> Result<(), Status> {
    let nothing = ChunkKey { ino: Ino(0), index: 0 };
    let request = BrickRequest::Read { chain: place.chain, key: nothing, offset: 0, len: 0 };
    match brick.ask(place, head, request, Bytes::new()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(status_of_call(&error)),
    }
}
