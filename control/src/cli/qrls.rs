//! `qrls`: releases held jobs.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{qmod, run};

const HELP: &str = "\
usage: qrls [-h u] [-u USER,...] JOB,...

Releases jobs that were held by qhold or qsub -h.
JOB: number, name or pattern.
";

/// Runs `qrls` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    run("qrls", args, HELP, |args, out| qmod::change(args, out, qmod::Change::Hold(false)))
}
