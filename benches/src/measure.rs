//! Workloads, repetitions in turns, medians.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::side::Side;

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 10^6 bytes a second.
    MegabytesPerSecond,
    /// Operations a second.
    PerSecond,
    /// Seconds: less is better.
    Seconds,
}

impl Unit {
    /// As the table shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MegabytesPerSecond => "MB/s",
            Self::PerSecond => "1/s",
            Self::Seconds => "s",
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Repetitions of everything on both sides.
    pub repetitions: usize,
    /// Size of the large file, in MiB.
    pub file_mib: u64,
    /// Seconds of each random-access test.
    pub random_s: u64,
    /// Files, or directories, each thread makes.
    pub names: usize,
    /// Files of the tree.
    pub tree_files: usize,
}

impl Scale {
    /// What a comparison needs: some minutes.
    pub const FULL: Self = Self { repetitions: 3, file_mib: 512, random_s: 3, names: 1000, tree_files: 2000 };
    /// Whether it works at all: seconds.
    pub const QUICK: Self = Self { repetitions: 1, file_mib: 64, random_s: 1, names: 100, tree_files: 200 };
}

/// Something that is done in a directory and gives one or more figures.
pub trait Workload {
    /// Names and units of the figures, always the same ones.
    fn rows(&self) -> Vec<(String, Unit)>;

    /// Does it in an empty directory, which may be left full; gives the figures in the order of the rows.
    ///
    /// # Errors
    /// If anything fails, or reads give other bytes than were written.
    fn run(&self, dir: &Path, scale: &Scale) -> Result<Vec<f64>>;
}

/// A figure of both sides, all repetitions.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// In which unit.
    pub unit: Unit,
    /// Through the mount.
    pub mount: Vec<f64>,
    /// On the local disk.
    pub local: Vec<f64>,
}

impl Row {
    /// The mount's speed as part of the local disk's; more is better, whatever the unit.
    pub fn of_local(&self) -> f64 {
        let (mount, local) = (median(&self.mount), median(&self.local));
        match self.unit {
            Unit::Seconds => local / mount,
            _ => mount / local,
        }
    }
}

/// The middle of the figures, or the mean of the two in the middle; not a number if there are none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Operations a second since `start`.
pub fn rate(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64().max(1e-9)
}

/// Runs one workload on both sides in turns, the first to begin changing with each repetition.
///
/// # Errors
/// If the workload fails on either side.
pub fn compare(workload: &dyn Workload, mount: &Side, local: &Side, scale: &Scale) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = workload
        .rows()
        .into_iter()
        .map(|(name, unit)| Row { name, unit, mount: Vec::new(), local: Vec::new() })
        .collect();
    for repetition in 0..scale.repetitions {
        let turns = if repetition % 2 == 0 { [mount, local] } else { [local, mount] };
        for side in turns {
            let dir = side.dir().join("work");
            std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let figures = workload.run(&dir, scale).with_context(|| format!("in {}", dir.display()))?;
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
            ensure!(
                figures.len() == rows.len(),
                "a workload of {} rows gave {} figures",
                rows.len(),
                figures.len()
            );
            for (row, figure) in rows.iter_mut().zip(figures) {
                let series = if side.name == mount.name { &mut row.mount } else { &mut row.local };
                series.push(figure);
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Noting(RefCell<Vec<String>>);

    impl Workload for Noting {
        fn rows(&self) -> Vec<(String, Unit)> {
            vec![("one".into(), Unit::PerSecond), ("two".into(), Unit::Seconds)]
        }

        fn run(&self, dir: &Path, _: &Scale) -> Result<Vec<f64>> {
            let side =
                dir.ancestors().nth(2).and_then(Path::file_name).unwrap().to_string_lossy().into_owned();
            let mut seen = self.0.borrow_mut();
            seen.push(side.clone());
            // The mount at half the speed and double the time.
            let figure = seen.len() as f64;
            Ok(if side == "m" { vec![10.0, 4.0 + figure / 1000.0] } else { vec![20.0, 2.0] })
        }
    }

    /// Invariant 1: both sides work in turns and the first changes; directories are new each time and gone in the end.
    #[test]
    fn sides_take_turns() {
        let temp = tempfile::tempdir().unwrap();
        let (m, l) = (temp.path().join("m"), temp.path().join("l"));
        for dir in [&m, &l] {
            std::fs::create_dir(dir).unwrap();
        }
        {
            let (mount, local) = (Side::new("mount", &m, 0).unwrap(), Side::new("local", &l, 0).unwrap());
            let workload = Noting(RefCell::new(Vec::new()));
            let rows = compare(&workload, &mount, &local, &Scale::FULL).unwrap();
            assert_eq!(*workload.0.borrow(), ["m", "l", "l", "m", "m", "l"]);
            assert_eq!((rows[0].mount.len(), rows[0].local.len()), (3, 3));
            assert!((rows[0].of_local() - 0.5).abs() < 0.01 && (rows[1].of_local() - 0.5).abs() < 0.01);
        }
        assert_eq!(std::fs::read_dir(&m).unwrap().count(), 0);
    }

    /// The median of odd and even counts.
    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_string(), "2.5");
        assert!(median(&[]).is_nan());
    }
}
