//! Sessions, the map, and what bricks tell the namespace.

use serde::{Deserialize, Serialize};

use crate::handshake::Role;
use crate::id::{BootId, BrickId, ChainEpoch, ChainId, ClusterId, Ino, MapEpoch, NodeId, SessionId, StoreId};
use crate::join::TokenHash;
use crate::map::ClusterMap;
use crate::meta::{Access, Timestamp};
use crate::net::Endpoint;

/// What a brick says of itself when it comes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrickRegistration {
    /// Its number.
    pub brick: BrickId,
    /// What its directory holds.
    pub store: StoreId,
    /// This life.
    pub boot: BootId,
    /// Who serves it.
    pub node: NodeId,
    /// The machine it is in.
    pub host: String,
    /// Where it answers.
    pub endpoint: Endpoint,
}

/// What a brick says of itself with each heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BrickReport {
    /// Bytes it could hold.
    pub total_bytes: u64,
    /// Bytes it could still take.
    pub free_bytes: u64,
    /// Chunks it holds.
    pub chunks: u64,
    /// Blocks found bad since it came up.
    pub corrupt_blocks: u64,
    /// Blocks put right from another member since it came up.
    pub repaired_blocks: u64,
    /// It can't read or write its disk and serves no more.
    pub failed: bool,
}

/// A session, as given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionGrant {
    /// Its number.
    pub session: SessionId,
    /// It ends when not renewed for this long, in milliseconds.
    pub ttl_ms: u32,
    /// Renew this often, in milliseconds.
    pub renew_ms: u32,
    /// The map.
    pub map: ClusterMap,
}

/// A session, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its number.
    pub session: SessionId,
    /// The machine.
    pub host: String,
    /// Where it is mounted there.
    pub mount: String,
    /// Since when.
    pub since: Timestamp,
    /// Time since it was last heard of, in milliseconds.
    pub heard_ms: u64,
}

/// Everything `brickyard status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The map.
    pub map: ClusterMap,
    /// Last report of each brick.
    pub bricks: Vec<(BrickId, BrickReport)>,
    /// Open sessions.
    pub sessions: Vec<SessionStatus>,
    /// Inodes that exist.
    pub inodes: u64,
    /// Inodes without a name that somebody has open or that wait to be freed.
    pub orphans: u64,
    /// Files whose chunks are still to be freed or cut on some brick.
    pub trims: u64,
}

/// Calls about the cluster itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterRequest {
    /// Starts a session. `client` names the mount for good; its earlier session, if any, is
    /// ended by this. -> `Session`
    OpenSession {
        /// The mount's own name, the same after a restart.
        client: NodeId,
        /// The machine.
        host: String,
        /// Where it is mounted there.
        mount: String,
    },
    /// Keeps the session of the call alive. `reading` is everything it has open for
    /// reading, told when the answer to the last renewal asked for it. -> `Renewed`
    Renew {
        /// Map epoch the client has.
        map: MapEpoch,
        /// All inodes it has open, when asked for.
        open: Option<Vec<(Ino, Access)>>,
    },
    /// Ends the session of the call, cleanly: nothing is unreported. -> `Done`
    CloseSession,
    /// The map, once it is newer than `after`, or after `wait_ms` (at most 30,000) whatever it
    /// is then. -> `Map`
    GetMap {
        /// Epoch the caller has.
        after: MapEpoch,
        /// How long to wait for a newer one.
        wait_ms: u32,
    },
    /// A brick has come up. -> `Map`
    RegisterBrick(BrickRegistration),
    /// A brick is alive. -> `Heartbeat`
    Heartbeat {
        /// Which.
        brick: BrickId,
        /// Which life of it.
        boot: BootId,
        /// Map epoch it has.
        map: MapEpoch,
        /// How it is.
        report: BrickReport,
    },
    /// The head of a chain has brought a syncing member up to date. -> `Map`
    SyncDone {
        /// The chain.
        chain: ChainId,
        /// As the head knows it.
        epoch: ChainEpoch,
        /// The member that may serve now.
        brick: BrickId,
    },
    /// -> `Status`
    Status,
    /// Adds bricks to the map and makes chains of them, at the cluster's birth. Bricks known
    /// already are left as they are. -> `Map`
    AddBricks(Vec<BrickRegistration>),
    /// Makes a join token. The secret stays with the caller; only its hash is told. -> `Done`
    MakeToken {
        /// What the token is known by.
        hash: TokenHash,
        /// What its users become; never an administrator.
        role: Role,
        /// For how long, in seconds; at most a year.
        ttl_s: u32,
        /// How often it may be used.
        uses: u32,
    },
}

/// Answers to [`ClusterRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterReply {
    /// Nothing to tell.
    Done,
    /// A session.
    Session(SessionGrant),
    /// A renewal.
    Renewed {
        /// Newest map epoch.
        map: MapEpoch,
        /// The namespace does not know what this session has open (it has restarted): tell.
        tell_open: bool,
    },
    /// The map.
    Map(ClusterMap),
    /// A heartbeat was taken.
    Heartbeat {
        /// Newest map epoch.
        map: MapEpoch,
        /// The brick is unknown in this life: register again.
        register: bool,
    },
    /// For people.
    Status(Box<ClusterStatus>),
    /// The call is for another cluster.
    OtherCluster(ClusterId),
}
