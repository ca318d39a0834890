//! Notes each new map on the brick's disk, see [`crate::memory`].
//!
//! Period: when a map was taken; those that come while one is written are one. Where it can't be written, as on a full disk, that
//! is told once and tried again every [`PAUSE`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::brick::Brick;

/// Before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until `stop`, and notes the last one then.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    let mut epochs = brick.map_epochs();
    let mut told = false;
    loop {
        epochs.borrow_and_update();
        let noted = note(&brick, &mut told).await;
        if *stop.borrow() {
            return;
        }
        let pause = async {
            if noted {
                // Whoever sends is in the brick.
                let _ = epochs.changed().await;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = pause => {}
        }
    }
}

/// Whether the newest map is on the disk.
async fn note(brick: &Arc<Brick>, told: &mut bool) -> bool {
    if brick.is_noted(brick.map().epoch) {
        return true;
    }
    let noting = brick.clone();
    match brick.pool.run(move || noting.note_map()).await {
        Ok(Ok(())) => {
            *told = false;
            true
        }
        Ok(Err(error)) => {
            if !std::mem::replace(told, true) {
                tracing::warn!(
                    brick = %brick.id, %error,
                    "could not note the cluster map on the brick's disk; tried again, and nothing is freed by it before"
                );
            }
            false
        }
        Err(error) => {
            tracing::debug!(brick = %brick.id, ?error, "too busy to note the cluster map");
            false
        }
    }
}
