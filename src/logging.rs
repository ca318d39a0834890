//! Where log lines of long-running commands go: standard error, as text or JSON.

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, LogOptions};

/// Starts logging; once a process.
///
/// # Errors
/// If the filter makes no sense.
pub fn start(options: &LogOptions) -> Result<()> {
    // It tells each step it takes, and calls it a warning when a member is away, which the service tells
    // itself where it matters.
    let quiet = if options.log.contains("openraft") { "" } else { ",openraft=error" };
    let filter = EnvFilter::builder()
        .parse(format!("{}{quiet}", options.log))
        // What the parser says of it repeats itself and is of no help.
        .map_err(|_| {
            anyhow!(
                "cannot log by {:?}: give a level (error, warn, info, debug, trace) or a filter such as \
                 warn,brickyard_namespace=debug",
                options.log
            )
        })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
