//! How a command says no: one line on standard error, with where to read more.
//!
//! 1. What the command line's parser tells in several lines is told in one (`what_is_not_understood_is_one_line`).
//! 2. `--help` and `--version` are no refusals: they are printed as they are, on standard output
//!    (`help_is_no_refusal`).

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Command;
use clap::error::ErrorKind;

use crate::cli::WHICH;

/// The ways to say which cluster is meant.
const WAYS: &str = "--data DIR (on the cluster's own machine: what `brickyard up --data` or `brickyard namespace --dir` was \
                    given) or --cred FILE (on any machine: the administrator's credential, with --join ADDR:PORT if it does \
                    not say where the namespace is)";

/// Exit code for a command line that is not understood.
pub const MISUSED: u8 = 2;

/// Says on standard error why something is not done.
pub fn say(error: &anyhow::Error) {
    eprintln!("brickyard: {}", one_line(error));
}

/// An error with its causes, without line ends, which they may bring along. A cause that the message before it has
/// told is not told again.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
            told = cause;
        }
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Answers a command line that the parser did not take: a refusal, or the help that was asked for.
///
/// # Errors
/// If help cannot be printed.
pub fn of_command_line(
    error: &clap::Error,
    command: &Command,
    args: &[OsString],
) -> std::io::Result<ExitCode> {
    match refusal(error, command, args) {
        Some(line) => eprintln!("brickyard: {line}"),
        None => error.print()?,
    }
    Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISUSED)))
}

/// The refusal in one line; `None` for help.
fn refusal(error: &clap::Error, command: &Command, args: &[OsString]) -> Option<String> {
    let help = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if help.contains(&error.kind()) {
        return None;
    }
    let what = condensed(&error.render().to_string()).replace(WHICH, WAYS);
    Some(format!("{what}; see \"{} --help\"", called(command, args)))
}

/// What the parser says, without the usage that follows it, and of its tips only names that were nearly met.
fn condensed(text: &str) -> String {
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        match part.strip_prefix("tip: ") {
            Some(tip) if tip.contains("similar") => {
                line.push_str("; ");
                line.push_str(tip);
            }
            Some(_) => {}
            None if line.is_empty() => line.push_str(part.strip_prefix("error: ").unwrap_or(part)),
            None => {
                line.push_str(if line.ends_with(':') || part.starts_with('[') { " " } else { ", " });
                line.push_str(part);
            }
        }
    }
    line
}

/// The command by all its names, such as `brickyard brick drain`.
fn called(command: &Command, args: &[OsString]) -> String {
    let (mut at, mut names) = (command, command.get_name().to_owned());
    for arg in args.iter().skip(1).filter_map(|arg| arg.to_str()) {
        if arg == "--" {
            break;
        }
        if let Some(sub) = at.find_subcommand(arg) {
            names.push(' ');
            names.push_str(sub.get_name());
            at = sub;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn refused(line: &str) -> Option<String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let (command, error) = cli::misunderstood(&args)?;
        refusal(&error, &command, &args)
    }

    /// Invariant 1: unknown names, missing and wrong values, contradictions, each with the help of the very
    /// command that was called.
    #[test]
    fn what_is_not_understood_is_one_line() {
        for (line, words) in [
            ("brickyard frobnicate", &["'frobnicate'", "see \"brickyard --help\""][..]),
            ("brickyard up --nonsense", &["'--nonsense'", "see \"brickyard up --help\""]),
            ("brickyard up --brick 3", &["'--brick'", "'--bricks'"]),
            ("brickyard up", &["--data <DIR>, --mount <MNT>", "see \"brickyard up --help\""]),
            ("brickyard up --data", &["a value is required", "--data <DIR>"]),
            ("brickyard up --data d --mount m --bricks 0", &["'0'", "--bricks <N>", "1..=64"]),
            ("brickyard up --data d --mount m --log-format xml", &["'xml'", "[possible values: text, json]"]),
            ("brickyard status --data d --cred c", &["--data <DIR>", "--cred <FILE>"]),
            ("brickyard status", &["--data DIR", "--cred FILE", "--join", "see \"brickyard status --help\""]),
            ("brickyard brick list", &["--data DIR", "--cred FILE", "see \"brickyard brick list --help\""]),
            ("brickyard check --join 10.0.0.1:1", &["--cred"]),
            ("brickyard --log info brick drain x", &["'x'", "see \"brickyard brick drain --help\""]),
            ("brickyard token --cred c", &["<ROLE>", "see \"brickyard token --help\""]),
        ] {
            let said = refused(line).unwrap_or_default();
            assert_eq!(said.lines().count(), 1, "{line}: {said:?}");
            assert!(!said.contains("error:") && !said.contains("Usage"), "{line}: {said}");
            for word in words {
                assert!(said.contains(word), "{line}: {word:?} is not in {said:?}");
            }
        }
    }

    /// Invariant 2.
    #[test]
    fn help_is_no_refusal() {
        for line in ["brickyard --help", "brickyard up --help", "brickyard --version", "brickyard"] {
            assert_eq!(refused(line), None, "{line}");
        }
    }

    /// What a cause brings along on lines of its own stays on this one.
    #[test]
    fn a_cause_of_several_lines_is_told_in_one() {
        let error = anyhow::anyhow!("first\n  second\n").context("above");
        assert_eq!(one_line(&error), "above: first second");
    }

    /// An error whose message has its cause in it, as some of libraries do, tells it once.
    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("x: {0}; do that")]
        struct Telling(#[from] std::fmt::Error);
        let cause = std::fmt::Error.to_string();
        let error = anyhow::Error::from(Telling(std::fmt::Error)).context("above");
        assert_eq!(one_line(&error), format!("above: x: {cause}; do that"));
        let error = anyhow::anyhow!("inner").context("outer").context("inner");
        assert_eq!(one_line(&error), "inner: outer: inner");
    }

    /// What a service or the system answers is told once, in whatever an error of ours carries it.
    #[test]
    fn errors_of_calls_and_credentials_have_no_echo() {
        use wire::net::{CallError, Credential};
        let status = wire::status::Status::Forbidden;
        let missing = Credential::load(std::path::Path::new("/none/x.cred")).err().map(anyhow::Error::from);
        for (error, words) in [
            (anyhow::Error::from(CallError::Status(status)), status.to_string()),
            (missing.unwrap_or_else(|| anyhow::anyhow!("it was read")), "No such file".to_owned()),
        ] {
            let told = format!("{error:#}");
            assert_eq!(told.matches(&words).count(), 1, "{told}");
        }
    }
}
