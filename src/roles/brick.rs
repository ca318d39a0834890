//! `brickyard brick`: what is to be there before bricks can be served, and made where it is new.

mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use brick_server::store::dir;
use clap::Args;
use tokio::time::Instant;
use wire::id::{BrickId, CallSeq, ClusterId, MapEpoch, StoreId};
use wire::meta::{BrickRefusal, ClusterReply, ClusterRequest, MetaCall, MetaProtocol, MetaRequest, NewBrick};
use wire::net::{CallError, Credential, Endpoint, MemoryHub, Net, NetConfig, Role};

use super::exporter::{self, Exporter};
use super::life::{self, Ending};
use super::server::{self, Looked, Place, Server};
use super::{addresses, is_ours, joining, listen_address, place, reachable};
use crate::admin::Admin;
use crate::{brick_admin, refusal};
use serve::Prepared;

/// Longest wait for a namespace to show whose it is.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// Options of `brickyard brick`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Options {
    #[command(subcommand)]
    pub order: Option<brick_admin::Order>,
    /// Directory of a brick, best a disk of its own; repeat it for several
    #[arg(long = "dir", value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
    /// Address and port that the other machines reach this one at; remembered
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub listen: Option<SocketAddr>,
    /// Where the namespace is: makes new bricks of directories that are none
    #[arg(long, value_name = "ADDR:PORT,...")]
    pub join: Option<String>,
    #[command(flatten)]
    pub token: joining::TokenOptions,
    /// The new directory takes the place of this brick, whose disk is lost; its content comes from the copies
    #[arg(long, value_name = "BRICK", requires = "join")]
    pub replace: Option<u32>,
    /// With --replace: also if nobody else has all of that brick's data, which is given up then
    #[arg(long, requires = "replace")]
    pub lose_data: bool,
    /// Only join and make the bricks, then exit: what comes before a service is started
    #[arg(long, requires = "join")]
    pub prepare: bool,
    /// Name of the machine: copies are kept on different ones [default: the host name]; remembered
    #[arg(long, value_name = "NAME", value_parser = super::host_name)]
    pub host: Option<String>,
    #[command(flatten)]
    pub metrics: exporter::Options,
}

/// Runs the bricks until told to end.
///
/// # Errors
/// What keeps all of them from running, in one line; directories that were refused are as they were.
pub fn run(options: Options) -> Result<ExitCode> {
    let looked = server::look(&options.dirs)?;
    life::run(async {
        let mut ending = Ending::new()?;
        let exporter = Exporter::bind(&options.metrics).await?;
        let prepared = tokio::select! {
            prepared = prepare(&options, looked) => prepared?,
            () = ending.asked() => return Ok(ExitCode::SUCCESS),
        };
        if options.prepare {
            for (brick, dir) in prepared.bricks() {
                println!("brick {brick} is in {}", dir.display());
            }
            return Ok(ExitCode::SUCCESS);
        }
        serve::serve(prepared, exporter, ending).await
    })
}

/// The first of what directories have of something that can be read; where none can, what is wrong with it.
fn first_good<T>(found: impl Iterator<Item = Result<Option<T>>>) -> Result<Option<T>> {
    let mut wrong = None;
    for one in found {
        match one {
            Ok(Some(good)) => {
                if let Some(wrong) = &wrong {
                    tracing::warn!("{}; taken from another directory", refusal::one_line(wrong));
                }
                return Ok(Some(good));
            }
            Ok(None) => {}
            Err(error) => {
                wrong.get_or_insert(error);
            }
        }
    }
    wrong.map_or(Ok(None), Err)
}

