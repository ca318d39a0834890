//! Taking what users put into `incoming`, whoever they are and whatever it is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Master;
use crate::clock::now_ms;
use crate::config::{
    CLAIM_AGE_MAX_S, ID_WINDOW, INTAKE_MAX, MESSAGE_MAX, REJECTED_MAX, SUBMISSION_MAX, UNFINISHED_AGE_MAX_S,
};
use crate::error::{At, Error, Result};
use crate::layout::exists;
use crate::plan::ids::plain_number;
use crate::plan::{JobId, NewJob, Refusal};
use crate::store::disk::{self, UNFINISHED};
use crate::store::message::{COMMAND, COMMAND_PREFIX, Command, JOB_PREFIX};
use crate::store::{claims, sealed, submission};
use crate::users;

impl Master {
    /// Takes submissions and commands; true when there are more than one round takes.
    pub(super) fn take_in(&mut self) -> Result<bool> {
        let dir = self.layout.incoming();
        let mut names = disk::names(&dir)?;
        names.retain(|n| !self.ignored.contains(n));
        let commands: Vec<String> = names.iter().filter(|n| n.starts_with(COMMAND_PREFIX)).cloned().collect();
        if !commands.is_empty() {
            // A command may be about a submission that this listing missed: list once more, submissions first.
            names = disk::names(&dir)?;
            names.retain(|n| !self.ignored.contains(n));
        }
        let mut jobs: Vec<(u64, String)> = Vec::new();
        for name in names {
            if name.starts_with(COMMAND_PREFIX) {
                continue;
            }
            match name.strip_prefix(JOB_PREFIX).and_then(plain_number) {
                Some(id) => jobs.push((id, name)),
                None => self.reject(&name, "it is neither a submission nor a command")?,
            }
        }
        jobs.sort_unstable();
        let more = jobs.len() > INTAKE_MAX || commands.len() > INTAKE_MAX;
        let all_jobs = jobs.len() <= INTAKE_MAX;
        for (id, name) in jobs.into_iter().take(INTAKE_MAX) {
            self.take_submission(JobId(id), &name)?;
        }
        if all_jobs {
            for name in commands.into_iter().take(INTAKE_MAX) {
                self.take_command(&name)?;
            }
        }
        Ok(more)
    }

    fn take_submission(&mut self, id: JobId, name: &str) -> Result<()> {
        let path = self.layout.incoming().join(name);
        if self.queue.accepted.contains(id.0) {
            return self.taken_before(id, name);
        }
        match self.judge(id, &path) {
            Ok(new) => match self.queue.submit(new) {
                Some(record) => self.decide(record),
                None => Ok(()),
            },
            Err(e) if e.is_not_found() => Ok(()),
            Err(error @ (Error::Format { .. } | Error::Newer { .. } | Error::Config(_))) => {
                self.reject(name, &error.to_string())
            }
            Err(error) => Err(error),
        }
    }

    /// The number is used up: either a crash kept the file here, or somebody tries an old number.
    pub(super) fn taken_before(&mut self, id: JobId, name: &str) -> Result<()> {
        let path = self.layout.incoming().join(name);
        let Some(job) = self.queue.jobs.get(&id) else {
            return self.reject(name, "its number is used up");
        };
        let spooled = self.layout.spool().join(id.to_string());
        if exists(&spooled)? {
            return self.reject(name, "the job of this number was accepted before");
        }
        let same = disk::read_bounded(&path, SUBMISSION_MAX)
            .is_ok_and(|f| f.uid == job.new.uid && submission::digest(&f.bytes) == job.new.digest);
        if same { self.disk.rename(&path, &spooled) } else { self.reject(name, "it isn't what was accepted") }
    }

    /// Reads a submission as what it is: somebody's file.
    fn judge(&self, id: JobId, path: &Path) -> Result<NewJob> {
        let refuse = |reason: String| Error::Format { path: path.to_path_buf(), reason };
        let first = self.queue.accepted.first_gap(1);
        if id.0 >= first.saturating_add(ID_WINDOW) {
            return Err(refuse("its number is out of bounds".into()));
        }
        let found = disk::read_bounded(path, SUBMISSION_MAX)?;
        match claims::claimer(&self.layout, id)? {
            Some((uid, _)) if uid == found.uid => {}
            _ => return Err(refuse(format!("number {id} wasn't claimed by its owner"))),
        }
        let (spec, _) = submission::decode(&found.bytes, path)?;
        if spec.id != id {
            return Err(refuse(format!("it says that it is job {}", spec.id)));
        }
        if spec.priority > 0 && found.uid != 0 {
            return Err(refuse("only root may raise a priority".into()));
        }
        let owner = users::by_uid(found.uid)?
            .ok_or_else(|| refuse(format!("its owner, uid {}, isn't a known user", found.uid)))?;
        Ok(NewJob {
            id,
            name: spec.name,
            owner: owner.name,
            uid: found.uid,
            group: owner.group,
            submitted_ms: spec.submitted_ms,
            array: spec.array,
            task_limit: spec.task_limit,
            priority: spec.priority,
            rerun: spec.rerun.unwrap_or(self.queue_config.rerun),
            hold: spec.hold,
            account: spec.account,
            digest: submission::digest(&found.bytes),
        })
    }

