//! What bricks tell, and the map.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use wire::id::{BootId, BrickId, ChainEpoch, ChainId, MapEpoch};
use wire::meta::{BrickRegistration, BrickReport, ClusterReply, ClusterStatus, SessionStatus};
use wire::status::Status;

use crate::config::MAP_WAIT_MS;
use crate::error::Error;
use crate::machine::command::Op;
use crate::machine::txn::load;
use crate::namespace::{Namespace, lock};
use crate::store::keys;
use crate::store::records::Session;

impl Namespace {
    fn map_reply(&self) -> ClusterReply {
        ClusterReply::Map(self.map().as_ref().clone())
    }

    /// The map, once it is newer than `after` or time is over.
    pub async fn get_map(&self, after: MapEpoch, wait_ms: u32) -> Result<ClusterReply, Status> {
        let wait = Duration::from_millis(u64::from(wait_ms.min(MAP_WAIT_MS)));
        let mut map = self.watchers.map.subscribe();
        // Late or stopping: whatever it is then.
        tokio::select! {
            _ = timeout_at(Instant::now() + wait, map.wait_for(|m| m.epoch > after)) => {}
            () = self.watchers.stopped() => {}
        }
        Ok(self.map_reply())
    }

    /// Adds bricks.
    pub async fn add_bricks(&self, bricks: Vec<BrickRegistration>) -> Result<ClusterReply, Status> {
        self.propose(Op::AddBricks(bricks)).await?;
        Ok(self.map_reply())
    }

    /// A brick has come up. If it may have forgotten something that others know, it has to be
    /// known first whether they lived on.
    pub async fn register_brick(&self, brick: BrickRegistration) -> Result<ClusterReply, Status> {
        let (id, boot) = (brick.brick, brick.boot);
        let known = self.map().bricks.contains_key(&id);
        if !known {
            return Err(Status::Busy);
        }
        let arrived = lock(&self.watchers.bricks).arrived(id, boot, Instant::now());
        self.watchers.heard.send_modify(|n| *n += 1);
        let registered = match self.evidence(&brick, arrived).await {
            Ok(stayed) => self.propose(Op::RegisterBrick { brick, stayed }).await,
            Err(status) => Err(status),
        };
        if registered.is_err() {
            // The arrival stays: the brick calls again in the same life, and what others
            // have shown meanwhile counts.
            return registered.map(|_| ClusterReply::Done);
        }
        lock(&self.watchers.bricks).registered(id, boot, Instant::now());
        self.watchers.heard.send_modify(|n| *n += 1);
        tracing::info!(brick = %id, boot = %boot, "a brick has come up");
        Ok(self.map_reply())
    }

    /// Which of its fellows stayed while the brick was away.
    async fn evidence(
        &self,
        brick: &BrickRegistration,
        arrived: Instant,
    ) -> Result<BTreeSet<BrickId>, Status> {
        let deadline = Instant::now() + self.config.register_wait;
        let mut heard = self.watchers.heard.subscribe();
        loop {
            heard.borrow_and_update();
            let map = self.map();
            let info = map.bricks.get(&brick.brick).ok_or(Status::Busy)?;
            if !info.alive || info.boot == brick.boot || info.boot == BootId(0) || info.store != brick.store {
                return Ok(BTreeSet::new());
            }
            if !lock(&self.watchers.bricks).is_pending(brick.brick, brick.boot) {
                // A later life has arrived meanwhile; this one is over.
                return Err(Status::Busy);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Status::Busy);
            }
            {
                let mut bricks = lock(&self.watchers.bricks);
                if let Some(stayed) = bricks.stayed(&map, brick.brick, arrived) {
                    return Ok(stayed);
                }
                // Were it declared dead while it waits for a fellow that is dead indeed, the
                // chain would wait for that one.
                bricks.waits(brick.brick, now);
            }
            let pause = (now + self.config.brick_dead_after / 4).min(deadline);
            tokio::select! {
                _ = timeout_at(pause, heard.changed()) => {}
                () = self.watchers.stopped() => return Err(Status::Busy),
            }
        }
    }

    /// A brick is alive.
    pub async fn heartbeat(
        &self,
        brick: BrickId,
        boot: BootId,
        _map: MapEpoch,
        report: BrickReport,
    ) -> Result<ClusterReply, Status> {
        let map = self.map();
        let known = map.bricks.get(&brick).is_some_and(|b| b.alive && b.boot == boot);
        if report.failed {
            if known {
                tracing::error!(%brick, "a brick says that its disk failed");
                self.metrics.brick_died();
                self.propose(Op::BrickDead { brick, boot }).await?;
            }
            return Ok(ClusterReply::Heartbeat { map: self.map().epoch, register: false });
        }
        if known {
            lock(&self.watchers.bricks).heard(brick, boot, report, Instant::now());
            self.watchers.heard.send_modify(|n| *n += 1);
        }
        Ok(ClusterReply::Heartbeat { map: map.epoch, register: !known })
    }

    /// A member has been brought up to date.
    pub async fn sync_done(
        &self,
        chain: ChainId,
        epoch: ChainEpoch,
        brick: BrickId,
    ) -> Result<ClusterReply, Status> {
        self.propose(Op::SyncDone { chain, epoch, brick }).await?;
        tracing::info!(%chain, %brick, "a member of a chain is up to date");
        Ok(self.map_reply())
    }

    /// Everything for people.
    pub fn status(&self) -> Result<ClusterReply, Status> {
        let status = self.collect().map_err(|error| self.failed(&error))?;
        Ok(ClusterReply::Status(Box::new(status)))
    }

    fn collect(&self) -> Result<ClusterStatus, Error> {
        let counters = self.counters()?;
        let heard = lock(&self.watchers.sessions).heard(Instant::now());
        let mut sessions = Vec::with_capacity(heard.len());
        for (session, ago) in heard {
            let Some(record) = load::<Session>(&*self.db, &keys::session(session))? else { continue };
            sessions.push(SessionStatus {
                session,
                host: record.host,
                mount: record.mount,
                since: record.since,
                heard_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
            });
        }
        sessions.sort_by_key(|s| s.session);
        Ok(ClusterStatus {
            map: self.map().as_ref().clone(),
            bricks: lock(&self.watchers.bricks).reports(),
            sessions,
            inodes: counters.inodes,
            orphans: counters.orphans,
            trims: counters.trims,
        })
    }
}
