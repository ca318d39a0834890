//! The cluster map as a brick knows it, and how the brick stands in its chains by it.
//!
//! 1. What becomes visible on the disk by a map does so while no newer one is taken ([`Maps::while_it_stands`]). So what becomes
//!    visible in one epoch is there before anything is compared in the next one.
//! 2. Whoever waits for that is no task of the process: a disk that hangs holds up its own brick and nobody else
//!    (`a_job_that_hangs_holds_up_no_other_brick`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use tokio::sync::{Notify, watch};
use wire::brick::ChainRef;
use wire::id::{BrickId, ChainId, ClusterId, MapEpoch};
use wire::map::{Chain, ClusterMap};

use crate::chain::rules::{self, Standings};

/// What it knows of the cluster.
struct View {
    map: Arc<ClusterMap>,
    standings: Standings,
}

/// See the module's head.
pub(crate) struct Maps {
    brick: BrickId,
    /// Held by jobs that run by the map, and alone by whoever takes a newer one. Waits for the disk.
    stands: RwLock<()>,
    /// Waits for nothing.
    view: Mutex<View>,
    epoch: watch::Sender<MapEpoch>,
    /// Another map was taken.
    pub(crate) changed: Notify,
    /// Something in the background may have to be done.
    pub(crate) stir: Notify,
}

impl Maps {
    /// Of a brick that has heard of none yet.
    pub(crate) fn new(cluster: ClusterId, brick: BrickId) -> Maps {
        let mut map = ClusterMap::new(cluster, 0);
        map.epoch = MapEpoch(0);
        Maps {
            brick,
            stands: RwLock::new(()),
            view: Mutex::new(View { map: Arc::new(map), standings: Standings::new() }),
            epoch: watch::Sender::new(MapEpoch(0)),
            changed: Notify::new(),
            stir: Notify::new(),
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest map.
    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        self.view().map.clone()
    }

    /// The newest map, and whether what follows from it holds for a chain.
    pub(crate) fn look<T>(&self, by: impl FnOnce(&Arc<ClusterMap>, &Standings) -> T) -> T {
        let view = self.view();
        by(&view.map, &view.standings)
    }

    /// Does something by the map while no newer one is taken. Waits for the disk: not for tasks.
    pub(crate) fn while_it_stands<T>(&self, job: impl FnOnce(&ClusterMap) -> T) -> T {
        let _stands = self.stands.read().unwrap_or_else(PoisonError::into_inner);
        let map = self.map();
        job(&map)
    }

    /// Epochs of the map, as they come.
    pub(crate) fn epochs(&self) -> watch::Receiver<MapEpoch> {
        self.epoch.subscribe()
    }

    /// Takes a map that was checked, if it is newer. Ends when jobs that run by the one before have ended, or later if nobody waits
    /// for it any more.
    pub(crate) async fn take(self: &Arc<Self>, map: ClusterMap) {
        let Some(map) = self.take_at_once(map) else { return };
        let maps = self.clone();
        let waiting = tokio::task::spawn_blocking(move || {
            let _alone = maps.stands.write().unwrap_or_else(PoisonError::into_inner);
            maps.replace(map);
        });
        if let Err(error) = waiting.await {
            tracing::error!(brick = %self.brick, %error, "could not take a map");
        }
    }

    /// Takes it if no job is under way; gives it back otherwise.
    fn take_at_once(&self, map: ClusterMap) -> Option<ClusterMap> {
        let _alone = match self.stands.try_write() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(map),
        };
        self.replace(map);
        None
    }

    /// By whoever holds `stands` alone.
    fn replace(&self, map: ClusterMap) {
        let mut view = self.view();
        if map.epoch <= view.map.epoch {
            return;
        }
        let epoch = map.epoch;
        view.standings = rules::next_standings(&view.standings, &map, self.brick);
        view.map = Arc::new(map);
        drop(view);
        tracing::debug!(brick = %self.brick, %epoch, "took a map");
        self.epoch.send_replace(epoch);
        self.changed.notify_waiters();
        self.stir.notify_waiters();
    }

    /// It has compared its copies of a chain.
    pub(crate) fn set_sure(&self, chain: ChainRef) {
        let mut view = self.view();
        if let Some(standing) = view.standings.get_mut(&chain.id).filter(|s| s.epoch == chain.epoch) {
            standing.sure = standing.serving;
        }
    }

    /// It can't tell any more whether its copies of a chain are right.
    pub(crate) fn set_unsure(&self, chain: ChainId) {
        let mut view = self.view();
        let alone = view.map.chains.get(&chain).is_some_and(|c: &Chain| c.serving().count() <= 1);
        if let Some(standing) = view.standings.get_mut(&chain) {
            standing.sure = alone && standing.serving;
        }
        drop(view);
        self.stir.notify_waiters();
    }

    /// Returns when the chain is not at this epoch any more.
    pub(crate) async fn chain_changed(&self, chain: ChainRef) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.map().chains.get(&chain.id).is_none_or(|c| c.epoch != chain.epoch) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn map(epoch: u64) -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        map.epoch = MapEpoch(epoch);
        map
    }

    /// On the one thread of this runtime: who waits for a job that hangs leaves it to others, who see the map of before.
    #[tokio::test]
    async fn a_job_that_hangs_holds_up_no_other_brick() {
        let maps = Arc::new(Maps::new(ClusterId([1; 16]), BrickId(1)));
        maps.take(map(1)).await;
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let inner = maps.clone();
        let job = std::thread::spawn(move || {
            inner.while_it_stands(|map| {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                map.epoch
            })
        });
        has_begun.await.unwrap();
        let taking = tokio::spawn({
            let maps = maps.clone();
            async move { maps.take(map(2)).await }
        });
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(maps.map().epoch, MapEpoch(1));
        }
        assert!(!taking.is_finished());
        go_on.send(()).unwrap();
        taking.await.unwrap();
        assert_eq!((maps.map().epoch, job.join().unwrap()), (MapEpoch(2), MapEpoch(1)));
        maps.take(map(1)).await;
        assert_eq!(maps.map().epoch, MapEpoch(2), "never back");
    }
}
