//! The commands users type. Each is a `main` that takes the arguments behind the command's name and gives the exit code.
//!
//! They find the control directory by the variable `BRICKYARD_ROOT` (a mount point or the directory itself), or else by looking for
//! a mounted Brickyard filesystem: the one the working directory is in, or the one mounted last. They ask no server: handing in is a rename into `jobs/incoming`, asking is reading the
//! snapshot and the journal's tail.

//! What they say is what Grid Engine's say, since scripts read it, and so are their exit codes:
//!
//! 1. Whatever is refused gives exit code 1, also a command line that isn't understood: `qsub -sync y` has all others for what
//!    the job says. `wrong_input_is_refused_in_one_clear_line`
//! 2. A command that does nothing says why in one line on standard error, which begins with its name; only where a job isn't
//!    taken as it is asked for, these are Grid Engine's two lines, "Unable to run job: ..." and "Exiting.".
//! 3. What is done about a job or isn't (there is none of this number, it is somebody else's) is the command's answer, on
//!    standard output, one line a job: the others are done all the same. `answers_about_single_jobs_are_grid_engines`

mod find;
mod local_time;
pub mod options;
pub mod qacct;
pub mod qdel;
pub mod qhold;
pub mod qmod;
pub mod qrls;
pub mod qstat;
pub mod qsub;
mod rows;
mod select;

use std::ffi::OsString;
use std::io::{BufWriter, StdoutLock, Write};
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::store::disk::{self, Disk};
use crate::store::message::{COMMAND, COMMAND_PREFIX, Command};
use crate::store::sealed;

/// Begins Grid Engine's own message when a job isn't accepted; it is followed by a line "Exiting.".
const UNABLE: &str = "Unable to run job: ";

/// Why a command ends with an exit code that isn't 0.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to tell, one clear line (Grid Engine's own messages may have two); empty when all was told.
    pub text: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    pub fn new(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), code: 1 }
    }

    pub fn silent(code: u8) -> Failure {
        Failure { text: String::new(), code }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::new(e.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        // The reader of our output went away, as `head` does: nothing to tell anybody.
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::silent(0);
        }
        Failure::new(format!("can't write the output: {e}"))
    }
}

/// Runs a command's body and turns its result into text and exit code.
pub(crate) fn finish(name: &str, result: std::result::Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                // Nowhere to tell it if stderr is closed: the exit code still says it.
                let _told = if failure.text.starts_with(UNABLE) {
                    writeln!(std::io::stderr(), "{}.\nExiting.", failure.text)
                } else {
                    writeln!(std::io::stderr(), "{name}: {}", failure.text)
                };
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Where a command's answer goes.
pub(crate) type Output = BufWriter<StdoutLock<'static>>;

/// What the commands that show or change jobs have in common: arguments as text, `--help`, and an answer that is
/// written out whatever becomes of `body`.
pub(crate) fn run(
    name: &str,
    args: Vec<OsString>,
    help: &str,
    body: impl FnOnce(Vec<String>, &mut Output) -> std::result::Result<(), Failure>,
) -> ExitCode {
    let answer = || {
        let args = text_args(args)?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        let done = if wants_help(&args) {
            out.write_all(help.as_bytes()).map_err(Failure::from)
        } else {
            body(args, &mut out)
        };
        out.flush()?;
        done
    };
    finish(name, answer())
}

/// The value behind an option.
pub(crate) fn value_of(
    option: &str,
    args: &mut impl Iterator<Item = String>,
) -> std::result::Result<String, Failure> {
    args.next().ok_or_else(|| Failure::new(format!("option {option} needs a value")))
}

/// The arguments as text; Grid Engine's formats have no place for other bytes.
pub(crate) fn text_args(args: Vec<OsString>) -> std::result::Result<Vec<String>, Failure> {
    args.into_iter()
        .map(|a| a.into_string().map_err(|a| Failure::new(format!("argument {a:?} isn't UTF-8 text"))))
        .collect()
}

/// Does the user ask for help?
fn wants_help(args: &[String]) -> bool {
    args.iter().any(|a| a == "--help" || a == "-help")
}

/// Hands a command to the master, durably.
pub(crate) fn hand_in(layout: &Layout, command: &Command) -> Result<()> {
    let disk = Disk::default();
    let incoming = layout.incoming();
    let name = format!("{COMMAND_PREFIX}{}", disk::unique());
    disk.publish(&incoming, &name, &sealed::seal_json(COMMAND, command)?, 0o600)?;
    disk.sync_dir(&incoming)
}
