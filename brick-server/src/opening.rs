//! Opens the bricks of a server, all at once.
//!
//! 1. One whose disk does not answer holds up no other: what is open by then is served, and it is taken up when it is open
//!    (`tests`: `a_disk_that_hangs_at_the_start_keeps_no_other_from_it`).
//! 2. Where there is nothing else to serve it is waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, SILENT_FOR};
use crate::error::Error;
use crate::keeper::{self, Opened};

/// A brick that is being opened.
pub struct Opening {
    /// Which, and where.
    pub config: Config,
    task: JoinHandle<Result<Opened, Error>>,
}

/// What became of several.
#[derive(Default)]
pub struct Openings {
    /// Open.
    pub opened: Vec<(Config, Opened)>,
    /// They can't be opened.
    pub refused: Vec<(Config, Error)>,
    /// Not open yet.
    pub slow: Vec<Opening>,
}

impl Opening {
    /// Begins to open a brick.
    pub fn begin(config: Config) -> Opening {
        let opened = config.clone();
        Opening { config, task: tokio::spawn(async move { keeper::open(&opened).await }) }
    }

    /// Returns when it is open.
    ///
    /// # Errors
    /// See [`keeper::open`].
    pub async fn end(self) -> Result<Opened, Error> {
        flat(self.task.await)
    }
}

fn flat(done: Result<Result<Opened, Error>, JoinError>) -> Result<Opened, Error> {
    done.unwrap_or_else(|panic| Err(Error::Thread(std::io::Error::other(panic))))
}

/// Opens bricks.
pub async fn open_all(configs: Vec<Config>) -> Openings {
    let mut all = Openings { slow: configs.into_iter().map(Opening::begin).collect(), ..Openings::default() };
    let until = Instant::now() + SILENT_FOR;
    let mut is_late = false;
    while !all.slow.is_empty() {
        let next = first_done(&mut all.slow);
        let (at, done) = if is_late && all.opened.is_empty() {
            next.await
        } else {
            match timeout_at(until, next).await {
                Ok(next) => next,
                Err(_) if all.opened.is_empty() => {
                    is_late = true;
                    for Opening { config, .. } in &all.slow {
                        let why = Error::Slow { dir: config.dir.clone() };
                        tracing::warn!(brick = %config.brick, "{why}");
                    }
                    continue;
                }
                Err(_) => break,
            }
        };
        let config = all.slow.swap_remove(at).config;
        match flat(done) {
            Ok(opened) => all.opened.push((config, opened)),
            Err(error) => all.refused.push((config, error)),
        }
    }
    all
}

/// The first that is done; there is at least one.
async fn first_done(slow: &mut [Opening]) -> (usize, Result<Result<Opened, Error>, JoinError>) {
    poll_fn(|context| {
        for (at, opening) in slow.iter_mut().enumerate() {
            if let Poll::Ready(done) = Pin::new(&mut opening.task).poll(context) {
                return Poll::Ready((at, done));
            }
        }
        Poll::Pending
    })
    .await
}
