//! What changes in a directory.

use std::time::Duration;

use wire::id::{Ino, JournalIndex};
use wire::meta::{Changes, FsReply, FsRequest};

use super::Client;
use crate::error::Error;

/// Entries asked for at a time.
const MOST: u32 = 256;
/// Calls that wait at the namespace at a time: far fewer than it takes from one connection, so that all others get there. Those beyond
/// look again every now and then.
pub(crate) const WAITS: usize = 256;
/// How often those do.
const LOOK: Duration = Duration::from_millis(250);

impl Client {
    /// What changed in a directory after an index of the journal, once something did or time is over; `None`: only where the
    /// journal ends now, at once. Whoever asks again with [`Changes::until`] is told everything once, over changes of leader
    /// and of session. Dropping it takes nothing away.
    ///
    /// # Errors
    /// If it is no directory, or the namespace does not answer.
    pub async fn watch(
        &self,
        dir: Ino,
        after: Option<JournalIndex>,
        wait: Duration,
    ) -> Result<Changes, Error> {
        let place = if wait.is_zero() { None } else { self.shared.watches.try_acquire().ok() };
        let wait_there = if place.is_some() { wait } else { Duration::ZERO };
        let wait_ms = u32::try_from(wait_there.as_millis()).unwrap_or(u32::MAX);
        let FsReply::Changes(told) =
            self.shared.fs(FsRequest::Watch { dir, after, most: MOST, wait_ms }).await?
        else {
            return Err(Error::unexpected("the namespace", "changes"));
        };
        let is_news = !told.changes.is_empty() || told.lost || told.gone || after.is_none();
        if !is_news && wait_there < wait {
            tokio::time::sleep(wait.min(LOOK)).await;
        }
        Ok(told)
    }
}
