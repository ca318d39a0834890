//! Clients: each writes its own cells and, in turn, those of all, reads everybody's, commits, and does what the client
//! library does about every answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use wire::brick::{Again, BrickCall, BrickProtocol, BrickReply, BrickRequest, ChainRef, Change, WriterId};
use wire::chunk::ChunkKey;
use wire::durability::{Holders, Verdict};
use wire::id::{BootId, BrickId, CallSeq, Ino, SessionId};
use wire::map::ClusterMap;
use wire::meta::{ClusterReply, ClusterRequest, MetaCall, MetaProtocol, MetaReply, MetaRequest};
use wire::net::{CallError, Endpoint, Net};
use wire::status::{FsError, Status};

use crate::sim::namespace::CHAIN;
use crate::sim::oracle::{Acked, CellId, Oracle, SHARED};
use crate::sim::world::World;

/// Chunks there are.
pub const CHUNKS: u64 = 3;
/// Clients there are.
pub const CLIENTS: u32 = 3;
/// Longest wait for one answer, as the client library has it.
const ATTEMPT: Duration = Duration::from_secs(12);

/// Where a client's cell lies: two in a block, then the next piece of 64 KiB.
pub fn cell_of(client: u32, chunk: u64) -> CellId {
    (ChunkKey { ino: Ino(chunk + 1), index: 0 }, (client / 2) * 65_536 + (client % 2) * 1000)
}

/// The cell of all.
fn shared_cell(chunk: u64) -> CellId {
    (ChunkKey { ino: Ino(chunk + 1), index: 0 }, SHARED)
}

/// What the clients share.
pub struct Shared {
    pub world: Arc<World>,
    pub oracle: Oracle,
    pub namespace: Endpoint,
    pub sessions: Arc<AtomicU64>,
    pub stop: AtomicBool,
    /// Who may write the cell of all, of each chunk.
    pub turns: Vec<tokio::sync::Mutex<()>>,
}

pub struct Client {
    pub number: u32,
    pub shared: Arc<Shared>,
    pub net: Net,
    pub map: ClusterMap,
    pub session: SessionId,
    pub seq: u64,
    /// What it has written last to the cells of all, and does not know to be durable.
    pub held: BTreeMap<CellId, Acked>,
}

enum Wrote {
    Done(Acked),
    /// Refused for good.
    No,
    SessionGone,
    /// It may be lost, and others have written since.
    Overtaken,
}

impl Client {
    fn world(&self) -> &Arc<World> {
        &self.shared.world
    }

    fn oracle(&self) -> &Oracle {
        &self.shared.oracle
    }

    /// Has a map of at least this epoch, or at least has asked.
    async fn refresh(&mut self, wait_ms: u32) {
        let request = ClusterRequest::GetMap { after: self.map.epoch, wait_ms };
        let call = MetaCall {
            session: None,
            seq: CallSeq(0),
            answered_below: CallSeq(0),
            request: MetaRequest::Cluster(request),
        };
        let deadline = Instant::now() + Duration::from_secs(2);
        let asked = self.net.request::<MetaProtocol>(&self.shared.namespace, &call, Bytes::new(), deadline);
        if let Ok((MetaReply::Cluster(ClusterReply::Map(map)), _)) = asked.await
            && map.epoch > self.map.epoch
        {
            self.map = map;
        }
    }

    async fn pause(&mut self) {
        sleep(self.world().dice.ms(1, 50)).await;
        self.refresh(200).await;
    }

    async fn call(
        &self,
        brick: BrickId,
        request: BrickRequest,
        payload: Bytes,
    ) -> Result<(BrickReply, Bytes), CallError> {
        let Some(endpoint) = self.map.endpoint_of(brick) else {
            return Err(CallError::Status(Status::WrongMember));
        };
        let call = BrickCall { brick, map: self.map.epoch, request };
        self.net.request::<BrickProtocol>(endpoint, &call, payload, Instant::now() + ATTEMPT).await
    }

    fn chain(&self) -> ChainRef {
        ChainRef { id: CHAIN, epoch: self.map.chains[&CHAIN].epoch }
    }

