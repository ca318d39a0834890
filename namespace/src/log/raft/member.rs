//! A member of a namespace of several: proposals, reads, and who is a member.
//!
//! 1. What was answered is on a majority (`no_acknowledged_command_is_lost`).
//! 2. A read that begins after an answer sees it, whichever member answered: who leads is asked of
//!    a majority for all reads that wait at that moment (`reads_see_what_was_answered`).
//! 3. A member has its number for good, and a directory that was lost comes back as another member:
//!    it may have promised what it does not know any more.
//! 4. Nobody but the founder ever holds the first entry of the log: it is cut away before anybody
//!    joins, so that who joins begins with a snapshot (`members_join_while_commands_go_on`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{ChangeMembers, ServerState, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wire::meta::{MemberInfo, MemberRefusal};
use wire::net::{BoxFuture, Endpoint, Net};
use wire::status::Status;

use super::peers::{Peers, Receiver};
use super::replica::Replica;
use super::snapshot::Place;
use super::store::Store;
use super::types::{Member, MemberId, Types};
use crate::config::MemberConfig;
use crate::error::Error;
use crate::log::{Leadership, Log, Placed};
use crate::machine::command::Command;

/// Reads that wait for the next barrier before callers wait themselves.
const BARRIER_QUEUE: usize = 4096;
/// A leader that no majority has answered for so long is not told of as one.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for the log's beginning to be cut away.
const CUT_WAIT: Duration = Duration::from_secs(30);

/// How a member keeps in touch.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The leader says that it leads this often. Default 100 ms.
    pub heartbeat: Duration,
    /// Silence of the leader before a member wants to lead itself: at least this long beyond
    /// `election_most`. Default 400 ms.
    pub election_least: Duration,
    /// At most so long beyond itself; also how long a leader may count on a majority's answer.
    /// Default 700 ms.
    pub election_most: Duration,
    /// Entries after which a snapshot is made. Default 50,000.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot for members that are a little behind. Default 10,000.
    pub keep_entries: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_least: Duration::from_millis(400),
            election_most: Duration::from_millis(700),
            snapshot_every: 50_000,
            keep_entries: 10_000,
        }
    }
}

/// Why an order about members was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// This member does not lead, or has no majority.
    #[error("{0}")]
    Status(Status),
    /// It contradicts who the members are.
    #[error("refused: {0:?}")]
    Refused(MemberRefusal),
    /// It may be carried out later.
    #[error("{0}")]
    Failed(String),
}

type Waiting = oneshot::Sender<Result<(), Status>>;

/// See the module.
pub struct RaftLog {
    raft: openraft::Raft<Types, Replica>,
    id: MemberId,
    receiver: Receiver,
    barrier: mpsc::Sender<Waiting>,
    leadership: watch::Receiver<Leadership>,
    tasks: Vec<JoinHandle<()>>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn settings(timing: &Timing) -> Result<openraft::Config, Error> {
    let config = openraft::Config {
        cluster_name: "namespace".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_least),
        election_timeout_max: millis(timing.election_most),
        enable_pre_vote: Some(true),
        max_payload_entries: 1024,
        replication_lag_threshold: timing.keep_entries.max(1000),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_every),
        max_in_snapshot_log_to_keep: timing.keep_entries,
        purge_batch_size: 1024,
        install_snapshot_timeout: 10_000,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| Error::Log(error.to_string()))
}

