//! One loop a file. All end when the stop signal says so.

pub mod collect;
pub mod doubts;
pub mod journal;
pub mod liveness;
pub mod moves;
pub mod reclaim;
pub mod reign;
pub mod rounds;
pub mod tokens;
pub mod trims;

use tokio::sync::watch;

/// Says when to stop.
pub type Stop = watch::Receiver<bool>;

/// Returns when it is time to stop.
pub async fn stopped(stop: &mut Stop) {
    // Without a sender the service is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}
