//! Calls between members, over the net that everybody uses.
//!
//! 1. A call names the member it is for: another one at the same address does not answer it
//!    (`a_member_answers_only_for_itself`).
//! 2. A snapshot is installed only when all of it has come; see [`super::snapshot`].

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wire::id::CallSeq;
use wire::meta::{MetaCall, MetaProtocol, MetaReply, MetaRequest};
use wire::net::{CallError, Delivery, Endpoint, Net};
use wire::status::Status;

use super::replica::{Replica, Snapshot};
use super::snapshot::{Dir, FileInfo, Incoming, Place, list, part};
use super::types::{Member, MemberId, SnapshotMeta, Types, Vote};

/// Bytes of a snapshot sent at once.
const PART_BYTES: usize = 1 << 20;
/// Longest time for one part of a snapshot.
const PART_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time to verify and install a snapshot.
const INSTALL_DEADLINE: Duration = Duration::from_secs(120);

/// What a member sends another.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    to: MemberId,
    call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
enum Call {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    SnapshotBegin { files: Vec<FileInfo> },
    SnapshotPart { id: u64, file: u32, offset: u64, bytes: Bytes },
    SnapshotEnd { id: u64, vote: Vote, meta: SnapshotMeta },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Transfer(Result<(), TransferLeaderError<Types>>),
    Begun { id: u64 },
    Taken,
    Installed(SnapshotResponse<Types>),
    Failed(String),
}

/// Makes connections.
pub struct Peers {
    net: Net,
}

impl Peers {
    /// Over this net.
    pub fn new(net: Net) -> Self {
        Self { net }
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, node: &Member) -> Peer {
        Peer { net: self.net.clone(), target, to: node.endpoint }
    }
}

/// One other member.
pub struct Peer {
    net: Net,
    target: MemberId,
    to: Endpoint,
}

type Rpc<T> = Result<T, RPCError<Types>>;

fn unexpected() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("a member answered something else than was asked"))
}

