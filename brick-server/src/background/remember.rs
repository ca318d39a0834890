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
    let mut told = false;
    loop {
        // Not by a channel of epochs: whom of several that watch one wakes first is left to chance, and a simulation must repeat itself.
        let mut changed = std::pin::pin!(brick.maps.changed.notified());
        changed.as_mut().enable();
        let noted = note(&brick, &mut told).await;
        if *stop.borrow() {
            return;
        }
        let pause = async { if noted { changed.await } else { tokio::time::sleep(PAUSE).await } };
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
            let is_news = !std::mem::replace(told, true);
            if is_news && error.kind() == std::io::ErrorKind::StorageFull {
                // That its disk is full is told already.
                tracing::info!(brick = %brick.id, "no room to note the cluster map: nothing is freed by it before there is");
            } else if is_news {
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
