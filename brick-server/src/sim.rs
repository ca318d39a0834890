//! A deterministic simulation of bricks, chains and clients: the real bricks (everything but
//! disk, threads and sockets) in one thread under paused time, with every delay, loss, crash
//! and map change drawn from one seed.
//!
//! Two phases: first faults, and nothing wrong may ever be seen; then the weather turns fair,
//! and everything must come to rest: all members serve, equal, with what was last written.
//!
//! What is looked at, with the invariants of the crate:
//!
//! 1. What was committed is read for ever; what was acknowledged is read as long as one member
//!    lives on that had it and served without a break (1 and 3 of the crate).
//! 2. A value that was read is not followed by an older one, unless a brick lost its memory.
//! 3. Members never show different bytes for one version, and are equal in the end (2).
//! 4. What a blocked session had under way is either seen by whoever came after it at once, or
//!    never (4).
//! 5. What was refused for good (no space) is never seen.
//!
//! `BRICKYARD_SEED=n` runs one seed, `BRICKYARD_SIM_STEPS=n` as many steps as wanted; `./dev
//! simulate` sets them. A step is a message sent or a piece of work of a store.
//!
//! The suite's seeds are always the same. Whoever changes anything between two members runs a
//! hundred million steps once: some of what was found shows once in ten million.

mod clients;
mod cluster;
mod namespace;
mod oracle;
mod store;
mod world;

use cluster::Plan;

/// Steps of each of the four tests, unless told otherwise: together ten million, some ten seconds.
const STEPS: u64 = 2_500_000;
/// Steps of one run.
const STEPS_A_RUN: u64 = 20_000;

/// Runs seed after seed until enough steps were done.
fn simulate(name: &str, members: u32, first_seed: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let wanted = number("BRICKYARD_SIM_STEPS").unwrap_or(STEPS);
    let (mut steps, mut runs) = (0, 0);
    let begun = std::time::Instant::now();
    let only = number("BRICKYARD_SEED");
    if std::env::var("RUST_LOG").is_ok() {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .without_time()
            .try_init();
    }
    let mut seed = only.unwrap_or(first_seed);
    while steps < wanted {
        eprintln!("{name}: BRICKYARD_SEED={seed}");
        let done = cluster::run(Plan { seed, members, bricks: members + 1, steps: STEPS_A_RUN });
        steps += done.steps;
        runs += 1;
        seed += 1;
        if only.is_some() {
            eprintln!("{done:?}");
            break;
        }
    }
    eprintln!("{name}: {steps} steps in {runs} runs, {:.1} s", begun.elapsed().as_secs_f64());
}

/// Chains of two.
#[test]
fn pairs_survive_everything() {
    simulate("pairs", 2, 1);
}

/// Chains of three.
#[test]
fn threes_survive_everything() {
    simulate("threes", 3, 100_001);
}

/// Chains of two, other seeds: tests run beside each other.
#[test]
fn more_pairs_survive_everything() {
    simulate("more pairs", 2, 200_001);
}

/// Chains of three, other seeds.
#[test]
fn more_threes_survive_everything() {
    simulate("more threes", 3, 300_001);
}

/// The same seed gives the same history, to the last message.
#[test]
fn a_seed_repeats_itself() {
    let run = || cluster::run(Plan { seed: 7, members: 3, bricks: 4, steps: 5_000 });
    assert_eq!(run(), run());
}
