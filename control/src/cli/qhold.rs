//! `qhold`: holds waiting jobs.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{finish, qmod};

const HELP: &str = "\
usage: qhold [-h u] [-u USER,...] JOB,...

Holds waiting jobs: they don't begin until qrls releases them. What runs goes on.
JOB: number, name or pattern.
";

/// Runs `qhold` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    finish("qhold", qmod::change(args, HELP, qmod::Change::Hold(true)))
}
