//! `qhold`: holds waiting jobs.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{qmod, run};

const HELP: &str = "\
usage: qhold [-h u] [-u USER,...] JOB,...

Holds waiting jobs: they don't begin until qrls releases them. What runs goes on.
JOB: number, name or pattern.
";

/// Runs `qhold` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    run("qhold", args, HELP, |args, out| qmod::change(args, out, qmod::Change::Hold(true)))
}
