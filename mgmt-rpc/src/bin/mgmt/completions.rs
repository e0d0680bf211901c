//! `mgmt completions SHELL`: what a shell needs to complete command lines.

use clap::{Args, CommandFactory};
use clap_complete::Shell as Kind;

use crate::output::{Exit, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Kind,
}

pub(crate) fn run<C: CommandFactory>(arguments: &Arguments) -> Result<(), Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut C::command(), "mgmt", &mut script);
    print(&String::from_utf8_lossy(&script))
}
