//! What can be asked of a brick, and what it answers.
//!
//! Writes go to the head of a chain, which orders them and passes them on. An acknowledged
//! write is in the memory of every in-sync member (*unstable*); [`BrickRequest::Commit`] makes
//! it durable on the brick asked (NFS version 3's idea). Payloads travel beside the header.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::chunk::ChunkKey;
use crate::handshake::Service;
use crate::id::{BootId, BrickId, CallSeq, ChainEpoch, ChainId, ChunkVersion, Ino, MapEpoch, SessionId};
use crate::net::{CallError, Protocol};

/// A chain as its caller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRef {
    /// Which.
    pub id: ChainId,
    /// At which epoch; another one is refused.
    pub epoch: ChainEpoch,
}

/// Who changes something: checked against the block list and known again on a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WriterId {
    /// The session.
    pub session: SessionId,
    /// Number of the call in it.
    pub seq: CallSeq,
}

/// One call. The bricks' addresses and everything else come from the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrickCall {
    /// Which brick of the process that answers.
    pub brick: BrickId,
    /// Epoch of the caller's map. A brick with an older one fetches before it serves.
    pub map: MapEpoch,
    /// What is asked.
    pub request: BrickRequest,
}

/// A change of a chunk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The call's payload goes to `offset`.
    Write {
        /// Where in the chunk, in bytes.
        offset: u32,
    },
    /// `len` bytes from `offset` become zeros, and whole blocks of them free.
    Punch {
        /// Where in the chunk, in bytes.
        offset: u32,
        /// How much, in bytes.
        len: u32,
    },
}

/// When a change that is sent again was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The version that it made then, or when it was sent again last.
    pub version: ChunkVersion,
    /// The version that it made first: of changes that are sent again the later one counts.
    pub first: ChunkVersion,
    /// Who took it over at that version, in which lives.
    pub took: Vec<(BrickId, BootId)>,
}

/// How long after its acknowledgement a change may be sent again as such: bricks remember no longer what it has to be held against.
pub const AGAIN_WITHIN: Duration = Duration::from_secs(540);

/// What is known of a copy of a chunk whose brick has started a short time ago, or was given it by one that has: which of the changes that were
/// acknowledged before are in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// These are.
    pub floor: Floor,
    /// What was written over it since: in order, none within another.
    pub written: Vec<Run>,
}

/// Changes that are in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Floor {
    /// All up to this version,
    pub version: ChunkVersion,
    /// of those that this life of a brick took over: what came from its disk later. Of all, if there is none.
    pub of: Option<(BrickId, BootId)>,
}

/// Bytes written since a copy was at its floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where in the chunk, in bytes.
    pub from: u32,
    /// Up to where.
    pub to: u32,
    /// The version that it made.
    pub made: ChunkVersion,
    /// The one that it made first, of what was sent again: that lies beneath all that was not.
    pub first: Option<ChunkVersion>,
}

/// A chunk, for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkSummary {
    /// Which.
    pub key: ChunkKey,
    /// The chain it was written through.
    pub chain: ChainId,
    /// Its version on this brick.
    pub version: ChunkVersion,
    /// End of its furthest byte, in bytes.
    pub len: u32,
    /// Bytes allocated for it.
    pub allocated_bytes: u32,
    /// Of its content: copies with equal bytes have equal digests whatever blocks hold them.
    /// Tells copies apart that reached the same version with different bytes in a crash.
    pub digest: u64,
    /// Who made the last change, if it was not taken over whole from another member.
    pub writer: Option<WriterId>,
}

/// A run of bytes that may hold data; what is in no extent is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where in the chunk, in bytes.
    pub offset: u32,
    /// How much, in bytes.
    pub len: u32,
}

