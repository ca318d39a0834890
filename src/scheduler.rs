//! The doors of the scheduler: `qsub` and its kin by their names, `master` and `agent`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

/// A user's command of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Submit.
    Qsub,
    /// Look.
    Qstat,
    /// Delete.
    Qdel,
    /// Account.
    Qacct,
    /// Hold.
    Qhold,
    /// Release.
    Qrls,
    /// Clear errors.
    Qmod,
}

/// The tools by their names.
pub const TOOLS: [(&str, Tool); 7] = [
    ("qsub", Tool::Qsub),
    ("qstat", Tool::Qstat),
    ("qdel", Tool::Qdel),
    ("qhold", Tool::Qhold),
    ("qrls", Tool::Qrls),
    ("qmod", Tool::Qmod),
    ("qacct", Tool::Qacct),
];

/// The tool a program name or subcommand means, if it means one.
pub fn tool_called(name: &OsString) -> Option<Tool> {
    let name = Path::new(name).file_name().and_then(OsStr::to_str)?;
    TOOLS.iter().find(|(known, _)| *known == name).map(|(_, tool)| *tool)
}

/// Runs a tool with the arguments behind its name.
pub fn run_tool(tool: Tool, args: Vec<OsString>) -> ExitCode {
    match tool {
        Tool::Qsub => control::cli::qsub::main(args),
        Tool::Qstat => control::cli::qstat::main(args),
        Tool::Qdel => control::cli::qdel::main(args),
        Tool::Qacct => control::cli::qacct::main(args),
        Tool::Qhold => control::cli::qhold::main(args),
        Tool::Qrls => control::cli::qrls::main(args),
        Tool::Qmod => control::cli::qmod::main(args),
    }
}

/// Options of `brickyard master`.
#[derive(Debug, Clone, Args)]
pub struct MasterOptions {
    /// Control directory on the mount: MNT/.cluster; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    #[command(flatten)]
    pub parent: ParentOptions,
}

/// Options of `brickyard agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentOptions {
    /// Control directory on the mount: MNT/.cluster
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Local directory, not on the mount, for what must survive the agent: which jobs run here
    /// and how they ended
    #[arg(long, value_name = "DIR", default_value = "/var/lib/brickyard/agent")]
    pub spool: PathBuf,
    /// Jobs to run at a time [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    #[command(flatten)]
    pub parent: ParentOptions,
}

/// Whose child this process is.
#[derive(Debug, Clone, Copy, Args)]
pub struct ParentOptions {
    /// End at once when this process, which started this one, is gone
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<i32>,
}

impl ParentOptions {
    /// Ties this process' life to its parent's: one that lost its mount must not linger.
    fn tie(self) -> Result<()> {
        let Some(parent) = self.parent else { return Ok(()) };
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .context("cannot tie this process to its parent")?;
        // It may have gone before the signal was set.
        if rustix::process::getppid().map(|p| p.as_raw_nonzero().get()) != Some(parent) {
            anyhow::bail!("process {parent}, which started this one, is gone");
        }
        Ok(())
    }
}

/// Runs the master until SIGTERM or SIGINT.
///
/// # Errors
/// If the directory cannot be used, or the lock or the journal is lost.
pub fn run_master(options: MasterOptions) -> Result<ExitCode> {
    options.parent.tie()?;
    control::layout::init(&options.root)
        .with_context(|| format!("cannot make the control directory {}", options.root.display()))?;
    let stop = stop_on_signal()?;
    control::master::run(&control::MasterConfig::new(&options.root), &stop)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the agent until SIGTERM or SIGINT; jobs go on.
///
/// # Errors
/// If the directories cannot be used.
pub fn run_agent(options: AgentOptions) -> Result<ExitCode> {
    options.parent.tie()?;
    let stop = stop_on_signal()?;
    let mut config = control::AgentConfig::new(&options.root, &options.spool);
    config.slots = options.slots;
    control::agent::run(&config, &stop)?;
    Ok(ExitCode::SUCCESS)
}

/// A stop that SIGTERM and SIGINT set.
fn stop_on_signal() -> Result<control::Stop> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = control::Stop::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered before this returns, so that no early signal kills the process unasked.
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let set = stop.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        });
        set.set();
    })?;
    Ok(stop)
}
