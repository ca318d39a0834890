//! `brickyard up`: every role of a cluster on one machine.
//!
//! Storage (namespace, bricks, mount) runs in this process, each role with a certificate of its
//! own and over the real transports on loopback. The scheduler's master and agent run as child
//! processes: they are users of the mount, and a process that holds files open on a mount it
//! serves itself cannot be ended by kill -9 (`docs/design/2026-11-22-up.md`).
//!
//! Started in this order, stopped in the reverse one: data directory, namespace, bricks, client,
//! mount, master and agent. Nothing is changed on disk before the mount point was found usable and the
//! addresses free.

mod children;
mod credentials;
pub mod home;
mod places;
mod storage;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{LogOptions, TransportKind, UpOptions};
use crate::refusal;
use children::Children;
use home::{Home, Wanted};
use storage::Storage;

/// Longest time stopping may take, however slow the disks are: below the 60 s of the service in `docs/admin.md`.
const STOP_LIMIT: Duration = Duration::from_secs(50);
/// How long threads that hang are waited for after that.
const LINGER: Duration = Duration::from_secs(3);

/// Runs the cluster until a signal or an unmount from outside.
///
/// # Errors
/// What keeps the cluster from running, with what to do, in one line.
pub fn run(mut options: UpOptions, log: &LogOptions) -> Result<ExitCode> {
    // The scheduler and its jobs work in other directories than this process.
    options.data = absolute(&options.data)?;
    options.mount = absolute(&options.mount)?;
    places::check_apart(&options.data, &options.mount)?;
    fs_client::Mount::check(&options.mount, &fs_client::MountConfig::default())?;
    home::refuse_if_held(&options.data)?;
    if options.shared && options.transport == TransportKind::Quic {
        bail!(
            "--transport quic goes with this machine's own mount only, and --shared is for others, who come by TLS: leave one of the two away"
        );
    }
    let bricks = home::bricks_of(&options.data)?.or(options.bricks).unwrap_or(home::DEFAULT_BRICKS);
    places::check_addresses(&options, bricks)?;
    let home = Home::take(&options.data, Wanted { bricks: options.bricks, replicas: options.replicas })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("brickyard")
        .build()
        .context("cannot start threads")?;
    let code = runtime.block_on(serve(options, log, home));
    // A disk that hangs must not keep the process from ending after everything was stopped.
    runtime.shutdown_timeout(LINGER);
    code
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("cannot tell where {} is: give the whole path", path.display()))
}

async fn serve(options: UpOptions, log: &LogOptions, home: Home) -> Result<ExitCode> {
    // Registered first, so that a Ctrl-C while starting ends in an orderly stop, too.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let storage = tokio::select! {
        started = Storage::start(&options, home) => started?,
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    };
    match storage.home().set_room_aside() {
        Ok(true) => {}
        Ok(false) => tracing::debug!("there is too little room to set some aside for a full disk"),
        Err(error) => {
            tracing::warn!(
                error = refusal::one_line(&error),
                "a full disk would keep the next start from working"
            )
        }
    }
    let mut children = Children::default();
    let asked_to_end = async {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("interrupted: stopping"),
            _ = terminate.recv() => tracing::info!("asked to end: stopping"),
            () = storage.unmounted() => tracing::info!("unmounted from outside: stopping"),
        }
    };
    let work = async {
        if !options.no_scheduler {
            children.try_start(&options, log, &storage).await;
        }
        println!("ready: {}", options.mount.display());
        std::io::stdout().flush()?;
        match options.no_scheduler {
            true => std::future::pending().await,
            false => children.look_after(&options, log, &storage).await,
        }
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        () = asked_to_end => Ok(()),
        failed = work => failed,
    };
    let stop = async {
        children.stop().await;
        storage.stop().await
    };
    let stopped = tokio::time::timeout(STOP_LIMIT, stop).await.unwrap_or_else(|_| {
        let limit = STOP_LIMIT.as_secs();
        Err(anyhow::anyhow!("not stopped after {limit} s, so cut off: what was not synced may be lost"))
    });
    outcome.and(stopped).map(|()| ExitCode::SUCCESS)
}
