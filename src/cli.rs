//! Every subcommand and option of `brickyard`, in one place: names outsiders depend on.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::roles::{brick, listen_address, member, token};
use crate::{
    brick_admin, check, logging, member_admin, refusal, salvage, scheduler, session_admin, status, stuck, up,
    watch,
};

#[derive(Debug, Parser)]
#[command(
    name = "brickyard",
    version,
    about = "A replicated cluster filesystem, and a batch scheduler on it",
    after_help = "The commands of the scheduler are subcommands too, and run by their own names where \
                  they are linked: qsub, qstat, qdel, qhold, qrls, qmod, qacct. Each has its own --help.",
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

/// How a long-running command logs, on standard error.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// Form of log lines
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What to log: a level (error, warn, info, debug, trace) or a filter such as
    /// "warn,brickyard_namespace=debug"
    #[arg(long, global = true, env = "BRICKYARD_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster on this machine, in the foreground, and mount it
    ///
    /// Makes the cluster in DIR the first time and continues it afterwards. Prints
    /// "ready: MNT" on standard output when the mount is usable. Ctrl-C or SIGTERM unmounts and
    /// stops cleanly.
    Up(UpOptions),
    /// Make a cluster of several machines, and exit
    ///
    /// DIR gets the cluster's authority, the administrator's credential (DIR/admin.cred) and the
    /// first namespace member, which `brickyard namespace --dir DIR` runs.
    Init(member::InitOptions),
    /// Make a join token for one more machine, and print it
    Token(token::Options),
    /// Run a namespace member (names, the cluster map, who is alive), or look after those of a running cluster
    ///
    /// Three or five members go on when one or two are gone. The first is made by `brickyard init`, the
    /// others with --listen, --join and --token; from then on --dir is enough.
    Namespace(member::NamespaceOptions),
    /// Serve one or more bricks, or look after those of a running cluster
    ///
    /// The first time with --listen, --join and --token; from then on --dir is enough.
    Brick(brick::Options),
    /// Show bricks, chains and mounts of a running cluster
    Status(StatusOptions),
    /// Show who waits for which lock, and who holds it
    ///
    /// A lock of a machine that is gone is given up by itself when its time is over; `setfattr -n user.brickyard.lock.break -v GENERATION
    /// FILE` on a mount breaks one that somebody does not let go. `getfattr --only-values -n user.brickyard.lock FILE` shows all locks on
    /// a file.
    Stuck(StuckOptions),
    /// Show the mounts of a running cluster, and end the session of one that is gone
    #[command(subcommand)]
    Session(session_admin::Order),
    /// Verify the namespace and all bricks of a running cluster against each other
    ///
    /// Exit code 0: consistent; 1: problems, each listed; 2: it could not be checked; 3: consistent, after
    /// bad blocks were put right from other copies, or after --repair mended all that was wrong.
    Check(CheckOptions),
    /// Get plain files off a brick directory, with no cluster
    ///
    /// For a disk that was pulled, or a cluster that is no more. Exit code 0: everything on this brick
    /// was salvaged; 1: some of it is lost or may be older than it was, as listed.
    Salvage(salvage::SalvageOptions),
    /// Tell what changes in a directory of a mount, one JSON object a line
    ///
    /// Whoever remembers the last index and asks --since it misses nothing and is told nothing twice: a backup, a mirror.
    /// Exit code 0: ended by a signal, by its reader, or since DIR was removed; 3: changes are missing, since what
    /// was asked for is not kept any more: look at all of DIR, then go on from the index that the last line tells.
    Watch(watch::WatchOptions),
    /// Run the scheduler's master on a mounted cluster directory
    Master(scheduler::MasterOptions),
    /// Run the scheduler's agent: takes jobs for this machine
    Agent(scheduler::AgentOptions),
}

/// What calls to the namespace travel over; calls to bricks always go over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportKind {
    /// TLS over TCP: a third of QUIC's time for a small call on one machine.
    Tls,
    /// QUIC: one UDP port, survives changes of address.
    Quic,
}

