//! The benchmark program runs on a mount from end to end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::{Cluster, Options, Run, run};

/// `brickyard-bench --quick` measures everything on both sides and leaves nothing behind.
#[test]
fn the_benchmark_measures_both_sides() -> Result<()> {
    run::need(&[("fio", "fio")])?;
    let program = binary()?.with_file_name("brickyard-bench");
    ensure!(program.is_file(), "{} is missing: cargo build --bins", program.display());
    let cluster = Cluster::start(Options::default())?;
    let local = cluster.workshop().dir("local")?;
    let json = cluster.workshop().path().join("figures.json");
    let run = Run::new(program).arg("--quick").arg("--mount").arg(cluster.mount()).arg("--local").arg(&local);
    let done = run.arg("--json").arg(&json).limit(Duration::from_secs(300)).ok()?;
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let rows = figures["rows"].as_array().context("no rows")?;
    ensure!(rows.len() >= 20, "only {} figures", rows.len());
    for row in rows {
        let name = row["name"].as_str().context("a row without a name")?;
        ensure!(done.text().contains(name), "{name} is not in the table");
        ensure!(row["mount"]["median"].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {row}");
        ensure!(row["local"]["median"].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {row}");
    }
    ensure!(std::fs::read_dir(&local)?.next().is_none(), "something was left in {}", local.display());
    let same = Run::new(binary()?.with_file_name("brickyard-bench"))
        .arg("--mount")
        .arg(&local)
        .arg("--local")
        .arg(&local);
    ensure!(!same.run()?.status.success(), "one directory was compared with itself");
    eprintln!("{}", done.text());
    cluster.check()?;
    cluster.finish()
}
