//! The scheduler's processes: started, watched, started again, ended.
//!
//! Files are served whether they run or not: what keeps them from running is said, and tried again.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fs_client::Client;
use tokio::process::{Child, Command};
use wire::id::Ino;
use wire::status::FsError;

use super::storage::Storage;
use crate::cli::{LogFormat, LogOptions, UpOptions};
use crate::refusal;

/// Longest wait for one to be usable.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Wait between two looks whether it is.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Longest wait for one to end when asked to, before it is killed. It takes milliseconds, unless the mount does not answer.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// Wait before one that ended by itself is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Ends in a row, each within [`SHORT_LIFE`], before all are ended and started anew later.
const MOST_SHORT_LIVES: u32 = 5;
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// Wait after a start that failed before the next one.
const RETRY_PAUSE: Duration = Duration::from_secs(20);
/// Wait between two looks whether there is room.
const ROOM_PAUSE: Duration = Duration::from_secs(2);

struct Role {
    name: &'static str,
    args: Vec<OsString>,
    child: Child,
    born: Instant,
    short_lives: u32,
}

/// What they lack to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Lack {
    /// They run, or nobody has tried yet.
    #[default]
    Nothing,
    /// The scheduler needs room for its files, and who has to make it needs the mount.
    Room,
    /// The last start failed, or they ended over and over.
    Start,
}

/// The processes that use the mount.
#[derive(Default)]
pub struct Children {
    roles: Vec<Role>,
    lack: Lack,
}

impl Children {
    /// Starts them, or says why that is not possible now; [`Children::look_after`] tries again.
    pub async fn try_start(&mut self, options: &UpOptions, log: &LogOptions, storage: &Storage) {
        let lacked = self.lack;
        let started = async {
            let room = storage.has_room().await?;
            if room {
                self.start(options, log, storage).await?;
            }
            anyhow::Ok(room)
        };
        self.lack = match started.await {
            Ok(true) => {
                match lacked {
                    Lack::Nothing => {}
                    Lack::Room => tracing::info!("there is room again: the scheduler is started"),
                    Lack::Start => tracing::info!("the scheduler is started"),
                }
                Lack::Nothing
            }
            Ok(false) => {
                if lacked != Lack::Room {
                    tracing::error!(
                        "the filesystem is full: the scheduler is started when there is room in it"
                    );
                }
                Lack::Room
            }
            Err(error) => {
                tracing::error!(
                    error = refusal::one_line(&error),
                    "the scheduler cannot be started: files are served without it, and it is tried again every \
                     {} s; what it says is above",
                    RETRY_PAUSE.as_secs()
                );
                self.stop().await;
                Lack::Start
            }
        };
    }

    /// Keeps them running, for ever.
    pub async fn look_after(&mut self, options: &UpOptions, log: &LogOptions, storage: &Storage) {
        loop {
            match self.lack {
                Lack::Nothing => {
                    let error = self.watch().await;
                    tracing::error!(
                        error = refusal::one_line(&error),
                        "the scheduler does not run: files are served without it, and it is started again in {} s",
                        RETRY_PAUSE.as_secs()
                    );
                    self.stop().await;
                    self.lack = Lack::Start;
                    continue;
                }
                Lack::Room => tokio::time::sleep(ROOM_PAUSE).await,
                Lack::Start => tokio::time::sleep(RETRY_PAUSE).await,
            }
            self.try_start(options, log, storage).await;
        }
    }

    /// Starts the master, which makes the control directory, then the agent; returns once both
    /// have published themselves.
    ///
    /// # Errors
    /// If one cannot be started, ends, or takes longer than [`READY_DEADLINE`].
    async fn start(&mut self, options: &UpOptions, log: &LogOptions, storage: &Storage) -> Result<()> {
        let root = options.mount.join(".cluster");
        let mut log_args: Vec<OsString> = vec!["--log".into(), log.log.clone().into()];
        if log.log_format == LogFormat::Json {
            log_args.extend(["--log-format".into(), "json".into()]);
        }
        let mut master: Vec<OsString> = vec!["master".into(), "--root".into(), root.clone().into()];
        master.extend(log_args.iter().cloned());
        let mut agent: Vec<OsString> = vec![
            "agent".into(),
            "--root".into(),
            root.into(),
            "--spool".into(),
            storage.home().join("agent").into(),
        ];
        if let Some(slots) = options.slots {
            agent.extend(["--slots".into(), slots.to_string().into()]);
        }
        agent.extend(log_args);
        let host = format!(".cluster/hosts/{}/status", control::config::hostname());
        self.start_one("master", master, ".cluster/master/active", storage.client()).await?;
        self.start_one("agent", agent, &host, storage.client()).await
    }

