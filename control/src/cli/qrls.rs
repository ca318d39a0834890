//! `qrls`: releases held jobs.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{finish, qmod};

const HELP: &str = "\
usage: qrls [-h u] [-u USER,...] JOB,...

Releases jobs that were held by qhold or qsub -h.
JOB: number, name or pattern.
";

/// Runs `qrls` with the arguments behind its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    finish("qrls", qmod::change(args, HELP, qmod::Change::Hold(false)))
}
