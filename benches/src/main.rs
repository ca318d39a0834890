//! `brickyard-bench`: the mount beside the local disk, in one run, as a table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use brickyard_benches::measure::{Scale, Workload, compare};
use brickyard_benches::metadata::Metadata;
use brickyard_benches::side::{Side, ensure_apart};
use brickyard_benches::{cold, fio, report, sequential, tree};
use clap::Parser;

/// Measures a mounted filesystem beside the local disk, in turns, and prints a table
///
/// Each figure is the median of the repetitions. The large file is timed until it is on the disk; what is
/// called cold is read after the kernel's caches were dropped, which needs root.
#[derive(Debug, Parser)]
#[command(name = "brickyard-bench", version)]
struct Options {
    /// Directory on the mount to measure in
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// Directory on the local disk to compare with; best on the disk the mount's data lies on
    #[arg(long, value_name = "DIR")]
    local: PathBuf,
    /// Seconds instead of minutes: shows that it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Repetitions of everything [default: 3, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    repetitions: Option<u8>,
    /// Only workloads whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Also write every figure to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brickyard-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut scale = if options.quick { Scale::QUICK } else { Scale::FULL };
    if let Some(repetitions) = options.repetitions {
        scale.repetitions = usize::from(repetitions);
    }
    let workloads = chosen(options.only.as_deref())?;
    ensure_apart(&options.mount, &options.local)?;
    fio::need_fio()?;
    cold::drop_caches()?;
    // Before minutes are spent: can the results be written?
    if let Some(path) = &options.json {
        std::fs::write(path, "").with_context(|| format!("cannot write --json {}", path.display()))?;
    }
    // The large file, the one for random access and the tree are there one after another.
    let need_bytes = (scale.file_mib << 20) * 2;
    let mount = Side::new("mount", &options.mount, need_bytes)?;
    let local = Side::new("local", &options.local, need_bytes)?;
    let mut rows = Vec::new();
    for workload in &workloads {
        if let Some((name, _)) = workload.rows().first() {
            eprintln!("measuring: {name} ...");
        }
        rows.extend(compare(workload.as_ref(), &mount, &local, &scale)?);
    }
    println!(
        "\nmedians of {} repetitions, both sides in turns; more is better in the last column\n",
        scale.repetitions
    );
    print!("{}", report::table(&rows));
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", report::as_json(&rows, &scale));
        std::fs::write(path, text).with_context(|| format!("cannot write --json {}", path.display()))?;
    }
    Ok(())
}

/// All workloads with a figure of that name.
fn chosen(only: Option<&str>) -> Result<Vec<Box<dyn Workload>>> {
    let mut workloads: Vec<Box<dyn Workload>> = vec![
        Box::new(sequential::Sequential),
        Box::new(fio::Random),
        Box::new(Metadata { threads: 1 }),
        Box::new(Metadata { threads: 4 }),
        Box::new(tree::Tree),
    ];
    if let Some(only) = only {
        workloads.retain(|workload| workload.rows().iter().any(|(name, _)| name.contains(only)));
        ensure!(!workloads.is_empty(), "--only {only}: no workload has that in its name");
    }
    Ok(workloads)
}