/// Options of `brickyard up`.
#[derive(Debug, Clone, Args)]
pub struct UpOptions {
    /// Directory that holds the cluster's data; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Empty directory to mount the filesystem on
    #[arg(long, value_name = "MNT")]
    pub mount: PathBuf,
    /// Bricks of a new cluster [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub bricks: Option<u32>,
    /// Copies of every file's bytes in a new cluster [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub replicas: Option<u8>,
    /// Members of the namespace; this version runs one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=1))]
    pub namespaces: u8,
    /// Address and port to listen on: the namespace there, the bricks on the ports that follow;
    /// port 0 takes free ones
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// What calls to the namespace travel over
    #[arg(long, value_enum, default_value = "tls")]
    pub transport: TransportKind,
    /// Jobs to run at a time [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// Only the filesystem: no master, no agent
    #[arg(long)]
    pub no_scheduler: bool,
    /// Make the missing directory of this brick anew though nobody else has all of its data, and give that data up;
    /// repeat it for several
    #[arg(long, value_name = "BRICK")]
    pub replace: Vec<u32>,
    /// Let other machines mount it, too (mount.brickyard); without it this mount has the cluster for
    /// itself and is faster, since its kernel may remember names and data
    #[arg(long)]
    pub shared: bool,
}

/// How the parser calls the two ways to say which cluster is meant.
pub const WHICH: &str = "<--data <DIR>|--cred <FILE>>";

/// Which cluster a command is for.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["data", "cred"])))]
pub struct ClusterOptions {
    /// Data directory of a cluster started by `brickyard up`, or directory of its namespace
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The administrator's credential, on any machine
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub cred: Option<PathBuf>,
    /// Where the namespace is, if not where the credential says
    #[arg(long, value_name = "ADDR:PORT,...", requires = "cred")]
    pub join: Option<String>,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Options of `brickyard status`.
#[derive(Debug, Clone, Args)]
pub struct StatusOptions {
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard stuck`.
#[derive(Debug, Clone, Args)]
pub struct StuckOptions {
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard check`.
#[derive(Debug, Clone, Args)]
pub struct CheckOptions {
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Also read every chunk on every brick against its checksums and its copies
    #[arg(long)]
    pub data_too: bool,
    /// Mend what can be mended without a guess, while the cluster is in use, and tell each thing that was done. No file is
    /// lost by it: what has lost its name is kept in /lost+found. Exits with 3 if all is consistent then
    #[arg(long)]
    pub repair: bool,
}

/// Runs what the arguments ask for.
///
/// # Errors
/// What kept it from being done, to be printed in one line.
pub fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return Ok(refusal::of_command_line(&error, &Cli::command(), &args)?),
    };
    match cli.command {
        Command::Up(options) => {
            logging::start(&cli.log)?;
            up::run(options, &cli.log)
        }
        Command::Init(options) => {
            logging::start(&quieter(cli.log))?;
            member::init(&options)
        }
        Command::Token(options) => token::run(&options),
        Command::Namespace(mut options) => match options.order.take() {
            Some(order) => member_admin::run(order),
            None => {
                logging::start(&cli.log)?;
                member::run(&options)
            }
        },
        Command::Brick(options) => match options.order {
            Some(order) => brick_admin::run(order),
            None => {
                logging::start(&cli.log)?;
                brick::run(options)
            }
        },
        Command::Status(options) => status::run(&options),
        Command::Stuck(options) => stuck::run(&options),
        Command::Session(order) => session_admin::run(order),
        Command::Check(options) => check::run(&options),
        Command::Salvage(options) => salvage::run(&options),
        Command::Watch(options) => watch::run(&options),
        Command::Master(options) => {
            logging::start(&cli.log)?;
            scheduler::run_master(options)
        }
        Command::Agent(options) => {
            logging::start(&cli.log)?;
            scheduler::run_agent(options)
        }
    }
}

/// What is wrong with a command line, and the definitions it was read by; `None` if it is understood.
#[cfg(test)]
pub fn misunderstood(args: &[OsString]) -> Option<(clap::Command, clap::Error)> {
    Some((Cli::command(), Cli::try_parse_from(args).err()?))
}

/// What a command that does one thing logs unless told otherwise: what went wrong.
fn quieter(mut log: LogOptions) -> LogOptions {
    if log.log == "info" {
        log.log = "warn".to_owned();
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definitions contradict each other nowhere.
    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    /// Who reads the help or the page for users learns of every command of the scheduler, there with an example.
    #[test]
    fn every_tool_is_named() {
        let help = Cli::command().render_help().to_string();
        let page = include_str!("../docs/user.md");
        for (name, _) in scheduler::TOOLS {
            assert!(help.contains(name), "{name} is not in the help");
            assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
            assert!(page.lines().any(|l| l.starts_with(&format!("{name} "))), "{name} has no example");
        }
    }
}