    /// Writes a value, again and again until it is done or refused for good; `again`: when it was acknowledged before.
    async fn write_value(&mut self, cell: CellId, value: u64, again: Option<Again>) -> Wrote {
        self.seq += 1;
        let writer = WriterId { session: self.session, seq: CallSeq(self.seq) };
        let words = 2 + self.world().dice.below(5) as usize;
        let payload: Bytes = value.to_le_bytes().repeat(words).into();
        let mut first = true;
        tracing::info!(?cell, value, ?writer, "writes");
        loop {
            if let Some(head) = self.map.chains[&CHAIN].head() {
                let request = BrickRequest::Change {
                    chain: self.chain(),
                    key: cell.0,
                    writer,
                    answered_below: writer.seq,
                    change: Change::Write { offset: cell.1 },
                    again: again.clone(),
                };
                match self.call(head, request, payload.clone()).await {
                    Ok((reply @ (BrickReply::Changed { .. } | BrickReply::ThereAgain { .. }), _)) => {
                        let (version, members) = match reply {
                            BrickReply::Changed { version, members, .. } => (version, members),
                            // What is read of a cell lies in the first part: every write of it covers that.
                            BrickReply::ThereAgain { parts, members } => (parts[0].1, members),
                            other => panic!("{other:?}"),
                        };
                        let holders = Holders::of(&self.map.chains[&CHAIN], &members);
                        let first_version = again.as_ref().map_or(version, |again| again.first);
                        let acked = Acked::new(value, version, first_version, holders);
                        self.oracle().acked(cell, acked.clone());
                        return Wrote::Done(acked);
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(CallError::Status(Status::SessionGone)) => return Wrote::SessionGone,
                    Err(CallError::Status(Status::Overtaken)) => return Wrote::Overtaken,
                    Err(CallError::Status(Status::Fs(FsError::NoSpace))) if first => return Wrote::No,
                    Err(CallError::Status(Status::Malformed | Status::Forbidden)) => panic!("refused"),
                    Err(_) => {}
                }
                first = false;
            }
            self.pause().await;
        }
    }

    /// Writes the next value of a cell.
    async fn write(&mut self, cell: CellId) -> Option<Acked> {
        let value = self.oracle().invoke(cell);
        self.put(cell, value, None).await
    }

    /// Writes the next value of a cell of all.
    async fn write_shared(&mut self, chunk: u64) {
        let (shared, cell) = (self.shared.clone(), shared_cell(chunk));
        let _turn = shared.turns[chunk as usize].lock().await;
        if let Some(acked) = self.write(cell).await {
            self.held.insert(cell, acked);
        }
    }

    /// `again`: it was written before, and may be there.
    async fn put(&mut self, cell: CellId, value: u64, again: Option<Again>) -> Option<Acked> {
        let is_new = again.is_none();
        match self.write_value(cell, value, again).await {
            Wrote::Done(acked) => return Some(acked),
            Wrote::No if !is_new => {}
            Wrote::No => self.oracle().forbid(cell, value, "no space"),
            Wrote::Overtaken => self.oracle().given_up(cell, value),
            Wrote::SessionGone => return self.begin_anew(cell, value).await,
        }
        None
    }

    async fn renew_session(&mut self) {
        while !self.map.blocked.contains_key(&self.session) {
            self.refresh(500).await;
            sleep(Duration::from_millis(5)).await;
        }
        self.session = SessionId(self.shared.sessions.fetch_add(1, Ordering::Relaxed) + 1);
    }

    /// A new session looks first what became of the old one's last write.
    async fn begin_anew(&mut self, cell: CellId, value: u64) -> Option<Acked> {
        self.renew_session().await;
        let found = self.read(cell).await;
        if found < value {
            self.oracle().forbid(cell, value, "blocked");
            None
        } else {
            // It is there, though nobody was told so: the new session makes it its own. Were it
            // given up for want of room, an older one might be sent again over what was seen.
            loop {
                match self.write_value(cell, value, None).await {
                    Wrote::Done(acked) => return Some(acked),
                    Wrote::No | Wrote::Overtaken => self.pause().await,
                    Wrote::SessionGone => return Box::pin(self.begin_anew(cell, value)).await,
                }
            }
        }
    }

    /// Reads a cell from some member, again and again until one answers.
    async fn read(&mut self, cell: CellId) -> u64 {
        let floor = self.oracle().begin_read(cell);
        loop {
            let serving: Vec<BrickId> = self.map.chains[&CHAIN].serving().collect();
            if !serving.is_empty() {
                let from = serving[self.world().dice.below(serving.len() as u64) as usize];
                let chain = self.chain();
                let request = BrickRequest::Read { chain, key: cell.0, offset: cell.1, len: 16 };
                if let Ok((BrickReply::Read { version }, data)) = self.call(from, request, Bytes::new()).await
                {
                    let word = |at: usize| {
                        data.get(at..at + 8)
                            .map_or(0, |b| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
                    };
                    assert_eq!(word(0), word(8), "a torn write of {cell:?}");
                    let tenure = self.world().tenure(chain.epoch.0);
                    self.oracle().end_read(cell, &floor, (tenure, version.0), word(0), from);
                    return word(0);
                }
            }
            self.pause().await;
        }
    }

    /// One round of commits over everything this client holds, as the client library does it.
    /// Whether all is durable.
    async fn commit(&mut self) -> bool {
        let cells: Vec<CellId> = (0..CHUNKS).map(|chunk| cell_of(self.number, chunk)).collect();
        let held: Vec<_> = cells
            .iter()
            .flat_map(|cell| self.oracle().uncommitted(*cell).into_iter().map(|a| (*cell, a)))
            .collect();
        let all_cells = self.held.clone();
        let mut bricks: BTreeMap<BrickId, Option<BootId>> = BTreeMap::new();
        for acked in held.iter().map(|(_, acked)| acked).chain(all_cells.values()) {
            bricks.extend(acked.holders.members.iter().map(|holder| (holder.brick, None)));
        }
        for (brick, outcome) in &mut bricks {
            if let Ok((BrickReply::Committed { boot }, _)) =
                self.call(*brick, BrickRequest::Commit, Bytes::new()).await
            {
                *outcome = Some(boot);
            }
        }
        let judge = |client: &Client, acked: &Acked| {
            let committed = |brick| bricks.get(&brick).copied().flatten();
            acked.holders.judge(client.map.chains.get(&CHAIN), committed)
        };
        let mut all = true;
        for (cell, acked) in held {
            match judge(self, &acked) {
                Verdict::Durable => self.oracle().committed(cell, &acked),
                Verdict::Unknown => all = false,
                Verdict::Again => {
                    all = false;
                    // A later one may have been refused for good: then this is still what is to be there.
                    let newest = self.oracle().uncommitted(cell).iter().map(|a| a.value).max();
                    if newest == Some(acked.value) {
                        self.put(cell, acked.value, Some(acked.again())).await;
                    }
                }
            }
        }
        for (cell, acked) in all_cells {
            match judge(self, &acked) {
                Verdict::Durable => {
                    self.oracle().committed(cell, &acked);
                    self.held.remove(&cell);
                }
                Verdict::Unknown => all = false,
                Verdict::Again => {
                    all = false;
                    self.send_shared_again(cell, &acked).await;
                }
            }
        }
        if !all {
            self.pause().await;
        }
        all
    }

    /// Others may have written the cell since, and it is not this one's turn.
    async fn send_shared_again(&mut self, cell: CellId, acked: &Acked) {
        match self.write_value(cell, acked.value, Some(acked.again())).await {
            Wrote::Done(acked) => {
                self.held.insert(cell, acked);
            }
            Wrote::No => {}
            Wrote::Overtaken => drop(self.held.remove(&cell)),
            Wrote::SessionGone => self.renew_session().await,
        }
    }

    pub async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let chunk = self.world().dice.below(CHUNKS);
            match self.world().dice.below(10) {
                0..=2 => drop(self.write(cell_of(self.number, chunk)).await),
                3 => self.write_shared(chunk).await,
                4..=8 => {
                    let owner = self.world().dice.below(u64::from(CLIENTS) + 1) as u32;
                    let cell = if owner < CLIENTS { cell_of(owner, chunk) } else { shared_cell(chunk) };
                    self.read(cell).await;
                }
                _ => {
                    self.commit().await;
                }
            }
            if self.world().dice.one_in(4) {
                sleep(self.world().dice.ms(1, 20)).await;
            }
        }
        // The end: everything is written once more and made durable.
        for chunk in 0..CHUNKS {
            self.write(cell_of(self.number, chunk)).await;
        }
        while !self.commit().await {}
    }
}
