//! The table for people and the file for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::measure::{Row, Scale, median};

/// A figure with three significant digits and thousands apart.
fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    if value < 100.0 {
        let digits = if value < 1.0 {
            3
        } else if value < 10.0 {
            2
        } else {
            1
        };
        return format!("{value:.digits$}");
    }
    let plain = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in plain.chars().enumerate() {
        if place > 0 && (plain.len() - place) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn percent(part: f64) -> String {
    if part.is_finite() { format!("{} %", figure(part * 100.0)) } else { "-".to_owned() }
}

/// The aligned table: medians of both sides, and the mount's speed as part of the local disk's.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![["workload", "unit", "mount", "local", "of local"].map(str::to_owned)];
    for row in rows {
        lines.push([
            row.name.clone(),
            row.unit.name().to_owned(),
            figure(median(&row.mount)),
            figure(median(&row.local)),
            percent(row.of_local()),
        ]);
    }
    let mut widths = [0; 5];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let [name, unit, cells @ ..] = line;
        let _ = write!(text, "{name:<0$}  {unit:<1$}", widths[0], widths[1]);
        for (cell, width) in cells.iter().zip(&widths[2..]) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
        if number == 0 {
            text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 8));
            text.push('\n');
        }
    }
    text
}

/// Everything measured, with what it was measured on.
pub fn as_json(rows: &[Row], scale: &Scale) -> Value {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let side = |figures: &[f64]| json!({ "median": median(figures), "all": figures });
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "unit": row.unit.name(),
                "mount": side(&row.mount), "local": side(&row.local), "of_local": row.of_local(),
            })
        })
        .collect();
    json!({
        "kernel": release, "cpus": cpus, "repetitions": scale.repetitions, "file_mib": scale.file_mib,
        "random_s": scale.random_s, "names": scale.names, "tree_files": scale.tree_files, "rows": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Unit;

    /// Columns line up and figures are readable.
    #[test]
    fn the_table_is_aligned() {
        let row = |name: &str, unit, mount, local| Row {
            name: name.into(),
            unit,
            mount: vec![mount],
            local: vec![local],
        };
        let text = table(&[
            row("create", Unit::PerSecond, 1234.0, 22_345.0),
            row("tree", Unit::Seconds, 2.0, 0.5),
            row("nothing", Unit::PerSecond, f64::NAN, 0.0),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{text}");
        assert!(
            lines[2].contains("1 234") && lines[2].contains("22 345") && lines[2].ends_with("5.52 %"),
            "{text}"
        );
        assert!(lines[3].ends_with("25.0 %"), "{text}");
        assert!(lines[4].ends_with('-'), "{text}");
    }
}
