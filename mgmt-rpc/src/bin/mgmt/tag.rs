//! `mgmt tag …`

use clap::Subcommand;
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell, print};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List a VM's tags
    List {
        /// The VM
        vm: String,
    },
    /// Print 1 if the VM has the tag, else 0
    Get {
        /// The VM
        vm: String,
        /// The tag
        tag: String,
    },
    /// Give a VM a tag
    Add {
        /// The VM
        vm: String,
        /// The tag
        tag: String,
    },
    /// Take a tag from a VM
    Remove {
        /// The VM
        vm: String,
        /// The tag
        tag: String,
    },
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List { vm } => shell.lines(&shell.ask(Call::new("mgmt.vm.tag.List", &vm), b"").await?),
        Verb::Get { vm, tag } => {
            let is = shell.ask(Call::new("mgmt.vm.tag.Get", &vm).with(&tag), b"").await?;
            print(&format!("{is}\n"))
        }
        Verb::Add { vm, tag } => shell.tell(Call::new("mgmt.vm.tag.Set", &vm).with(&tag), b"").await,
        Verb::Remove { vm, tag } => shell.tell(Call::new("mgmt.vm.tag.Remove", &vm).with(&tag), b"").await,
    }
}
