//! Sessions, the map, and what bricks tell the namespace.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::handshake::Role;
use crate::id::{BootId, BrickId, ChainEpoch, ChainId, ClusterId, Ino, MapEpoch, NodeId, SessionId, StoreId};
use crate::join::TokenHash;
use crate::map::ClusterMap;
use crate::mark::MapMark;
use crate::meta::{Access, Journal, JournalChange, LockWaiter, Recall, Timestamp};
use crate::net::Endpoint;
use crate::status::Status;

/// Inodes whose paths are asked for at a time.
pub const MAX_PATHS: usize = 1024;

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BrickReport {
    /// Bytes it could hold.
    pub total_bytes: u64,
    /// Bytes it could still take.
    pub free_bytes: u64,
    /// Size of its disk, or of its part of one that it shares; 0 where nobody knows. Others may have taken some of it.
    pub disk_bytes: u64,
    /// For how long its disk has left something unanswered, and answered nothing else, in milliseconds.
    pub silent_ms: u32,
    /// Chunks it holds.
    pub chunks: u64,
    /// Blocks found bad since it came up.
    pub corrupt_blocks: u64,
    /// Blocks put right from another member since it came up.
    pub repaired_blocks: u64,
    /// Blocks that were found bad, and that no member could put right.
    pub lost_blocks: u64,
    /// Why it serves no more, for people, if so: it can't read or write its disk, or has no room to.
    pub failed: Option<String>,
    /// It stops serving this long after it sent the last heartbeat that was answered, in
    /// milliseconds; 0 where nobody says. Checked by the namespace, see [`crate::timing`].
    pub fence_after_ms: u32,
    /// Bytes of the copies that this brick, as head, brings up to date, with those it has done
    /// since it began; 0 while none is to be.
    pub sync_total_bytes: u64,
    /// How many of those it has compared and, where they differed, sent.
    pub sync_done_bytes: u64,
    /// For how long it has been at it, in milliseconds.
    pub sync_ms: u64,
    /// Bytes the present round of the scrubber has read.
    pub scrub_done_bytes: u64,
    /// Bytes it will have read at the end of the round; 0 while none is under way.
    pub scrub_total_bytes: u64,
    /// Rounds of the scrubber that ended since it came up.
    pub scrub_rounds: u64,
    /// Number of the last record of its journal that is on stable storage, which only grows; 0 where nobody counts.
    pub records: u64,
}

/// A brick with less than this part of its disk free is full,
const FULL_PART: u64 = 100;
/// or with less than so many bytes.
const FULL_BYTES: u64 = 16 << 20;

/// Whether a disk of that size can hardly take anything any more: members that join a brick on it wait for room.
/// One whose size is not known is not full.
pub fn is_full(total_bytes: u64, free_bytes: u64) -> bool {
    total_bytes > 0 && free_bytes < (total_bytes / FULL_PART).max(FULL_BYTES)
}

impl BrickReport {
    /// See [`is_full`].
    pub fn is_full(&self) -> bool {
        is_full(self.total_bytes.max(self.disk_bytes), self.free_bytes)
    }
}

/// A brick that is about to come up for the first time: it gets its number before its
/// directory is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBrick {
    /// What its directory holds or will hold: adding the same store again gives the same
    /// number. All zeros where the directory is not made yet; then every call adds a brick.
    pub store: StoreId,
    /// Who will serve it.
    pub node: NodeId,
    /// The machine it is in.
    pub host: String,
    /// Where it will answer.
    pub endpoint: Endpoint,
}

/// What the administrator wants of the bricks, beside what the map says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// Bricks of a new cluster that must have come up before chains are made of them; 0: as
    /// many as there are copies, on different machines.
    pub birth_bricks: u32,
    /// Number of the next brick; never given twice.
    pub next_brick: u32,
    /// Bricks to be emptied.
    pub draining: BTreeSet<BrickId>,
    /// Members are being moved until all bricks have their share.
    pub rebalancing: bool,
    /// The chains of a brick that is dead for longer get other members, in milliseconds.
    pub repair_after_ms: u64,
    /// Copies one brick takes part in making at a time, besides those of chains it was in.
    pub syncs_a_brick: u32,
}

impl Wishes {
    /// Nothing is wanted beyond the defaults: repair after 5 minutes, two copies at a time.
    pub fn new(birth_bricks: u32) -> Self {
        Self {
            birth_bricks,
            next_brick: 0,
            draining: BTreeSet::new(),
            rebalancing: false,
            repair_after_ms: 300_000,
            syncs_a_brick: 2,
        }
    }
}

/// A change of the settings; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SettingsChange {
    /// See [`Wishes::repair_after_ms`].
    pub repair_after_ms: Option<u64>,
    /// See [`Wishes::syncs_a_brick`]; 1 to 64.
    pub syncs_a_brick: Option<u32>,
}

