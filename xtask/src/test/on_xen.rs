//! The on-Xen suite: the ignored tests of the test programs `xen_host*`, run in the testbed's dom0 one by one.
//!
//! dom0 gets the workspace's binaries in `$MGMT_BIN_DIR` and the guests in `$MGMT_GUESTS`. A test that passes but
//! leaves a domain or a loop device behind has failed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::cargo;
use super::libtest::{ON_XEN, Tally, skipped};
use crate::cmd;
use crate::testbed::{Clock, End, Job, Outcome, Testbed};

const SCRIPT: &str = include_str!("run-tests");
/// For a test that hangs: emulated and on a busy machine, one takes ten times and more what it takes on Xen alone.
const TEST_LIMIT: Duration = Duration::from_mins(10);
/// For a suite that hangs; it takes less than half of that on an idle machine.
const SUITE_LIMIT: Duration = Duration::from_mins(50);
/// Begins the names of tests that are not run unless a word means them: together they take longer than all the others.
const WHEN_NAMED: &str = "whole::";
/// A test is tried so often, each time after a new boot.
const ROUNDS: usize = 3;

/// A line of Cargo's `--message-format=json`, as far as it is of interest here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// A test by its program and its name there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Test {
    program: String,
    name: String,
}

/// What became of one test.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Builds, boots, runs, counts. With words, only tests with one of them in their names, or of the programs called so. Repeated ones are not tried
/// again when they fail.
pub(super) fn run(tally: &mut Tally, words: &[String], repeat: usize) -> Result<()> {
    let binaries = executables(cargo("build").args(["--workspace", "--bins", "--exclude", "xtask"]), "bin")?;
    let programs = executables(cargo("test").args(["--workspace", "--no-run"]), "test")?;
    let programs: Vec<_> = programs.into_iter().filter(|(name, _)| name.starts_with(ON_XEN)).collect();
    if programs.is_empty() {
        bail!("Cargo built no test program {ON_XEN}*");
    }
    let mut tests = Vec::new();
    for (name, path) in &programs {
        tests.extend(ignored_tests(name, path)?);
    }
    tests.retain(|test| words.is_empty() || words.iter().any(|word| test.is_meant_by(word)));
    if words.is_empty() {
        let all = tests.len();
        tests.retain(|test| !test.name.starts_with(WHEN_NAMED));
        if tests.len() < all {
            let why = format!("{} tests, run by `cargo xtask test --on-xen {WHEN_NAMED}`", all - tests.len());
            tally.skipped.push(format!("on Xen: {WHEN_NAMED}* ({why})"));
        }
    }
    if tests.is_empty() {
        let names: Vec<_> = programs.iter().map(|(name, _)| name.as_str()).collect();
        bail!("no ignored test{} in {}", wanted(words), names.join(", "));
    }
    let rounds = if repeat > 1 { 1 } else { ROUNDS };
    let mut tests = vec![tests; repeat.max(1)].concat();

    let limit = SUITE_LIMIT.saturating_mul(if repeat > 1 { 4 } else { 1 });

    let testbed = Testbed::prepare()?;
    let files = |folder: &'static str, list: &[(String, PathBuf)]| {
        list.iter().map(|(name, path)| (path.clone(), format!("{folder}/{name}"))).collect::<Vec<_>>()
    };
    // QEMU's emulation of the virtualisation now and then hangs a guest or the host. A test that fails is tried again
    // after a new boot, by a clock with which that has not been seen, and said so; one that fails each time has failed.
    for round in 1..=rounds {
        let job = Job {
            files: files("bin", &binaries).into_iter().chain(files("tests", &programs)).collect(),
            texts: vec![("tests.list".to_owned(), tests.iter().map(Test::line).collect())],
            script: SCRIPT.replace("@LIMIT@", &TEST_LIMIT.as_secs().to_string()),
            timeout: if round == 1 { limit } else { limit / 2 },
            clock: if round == 1 { Clock::Host } else { Clock::Instructions },
            ..Job::default()
        };
        let outcome = testbed.run(&job)?;
        let mut again = Vec::new();
        for (number, test) in tests.into_iter().enumerate() {
            match verdict(number + 1, &outcome) {
                (Verdict::Failed(why), log) if round < rounds => {
                    println!(
                        "\n---- on Xen: {test}: {why}; it is tried again after a new boot\n{}",
                        log.trim_end()
                    );
                    again.push(test);
                }
                (verdict, log) => count(tally, &test, verdict, &log),
            }
        }
        if outcome.end != End::Exited(0) {
            eprint!("{}", outcome.tail());
            let whole = format!("{} (the whole console: {})", outcome.end, testbed.console_log().display());
            if round == rounds {
                bail!(whole);
            }
            println!("{whole}");
        }
        if again.is_empty() {
            break;
        }
        tests = again;
    }
    Ok(())
}

