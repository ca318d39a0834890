//! SQLite on the mount: several writers, both journals, and its own integrity check.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use brickyard_tests::{Place, Run, run};

const WRITERS: usize = 4;
const TRANSACTIONS: usize = 60;

fn sqlite(db: &Path, script: &str) -> Result<String> {
    let run = Run::new("sqlite3").args(["-batch", "-bail"]).arg(db).stdin(script);
    Ok(run.limit(Duration::from_secs(300)).ok()?.text())
}

/// Several processes write one database at the same time; every transaction is there, and
/// `PRAGMA integrity_check` is content, before and after a restart of everything.
fn several_writers(journal: &str) -> Result<()> {
    run::need(&[("sqlite3", "sqlite3")])?;
    let mut place = Place::new()?;
    let db = place.join("data.db");
    sqlite(
        &db,
        &format!(
            "PRAGMA journal_mode={journal}; CREATE TABLE t(writer INT, number INT, body BLOB, UNIQUE(writer, number));
             CREATE TABLE total(n INT); INSERT INTO total VALUES(0); CREATE INDEX i ON t(body);"
        ),
    )?;
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let db = &db;
                scope.spawn(move || {
                    let mut script = String::from(".timeout 120000\n");
                    for number in 0..TRANSACTIONS {
                        script.push_str(&format!(
                            "BEGIN IMMEDIATE; INSERT INTO t VALUES({writer}, {number}, randomblob({}));
                             UPDATE total SET n = n + 1; COMMIT;\n",
                            500 + number * 37
                        ));
                    }
                    sqlite(db, &script)
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(())
    })?;
    for cold in [false, true] {
        if cold {
            place.cool()?;
        }
        let found = sqlite(&db, "PRAGMA integrity_check; SELECT count(*) FROM t; SELECT n FROM total;")?;
        let wanted = format!("ok\n{0}\n{0}", WRITERS * TRANSACTIONS);
        ensure!(found == wanted, "integrity, rows and total: {found:?} instead of {wanted:?}");
    }
    sqlite(&db, "DELETE FROM t WHERE number % 3; VACUUM; PRAGMA integrity_check;")?;
    place.finish()
}

/// With the rollback journal: byte-range locks, truncation and fsync in their classic use.
#[test]
fn sqlite_with_a_rollback_journal() -> Result<()> {
    several_writers("DELETE")
}

/// With the write-ahead log: a shared mapping between processes as well.
#[test]
fn sqlite_with_a_write_ahead_log() -> Result<()> {
    several_writers("WAL")
}
