//! Every knob of a brick.

use std::path::PathBuf;
use std::time::Duration;

use wire::id::{BrickId, ClusterId, NodeId};
use wire::net::Endpoint;
use wire::timing::BrickTiming;

use crate::store::Limits;

/// One brick to be served.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its directory, formatted.
    pub dir: PathBuf,
    /// Its number; the directory must say the same.
    pub brick: BrickId,
    /// Its cluster; the directory must say the same.
    pub cluster: ClusterId,
    /// The holder of the certificate it is served with.
    pub node: NodeId,
    /// The machine it is in, as people call it.
    pub host: String,
    /// Where it answers. Port 0 takes a free one.
    pub listen: Endpoint,
    /// Members of the namespace.
    pub namespaces: Vec<Endpoint>,
    /// Threads that wait for the disk. 1 to 64, default 4.
    pub threads: usize,
    /// How often the brick tells the namespace that it is alive. Default: [`BrickTiming`]'s,
    /// 0.5 s.
    pub heartbeat: Duration,
    /// It stops serving when the last acknowledged heartbeat was sent this long ago. Must be
    /// less than the time after which the namespace gives it up, which refuses the heartbeats
    /// otherwise. Default: [`BrickTiming`]'s, 2.0 s.
    pub fence_after: Duration,
    /// Whether it says goodbye when it stops, so that others take over at once. Not where all
    /// bricks stop together: who goes first would have to be brought up to date. Default true.
    pub farewell: bool,
    /// What was acknowledged is made durable at least this often. Default 2 s.
    pub commit_interval: Duration,
    /// Changes from this size on are written here and forwarded at the same time, in bytes.
    /// Default 64 KiB.
    pub parallel_bytes: usize,
    /// What this brick sends to bring other members up to date in the background, in bytes a
    /// second at most. Default 64 MiB/s: about half of a gigabit link.
    pub copy_bytes_per_second: u64,
    /// Every block is read against its checksum once in this time. Default 7 days.
    pub scrub_period: Duration,
    /// The scrubber reads at most so many bytes a second. Default 20 MB/s.
    pub scrub_bytes_per_second: u64,
    /// The names of files that are new here are noted for `salvage` this often. Default 10 s.
    pub names_pause: Duration,
    /// All names are noted anew this often. Default 1 day.
    pub names_period: Duration,
    /// Numbers the store works by.
    pub limits: Limits,
}

impl Config {
    /// A configuration with defaults for everything that has one.
    pub fn new(
        dir: PathBuf,
        brick: BrickId,
        cluster: ClusterId,
        node: NodeId,
        host: String,
        listen: Endpoint,
        namespaces: Vec<Endpoint>,
    ) -> Config {
        Config {
            dir,
            brick,
            cluster,
            node,
            host,
            listen,
            namespaces,
            threads: 4,
            heartbeat: BrickTiming::default().heartbeat,
            fence_after: BrickTiming::default().fence_after,
            farewell: true,
            commit_interval: Duration::from_secs(2),
            parallel_bytes: 64 << 10,
            copy_bytes_per_second: 64 << 20,
            scrub_period: Duration::from_secs(7 * 24 * 3600),
            scrub_bytes_per_second: 20_000_000,
            names_pause: Duration::from_secs(10),
            names_period: Duration::from_secs(24 * 3600),
            limits: Limits::default(),
        }
    }
}

/// Longest wait for another brick's answer to a change; ends earlier when the chain changes.
pub const PEER_DEADLINE: Duration = Duration::from_secs(10);
/// A call to another brick that waits longer makes it doubted, see [`crate::chain::reach`].
pub const PEER_PATIENCE: Duration = Duration::from_secs(1);
/// The namespace is told of bricks that are away no more often than this.
pub const SUSPECT_AGAIN: Duration = Duration::from_millis(200);
/// Longest wait for one answer of the namespace.
pub const NAMESPACE_DEADLINE: Duration = Duration::from_secs(1);
/// A brick whose commits have been refused for want of room for so long leaves its chains to others.
pub const REFUSED_FOR: Duration = Duration::from_secs(2);
/// A brick whose disk has left something unanswered for so long, and answered nothing else, leaves its chains to others. Longer than
/// a disk of today needs for anything while it works, and than most controllers need to reset one.
pub const SILENT_FOR: Duration = Duration::from_secs(8);
/// Longest wait to be let in by the namespace.
pub const REGISTER_DEADLINE: Duration = Duration::from_secs(11);
/// Longest wait to get at a chunk that others are changing.
pub const GATE_DEADLINE: Duration = Duration::from_secs(15);
/// Jobs that wait for a thread of a brick; more are refused as busy.
pub const POOL_JOBS: usize = 8192;
/// Chunks whose copies may differ and are to be levelled; beyond that whole chains are
/// compared anew.
pub const PENDING_CHUNKS: usize = 16_384;
/// Chunks for which recent writers are remembered in memory, and how many each.
pub const WRITER_CHUNKS: usize = 2048;
/// See [`WRITER_CHUNKS`].
pub const WRITERS_A_CHUNK: usize = 16;
/// Sessions whose answered calls are remembered.
pub const WRITER_SESSIONS: usize = 4096;
/// Chunks of which a member does not know whether all have its version; beyond that it
/// compares the chain anew.
pub const MARKED_CHUNKS: usize = 65_536;
/// Marks a member asks its head about at a time.
pub const MARKS_A_CALL: usize = 1024;
/// Chunks that are known to have been copied whole in this life.
pub const COPIED_CHUNKS: usize = 65_536;
/// Copies that others send whole at the same time, and for how long an unfinished one is kept.
pub const STAGED_CHUNKS: usize = 64;
/// See [`STAGED_CHUNKS`].
pub const STAGED_FOR: Duration = Duration::from_secs(60);
/// Most chunks of one listing.
pub const LIST_MAX: u32 = 4096;
/// Chunks a trim takes at a time.
pub const TRIM_PAGE: usize = 256;
/// Chains of one brick that are compared at the same time.
pub const COMPARISONS: usize = 3;
/// Wait before something that failed in the background is tried again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(200);
