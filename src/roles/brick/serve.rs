//! A server of bricks at work: which of its directories it serves, which it waits for, which are over.
//!
//! ```text
//!  served ─────────> over      removed from the cluster, replaced by another disk
//!    ^                 ^
//!    └─── waits ───────┘       can't be read, is not mounted, another process has it: tried again; of another cluster,
//!                              of a newer format: never
//! ```
//!
//! 1. What keeps one directory from being served is told, and keeps no other one from it (`tests`:
//!    `a_directory_that_cannot_be_served_keeps_no_other_from_it`).
//! 2. The server ends when all are over, and waits for those that may come back as long as it is let (the same).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use brick_server::Pauses;
use futures_util::future::join_all;
use tokio::time::Instant;
use wire::id::{BootId, BrickId, MapEpoch};
use wire::meta::{BrickReport, ClusterRequest};
use wire::net::{Credential, Endpoint, Net};
use wire::status::Status;

use crate::admin::Admin;
use crate::roles::exporter::{self, Exporter};
use crate::roles::life::{self, Ending};
use crate::roles::notify;
use crate::roles::server::{self, Place, Server, Unfit};
use crate::{refusal, status};

/// Wait between two looks whether the namespace has let the bricks in.
const PAUSE: Duration = Duration::from_millis(20);
/// Wait between two looks whether the namespace refuses bricks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// So long it must refuse a disk as another one's before that is believed.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// Wait until it is told again why bricks are not served.
const TELL_PAUSE: Duration = Duration::from_secs(2);
/// Wait between two looks whether bricks that are not let in were removed from the cluster.
const REMOVED_PAUSE: Duration = Duration::from_secs(5);
/// The same of bricks that are let in, as far as they have heard.
const REMOVED_PAUSE_KNOWN: Duration = Duration::from_secs(60);
/// Exit code where all of its bricks were removed from the cluster or replaced: starting it again is no use. The unit in
/// `dist/systemd` names it.
pub const OVER: u8 = 78;

/// What is needed to serve.
pub struct Prepared {
    /// How others are reached.
    pub net: Net,
    /// The server's own; it says where the namespace is.
    pub credential: Credential,
    /// What the server is called.
    pub server: Server,
    /// Directories with bricks.
    pub places: Vec<Place>,
    /// The others.
    pub unfit: Vec<Unfit>,
}

impl Prepared {
    /// Its bricks, with their directories.
    pub fn bricks(&self) -> impl Iterator<Item = (BrickId, &Path)> {
        self.places.iter().filter_map(|place| Some((place.brick?.brick, place.dir.as_path())))
    }

    fn config(&self, dir: &Path, brick: BrickId) -> brick_server::Config {
        brick_server::Config::new(
            dir.to_owned(),
            brick,
            self.credential.identity().cluster,
            self.credential.identity().node,
            self.server.host.clone(),
            Endpoint::Tls(self.server.listen),
            self.credential.namespaces().to_vec(),
        )
    }
}

/// Serves what can be served, until told to end or all is over.
///
/// # Errors
/// If nothing can be served, or not closed cleanly.
pub async fn serve(prepared: Prepared, exporter: Exporter, mut ending: Ending) -> Result<ExitCode> {
    let net = prepared.net.clone();
    let admin = Admin::over(net.clone(), prepared.credential.namespaces().to_vec())?;
    let configs = prepared.bricks().map(|(brick, dir)| prepared.config(dir, brick)).collect();
    let (running, refused) = tokio::select! {
        started = brick_server::start_all(configs, net.clone()) => started?,
        // A disk that does not answer is waited for.
        () = ending.asked() => return Ok(ExitCode::SUCCESS),
    };
    let crew = Crew::new(prepared, running, refused);
    let life = async {
        let_in(&crew.running).await;
        life::ready(&crew.summary())?;
        crew.is_ready.store(true, Ordering::Relaxed);
        std::future::pending::<Result<ExitCode>>().await
    };
    let waiting = async {
        join_all(crew.waiting().iter().map(|dir| crew.wait_for(dir))).await;
        std::future::pending::<Result<ExitCode>>().await
    };
    let lived = tokio::select! {
        lived = life => lived,
        never = waiting => never,
        never = crew.tell_of_unfit(&admin) => match never {},
        () = exporter.serve(|| exporter::bricks(&crew.running, &net)) => Ok(ExitCode::SUCCESS),
        () = ending.asked() => Ok(ExitCode::SUCCESS),
        why = crew.all_over(&admin) => {
            refusal::say(&anyhow!("{}", why.join("; and ")));
            Ok(ExitCode::from(OVER))
        }
    };
    let stopped = crew.running.stop().await.context("a brick could not be closed cleanly");
    let code = lived?;
    stopped?;
    Ok(code)
}