/// Which order to trim comes later. One that its sender has given up may be on its way still, or wait in a brick, when a later one has been
/// answered and the file is written again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrimOrder {
    /// Grows from leader to leader of the namespace.
    pub term: u64,
    /// Grows from order to order of one leader.
    pub number: u64,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrickRequest {
    /// `len` bytes from `offset`, at most [`crate::chunk::MAX_IO_BYTES`]. The payload of the
    /// answer ends where data ends: the rest up to `len` is zeros. -> `Read`
    Read {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// Where, in bytes.
        offset: u32,
        /// How much, in bytes.
        len: u32,
    },
    /// To the head: changes a chunk on all in-sync members. -> `Changed`, or `ThereAgain`
    Change {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// Who.
        writer: WriterId,
        /// The session waits for no call below this number any more: one that comes late
        /// changes nothing.
        answered_below: CallSeq,
        /// What.
        change: Change,
        /// It was acknowledged before, by bricks of which some have restarted since: it is only done where it is lost, and beneath what was
        /// written since.
        again: Option<Again>,
    },
    /// Makes everything this brick has acknowledged durable. -> `Committed`
    Commit,
    /// Where a chunk holds data. -> `Extents`
    Extents {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
    },
    /// Head to member: the change that makes version `base` into `to`. -> `Changed`,
    /// or [`crate::status::Status::Behind`] if the member does not hold `base`.
    Forward {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// Who.
        writer: WriterId,
        /// Version it builds on; 0: the chunk does not exist.
        base: ChunkVersion,
        /// Version it makes: the next one; of a new chunk one that none before it had which the head knows of.
        to: ChunkVersion,
        /// What.
        change: Change,
        /// Of one that is sent again: the version that it made first.
        again: Option<ChunkVersion>,
        /// The head's [`Lineage::floor`], if it keeps one of this chunk.
        floor: Option<Floor>,
    },
    /// Between members: the chunk is gone at the head. -> `Done`
    Drop {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// Version that is to be dropped; a newer one stays.
        version: ChunkVersion,
    },
    /// Between members: as `Read`, served by a member in any state, for repair and sync. -> `Read`
    ReadCopy {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// Where, in bytes.
        offset: u32,
        /// How much, in bytes.
        len: u32,
    },
    /// From the namespace: nothing of the file beyond `size` is to exist on this brick; with size 0
    /// no chunk at all. Durable when answered. Repeating it does no harm. -> `Trimmed`
    Trim {
        /// The file.
        ino: Ino,
        /// Its chunk size, in bytes.
        chunk_bytes: u32,
        /// Bytes that stay.
        size: u64,
        /// An earlier order than one that was heard of this file is not carried out any more, but answered "busy".
        order: TrimOrder,
    },
    /// Chunks in order of key, of one chain or all. -> `Chunks`
    List {
        /// Only of this chain.
        chain: Option<ChainId>,
        /// The last one seen.
        after: Option<ChunkKey>,
        /// Most wanted; at most 4,096 are given.
        max: u32,
    },
    /// Reads every block of a chunk against its checksum, tells how many are bad, and has them put right from
    /// another member if there is one. -> `Verified`
    Verify {
        /// The chunk.
        key: ChunkKey,
    },
    /// To a member that serves reads: the chunks of one file that exist in a chain, in order of index. What
    /// is not among them is a hole. -> `Chunks`
    ListFile {
        /// The chain.
        chain: ChainRef,
        /// The file.
        ino: Ino,
        /// Index of the first chunk wanted.
        from: u64,
        /// Most wanted; at most 4,096 are given.
        max: u32,
    },
    /// Member to head: which versions of these chunks does the head stand by? -> `Settled`
    Settled {
        /// The chain.
        chain: ChainRef,
        /// The chunks.
        keys: Vec<ChunkKey>,
        /// Wait for changes under way; otherwise a chunk being changed counts as unsettled.
        wait: bool,
    },
    /// Member to head: make my copy of this chunk equal to yours. -> `Done`
    Level {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// The member.
        member: BrickId,
    },
    /// Between members: digests of the 64 KiB pieces of a chunk, or of the 4 KiB blocks of some
    /// of them. -> `Pieces`
    Pieces {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// Pieces of which each block is wanted; none: all pieces as a whole.
        blocks_of: Vec<u32>,
    },
    /// Head to member: a part of the chunk in which both copies differ; what no part covers
    /// stays as the member has it. The member switches over once the last part is there and
    /// the whole has the digest named; it refuses if it does not hold `base`. -> `Done`
    Patch {
        /// The chain.
        chain: ChainRef,
        /// What the chunk is to be then.
        to: ChunkSummary,
        /// Version and digest that the member holds; version 0: no such chunk.
        base: (ChunkVersion, u64),
        /// Where this part begins, in bytes; parts come in order.
        offset: u32,
        /// How many bytes it replaces; those beyond the payload become zeros.
        covers: u32,
        /// First part: forget earlier parts.
        first: bool,
        /// Last part: switch over.
        last: bool,
        /// Blocks of this part, in order, that nobody can read any more.
        lost: Vec<LostBlock>,
        /// With the last part: what is known of the head's copy.
        lineage: Option<Lineage>,
    },
    /// How far the scrubber is; with `begin` it starts a round now, unless one is under way.
    /// -> `Scrub`
    Scrub {
        /// Begin now, at the pace of a round that is asked for.
        begin: bool,
    },
    /// As [`BrickRequest::ReadCopy`], of a copy with blocks that nobody can read. -> `Left`
    ReadLeft {
        /// The chain.
        chain: ChainRef,
        /// The chunk.
        key: ChunkKey,
        /// In bytes, a multiple of a block.
        offset: u32,
        /// In bytes.
        len: u32,
    },
    /// Whether it can be reached. Asks nothing of the disk. -> `Done`
    Ping,
    /// From a client that can't reach a brick: the brick that is asked hands this on to that one, with the payload. Only what clients
    /// may ask, and no relay. -> what that one answers
    Relay {
        /// Who is to answer.
        to: BrickId,
        /// What: the postcard of a [`BrickRequest`]. Not the request itself, which could have any number of relays within each other.
        request: Bytes,
    },
}

