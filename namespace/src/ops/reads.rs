//! Verbs that only look, answered at once from what is durable.

use wire::id::Ino;
use wire::meta::{BrickReport, FsReply, FsRequest, StatFs};
use wire::status::Status;

use crate::error::Error;
use crate::machine::looks::look;
use crate::machine::txn::{Do, Fail};
use crate::namespace::{Namespace, lock};
use crate::ops::room;

impl Namespace {
    /// A verb that only looks.
    pub async fn look(&self, request: &FsRequest) -> Result<FsReply, Status> {
        self.log.read_barrier().await?;
        self.metrics.read();
        match request {
            FsRequest::StatFs => self.told(self.statfs().map_err(Fail::Store)),
            FsRequest::ReadDir { .. } | FsRequest::ListXattr { .. } => {
                self.told(self.db.at_moment(|moment| look(moment, request)))
            }
            _ => self.told(look(&*self.db, request)),
        }
    }

    /// Attributes of an inode.
    pub fn get_attr(&self, ino: Ino) -> Result<FsReply, Status> {
        self.told(look(&*self.db, &FsRequest::GetAttr { ino }))
    }

    /// An answer of the state, or why there is none.
    pub(super) fn told<T>(&self, reply: Do<T>) -> Result<T, Status> {
        reply.map_err(|fail| match fail {
            Fail::Status(status) => status,
            Fail::Store(error) => self.failed(&error),
        })
    }

    fn statfs(&self) -> Result<FsReply, Error> {
        let map = self.map();
        let replicas = u64::from(map.replicas.max(1));
        let reports = lock(&self.watchers.bricks).reports();
        let sum = |of: fn(&BrickReport) -> u64| {
            let known = reports.iter().filter(|(b, _)| map.bricks.contains_key(b));
            known.map(|(_, report)| of(report)).fold(0u64, u64::saturating_add) / replicas
        };
        Ok(FsReply::StatFs(StatFs {
            total_bytes: sum(|r| r.total_bytes),
            free_bytes: room::free_bytes(&map, &reports),
            inodes: self.counters()?.inodes,
        }))
    }
}
