//! The stories told of a real cluster, by a real mount. One module a theme.
//!
//! `trees`, `files`, `sparse`, `names`, `acls`, `privileges`, `locks`, `mapping`, `databases` and `suites` use POSIX calls only, and run in a
//! local directory too (`BRICKYARD_TEST_DIR`), which proves the tests; the others need the product.

mod acls;
mod bad_input;
mod benchmark;
mod cluster;
mod crash;
mod databases;
mod faults;
mod files;
mod full;
mod hosts_again;
mod hosts_behind;
mod hosts_birth;
mod hosts_disks;
mod hosts_faults;
mod hosts_leaders;
mod hosts_locks;
mod hosts_lockstep;
mod hosts_members;
mod hosts_misuse;
mod hosts_page;
mod hosts_shared;
mod hosts_space;
mod hosts_status;
mod hosts_watch;
mod jobs;
mod locks;
mod mapping;
mod memory;
mod moves;
mod names;
mod privileges;
mod repair;
mod salvage;
mod sparse;
mod suites;
mod trees;
mod watch;
