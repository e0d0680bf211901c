//! `mgmt vm firewall …`: firewall rules of a VM.

use std::path::PathBuf;

use clap::Subcommand;
use mgmt_rpc::client::Call;

use crate::output::{Exit, Shell, print};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the rules with their ids, in order
    List {
        /// The VM
        vm: String,
    },
    /// Insert a rule, and print its id
    Insert {
        /// The VM
        vm: String,
        /// The rule that it comes before; else it comes last
        #[arg(long, value_name = "ID", default_value = "END", hide_default_value = true)]
        before: String,
        /// The rule, such as: action=accept dst4=10.0.0.0/8 proto=tcp dstports=443
        #[arg(required = true, value_name = "OPTION=VALUE")]
        rule: Vec<String>,
    },
    /// Remove a rule
    Remove {
        /// The VM
        vm: String,
        /// The rule's id
        id: String,
    },
    /// Remove all rules: everything is dropped
    Flush {
        /// The VM
        vm: String,
    },
    /// Print the rules as `set` takes them
    Get {
        /// The VM
        vm: String,
    },
    /// Set all rules, one a line
    Set {
        /// The VM
        vm: String,
        /// The file to read; standard input where it is not given
        file: Option<PathBuf>,
    },
    /// Give the rules to the VM's netvm again
    Reload {
        /// The VM
        vm: String,
    },
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List { vm } => {
            let content = shell.ask(Call::new("mgmt.vm.firewall.List", &vm), b"").await?;
            let row = |line: &str| {
                let (id, rule) = line.split_once(' ').unwrap_or((line, ""));
                vec![id.to_owned(), rule.to_owned()]
            };
            shell.rows(&["id", "rule"], &content.lines().map(row).collect::<Vec<_>>())
        }
        Verb::Insert { vm, before, rule } => {
            let call = Call::new("mgmt.vm.firewall.InsertRule", &vm).with(&before);
            let id = shell.ask(call, rule.join(" ").as_bytes()).await?;
            print(&format!("{id}\n"))
        }
        Verb::Remove { vm, id } => {
            shell.tell(Call::new("mgmt.vm.firewall.RemoveRule", &vm).with(&id), b"").await
        }
        Verb::Flush { vm } => shell.tell(Call::new("mgmt.vm.firewall.Flush", &vm), b"").await,
        Verb::Get { vm } => {
            let rules = shell.ask(Call::new("mgmt.vm.firewall.Get", &vm), b"").await?;
            shell.lines(&rules)
        }
        Verb::Set { vm, file } => {
            shell.send_file(Call::new("mgmt.vm.firewall.Set", &vm), file.as_deref()).await.map(drop)
        }
        Verb::Reload { vm } => shell.tell(Call::new("mgmt.vm.firewall.Reload", &vm), b"").await,
    }
}
