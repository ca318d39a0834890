//! A brick at work: its store, what it knows of the cluster, and whether it may serve.
//!
//! 1. It serves nothing when its last acknowledged heartbeat was sent longer ago than
//!    `fence_after` (`a_brick_cut_off_fences_itself`), nor when its disk failed.
//! 2. It never goes back to an older map, in no life: see [`crate::memory`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wire::brick::{BrickCall, BrickReply, BrickRequest, ChainRef, Lineage};
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, ChainId, ChunkVersion, MapEpoch, SessionId, StoreId};
use wire::map::{Chain, ClusterMap, MemberState};
use wire::meta::{BrickRegistration, BrickReport, ClusterRequest};
use wire::net::{CallError, Endpoint, Net, NetError};
use wire::status::{FsError, Status};

use crate::background::commit::Committer;
use crate::background::heal::Pending;
use crate::background::progress::Progress;
use crate::background::scrub::Scrubber;
use crate::chain::copied::Copied;
use crate::chain::flights::Flights;
use crate::chain::gates::{Gates, Passage};
use crate::chain::lineages::{Beginning, Lineages};
use crate::chain::lost::Lost;
use crate::chain::marks::Marks;
use crate::chain::pace::Pace;
use crate::chain::reach::Reach;
use crate::chain::rules::{self, Standings, Wish};
use crate::chain::syncs::Syncs;
use crate::chain::writers::Writers;
use crate::config::{
    Config, GATE_DEADLINE, PEER_DEADLINE, PEER_PATIENCE, REFUSED_FOR, SILENT_FOR, SUSPECT_AGAIN,
};
use crate::error::status_of;
use crate::maps::Maps;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::namespace::Namespaces;
use crate::ops::patch::Staging;
use crate::ops::trim;
use crate::pool::{Pool, PoolError};
use crate::store::dir::{DirError, Held, IDENTITY_FILE, identify};
use crate::store::lives::Lives;
use crate::store::{ChunkStore, Header, Pressure, StoreError};

/// Everything about one brick.
pub struct Brick {
    /// Its number.
    pub id: BrickId,
    /// This life of it.
    pub boot: BootId,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Its chunks.
    pub store: Arc<dyn ChunkStore>,
    pub(crate) committer: Committer,
    pub(crate) pool: Pool,
    pub(crate) gates: Gates,
    pub(crate) writers: Mutex<Writers>,
    pub(crate) copied: Mutex<Copied>,
    pub(crate) trims: Mutex<trim::Orders>,
    /// When the namespace was told last of a brick that is away.
    suspected: Mutex<Option<Instant>>,
    pub(crate) marks: Mutex<Marks>,
    pub(crate) flights: Flights,
    /// By which epoch of the map the head of a chain had nothing left of blocked sessions.
    pub(crate) cleared: Mutex<BTreeMap<ChainId, MapEpoch>>,
    pub(crate) lost: Mutex<Lost>,
    pub(crate) lineages: Arc<Mutex<Lineages>>,
    pub(crate) syncs: Syncs,
    pub(crate) reach: Reach,
    /// Of copying in the background.
    pub(crate) copying: Pace,
    pub(crate) staging: Staging,
    pub(crate) pending: Pending,
    pub(crate) scrubber: Scrubber,
    /// Of bringing members up to date.
    pub(crate) progress: Progress,
    pub(crate) net: Net,
    pub(crate) namespaces: Namespaces,
    pub(crate) config: Config,
    /// What it has seen of maps.
    pub(crate) memory: Memory,
    store_id: StoreId,
    /// On its disk; none in a simulation.
    lives: Arc<Mutex<Option<Lives>>>,
    /// Its directory; none in a simulation.
    held: Option<Held>,
    endpoint: Endpoint,
    pub(crate) maps: Arc<Maps>,
    fetching: tokio::sync::Mutex<()>,
    born: Instant,
    /// When the last acknowledged heartbeat was sent, in milliseconds since `born`, plus one.
    acknowledged: AtomicU64,
    /// It is about to say goodbye.
    leaving: AtomicBool,
    /// What it said of itself last.
    reported: Mutex<BrickReport>,
    /// Why the namespace does not let it in, and since when it says so.
    refused: Mutex<Option<(Status, Instant)>>,
}

