//! A connection with an administrator's credential: what `status`, `check` and `token` ask through.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::Instant;
use wire::brick::{BrickCall, BrickProtocol, BrickReply, BrickRequest};
use wire::id::{BrickId, CallSeq, Ino, MapEpoch};
use wire::map::ClusterMap;
use wire::meta::{
    CheckReply, CheckRequest, ClusterReply, ClusterRequest, ClusterStatus, MAX_PATHS, MetaCall, MetaProtocol,
    MetaReply, MetaRequest,
};
use wire::net::{
    CallError, Credential, CredentialError, Endpoint, Members, MemoryHub, Net, NetConfig, Probed,
};
use wire::status::Status;

use crate::cli::ClusterOptions;
use crate::refusal;
use crate::roles::{addresses, member, place};
use crate::show;
use crate::up::home;

/// Longest wait for one answer. Verifying a whole namespace takes longest.
const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// How long it is looked for the member of the namespace that leads.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for a member of the namespace that is meant itself to take a connection.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks the namespace and the bricks of one cluster.
pub struct Admin {
    net: Net,
    namespaces: Members,
}

impl Admin {
    /// For the cluster that the options name.
    ///
    /// # Errors
    /// If it does not run, the directory is no cluster's, or the credential can't be used.
    pub fn of(options: &ClusterOptions) -> Result<Admin> {
        Admin::find(options).map_err(|error| {
            if is_denied(&error) {
                anyhow!(
                    "{}: run it as root, or give --cred FILE with a credential that you may read",
                    refusal::one_line(&error)
                )
            } else {
                error
            }
        })
    }

    fn find(options: &ClusterOptions) -> Result<Admin> {
        match (&options.cred, &options.data) {
            (Some(file), _) => {
                let credential = credential(file)?;
                Admin::new(&credential, options.join.as_deref())
                    .with_context(|| format!("{}", file.display()))
            }
            (None, Some(dir)) if member::is_member(dir) => {
                Admin::new(&credential(&member::admin_credential(dir))?, None)
            }
            (None, Some(dir)) => Admin::of_data_dir(dir),
            (None, None) => bail!("say which cluster: --data DIR or --cred FILE"),
        }
    }

    /// For the cluster that `brickyard up` runs on a data directory.
    fn of_data_dir(dir: &Path) -> Result<Admin> {
        let endpoints = home::running_endpoints(dir)?;
        let first =
            endpoints.first().ok_or_else(|| anyhow!("{} is empty", dir.join("run/endpoints").display()))?;
        let credential = credential(&dir.join("admin.cred"))?;
        let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
        Admin::over(net, vec![first.parse()?])
    }

    /// For the cluster of a credential, where it says or at these addresses.
    ///
    /// # Errors
    /// If nobody says where the cluster is.
    pub fn new(credential: &Credential, join: Option<&str>) -> Result<Admin> {
        let namespaces = match join {
            Some(list) => addresses(list)?.into_iter().map(Endpoint::Tls).collect(),
            None => credential.namespaces().to_vec(),
        };
        Admin::over(Net::new(credential, MemoryHub::new(), NetConfig::default())?, namespaces)
    }

    /// Over a net there is.
    ///
    /// # Errors
    /// If there is no address.
    pub fn over(net: Net, namespaces: Vec<Endpoint>) -> Result<Admin> {
        if namespaces.is_empty() {
            bail!("it does not say where the namespace is: give --join ADDR:PORT");
        }
        Ok(Admin { net, namespaces: Members::new(namespaces) })
    }

