//! Of the one member that is left, a cluster of one: when most members are lost for good.
//!
//! 1. Everything that this member has is kept, also what no majority is known to have: nobody else can
//!    say any more whether it was answered (`one_of_three_becomes_a_cluster`).
//! 2. A crash in the middle is gone on from by doing it again.
//!
//! Not here: what only the lost members had. Whether they are lost is the administrator's word; were
//! they started again, there would be two clusters.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::id::ClusterId;
use wire::meta::Timestamp;

use crate::config::Config;
use crate::error::Error;
use crate::log::raft::journal::Owner;
use crate::log::raft::replica::{Beginning, Replica};
use crate::log::raft::snapshot::Place;
use crate::log::raft::store::Store;
use crate::log::raft::{LOG_DIR, SNAPSHOTS_DIR};
use crate::machine::{Birth, Machine};
use crate::metrics::Metrics;
use crate::store::db::{Db, Durability};
use crate::store::hold::Hold;
use crate::store::{Write, identity, keys};

/// Makes of a stopped member's directory the state of a cluster of one, which a new founder with a new
/// number goes on from. The old log stays beside it. Gives how many entries of the log were applied.
///
/// # Errors
/// If the directory is not that of a member of this cluster, is in use or damaged, or the disk fails.
pub async fn recover(config: &Config, cluster: ClusterId) -> Result<u64, Error> {
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let dir = &config.dir;
    let member = config.member.as_ref().ok_or_else(|| Error::NeedsMembers { dir: dir.clone() })?;
    identity::claim(dir, cluster)?;
    let db = Arc::new(Db::open_with(dir, Durability::Log, Hold::default())?);
    let log = dir.join(LOG_DIR);
    let mut applied = 0;
    if log.exists() {
        let snapshots = dir.join(SNAPSHOTS_DIR);
        let store =
            Store::open(&log, Owner { cluster, member: member.id }, member.disk.clone(), Hold::default())?;
        let mut replica = Replica::open(Beginning {
            machine: Machine::open(db.clone(), cluster, Birth::from(1), Timestamp::now())?,
            cluster,
            founder: member.founder,
            snapshots: Arc::new(Place::open(snapshots.clone(), Hold::default()).map_err(io(&snapshots))?),
            metrics: Arc::new(Metrics::default()),
            observe: Box::new(|_| {}),
        })?;
        applied = replica.catch_up(store).await.map_err(io(&log))?;
        db.flush()?;
        let old = dir.join(format!("{LOG_DIR}-of-{:016x}", member.id));
        std::fs::rename(&log, &old).map_err(io(&log))?;
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir))?;
    }
    db.write(&BTreeMap::from([(keys::RAFT.to_vec(), None)]))?;
    db.flush()?;
    Ok(applied)
}
