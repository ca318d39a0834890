//! The integration tests of the scheduler: real masters, agents and supervisors as processes of their own, in a temporary
//! directory, running real jobs.
//!
//! One binary plays every part, so that the tests need no other program: called as `qsub`, `master`, `shepherd`, ... by its first
//! argument it is that, otherwise it runs the tests. It understands what `cargo test` and `cargo nextest` ask of a test binary.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod crash;
mod hostile;
mod jobs;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use brickyard_control::{AgentConfig, MasterConfig, Stop, agent, cli, layout, master, shepherd};

const TESTS: &[(&str, fn())] = &[];

fn tests() -> Vec<(&'static str, fn())> {
    let mut all = TESTS.to_vec();
    all.extend(jobs::TESTS);
    all.extend(hostile::TESTS);
    all.extend(crash::TESTS);
    all
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    match first.to_str().unwrap_or_default() {
        "shepherd" => shepherd::main(rest),
        "qsub" => cli::qsub::main(rest),
        "qstat" => cli::qstat::main(rest),
        "qdel" => cli::qdel::main(rest),
        "qacct" => cli::qacct::main(rest),
        "qhold" => cli::qhold::main(rest),
        "qrls" => cli::qrls::main(rest),
        "qmod" => cli::qmod::main(rest),
        "init" => daemon(layout::init(&PathBuf::from(&rest[0]))),
        "master" => logged(|| master::run(&MasterConfig::new(&PathBuf::from(&rest[0])), &Stop::new())),
        "agent" => {
            let mut config = AgentConfig::new(&PathBuf::from(&rest[0]), &PathBuf::from(&rest[1]));
            config.hostname = "node1".into();
            config.slots = rest.get(2).and_then(|s| s.to_str()?.parse().ok());
            config.heartbeat_ms = 500;
            logged(|| agent::run(&config, &Stop::new()))
        }
        _ => run_tests(std::env::args().skip(1).collect()),
    }
}

/// As [`daemon`], with a log on stderr, which the tests read.
fn logged(run: impl FnOnce() -> brickyard_control::Result<()>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    daemon(run())
}

fn daemon(result: brickyard_control::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_tests(args: Vec<String>) -> ExitCode {
    let has = |flag: &str| args.iter().any(|a| a == flag);
    if has("--list") {
        if !has("--ignored") {
            for (name, _) in tests() {
                println!("{name}: test");
            }
        }
        return ExitCode::SUCCESS;
    }
    let values = ["--format", "--test-threads", "--color", "--skip"];
    let mut filters = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if values.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') {
            filters.push(word.as_str());
        }
    }
    let exact = has("--exact");
    let wanted = |name: &str| {
        filters.is_empty() || filters.iter().any(|f| if exact { name == *f } else { name.contains(f) })
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in tests().into_iter().filter(|(name, _)| wanted(name)) {
        let begin = Instant::now();
        let ok = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!(
            "test {name} ... {} ({:.2}s)",
            if ok { "ok" } else { "FAILED" },
            begin.elapsed().as_secs_f64()
        );
        if ok { passed += 1 } else { failed.push(name) }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
