//! End-to-end tests: a real cluster, a real mount, faults.
//!
//! This crate owns the harness ([`Cluster`] on one machine, [`HostCluster`] on several, [`Place`], [`Run`]) and what the stories in `tests/it`
//! need to judge a filesystem from outside: seeded content ([`seed`]), a model of what a crash may
//! leave ([`promise`]), trees that somebody else wrote ([`sources`]). It knows the product only
//! by its command line, its exit codes, its status report and the mount: no other crate of the
//! workspace is imported, so a test cannot pass by sharing a mistake with the code it tests.
//!
//! Invariants:
//! 1. Whatever a test starts ends with it, also by panic: the guard kills by process id and
//!    unmounts lazily (`cluster::a_dropped_cluster_leaves_nothing`).
//! 2. Every wait has a deadline ([`wait`]); a test never sleeps in place of a condition.
//! 3. A WARN or ERROR line of the product that no test announced fails the test
//!    (`logs::tests::an_unannounced_warning_is_a_fault`).
//!
//! Settings, all environment variables: `BRICKYARD_BIN` (the binary under test),
//! `BRICKYARD_TEST_DIR` (run the pure POSIX tests in this local directory instead of on a mount:
//! it proves the tests), `BRICKYARD_TEST_KEEP=1` (leave the directories of a failed test),
//! `BRICKYARD_SEED`, `BRICKYARD_CRASH_ROUNDS`, `BRICKYARD_STREAM_MIB`, `BRICKYARD_FSX_OPS`.

pub mod cluster;
pub mod disks;
pub mod hosts;
pub mod kernel;
pub mod links;
pub mod logs;
pub mod machine;
pub mod netns;
pub mod place;
pub mod promise;
pub mod run;
pub mod seed;
pub mod sources;
pub mod stall;
pub mod status;
pub mod suites;
pub mod thrash;
pub mod tree;
pub mod wait;
pub mod workload;

pub use cluster::{Cluster, Options};
pub use hosts::{HostCluster, Shape};
pub use place::Place;
pub use run::Run;
