//! The product's log, collected and judged.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Lines kept; what a test produces beyond is counted but not stored.
const MAX_LINES: usize = 200_000;

/// The lines a process wrote to standard error, growing while it runs.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    /// Collects `stream` until its end in a thread of its own.
    pub fn collect(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while let Ok(length) = reader.read_until(b'\n', &mut line) {
                if length == 0 {
                    break;
                }
                log.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        })
    }

    fn push(&self, line: String) {
        let mut lines = self.lock();
        if lines.len() < MAX_LINES {
            lines.push(line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// The last `count` lines as one text.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Whether a line of level WARN or ERROR fits the pattern.
    pub fn warned(&self, pattern: &str) -> bool {
        self.lock().iter().any(|line| is_fault(line) && fits(line, pattern))
    }

    /// WARN, ERROR and panic lines that fit none of the `allowed` patterns.
    pub fn faults(&self, allowed: &[String]) -> Vec<String> {
        self.lock()
            .iter()
            .filter(|line| is_fault(line) && !allowed.iter().any(|pattern| fits(line, pattern)))
            .cloned()
            .collect()
    }
}

/// Whether a log line reports trouble: level WARN or ERROR among its first words, or a panic.
pub fn is_fault(line: &str) -> bool {
    let plain = without_colours(line);
    plain.split_whitespace().take(3).any(|word| word == "WARN" || word == "ERROR")
        || plain.contains("\"level\":\"WARN\"")
        || plain.contains("\"level\":\"ERROR\"")
        || (plain.contains("thread '") && plain.contains("panicked at"))
}

/// Whether `line` contains the parts of `pattern`, split at `.*`, in this order, without regard to case.
pub fn fits(line: &str, pattern: &str) -> bool {
    let line = line.to_lowercase();
    let mut rest = line.as_str();
    for part in pattern.to_lowercase().split(".*") {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // An escape sequence ends with its first letter.
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A warning nobody announced is a fault; one announced and other levels are not.
    #[test]
    fn an_unannounced_warning_is_a_fault() {
        let log = Log::default();
        log.push("2026-11-22T10:00:00.1Z  INFO brick: WARN is only a word of this message".into());
        log.push("2026-11-22T10:00:00.2Z  WARN brick: block 7 of chunk 3 is corrupt, repaired".into());
        log.push("2026-11-22T10:00:00.3Z \u{1b}[31mERROR\u{1b}[0m brick: disk gone".into());
        log.push("thread 'main' panicked at src/main.rs:1:1:".into());
        assert_eq!(log.faults(&[]).len(), 3);
        let allowed = vec!["corrupt.*repaired".to_owned(), "disk gone".to_owned()];
        assert_eq!(log.faults(&allowed).len(), 1, "a panic is never announced by another pattern");
        assert!(log.warned("chunk 3.*CORRUPT"));
        assert!(!log.warned("repaired.*corrupt"));
    }
}
