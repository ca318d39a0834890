//! What a brick asks the namespace.

use std::time::Duration;

use bytes::Bytes;
use wire::id::{BrickId, CallSeq, MapEpoch};
use wire::map::ClusterMap;
use wire::meta::{ClusterReply, ClusterRequest, MapMemory, MetaCall, MetaProtocol, MetaReply, MetaRequest};
use wire::net::{CallError, Endpoint, Members, Net};
use wire::status::Status;

use crate::config::{NAMESPACE_DEADLINE, REGISTER_DEADLINE};

/// How long a member of the namespace may wait for a newer map, in milliseconds.
const MAP_WAIT_MS: u32 = 500;

/// Pause before asking again where nobody led.
const PAUSE: Duration = Duration::from_millis(50);

/// The members of the namespace; the one that leads is asked.
#[derive(Debug)]
pub struct Namespaces {
    members: Members,
}

impl Namespaces {
    /// These members.
    pub fn new(endpoints: Vec<Endpoint>) -> Namespaces {
        Namespaces { members: Members::new(endpoints) }
    }

    /// Asks the member that leads; where there are several, looks for it for as long as one call may take.
    ///
    /// # Errors
    /// What the last one said, or the net of it.
    pub async fn ask(&self, net: &Net, request: ClusterRequest) -> Result<ClusterReply, CallError> {
        // Whether those who know what a brick had are alive is found out before it is let in.
        let patience = match request {
            ClusterRequest::ComeUp { .. } => REGISTER_DEADLINE,
            _ => NAMESPACE_DEADLINE,
        };
        let call = MetaCall {
            session: None,
            seq: CallSeq(0),
            answered_below: CallSeq(0),
            request: MetaRequest::Cluster(request),
        };
        let deadline = tokio::time::Instant::now() + patience;
        let mut turns = 0;
        loop {
            let Some(at) = self.members.to_ask() else { return Err(CallError::Status(Status::Busy)) };
            let failed = match net.request::<MetaProtocol>(&at, &call, Bytes::new(), deadline).await {
                Ok((MetaReply::Cluster(reply), _)) => return Ok(reply),
                Ok(_) => return Err(CallError::Status(Status::Malformed)),
                Err(failed) => failed,
            };
            self.members.failed(at, &failed);
            let alone = self.members.count() == 1 && self.members.to_ask() == Some(at);
            if alone || !Members::is_elsewhere(&failed) || tokio::time::Instant::now() + PAUSE >= deadline {
                return Err(failed);
            }
            turns += 1;
            if turns > 1 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Asks who the members are, so that another one is found when this one goes.
    ///
    /// # Errors
    /// See [`Namespaces::ask`].
    pub async fn learn(&self, net: &Net) -> Result<(), CallError> {
        match self.ask(net, ClusterRequest::Members).await? {
            ClusterReply::Members(members) => {
                self.members.learn(members.into_iter().map(|member| member.endpoint));
                Ok(())
            }
            _ => Err(CallError::Status(Status::Malformed)),
        }
    }

    /// A newer map than `have`, or what there is after a short wait. Who says which map it saw last gets none of a namespace that
    /// does not know that one.
    ///
    /// # Errors
    /// See [`Namespaces::ask`]; [`Status::NamespaceBehind`].
    pub async fn map_after(
        &self,
        net: &Net,
        brick: BrickId,
        have: MapEpoch,
        saw: Option<MapMemory>,
    ) -> Result<ClusterMap, CallError> {
        let wait_ms = MAP_WAIT_MS;
        let request = match saw {
            Some(saw) => ClusterRequest::NextMap { brick, saw, wait_ms },
            None => ClusterRequest::GetMap { after: have, wait_ms },
        };
        match self.ask(net, request).await? {
            ClusterReply::Map(map) => Ok(map),
            ClusterReply::Behind { .. } => Err(CallError::Status(Status::NamespaceBehind)),
            _ => Err(CallError::Status(Status::Malformed)),
        }
    }
}
