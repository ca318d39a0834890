//! A member finds out whether the changes it took over are everywhere, before readers ask.
//!
//! Period: half a second while chunks are marked. Budget: [`MARKS_A_CALL`] chunks of a chain
//! in one call.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wire::brick::ChainRef;
use wire::id::ChainId;
use wire::map::MemberState;
use wire::status::Status;

use crate::brick::{Brick, lock};
use crate::chain::rules::Wish;
use crate::config::MARKS_A_CALL;
use crate::ops::settle;

/// Period of the loop.
const PERIOD: Duration = Duration::from_millis(500);

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let chains = lock(&brick.marks).chains();
        for chain in chains {
            let done = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                done = sweep(&brick, chain) => done,
            };
            if let Err(status) = done {
                tracing::debug!(brick = %brick.id, %chain, %status, "marks stay");
            }
        }
    }
}

async fn sweep(brick: &Brick, chain: ChainId) -> Result<(), Status> {
    let map = brick.map();
    let Some(found) = map.chains.get(&chain) else {
        lock(&brick.marks).clear_chain(chain);
        return Ok(());
    };
    let here = ChainRef { id: chain, epoch: found.epoch };
    match found.state_of(brick.id) {
        None => {
            lock(&brick.marks).clear_chain(chain);
            return Ok(());
        }
        // Who is not serving will be compared whole; its marks speak of that time, too.
        Some(state) if state != MemberState::Serving => return Ok(()),
        Some(_) => {}
    }
    let place = brick.admit_now(here, Wish::Read)?;
    if found.head() == Some(brick.id) {
        // What it holds is what counts, since it is sure.
        lock(&brick.marks).clear_chain(chain);
        return Ok(());
    }
    let marks = lock(&brick.marks).of_chain(chain, MARKS_A_CALL);
    settle::resolve(brick, &place, &marks, false).await?;
    Ok(())
}