/// Returns when the namespace knows this life of every brick.
async fn let_in(running: &brick_server::Running) {
    while !are_known(running) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the namespace knows this life of every brick, as far as these have heard.
fn are_known(running: &brick_server::Running) -> bool {
    let registrations = running.registrations();
    running.map().is_some_and(|map| {
        registrations
            .iter()
            .all(|own| map.bricks.get(&own.brick).is_some_and(|brick| brick.alive && brick.boot == own.boot))
    })
}

/// How a directory is.
#[derive(Debug, Clone)]
enum Standing {
    /// Its brick is served.
    Served(BrickId),
    /// It can't be served now. Its brick, where that is known, and why.
    Waits(Option<BrickId>, String),
    /// It will not be served any more, and why.
    Over(String),
}

/// The directories of a server and what serves them.
struct Crew {
    prepared: Arc<Prepared>,
    running: brick_server::Running,
    standings: Mutex<BTreeMap<PathBuf, Standing>>,
    /// It has said so.
    is_ready: AtomicBool,
}

impl Crew {
    fn new(
        mut prepared: Prepared,
        running: brick_server::Running,
        refused: Vec<(brick_server::Config, brick_server::Error)>,
    ) -> Crew {
        let unfit = std::mem::take(&mut prepared.unfit);
        let served =
            prepared.bricks().map(|(brick, dir)| (dir.to_owned(), Standing::Served(brick))).collect();
        let crew = Crew {
            prepared: Arc::new(prepared),
            running,
            standings: Mutex::new(served),
            is_ready: AtomicBool::new(false),
        };
        for unfit in unfit {
            crew.set_unfit(None, unfit);
        }
        for (config, error) in refused {
            crew.set_unfit(Some(config.brick), Unfit::new(&config.dir, error.into()));
        }
        // The directories are held now: a start that was refused has changed nothing.
        for place in &crew.prepared.places {
            if matches!(crew.standing(&place.dir), Some(Standing::Served(_))) {
                crew.remember(place);
            }
        }
        crew
    }

    /// What is remembered is wanted by the next start: this one goes on without.
    fn remember(&self, place: &Place) {
        if let Err(error) = place.remember_server(&self.prepared.server) {
            tracing::warn!("{}; the next start may need --listen and --host", refusal::one_line(&error));
        }
    }

    fn standings(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standing(&self, dir: &Path) -> Option<Standing> {
        self.standings().get(dir).cloned()
    }

    fn set(&self, dir: &Path, standing: Standing) {
        self.standings().insert(dir.to_owned(), standing);
        if self.is_ready.load(Ordering::Relaxed) {
            notify::status(&self.summary());
        }
    }

    /// A directory can't be served: said once for each reason.
    fn set_unfit(&self, brick: Option<BrickId>, unfit: Unfit) {
        let why = refusal::one_line(&unfit.why);
        let before = self.standing(&unfit.dir);
        if unfit.lasts {
            tracing::error!(
                "{why}; this server's other bricks go on, and it is not tried again before the next start"
            );
            self.set(&unfit.dir, Standing::Over(why));
        } else if !matches!(before, Some(Standing::Waits(_, told)) if told == why) {
            tracing::error!("{why}; this server's other bricks go on, and it is tried again");
            self.set(&unfit.dir, Standing::Waits(brick, why));
        }
    }

    /// Directories that may be served later.
    fn waiting(&self) -> Vec<PathBuf> {
        let waits = |(dir, standing): (&PathBuf, &Standing)| {
            matches!(standing, Standing::Waits(..)).then(|| dir.clone())
        };
        self.standings().iter().filter_map(waits).collect()
    }

    /// Bricks that are served or may be, with their directories, as far as they are known.
    fn bricks(&self) -> Vec<(BrickId, PathBuf)> {
        let known = |(dir, standing): (&PathBuf, &Standing)| match standing {
            Standing::Served(brick) | Standing::Waits(Some(brick), _) => Some((*brick, dir.clone())),
            Standing::Waits(None, _) | Standing::Over(_) => None,
        };
        self.standings().iter().filter_map(known).collect()
    }

    /// What is served, and what is not, for people.
    fn summary(&self) -> String {
        let standings = self.standings();
        let (mut served, mut others) = (Vec::new(), Vec::new());
        for (dir, standing) in standings.iter() {
            match standing {
                Standing::Served(brick) => served.push(*brick),
                Standing::Waits(..) | Standing::Over(_) => others.push(dir.display().to_string()),
            }
        }
        served.sort();
        let word = if served.len() == 1 { "brick" } else { "bricks" };
        let numbers: Vec<String> = served.iter().map(BrickId::to_string).collect();
        let mut text = format!("{word} {} at {}", numbers.join(", "), self.running.endpoint());
        if !others.is_empty() {
            text.push_str(&format!("; not served, the log says why: {}", others.join(", ")));
        }
        text
    }

    /// Tries again until a directory is served, or never can be.
    async fn wait_for(&self, dir: &Path) {
        let mut pauses = Pauses::default();
        while matches!(self.standing(dir), Some(Standing::Waits(..))) {
            tokio::time::sleep(pauses.next_pause()).await;
            match self.take_up(dir).await {
                Ok(brick) if matches!(self.standing(dir), Some(Standing::Waits(..))) => {
                    tracing::info!(%brick, dir = %dir.display(), "is served now");
                    self.set(dir, Standing::Served(brick));
                }
                // It was removed from the cluster meanwhile.
                Ok(brick) => self.running.close(brick).await,
                Err((brick, unfit)) => self.set_unfit(brick, unfit),
            }
        }
    }

    async fn take_up(&self, dir: &Path) -> Result<BrickId, (Option<BrickId>, Unfit)> {
        let (prepared, path) = (self.prepared.clone(), dir.to_owned());
        let cluster = prepared.credential.identity().cluster;
        let look = move || server::fit(&path, cluster, &prepared.credential);
        let looked = tokio::task::spawn_blocking(look).await.context("a thread panicked");
        let place =
            looked.map_err(|why| Unfit::new(dir, why)).and_then(|fit| fit).map_err(|unfit| (None, unfit))?;
        let Some(brick) = place.brick.map(|brick| brick.brick) else { return Err((None, place.missing())) };
        let added = self.running.add(self.prepared.config(dir, brick)).await;
        added.map_err(|error| (Some(brick), Unfit::new(dir, error.into())))?;
        self.remember(&place);
        Ok(brick)
    }

    /// Tells the namespace, for `status`, why bricks are not served: they have no life that could say so.
    async fn tell_of_unfit(&self, admin: &Admin) -> Infallible {
        loop {
            let waits = |standing: &Standing| match standing {
                Standing::Waits(Some(brick), why) => Some((*brick, why.clone())),
                _ => None,
            };
            let unfit: Vec<(BrickId, String)> = self.standings().values().filter_map(waits).collect();
            for (brick, why) in unfit {
                let report = BrickReport { failed: Some(why), ..BrickReport::default() };
                let tell = ClusterRequest::Heartbeat { brick, boot: BootId(0), map: MapEpoch(0), report };
                if let Err(error) = admin.cluster(tell).await {
                    tracing::debug!(
                        %brick, "cannot tell why it is not served: {}", refusal::one_line(&error)
                    );
                }
            }
            tokio::time::sleep(TELL_PAUSE).await;
        }
    }

    /// Closes bricks that are over, each with a line in the log, while the others go on. Returns when all directories are,
    /// with what is to be said of each.
    async fn all_over(&self, admin: &Admin) -> Vec<String> {
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let refused = self.running.refusals();
            let others =
                refused.iter().filter(|(_, why, held)| *why == Status::OtherDisk && *held >= REFUSED_FOR);
            let mut found: Vec<(BrickId, Over)> =
                others.map(|(brick, _, _)| (*brick, Over::OtherDisk)).collect();
            // A brick whose disk has failed, or that is removed while the namespace is restored from a backup, does not hear of it.
            let pause = if are_known(&self.running) { REMOVED_PAUSE_KNOWN } else { REMOVED_PAUSE };
            if refused.iter().any(|(_, why, _)| *why == Status::Forbidden) || asked.elapsed() >= pause {
                asked = Instant::now();
                match admin.status().await {
                    Ok(now) => {
                        let removed =
                            self.bricks().into_iter().filter(|(brick, _)| status::is_removed(&now, *brick));
                        found.extend(removed.map(|(brick, _)| (brick, Over::Removed)));
                    }
                    Err(error) => {
                        tracing::debug!(
                            "cannot ask whether bricks were removed: {}",
                            refusal::one_line(&error)
                        );
                    }
                }
            }
            for (brick, why) in found {
                let Some((_, dir)) = self.bricks().into_iter().find(|(known, _)| *known == brick) else {
                    continue;
                };
                let text = why.text(brick, &dir);
                self.set(&dir, Standing::Over(text.clone()));
                self.running.close(brick).await;
                if self.over().is_none() {
                    tracing::warn!("{text}; this server's other bricks go on");
                }
            }
            if let Some(over) = self.over() {
                return over;
            }
        }
    }

    /// Why each directory is over, if all are.
    fn over(&self) -> Option<Vec<String>> {
        let why =
            |standing: &Standing| if let Standing::Over(why) = standing { Some(why.clone()) } else { None };
        self.standings().values().map(why).collect()
    }
}

/// Why a brick will not be served by this directory any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// It was removed from the cluster.
    Removed,
    /// Another disk has its place, or this one is another brick's.
    OtherDisk,
}

impl Over {
    /// What the administrator reads, with what to do.
    fn text(self, brick: BrickId, dir: &Path) -> String {
        let dir = dir.display();
        match self {
            // Nobody is removed who has something that others do not.
            Over::Removed => format!(
                "removed from the cluster: brick {brick}. The other bricks have what it held: to use {dir} again, empty it and \
                 join anew with --join and --token"
            ),
            Over::OtherDisk => format!(
                "{dir} is not brick {brick} any more: another disk has taken its place, or this one is another brick's. To use it \
                 again, empty it (`brickyard salvage` gets files off it first) and join anew with --join and --token"
            ),
        }
    }
}
