//! Test suites that others wrote, run by the scripts in `suites/`, and the documented list of
//! what is known to fail.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::run::Run;

/// What pjdfstest found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many tests passed.
    pub passed: u32,
    /// How many were skipped.
    pub skipped: u32,
    /// The names of those that failed.
    pub failures: BTreeSet<String>,
}

/// A file of this crate.
fn own_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs pjdfstest in a directory, as root.
pub fn pjdfstest(dir: &Path, report: &Path) -> Result<Verdict> {
    let run = Run::new(own_file("suites/pjdfstest.sh")).arg(dir).arg(report);
    parse_verdict(&run.limit(Duration::from_secs(400)).ok()?.text())
}

fn parse_verdict(text: &str) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let (failures, summary) = text.rsplit_once('\n').unwrap_or(("", text));
    verdict.failures =
        failures.lines().filter_map(|line| line.strip_prefix("FAILED ")).map(str::to_owned).collect();
    for part in summary.split(", ") {
        let (number, what) = part.split_once(' ').with_context(|| format!("no summary: {summary:?}"))?;
        let number = number.parse().with_context(|| format!("no summary: {summary:?}"))?;
        match what {
            "passed" => verdict.passed = number,
            "skipped" => verdict.skipped = number,
            _ => anyhow::ensure!(
                what == "failed" && number as usize == verdict.failures.len(),
                "{summary:?} does not fit the list of failures"
            ),
        }
    }
    Ok(verdict)
}

/// Runs fsx on a file in a directory.
pub fn fsx(dir: &Path, operations: u64, seed: u64) -> Result<()> {
    let run = Run::new(own_file("suites/fsx.sh")).arg(dir).arg(operations.to_string()).arg(seed.to_string());
    run.limit(Duration::from_secs(500)).ok()?;
    Ok(())
}

/// The tests of pjdfstest that `docs/posix.md` lists as failing: the first column of its table.
pub fn documented_failures() -> Result<BTreeSet<String>> {
    let path = own_file("../docs/posix.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(parse_documented(&text))
}

fn parse_documented(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.contains("::"))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The scripts' output and the page are understood.
    #[test]
    fn verdicts_and_pages_are_parsed() {
        let verdict =
            parse_verdict("FAILED open::a\nFAILED rename::b::dir\n383 passed, 2 failed, 13 skipped").unwrap();
        assert_eq!((verdict.passed, verdict.skipped), (383, 13));
        let page = "| test | why |\n|---|---|\n| `open::a` | because |\n| `rename::b::dir` | so |\n| `x` | no test |\n";
        assert_eq!(parse_documented(page), verdict.failures);
        assert!(parse_verdict("385 passed, 0 failed, 13 skipped").unwrap().failures.is_empty());
        assert!(parse_verdict("385 passed, 1 failed, 13 skipped").is_err());
        assert!(parse_verdict("").is_err());
    }
}
