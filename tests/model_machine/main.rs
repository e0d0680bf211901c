//! Random calls to the real daemon against a plain model of what it should answer, with restarts and kills between
//! them and in the middle of them.
//!
//! After each call: its answer, and the events that a subscriber saw of it. After each start: everything that can be
//! read. What was acknowledged is there; of calls that were under way at a kill, each is there whole or not at all.
//!
//! `MGMT_MODEL_CASES`, `MGMT_MODEL_STEPS` and `MGMT_MODEL_SECONDS`, after which no other sequence is begun, make it
//! longer; `MGMT_MODEL_TRACE` shows each step. A failure prints the shortest sequence that still fails, and
//! leaves its seed in `tests/model_machine/regressions.txt`, where the next run begins with it.

mod answers;
mod call;
mod disk;
mod generate;
mod oracle;
mod resolve;
mod run;
mod support {
    pub use mgmt_tests::{Answer, Daemon, Events, Fate, Faults, Mounted, On, Start};
}

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// The calls that the daemon has, without prefix.
fn served() -> &'static [String] {
    let table = mgmt_rpc::calls::table();
    let names = table.names();
    let names = names.iter().filter_map(|(name, _)| Some(name.split_once('.')?.1.to_owned()));
    let names: std::collections::BTreeSet<String> = names.collect();
    names.into_iter().collect::<Vec<_>>().leak()
}

#[test]
fn every_sequence_of_calls_answers_as_the_model_says_and_survives_every_kill() {
    let cases = number("MGMT_MODEL_CASES", 12);
    let steps = number("MGMT_MODEL_STEPS", 60) as usize;
    let faults = support::Faults::new();
    if let Err(why) = &faults {
        eprintln!("skipped: kills within a commit: {why}");
    }
    let sharing = support::Mounted::new(&["mkfs.xfs", "-q", "-f", "-m", "reflink=1"]);
    if sharing.is_none() {
        println!("skipped: the driver file-reflink");
    }
    let served = served();
    let config = Config {
        cases,
        max_shrink_iters: number("MGMT_MODEL_SHRINK", 400),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/model_machine/regressions.txt",
        ))),
        ..Config::default()
    };
    let end = Instant::now() + Duration::from_secs(number("MGMT_MODEL_SECONDS", 60).into());
    // What fails is shortened, however long that takes.
    let (ran, failed) = (Cell::new(0), Cell::new(false));
    let steps = proptest::collection::vec(generate::step(served, faults.is_ok()), 1..=steps);
    TestRunner::new(config)
        .run(&(proptest::bool::ANY, steps), |(shares_blocks, steps)| {
            if ran.get() > 0 && !failed.get() && Instant::now() > end {
                return Ok(());
            }
            ran.set(ran.get() + 1);
            let place = sharing.as_ref().filter(|_| shares_blocks).map(support::Mounted::path);
            run::run(&steps, served, faults.as_ref().ok(), place.as_deref()).map_err(|error| {
                failed.set(true);
                TestCaseError::fail(error)
            })
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{} of {cases} sequences", ran.get());
}
