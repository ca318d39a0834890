//! Waiting for locks. What is held is in the state; who waits is known to the member that leads only, and says so again to
//! the next one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use wire::id::{Ino, LockGeneration, SessionId};
use wire::meta::{ClusterReply, FsReply, LockHeld, LockWaiter, LockWish, Timestamp};
use wire::status::{FsError, Status};

use crate::config::LOCK_WAIT_MS;
use crate::machine::locks::{self, Holder, in_the_way};
use crate::namespace::{Namespace, lock};

/// How long somebody counts as waiting who has just been told to ask again.
const NEEDED_LONGER: Duration = Duration::from_secs(1);

/// Somebody who waits, until this is dropped.
struct Waiting<'a> {
    namespace: &'a Namespace,
    number: u64,
    changed: Arc<Notify>,
    /// When it was told to ask again.
    told: Option<Instant>,
}

impl<'a> Waiting<'a> {
    fn begin(namespace: &'a Namespace, who: Holder, wish: LockWish) -> Self {
        let (number, changed) = lock(&namespace.watchers.lock_waits).begin(who, wish, Instant::now());
        Self { namespace, number, changed, told: None }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.namespace.watchers.lock_waits).end(self.number, self.told);
    }
}

fn age_ms(then: Timestamp, now: Timestamp) -> u64 {
    let ms = |t: Timestamp| i128::from(t.secs) * 1000 + i128::from(t.nanos / 1_000_000);
    u64::try_from(ms(now) - ms(then)).unwrap_or(0)
}

impl Namespace {
    fn held(&self, wish: &LockWish) -> Result<Vec<LockHeld>, Status> {
        locks::held(&*self.db, wish.ino, wish.kind).map_err(|error| self.failed(&error))
    }

    /// Ends the sessions of those who hold locks in the way and are not heard any more.
    pub async fn end_silent_holders(&self, session: SessionId, wish: &LockWish) -> Result<(), Status> {
        let held = self.held(wish)?;
        let now = Instant::now();
        let holders: BTreeSet<SessionId> = {
            let sessions = lock(&self.watchers.sessions);
            let others = in_the_way(&held, (session, wish.owner), wish).map(|lock| lock.session);
            others.filter(|other| sessions.is_silent(*other, now)).collect()
        };
        if !holders.is_empty() {
            self.end_silent(|other| holders.contains(&other)).await;
        }
        Ok(())
    }

    /// A lock that is in the way.
    pub async fn test_lock(&self, session: SessionId, wish: &LockWish) -> Result<FsReply, Status> {
        locks::check(wish)?;
        self.log.read_barrier().await?;
        self.end_silent_holders(session, wish).await?;
        let held = self.held(wish)?;
        let other = in_the_way(&held, (session, wish.owner), wish).next();
        Ok(FsReply::LockedBy(other.copied()))
    }

    /// Waits until nobody holds the lock with this generation any more.
    ///
    /// # Errors
    /// "Busy" if that takes too long: the same call may be made again.
    pub async fn until_given_up(&self, ino: Ino, generation: LockGeneration) -> Result<(), Status> {
        let until =
            Instant::now() + self.config.recall_grace + Duration::from_millis(u64::from(LOCK_WAIT_MS));
        let mut unlocked = self.watchers.unlocked.subscribe();
        loop {
            unlocked.borrow_and_update();
            let held = locks::all_held(&*self.db, ino).map_err(|error| self.failed(&error))?;
            if !held.iter().any(|(_, lock)| lock.generation == generation) {
                return Ok(());
            }
            tokio::select! {
                changed = timeout_at(until, unlocked.changed()) => match changed {
                    Ok(Ok(())) => {}
                    _ => return Err(Status::Busy),
                },
                () = self.watchers.stopped() => return Err(Status::Busy),
            }
        }
    }

    /// Who waits for locks.
    pub async fn lock_waiters(&self) -> Result<ClusterReply, Status> {
        self.log.read_barrier().await?;
        let (now, present) = (Instant::now(), Timestamp::now());
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut waiters = Vec::new();
        let waits = lock(&self.watchers.lock_waits).all();
        for (number, (session, _), wish, since) in waits {
            let by = lock(&self.watchers.lock_waits).in_the_way(number, &self.held(&wish)?);
            let held_ms = by.map_or(0, |by| age_ms(by.since, present));
            let waits_ms = ms(now.saturating_duration_since(since));
            waiters.push(LockWaiter { session, wish, waits_ms, by, held_ms });
        }
        Ok(ClusterReply::LockWaiters(waiters))
    }

    /// Waits until a lock could be taken.
    pub async fn await_lock(
        &self,
        session: SessionId,
        wish: LockWish,
        wait_ms: u32,
    ) -> Result<FsReply, Status> {
        locks::check(&wish)?;
        self.log.read_barrier().await?;
        let until = Instant::now() + Duration::from_millis(u64::from(wait_ms.min(LOCK_WAIT_MS)));
        let who = (session, wish.owner);
        // First in line, then a look: whatever is given up after the look is heard of.
        let mut waiting = Waiting::begin(self, who, wish);
        loop {
            let held = self.held(&wish)?;
            let other = {
                let waits = lock(&self.watchers.lock_waits);
                let Some(other) = waits.in_the_way(waiting.number, &held) else {
                    return Ok(FsReply::LockedBy(None));
                };
                let read = |wish: &LockWish| locks::held(&*self.db, wish.ino, wish.kind);
                if waits.would_wait_for_ever(who, &wish, read).map_err(|error| self.failed(&error))? {
                    return Err(FsError::Deadlock.into());
                }
                other
            };
            // Who asks again is back by then.
            lock(&self.watchers.sessions).need(other.session, until + NEEDED_LONGER);
            let changed = tokio::select! {
                changed = timeout_at(until, waiting.changed.notified()) => changed.is_ok(),
                () = self.watchers.stopped() => return Err(Status::Busy),
            };
            if !changed {
                waiting.told = Some(Instant::now());
                return Ok(FsReply::LockedBy(Some(other)));
            }
        }
    }
}
