//! What a brick does unasked, one loop a file.

pub mod commit;
pub mod compare;
pub mod heal;
pub mod heartbeat;
pub mod reconcile;
pub mod sync;
