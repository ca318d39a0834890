//! What bricks have seen of the map, and what the state does about what it does not know: see [`crate::soft::behind`].

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use wire::id::{BootId, BrickId, MapEpoch, StoreId};
use wire::map::ClusterMap;
use wire::meta::{AdoptRefusal, BrickRegistration, ClusterReply, ClusterRequest, MapMemory, MetaRequest};
use wire::status::Status;

use crate::config::MAP_WAIT_MS;
use crate::machine::command::Op;
use crate::machine::lineage;
use crate::namespace::{Namespace, lock};

/// Whether a call is answered while the state is behind: what tells of that, or ends it, and what has nothing to do with it.
pub fn is_answered_behind(request: &MetaRequest) -> bool {
    use ClusterRequest as C;
    matches!(
        request,
        MetaRequest::Cluster(
            C::Status
                | C::ComeUp { .. }
                | C::Heartbeat { .. }
                | C::NextMap { .. }
                | C::Saw { .. }
                | C::Adopt { .. }
                | C::Members
                | C::AddMember { .. }
                | C::RemoveMember { .. }
                | C::Lead { .. }
                | C::Authority
        )
    )
}

impl Namespace {
    /// Whether bricks have seen what the state does not know.
    pub fn is_behind(&self) -> bool {
        lock(&self.watchers.claims).is_behind()
    }

    /// A brick says which map it saw last. An answer if it can't be let in now.
    fn heard_of(
        &self,
        brick: BrickId,
        store: Option<StoreId>,
        saw: Option<MapMemory>,
    ) -> Result<Option<ClusterReply>, Status> {
        let map = self.map();
        let known = saw.map_or(Ok(true), |saw| lineage::knows(&*self.db, &map, saw));
        let known = known.map_err(|error| self.failed(&error))?;
        Ok(self.says(brick, store, saw.map(|saw| saw.epoch), known).then(|| {
            let tell_map = saw.is_some_and(|saw| lock(&self.watchers.claims).wants(saw.epoch));
            ClusterReply::Behind { tell_map }
        }))
    }

    /// The same, judged. Whether the state is behind.
    pub(super) fn says(
        &self,
        brick: BrickId,
        store: Option<StoreId>,
        saw: Option<MapEpoch>,
        known: bool,
    ) -> bool {
        let mut claims = lock(&self.watchers.claims);
        if claims.says(brick, store, saw, known) {
            tracing::error!(
                %brick, saw = saw.map_or(0, |epoch| epoch.0), here = self.map().epoch.0,
                "a brick has seen a map that this state does not know: it was set back; nothing is done by it until the bricks have \
                 said what they know"
            );
        }
        claims.is_behind()
    }

    /// A brick has come up.
    pub async fn come_up(
        &self,
        brick: BrickRegistration,
        lives: &[BootId],
        saw: Option<MapMemory>,
        records: u64,
    ) -> Result<ClusterReply, Status> {
        match self.heard_of(brick.brick, Some(brick.store), saw)? {
            Some(behind) => Ok(behind),
            None => self.register_brick(brick, lives, records).await,
        }
    }

    /// The map after the one a brick has.
    pub async fn next_map(
        &self,
        brick: BrickId,
        saw: MapMemory,
        wait_ms: u32,
    ) -> Result<ClusterReply, Status> {
        if let Some(behind) = self.heard_of(brick, None, Some(saw))? {
            return Ok(behind);
        }
        let wait = Duration::from_millis(u64::from(wait_ms.min(MAP_WAIT_MS)));
        let mut map = self.watchers.map.subscribe();
        tokio::select! {
            _ = timeout_at(Instant::now() + wait, map.wait_for(|m| m.epoch > saw.epoch)) => {}
            () = self.watchers.stopped() => {}
        }
        Ok(self.map_reply())
    }

    /// A brick tells the map it saw.
    pub fn tells(&self, map: ClusterMap) -> Result<ClusterReply, Status> {
        if map.cluster != self.map().cluster || map.verify().is_err() {
            return Err(Status::Malformed);
        }
        let mut claims = lock(&self.watchers.claims);
        claims.tells(map);
        Ok(if claims.is_behind() { ClusterReply::Behind { tell_map: false } } else { ClusterReply::Done })
    }

    /// Adopts the newest map that bricks have seen, if nobody else is waited for.
    pub async fn adopt(&self, without: &BTreeSet<BrickId>) -> Result<ClusterReply, Status> {
        let due = lock(&self.watchers.claims).due(without).cloned();
        let map = match due {
            Ok(map) => map,
            Err(waits_for) if waits_for.is_empty() => {
                return Ok(ClusterReply::AdoptRefused(AdoptRefusal::NotBehind));
            }
            Err(waits_for) => return Ok(ClusterReply::AdoptRefused(AdoptRefusal::WaitsFor(waits_for))),
        };
        let adopted = map.epoch;
        self.propose_anyway(Op::Adopt(Box::new(map))).await?;
        // Whoever was heard by the old map has its full time by the new one.
        self.take_over().map_err(|error| self.failed(&error))?;
        tracing::warn!(
            epoch = adopted.0,
            now = self.map().epoch.0,
            ?without,
            "adopted the newest map that bricks have seen: bricks and chains are as they were by that one; names made or changed \
             after this state was saved are lost"
        );
        Ok(ClusterReply::Adopted(adopted))
    }

    /// Adopts it by itself as soon as nobody is waited for.
    pub async fn adopt_if_due(&self) {
        let due = lock(&self.watchers.claims).due(&BTreeSet::new()).is_ok();
        if due && let Err(status) = self.adopt(&BTreeSet::new()).await {
            tracing::warn!(%status, "could not adopt the newest map that bricks have seen; trying again");
        }
    }
}
