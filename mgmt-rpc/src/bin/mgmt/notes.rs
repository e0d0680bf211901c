//! `mgmt vm notes …`: notes on a VM.

use std::path::PathBuf;

use clap::Subcommand;
use mgmt_rpc::client::Call;
use serde_json::Value;

use crate::output::{Exit, Format, Shell, print};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Print the notes
    Get {
        /// The VM
        vm: String,
    },
    /// Set the notes; an empty file removes them
    Set {
        /// The VM
        vm: String,
        /// The file to read; standard input where it is not given
        file: Option<PathBuf>,
    },
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::Get { vm } => {
            let text = shell.ask(Call::new("mgmt.vm.notes.Get", &vm), b"").await?;
            match shell.format {
                Format::Json => print(&format!("{}\n", Value::from(text))),
                Format::Text => print(&text),
            }
        }
        Verb::Set { vm, file } => {
            shell.send_file(Call::new("mgmt.vm.notes.Set", &vm), file.as_deref()).await.map(drop)
        }
    }
}