    /// Starts one and waits for its sign of life: a new file at `sign`.
    async fn start_one(
        &mut self,
        name: &'static str,
        args: Vec<OsString>,
        sign: &str,
        client: &Client,
    ) -> Result<()> {
        let before = file_at(client, sign).await?;
        let mut child = spawn(&args).with_context(|| format!("cannot start the {name}"))?;
        let until = Instant::now() + READY_DEADLINE;
        loop {
            let now = file_at(client, sign).await?;
            if now.is_some() && now != before {
                break;
            }
            if let Some(status) = child.try_wait()? {
                bail!("the {name} ended while starting ({status}); its log is above");
            }
            if Instant::now() > until {
                child.start_kill()?;
                bail!("the {name} was not ready after {} s", READY_DEADLINE.as_secs());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        self.roles.push(Role { name, args, child, born: Instant::now(), short_lives: 0 });
        Ok(())
    }

    /// Starts again what ends; comes back only when one ends over and over.
    async fn watch(&mut self) -> anyhow::Error {
        loop {
            let (at, status) = self.next_end().await;
            let role = &mut self.roles[at];
            role.short_lives = if role.born.elapsed() < SHORT_LIFE { role.short_lives + 1 } else { 1 };
            tracing::error!(role = role.name, ?status, "a process of the scheduler ended; starting it again");
            if role.short_lives >= MOST_SHORT_LIVES {
                return anyhow::anyhow!("the {} ended {} times in a row", role.name, role.short_lives);
            }
            tokio::time::sleep(RESTART_PAUSE).await;
            match spawn(&role.args) {
                Ok(child) => {
                    role.child = child;
                    role.born = Instant::now();
                }
                Err(error) => return error.context(format!("cannot start the {} again", role.name)),
            }
        }
    }

    /// Ends all: asks, waits, kills.
    pub async fn stop(&mut self) {
        // Master last: it may take an agent's last report.
        for mut role in self.roles.drain(..).rev() {
            if let Some(pid) = role.child.id().and_then(|p| rustix::process::Pid::from_raw(p as i32))
                && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            {
                tracing::warn!(role = role.name, %error, "could not ask it to end");
            }
            match tokio::time::timeout(STOP_DEADLINE, role.child.wait()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(role = role.name, %error, "could not wait for its end"),
                Err(_) => {
                    tracing::warn!(role = role.name, "did not end when asked to: killing it");
                    if let Err(error) = role.child.start_kill() {
                        tracing::warn!(role = role.name, %error, "could not kill it");
                    }
                }
            }
        }
    }

    async fn next_end(&mut self) -> (usize, std::io::Result<std::process::ExitStatus>) {
        let waits = self
            .roles
            .iter_mut()
            .enumerate()
            .map(|(at, role)| Box::pin(async move { (at, role.child.wait().await) }));
        select_first(waits.collect()).await
    }
}

/// The first of several futures to be done.
async fn select_first<T>(mut waits: Vec<std::pin::Pin<Box<impl Future<Output = T>>>>) -> T {
    std::future::poll_fn(move |cx| {
        for wait in &mut waits {
            if let std::task::Poll::Ready(value) = wait.as_mut().poll(cx) {
                return std::task::Poll::Ready(value);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// The inode at a path of the mount. Asked through the library: this process opens nothing on its
/// own mount.
async fn file_at(client: &Client, path: &str) -> Result<Option<Ino>> {
    match client.resolve(path.as_bytes(), true).await {
        Ok(attr) => Ok(Some(attr.ino)),
        Err(fs_client::Error::Fs(FsError::NotFound)) => Ok(None),
        Err(error) => Err(error).context("cannot look whether the scheduler is up"),
    }
}

fn spawn(args: &[OsString]) -> Result<Child> {
    // The kernel's link works even after the program's file was replaced by a newer one.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(args)
        .arg("--parent")
        .arg(std::process::id().to_string())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null());
    // They must not see the Ctrl-C of the terminal: they are ended in order, after nobody needs them.
    command.process_group(0);
    // A start that is given up half-way leaves nobody behind.
    command.kill_on_drop(true);
    command.spawn().context("cannot start a process")
}
