//! `brickyard salvage`: plain files off a brick directory, with no cluster.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use brick_server::store::salvage::{Report, salvage};
use clap::Args;

use crate::roles::place;
use crate::show::counted;

/// Options of `brickyard salvage`.
#[derive(Debug, Clone, Args)]
pub struct SalvageOptions {
    /// Brick directory to read; nothing in it is changed
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Directory to write the files to; what is in it stays, so that several bricks can be salvaged
    /// into one, one after the other
    #[arg(long, value_name = "DIR2")]
    pub out: PathBuf,
    /// Chunk size the files were made with, in MiB
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub chunk_mib: u32,
}

/// Files that are not whole and are named one by one; the others are only counted.
const NAMED: usize = 1000;

/// Exit code 0: everything that is on this brick was salvaged; 1: some of it is lost.
///
/// # Errors
/// What kept it from being done at all.
pub fn run(options: &SalvageOptions) -> Result<ExitCode> {
    place::refuse_file(&options.dir)?;
    place::refuse_file(&options.out).context("--out")?;
    let mut last = std::time::Instant::now();
    let shown = std::io::stderr().is_terminal();
    let report = salvage(&options.dir, &options.out, options.chunk_mib << 20, &mut |progress| {
        if shown && last.elapsed().as_millis() > 200 {
            last = std::time::Instant::now();
            // Nobody is hurt if it can't be shown.
            let _ = write!(std::io::stderr(), "\r{} chunks, {} MiB ", progress.chunks, progress.bytes >> 20);
        }
    })
    .with_context(|| format!("salvaging {}", options.dir.display()))?;
    if shown {
        eprintln!();
    }
    print!("{}", text(&report));
    Ok(if report.bad_blocks() == 0 && report.notes.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for note in &report.notes {
        out += &format!("note: {note}\n");
    }
    for (path, partial) in report.partial.iter().take(NAMED) {
        out += &format!("{}:", path.display());
        if partial.absent_chunks > 0 {
            out += &format!(
                " {} not on this brick (on others, or holes)",
                counted(partial.absent_chunks, "chunk", "chunks")
            );
        }
        if let Some(first) = partial.bad_blocks.first() {
            out += &format!(
                " {} of 4 KiB lost, the first at byte {first}",
                counted(partial.bad_blocks.len(), "block", "blocks")
            );
        }
        out.push('\n');
    }
    if report.partial.len() > NAMED {
        out += &format!("... and {} more that are not whole\n", report.partial.len() - NAMED);
    }
    let whole = report.files - report.partial.len() as u64;
    out += &format!(
        "{}, {} of them whole; {}, {} bytes, found by {}; {} lost\n",
        counted(report.files, "file", "files"),
        whole,
        counted(report.done.chunks, "chunk", "chunks"),
        report.done.bytes,
        if report.by_index { "the index" } else { "the table of owners" },
        counted(report.bad_blocks(), "block", "blocks"),
    );
    out
}
