//! `brickyard watch`: what changes in a directory of a mount, line by line; the same for everybody who reads
//! `.brickyard.watch` there.
//!
//! 1. It ends well at SIGINT and SIGTERM, and when nobody reads what it writes (`a_watch_ends_well`).
//! 2. If changes are missing it says so and ends: whoever goes on without looking would be wrong
//!    (`changes_that_are_not_kept_are_told`).

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use wire::id::JournalIndex;

use crate::{admin, refusal};

/// The file of every directory that tells what changes there.
const FILE: &str = ".brickyard.watch";
/// Read at a time, in bytes; a line is far shorter.
const ROOM: usize = 256 << 10;
/// Exit code: changes are missing.
pub const LOST: u8 = 3;

/// Options of `brickyard watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchOptions {
    /// Begin with what changed after this entry of the change journal; 0: with all that ever did. Without it, with what
    /// changes from now on
    #[arg(long, value_name = "INDEX", allow_negative_numbers = true, conflicts_with = "index")]
    pub since: Option<u64>,
    /// Only print the index of the newest entry
    #[arg(long)]
    pub index: bool,
    /// The directory, on a mount
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// How watching ended.
enum Ended {
    /// The directory was removed.
    Removed,
    /// Nobody reads what is written.
    Unheard,
    /// What changed until this entry is not known.
    Lost { index: u64 },
}

/// The line that says that changes are missing.
#[derive(Deserialize)]
struct LostLine {
    lost: bool,
    index: u64,
}

/// Runs until a signal, or the end.
///
/// # Errors
/// If the directory can't be watched, in one line.
pub fn run(options: &WatchOptions) -> Result<ExitCode> {
    let dir = &options.dir;
    let file = open(dir)?;
    if options.index {
        println!("{}", fs_client::watch_position(&file)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(since) = options.since {
        fs_client::watch_from(&file, JournalIndex(since))?;
    }
    match admin::runtime()?.block_on(until_signal(file))? {
        None | Some(Ended::Unheard) => Ok(ExitCode::SUCCESS),
        Some(Ended::Removed) => {
            refusal::say(&anyhow!("{} was removed", dir.display()));
            Ok(ExitCode::SUCCESS)
        }
        Some(Ended::Lost { index }) => {
            refusal::say(&anyhow!(
                "changes are missing: those asked for are not kept any more. Look at all of {0}, then go on with \
                 `brickyard watch --since {index} {0}`",
                dir.display()
            ));
            Ok(ExitCode::from(LOST))
        }
    }
}

fn open(dir: &Path) -> Result<File> {
    let shown = dir.display();
    if !dir.metadata().with_context(|| format!("{shown}"))?.is_dir() {
        bail!("{shown} is no directory: give the one it is in");
    }
    let file = match File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "{shown} is not on a Brickyard mount, or on one of an older version: there is no {FILE} in it"
            )
        }
        Err(error) => return Err(error).with_context(|| format!("{shown}/{FILE}")),
    };
    // Whatever else is called so does not know the question.
    if fs_client::watch_position(&file).is_err() {
        bail!(
            "{shown}/{FILE} is an ordinary file: give a directory of a Brickyard mount, or rename that file"
        );
    }
    Ok(file)
}

/// Copies lines until a signal (`None`) or the end. Whoever reads does so on a thread that may wait for ever: it ends with the process.
async fn until_signal(file: File) -> Result<Option<Ended>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (told, ended) = oneshot::channel();
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || told.send(copy(file)).is_ok())?;
    tokio::select! {
        ended = ended => Ok(Some(ended.context("the reader ended")??)),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    }
}

fn copy(mut file: File) -> Result<Ended> {
    let mut buffer = vec![0; ROOM];
    let mut out = std::io::stdout().lock();
    loop {
        let lines = match file.read(&mut buffer) {
            Ok(0) => return Ok(Ended::Removed),
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("reading changes"),
        };
        match out.write_all(lines).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Ended::Unheard),
            Err(error) => return Err(error).context("writing changes"),
        }
        // A read gives whole lines.
        let mut lines = lines.split(|byte| *byte == b'\n');
        let lost = lines.find_map(|line| serde_json::from_slice::<LostLine>(line).ok().filter(|l| l.lost));
        if let Some(LostLine { index, .. }) = lost {
            return Ok(Ended::Lost { index });
        }
    }
}
