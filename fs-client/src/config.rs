//! Every knob of the client and of the mount.

use std::path::PathBuf;
use std::time::Duration;

use wire::id::NodeId;
pub use wire::meta::{SessionClass, Sharing};
use wire::net::Endpoint;

/// Knobs of a [`Client`](crate::Client). [`ClientConfig::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The client's own name, the same after a restart: its earlier session ends when it
    /// opens a new one.
    pub client: NodeId,
    /// The machine, for people.
    pub host: String,
    /// Where it is mounted, for people.
    pub mount: String,
    /// Members of the namespace, at least one; tried in turn.
    pub namespaces: Vec<Endpoint>,
    /// Who else changes the files. Default [`Sharing::Shared`].
    pub sharing: Sharing,
    /// How soon it may lose what it has to others, when it is not heard. Default [`SessionClass::Standard`].
    pub class: SessionClass,
    /// How long an operation is tried through failures before it ends in an I/O error.
    /// Default 60 s.
    pub deadline: Duration,
    /// How long one attempt may take. Default 10 s.
    pub attempt_timeout: Duration,
    /// Bytes written and not yet acknowledged by the bricks, gathered and in flight, of all
    /// files; writers wait beyond. At least 2 MiB. Default 64 MiB.
    pub window_bytes: usize,
    /// The same for one file. At least 2 MiB. Default 32 MiB.
    pub file_window_bytes: usize,
    /// Bytes acknowledged and kept until they are durable, of all files. Beyond it the bricks
    /// are told to commit, beyond twice as much writers wait. Default 64 MiB.
    pub uncommitted_bytes: usize,
    /// Writes under way to bricks at the same time. Default 64.
    pub flights: usize,
    /// Gathered data is sent when it is this old. Default 1 s.
    pub flush_age: Duration,
    /// Acknowledged data is made durable when it is this old, asked or not. Default 5 s.
    pub commit_age: Duration,
    /// Bytes read ahead for one handle at most. Default 8 MiB.
    pub readahead_handle_bytes: u64,
    /// Bytes read ahead for all handles at most. Default 64 MiB.
    pub readahead_bytes: usize,
}

impl ClientConfig {
    /// The defaults.
    pub fn new(client: NodeId, namespaces: Vec<Endpoint>) -> Self {
        Self {
            client,
            host: String::new(),
            mount: String::new(),
            namespaces,
            sharing: Sharing::Shared,
            class: SessionClass::Standard,
            deadline: Duration::from_secs(60),
            attempt_timeout: Duration::from_secs(10),
            window_bytes: 64 << 20,
            file_window_bytes: 32 << 20,
            uncommitted_bytes: 64 << 20,
            flights: 64,
            flush_age: Duration::from_secs(1),
            commit_age: Duration::from_secs(5),
            readahead_handle_bytes: 8 << 20,
            readahead_bytes: 64 << 20,
        }
    }
}

/// Knobs of a [`Mount`](crate::Mount).
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// What `/proc/mounts`, `df` and `findmnt` say is mounted. Default `brickyard`.
    pub source: String,
    /// The directory of the filesystem that is mounted. Default `/`: all of it.
    pub root: PathBuf,
    /// Other users than the mounting one may use it. Default true; needs root.
    pub allow_other: bool,
    /// Nothing can be changed through the mount. Default false.
    pub read_only: bool,
    /// Reading a file does not change when it was last read. Default false.
    pub no_atime: bool,
    /// The same of directories alone. Default false.
    pub no_dir_atime: bool,
    /// Set-user-ID programs on the mount have no effect. Default false.
    pub no_suid: bool,
    /// Device files on the mount are not devices. Default false.
    pub no_dev: bool,
    /// Programs on the mount can't be run. Default false.
    pub no_exec: bool,
    /// A directory with entries may be mounted over. Default false.
    pub allow_non_empty: bool,
    /// Threads that take requests from the kernel. Default one a core, 1 to 16.
    pub threads: usize,
    /// Requests of the kernel's own (read-ahead, closing) under way. Default 128.
    pub max_background: u16,
    /// What the kernel reads ahead of a sequential reader, in KiB. Default 4096.
    pub kernel_readahead_kib: u32,
    /// How long [`Mount::stop`](crate::Mount::stop) waits for data to be flushed, and then
    /// for the kernel to let go, before it aborts the connection. Default 10 s each.
    pub stop_timeout: Duration,
}

impl Default for MountConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            source: "brickyard".to_owned(),
            root: PathBuf::from("/"),
            allow_other: true,
            read_only: false,
            no_atime: false,
            no_dir_atime: false,
            no_suid: false,
            no_dev: false,
            no_exec: false,
            allow_non_empty: false,
            threads: cores.clamp(1, 16),
            max_background: 128,
            kernel_readahead_kib: 4096,
            stop_timeout: Duration::from_secs(10),
        }
    }
}
