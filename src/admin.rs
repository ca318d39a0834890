//! A connection with an administrator's credential: what `status` and `check` ask through.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::Instant;
use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest};
use wire::id::{BrickId, CallSeq};
use wire::map::ClusterMap;
use wire::meta::{
    CheckReply, CheckRequest, ClusterReply, ClusterRequest, ClusterStatus, MetaCall, MetaProtocol, MetaReply,
    MetaRequest,
};
use wire::net::{Credential, Endpoint, MemoryHub, Net, NetConfig};

use crate::up::home;

/// Longest wait for one answer. Verifying a whole namespace takes longest.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

/// Asks the namespace and the bricks of one cluster.
pub struct Admin {
    net: Net,
    namespace: Endpoint,
}

impl Admin {
    /// For the cluster that `brickyard up` runs on a data directory.
    ///
    /// # Errors
    /// If it does not run, or the directory is no cluster's.
    pub fn of_data_dir(dir: &Path) -> Result<Admin> {
        let endpoints = home::running_endpoints(dir)?;
        let first =
            endpoints.first().ok_or_else(|| anyhow!("{} is empty", dir.join("run/endpoints").display()))?;
        let credential = Credential::load(&dir.join("admin.cred"))?;
        let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
        Ok(Admin { net, namespace: first.parse()? })
    }

    /// Everything the namespace tells of the cluster.
    ///
    /// # Errors
    /// If it does not answer, or not with that.
    pub async fn status(&self) -> Result<ClusterStatus> {
        match self.namespace(MetaRequest::Cluster(ClusterRequest::Status)).await? {
            MetaReply::Cluster(ClusterReply::Status(status)) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the namespace to verify or list its records.
    ///
    /// # Errors
    /// If it does not answer, or not with that.
    pub async fn check(&self, request: CheckRequest) -> Result<CheckReply> {
        match self.namespace(MetaRequest::Check(request)).await? {
            MetaReply::Check(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks one brick.
    ///
    /// # Errors
    /// If it is not in the map, does not answer or refuses.
    pub async fn brick(&self, map: &ClusterMap, brick: BrickId, request: BrickRequest) -> Result<BrickReply> {
        let Some(endpoint) = map.endpoint_of(brick) else { bail!("brick {brick} is not in the map") };
        let call = BrickCall { brick, map: map.epoch, request };
        let deadline = Instant::now() + CALL_DEADLINE;
        let (reply, _) = self
            .net
            .request::<BrickProtocol>(endpoint, &call, Default::default(), deadline)
            .await
            .with_context(|| format!("brick {brick} at {endpoint} does not answer"))?;
        Ok(reply)
    }

    async fn namespace(&self, request: MetaRequest) -> Result<MetaReply> {
        let call = MetaCall { session: None, seq: CallSeq(0), answered_below: CallSeq(0), request };
        let deadline = Instant::now() + CALL_DEADLINE;
        let (reply, _) = self
            .net
            .request::<MetaProtocol>(&self.namespace, &call, Default::default(), deadline)
            .await
            .with_context(|| format!("the namespace at {} does not answer", self.namespace))?;
        Ok(reply)
    }
}

fn unexpected(reply: &MetaReply) -> anyhow::Error {
    anyhow!("the namespace answered something else than was asked: {reply:?}")
}

/// A runtime for a command that asks a few questions.
///
/// # Errors
/// If the process can have no more threads or descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start threads")
}