    fn take_command(&mut self, name: &str) -> Result<()> {
        let path = self.layout.incoming().join(name);
        let read = disk::read_bounded(&path, MESSAGE_MAX)
            .and_then(|f| Ok((f.uid, sealed::open_json::<Command>(COMMAND, &f.bytes, &path)?)));
        let (uid, command) = match read {
            Ok(found) => found,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(error @ (Error::Format { .. } | Error::Newer { .. })) => {
                return self.reject(name, &error.to_string());
            }
            Err(error) => return Err(error),
        };
        let by = users::by_uid(uid)?.map_or_else(|| uid.to_string(), |p| p.name);
        let decided = match &command {
            Command::Delete { job, tasks, force } => {
                // Forcing frees a slot that may still be in use: not for users.
                self.queue.delete((uid, &by), *job, tasks.clone(), *force && uid == 0, now_ms())
            }
            Command::Hold { job, hold } => self.queue.hold(uid, *job, *hold),
            Command::Clear { job, tasks } => self.queue.clear(uid, *job, tasks.clone()),
        };
        match decided {
            Ok(record) => self.decide(record)?,
            Err(Refusal::NotOwner) => tracing::warn!(by, ?command, "refused: not the owner of the job"),
            Err(refusal) => tracing::debug!(by, ?command, ?refusal, "nothing to do"),
        }
        self.handled.push(path);
        Ok(())
    }

    /// Moves a file nobody can use out of the way, or removes it when many were moved before.
    fn reject(&mut self, name: &str, reason: &str) -> Result<()> {
        let path = self.layout.incoming().join(name);
        tracing::warn!(file = ?name, reason, "refused from incoming");
        let kept = disk::names(&self.layout.rejected())?.len();
        let is_dir = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta.is_dir(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).at("stat", &path),
        };
        let done = if kept < REJECTED_MAX {
            self.disk.rename(&path, &self.layout.rejected().join(format!("{}.{name}", disk::unique())))
        } else if is_dir {
            self.disk.remove_tree(&path)
        } else {
            self.disk.remove(&path)
        };
        match done {
            Err(error @ Error::Io { .. }) if !error.is_not_found() => {
                tracing::warn!(%error, "it stays and is ignored");
                if self.ignored.len() < REJECTED_MAX {
                    self.ignored.push(name.to_owned());
                }
                Ok(())
            }
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves `first-id` on, removes claims below it, gives up old claims and old unfinished files.
    pub(super) fn tidy(&mut self) -> Result<()> {
        let fs_now_s = disk::read_bounded(&self.layout.master().join("active"), MESSAGE_MAX)?.mtime_s;
        let dir = self.layout.ids();
        let mut too_old = Vec::new();
        let first = self.queue.accepted.first_gap(1);
        let moved = first > self.first_id;
        if moved {
            claims::set_first_id(&self.disk, &self.layout, first)?;
            self.first_id = first;
        }
        for name in disk::names(&dir)? {
            let path = dir.join(&name);
            let Some(id) = plain_number(&name).filter(|id| *id < first.saturating_add(ID_WINDOW)) else {
                self.remove_foreign(&path)?;
                continue;
            };
            if id < first {
                self.remove_foreign(&path)?;
            } else if !self.queue.accepted.contains(id)
                && claims::claimer(&self.layout, JobId(id))?
                    .is_some_and(|(_, at)| fs_now_s - at > CLAIM_AGE_MAX_S)
                && !exists(&self.layout.incoming().join(format!("{JOB_PREFIX}{id}")))?
            {
                too_old.push(JobId(id));
            }
        }
        for job in too_old {
            if let Some(record) = self.queue.abandon(job) {
                tracing::info!(%job, "number given up: claimed long ago and never submitted");
                self.decide(record)?;
            }
        }
        self.commit()?;
        self.sweep_unfinished_of_users(fs_now_s)
    }

    fn sweep_unfinished_of_users(&self, fs_now_s: i64) -> Result<()> {
        let dir = self.layout.incoming();
        for entry in std::fs::read_dir(&dir).at("list", &dir)? {
            let entry = entry.at("list", &dir)?;
            let unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
            let old = || entry.metadata().is_ok_and(|m| fs_now_s - m.ctime() > UNFINISHED_AGE_MAX_S);
            if unfinished && old() {
                self.remove_foreign(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes what a user made, file or directory.
    fn remove_foreign(&self, path: &Path) -> Result<()> {
        let is_dir = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
        let removed = if is_dir { self.disk.remove_tree(path) } else { self.disk.remove(path) };
        match removed {
            Err(error @ Error::Io { .. }) => {
                tracing::warn!(%error, "left where it is");
                Ok(())
            }
            other => other,
        }
    }
}
