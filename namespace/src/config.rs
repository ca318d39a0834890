//! Every knob of the metadata service.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wire::net::{Authority, Endpoint};
use wire::timing::BrickTiming;

use crate::log::raft::disk::{Disk, RealDisk};
use crate::log::raft::{MemberId, Timing};
use crate::soft::sessions::Ttls;

/// Memory of the database for changes that are not in sorted files yet, in bytes.
pub const WRITE_BUFFER_BYTES: usize = 8 << 20;
/// Memory of the database for what was read, in bytes.
pub const BLOCK_CACHE_BYTES: usize = 32 << 20;
/// Commands that wait for the log before callers wait themselves.
pub const QUEUE_COMMANDS: usize = 4096;
/// Most commands of one batch.
pub const BATCH_COMMANDS: usize = 1024;
/// Most answers kept for one session; a caller that does not say what it has received is
/// told to wait beyond that.
pub const ANSWERS_A_SESSION: usize = 8192;
/// Most inodes freed by one command.
pub const RECLAIM_INODES: usize = 256;
/// Most trims acknowledged by one command.
pub const TRIM_ACKS: usize = 512;
/// Trims under way at a time on one brick.
pub const TRIMS_A_BRICK: usize = 16;
/// Files that stay and are cut at a time.
pub const CUT_FILES: usize = 64;
/// Files in the queue of trims; those beyond are found by reading the records again.
pub const TRIM_QUEUE: usize = 65536;
/// Chunks a brick is asked for at a time when those of no use are looked for.
pub const COLLECT_PAGE: u32 = 1024;
/// Most chunks told by one command that are of no use.
pub const COLLECT_CHUNKS: usize = 256;
/// Orphans looked at in one pass of the loop that frees them.
pub const RECLAIM_PASS: usize = 4096;
/// Problems a check tells at most.
pub const CHECK_PROBLEMS: usize = 1000;
/// Flaws of a phase that are mended after one look at everything, at most.
pub const CHECK_FLAWS: usize = 4096;
/// Flaws mended at a time.
pub const REPAIRS_AT_ONCE: usize = 64;
/// Files one page of a check gives at most.
pub const CHECK_FILES: u32 = 4096;
/// Bytes of paths in one answer, unless the first is longer.
pub const PATHS_BYTES: usize = 256 << 10;
/// Locks of a kind on one file.
pub const LOCKS_A_FILE: usize = 4096;
/// Longest wait for a lock in one call, in milliseconds.
pub const LOCK_WAIT_MS: u32 = 30_000;
/// Entries of the change journal beyond this number are dropped, where the administrator has not said otherwise: some
/// 100 MiB.
pub const JOURNAL_ENTRIES: u64 = 1 << 20;
/// Most that the administrator may say: indexes stay far from their end.
pub const JOURNAL_ENTRIES_MOST: u64 = 1 << 32;
/// Entries of the change journal older than this are dropped, where the administrator has not said otherwise, in
/// seconds: 30 days.
pub const JOURNAL_AGE_S: u64 = 30 * 86_400;
/// Entries of the change journal in one answer.
pub const WATCH_ENTRIES: u32 = 256;
/// Longest wait for a change in one call, in milliseconds.
pub const WATCH_WAIT_MS: u32 = 30_000;
/// Calls that wait for changes and are woken by them; those beyond look again every now and then.
pub const WATCHES: usize = 65_536;
/// How often calls beyond [`WATCHES`] look, in milliseconds.
pub const WATCH_LOOK_MS: u64 = 250;
/// Join tokens there may be at a time.
pub const TOKENS: usize = 10_000;
/// Longest life of a join token, in seconds: a year.
pub const TOKEN_TTL_MOST_S: u32 = 366 * 86_400;
/// Most uses of one join token.
pub const TOKEN_USES_MOST: u32 = 100_000;
/// How long it is remembered of a join token that it has expired, in seconds.
pub const TOKEN_KEPT_S: i64 = 86_400;
/// Longest wait of a call for a newer map, in milliseconds.
pub const MAP_WAIT_MS: u32 = 30_000;