/// Why an order about bricks was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrickRefusal {
    /// No brick has this number.
    Unknown,
    /// It is a member of these chains.
    HoldsChains(Vec<ChainId>),
    /// It is alive; only dead bricks are removed by force.
    Alive,
    /// Nobody else holds everything of these chains: removing it would lose their data.
    OnlyCopy(Vec<ChainId>),
    /// So many bricks would be left, fewer than there are copies.
    TooFewBricks {
        /// Bricks that would be left.
        left: u32,
        /// Copies wanted.
        replicas: u8,
    },
}

/// Who else changes the files of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// Nobody: it is the only mount of its cluster, so what its kernel knows of names, attributes
    /// and pages is always right, and kept. No other session begins beside it.
    Sole,
    /// Other mounts: the kernel asks for names and attributes each time, and drops its pages at
    /// each opening and when the modification time it is told is a new one.
    Shared,
}

/// How soon a mount that is not heard may lose what it has to somebody who needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SessionClass {
    /// Late enough for pauses of a loaded machine and of the net.
    #[default]
    Standard,
    /// Soon: for services that another machine takes over.
    Ha,
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
    /// How soon it may lose what it has.
    pub class: SessionClass,
    /// Time since it was last heard of, in milliseconds.
    pub heard_ms: u64,
    /// Whether it was heard of lately enough, for its class, to keep what it has.
    pub lives: bool,
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
    /// What is wanted of the bricks.
    pub wishes: Wishes,
    /// Bricks not heard of, and for how long this service has missed them, in milliseconds.
    pub missed_ms: Vec<(BrickId, u64)>,
    /// Bricks kept out for a while since they keep dying, and for how long yet, in milliseconds.
    pub held_ms: Vec<(BrickId, u64)>,
    /// Chains that lack a member which is to stay, and for which no brick can be had now.
    pub stuck: Vec<(ChainId, Stuck)>,
    /// Pairs of living bricks that can't reach each other, the lower number first, and since when, in milliseconds.
    pub apart_ms: Vec<([BrickId; 2], u64)>,
    /// Living bricks that neither this service nor others can reach, and since when, in milliseconds.
    pub unreached_ms: Vec<(BrickId, u64)>,
    /// Who came under the number of a brick of late and was not let in.
    pub refused: Vec<RefusedBrick>,
    /// Chains of bricks that are not alive for which nobody can be had in the place of that brick, were it given up now.
    pub irreplaceable: Vec<(BrickId, ChainId, Stuck)>,
    /// Bricks have seen what this state does not know: nothing is done by it.
    pub behind: Option<Behind>,
    /// Numbers of inodes that may have been given by states that were lost, first and last. What bricks have of those that are not
    /// there is kept.
    pub lost_inodes: Vec<(Ino, Ino)>,
}

/// What is known while the state of the namespace is older than what bricks have seen of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Epoch of the newest map that a brick has seen.
    pub newest: MapEpoch,
    /// Which brick.
    pub by: BrickId,
    /// Bricks that may have seen a newer one, and have not said yet.
    pub waits_for: BTreeSet<BrickId>,
}

/// Which map somebody has, or had last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapMemory {
    /// Its epoch.
    pub epoch: MapEpoch,
    /// What tells it from another one of the same epoch.
    pub mark: MapMark,
}

/// Why a newer map that bricks have seen was not adopted. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdoptRefusal {
    /// The state is not older than what any brick says it has seen.
    NotBehind,
    /// These bricks may have seen a newer one.
    WaitsFor(BTreeSet<BrickId>),
}

/// A process that says it is a brick, and is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBrick {
    /// The number it says.
    pub brick: BrickId,
    /// Why: [`Status::Rival`], [`Status::OtherDisk`], [`Status::SetBack`], [`Status::OnlyDisk`] or
    /// [`Status::Unreached`].
    pub why: Status,
    /// The machine it is in.
    pub host: String,
    /// Where it would answer.
    pub endpoint: Endpoint,
    /// Time since it asked last, in milliseconds.
    pub heard_ms: u64,
}

