//! Taking what agents report.

use super::Master;
use crate::config::{INTAKE_MAX, MESSAGE_MAX};
use crate::error::Result;
use crate::plan::{Effect, Record, RunKey, accounting};
use crate::store::message::{ENDED_SUFFIX, REPORT, Report, STARTED_SUFFIX};
use crate::store::{disk, sealed};

impl Master {
    /// Takes one host's reports; true when there are more than one round takes.
    pub(super) fn take_reports(&mut self, host: &str) -> Result<bool> {
        let dir = self.layout.report(host);
        let names = match disk::names(&dir) {
            Err(e) if e.is_not_found() => return Ok(false),
            other => other?,
        };
        let more = names.len() > INTAKE_MAX;
        // "started" before "ended" of the same run: the times of both are kept.
        let mut names: Vec<String> = names.into_iter().take(INTAKE_MAX).collect();
        names.sort_by_key(|n| n.ends_with(ENDED_SUFFIX));
        self.ledger.refresh(&self.layout)?;
        for name in names {
            let path = dir.join(&name);
            let key = [STARTED_SUFFIX, ENDED_SUFFIX].iter().find_map(|s| name.strip_suffix(s));
            let Some(key) = key.and_then(|k| k.parse::<RunKey>().ok()) else {
                tracing::warn!(path = %path.display(), "not a report: ignored");
                continue;
            };
            let report = disk::read_bounded(&path, MESSAGE_MAX)
                .and_then(|f| sealed::open_json::<Report>(REPORT, &f.bytes, &path));
            let report = match report {
                Ok(report) => report,
                Err(e) if e.is_not_found() => continue,
                Err(error) => {
                    // The agent writes it again as long as the assignment is there.
                    tracing::warn!(%error, "damaged report removed");
                    self.handled.push(path);
                    continue;
                }
            };
            let ours = self.queue.live(key).is_some_and(|(_, run)| run.host == host);
            if !ours {
                // Over for us already: a crash kept its files.
                self.effects.push(Effect::Withdraw(key, host.to_owned()));
                continue;
            }
            match report {
                Report::Started { key: said, at_ms } if said == key => {
                    if let Some(record) = self.queue.report_started(key, at_ms) {
                        self.decide(record)?;
                    }
                    self.handled.push(path);
                }
                Report::Ended { key: said, exit } if said == key => {
                    if let Some(record) = self.queue.report_ended(key, exit) {
                        let record = self.with_ledger(record, host);
                        self.decide(record)?;
                    }
                }
                _ => {
                    tracing::warn!(path = %path.display(), "a report under another's name removed");
                    self.handled.push(path);
                }
            }
        }
        Ok(more)
    }

    /// Adds the accounting line of a run that began.
    fn with_ledger(&mut self, mut record: Record, host: &str) -> Record {
        if let Record::Ended { key, exit, ledger, .. } = &mut record
            && (exit.started_ms.is_some() || exit.lost)
            && let Some((job, _)) = self.queue.live(*key)
        {
            let line = accounting::line(&self.queue_config.name, host, job, key.task, exit);
            *ledger = Some(self.ledger.place(line));
        }
        record
    }
}
