//! The committer: one thread a brick makes everything acknowledged durable, for all who wait
//! in one go, at least once an interval and whenever much waits. It knows for how long that has
//! been refused for want of room.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::store::{ChunkStore, Pressure, StoreError};

type Waiter = oneshot::Sender<Result<(), StoreError>>;

#[derive(Default)]
struct Orders {
    waiters: Vec<Waiter>,
    hurry: bool,
    closed: bool,
}

struct Shared {
    orders: Mutex<Orders>,
    wake: Condvar,
    store: Arc<dyn ChunkStore>,
    metrics: Arc<Metrics>,
    interval: Duration,
    /// Since when there is no room for what is to be committed.
    refused_since: Mutex<Option<Instant>>,
}

impl Shared {
    fn new(store: Arc<dyn ChunkStore>, metrics: Arc<Metrics>, interval: Duration) -> Shared {
        let (orders, wake, refused_since) = Default::default();
        Shared { orders, wake, store, metrics, interval, refused_since }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's head.
pub struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start(
        name: &str,
        store: Arc<dyn ChunkStore>,
        metrics: Arc<Metrics>,
        interval: Duration,
    ) -> std::io::Result<Committer> {
        let shared = Arc::new(Shared::new(store, metrics, interval));
        let inner = shared.clone();
        let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(1 << 20);
        let thread = builder.spawn(move || run(&inner))?;
        Ok(Committer { shared, thread: Mutex::new(Some(thread)) })
    }

    /// A committer without a thread, for simulations: a task commits, after `delay` each time.
    #[cfg(test)]
    pub fn simulated(
        store: Arc<dyn ChunkStore>,
        metrics: Arc<Metrics>,
        interval: Duration,
        delay: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Committer {
        let shared = Arc::new(Shared::new(store, metrics, interval));
        let inner = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let mut idle = Duration::ZERO;
            loop {
                let pause = delay().max(Duration::from_millis(1));
                tokio::time::sleep(pause).await;
                idle += pause;
                let Some(shared) = inner.upgrade() else { return };
                let (waiters, closed) = {
                    let mut orders = shared.lock();
                    if orders.waiters.is_empty() && !orders.hurry && !orders.closed && idle < interval {
                        continue;
                    }
                    orders.hurry = false;
                    (std::mem::take(&mut orders.waiters), orders.closed)
                };
                idle = Duration::ZERO;
                carry_out(&shared, waiters);
                if closed {
                    return;
                }
            }
        });
        Committer { shared, thread: Mutex::new(None) }
    }

    /// Returns when everything published before the call is durable.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Failed`].
    pub async fn commit(&self) -> Result<(), StoreError> {
        let (give, take) = oneshot::channel();
        {
            let mut orders = self.shared.lock();
            if orders.closed {
                return Err(StoreError::Failed("the brick is stopping".to_owned()));
            }
            orders.waiters.push(give);
        }
        self.shared.wake.notify_one();
        take.await.unwrap_or_else(|_| Err(StoreError::Failed("the committer ended".to_owned())))
    }

    /// Begins a commit soon, without waiting for it.
    pub fn hurry(&self) {
        self.shared.lock().hurry = true;
        self.shared.wake.notify_one();
    }

    /// For how long every commit was refused for want of room; zero: the last one was not.
    pub fn refused_for(&self) -> Duration {
        let since = *self.shared.refused_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the thread after a last commit.
    ///
    /// # Errors
    /// What became of that commit.
    pub fn close(&self) -> Result<(), StoreError> {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Should it have panicked, the commit below says what is wrong.
            let _ = thread.join();
        }
        self.shared.store.commit()
    }
}

fn run(shared: &Shared) {
    loop {
        let (waiters, closed) = {
            let mut orders = shared.lock();
            if orders.waiters.is_empty() && !orders.hurry && !orders.closed {
                let waited = shared.wake.wait_timeout(orders, shared.interval);
                orders = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            orders.hurry = false;
            (std::mem::take(&mut orders.waiters), orders.closed)
        };
        carry_out(shared, waiters);
        if closed {
            return;
        }
    }
}

fn carry_out(shared: &Shared, waiters: Vec<Waiter>) {
    // Who was refused finds out whether there is room again, be there anything to commit or not.
    let refused = shared.refused_since.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    if waiters.is_empty() && !refused && shared.store.pressure() == Pressure::Clean {
        return;
    }
    let done = shared.store.commit();
    shared.metrics.group_commits.add(1);
    note(shared, matches!(&done, Err(StoreError::NoSpace)));
    for waiter in waiters {
        // A caller that is gone needs no answer.
        let _ = waiter.send(done.clone());
    }
}

/// Remembers whether there was room, and says so when that changes.
fn note(shared: &Shared, refused: bool) {
    let mut since = shared.refused_since.lock().unwrap_or_else(PoisonError::into_inner);
    match (refused, *since) {
        (true, None) => {
            tracing::warn!("the disk is full: there is no room to commit what was written; make room on it");
            *since = Some(Instant::now());
        }
        (false, Some(begun)) => {
            tracing::info!(refused_ms = begun.elapsed().as_millis() as u64, "there is room to commit again");
            *since = None;
        }
        _ => {}
    }
}
