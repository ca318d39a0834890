//! `brickyard-bench-store`: the chunk store alone, beside the disk it lies on.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use brickyard_benches::store::{Size, measure, table};
use clap::Parser;

/// Measures the chunk store beside O_DIRECT on the same disk, in turns, and prints a table
#[derive(Debug, Parser)]
#[command(name = "brickyard-bench-store", version)]
struct Options {
    /// Directory on the disk to measure; what is made in it is removed afterwards
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Size of the data set in MiB
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    mib: u32,
    /// Threads of the random part
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    threads: u8,
    /// Length of a round of the random part, in seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Rounds of everything
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// Exit with 1 if the store is below half of the disk's random overwrites, or writes more than 4
    /// bytes a byte
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brickyard-bench-store: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let size = Size {
        mib: options.mib.next_multiple_of(64) as usize,
        threads: usize::from(options.threads),
        round: Duration::from_secs(options.seconds),
        rounds: usize::from(options.rounds),
    };
    let outcome = measure(&options.dir, size)?;
    print!("{}", table(&outcome, &size));
    if options.check {
        for row in outcome.rows.iter().filter(|row| row.name.starts_with("random")) {
            ensure!(row.store >= row.disk / 2.0, "{}: below half of the disk", row.name);
        }
        for counted in [&outcome.random, &outcome.synced] {
            let (written, payload) = (counted.written_bytes(), counted.payload_bytes);
            ensure!(written <= 4 * payload, "{written} bytes written for {payload}");
        }
    }
    Ok(())
}