/// Sees to it that every directory is a brick, as far as it can be one, and the server a member of their cluster.
async fn prepare(options: &Options, looked: Looked) -> Result<Prepared> {
    let Looked { mut places, mut unfit } = looked;
    let namespaces = options.join.as_deref().map(addresses).transpose()?;
    if namespaces.is_none() {
        unfit.extend(places.extract_if(.., |place| place.brick.is_none()).map(|place| place.missing()));
    }
    let new = places.iter().filter(|place| place.brick.is_none()).count();
    // Who makes something is there to see to it that all is right.
    if places.is_empty() || !unfit.is_empty() && (new > 0 || options.prepare) {
        return Err(server::refusal(unfit));
    }
    let Some(first) = places.first() else { bail!("give at least one --dir") };
    let remembered = first_good(places.iter().map(Place::server))?;
    let host = match (&options.host, &remembered) {
        (Some(host), _) => host.clone(),
        (None, Some(server)) => server.host.clone(),
        (None, None) => control::config::hostname(),
    };
    let known = first_good(places.iter().map(Place::credential))?;
    match (options.replace, new) {
        (Some(brick), 0) => bail!("{}", no_place_for(brick, &places)),
        (Some(brick), 2..) => {
            bail!("--replace {brick}: give exactly one directory that holds no brick, not {new}")
        }
        (None, _) | (Some(_), 1) => {}
    }
    let no_credential = || {
        anyhow!(
            "{} has no credential (no {}): put its backup back, or join again with --join, --token and --listen",
            first.dir.display(),
            first.credential_file().display()
        )
    };
    if known.is_none() && namespaces.is_none() {
        return Err(no_credential());
    }
    // Before a token is used up, or a number given.
    for place in places.iter().filter(|place| place.brick.is_none()) {
        place.refuse_without_parent()?;
        dir::ensure_room(&place.dir)?;
    }
    let listen = match (options.listen, &remembered) {
        (Some(listen), _) => reachable(listen)?,
        (None, Some(server)) => server.listen,
        (None, None) => {
            bail!("give --listen ADDR:PORT: the address that the other machines reach this one at")
        }
    };
    let token = options.token.read()?;
    if let Some(token) = &token {
        for place in &places {
            place.check_cluster(token.cluster, "the join token")?;
        }
    }
    if new > 0 && (token.is_some() || known.is_some()) {
        // Whose place is taken may be alive, which says more than that its port is.
        is_ours(listen, !options.prepare && options.replace.is_none())?;
    }
    let is_new_here = known.is_none();
    let credential = match (known, &namespaces, token) {
        (Some(known), None, _) => known,
        (Some(known), Some(namespaces), _) => {
            known.with_namespaces(namespaces.iter().copied().map(Endpoint::Tls).collect())
        }
        (None, Some(namespaces), Some(token)) => {
            let made = place::missing_above(&first.credential_file());
            let obtained = async {
                first.prepare()?;
                let file = first.credential_file();
                joining::obtain(&file, namespaces, &token, Role::Brick, &host, joining::PATIENCE).await
            };
            obtained.await.inspect_err(|_| place::unmake(&made))?
        }
        (None, Some(_), None) => bail!("give --token: make one with `brickyard token --cred FILE brick`"),
        (None, None, _) => return Err(no_credential()),
    };
    for place in &places {
        place.check_cluster(credential.identity().cluster, "its server's credential")?;
    }
    let net = Net::new(&credential, MemoryHub::new(), NetConfig::default())?;
    let server = Server { listen, host };
    refuse_strangers(&net, credential.namespaces()).await?;
    ensure!(
        !credential.namespaces().is_empty(),
        "{} does not say where the namespace is: give --join",
        first.credential_file().display()
    );
    let cluster = credential.identity().cluster;
    let mut bricks = Vec::new();
    for mut place in places {
        if place.brick.is_none() {
            let made = place.to_be_made();
            place.remember(&credential)?;
            place.remember_server(&server)?;
            let admin = Admin::over(net.clone(), credential.namespaces().to_vec())?;
            let store = place.store_to_be()?;
            let number = match options.replace {
                Some(brick) => {
                    replaced(&admin, BrickId(brick), store, options.lose_data).await.map_err(|error| {
                        place::unmake(&made);
                        match is_new_here {
                            false => error,
                            true => anyhow!("{}", joined_all_the_same(&error, &place)),
                        }
                    })?
                }
                None => added(&admin, store, &server, &credential).await?,
            };
            make_brick(&mut place, number, store, cluster).await?;
        }
        match server::fit(&place.dir, cluster, &credential) {
            Ok(fit) => bricks.push(fit),
            Err(why) => unfit.push(why),
        }
    }
    if bricks.is_empty() {
        return Err(server::refusal(unfit));
    }
    Ok(Prepared { net, credential, server, places: bricks, unfit })
}

