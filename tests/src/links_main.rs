//! `brickyard-bench-links [--mbit N] [--mib N] [--rounds N] [--readers N]`: see [`brickyard_tests::links`]. Needs root.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use brickyard_tests::links::{self, Plan};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brickyard-bench-links: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut mbit, mut mib, mut rounds, mut count) = (None, None, 3, 6);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} wants a value"))?;
        match arg.as_str() {
            "--mbit" => mbit = Some(value.parse().context("--mbit")?),
            "--mib" => mib = Some(value.parse().context("--mib")?),
            "--readers" => count = value.parse().context("--readers")?,
            "--rounds" => rounds = value.parse().context("--rounds")?,
            _ => bail!("usage: brickyard-bench-links [--mbit N] [--mib N] [--rounds N] [--readers N]"),
        }
    }
    let writer = Plan { mbit: Some(mbit.unwrap_or(1000)), mib: mib.unwrap_or(512), rounds };
    println!("one writer, two copies, {writer}: {}", links::one_writer(writer)?);
    let readers = Plan { mbit: Some(mbit.unwrap_or(100)), mib: mib.unwrap_or(128), rounds };
    println!("{count} readers, six bricks, {readers}: {}", links::readers(readers, count)?);
    let free = Plan { mbit: None, mib: mib.unwrap_or(128), rounds };
    println!("{count} readers, six bricks, {free}: {}", links::readers(free, count)?);
    Ok(())
}