/// Why a chain finds no further member. It is looked for all the time, so each of these ends by
/// itself when its cause does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stuck {
    /// Nobody serves it, so there is nothing to copy from.
    Unserved,
    /// All other bricks are members already, are to be emptied, or are lost.
    NoBrick,
    /// There are other bricks, and none has room for it.
    NoRoom {
        /// What the one with most room could still take, in bytes.
        most_bytes: u64,
        /// What it would have to, in bytes.
        needed_bytes: u64,
    },
    /// Those with room are not up.
    Away,
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
        /// Whether others may have sessions beside it. Refused with
        /// [`crate::status::Status::NotAlone`] where that contradicts a session that lives.
        sharing: Sharing,
        /// How soon it may lose what it has.
        class: SessionClass,
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
    /// is then; at once where a lock of the call's session is broken. -> `Map` or `Recalls`
    GetMap {
        /// Epoch the caller has.
        after: MapEpoch,
        /// How long to wait for a newer one.
        wait_ms: u32,
    },
    /// A brick has come up, and says what its disk knows: which lives, which map it has seen last, and how much was committed.
    /// -> `Map`, or `Behind`
    ComeUp {
        /// Who.
        brick: BrickRegistration,
        /// The lives, the present one last; empty where the disk says nothing of them.
        lives: Vec<BootId>,
        /// The newest map it has had in any life; none where its disk says nothing of that.
        saw: Option<MapMemory>,
        /// See [`BrickReport::records`].
        records: u64,
    },
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
    /// A new brick wants a number. It is in the map from then on, and in chains when it has
    /// come up and there are enough. -> `Added`
    AddBrick(NewBrick),
    /// A brick stops in good order: it serves nothing any more and everything it acknowledged
    /// is durable or about to be. -> `Done`
    Farewell {
        /// Which.
        brick: BrickId,
        /// Which life of it.
        boot: BootId,
    },
    /// Somebody found a brick's address refusing connections: the namespace should look for
    /// itself. -> `Done`
    Suspect {
        /// Which.
        brick: BrickId,
        /// The life the caller's map names.
        boot: BootId,
    },
    /// Empties a brick, or takes that back. -> `Done` or `Refused`
    DrainBrick {
        /// Which.
        brick: BrickId,
        /// Whether to.
        drain: bool,
    },
    /// Forgets a brick that is in no chain; by force one that is dead and whose chains have
    /// another serving member. -> `Done` or `Refused`
    RemoveBrick {
        /// Which.
        brick: BrickId,
        /// Take it out of its chains, too.
        force: bool,
    },
    /// Moves members until all bricks have their share, or stops doing so. -> `Done`
    Rebalance {
        /// Whether to.
        on: bool,
    },
    /// Changes settings. -> `Done`
    Configure(SettingsChange),
    /// Who the members of the namespace are, as the one that is asked knows. -> `Members`
    Members,
    /// Takes a member in that runs and waits for it. -> `Done` when it counts, or `MemberRefused`
    AddMember {
        /// The number it has given itself.
        id: u64,
        /// Where it is.
        endpoint: Endpoint,
    },
    /// Takes a member out for good. -> `Done` or `MemberRefused`
    RemoveMember {
        /// Which.
        id: u64,
    },
    /// Has another member lead. -> `Done` or `MemberRefused`
    Lead {
        /// Which.
        id: u64,
    },
    /// What certifies those who join, for a new member, which will certify others. -> `Authority`
    Authority,
    /// Paths of inodes, at most [`MAX_PATHS`]. -> `Paths`
    Paths(Vec<Ino>),
    /// The head of a chain can't reach another member. Told again while it lasts. -> `Done`
    Unreachable {
        /// Who says so, in which life.
        by: (BrickId, BootId),
        /// Who does not answer there, in the life its map names.
        brick: (BrickId, BootId),
    },
    /// What a brick holds of its chains. -> `Done`
    Holdings {
        /// Which.
        brick: BrickId,
        /// Which life of it.
        boot: BootId,
        /// Bytes allocated for each chain of which it holds anything.
        bytes: Vec<(ChainId, u64)>,
    },
    /// A new disk is to take the place of a brick's, which is lost. -> `Done` or `Refused`, where nobody else has all of its
    /// data; that is judged again when the new disk comes up.
    ReplaceBrick {
        /// Whose.
        brick: BrickId,
        /// What the new one holds.
        store: StoreId,
        /// What nobody else has may be lost; of this disk that is remembered until it comes up.
        lose_data: bool,
    },
    /// What the change journal holds, after its limits were changed as said. -> `Journal`
    Journal(JournalChange),
    /// A brick wants the map that follows its own, which it names, at once or after `wait_ms` (at most 30,000) whatever it is
    /// then. -> `Map`, or `Behind`
    NextMap {
        /// Who.
        brick: BrickId,
        /// The newest map it has had.
        saw: MapMemory,
        /// How long to wait for a newer one.
        wait_ms: u32,
    },
    /// The newest map a brick has had, when an answer [`ClusterReply::Behind`] asked for it. -> `Behind`, or `Done` where it is
    /// nothing new
    Saw {
        /// Which brick.
        brick: BrickId,
        /// The map.
        map: Box<ClusterMap>,
    },
    /// Adopts the newest map that bricks have seen, though some that may know of a newer one have not said. -> `Adopted` or
    /// `AdoptRefused`
    Adopt {
        /// Bricks that are not waited for.
        without: BTreeSet<BrickId>,
    },
    /// Gives up what bricks have of files whose names are lost. -> `Done`
    FreeLost,
    /// Who waits for locks. -> `LockWaiters`
    LockWaiters,
    /// A brick whose disk was set back is to be let in with what that has, the next time it asks. -> `Done`, or `Refused`
    TakeBack(BrickId),
    /// Ends the session of a mount, though it is not over by itself. -> `Done`
    EndSession(SessionId),
}

