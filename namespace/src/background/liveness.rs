//! Deadlines of bricks and sessions, every `tick`. A brick whose connection has ended is looked
//! for at once: where its address refuses connections it has ended as well, since a process
//! that is gone serves nobody (`a_process_that_ended_is_dead_at_once`). If the tick itself is late by more than
//! `stall`, this process stood still and could not hear anybody: deadlines move.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};
use wire::id::{BootId, BrickId, SessionId};
use wire::net::Probed;

use crate::background::{Stop, stopped};
use crate::chain::would_cut_off;
use crate::machine::command::Op;
use crate::machine::locks;
use crate::namespace::{Namespace, lock};
use crate::soft::apart::Verdict;

/// So often it is noted how far the disks of bricks have come that commit.
const NOTE_PERIOD: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    let mut ticks = interval(namespace.config.tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut noted = last;
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = ticks.tick() => {}
            () = namespace.watchers.suspected.notified() => {}
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(last).saturating_sub(namespace.config.tick);
        last = now;
        if late > namespace.config.stall {
            warn!(late_ms = late.as_millis() as u64, "this process stood still; deadlines are extended");
            lock(&namespace.watchers.bricks).extend(late);
            lock(&namespace.watchers.sessions).extend(late);
        }
        if namespace.is_behind() {
            namespace.adopt_if_due().await;
            last = Instant::now();
            continue;
        }
        look_for(&namespace).await;
        bricks(&namespace, now).await;
        apart(&namespace, now).await;
        sessions(&namespace, now).await;
        if now.saturating_duration_since(noted) >= NOTE_PERIOD {
            noted = now;
            namespace.note_reached().await;
        }
        recalls(&namespace, now).await;
        // What proposing took is not standing still.
        last = last.max(Instant::now());
    }
}

/// Looks whether bricks whose connections have ended are still there.
async fn look_for(namespace: &Arc<Namespace>) {
    let map = namespace.map();
    let hung_up = lock(&namespace.watchers.bricks).hung_up(&map);
    let mut probes = JoinSet::new();
    for (brick, boot) in hung_up {
        let Some(to) = map.endpoint_of(brick).copied() else { continue };
        let (net, within) = (namespace.net.clone(), namespace.config.probe_timeout);
        probes.spawn(async move { (brick, boot, net.probe(&to, within).await) });
    }
    while let Some(probed) = probes.join_next().await {
        namespace.metrics.probed();
        let Ok((brick, boot, Probed::Refused)) = probed else { continue };
        // It may have been heard again while it was looked for.
        if lock(&namespace.watchers.bricks).hung_up(&namespace.map()).contains(&(brick, boot)) {
            warn!(%brick, "a brick's process has ended");
            give_up(namespace, brick, boot).await;
        }
    }
}

/// Has a life of a brick count as over.
pub(super) async fn give_up(namespace: &Namespace, brick: BrickId, boot: BootId) {
    namespace.metrics.brick_died();
    namespace.note_reached().await;
    lock(&namespace.watchers.bricks).died(brick, Instant::now());
    if let Err(status) = namespace.propose(Op::BrickDead { brick, boot }).await {
        warn!(%brick, %status, "could not declare a brick dead; trying again");
    }
}

async fn bricks(namespace: &Namespace, now: Instant) {
    let map = namespace.map();
    let dead = lock(&namespace.watchers.bricks).dead(&map, now);
    for (brick, boot) in dead {
        warn!(%brick, "a brick was not heard in time and counts as dead");
        give_up(namespace, brick, boot).await;
    }
}

/// Where a head can't reach a living member, one of them stops serving.
async fn apart(namespace: &Namespace, now: Instant) {
    let verdicts = {
        let bricks = lock(&namespace.watchers.bricks);
        lock(&namespace.watchers.apart)
            .judge(now, |(brick, boot), then| bricks.is_heard_after(brick, boot, then))
    };
    let map = namespace.map();
    for verdict in verdicts {
        let Verdict { head, member, out } = verdict;
        let concerned = map.chains.values().any(|c| would_cut_off(c, head, member, out));
        if !concerned {
            continue;
        }
        warn!(%head, %member, %out, "two bricks can't reach each other: one of them is brought up to date later");
        if let Err(status) = namespace.propose(Op::CutOff(verdict)).await {
            warn!(%head, %member, %status, "could not part two bricks that can't reach each other; trying again");
        }
    }
}

/// Mounts that were told to give up locks and did not in time.
async fn recalls(namespace: &Namespace, now: Instant) {
    let grace = namespace.config.recall_grace;
    let since = |told: &Instant| now.saturating_duration_since(*told);
    let due: Vec<SessionId> = {
        let recalls = lock(&namespace.watchers.recalls);
        recalls.iter().filter(|(_, told)| since(told) >= grace).map(|(session, _)| *session).collect()
    };
    for session in due {
        match locks::recalls(&*namespace.db, session) {
            Ok(left) if left.is_empty() => {
                lock(&namespace.watchers.recalls).remove(&session);
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                namespace.failed(&error);
                continue;
            }
        }
        namespace.metrics.session_expired();
        warn!(%session, "a mount has not given up a lock that was broken: its session is ended");
        end(namespace, session).await;
    }
}

async fn end(namespace: &Namespace, session: SessionId) {
    let op = Op::EndSession { session, clean: false };
    if let Err(status) = namespace.propose(op).await {
        warn!(%session, %status, "could not end a session; trying again");
    }
}

async fn sessions(namespace: &Namespace, now: Instant) {
    let expired = lock(&namespace.watchers.sessions).expired(now, namespace.config.session_keep);
    for session in expired {
        info!(%session, "a session was not renewed in time, and others need what it has: it is over");
        namespace.metrics.session_expired();
        end(namespace, session).await;
    }
}
