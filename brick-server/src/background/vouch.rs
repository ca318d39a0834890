//! Has a brick vouch again for what it took over, when it is long enough ago that it was given copies by others that may have lost something
//! (see [`crate::chain::lineages`]).
//!
//! Period: as long as lineages are kept.

use std::sync::Arc;

use tokio::sync::watch;

use crate::brick::Brick;
use crate::chain::lineages::REMEMBERED_FOR;

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(REMEMBERED_FOR) => {}
        }
        let noting = brick.clone();
        match brick.pool.run(move || noting.vouch_again()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(brick = %brick.id, %error, "could not note that this life vouches for its changes");
            }
            Err(error) => {
                tracing::debug!(brick = %brick.id, ?error, "could not note that this life vouches for its changes");
            }
        }
    }
}
