//! Asks the namespace for the names of the files whose chunks are here, so that `salvage` can give them back.
//!
//! Period: what came is asked for every [`Config::names_pause`](crate::Config), all of them anew
//! every [`Config::names_period`](crate::Config), since files are renamed; the first time [`FIRST_ROUND`] after the
//! start, for what came shortly before the end of the last life. Budget: a page at a time, with a pause after each.
//!
//! 1. Names are a help: whatever goes wrong with them ends the round and nothing else.
//! 2. What the namespace did not answer for is asked for again the next time
//!    (`what_was_not_answered_is_asked_again`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::id::Ino;
use wire::meta::{ClusterReply, ClusterRequest, MAX_PATHS};
use wire::status::Status;

use crate::brick::Brick;
use crate::store::Renewal;

/// Longest wait for the first round.
const FIRST_ROUND: Duration = Duration::from_secs(600);
/// Files asked for at a time.
const PAGE: usize = 256;
/// Pause after a page of a round.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs until `stop`.
pub async fn run(brick: Arc<Brick>, mut stop: watch::Receiver<bool>) {
    let mut next_round = Instant::now() + brick.config.names_period.min(FIRST_ROUND);
    let mut came = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(brick.config.names_pause) => {}
        }
        let is_round = Instant::now() >= next_round;
        let done = async {
            newcomers(&brick, &mut came).await?;
            if is_round { round(&brick).await } else { Ok(()) }
        };
        let done = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            done = done => done,
        };
        if let Err(status) = done {
            tracing::debug!(brick = %brick.id, %status, "names of files could not be noted now");
            next_round = next_round.max(Instant::now() + brick.config.names_period.min(FIRST_ROUND));
        } else if is_round {
            next_round = Instant::now() + brick.config.names_period;
        }
    }
}

/// The names of files that have come. `came`: those that were taken and are not noted yet.
async fn newcomers(brick: &Brick, came: &mut Vec<Ino>) -> Result<(), Status> {
    loop {
        if came.is_empty() {
            *came = brick.store.nameless(PAGE);
        }
        if came.is_empty() {
            return Ok(());
        }
        let names = ask(brick, came.clone()).await?;
        brick.disk(move |store| store.note_names(&names)).await?;
        came.clear();
    }
}

/// All names anew.
async fn round(brick: &Brick) -> Result<(), Status> {
    let begun = Instant::now();
    brick.disk(|store| store.renew_names(Renewal::Begin)).await?;
    let (mut after, mut last, mut noted) = (None, None, 0);
    loop {
        let (page, end) = brick.disk(move |store| store.list(None, after, PAGE)).await?;
        after = page.last().map(|(key, _)| *key).or(after);
        let mut inodes: Vec<Ino> = page.iter().map(|(key, _)| key.ino).collect();
        inodes.dedup();
        inodes.retain(|ino| last != Some(*ino));
        last = after.map(|key| key.ino);
        let names = ask(brick, inodes).await?;
        noted += names.len();
        brick.disk(move |store| store.renew_names(Renewal::Add(&names))).await?;
        if end {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    brick.disk(|store| store.renew_names(Renewal::End)).await?;
    let took_s = begun.elapsed().as_secs();
    tracing::debug!(brick = %brick.id, names = noted, took_s, "noted the names of all files");
    Ok(())
}

/// The names of these files, of those that have one.
async fn ask(brick: &Brick, mut inodes: Vec<Ino>) -> Result<Vec<(Ino, Bytes)>, Status> {
    let mut names = Vec::with_capacity(inodes.len());
    while !inodes.is_empty() {
        let asked = inodes[..inodes.len().min(MAX_PATHS)].to_vec();
        let reply = brick.namespaces.ask(&brick.net, ClusterRequest::Paths(asked)).await;
        let paths = match reply {
            Ok(ClusterReply::Paths(paths)) if (1..=inodes.len()).contains(&paths.len()) => paths,
            Ok(_) => return Err(Status::Malformed),
            Err(error) => return Err(error.status().unwrap_or(Status::Busy)),
        };
        let told = inodes.drain(..paths.len());
        names.extend(told.zip(paths).filter_map(|(ino, path)| Some((ino, path?))));
    }
    Ok(names)
}
