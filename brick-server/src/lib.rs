//! The data service: the chunk store of a brick and chain replication