impl RaftLog {
    /// Starts a member. A founder with an empty log becomes the first and only one.
    ///
    /// # Errors
    /// If the timing contradicts itself, or the member's disk fails.
    pub async fn start(
        member: &MemberConfig,
        net: Net,
        store: Store,
        replica: Replica,
        place: Arc<Place>,
    ) -> Result<Self, Error> {
        let MemberConfig { id, endpoint, founder, timing, .. } = member;
        let (id, endpoint) = (*id, *endpoint);
        let failed = |error: String| Error::Log(error);
        let config = Arc::new(settings(timing)?);
        let raft = openraft::Raft::new(id, config, Peers::new(net), store, replica)
            .await
            .map_err(|error| failed(error.to_string()))?;
        if *founder && !raft.is_initialized().await.map_err(|error| failed(error.to_string()))? {
            let members = BTreeMap::from([(id, Member { endpoint })]);
            raft.initialize(members).await.map_err(|error| failed(error.to_string()))?;
        }
        let voters: Vec<MemberId> =
            raft.metrics().borrow_watched().membership_config.membership().voter_ids().collect();
        if voters == [id] {
            // Nobody else can lead: there is no silence to wait for.
            raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()))?;
        }
        let (barrier, waiting) = mpsc::channel(BARRIER_QUEUE);
        let (tell, leadership) = watch::channel(Leadership::Following { leader: None });
        let tasks = vec![
            tokio::spawn(barriers(raft.clone(), id, waiting)),
            tokio::spawn(follow(raft.clone(), id, tell)),
        ];
        let receiver = Receiver::new(raft.clone(), id, place);
        Ok(Self { raft, id, receiver, barrier, leadership, tasks })
    }

    /// Answers a call of another member.
    ///
    /// # Errors
    /// If it makes no sense.
    pub async fn peer(&self, payload: &[u8]) -> Result<Bytes, Status> {
        self.receiver.answer(payload).await
    }

    /// Who the members are.
    pub fn members(&self) -> Vec<MemberInfo> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let members = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = members.voter_ids().collect();
        let has = |id: MemberId| match &metrics.replication {
            Some(others) => others.get(&id).cloned().flatten().map(|last| last.index),
            None if id == self.id => metrics.last_log_index,
            None => None,
        };
        // It may have lost the others since, and not know yet that it leads nobody.
        let heard = metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < HEARD_WITHIN);
        let leads_itself = metrics.state == ServerState::Leader && (heard || voters.len() == 1);
        let leads = |id: MemberId| metrics.current_leader == Some(id) && (id != self.id || leads_itself);
        let state = |(id, member): (&MemberId, &Member)| MemberInfo {
            id: *id,
            endpoint: member.endpoint,
            votes: voters.contains(id),
            leads: leads(*id),
            has: if *id == self.id { metrics.last_log_index } else { has(*id) },
        };
        members.nodes().map(state).collect()
    }

    fn write_error(&self, error: RaftError<Types, ClientWriteError<Types>>) -> MemberError {
        match error {
            RaftError::APIError(
                ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to),
            ) => MemberError::Status(elsewhere(self.id, &to)),
            RaftError::APIError(other) => MemberError::Failed(other.to_string()),
            RaftError::Fatal(error) => {
                tracing::debug!(%error, "the log has stopped");
                MemberError::Status(Status::NotLeader(None))
            }
        }
    }

    /// Cuts away the beginning of the log, see the module's invariant 4.
    async fn cut_beginning(&self) -> Result<(), MemberError> {
        let failed = |error: String| MemberError::Failed(error);
        if self.raft.metrics().borrow_watched().purged.is_some() {
            return Ok(());
        }
        self.raft.trigger().snapshot().await.map_err(|error| failed(error.to_string()))?;
        let metrics = self
            .raft
            .wait(Some(CUT_WAIT))
            .metrics(|metrics| metrics.snapshot.is_some(), "a snapshot")
            .await
            .map_err(|error| failed(error.to_string()))?;
        let Some(upto) = metrics.snapshot else { return Ok(()) };
        self.raft.trigger().purge_log(upto.index).await.map_err(|error| failed(error.to_string()))?;
        let purged =
            self.raft.wait(Some(CUT_WAIT)).metrics(|metrics| metrics.purged.is_some(), "a cut").await;
        purged.map(|_| ()).map_err(|error| failed(error.to_string()))
    }

    /// Takes a new member in: it gets everything, and then votes. Returns when it does.
    ///
    /// # Errors
    /// If this member does not lead, or loses its lead or majority meanwhile: it may be asked again.
    pub async fn add(&self, id: MemberId, endpoint: Endpoint) -> Result<(), MemberError> {
        for known in self.members() {
            if (known.id == id) != (known.endpoint == endpoint) {
                return Err(MemberError::Refused(MemberRefusal::Contradicts(known)));
            }
        }
        self.cut_beginning().await?;
        let added = self.raft.add_learner(id, Member { endpoint }, true).await;
        added.map_err(|error| self.write_error(error))?;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.raft.change_membership(voters, true).await.map(|_| ()).map_err(|error| self.write_error(error))
    }

    /// Takes a member out. It counts for nothing any more, and cannot come back.
    ///
    /// # Errors
    /// If it leads, is the last one, or see [`RaftLog::add`].
    pub async fn remove(&self, id: MemberId) -> Result<(), MemberError> {
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.id == id) else {
            return Err(MemberError::Refused(MemberRefusal::Unknown));
        };
        if member.leads {
            return Err(MemberError::Refused(MemberRefusal::Leads));
        }
        let change = if member.votes {
            ChangeMembers::RemoveVoters(BTreeSet::from([id]))
        } else {
            ChangeMembers::RemoveNodes(BTreeSet::from([id]))
        };
        self.raft.change_membership(change, false).await.map(|_| ()).map_err(|error| self.write_error(error))
    }

    /// Has another member lead. Returns when this one knows of it.
    ///
    /// # Errors
    /// If this member does not lead, the other one does not vote, or it does not take over in time.
    pub async fn hand_over(&self, to: MemberId) -> Result<(), MemberError> {
        if !self.members().iter().any(|member| member.id == to && member.votes) {
            return Err(MemberError::Refused(MemberRefusal::Unknown));
        }
        if !matches!(*self.leadership.borrow(), Leadership::Leading { .. }) {
            return Err(MemberError::Status(self.not_leading()));
        }
        let asked = self.raft.trigger().transfer_leader(to).await;
        asked.map_err(|error| MemberError::Failed(error.to_string()))?;
        let led = |metrics: &openraft::RaftMetrics<Types>| metrics.current_leader == Some(to);
        let taken = self.raft.wait(Some(Duration::from_secs(5))).metrics(led, "another leader").await;
        taken.map(|_| ()).map_err(|_| MemberError::Failed(format!("member {to:016x} did not take over")))
    }

    fn not_leading(&self) -> Status {
        match *self.leadership.borrow() {
            Leadership::Leading { .. } => Status::Busy,
            Leadership::Following { leader } => Status::NotLeader(leader),
        }
    }

    /// What the log has of entries, for tests and people: cut up to, last, applied.
    pub fn progress(&self) -> (Option<u64>, Option<u64>, Option<u64>) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        (metrics.purged.map(|id| id.index), metrics.last_log_index, metrics.last_applied.map(|id| id.index))
    }

    /// Makes a snapshot now.
    ///
    /// # Errors
    /// If the member has stopped.
    pub async fn snapshot(&self) -> Result<(), MemberError> {
        self.raft.trigger().snapshot().await.map_err(|error| MemberError::Failed(error.to_string()))
    }

    /// Stops: what is under way is answered as not known to be done.
    pub async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the log of the namespace did not stop well");
        }
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for RaftLog {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What a caller hears that should ask elsewhere.
fn elsewhere(id: MemberId, to: &ForwardToLeader<Types>) -> Status {
    if to.leader_id == Some(id) {
        // It leads, and has not heard a majority for a while.
        return Status::NoMajority;
    }
    Status::NotLeader(to.leader_node.as_ref().map(|member| member.endpoint))
}

/// One barrier for all reads that wait at that moment.
async fn barriers(raft: openraft::Raft<Types, Replica>, id: MemberId, mut waiting: mpsc::Receiver<Waiting>) {
    let mut all = Vec::new();
    while waiting.recv_many(&mut all, BARRIER_QUEUE).await > 0 {
        let passed = match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => {
                linearizer.await_ready(&raft).await.map(|_| ()).map_err(|_| Status::NotLeader(None))
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(elsewhere(id, &to)),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Status::NoMajority),
            Err(RaftError::Fatal(_)) => Err(Status::NotLeader(None)),
        };
        for caller in all.drain(..) {
            // Who does not wait any more needs no answer.
            let _ = caller.send(passed);
        }
    }
}

