//! The head brings syncing members up to date: its copies count. New changes reach them
//! meanwhile, so when the comparison is through they are equal and stay so.
//!
//! Period: at every change of the map, and every second while a member is syncing.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use wire::brick::{BrickReply, BrickRequest, ChainRef};
use wire::id::BrickId;
use wire::map::MemberState;
use wire::meta::{ClusterReply, ClusterRequest};
use wire::status::Status;

use crate::background::compare::{Rule, compare};
use crate::brick::Brick;
use crate::chain::rules::Wish;
use crate::config::RETRY_PAUSE;
use crate::ops::copy::status_of_call;

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    loop {
        let stirred = brick.stir.notified();
        let map = brick.map();
        let mut waiting = false;
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

async fn one(brick: &Brick, chain: ChainRef, member: BrickId) -> Result<(), Status> {
    let place = brick.admit_now(chain, Wish::Change)?;
    brick.syncs.begin(chain, member);
    let done = compare(brick, &place, member, Rule::Ours).await?;
    // What it was given must not be lost when it serves and this brick is gone.
    match brick.ask(&place, member, BrickRequest::Commit, Bytes::new()).await {
        Ok((BrickReply::Committed { .. }, _)) => {}
        Ok(_) => return Err(Status::Busy),
        Err(error) => return Err(status_of_call(&error)),
    }
    brick.admit_now(chain, Wish::Change)?;
    if !brick.syncs.complete(chain, member) {
        // It missed something meanwhile: once more, which is quick.
        return Err(Status::Busy);
    }
    let request = ClusterRequest::SyncDone { chain: chain.id, epoch: chain.epoch, brick: member };
    match brick.namespaces.ask(&brick.net, request).await {
        Ok(ClusterReply::Map(map)) => brick.install(map),
        Ok(_) => return Err(Status::Busy),
        Err(error) => return Err(status_of_call(&error)),
    }
    tracing::info!(brick = %brick.id, chain = %chain.id, %member, chunks = done.chunks,
        different = done.different, "brought a member up to date");
    Ok(())
}
