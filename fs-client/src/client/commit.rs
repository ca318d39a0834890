//! Making data durable: every brick that holds unstable data of a file commits, in the life in
//! which it acknowledged; what was lost with another life is sent again.
//!
//! 1. fsync returns success only when every brick in sync of every chain that has data of the
//!    file has committed it (`data_lost_by_a_restarted_brick_is_sent_again`), and none of them can
//!    have lost it again meanwhile (see [`wire::durability`]).
//! 2. Data is kept until then, and until the namespace was told of it and said that nobody has cut the file meanwhile
//!    (`what_others_cut_meanwhile_is_written_again`), within twice
//!    [`ClientConfig::uncommitted_bytes`](crate::ClientConfig).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::durability::{Holders, Verdict};
use wire::id::{BootId, BrickId};
use wire::map::ClusterMap;
use wire::meta::Attr;
use wire::status::FsError;

use super::held::Held;
use super::inode::OpenInode;
use super::open::File;
use super::retry::Retry;
use super::{Client, Shared};
use crate::error::Error;
use crate::locked;
use crate::metrics::{add, subtract};

/// What one round of commits came to.
enum Round {
    /// Nothing was to be committed.
    Nothing,
    /// Everything is durable or sent again.
    Settled,
    /// Somebody did not answer, or refused.
    InDoubt(Doubt),
}

/// Why it is not known whether something is durable.
struct Doubt {
    /// What somebody said last.
    why: String,
    /// Whether that was that its disk is full.
    full: bool,
}

type Outcomes = BTreeMap<BrickId, Result<BootId, Error>>;

/// What the commits say of one held change.
fn judge(map: &ClusterMap, held: &Held, outcomes: &Outcomes) -> Verdict {
    held.holders.judge(map.chains.get(&held.holders.chain), |brick| {
        outcomes.get(&brick).and_then(|outcome| outcome.as_ref().ok().copied())
    })
}

/// Bricks that serve a part of a file or are about to.
fn bricks_of(map: &ClusterMap, attr: &Attr) -> BTreeSet<BrickId> {
    let chains = attr.layout.chains_of(map, 0..attr.size).filter_map(|id| map.chains.get(&id));
    chains.flat_map(|chain| chain.serving().chain(chain.syncing()).chain(chain.leaving())).collect()
}

impl Client {
    /// Makes what was written to the file before durable, size included, whoever wrote it here.
    ///
    /// # Errors
    /// If that failed, or an earlier write did and this handle was not told yet. [`FsError::NoSpace`] if a brick
    /// without which it can't be done had no room until the deadline; the data is kept, and tried again.
    pub async fn fsync(&self, file: &File) -> Result<(), Error> {
        let shared = &self.shared;
        add(&shared.outside.metrics.fsyncs, 1);
        shared
            .operations
            .run("fsync", file.ino(), async {
                let others = locked(&file.inode.state).others_wrote_lately();
                let synced = shared.sync_inode(&file.inode).await;
                let synced = match synced {
                    Ok(()) if others => shared.commit_of_others(&file.inode).await,
                    synced => synced,
                };
                shared.take_failure(file)?;
                file.not_lost()?;
                synced
            })
            .await
    }

    /// Makes everything written through this client durable.
    ///
    /// # Errors
    /// The first failure; the rest is tried all the same.
    pub async fn sync_all(&self) -> Result<(), Error> {
        self.shared.operations.run("sync", wire::id::Ino::ROOT, self.shared.sync_everything()).await
    }
}

impl Shared {
    /// Keeps the count of uncommitted bytes.
    pub(crate) fn account_held(&self, before: u64, after: u64) {
        let now = &self.outside.metrics.uncommitted_bytes_now;
        if after >= before {
            add(now, after - before);
            if now.load(Ordering::Relaxed) > self.outside.config.uncommitted_bytes as u64 {
                self.commit_wanted.notify_one();
            }
        } else {
            subtract(now, before - after);
            self.committed.notify_waiters();
        }
    }

