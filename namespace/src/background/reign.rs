//! Leading: what only the leader does begins when this member leads and has applied all that was
//! answered before, and ends when it does not lead any more.
//!
//! 1. Nobody is answered before what is in memory only was made anew, and no loop of an earlier
//!    reign runs then (`a_new_leader_declares_nobody_dead`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use wire::id::Ino;
use wire::status::Status;

use crate::background::{Stop, collect, doubts, journal, liveness, moves, reclaim, stopped, tokens, trims};
use crate::error::Error;
use crate::log::Leadership;
use crate::machine::command::Op;
use crate::namespace::Namespace;

/// Time for loops to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a barrier that could not be passed.
const PAUSE: Duration = Duration::from_millis(20);

/// The queue of trims, which every reign goes on with.
pub type Trims = Arc<Mutex<mpsc::Receiver<Ino>>>;

/// What runs while this member leads.
pub struct Reign {
    stop: watch::Sender<bool>,
    loops: JoinSet<()>,
}

/// What has to be done before a reign begins: a state that is set back later is told from this one by the number it draws, and numbers
/// of inodes go on behind all that a lost state may have given.
///
/// # Errors
/// If this member leads no more, or its disk fails.
pub async fn announce(namespace: &Namespace) -> Result<(), Status> {
    let drawn = wire::net::pki::random_id().map_err(|error| {
        warn!(%error, "no random number can be had");
        Status::Busy
    })?;
    let [a, b, c, d, e, f, g, h, ..] = drawn;
    let reign = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    namespace.propose_anyway(Op::BeginReign(reign)).await.map(|_| ())
}

/// Begins to lead.
///
/// # Errors
/// If the disk fails.
pub fn begin(namespace: &Arc<Namespace>, trims: &Trims) -> Result<Reign, Error> {
    namespace.take_over()?;
    let (stop, stopped) = watch::channel(false);
    let mut loops = JoinSet::new();
    loops.spawn(liveness::run(namespace.clone(), stopped.clone()));
    loops.spawn(doubts::run(namespace.clone(), stopped.clone()));
    loops.spawn(moves::run(namespace.clone(), stopped.clone()));
    loops.spawn(reclaim::run(namespace.clone(), stopped.clone()));
    loops.spawn(collect::run(namespace.clone(), stopped.clone()));
    loops.spawn(journal::run(namespace.clone(), stopped.clone()));
    loops.spawn(tokens::run(namespace.clone(), stopped.clone()));
    let (namespace_too, trims) = (namespace.clone(), trims.clone());
    loops.spawn(async move { trims::run(namespace_too, &mut *trims.lock().await, stopped).await });
    namespace.watchers.reigns.send_replace(true);
    Ok(Reign { stop, loops })
}

/// Ends to lead.
async fn end(namespace: &Namespace, mut reign: Reign) {
    namespace.watchers.reigns.send_replace(false);
    reign.stop.send_replace(true);
    let ended = async {
        while let Some(ended) = reign.loops.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "a loop of the namespace did not end well");
            }
        }
    };
    if timeout(PATIENCE, ended).await.is_err() {
        // What it waits for is the answer to a proposal that nobody may ever give.
        reign.loops.shutdown().await;
    }
}

/// Runs until told to stop, from a reign that has begun or from none.
pub async fn run(
    namespace: Arc<Namespace>,
    trims: Trims,
    mut reign: Option<(Leadership, Reign)>,
    mut stop: Stop,
) {
    let mut leadership = namespace.log.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if let Some((led, ended)) = reign.take_if(|(led, _)| *led != now) {
            info!(?led, ?now, "leads the namespace no more");
            end(&namespace, ended).await;
        }
        if let (Leadership::Leading { term }, None) = (now, &reign) {
            let ready = async {
                namespace.log.read_barrier().await?;
                announce(&namespace).await
            };
            let ready = tokio::select! {
                ready = ready => ready,
                () = stopped(&mut stop) => return,
                _ = leadership.changed() => continue,
            };
            let begun =
                ready.and_then(|()| begin(&namespace, &trims).map_err(|error| namespace.failed(&error)));
            let Ok(begun) = begun else {
                sleep(PAUSE).await;
                continue;
            };
            info!(term, "leads the namespace");
            reign = Some((now, begun));
        }
        tokio::select! {
            () = stopped(&mut stop) => {
                if let Some((_, reign)) = reign.take() {
                    end(&namespace, reign).await;
                }
                return;
            }
            changed = leadership.changed() => {
                if changed.is_err() {
                    // The log is gone: nothing can be led.
                    if let Some((_, reign)) = reign.take() {
                        end(&namespace, reign).await;
                    }
                    return;
                }
            }
        }
    }
}
