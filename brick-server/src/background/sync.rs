//! The head brings syncing members up to date: its copies count. New changes reach them
//! meanwhile, so when the comparison is through they are equal and stay so.
//!
//! Period: at every change of the map, and every second while a member is syncing.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use wire::brick::ChainRef;
use wire::id::BrickId;
use wire::map::{ClusterMap, MemberState};
use wire::meta::{ClusterReply, ClusterRequest};
use wire::status::Status;

use crate::background::compare::{Rule, compare};
use crate::background::holdings;
use crate::background::progress::Target;
use crate::brick::Brick;
use crate::chain::rules::Wish;
use crate::config::RETRY_PAUSE;
use crate::ops::copy::{commit_there, status_of_call};

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    loop {
        let stirred = brick.maps.stir.notified();
        let map = brick.map();
        let mut waiting = false;
        if let Err(status) = measure(&brick, &wanted(&brick, &map)).await {
            tracing::debug!(brick = %brick.id, %status, "how much is to be copied is not known yet");
        }
        for chain in map.chains_of(brick.id).filter(|c| c.head() == Some(brick.id)) {
            let here = ChainRef { id: chain.id, epoch: chain.epoch };
            for member in chain.members.iter().filter(|m| m.state == MemberState::Syncing) {
                waiting = true;
                let done = tokio::select! {
                biased;
                                    done = one(&brick, here, member.brick) => done,
                                    _ = stop.wait_for(|stop| *stop) => return,
                                };
                if let Err(status) = done {
                    tracing::debug!(brick = %brick.id, chain = %chain.id, member = %member.brick, %status,
                        "not in sync yet");
                }
            }
        }
        let pause = if waiting { RETRY_PAUSE } else { RETRY_PAUSE * 5 };
        tokio::select! {
        biased;
                    () = stirred, if !waiting => {}
                    () = tokio::time::sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
    }
}

/// Copies that this brick has to bring up to date.
fn wanted(brick: &Brick, map: &ClusterMap) -> BTreeSet<Target> {
    let mine = map.chains_of(brick.id).filter(|c| c.head() == Some(brick.id));
    mine.flat_map(|chain| chain.syncing().map(|member| (chain.id, member))).collect()
}

/// Finds out how much there is to do, for those who ask how far it is.
async fn measure(brick: &Brick, copies: &BTreeSet<Target>) -> Result<(), Status> {
    let new = brick.progress.wanted(copies);
    if new.is_empty() {
        return Ok(());
    }
    let bytes = holdings::count(brick).await?;
    for copy in new {
        brick.progress.measured(copy, bytes.get(&copy.0).copied().unwrap_or(0));
    }
    Ok(())
}

async fn one(brick: &Brick, chain: ChainRef, member: BrickId) -> Result<(), Status> {
    let place = brick.admit_now(chain, Wish::Change)?;
    let copy = (chain.id, member);
    brick.syncs.begin(chain, member);
    brick.progress.begin(copy);
    let done = compare(brick, &place, member, Rule::Ours, |bytes| brick.progress.passed(copy, bytes)).await?;
    // What it was given must not be lost when it serves and this brick is gone.
    commit_there(brick, &place, member).await?;
    brick.admit_now(chain, Wish::Change)?;
    if !brick.syncs.complete(chain, member) {
        // It missed something meanwhile: once more, which is quick.
        return Err(Status::Busy);
    }
    let request = ClusterRequest::SyncDone { chain: chain.id, epoch: chain.epoch, brick: member };
    match brick.namespaces.ask(&brick.net, request).await {
        Ok(ClusterReply::Map(map)) => brick.install(map).await,
        Ok(_) => return Err(Status::Busy),
        Err(error) => return Err(status_of_call(&error)),
    }
    brick.progress.finished(copy);
    tracing::info!(brick = %brick.id, chain = %chain.id, %member, chunks = done.chunks,
        different = done.different, "brought a member up to date");
    Ok(())
}
