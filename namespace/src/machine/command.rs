//! What goes through the log, and what comes out of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use wire::chunk::ChunkKey;
use wire::handshake::Role;
use wire::id::{BootId, BrickId, CallSeq, ChainEpoch, ChainId, Ino, MapEpoch, NodeId, SessionId, StoreId};
use wire::join::{JoinRefusal, TokenHash};
use wire::map::ClusterMap;
use wire::meta::{
    BrickRefusal, BrickRegistration, FsReply, FsRequest, Journal, JournalChange, NewBrick, SessionClass,
    SettingsChange, Sharing, Timestamp,
};
use wire::status::Status;

use crate::chain::plan::Step;
use crate::machine::reached::Records;
use crate::machine::repair::{Flaw, Mended};
use crate::machine::tokens::NewToken;
use crate::soft::apart::Verdict;

/// Place of a command in the log; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct LogIndex(pub u64);

/// Names a call of a session for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The session.
    pub session: SessionId,
    /// The call's number in it.
    pub seq: CallSeq,
    /// The session has the answers of all calls below.
    pub answered_below: CallSeq,
}

/// One change of the state. All it depends on beside the state is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The proposer's present.
    pub at: Timestamp,
    /// The call it is for, where a retry is to return the first result.
    pub who: Option<Caller>,
    /// What to do.
    pub op: Op,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A verb that changes something, in the session of [`Command::who`].
    Fs(FsRequest),
    /// Starts a session, and ends the earlier one of the same client.
    OpenSession {
        /// Who.
        client: NodeId,
        /// The machine.
        host: String,
        /// Where it is mounted there.
        mount: String,
        /// Whether others may be beside it.
        sharing: Sharing,
    },
    /// Ends a session. One that is unknown has ended already.
    EndSession {
        /// Which.
        session: SessionId,
        /// It said goodbye: nothing is unreported.
        clean: bool,
    },
    /// Frees inodes that have no name and that nobody has open.
    Reclaim(Vec<Ino>),
    /// Bricks have cut chunks.
    TrimsDone(Vec<TrimAck>),
    /// New bricks.
    AddBricks(Vec<BrickRegistration>),
    /// A brick has come up.
    RegisterBrick {
        /// What it says.
        brick: BrickRegistration,
        /// Bricks that are known to live on since before this one's earlier life ended.
        stayed: BTreeSet<BrickId>,
    },
    /// A brick was not heard of any more.
    BrickDead {
        /// Which.
        brick: BrickId,
        /// Which life of it.
        boot: BootId,
    },
    /// A member of a chain has been brought up to date.
    SyncDone {
        /// The chain.
        chain: ChainId,
        /// As its head knows it.
        epoch: ChainEpoch,
        /// The member.
        brick: BrickId,
    },
    /// Chunks were seen that seem to be of no use. Those that are none get their files cut.
    Collect(Vec<ChunkKey>),
    /// Makes a join token.
    MakeToken {
        /// Which.
        token: NewToken,
        /// The present that tokens expire by.
        now: Timestamp,
    },
    /// Uses a join token.
    RedeemToken {
        /// Which.
        hash: TokenHash,
        /// What its holder wants to be.
        role: Role,
        /// Who.
        node: NodeId,
        /// The present that tokens expire by.
        now: Timestamp,
    },
    /// Time has passed: tokens that ended long ago are forgotten.
    ForgetTokens {
        /// The present that tokens expire by.
        now: Timestamp,
    },
    /// A brick that is to come up gets its number.
    AddBrick(NewBrick),
    /// A brick is to be emptied, or not any more.
    DrainBrick {
        /// Which.
        brick: BrickId,
        /// Whether to.
        drain: bool,
    },
    /// A brick is to be forgotten.
    RemoveBrick {
        /// Which.
        brick: BrickId,
        /// Though it is a member of chains.
        force: bool,
    },
    /// Members are to be moved until all bricks have their share, or not any more.
    Rebalance {
        /// Whether to.
        on: bool,
    },
    /// Settings change.
    Configure(SettingsChange),
    /// Members join and leave chains. Steps that do not fit the chains any more are left out.
    Move(Vec<Step>),
    /// A head can't reach a living member: one of them stops serving in its chains.
    CutOff(Verdict),
    /// A new disk is to take the place of a brick's.
    ReplaceBrick {
        /// Whose.
        brick: BrickId,
        /// What the new one holds.
        store: StoreId,
        /// Also where nobody else has all of that brick's data.
        lose_data: bool,
    },
    /// New files are laid out by these chains, as far as they exist.
    LayOut(BTreeSet<ChainId>),
    /// Limits of the change journal change.
    Journal(JournalChange),
    /// Goes on with a map that bricks have seen and this state does not know.
    Adopt(Box<ClusterMap>),
    /// What bricks have of inodes that only lost states knew may go.
    FreeLost,
    /// How far the journals of bricks' disks have come.
    NoteRecords(Records),
    /// Files that stay were cut: a round of the living bricks that owed it found nothing any more.
    CutsDone(Vec<CutAck>),
    /// As [`Op::OpenSession`], which is what earlier versions said and stands for the standard class.
    BeginSession(NewSession),
    /// A brick whose disk was set back is to be let in with what that has.
    TakeBack(BrickId),
    /// A living brick can't be reached: others go on with the chains that they serve.
    StepBack(BrickId),
    /// Somebody begins to lead, and has drawn this number: the map is another one from now on, and numbers of inodes go on behind all that
    /// lost states of the one before may have given.
    BeginReign(u64),
    /// Something seems to be wrong in the state. If it is, it is mended.
    Repair(Flaw),
}

