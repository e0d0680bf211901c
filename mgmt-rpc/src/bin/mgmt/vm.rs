//! `mgmt vm …`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mgmt_rpc::client::Call;

use crate::events;
use crate::output::{Exit, Shell};
use crate::property;
use crate::{firewall, notes};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List all VMs, or one
    List {
        /// The VM
        #[arg(default_value = "dom0", hide_default_value = true)]
        vm: String,
    },
    /// Create a VM
    Create(Create),
    /// Create a template from the image of its root volume
    CreateTemplate {
        /// The new template's name
        name: String,
        /// The image; standard input where it is not given
        image: Option<PathBuf>,
    },
    /// Create a disposable, and print its name
    CreateDisposable {
        /// What it is based on; the caller's default where it is not given
        #[arg(default_value = "dom0", hide_default_value = true, value_name = "VM")]
        base: String,
    },
    /// Make a copy of a VM, its volumes included
    Clone {
        /// The VM to copy
        vm: String,
        /// The new VM's name
        name: String,
    },
    /// Start VMs, one after the other
    Start(Vms),
    /// Ask VMs to shut down
    Shutdown(Vms),
    /// Pause VMs
    Pause(Vms),
    /// Let paused VMs go on
    Unpause(Vms),
    /// End VMs at once
    Kill(Vms),
    /// Remove VMs with their volumes
    Remove(Vms),
    /// Firewall rules of a VM
    #[command(subcommand)]
    Firewall(firewall::Verb),
    /// Notes on a VM
    #[command(subcommand)]
    Notes(notes::Verb),
    /// Properties of a VM
    #[command(subcommand)]
    Property(property::VmVerb),
    /// What a VM is doing, with its memory and processor time
    State {
        /// The VM
        vm: String,
    },
    /// Print statistics of running VMs as they come
    Stats {
        /// The VM; all where it is not given
        #[arg(default_value = "dom0", hide_default_value = true)]
        vm: String,
    },
    /// List the classes of VMs
    Classes,
}

#[derive(Args)]
pub(crate) struct Create {
    /// The new VM's name
    name: String,
    /// Its class
    #[arg(long, default_value = "AppVM")]
    class: String,
    /// What it is based on
    #[arg(long, value_name = "VM", default_value = "")]
    template: String,
    /// Its label
    #[arg(long)]
    label: String,
    /// The pool for its volumes, or VOLUME=POOL for one of them
    #[arg(long, value_name = "[VOLUME=]POOL")]
    pool: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Vms {
    /// The VMs
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List { vm } => list(shell, &vm).await,
        Verb::Create(create) => create.run(shell).await,
        Verb::CreateTemplate { name, image } => create_template(shell, &name, image.as_deref()).await,
        Verb::CreateDisposable { base } => {
            let name = shell.ask(Call::new("mgmt.vm.CreateDisposable", &base), b"").await?;
            shell.lines(&name)
        }
        Verb::Clone { vm, name } => {
            shell.tell(Call::new("mgmt.vm.Clone", &vm), format!("name={name}").as_bytes()).await
        }
        Verb::Start(vms) => each(shell, "mgmt.vm.Start", &vms).await,
        Verb::Shutdown(vms) => each(shell, "mgmt.vm.Shutdown", &vms).await,
        Verb::Pause(vms) => each(shell, "mgmt.vm.Pause", &vms).await,
        Verb::Unpause(vms) => each(shell, "mgmt.vm.Unpause", &vms).await,
        Verb::Kill(vms) => each(shell, "mgmt.vm.Kill", &vms).await,
        Verb::Remove(vms) => each(shell, "mgmt.vm.Remove", &vms).await,
        Verb::Firewall(verb) => firewall::run(shell, verb).await,
        Verb::Notes(verb) => notes::run(shell, verb).await,
        Verb::Property(verb) => property::of_a_vm(shell, verb).await,
        Verb::State { vm } => {
            let state = shell.ask(Call::new("mgmt.vm.CurrentState", &vm), b"").await?;
            shell.pairs(&state.replace(' ', "\n"))
        }
        Verb::Stats { vm } => events::stream(shell, Call::new("mgmt.vm.Stats", &vm)).await,
        Verb::Classes => shell.lines(&shell.ask(Call::new("mgmt.vmclass.List", "dom0"), b"").await?),
    }
}

async fn list(shell: &Shell, vm: &str) -> Result<(), Exit> {
    let content = shell.ask(Call::new("mgmt.vm.List", vm), b"").await?;
    let rows: Vec<_> = content.lines().map(row).collect();
    shell.rows(&["name", "class", "state"], &rows)
}

/// `NAME class=C state=S`, maybe with more keys.
fn row(line: &str) -> Vec<String> {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let pairs: Vec<_> = words.filter_map(|word| word.split_once('=')).collect();
    let value = |key: &str| pairs.iter().find(|pair| pair.0 == key).map_or("", |pair| pair.1);
    [name, value("class"), value("state")].map(str::to_owned).to_vec()
}

impl Create {
    async fn run(&self, shell: &Shell) -> Result<(), Exit> {
        let call = if self.pool.is_empty() { "Create" } else { "CreateInPool" };
        let method = format!("mgmt.vm.{call}.{}", self.class);
        let mut payload = format!("name={} label={}", self.name, self.label);
        for pool in &self.pool {
            match pool.split_once('=') {
                Some((volume, pool)) => payload.push_str(&format!(" pool:{volume}={pool}")),
                None => payload.push_str(&format!(" pool={pool}")),
            }
        }
        shell.tell(Call::new(&method, "dom0").with(&self.template), payload.as_bytes()).await
    }
}

async fn create_template(shell: &Shell, name: &str, image: Option<&Path>) -> Result<(), Exit> {
    let call = Call::new("mgmt.vm.CreateTemplate", "dom0").with(name);
    let content = shell.send_file(call, image).await?;
    shell.lines(&content)
}

/// Makes a call for each; the first that fails ends it.
async fn each(shell: &Shell, method: &str, vms: &Vms) -> Result<(), Exit> {
    for vm in &vms.vms {
        shell.tell(Call::new(method, vm), b"").await?;
    }
    Ok(())
}
