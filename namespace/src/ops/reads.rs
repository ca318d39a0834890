//! Verbs that only look, answered at once from what is durable.

use wire::id::Ino;
use wire::meta::{BrickReport, FsReply, FsRequest, StatFs};
use wire::status::Status;

use crate::error::Error;
use crate::machine::looks::look;
use crate::machine::trims;
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
                let mut reply = self.told(self.db.at_moment(|moment| look(moment, request)))?;
                if let FsReply::Entries { entries, .. } = &mut reply {
                    for entry in entries {
                        if let Some(attr) = &entry.attr
                            && self.is_being_cut(attr.ino)?
                        {
                            entry.attr = None;
                        }
                    }
                }
                Ok(reply)
            }
            _ => {
                let reply = self.told(look(&*self.db, request))?;
                if let FsReply::Attr(attr) = &reply
                    && self.is_being_cut(attr.ino)?
                {
                    // Who knew the new size would write behind it what is cut a moment later. Not for ever: the size is true.
                    let waited = self.wait_for_trims(attr.ino).await;
                    tracing::debug!(ino = %attr.ino, ?waited, "asked for a file that is being cut");
                }
                Ok(reply)
            }
        }
    }

    /// Whether living bricks owe cuts of a file.
    pub(crate) fn is_being_cut(&self, ino: Ino) -> Result<bool, Status> {
        trims::is_under_way(&*self.db, &self.map(), ino).map_err(|error| self.failed(&error))
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
