//! Set-up, tests, the testbed and packaging of this workspace: `cargo xtask --help`.
//!
//! Every subcommand first looks for what it needs on the machine and installs it where apt is there (`setup`).
//! Nothing here needs a native library; what needs root asks for it by name.

mod bench;
mod cmd;
mod demo;
mod fuzz;
mod headers;
mod setup;
mod test;
mod testbed;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Set-up, tests, the testbed and packaging of this workspace.
#[derive(Subcommand)]
enum Command {
    /// The life of a VM through the daemon, as a transcript: on the simulated hypervisor, or on a real Xen.
    Demo {
        /// Play it on the real Xen of the testbed.
        #[arg(long)]
        xen: bool,
    },
    /// All checks and tests: format, lints, unit, integration and doc tests, then the on-Xen suite in the testbed.
    Test {
        /// Leave the on-Xen suite out.
        #[arg(long)]
        no_xen: bool,
        /// Nothing but the on-Xen suite, or of it the tests with one of these words in their names.
        #[arg(long, conflicts_with = "no_xen", value_name = "WORD", num_args = 0..)]
        on_xen: Option<Vec<String>>,
        /// Run each of them so often in one boot, and try none again: for what fails once in a hundred runs.
        #[arg(long, requires = "on_xen", value_name = "N", default_value_t = 1)]
        repeat: usize,
    },
    /// What calls cost with 10, 1,000 and 10,000 VMs, and storage against the bare operation: tables on standard output and
    /// in docs/performance.md.
    Bench {
        /// One of them alone.
        part: Option<bench::Part>,
    },
    /// Feeds the parsers, and the whole way of a call, with what libFuzzer makes; without a target, each in turn.
    ///
    /// What it found interesting is kept in `target/fuzz/corpus` and begun with the next time. An input that breaks
    /// something is in `target/fuzz/artifacts`, and the last lines say how to run it again.
    Fuzz {
        /// The entry, as `tests/support/fuzz.rs` names it.
        target: Option<String>,
        /// How long each target is run.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u64,
    },
    /// Boots Xen with a dom0 in QEMU and runs a command there; its output and exit status are this command's.
    ///
    /// One argument is a line for bash; several are a program and its arguments. Without any: `xl info; xl list`.
    /// In dom0, `$MGMT_GUESTS` is the folder of the guests and `/pool` an empty XFS file system.
    Testbed {
        /// A shell on this terminal in place of a command; `exit` powers off.
        #[arg(long, conflicts_with = "words")]
        shell: bool,
        /// Time limit in seconds for boot and command together.
        #[arg(long, value_name = "S", default_value_t = 600)]
        timeout: u64,
        /// The command.
        #[arg(last = true, value_name = "COMMAND")]
        words: Vec<String>,
    },
    /// Unpacks a Xen release's headers to vendor-headers/xen, for building against another Xen than the system's.
    Headers {
        /// The release, as `4.17` or a whole package version; without it, the newest that apt offers.
        #[arg(long, value_name = "VERSION")]
        xen: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo { xen } => demo::run(if xen { demo::Host::Xen } else { demo::Host::Sim }),
        Command::Test { no_xen: true, .. } => test::run(&test::Suites::Native),
        Command::Test { on_xen: Some(words), repeat, .. } => {
            test::run(&test::Suites::OnXen { words, repeat })
        }
        Command::Test { .. } => test::run(&test::Suites::All),
        Command::Bench { part } => bench::run(part),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Testbed { shell: true, .. } => testbed::shell(),
        Command::Testbed { timeout, words, .. } => testbed::command(&words, Duration::from_secs(timeout)),
        Command::Headers { xen } => headers::unpack(xen.as_deref()).map(|()| ExitCode::SUCCESS),
    }
}
