//! `mgmt feature …`

use clap::{Subcommand, ValueEnum};
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell, print};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List a VM's features with their values
    List {
        /// The VM
        vm: String,
    },
    /// Print the value of a feature
    Get {
        /// The VM
        vm: String,
        /// The feature
        feature: String,
        /// Whom to ask where the VM does not have it
        #[arg(long, value_name = "WHOM")]
        fallback: Option<Fallback>,
    },
    /// Set a feature; an empty value says no
    Set {
        /// The VM
        vm: String,
        /// The feature
        feature: String,
        /// The value
        #[arg(allow_hyphen_values = true, default_value = "1")]
        value: String,
    },
    /// Remove a feature
    Remove {
        /// The VM
        vm: String,
        /// The feature
        feature: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fallback {
    /// The VM's template
    Template,
    /// The VM's netvm
    Netvm,
    /// dom0
    Adminvm,
    /// The VM's template, then dom0
    TemplateAndAdminvm,
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List { vm } => {
            let names = shell.ask(Call::new("mgmt.vm.feature.List", &vm), b"").await?;
            let mut rows = Vec::new();
            for name in names.lines() {
                let value = shell.ask(Call::new("mgmt.vm.feature.Get", &vm).with(name), b"").await?;
                rows.push(vec![name.to_owned(), value]);
            }
            shell.rows(&["feature", "value"], &rows)
        }
        Verb::Get { vm, feature, fallback } => {
            let method = match fallback {
                None => "mgmt.vm.feature.Get",
                Some(Fallback::Template) => "mgmt.vm.feature.CheckWithTemplate",
                Some(Fallback::Netvm) => "mgmt.vm.feature.CheckWithNetvm",
                Some(Fallback::Adminvm) => "mgmt.vm.feature.CheckWithAdminVM",
                Some(Fallback::TemplateAndAdminvm) => "mgmt.vm.feature.CheckWithTemplateAndAdminVM",
            };
            let value = shell.ask(Call::new(method, &vm).with(&feature), b"").await?;
            print(&format!("{value}\n"))
        }
        Verb::Set { vm, feature, value } => {
            shell.tell(Call::new("mgmt.vm.feature.Set", &vm).with(&feature), value.as_bytes()).await
        }
        Verb::Remove { vm, feature } => {
            shell.tell(Call::new("mgmt.vm.feature.Remove", &vm).with(&feature), b"").await
        }
    }
}
