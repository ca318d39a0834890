//! Deadlines of bricks and sessions, every `tick`. If the tick itself is late by more than
//! `stall`, this process stood still and could not hear anybody: deadlines move.

use std::sync::Arc;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::background::{Stop, stopped};
use crate::machine::command::Op;
use crate::namespace::{Namespace, lock};

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    let mut ticks = interval(namespace.config.tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(last).saturating_sub(namespace.config.tick);
        last = now;
        if late > namespace.config.stall {
            warn!(late_ms = late.as_millis() as u64, "this process stood still; deadlines are extended");
            lock(&namespace.watchers.bricks).extend(late);
            lock(&namespace.watchers.sessions).extend(late);
        }
        bricks(&namespace, now).await;
        sessions(&namespace, now).await;
        // What proposing took is not standing still.
        last = last.max(Instant::now());
    }
}

async fn bricks(namespace: &Namespace, now: Instant) {
    let map = namespace.map();
    let dead = lock(&namespace.watchers.bricks).dead(&map, now);
    for (brick, boot) in dead {
        warn!(%brick, "a brick was not heard in time and counts as dead");
        namespace.metrics.brick_died();
        if let Err(status) = namespace.propose(Op::BrickDead { brick, boot }).await {
            warn!(%brick, %status, "could not declare a brick dead; trying again");
        }
    }
}

async fn sessions(namespace: &Namespace, now: Instant) {
    let expired = lock(&namespace.watchers.sessions).expired(now, namespace.config.session_ttl);
    for session in expired {
        info!(%session, "a session was not renewed in time and is over");
        namespace.metrics.session_expired();
        let op = Op::EndSession { session, clean: false };
        if let Err(status) = namespace.propose(op).await {
            warn!(%session, %status, "could not end a session; trying again");
        }
    }
}