    /// Whether writers have to wait for commits.
    pub(crate) fn uncommitted_full(&self) -> bool {
        self.outside.metrics.uncommitted_bytes_now.load(Ordering::Relaxed)
            > 2 * self.outside.config.uncommitted_bytes as u64
    }

    /// Flush, commit and report of one inode.
    pub(crate) async fn sync_inode(self: &Arc<Self>, inode: &Arc<OpenInode>) -> Result<(), Error> {
        let generation = self.flush_inode(inode).await;
        let deadline = Instant::now() + self.outside.config.deadline;
        let targets = [(inode.clone(), generation)];
        let (committed, reported) = tokio::join!(self.commit(&targets, deadline), self.report(inode));
        committed.and(self.commit_again(&targets, deadline, reported).await)
    }

    /// Has what others wrote to the file lately made durable, as far as bricks have it: whoever has read it may rely on that.
    async fn commit_of_others(self: &Arc<Self>, inode: &Arc<OpenInode>) -> Result<(), Error> {
        let deadline = Instant::now() + self.outside.config.deadline;
        let mut retry = Retry::until(&self.outside.metrics, deadline);
        loop {
            let map = self.map();
            let bricks = bricks_of(&map, &locked(&inode.state).attr);
            let outcomes = self.commit_bricks(bricks, deadline).await;
            let Some((brick, error)) =
                outcomes.into_iter().find_map(|(brick, outcome)| Some((brick, outcome.err()?)))
            else {
                return Ok(());
            };
            retry.pause("the bricks to commit", format!("brick {brick}: {error}")).await?;
            self.refresh_map(map.epoch).await;
        }
    }

    /// What was written again while it was reported is committed again.
    async fn commit_again(
        self: &Arc<Self>,
        targets: &[(Arc<OpenInode>, u64)],
        deadline: Instant,
        reported: Result<bool, Error>,
    ) -> Result<(), Error> {
        if reported? { self.commit(targets, deadline).await } else { Ok(()) }
    }

    /// Reports of several files; whether something had to be written again. The first failure, the rest is told all the same.
    async fn report_all(
        self: &Arc<Self>,
        inodes: impl Iterator<Item = &Arc<OpenInode>>,
    ) -> Result<bool, Error> {
        let mut result = Ok(false);
        for inode in inodes {
            let again = self.report(inode).await;
            result = match (result, again) {
                (Ok(one), Ok(other)) => Ok(one | other),
                (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            };
        }
        result
    }

    /// Flush, commit and report of all that is dirty.
    pub(crate) async fn sync_everything(self: &Arc<Self>) -> Result<(), Error> {
        self.send_everything();
        let mut targets = Vec::new();
        for inode in self.dirty_inodes() {
            let generation = self.flush_inode(&inode).await;
            targets.push((inode, generation));
        }
        let deadline = Instant::now() + self.outside.config.deadline;
        let committed = self.commit(&targets, deadline).await;
        let reported = self.report_all(targets.iter().map(|(inode, _)| inode)).await;
        committed.and(self.commit_again(&targets, deadline, reported).await)
    }

    /// Commit and report of the files of which the bricks have everything, where others wait in vain.
    pub(crate) async fn sync_acknowledged(self: &Arc<Self>) -> Result<(), Error> {
        let mut targets = Vec::new();
        for inode in self.dirty_inodes() {
            if locked(&inode.state).is_written() {
                let generation = self.flush_inode(&inode).await;
                targets.push((inode, generation));
            }
        }
        let deadline = Instant::now() + self.outside.config.deadline;
        let reports = self.report_all(targets.iter().map(|(inode, _)| inode));
        let (committed, reported) = tokio::join!(self.commit(&targets, deadline), reports);
        committed.and(self.commit_again(&targets, deadline, reported).await)
    }

    /// How much is left to be done until everything is durable: a number that falls with every step, bytes that have to
    /// go to the bricks counting twice as much as those that have to be committed there.
    pub(crate) fn left_to_write(&self) -> u64 {
        let left = |inode: &Arc<OpenInode>| {
            let state = locked(&inode.state);
            let held: u64 = state.held.undurable().map(|(_, held)| held.content.len()).sum();
            2 * state.dirty_bytes() + held + u64::from(state.is_untold())
        };
        self.dirty_inodes().iter().map(left).sum()
    }

    /// How many bytes of how many files are not known to be durable.
    pub(crate) fn unwritten(&self) -> (u64, usize) {
        let (mut bytes, mut files) = (0, 0);
        for inode in self.dirty_inodes() {
            let state = locked(&inode.state);
            let held: u64 = state.held.undurable().map(|(_, held)| held.content.len()).sum();
            bytes += state.dirty_bytes() + held;
            files += usize::from(!state.is_clean());
        }
        (bytes, files)
    }

    /// Commits what every target holds up to its generation.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        targets: &[(Arc<OpenInode>, u64)],
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut retry = Retry::until(&self.outside.metrics, deadline);
        // What a round cut short by the deadline came to says less than the rounds before.
        let mut full = false;
        loop {
            for (inode, generation) in targets {
                // What is being sent again is awaited before it is committed again.
                self.wait_acknowledged(inode, *generation).await;
            }
            let map = self.map();
            match self.commit_round(targets, deadline).await? {
                Round::Nothing => return Ok(()),
                Round::Settled if Instant::now() < deadline => full = false,
                Round::Settled => {
                    return Err(retry.give_up("the bricks to commit", "they restart again and again"));
                }
                Round::InDoubt(doubt) => {
                    let paused = retry.pause("the bricks to commit", doubt.why).await;
                    full |= doubt.full;
                    paused.map_err(|error| if full { FsError::NoSpace.into() } else { error })?;
                    self.refresh_map(map.epoch).await;
                }
            }
        }
    }