fn wanted(words: &[String]) -> String {
    if words.is_empty() { String::new() } else { format!(" with {} in its name", words.join(" or ")) }
}

/// What became of the test with this number, and what it printed.
fn verdict(number: usize, outcome: &Outcome) -> (Verdict, String) {
    let log = outcome.file(&format!("results/{number}.log")).unwrap_or_default();
    let verdict = match outcome.file(&format!("results/{number}.end")) {
        Ok(end) => judge(&end, &log),
        Err(_) => Verdict::Failed(format!("not run to its end: {}", outcome.end)),
    };
    (verdict, log)
}

fn count(tally: &mut Tally, test: &Test, verdict: Verdict, log: &str) {
    match verdict {
        Verdict::Passed => tally.passed += 1,
        Verdict::Skipped(why) => tally.skipped.push(format!("on Xen: {test} ({why})")),
        Verdict::Failed(why) => {
            println!("\n---- on Xen: {test}: {why}\n{}", log.trim_end());
            tally.failed.push(format!("on Xen: {test} ({why})"));
        }
    }
}

/// `end` is `STATUS MILLISECONDS WHAT-WAS-LEFT`, `log` what the test printed.
fn judge(end: &str, log: &str) -> Verdict {
    let mut parts = end.trim().splitn(3, ' ');
    let status = parts.next().unwrap_or_default();
    let left = parts.nth(1).unwrap_or_default();
    if status == "124" || status == "137" {
        return Verdict::Failed(format!("not at its end after {} s", TEST_LIMIT.as_secs()));
    }
    if status != "0" {
        return Verdict::Failed(format!("exit status {status}"));
    }
    if !log.contains("test result: ok. 1 passed") {
        return Verdict::Failed("its program ended without running it".to_owned());
    }
    if !left.is_empty() {
        return Verdict::Failed(format!("left behind: {}", left.trim_end_matches([';', ' '])));
    }
    skipped(log).map_or(Verdict::Passed, |why| Verdict::Skipped(why.to_owned()))
}

/// What a build command makes of this kind: names and files.
pub(crate) fn executables(command: &mut Command, kind: &str) -> Result<Vec<(String, PathBuf)>> {
    // Cargo's own messages, and the compiler's, go where ours go
    command.args(["-q", "--message-format=json-render-diagnostics"]).stderr(std::process::Stdio::inherit());
    parse_messages(&cmd::output(command)?, kind)
}

fn parse_messages(json: &str, kind: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in json.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("not Cargo's JSON: {line}"))?;
        if let Message { reason, target: Some(target), executable: Some(file) } = message
            && reason == "compiler-artifact"
            && target.kind.iter().any(|of| of == kind)
        {
            found.push((target.name, file));
        }
    }
    Ok(found)
}

fn ignored_tests(program: &str, path: &Path) -> Result<Vec<Test>> {
    let list = cmd::output(Command::new(path).args(["--list", "--ignored", "--format", "terse"]))?;
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(|name| Test { program: program.to_owned(), name: name.to_owned() }).collect())
}

impl Test {
    fn line(&self) -> String {
        format!("{} {}\n", self.program, self.name)
    }

    /// A word means tests with it in their names, or a program by its whole name.
    fn is_meant_by(&self, word: &str) -> bool {
        self.program == word || self.name.contains(word)
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.program, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";

    #[test]
    fn a_test_passes_only_if_it_ran_ended_well_and_left_nothing() {
        assert_eq!(judge("0 1200 \n", OK), Verdict::Passed);
        let why = |end, log| {
            let Verdict::Failed(why) = judge(end, log) else { panic!("{end} {log}") };
            why
        };
        assert_eq!(why("101 5 \n", "panicked"), "exit status 101");
        assert!(why("0 5 \n", "test result: ok. 0 passed; 0 failed").contains("without running"));
        assert_eq!(why("0 5 domain 3 (a); \n", OK), "left behind: domain 3 (a)");
        assert!(why("124 600000 \n", "").contains("after 600 s"));
    }

    #[test]
    fn a_test_that_says_that_it_was_skipped_is() {
        assert_eq!(
            judge("0 5 ", &format!("skipped: no thin pool\n{OK}")),
            Verdict::Skipped("no thin pool".into())
        );
    }

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let json = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"xen_host"},"executable":"/t/x-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(parse_messages(json, "test").unwrap(), [("xen_host".to_owned(), PathBuf::from("/t/x-1"))]);
        assert!(parse_messages(json, "bin").unwrap().is_empty());
    }
}
