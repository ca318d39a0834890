//! Conformance suites that others wrote.

use anyhow::{Context, Result, ensure};
use brickyard_tests::place::setting;
use brickyard_tests::{Place, suites};

/// At least so many of a hundred tests that were not skipped must pass, whatever is documented.
const MIN_PERCENT: u32 = 95;

/// pjdfstest, as root: nothing fails but what `docs/posix.md` lists with its reason, and at least 95 %
/// pass.
#[test]
fn pjdfstest_fails_only_where_documented() -> Result<()> {
    let place = Place::new()?;
    let report = brickyard_tests::cluster::Workshop::new()?;
    let verdict = suites::pjdfstest(place.path(), &report.path().join("report"))?;
    let failed = verdict.failures.len() as u32;
    eprintln!("pjdfstest: {} passed, {failed} failed, {} skipped", verdict.passed, verdict.skipped);
    for name in &verdict.failures {
        eprintln!("failed: {name}");
    }
    let known = suites::documented_failures()?;
    let new: Vec<&String> = verdict.failures.difference(&known).collect();
    ensure!(new.is_empty(), "not documented in docs/posix.md: {new:#?}");
    ensure!(
        verdict.passed * 100 >= (verdict.passed + failed) * MIN_PERCENT,
        "only {} of {} pass",
        verdict.passed,
        verdict.passed + failed
    );
    let mended: Vec<&String> = known.difference(&verdict.failures).collect();
    ensure!(mended.is_empty(), "docs/posix.md lists what passes: {mended:#?}");
    place.finish()
}

/// fsx: random reads, writes, mappings, truncations, holes and copies on one file, each verified.
#[test]
fn fsx_finds_no_wrong_byte() -> Result<()> {
    let operations = setting("BRICKYARD_FSX_OPS", 20_000)?;
    let seed = setting("BRICKYARD_SEED", 42)?;
    let place = Place::new()?;
    suites::fsx(place.path(), operations, seed).context("fsx")?;
    place.finish()
}
