//! `cargo xtask test`: every check of this workspace, native and on Xen, with one count at the end.
//!
//! A check that fails does not stop those after it. What is skipped is named: a test that cannot work where it runs
//! prints a line `skipped: WHY` and returns.

mod libtest;
mod on_xen;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::setup::{self, Need};
use crate::{cmd, workspace};
use libtest::{Reader, Tally};
pub(crate) use on_xen::executables;

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Suites {
    All,
    /// Without the on-Xen suite.
    Native,
    /// The on-Xen suite alone; with words, only its tests that have one of them in their names. Each so often.
    OnXen {
        words: Vec<String>,
        repeat: usize,
    },
}

/// The packages that build without Xen's headers, and how.
const WITHOUT_XEN: &[&str] = &[
    "--no-default-features",
    "--features",
    "qubes",
    "-p",
    "mgmt-rpc",
    "-p",
    "libvirt-qubes",
    "-p",
    "mgmt-block",
];

/// What building the tests and running them takes at least, in bytes, where much is built already.
const ROOM: u64 = 4 << 30;

/// Runs the checks in order.
pub(crate) fn run(suites: &Suites) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::FileSystems])?;
    workspace::room_for(ROOM)?;
    let mut tally = Tally::default();
    if matches!(suites, Suites::All | Suites::Native) {
        native(&mut tally)?;
    }
    let on_xen: Option<(&[String], usize)> = match suites {
        Suites::Native => None,
        Suites::All => Some((&[], 1)),
        Suites::OnXen { words, repeat } => Some((words, *repeat)),
    };
    if let Some((words, repeat)) = on_xen {
        title("on Xen");
        if let Err(error) = on_xen::run(&mut tally, words, repeat) {
            tally.fail("the on-Xen suite", &error);
        }
    }
    Ok(report(&tally, suites))
}

/// All that needs no Xen.
fn native(tally: &mut Tally) -> Result<()> {
    let lint = ["--", "-D", "warnings"];
    tally.check("cargo fmt", || cmd::run(cargo("fmt").args(["--all", "--check"])));
    tally.check("cargo clippy", || {
        cmd::run(cargo("clippy").args(["-q", "--workspace", "--all-targets"]).args(lint))
    });
    tally.check("cargo clippy, without Xen", || {
        cmd::run(cargo("clippy").args(["-q", "--all-targets"]).args(WITHOUT_XEN).args(lint))
    });
    title("cargo test");
    cargo_test(tally)?;
    tally.check("cargo doc", || {
        cmd::run(cargo("doc").args(["-q", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    if cmd::which("cargo-deny").is_some() {
        tally.check("cargo deny", || {
            cmd::run(cargo("deny").args(["--offline", "check", "bans", "licenses", "sources"]))
        });
        // Advisories come from the network: a machine without it cannot know.
        if cmd::run(cargo("deny").args(["fetch", "db"])).is_ok() {
            tally.check("cargo deny, advisories", || cmd::run(cargo("deny").args(["check", "advisories"])));
        } else {
            tally.skipped.push("cargo deny, advisories (their database cannot be fetched)".to_owned());
        }
    } else {
        println!("\ncargo-deny is not installed: licences and advisories of dependencies were not checked");
        tally.skipped.push("cargo deny (cargo-deny is not installed)".to_owned());
    }
    Ok(())
}

impl Tally {
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        title(name);
        let start = Instant::now();
        match check() {
            Ok(()) => println!("ok ({:.0} s)", start.elapsed().as_secs_f32()),
            Err(error) => self.fail(name, &error),
        }
    }

    fn fail(&mut self, name: &str, error: &anyhow::Error) {
        eprintln!("{error:#}");
        self.failed.push(name.to_owned());
    }
}

fn title(name: &str) {
    println!("\n=== {name}");
}

/// Cargo in the workspace's folder.
fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root()).arg(subcommand);
    command
}

/// Unit, integration and documentation tests.
fn cargo_test(tally: &mut Tally) -> Result<()> {
    let (from, to) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = cargo("test");
    command.args(["--workspace", "--no-fail-fast", "--", "--show-output"]);
    let errors = to.try_clone().context("cannot make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(to)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot start `{}`", cmd::line(&command)))?;
    // the command holds the pipe's other end as long as it lives
    drop(command);
    let mut reader = Reader::default();
    for line in BufReader::new(from).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        if let Some(shown) = reader.line(&line) {
            println!("{shown}");
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    let tests = reader.finish();
    if !status.success() && tests.failed.is_empty() {
        tally.failed.push(format!("cargo test ({status})"));
    }
    tally.add(tests);
    Ok(())
}

/// Names what failed and what was skipped. The last line is for programs.
fn report(tally: &Tally, suites: &Suites) -> ExitCode {
    println!();
    for name in &tally.skipped {
        println!("skipped: {name}");
    }
    for name in &tally.failed {
        println!("FAILED: {name}");
    }
    println!("{}", last_line(tally, suites));
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn last_line(tally: &Tally, suites: &Suites) -> String {
    let (passed, failed, skipped) = (tally.passed, tally.failed.len(), tally.skipped.len());
    let counts = format!("{passed} passed, {failed} failed, {skipped} skipped");
    match suites {
        Suites::All => counts,
        Suites::Native => format!("xtask test: {counts}; on-Xen suite left out (--no-xen)"),
        Suites::OnXen { .. } => format!("xtask test: {counts}; only the on-Xen suite was run (--on-xen)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_says_what_was_left_out() {
        let tally =
            Tally { passed: 7, failed: vec!["a".to_owned()], skipped: vec!["b".to_owned(), "c".to_owned()] };
        assert_eq!(last_line(&tally, &Suites::All), "7 passed, 1 failed, 2 skipped");
        assert!(last_line(&tally, &Suites::Native).ends_with("; on-Xen suite left out (--no-xen)"));
    }

    #[test]
    fn a_check_that_fails_is_counted_and_those_after_it_are_made() {
        let mut tally = Tally::default();
        tally.check("one", || anyhow::bail!("no"));
        tally.check("two", || Ok(()));
        assert_eq!(tally.failed, ["one"]);
        assert_eq!(tally.passed, 0, "only tests are counted as passed");
    }
}