/// A chain, as it was when a call was let in.
#[derive(Debug, Clone)]
pub struct Place {
    /// The map.
    pub map: Arc<ClusterMap>,
    /// Which chain, at which epoch.
    pub chain: ChainRef,
}

impl Place {
    /// The chain's members.
    pub fn chain(&self) -> Result<&Chain, Status> {
        rules::find(&self.map, self.chain)
    }

    /// Members other than `me` that get every change: serving ones, then leaving and syncing ones.
    pub fn others(&self, me: BrickId) -> Result<Vec<BrickId>, Status> {
        let chain = self.chain()?;
        Ok(chain.serving().chain(chain.leaving()).chain(chain.syncing()).filter(|b| *b != me).collect())
    }
}

/// What a brick is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) store_id: StoreId,
    pub(crate) held: Option<Held>,
    pub(crate) store: Arc<dyn ChunkStore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) committer: Committer,
    pub(crate) pool: Pool,
    pub(crate) net: Net,
    pub(crate) namespaces: Namespaces,
    pub(crate) endpoint: Endpoint,
    pub(crate) boot: BootId,
    /// How its life began.
    pub(crate) beginning: Beginning,
    pub(crate) lives: Option<Lives>,
    /// The map its disk remembers.
    pub(crate) seen: Option<ClusterMap>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Brick {
    pub(crate) fn new(parts: Parts) -> Brick {
        let lineages = Lineages::new(parts.config.brick, parts.beginning, Instant::now());
        Brick {
            id: parts.config.brick,
            boot: parts.boot,
            metrics: parts.metrics,
            store: parts.store,
            committer: parts.committer,
            pool: parts.pool,
            gates: Gates::default(),
            writers: Mutex::default(),
            copied: Mutex::default(),
            trims: Mutex::default(),
            suspected: Mutex::default(),
            marks: Mutex::default(),
            flights: Flights::default(),
            cleared: Mutex::default(),
            lost: Mutex::default(),
            lineages: Arc::new(Mutex::new(lineages)),
            syncs: Syncs::default(),
            reach: Reach::default(),
            copying: Pace::new(parts.config.copy_bytes_per_second),
            staging: Staging::default(),
            pending: Pending::default(),
            scrubber: Scrubber::default(),
            progress: Progress::default(),
            net: parts.net,
            namespaces: parts.namespaces,
            maps: Arc::new(Maps::new(parts.config.cluster, parts.config.brick)),
            config: parts.config,
            memory: Memory::new(parts.seen),
            store_id: parts.store_id,
            lives: Arc::new(Mutex::new(parts.lives)),
            held: parts.held,
            endpoint: parts.endpoint,
            fetching: tokio::sync::Mutex::default(),
            born: Instant::now(),
            acknowledged: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            reported: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    // The store, from async code.

    /// Runs something on the brick's threads.
    ///
    /// # Errors
    /// What the store says, or that too much waits for it.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn ChunkStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Result<T, StoreError>, Status> {
        let store = self.store.clone();
        match self.pool.run(move || job(&*store)).await {
            Ok(done) => Ok(done),
            Err(PoolError::Full) => Err(Status::Busy),
            Err(PoolError::Panicked) => {
                self.store.fail("an operation of the store panicked".to_owned());
                Err(Status::DiskFailed)
            }
        }
    }

    /// [`Brick::on_disk`] where every failure of the store goes to the caller.
    ///
    /// # Errors
    /// As a status.
    pub async fn disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn ChunkStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        self.on_disk(job).await?.map_err(|e| status_of(&e))
    }

    /// [`Brick::disk`] if the chain is at its epoch and `session` is not blocked, neither of which
    /// can change while the job runs. So what becomes visible in one epoch is there before anything is
    /// compared in the next one, and nothing of a session becomes visible once its end is known here.
    ///
    /// # Errors
    /// As a status; the job did not run, or failed.
    pub(crate) async fn disk_in<T: Send + 'static>(
        &self,
        chain: ChainRef,
        session: Option<SessionId>,
        job: impl FnOnce(&dyn ChunkStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let maps = self.maps.clone();
        self.disk(move |store| {
            maps.while_it_stands(|map| {
                if let Err(status) = rules::find(map, chain) {
                    return Ok(Err(status));
                }
                if session.is_some_and(|session| map.blocked.contains_key(&session)) {
                    return Ok(Err(Status::SessionGone));
                }
                job(store).map(Ok)
            })
        })
        .await?
    }

    /// What this brick has of a chunk.
    ///
    /// # Errors
    /// As a status.
    pub async fn chunk(&self, key: ChunkKey) -> Result<Option<Header>, Status> {
        self.disk(move |store| store.chunk(key)).await
    }

    /// Makes everything acknowledged durable.
    ///
    /// # Errors
    /// As a status.
    pub async fn commit(&self) -> Result<(), Status> {
        self.committer.commit().await.map_err(|e| status_of(&e))
    }

    /// Waits while too much is not durable yet.
    ///
    /// # Errors
    /// As a status.
    pub async fn make_room(&self) -> Result<(), Status> {
        match self.store.pressure() {
            Pressure::TooMuch => match self.commit().await {
                // Others take over before long.
                Err(Status::Fs(FsError::NoSpace)) if !self.is_needed() => Err(Status::Busy),
                done => done,
            },
            Pressure::Much => {
                self.committer.hurry();
                Ok(())
            }
            Pressure::Some | Pressure::Clean => Ok(()),
        }
    }

    /// The gate of a chunk, to change it.
    ///
    /// # Errors
    /// [`Status::Busy`] after a while.
    pub async fn alone(&self, key: ChunkKey) -> Result<Passage, Status> {
        tokio::time::timeout(GATE_DEADLINE, self.gates.alone(key)).await.map_err(|_| Status::Busy)
    }

    /// The gate of a chunk, to read it.
    ///
    /// # Errors
    /// [`Status::Busy`] after a while.
    pub async fn shared(&self, key: ChunkKey) -> Result<Passage, Status> {
        tokio::time::timeout(GATE_DEADLINE, self.gates.shared(key)).await.map_err(|_| Status::Busy)
    }

    // The map.

    /// The map as this brick knows it.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.maps.map()
    }

    /// How it stands in its chains.
    pub fn standings(&self) -> Standings {
        self.maps.look(|_, standings| standings.clone())
    }

    /// Whether it is sure of its copies in every chain it serves in.
    pub fn is_sure(&self) -> bool {
        self.maps.look(|_, standings| standings.values().all(|standing| standing.sure || !standing.serving))
    }

    /// Readers of a chunk here are to ask the head first whether all members have `version`.
    pub(crate) fn mark(&self, key: ChunkKey, chain: ChainRef, version: ChunkVersion) {
        if !lock(&self.marks).set(key, chain.id, version) {
            self.maps.set_unsure(chain.id);
        }
    }

    /// Takes a map, if it is newer.
    pub(crate) async fn install(&self, map: ClusterMap) {
        if map.cluster != self.config.cluster {
            tracing::error!(brick = %self.id, theirs = %map.cluster, "refused another cluster's map");
        } else if let Err(wrong) = map.verify() {
            tracing::error!(brick = %self.id, wrong, "refused a map that breaks its own rules");
        } else if map.epoch >= self.memory.least() {
            self.maps.take(map).await;
        }
    }

    /// Asks the namespace for a map of at least this epoch; one asks for all who wait.
    ///
    /// # Errors
    /// [`Status::MapBehind`] if there was none to be had.
    pub(crate) async fn need_map(&self, at_least: MapEpoch) -> Result<(), Status> {
        if self.map().epoch >= at_least {
            return Ok(());
        }
        let _one = self.fetching.lock().await;
        let have = self.map().epoch;
        if have < at_least {
            match self.namespaces.map_after(&self.net, self.id, have, self.saw()).await {
                Ok(map) => self.install(map).await,
                Err(error) => tracing::debug!(brick = %self.id, %error, "no newer map"),
            }
        }
        if self.map().epoch >= at_least { Ok(()) } else { Err(Status::MapBehind) }
    }

    /// Lets a call in, or says what its caller has to learn first.
    ///
    /// # Errors
    /// As a status.
    pub async fn admit(&self, map: MapEpoch, chain: ChainRef, wish: Wish) -> Result<Place, Status> {
        self.need_map(map).await?;
        self.admit_now(chain, wish)
    }

    /// [`Brick::admit`] by the map there is.
    ///
    /// # Errors
    /// As a status.
    pub fn admit_now(&self, chain: ChainRef, wish: Wish) -> Result<Place, Status> {
        if self.store.failure().is_some() {
            return Err(Status::DiskFailed);
        }
        if wish != Wish::Look && self.is_fenced() {
            return Err(Status::Busy);
        }
        self.maps.look(|map, standings| {
            let found = rules::find(map, chain)?;
            rules::may(found, standings.get(&chain.id), self.id, wish)?;
            Ok(Place { map: map.clone(), chain })
        })
    }

    /// Whether a session may change something.
    ///
    /// # Errors
    /// [`Status::SessionGone`].
    pub fn check_session(&self, place: &Place, session: SessionId) -> Result<(), Status> {
        if place.map.blocked.contains_key(&session) { Err(Status::SessionGone) } else { Ok(()) }
    }

    // Life.

    /// A heartbeat sent then was acknowledged.
    pub(crate) fn acknowledged(&self, sent: Instant) {
        let at = sent.saturating_duration_since(self.born).as_millis() as u64 + 1;
        self.acknowledged.fetch_max(at, Ordering::Relaxed);
    }

    /// Serves nothing until a heartbeat is acknowledged that is sent from now on.
    pub(crate) fn fence(&self) {
        self.acknowledged.store(0, Ordering::Relaxed);
    }

    /// Whether it must not serve because the namespace may have given it up.
    pub fn is_fenced(&self) -> bool {
        let last = self.acknowledged.load(Ordering::Relaxed);
        let sent = Duration::from_millis(last.saturating_sub(1));
        self.is_leaving() || last == 0 || self.born.elapsed().saturating_sub(sent) > self.config.fence_after
    }

    /// Serves nothing from now on and tells the namespace, so that others take over at once. What
    /// was let in before runs to its end, as it would had it been a little faster.
    pub(crate) async fn say_goodbye(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        let farewell = ClusterRequest::Farewell { brick: self.id, boot: self.boot };
        if let Err(error) = self.namespaces.ask(&self.net, farewell).await {
            tracing::info!(brick = %self.id, %error, "stops without a goodbye: it will be missed");
        }
    }

    /// The namespace has let it in, or does not, and why.
    pub(crate) fn told(&self, refused: Option<Status>) {
        let mut known = lock(&self.refused);
        if known.map(|(why, _)| why) != refused {
            *known = refused.map(|why| (why, Instant::now()));
        }
    }

    /// Why the namespace does not let it in, and for how long it has said so.
    pub(crate) fn refusal(&self) -> Option<(Status, Duration)> {
        lock(&self.refused).map(|(why, since)| (why, since.elapsed()))
    }

    /// Whether it is about to stop.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// What is wrong with its directory, if it is not there as it was taken. Waits for the disk.
    pub(crate) fn directory_trouble(&self) -> Option<String> {
        if self.held.as_ref().is_none_or(Held::is_there) {
            return None;
        }
        let dir = self.config.dir.display();
        Some(match identify(&self.config.dir) {
            Ok(_) => format!("something else is in {dir} now"),
            Err(DirError::NoBrick { .. }) => format!("{IDENTITY_FILE} is gone from {dir}"),
            // Not gone: its disk can't be read.
            Err(error) => error.to_string(),
        })
    }

    /// Writes a map to its disk, where it has one.
    pub(crate) fn write_map(&self, map: &ClusterMap) -> std::io::Result<()> {
        self.held.as_ref().map_or(Ok(()), |held| held.note_map(map))
    }

    /// Who it is.
    pub(crate) fn registration(&self) -> BrickRegistration {
        BrickRegistration {
            brick: self.id,
            store: self.store_id,
            boot: self.boot,
            node: self.config.node,
            host: self.config.host.clone(),
            endpoint: self.endpoint,
        }
    }

    /// The lives its disk knows; none where it says nothing.
    pub(crate) fn lives(&self) -> Vec<BootId> {
        lock(&self.lives).as_ref().map(Lives::known).unwrap_or_default()
    }

    /// The namespace has taken note of this life. Waits for the disk.
    pub(crate) fn life_counts(&self) {
        if let Some(Err(error)) = lock(&self.lives).as_mut().map(Lives::counts) {
            tracing::warn!(brick = %self.id, %error, "could not note that this life was taken note of");
        }
    }

    /// It is about to be given a copy of which this is known: in its next life it does not vouch for what it took over in this one.
    ///
    /// # Errors
    /// [`Status::DiskFailed`].
    pub(crate) async fn given(&self, lineage: Option<&Lineage>) -> Result<(), Status> {
        if lineage.is_none() || lock(&self.lineages).doubt_longer(Instant::now()) {
            return Ok(());
        }
        let (lives, lineages) = (self.lives.clone(), self.lineages.clone());
        let noted = move |_: &dyn ChunkStore| {
            let mut lives = lock(&lives);
            let noted = lives.as_mut().map_or(Ok(()), |lives| lives.vouch(false));
            lock(&lineages).doubt(Instant::now());
            noted.map_err(|e| StoreError::Failed(e.to_string()))
        };
        self.disk(noted).await
    }

    /// It vouches for its changes again, if the time for that has come. Waits for the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn vouch_again(&self) -> std::io::Result<()> {
        let mut lives = lock(&self.lives);
        if lock(&self.lineages).vouch_again(Instant::now()) {
            lives.as_mut().map_or(Ok(()), |lives| lives.vouch(true))?;
        }
        Ok(())
    }

    /// Whether some chain has nobody else that serves.
    fn is_needed(&self) -> bool {
        let map = self.map();
        map.chains_of(self.id).any(|chain| {
            chain.state_of(self.id) == Some(MemberState::Serving) && chain.serving().count() == 1
        })
    }

    /// What keeps it from making anything durable, where others can go on without it.
    fn is_in_the_way(&self) -> Option<String> {
        let silence = self.store.silence();
        let why = if silence >= SILENT_FOR {
            silent(silence)
        } else if self.committer.refused_for() >= REFUSED_FOR {
            "its disk is full".to_owned()
        } else {
            return None;
        };
        (!self.is_needed()).then_some(why)
    }

    /// Returns when its disk is silent for so long that no answer of it is worth waiting for, and not at once.
    pub(crate) async fn disk_is_silent(&self) {
        loop {
            tokio::time::sleep(self.config.heartbeat).await;
            if self.store.silence() >= SILENT_FOR {
                return;
            }
        }
    }

    /// How it is while its disk does not answer: as it was when it did.
    pub(crate) fn report_of_silence(&self) -> BrickReport {
        let silence = self.store.silence();
        BrickReport { failed: Some(silent(silence)), silent_ms: ms(silence), ..lock(&self.reported).clone() }
    }

    /// Blocks that nobody can read, as far as it is known. Waits for the disk.
    fn lost_blocks(&self) -> u64 {
        let chunks = lock(&self.lost).chunks();
        for (key, version) in chunks {
            // One that can't be looked at stays as it was.
            if self.store.chunk(key).is_ok_and(|now| now.is_none_or(|now| now.version != version)) {
                lock(&self.lost).forget(key, version);
            }
        }
        lock(&self.lost).count()
    }

    /// How it is.
    pub fn report(&self) -> BrickReport {
        let usage = self.store.usage();
        let scrub = self.scrubber.report();
        let sync = self.progress.report();
        let report = BrickReport {
            total_bytes: usage.used_bytes + usage.free_bytes,
            free_bytes: usage.free_bytes,
            disk_bytes: usage.disk_bytes,
            silent_ms: ms(self.store.silence()),
            chunks: usage.chunks,
            corrupt_blocks: self.metrics.corrupt_blocks.get(),
            repaired_blocks: self.metrics.repaired_blocks.get(),
            lost_blocks: self.lost_blocks(),
            failed: self.store.failure().or_else(|| self.is_in_the_way()),
            fence_after_ms: ms(self.config.fence_after),
            sync_total_bytes: sync.total_bytes,
            sync_done_bytes: sync.done_bytes,
            sync_ms: u64::try_from(sync.elapsed.as_millis()).unwrap_or(u64::MAX),
            scrub_done_bytes: if scrub.running { scrub.done_bytes } else { 0 },
            scrub_total_bytes: if scrub.running { scrub.total_bytes } else { 0 },
            scrub_rounds: scrub.rounds,
            records: self.store.records(),
        };
        *lock(&self.reported) = report.clone();
        report
    }

    // Other bricks.

    /// Calls another member; gives up when the chain changes, and at once where one that is only being brought up to date can't
    /// be reached: nobody waits for that one.
    ///
    /// # Errors
    /// What the net or the other brick says; [`Status::Busy`] if the chain changed first.
    pub(crate) async fn ask(
        &self,
        place: &Place,
        to: BrickId,
        request: BrickRequest,
        payload: bytes::Bytes,
    ) -> Result<(BrickReply, bytes::Bytes), CallError> {
        let Some(endpoint) = place.map.endpoint_of(to).copied() else {
            return Err(CallError::Status(Status::MapBehind));
        };
        let syncing = || place.chain().is_ok_and(|chain| chain.state_of(to) == Some(MemberState::Syncing));
        if self.reach.is_out(to) && syncing() {
            return Err(CallError::Status(Status::Busy));
        }
        let call = BrickCall { brick: to, map: place.map.epoch, request };
        let deadline = Instant::now() + PEER_DEADLINE;
        let reply = tokio::select! {
            biased;
            reply = self.net.request::<wire::brick::BrickProtocol>(&endpoint, &call, payload, deadline) => reply,
            () = self.maps.chain_changed(place.chain) => Err(CallError::Status(Status::Busy)),
            () = self.wait_in_doubt(to) => Err(CallError::Status(Status::Busy)),
        };
        if let Err(CallError::Net(error)) = &reply {
            self.reach.doubt(to);
            if !matches!(error, NetError::Deadline { .. }) {
                self.suspect(&place.map, to).await;
            }
        }
        reply
    }

    /// Doubts whoever lets a call wait for long. Never returns.
    async fn wait_in_doubt(&self, to: BrickId) {
        loop {
            tokio::time::sleep(PEER_PATIENCE).await;
            self.reach.doubt(to);
        }
    }

    /// Tells the namespace that a brick does not answer, so that it looks for itself: a process
    /// that ended is found out at once, not when its time is over.
    async fn suspect(&self, map: &ClusterMap, brick: BrickId) {
        let Some(boot) = map.bricks.get(&brick).map(|info| info.boot) else { return };
        {
            let mut suspected = lock(&self.suspected);
            if suspected.is_some_and(|at| at.elapsed() < SUSPECT_AGAIN) {
                return;
            }
            *suspected = Some(Instant::now());
        }
        let told = self.namespaces.ask(&self.net, ClusterRequest::Suspect { brick, boot });
        if tokio::time::timeout(SUSPECT_AGAIN, told).await.is_err() {
            tracing::debug!(brick = %self.id, suspected = %brick, "the namespace was not told in time");
        }
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn silent(silence: Duration) -> String {
    format!("its disk has not answered for {} s", silence.as_secs())
}

/// A chunk's version, 0 if there is none.
pub(crate) fn version_of(header: Option<&Header>) -> ChunkVersion {
    header.map_or(ChunkVersion(0), |h| h.version)
}