/// A member of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its number, which it has for good.
    pub id: u64,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Whether it counts for majorities; one that does not is being brought up to date.
    pub votes: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Last entry of the log it has, as far as the leader knows.
    pub has: Option<u64>,
}

/// Why an order about members was not carried out. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRefusal {
    /// No member that votes has this number.
    Unknown,
    /// It leads: another one has to, first.
    Leads,
    /// This member has the number or the address already, and not both.
    Contradicts(MemberInfo),
    /// This namespace runs alone, as `brickyard up` has it, and takes no members.
    Alone,
    /// It did not come up to date, or others did not answer, in time: the same order may be given again.
    TimedOut,
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
    /// The number of a new brick.
    Added(BrickId),
    /// An order about bricks was not carried out.
    Refused(BrickRefusal),
    /// The members of the namespace.
    Members(Vec<MemberInfo>),
    /// An order about members was not carried out.
    MemberRefused(MemberRefusal),
    /// Certificate and key of the cluster's authority.
    Authority(AuthorityText),
    /// Paths of the first of the inodes asked for, as many as fit into an answer and one at least: from the
    /// root of the filesystem on, beginning with `/`. `None`: it is gone, or none of its names is known.
    Paths(Vec<Option<Bytes>>),
    /// What the change journal holds, and what it may.
    Journal(Journal),
    /// The state of the namespace is older than what bricks have seen of it: the brick is not let in now.
    Behind {
        /// The brick has seen a newer map than is known here: tell.
        tell_map: bool,
    },
    /// The newest map that bricks have seen was adopted; the epoch of that one.
    Adopted(MapEpoch),
    /// It was not.
    AdoptRefused(AdoptRefusal),
    /// The map, for a session with open files that are to give up their locks.
    Recalls {
        /// The map.
        map: ClusterMap,
        /// Those files. Answered until they have.
        recalls: Vec<Recall>,
    },
    /// Who waits for locks, longest first.
    LockWaiters(Vec<LockWaiter>),
}

/// Certificate and key of the cluster's authority: not to be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityText(pub String);

impl std::fmt::Debug for AuthorityText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthorityText(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What bricks say of the maps they have seen, byte for byte.
    #[test]
    fn memories_are_golden() {
        let saw = MapMemory { epoch: MapEpoch(300), mark: MapMark(7) };
        let brick = BrickRegistration {
            brick: BrickId(3),
            store: StoreId([1; 16]),
            boot: BootId(9),
            node: NodeId([2; 16]),
            host: "h".into(),
            endpoint: Endpoint::Memory(7),
        };
        let come_up = ClusterRequest::ComeUp { brick, lives: vec![BootId(9)], saw: Some(saw), records: 5 };
        let map = Box::new(ClusterMap::new(ClusterId([1; 16]), 2));
        let golden: [(ClusterRequest, String); 5] = [
            (
                come_up,
                format!("0403{}09{}0168020701090 1ac020705", "01".repeat(16), "02".repeat(16))
                    .replace(' ', ""),
            ),
            (ClusterRequest::NextMap { brick: BrickId(3), saw, wait_ms: 5 }, "1b03ac020705".to_owned()),
            (
                ClusterRequest::Saw { brick: BrickId(3), map },
                format!("1c03{}0102000000 00000000", "01".repeat(16)).replace(' ', ""),
            ),
            (ClusterRequest::Adopt { without: BTreeSet::from([BrickId(5)]) }, "1d0105".to_owned()),
            (ClusterRequest::FreeLost, "1e".to_owned()),
        ];
        for (request, hex) in golden {
            let bytes = postcard::to_allocvec(&request).unwrap_or_default();
            assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), hex, "{request:?}");
            assert_eq!(postcard::from_bytes(&bytes), Ok(request));
        }
    }

    /// By a part where disks are large, by bytes where they are small.
    #[test]
    fn a_full_disk_has_little_left() {
        let gib = 1 << 30;
        assert!(!is_full(100 * gib, gib) && is_full(100 * gib, gib - 1));
        assert!(!is_full(gib, FULL_BYTES) && is_full(gib, FULL_BYTES - 1));
        assert!(!BrickReport::default().is_full(), "nothing is known of it");
        assert!(BrickReport { total_bytes: 1, ..BrickReport::default() }.is_full());
    }
}
