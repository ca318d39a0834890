//! Who still works in a member's directory.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often [`Hold::let_go`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Kept, as its last field, by everything that writes in a member's directory: whoever stops a member
/// can wait until all of them are gone, and with them their threads and files.
#[derive(Debug, Clone, Default)]
pub struct Hold(Arc<()>);

impl Hold {
    /// Waits until this is the only one left. Gives whether that came to pass within `patience`.
    pub async fn let_go(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Arc::strong_count(&self.0) > 1 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }
}
