//! Random access in pieces of 4 KiB by `fio`, past the kernel's cache.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cold::drop_caches;
use crate::measure::{Scale, Unit, Workload};
use crate::sequential::fill;

/// Size of the file at most.
const MAX_MIB: u64 = 256;
const DEPTHS: [u32; 2] = [1, 16];
const KINDS: [(&str, &str); 2] = [("randread", "read"), ("randwrite", "write")];

/// 4 KiB random reads and writes with O_DIRECT, one and sixteen at a time.
#[derive(Debug)]
pub struct Random;

impl Workload for Random {
    fn rows(&self) -> Vec<(String, Unit)> {
        let mut rows = Vec::new();
        for (_, direction) in KINDS {
            for depth in DEPTHS {
                rows.push((format!("4 KiB random {direction}, O_DIRECT, depth {depth}"), Unit::PerSecond));
            }
        }
        rows
    }

    fn run(&self, dir: &Path, scale: &Scale) -> Result<Vec<f64>> {
        let path = dir.join("random");
        let mib = scale.file_mib.min(MAX_MIB);
        let mut file = File::create(&path)?;
        let mut piece = vec![0; 1 << 20];
        for number in 0..mib {
            fill(number, &mut piece);
            file.write_all(&piece)?;
        }
        file.sync_all()?;
        drop(file);
        drop_caches()?;
        let mut figures = Vec::new();
        for (kind, direction) in KINDS {
            for depth in DEPTHS {
                figures.push(fio(&path, kind, direction, depth, mib, scale.random_s)?);
            }
        }
        Ok(figures)
    }
}

/// Fails with what to install unless `fio` can be run.
///
/// # Errors
/// If it cannot.
pub fn need_fio() -> Result<()> {
    let status = Command::new("fio").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("fio is not installed: apt-get install fio"),
    }
}

fn fio(path: &Path, kind: &str, direction: &str, depth: u32, mib: u64, seconds: u64) -> Result<f64> {
    let output = Command::new("fio")
        .args([
            "--name=random",
            "--bs=4k",
            "--direct=1",
            "--ioengine=libaio",
            "--time_based",
            "--randrepeat=1",
        ])
        .args(["--output-format=json", "--allow_file_create=0"])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--rw={kind}"))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--size={mib}m"))
        .arg(format!("--runtime={seconds}"))
        .stdin(Stdio::null())
        .output()
        .context("cannot run fio")?;
    if !output.status.success() {
        bail!("fio: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&String::from_utf8_lossy(&output.stdout), direction)
}

/// Operations a second out of fio's report, which notes may precede.
fn parse(text: &str, direction: &str) -> Result<f64> {
    let start = text.find('{').with_context(|| format!("fio printed no JSON: {text:?}"))?;
    let report: Value = serde_json::from_str(&text[start..]).context("fio's report")?;
    let job = &report["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        bail!("fio reports error {}", job["error"]);
    }
    job[direction]["iops"].as_f64().with_context(|| format!("no figure for {direction} in fio's report"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The report is found behind notes; an error in it is one.
    #[test]
    fn reports_are_parsed() {
        let report = "note: hello\n{\"jobs\": [{\"error\": 0, \"read\": {\"iops\": 12.5}, \"write\": {\"iops\": 0.0}}]}\n";
        assert!((parse(report, "read").unwrap() - 12.5).abs() < 1e-9);
        assert!(parse(&report.replace("\"error\": 0", "\"error\": 5"), "read").is_err());
        assert!(parse("fio: no such file", "read").is_err());
    }
}
