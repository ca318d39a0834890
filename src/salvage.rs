//! `brickyard salvage`: plain files off a brick directory, with no cluster.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use brick_server::store::salvage::{Partial, Report, salvage};
use clap::Args;

use crate::roles::place;
use crate::show::counted;

/// Options of `brickyard salvage`.
#[derive(Debug, Clone, Args)]
pub struct SalvageOptions {
    /// Brick directory to read; nothing in it is changed
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Directory to write the files to, empty before the first brick; several bricks are salvaged into
    /// one, one after the other, in any order
    #[arg(long, value_name = "DIR2")]
    pub out: PathBuf,
    /// Chunk size the files were made with, in MiB
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub chunk_mib: u32,
}

/// Files that are named one by one if they are nothing but not whole on this brick; the others are only counted.
const NAMED: usize = 1000;

/// Exit code 0: everything that is on this brick was salvaged; 1: some of it is lost, or it can't be told what is newest.
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
    Ok(if report.notes.is_empty() && !report.partial.values().any(is_wrong) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// Whether it is more than that chunks are on other bricks.
fn is_wrong(partial: &Partial) -> bool {
    Partial { absent_chunks: 0, ..partial.clone() } != Partial::default()
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for note in &report.notes {
        out += &format!("note: {note}\n");
    }
    let mut more = 0;
    for (n, (path, partial)) in report.partial.iter().enumerate() {
        if n >= NAMED && !is_wrong(partial) {
            more += 1;
            continue;
        }
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
        if !partial.kept.is_empty() {
            let kept: Vec<String> = partial.kept.iter().map(|path| path.display().to_string()).collect();
            out +=
                &format!(" which of the bricks has the newest can't be told, see also {}", kept.join(", "));
        }
        if !partial.removed_on.is_empty() {
            let bricks: Vec<&str> = partial.removed_on.iter().map(String::as_str).collect();
            out += &format!(
                " {} had a part of it and has it no more, so it may have been removed",
                bricks.join(", ")
            );
        }
        if partial.older {
            out += " may be older than what was acknowledged (a part of a brick's journal or index is lost)";
        }
        out.push('\n');
    }
    if more > 0 {
        out += &format!("... and {more} more of which chunks are not on this brick\n");
    }
    if report.bricks > 1 {
        out += "files that were deleted while one of the bricks was away may be back: not all of them can be told\n";
    }
    out += &format!(
        "{}, {} of them whole; {}, {} bytes, found by {}; {} lost\n",
        counted(report.files, "file", "files"),
        report.whole,
        counted(report.done.chunks, "chunk", "chunks"),
        report.done.bytes,
        if report.by_index { "the index" } else { "the table of owners" },
        counted(report.bad_blocks(), "block", "blocks"),
    );
    out
}