/// The words for a brick whose place is to be taken by a disk, and every directory is a brick already.
fn no_place_for(brick: u32, places: &[Place]) -> String {
    let held: Vec<String> = places
        .iter()
        .filter_map(|place| Some(format!("{} is brick {} already", place.dir.display(), place.brick?.brick)))
        .collect();
    format!(
        "--replace {brick}: {}: a lost disk's place is taken by a directory that holds no brick, so give an empty or new one; \
         without --replace, what is there is served",
        held.join(", ")
    )
}

/// A namespace that will never have anything to do with this server is told of at once, and not waited for.
async fn refuse_strangers(net: &Net, namespaces: &[Endpoint]) -> Result<()> {
    let call = MetaCall {
        session: None,
        seq: CallSeq(0),
        answered_below: CallSeq(0),
        request: MetaRequest::Cluster(ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 }),
    };
    for namespace in namespaces {
        let deadline = Instant::now() + FIRST_LOOK;
        match net.request::<MetaProtocol>(namespace, &call, Default::default(), deadline).await {
            Err(CallError::Net(error)) if !error.is_transient() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The words for a refusal after the token was used.
fn joined_all_the_same(error: &anyhow::Error, place: &Place) -> String {
    let file = place.credential_file();
    format!("{}; the token is used up, and {} does instead of it", refusal::one_line(error), file.display())
}

/// Makes the directory of a brick that has its number.
async fn make_brick(place: &mut Place, brick: BrickId, store: StoreId, cluster: ClusterId) -> Result<()> {
    let dir = place.dir.clone();
    let made = tokio::task::spawn_blocking(move || brick_server::format_as(&dir, cluster, brick, store));
    made.await.context("a thread panicked")?.with_context(|| {
        format!(
            "cannot make brick {brick} (the same command does it once this is mended; `brickyard brick remove {brick}` \
             takes the number back)"
        )
    })?;
    place.brick = Some(brick_server::identify(&place.dir)?);
    tracing::info!(%brick, dir = %place.dir.display(), "made a brick");
    Ok(())
}

/// A number for a new brick: the same one for the same store.
async fn added(admin: &Admin, store: StoreId, server: &Server, credential: &Credential) -> Result<BrickId> {
    let request = ClusterRequest::AddBrick(NewBrick {
        store,
        node: credential.identity().node,
        host: server.host.clone(),
        endpoint: Endpoint::Tls(server.listen),
    });
    match admin.cluster(request).await? {
        ClusterReply::Added(brick) => Ok(brick),
        other => bail!("the namespace answered something else than the number of a brick: {other:?}"),
    }
}

/// The number of a brick whose disk is lost: it must be known, and not be alive; and unless data is to be lost, somebody
/// else must have all of its data. The namespace judges that now and again when the new disk comes up.
async fn replaced(admin: &Admin, brick: BrickId, store: StoreId, lose_data: bool) -> Result<BrickId> {
    let unknown = || anyhow!("--replace {brick}: the cluster has no brick {brick}; see `brickyard status`");
    let map = admin.map().await?;
    let known = map.bricks.get(&brick).ok_or_else(unknown)?;
    ensure!(
        !known.alive,
        "--replace {brick}: brick {brick} is alive on {} at {}: stop it first, or leave --replace out to make a new brick",
        known.host,
        known.endpoint
    );
    match admin.cluster(ClusterRequest::ReplaceBrick { brick, store, lose_data }).await? {
        ClusterReply::Done => Ok(brick),
        ClusterReply::Refused(BrickRefusal::OnlyCopy(only)) => bail!(
            "--replace {brick}: nobody else has all data of {}: bring the old disk back (`brickyard salvage` gets files \
             off it), or add --lose-data to give that data up",
            brick_admin::named(&only)
        ),
        ClusterReply::Refused(_) => Err(unknown()),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    /// The service manager knows the exit code after which nothing is to be started again.
    #[test]
    fn the_unit_names_the_exit_code() {
        let unit = include_str!("../../dist/systemd/brickyard-brick@.service");
        assert!(unit.contains(&format!("\nRestartPreventExitStatus={}\n", super::serve::OVER)), "{unit}");
    }
}
