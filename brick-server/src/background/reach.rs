//! Asks bricks that are doubted for a sign of life, and tells the namespace of those that give none: it hears them, perhaps, and
//! then has to take one of the two out of the chains that they share.
//!
//! Period: [`PAUSE`] while somebody is doubted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::brick::{BrickCall, BrickProtocol, BrickRequest};
use wire::id::{BootId, BrickId, MapEpoch};
use wire::map::ClusterMap;
use wire::meta::ClusterRequest;
use wire::net::CallError;

use crate::brick::Brick;

/// Longest wait for a sign of life.
const PING_DEADLINE: Duration = Duration::from_millis(750);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two rounds while all that are doubted are known to be out of reach, and nothing waits for that.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    loop {
        let pause = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            pause = round(&brick) => pause,
        };
        let wait = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => brick.reach.wake.notified().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = wait => {}
        }
    }
}

/// Asks all that are doubted. How long to pause; `None`: until somebody is doubted.
async fn round(brick: &Arc<Brick>) -> Option<Duration> {
    let map = brick.map();
    let mut pings = JoinSet::new();
    for other in brick.reach.doubted() {
        if !shares_a_chain(&map, brick.id, other) {
            brick.reach.answered(other);
            continue;
        }
        let (brick, map) = (brick.clone(), map.clone());
        pings.spawn(async move { (other, Instant::now(), ping(&brick, &map, other).await) });
    }
    let mut out = Vec::new();
    while let Some(done) = pings.join_next().await {
        // What panicked told nothing.
        let Ok((other, asked, answers)) = done else { continue };
        let boot = map.bricks.get(&other).map_or(BootId(0), |info| info.boot);
        if answers {
            brick.reach.answered(other);
        } else if brick.reach.silent(other, boot, asked, Instant::now()) {
            out.push(other);
        }
    }
    out.sort_unstable();
    for other in &out {
        tell(brick, &map, *other).await;
    }
    let waits = |other: &BrickId| {
        map.chains_of(*other).any(|c| {
            c.head() == Some(brick.id) && (c.serving().chain(c.leaving()).any(|member| member == *other))
        })
    };
    match brick.reach.doubted().len() {
        0 => None,
        _ if out.iter().any(waits) => {
            // The namespace decides, and that is learnt as soon as it has. Nothing new for a while is no failure.
            let _ = brick.need_map(MapEpoch(map.epoch.0 + 1)).await;
            Some(PAUSE)
        }
        doubted if doubted > out.len() => Some(PAUSE),
        _ => Some(LONG_PAUSE),
    }
}

/// Whether the other brick is alive and is in a chain with this one.
fn shares_a_chain(map: &ClusterMap, me: BrickId, other: BrickId) -> bool {
    let alive = map.bricks.get(&other).is_some_and(|info| info.alive);
    alive && map.chains_of(me).any(|chain| chain.state_of(other).is_some())
}

/// Whether it answers, whatever it says.
async fn ping(brick: &Brick, map: &ClusterMap, other: BrickId) -> bool {
    let Some(endpoint) = map.endpoint_of(other) else { return false };
    let call = BrickCall { brick: other, map: map.epoch, request: BrickRequest::Ping };
    let deadline = Instant::now() + PING_DEADLINE;
    match brick.net.request::<BrickProtocol>(endpoint, &call, Bytes::new(), deadline).await {
        Ok(_) | Err(CallError::Status(_)) => true,
        Err(error) => {
            tracing::debug!(brick = %brick.id, %other, %error, "no sign of life");
            false
        }
    }
}

async fn tell(brick: &Brick, map: &ClusterMap, other: BrickId) {
    let Some(info) = map.bricks.get(&other) else { return };
    let request = ClusterRequest::Unreachable { by: (brick.id, brick.boot), brick: (other, info.boot) };
    if let Err(error) = brick.namespaces.ask(&brick.net, request).await {
        tracing::debug!(brick = %brick.id, %other, %error, "could not tell the namespace of a brick out of reach");
    }
}