/// Tells who leads.
async fn follow(raft: openraft::Raft<Types, Replica>, id: MemberId, tell: watch::Sender<Leadership>) {
    let mut metrics = raft.metrics();
    let mut told = false;
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let stopped = metrics.running_state.is_err();
            if let Err(error) = &metrics.running_state
                && !std::mem::replace(&mut told, true)
                && !matches!(error, Fatal::Stopped)
            {
                tracing::error!(%error, "this member has stopped and leaves everything to the others; restart it when its disk is well");
            }
            match metrics.current_leader {
                Some(leader) if leader == id && metrics.state == ServerState::Leader && !stopped => {
                    Leadership::Leading { term: metrics.current_term }
                }
                Some(leader) if leader != id && !stopped => {
                    let members = metrics.membership_config.membership();
                    Leadership::Following { leader: members.get_node(&leader).map(|member| member.endpoint) }
                }
                _ => Leadership::Following { leader: None },
            }
        };
        tell.send_if_modified(|known| std::mem::replace(known, now) != now);
        if metrics.changed().await.is_err() {
            tell.send_replace(Leadership::Following { leader: None });
            return;
        }
    }
}

impl Log for RaftLog {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Placed, Status>> {
        Box::pin(async move {
            match self.raft.client_write(command).await {
                Ok(written) => {
                    let reply = written.data;
                    let answer = reply.answer.ok_or(Status::Malformed)?;
                    Ok(Placed { index: reply.index, answer })
                }
                Err(error) => match self.write_error(error) {
                    MemberError::Status(status) => Err(status),
                    MemberError::Refused(why) => {
                        tracing::error!(?why, "the log refused a command");
                        Err(Status::Busy)
                    }
                    MemberError::Failed(why) => {
                        tracing::error!(why, "the log refused a command");
                        Err(Status::Busy)
                    }
                },
            }
        })
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            let (caller, passed) = oneshot::channel();
            self.barrier.send(caller).await.map_err(|_| Status::NotLeader(None))?;
            passed.await.unwrap_or(Err(Status::NotLeader(None)))
        })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}
