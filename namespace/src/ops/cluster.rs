//! What bricks tell, and the map.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use wire::brick::{BrickCall, BrickProtocol, BrickRequest};
use wire::id::{BootId, BrickId, ChainEpoch, ChainId, MapEpoch, SessionId};
use wire::map::MemberState;
use wire::meta::{BrickRegistration, BrickReport, ClusterReply, ClusterStatus, SessionStatus};
use wire::net::{CallError, Endpoint, Peer, Probed, Protocol};
use wire::status::Status;

use crate::chain::absence::hindrances;
use crate::chain::plan::plan;
use crate::config::MAP_WAIT_MS;
use crate::error::Error;
use crate::machine::bricks::may_take_the_place;
use crate::machine::command::{Op, Outcome};
use crate::machine::inodes;
use crate::machine::locks::recalls;
use crate::machine::reached::{is_taken_back, noted};
use crate::machine::sessions::class;
use crate::machine::txn::load;
use crate::namespace::{Namespace, lock};
use crate::soft::apart::Life;
use crate::soft::refusals::is_refusal;
use crate::soft::sessions::Heard;
use crate::store::keys;
use crate::store::records::Session;

impl Namespace {
    pub(super) fn map_reply(&self) -> ClusterReply {
        ClusterReply::Map(self.map().as_ref().clone())
    }

    /// The map, once it is newer than `after` or time is over.
    pub async fn get_map(
        &self,
        session: Option<SessionId>,
        after: MapEpoch,
        wait_ms: u32,
    ) -> Result<ClusterReply, Status> {
        let until = Instant::now() + Duration::from_millis(u64::from(wait_ms.min(MAP_WAIT_MS)));
        let mut map = self.watchers.map.subscribe();
        let mut recalled = self.watchers.recalled.subscribe();
        loop {
            recalled.borrow_and_update();
            let recalls = session.map(|session| recalls(&*self.db, session)).transpose();
            let recalls = recalls.map_err(|error| self.failed(&error))?.unwrap_or_default();
            if !recalls.is_empty() {
                return Ok(ClusterReply::Recalls { map: self.map().as_ref().clone(), recalls });
            }
            // Late or stopping: whatever it is then.
            tokio::select! {
                biased;
                _ = timeout_at(until, map.wait_for(|m| m.epoch > after)) => break,
                () = self.watchers.stopped() => break,
                changed = recalled.changed(), if session.is_some() => if changed.is_err() { break },
            }
        }
        Ok(self.map_reply())
    }

    /// Adds bricks.
    pub async fn add_bricks(&self, bricks: Vec<BrickRegistration>) -> Result<ClusterReply, Status> {
        self.propose(Op::AddBricks(bricks)).await?;
        Ok(self.map_reply())
    }

    /// A brick has come up. Who is refused for its disk is remembered for people.
    pub async fn register_brick(
        &self,
        brick: BrickRegistration,
        lives: &[BootId],
        records: u64,
    ) -> Result<ClusterReply, Status> {
        let done = self.let_in(brick.clone(), lives, records).await;
        let mut refusals = lock(&self.watchers.refusals);
        match done {
            Ok(_) => refusals.let_in(&brick),
            Err(why) if is_refusal(why) => {
                if refusals.refused(&brick, why, Instant::now()) {
                    let known = self.map().bricks.get(&brick.brick).map(|b| b.endpoint.to_string());
                    tracing::warn!(
                        brick = %brick.brick, here = known, there = %brick.endpoint, host = brick.host,
                        "a process that says it is this brick is not let in: {why}"
                    );
                }
            }
            Err(_) => {}
        }
        done
    }

