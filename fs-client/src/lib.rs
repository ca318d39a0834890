//! The client library and the FUSE mount
