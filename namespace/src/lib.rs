//! The metadata service: names, inodes, sessions, the cluster map
