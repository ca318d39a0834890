//! The client against a cluster that exists in memory only.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cluster;
mod failures;
mod files;
mod fuse;
mod locks;
mod model;
mod namespace;
