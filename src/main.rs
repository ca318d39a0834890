//! The door: by what name and with which arguments was the program called; run that, and give
//! back its exit code. Nothing is decided here that belongs to a room.

mod admin;
mod brick_admin;
mod check;
mod cli;
mod logging;
mod member_admin;
mod progress;
mod refusal;
mod roles;
mod salvage;
mod scheduler;
mod session_admin;
mod show;
mod status;
mod stuck;
mod times;
mod up;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if let Some(tool) = args.first().and_then(scheduler::tool_called) {
        return scheduler::run_tool(tool, args.split_off(1));
    }
    if let Some(tool) = args.get(1).and_then(scheduler::tool_called) {
        return scheduler::run_tool(tool, args.split_off(2));
    }
    if args.first().is_some_and(roles::mount::is_called) {
        return roles::mount::main(args.split_off(1));
    }
    if args.get(1).is_some_and(|a| a == "mount") {
        return roles::mount::main(args.split_off(2));
    }
    if args.get(1).is_some_and(|a| a == "shepherd") {
        return control::shepherd::main(args.split_off(2));
    }
    match cli::run(args) {
        Ok(code) => code,
        Err(error) => {
            refusal::say(&error);
            ExitCode::FAILURE
        }
    }
}