    /// A call about the cluster.
    ///
    /// # Errors
    /// If the namespace does not answer, or not with an answer about that.
    pub async fn cluster(&self, request: ClusterRequest) -> Result<ClusterReply> {
        match self.namespace(MetaRequest::Cluster(request)).await? {
            MetaReply::Cluster(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// The cluster map.
    ///
    /// # Errors
    /// If the namespace does not answer, or not with that.
    pub async fn map(&self) -> Result<ClusterMap> {
        match self.cluster(ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 }).await? {
            ClusterReply::Map(map) => Ok(map),
            other => bail!("the namespace answered something else than the map: {other:?}"),
        }
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

    /// Asks one member of the namespace to verify its records.
    ///
    /// # Errors
    /// If it does not answer, or not with that.
    pub async fn check_of(&self, member: Endpoint, request: CheckRequest) -> Result<CheckReply> {
        // One that is away is not waited for as long as one that reads everything.
        let is_told = matches!(member, Endpoint::Tls(_) | Endpoint::Memory(_));
        if is_told && self.net.probe(&member, REACH_LIMIT).await != Probed::Listens {
            bail!("it can't be reached");
        }
        let request = MetaRequest::Check(request);
        let call = MetaCall { session: None, seq: CallSeq(0), answered_below: CallSeq(0), request };
        let deadline = Instant::now() + CALL_DEADLINE;
        match self.net.request::<MetaProtocol>(&member, &call, Default::default(), deadline).await {
            Ok((MetaReply::Check(reply), _)) => Ok(reply),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(error) => Err(error.into()),
        }
    }

    /// Paths of inodes, of those whose path is known.
    ///
    /// # Errors
    /// If the namespace does not answer, or not with that.
    pub async fn paths(&self, inodes: &[Ino]) -> Result<BTreeMap<Ino, String>> {
        let mut known = BTreeMap::new();
        let mut left = inodes;
        while !left.is_empty() {
            let asked = &left[..left.len().min(MAX_PATHS)];
            match self.cluster(ClusterRequest::Paths(asked.to_vec())).await? {
                ClusterReply::Paths(paths) if (1..=asked.len()).contains(&paths.len()) => {
                    let (told, rest) = left.split_at(paths.len());
                    let told = told.iter().zip(paths);
                    known.extend(told.filter_map(|(ino, path)| Some((*ino, show::path(&path?)))));
                    left = rest;
                }
                other => bail!("the namespace answered something else than paths: {other:?}"),
            }
        }
        Ok(known)
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
        let begun = Instant::now();
        let deadline = begun + CALL_DEADLINE;
        let mut answered = None;
        loop {
            let Some(namespace) = self.namespaces.to_ask() else {
                bail!("there is no address of the namespace");
            };
            let failed =
                match self.net.request::<MetaProtocol>(&namespace, &call, Default::default(), deadline).await
                {
                    Ok((reply, _)) => return Ok(reply),
                    Err(error @ CallError::Status(Status::Forbidden)) => {
                        let role = self.net.identity().role;
                        return Err(error).context(format!("a credential of role {role} may not do this"));
                    }
                    Err(failed) => failed,
                };
            self.namespaces.failed(namespace, &failed);
            // One that is alone is asked once; of several, one leads or will in a moment.
            let alone = self.namespaces.count() == 1 && failed.status().is_none();
            let over = alone || !Members::is_elsewhere(&failed) || begun.elapsed() > PATIENCE;
            let is_answer = failed.status().is_some();
            let error =
                anyhow::Error::from(failed).context(format!("the namespace at {namespace} does not answer"));
            match (over, is_answer) {
                (true, true) => return Err(error),
                // What one says tells more than that another can't be reached.
                (true, false) => return Err(answered.unwrap_or(error)),
                (false, true) => answered = Some(error),
                (false, false) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The administrator's credential in a file.
///
/// # Errors
/// If it can't be used, with what to do.
pub fn credential(file: &Path) -> Result<Credential> {
    place::loaded(Credential::load(file), "give --cred FILE with another one, or put its backup back")
}

/// Whether the system refused to show a file.
fn is_denied(error: &anyhow::Error) -> bool {
    let denied = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::PermissionDenied;
    error.chain().any(|cause| match cause.downcast_ref::<CredentialError>() {
        // It shares what the system said, and so gives it as no cause of its own.
        Some(CredentialError::Io { why, .. }) => denied(why),
        _ => cause.downcast_ref().is_some_and(denied),
    })
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
