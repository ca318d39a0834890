//! `brickyard-thrash [--minutes N] [--seed S] [--without FAULT]...`: see [`brickyard_tests::thrash`]. Needs root.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use brickyard_tests::{seed, thrash};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brickyard-thrash: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut minutes = 10.0;
    let mut chosen = None;
    let mut without = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--without" => without.push(value()?),
            "--minutes" => minutes = value()?.parse::<f64>().context("--minutes")?,
            "--seed" => chosen = Some(value()?.parse::<u64>().context("--seed")?),
            _ => bail!("usage: brickyard-thrash [--minutes N] [--seed S] [--without FAULT]..."),
        }
    }
    let seed = chosen.map_or_else(seed::of_this_run, Ok)?;
    let report = thrash::run(Duration::from_secs_f64(minutes * 60.0), seed, &without)?;
    println!("thrash: nothing was lost or wrong in {minutes} minutes; seed {seed}");
    for (kind, count) in &report.faults {
        println!("  {count:>5} x {kind}");
    }
    for (program, rounds) in &report.rounds {
        println!("  {rounds:>5} rounds of {program}");
    }
    println!("  {:>5} rounds ended by a full disk", report.out_of_space);
    println!("  {:>5} fsynced files compared at the end", report.promises_kept);
    println!("  longest wait for all copies after a fault: {:.1} s", report.longest_heal.as_secs_f64());
    Ok(())
}
