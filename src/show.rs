//! Text for a terminal.

/// A table with left-aligned text and right-aligned numbers, columns two blanks apart.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// An empty table; a header that starts with `>` makes its column right-aligned.
    pub fn new(header: &[&str]) -> Self {
        let right = header.iter().map(|h| h.starts_with('>')).collect();
        let titles = header.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![titles], right }
    }

    /// Adds a row; cells beyond the header are not shown.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().take(self.right.len()).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width: Vec<usize> = (0..self.right.len())
            .map(|c| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, (width, right)) in row.iter().zip(width.iter().zip(&self.right)) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if *right {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&pad);
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Time since something, in milliseconds: short ones to a tenth of a second.
pub fn age(ms: u64) -> String {
    match ms / 1000 {
        0..10 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// A path on one line: bytes that are no UTF-8 and characters that steer a terminal are written as escapes.
pub fn path(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        out.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    out
}

/// Bytes in the unit that leaves one to four digits before the point.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number and what it counts, in the singular where that is right.
pub fn counted<N: PartialEq + From<bool> + std::fmt::Display>(n: N, one: &str, many: &str) -> String {
    let what = if n == N::from(true) { one } else { many };
    format!("{n} {what}")
}

/// A time in the unit that tells most.
pub fn time(time: std::time::Duration) -> String {
    match time.as_secs() {
        s @ 0..100 => format!("{s} s"),
        s @ 100..6_000 => format!("{} min", s.div_ceil(60)),
        s @ 6_000..172_800 => format!("{} h", s.div_ceil(3_600)),
        s => format!("{} days", s.div_ceil(86_400)),
    }
}

/// How far something is, in forty characters.
pub fn bar(done: usize, all: usize) -> String {
    const WIDTH: usize = 28;
    let part = (done.min(all) * WIDTH).checked_div(all).unwrap_or(WIDTH);
    let percent = (done.min(all) * 100).checked_div(all).unwrap_or(100);
    format!("[{}{}] {percent:3} %", "#".repeat(part), ".".repeat(WIDTH - part))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bar is as wide at the end as at the beginning.
    #[test]
    fn bars_fill_up() {
        assert_eq!(bar(0, 4), format!("[{}]   0 %", ".".repeat(28)));
        assert_eq!(bar(1, 4), format!("[{}{}]  25 %", "#".repeat(7), ".".repeat(21)));
        assert_eq!(bar(9, 4), format!("[{}] 100 %", "#".repeat(28)));
        assert_eq!(bar(0, 0), bar(4, 4));
    }

    /// One is no plural, and none is.
    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(0_u8, "copy", "copies"), "0 copies");
        assert_eq!(counted(1_usize, "copy", "copies"), "1 copy");
        assert_eq!(counted(2_u64, "copy", "copies"), "2 copies");
    }

    /// Times are told in one unit.
    #[test]
    fn times_have_one_unit() {
        let text = |s| time(std::time::Duration::from_secs(s));
        assert_eq!(
            [0, 99, 100, 601, 7_201, 200_000].map(text),
            ["0 s", "99 s", "2 min", "11 min", "3 h", "3 days"]
        );
    }

    /// Columns line up, and sizes carry their unit.
    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["brick", ">used"]);
        table.row(["0".to_owned(), bytes(1023)]);
        table.row(["10".to_owned(), bytes(5 << 30)]);
        assert_eq!(table.to_string(), "brick     used\n0       1023 B\n10     5.0 GiB\n");
    }
}
