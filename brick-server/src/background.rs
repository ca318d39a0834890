//! What a brick does unasked, one loop a file.

use std::sync::Arc;

use tokio::sync::watch;
use wire::net::BoxFuture;

use crate::brick::Brick;

pub mod commit;
pub mod compare;
pub mod heal;
pub mod heartbeat;
pub mod holdings;
pub mod leftovers;
pub mod naming;
pub mod progress;
pub mod reach;
pub mod reconcile;
pub mod remember;
pub mod scrub;
pub mod settle;
pub mod sync;
pub mod vouch;

/// All loops of a brick; each runs until `stop`.
pub fn loops(brick: &Arc<Brick>, stop: &watch::Receiver<bool>) -> Vec<BoxFuture<'static, ()>> {
    vec![
        Box::pin(heartbeat::run(brick.clone(), stop.clone())),
        Box::pin(reconcile::run(brick.clone(), stop.clone())),
        Box::pin(sync::run(brick.clone(), stop.clone())),
        Box::pin(heal::run(brick.clone(), stop.clone())),
        Box::pin(leftovers::run(brick.clone(), stop.clone())),
        Box::pin(scrub::run(brick.clone(), stop.clone())),
        Box::pin(naming::run(brick.clone(), stop.clone())),
        Box::pin(settle::run(brick.clone(), stop.clone())),
        Box::pin(reach::run(brick.clone(), stop.clone())),
        Box::pin(holdings::run(brick.clone(), stop.clone())),
        Box::pin(remember::run(brick.clone(), stop.clone())),
        Box::pin(vouch::run(brick.clone(), stop.clone())),
    ]
}
