//! Which hosts there are and which of them live.

use std::time::{Duration, Instant};

use super::{Look, Master};
use crate::config::{MESSAGE_MAX, plain_name};
use crate::error::Result;
use crate::plan::law::Host;
use crate::store::message::{HOST, HostStatus};
use crate::store::{disk, sealed};
use crate::watch::Watch;

/// What the master remembers of a host between two looks.
#[derive(Debug)]
pub(super) struct HostSeen {
    beat: u64,
    /// When its beat was last seen to change, by the master's own clock.
    alive_at: Option<Instant>,
    host_watched: bool,
    report_watched: bool,
}

impl Master {
    /// Watches the directories of hosts that aren't watched yet; true if there were any, so that it is worth another look.
    pub(super) fn watch_hosts(&mut self, watch: &mut Watch<Look>) -> bool {
        let mut new = false;
        for (name, seen) in &mut self.hosts {
            // The host's own directory first: when `report` is made later, this tells.
            if !seen.host_watched && watch.add(&self.layout.host(name), Look::Hosts) {
                seen.host_watched = true;
                new = true;
            }
            if !seen.report_watched && watch.add(&self.layout.report(name), Look::Reports(name.clone())) {
                seen.report_watched = true;
                new = true;
            }
        }
        new
    }

    /// Reads every host's status and tells the queue. A status that can't be read is as good as none.
    pub(super) fn look_at_hosts(&mut self) -> Result<()> {
        let silence_max = Duration::from_millis(self.config.host_silence_max_ms);
        // The filesystem's own clock, by the file this master writes: nobody's wall clock is compared with another's.
        let active = self.layout.master().join("active");
        let fs_now_s = disk::read_bounded(&active, MESSAGE_MAX)?.mtime_s;
        for name in disk::names(&self.layout.hosts())? {
            if !plain_name(&name) {
                continue;
            }
            let path = self.layout.host(&name).join("status");
            let status = disk::read_bounded(&path, MESSAGE_MAX)
                .and_then(|f| Ok((sealed::open_json::<HostStatus>(HOST, &f.bytes, &path)?, f.mtime_s)));
            let (status, mtime_s) = match status {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, host = name, "no status");
                    // Its reports count even so, and its first status is waited for.
                    self.hosts.entry(name).or_insert(HostSeen {
                        beat: 0,
                        alive_at: None,
                        host_watched: false,
                        report_watched: false,
                    });
                    continue;
                }
            };
            let now = Instant::now();
            let seen = self.hosts.entry(name.clone()).or_insert_with(|| {
                let age = Duration::from_secs(u64::try_from(fs_now_s - mtime_s).unwrap_or(0));
                let alive_at = if age < silence_max { now.checked_sub(age) } else { None };
                HostSeen { beat: status.beat, alive_at, host_watched: false, report_watched: false }
            });
            if seen.beat != status.beat {
                seen.beat = status.beat;
                seen.alive_at = Some(now);
            }
            let alive = seen.alive_at.is_some_and(|at| now.duration_since(at) < silence_max);
            let slots = if self.queue_config.slots == 0 { status.slots } else { self.queue_config.slots };
            let host = Host { slots, up: alive && status.accepting };
            if self.queue.hosts().get(&name) != Some(&host) {
                tracing::info!(host = name, slots, up = host.up, "host");
                self.queue.set_host(&name, host);
            }
        }
        Ok(())
    }
}
