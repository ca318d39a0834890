//! How a long-running role lives: a runtime, the signals that end it, and the line that says it is ready.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::notify;

/// How long a disk that hangs may keep the process from ending after everything was stopped.
const LINGER: Duration = Duration::from_secs(5);

/// Runs a role to its end.
///
/// # Errors
/// What the role ends with, or that threads can't be started.
pub fn run<T>(role: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("brickyard")
        .build()
        .context("cannot start threads")?;
    let outcome = runtime.block_on(role);
    runtime.shutdown_timeout(LINGER);
    outcome
}

/// The signals that end a role.
pub struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    /// From now on they do not kill the process.
    ///
    /// # Errors
    /// If the system says no.
    pub fn new() -> Result<Ending> {
        Ok(Ending {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Returns when one came.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => tracing::info!("interrupted: stopping"),
            _ = self.terminate.recv() => tracing::info!("asked to end: stopping"),
        }
        notify::stopping();
    }
}

/// Says that the role can be used: to whoever reads standard output, and to systemd.
///
/// # Errors
/// If nobody takes the line.
pub fn ready(what: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready: {what}").and_then(|()| out.flush()).context("cannot write to standard output")?;
    notify::ready(what);
    Ok(())
}
