//! Tells the namespace that the brick is alive, and learns of new maps.
//!
//! Period: `heartbeat`. What a brick may do without an answer, see [`crate::brick`], 1.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use wire::map::MemberState;
use wire::meta::{BrickReport, ClusterReply, ClusterRequest};
use wire::net::CallError;
use wire::status::Status;

use crate::brick::Brick;
use crate::pool::PoolError;

/// Heartbeats between two questions who the members of the namespace are.
const LEARN_EVERY: u32 = 4;
/// Reasons told of one silence.
const MOST_REASONS: usize = 8;

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(brick.config.heartbeat);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut registered = false;
    let mut silence = Silence::default();
    let mut beats = 0u32;
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if brick.is_leaving() {
            // A heartbeat now would bring it back into its chains.
            return;
        }
        let beat = async {
            if !registered {
                let done = register(&brick).await;
                match &done {
                    Ok(()) => brick.told(None),
                    Err(CallError::Status(why)) => brick.told(Some(*why)),
                    // Not heard: what it said last stands.
                    Err(_) => {}
                }
                done?;
            }
            beat(&brick).await
        };
        let done = tokio::select! {
        biased;
                done = beat => done,
                _ = stop.wait_for(|stop| *stop) => return,
            };
        match done {
            Ok(beaten) => {
                registered = beaten != Beaten::Unknown;
                if beaten == Beaten::Again {
                    ticks.reset_immediately();
                }
                silence.end(&brick);
                if beats.is_multiple_of(LEARN_EVERY)
                    && let Err(error) = brick.namespaces.learn(&brick.net).await
                {
                    tracing::debug!(brick = %brick.id, %error, "could not ask for the namespace's members");
                }
                beats = beats.wrapping_add(1);
            }
            Err(error) => {
                silence.tell(&brick, registered, &error);
                if matches!(error, CallError::Status(Status::NamespaceBehind)) {
                    // It is to hear which map the brick has seen.
                    registered = false;
                }
            }
        }
    }
}

/// What was said since the namespace answered last: each reason once.
#[derive(Default)]
struct Silence {
    told: BTreeSet<String>,
}

impl Silence {
    fn tell(&mut self, brick: &Brick, registered: bool, error: &CallError) {
        let reason = error.to_string();
        if self.told.len() >= MOST_REASONS || !self.told.insert(reason) {
            return;
        }
        match error {
            CallError::Status(Status::Busy) if !registered => {
                tracing::info!(brick = %brick.id, "waits to be let in by the namespace");
            }
            CallError::Status(Status::Forbidden) if !registered => tracing::warn!(
                brick = %brick.id,
                "is not let in: it was removed from the cluster; its directory can be emptied and joined anew"
            ),
            CallError::Status(
                status @ (Status::Rival
                | Status::OtherDisk
                | Status::SetBack
                | Status::OnlyDisk
                | Status::Unreached),
            ) if !registered => {
                tracing::warn!(brick = %brick.id, dir = %brick.config.dir.display(), "is not let in: {status}");
            }
            CallError::Status(status @ Status::NamespaceBehind) => {
                tracing::warn!(brick = %brick.id, "is not let in: {status}");
            }
            error => tracing::info!(brick = %brick.id, %error, "the namespace does not answer"),
        }
    }

    fn end(&mut self, brick: &Brick) {
        if !std::mem::take(&mut self.told).is_empty() {
            tracing::info!(brick = %brick.id, "is in touch with the namespace");
        }
    }
}

async fn register(brick: &Arc<Brick>) -> Result<(), CallError> {
    let sent = Instant::now();
    let (saw, newest) = (brick.saw(), brick.newest_map());
    let (lives, records) = (brick.lives(), brick.store.records());
    let request = ClusterRequest::ComeUp { brick: brick.registration(), lives, saw, records };
    match brick.namespaces.ask(&brick.net, request).await? {
        ClusterReply::Map(map) if newest.is_some_and(|newest| map.epoch < newest.epoch) => {
            Err(CallError::Status(Status::NamespaceBehind))
        }
        ClusterReply::Behind { tell_map } => {
            if let Some(map) = brick.newest_map().filter(|_| tell_map) {
                let map = Box::new(map.as_ref().clone());
                brick.namespaces.ask(&brick.net, ClusterRequest::Saw { brick: brick.id, map }).await?;
            }
            Err(CallError::Status(Status::NamespaceBehind))
        }
        ClusterReply::Map(map) => {
            brick.install(map).await;
            brick.acknowledged(sent);
            let noting = brick.clone();
            if brick.pool.run(move || noting.life_counts()).await.is_err() {
                tracing::debug!(brick = %brick.id, "could not note that this life was taken note of");
            }
            Ok(())
        }
        ClusterReply::OtherCluster(theirs) => {
            tracing::error!(brick = %brick.id, %theirs, "the namespace is of another cluster");
            Err(CallError::Status(Status::Forbidden))
        }
        _ => Err(CallError::Status(Status::Malformed)),
    }
}

/// How the brick is; looks after its directory, too. While the disk hangs so does this, and the brick falls silent, which is right;
/// after some time it says why.
async fn report(brick: &Arc<Brick>) -> Result<BrickReport, PoolError> {
    let inner = brick.clone();
    let look = brick.pool.run(move || {
        if inner.store.failure().is_none()
            && let Some(trouble) = inner.directory_trouble()
        {
            inner.store.fail(trouble);
        }
        inner.report()
    });
    tokio::select! {
        biased;
        report = look => report,
        () = brick.disk_is_silent() => Ok(brick.report_of_silence()),
    }
}

/// What follows from a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beaten {
    /// The namespace does not know this life of the brick.
    Unknown,
    /// It goes on.
    Known,
    /// The brick is leaving a chain, and the namespace waits to hear that it knows.
    Again,
}

async fn beat(brick: &Arc<Brick>) -> Result<Beaten, CallError> {
    let report = report(brick).await.map_err(|_| CallError::Status(Status::Busy))?;
    if report.failed.is_some() {
        // Others go on without it as soon as this is heard, which is before the answer is here.
        brick.fence();
    }
    let sent = Instant::now();
    let has = brick.map().epoch;
    let request = ClusterRequest::Heartbeat { brick: brick.id, boot: brick.boot, map: has, report };
    match brick.namespaces.ask(&brick.net, request).await? {
        ClusterReply::Heartbeat { register: true, .. } => Ok(Beaten::Unknown),
        ClusterReply::Heartbeat { map, register: false } if map < has => {
            Err(CallError::Status(Status::NamespaceBehind))
        }
        ClusterReply::Heartbeat { map, register: false } => {
            // The map before the right to serve: an old map must not be served by.
            if brick.need_map(map).await.is_ok() {
                brick.acknowledged(sent);
            }
            let map = brick.map();
            let leaves = map.chains_of(brick.id).any(|c| c.state_of(brick.id) == Some(MemberState::Leaving));
            Ok(if leaves && map.epoch > has { Beaten::Again } else { Beaten::Known })
        }
        _ => Err(CallError::Status(Status::Malformed)),
    }
}
