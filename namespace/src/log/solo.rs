//! One member: a thread that takes what has arrived, applies it as one batch with one
//! flush of the database's own log, and answers. What arrives during the flush is the next batch.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error};

use wire::net::BoxFuture;
use wire::status::Status;

use crate::config::{BATCH_COMMANDS, QUEUE_COMMANDS};
use crate::error::Error;
use crate::log::{Leadership, Log, Placed};
use crate::machine::Machine;
use crate::machine::command::{Command, Effects, LogIndex};
use crate::metrics::Metrics;
use crate::store::Write;

type Waiting = (Command, oneshot::Sender<Result<Placed, Status>>);

/// A log of one member. Stops when dropped, after what is queued; dropping waits for that.
pub struct Solo {
    queue: Mutex<Option<mpsc::Sender<Waiting>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    leadership: watch::Sender<Leadership>,
}

impl Solo {
    /// Starts the thread. `observe` is told the effects of each batch before its callers hear.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start<S: Write + Send + Sync + 'static>(
        machine: Machine<S>,
        metrics: Arc<Metrics>,
        observe: impl FnMut(Effects) + Send + 'static,
    ) -> Result<Self, Error> {
        let (queue, waiting) = mpsc::channel(QUEUE_COMMANDS);
        let thread = std::thread::Builder::new()
            .name("namespace-log".to_owned())
            .spawn(move || run(machine, waiting, &metrics, observe))
            .map_err(Error::Thread)?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            leadership: watch::Sender::new(Leadership::Leading { term: 0 }),
        })
    }

    /// Takes no more, and gives the thread to wait for, once.
    fn close(&self) -> Option<JoinHandle<()>> {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn queue(&self) -> Option<mpsc::Sender<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Applies what is queued, and returns when the machine is gone. Later proposals are
    /// answered "busy".
    pub async fn stop(&self) {
        if let Some(thread) = self.close()
            && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
        {
            error!("the thread of the log could not be waited for");
        }
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        // The database must be closed before the process ends, or its threads meet destroyed
        // globals. The thread itself never drops the log, so this cannot wait for itself.
        if let Some(thread) = self.close()
            && thread.join().is_err()
        {
            error!("the thread of the log did not end well");
        }
    }
}

impl Log for Solo {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Placed, Status>> {
        Box::pin(async move {
            let queue = self.queue().ok_or(Status::Busy)?;
            let (answer, heard) = oneshot::channel();
            queue.send((command, answer)).await.map_err(|_| Status::Busy)?;
            drop(queue);
            heard.await.unwrap_or(Err(Status::Busy))
        })
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<(), Status>> {
        // Alone, what is in the store is what was answered.
        Box::pin(std::future::ready(Ok(())))
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}

fn run<S: Write>(
    mut machine: Machine<S>,
    mut waiting: mpsc::Receiver<Waiting>,
    metrics: &Metrics,
    mut observe: impl FnMut(Effects),
) {
    let mut broken = false;
    while let Some(first) = waiting.blocking_recv() {
        let mut callers = Vec::with_capacity(16);
        let mut entries = Vec::with_capacity(16);
        let mut next = Some(first);
        let mut index = machine.applied();
        while let Some((command, caller)) = next {
            index = LogIndex(index.0 + 1);
            entries.push((index, command));
            callers.push(caller);
            next = if entries.len() < BATCH_COMMANDS { waiting.try_recv().ok() } else { None };
        }
        let begun = Instant::now();
        let applied = if broken { None } else { Some(machine.apply(&entries)) };
        let answers = match applied {
            Some(Ok(applied)) => {
                metrics.batch(entries.len(), begun.elapsed());
                observe(applied.effects);
                let indexes = entries.iter().map(|(index, _)| *index);
                indexes.zip(applied.answers).map(|(index, answer)| Ok(Placed { index, answer })).collect()
            }
            Some(Err(failure)) => {
                // Nobody knows what of the batch is on the disk: only a new start can tell.
                error!(error = %failure, "the namespace's store failed; nothing can be changed until it is restarted");
                broken = true;
                vec![Err(Status::DiskFailed); callers.len()]
            }
            None => vec![Err(Status::DiskFailed); callers.len()],
        };
        for (caller, answer) in callers.into_iter().zip(answers) {
            if caller.send(answer).is_err() {
                debug!("a caller did not wait for its answer");
            }
        }
    }
}