impl BrickRequest {
    /// The request to hand this one on.
    ///
    /// # Errors
    /// [`CallError::Malformed`].
    pub fn to_be_relayed(&self, to: BrickId) -> Result<BrickRequest, CallError> {
        let encoded = postcard::to_stdvec(self);
        let malformed = |e: postcard::Error| CallError::Malformed { what: "request", detail: e.to_string() };
        Ok(BrickRequest::Relay { to, request: encoded.map_err(malformed)?.into() })
    }
}

/// A block of which only the checksum is left: a copy of it fails that checksum as the original does, and is put
/// right if ever somebody has bytes that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostBlock {
    /// Its number in the chunk.
    pub block: u32,
    /// CRC32C of its 4 KiB.
    pub crc: u32,
}

/// How far a brick's scrubber is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubReport {
    /// A round is under way.
    pub running: bool,
    /// Bytes read in this round, or in the last one.
    pub done_bytes: u64,
    /// Bytes there are to read, as known when it began.
    pub total_bytes: u64,
    /// Chunks of which a block was bad, in this round or the last one.
    pub bad_chunks: u64,
    /// Blocks that no member could put right, in this round or the last one.
    pub lost_blocks: u64,
    /// Rounds that came to their end since the brick came up.
    pub rounds: u64,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrickReply {
    /// Nothing to tell.
    Done,
    /// The payload is the data.
    Read {
        /// Version it was read at; 0: there is no such chunk.
        version: ChunkVersion,
    },
    /// All in-sync members have the change, in memory.
    Changed {
        /// Version of the chunk now.
        version: ChunkVersion,
        /// Change of the bytes allocated, for one copy.
        allocated_delta_bytes: i64,
        /// Who has it, and in which life: to be committed there.
        members: Vec<(BrickId, BootId)>,
    },
    /// As `Changed`, of what is sent again.
    ThereAgain {
        /// Its bytes, in order, and since which version of the chunk they are there, or what others have written over them since.
        parts: Vec<(Extent, ChunkVersion)>,
        /// Who has it, and in which life: to be committed there.
        members: Vec<(BrickId, BootId)>,
    },
    /// Everything acknowledged by this brick in this life until the call is durable.
    Committed {
        /// Which life. Writes acknowledged in another one may be lost.
        boot: BootId,
    },
    /// Where data may be.
    Extents {
        /// End of the furthest byte, in bytes.
        len: u32,
        /// In order, not touching.
        extents: Vec<Extent>,
    },
    /// Cut.
    Trimmed {
        /// Bytes that became free on this brick.
        freed_bytes: u64,
        /// Chunks that had something beyond.
        cut_chunks: u64,
    },
    /// Chunks.
    Chunks {
        /// In order of key.
        chunks: Vec<ChunkSummary>,
        /// None comes after.
        end: bool,
    },
    /// A chunk was read whole.
    Verified {
        /// BLAKE3 of its content up to its length, holes as zeros.
        hash: [u8; 32],
        /// Blocks whose checksum does not match.
        corrupt_blocks: u32,
    },
    /// For each chunk asked about, the version all members have; `None`: not known now.
    Settled {
        /// In the order asked; 0: there is no such chunk.
        versions: Vec<Option<ChunkVersion>>,
    },
    /// Pieces of a chunk.
    Pieces {
        /// The chunk, if it exists.
        chunk: Option<ChunkSummary>,
        /// BLAKE3 of each 64 KiB up to its end, the last one as if followed by zeros; or of each
        /// 4 KiB of the pieces asked for, likewise.
        digests: Vec<[u8; 32]>,
        /// What is known of the copy, if it was asked for as a whole.
        lineage: Option<Lineage>,
    },
    /// The scrubber.
    Scrub(ScrubReport),
    /// The payload is what is left of the data, with zeros where it is lost.
    Left {
        /// Version it was read at.
        version: ChunkVersion,
        /// Blocks that nobody can read, in order.
        lost: Vec<LostBlock>,
    },
}

/// The bricks' protocol.
#[derive(Debug, Clone, Copy)]
pub enum BrickProtocol {}

impl Protocol for BrickProtocol {
    const SERVICE: Service = Service::Brick;
    type Request = BrickCall;
    type Reply = BrickReply;
}