    /// If it may have forgotten something that others know, it has to be known first whether they lived on. One whose disk
    /// knows lives, and not the last one, or lacks what it had committed was set back.
    async fn let_in(
        &self,
        brick: BrickRegistration,
        lives: &[BootId],
        records: u64,
    ) -> Result<ClusterReply, Status> {
        let (id, boot) = (brick.brick, brick.boot);
        let map = self.map();
        let Some(known) = map.bricks.get(&id) else {
            let given = self.wishes().map_err(|error| self.failed(&error))?.next_brick;
            // It may be about to be added, or it was removed.
            return Err(if id.0 < given { Status::Forbidden } else { Status::Busy });
        };
        if known.store != brick.store {
            self.told(may_take_the_place(&*self.db, &map, &brick))?;
        }
        let noted = noted(&*self.db).map_err(|error| self.failed(&error))?;
        let forgot_a_life = known.boot != BootId(0) && !lives.is_empty() && !lives.contains(&known.boot);
        let is_set_back = known.store == brick.store
            && (forgot_a_life || lock(&self.watchers.reached).is_set_back(&noted, id, brick.store, records));
        let is_taken =
            is_set_back && is_taken_back(&*self.db, id, brick.store).map_err(|error| self.failed(&error))?;
        {
            let mut bricks = lock(&self.watchers.bricks);
            let lives_elsewhere = known.alive && known.boot != boot && known.endpoint != brick.endpoint;
            if lives_elsewhere && bricks.is_heard(id, known.boot, Instant::now()) {
                return Err(Status::Rival);
            }
            if is_set_back && !is_taken {
                return Err(Status::SetBack);
            }
            let again = known.alive && known.boot != boot && known.boot != BootId(0);
            if again && !bricks.is_pending(id, boot) {
                bricks.died(id, Instant::now());
            }
            if let Some(left) = bricks.held(&map, id, Instant::now()) {
                tracing::debug!(brick = %id, left_ms = left.as_millis() as u64, "a brick that keeps dying is kept out");
                return Err(Status::Busy);
            }
        }
        if !self.reaches(id, &brick.endpoint).await {
            return Err(Status::Unreached);
        }
        if is_taken {
            lock(&self.watchers.reached).forget(id);
            tracing::warn!(brick = %id, "a disk that was set back is let in with what it has");
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

    /// Whether a brick answers at an address, and takes new connections there. Were one in chains that does not, who is served by them
    /// would wait for it in vain.
    pub(crate) async fn reaches(&self, brick: BrickId, endpoint: &Endpoint) -> bool {
        let deadline = Instant::now() + self.config.call_back;
        // What is open already may go through a firewall that lets nothing new in. Datagrams tell nothing before the call.
        let is_told = matches!(endpoint, Endpoint::Tls(_) | Endpoint::Memory(_));
        if is_told && self.net.probe(endpoint, self.config.call_back).await != Probed::Listens {
            return false;
        }
        self.net.try_again(endpoint, BrickProtocol::SERVICE);
        let call = BrickCall { brick, map: MapEpoch(0), request: BrickRequest::Ping };
        let answer = self.net.request::<BrickProtocol>(endpoint, &call, Bytes::new(), deadline).await;
        // Any other answer is one, too; this one is of a process with other bricks.
        !matches!(answer, Err(CallError::Net(_) | CallError::Status(Status::WrongMember)))
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
        has: MapEpoch,
        report: BrickReport,
        connection: Weak<Peer>,
    ) -> Result<ClusterReply, Status> {
        let map = self.map();
        // One that has no map in this life speaks when it comes up.
        let behind = if has > MapEpoch(0) {
            self.says(brick, None, Some(has), has <= map.epoch)
        } else {
            self.is_behind()
        };
        if behind {
            return Err(Status::NamespaceBehind);
        }
        let fence = Duration::from_millis(u64::from(report.fence_after_ms));
        if fence >= self.config.brick_dead_after {
            tracing::error!(
                %brick, fence_ms = report.fence_after_ms, dead_ms = self.config.brick_dead_after.as_millis() as u64,
                "a brick would serve for longer than it takes to be declared dead; its heartbeats are refused"
            );
            return Err(Status::Forbidden);
        }
        let known = map.bricks.get(&brick).filter(|b| b.alive && b.boot == boot).map(|b| b.store);
        if let Some(store) = known {
            lock(&self.watchers.reached).says(brick, store, report.records);
        }
        let known = known.is_some();
        if let Some(why) = &report.failed {
            if known {
                tracing::error!(%brick, why, "a brick says that it can serve no more; others take over");
                self.metrics.brick_died();
                self.propose(Op::BrickDead { brick, boot }).await?;
            }
            // What is told of a directory that is not served is no news of a brick that is served elsewhere.
            if known || !self.map().bricks.get(&brick).is_some_and(|info| info.alive) {
                lock(&self.watchers.bricks).failed(brick, report);
            }
            return Ok(ClusterReply::Heartbeat { map: self.map().epoch, register: false });
        }
        if known {
            let mut bricks = lock(&self.watchers.bricks);
            bricks.heard(brick, boot, has, report, Instant::now());
            bricks.came_over(brick, connection);
            drop(bricks);
            self.watchers.heard.send_modify(|n| *n += 1);
            if has >= map.epoch
                && map.chains_of(brick).any(|c| c.state_of(brick) == Some(MemberState::Leaving))
            {
                self.watchers.informed.notify_one();
            }
        }
        Ok(ClusterReply::Heartbeat { map: map.epoch, register: !known })
    }

    /// A brick stops in good order.
    pub async fn farewell(&self, brick: BrickId, boot: BootId) -> Result<ClusterReply, Status> {
        self.note_reached().await;
        self.propose(Op::BrickDead { brick, boot }).await?;
        tracing::info!(%brick, "a brick has said goodbye");
        Ok(ClusterReply::Done)
    }

    /// Notes how far the disks of bricks have come, where that is not noted.
    pub async fn note_reached(&self) {
        let noted = match noted(&*self.db) {
            Ok(noted) => noted,
            Err(error) => {
                self.failed(&error);
                return;
            }
        };
        let news = lock(&self.watchers.reached).news(&self.map(), &noted);
        if !news.is_empty()
            && let Err(status) = self.propose(Op::NoteRecords(news)).await
        {
            tracing::debug!(%status, "could not note how far disks have come; trying again");
        }
    }

    /// Somebody was refused by a brick of the map, or gets no answer.
    pub fn suspect(&self, brick: BrickId, boot: BootId) -> ClusterReply {
        if self.map().bricks.get(&brick).is_some_and(|b| b.alive && b.boot == boot) {
            self.watchers.suspected.notify_one();
            self.doubt((brick, boot));
        }
        ClusterReply::Done
    }

    /// A brick may be out of reach: it is asked for a sign of life.
    pub(crate) fn doubt(&self, brick: Life) {
        lock(&self.watchers.doubts).told(brick, Instant::now());
        self.watchers.doubted.notify_one();
    }

    /// What a brick holds of its chains.
    pub fn holdings(&self, brick: BrickId, boot: BootId, bytes: Vec<(ChainId, u64)>) -> ClusterReply {
        if self.map().bricks.get(&brick).is_some_and(|b| b.alive && b.boot == boot) {
            lock(&self.watchers.bricks).holds(brick, bytes);
        }
        ClusterReply::Done
    }

    /// The head of a chain can't reach a member. One that is not heard here either is dead before long, or lives on in a life that
    /// its map does not know yet.
    pub fn unreachable(&self, by: Life, brick: Life) -> ClusterReply {
        let now = Instant::now();
        let heard = {
            let bricks = lock(&self.watchers.bricks);
            [by, brick].into_iter().all(|(id, boot)| bricks.is_heard(id, boot, now))
        };
        if heard {
            if lock(&self.watchers.apart).told(by, brick, now) {
                tracing::info!(by = %by.0, brick = %brick.0, "a brick says that it can't reach another one");
            }
            self.doubt(brick);
        }
        ClusterReply::Done
    }

    /// An order about bricks.
    pub async fn order(&self, op: Op) -> Result<ClusterReply, Status> {
        match self.propose(op.clone()).await? {
            Outcome::Added(brick) => {
                tracing::info!(%brick, "a brick has got its number");
                Ok(ClusterReply::Added(brick))
            }
            Outcome::Refused(why) => Ok(ClusterReply::Refused(why)),
            _ => {
                tracing::info!(order = ?op, "an order of the administrator");
                Ok(ClusterReply::Done)
            }
        }
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
        for Heard { session, ago, lives } in heard {
            let Some(record) = load::<Session>(&*self.db, &keys::session(session))? else { continue };
            sessions.push(SessionStatus {
                session,
                host: record.host,
                mount: record.mount,
                since: record.since,
                class: class(&*self.db, session)?,
                heard_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
                lives,
            });
        }
        sessions.sort_by_key(|s| s.session);
        let (map, now) = (self.map(), Instant::now());
        let wishes = self.wishes()?;
        let facts = self.facts(&wishes)?;
        let stuck = plan(&map, &wishes, &facts).stuck;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let bricks = lock(&self.watchers.bricks);
        let apart = lock(&self.watchers.apart).pairs(now);
        let missed = bricks.missed(&map);
        let irreplaceable = hindrances(&map, &wishes, &facts, &missed);
        let held = |brick: &BrickId| bricks.held(&map, *brick, now).map(|left| (*brick, ms(left)));
        Ok(ClusterStatus {
            map: map.as_ref().clone(),
            bricks: bricks.reports(),
            wishes,
            stuck,
            irreplaceable,
            missed_ms: missed.into_iter().map(|(b, at)| (b, ms(now.saturating_duration_since(at)))).collect(),
            apart_ms: apart
                .into_iter()
                .map(|(pair, at)| (pair, ms(now.saturating_duration_since(at))))
                .collect(),
            unreached_ms: lock(&self.watchers.doubts)
                .unreached(now)
                .into_iter()
                .map(|((brick, _), at)| (brick, ms(now.saturating_duration_since(at))))
                .collect(),
            held_ms: map.bricks.values().filter(|b| !b.alive).filter_map(|b| held(&b.id)).collect(),
            refused: lock(&self.watchers.refusals).lately(now),
            behind: lock(&self.watchers.claims).behind(),
            lost_inodes: inodes::lost(&*self.db)?,
            sessions,
            inodes: counters.inodes,
            orphans: counters.orphans,
            trims: counters.trims,
        })
    }
}