    /// Has each brick that holds something of a target commit once, and settles what that
    /// means for every target.
    async fn commit_round(
        self: &Arc<Self>,
        targets: &[(Arc<OpenInode>, u64)],
        deadline: Instant,
    ) -> Result<Round, Error> {
        let stamp = self.stamps.load(Ordering::SeqCst);
        let mut bricks = BTreeSet::new();
        for (inode, generation) in targets {
            let state = locked(&inode.state);
            for (_, held) in state.held.undurable().filter(|(_, h)| h.generation <= *generation) {
                bricks.extend(held.holders.members.iter().map(|holder| holder.brick));
            }
        }
        if bricks.is_empty() {
            return Ok(Round::Nothing);
        }
        let outcomes = self.commit_bricks(bricks, deadline).await;
        let map = self.map();
        let mut unknown = false;
        for (inode, generation) in targets {
            unknown |= self.settle(inode, *generation, stamp, &map, &outcomes).await?;
        }
        if !unknown {
            return Ok(Round::Settled);
        }
        let refused = outcomes.iter().find_map(|(brick, outcome)| outcome.as_ref().err().map(|e| (brick, e)));
        let doubt = match refused {
            Some((brick, error)) => Doubt {
                why: format!("brick {brick}: {error}"),
                full: matches!(error, Error::Fs(FsError::NoSpace)),
            },
            None => Doubt { why: "a newer write is under way".to_owned(), full: false },
        };
        Ok(Round::InDoubt(doubt))
    }

    async fn commit_bricks(self: &Arc<Self>, bricks: BTreeSet<BrickId>, deadline: Instant) -> Outcomes {
        let mut calls = JoinSet::new();
        for brick in bricks {
            let shared = self.clone();
            calls.spawn(async move { (brick, shared.commit_brick(brick, deadline).await) });
        }
        let mut outcomes = BTreeMap::new();
        while let Some(done) = calls.join_next().await {
            // A call that panicked has no outcome, which counts as no answer.
            if let Ok((brick, outcome)) = done {
                outcomes.insert(brick, outcome);
            }
        }
        outcomes
    }

