//! The threads of a brick that wait for its disk.
//!
//! Not tokio's pool for blocking work: that is shared by the whole process, so one slow disk
//! would hold up all others, and waking it costs more than the call (measured 12-70 us).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

#[cfg(test)]
type Delay = Box<dyn Fn() -> std::time::Duration + Send + Sync>;
type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's head.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    most: usize,
    /// Instead of threads: jobs become tasks that run after this long.
    #[cfg(test)]
    delay: Option<Delay>,
}

/// A job was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolError {
    /// Too many wait, or the pool is closed.
    Full,
    /// It panicked.
    Panicked,
}

impl Pool {
    /// Starts the threads. At most `most` jobs wait for one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start(name: &str, threads: usize, most: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared::default());
        let mut handles = Vec::new();
        for number in 0..threads.clamp(1, 64) {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("{name}-{number}")).stack_size(1 << 20);
            handles.push(builder.spawn(move || work(&shared))?);
        }
        Ok(Pool {
            shared,
            threads: Mutex::new(handles),
            most,
            #[cfg(test)]
            delay: None,
        })
    }

    /// A pool without threads, for simulations: a job takes the time `delay` says, and nothing
    /// else runs while it does its work.
    #[cfg(test)]
    pub fn simulated(delay: impl Fn() -> std::time::Duration + Send + Sync + 'static) -> Pool {
        Pool {
            shared: Arc::default(),
            threads: Mutex::default(),
            most: usize::MAX,
            delay: Some(Box::new(delay)),
        }
    }

    /// Runs `job` on one of the threads, in the order of calls. It runs even if the future is
    /// dropped.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (give, take) = oneshot::channel();
        #[cfg(test)]
        if let Some(delay) = &self.delay {
            if self.shared.lock().closed {
                return Err(PoolError::Full);
            }
            let delay = delay();
            tokio::spawn(async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let _ = give.send(job());
            });
            return take.await.map_err(|_| PoolError::Panicked);
        }
        {
            let mut queue = self.shared.lock();
            if queue.closed || queue.jobs.len() >= self.most {
                return Err(PoolError::Full);
            }
            queue.jobs.push_back(Box::new(move || {
                // Nobody waits for the result of a call that was given up.
                let _ = give.send(job());
            }));
        }
        self.shared.wake.notify_one();
        take.await.map_err(|_| PoolError::Panicked)
    }

    /// Finishes the jobs that wait, then ends the threads.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panicked has ended, too; its job's caller was told.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut queue = shared.lock();
            loop {
                match queue.jobs.pop_front() {
                    Some(job) => break job,
                    None if queue.closed => return,
                    None => queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            }
        };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a job of a brick panicked");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Results come back, a panic is told to its caller alone, and a closed pool refuses.
    #[tokio::test]
    async fn a_panic_is_told_and_the_pool_goes_on() {
        let pool = Pool::start("test", 1, 4).unwrap();
        assert_eq!(pool.run(|| 7).await, Ok(7));
        assert_eq!(pool.run(|| panic!("on purpose")).await, Err::<(), _>(PoolError::Panicked));
        assert_eq!(pool.run(|| 8).await, Ok(8));
        pool.close();
        assert_eq!(pool.run(|| 9).await, Err(PoolError::Full));
    }
}
