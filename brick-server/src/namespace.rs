//! What a brick asks the namespace.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use wire::id::{CallSeq, MapEpoch};
use wire::map::ClusterMap;
use wire::meta::{ClusterReply, ClusterRequest, MetaCall, MetaProtocol, MetaReply, MetaRequest};
use wire::net::{CallError, Endpoint, Net};
use wire::status::Status;

use crate::config::{NAMESPACE_DEADLINE, REGISTER_DEADLINE};

/// How long a member of the namespace may wait for a newer map, in milliseconds.
const MAP_WAIT_MS: u32 = 500;

/// The members of the namespace; the one that answered last is asked first.
#[derive(Debug)]
pub struct Namespaces {
    endpoints: Vec<Endpoint>,
    current: AtomicUsize,
}

impl Namespaces {
    /// These members.
    pub fn new(endpoints: Vec<Endpoint>) -> Namespaces {
        Namespaces { endpoints, current: AtomicUsize::new(0) }
    }

    /// Asks one member after the other until one answers.
    ///
    /// # Errors
    /// What the last one said, or the net of it.
    pub async fn ask(&self, net: &Net, request: ClusterRequest) -> Result<ClusterReply, CallError> {
        // Whether those who know what a brick had are alive is found out before it is let in.
        let patience = match request {
            ClusterRequest::RegisterBrick(_) => REGISTER_DEADLINE,
            _ => NAMESPACE_DEADLINE,
        };
        let call = MetaCall {
            session: None,
            seq: CallSeq(0),
            answered_below: CallSeq(0),
            request: MetaRequest::Cluster(request),
        };
        let first = self.current.load(Ordering::Relaxed);
        let mut last = CallError::Status(Status::Busy);
        for turn in 0..self.endpoints.len() {
            let at = (first + turn) % self.endpoints.len();
            let deadline = tokio::time::Instant::now() + patience;
            match net.request::<MetaProtocol>(&self.endpoints[at], &call, Bytes::new(), deadline).await {
                Ok((MetaReply::Cluster(reply), _)) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(reply);
                }
                Ok(_) => last = CallError::Status(Status::Malformed),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A newer map than `have`, or what there is after a short wait.
    ///
    /// # Errors
    /// See [`Namespaces::ask`].
    pub async fn map_after(&self, net: &Net, have: MapEpoch) -> Result<ClusterMap, CallError> {
        match self.ask(net, ClusterRequest::GetMap { after: have, wait_ms: MAP_WAIT_MS }).await? {
            ClusterReply::Map(map) => Ok(map),
            _ => Err(CallError::Status(Status::Malformed)),
        }
    }
}