/// All living bricks that owed cuts of a file have nothing to cut any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutAck {
    /// The file.
    pub ino: Ino,
    /// The map by which they were asked: by another one others may have to be.
    pub map: MapEpoch,
    /// Who, and how many bytes stay there.
    pub bricks: Vec<(BrickId, u64)>,
}

/// A session that is to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// Who.
    pub client: NodeId,
    /// The machine.
    pub host: String,
    /// Where it is mounted there.
    pub mount: String,
    /// Whether others may be beside it.
    pub sharing: Sharing,
    /// How soon it may lose what it has.
    pub class: SessionClass,
}

/// A brick has nothing of a file beyond a size any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimAck {
    /// The file.
    pub ino: Ino,
    /// The brick.
    pub brick: BrickId,
    /// The size.
    pub size: u64,
}

/// What a command that was carried out gives back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// Answer of a verb.
    Fs(FsReply),
    /// A session was started.
    Session(SessionId),
    /// Files whose chunks are to be cut.
    Collected(u64),
    /// Whether somebody with a join token is taken in: `None`, or why not.
    Joined(Option<JoinRefusal>),
    /// The number of a new brick.
    Added(BrickId),
    /// An order about bricks that can't be carried out.
    Refused(BrickRefusal),
    /// How many members have joined or left chains.
    Moved(u64),
    /// What the change journal holds.
    Journal(Journal),
    /// What was mended, in order.
    Mended(Vec<Mended>),
}

/// Result of one command.
pub type Answer = Result<Outcome, Status>;

/// What others should look at after a batch. Only a hint: all of it is in the state too.
#[derive(Debug, Default, Clone)]
pub struct Effects {
    /// Files with chunks to be cut.
    pub trims: Vec<Ino>,
    /// Trims were acknowledged.
    pub trimmed: bool,
    /// Inodes lost their last name.
    pub orphans: bool,
    /// The map changed to this.
    pub map: Option<Arc<ClusterMap>>,
    /// Sessions that began.
    pub begun: Vec<(SessionId, SessionClass)>,
    /// Sessions that ended.
    pub ended: Vec<SessionId>,
    /// Inodes of which locks were given up.
    pub unlocked: Vec<Ino>,
    /// Sessions of which locks were broken.
    pub recalled: Vec<SessionId>,
    /// Directories in which something changed, or that were removed.
    pub changed: Vec<Ino>,
    /// Chains that lost the only disk that held everything, and the brick it was in.
    pub lost: Vec<(ChainId, BrickId)>,
}

/// What applying a batch gives.
#[derive(Debug, Default)]
pub struct Applied {
    /// One for each command, in order.
    pub answers: Vec<Answer>,
    /// What others should look at.
    pub effects: Effects,
}