impl Peer {
    async fn ask(&self, call: Call, within: Duration) -> Rpc<Answer> {
        let failed = |text: String| RPCError::Unreachable(Unreachable::from_string(text));
        let message = Message { to: self.target, call };
        let payload = postcard::to_stdvec(&message).map_err(|error| failed(error.to_string()))?;
        let call = MetaCall {
            session: None,
            seq: CallSeq(0),
            answered_below: CallSeq(0),
            request: MetaRequest::Peer,
        };
        let deadline = Instant::now() + within;
        match self.net.request::<MetaProtocol>(&self.to, &call, payload.into(), deadline).await {
            Ok((MetaReply::Peer, payload)) => match postcard::from_bytes(&payload) {
                Ok(Answer::Failed(text)) => Err(failed(text)),
                Ok(answer) => Ok(answer),
                Err(error) => Err(failed(error.to_string())),
            },
            Ok(_) => Err(unexpected()),
            // An answer that did not come may be one that is only late: try again at once.
            Err(CallError::Net(error)) if error.delivery() == Delivery::Sent => {
                Err(RPCError::Network(NetworkError::from_string(error)))
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let failed = |text: String| StreamingError::Network(NetworkError::from_string(text));
        let io = |error: std::io::Error| failed(error.to_string());
        let dir = snapshot.snapshot.clone();
        let files = blocking(move || list(dir.path())).await.map_err(io)?;
        let begin = Call::SnapshotBegin { files: files.clone() };
        let Answer::Begun { id } = self.ask(begin, PART_DEADLINE).await.map_err(|e| failed(e.to_string()))?
        else {
            return Err(failed("a member began no snapshot".to_owned()));
        };
        for (number, file) in (0u32..).zip(files) {
            let mut offset = 0;
            while offset < file.bytes {
                let (dir, info) = (snapshot.snapshot.clone(), file.clone());
                let bytes =
                    blocking(move || part(dir.path(), &info, offset, PART_BYTES)).await.map_err(io)?;
                let next = offset + bytes.len() as u64;
                let call = Call::SnapshotPart { id, file: number, offset, bytes: bytes.into() };
                self.ask(call, PART_DEADLINE).await.map_err(|e| failed(e.to_string()))?;
                offset = next;
            }
        }
        let end = Call::SnapshotEnd { id, vote, meta: snapshot.meta };
        match self.ask(end, INSTALL_DEADLINE).await {
            Ok(Answer::Installed(response)) => Ok(response),
            Ok(_) => Err(failed("a member installed no snapshot".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Arc<Dir>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        match self.ask(Call::Append(rpc), option.soft_ttl()).await? {
            Answer::Append(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        match self.ask(Call::Vote(rpc), option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Rpc<VoteResponse<Types>> {
        match self.ask(Call::PreVote(rpc), option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            sent = self.send_snapshot(vote, snapshot) => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<Result<(), TransferLeaderError<Types>>> {
        match self.ask(Call::Transfer(rpc), option.soft_ttl()).await? {
            Answer::Transfer(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }
}

/// Answers the calls of other members.
pub struct Receiver {
    raft: openraft::Raft<Types, Replica>,
    id: MemberId,
    place: Arc<Place>,
    incoming: Mutex<Option<(u64, Arc<Incoming>)>>,
}

impl Receiver {
    /// For this member.
    pub fn new(raft: openraft::Raft<Types, Replica>, id: MemberId, place: Arc<Place>) -> Self {
        Self { raft, id, place, incoming: Mutex::default() }
    }

    fn incoming(&self, id: u64) -> Result<Arc<Incoming>, String> {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        match &*incoming {
            Some((known, incoming)) if *known == id => Ok(incoming.clone()),
            _ => Err("another snapshot has begun".to_owned()),
        }
    }

    /// Answers one call.
    ///
    /// # Errors
    /// If it is no such call, or for another member.
    pub async fn answer(&self, payload: &[u8]) -> Result<Bytes, Status> {
        let message: Message = postcard::from_bytes(payload).map_err(|_| Status::Malformed)?;
        if message.to != self.id {
            return Err(Status::Forbidden);
        }
        let answer = self.carry_out(message.call).await.unwrap_or_else(Answer::Failed);
        Ok(postcard::to_stdvec(&answer).map_err(|_| Status::Malformed)?.into())
    }

    async fn carry_out(&self, call: Call) -> Result<Answer, String> {
        fn text(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        match call {
            Call::Append(rpc) => self.raft.append_entries(rpc).await.map(Answer::Append).map_err(text),
            Call::Vote(rpc) => self.raft.vote(rpc).await.map(Answer::Vote).map_err(text),
            Call::PreVote(rpc) => self.raft.pre_vote(rpc).await.map(Answer::Vote).map_err(text),
            Call::Transfer(rpc) => {
                self.raft.handle_transfer_leader(rpc).await.map(Answer::Transfer).map_err(text)
            }
            Call::SnapshotBegin { files } => {
                let place = self.place.clone();
                let begun = blocking(move || Incoming::begin(&place, files)).await.map_err(text)?;
                let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
                let id = incoming.as_ref().map_or(1, |(last, _)| last + 1);
                *incoming = Some((id, Arc::new(begun)));
                Ok(Answer::Begun { id })
            }
            Call::SnapshotPart { id, file, offset, bytes } => {
                let incoming = self.incoming(id)?;
                blocking(move || incoming.part(file, offset, &bytes)).await.map_err(text)?;
                Ok(Answer::Taken)
            }
            Call::SnapshotEnd { id, vote, meta } => {
                let incoming = self.incoming(id)?;
                let snapshot = blocking(move || incoming.finish()).await.map_err(text)?;
                let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
                installed.map(Answer::Installed).map_err(text)
            }
        }
    }
}