    /// Lets go of what is durable and sends again what was lost; whether something is in doubt.
    async fn settle(
        self: &Arc<Self>,
        inode: &Arc<OpenInode>,
        generation: u64,
        stamp: u64,
        map: &ClusterMap,
        outcomes: &Outcomes,
    ) -> Result<bool, Error> {
        let mut unknown = false;
        let mut again = Vec::new();
        {
            let mut state = locked(&inode.state);
            let kept = state.held.cost();
            let mut done = Vec::new();
            // Younger generations that this commit covers are let go of, too.
            for (offset, held) in state.held.undurable().filter(|(_, held)| held.stamp <= stamp) {
                match judge(map, held, outcomes) {
                    Verdict::Durable => done.push(offset),
                    Verdict::Again if held.generation <= generation => again.push(offset),
                    Verdict::Unknown if held.generation <= generation => unknown = true,
                    Verdict::Again | Verdict::Unknown => {}
                }
            }
            let reported = state.reported;
            for offset in done {
                state.held.secured(offset, reported);
            }
            self.account_held(kept, state.held.cost());
        }
        if again.is_empty() {
            return Ok(unknown);
        }
        self.forget_gone(inode).await;
        // Who has the file alone has waited for all that is under way, and cuts it: nothing may be sent behind its back.
        let Ok(_order) = inode.order.try_read() else { return Ok(true) };
        Ok(self.launch_again(inode, &again, stamp) | unknown)
    }

    /// Commits in the background: when asked to, and what is old.
    pub(crate) async fn keep_committing(self: Arc<Self>) {
        let mut complained = false;
        let mut stop = self.stopping.subscribe();
        loop {
            tokio::select! {
                () = self.commit_wanted.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let targets: Vec<_> = self
                .dirty_inodes()
                .into_iter()
                .filter_map(|inode| {
                    let state = locked(&inode.state);
                    let generation = state.generation;
                    let wanted = !state.held.is_empty();
                    drop(state);
                    wanted.then_some((inode, generation))
                })
                .collect();
            if targets.is_empty() {
                continue;
            }
            let deadline = Instant::now() + self.outside.config.deadline;
            // What is durable is kept until it is reported: where others wait for that room, it is reported at once.
            let is_tight = self.outside.metrics.uncommitted_bytes_now.load(Ordering::Relaxed)
                > self.outside.config.uncommitted_bytes as u64;
            let reports = async {
                let told = targets.iter().map(|(inode, _)| inode).filter(|_| is_tight);
                self.report_all(told).await
            };
            // One round; what is in doubt or was sent again is old enough for the next one.
            let (round, reported) = tokio::join!(self.commit_round(&targets, deadline), reports);
            if let Err(error) = reported
                && !error.is_gone()
            {
                self.complain(&mut complained, &error.to_string());
                continue;
            }
            match round {
                Ok(Round::Nothing | Round::Settled) => complained = false,
                Ok(Round::InDoubt(doubt)) => self.complain(&mut complained, &doubt.why),
                Err(error) => self.complain(&mut complained, &error.to_string()),
            }
        }
    }

    fn complain(&self, complained: &mut bool, reason: &str) {
        if !*complained {
            tracing::warn!(reason, "could not commit in the background; trying again");
        }
        *complained = true;
    }

    /// Commits at once when the map says that a brick with unstable data has restarted, or that its chain has changed:
    /// the sooner that is known to be durable, the less is sent again.
    pub(crate) async fn watch_boots(self: Arc<Self>) {
        let mut changes = self.session.map_changes();
        let mut stop = self.stopping.subscribe();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let map = changes.borrow_and_update().clone();
            let changed = |holders: &Holders| {
                let restarted = holders.members.iter().any(|holder| {
                    map.bricks
                        .get(&holder.brick)
                        .is_some_and(|info| info.boot.0 != 0 && info.boot != holder.boot)
                });
                restarted || map.chains.get(&holders.chain).is_none_or(|chain| chain.epoch != holders.epoch)
            };
            let in_doubt = self
                .dirty_inodes()
                .iter()
                .any(|inode| locked(&inode.state).held.undurable().any(|(_, held)| changed(&held.holders)));
            if in_doubt {
                self.commit_wanted.notify_one();
            }
        }
    }
}
