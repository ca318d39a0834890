//! Counts what the brick holds of each of its chains, and tells the namespace, which spreads chains by that.
//!
//! Period: a quarter of a minute, or twenty times what counting took, whichever is longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wire::chunk::BLOCK_BYTES;
use wire::id::ChainId;
use wire::meta::ClusterRequest;
use wire::status::Status;

use crate::brick::Brick;
use crate::config::LIST_MAX;

/// Before the first count of a life: bricks that come up have other things to do.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const PERIOD: Duration = Duration::from_secs(15);
/// A part of the time is spent with counting at most.
const PART: u32 = 20;

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
        let begun = Instant::now();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tell(&brick) => {}
        }
        pause = PERIOD.max(begun.elapsed() * PART);
    }
}

async fn tell(brick: &Brick) {
    let bytes = match count(brick).await {
        Ok(bytes) => bytes.into_iter().collect(),
        Err(status) => {
            tracing::debug!(brick = %brick.id, %status, "could not count what it holds");
            return;
        }
    };
    let request = ClusterRequest::Holdings { brick: brick.id, boot: brick.boot, bytes };
    if let Err(error) = brick.namespaces.ask(&brick.net, request).await {
        tracing::debug!(brick = %brick.id, %error, "could not tell what it holds");
    }
}

/// Bytes allocated for each chain of which there is anything.
///
/// # Errors
/// As a status.
pub async fn count(brick: &Brick) -> Result<BTreeMap<ChainId, u64>, Status> {
    let mut bytes: BTreeMap<ChainId, u64> = BTreeMap::new();
    let mut after = None;
    loop {
        let (page, end) = brick.disk(move |store| store.list(None, after, LIST_MAX as usize)).await?;
        for (_, header) in &page {
            *bytes.entry(header.chain).or_default() += u64::from(header.blocks) * u64::from(BLOCK_BYTES);
        }
        after = page.last().map(|(key, _)| *key).or(after);
        if end || page.is_empty() {
            return Ok(bytes);
        }
    }
}
