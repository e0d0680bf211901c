//! `mgmt property …`: properties of VMs.

use clap::Subcommand;
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell, print};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List a VM's properties with their values
    List {
        /// The VM
        vm: String,
    },
    /// Print the value of a property
    Get {
        /// The VM
        vm: String,
        /// The property
        property: String,
    },
    /// Set a property; an empty value is none
    Set {
        /// The VM
        vm: String,
        /// The property
        property: String,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Go back to a property's default
    Reset {
        /// The VM
        vm: String,
        /// The property
        property: String,
    },
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List { vm } => {
            let names = shell.ask(Call::new("mgmt.vm.property.List", &vm), b"").await?;
            let mut rows = Vec::new();
            for name in names.lines() {
                let value = get(shell, &vm, name).await?;
                rows.push(vec![name.to_owned(), value.origin, value.text]);
            }
            shell.rows(&["property", "origin", "value"], &rows)
        }
        Verb::Get { vm, property } => {
            let value = get(shell, &vm, &property).await?;
            print(&format!("{}\n", value.text))
        }
        Verb::Set { vm, property, value } => {
            shell.tell(Call::new("mgmt.vm.property.Set", &vm).with(&property), value.as_bytes()).await
        }
        Verb::Reset { vm, property } => {
            shell.tell(Call::new("mgmt.vm.property.Reset", &vm).with(&property), b"").await
        }
    }
}

struct Value {
    origin: String,
    text: String,
}

/// The value out of `default={yes|no} VALUE`.
async fn get(shell: &Shell, vm: &str, property: &str) -> Result<Value, Exit> {
    let content = shell.ask(Call::new("mgmt.vm.property.Get", vm).with(property), b"").await?;
    let (default, text) = content.split_once(' ').unwrap_or((&content, ""));
    let origin = if default == "default=yes" { "default" } else { "set" };
    Ok(Value { origin: origin.to_owned(), text: text.to_owned() })
}
