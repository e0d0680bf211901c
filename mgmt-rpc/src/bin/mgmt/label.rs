//! `mgmt label …`

use clap::Subcommand;
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the labels with their indexes and colours
    List,
    /// Add a label
    Create {
        /// The new label's name
        label: String,
        /// Its colour, 0xRRGGBB
        colour: String,
    },
    /// Remove a label that no VM has
    Remove {
        /// The label, or its index
        label: String,
    },
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List => {
            let names = shell.ask(Call::new("mgmt.label.List", "dom0"), b"").await?;
            let mut rows = Vec::new();
            for name in names.lines() {
                let index = shell.ask(Call::new("mgmt.label.Index", "dom0").with(name), b"").await?;
                let colour = shell.ask(Call::new("mgmt.label.Get", "dom0").with(name), b"").await?;
                rows.push(vec![name.to_owned(), index, colour]);
            }
            shell.rows(&["label", "index", "colour"], &rows)
        }
        Verb::Create { label, colour } => {
            shell.tell(Call::new("mgmt.label.Create", "dom0").with(&label), colour.as_bytes()).await
        }
        Verb::Remove { label } => shell.tell(Call::new("mgmt.label.Remove", "dom0").with(&label), b"").await,
    }
}