/// Knobs of one member of the metadata service.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: Endpoint,
    /// Replicas of new chains, where the cluster is new. 1 to 3, default 2.
    pub replicas: u8,
    /// Bricks that must have come up before chains are made of them, where the cluster is new.
    /// Default 0: as many as there are replicas, on different machines.
    pub birth_bricks: u32,
    /// A session that is not renewed for this long ends when somebody needs what it has. Default 12 s.
    pub session_ttl: Duration,
    /// Sessions are asked to renew this often. Default 3 s.
    pub session_renew: Duration,
    /// The same of sessions of class `ha`. Default 5 s.
    pub ha_session_ttl: Duration,
    /// The same of sessions of class `ha`. Default 1 s.
    pub ha_session_renew: Duration,
    /// A session that nobody hears is ended after this time though nobody needs what it has. Default 24 h.
    pub session_keep: Duration,
    /// A mount has this long to bring what was written under a lock that was broken to the bricks, and to give it up, before its
    /// session is ended. Default 3 s.
    pub recall_grace: Duration,
    /// A brick is dead when not heard for this long. It stops serving by itself earlier: the
    /// heartbeats of one that does not are refused. Default: [`BrickTiming`]'s, 2.5 s.
    pub brick_dead_after: Duration,
    /// Longest wait for an address to refuse or take a connection, when the connection of a
    /// brick's heartbeats has ended. Default 200 ms.
    pub probe_timeout: Duration,
    /// How often a brick is asked for a sign of life of which others say that they get none. Default 500 ms.
    pub ask_every: Duration,
    /// How often it is looked whether members of chains are to be moved. Default 500 ms.
    pub plan_every: Duration,
    /// Bricks have this long to be heard after the service starts. Default 5 s.
    pub brick_grace: Duration,
    /// How often deadlines of bricks and sessions are looked at. Default 100 ms.
    pub tick: Duration,
    /// A tick this late means that this process stood still: deadlines are moved by the
    /// lateness instead of declaring everybody dead. Default 1 s.
    pub stall: Duration,
    /// Longest wait for a brick that comes up to answer at its address. Default 1 s.
    pub call_back: Duration,
    /// Longest time one trim may take on a brick. Default 5 s.
    pub trim_timeout: Duration,
    /// Longest time a call waits for trims before it is told to try again, shorter than clients wait for an answer. Default 8 s.
    pub trim_wait: Duration,
    /// How often orphans and trims nobody spoke of are looked for. Default 2 s.
    pub sweep: Duration,
    /// How often chunks that are of no use are looked for on all bricks; more often after a
    /// start and when a brick came up, from `sweep` on by doubling. Default 1 h.
    pub collect: Duration,
    /// Longest time a brick may take to list a page of chunks. Default 5 s.
    pub list_timeout: Duration,
    /// Longest wait of a registering brick for a sign of life of the others of its chains.
    /// Default 10 s.
    pub register_wait: Duration,
    /// What certifies those who join. Default none: nobody can join.
    pub authority: Option<Arc<Authority>>,
    /// How often expired join tokens are looked for. Default 5 s.
    pub token_sweep: Duration,
    /// Added to the machine's clock where join tokens expire, in seconds; tests set clocks
    /// back with it. Default 0.
    pub clock_offset_s: i64,
    /// The member that this is. Default none: it is alone, and will be.
    pub member: Option<MemberConfig>,
}

/// One of several members, or one that others may join.
#[derive(Clone)]
pub struct MemberConfig {
    /// Its number, for good: see [`MemberId`].
    pub id: MemberId,
    /// Where the others and all callers reach it.
    pub endpoint: Endpoint,
    /// It is the first one, and its state is the one that the log goes on from.
    pub founder: bool,
    /// How it keeps in touch.
    pub timing: Timing,
    /// What its log is written to.
    pub disk: Arc<dyn Disk>,
}

impl std::fmt::Debug for MemberConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, endpoint, founder, timing, .. } = self;
        write!(f, "MemberConfig {{ id: {id:016x}, endpoint: {endpoint}, founder: {founder}, {timing:?} }}")
    }
}

impl MemberConfig {
    /// A member with the default timing, on the disk of its directory.
    pub fn new(id: MemberId, endpoint: Endpoint, founder: bool) -> Self {
        Self { id, endpoint, founder, timing: Timing::default(), disk: Arc::new(RealDisk) }
    }
}

impl Config {
    /// The defaults, for a directory and an address.
    pub fn new(dir: impl Into<PathBuf>, listen: Endpoint) -> Self {
        Self {
            dir: dir.into(),
            listen,
            replicas: 2,
            birth_bricks: 0,
            session_ttl: Duration::from_secs(12),
            session_renew: Duration::from_secs(3),
            ha_session_ttl: Duration::from_secs(5),
            ha_session_renew: Duration::from_secs(1),
            session_keep: Duration::from_secs(86_400),
            recall_grace: Duration::from_secs(3),
            brick_dead_after: BrickTiming::default().dead_after,
            probe_timeout: Duration::from_millis(200),
            ask_every: Duration::from_millis(500),
            plan_every: Duration::from_millis(500),
            brick_grace: Duration::from_secs(5),
            tick: Duration::from_millis(100),
            stall: Duration::from_secs(1),
            call_back: Duration::from_secs(1),
            trim_timeout: Duration::from_secs(5),
            trim_wait: Duration::from_secs(8),
            sweep: Duration::from_secs(2),
            collect: Duration::from_secs(3600),
            list_timeout: Duration::from_secs(5),
            register_wait: Duration::from_secs(10),
            authority: None,
            token_sweep: Duration::from_secs(5),
            clock_offset_s: 0,
            member: None,
        }
    }

    /// How long sessions live without being heard.
    pub fn session_ttls(&self) -> Ttls {
        Ttls { standard: self.session_ttl, ha: self.ha_session_ttl }
    }
}
