//! What happens with time: old data is sent, reported and made durable; hanging operations
//! are logged; what is done is forgotten.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::inode::OpenInode;
use crate::locked;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Operations are logged as hanging after so long.
const HANGING: Duration = Duration::from_secs(10);

impl Shared {
    /// Looks after everything that is old enough, until the client stops.
    pub(crate) async fn keep_ticking(self: Arc<Self>) {
        while self.sleep_unless_stopping(TICK).await {
            self.operations.log_hanging(HANGING);
            let now = Instant::now();
            let mut commit = false;
            for inode in self.dirty_inodes() {
                commit |= self.look_after(&inode, now);
            }
            if commit {
                self.commit_wanted.notify_one();
            }
            self.sweep();
        }
    }

    /// Sends and reports what is old; whether something is to be committed.
    fn look_after(self: &Arc<Self>, inode: &Arc<OpenInode>, now: Instant) -> bool {
        let config = &self.outside.config;
        let old = |since: Instant, age: Duration| now.saturating_duration_since(since) >= age;
        let (report, commit, unclosed) = {
            let mut state = locked(&inode.state);
            if let Some(then) = now.checked_sub(config.flush_age.saturating_sub(TICK)) {
                state.gather.old_due(then);
                self.pump(inode, &mut state);
            }
            let report = state.unreported_since.is_some_and(|since| old(since, config.flush_age));
            let commit = state.held.oldest().is_some_and(|since| old(since, config.commit_age));
            (report, commit, state.readers + state.writers == 0)
        };
        let told = inode.told_any.load(std::sync::atomic::Ordering::Relaxed);
        // Somebody is at it already if the gate is taken.
        if (report || (unclosed && told)) && inode.gate.try_lock().is_ok() {
            let (shared, inode) = (self.clone(), inode.clone());
            self.runtime.spawn(async move {
                let result =
                    if report { shared.report(&inode).await.map(drop) } else { shared.tell_closed(&inode).await };
                if let Err(error) = result
                    && !error.is_gone()
                {
                    tracing::warn!(inode = %inode.ino, %error, "could not tell the namespace what was written");
                }
            });
        }
        commit
    }
}
